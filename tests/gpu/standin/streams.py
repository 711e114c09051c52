"""Devices, streams, events and graphs of the stand-in. Work runs at once, in the order of its calls, except on a stream that captures: there it is
written down, and `Graph.launch` runs it. What CUDA refuses to a capturing stream is refused."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from . import memory
from .memory import DEVICES, Memory, MemoryPointer

__all__ = ["Device", "Event", "ExternalStream", "Graph", "Stream", "get_current_stream", "get_elapsed_time"]


class CUDARuntimeError(RuntimeError):
    def __init__(self, name: str, status: int = 1) -> None:
        super().__init__(name)
        self.status = status


class _State(threading.local):
    def __init__(self) -> None:
        self.device = 0
        self.devices: list[int] = []
        self.streams = [[Stream.null] for _ in range(DEVICES)]
        self.allocators: list[Callable[[int], MemoryPointer] | None] = []


def current_device_id() -> int:
    return _state.device


class Device:
    def __init__(self, device: Any = None) -> None:
        self.id = _state.device if device is None else int(device)
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal", 101)

    def __int__(self) -> int:
        return self.id

    def __enter__(self) -> Any:
        _state.devices.append(_state.device)
        _state.device = self.id
        return self

    def __exit__(self, *error: object) -> None:
        _state.device = _state.devices.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def use(self) -> None:
        _state.device = self.id

    def synchronize(self) -> None:
        refuse("cudaDeviceSynchronize")

    @property
    def mem_info(self) -> tuple[int, int]:
        return memory.CAPACITY - memory.used[self.id], memory.CAPACITY

    compute_capability = "90"
    pci_bus_id = "0000:00:00.0"

    @property
    def attributes(self) -> dict[str, int]:
        return {
            "MultiProcessorCount": 4,
            "WarpSize": 32,
            "MaxThreadsPerBlock": 1024,
            "MaxSharedMemoryPerBlockOptin": 232448,
        }

    @property
    def cublas_handle(self) -> int:
        return 1 + self.id


_handles = iter(range(16, 1 << 30, 16))


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.ptr = next(_handles)
        self._timing = not disable_timing
        self._capture: Graph | None = None
        self._recorded: float | None = None

    done = True

    def record(self, stream: Any = None) -> None:
        import time

        self._capture = (stream or get_current_stream())._capture
        self._recorded = time.perf_counter()

    def synchronize(self) -> None:
        refuse("cudaEventSynchronize")


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    if start_event._recorded is None or end_event._recorded is None or not (start_event._timing and end_event._timing):
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle", 400)
    return 1000 * (end_event._recorded - start_event._recorded)


class _BaseStream:
    _capture: Graph | None = None

    def __init__(self, ptr: int, device_id: int) -> None:
        self.ptr, self.device_id = ptr, device_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BaseStream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __enter__(self) -> Any:
        _state.streams[self._device()].append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _state.streams[self._device()].pop()

    def _device(self) -> int:
        if self.device_id not in (-1, _state.device):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with the current device"
            )
        return _state.device

    def use(self) -> Any:
        _state.streams[self._device()][-1] = self
        return self

    @property
    def done(self) -> bool:
        if self._capture is not None:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing", 900
            )
        return True

    def synchronize(self) -> None:
        if self._capture is not None or any(s is not None for s in _capturing.values()):
            self._refused("cudaStreamSynchronize")

    def _refused(self, what: str) -> None:
        if self._capture is not None:
            _invalidate(self._capture)
            raise CUDARuntimeError(
                f"cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing ({what})", 900
            )

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if (
            event._capture is not None and self._capture is None
        ):  # a fork: this stream is captured with the other from here on
            self._capture = event._capture
            event._capture._forks.append(self)

    def launch_host_func(self, callback: Callable[[Any], object], arg: Any) -> None:
        perform(lambda: callback(arg), self)

    def add_callback(self, callback: Callable[..., object], arg: Any) -> None:
        self._refused("cudaStreamAddCallback")
        callback(self, 0, arg)

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self._capture is not None:
            raise CUDARuntimeError("cudaErrorIllegalState: the operation cannot be performed in the present state", 401)
        self._capture = Graph()
        _capturing[self.ptr] = self._capture

    def end_capture(self) -> Graph:
        made, self._capture = self._capture, None
        _capturing.pop(self.ptr, None)
        if made is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the operation cannot be performed in the present state", 401)
        for fork in made._forks:
            fork._capture = None
        made._forks = []
        if made._invalid:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture", 901
            )
        return made

    def is_capturing(self) -> bool:
        return self._capture is not None

    is_non_blocking = False
    priority = 0


class Stream(_BaseStream):
    null: Stream
    ptds: Stream

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        plain = not (null or ptds)
        super().__init__(next(_handles) if plain else 0 if null else 2, _state.device if plain else -1)
        self.is_non_blocking, self.priority = non_blocking, priority or 0


class ExternalStream(_BaseStream):
    def __init__(self, ptr: int, device_id: int = -1) -> None:
        super().__init__(ptr, device_id)


_capturing: dict[int, Graph] = {}
Stream.null = Stream.__new__(Stream)
_BaseStream.__init__(Stream.null, 0, -1)
Stream.ptds = Stream.__new__(Stream)
_BaseStream.__init__(Stream.ptds, 2, -1)


class Graph:
    """What a stream captured: a list of effects, run in order into the same memory."""

    def __init__(self) -> None:
        self._effects: list[Callable[[], object]] = []
        self._forks: list[_BaseStream] = []
        self._invalid = False
        self.graph = self.graphExec = next(_handles)

    def launch(self, stream: Any = None) -> None:
        target = stream or get_current_stream()
        if target._capture is not None:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing", 900
            )
        for effect in self._effects:
            effect()

    def upload(self, stream: Any = None) -> None:
        pass


_state = _State()


def get_current_stream(device_id: int = -1) -> Any:
    return _state.streams[_state.device if device_id < 0 else device_id][-1]


def capturing() -> Graph | None:
    found: Graph | None = get_current_stream()._capture
    return found


def _invalidate(graph: Graph) -> None:
    graph._invalid = True


def refuse(what: str) -> None:
    """Raise as CUDA does where the host would have to wait for a stream that captures, or where memory can not be captured."""
    graph = capturing() or next(iter(_capturing.values()), None)
    if graph is not None and (capturing() is not None or what.startswith("cuda")):
        _invalidate(graph)
        raise CUDARuntimeError(
            f"cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing ({what})", 900
        )


def perform(effect: Callable[[], object], stream: Any = None) -> None:
    """Run it, or write it down where the stream captures."""
    graph = (stream or get_current_stream())._capture
    if graph is None:
        effect()
    else:
        graph._effects.append(effect)


def host_copy(to: np.ndarray[Any, Any], source: np.ndarray[Any, Any], stream: Any = None) -> None:
    """An asynchronous copy between host and device: captured only where the host's memory is pinned."""
    for side in (to, source):
        there = memory.find(side.ctypes.data)
        if there is None and (stream or get_current_stream())._capture is not None:
            refuse("a copy of pageable memory")
    perform(lambda: np.copyto(to, source), stream)


