"""``python -m tensorlib.distributed.run``: see ``--help``."""

from __future__ import annotations

import argparse
import os
import secrets
import select
import shlex
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from .job import Job, Outcome, become_reaper
from .launch import Launch, find_mpirun, launch
from .output import Printer

_LONGEST_PAUSE = 30.0  # seconds between two attempts

_DESCRIPTION = """\
Start a script on several ranks with mpirun, and look after them: every line of output comes whole and behind its rank's number; when a rank is lost,
all end, and, with --max-restarts, all start again. A script that saves checkpoints and begins from the newest one then goes on where it was.
The exit status is 0 only if every rank said that it finished."""

_EXAMPLES = """\
examples:
  python -m tensorlib.distributed.run -n 4 train.py --epochs 10
  python -m tensorlib.distributed.run -n 4 --max-restarts 3 -m package.train --epochs 10
  python -m tensorlib.distributed.run -n 8 --hosts a,b train.py             four ranks on each
  python -m tensorlib.distributed.run -n 6 --hosts a:2,b:4 --mpirun-args="-iface eth0" train.py

In the script's environment TENSORLIB_RUN_ATTEMPT is 0, 1, ...: how often it was started before."""

_USAGE = "python -m tensorlib.distributed.run [options] (script | -m module) [arguments]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run", _USAGE, _DESCRIPTION, _EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "-n", type=int, default=1, metavar="RANKS", help="how many processes; one runs without MPI (default: 1)"
    )
    parser.add_argument("-m", "--module", action="store_true", help="what to run is a module's name, as in python -m")
    parser.add_argument(
        "--hosts", help="where: a,b (as many ranks on each) or a:2,b:4; reached by ssh, from this one; default: here"
    )
    parser.add_argument("--max-restarts", type=int, default=0, metavar="K",
                        help="start all ranks again, at most so often, if some did not finish (default: 0)")  # fmt: skip
    parser.add_argument(
        "--mpirun", metavar="PATH", help="MPICH's or Open MPI's; default: beside this python, then on the path"
    )
    parser.add_argument("--mpirun-args", default="", metavar="ARGS", help="more options for it, in one word")
    parser.add_argument("--records", type=Path, metavar="DIR",
                        help="keep what ranks say of themselves here: attempt-K/RANK.started and .finished, with host and process id")  # fmt: skip
    return parser


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and what to run with its own arguments, in which nothing is an option of ours."""
    parser = _parser()
    at = 0
    while at < len(argv) and argv[at].startswith("-") and argv[at] != "--":
        alone = argv[at] in {"-m", "--module", "-h", "--help"} or "=" in argv[at] or argv[at][2:].isdecimal()
        at += 1 if alone else 2
    options = parser.parse_args(argv[:at])
    program = list(argv[at + 1 :] if argv[at : at + 1] == ["--"] else argv[at:])
    if not program:
        parser.error("nothing to run: name a script, or -m and a module")
    if options.n < 1 or options.max_restarts < 0:
        parser.error("-n should be at least 1, --max-restarts at least 0")
    return options, [sys.executable, *(["-m"] if options.module else []), *program]


class _Stop:
    """Ctrl-C and SIGTERM, as something to wait for beside other things."""

    def __init__(self) -> None:
        self.signal = 0
        self._reader, self._writer = socket.socketpair()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal = number
            self._writer.send(b"!")

    def fileno(self) -> int:
        return self._reader.fileno()

    def sleep(self, seconds: float) -> bool:
        """Whether one came within so many seconds."""
        return bool(select.select([self], [], [], seconds)[0])


def _named(ranks: Sequence[int]) -> str:
    """Such as "ranks 0, 2 to 4"."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(words)}"


class Supervisor:
    """Starts a program's ranks until all of them finish, or that has failed often enough."""

    def __init__(self, options: argparse.Namespace, program: Sequence[str]) -> None:
        self._options, self._program = options, program
        self._alone = options.n == 1 and options.hosts is None and options.mpirun is None
        self._mpirun = "" if self._alone else find_mpirun(options.mpirun)
        self._printer = Printer()

    def run(self) -> int:
        """The exit status: 0 if every rank finished."""
        become_reaper()
        stop = _Stop()
        for attempt in range(self._options.max_restarts + 1):
            outcome = self._job(attempt).run(stop.fileno())
            if stop.signal:
                self._say(f"ended by {signal.Signals(stop.signal).name}")
                return 128 + stop.signal
            missing = self._missing(outcome)
            if not missing:
                return 0
            again = attempt < self._options.max_restarts and bool(outcome.started)
            pause = min(2.0**attempt, _LONGEST_PAUSE)
            self._say(
                missing
                + (
                    f"; starting again in {pause:g} s (restart {attempt + 1} of {self._options.max_restarts})"
                    if again
                    else ""
                )
            )
            if not again:
                break
            if stop.sleep(pause):
                return 128 + stop.signal
        return outcome.status if 0 < outcome.status < 128 else 1

    def _job(self, attempt: int) -> Job:
        token = secrets.token_hex(8)
        environment = {"PYTHONUNBUFFERED": "1", **os.environ, "TENSORLIB_RUN_ATTEMPT": str(attempt)}
        records = None
        if self._options.records is not None:
            records = self._options.records / f"attempt-{attempt}"
            records.mkdir(parents=True, exist_ok=True)
        return Job(self._launch(token, environment), self._options.n, token, environment, self._printer, records)

    def _launch(self, token: str, environment: Mapping[str, str]) -> Launch:
        if self._alone:
            return Launch(tuple(self._program), None, "")
        extra = shlex.split(self._options.mpirun_args)
        return launch(self._mpirun, self._options.n, self._options.hosts, extra, self._program, token, environment)

    def _missing(self, outcome: Outcome) -> str:
        """What is wrong with the outcome; empty where nothing is."""
        if self._alone or not outcome.started:
            if outcome.status == 0:
                return ""
            none = "" if self._alone else "; no rank had joined tensorlib.distributed"
            return f"the {'program' if self._alone else 'launcher'} ended with status {outcome.status}{none}"
        left = sorted(set(range(self._options.n)) - outcome.finished)
        return f"{_named(left)} of {self._options.n} did not finish (mpirun: status {outcome.status})" if left else ""

    def _say(self, text: str) -> None:
        self._printer.line(f"[run] {text}".encode(), 2)


def main(argv: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, program = _parse(argv)
    try:
        return Supervisor(options, program).run()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
