"""Losses that pair each element of an input with one of a target: mse_loss, binary_cross_entropy and their like, on one kernel family.

Each is stated three times: for one element in differentiable operations (the definition), for one element over an array module, and as its
slopes. A weight, the reduction and the kernel are common to all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tensorlib import ops
from tensorlib.dtypes import PROMOTION
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import structured, to_dtype
from tensorlib.ops.fused import SLOW, caller, handle
from tensorlib.ops.table import BATCH, NATIVE_NUMBERS, Draw, Sample, error, sample
from tensorlib.tensor import wrap

if TYPE_CHECKING:
    from tensorlib.dtypes import DType
    from tensorlib.tensor import Tensor

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "huber_loss", "kl_div", "l1_loss", "mse_loss", "smooth_l1_loss",
]  # fmt: skip
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # C's numbers
REDUCTION_NAMES = tuple(REDUCTIONS)
_loss = lib.tl_pair_loss


# ---- what all losses share ----


def check_reduction(name: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")


def floats_only(name: str) -> rules.DTypeRule:
    """Operands as they are; scores and probabilities must be floats."""

    def rule(common: DType) -> tuple[DType | None, DType | None]:
        if common.category != 2:
            raise DTypeError(f"{name}: input must be a float tensor, got {common.name}.")
        return None, None

    return rule


def reduced(loss: Any, reduction: str) -> Any:
    """`loss`, its mean or its sum; of a Tensor or an array."""
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


def same_dtype(first: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """All converted to the dtype that they promote to."""
    operands, kind = (first, *others), first.dtype
    for x in others:
        kind = kind if x is None else PROMOTION[kind, x.dtype]
    return tuple(x if x is None else to_dtype(x, kind) for x in operands)


def seed(g: Tensor, shape: tuple[int, ...], reduction: str) -> Tensor:
    """The gradient of each element's loss, from that of the reduction."""
    count = 1
    for n in shape:
        count *= n
    return g * (1 / max(count, 1)) if reduction == "mean" else g


# ---- the family ----


def _pair(
    name: str,
    *,
    each: Callable[..., Any],
    ref: Callable[..., Any],
    slopes: tuple[Callable[..., Any], ...],
    param: str | None = None,
    samples: Any,
    errors: Any = (),
) -> Any:
    """Declare one. `each`, `ref` and the slopes take what they name: input, target, pos_weight and the parameter; `ref` also xp."""
    positive = ("pos_weight",) * (len(slopes) == 3)
    number, of_param = NATIVE_NUMBERS[name], () if param is None else (param,)

    def definition(input: Tensor, target: Tensor, weight: Any = None, *more: Any, reduction: str, **attrs: Any) -> Any:
        loss = each(input, target, *more, **attrs)
        return reduced(loss if weight is None else loss * weight, reduction)

    def reference(xp: Any, input: Any, target: Any, weight: Any, *more: Any, reduction: str, **attrs: Any) -> Any:
        loss = ref(xp, input, target, *more, **attrs)
        return reduced(loss if weight is None else loss * weight, reduction)

    def native(line: int, input: Tensor, target: Tensor, weight: Any, *more: Any, reduction: str, **attrs: Any) -> Any:
        value = float(attrs[param]) if param else 0.0
        return _loss(
            number, input._array, target._array, handle(weight), handle(*more or (None,)), value, REDUCTIONS[reduction], line
        )  # fmt: skip

    def rule(name: str, slope: Callable[..., Any]) -> Callable[..., Any]:
        """The gradient by the operand `name`; its shape is named too, so that the engine sums over what was broadcast."""
        names = slope.__code__.co_varnames[: slope.__code__.co_argcount]

        def gradient(g: Tensor, input_shape: Any, weight: Any, reduction: str, **values: Any) -> Tensor:
            out = slope(**{n: values[n] for n in names}) * seed(g, input_shape, reduction)
            return out if weight is None else out * weight

        gradient.needs = ("g", "input_shape", f"{name}_shape", "weight", "reduction", *names)  # type: ignore[attr-defined]
        return gradient

    def of_weight(g: Tensor, input: Tensor, target: Tensor, reduction: str, **values: Any) -> Tensor:
        more = [values[n] for n in positive]
        return each(input, target, *more, **{n: values[n] for n in of_param}) * seed(g, input.shape, reduction)

    of_weight.needs = ("g", "input", "target", "weight_shape", "reduction", *positive, *of_param)  # type: ignore[attr-defined]
    by_slope = [rule(n, slope) for n, slope in zip(("input", "target", *positive), slopes, strict=True)]

    def decode(node: int) -> dict[str, Any]:
        value = lib.tl_node_real(node, 0)
        named = {} if param is None else {param: bool(value) if param == "log_target" else value}
        return {"reduction": REDUCTION_NAMES[lib.tl_node_int(node, 0)], **named}

    return structured(
        name,
        inputs=("input", "target", "weight", *positive),
        attrs=("reduction", *of_param),
        dtype=floats_only(name),
        ref=reference,
        vjp=(*by_slope[:2], of_weight, *by_slope[2:]),
        composite=definition,
        native=native,
        decode=decode,
        samples=samples,
        rowwise=lambda: [
            _as_rows(next(s for s in samples() if s.attrs["reduction"] == "none"), *more) for more in [(67,), ()]
        ],
        errors=errors,
        autocast="float32",
    )


