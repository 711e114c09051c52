"""Array modules behind tensors: how NumPy (and CuPy) read a tensor without a copy, and how their results become tensors.

Geometry is C's for every device: a tensor elsewhere is a C shell over one flat array that Python keeps, so views, version counters and
in-place writes are the same code everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.device import CPU, Device, device
from tensorlib.dtypes import DType
from tensorlib.errors import DeviceError, ShapeError
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


class ArrayBackend:
    """NumPy or CuPy throughout, over flat arrays kept in the registry."""

    def __init__(self, where: Device, xp: Any) -> None:
        self.device, self.xp = where, xp

    def view(self, handle: int, dtype: DType) -> Any:
        flat = OBJECTS[lib.tl_storage_token(handle)][1]
        size = flat.dtype.itemsize
        strides = [s * size for s in strides_of(handle)]
        return self.xp.lib.stride_tricks.as_strided(flat[lib.tl_offset(handle) :], shape_of(handle), strides)

    def adopt(self, array: Any, dtype: DType | None = None) -> int:
        array = self.xp.asarray(array)
        dtype = dtype or dtypes.from_numpy_dtype(array.dtype)
        flat = self.xp.array(array, dtype=_carried(dtype).np).reshape(
            -1
        )  # always a copy: a result may be a view of an operand
        token = keep((self.device, flat))
        nbytes = max(flat.size * dtype.itemsize, 1)  # as if bfloat16 took its two bytes
        return checked(
            lib.tl_adopt(0, nbytes, FOREIGN, token, False, dtype.number, array.ndim, array.shape, ffi.NULL),
            "adopt",
            array.shape,
        )

    def from_numpy(self, array: Any, dtype: DType | None = None) -> int:
        return self.adopt(self.xp.asarray(array), dtype)

    def to_numpy(self, handle: int, dtype: DType) -> np.ndarray[Any, Any]:
        array = self.view(handle, dtype)
        return np.asarray(array) if self.xp is np else array.get()


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

    from_numpy = adopt

    def to_numpy(self, handle: int, dtype: DType) -> np.ndarray[Any, Any]:
        return self.view(handle, dtype)


NATIVE = NativeBackend()
_backends: dict[Device, Any] = {CPU: NATIVE}


def _carried(dtype: DType) -> DType:
    """The dtype whose array carries this one: NumPy and CuPy have no bfloat16."""
    return dtypes.float32 if dtype is dtypes.bfloat16 else dtype


def backend(where: Device) -> Any:
    """The backend of a device, made on first use."""
    found = _backends.get(where)
    if found is None:
        found = _backends[where] = ArrayBackend(where, np if where.type == "reference" else _import_cupy(where))
    return found


def _import_cupy(where: Device) -> Any:
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"device {where}: CuPy can not be imported ({error}).", hint="pip install cupy-cuda12x"
        ) from error
    return cupy


def backend_of(handle: int) -> Any:
    return NATIVE if lib.tl_storage_kind(handle) != FOREIGN else backend(device_of(handle))


__all__ = [
    "NATIVE",
    "adopt_numpy",
    "backend",
    "backend_of",
    "device",
    "device_of",
    "shape_of",
    "strides_of",
    "view_bytes",
    "view_numpy",
]
