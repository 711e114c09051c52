"""Errors that only a kernel can see: an index out of range, known when the GPU reads it, long after the call has returned.

To ask at once would stop the host at every call. So a kernel that meets a bad value makes NaN of it (or passes it over) and leaves a note: two
integers in main memory that the GPU can write to, the number of the call's site and the value. Whatever waits for the GPU anyway (`item`, `tolist`,
`numpy`, `tl.cuda.synchronize`) reads the note and raises, with the operation and the line of the call. Of several errors since the last look
one is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib import lines
from tensorlib.backends import backend
from tensorlib.device import Device

__all__ = ["report", "site"]

Words = Callable[..., Exception]
_sites: list[tuple[Words, tuple[Any, ...], int]] = []  # site n is number n + 1
_numbers: dict[tuple[Words, tuple[Any, ...], int], int] = {}


def site(words: Words, *facts: Any) -> int:
    """The number of the user's line, where ``words(value, *facts)`` would be the error."""
    key = words, facts, lines.here()
    number = _numbers.get(key)
    if number is None:
        _sites.append(key)
        number = _numbers[key] = len(_sites)
    return number


class _Note:
    """What kernels of one GPU leave, in memory of the host. Called by its backend after a wait: raises."""

    def __init__(self, there: Any) -> None:
        self.memory = there.xp.cuda.alloc_pinned_memory(16)
        self.numbers = np.frombuffer(self.memory, np.int64, 2)
        self.numbers[:] = 0

    def __call__(self) -> None:
        number, value = (int(n) for n in self.numbers)
        if number:
            self.numbers[:] = 0
            words, facts, line = _sites[number - 1]
            error = words(value, *facts)
            raise type(error)(f"{error} (called at {lines.describe(line)}; a GPU runs kernels after their call)")


def report(device: Device) -> int:
    """Where kernels leave the note: an address for them."""
    there = backend(device)
    if there.waited is None:
        there.waited = _Note(there)
    return int(there.waited.memory.ptr)
