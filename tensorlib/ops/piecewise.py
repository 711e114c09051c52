"""Activations in pieces: each has kinks, where the gradient is PyTorch's. relu is in activations.py.

Their settings are operands of the kernels, as the bounds of `clamp` are: numbers, to which no gradient flows.
"""

from __future__ import annotations

import math
from typing import Any

from tensorlib.errors import ShapeError
from tensorlib.ops import rules
from tensorlib.ops.comparison import ge, gt, le
from tensorlib.ops.creation import empty_like
from tensorlib.ops.declare import composite, elementwise
from tensorlib.ops.elementwise import where
from tensorlib.ops.selection import clamp_max
from tensorlib.ops.table import Sample, binary, error, unary
from tensorlib.ops.transcendental import exp, expm1, tanh
from tensorlib.tensor import Tensor

__all__ = [
    "celu", "elu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "prelu", "relu6", "rrelu", "selu", "softshrink",
    "tanhshrink", "threshold",
]  # fmt: skip
METHODS = ("hardshrink", "prelu")
INPLACE: tuple[str, ...] = ()

_SPECIAL = (0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, 30.0, -30.0, math.inf, -math.inf, math.nan)
_KINKED = unary(-5.0, 5.0, special=_SPECIAL)


def _with(*settings: tuple[float, ...]) -> Any:
    """The samples once per choice of settings."""
    return lambda: [Sample((*s.args, *values), {}) for values in settings for s in _KINKED()]


def _named(attr: str, *values: float) -> Any:
    return lambda: [Sample(s.args, {attr: value}) for value in values for s in _KINKED()]


# ---- limited ----

_hardtanh = elementwise(
    "hardtanh",
    inputs=("x", "min_val", "max_val"),
    dtype=rules.floating,
    ref=lambda xp, x, min_val, max_val: xp.minimum(xp.maximum(x, min_val), max_val),
    partials=(lambda min_val, max_val, out, g: where(le(out, min_val) | ge(out, max_val), 0, g), None, None),
    samples=_with((-1.0, 1.0), (-0.5, 3.0)),
)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`input` limited to [min_val, max_val]; the gradient is 0 at both ends.

    >>> tl.hardtanh(tl.tensor([-2.0, 0.5])).tolist()
    [-1.0, 0.5]
    """
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is above max_val {max_val}.")
    return _hardtanh(input, float(min_val), float(max_val))


relu6 = elementwise(
    "relu6",
    dtype=rules.floating,
    ref=lambda xp, x: xp.minimum(xp.maximum(x, 0), 6).astype(x.dtype),
    partials=(lambda out, g: where(le(out, 0) | ge(out, 6), 0, g),),
    samples=_KINKED,
    doc="""`x` limited to [0, 6].

    >>> tl.relu6(tl.tensor([-1.0, 8.0])).tolist()
    [0.0, 6.0]
    """,
)
hardsigmoid = elementwise(
    "hardsigmoid",
    dtype=rules.floating,
    ref=lambda xp, x: xp.clip(x + 3, 0, 6) / 6,
    partials=(lambda x, g: where(gt(x, -3) & gt(3, x), g / 6, 0),),
    samples=_KINKED,
    doc="""``relu6(x + 3) / 6``: a piecewise linear sigmoid.

    >>> tl.hardsigmoid(tl.tensor([-3.0, 0.0, 3.0])).tolist()
    [0.0, 0.5, 1.0]
    """,
)
hardswish = elementwise(
    "hardswish",
    dtype=rules.floating,
    ref=lambda xp, x: x * (xp.clip(x + 3, 0, 6) / 6),
    partials=(lambda x, g: where(ge(x, 3), g, where(le(x, -3), 0, g * (x / 3 + 0.5))),),
    samples=_KINKED,
    doc="""``x * hardsigmoid(x)``.

    Reference: Howard et al. 2019.

    >>> tl.hardswish(tl.tensor([-1.5, 0.0, 3.0])).tolist()
    [-0.375, 0.0, 3.0]
    """,
)

# ---- straight below zero ----

_prelu = elementwise(
    "prelu",
    inputs=("x", "weight"),
    dtype=rules.floating,
    ref=lambda xp, x, weight: xp.where(x > 0, x, x * weight),
    partials=(lambda x, weight, g: where(gt(x, 0), g, g * weight), lambda x, g: where(gt(x, 0), 0, g * x)),
    samples=binary(special=_SPECIAL),
)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """`input` where it is positive, else ``weight * input``, with a slope that is learnt: one for all, or one for each channel.

    Shapes:
        input: (N, C, ...), weight: (C,), (1,) or ()  ->  out: as input

    Reference: He et al. 2015.

    >>> tl.prelu(tl.tensor([[-1.0, -2.0, 3.0]]), tl.tensor([0.5, 0.25, 0.0])).tolist()
    [[-0.5, -0.5, 3.0]]
    """
    if weight.ndim > 1:
        raise ShapeError(f"prelu: weight must be one number or have shape (C,), got {weight.shape}.")
    if weight.numel() == 1:
        return _prelu(input, weight.reshape(()) if weight.ndim > input.ndim else weight)
    if input.ndim < 2 or input.shape[1] != weight.shape[0]:
        raise ShapeError(
            f"prelu: weight of shape {weight.shape} does not fit input of shape {input.shape}; channels are dimension 1."
        )
    return _prelu(input, weight.reshape((-1,) + (1,) * (input.ndim - 2)))


@composite(
    "leaky_relu",
    inputs=("input",),
    attrs=("negative_slope",),
    ref=lambda xp, x, *, negative_slope: xp.where(x > 0, x, x * negative_slope),
    samples=_named("negative_slope", 0.01, 0.2),
)
def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`input` where it is positive, else ``negative_slope * input``.

    >>> tl.leaky_relu(tl.tensor([-1.0, 2.0]), 0.5).tolist()
    [-0.5, 2.0]
    """
    return _prelu(input, float(negative_slope))


