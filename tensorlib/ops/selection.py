"""Elementwise choices: the larger and the smaller, clamping, replacing."""

from __future__ import annotations

import math
from typing import Any

from tensorlib.ops import rules
from tensorlib.ops.comparison import eq, ge, gt, isfinite, isnan, logical_or, lt
from tensorlib.ops.declare import composite, elementwise
from tensorlib.ops.elementwise import Scalar, numeric, where
from tensorlib.ops.rows import RowMethods
from tensorlib.ops.table import BATCH, Draw, Sample, binary, sample, unary
from tensorlib.tensor import Tensor

__all__ = ["clamp", "clamp_max", "clamp_min", "clip", "fmax", "fmin", "heaviside", "maximum", "minimum", "nan_to_num"]
METHODS = tuple(__all__)
INPLACE = ("clamp", "clamp_max", "clamp_min", "clip", "heaviside", "nan_to_num")

_SPECIAL = (0.0, -0.0, 1.0, math.inf, -math.inf, math.nan)

# ---- the larger, the smaller ----


def _shared(loses: Tensor, tie: Tensor, g: Tensor) -> Tensor:
    """The gradient goes to the operand that does not lose; a tie is shared, and where one is NaN neither loses."""
    return where(tie, g * 0.5, where(loses, 0, g))


maximum = elementwise(
    "maximum",
    inputs=("x", "y"),
    dtype=rules.promoted,
    ref=lambda xp, x, y: xp.maximum(x, y),
    partials=(lambda x, y, g: _shared(lt(x, y), eq(x, y), g), lambda x, y, g: _shared(gt(x, y), eq(x, y), g)),
    samples=binary(special=_SPECIAL),
    doc="""The larger of `x` and `y`, NaN if either is. Where they are equal, each gets half of the gradient.

    Shapes:
        x, y: broadcast together  ->  out: the common shape

    >>> tl.maximum(tl.tensor([1.0, 5.0]), tl.tensor([3.0, 2.0])).tolist()
    [3.0, 5.0]
    """,
)
minimum = elementwise(
    "minimum",
    inputs=("x", "y"),
    dtype=rules.promoted,
    ref=lambda xp, x, y: xp.minimum(x, y),
    partials=(lambda x, y, g: _shared(gt(x, y), eq(x, y), g), lambda x, y, g: _shared(lt(x, y), eq(x, y), g)),
    samples=binary(special=_SPECIAL),
    doc="""The smaller of `x` and `y`, NaN if either is. Where they are equal, each gets half of the gradient.

    Shapes:
        x, y: broadcast together  ->  out: the common shape

    >>> tl.minimum(tl.tensor([1.0, 5.0]), tl.tensor([3.0, 2.0])).tolist()
    [1.0, 2.0]
    """,
)


def _first_max(x: Tensor, y: Tensor) -> Tensor:
    return logical_or(ge(x, y), isnan(y))


def _first_min(x: Tensor, y: Tensor) -> Tensor:
    return logical_or(ge(y, x), isnan(y))


fmax = elementwise(
    "fmax",
    inputs=("x", "y"),
    dtype=rules.promoted,
    ref=lambda xp, x, y: xp.fmax(x, y),
    partials=(lambda x, y, g: where(_first_max(x, y), g, 0), lambda x, y, g: where(_first_max(x, y), 0, g)),
    samples=binary(special=_SPECIAL),
    doc="""The larger of `x` and `y`, the other one where one is NaN. `x` gets the gradient of a tie.

    >>> tl.fmax(tl.tensor([1.0, float("nan")]), tl.tensor([3.0, 2.0])).tolist()
    [3.0, 2.0]
    """,
)
fmin = elementwise(
    "fmin",
    inputs=("x", "y"),
    dtype=rules.promoted,
    ref=lambda xp, x, y: xp.fmin(x, y),
    partials=(lambda x, y, g: where(_first_min(x, y), g, 0), lambda x, y, g: where(_first_min(x, y), 0, g)),
    samples=binary(special=_SPECIAL),
    doc="""The smaller of `x` and `y`, the other one where one is NaN. `x` gets the gradient of a tie.

    >>> tl.fmin(tl.tensor([1.0, float("nan")]), tl.tensor([3.0, 2.0])).tolist()
    [1.0, 2.0]
    """,
)

# ---- clamping ----

