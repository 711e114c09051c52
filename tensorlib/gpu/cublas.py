"""cuBLAS itself, in the library that CuPy has loaded: CuPy's own functions refuse streams that capture, so no step with a product could be a graph.

Each thread has a handle for each GPU, and each stream a workspace of its own, so that nothing is allocated while a stream captures and replays on
different streams share nothing.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from contextlib import suppress
from typing import Any

from tensorlib.backends.cuda import import_cupy

from . import capture

__all__ = ["gemm", "gemm_batch"]

WORKSPACE = 32 << 20  # bytes: what Hopper's kernels ask for, more than older GPUs need
STREAMS = 8  # whose workspaces a thread keeps
STATUS = {1: "not initialized", 3: "out of memory", 7: "invalid value", 8: "not on this GPU", 13: "execution failed", 14: "internal error",
    15: "not supported"}  # fmt: skip
_int, _long, _pointer = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_HEAD = [_pointer, _int, _int, _int, _int, _int, _pointer]  # handle, transa, transb, m, n, k, alpha
_OPERAND, _STEP = [_pointer, _int, _int], [_long]  # address, type, leading dimension; from one product to the next
ARGUMENTS = {
    "cublasCreate_v2": [ctypes.POINTER(_pointer)],
    "cublasDestroy_v2": [_pointer],
    "cublasSetStream_v2": [_pointer, _pointer],
    "cublasSetWorkspace_v2": [_pointer, _pointer, ctypes.c_size_t],
    "cublasGemmEx": [*_HEAD, *_OPERAND, *_OPERAND, _pointer, *_OPERAND, _int, _int],
    "cublasGemmStridedBatchedEx": [
        *_HEAD, *_OPERAND, *_STEP, *_OPERAND, *_STEP, _pointer, *_OPERAND, *_STEP, _int, _int, _int
    ],
}  # fmt: skip


_cupy = functools.cache(import_cupy)


@functools.cache
def library() -> Any:
    """Its functions, by name. The symbols of CuPy's extension module are looked up in what that is linked with, wherever it lies."""
    cublas = _cupy().cuda.cublas
    for name in (cublas.__file__, "libcublas.so.13", "libcublas.so.12", "cublas64_13.dll", "cublas64_12.dll"):
        with suppress(OSError, AttributeError):
            found = ctypes.CDLL(name)
            for function, arguments in ARGUMENTS.items():
                getattr(found, function).argtypes = arguments
            return found
    raise ImportError(f"cuBLAS: {cublas.__file__} is linked with a library that has no {', '.join(ARGUMENTS)}.")


def check(status: int) -> None:
    if status:
        raise RuntimeError(f"cuBLAS: {STATUS.get(status, 'error')} ({status}).")


class _Handle:
    """One thread's handle for one GPU."""

    def __init__(self) -> None:
        made = _pointer()
        check(library().cublasCreate_v2(ctypes.byref(made)))
        self.value, self._stream = made.value, -1
        self._workspaces: dict[int, Any] = {}
        self._capture: capture.Capture | None = None

    def __del__(self) -> None:
        with suppress(Exception):  # CUDA may be gone before
            library().cublasDestroy_v2(self.value)

    def on(self, stream: int, cuda: Any) -> int | None:
        """The handle, for work on this stream."""
        if stream != self._stream:
            workspace = self._workspaces.pop(stream, None) or cuda.alloc(WORKSPACE)
            self._workspaces[stream] = workspace
            check(library().cublasSetStream_v2(self.value, stream))  # which takes the workspace away
            check(library().cublasSetWorkspace_v2(self.value, workspace.ptr, WORKSPACE))
            self._stream = stream
            if (
                len(self._workspaces) > STREAMS
            ):  # memory goes back to the stream it is from, so work under way may still use it
                del self._workspaces[next(iter(self._workspaces))]
        if (under_way := capture.current()) is not self._capture:
            self._capture = under_way
            if under_way is not None:
                under_way.keep(self._workspaces[stream])
        return self.value


class _Own(threading.local):
    def __init__(self) -> None:
        self.handles: dict[int, _Handle] = {}


_own = _Own()


def _handle() -> int | None:
    cuda = _cupy().cuda
    device = cuda.runtime.getDevice()
    found = _own.handles.get(device)
    if found is None:
        found = _own.handles[device] = _Handle()
    return found.on(cuda.get_current_stream().ptr, cuda)


def gemm(*arguments: Any) -> None:
    """cublasGemmEx on the current stream; its arguments after the handle."""
    check(library().cublasGemmEx(_handle(), *arguments))


def gemm_batch(*arguments: Any) -> None:
    """cublasGemmStridedBatchedEx, likewise."""
    check(library().cublasGemmStridedBatchedEx(_handle(), *arguments))
