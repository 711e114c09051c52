"""Losses in plain operations: their derivatives, reductions and errors. Those with kernels are tested through the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tensorlib as tl
from tensorlib.nn import functional as F

SHAPE = (5, 3)


def floats(seed: int, low: float = -2.0, high: float = 2.0) -> tl.Tensor:
    generator = tl.random.Generator().manual_seed(seed)
    return low + (high - low) * tl.rand(SHAPE, generator=generator, dtype=tl.float64)


SIGNS = tl.tensor([[1.0, -1.0, 1.0]] * 5, dtype=tl.float64)
ROW_SIGNS = tl.tensor([1, -1, -1, 1, 1])
LABELS = tl.tensor([0, 2, 1, 1, 0])
MANY = tl.tensor([[0, 1, -1], [2, -1, 0], [-1, 0, 0], [1, 0, 2], [2, 0, -1]])
LOSSES: dict[str, Callable[..., tl.Tensor]] = {  # of floating operands, and a reduction
    "soft_margin": lambda x, y, z, r: F.soft_margin_loss(x, SIGNS, r),
    "hinge_embedding": lambda x, y, z, r: F.hinge_embedding_loss(x, SIGNS, 0.8, r),
    "margin_ranking": lambda x, y, z, r: F.margin_ranking_loss(x, y, SIGNS, 0.3, r),
    "cosine_embedding": lambda x, y, z, r: F.cosine_embedding_loss(x, y, ROW_SIGNS, 0.1, r),
    "triplet_margin": lambda x, y, z, r: F.triplet_margin_loss(x, y, z, 2.0, reduction=r),
    "triplet_margin_swap": lambda x, y, z, r: F.triplet_margin_loss(x, y, z, 2.0, p=3, swap=True, reduction=r),
    "poisson_nll": lambda x, y, z, r: F.poisson_nll_loss(x, y.abs(), full=True, reduction=r),
    "gaussian_nll": lambda x, y, z, r: F.gaussian_nll_loss(x, y, z.abs() + 0.1, full=True, reduction=r),
    "multilabel_margin": lambda x, y, z, r: F.multilabel_margin_loss(x, MANY, r),
    "multilabel_soft_margin": lambda x, y, z, r: F.multilabel_soft_margin_loss(x, y, reduction=r),
    "multi_margin": lambda x, y, z, r: F.multi_margin_loss(x, LABELS, 2, 0.7, y[0].abs(), r),
}


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives(name: str) -> None:
    operands = [floats(seed).requires_grad_() for seed in (1, 2, 3)]
    for reduction in ("mean", "sum", "none"):
        assert tl.autograd.gradcheck(lambda *xs, r=reduction: LOSSES[name](*xs, r), operands, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_reductions(name: str) -> None:
    operands = [floats(seed) for seed in (1, 2, 3)]
    each, mean, total = (LOSSES[name](*operands, r) for r in ("none", "mean", "sum"))
    assert each.ndim and abs(each.sum().item() - total.item()) < 1e-12
    assert abs(each.mean().item() - mean.item()) < 1e-12
    with pytest.raises(ValueError, match="reduction must be"):
        LOSSES[name](*operands, "avg")


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda x: F.soft_margin_loss(x, SIGNS[:2]), ValueError, r"target has shape \(2, 3\)"),
        (lambda x: F.margin_ranking_loss(x, x, ROW_SIGNS), ValueError, "same number of dimensions"),
        (lambda x: F.cosine_embedding_loss(x, x, SIGNS), ValueError, r"target \(5, 3\)"),
        (lambda x: F.triplet_margin_loss(x, x, x[0]), ValueError, "same number of dimensions"),
        (lambda x: F.triplet_margin_loss(x, x, x, margin=0.0), ValueError, "margin must be positive"),
        (lambda x: F.multi_margin_loss(x, LABELS + 1), IndexError, "target 3 is out of range"),
        (lambda x: F.multi_margin_loss(x, LABELS[:2]), ValueError, r"target has shape \(2,\)"),
        (lambda x: F.multi_margin_loss(x, LABELS, p=3), ValueError, "p must be 1 or 2"),
        (lambda x: F.multi_margin_loss(x[0, 0], LABELS), ValueError, r"input must have shape \(N, C\)"),
        (lambda x: F.multilabel_margin_loss(x, MANY - 1), IndexError, "target -2 is out of range"),
        (lambda x: F.gaussian_nll_loss(x, x, -1.0), ValueError, "var must not be negative"),
        (lambda x: F.gaussian_nll_loss(x, x, x.abs()[:2]), ValueError, r"var has shape \(2, 3\)"),
        (lambda x: tl.nn.TripletMarginLoss(margin=0.0), ValueError, "margin must be positive"),
    ],
)
def test_errors(call: Any, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        call(floats(1))


def test_shapes_that_differ_are_broadcast_with_a_warning() -> None:
    x, y = tl.ones(3, 2), tl.zeros(2)
    for loss in (F.mse_loss, F.l1_loss, F.huber_loss, F.smooth_l1_loss):
        with pytest.warns(UserWarning, match=r"\(3, 2\) and target of shape \(2,\) differ and are broadcast"):
            assert loss(x, y, reduction="none").shape == (3, 2)


def test_operands_of_two_dtypes_are_promoted() -> None:
    x = tl.zeros(3, requires_grad=True)
    F.binary_cross_entropy_with_logits(x, tl.tensor([0, 1, 1])).backward()
    assert x.grad is not None and x.grad.dtype is tl.float32
    assert F.l1_loss(x, tl.ones(3, dtype=tl.float64)).dtype is tl.float64
    assert F.cross_entropy(tl.zeros(2, 3), tl.tensor([0, 1], dtype=tl.int32)).dtype is tl.float32


def test_power_of_the_multi_margin_loss_is_checked_when_made() -> None:
    with pytest.raises(ValueError, match="MultiMarginLoss: p must be 1 or 2, got 3"):
        tl.nn.MultiMarginLoss(p=3)
