"""GPUs through CuPy: where tensors of device "cuda" live. What is computed there, and by which kernel, tensorlib/gpu says."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.device import Device
from tensorlib.dtypes import DType
from tensorlib.errors import DeviceError
from tensorlib.native import OBJECTS, lib

from .array_module import ArrayBackend, rounded
from .host import shape_of, strides_of
from .tf32 import matmul

__all__ = ["CudaBackend", "import_cupy", "matmul"]

NOT_FOUND = "; CPU tensors work"


def import_cupy() -> Any:
    """CuPy, where it and a driver are there.

    Raises:
        DeviceError: that says which of them is missing.
    """
    try:
        import cupy  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise DeviceError(
            f"device cuda: CuPy can not be imported ({error}){NOT_FOUND}.",
            hint="pip install 'tensorlib[cuda13]', or cuda12 for drivers before 580",
        ) from error
    try:
        cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        raise DeviceError(f"CUDA driver not found: {error}{NOT_FOUND}.") from error
    return cupy


class CudaBackend(ArrayBackend):
    """One GPU. Memory comes from CuPy's pool, work goes to CuPy's current stream."""

    def __init__(self, where: Device) -> None:
        super().__init__(where, import_cupy())
        count = self.xp.cuda.runtime.getDeviceCount()
        assert where.index is not None
        if where.index >= count:
            raise DeviceError(f"device {where}: there are {count} GPUs{NOT_FOUND if not count else ''}.")
        self.handle = self.xp.cuda.Device(where.index)
        self.waited: Any = None  # to be called after a wait: raises what kernels have noted (tensorlib/gpu/checks.py)
        self._several = count > 1

    def away(self) -> bool:
        """Whether another GPU is the current one: enter `handle` to compute on this one."""
        return self._several and self.xp.cuda.runtime.getDevice() != self.device.index

    def visit(self) -> Any:
        """To be entered where it is `away`. A graph is of one GPU: what another one is given while it is captured would not be in it."""
        from tensorlib.gpu import capture

        capture.refuse(
            f"work on {self.device}", "the graph is of another GPU, its example inputs' or else the current one"
        )
        return self.handle

    def write(self, handle: int, dtype: DType, values: Any) -> None:
        with self.handle:
            super().write(handle, dtype, values)

    def assign(self, to: int, source: int) -> None:
        into, values = self.place(to), self.place(source)
        with self.handle:
            if lib.tl_storage_token(to) == lib.tl_storage_token(source):  # CuPy does not look whether they overlap
                values = values.copy()
            into[...] = values

    def adopt(self, array: Any, dtype: DType | None = None) -> int:
        with self.handle:
            return super().adopt(array, dtype)

    def view(self, handle: int, dtype: DType) -> Any:
        if dtype is not dtypes.bfloat16:
            return self.place(handle)
        with self.handle:
            return super().view(handle, dtype)

    def place(self, handle: int) -> Any:
        flat = OBJECTS[lib.tl_storage_token(handle)][1]
        size = flat.dtype.itemsize
        memory = self.pointer(handle)
        strides = None if lib.tl_is_contiguous(handle) else tuple(s * size for s in strides_of(handle))
        # A view of an array, and so no array of its own to `owns`.
        return self.xp.ndarray(shape_of(handle), flat.dtype, memory, strides).view()

    def empty(self, shape: tuple[int, ...], dtype: DType) -> int:
        with self.handle:
            return super().empty(shape, dtype)

    def filled(self, shape: tuple[int, ...], value: Any, dtype: DType) -> int:
        with self.handle:
            return super().filled(shape, value, dtype)

    def owns(self, array: Any) -> bool:
        return array.base is None

    def pointer(self, handle: int) -> Any:
        """CuPy's pointer to a tensor's first element."""
        flat = OBJECTS[lib.tl_storage_token(handle)][1]
        return flat.data + int(lib.tl_offset(handle)) * flat.dtype.itemsize

    def address(self, flat: Any) -> int:
        return int(flat.data.ptr)

    def from_numpy(self, array: Any, dtype: DType | None = None) -> int:
        array = np.asarray(array)
        dtype = dtype or dtypes.from_numpy_dtype(array.dtype)
        flat = rounded(np, array) if dtype is dtypes.bfloat16 else np.ascontiguousarray(array, dtype.np)
        from .copies import upload

        made = self.empty(array.shape, dtype)
        if flat.size:
            upload(self, flat.reshape(-1).view(np.uint8), self.pointer(made))
        return made

    def to_numpy(self, handle: int, dtype: DType) -> np.ndarray[Any, Any]:
        from tensorlib.gpu import capture

        capture.refuse("reading a tensor's values")
        with self.handle:
            array: np.ndarray[Any, Any] = self.view(handle, dtype).get()
        if self.waited is not None:
            self.waited()
        return array
