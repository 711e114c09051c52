"""What of a GPU's memory is in use: figures of CuPy's default pool, which all tensors come from unless CuPy was told otherwise."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tensorlib.backends.cuda import import_cupy

from .devices import index_of

__all__ = [
    "empty_cache", "max_memory_allocated", "max_memory_reserved", "mem_get_info", "memory_allocated", "memory_reserved", "memory_stats",
    "reset_peak_memory_stats", "set_per_process_memory_fraction",
]  # fmt: skip

_peaks: dict[int, int] = {}
_reserved: defaultdict[int, int] = defaultdict(int)
_watch: Any = None


def _figure(device: Any, name: str, figure: str) -> int:
    cupy = import_cupy()
    with cupy.cuda.Device(index_of(device, name)):
        return int(getattr(cupy.get_default_memory_pool(), figure)())


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors and CuPy arrays on a GPU take."""
    return _figure(device, "memory_allocated", "used_bytes")


def memory_reserved(device: Any = None) -> int:
    """Bytes that the pool has of a GPU: those in use, and those kept for the next."""
    found = _figure(device, "memory_reserved", "total_bytes")
    index = index_of(device, "memory_reserved")
    _reserved[index] = max(_reserved[index], found)
    return found


def max_memory_reserved(device: Any = None) -> int:
    """The most that `memory_reserved` was since `empty_cache` or `reset_peak_memory_stats`, before which the pool only grows."""
    memory_reserved(device)
    return _reserved[index_of(device, "max_memory_reserved")]


def max_memory_allocated(device: Any = None) -> int:
    """The most that `memory_allocated` was, as far as this thread allocates, since `reset_peak_memory_stats`.

    To follow each allocation costs time, so that begins with the first call of either function.
    """
    index = index_of(device, "max_memory_allocated")
    if index not in _peaks:
        reset_peak_memory_stats(index)
    return _peaks[index]


def reset_peak_memory_stats(device: Any = None) -> None:
    """Begin the figures `max_memory_allocated` and `max_memory_reserved` anew."""
    global _watch
    index = index_of(device, "reset_peak_memory_stats")
    if _watch is None:
        _watch = _watching()
        _watch.__enter__()
    now = memory_allocated(index)
    _watch.used[index] = _peaks[index] = now
    _reserved[index] = memory_reserved(index)


def _watching() -> Any:
    """A hook of CuPy's that keeps `_peaks`."""

    class Watch(import_cupy().cuda.MemoryHook):  # type: ignore[misc]
        name = "tensorlib"

        def __init__(self) -> None:
            self.used: dict[int, int] = {}

        def malloc_postprocess(self, *, device_id: int, mem_size: int, **rest: Any) -> None:
            if device_id in self.used:
                self.used[device_id] += mem_size
                _peaks[device_id] = max(_peaks[device_id], self.used[device_id])

        def free_postprocess(self, *, device_id: int, mem_size: int, **rest: Any) -> None:
            if device_id in self.used:
                self.used[device_id] -= mem_size

    return Watch()


def memory_stats(device: Any = None) -> dict[str, int]:
    """The figures above under PyTorch's names."""
    return {
        "allocated_bytes.all.current": memory_allocated(device),
        "allocated_bytes.all.peak": max_memory_allocated(device),
        "reserved_bytes.all.current": memory_reserved(device),
        "reserved_bytes.all.peak": max_memory_reserved(device),
    }


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of a GPU, whoever has them."""
    free, total = import_cupy().cuda.Device(index_of(device, "mem_get_info")).mem_info
    return int(free), int(total)


def empty_cache() -> None:
    """Give back what the pools keep and nobody uses, on the current GPU and of pinned memory. Without a GPU nothing happens.

    >>> tl.cuda.empty_cache()
    """
    from .devices import is_available

    if is_available():
        cupy = import_cupy()
        _reserved.clear()
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    """Let the pool have at most this part of a GPU's memory; more is an error, MemoryError. 0 lifts the limit.

    Raises:
        ValueError: unless 0 <= fraction <= 1.
    """
    if not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise ValueError(f"set_per_process_memory_fraction: got {fraction!r}, expected a number from 0 to 1.")
    cupy = import_cupy()
    with cupy.cuda.Device(index_of(device, "set_per_process_memory_fraction")):
        cupy.get_default_memory_pool().set_limit(fraction=float(fraction))
