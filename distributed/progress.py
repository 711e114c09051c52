"""The communication thread: it carries out collectives beside the program, on communicators of its own, without using up a core."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from mpi4py import MPI

    from .world import Group

__all__ = ["Work", "submit"]

# A collective in steps: it yields each nonblocking request that it must wait for before it can go on, and returns its result.
Steps: TypeAlias = "Generator[MPI.Request, None, Any]"

_SHORTEST, _LONGEST = 20e-6, 500e-6  # seconds asleep between two looks at requests that are under way
_EAGER = 2e-3  # seconds without a sleep while somebody waits, whose core is free: sleeping makes two barriers 1.8 ms instead of 0.05

_let_others_run: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Work:
    """A collective under way, as `async_op=True` returns it."""

    def __init__(self, steps: Steps, after: Callable[[], None] | None = None) -> None:
        self._steps = steps
        self._after = after
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self._request: MPI.Request | None = None

    def wait(self, timeout: float | None = None) -> Any:
        """Block until it is done, and return its result.

        Args:
            timeout: seconds; None: as long as it takes.

        Raises:
            TimeoutError: if it takes longer. It goes on all the same.
        """
        if not (self.is_completed() or _waited_for(self._done, timeout)):
            raise TimeoutError(f"wait: the collective was not done after {timeout} s.")
        if self._error is not None:
            raise self._error
        after, self._after = self._after, None
        if after is not None:
            after()
        return self._result

    def is_completed(self) -> bool:
        """Whether it is done, so that `wait` would not block."""
        return self._done.is_set()

    def result(self) -> Any:
        """What the collective returns; waits for it."""
        return self.wait()

    def _advance(self) -> bool:
        """Go on if what it waits for is there. Returns whether it did."""
        try:
            if self._request is not None and not self._request.Test():
                return False
            self._request = next(self._steps)
        except StopIteration as end:
            self._result = end.value
            self._done.set()
        except BaseException as error:  # noqa: BLE001  (whoever waits gets it)
            self._error = error
            self._done.set()
        return True


class _Thread:
    """Carries out what is submitted to it, of each group one collective after the other: MPI matches those of a communicator by their order."""

    def __init__(self) -> None:
        self._waiting: dict[Group | object, deque[Work]] = {}
        self._wake = threading.Condition()
        self._ending = False
        self._hurries = 0
        self._thread = threading.Thread(target=self._run, name="tensorlib communication", daemon=True)
        self._thread.start()

    def add(self, work: Work, group: Group | object) -> None:
        with self._wake:
            self._waiting.setdefault(group, deque()).append(work)
            self._wake.notify()

    def hurry(self, by: int) -> None:
        """By 1 when somebody begins to wait, by -1 when that is over."""
        with self._wake:
            self._hurries += by
            self._wake.notify()

    def end(self) -> None:
        """Finish what is under way, then the thread."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        pause, moved_at, hurried = _SHORTEST, 0.0, False
        while True:
            with self._wake:
                while not (self._waiting or self._ending):
                    self._wake.wait()
                queues = list(self._waiting.items())
            if not queues:
                return
            moved = False
            for group, queue in queues:
                while queue and queue[0]._advance():
                    moved = True
                    if queue[0].is_completed():
                        with self._wake:
                            queue.popleft()
                            if not queue:
                                del self._waiting[group]
            if moved or (self._hurries > 0) != hurried:
                pause, moved_at, hurried = _SHORTEST, time.monotonic(), self._hurries > 0
            elif hurried and time.monotonic() - moved_at < _EAGER:
                _let_others_run()
            else:
                with self._wake:
                    self._wake.wait(pause)
                pause = min(2 * pause, _LONGEST)


_thread: _Thread | None = None


def submit(steps: Steps, group: Group | object, after: Callable[[], None] | None = None) -> Work:
    """Hand a collective of a group (or of anything else that has an order) to the communication thread, which runs it after the group's earlier ones.
    The first `wait` calls `after`."""
    global _thread
    if _thread is None:
        _thread = _Thread()
    work = Work(steps, after)
    _thread.add(work, group)
    return work


def _waited_for(done: threading.Event, timeout: float | None) -> bool:
    thread = _thread
    if thread is None:
        return done.wait(timeout)
    thread.hurry(1)
    try:
        return done.wait(timeout)
    finally:
        thread.hurry(-1)


def done(steps: Steps) -> Work:
    """The Work of steps that have nothing to wait for."""
    work = Work(steps)
    work._advance()
    return work


def end() -> None:
    """End the communication thread, after what it has under way."""
    global _thread
    if _thread is not None:
        _thread.end()
        _thread = None


def finish(steps: Steps) -> Any:
    """Carry a collective out here and now."""
    try:
        while True:
            next(steps).Wait()
    except StopIteration as end:
        return end.value
