"""Losses with weights of their own: a linear map and its loss in one, also for so many classes that not all are looked at.

Dimension letters: N batch, D features, C classes, K drawn classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import functional as F, init
from tensorlib.nn.containers import ModuleList, Sequential
from tensorlib.nn.layers import Linear
from tensorlib.nn.losses import WeightedLoss
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter

__all__ = ["AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss", "LinearCrossEntropyOptions", "NegativeSamplingLoss"]


@dataclass(frozen=True, slots=True)
class LinearCrossEntropyOptions:
    """How PyTorch cuts the batch of `LinearCrossEntropyLoss`: there for programs that give it, without effect."""

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: str = "auto"


class LinearCrossEntropyLoss(WeightedLoss):
    """Cross-entropy of a linear map's scores; the map, `linear`, is part of the loss.

    Args:
        out_features: d1, ..., where there is a prediction for each of several positions.
        weight: (C,), a factor for each class.
        ignore_index: a target that does not count; -100 unless given.

    Shapes:
        input: (N, D) or (D,), target: (N, d1, ...) integer in [0, C), or (N, C, d1, ...) as class probabilities
        returns: () for "mean" and "sum", (N, d1, ...) for "none"

    >>> tl.nn.LinearCrossEntropyLoss(3, 10)(tl.randn(5, 3), tl.tensor([0, 9, 1, 1, 4])).shape
    ()
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
    ) -> None:
        super().__init__(weight, reduction)
        if weight is not None and weight.shape != (num_classes,):
            raise tl.ShapeError(f"LinearCrossEntropyLoss: weight has shape {weight.shape}, expected ({num_classes},).")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"LinearCrossEntropyLoss: label_smoothing must be in [0, 1], got {label_smoothing}.")
        self.num_classes, self.out_features = num_classes, tuple(out_features)
        self.ignore_index, self.label_smoothing, self.options = ignore_index, label_smoothing, options
        self.linear = Linear(in_features, num_classes * math.prod(self.out_features), bias, device, dtype)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        shape = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return F.linear_cross_entropy(
            input,
            self.linear.weight.reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def extra_repr(self) -> str:
        return f"{self.linear.in_features} -> {self.num_classes} classes" + (
            f" x {self.out_features}" if self.out_features else ""
        )


class AdaptiveOutput(NamedTuple):
    """Log-probabilities of the targets, and the mean of their negatives."""

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """The log-likelihood of classes that are ordered by falling frequency: the first ones have a score each, the others stand behind one
    score for their cluster, and inside it have scores from fewer features. So rare classes cost only where they occur.

    Args:
        cutoffs: where the clusters begin, such as [10, 100]; the last one ends at `n_classes`.
        div_value: cluster i has D / div_value ** i features.
        head_bias: whether the head, the first scores, has a bias.

    Shapes:
        input: (N, D) or (D,), target: (N,) or () integer in [0, C)  ->  output: as target, loss: ()

    Reference: Grave et al. 2017.

    >>> model = tl.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10])
    >>> output, loss = model(tl.randn(3, 8), tl.tensor([0, 7, 19]))
    >>> output.shape, loss.shape, model.log_prob(tl.randn(3, 8)).shape
    ((3,), (), (3, 20))
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        limits = [0, *cutoffs, n_classes]
        if not cutoffs or any(int(b) != b or a >= b for a, b in pairwise(limits)):
            raise ValueError(
                f"AdaptiveLogSoftmaxWithLoss: cutoffs must be rising integers between 1 and {n_classes - 1}, got {list(cutoffs)}."
            )
        self.in_features, self.n_classes, self.cutoffs = in_features, n_classes, limits[1:]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size, self.n_clusters = limits[1], len(cutoffs)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            narrow = int(in_features // div_value ** (i + 1))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                Sequential(
                    Linear(in_features, narrow, False, device, dtype), Linear(narrow, size, False, device, dtype)
                )
            )

    def reset_parameters(self) -> None:
        """Draw fresh weights."""
        for layer in self.modules():
            if isinstance(layer, Linear):
                layer.reset_parameters()

    def forward(self, input_: Tensor, target_: Tensor) -> AdaptiveOutput:
        name = "AdaptiveLogSoftmaxWithLoss"
        if target_.ndim > 1 or input_.shape != (*target_.shape, self.in_features):
            raise tl.ShapeError(
                f"{name}: expected input (N, {self.in_features}) and target (N,), or without N, got {input_.shape} and {target_.shape}."
            )
        x, target = (input_, target_) if target_.ndim else (input_.unsqueeze(0), target_.unsqueeze(0))
        if target.numel() and not 0 <= target.min().item() <= target.max().item() < self.n_classes:
            raise tl.IndexRangeError(
                f"{name}: targets must be in [0, {self.n_classes}), got {target.min().item()} to {target.max().item()}."
            )
        first, rest = target, []
        for i, cluster in enumerate(self.tail):
            inside = (target >= self.cutoffs[i]) & (target < self.cutoffs[i + 1])
            rows = inside.nonzero(as_tuple=True)[0]
            if rows.numel():
                first = first.masked_fill(inside, self.shortlist_size + i)
                losses = F.cross_entropy(cluster(x[rows]), target[rows] - self.cutoffs[i], reduction="none")
                rest.append((rows, losses))
        output = -F.cross_entropy(self.head(x), first, reduction="none")
        for rows, losses in rest:
            output = output.index_add(0, rows, -losses)
        return AdaptiveOutput(output if target_.ndim else output.squeeze(0), -output.mean())

    def log_prob(self, input: Tensor) -> Tensor:
        """Log-probabilities of all classes: (N, D) -> (N, C)."""
        head = self.head(input).log_softmax(1)
        parts = [head[:, : self.shortlist_size]]
        for i, cluster in enumerate(self.tail):
            at = self.shortlist_size + i
            parts.append(cluster(input).log_softmax(1) + head[:, at : at + 1])
        return tl.cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The most likely classes: (N, D) -> (N,). Clusters are looked into only for the rows whose head points to one."""
        best = self.head(input).argmax(1)
        rows = (best >= self.shortlist_size).nonzero(as_tuple=True)[0]
        return best.index_copy(0, rows, self.log_prob(input[rows]).argmax(1)) if rows.numel() else best

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.n_classes} classes, cutoffs={self.cutoffs[:-1]}"


