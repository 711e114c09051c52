"""The same bits: whatever the number of threads, and for a row alone as in its batch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.ops.table import Op
from tests.cases import Case, cases, flat, has_kernel, lay_out, leaves, magnified, same_bits, states_sizes, typical

LARGE = 200_000  # elements: some chunks of every parallel loop, and a rest


def has_large_kernel(op: Op) -> bool:
    return has_kernel(op) and not states_sizes(op)


def some(dtype: tl.DType) -> list[Case]:
    """All samples of structured entries, which take many ways; of elementwise ones the largest, some of which broadcast."""
    found = cases(dtype=dtype, where=has_large_kernel, smooth=True)
    return [c for c in found if c.op.kind != "elementwise"] + typical(
        [c for c in found if c.op.kind == "elementwise"], most=3
    )


def results(case: Case, args: list[object]) -> list[tl.Tensor]:
    """Outputs, and the gradients of whatever has one."""
    outs = case.outputs(*args)
    recorded = [t for t in outs if t.requires_grad]
    if not recorded:
        return outs
    seeds = [seed_like(case, t) for t in recorded]
    return outs + [g for g in tl.autograd.grad(recorded, leaves(args), seeds, allow_unused=True) if g is not None]


def seed_like(case: Case, t: tl.Tensor) -> tl.Tensor:
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    return lay_out(rng.uniform(0.5, 1.5, t.shape).astype(t.dtype.np), "plain", t.dtype)


@pytest.mark.parametrize(
    "case", [magnified(c, LARGE) for c in some(tl.float32) + typical(some(tl.float64), most=1)], ids=str
)
def test_threads(case: Case) -> None:
    args = case.args(requires_grad=True)
    tl.set_num_threads(1)
    alone = results(case, args)
    for threads in (2, 3):
        tl.set_num_threads(threads)
        for a, b in zip(results(case, args), alone, strict=True):
            assert same_bits(a, b), f"{threads} threads"


# ---- rows ----
def cut(case: Case, args: list[object], rows: slice, n: int) -> list[object]:
    """Those operands that have a row for each of the result's n, cut to some of them."""
    deepest = max(a.ndim for a in args if hasattr(a, "ndim"))
    return [
        a[rows] if hasattr(a, "ndim") and a.ndim and a.shape[0] == n and a.ndim >= min(deepest, 2) else a for a in args
    ]


def reference(case: Case, arrays: list[object]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(case.op.ref(np, *arrays, **case.sample.attrs))


def is_by_rows(case: Case) -> bool:
    """Whether, by its reference, each row of the result is made from the same row of some operands alone."""
    if (
        case.op.variadic
        or len(case.op.outputs) > 1
        or not all(isinstance(a, np.ndarray) or a is None for a in case.arrays())
    ):
        return False
    arrays = case.arrays()
    whole = reference(case, arrays)
    if whole.ndim == 0 or whole.shape[0] < 2 or whole.size == 0:
        return False
    try:
        parts = [reference(case, cut(case, arrays, slice(i, i + 1), len(whole))) for i in range(len(whole))]
    except (ValueError, IndexError, TypeError):
        return False
    return all(p.shape == whole[:1].shape for p in parts) and np.allclose(np.concatenate(parts), whole)


def row_cases() -> Iterator[Case]:
    found = cases(dtype=tl.float32, where=has_large_kernel, smooth=True)
    for c in [c for c in found if c.op.kind != "elementwise"] + typical(
        [c for c in found if c.op.kind == "elementwise"], most=2
    ):
        if is_by_rows(c):
            yield c
            yield magnified(c, 5_000)
            yield magnified(c, 100_000)


@pytest.mark.parametrize("case", list(row_cases()), ids=str)
def test_rows(case: Case) -> None:
    """A row's result and gradient do not depend on where it lies, nor on how many others there are."""
    args = case.args()
    n = case.call(*args).shape[0]
    whole, gradient = with_gradient(case, args, slice(None), n)
    for rows in (slice(0, 1), slice(n // 2, n // 2 + 1), slice(n - 1, n), slice(1, n), slice(0, (n + 1) // 2)):
        part, of_part = with_gradient(case, args, rows, n)
        assert same_bits(part, whole[rows]), f"rows {rows} of {n}"
        for a, b in zip(of_part, gradient, strict=True):
            assert same_bits(a, b[rows]), f"gradient of rows {rows} of {n}"


def with_gradient(case: Case, args: list[object], rows: slice, n: int) -> tuple[tl.Tensor, list[tl.Tensor]]:
    """The result for these rows, and its gradients for the operands that were cut."""
    taken = [
        a if a is b or a is None else (a.clone().requires_grad_() if a.dtype.is_floating_point else a)
        for a, b in zip(cut(case, args, rows, n), args, strict=True)
    ]
    whole_shape = case.call(*args)
    out = case.call(*taken)
    wanted = leaves(flat(taken))
    if not wanted or not out.requires_grad:
        return out, []
    return out, list(tl.autograd.grad(out, wanted, seed_like(case, whole_shape)[rows]))
