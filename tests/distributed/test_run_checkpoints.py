"""Ranks that are killed while they save: what can be gone on with is complete, on the same and on another number of ranks."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.distributed.launching import mpirun

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parent / "programs" / "saves.py"


@pytest.mark.parametrize("name", ["first", "second"])
def test_killed_while_saving(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rng = random.Random(request.node.name)
    told = -1
    for _ in range(2):
        victim, seconds = rng.randrange(3), rng.uniform(0.02, 0.3)
        job = mpirun(3, PROGRAM, tmp_path / "run", victim, f"{seconds:.3f}")
        assert job.returncode != 0, job.stdout
        begun = [int(step) for step in re.findall(r"saved (\d+)", job.stdout)]
        told = max([-1, *begun])
        for ranks in (3, 2):
            after = mpirun(ranks, PROGRAM, tmp_path / "run")
            assert after.returncode == 0, f"killed rank {victim} after {seconds} s: {after.stdout}"
            (step,) = (int(step) for step in re.findall(r"found (-?\d+)", after.stdout))
            assert step >= told if ranks == 3 else step >= told + 1, after.stdout
            told = max(told, step)
