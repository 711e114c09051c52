"""Memory of GPUs shared with other libraries, without copies: the CUDA array interface (version 3) and DLPack, both as CuPy has them.

Whoever imports keeps what owns the memory, and is ordered behind the exporter's current stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.device import device
from tensorlib.dtypes import DType
from tensorlib.errors import DTypeError
from tensorlib.native import keep, lib
from tensorlib.status import checked

from . import backend
from .cuda import import_cupy
from .host import FOREIGN, device_of, shape_of, strides_of

__all__ = ["adopted", "array_interface", "is_on_gpu", "to_dlpack"]

_CUDA, _MANAGED = 2, 13  # DLPack's kinds of devices


def array_interface(handle: int, dtype: DType) -> dict[str, Any]:
    """What `__cuda_array_interface__` is of a tensor."""
    if dtype is dtypes.bfloat16:
        raise DTypeError(
            "__cuda_array_interface__: the interface has no bfloat16.", hint="use DLPack, or view(tl.int16)"
        )
    there, size = backend(device_of(handle)), dtype.itemsize
    with there.handle:
        stream = there.xp.cuda.get_current_stream().ptr
    strides = None if lib.tl_is_contiguous(handle) else tuple(s * size for s in strides_of(handle))
    return {
        "shape": shape_of(handle),
        "typestr": dtype.np.str,
        "data": (lib.tl_address(handle) if lib.tl_numel(handle) else 0, False),
        "strides": strides,
        "version": 3,
        "stream": stream or 1,  # 1: the default stream, whose handle is 0
    }


def to_dlpack(handle: int, dtype: DType, options: dict[str, Any]) -> Any:
    """The capsule of a tensor on a GPU; it keeps the memory."""
    there = backend(device_of(handle))
    options = {name: value for name, value in options.items() if value is not None}
    with there.handle:
        array = there.place(handle)
        if dtype is dtypes.bfloat16:
            array = _as_bfloat16(array)
        try:
            return array.__dlpack__(**options)
        except TypeError:  # a CuPy from before the versions of DLPack
            options.pop("max_version", None)
            return array.__dlpack__(**options)


def _as_bfloat16(bits: Any) -> Any:
    """CuPy's array of the dtype that CuPy 14 has with ml_dtypes."""
    try:
        import ml_dtypes  # type: ignore[import-not-found,unused-ignore]

        return bits.view(ml_dtypes.bfloat16)
    except (ImportError, TypeError, ValueError) as error:
        raise BufferError(
            f"__dlpack__: bfloat16 needs CuPy 14 and the package ml_dtypes ({error}); view(tl.int16) shares the bits."
        ) from error


def is_on_gpu(data: Any) -> bool:
    """Whether an object of another library lies on a GPU and can be shared."""
    kind = type(data)
    if isinstance(data, (np.ndarray, list, tuple)):
        return False
    if hasattr(kind, "__cuda_array_interface__") and hasattr(data, "__cuda_array_interface__"):
        return True
    return hasattr(kind, "__dlpack_device__") and int(data.__dlpack_device__()[0]) in (_CUDA, _MANAGED)


def adopted(data: Any) -> int:
    """A tensor over the memory of an object of another library that lies on a GPU."""
    cupy = import_cupy()
    if isinstance(data, cupy.ndarray):
        return _shared(data)
    if not hasattr(type(data), "__dlpack__"):
        return _shared(cupy.asarray(data))
    with cupy.cuda.Device(int(data.__dlpack_device__()[1])):
        try:
            return _shared(cupy.from_dlpack(data))
        except TypeError as error:
            raise DTypeError(f"from_dlpack: CuPy {cupy.__version__} does not take this dtype ({error}).") from error


def _shared(array: Any) -> int:
    """A tensor over the memory of a CuPy array; copied first only where its layout can not be expressed."""
    if array.dtype.name == "bfloat16":
        dtype, array = dtypes.bfloat16, array.view(np.uint16)
    else:
        dtype = dtypes.from_numpy_dtype(array.dtype)
    there = backend(device(f"cuda:{array.device.id}"))
    size = dtype.itemsize
    with there.handle:
        if any(s < 0 or s % size for s in array.strides):
            array = there.xp.ascontiguousarray(array).reshape(array.shape)
        extent = (
            1 + sum((n - 1) * s // size for n, s in zip(array.shape, array.strides, strict=True)) if array.size else 0
        )
        flat = there.xp.ndarray((extent,), array.dtype, array.data)
    strides = [s // size for s in array.strides]
    return checked(
        lib.tl_adopt(
            there.address(flat), max(extent * size, 1), FOREIGN, keep((there.device, flat)), False, dtype.number, array.ndim, array.shape, strides
        ),
        "as_tensor",
        array.shape,
    )  # fmt: skip
