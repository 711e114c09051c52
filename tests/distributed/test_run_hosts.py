"""Over several hosts: what ranks know of them, the supervisor, and the other tests of this folder with every byte on the wire."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.hosts import Hosts, hosts, unavailable
from tests.distributed.launching import launcher, run_job
from tests.distributed.supervising import supervised
from tests.distributed.test_launched import FILES

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())

# What moves tensors; other files have folders in one host's memory, or say how many hosts there are.
MOVING = {
    "test_collectives",
    "test_comm_hooks",
    "test_data_parallel",
    "test_join",
    "test_objects",
    "test_world",
}
WIRED = [path for path in FILES if path.stem in MOVING]
ON_THE_WIRE = {"UCX_TLS": "tcp,self"}
PROGRAM = """
import socket
import tensorlib.distributed as dist
rank, host = dist.rank(), socket.gethostname()
print(f"{rank} is {dist.local_rank()} of {dist.local_size()} on {host}, one of {dist.node_count()}")
dist.barrier()
"""


@pytest.fixture
def two() -> Iterator[Hosts]:
    with hosts("a", "b") as made:
        yield made


def sent(hosts: Hosts, name: str) -> int:
    """Bytes that have left a host."""
    command = [*hosts.on(name), "cat", "/proc/net/dev"]
    table = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    return int(table.partition("eth0:")[2].split()[8])


def test_supervised_on_two_hosts(tmp_path: Path, two: Hosts) -> None:
    """Ranks are counted per host, their output and records come from both, and ids of processes elsewhere mean nothing here."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    with supervised(
        "-n", 3, "--hosts", "a,b", f"--mpirun-args={' '.join(two.reach())}", script, records=tmp_path, env=ON_THE_WIRE, before=two.on("a")
    ) as job:  # fmt: skip
        assert job.wait() == 0, job.err
        job.all_gone(2)
    assert sorted(job.out.splitlines()) == [
        "[0] 0 is 0 of 2 on a, one of 2",
        "[1] 1 is 1 of 2 on a, one of 2",
        "[2] 2 is 0 of 1 on b, one of 2",
    ]


@pytest.mark.slow
def test_everything_over_the_wire(tmp_path: Path, two: Hosts) -> None:
    """The files that move tensors, which test_launched runs on one host."""
    record = tmp_path / "results.xml"
    one_host = "tests/distributed/test_world.py::test_world_is_numbered"
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={record}", f"--deselect={one_host}"]
    where = ["--host" if "--oversubscribe" in launcher() else "-hosts", "a:2,b:2"]
    command = [
        *two.on("a"),
        *launcher(),
        *two.reach(),
        *where,
        "-n",
        "4",
        sys.executable,
        "-m",
        "pytest",
        *options,
        *map(str, WIRED),
    ]
    done = run_job(command, env=ON_THE_WIRE, cwd=Path(__file__).parents[2], timeout=120)
    assert done.returncode == 0, done.stdout[-20000:]
    cases = list(ET.parse(record).iter("testcase"))
    for path in WIRED:
        passed = [case for case in cases if case.get("classname", "").endswith(f".{path.stem}") and not len(case)]
        assert passed, f"{path.stem}: none passed"
    assert sent(two, "b") > 1 << 20
