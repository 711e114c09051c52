"""A stand-in for the module `cupy`, for machines without a GPU: NumPy in its place, as strict as CuPy is, and stricter where CuPy would only be slow.

Its arrays are not NumPy's: no NumPy function, operator or conversion takes them, and they take no array of main memory. It has the names and
keyword arguments that CuPy has (names.txt, which names.py writes from the real package). There are two devices, which do not mix. Memory starts
as NaN. RawModule compiles the very source for the CPU (render.py). On a stream that captures, work is written down, and what CUDA would refuse
is refused.

    with standin.installed():       # sys.modules["cupy"]
        tl.ones(3, device="cuda")
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

import tensorlib.ops.special
from tests.gpu import render

from . import arrays, cublas, cudnn, memory, nccl, streams

__all__ = ["cudnn", "installed", "make"]


class RawKernel:
    """A rendered kernel, launched as CuPy's."""

    def __init__(self, kernel: render.Kernel) -> None:
        self.kernel, self.name = kernel, kernel.name
        self.max_dynamic_shared_size_bytes = 48 << 10
        self.num_regs, self.shared_size_bytes, self.max_threads_per_block = 32, kernel.static_shared, 1024

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Any = None,
    ) -> None:
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError("a grid and a block are tuples")
        limit = max(self.max_dynamic_shared_size_bytes, (48 << 10) - self.kernel.static_shared)
        if shared_mem > limit:
            raise streams.CUDARuntimeError(
                f"CUDA_ERROR_INVALID_VALUE: invalid argument ({shared_mem} bytes of dynamic shared memory: set max_dynamic_shared_size_bytes)"
            )
        given = [self._plain(a) for a in args]
        held = [self._place(a, letter) for a, letter in zip(given, self.kernel.letters, strict=False)]
        streams.perform(lambda: (held, self.kernel(grid, block, given, shared_mem)), stream)

    def _plain(self, argument: Any) -> int | float:
        if isinstance(argument, arrays.ndarray):
            return argument.data.ptr
        if isinstance(argument, memory.MemoryPointer):
            return argument.ptr
        if isinstance(argument, np.generic) and argument.dtype.itemsize == 8:
            return argument.item()
        if type(argument) not in (int, float, bool):
            raise TypeError(
                f"kernel {self.name}: got {type(argument).__name__} as an argument; numbers are 8 bytes: int and float"
            )
        return argument if isinstance(argument, float) else int(argument)

    def _place(self, argument: float, letter: str) -> Any:
        """The allocation behind a pointer, which must be the current device's."""
        if letter != "p" or not argument:
            return None
        there = memory.find(int(argument))
        if there is None:
            raise streams.CUDARuntimeError(
                f"cudaErrorIllegalAddress: kernel {self.name} got the address of main memory", 700
            )
        if there.device_id not in (-1, streams.current_device_id()):
            raise streams.CUDARuntimeError(
                f"cudaErrorIllegalAddress: kernel {self.name} got memory of device {there.device_id}", 700
            )
        return there


