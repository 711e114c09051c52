"""Losses: cross_entropy and mse_loss with kernels of their own, the others in plain operations."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from tensorlib import ops
from tensorlib.dtypes import int64
from tensorlib.errors import DTypeError, IndexRangeError, ShapeError
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.fused import SLOW, caller, handle, log_softmax, log_softmax_ref, softmax
from tensorlib.ops.table import Draw, error, sample
from tensorlib.tensor import wrap

if TYPE_CHECKING:
    from tensorlib.dtypes import DType
    from tensorlib.tensor import Tensor

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "l1_loss", "mse_loss", "nll_loss",
]  # fmt: skip
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # C's numbers
_REDUCTION_NAMES = tuple(REDUCTIONS)


def _floats_only(name: str) -> rules.DTypeRule:
    """Operands as they are; scores and probabilities must be floats."""

    def rule(common: DType) -> tuple[DType | None, DType | None]:
        if common.category != 2:
            raise DTypeError(f"{name}: input must be a float tensor, got {common.name}.")
        return None, None

    return rule


def _check_float(name: str, x: Tensor) -> None:
    _floats_only(name)(x.dtype)


# ---- classification ----


def _valid(xp: Any, target: Any, classes: int, ignore_index: int) -> tuple[Any, Any]:
    """(target with 0 where ignored, mask of what counts); raises where a target is out of range."""
    valid = target != ignore_index
    wrong = valid & ((target < 0) | (target >= classes))
    if bool(wrong.any()):
        _out_of_range("cross_entropy", int(target[wrong][0]), classes, ignore_index)
    return xp.where(valid, target, 0), valid


def _out_of_range(name: str, got: int, classes: int, ignore_index: int) -> None:
    raise IndexRangeError(
        f"{name}: target {got} is out of range; expected a class in [0, {classes}) or ignore_index {ignore_index}."
    )


def _cross_entropy_ref(
    xp: Any, x: Any, target: Any, weight: Any, *, ignore_index: int, reduction: str, label_smoothing: float
) -> Any:
    axis = 1 if x.ndim > 1 else 0
    index, valid = _valid(xp, target, x.shape[axis], ignore_index)
    logp = log_softmax_ref(xp, x, dim=axis)
    w = xp.ones(x.shape[axis], x.dtype) if weight is None else weight
    of_target = xp.where(valid, w[index], 0).astype(x.dtype) if x.size else xp.zeros(target.shape, x.dtype)
    picked = xp.take_along_axis(logp, xp.expand_dims(index, axis), axis).squeeze(axis) if x.size else of_target
    loss = -picked * of_target
    if label_smoothing:
        over_classes = -(logp * w.reshape((-1,) + (1,) * (x.ndim - 1 - axis))).sum(axis=axis)
        loss = (1 - label_smoothing) * loss + label_smoothing / x.shape[axis] * xp.where(valid, over_classes, 0)
    loss = xp.where(valid, loss, 0).astype(x.dtype)
    if reduction == "none":
        return loss
    return loss.sum(dtype=x.dtype) if reduction == "sum" else loss.sum(dtype=x.dtype) / of_target.sum(dtype=x.dtype)


def _class_weights(
    x: Tensor, target: Tensor, weight: Any, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """(q, w): the loss is ``-sum_c q_c log p_c`` per position, and a mean divides by the sum of w. No gradient flows here."""
    axis = 1 if x.ndim > 1 else 0
    classes = x.shape[axis]
    valid = target != ignore_index
    index = ops.elementwise.where(valid, target, ops.creation.zeros_like(target))
    table = ops.creation.ones((classes,), dtype=x.dtype, device=x.device) if weight is None else weight.detach()
    of_target = ops.positions.index_select(table, 0, index.reshape(-1)).reshape(target.shape) * valid
    hot = (
        index.unsqueeze(axis)
        == ops.creation.arange(classes, device=x.device).reshape((classes,) + (1,) * (x.ndim - 1 - axis))
    ).to(x.dtype)
    q = (1 - label_smoothing) * hot * of_target.unsqueeze(axis)
    if label_smoothing:
        spread = table.reshape((classes,) + (1,) * (x.ndim - 1 - axis)) * valid.unsqueeze(axis)
        q = q + label_smoothing / classes * spread
    return q, of_target


def _cross_entropy_grad(
    g: Tensor, x: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    axis = 1 if x.ndim > 1 else 0
    q, w = _class_weights(x, target, weight, ignore_index, label_smoothing)
    slope = softmax(x, axis) * q.sum(axis, keepdim=True) - q
    scale = g / w.sum() if reduction == "mean" else g.unsqueeze(axis) if reduction == "none" else g
    counts = (target != ignore_index).unsqueeze(axis)
    return ops.elementwise.where(
        counts, slope * scale, ops.creation.zeros_like(slope)
    )  # 0 also where all are ignored and scale is NaN


def _cross_entropy_plain(
    x: Tensor, target: Tensor, weight: Any, *, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    axis = 1 if x.ndim > 1 else 0
    q, w = _class_weights(x, target, weight, ignore_index, label_smoothing)
    logp = log_softmax(x, axis)
    loss = -ops.elementwise.where(q == 0, ops.creation.zeros_like(logp), q * logp).sum(axis)  # 0 * log 0 is 0
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / w.sum()


def _target(shape: tuple[int, ...], classes: int, ignored: bool = False) -> Draw:
    count = math.prod(shape)
    values = [-100 if ignored and i % 3 == 1 else (5 * i + 1) % classes for i in range(count)]
    return Draw(shape, dtype="int64", values=values)


def _cross_entropy_samples() -> list[Any]:
    made = []
    for reduction in ("mean", "sum", "none"):
        for smoothing in (0.0, 0.1):
            fixed = {"ignore_index": -100, "reduction": reduction, "label_smoothing": smoothing}
            made.append(sample((4, 5), _target((4,), 5), None, **fixed))
            made.append(sample((4, 5), _target((4,), 5, ignored=True), Draw((5,), 0.5, 2.0), **fixed))
    fixed = {"ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0}
    made.append(sample((3,), _target((), 3), None, **fixed))
    made.append(sample((2, 3, 4), _target((2, 4), 3, ignored=True), None, **fixed))
    made.append(sample((0, 3), Draw((0,), dtype="int64", values=[]), None, **{**fixed, "reduction": "sum"}))
    made.append(sample((5, 70), _target((5,), 70), None, **fixed))
    return made


def _cross_entropy_native(
    line: int,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Any:
    return lib.tl_cross_entropy(
        x._array, target._array, handle(weight), ignore_index, REDUCTIONS[reduction], label_smoothing, line
    )  # fmt: skip


_cross_entropy = structured(
    "cross_entropy",
    inputs=("x", "target", "weight"),
    attrs=("ignore_index", "reduction", "label_smoothing"),
    dtype=_floats_only("cross_entropy"),
    ref=_cross_entropy_ref,
    vjp=(_cross_entropy_grad, None, None),
    composite=_cross_entropy_plain,
    native=_cross_entropy_native,
    decode=lambda node: {
        "ignore_index": lib.tl_node_int(node, 0),
        "reduction": _REDUCTION_NAMES[lib.tl_node_int(node, 1)],
        "label_smoothing": lib.tl_node_real(node, 0),
    },
    samples=_cross_entropy_samples,
    errors=[
        error((2, 3), Draw((2,), dtype="int64", values=[0, 3]), raises=IndexError, match="target 3 is out of range"),
        error((2, 3), Draw((4,), dtype="int64", values=[0] * 4), raises=ValueError, match=r"target of shape \(4,\)"),
        error((2, 3), Draw((2,), dtype="int64", values=[0] * 2), reduction="avg", raises=ValueError, match="reduction"),
        error((2, 3), Draw((2,)), raises=TypeError, match="target"),
    ],
)


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")


def _check_classes(name: str, x: Tensor, target: Tensor, weight: Tensor | None) -> None:
    expected = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    if x.ndim == 0 or target.shape != expected:
        raise ShapeError(
            f"{name}: target of shape {target.shape} does not fit input of shape {x.shape}; expected target of shape "
            f"{expected if x.ndim else '(), and input with a dimension of classes'}."
        )
    if target.dtype.category != 1:
        raise DTypeError(f"{name}: target must be integer class numbers of shape {expected}, got {target.dtype.name}.")
    _check_float(name, x)
    classes = x.shape[1 if x.ndim > 1 else 0]
    if weight is not None and weight.shape != (classes,):
        raise ShapeError(f"{name}: weight has shape {weight.shape}, expected one value for each of {classes} classes.")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of `target` under ``softmax(input)``, from logits, so large scores do not overflow.

    Shapes:
        input:  (C,), (N, C) or (N, C, d1, ...) float, unnormalised scores
        target: (), (N,) or (N, d1, ...) integer in [0, C); or of input's shape, as class probabilities
        weight: (C,), a factor for each class; a "mean" is weighted by it
        returns: () for "mean" and "sum", target's shape (without C) for "none"

    Raises:
        ShapeError: if N or d1, ... differ between `input` and `target`.
        IndexError: if a target is neither `ignore_index` nor in [0, C).

    Reference: Szegedy et al. 2016, section 7, for label smoothing.

    >>> round(tl.nn.functional.cross_entropy(tl.zeros(2, 4), tl.tensor([0, 3])).item(), 4)  # log(4)
    1.3863
    """
    if 0 <= label_smoothing <= 1:
        try:
            number = REDUCTIONS[reduction]
            made = lib.tl_cross_entropy(
                input._array, target._array, handle(weight), ignore_index, number, label_smoothing, caller()
            )
            if made:
                return wrap(made)
        except SLOW:
            pass
    _check_reduction("cross_entropy", reduction)
    if target.dtype.is_floating_point and target.shape == input.shape:
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    _check_classes("cross_entropy", input, target, weight)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}.")
    return _cross_entropy(
        input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )


def _soft_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> Tensor:
    axis = 1 if input.ndim > 1 else 0
    classes = input.shape[axis]
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    loss = log_softmax(input, axis) * target
    if weight is not None:
        loss = loss * weight.reshape((classes,) + (1,) * (input.ndim - 1 - axis))
    loss = -loss.sum(axis)
    if reduction == "mean":
        return loss.sum() / loss.numel() if loss.numel() else loss.mean()
    return _reduced(loss, reduction)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


@composite(
    "nll_loss",
    dtype=_floats_only("nll_loss"),
    inputs=("input", "target"),
    attrs=("ignore_index", "reduction"),
    ref=lambda xp, input, target, *, ignore_index=-100, reduction="mean": _nll_ref(
        xp, input, target, ignore_index, reduction
    ),
    samples=lambda: [
        sample((4, 5), _target((4,), 5), reduction="mean"),
        sample((4, 5), _target((4,), 5, ignored=True), reduction="mean"),
        sample((2, 3, 4), _target((2, 4), 3), reduction="sum"),
        sample((3,), _target((), 3), reduction="none"),
    ],
    errors=[
        error(
            (2, 3),
            Draw((2,), dtype="int64", values=[0, 3]),
            raises=IndexError,
            match="nll_loss: target 3 is out of range",
        )
    ],
)
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Negative log-likelihood of classes, from log-probabilities: ``-weight[target] * input[target]``.

    Shapes: as in `cross_entropy`, with integer targets.

    >>> tl.nll_loss(tl.tensor([[-1.0, -2.0], [-3.0, -4.0]]), tl.tensor([0, 1])).item()
    2.5
    """
    _check_reduction("nll_loss", reduction)
    _check_classes("nll_loss", input, target, weight)
    axis = 1 if input.ndim > 1 else 0
    valid = target != ignore_index
    wrong = valid & ((target < 0) | (target >= input.shape[axis]))
    if bool(wrong.any()):
        _out_of_range("nll_loss", int(target[wrong][0].item()), input.shape[axis], ignore_index)
    index = ops.elementwise.where(valid, target, ops.creation.zeros_like(target)).to(int64)
    picked = ops.gather.gather(input, axis, index.unsqueeze(axis)).squeeze(axis)
    factor = (
        valid.to(input.dtype)
        if weight is None
        else ops.positions.index_select(weight, 0, index.reshape(-1)).reshape(index.shape) * valid
    )
    loss = -ops.elementwise.where(valid, picked, ops.creation.zeros_like(picked)) * factor
    return loss.sum() / factor.sum() if reduction == "mean" else _reduced(loss, reduction)


def _nll_ref(xp: Any, x: Any, target: Any, ignore_index: int, reduction: str) -> Any:
    axis = 1 if x.ndim > 1 else 0
    index, valid = _valid(xp, target, x.shape[axis], ignore_index)
    picked = xp.take_along_axis(x, xp.expand_dims(index, axis), axis).squeeze(axis)
    loss = xp.where(valid, -picked, 0).astype(x.dtype)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / xp.asarray(valid.sum(), dtype=x.dtype)


# ---- regression and binary targets ----


def _mse_ref(xp: Any, x: Any, target: Any, *, reduction: str) -> Any:
    if x.shape != target.shape:
        warnings.warn(
            f"mse_loss: input of shape {x.shape} and target of shape {target.shape} differ and are broadcast.",
            stacklevel=2,
        )
    squared = xp.square(x - target)
    return (
        squared
        if reduction == "none"
        else squared.sum(dtype=squared.dtype)
        if reduction == "sum"
        else squared.mean(dtype=squared.dtype)
    )


def _mse_slope(g: Tensor, x: Tensor, target: Tensor, reduction: str) -> Tensor:
    difference = x - target
    return difference * (g * (2.0 / max(difference.numel(), 1)) if reduction == "mean" else g * 2.0)


_mse_loss = structured(
    "mse_loss",
    inputs=("x", "target"),
    attrs=("reduction",),
    dtype=rules.floating,
    ref=_mse_ref,
    vjp=(_mse_slope, lambda g, x, target, reduction: -_mse_slope(g, x, target, reduction)),
    composite=lambda x, target, *, reduction: _reduced((x - target).square(), reduction),
    native=lambda line, x, target, reduction: lib.tl_mse(x._array, target._array, REDUCTIONS[reduction], line),
    decode=lambda node: {"reduction": _REDUCTION_NAMES[lib.tl_node_int(node, 0)]},
    samples=[sample(s, s, reduction=r) for s in [(), (5,), (3, 4), (2, 1, 67)] for r in REDUCTIONS]
    + [sample((0, 3), (0, 3), reduction="sum")],
    errors=[error((3,), (3,), reduction="avg", raises=ValueError, match="reduction")],
)


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Mean squared error ``mean((input - target)^2)``.

    Shapes:
        input: (...), target: the same  ->  () for "mean" and "sum", (...) for "none". Other shapes are broadcast with a warning.

    >>> tl.mse_loss(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 4.0])).item()
    2.0
    """
    try:
        if made := lib.tl_mse(input._array, target._array, REDUCTIONS[reduction], caller()):
            return wrap(made)
    except SLOW:
        pass
    _check_reduction("mse_loss", reduction)
    return _mse_loss(input, target, reduction=reduction)


