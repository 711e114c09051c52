"""Elementwise arithmetic, signs, rounding, and where."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorlib import ops
from tensorlib.dtypes import DType, complex64, complex128, float32, float64, int64
from tensorlib.errors import DTypeError
from tensorlib.ops import rules
from tensorlib.ops.comparison import integral
from tensorlib.ops.declare import HALVES, common_dtype, composite, elementwise, to_dtype
from tensorlib.ops.table import BATCH, Draw, binary, error, sample, unary
from tensorlib.tensor import Tensor

Scalar = bool | int | float

__all__ = [
    "abs", "absolute", "add", "addcdiv", "addcmul", "ceil", "copysign", "deg2rad", "div", "divide", "fix", "floor", "floor_divide", "fmod", "frac",
    "gcd", "lcm", "lerp", "mul", "multiply", "neg", "negative", "positive", "rad2deg", "reciprocal", "remainder", "round", "rsub", "sgn", "sign",
    "square", "sub", "subtract", "true_divide", "trunc", "where",
]  # fmt: skip
METHODS = tuple(name for name in __all__ if name not in ("rsub", "where"))
INPLACE = tuple(name for name in METHODS if name != "positive")

_SPECIAL = (0.0, -0.0, 1.0, math.inf, -math.inf, math.nan)


# ---- dtype rules ----


def numeric(name: str, hint: str) -> rules.DTypeRule:
    """As `promoted`, but refuses bool, for which NumPy and PyTorch define no such operation."""

    def rule(common: DType) -> tuple[DType | None, DType | None]:
        if common.category == 0:
            raise DTypeError(f"{name}: expected numbers, got bool.", hint=hint)
        return common, common

    return rule


def _magnitude(common: DType) -> tuple[DType | None, DType | None]:
    return common, {complex64: float32, complex128: float64}.get(common, common)


def _counted(common: DType) -> tuple[DType | None, DType | None]:
    """As `promoted`, but bool becomes int64."""
    dtype = common if common.category else int64
    return dtype, dtype


def flat(g: Tensor) -> Tensor:
    """The gradient of a step function: zero (PyTorch's choice, so that such a value can be part of a loss)."""
    return ops.creation.zeros_like(g)


# ---- sums, products, quotients ----

_add = elementwise(
    "add",
    inputs=("x", "y"),
    dtype=rules.promoted,
    ref=lambda xp, x, y: xp.add(x, y),
    partials=(lambda g: g, lambda g: g),
    samples=binary(special=_SPECIAL),
    errors=[error((2, 3), (2, 4), raises=ValueError, match=r"add.*\(2, 3\).*\(2, 4\)")],
)
_sub = elementwise(
    "sub",
    inputs=("x", "y"),
    dtype=numeric("sub", "use logical_xor, or logical_not to invert a mask"),
    ref=lambda xp, x, y: xp.subtract(x, y),
    partials=(lambda g: g, lambda g: -g),
    samples=binary(special=_SPECIAL),
)
mul = elementwise(
    "mul",
    inputs=("x", "y"),
    dtype=rules.promoted,
    ref=lambda xp, x, y: xp.multiply(x, y),
    partials=(lambda y: y, lambda x: x),
    samples=binary(special=_SPECIAL),
    doc="""The product ``x * y``, broadcasting.

    Shapes:
        x, y: broadcast together  ->  out: the common shape

    >>> tl.mul(tl.tensor([1.0, 2.0]), tl.tensor([[3.0], [4.0]])).tolist()
    [[3.0, 6.0], [4.0, 8.0]]
    """,
)
_div = elementwise(
    "div",
    inputs=("x", "y"),
    dtype=rules.floating,
    ref=lambda xp, x, y: xp.true_divide(x, y),
    partials=(lambda y, g: g / y, lambda x, y, g: -g * (x / y) / y),
    samples=binary(low=(-2.0, 0.5), special=_SPECIAL),
)


def _with_multiple(call: Callable[..., Tensor], input: Any, other: Any, alpha: Scalar) -> Tensor:
    """call(input, alpha * other), the product in the result's dtype; of 16-bit floats in float32, so that only the result is rounded."""
    mixed = isinstance(input, Tensor) and isinstance(other, Tensor) and not other.is_sparse
    if not mixed or (input.dtype is other.dtype and input.dtype not in HALVES):
        return call(input, other * alpha)
    kind = common_dtype((input, other, alpha))
    wide = float32 if kind in HALVES else kind
    return to_dtype(call(to_dtype(input, wide), to_dtype(other, wide) * alpha), kind)


def add(input: Tensor, other: Tensor | Scalar, *, alpha: Scalar = 1) -> Tensor:
    """The sum ``input + alpha * other``, broadcasting.

    Shapes:
        input, other: broadcast together  ->  out: the common shape

    >>> tl.add(tl.tensor([1.0, 2.0]), tl.tensor([10.0, 20.0]), alpha=2).tolist()
    [21.0, 42.0]
    """
    return _add(input, other) if alpha == 1 else _with_multiple(_add, input, other, alpha)


def sub(input: Tensor, other: Tensor | Scalar, *, alpha: Scalar = 1) -> Tensor:
    """The difference ``input - alpha * other``, broadcasting.

    Shapes:
        input, other: broadcast together  ->  out: the common shape

    >>> tl.sub(tl.tensor([1.0, 2.0]), 1).tolist()
    [0.0, 1.0]
    """
    return _sub(input, other) if alpha == 1 else _with_multiple(_sub, input, other, alpha)


def rsub(input: Tensor, other: Tensor | Scalar, *, alpha: Scalar = 1) -> Tensor:
    """``other - alpha * input``.

    >>> tl.rsub(tl.tensor([1.0, 2.0]), 1).tolist()
    [0.0, -1.0]
    """
    return _sub(other, input) if alpha == 1 else _with_multiple(_sub, other, input, alpha)


def div(input: Tensor, other: Tensor | Scalar, *, rounding_mode: str | None = None) -> Tensor:
    """The quotient ``input / other``, broadcasting; integers become floats unless it is rounded.

    Shapes:
        input, other: broadcast together  ->  out: the common shape

    Args:
        rounding_mode: None, "trunc" (towards zero, as in C) or "floor" (as Python's ``//``).

    >>> tl.div(tl.tensor([-3, 3]), 2).tolist(), tl.div(tl.tensor([-3, 3]), 2, rounding_mode="trunc").tolist()
    ([-1.5, 1.5], [-1, 1])
    """
    if rounding_mode is None:
        return _div(input, other)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode == "trunc":
        return _div_trunc(input, other)
    raise ValueError(f'div: rounding_mode: expected None, "trunc" or "floor", got {rounding_mode!r}.')


def _divisor(name: str, y: Any) -> Any:
    if y.dtype.kind in "iub" and bool((y == 0).any()):
        raise ZeroDivisionError(f"{name}: integer division by zero.")
    return y


def _div_trunc_ref(xp: Any, x: Any, y: Any) -> Any:
    if x.dtype.kind == "f":
        return xp.trunc(x / y)
    return xp.floor_divide(x - xp.fmod(x, _divisor("div", y)), y)


floor_divide = elementwise(
    "floor_divide",
    inputs=("x", "y"),
    dtype=numeric("floor_divide", "use logical_and"),
    ref=lambda xp, x, y: xp.floor_divide(x, _divisor("floor_divide", y)),
    partials=(flat, flat),
    samples=binary(low=(-5.0, 0.5), high=5.0, special=_SPECIAL),
    errors=[
        error(Draw((2,), dtype="int64"), 0, raises=ZeroDivisionError, match="floor_divide: integer division by zero")
    ],
    doc="""The quotient rounded down, ``x // y``. Its gradient is zero.

    >>> tl.floor_divide(tl.tensor([-3, 3]), 2).tolist()
    [-2, 1]
    """,
)
_div_trunc = elementwise(
    "div_trunc",
    inputs=("x", "y"),
    dtype=numeric("div", "use logical_and"),
    ref=_div_trunc_ref,
    partials=(flat, flat),
    samples=binary(low=(-5.0, 0.5), high=5.0),
    private=True,
)
remainder = elementwise(
    "remainder",
    inputs=("x", "y"),
    dtype=numeric("remainder", "use logical_and"),
    ref=lambda xp, x, y: xp.remainder(x, _divisor("remainder", y)),
    partials=(lambda g: g, lambda x, y, g: -g * floor_divide(x, y)),
    samples=binary(low=(-5.0, 0.7), high=5.0, special=(1.0, -2.5, 3.0)),
    errors=[error(Draw((2,), dtype="int64"), 0, raises=ZeroDivisionError, match="remainder: integer division by zero")],
    doc="""The remainder of floor division, with the sign of `y`: Python's ``x % y``.

    >>> tl.remainder(tl.tensor([-3, 3]), 2).tolist(), tl.remainder(tl.tensor([-3.0, 3.5]), 2).tolist()
    ([1, 1], [1.0, 1.5])
    """,
)
fmod = elementwise(
    "fmod",
    inputs=("x", "y"),
    dtype=numeric("fmod", "use logical_and"),
    ref=lambda xp, x, y: xp.fmod(x, _divisor("fmod", y)),
    partials=(lambda g: g, lambda x, y, g: -g * _div_trunc(x, y)),
    samples=binary(low=(-5.0, 0.7), high=5.0, special=(1.0, -2.5, 3.0)),
    doc="""The remainder of truncated division, with the sign of `x`: C's fmod.

    >>> tl.fmod(tl.tensor([-3, 3]), 2).tolist()
    [-1, 1]
    """,
)
reciprocal = elementwise(
    "reciprocal",
    dtype=rules.floating,
    ref=lambda xp, x: xp.reciprocal(x),
    partials=(lambda out, g: -g * out * out,),
    samples=unary(0.5, 3.0, special=_SPECIAL),
    doc="""``1 / x``.

    >>> tl.reciprocal(tl.tensor([2.0, -4.0])).tolist()
    [0.5, -0.25]
    """,
)
square = elementwise(
    "square",
    dtype=_counted,
    ref=lambda xp, x: xp.square(x),
    partials=(lambda x, g: g * (x * 2),),
    samples=unary(special=_SPECIAL),
    doc="""``x * x``.

    >>> tl.square(tl.tensor([-3.0, 2.0])).tolist()
    [9.0, 4.0]
    """,
)
neg = elementwise(
    "neg",
    dtype=numeric("neg", "use logical_not"),
    ref=lambda xp, x: xp.negative(x),
    partials=(lambda g: -g,),
    samples=unary(special=_SPECIAL),
    errors=[error(Draw((2,), dtype="bool"), raises=TypeError, match="neg: expected numbers, got bool")],
    doc="""``-x``.

    >>> tl.neg(tl.tensor([1, -2])).tolist()
    [-1, 2]
    """,
)
multiply, divide, true_divide, subtract, negative = mul, div, div, sub, neg


def positive(input: Tensor) -> Tensor:
    """`input` itself.

    >>> tl.positive(tl.tensor([1, -2])).tolist()
    [1, -2]
    """
    if input.dtype.category == 0:
        raise DTypeError("positive: expected numbers, got bool.")
    return input


@composite(
    "deg2rad",
    inputs=("input",),
    ref=lambda xp, x: xp.multiply(x, math.pi / 180),
    samples=unary(),
    dtype=rules.floating,
    rowwise=[sample((BATCH, 67))],
)
def deg2rad(input: Tensor) -> Tensor:
    """Degrees to radians.

    >>> round(tl.deg2rad(tl.tensor(180.0)).item(), 4)
    3.1416
    """
    return mul(input, math.pi / 180)


@composite(
    "rad2deg",
    inputs=("input",),
    ref=lambda xp, x: xp.multiply(x, 180 / math.pi),
    samples=unary(),
    dtype=rules.floating,
    rowwise=[sample((BATCH, 67))],
)
def rad2deg(input: Tensor) -> Tensor:
    """Radians to degrees.

    >>> round(tl.rad2deg(tl.tensor(3.14159265)).item(), 3)
    180.0
    """
    return mul(input, 180 / math.pi)


gcd = elementwise(
    "gcd",
    inputs=("x", "y"),
    dtype=integral("gcd", with_bool=False),
    ref=lambda xp, x, y: xp.gcd(x, y),
    samples=binary(-12, 13, dtype="int64"),
    doc="""The greatest common divisor of integers; never negative.

    >>> tl.gcd(tl.tensor([12, -5, 0]), tl.tensor([18, 10, 0])).tolist()
    [6, 5, 0]
    """,
)
lcm = elementwise(
    "lcm",
    inputs=("x", "y"),
    dtype=integral("lcm", with_bool=False),
    ref=lambda xp, x, y: xp.lcm(x, y),
    samples=binary(-12, 13, dtype="int64"),
    doc="""The least common multiple of integers; never negative.

    >>> tl.lcm(tl.tensor([4, -3]), tl.tensor([6, 5])).tolist()
    [12, 15]
    """,
)

# ---- three operands ----

_addcmul = elementwise(
    "addcmul",
    inputs=("x", "a", "b"),
    dtype=rules.promoted,
    ref=lambda xp, x, a, b: x + a * b,
    partials=(lambda g: g, lambda b: b, lambda a: a),
    samples=[
        sample((), (), ()),
        sample((3, 4), (3, 4), (3, 4)),
        sample((2, 1, 5), (3, 1), (5,)),
        sample((0, 3), (3,), ()),
    ],
)
_addcdiv = elementwise(
    "addcdiv",
    inputs=("x", "a", "b"),
    dtype=rules.floating,
    ref=lambda xp, x, a, b: x + a / b,
    partials=(lambda g: g, lambda b, g: g / b, lambda a, b, g: -g * (a / b) / b),
    samples=lambda: [
        sample(*shapes, Draw((3, 4), 0.5, 3.0)) for shapes in [((3, 4), (3, 4)), ((4,), (3, 1)), ((), (2, 1, 1))]
    ],
)
lerp = elementwise(
    "lerp",
    inputs=("x", "end", "weight"),
    dtype=rules.floating,
    ref=lambda xp, x, end, weight: xp.where(
        xp.abs(weight) < 0.5, x + weight * (end - x), end - (end - x) * (1 - weight)
    ),
    partials=(lambda weight, g: g * (1 - weight), lambda weight: weight, lambda x, end: end - x),
    samples=[
        sample((3, 4), (3, 4), (3, 4)),
        sample((2, 1, 5), (3, 1), 0.25),
        sample((5,), (5,), Draw((5,), 0.0, 1.0)),
        sample((0,), (), 1.0),
    ],
    doc="""Linear interpolation ``x + weight * (end - x)``; exactly `x` and `end` at weights 0 and 1.

    Shapes:
        x, end, weight: broadcast together (`weight` may be a number)  ->  out: the common shape

    >>> tl.lerp(tl.tensor([0.0, 10.0]), tl.tensor([4.0, 20.0]), 0.25).tolist()
    [1.0, 12.5]
    """,
)


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Scalar = 1) -> Tensor:
    """``input + value * tensor1 * tensor2``.

    Shapes:
        input, tensor1, tensor2: broadcast together  ->  out: the common shape

    >>> tl.addcmul(tl.ones(2), tl.tensor([1.0, 2.0]), tl.tensor([3.0, 4.0]), value=0.5).tolist()
    [2.5, 5.0]
    """
    return _addcmul(input, tensor1 if value == 1 else tensor1 * value, tensor2)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Scalar = 1) -> Tensor:
    """``input + value * tensor1 / tensor2``.

    Shapes:
        input, tensor1, tensor2: broadcast together  ->  out: the common shape

    >>> tl.addcdiv(tl.ones(2), tl.tensor([1.0, 2.0]), tl.tensor([2.0, 4.0]), value=2).tolist()
    [2.0, 2.0]
    """
    return _addcdiv(input, tensor1 if value == 1 else tensor1 * value, tensor2)


