"""Every instruction set gives what the base one gives, and what the references give at the sizes where vectors end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.native import ffi, lib
from tensorlib.ops.table import Op, entries
from tests.cases import (
    PLAIN,
    ULPS_BETWEEN_ISAS,
    Case,
    assert_close,
    cases,
    edge_cases,
    has_kernel,
    lay_out,
    leaves,
    magnified,
    states_sizes,
)
from tests.sources import ROOT, run

DTYPES = (tl.float32, tl.float64, tl.int32, tl.uint8)
AVAILABLE = ffi.string(lib.tl_isa_available()).decode().split(",")
KERNELS = [op for op in entries() if has_kernel(op)]
BY_EDGES = [op for op in KERNELS if op.kind == "elementwise"]


def all_cases(op: Op) -> list[Case]:
    """What is compared between instruction sets: edge sizes of elementwise entries; samples of others, small and large."""
    if op.kind == "elementwise":
        return [c for d in DTYPES for c in edge_cases(op, d)]
    small = [c for d in DTYPES[:2] for c in cases(dtype=d, where=lambda other: other is op)]
    return small + [magnified(c, n) for c in small if c.is_smooth and not states_sizes(op) for n in (500, 20_000)]


def results(case: Case) -> list[np.ndarray]:
    """Outputs and gradients of one case."""
    args = case.args(requires_grad=True)
    outs = case.outputs(*args)
    recorded = [t for t in outs if t.requires_grad]
    grads: tuple[tl.Tensor | None, ...] = ()
    if recorded:
        rng = np.random.default_rng(case.factor)
        seeds = [lay_out(rng.uniform(0.5, 1.5, t.shape).astype(t.dtype.np), PLAIN, t.dtype) for t in recorded]
        grads = tl.autograd.grad(recorded, leaves(args), seeds, allow_unused=True)
    return [t.detach().numpy() for t in (*outs, *grads) if t is not None]


def write_results(path: str) -> None:
    """What a child process does: all results under its instruction set, to a file."""
    found = {
        f"{op.name} {i} {j}": a for op in KERNELS for i, c in enumerate(all_cases(op)) for j, a in enumerate(results(c))
    }
    np.savez(path, **found)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[np.ndarray]]]:
    """By instruction set and operation: the results of all cases, in order."""
    folder = tmp_path_factory.mktemp("isa")
    made = {}
    for isa in AVAILABLE:
        path = folder / f"{isa}.npz"
        program = f"from tests.ops.test_isa import write_results; write_results({str(path)!r})"
        run(sys.executable, "-c", program, cwd=ROOT, env={**os.environ, "TENSORLIB_ISA": isa})
        by_op: dict[str, list[np.ndarray]] = {}
        with np.load(Path(path)) as file:
            for key in file.files:
                by_op.setdefault(key.split()[0], []).append(file[key])
        made[isa] = by_op
    return made


@pytest.mark.parametrize("op", KERNELS, ids=lambda op: op.name)
@pytest.mark.parametrize("isa", AVAILABLE[1:])
def test_agrees_with_base(computed: dict[str, dict[str, list[np.ndarray]]], isa: str, op: Op) -> None:
    for got, want in zip(computed[isa].get(op.name, []), computed["base"].get(op.name, []), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        if got.dtype.kind != "f":
            np.testing.assert_array_equal(got, want)
            continue
        eps = np.finfo(got.dtype).eps * ULPS_BETWEEN_ISAS
        largest = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
        np.testing.assert_allclose(got, want, rtol=eps, atol=eps * max(1.0, largest), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("op", BY_EDGES, ids=lambda op: op.name)
def test_where_vectors_end(op: Op, dtype: tl.DType) -> None:
    """Vectors of every edge size, at addresses that are no multiple of a vector's size, between rubbish."""
    for case in edge_cases(op, dtype):
        want, dtypes = case.expected()
        for t, values, of in zip(case.outputs(*case.args()), want, dtypes, strict=True):
            assert_close(t, values, of)


def test_names_what_is_available() -> None:
    assert AVAILABLE[0] == "base" and ffi.string(lib.tl_isa_name()).decode() in AVAILABLE