_BOUNDS = (-0.7, 0.9)
_clamp = elementwise(
    "clamp",
    inputs=("x", "low", "high"),
    dtype=numeric("clamp", "bool has no range to clamp to"),
    ref=lambda xp, x, low, high: xp.minimum(xp.maximum(x, low), high),
    partials=(
        lambda x, low, high, g: where(ge(x, low) & ge(high, x), g, 0),
        lambda x, low, high, g: where(lt(x, low) & lt(low, high), g, 0),
        lambda x, low, high, g: where(gt(x, high) | gt(low, high), g, 0),
    ),
    samples=lambda: [
        *(Sample((*s.args, *_BOUNDS), {}) for s in unary(special=_SPECIAL)()),
        sample((3, 4), Draw((4,), -1.0, 0.0), Draw((3, 1), 0.0, 1.0)),
        sample((5,), Draw((5,), -1.0, 1.0), 0.1),
        sample((2, 3), -math.inf, 0.5),
    ],
)


def clamp(input: Tensor, min: Tensor | Scalar | None = None, max: Tensor | Scalar | None = None) -> Tensor:
    """`input` limited to [min, max]; `max` wins where `min` exceeds it. The gradient passes where `input` is in the closed range.

    Shapes:
        input, min, max: broadcast together (the bounds may be numbers, or None)  ->  out: the common shape

    >>> tl.clamp(tl.tensor([-2.0, 0.5, 3.0]), -1, 1).tolist(), tl.clamp(tl.tensor([-2, 4]), min=0).tolist()
    ([-1.0, 0.5, 1.0], [0, 4])
    """
    if min is not None and max is not None:
        return _clamp(input, min, max)
    if min is not None:
        return _clamp(input, min, math.inf) if _is_float(input, min) else maximum(input, min)
    if max is not None:
        return _clamp(input, -math.inf, max) if _is_float(input, max) else minimum(input, max)
    raise TypeError("clamp: expected min, max or both, got neither.")


@composite(
    "clamp_min",
    inputs=("input",),
    attrs=("min",),
    ref=lambda xp, x, *, min: xp.maximum(x, x.dtype.type(min)),
    samples=lambda: [Sample(s.args, {"min": 1}) for s in unary()()],
    rowwise=[sample((BATCH, 67), min=0.5)],
)
def clamp_min(input: Tensor, min: Tensor | Scalar) -> Tensor:
    """`input`, but at least `min`.

    >>> tl.clamp_min(tl.tensor([-2.0, 3.0]), 0).tolist()
    [0.0, 3.0]
    """
    return clamp(input, min=min)


@composite(
    "clamp_max",
    inputs=("input",),
    attrs=("max",),
    ref=lambda xp, x, *, max: xp.minimum(x, x.dtype.type(max)),
    samples=lambda: [Sample(s.args, {"max": 1}) for s in unary()()],
    rowwise=[sample((BATCH, 67), max=0.5)],
)
def clamp_max(input: Tensor, max: Tensor | Scalar) -> Tensor:
    """`input`, but at most `max`.

    >>> tl.clamp_max(tl.tensor([-2.0, 3.0]), 0).tolist()
    [-2.0, 0.0]
    """
    return clamp(input, max=max)


def _is_float(*operands: Any) -> bool:
    return any(
        isinstance(o, float) or (isinstance(o, (Tensor, RowMethods)) and o.dtype.is_floating_point) for o in operands
    )


clip = clamp

# ---- replacement ----


def _nan_to_num_ref(xp: Any, x: Any, *, nan: float, posinf: float | None, neginf: float | None) -> Any:
    return xp.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)


_nan_to_num = elementwise(
    "nan_to_num",
    attrs=("nan", "posinf", "neginf"),
    dtype=rules.promoted,
    ref=_nan_to_num_ref,
    partials=(lambda x, g: where(isfinite(x), g, 0),),
    samples=lambda: [
        Sample(s.args, {"nan": 0.5, "posinf": p, "neginf": -p if p else p})
        for p in (None, 9.0)
        for s in unary(special=_SPECIAL)()
    ],
)


def nan_to_num(
    input: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """NaN and the infinities replaced; by default by 0 and by the dtype's largest and smallest values.

    >>> tl.nan_to_num(tl.tensor([float("nan"), 1.0, float("inf")]), posinf=5.0).tolist()
    [0.0, 1.0, 5.0]
    """
    return _nan_to_num(input, 0.0 if nan is None else nan, posinf, neginf)


@composite(
    "heaviside",
    inputs=("input", "values"),
    ref=lambda xp, x, values: xp.where(x == 0, values, (x > 0).astype(values.dtype)),
    samples=binary(special=(0.0, 1.0, -1.0)),
    rowwise=[sample((BATCH, 67), (67,))],
)
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """The step function: 0 for negative `input`, 1 for positive, `values` at 0.

    >>> tl.heaviside(tl.tensor([-1.0, 0.0, 2.0]), tl.tensor(0.5)).tolist()
    [0.0, 0.5, 1.0]
    """
    return where(eq(input, 0), values, gt(input, 0))