class RawModule:
    """A source, compiled for the CPU."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc", **others: Any) -> None:
        if not isinstance(options, tuple):
            raise TypeError("options are a tuple")
        self.code, self.options = code, options
        self._module: render.Module | None = None

    def compile(self, log_stream: Any = None) -> None:
        self._module = self._module or render.Module(self.code, self.options)

    def get_function(self, name: str) -> RawKernel:
        self.compile()
        assert self._module is not None
        return RawKernel(self._module.get_function(name))


class _Runtime(ModuleType):
    """cupy.cuda.runtime"""

    CUDARuntimeError = streams.CUDARuntimeError
    memcpyHostToDevice, memcpyDeviceToHost, memcpyDeviceToDevice, memcpyDefault = 1, 2, 3, 4
    streamCaptureModeGlobal, streamCaptureModeThreadLocal, streamCaptureModeRelaxed = 0, 1, 2
    is_hip = False

    def getDeviceCount(self) -> int:
        return memory.DEVICES

    def getDevice(self) -> int:
        return streams.current_device_id()

    def setDevice(self, device: int) -> None:
        streams.Device(device).use()

    def memGetInfo(self) -> tuple[int, int]:
        return streams.Device().mem_info

    def driverGetVersion(self) -> int:
        return 13000

    runtimeGetVersion = driverGetVersion

    def deviceSynchronize(self) -> None:
        streams.refuse("cudaDeviceSynchronize")

    def streamSynchronize(self, stream: int) -> None:
        streams.refuse("cudaStreamSynchronize")

    def streamIsCapturing(self, stream: int) -> bool:
        return stream in streams._capturing

    def deviceCanAccessPeer(self, device: int, peer: int) -> int:
        return 1

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        return {
            "name": b"stand-in", "major": 9, "minor": 0, "multiProcessorCount": 4, "warpSize": 32, "totalGlobalMem": memory.CAPACITY,
            "maxThreadsPerBlock": 1024, "sharedMemPerBlock": 48 << 10, "sharedMemPerBlockOptin": 227 << 10, "l2CacheSize": 50 << 20,
            "maxThreadsPerMultiProcessor": 2048, "regsPerBlock": 65536, "clockRate": 1, "memoryClockRate": 1, "memoryBusWidth": 1,
            "regsPerMultiprocessor": 65536, "sharedMemPerMultiprocessor": 228 << 10, "integrated": 0,
            "pciDomainID": 0, "pciBusID": device, "pciDeviceID": 0,
        }  # fmt: skip

    def memcpy(self, dst: int, src: int, size: int, kind: int) -> None:
        streams.refuse("cudaMemcpy")
        memory.at(dst, size)[:] = memory.at(src, size)

    def memcpyAsync(self, dst: int, src: int, size: int, kind: int, stream: int) -> None:
        streams.host_copy(memory.at(dst, size), memory.at(src, size))

    def memset(self, ptr: int, value: int, size: int) -> None:
        streams.perform(lambda: memory.at(ptr, size).fill(value))

    def memsetAsync(self, ptr: int, value: int, size: int, stream: int) -> None:
        self.memset(ptr, value, size)


def _module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    made.__path__ = []
    vars(made).update(contents)
    return made


def make() -> dict[str, ModuleType]:
    """The modules, by name."""
    cupy = _module("cupy", ndarray=arrays.ndarray, ufunc=arrays.Ufunc, RawModule=RawModule, __version__="13.6.0")
    arrays.fill_module(cupy, "cupy", np)
    linalg, fft, tricks = _module("cupy.linalg"), _module("cupy.fft"), _module("cupy.lib.stride_tricks")
    arrays.fill_module(linalg, "cupy.linalg", np.linalg)
    arrays.fill_module(fft, "cupy.fft", np.fft)
    arrays.fill_module(tricks, "cupy.lib.stride_tricks", np.lib.stride_tricks)
    arrays.give_operators(cupy)
    special = _module("cupyx.scipy.special")
    arrays.fill_module(special, "cupyx.scipy.special", SimpleNamespace(**tensorlib.ops.special._ON_NUMPY))
    runtime = _Runtime("cupy.cuda.runtime")
    device = _module(
        "cupy.cuda.device", Device=streams.Device, get_cublas_handle=lambda: streams.Device().cublas_handle
    )
    cuda_names = (
        "Device", "Event", "ExternalStream", "Graph", "MemoryHook", "MemoryPool", "PinnedMemoryPool", "PinnedMemoryPointer", "Stream",
        "alloc_pinned_memory", "get_allocator", "get_current_stream", "get_elapsed_time", "set_allocator",
        "set_pinned_memory_allocator", "using_allocator",
    )  # fmt: skip
    cuda = _module("cupy.cuda", runtime=runtime, device=device, **{n: getattr(streams, n) for n in cuda_names})
    shared = {n: getattr(memory, n) for n in ("Memory", "MemoryPointer", "UnownedMemory", "OutOfMemoryError", "alloc")}
    cuda.memory = _module("cupy.cuda.memory", **shared, MemoryPool=streams.MemoryPool)  # type: ignore[attr-defined]
    cuda.stream = _module("cupy.cuda.stream", Stream=streams.Stream, get_current_stream=streams.get_current_stream)  # type: ignore[attr-defined]
    vars(cuda).update(
        {n: shared[n] for n in ("Memory", "MemoryPointer", "UnownedMemory", "alloc")}, is_available=lambda: True
    )
    vars(cupy).update(
        cuda=cuda, linalg=linalg, fft=fft, lib=_module("cupy.lib", stride_tricks=tricks),
        get_default_memory_pool=lambda: streams.pool, get_default_pinned_memory_pool=lambda: streams.pinned_pool,
        newaxis=None, bool_=np.bool_,
    )  # fmt: skip
    cupyx = _module("cupyx", scatter_add=lambda a, slices, value: a.scatter_add(slices, value))
    cupyx.scipy = _module("cupyx.scipy", special=special)  # type: ignore[attr-defined]
    cuda.nccl = nccl.make()  # type: ignore[attr-defined]
    found = [
        cuda.nccl,
        cupyx.scipy,
        special,
        cupy,
        linalg,
        fft,
        cupy.lib,
        tricks,
        cuda,
        runtime,
        device,
        cuda.memory,
        cuda.stream,
        cupyx,
    ]
    return {m.__name__: m for m in found}


_made, _cublas = functools.cache(make), functools.cache(cublas.Library)


@contextmanager
def installed() -> Iterator[ModuleType]:
    """`import cupy` gives the stand-in, for as long as this lasts."""
    from tensorlib.gpu import cublas as ours

    made = _made()
    kept, ours.library, ours.WORKSPACE = (ours.library, ours.WORKSPACE), _cublas, 4096
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield made["cupy"]
    finally:
        ours.library, ours.WORKSPACE = kept
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
