"""The supervisor: what it prints, what it ends, what it takes for success."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tensorlib.distributed.records import MARK, Record, machine, start_of
from tensorlib.distributed.run.__main__ import _parse
from tensorlib.distributed.run.launch import find_mpirun, launch, placed
from tensorlib.distributed.run.output import Printer, Stream
from tests.distributed.supervising import lives, supervised

TOKEN = "0123abcd"


# -- output -----------------------------------------------------------------------------------------------------------


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


class Output:
    """A stream and what came of it."""

    def __init__(self, kind: str, terminal: bool = False) -> None:
        fake = Path("/nowhere/mpirun")
        self.file = Terminal() if terminal else io.BytesIO()
        self.records: list[Record] = []
        tags = {"hydra": (rf"@{TOKEN}:(\d+):", "@[0-9a-f]*(:[0-9]*)?"), "open mpi": launch_with(fake, "Open MPI")[1:]}
        tag, open_tag = tags[kind]
        self.stream = Stream(1, tag, open_tag, TOKEN, Printer(self.file, self.file), self.records.append)

    @property
    def text(self) -> str:
        return self.file.getvalue().decode()


def launch_with(mpirun: Path, version: str, **changes: object) -> tuple[tuple[str, ...], str | None, str]:
    answer = subprocess.CompletedProcess([], 0, version, "")
    words: dict[str, object] = {"ranks": 4, "hosts": None, "extra": (), "program": ("p",), "environment": {}, **changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", lambda *arguments, **options: answer)
        made = launch(str(mpirun), token=TOKEN, **words)  # type: ignore[arg-type]
    return made.command, made.tag, made.open_tag


def tagged(kind: str, rank: int, text: str) -> str:
    return f"@{TOKEN}:{rank}:{text}" if kind == "hydra" else f"[1,{rank}]<stdout>: {text}"


@pytest.mark.parametrize("kind", ["hydra", "open mpi"])
@pytest.mark.parametrize("seed", range(5), ids="seed {}".format)
def test_lines_come_whole(kind: str, seed: int) -> None:
    """Pieces of lines follow each other as the launcher passes them on, cut anywhere on their way."""
    rng = random.Random(seed)
    words = [["".join(rng.choices("ab @[1,0]<:\x1eä", k=rng.randrange(30))) for _ in range(20)] for _ in range(3)]
    queues = []
    for lines in words:
        pieces = [line + "\n" for line in lines]
        if kind == "hydra":  # a line may come in several pieces; Open MPI keeps it back until it ends
            cuts = [rng.randrange(len(piece)) for piece in pieces]
            pieces = [part for piece, at in zip(pieces, cuts, strict=True) for part in (piece[:at], piece[at:]) if part]
        queues.append(pieces)
    wire = ""
    while any(queues):
        rank = rng.choice([rank for rank in range(3) if queues[rank]])
        wire += tagged(kind, rank, queues[rank].pop(0))
        if wire.endswith("\n") and rng.random() < 0.1:
            wire += "a word of mpirun\n"
    output = Output(kind)
    data = wire.encode()
    ends = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(60))})
    for start, end in itertools.pairwise(ends):
        output.stream.feed(data[start:end])
    output.stream.close()
    seen = output.text.split("\n")[:-1]
    for rank, lines in enumerate(words):
        assert [line[4:] for line in seen if line.startswith(f"[{rank}] ")] == lines
    assert sum(line == "a word of mpirun" for line in seen) == wire.count("a word of mpirun")


def test_unfinished_line_is_printed_at_the_end() -> None:
    output = Output("hydra")
    output.stream.feed(f"{tagged('hydra', 2, 'Name')}".encode())
    assert output.text == ""
    output.stream.close()
    assert output.text == "[2] Name\n"


def test_records_are_cut_out() -> None:
    record = Record("started", 1, "host", "machine", 7, 8, 9.0)
    output = Output("hydra")
    output.stream.feed(tagged("hydra", 1, f"half{MARK}{TOKEN} {record.json()}\n").encode())
    output.stream.feed(tagged("hydra", 1, "way\n").encode())
    assert output.text == "[1] halfway\n"
    assert output.records == [record]


BAR = ["\r 10%", "\r 50%", "\r100%", "\n"]


def test_progress_bar_in_a_file_is_its_last_state() -> None:
    output = Output("hydra")
    for part in BAR:
        output.stream.feed(tagged("hydra", 0, part).encode())
    output.stream.feed(tagged("hydra", 0, "windows\r\n").encode())
    assert output.text == "[0] 100%\n[0] windows\n"


def test_progress_bar_on_a_terminal_stays_below() -> None:
    output = Output("hydra", terminal=True)
    for part in BAR[:2]:
        output.stream.feed(tagged("hydra", 0, part).encode())
    output.stream.feed(tagged("hydra", 1, "a line\n").encode())
    for part in BAR[2:]:
        output.stream.feed(tagged("hydra", 0, part).encode())
    shown: list[str] = [""]
    for part in re.findall(r"\r\x1b\[K|\n|[^\r\n\x1b]+", output.text):
        shown = [*shown, ""] if part == "\n" else [*shown[:-1], "" if part[0] == "\r" else shown[-1] + part]
    assert shown == ["[1] a line", "[0] 100%", ""]
    assert "[0]  50%" in output.text


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-n 4 t.py -n 8 --hosts x", (4, ["t.py", "-n", "8", "--hosts", "x"])),
        ("-n4 -- t.py -- a", (4, ["t.py", "--", "a"])),
        ("--max-restarts=2 -m pkg.t -m a", (1, ["-m", "pkg.t", "-m", "a"])),
        ("-m -n 2 pkg.t", (2, ["-m", "pkg.t"])),
    ],
    ids=["own options", "dashes", "module", "module later"],
)
def test_arguments(words: str, expected: tuple[int, list[str]]) -> None:
    options, program = _parse(words.split())
    assert (options.n, program[1:]) == expected
    assert program[0] == sys.executable


@pytest.mark.parametrize(
    ("words", "message"),
    [("-n 4", "nothing to run"), ("-n 0 t.py", "-n should be at least 1"), ("--host a t.py", "unrecognized arguments")],
    ids=["no script", "no ranks", "no such option"],
)
def test_wrong_arguments(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _parse(words.split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ranks", "hosts", "message"),
    [
        (5, "a:2,b:2", "has room for 4 ranks"),
        (2, "a:1,b", "should name hosts"),
        (2, "a,,b", "should name hosts"),
        (2, "a,a", "twice"),
    ],
    ids=["no room", "mixed", "empty", "twice"],
)
def test_hosts_that_can_not_be(ranks: int, hosts: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placed(ranks, hosts)


def test_both_launchers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    mpirun = Path("/opt/mpirun")
    environment = {"TENSORLIB_RUN_ATTEMPT": "0", "PYTHONPATH": "x", "HOME": "/"}
    hydra, _, _ = launch_with(
        mpirun, "HYDRA build details", hosts="a,b", extra=("-iface", "eth0"), environment=environment
    )
    assert " ".join(hydra) == f"/opt/mpirun -prepend-pattern @{TOKEN}:%r: -n 4 -hosts a:2,b:2 -iface eth0 p"
    command, _, _ = launch_with(mpirun, "mpirun (Open MPI) 5.0.11", hosts="a,b", extra=("-q",), environment=environment)
    said = " ".join(command)
    assert "--output tag" in said
    assert said.endswith("--host a:2,b:2 -x TENSORLIB_RUN_ATTEMPT -x PYTHONPATH -q p")
    with pytest.raises(ValueError, match="names neither MPICH's hydra nor Open MPI: 'Intel"):
        launch_with(mpirun, "Intel")
    with pytest.raises(FileNotFoundError, match="--mpirun /opt/mpirun is not a program"):
        find_mpirun(str(mpirun))
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FileNotFoundError, match=r"no mpirun beside this Python .* pip install 'tensorlib\[mpi\]'"):
        find_mpirun(None)


# -- a launcher that misbehaves ---------------------------------------------------------------------------------------


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """An mpirun that runs the program itself, once, as Python code that can say what ranks say."""
    path = tmp_path / "mpirun"
    path.write_text(
        f"#!{sys.executable} -IS\n"
        "import json, os, signal, subprocess, sys, time\n"
        "if '--version' in sys.argv: sys.exit(print('HYDRA'))\n"
        "token = os.environ.get('TENSORLIB_RUN_TOKEN')\n"
        "def say(what, rank, pid=0, start=0, machine=''):\n"
        "    record = json.dumps(dict(what=what, rank=rank, host='h', machine=machine, pid=pid, start=start, time=0))\n"
        f"    os.write(2, f'@{{token}}:{{rank}}:{MARK}{{token}} {{record}}\\n'.encode())\n"
        "exec(open(sys.argv[-1]).read())\n"
    )
    path.chmod(0o755)
    return path


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(text)
    return path


def test_status_0_of_the_launcher_is_not_success(tmp_path: Path, launcher: Path) -> None:
    path = script(tmp_path, "[say('started', r) for r in range(5)]; say('finished', 1); sys.exit(0)")
    with supervised("-n", "5", "--mpirun", launcher, path, records=tmp_path) as job:
        assert job.wait() == 1
        assert "[run] ranks 0, 2 to 4 of 5 did not finish (mpirun: status 0)\n" in job.err
    kept = json.loads((tmp_path / "attempt-0" / "1.finished").read_text())
    assert kept == asdict(Record("finished", 1, "h", "", 0, 0, 0))


def test_no_restart_where_none_started(tmp_path: Path, launcher: Path) -> None:
    path = script(tmp_path, "sys.exit(7)")
    with supervised("-n", "2", "--max-restarts", "3", "--mpirun", launcher, path, records=tmp_path) as job:
        assert job.wait() == 7
        assert job.err == "[run] the launcher ended with status 7; no rank had joined tensorlib.distributed\n"


def test_what_is_left_over_is_ended(tmp_path: Path, launcher: Path) -> None:
    """Processes that the launcher leaves behind, and ranks by their records: but no process that has only the id of one."""
    with (
        subprocess.Popen(["sleep", "60"], start_new_session=True) as rank,
        subprocess.Popen(["sleep", "60"], start_new_session=True) as other,
    ):
        try:
            path = script(
                tmp_path,
                "subprocess.Popen(['sh', '-c', 'sleep 60 & sleep 60'], start_new_session=True)\n"
                f"say('started', 0, {rank.pid}, {start_of(rank.pid)}, {machine()!r})\n"
                f"say('started', 1, {other.pid}, {start_of(other.pid) - 1}, {machine()!r})\n"
                f"say('started', 2, {other.pid}, {start_of(other.pid)}, 'another machine')\n",
            )
            with supervised("-n", "3", "--mpirun", launcher, path, records=tmp_path) as job:
                assert job.wait() == 1
                assert job.pids() == []
            assert rank.wait(timeout=10) == -signal.SIGKILL
            assert lives(other.pid)
        finally:
            rank.kill()
            other.kill()


def test_launcher_that_will_not_end(tmp_path: Path, launcher: Path) -> None:
    """It does not notice that a rank is gone, and hears no signal that it can ignore."""
    path = script(
        tmp_path,
        "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        f"say('started', 0, 2**22 + 1, 5, {machine()!r})\n"
        "time.sleep(60)\n",
    )
    with supervised("-n", "2", "--mpirun", launcher, path, records=tmp_path) as job:
        begun = time.monotonic()
        assert job.wait() == 1
        assert time.monotonic() - begun < 10
        assert job.pids() == []


# -- the real thing ---------------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, time
import tensorlib.distributed as dist
rank, attempt = dist.rank(), int(os.environ["TENSORLIB_RUN_ATTEMPT"])
print(f"rank {rank} of {dist.size()}, attempt {attempt}, {sys.argv[1:]}")
for percent in 50, 100:
    sys.stderr.write(f"\\r{percent}%")
sys.stderr.write("\\n")
if rank == 1 and sys.argv[1:] == ["fail"] and attempt == 0:
    os._exit(3)
if rank == 1 and sys.argv[1:] == ["hang"]:
    time.sleep(1000)
dist.barrier()
sys.stdout.write("the end")
"""


