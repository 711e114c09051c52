"""The same bits: whatever the number of threads, and for a row alone as in its batch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.native import lib
from tensorlib.ops.table import Op, entries, rowwise_of
from tests.cases import (  # fmt: skip
    TRANSPOSED,
    Case,
    cases,
    has_batch,
    has_kernel,
    lay_out,
    leaves,
    magnified,
    of_rows,
    rowwise_samples,
    rules_of,
    same_bits,
    states_sizes,
    typical,
)

# ---- threads ----
LARGE = 200_000  # elements: some chunks of every parallel loop, and a rest


def large_cases(op: Op, dtype: tl.DType) -> list[Case]:
    """Calls of an entry with a kernel that threads can share: its samples magnified, where sizes are not among the attributes, and many rows."""
    many = [with_rows(Case(op, s, dtype), LARGE, most=LARGE) for s in rowwise_of(op)]
    if not has_kernel(op) or states_sizes(op):
        return many
    found = [magnified(c, LARGE) for c in cases(dtype=dtype, where=lambda other: other is op, smooth=True)]
    return many + (typical(found, most=3) if op.kind == "elementwise" else found)


def with_rows(case: Case, elements: int, *, most: int, least: int = 2) -> Case:
    """A case of a `rowwise` sample with so many rows that operands and results have about so many elements."""
    one = of_rows(case, 1)
    args = one.args()
    each = sum(t.numel() for t in (*args, *one.outputs(*args)) if isinstance(t, tl.Tensor))
    return of_rows(case, max(least, min(most, elements // each)))


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


ALL_LARGE = [c for op in entries() for c in large_cases(op, tl.float32) + typical(large_cases(op, tl.float64), most=1)]


@pytest.mark.parametrize("case", ALL_LARGE, ids=str)
def test_threads(case: Case) -> None:
    args = case.args(requires_grad=True)
    tl.set_num_threads(1)
    alone = results(case, args)
    for threads in (2, 3):
        tl.set_num_threads(threads)
        for a, b in zip(results(case, args), alone, strict=True):
            assert same_bits(a, b), f"{threads} threads"


@pytest.mark.parametrize(
    "op", [op for op in entries() if has_kernel(op) and large_cases(op, tl.float32)], ids=lambda op: op.name
)
def test_threads_are_used(op: Op) -> None:
    """What the test above visits is large enough: each kernel, and each gradient, has had a loop that threads shared."""
    tl.set_num_threads(2)
    shared = {"forward": False, "backward": False}
    for case in large_cases(op, tl.float32):
        args = case.args(requires_grad=True)
        before = lib.tl_shared_loops()
        outs = case.outputs(*args)
        between = lib.tl_shared_loops()
        recorded = [t for t in outs if t.requires_grad]
        if recorded:
            tl.autograd.grad(recorded, leaves(args), [seed_like(case, t) for t in recorded], allow_unused=True)
        shared["forward"] |= between > before or lib.tl_base(outs[0]._array) != 0  # a view
        shared["backward"] |= lib.tl_shared_loops() > between or not op.differentiable
        if all(shared.values()):
            return
    pytest.fail(f"no loop was shared: {shared}")


# ---- rows ----
WHOLE = 260  # rows of the largest batch; fewer where rows are large
PARTS = (1, 2, 3, 5, 8, 17, 64)
ELEMENTS = 1 << 19  # of operands and results, at most


def row_cases() -> Iterator[Case]:
    for op in entries():
        for s in rowwise_samples(op):
            yield Case(op, s, tl.float32)
            yield Case(op, s, tl.float64)
            if op.kind != "elementwise":
                yield Case(op, s, tl.float32, TRANSPOSED)


def results_of_rows(case: Case, args: list[Any], seeds: list[tl.Tensor], rows: slice) -> list[tl.Tensor]:
    """Outputs for these rows, and the gradients of the operands that have rows."""
    cut = [has_batch(d) for d in case.sample.args]
    taken = [a[rows].detach() if c else a for a, c in zip(args, cut, strict=True)]
    wanted = [
        a.requires_grad_()
        for a, c, rule in zip(taken, cut, rules_of(case.op), strict=True)
        if c and rule and a.dtype.is_floating_point
    ]
    outs = case.outputs(*taken)
    recorded = [(t, g[rows]) for t, g in zip(outs, seeds, strict=True) if t.requires_grad]
    if not recorded:
        return outs
    found = tl.autograd.grad([t for t, _ in recorded], wanted, [g for _, g in recorded], allow_unused=True)
    return outs + [g for g in found if g is not None]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", list(row_cases()), ids=str)
def test_rows(case: Case) -> None:
    """A row's result and gradient do not depend on where it lies, nor on how many others there are."""
    tl.set_num_threads(3)  # so that batches are cut, also where that depends on the threads
    whole = with_rows(case, ELEMENTS, least=8, most=WHOLE)
    args = whole.args()
    seeds = [seed_like(case, t) for t in whole.outputs(*args)]
    wanted = results_of_rows(case, args, seeds, slice(None))
    n = wanted[0].shape[0]
    for part in (p for p in PARTS if p < n):
        for first in ((n - part) // 2, n - part):
            rows = slice(first, first + part)
            for a, b in zip(results_of_rows(case, args, seeds, rows), wanted, strict=True):
                assert same_bits(a, b[rows]), f"rows {first} to {first + part} of {n}"
    for a, b in zip(results_of_rows(case, args, seeds, slice(None)), wanted, strict=True):
        assert same_bits(a, b), "a second time"