def rrelu(input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Tensor:
    """`leaky_relu` whose slopes are drawn from [lower, upper) for each element in training, and their mean otherwise.

    Reference: Xu et al. 2015.

    >>> tl.rrelu(tl.tensor([-1.0, 2.0]), 0.25, 0.75).tolist()
    [-0.5, 2.0]
    """
    if not lower <= upper:
        raise ValueError(f"rrelu: lower {lower} is above upper {upper}.")
    return _prelu(input, empty_like(input).uniform_(lower, upper) if training else (lower + upper) / 2)


# ---- bent below zero ----

_elu = elementwise(
    "elu",
    inputs=("x", "alpha"),
    dtype=rules.floating,
    ref=lambda xp, x, alpha: xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0))),
    partials=(lambda x, alpha, g: where(gt(x, 0), g, g * alpha * exp(clamp_max(x, 0))), None),
    samples=_with((1.0,), (0.5,)),
)


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`input` where it is positive, else ``alpha * (exp(input) - 1)``.

    Reference: Clevert et al. 2016.

    >>> tl.elu(tl.tensor([0.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return _elu(input, float(alpha))


@composite(
    "celu",
    inputs=("input",),
    attrs=("alpha",),
    ref=lambda xp, x, *, alpha: xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0) / alpha)),
    samples=_named("alpha", 1.0, 0.5),
    errors=[error((3,), alpha=0.0, raises=ValueError, match="celu: alpha must not be 0")],
)
def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu` of ``input / alpha``, times `alpha`: its slope is continuous for every alpha.

    Reference: Barron 2017.

    >>> tl.celu(tl.tensor([0.0, 2.0]), 0.5).tolist()
    [0.0, 2.0]
    """
    if alpha == 0:
        raise ValueError("celu: alpha must not be 0.")
    return _elu(input, 1.0) if alpha == 1 else where(gt(input, 0), input, expm1(clamp_max(input, 0) / alpha) * alpha)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
selu = elementwise(
    "selu",
    dtype=rules.floating,
    ref=lambda xp, x: _SELU_SCALE * xp.where(x > 0, x, _SELU_ALPHA * xp.expm1(xp.minimum(x, 0))),
    # Below zero the slope is scale * alpha * exp(x): written in `out`, so `x` is not kept alive.
    partials=(lambda out: where(gt(out, 0), _SELU_SCALE, out + _SELU_SCALE * _SELU_ALPHA),),
    samples=_KINKED,
    doc="""`elu` with the scale and alpha that keep mean 0 and variance 1 from layer to layer.

    Reference: Klambauer et al. 2017.

    >>> round(tl.selu(tl.tensor(1.0)).item(), 4)
    1.0507
    """,
)

# ---- nothing around zero ----

_hardshrink = elementwise(
    "hardshrink",
    inputs=("x", "lambd"),
    dtype=rules.floating,
    ref=lambda xp, x, lambd: xp.where((x >= -lambd) & (x <= lambd), 0, x).astype(x.dtype),
    partials=(lambda x, lambd, g: where(ge(x, -lambd) & le(x, lambd), 0, g), None),
    samples=_with((0.5,), (1.0,)),
)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """`input`, but 0 in [-lambd, lambd].

    >>> tl.hardshrink(tl.tensor([-2.0, 0.5, 0.75])).tolist()
    [-2.0, 0.0, 0.75]
    """
    return _hardshrink(input, float(lambd))


_softshrink = elementwise(
    "softshrink",
    inputs=("x", "lambd"),
    dtype=rules.floating,
    ref=lambda xp, x, lambd: xp.where(x > lambd, x - lambd, xp.where(x < -lambd, x + lambd, x * 0)),
    partials=(lambda out, g: where(out == 0, 0, g), None),
    samples=_with((0.5,), (1.0,)),
)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """`input` moved towards 0 by `lambd`, and 0 where that would cross it.

    >>> tl.softshrink(tl.tensor([-2.0, 0.5, 0.75])).tolist()
    [-1.5, 0.0, 0.25]
    """
    if lambd < 0:
        raise ValueError(f"softshrink: lambd must not be negative, got {lambd}.")
    return _softshrink(input, float(lambd))


@composite("tanhshrink", inputs=("input",), ref=lambda xp, x: x - xp.tanh(x), samples=_KINKED)
def tanhshrink(input: Tensor) -> Tensor:
    """``input - tanh(input)``.

    >>> round(tl.tanhshrink(tl.tensor(1.0)).item(), 4)
    0.2384
    """
    return input - tanh(input)


_threshold = elementwise(
    "threshold",
    inputs=("x", "threshold", "value"),
    dtype=rules.floating,
    ref=lambda xp, x, threshold, value: xp.where(x <= threshold, value, x).astype(x.dtype),
    partials=(lambda x, threshold, g: where(le(x, threshold), 0, g), None, None),
    samples=_with((1.0, -20.0), (-0.5, 2.0)),
)


def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """`input` where it is above `threshold`, else `value`.

    >>> tl.threshold(tl.tensor([-1.0, 0.5, 2.0]), 0.5, 9.0).tolist()
    [9.0, 9.0, 2.0]
    """
    return _threshold(input, float(threshold), float(value))
