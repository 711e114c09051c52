"""Figures of the caching allocator, and its cap.

>>> import tensorlib as tl
>>> x = tl.zeros(1000)
>>> tl.memory.allocated() >= 4000
True
"""

from __future__ import annotations

from tensorlib.native import lib

__all__ = ["allocated", "cap", "empty_cache", "peak", "reserved", "reset_peak", "set_cap", "stats", "text"]

_FIGURES = ("allocated", "reserved", "peak", "cap", "allocations", "reused")


def stats() -> dict[str, int]:
    """All figures: bytes allocated, reserved and at the peak, the cap (0: none), and how many allocations there were and how many reused a block."""
    return {name: max(int(lib.tl_memory_figure(i)), 0) for i, name in enumerate(_FIGURES)}


def allocated() -> int:
    """Bytes that tensors occupy now."""
    return stats()["allocated"]


def reserved() -> int:
    """Bytes taken from the system: allocated, and kept for reuse."""
    return stats()["reserved"]


def peak() -> int:
    """The most bytes that tensors occupied since the start or `reset_peak`."""
    return stats()["peak"]


def reset_peak() -> None:
    """Let `peak` start again from what is allocated now."""
    lib.tl_memory_reset_peak()


def cap() -> int:
    """The most bytes that may be reserved; 0: no limit."""
    return stats()["cap"]


def set_cap(nbytes: int | None) -> None:
    """Limit what may be reserved; an allocation beyond it raises MemoryLimitError. None: no limit."""
    if nbytes is not None and (not isinstance(nbytes, int) or nbytes < 0):
        raise ValueError(f"set_cap: got {nbytes!r}, expected a number of bytes or None.")
    lib.tl_memory_set_cap(nbytes or 0)


def empty_cache() -> None:
    """Give what is kept for reuse back to the system."""
    lib.tl_empty_cache()


def text(nbytes: int) -> str:
    """A number of bytes in words.

    >>> tl.memory.text(1536)
    '1.5 KiB'
    """
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
