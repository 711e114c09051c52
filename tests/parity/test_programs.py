"""Stock PyTorch programs (tests/parity/programs) in both libraries: only the import lines differ, the loss curves agree.

Each program has `build()`, which returns the modules, and `train(*modules)`, which returns the numbers to compare; what is random beside
the initial weights comes from NumPy. Both libraries begin with PyTorch's initial weights, loaded here through the state_dict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tests.test_docs import program_of_the_readme

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))

# In float64 the whole curve agrees; in float32 rounding grows from step to step.
RTOL = {"float64": 1e-6, "float32": 2e-3}


def with_our_imports(source: str) -> str:
    """The program with `torch` replaced in its import lines, and nowhere else."""
    source = re.sub(r"^import torch$", "import tensorlib as torch", source, flags=re.MULTILINE)
    return re.sub(r"^(import|from) torch\b", r"\1 tensorlib", source, flags=re.MULTILINE)


def loaded(path: Path, *, ours: bool) -> SimpleNamespace:
    """The program's functions, of our library or of PyTorch."""
    source = path.read_text()
    names: dict[str, Any] = {"__name__": path.stem}
    exec(compile(with_our_imports(source) if ours else source, str(path), "exec"), names)
    return SimpleNamespace(**names)


@contextmanager
def default_dtype(name: str) -> Iterator[None]:
    before = torch.get_default_dtype(), tl.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    tl.set_default_dtype(getattr(tl, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before[0])
        tl.set_default_dtype(before[1])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_loss_curve(path: Path, dtype: str) -> None:
    theirs, ours = loaded(path, ours=False), loaded(path, ours=True)
    torch.manual_seed(0)
    with default_dtype(dtype):
        modules, own = (m if isinstance(m, tuple) else (m,) for m in (theirs.build(), ours.build()))
        for them, us in zip(modules, own, strict=True):
            state = {name: value.numpy().copy() for name, value in them.state_dict().items()}
            assert list(us.state_dict()) == list(state)
            us.load_state_dict(state)
        expected, got = theirs.train(*modules), ours.train(*own)
    assert len(expected) >= 4
    np.testing.assert_allclose(got, expected, rtol=RTOL[dtype], atol=1e-6)
    if dtype == "float32":
        return  # a gradient that is zero but for rounding (of a bias before a norm) makes whole steps under Adam
    for them, us in zip(modules, own, strict=True):
        for name, value in them.state_dict().items():
            np.testing.assert_allclose(us.state_dict()[name].numpy(), value.numpy(), rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_program_of_the_readme() -> None:
    """PyTorch's side of it learns as ours does in tests/test_docs.py."""
    assert program_of_the_readme("-")["error"] < 0.01  # of a variance of 0.24


def test_there_are_twenty_programs() -> None:
    assert len(PROGRAMS) >= 20
