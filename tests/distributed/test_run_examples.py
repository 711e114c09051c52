"""The examples that run on any number of processes, on two."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.distributed.launching import mpirun
from tests.sources import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ("digits_distributed", "2 rank(s) on 1 node(s)"),
        ("names_distributed", "of the names held back are divided without a mistake"),
    ],
    ids=lambda text: text if "_" in text else "",
)
def test_on_two_ranks(example: str, said: str, tmp_path: Path) -> None:
    for needed in ("sklearn", "matplotlib"):
        pytest.importorskip(needed, reason="examples need the extra `examples`")
    picture = tmp_path / "picture.png"
    job = mpirun(
        2, ROOT / "examples" / f"{example}.py", "--quick", "--out", picture, env={"MPLBACKEND": "agg"}, timeout=300
    )
    assert job.returncode == 0, job.stdout
    assert job.stdout.count(said) == 1, f"rank 0 alone speaks:\n{job.stdout}"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_goes_on_from_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="examples need the extra `examples`")
    said = []
    for ranks in (2, 1):
        arguments = ("--quick", "--out", tmp_path / "picture.png", "--checkpoints", tmp_path / "run")
        job = mpirun(
            ranks, ROOT / "examples" / "digits_distributed.py", *arguments, env={"MPLBACKEND": "agg"}, timeout=300
        )
        assert job.returncode == 0, job.stdout
        said.append(re.findall("held-back images: ([0-9.]+)%", job.stdout))
    assert said == [said[0]] * 2, "the second has nothing left to do"
    assert len(said[0]) == 1
