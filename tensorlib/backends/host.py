"""Tensors in main memory, as NumPy sees them: both ways without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.device import CPU, Device
from tensorlib.dtypes import DType
from tensorlib.errors import ShapeError
from tensorlib.native import OBJECTS, ffi, keep, lib
from tensorlib.status import checked

ADOPTED, FOREIGN = 1, 2


class _Owner:
    """What a NumPy view of a tensor refers to as its base: the handle, and so the memory, stays until the last view is gone."""

    __slots__ = ("__array_interface__", "_drop", "handle")

    def __init__(self, handle: int, interface: dict[str, Any]) -> None:
        lib.tl_own(handle)
        self.handle, self._drop, self.__array_interface__ = handle, lib.tl_drop, interface

    def __del__(self) -> None:
        self._drop(self.handle)


def shape_of(handle: int) -> tuple[int, ...]:
    return tuple(ffi.unpack(lib.tl_dims(handle), lib.tl_ndim(handle)))


def strides_of(handle: int) -> tuple[int, ...]:
    return tuple(ffi.unpack(lib.tl_strides(handle), lib.tl_ndim(handle)))


def device_of(handle: int) -> Device:
    if lib.tl_storage_kind(handle) != FOREIGN:
        return CPU
    found: Device = OBJECTS[lib.tl_storage_token(handle)][0]
    return found


def view_numpy(handle: int, dtype: DType) -> np.ndarray[Any, Any]:
    """A NumPy view of a tensor in main memory; the memory lives as long as the view."""
    shape, size = shape_of(handle), dtype.itemsize
    if lib.tl_numel(handle) == 0:
        return np.empty(shape, dtype.np)
    interface = {
        "shape": shape,
        "typestr": dtype.np.str,
        "data": (lib.tl_address(handle), bool(lib.tl_readonly(handle))),
        "strides": tuple(s * size for s in strides_of(handle)),
        "version": 3,
    }
    return np.asarray(_Owner(handle, interface))


def view_bytes(handle: int, address: int, nbytes: int) -> np.ndarray[Any, Any]:
    """Bytes of a tensor's memory, whatever its dtype, which lives as long as the view: for the library's own reading, or to fill a tensor that
    nobody has seen yet. The address comes from `tl_peek`, and the caller has seen to it that all bytes lie within the storage."""
    interface = {"shape": (nbytes,), "typestr": "|u1", "data": (address, bool(lib.tl_readonly(handle))), "version": 3}
    return np.asarray(_Owner(handle, interface)) if nbytes else np.empty(0, np.uint8)


def adopt_numpy(array: Any, *, readonly: bool | None = None) -> int:
    """A handle over the memory of a NumPy array, which is kept alive; copied first only where its layout can not be expressed."""
    array = np.asarray(array)
    dtype = dtypes.from_numpy_dtype(array.dtype)
    if array.ndim > 16:
        raise ShapeError(f"from_numpy: got {array.ndim} dimensions, at most 16 are possible.")
    if array.size == 0:
        return checked(lib.tl_new(dtype.number, array.ndim, array.shape), "from_numpy", array.shape)
    size = dtype.itemsize
    if array.dtype.byteorder not in "=|<" or any(s % size or s < 0 for s in array.strides) or array.ctypes.data % size:
        array = np.ascontiguousarray(array, dtype.np).reshape(array.shape)
    low = array.ctypes.data
    nbytes = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + size
    fixed = not array.flags.writeable if readonly is None else readonly
    strides = [s // size for s in array.strides]
    return checked(
        lib.tl_adopt(low, nbytes, ADOPTED, keep(array), fixed, dtype.number, array.ndim, array.shape, strides),
        "from_numpy",
        array.shape,
    )


class NativeBackend:
    """Our own arrays, seen by NumPy without a copy. bfloat16, which NumPy lacks, is widened to float32 and rounded back."""

    device, xp = CPU, np

    def view(self, handle: int, dtype: DType) -> np.ndarray[Any, Any]:
        if lib.tl_storage_kind(handle) == FOREIGN:
            OBJECTS[lib.tl_storage_token(handle)][1]  # a sparse tensor says what it lacks
        if dtype is not dtypes.bfloat16:
            return view_numpy(handle, dtype)
        wide = checked(lib.tl_cast(handle, dtypes.float32.number, 0), "view", ())
        try:
            return view_numpy(wide, dtypes.float32)
        finally:
            lib.tl_drop(wide)

    def adopt(self, array: Any, dtype: DType | None = None) -> int:
        array = np.asarray(array)
        if dtype is dtypes.bfloat16:
            wide = adopt_numpy(np.ascontiguousarray(array, np.float32).reshape(array.shape))
            try:
                return checked(lib.tl_cast(wide, dtype.number, 0), "adopt", array.shape)
            finally:
                lib.tl_drop(wide)
        if dtype is not None and array.dtype != dtype.np:
            array = array.astype(dtype.np)
        handle = adopt_numpy(array)
        if array.flags.owndata and array.flags.c_contiguous and array.flags.writeable:
            return handle
        try:  # a view of an operand, a broadcast, another order: a tensor of its own
            return checked(lib.tl_clone(handle, 0), "adopt", array.shape)
        finally:
            lib.tl_drop(handle)

    def write(self, handle: int, dtype: DType, values: Any) -> None:
        self.view(handle, dtype)[...] = values

    def assign(self, to: int, source: int) -> None:
        """Not for what lies in main memory, which C assigns: a sparse tensor says what it lacks."""
        raise AssertionError(OBJECTS[lib.tl_storage_token(source)][1])

    from_numpy = adopt

    def to_numpy(self, handle: int, dtype: DType) -> np.ndarray[Any, Any]:
        return self.view(handle, dtype)