def _pair_samples(low: float, high: float) -> list[Any]:
    return [sample(Draw((3, 4), low, high), Draw((3, 4), 0.0, 1.0), reduction=r) for r in REDUCTIONS]


@composite(
    "l1_loss",
    dtype=_floats_only("l1_loss"),
    inputs=("input", "target"),
    attrs=("reduction",),
    ref=lambda xp, input, target, *, reduction: _reduced_ref(xp.abs(input - target), reduction),
    samples=lambda: _pair_samples(1.5, 2.0),
)
def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Mean absolute error ``mean(|input - target|)``.

    >>> tl.l1_loss(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 4.0])).item()
    1.0
    """
    _check_reduction("l1_loss", reduction)
    _check_float("l1_loss", input)
    return _reduced((input - target).abs(), reduction)


def _reduced_ref(loss: Any, reduction: str) -> Any:
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()


def _check_same(name: str, input: Tensor, target: Tensor) -> None:
    _check_float(name, input)
    if input.shape != target.shape:
        raise ShapeError(f"{name}: target has shape {target.shape}, expected input's shape {input.shape}.")


@composite(
    "binary_cross_entropy",
    dtype=_floats_only("binary_cross_entropy"),
    inputs=("input", "target"),
    attrs=("reduction",),
    ref=lambda xp, input, target, *, reduction: _reduced_ref(
        -(target * xp.log(input) + (1 - target) * xp.log1p(-input)), reduction
    ),
    samples=lambda: _pair_samples(0.1, 0.9),
    errors=[error((3,), (4,), raises=ValueError, match=r"target has shape \(4,\)")],
)
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """``-(target log(input) + (1 - target) log(1 - input))`` for probabilities `input`; logarithms are limited to -100.

    >>> round(tl.binary_cross_entropy(tl.tensor([0.5]), tl.tensor([1.0])).item(), 4)  # log(2)
    0.6931
    """
    _check_reduction("binary_cross_entropy", reduction)
    _check_same("binary_cross_entropy", input, target)
    loss = -(target * input.log().clamp(min=-100.0) + (1 - target) * (-input).log1p().clamp(min=-100.0))
    return _reduced(loss if weight is None else loss * weight, reduction)


@composite(
    "binary_cross_entropy_with_logits",
    dtype=_floats_only("binary_cross_entropy_with_logits"),
    inputs=("input", "target"),
    attrs=("reduction",),
    ref=lambda xp, input, target, *, reduction: _reduced_ref(
        (1 - target) * input + xp.logaddexp(input * 0, -input), reduction
    ),
    samples=lambda: _pair_samples(-4.0, 4.0),
    errors=[error((3,), (4,), raises=ValueError, match=r"target has shape \(4,\)")],
)
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of ``sigmoid(input)``, without overflow; `pos_weight` scales the loss of the positive class.

    >>> round(tl.binary_cross_entropy_with_logits(tl.tensor([0.0]), tl.tensor([1.0])).item(), 4)  # log(2)
    0.6931
    """
    _check_reduction("binary_cross_entropy_with_logits", reduction)
    _check_same("binary_cross_entropy_with_logits", input, target)
    positive = 1.0 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * input - positive * ops.activations.logsigmoid(input)
    return _reduced(loss if weight is None else loss * weight, reduction)