# ---- choosing ----

_MASK = Draw((3, 4), dtype="bool")
_where = elementwise(
    "where",
    inputs=("condition", "x", "y"),
    dtype=rules.promoted,  # of x and y: a bool condition adds nothing
    ref=lambda xp, condition, x, y: xp.where(condition, x, y),
    partials=(None, lambda condition, g: _where(condition, g, 0), lambda condition, g: _where(condition, 0, g)),
    samples=[
        sample(_MASK, (3, 4), (3, 4)),
        sample(_MASK, (4,), (3, 1)),
        sample(Draw((4,), dtype="bool"), (2, 3, 1), ()),
        sample(Draw((), dtype="bool"), (0, 3), (1, 3)),
        sample(_MASK, (3, 4), 1.5),
        sample(_MASK, -0.5, (4,)),
    ],
    errors=[error(Draw((2, 3), dtype="bool"), (2, 3), (2, 4), raises=ValueError, match=r"where.*\(2, 4\)")],
)


def where(condition: Tensor, input: Tensor | Scalar | None = None, other: Tensor | Scalar | None = None) -> Any:
    """`input` where `condition` holds, else `other`; with `condition` alone the indices where it holds, as ``nonzero(as_tuple=True)``.

    Shapes:
        condition (bool), input, other: broadcast together  ->  out: the common shape

    >>> tl.where(tl.tensor([True, False]), tl.tensor([1.0, 2.0]), 0.0).tolist()
    [1.0, 0.0]
    """
    if input is None and other is None:
        return ops.positions.nonzero(condition, as_tuple=True)
    if input is None or other is None:
        raise TypeError("where: expected both x and y, or neither.")
    return _where(condition, input, other)


