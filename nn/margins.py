"""Losses in plain operations: margins, rankings, embeddings, and the likelihoods of Poisson and Gaussian numbers.

`tl.nn.functional` offers them under PyTorch's names. Dimension letters: N batch, C classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.distances import pairwise_distance
from tensorlib.nn.utils.rnn import by_rows

__all__ = [
    "cosine_embedding_loss", "gaussian_nll_loss", "hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss", "multilabel_margin_loss",
    "multilabel_soft_margin_loss", "poisson_nll_loss", "soft_margin_loss", "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]  # fmt: skip


def _reduced(name: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


def _same_shape(name: str, **operands: Tensor) -> None:
    (first, x), *others = operands.items()
    for role, t in others:
        if t.shape != x.shape:
            raise tl.ShapeError(f"{name}: {role} has shape {t.shape}, expected {first}'s shape {x.shape}.")


# ---- labels of 1 and -1 ----


@by_rows
def soft_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """``log(1 + exp(-target * input))`` for targets of 1 and -1.

    >>> round(tl.nn.functional.soft_margin_loss(tl.tensor([0.0]), tl.tensor([1.0])).item(), 4)  # log(2)
    0.6931
    """
    _same_shape("soft_margin_loss", input=input, target=target)
    return _reduced("soft_margin_loss", tl.softplus(-target * input), reduction)


@by_rows
def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """`input`, a distance, where target is 1; ``max(0, margin - input)`` where it is -1.

    >>> tl.nn.functional.hinge_embedding_loss(tl.tensor([0.5, 0.25]), tl.tensor([1, -1]), reduction="none").tolist()
    [0.5, 0.75]
    """
    far = tl.where(target != 1, (margin - input).clamp_min(0.0), 0.0)
    near = tl.where(target != -1, input, 0.0)
    return _reduced("hinge_embedding_loss", far + near, reduction)


@by_rows
def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """``max(0, margin - target * (input1 - input2))``: target 1 wants input1 above input2, -1 the reverse.

    >>> tl.nn.functional.margin_ranking_loss(tl.tensor([1.0]), tl.tensor([3.0]), tl.tensor([1.0])).item()
    2.0
    """
    if not input1.ndim == input2.ndim == target.ndim:
        raise tl.ShapeError(
            f"margin_ranking_loss: input1, input2 and target must have the same number of dimensions, got shapes {input1.shape}, "
            f"{input2.shape} and {target.shape}."
        )
    return _reduced("margin_ranking_loss", (margin - target * (input1 - input2)).clamp_min(0.0), reduction)


# ---- distances between vectors ----


@by_rows
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """``1 - cos(input1, input2)`` where target is 1; ``max(0, cos(input1, input2) - margin)`` where it is -1.

    Shapes:
        input1, input2: (N, D), target: (N,)  ->  () for "mean" and "sum", (N,) for "none"; or (D,), (D,) and ()

    >>> tl.nn.functional.cosine_embedding_loss(tl.tensor([1.0, 0.0]), tl.tensor([0.0, 2.0]), tl.tensor(1)).item()
    1.0
    """
    _same_shape("cosine_embedding_loss", input1=input1, input2=input2)
    if input1.ndim not in (1, 2) or target.shape != input1.shape[:-1]:
        raise tl.ShapeError(
            f"cosine_embedding_loss: expected input1 and input2 of shape (N, D) and target (N,), or (D,) and (); got {input1.shape} and "
            f"target {target.shape}."
        )
    eps = 1e-12
    dot = (input1 * input2).sum(-1)
    cosine = dot / ((input1.square().sum(-1) + eps) * (input2.square().sum(-1) + eps)).sqrt()
    near = tl.where(target == 1, 1 - cosine, 0.0)
    far = tl.where(target == -1, (cosine - margin).clamp_min(0.0), 0.0)
    return _reduced("cosine_embedding_loss", near + far, reduction)


@by_rows
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """``max(0, margin + d(anchor, positive) - d(anchor, negative))`` with d the distance of `pairwise_distance`.

    Shapes:
        anchor, positive, negative: (N, D) or (D,)  ->  () for "mean" and "sum", (N,) or () for "none"

    With `swap`, the negative's distance is the smaller of those to the anchor and to the positive.

    Reference: Balntas et al. 2016.

    >>> far, near = tl.tensor([[3.0, 0.0]]), tl.tensor([[1.0, 0.0]])
    >>> round(tl.nn.functional.triplet_margin_loss(tl.zeros(1, 2), far, near).item(), 4)
    3.0
    """

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return pairwise_distance(x, y, p, eps)

    return _triplet("triplet_margin_loss", distance, anchor, positive, negative, margin, swap, reduction)


@by_rows
def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """As `triplet_margin_loss`, with a distance of the caller's own.

    >>> def manhattan(x, y):
    ...     return (x - y).abs().sum(-1)
    >>> far, near = tl.tensor([[3.0, 0.0]]), tl.tensor([[1.0, 0.0]])
    >>> tl.nn.functional.triplet_margin_with_distance_loss(tl.zeros(1, 2), far, near, distance_function=manhattan).item()
    3.0
    """
    name = "triplet_margin_with_distance_loss"
    return _triplet(name, distance_function or pairwise_distance, anchor, positive, negative, margin, swap, reduction)


def _triplet(
    name: str,
    distance: Callable[[Tensor, Tensor], Tensor],
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    swap: bool,
    reduction: str,
) -> Tensor:
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise tl.ShapeError(
            f"{name}: anchor, positive and negative must have the same number of dimensions, got shapes {anchor.shape}, {positive.shape} "
            f"and {negative.shape}."
        )
    if margin <= 0:
        raise ValueError(f"{name}: margin must be positive, got {margin}.")
    to_negative = distance(anchor, negative)
    if swap:
        to_negative = tl.minimum(to_negative, distance(positive, negative))
    return _reduced(name, (margin + distance(anchor, positive) - to_negative).clamp_min(0.0), reduction)


# ---- classes ----


def _rows(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) or (N, C) scores as (N, C), and the target with as many dimensions more."""
    if input.ndim not in (1, 2) or input.shape[-1] == 0:
        raise tl.ShapeError(f"{name}: input must have shape (N, C) or (C,) with C > 0, got {input.shape}.")
    return (input, target) if input.ndim == 2 else (input.unsqueeze(0), target.unsqueeze(0))