# ---- pools ----
class MemoryHook:
    """Told of what this thread takes from a pool and gives back."""

    name = "hook"
    _all = threading.local()

    def __enter__(self) -> MemoryHook:  # noqa: PYI034
        hooks = vars(self._all).setdefault("hooks", {})
        if self.name in hooks:
            raise KeyError(f"memory hook {self.name} already exists")
        hooks[self.name] = self
        return self

    def __exit__(self, *error: object) -> None:
        del self._all.hooks[self.name]

    def malloc_postprocess(self, **kwargs: Any) -> None:
        pass

    def free_postprocess(self, **kwargs: Any) -> None:
        pass

    @classmethod
    def tell(cls, made: Memory, size: int) -> None:
        import weakref

        facts = {"device_id": made.device_id, "mem_size": size, "mem_ptr": made.ptr, "pmem_id": id(made)}

        def freed() -> None:
            for hook in list(getattr(cls._all, "hooks", {}).values()):
                hook.free_postprocess(**facts)

        for hook in list(getattr(cls._all, "hooks", {}).values()):
            hook.malloc_postprocess(size=made.size, **facts)
        weakref.finalize(made, freed).atexit = False


class MemoryPool:
    def __init__(self, allocator: Callable[[int], Any] | None = None) -> None:
        self._limit = [0] * DEVICES
        self._used: list[Any] = []

    def malloc(self, size: int) -> MemoryPointer:
        import weakref

        limit = self._limit[_state.device]
        if limit and self.used_bytes() + size > limit:
            raise memory.OutOfMemoryError(f"Out of memory allocating {size:,} bytes (limit set to: {limit:,} bytes).")
        made = Memory(size)
        MemoryHook.tell(made, -(-size // 512) * 512)
        self._used = [r for r in self._used if r() is not None]
        self._used.append(weakref.ref(made))
        return MemoryPointer(made, 0)

    def used_bytes(self) -> int:
        return sum(
            -(-m.size // 512) * 512 for r in self._used if (m := r()) is not None and m.device_id == _state.device
        )

    def total_bytes(self) -> int:
        return self.used_bytes()

    def free_bytes(self) -> int:
        return 0

    def n_free_blocks(self) -> int:
        return 0

    def free_all_blocks(self, stream: Any = None) -> None:
        refuse("cudaFree")

    def free_all_free(self) -> None:
        self.free_all_blocks()

    def get_limit(self) -> int:
        return self._limit[_state.device]

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        if fraction is not None:
            size = int(fraction * memory.CAPACITY)
        self._limit[_state.device] = size or 0


class PinnedMemoryPointer:
    """Memory of the host that the devices can reach; a buffer, so np.frombuffer reads it. Made by `pinned`."""

    mem: Memory
    ptr: int
    _bytes: int

    def size(self) -> int:
        return self._bytes

    def __int__(self) -> int:
        return self.ptr

    def __add__(self, offset: int) -> PinnedMemoryPointer:
        return pinned(self.mem, self.ptr - self.mem.ptr + offset)


def pinned(mem: Memory, offset: int = 0) -> PinnedMemoryPointer:
    size = mem.size - offset
    kind = type("PinnedMemoryPointer", (PinnedMemoryPointer, ctypes.c_uint8 * size), {})
    made: PinnedMemoryPointer = kind.from_address(mem.ptr + offset) if size else kind()
    made.mem, made.ptr, made._bytes = mem, mem.ptr + offset, size
    return made


class PinnedMemoryPool:
    def __init__(self, allocator: Callable[[int], Any] | None = None) -> None:
        pass

    def malloc(self, size: int) -> PinnedMemoryPointer:
        return pinned(Memory(size, -1))

    def free_all_blocks(self) -> None:
        pass

    def n_free_blocks(self) -> int:
        return 0


pool = MemoryPool()
pinned_pool = PinnedMemoryPool()
_set_allocator: Callable[[int], MemoryPointer] | None = pool.malloc


def allocator() -> Callable[[int], MemoryPointer]:
    for scoped in reversed(_state.allocators):
        return scoped or memory.plain
    return _set_allocator or memory.plain


get_allocator = allocator


def set_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> None:
    global _set_allocator
    if _state.allocators:
        raise ValueError("Can't change the global allocator inside `using_allocator` context manager")
    _set_allocator = allocator


class using_allocator:
    def __init__(self, allocator: Callable[[int], MemoryPointer] | None = None) -> None:
        self._allocator = allocator

    def __enter__(self) -> None:
        _state.allocators.append(self._allocator)

    def __exit__(self, *error: object) -> None:
        _state.allocators.pop()


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    return _pinned_allocator(size)


def set_pinned_memory_allocator(allocator: Callable[[int], PinnedMemoryPointer]) -> None:
    global _pinned_allocator
    _pinned_allocator = allocator


_pinned_allocator: Callable[[int], PinnedMemoryPointer] = pinned_pool.malloc
