"""DistributedDataParallel on two ranks beside PyTorch's on gloo: gradients, weights and buffers after everything it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed.launching import mpirun
from tests.sources import ROOT

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parent / "data_parallel_ranks.py"


def result(said: str) -> dict[str, Any]:
    (line,) = [line for line in said.splitlines() if line.startswith("seen: ")]
    seen: dict[str, Any] = json.loads(line.removeprefix("seen: "))
    return seen


@pytest.fixture
def initial(tmp_path: Path) -> Path:
    nn = torch.nn
    parts = {"first": nn.Linear(4, 5), "norm": nn.BatchNorm1d(5), "second": nn.Linear(5, 5), "third": nn.Linear(5, 2)}
    state = nn.ModuleDict(parts).double().state_dict()
    path = tmp_path / "initial.json"
    path.write_text(json.dumps({name: value.tolist() for name, value in state.items()}))
    return path


def test_two_ranks(initial: Path, tmp_path: Path) -> None:
    theirs = [
        subprocess.Popen(
            [sys.executable, PROGRAM, "torch", initial, tmp_path / "store", str(rank)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ours = mpirun(2, PROGRAM, "tensorlib", initial, "-", "-")
    assert ours.returncode == 0, ours.stdout
    said = [
        job.communicate(timeout=120)[0] for job in theirs
    ]  # their status says nothing: gloo's threads may abort at exit
    found, expected = result(ours.stdout), result(said[0])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] is not None, name
            np.testing.assert_allclose(found[name], value, rtol=1e-7, atol=1e-12, err_msg=name)