def test_job_starts_again_and_finishes(tmp_path: Path) -> None:
    with supervised("-n", 3, "--max-restarts", 2, script(tmp_path, PROGRAM), "fail", records=tmp_path) as job:
        assert job.wait() == 0, job.err
        assert job.pids() == []
    lines = job.out.splitlines()
    for rank in range(3):
        said = [f"rank {rank} of 3, attempt {attempt}, ['fail']" for attempt in (0, 1)]
        assert [line for line in lines if line.startswith(f"[{rank}]")] == [
            f"[{rank}] {line}" for line in [*said, "the end"]
        ]
        assert job.err.count(f"[{rank}] 100%\n") == 2
    assert "rank 1 of 3 did not finish" in job.err or "ranks 0 to 2 of 3 did not finish" in job.err
    assert "starting again in 1 s (restart 1 of 2)" in job.err
    assert len(list((tmp_path / "attempt-1").glob("*.finished"))) == 3


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_end_of_the_supervisor_is_the_end_of_all(tmp_path: Path, how: str) -> None:
    with supervised("-n", 2, "--max-restarts", 2, script(tmp_path, PROGRAM), "hang", records=tmp_path) as job:
        ranks = job.started(ranks=2)
        assert set(ranks.values()) < set(job.pids())
        job.process.send_signal(getattr(signal, how))
        job.all_gone(5 if how == "SIGKILL" else 8)
        number = getattr(signal, how)
        assert job.wait() == (-number if how == "SIGKILL" else 128 + number)
        assert how == "SIGKILL" or job.err.endswith(f"[run] ended by {how}\n")


def test_one_rank_needs_no_launcher(tmp_path: Path) -> None:
    path = script(tmp_path, "import sys; print('hello', sys.argv[1:]); sys.exit(len(sys.argv) - 1)")
    for words, status in (([], 0), (["a", "b"], 2)):
        with supervised(path, *words, records=tmp_path, env={"PATH": "/nowhere"}) as job:
            assert job.wait() == status
            assert job.out == f"[0] hello {words}\n"
            assert ("[run] the program ended with status 2\n" in job.err) == bool(status)