class NegativeSamplingLoss(Module):
    """Tell the true class from `num_samples` others, which are drawn by their frequency, instead of from all; see
    `tl.nn.functional.negative_sampling_loss`. The classes' vectors are part of the loss.

    Args:
        in_features: D.
        counts: (C,), how often each class occurs.
        num_samples: K.
        power: classes are drawn in proportion to ``counts ** power``.
        sparse: the gradient of `weight` is row-sparse, see `Embedding`.

    Shapes:
        input: (N, D), target: (N,)  ->  () for "mean" and "sum", (N,) for "none";   weight: (C, D), zeros at first

    Reference: Mikolov et al. 2013.

    >>> loss = tl.nn.NegativeSamplingLoss(3, [10, 5, 1, 1], num_samples=2)
    >>> round(loss(tl.ones(4, 3), tl.tensor([3, 3, 3, 3]), tl.tensor([[0, 1]] * 4)).item(), 4)  # 3 log(2)
    2.0794
    """

    cumulative: Tensor

    def __init__(
        self,
        in_features: int,
        counts: Sequence[float] | Tensor,
        num_samples: int = 5,
        power: float = 0.75,
        reduction: str = "mean",
        sparse: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        share = tl.as_tensor(counts, dtype=tl.float64).cpu() ** power
        if (
            share.ndim != 1
            or not share.numel()
            or not bool((share >= 0).all())
            or not 0 < share.sum().item() < math.inf
        ):
            raise ValueError(
                f"NegativeSamplingLoss: counts must be C numbers, not negative and not all zero, got {counts}."
            )
        if num_samples < 1:
            raise ValueError(f"NegativeSamplingLoss: num_samples must be positive, got {num_samples}.")
        self.in_features, self.num_classes, self.num_samples = in_features, share.numel(), num_samples
        self.reduction, self.sparse = reduction, sparse
        total = share.cumsum(0)
        self.register_buffer("cumulative", (total / total[-1]).to(device or tl.get_default_device()), persistent=False)
        self.weight = Parameter(tl.empty((self.num_classes, in_features), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All vectors zero, so that all classes begin alike."""
        init.zeros_(self.weight)

    def draw(self, n: int) -> Tensor:
        """(n, K) classes, each as likely as its count says."""
        shares = self.cumulative  # the last one is 1, above every number that is drawn
        place = tl.rand((n, self.num_samples), dtype=shares.dtype, device=shares.device)
        return tl.searchsorted(shares, place, right=True)

    def forward(self, input: Tensor, target: Tensor, negatives: Tensor | None = None) -> Tensor:
        """`negatives` (N, K) are drawn unless given."""
        drawn = self.draw(len(target)) if negatives is None else negatives
        return F.negative_sampling_loss(input, self.weight, target, drawn, self.reduction, self.sparse)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.num_classes} classes, num_samples={self.num_samples}"
