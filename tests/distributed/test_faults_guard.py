"""What ends one rank ends all of them, soon, with a status other than 0 and one message that names the rank."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.distributed.launching import launcher, mpirun
from tests.sources import ROOT

START = """import os, signal, sys, threading, time
import tensorlib.distributed as dist
rank = dist.init().rank; print(f"a word of rank {rank};", end=" ")
"""


def job(folder: Path, script: str, ranks: int = 3, within: float = 30, **env: str) -> tuple[int, str]:
    """(status, output) of a script under mpirun; no process that it started is left."""
    path = folder / "script.py"
    path.write_text(START + script)
    done = mpirun(ranks, path, env={"TENSORLIB_RUN_RECORDS": str(folder), **env}, cwd=folder, timeout=within)
    for record in folder.glob("*.started"):
        pid = json.loads(record.read_text())["pid"]
        deadline = time.monotonic() + 2
        while lives(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not lives(pid), f"{record.stem} is still there: {done.stdout}"
    assert "not done after" not in done.stdout, done.stdout
    return done.returncode, done.stdout


def lives(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and whose parent has not asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def finished(folder: Path) -> set[int]:
    return {int(record.stem) for record in folder.glob("*.finished")}


# Each is what rank 1 does while the others wait for it: (the statement, the status, what the message says).
FAULTS = {
    "exception": ("raise ValueError('boom')", 1, "rank 1 of 3 (host HOST, pid PID): uncaught ValueError."),
    "exit": ("sys.exit(3)", 3, "rank 1 of 3 (host HOST, pid PID): exit with status 3."),
    "exit with words": ("raise SystemExit('words')", 1, "rank 1 of 3 (host HOST, pid PID): exit with status 1."),
    "exit at once": ("os._exit(0)", 1, "rank 1 of 3 (host HOST, pid PID): os._exit(0)."),
    "exit in vain": (
        "sys.exit(0)",
        1,
        "rank 1 came to the end of the script, and rank 0 waits there in vain: barrier, number 1, at script.py:5: dist.barrier().",
    ),
    "thread": (
        "threading.Thread(target=lambda: 1 / 0, name='tensorlib loader').start(); time.sleep(60)",
        1,
        "rank 1 of 3 (host HOST, pid PID): uncaught ZeroDivisionError in the thread 'tensorlib loader'.",
    ),
    "stop": (
        "os.kill(os.getpid(), signal.SIGSTOP)",
        1,
        "rank 1 of 3 (host HOST, pid PID) is lost: nothing was heard of it for",
    ),
    "stop of rank 0": (
        "time.sleep(60)\nif rank == 0: os.kill(os.getpid(), signal.SIGSTOP)",
        1,
        "rank 0 of 3 (host HOST, pid PID) is lost: nothing was heard of it for",
    ),
}
QUICK = ("exception",)


@pytest.mark.parametrize("fault", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FAULTS])
def test_fault_ends_all(tmp_path: Path, fault: str) -> None:
    statement, expected, words = FAULTS[fault]
    script = f"if rank == 1: {statement}\ndist.barrier()"
    status, said = job(tmp_path, script, TENSORLIB_HEARTBEAT_LIMIT="4" if "stop" in fault else "10")
    assert status == expected, said
    said = re.sub(r"\(host \S+, pid \d+\)", "(host HOST, pid PID)", said)
    # Without rank 0 nobody decides who speaks.
    assert 1 <= said.count("All ranks are ended.") <= (2 if fault == "stop of rank 0" else 1), said
    assert words in said, said
    assert said.count("Traceback (most recent call last)") == (fault in {"exception", "thread"}), said
    assert said.count("ValueError: boom") == (fault == "exception")
    assert "a word of rank 1;" in said or fault == "stop", "what the rank had printed was lost"
    assert finished(tmp_path) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["os.kill(os.getpid(), signal.SIGKILL)", "ctypes.string_at(0)"], ids=["kill", "segfault"]
)
def test_signal_that_kills(tmp_path: Path, fault: str) -> None:
    """The launcher notices first, and has a status for it."""
    status, said = job(tmp_path, f"import ctypes\nif rank == 1: {fault}\ndist.barrier()")
    assert status != 0, said
    assert finished(tmp_path) == set()


@pytest.mark.slow
def test_every_rank_raises_but_one_speaks(tmp_path: Path) -> None:
    status, said = job(tmp_path, "time.sleep(1)\nraise ValueError('boom')", ranks=4)
    assert status == 1
    assert said.count("ValueError: boom") == 1, said


@pytest.mark.slow
def test_debug_mode_tells_the_two_lines(tmp_path: Path) -> None:
    """All ranks raise, and go on; ranks that are in collectives of different groups are ended."""
    script = (
        "import tensorlib as tl\n"
        "pair = dist.new_group([1, 2])\n"
        "try:\n"
        "    if rank == 2: dist.barrier()\n"
        "    else: dist.all_reduce(tl.ones(3))\n"
        "except RuntimeError as error: print(f'[{error}]')\n"
        "dist.all_reduce(tl.ones(2))\n"
        "if rank == 1: dist.barrier(pair)\n"
        "else: dist.barrier()\n"
    )
    status, said = job(tmp_path, script, TENSORLIB_DISTRIBUTED_DEBUG="1")
    assert status == 1
    told = (
        "[ranks differ in what they call:\n"
        "  rank 0: all_reduce float32[3], number 1, at script.py:8: else: dist.all_reduce(tl.ones(3))\n"
        "  rank 2: barrier, number 1, at script.py:7: if rank == 2: dist.barrier()]"
    )
    assert said.count(told) == 3, said
    assert (
        "ranks wait for each other in different calls:\n  ranks 0, 2 wait in barrier, number 3, at script.py:12" in said
    ), said
    assert "  rank 1 waits in barrier, number 1 of the group of ranks [1, 2], at script.py:11" in said


@pytest.mark.slow
def test_stall_is_told(tmp_path: Path) -> None:
    script = "if rank == 1: time.sleep(4)\ndist.barrier()\ntime.sleep(1.5)"
    status, said = job(tmp_path, script, TENSORLIB_STALL_SECONDS="1")
    assert status == 0
    assert finished(tmp_path) == {0, 1, 2}
    told = (
        "tensorlib.distributed: a call has waited for 1 s:\n"
        "  ranks 0, 2 wait in barrier, number 1, at script.py:5: dist.barrier()\n"
        "  rank 1 is in no collective, at script.py:4: if rank == 1: time.sleep(4)\n"
    )
    assert said.count(told) == 1, said
    assert said.count("a call has waited") == 1, "it is told once"


# What the ranks do as Ctrl-C comes: (the statement, whether they end well, what the message says).
INTERRUPTED = {
    "in python": ("time.sleep(60)", False, "interrupted, at script.py:5: time.sleep(60)."),
    "in a collective": (
        "under_way('recv', group).__enter__(); group.comm.recv(source=rank)",
        False,
        "interrupted, at script.py:5",
    ),
    "caught": ("try: time.sleep(60)\nexcept KeyboardInterrupt: pass", True, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("doing", INTERRUPTED)
def test_ctrl_c(tmp_path: Path, doing: str) -> None:
    statement, well, words = INTERRUPTED[doing]
    path = tmp_path / "script.py"
    path.write_text(START + f"from tensorlib.distributed.calls import under_way; group = dist.init()\n{statement}")
    job = subprocess.Popen(
        [*launcher(), "-n", "3", sys.executable, str(path)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL, env={**os.environ, "TENSORLIB_RUN_RECORDS": str(tmp_path), "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*.started"))) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(2)
        job.send_signal(signal.SIGINT)
        begun = time.monotonic()
        said, _ = job.communicate(timeout=30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert time.monotonic() - begun < 5
    assert "Traceback" not in said
    assert finished(tmp_path) == ({0, 1, 2} if well else set()), said
    assert (job.returncode == 0) == well
    assert words in said, said


def test_exits_that_are_none(tmp_path: Path) -> None:
    """An exit that the script catches changes nothing, and a rank that is done waits for those that are not."""
    status, said = job(
        tmp_path,
        "if rank == 0: sys.exit(0)\n"
        "try: sys.exit(4)\n"
        "except SystemExit as error: assert error.code == 4\n"
        "if os.fork() == 0: os._exit(0)\n"
        "os.wait()\n"
        "time.sleep(0.5)\n"
        "print('after it')",
    )
    assert status == 0, said
    assert said.count("after it") == 2
    assert finished(tmp_path) == {0, 1, 2}
    started, ended = (json.loads((tmp_path / f"2.{what}").read_text()) for what in ("started", "finished"))
    assert started["rank"] == ended["rank"] == 2
    assert started["host"] == ended["host"] == os.uname().nodename
    assert ended["time"] - started["time"] >= 0.5
