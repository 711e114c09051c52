"""Losses over classes that are made of others: from a linear map on, for rare classes, and for too many.

`tl.nn.functional` offers them. Dimension letters: N batch, D features, C classes, K drawn classes.
"""

from __future__ import annotations

from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.utils.rnn import by_rows

__all__ = ["linear_cross_entropy", "negative_sampling_loss", "sigmoid_focal_loss"]


def _reduced(name: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


@by_rows
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """`cross_entropy` of the scores ``input @ linear_weight.T + linear_bias``.

    Args:
        ignore_index: a target that does not count, -100 unless given; not for probabilities as targets.
        options: has no effect; PyTorch's say how it cuts the batch.

    Shapes:
        input: (N, D) or (D,), linear_weight: (C, D) or (C, d1, ..., D), linear_bias: (C, d1, ...), weight: (C,)
        target: (N, d1, ...) integer in [0, C), or (N, C, d1, ...) as class probabilities
        returns: () for "mean" and "sum", (N, d1, ...) for "none"

    >>> round(tl.nn.functional.linear_cross_entropy(tl.ones(2, 3), tl.zeros(4, 3), tl.tensor([0, 3])).item(), 4)  # log(4)
    1.3863
    """
    name = "linear_cross_entropy"
    if input.ndim not in (1, 2) or linear_weight.ndim < 2 or input.shape[-1] != linear_weight.shape[-1]:
        raise tl.ShapeError(
            f"{name}: expected input (N, D) or (D,) and linear_weight (C, ..., D), got {input.shape} and {linear_weight.shape}."
        )
    classes, *positions, features = linear_weight.shape
    if linear_bias is not None and linear_bias.shape != (classes, *positions):
        raise tl.ShapeError(f"{name}: linear_bias has shape {linear_bias.shape}, expected {(classes, *positions)}.")
    if positions and input.ndim == 1:
        raise tl.ShapeError(
            f"{name}: linear_weight of shape {linear_weight.shape} needs input (N, D), got {input.shape}."
        )
    rows = tl.linear(input, linear_weight.reshape(-1, features), None if linear_bias is None else linear_bias.flatten())
    scores = rows.reshape(*input.shape[:-1], classes, *positions)
    if ignore_index is not None and target.shape == scores.shape and target.dtype.is_floating_point:
        raise ValueError(f"{name}: ignore_index does not go with probabilities as targets.")
    ignored = -100 if ignore_index is None else ignore_index
    return tl.cross_entropy(scores, target, weight, ignored, reduction, label_smoothing)


@by_rows
def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> Tensor:
    """Binary cross-entropy of ``sigmoid(inputs)``, scaled by ``(1 - p) ** gamma`` with p the probability of what is true: what is
    classified well already hardly counts. The arguments are torchvision's.

    Args:
        alpha: weighs targets of 1, and ``1 - alpha`` those of 0; below zero nothing is weighed.

    Shapes:
        inputs, targets (0 or 1): alike  ->  () for "mean" and "sum", as inputs for "none"

    Reference: Lin et al. 2017.

    >>> loss = tl.nn.functional.sigmoid_focal_loss(tl.tensor([0.0]), tl.tensor([1.0]), alpha=-1)
    >>> round(loss.item(), 4)  # log(2) / 4
    0.1733
    """
    if targets.shape != inputs.shape:
        raise tl.ShapeError(f"sigmoid_focal_loss: targets has shape {targets.shape}, expected inputs' {inputs.shape}.")
    if alpha > 1:
        raise ValueError(f"sigmoid_focal_loss: alpha must be at most 1, got {alpha}.")
    p = inputs.sigmoid()
    missing = p + targets - 2 * p * targets  # 1 - p of what is true
    loss = tl.binary_cross_entropy_with_logits(inputs, targets, reduction="none") * missing**gamma
    if alpha >= 0:
        loss = loss * (targets * (2 * alpha - 1) + (1 - alpha))
    return _reduced("sigmoid_focal_loss", loss, reduction)


@by_rows
def negative_sampling_loss(
    input: Tensor, weight: Tensor, target: Tensor, negatives: Tensor, reduction: str = "mean", sparse: bool = False
) -> Tensor:
    """``-log sigmoid(input . weight[target]) - sum_k log sigmoid(-input . weight[negatives_k])``: tell the true class from K drawn ones,
    instead of from all. A negative that is the target does not count.

    Args:
        sparse: the gradient of `weight` is row-sparse, see `embedding`.

    Shapes:
        input: (N, D), weight: (C, D), target: (N,), negatives: (N, K)  ->  () for "mean" and "sum", (N,) for "none"

    Reference: Mikolov et al. 2013.

    >>> F, one = tl.nn.functional, tl.tensor([1])
    >>> round(F.negative_sampling_loss(tl.ones(1, 2), tl.zeros(3, 2), one, tl.tensor([[0, 2]])).item(), 4)  # 3 log(2)
    2.0794
    """
    name = "negative_sampling_loss"
    n = input.shape[0] if input.ndim == 2 else -1
    if weight.ndim != 2 or input.shape != (n, weight.shape[1]):
        raise tl.ShapeError(f"{name}: expected input (N, D) and weight (C, D), got {input.shape} and {weight.shape}.")
    if target.shape != (n,) or negatives.ndim != 2 or negatives.shape[0] != n:
        raise tl.ShapeError(
            f"{name}: expected target ({n},) and negatives ({n}, K), got {target.shape} and {negatives.shape}."
        )
    true = target.unsqueeze(1)
    rows = tl.embedding(tl.cat([true, negatives], 1), weight, sparse=sparse)
    scores = (rows @ input.unsqueeze(-1)).squeeze(-1)
    against = tl.softplus(scores[:, 1:]).masked_fill(negatives == true, 0.0)
    return _reduced(name, tl.softplus(-scores[:, 0]) + against.sum(1), reduction)
