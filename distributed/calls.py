"""Communication under way in this process: what messages about ranks that wait for each other are written from."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import Group

__all__ = ["UNDER_WAY", "Call", "under_way"]


class Call:
    """One call of one group, as its caller described it: what `under_way` gives and is."""

    __slots__ = ("_key", "dtype", "group", "number", "operation", "peer", "shape", "since", "thread")

    def __init__(
        self, operation: str, group: Group, shape: tuple[int, ...] | None, dtype: str | None, peer: int | None
    ) -> None:
        self.operation, self.group, self.shape, self.dtype, self.peer = operation, group, shape, dtype, peer
        self.number = 0
        """Its place among this group's collectives, from 1; 0 for a call with one peer."""

    def __enter__(self) -> Call:  # noqa: PYI034  (typing.Self needs Python 3.11)
        if self.peer is None:
            self.group.calls += 1
            self.number = self.group.calls
        self.thread, self.since, self._key = threading.get_ident(), time.monotonic(), next(_keys)
        UNDER_WAY[self._key] = self
        if CHECKS and self.peer is None:
            try:
                CHECKS[0](self)
            except BaseException:
                del UNDER_WAY[self._key]
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        del UNDER_WAY[self._key]


UNDER_WAY: dict[int, Call] = {}  # by a rising key: the oldest first
GROUPS: weakref.WeakSet[Group] = weakref.WeakSet()  # those of several ranks that this process is in
CHECKS: list[Callable[[Call], None]] = []  # debug mode's check, in debug mode
_keys = itertools.count()


def under_way(
    operation: str,
    group: Group,
    shape: tuple[int, ...] | None = None,
    dtype: str | None = None,
    *,
    peer: int | None = None,
) -> Call:
    """Every collective of the program's thread runs inside ``with under_way(...)``; so does a call with a single `peer` (its place in the
    group; -1: any), which is no collective and not numbered."""
    return Call(operation, group, shape, dtype, peer)
