"""Training that is struck at random, and goes on: all processes gone in time, a status that says so, checkpoints that load, the same bits.

Each test is one training run that meets several faults, one after the other; what they are, where and when, follows from the test's id.
"""

from __future__ import annotations

import functools
import json
import random
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tensorlib.distributed as dist
from tests.distributed.hosts import Hosts, hosts, unavailable
from tests.distributed.supervising import supervised

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "programs" / "train.py"
STEPS, EVERY = 48, 4
AT_ONCE = ("kill", "crash", "launcher", "exception", "exit", "exit at once")  # all processes gone within 5 s
NOTICED = ("stop", "cut")  # nothing tells of these but the heartbeat: within 15 s


@dataclass
class Run:
    """A training run: where it keeps what it knows, and how it is started."""

    folder: Path
    ranks: int
    hosts: Hosts | None = None

    def start(self, fault: dict[str, Any]) -> Any:
        where: Sequence[object] = ()
        if self.hosts is not None:
            where = ("--hosts", ",".join(self.hosts.names), f"--mpirun-args={' '.join(self.hosts.reach())}")
        return supervised(
            "-n", self.ranks, *where, PROGRAM, self.folder, STEPS, records=self.folder,
            env={"FAULT": json.dumps(fault), "UCX_TLS": "tcp,self" if self.hosts else "all"},
            before=self.hosts.on(self.hosts.names[0]) if self.hosts else (),
        )  # fmt: skip

    def strike(self, rng: random.Random, what: str, step: int) -> None:
        """Begin or go on, meet one fault, and end as one should."""
        rank, within = rng.randrange(self.ranks), 15.0 if what in NOTICED else 5.0
        fault = {"what": what, "rank": rank, "step": step, "delay": rng.uniform(0, 0.01)}
        struck = self.folder / "fault"
        struck.unlink(missing_ok=True)
        with self.start(fault) as job:
            if what == "cut":
                assert self.hosts is not None
                job.until(struck.exists, 60)
                self.hosts.cut("b")
            status = job.wait(60)
            assert struck.exists(), job.err
            took = time.time() - float(struck.read_text())
            said = f"{fault}: status {status} after {took:.1f} s\n{job.err}"
            job.all_gone(max(0.5, within - took))
            if self.hosts is not None:
                self.hosts.join("b")
        assert took < within, said
        assert status != 0, said
        assert " did not finish (mpirun: status " in job.err, said
        self.check_newest(step, said)

    def check_newest(self, step: int, said: str) -> None:
        with warnings.catch_warnings(action="error"):  # a broken one would be passed over with a warning
            state = dist.Checkpoints(self.folder / "checkpoints").load()
        newest = 0 if state is None else state["step"]
        # Ranks are never more than a step apart, and may be struck while they write.
        assert newest in {step // EVERY * EVERY, (step + 1) // EVERY * EVERY, (step - 1) // EVERY * EVERY}, said

    def finish(self) -> tuple[int, str]:
        """Go on to the end: the step it went on from, and the digest of the weights."""
        with self.start({"rank": -1}) as job:
            assert job.wait(60) == 0, job.err
        begin, digest = (self.folder / "digest").read_text().split()
        return int(begin), digest


def uninterrupted(ranks: int, hosts: Hosts | None = None) -> str:
    """The digest of a run that nothing strikes. Ranks that are on other hosts may add in another order."""
    with tempfile.TemporaryDirectory() as folder:
        begin, digest = Run(Path(folder), ranks, hosts).finish()
        assert begin == 0
        return digest


on_one_host = functools.cache(uninterrupted)


def meet(run: Run, rng: random.Random, faults: Sequence[str]) -> None:
    """One run through all of them, at steps that rise."""
    steps = sorted(rng.sample(range(2, STEPS - 2), len(faults)))
    for what, step in zip(faults, steps, strict=True):
        run.strike(rng, what, step)
    begin, digest = run.finish()
    assert begin >= steps[-1] // EVERY * EVERY - EVERY
    assert digest == (uninterrupted(run.ranks, run.hosts) if run.hosts else on_one_host(run.ranks))


@pytest.mark.parametrize("name", ["first", "second", "third"])
@pytest.mark.parametrize("ranks", [2, 3], ids="{} ranks".format)
def test_random_faults(tmp_path: Path, request: pytest.FixtureRequest, ranks: int, name: str) -> None:
    rng = random.Random(request.node.name)
    meet(Run(tmp_path, ranks), rng, rng.sample(AT_ONCE, 3))


@pytest.mark.skipif(bool(unavailable()), reason=unavailable())
def test_two_hosts(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rng = random.Random(request.node.name)
    with hosts("a", "b") as both:
        meet(Run(tmp_path, 4, both), rng, ["cut", *rng.sample(AT_ONCE, 2), "cut", "stop"])
