"""Losses over classes, with kernels of their own: cross_entropy and nll_loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tensorlib import ops
from tensorlib.dtypes import int64
from tensorlib.errors import DTypeError, IndexRangeError, ShapeError
from tensorlib.native import lib
from tensorlib.ops.declare import structured
from tensorlib.ops.fused import SLOW, caller, handle, log_softmax, log_softmax_ref, softmax
from tensorlib.ops.pairs import REDUCTION_NAMES, REDUCTIONS, check_reduction, floats_only, reduced, same_dtype, seed
from tensorlib.ops.table import BATCH, Draw, error, sample
from tensorlib.tensor import wrap

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["cross_entropy", "nll_loss"]
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()

# ---- classification ----


def _axis(x: Any) -> int:
    """The dimension of classes, of a Tensor or an array."""
    return 1 if x.ndim > 1 else 0


def _valid(xp: Any, target: Any, classes: int, ignore_index: int, name: str = "cross_entropy") -> tuple[Any, Any]:
    """(target with 0 where ignored, mask of what counts); raises where a target is out of range."""
    valid = target != ignore_index
    wrong = valid & ((target < 0) | (target >= classes))
    if bool(wrong.any()):
        got = int(target[wrong][0])
        raise IndexRangeError(
            f"{name}: target {got} is out of range; expected a class in [0, {classes}) or ignore_index {ignore_index}."
        )
    return xp.where(valid, target, 0), valid


def _cross_entropy_ref(
    xp: Any, x: Any, target: Any, weight: Any, *, ignore_index: int, reduction: str, label_smoothing: float
) -> Any:
    axis = _axis(x)
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
    axis = _axis(x)
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
    axis = _axis(x)
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
    axis = _axis(x)
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
    for smoothing in (0.0, 0.1):
        settings = {**fixed, "label_smoothing": smoothing}
        made.append(sample((2, 3, 4), _target((2, 4), 3, ignored=True), None, **settings))
        made.append(sample((2, 3, 67), _target((2, 67), 3), Draw((3,), 0.5, 2.0), **{**settings, "reduction": "none"}))
        made.append(sample((1, 5, 3, 6), _target((1, 3, 6), 5, ignored=True), Draw((5,), 0.5, 2.0), **settings))
    made.append(sample((2, 600, 3), _target((2, 3), 600), None, **fixed))
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


def _class_errors(name: str) -> list[Any]:
    def classes(*values: int) -> Draw:
        return Draw((len(values),), dtype="int64", values=values)

    return [
        error((2, 3), classes(0, 3), raises=IndexError, match=f"{name}: target 3 is out of range"),
        error((2, 3), classes(0, -1), raises=IndexError, match=f"{name}: target -1 is out of range"),
        error((2, 3), classes(0, 0, 0, 0), raises=ValueError, match=rf"{name}: target of shape \(4,\)"),
        error((2, 3), classes(0, 0), (2,), raises=ValueError, match=rf"{name}: weight has shape \(2,\)"),
        error((2, 3), classes(0, 0), reduction="avg", raises=ValueError, match=f"{name}: reduction"),
        error((2, 3), (2,), raises=TypeError, match=f"{name}: target"),
    ]


_cross_entropy = structured(
    "cross_entropy",
    autocast="float32",
    inputs=("x", "target", "weight"),
    attrs=("ignore_index", "reduction", "label_smoothing"),
    dtype=floats_only("cross_entropy"),
    ref=_cross_entropy_ref,
    vjp=(_cross_entropy_grad, None, None),
    composite=_cross_entropy_plain,
    native=_cross_entropy_native,
    decode=lambda node: {
        "ignore_index": lib.tl_node_int(node, 0),
        "reduction": REDUCTION_NAMES[lib.tl_node_int(node, 1)],
        "label_smoothing": lib.tl_node_real(node, 0),
    },
    samples=_cross_entropy_samples,
    rowwise=lambda: [
        sample(
            (BATCH, *c),
            Draw((BATCH, *c[1:]), 0, c[0], dtype="int64"),
            Draw(c[:1], 0.5, 2.0),
            ignore_index=-100,
            label_smoothing=s,
            reduction="none",
        )
        for c, s in [((10,), 0.0), ((67,), 0.1), ((3000,), 0.0), ((20, 50), 0.1)]
    ],
    errors=[
        *_class_errors("cross_entropy"),
        error((2, 3), (2, 3), label_smoothing=1.5, raises=ValueError, match="label_smoothing must be in"),
    ],
)


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
    check_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}.")
    settings = {"reduction": reduction, "label_smoothing": float(label_smoothing)}
    if target.dtype.is_floating_point and target.shape == input.shape:
        _check_scores("cross_entropy", input, weight)
        return _cross_entropy_soft(*same_dtype(input, target, weight), **settings)
    _check_classes("cross_entropy", input, target, weight)
    input, weight = same_dtype(input, weight)
    return _cross_entropy(input, target, weight, ignore_index=ignore_index, **settings)


def _check_classes(name: str, x: Tensor, target: Tensor, weight: Tensor | None) -> None:
    expected = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    if x.ndim == 0 or target.shape != expected:
        raise ShapeError(
            f"{name}: target of shape {target.shape} does not fit input of shape {x.shape}; expected target of shape "
            f"{expected if x.ndim else '(), and input with a dimension of classes'}."
        )
    if target.dtype.category != 1:
        raise DTypeError(f"{name}: target must be integer class numbers of shape {expected}, got {target.dtype.name}.")
    _check_scores(name, x, weight)


def _check_scores(name: str, x: Tensor, weight: Tensor | None) -> None:
    floats_only(name)(x.dtype)
    if x.ndim == 0:
        raise ShapeError(f"{name}: input must have a dimension of classes, got shape ().")
    classes = x.shape[_axis(x)]
    if weight is not None and weight.shape != (classes,):
        raise ShapeError(f"{name}: weight has shape {weight.shape}, expected one value for each of {classes} classes.")


# ---- probabilities as targets ----


def _shares(target: Any, weight: Any, label_smoothing: float) -> Any:
    """What each class counts: its smoothed probability times its weight. Of Tensors or arrays."""
    axis = _axis(target)
    classes = target.shape[axis]
    smoothed = target if label_smoothing == 0 else target * (1 - label_smoothing) + label_smoothing / classes
    return smoothed if weight is None else smoothed * weight.reshape((classes,) + (1,) * (target.ndim - 1 - axis))


def _soft_ref(xp: Any, x: Any, target: Any, weight: Any, *, reduction: str, label_smoothing: float) -> Any:
    shares = _shares(target, weight, label_smoothing)
    logp = log_softmax_ref(xp, x, dim=_axis(x))
    return reduced(-xp.where(shares == 0, 0, shares * logp).sum(axis=_axis(x), dtype=x.dtype), reduction)


def _soft_plain(x: Tensor, target: Tensor, weight: Any, *, reduction: str, label_smoothing: float) -> Tensor:
    terms = _shares(target, weight, label_smoothing) * log_softmax(x, _axis(x))
    return reduced(-terms.sum(_axis(x)), reduction)


def _soft_scale(g: Tensor, x: Tensor, reduction: str) -> Tensor:
    """g, so that it broadcasts to x."""
    if reduction == "none":
        return g.unsqueeze(_axis(x))
    return seed(g, x.shape[:1] + x.shape[2:] if x.ndim > 1 else (), reduction)


def _soft_grad(g: Tensor, x: Tensor, target: Tensor, weight: Any, reduction: str, label_smoothing: float) -> Tensor:
    shares = _shares(target, weight, label_smoothing)
    slope = softmax(x, _axis(x)) * shares.sum(_axis(x), keepdim=True) - shares
    return slope * _soft_scale(g, x, reduction)


def _soft_grad_target(g: Tensor, x: Tensor, weight: Any, reduction: str, label_smoothing: float) -> Tensor:
    shape = (-1,) + (1,) * (x.ndim - 1 - _axis(x))
    terms = log_softmax(x, _axis(x)) * ((label_smoothing - 1) * _soft_scale(g, x, reduction))
    return terms if weight is None else terms * weight.reshape(shape)


def _soft_grad_weight(g: Tensor, x: Tensor, target: Tensor, reduction: str, label_smoothing: float) -> Tensor:
    terms = _shares(target, None, label_smoothing) * log_softmax(x, _axis(x)) * -_soft_scale(g, x, reduction)
    return terms if x.ndim == 1 else terms.sum((0, *range(2, x.ndim)))


def _soft_samples() -> list[Any]:
    def one(shape: tuple[int, ...], weighted: bool, reduction: str, smoothing: float) -> Any:
        weight = Draw((shape[1 if len(shape) > 1 else 0],), 0.5, 2.0) if weighted else None
        return sample(shape, Draw(shape, 0.05, 0.9), weight, reduction=reduction, label_smoothing=smoothing)

    shapes = [(4, 5), (5,), (2, 3, 4), (2, 3, 2, 67), (5, 70)]
    made = [one(s, i % 2 == 0, r, 0.1 * (i % 3)) for i, s in enumerate(shapes) for r in REDUCTIONS]
    return [*made, one((0, 3), False, "sum", 0.0)]


_cross_entropy_soft = structured(
    "cross_entropy_soft",
    autocast="float32",
    inputs=("x", "target", "weight"),
    attrs=("reduction", "label_smoothing"),
    dtype=floats_only("cross_entropy"),
    ref=_soft_ref,
    vjp=(_soft_grad, _soft_grad_target, _soft_grad_weight),
    composite=_soft_plain,
    native=lambda line, x, target, weight, reduction, label_smoothing: lib.tl_cross_entropy(
        x._array, target._array, handle(weight), -100, REDUCTIONS[reduction], label_smoothing, line
    ),
    decode=lambda node: {
        "reduction": REDUCTION_NAMES[lib.tl_node_int(node, 1)],
        "label_smoothing": lib.tl_node_real(node, 0),
    },
    samples=_soft_samples,
    rowwise=[
        sample(Draw((BATCH, *c)), Draw((BATCH, *c), 0.0, 1.0), None, label_smoothing=0.1, reduction="none")
        for c in [(67,), (20, 50)]
    ],
    private=True,
)


# ---- nll_loss ----


def _nll_factors(target: Any, weight: Any, ignore_index: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(target with 0 where ignored, as int64; mask of what counts; the factor of each position)."""
    valid = target != ignore_index
    index = ops.elementwise.where(valid, target, ops.creation.zeros_like(target)).to(int64)
    if weight is None:
        return index, valid, valid.to(like.dtype)
    return index, valid, ops.positions.index_select(weight, 0, index.reshape(-1)).reshape(index.shape) * valid


