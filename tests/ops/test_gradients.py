"""Gradients: of first and second order against finite differences, and the kernels' against the rules."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import tensorlib as tl
from tests.cases import (
    FINITE_DIFFERENCES,
    KERNEL_AGAINST_RULE,
    LAYOUTS,
    PLAIN,
    STRIDED,
    Case,
    assert_close,
    differentiable_cases,
    flat,
    has_kernel,
    lay_out,
    leaves,
    typical,
)  # fmt: skip

Grads = list[tl.Tensor | None]


def recorded(case: Case, outputs: list[tl.Tensor]) -> list[tl.Tensor]:
    """The outputs that a gradient flows back from. Only a composite may have none, where it is a step function."""
    found = [t for t in outputs if t.requires_grad]
    assert found or case.op.kind == "composite", "nothing was recorded"
    return found


def gradients(case: Case, args: list[object], *, layout: str = PLAIN, create_graph: bool = False) -> Grads:
    outs = recorded(case, case.outputs(*args))
    if not outs:
        return []
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    seeds = [lay_out(rng.uniform(0.5, 1.5, t.shape).astype(t.dtype.np), layout, t.dtype) for t in outs]
    found = tl.autograd.grad(outs, leaves(args), seeds, create_graph=create_graph, allow_unused=True)
    for x, g in zip(leaves(args), found, strict=True):
        assert g is None or (g.shape == x.shape and g.dtype is x.dtype)
    return list(found)


def assert_same(got: Grads, want: Grads) -> None:
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_close(a, b.detach().numpy(), b.dtype, KERNEL_AGAINST_RULE[b.dtype])


@pytest.mark.parametrize("case", differentiable_cases(dtype=tl.float64, smooth=True), ids=str)
def test_finite_differences(case: Case) -> None:
    args = flat(case.args(requires_grad=True))

    def call(*operands: object) -> list[tl.Tensor]:
        return case.outputs(*case.nested(operands))

    if recorded(case, call(*args)) and any(t.numel() for t in leaves(args)):
        assert tl.autograd.gradcheck(call, args, **FINITE_DIFFERENCES)
        assert tl.autograd.gradgradcheck(call, args, **FINITE_DIFFERENCES)


@pytest.mark.parametrize(
    "case", [c for d in (tl.float64, tl.float32) for c in differentiable_cases(dtype=d) if has_kernel(c.op)], ids=str
)
def test_kernel_against_rule(case: Case) -> None:
    """With create_graph every node is served by its rule; without, by C where there is a gradient kernel."""
    assert_same(
        gradients(case, case.args(requires_grad=True)),
        gradients(case, case.args(requires_grad=True), create_graph=True),
    )


@pytest.mark.parametrize("case", typical(differentiable_cases(dtype=tl.float64, layouts=LAYOUTS[1:]), most=3), ids=str)
def test_layouts(case: Case) -> None:
    """A gradient does not depend on how operands and the result's gradient lie in memory."""
    want = gradients(case, case.args(requires_grad=True, layout=PLAIN))
    assert_same(gradients(case, case.args(requires_grad=True)), want)
    assert_same(gradients(case, case.args(requires_grad=True), layout=STRIDED), want)


@pytest.mark.parametrize("case", typical(differentiable_cases(dtype=tl.float32), most=3), ids=str)
def test_flows_only_where_required(case: Case) -> None:
    args = case.args(requires_grad=True)
    together = gradients(case, args)
    for chosen, want in enumerate(together):
        alone = case.args(requires_grad=True)
        for i, t in enumerate(leaves(alone)):
            if i != chosen:
                t.requires_grad_(False)
        outs = case.outputs(*alone)
        assert any(t.requires_grad for t in outs) or want is None or case.op.kind == "composite"
        if any(t.requires_grad for t in outs):
            assert_same(gradients(case, alone), [want])
    with tl.no_grad():
        assert not any(t.requires_grad for t in case.outputs(*args))
    assert not any(t.requires_grad for t in case.outputs(*case.args()))
