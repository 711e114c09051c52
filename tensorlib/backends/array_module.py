"""One backend for every array module: NumPy ("reference", the oracle) and, in cuda.py, CuPy.

Geometry is C's for every device: a tensor elsewhere is a C shell over one flat array that Python keeps, so views, version counters and
in-place writes are the same code everywhere. Neither module has bfloat16 throughout: its tensors are kept as 16-bit integers, are read as
float32 and rounded when written, so they take the memory that they say they take.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.device import Device
from tensorlib.dtypes import DType
from tensorlib.native import OBJECTS, ffi, keep, lib
from tensorlib.status import checked

from .host import FOREIGN, shape_of, strides_of


def widened(xp: Any, bits: Any) -> Any:
    """The float32 values of bfloat16 bits: a copy."""
    return (bits.astype(xp.uint32) << 16).view(xp.float32)


def rounded(xp: Any, values: Any) -> Any:
    """The bits of float32 values as bfloat16, to nearest, ties to even; NaN stays NaN."""
    bits = xp.ascontiguousarray(values, xp.float32).view(xp.uint32)
    made = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return xp.where(xp.isnan(values), (bits >> 16) | 0x40, made).astype(xp.uint16)


def _bits(number: Any) -> Any:
    return rounded(np, np.asarray(number)).reshape(())[()]


def _kept_as(dtype: DType) -> Any:
    return np.uint16 if dtype is dtypes.bfloat16 else dtype.np


class ArrayBackend:
    """NumPy or CuPy throughout, over flat arrays kept in the registry as (device, array)."""

    def __init__(self, where: Device, xp: Any) -> None:
        self.device, self.xp = where, xp

    def place(self, handle: int) -> Any:
        """The array of a tensor's memory as it is kept (bfloat16: its bits): what is written there the tensor holds."""
        flat = OBJECTS[lib.tl_storage_token(handle)][1]
        size = flat.dtype.itemsize
        strides = [s * size for s in strides_of(handle)]
        return self.xp.lib.stride_tricks.as_strided(flat[lib.tl_offset(handle) :], shape_of(handle), strides)

    def view(self, handle: int, dtype: DType) -> Any:
        """An array of a tensor's elements: its memory, for bfloat16 a float32 copy."""
        array = self.place(handle)
        return widened(self.xp, array) if dtype is dtypes.bfloat16 else array

    def write(self, handle: int, dtype: DType, values: Any) -> None:
        """Overwrite a tensor's elements with an array that broadcasts to them, or a NumPy scalar."""
        if dtype is dtypes.bfloat16:
            values = _bits(values) if isinstance(values, np.generic) else rounded(self.xp, values)
        self.place(handle)[...] = values

    def assign(self, to: int, source: int) -> None:
        """Overwrite a tensor's elements with those of another of its dtype and shape, which may be in the same memory."""
        self.place(to)[...] = self.place(source)

    def empty(self, shape: tuple[int, ...], dtype: DType) -> int:
        """A tensor of arbitrary contents."""
        return self.own(self.xp.empty(math.prod(shape), _kept_as(dtype)), dtype, shape)

    def filled(self, shape: tuple[int, ...], value: Any, dtype: DType) -> int:
        """A tensor of one number: a NumPy scalar."""
        value = _bits(value) if dtype is dtypes.bfloat16 else value
        return self.own(self.xp.full(math.prod(shape), value, _kept_as(dtype)), dtype, shape)

    def adopt(self, array: Any, dtype: DType | None = None) -> int:
        """A tensor of an array's values, in memory of its own: the array's, where it is no view (of an operand, say)."""
        array = self.xp.asarray(array)
        dtype = dtype or dtypes.from_numpy_dtype(array.dtype)
        if dtype is dtypes.bfloat16:
            flat = rounded(self.xp, array)
        elif array.dtype == dtype.np and array.flags.c_contiguous and self.owns(array):
            flat = array
        else:
            flat = self.xp.array(array, dtype=dtype.np, order="C")
        return self.own(flat.reshape(-1), dtype, array.shape)

    def owns(self, array: Any) -> bool:
        """Whether an array is no view of another's memory."""
        return bool(array.flags.owndata and array.flags.writeable)

    def own(self, flat: Any, dtype: DType, shape: tuple[int, ...]) -> int:
        """A tensor over a flat array that nobody else has."""
        nbytes = max(flat.size * dtype.itemsize, 1)
        token = keep((self.device, flat))
        return checked(
            lib.tl_adopt(self.address(flat), nbytes, FOREIGN, token, False, dtype.number, len(shape), shape, ffi.NULL),
            "adopt",
            shape,
        )

    def address(self, flat: Any) -> int:
        """What `Tensor.data_ptr` counts from."""
        return 0

    def from_numpy(self, array: Any, dtype: DType | None = None) -> int:
        return self.adopt(self.xp.array(array), dtype)

    def to_numpy(self, handle: int, dtype: DType) -> np.ndarray[Any, Any]:
        return np.asarray(self.view(handle, dtype))