def _nll_plain(x: Tensor, target: Tensor, weight: Any, *, ignore_index: int, reduction: str) -> Tensor:
    index, valid, factor = _nll_factors(target, weight, ignore_index, x)
    picked = ops.gather.gather(x, _axis(x), index.unsqueeze(_axis(x))).squeeze(_axis(x))
    loss = -ops.elementwise.where(valid, picked, ops.creation.zeros_like(picked)) * factor
    return loss.sum() / factor.sum() if reduction == "mean" else reduced(loss, reduction)


def _nll_ref(xp: Any, x: Any, target: Any, weight: Any, *, ignore_index: int, reduction: str) -> Any:
    axis = _axis(x)
    index, valid = _valid(xp, target, x.shape[axis], ignore_index, "nll_loss")
    if x.size == 0:
        return reduced(xp.zeros(target.shape, x.dtype), reduction)
    picked = xp.take_along_axis(x, xp.expand_dims(index, axis), axis).squeeze(axis)
    factor = xp.where(valid, 1 if weight is None else weight[index], 0).astype(x.dtype)
    loss = xp.where(valid, -picked, 0).astype(x.dtype) * factor
    if reduction == "none":
        return loss
    return loss.sum(dtype=x.dtype) if reduction == "sum" else loss.sum(dtype=x.dtype) / factor.sum(dtype=x.dtype)