# ---- signs ----

abs = elementwise(
    "abs",
    dtype=_magnitude,
    ref=lambda xp, x: xp.abs(x),
    partials=(lambda x: sign(x),),
    samples=unary(special=_SPECIAL),
    doc="""The magnitude ``|x|``; its gradient at 0 is 0.

    >>> tl.abs(tl.tensor([-1.5, 2.0])).tolist()
    [1.5, 2.0]
    """,
)
sign = elementwise(
    "sign",
    ref=lambda xp, x: xp.sign(x),
    dtype=_counted,
    partials=(flat,),
    samples=unary(special=_SPECIAL),
    doc="""-1, 0 or 1 after the sign of `x`; x / |x| for complex `x`.

    >>> tl.sign(tl.tensor([-1.5, 0.0, 2.0])).tolist()
    [-1.0, 0.0, 1.0]
    """,
)
copysign = elementwise(
    "copysign",
    inputs=("x", "y"),
    dtype=rules.floating,
    ref=lambda xp, x, y: xp.copysign(x, y),
    partials=(lambda x, out: sign(x) * sign(out), flat),
    samples=binary(special=_SPECIAL),
    doc="""The magnitude of `x` with the sign of `y`.

    >>> tl.copysign(tl.tensor([1.0, -2.0]), tl.tensor([-0.0, 1.0])).tolist()
    [-1.0, 2.0]
    """,
)
absolute, sgn = abs, sign

