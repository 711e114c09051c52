"""What a rank says of itself, for whoever supervises it: that it started, that it finished.

`tensorlib.distributed.run` names a token, TENSORLIB_RUN_TOKEN: then a record is a line on the rank's standard error, which comes from every host.
Where TENSORLIB_RUN_RECORDS names a folder, it is a file there, ``<rank>.started`` or ``<rank>.finished``.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Record", "say"]

# The line: this character and the token, which no program writes by chance, and the record as JSON.
MARK = "\x1e"
TOKEN = "TENSORLIB_RUN_TOKEN"


@dataclass(frozen=True)
class Record:
    """Which process said what: "started" or "finished", with status 0."""

    what: str
    rank: int
    host: str
    machine: str
    """The same for processes that can see each other by their ids, and for no others."""
    pid: int
    start: int
    """When the process started, in the kernel's ticks, to tell it from a later one with its id."""
    time: float
    """When it said so, in seconds since 1970."""

    def json(self) -> str:
        return json.dumps(asdict(self))

    def keep(self, folder: Path) -> None:
        """Write the file of it."""
        file = folder / f"{self.rank}.{self.what}"
        beside = file.with_suffix(f"{file.suffix}-{self.pid}")
        beside.write_text(self.json())
        beside.replace(file)


_channel: int | None = None


def say(what: str, rank: int) -> None:
    """Leave a record where one is wanted. The first call should come early: later ones go to the standard error of that time."""
    global _channel
    token, folder = os.environ.get(TOKEN), os.environ.get("TENSORLIB_RUN_RECORDS")
    record = Record(what, rank, socket.gethostname(), machine(), os.getpid(), start_of(os.getpid()), time.time())
    if token:
        if _channel is None:
            _channel = os.dup(2)
        os.write(_channel, f"{MARK}{token} {record.json()}\n".encode())
    if folder:
        record.keep(Path(folder))


def machine() -> str:
    """This boot of this machine, and this set of process ids on it; empty where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def start_of(pid: int) -> int:
    """When a process started; 0 if it is gone, dead but for its parent's look, or not to be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