def _nll_grad(
    g: Tensor, x_shape: tuple[int, ...], target: Tensor, weight: Any, ignore_index: int, reduction: str
) -> Tensor:
    axis = 1 if len(x_shape) > 1 else 0
    index, _, factor = _nll_factors(target, weight, ignore_index, g)
    values = -factor * (g / factor.sum() if reduction == "mean" else g)
    start = ops.creation.zeros(x_shape, dtype=g.dtype, device=g.device)
    return ops.gather.scatter_add(start, axis, index.unsqueeze(axis), values.unsqueeze(axis))


_nll_loss = structured(
    "nll_loss",
    autocast="float32",
    inputs=("x", "target", "weight"),
    attrs=("ignore_index", "reduction"),
    dtype=floats_only("nll_loss"),
    ref=_nll_ref,
    vjp=(_nll_grad, None, None),
    composite=_nll_plain,
    native=lambda line, x, target, weight, ignore_index, reduction: lib.tl_nll(
        x._array, target._array, handle(weight), ignore_index, REDUCTIONS[reduction], line
    ),
    decode=lambda node: {
        "ignore_index": lib.tl_node_int(node, 0),
        "reduction": REDUCTION_NAMES[lib.tl_node_int(node, 1)],
    },
    samples=lambda: (
        [
            sample(shape, target, weight, ignore_index=-100, reduction=reduction)
            for reduction in REDUCTIONS
            for shape, target, weight in [
                ((4, 5), _target((4,), 5), None),
                ((4, 5), _target((4,), 5, ignored=True), Draw((5,), 0.5, 2.0)),
                ((2, 3, 4), _target((2, 4), 3, ignored=True), None),
                ((3,), _target((), 3), Draw((3,), 0.5, 2.0)),
            ]
        ]
        + [sample((0, 3), Draw((0,), dtype="int64", values=[]), None, ignore_index=-100, reduction="sum")]
    ),
    rowwise=[
        sample((BATCH, *c), Draw((BATCH, *c[1:]), 0, c[0], dtype="int64"), None, ignore_index=-100, reduction="none")
        for c in [(67,), (20, 50), (2, 900)]
    ],
    errors=_class_errors("nll_loss"),
)


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Negative log-likelihood of classes, from log-probabilities: ``-weight[target] * input[target]``.

    Shapes: as in `cross_entropy`, with integer targets.

    >>> tl.nll_loss(tl.tensor([[-1.0, -2.0], [-3.0, -4.0]]), tl.tensor([0, 1])).item()
    2.5
    """
    check_reduction("nll_loss", reduction)
    _check_classes("nll_loss", input, target, weight)
    input, weight = same_dtype(input, weight)
    return _nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