def _samples(
    low: float, high: float, targets: tuple[float, float] = (0.05, 0.95), *, spreads: bool = True, **param: Any
) -> Callable[[], Any]:
    """Every reduction, and weights; where `spreads`, they may broadcast, and a weighted mean counts elements."""

    def make() -> list[Any]:
        def one(shape: tuple[int, ...], weight: Any, reduction: str) -> Any:
            return sample(Draw(shape, low, high), Draw(shape, *targets), weight, reduction=reduction, **param)

        made = [one(s, None, r) for s in [(), (5,), (3, 4), (2, 1, 67)] for r in REDUCTIONS]
        made += [one((0, 3), None, "sum")]
        weighted: list[tuple[tuple[int, ...], str]] = [((3, 4), "none"), ((3, 4), "sum")]
        weighted += [((4,), "mean"), ((3, 1), "sum"), ((), "mean")] if spreads else []
        return made + [one((3, 4), Draw(shape, 0.5, 2.0), r) for shape, r in weighted]

    return make


def _as_rows(s: Sample, *more: int) -> Sample:
    return replace(s, args=tuple(replace(d, shape=(BATCH, *more)) if isinstance(d, Draw) else d for d in s.args))


_SAME = error((3,), (4,), raises=ValueError, match=r"target has shape \(4,\)")
_ERRORS = (_SAME, error((3,), (3,), reduction="avg", raises=ValueError, match="reduction must be"))


def _same_shape(name: str, input: Tensor, target: Tensor, *, warn: bool = True) -> tuple[Tensor, Tensor]:
    """Broadcast against each other, with a warning where it is seldom meant."""
    if input.shape == target.shape:
        return input, target
    for n, m in zip(reversed(input.shape), reversed(target.shape), strict=False):
        if n != m and 1 not in (n, m):
            raise ShapeError(f"{name}: target has shape {target.shape}, expected input's shape {input.shape}.")
    if warn:
        warnings.warn(
            f"{name}: input of shape {input.shape} and target of shape {target.shape} differ and are broadcast.",
            stacklevel=3,
        )
    first, second = ops.shape.broadcast_tensors(input, target)
    return first, second


def _check_same(name: str, input: Tensor, target: Tensor) -> None:
    floats_only(name)(input.dtype)
    if input.shape != target.shape:
        raise ShapeError(f"{name}: target has shape {target.shape}, expected input's shape {input.shape}.")


def _check_spreads(name: str, role: str, weight: Tensor | None, shape: tuple[int, ...]) -> None:
    if weight is None:
        return
    sizes = zip(reversed(weight.shape), reversed(shape), strict=False)
    if weight.ndim > len(shape) or any(n not in (1, m) for n, m in sizes):
        raise ShapeError(f"{name}: {role} has shape {weight.shape}, which does not broadcast to input's {shape}.")


# ---- regression ----


def _half_square(d: Any, size: Any, bound: float) -> tuple[Any, Any]:
    """Both branches of huber_loss: within the bound, and beyond."""
    return 0.5 * d * d, bound * (size - 0.5 * bound)


