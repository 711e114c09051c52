"""The examples on the GPU. The stand-in runs one of them: the others take minutes there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.conftest import REAL

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("digits",)
STANDIN = """
import runpy, sys
from tests.gpu import standin
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
with standin.installed():
    runpy.run_path(sys.argv[0], run_name="__main__")
    assert not standin.memory.FAULTS
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "examples").glob("*.py")))
def test_example(name: str, tmp_path: Path) -> None:
    """It runs, and draws its picture. What layers and optimizers compute on a GPU other tests compare."""
    for needed in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(needed, reason="examples need the extra `examples`")
    if not REAL and name not in QUICK:
        pytest.skip("needs a GPU: it takes minutes on the stand-in")
    picture = tmp_path / "picture.png"
    script = [*([] if REAL else ["-c", STANDIN]), str(ROOT / "examples" / f"{name}.py")]
    run = subprocess.run(
        [sys.executable, *script, "--quick", "--device", "cuda", "--out", str(picture)],
        cwd=ROOT, env=os.environ | {"MPLBACKEND": "agg"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert picture.stat().st_size > 1000
