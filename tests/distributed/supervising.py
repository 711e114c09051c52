"""Starting `python -m tensorlib.distributed.run` from tests, and finding every process that comes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Supervised", "described", "lives", "processes", "supervised"]


def lives(pid: int) -> bool:
    """Whether there is such a process, and it is not a dead one whose parent has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def processes(wanted: Callable[[Path], bool]) -> list[int]:
    """The ids of all processes that are alive, and wanted by their folders in /proc."""

    def found(process: Path) -> bool:
        with suppress(OSError):  # gone while we look, or not ours
            return wanted(process) and lives(int(process.name))
        return False

    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if found(process)]


def described(pid: int) -> str:
    """Its command, for messages."""
    try:
        return f"{pid}: {Path(f'/proc/{pid}/cmdline').read_text()[:200]!r}"
    except OSError:
        return f"{pid}: gone by now"


class Supervised:
    """A supervisor that runs."""

    def __init__(self, process: subprocess.Popen[str], label: str, records: Path) -> None:
        self.process, self._label, self._records = process, label.encode(), records
        self.out = self.err = ""

    def wait(self, timeout: float = 60) -> int:
        """Its status, once it is over and its output read."""
        self.out, self.err = self.process.communicate(timeout=timeout)
        return self.process.returncode

    def pids(self) -> list[int]:
        """Every process with the label in its environment: the supervisor and all that came of it."""
        return processes(lambda process: self._label in process.joinpath("environ").read_bytes())

    def started(self, attempt: int = 0, timeout: float = 30, ranks: int = 1) -> dict[int, int]:
        """The ranks' process ids, once so many have started."""
        folder = self._records / f"attempt-{attempt}"
        self.until(lambda: len(list(folder.glob("*.started"))) >= ranks, timeout)
        return {int(path.stem): json.loads(path.read_text())["pid"] for path in folder.glob("*.started")}

    def until(self, true: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < deadline, f"not within {timeout} s"
            time.sleep(0.02)

    def all_gone(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while left := self.pids():
            assert time.monotonic() < deadline, (
                f"after {timeout:.1f} s there are still {[described(pid) for pid in left]}"
            )
            time.sleep(0.05)


@contextmanager
def supervised(
    *arguments: object,
    records: Path,
    env: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    python: str = sys.executable,
) -> Iterator[Supervised]:
    """``python -m tensorlib.distributed.run --records records arguments...``, after the words of `before`. Nothing of it is left afterwards."""
    label = f"TEST_LABEL={uuid.uuid4().hex}"
    command = [*before, python, "-m", "tensorlib.distributed.run", "--records", records, *arguments]
    environment = {**os.environ, "TENSORLIB_NUM_THREADS": "1", **(env or {}), **dict([label.split("=")])}
    process = subprocess.Popen(
        list(map(str, command)), env=environment, cwd=records, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    job = Supervised(process, label, records)
    try:
        yield job
    finally:
        while left := job.pids():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        process.communicate()