def _huber(input: Tensor, target: Tensor, delta: float) -> Tensor:
    d = input - target
    return ops.elementwise.where(d.abs() < delta, *_half_square(d, d.abs(), delta))


def _huber_ref(xp: Any, input: Any, target: Any, *, delta: float) -> Any:
    d = input - target
    return xp.where(xp.abs(d) < delta, *_half_square(d, xp.abs(d), delta))


_mse_loss = _pair(
    "mse_loss",
    each=lambda input, target: (input - target).square(),
    ref=lambda xp, input, target: xp.square(input - target),
    slopes=(lambda input, target: (input - target) * 2.0, lambda input, target: (target - input) * 2.0),
    samples=_samples(-2.0, 2.0, (-2.0, 2.0), spreads=False),
    errors=_ERRORS,
)
_l1_loss = _pair(
    "l1_loss",
    each=lambda input, target: (input - target).abs(),
    ref=lambda xp, input, target: xp.abs(input - target),
    slopes=(lambda input, target: (input - target).sign(), lambda input, target: (target - input).sign()),
    samples=_samples(1.0, 2.0, spreads=False),
    errors=_ERRORS,
)
_huber_loss = _pair(
    "huber_loss",
    each=_huber,
    ref=_huber_ref,
    slopes=(
        lambda input, target, delta: (input - target).clamp(-delta, delta),
        lambda input, target, delta: (target - input).clamp(-delta, delta),
    ),
    param="delta",
    samples=_samples(-2.0, 2.0, (-2.0, 2.0), spreads=False, delta=0.75),
    errors=[*_ERRORS, error((3,), (3,), delta=0.0, raises=ValueError, match="delta must be positive")],
)
_smooth_l1_loss = _pair(
    "smooth_l1_loss",
    each=lambda input, target, beta: _huber(input, target, beta) / beta,
    ref=lambda xp, input, target, *, beta: _huber_ref(xp, input, target, delta=beta) / beta,
    slopes=(
        lambda input, target, beta: (input - target).clamp(-beta, beta) / beta,
        lambda input, target, beta: (target - input).clamp(-beta, beta) / beta,
    ),
    param="beta",
    samples=_samples(-2.0, 2.0, (-2.0, 2.0), spreads=False, beta=0.5),
    errors=[*_ERRORS, error((3,), (3,), beta=-1.0, raises=ValueError, match="beta must not be negative")],
)


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """Mean squared error ``mean((input - target)^2)``.

    Shapes:
        input: (...), target: the same  ->  () for "mean" and "sum", (...) for "none". Other shapes are broadcast with a warning.
        weight: (...), a factor for each element; "mean" then divides by the sum of the weights

    >>> tl.mse_loss(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 4.0])).item()
    2.0
    """
    if weight is None:
        try:
            if made := _loss(_MSE, input._array, target._array, 0, 0, 0.0, REDUCTIONS[reduction], caller()):
                return wrap(made)
        except SLOW:
            pass
    return _regression(_mse_loss, input, target, weight, reduction, {})


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """Mean absolute error ``mean(|input - target|)``.

    Shapes: as in `mse_loss`.

    >>> tl.l1_loss(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 4.0])).item()
    1.0
    """
    return _regression(_l1_loss, input, target, weight, reduction, {})


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Half the squared difference d where ``|d| < delta``, else ``delta * (|d| - delta / 2)``: less swayed by outliers than mse_loss.

    Shapes: as in `mse_loss`, but that a weighted "mean" divides by the number of elements.

    Reference: Huber 1964.

    >>> tl.huber_loss(tl.tensor([0.0, 0.0]), tl.tensor([1.0, 3.0]), reduction="none").tolist()
    [0.5, 2.5]
    """
    if not delta > 0:
        raise ShapeError(f"huber_loss: delta must be positive, got {delta}.")
    return _regression(_huber_loss, input, target, weight, reduction, {"delta": float(delta)}, by_weights=False)


def smooth_l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """``huber_loss(delta=beta) / beta``: the absolute difference, smooth at 0; with ``beta=0`` it is l1_loss.

    Shapes: as in `mse_loss`.

    Reference: Girshick 2015.

    >>> tl.smooth_l1_loss(tl.tensor([0.0, 0.0]), tl.tensor([1.0, 3.0]), reduction="none").tolist()
    [0.5, 2.5]
    """
    if beta < 0:
        raise ShapeError(f"smooth_l1_loss: beta must not be negative, got {beta}.")
    if beta == 0:
        return _regression(_l1_loss, input, target, None, reduction, {})
    return _regression(_smooth_l1_loss, input, target, None, reduction, {"beta": float(beta)})


_MSE = _mse_loss.op.number


def _regression(
    entry: Any,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    attrs: Any,
    by_weights: bool = True,
) -> Tensor:
    name = entry.op.name
    check_reduction(name, reduction)
    input, target = _same_shape(name, *same_dtype(input, target))
    if weight is not None and weight.shape != input.shape:
        raise ShapeError(f"{name}: weight has shape {weight.shape}, expected input's shape {input.shape}.")
    if weight is not None and reduction == "mean" and by_weights:
        out: Tensor = entry(input, target, weight, reduction="sum", **attrs) / weight.sum()
    else:
        out = entry(input, target, weight, reduction=reduction, **attrs)
    return out


# ---- distributions ----


def _kl(input: Tensor, target: Tensor, log_target: bool) -> Tensor:
    if log_target:
        return target.exp() * (target - input)
    return ops.transcendental.xlogy(target, target) - target * input


def _kl_ref(xp: Any, input: Any, target: Any, *, log_target: bool) -> Any:
    if log_target:
        return xp.exp(target) * (target - input)
    entropy = xp.where(target == 0, xp.zeros_like(target), target * xp.log(xp.where(target == 0, 1, target)))
    return entropy - target * input


_kl_div = _pair(
    "kl_div",
    each=_kl,
    ref=_kl_ref,
    slopes=(
        lambda target, log_target: -(target.exp() if log_target else target),
        lambda input, target, log_target: (
            target.exp() * (target - input + 1) if log_target else target.log() + 1 - input
        ),
    ),
    param="log_target",
    samples=lambda: [
        *_samples(-3.0, 0.0, log_target=False)(),
        *_samples(-3.0, 0.0, (-3.0, 0.0), log_target=True)(),
        sample(Draw((4,), -3.0, 0.0), Draw((4,), values=[0.0, 1.0, 0.5, 0.0]), None, reduction="sum", log_target=False),
    ],
    errors=[_SAME, error((3,), (3,), reduction="avg", raises=ValueError, match="reduction must be .*'batchmean'")],
)


def kl_div(input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """The Kullback-Leibler divergence of `input` (logarithms of probabilities) from `target`, ``target * (log(target) - input)`` per element.

    Shapes:
        input: (...), target: the same, probabilities or (log_target) their logarithms
        returns: () for "mean", "batchmean" and "sum", (...) for "none"

    "batchmean" divides the sum by the first dimension's size, as the definition has it; "mean" divides by the number of elements.

    >>> tl.kl_div(tl.tensor([[0.5, 0.5]]).log(), tl.tensor([[0.5, 0.5]]), reduction="batchmean").item()
    0.0
    """
    if reduction != "batchmean" and reduction not in REDUCTIONS:
        raise ValueError(f"kl_div: reduction must be 'mean', 'batchmean', 'sum' or 'none', got {reduction!r}.")
    floats_only("kl_div")(input.dtype)
    input, target = _same_shape("kl_div", *same_dtype(input, target), warn=False)
    out: Tensor = _kl_div(
        input, target, None, reduction="sum" if reduction == "batchmean" else reduction, log_target=bool(log_target)
    )
    return out / input.shape[0] if reduction == "batchmean" and input.ndim else out


# ---- binary targets ----


def _bce(input: Tensor, target: Tensor) -> Tensor:
    return (target - 1) * (-input).log1p().clamp(min=-100.0) - target * input.log().clamp(min=-100.0)


def _bce_ref(xp: Any, input: Any, target: Any) -> Any:
    outside = ~((input >= 0) & (input <= 1))
    if bool(outside.any()):
        raise ValueError(f"binary_cross_entropy: input must lie in [0, 1], got {float(input[outside].flat[0])}.")
    return (target - 1) * xp.maximum(xp.log1p(-input), -100) - target * xp.maximum(xp.log(input), -100)


_binary_cross_entropy = _pair(
    "binary_cross_entropy",
    each=_bce,
    ref=_bce_ref,
    slopes=(
        lambda input, target: (input - target) / ((1 - input) * input).clamp(min=1e-12),
        lambda input: (-input).log1p().clamp(min=-100.0) - input.log().clamp(min=-100.0),
    ),
    samples=lambda: [
        *_samples(0.1, 0.9)(),
        sample(Draw((4,), special=(0.0, 1.0, 0.0, 1.0)), Draw((4,), values=[0.0, 1.0, 1.0, 0.0]), None, reduction="none"),
    ],
    errors=[
        _SAME,
        *_ERRORS,
        error((3,), (3,), (2,), raises=ValueError, match=r"weight has shape \(2,\)"),
        error(Draw((2,), values=[0.5, 1.5]), (2,), raises=ValueError, match=r"input must lie in \[0, 1\], got 1.5"),
    ],
)  # fmt: skip


def _with_logits(input: Tensor, target: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    below = ops.activations.softplus(-input)
    return (1 - target) * input + (below if pos_weight is None else (1 + (pos_weight - 1) * target) * below)


def _with_logits_ref(xp: Any, input: Any, target: Any, pos_weight: Any = None) -> Any:
    below = xp.logaddexp(input * 0, -input)
    return (1 - target) * input + (below if pos_weight is None else (1 + (pos_weight - 1) * target) * below)


def _with_logits_slope(input: Tensor, target: Tensor, pos_weight: Tensor | None) -> Tensor:
    s = input.sigmoid()
    return s - target if pos_weight is None else (1 + (pos_weight - 1) * target) * s - pos_weight * target


_binary_cross_entropy_with_logits = _pair(
    "binary_cross_entropy_with_logits",
    each=_with_logits,
    ref=_with_logits_ref,
    slopes=(
        _with_logits_slope,
        lambda input, pos_weight: (
            -input if pos_weight is None else (pos_weight - 1) * ops.activations.softplus(-input) - input
        ),
        lambda input, target: target * ops.activations.softplus(-input),
    ),
    samples=lambda: (
        [
            sample(*s.args, *more, **s.attrs)
            for s in _samples(-4.0, 4.0)()
            for more in ((None,), (Draw((s.args[0].shape or (1,))[-1:], 0.5, 3.0),))
            if s.args[0].shape or more == (None,)
        ]
        + [sample(Draw((4,), special=(100.0, -100.0, 1e4, -1e4)), Draw((4,), 0.0, 1.0), None, None, reduction="none")]
    ),
    errors=[
        _SAME,
        *_ERRORS,
        error((3,), (3,), (2,), raises=ValueError, match=r"weight has shape \(2,\)"),
        error((3,), (3,), None, (2,), raises=ValueError, match=r"pos_weight .*\(2,\)"),
    ],
)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """``-(target log(input) + (1 - target) log(1 - input))`` for probabilities `input`; logarithms are limited to -100.

    Shapes:
        input: (...) in [0, 1], target: the same, weight: broadcasts to it  ->  () for "mean" and "sum", (...) for "none"

    >>> round(tl.binary_cross_entropy(tl.tensor([0.5]), tl.tensor([1.0])).item(), 4)  # log(2)
    0.6931
    """
    return _binary(_binary_cross_entropy, reduction, input, target, weight)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of ``sigmoid(input)``, without overflow; `pos_weight` scales the loss of the positive class.

    Shapes:
        input: (...), target: the same, weight and pos_weight: broadcast to it  ->  () for "mean" and "sum", (...) for "none"

    >>> round(tl.binary_cross_entropy_with_logits(tl.tensor([0.0]), tl.tensor([1.0])).item(), 4)  # log(2)
    0.6931
    """
    return _binary(_binary_cross_entropy_with_logits, reduction, input, target, weight, pos_weight)


def _binary(entry: Any, reduction: str, input: Tensor, target: Tensor, *weights: Tensor | None) -> Tensor:
    name = entry.op.name
    check_reduction(name, reduction)
    _check_same(name, input, target)
    for role, weight in zip(("weight", "pos_weight"), weights, strict=False):
        _check_spreads(name, role, weight, input.shape)
    made: Tensor = entry(*same_dtype(input, target, *weights), reduction=reduction)
    return made
