"""Memory of the stand-in's devices: host memory that says whose it is, starts as NaN, and has a guard on either side.

Addresses are real, so kernels and cuBLAS take them as they are; `find` says which allocation an address lies in.
"""

from __future__ import annotations

import bisect
import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["DEVICES", "FAULTS", "Memory", "MemoryPointer", "OutOfMemoryError", "UnownedMemory", "alloc", "at", "find"]

DEVICES = 2
CAPACITY = 4 << 30  # bytes that each device pretends to have
ALIGNMENT, GUARD, PATTERN = 512, 512, 0xA5
FAULTS: list[str] = []  # what was noticed where nothing can be raised; the tests' fixture looks here
_starts: list[int] = []
_live: dict[int, weakref.ref[Memory]] = {}
used = [0] * DEVICES


class OutOfMemoryError(MemoryError):
    pass


class Memory:
    """An allocation on a device (device_id -1: pinned memory of the host)."""

    def __init__(self, size: int, device_id: int | None = None) -> None:
        from .streams import current_device_id

        self.size = size
        self.device_id = current_device_id() if device_id is None else device_id
        self.device = self.device_id
        self.ptr = 0
        self._room = np.empty(0, np.uint8)
        if self.device_id >= 0 and used[self.device_id] + size > CAPACITY:
            raise OutOfMemoryError(
                f"Out of memory allocating {size:,} bytes (allocated so far: {used[self.device_id]:,} bytes)."
            )
        if not size:
            return
        self._room = np.full(size + 2 * GUARD + ALIGNMENT, PATTERN, np.uint8)
        base = self._room.ctypes.data + GUARD
        self._first = GUARD + -base % ALIGNMENT
        self.ptr = self._room.ctypes.data + self._first
        self.bytes[:] = 0xFF
        bisect.insort(_starts, self.ptr)
        _live[self.ptr] = weakref.ref(self)
        if self.device_id >= 0:
            used[self.device_id] += size

    @property
    def bytes(self) -> np.ndarray[Any, Any]:
        return self._room[self._first : self._first + self.size] if self.size else self._room

    def __del__(self) -> None:
        if not getattr(self, "ptr", 0) or _live is None:  # the interpreter is ending
            return
        _live.pop(self.ptr, None)
        i = bisect.bisect_left(_starts, self.ptr)
        if i < len(_starts) and _starts[i] == self.ptr:
            del _starts[i]
        if self.device_id >= 0:
            used[self.device_id] -= self.size
        before, after = self._room[: self._first], self._room[self._first + self.size :]
        if (before != PATTERN).any() or (after != PATTERN).any():
            FAULTS.append(f"memory beside an allocation of {self.size} bytes was written")


class UnownedMemory:
    """Memory that somebody else owns."""

    def __init__(self, ptr: int, size: int, owner: object, device_id: int = -1) -> None:
        there = find(ptr) if size else None
        self.ptr, self.size, self._owner = ptr, size, owner
        self.device_id = self.device = device_id if device_id >= 0 or there is None else there.device_id

    @property
    def bytes(self) -> np.ndarray[Any, Any]:
        return at(self.ptr, self.size)


class MemoryPointer:
    """A place in an allocation."""

    def __init__(self, mem: Any, offset: int) -> None:
        self.mem, self._offset = mem, offset

    @property
    def ptr(self) -> int:
        return int(self.mem.ptr + self._offset)

    @property
    def device_id(self) -> int:
        return int(self.mem.device_id)

    @property
    def device(self) -> Any:
        from .streams import Device

        return Device(self.device_id)

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset + offset)

    __radd__ = __add__

    def __sub__(self, offset: int) -> MemoryPointer:
        return self + -offset

    def __int__(self) -> int:
        return self.ptr

    def _view(self, size: int) -> np.ndarray[Any, Any]:
        found = self.mem.bytes[self._offset : self._offset + size]
        assert len(found) == size, "a copy beyond an allocation"
        return found

    def memset(self, value: int, size: int) -> None:
        self.memset_async(value, size)

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        from .streams import perform

        perform(lambda: self._view(size).fill(value), stream)

    def copy_from_device(self, src: MemoryPointer, size: int) -> None:
        self.copy_from_device_async(src, size)

    def copy_from_device_async(self, src: MemoryPointer, size: int, stream: Any = None) -> None:
        from .streams import perform

        perform(lambda: np.copyto(self._view(size), src._view(size)), stream)

    def copy_from_host(self, mem: Any, size: int) -> None:
        from .streams import refuse

        refuse("a synchronous copy from the host")
        self._view(size)[:] = at(_address(mem), size)

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        from .streams import host_copy

        source = at(_address(mem), size)
        host_copy(self._view(size), source, stream)

    def copy_to_host(self, mem: Any, size: int) -> None:
        from .streams import refuse

        refuse("a synchronous copy to the host")
        at(_address(mem), size)[:] = self._view(size)

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        from .streams import host_copy

        host_copy(at(_address(mem), size), self._view(size), stream)

    def copy_from(self, mem: Any, size: int) -> None:
        self.copy_from_device(mem, size) if isinstance(mem, MemoryPointer) else self.copy_from_host(mem, size)

    def copy_from_async(self, mem: Any, size: int, stream: Any = None) -> None:
        if isinstance(mem, MemoryPointer):
            self.copy_from_device_async(mem, size, stream)
        else:
            self.copy_from_host_async(mem, size, stream)


def _address(mem: Any) -> int:
    return int(mem.value if isinstance(mem, ctypes.c_void_p) else mem)


def find(address: int) -> Memory | None:
    """The allocation that an address lies in, or ends."""
    i = bisect.bisect_right(_starts, address) - 1
    made = _live[_starts[i]]() if i >= 0 else None
    return made if made is not None and address <= made.ptr + made.size else None


def at(address: int, size: int) -> np.ndarray[Any, Any]:
    """Bytes at an address, wherever that is."""
    if not size:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


_allocator: Callable[[int], MemoryPointer] | None = None


def plain(size: int) -> MemoryPointer:
    return MemoryPointer(Memory(size), 0)


def alloc(size: int) -> MemoryPointer:
    """Memory on the current device, from the allocator that is set."""
    from .streams import allocator

    return allocator()(int(size))