# ---- rounding: gradients are zero ----

_SMALL = unary(-4.0, 4.0, special=(*_SPECIAL, 0.5, 1.5, 2.5, -0.5, -1.5, 1e30))


def _rounded(name: str, doc: str) -> Any:
    """floor, ceil, trunc: integers as they are."""
    return elementwise(
        name,
        dtype=numeric(name, "bool has nothing to round"),
        ref=lambda xp, x: getattr(xp, name)(x) if x.dtype.kind in "fc" else x.copy(),
        partials=(flat,),
        samples=_SMALL,
        doc=doc,
    )


floor = _rounded(
    "floor",
    """The largest integer not above `x`.

    >>> tl.floor(tl.tensor([-1.5, 1.5])).tolist()
    [-2.0, 1.0]
    """,
)
ceil = _rounded(
    "ceil",
    """The smallest integer not below `x`.

    >>> tl.ceil(tl.tensor([-1.5, 1.5])).tolist()
    [-1.0, 2.0]
    """,
)
trunc = fix = _rounded(
    "trunc",
    """The integer part of `x`, towards zero.

    >>> tl.trunc(tl.tensor([-1.5, 1.5])).tolist()
    [-1.0, 1.0]
    """,
)
_round = elementwise(
    "round",
    dtype=numeric("round", "bool has nothing to round"),
    ref=lambda xp, x: xp.rint(x) if x.dtype.kind in "fc" else x.copy(),
    partials=(flat,),
    samples=_SMALL,
)


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Rounded to the nearest integer, halves to the even one, or to a number of decimals.

    >>> tl.round(tl.tensor([0.5, 1.5, -2.7])).tolist(), tl.round(tl.tensor(1.25), decimals=1).item() < 1.3
    ([0.0, 2.0, -3.0], True)
    """
    if decimals == 0:
        return _round(input)
    if decimals > 0:
        return _round(input * 10.0**decimals) / 10.0**decimals
    return _round(input / 10.0**-decimals) * 10.0**-decimals


@composite(
    "frac",
    inputs=("input",),
    ref=lambda xp, x: x - xp.trunc(x),
    samples=unary(-4.0, 4.0),
    rowwise=[sample((BATCH, 67))],
)
def frac(input: Tensor) -> Tensor:
    """The part of `input` behind the point, with its sign: ``input - trunc(input)``.

    >>> tl.frac(tl.tensor([-1.5, 2.25])).tolist()
    [-0.5, 0.25]
    """
    return input - trunc(input)
