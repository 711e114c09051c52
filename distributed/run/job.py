"""One start of all ranks, from its first process to its last."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tensorlib.distributed.records import TOKEN, Record, machine, start_of

from .launch import Launch
from .output import Printer, Stream

__all__ = ["Job", "Outcome", "become_reaper"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_FUSE = 1.5  # seconds between the ways to end a launcher: Ctrl-C's signal where it is the user's wish, SIGTERM, SIGKILL
_PATIENCE = 1.5  # seconds in which a launcher should notice that a rank is gone,
_LAST_PATIENCE = 30.0  # and that all of them have finished


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _libc.prctl(option, value, 0, 0, 0)


_libc = ctypes.CDLL(None)


def become_reaper() -> None:
    """Let every process that comes from this one, and has lost its parent, become its child: so none is missed in the end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


@dataclass
class Outcome:
    """How a job ended."""

    status: int
    """The launcher's."""
    started: set[int] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)


class Job:
    """A launcher and the ranks it starts.

    Args:
        launch: its command.
        token: what the ranks' records carry.
        environment: what it runs in.
        printer: where its output goes.
        records: a folder in which to keep the ranks' records as files ``<rank>.<what>``, or None.
    """

    def __init__(
        self, launch: Launch, ranks: int, token: str, environment: Mapping[str, str], printer: Printer, records: Path | None
    ) -> None:  # fmt: skip
        self._ranks = ranks
        self._records = records
        self._machine = machine()
        self._said: dict[str, dict[int, Record]] = {"started": {}, "finished": {}}
        parent = os.getpid()

        def with_parent() -> None:
            # mpirun ends its ranks on SIGTERM, here and on other hosts.
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        self._process = subprocess.Popen(
            launch.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**environment, TOKEN: token}, preexec_fn=with_parent,  # noqa: PLW1509  (there are no threads here)
        )  # fmt: skip
        assert self._process.stdout and self._process.stderr
        self._streams = {
            pipe.fileno(): Stream(number, launch.tag, launch.open_tag, token, printer, self._hear)
            for number, pipe in ((1, self._process.stdout), (2, self._process.stderr))
        }
        self._open = set(self._streams)
        self._uneasy: float | None = None

    def _hear(self, record: Record) -> None:
        self._said.setdefault(record.what, {})[record.rank] = record
        if self._records is not None:
            record.keep(self._records)

    def run(self, wake: int) -> Outcome:
        """Pass its output on until it is over, or until something can be read from `wake`; then end what is left of it."""
        ways = [signal.SIGTERM, signal.SIGKILL]
        try:
            while self._process.poll() is None and not self._lost():
                if self._ready(wake, 0.1):
                    ways.insert(0, signal.SIGINT)
                    break
        finally:
            self._end(ways)
        return Outcome(self._process.returncode, set(self._said["started"]), set(self._said["finished"]))

    def _ready(self, wake: int | None, timeout: float) -> bool:
        """Pass on what has come within so many seconds. Returns whether `wake` can be read."""
        watched = [*self._open, *([] if wake is None else [wake])]
        if not watched:
            time.sleep(timeout)
        ready, _, _ = select.select(watched, [], [], timeout) if watched else ([], [], [])
        for pipe in ready:
            if pipe != wake:
                chunk = os.read(pipe, 1 << 16)
                if chunk:
                    self._streams[pipe].feed(chunk)
                else:
                    self._open.discard(pipe)
        return wake in ready

    def _lost(self) -> bool:
        """Whether a rank has been gone for a while without the launcher's noticing, or nothing but the launcher is left."""
        finished = self._said["finished"]
        gone = any(not alive and rank not in finished for rank, alive in self._here())
        if not (gone or len(finished) == self._ranks):
            self._uneasy = None
            return False
        self._uneasy = self._uneasy or time.monotonic()
        return time.monotonic() - self._uneasy > (_PATIENCE if len(finished) < self._ranks else _LAST_PATIENCE)

    def _here(self) -> Iterator[tuple[int, bool]]:
        """The ranks that started on this machine, and whether each is still there: not only its id, which may be another's by now."""
        for rank, record in self._said["started"].items():
            if record.machine == self._machine:
                yield rank, start_of(record.pid) == record.start

    def _end(self, ways: Sequence[signal.Signals]) -> None:
        """End the launcher if it still runs, then whatever the job has left on this machine."""
        for number in ways:
            if self._process.poll() is None:
                self._process.send_signal(number)
                until = time.monotonic() + _FUSE
                while self._process.poll() is None and time.monotonic() < until:
                    self._ready(None, 0.05)
        self._process.wait()
        self._kill_left_over()
        until = time.monotonic() + 1  # a process on its way out may hold a pipe for a moment
        while self._open and time.monotonic() < until:
            self._ready(None, 0.05)
        for stream in self._streams.values():
            stream.close()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe
            pipe.close()

    def _kill_left_over(self) -> None:
        """Only ranks, by their records, and this process's own children (see `become_reaper`)."""
        for rank, alive in self._here():
            if alive:
                with contextlib.suppress(OSError):
                    os.kill(self._said["started"][rank].pid, signal.SIGKILL)
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        until = time.monotonic() + _FUSE
        while children.exists() and (left := children.read_text().split()) and time.monotonic() < until:
            for child in left:
                with contextlib.suppress(OSError):
                    os.kill(int(child), signal.SIGKILL)
                    os.waitpid(int(child), 0)
