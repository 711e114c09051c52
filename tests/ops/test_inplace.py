"""In-place twins: `x.name_(...)` is `x.name(...)` written into x, for values, history and errors."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import DTypeError, GradError, ShapeError
from tensorlib.ops.table import Draw, Op, samples_of
from tests.cases import STRIDED, Case, cases, differentiable_cases, leaves, operand_names, rubbish, same_bits, typical


def has_twin(op: Op) -> bool:
    return (
        not op.private
        and hasattr(tl.Tensor, op.name + "_")
        and any(isinstance(s.args[0], Draw) for s in samples_of(op))
    )


def twin(case: Case, x: tl.Tensor, rest: list[object]) -> tl.Tensor:
    method = getattr(x, case.op.name + "_")
    if case.op.kind == "elementwise":
        return method(*rest, **case.sample.attrs)
    names = operand_names(case.op, getattr(tl.Tensor, case.op.name))
    return method(**dict(zip(names[1:], rest, strict=True)), **case.sample.attrs)


def fits(case: Case, x: tl.Tensor, result: tl.Tensor) -> bool:
    return result.shape == x.shape and result.dtype.category <= x.dtype.category


def twin_cases(**which: object) -> list[Case]:
    return [c for c in cases(where=has_twin, **which) if isinstance(c.sample.args[0], Draw)]


@pytest.mark.parametrize(
    "case",
    typical([c for d in (tl.float32, tl.int64, tl.float16) for c in twin_cases(dtype=d, smooth=True)], most=5)
    + twin_cases(layouts=(STRIDED,)),
    ids=str,
)
def test_equals_the_function(case: Case) -> None:
    try:
        x, *rest = case.args()
        want = case.call(x, *rest)
    except (DTypeError, TypeError):
        pytest.skip("the operation takes no such dtype")
    before, version, place = x.clone(), x._version, x.data_ptr()
    if fits(case, x, want):
        assert twin(case, x, rest) is x
        assert x._version > version and x.data_ptr() == place
        assert same_bits(x, want.to(x.dtype))
        return
    with pytest.raises(ShapeError if want.shape != x.shape else DTypeError, match=case.op.name):
        twin(case, x, rest)
    assert same_bits(x, before) and x._version == version


@pytest.mark.parametrize(
    "case",
    typical(twin_cases(dtype=tl.float32, smooth=True) + twin_cases(dtype=tl.float64, smooth=True), most=4),
    ids=str,
)
def test_neighbours_stay(case: Case) -> None:
    """A write through a view that begins anywhere reaches its elements and no others."""
    x, *rest = case.args()
    want = case.call(x, *rest)
    if not fits(case, x, want):
        pytest.skip("the result does not fit into the operand")
    for offset in (1, 3):
        room = rubbish((offset + x.numel() + 70,), x.dtype)
        guard = room.numpy().copy()
        view = room[offset : offset + x.numel()].reshape(x.shape)
        view.copy_(x)
        twin(case, view, rest)
        assert same_bits(view, want.to(x.dtype))
        np.testing.assert_array_equal(room.numpy()[:offset], guard[:offset])
        np.testing.assert_array_equal(room.numpy()[offset + x.numel() :], guard[offset + x.numel() :])


@pytest.mark.parametrize(
    "case", [c for c in typical(differentiable_cases(dtype=tl.float64, smooth=True), most=2) if has_twin(c.op)], ids=str
)
def test_history(case: Case) -> None:
    """What flows back through the twin is what flows back through the function; a leaf refuses, unless nothing is recorded."""
    first, *rest = case.args(requires_grad=True)
    with tl.no_grad():
        want = case.call(first, *rest)
    if not isinstance(first, tl.Tensor) or not first.requires_grad or not fits(case, first, want):
        pytest.skip("no gradient, or the result does not fit into the operand")
    inputs = [first, *leaves(rest)]
    out = case.call(first, *rest)
    seed = tl.tensor(np.random.default_rng(0).uniform(0.5, 1.5, out.shape))
    plain = tl.autograd.grad(out, inputs, seed, allow_unused=True) if out.requires_grad else [None] * len(inputs)
    inner = first * 1
    twin(case, inner, rest)
    assert inner.requires_grad or not out.requires_grad
    through = tl.autograd.grad(inner, inputs, seed, allow_unused=True) if inner.requires_grad else [None] * len(inputs)
    for a, b in zip(through, plain, strict=True):
        assert (a is None or not a.any()) if b is None else same_bits(a, b)
    before = first.detach().clone()
    with pytest.raises(GradError, match=r"leaf tensor that requires a gradient"):
        twin(case, first, rest)
    assert same_bits(first, before)
    with tl.no_grad():
        assert twin(case, first, rest) is first
    assert first.is_leaf and same_bits(first, want)