def _check_range(name: str, target: Tensor, low: int, classes: int) -> None:
    wrong = (target < low) | (target >= classes)
    if wrong.any():
        raise tl.IndexRangeError(
            f"{name}: target {int(target[wrong][0].item())} is out of range; expected one in [{low}, {classes})."
        )


@by_rows
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``sum over c != target of max(0, margin - input[target] + input[c])^p / C``, times the target's weight.

    Shapes:
        input: (N, C) or (C,), target: (N,) or () integer in [0, C), weight: (C,)  ->  () for "mean" and "sum", target's for "none"

    >>> tl.nn.functional.multi_margin_loss(tl.tensor([[0.0, 1.0]]), tl.tensor([0])).item()
    1.0
    """
    name = "multi_margin_loss"
    if p not in (1, 2):
        raise ValueError(f"{name}: p must be 1 or 2, got {p}.")
    scores, index = _rows(name, input, target)
    if index.shape != scores.shape[:1]:
        raise tl.ShapeError(f"{name}: target has shape {target.shape}, expected {input.shape[:-1]}.")
    classes = scores.shape[1]
    _check_range(name, index, 0, classes)
    terms = (margin - scores.gather(1, index.unsqueeze(1)) + scores).clamp_min(0.0)
    terms = terms if p == 1 else terms.square()
    if weight is not None:
        terms = terms * weight[index].unsqueeze(1)
    others = tl.arange(classes, device=input.device) != index.unsqueeze(1)
    loss = (terms * others).sum(1) / classes
    return _reduced(name, loss if input.ndim == 2 else loss.squeeze(0), reduction)


@by_rows
def multilabel_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """``sum over labels y and other classes c of max(0, 1 - input[y] + input[c]) / C``.

    Shapes:
        input: (N, C) or (C,), target: the same, integer: a sample's labels, then -1  ->  () for "mean" and "sum", (N,) or () for "none"

    >>> tl.nn.functional.multilabel_margin_loss(tl.tensor([[0.0, 1.0]]), tl.tensor([[0, -1]])).item()
    1.0
    """
    name = "multilabel_margin_loss"
    _same_shape(name, input=input, target=target)
    scores, labels = _rows(name, input, target)
    classes = scores.shape[1]
    _check_range(name, labels, -1, classes)
    counts = (labels < 0).to(tl.int64).cumsum(1) == 0  # up to the first -1
    index = tl.where(counts, labels, 0)
    is_label = ((index.unsqueeze(2) == tl.arange(classes, device=input.device)) & counts.unsqueeze(2)).any(1)
    terms = (1 - scores.gather(1, index).unsqueeze(2) + scores.unsqueeze(1)).clamp_min(0.0)  # (N, labels, C)
    loss = (terms * (counts.unsqueeze(2) & ~is_label.unsqueeze(1))).sum((1, 2)) / classes
    return _reduced(name, loss if input.ndim == 2 else loss.squeeze(0), reduction)


@by_rows
def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """The mean over classes of binary cross-entropies of ``sigmoid(input)``.

    Shapes:
        input: (..., C), target: the same, of 0 and 1, weight: (C,)  ->  () for "mean" and "sum", (...) for "none"

    >>> round(tl.nn.functional.multilabel_soft_margin_loss(tl.zeros(1, 2), tl.tensor([[0.0, 1.0]])).item(), 4)  # log(2)
    0.6931
    """
    name = "multilabel_soft_margin_loss"
    _same_shape(name, input=input, target=target)
    return _reduced(
        name, tl.binary_cross_entropy_with_logits(input, target, weight, reduction="none").mean(-1), reduction
    )


# ---- likelihoods ----


@by_rows
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """``exp(input) - target * input`` for logarithms of rates, ``input - target * log(input + eps)`` for rates.

    `full` adds Stirling's approximation of ``log(target!)`` where target is above 1.

    >>> tl.nn.functional.poisson_nll_loss(tl.tensor([0.0]), tl.tensor([3.0])).item()
    1.0
    """
    loss = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        several = tl.where(target > 1, target, 1.0)
        stirling = several * several.log() - several + 0.5 * (2 * math.pi * several).log()
        loss = loss + tl.where(target > 1, stirling, 0.0)
    return _reduced("poisson_nll_loss", loss, reduction)


@by_rows
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """``(log(var) + (input - target)^2 / var) / 2`` with var at least `eps`; `full` adds ``log(2 pi) / 2``.

    Shapes:
        input: (..., D), target: the same; var: a number, input's shape, or with a last dimension of 1 or none

    No gradient flows through the limit at `eps`.

    >>> tl.nn.functional.gaussian_nll_loss(tl.tensor([1.0]), tl.tensor([3.0]), tl.tensor([1.0])).item()
    2.0
    """
    name = "gaussian_nll_loss"
    if isinstance(var, (int, float)):
        var = tl.full_like(input, var)
    if var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = var.unsqueeze(-1)
        elif var.ndim != input.ndim or sum(n for m, n in zip(input.shape, var.shape, strict=True) if m != n) != 1:
            raise tl.ShapeError(f"{name}: var has shape {var.shape}, which does not fit input's shape {input.shape}.")
    if (var < 0).any():
        raise ValueError(f"{name}: var must not be negative, got {var.min().item()}.")
    var = var + (eps - var).clamp_min(0.0).detach()
    loss = 0.5 * (var.log() + (input - target).square() / var)
    return _reduced(name, loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)
