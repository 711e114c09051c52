"""Powers, exponentials, logarithms, trigonometric and hyperbolic functions, the erf and gamma families."""

from __future__ import annotations

import math
from typing import Any

from tensorlib import ops
from tensorlib.dtypes import DType, complex128, float64
from tensorlib.errors import DTypeError
from tensorlib.ops import rules, special
from tensorlib.ops.comparison import eq, ge, isnan, logical_and, logical_or
from tensorlib.ops.declare import elementwise, to_dtype
from tensorlib.ops.elementwise import Scalar, square, where
from tensorlib.ops.table import Draw, Sample, binary, error, sample, unary
from tensorlib.tensor import Tensor

__all__ = [
    "acos", "acosh", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "asin", "asinh", "atan", "atan2", "atanh", "cos",
    "cosh", "digamma", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "float_power", "hypot", "ldexp", "lgamma", "log", "log1p", "log2", "log10",
    "logaddexp", "logaddexp2", "polygamma", "pow", "rsqrt", "sin", "sinc", "sinh", "sqrt", "tan", "tanh", "xlogy",
]  # fmt: skip
METHODS = tuple(name for name in __all__ if name != "polygamma")
INPLACE = tuple(name for name in METHODS if name not in ("logaddexp", "logaddexp2"))

_INF, _NAN, _LN2 = math.inf, math.nan, math.log(2)
_SPECIAL = (0.0, -0.0, 1.0, -1.0, _INF, -_INF, _NAN)
_POSITIVE = unary(0.1, 4.0, special=_SPECIAL)


def _float(name: str, ref: Any, partial: Any, samples: Any, doc: str, real: bool = False) -> Any:
    """A function of one operand; integers become floats, and complex numbers are refused where it is `real`."""
    return elementwise(
        name,
        dtype=rules.real_floating(name) if real else rules.floating,
        ref=ref,
        partials=(partial,),
        samples=samples,
        doc=doc,
    )


# ---- powers and roots ----


def _power_rule(common: DType) -> tuple[DType | None, DType | None]:
    return rules.accumulator(common) if common.category == 0 else (common, common)


def _pow_ref(xp: Any, x: Any, y: Any) -> Any:
    if y.dtype.kind == "i" and x.dtype.kind in "iu" and bool((y < 0).any()):
        raise DTypeError(
            "pow: integers to negative integer powers are not integers; convert an operand to a floating dtype."
        )
    return xp.power(x, y)


def _pow_base(x: Any, y: Any) -> Any:
    """y x^(y-1), and 0 where y is 0, also instead of 0 * inf and 0 * NaN."""
    if not hasattr(y, "dtype"):
        return ops.creation.zeros_like(x) if y == 0 else y * pow(x, y - 1)
    undefined = logical_and(eq(y, 0), logical_or(eq(x, 0), isnan(x)))
    return y * pow(where(undefined, 1, x), y - 1)


def _pow_exponent(x: Any, y: Any, out: Tensor) -> Tensor:
    """out log(x), and 0 where x is 0 and the power is not infinite."""
    if not hasattr(x, "dtype"):
        return out * math.log(x) if x > 0 else where(ge(y, 0), 0.0, _NAN) if x == 0 else out * _NAN
    return where(logical_and(eq(x, 0), ge(y, 0)), 0, out * log(x))


_pow = elementwise(
    "pow",
    inputs=("x", "y"),
    dtype=_power_rule,
    ref=_pow_ref,
    partials=(_pow_base, _pow_exponent),
    samples=lambda: [
        *binary(low=(0.2, -2.0), special=(0.0, 1.0, -1.0, 2.0, 0.5, _INF, -_INF, _NAN))(),
        *(sample((3, 4), y) for y in (2, 3.0, -1, 0.0)),
        sample(Draw((3, 4), 0.2, 3.0), 0.5),
        sample(Draw((3, 4), 0.2, 3.0), -1.7),
        sample(2.0, (3, 4)),
        sample(Draw((5,), -4, 5, "int64"), Draw((5,), 0, 5, "int64")),
    ],
    errors=[error(Draw((3,), 1, 5, "int64"), -1, raises=TypeError, match="pow: integers to negative integer powers")],
)


def pow(input: Tensor | Scalar, exponent: Tensor | Scalar) -> Tensor:
    """``input`` to the power ``exponent``; either may be a number.

    Shapes:
        input, exponent: broadcast together  ->  out: the common shape

    >>> tl.pow(tl.tensor([1.0, 2.0, 3.0]), 2).tolist(), tl.pow(2, tl.tensor([1, 3])).tolist()
    ([1.0, 4.0, 9.0], [2, 8])
    """
    if exponent.__class__ is int and exponent == 2:
        return square(input)
    if exponent.__class__ is float:
        if exponent == 2.0 and not _is_integral(input):
            return square(input)
        if exponent == 0.5:
            return sqrt(input)
    return _pow(input, exponent)


def _is_integral(x: Any) -> bool:
    return hasattr(x, "dtype") and x.dtype.category < 2


def float_power(input: Tensor | Scalar, exponent: Tensor | Scalar) -> Tensor:
    """`pow` computed and returned in float64 (complex128 for complex operands).

    >>> tl.float_power(tl.tensor([2, 3]), -1).dtype
    tensorlib.float64
    """

    def wide(v: Any) -> Any:
        return to_dtype(v, complex128 if v.dtype.is_complex else float64) if isinstance(v, Tensor) else v

    return pow(wide(input), wide(exponent))


sqrt = _float(
    "sqrt",
    lambda xp, x: xp.sqrt(x),
    lambda out, g: g / (out * 2),
    _POSITIVE,
    """The square root, NaN below 0.

    >>> tl.sqrt(tl.tensor([4.0, 9.0])).tolist()
    [2.0, 3.0]
    """,
)
rsqrt = _float(
    "rsqrt",
    lambda xp, x: 1 / xp.sqrt(x),
    lambda out, g: g * (out * out * out) * -0.5,
    _POSITIVE,
    """``1 / sqrt(x)``.

    >>> tl.rsqrt(tl.tensor([4.0, 0.25])).tolist()
    [0.5, 2.0]
    """,
)
hypot = elementwise(
    "hypot",
    inputs=("x", "y"),
    dtype=rules.floating,
    ref=lambda xp, x, y: xp.hypot(x, y),
    partials=(lambda x, out: x / out, lambda y, out: y / out),
    samples=binary(low=0.1, special=(1.0, -3.0, _INF, _NAN)),
    doc="""``sqrt(x * x + y * y)`` without overflow in between.

    >>> tl.hypot(tl.tensor([3.0]), tl.tensor([4.0])).tolist()
    [5.0]
    """,
)

# ---- exponentials and logarithms ----

exp = _float(
    "exp",
    lambda xp, x: xp.exp(x),
    lambda out: out,
    unary(special=(*_SPECIAL, 88.0, -87.0, 100.0, -110.0)),
    """e to the power `x`.

    >>> tl.exp(tl.tensor([0.0])).tolist()
    [1.0]
    """,
)
exp2 = _float(
    "exp2",
    lambda xp, x: xp.exp2(x),
    lambda out: out * _LN2,
    unary(special=(*_SPECIAL, 127.0, -126.0, 130.0, -151.0)),
    """2 to the power `x`.

    >>> tl.exp2(tl.tensor([3.0, -1.0])).tolist()
    [8.0, 0.5]
    """,
)
expm1 = _float(
    "expm1",
    lambda xp, x: xp.expm1(x),
    lambda out: out + 1,
    unary(special=(*_SPECIAL, 1e-9, -1e-9, -50.0)),
    """``exp(x) - 1``, accurate near 0.

    >>> tl.expm1(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
log = _float(
    "log",
    lambda xp, x: xp.log(x),
    lambda x, g: g / x,
    _POSITIVE,
    """The natural logarithm, -inf at 0, NaN below.

    >>> tl.log(tl.tensor([1.0])).tolist()
    [0.0]
    """,
)
log2 = _float(
    "log2",
    lambda xp, x: xp.log2(x),
    lambda x, g: g / (x * _LN2),
    _POSITIVE,
    """The logarithm to base 2.

    >>> tl.log2(tl.tensor([8.0])).tolist()
    [3.0]
    """,
)
log10 = _float(
    "log10",
    lambda xp, x: xp.log10(x),
    lambda x, g: g / (x * math.log(10)),
    _POSITIVE,
    """The logarithm to base 10.

    >>> round(tl.log10(tl.tensor(1000.0)).item(), 5)
    3.0
    """,
)
log1p = _float(
    "log1p",
    lambda xp, x: xp.log1p(x),
    lambda x, g: g / (x + 1),
    unary(-0.9, 4.0, special=(*_SPECIAL, 1e-9, -1e-9)),
    """``log(1 + x)``, accurate near 0.

    >>> tl.log1p(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
logaddexp = elementwise(
    "logaddexp",
    inputs=("x", "y"),
    dtype=rules.floating,
    ref=lambda xp, x, y: xp.logaddexp(x, y),
    partials=(lambda x, y: ops.activations.sigmoid(x - y), lambda x, y: ops.activations.sigmoid(y - x)),
    samples=binary(special=(0.0, 1000.0, -1000.0, _INF, -_INF, _NAN)),
    doc="""``log(exp(x) + exp(y))`` without overflow: the sum of probabilities given as logarithms.

    >>> round(tl.logaddexp(tl.tensor(0.0), tl.tensor(0.0)).item(), 4)  # log(2)
    0.6931
    """,
)
logaddexp2 = elementwise(
    "logaddexp2",
    inputs=("x", "y"),
    dtype=rules.floating,
    ref=lambda xp, x, y: xp.logaddexp2(x, y),
    partials=(
        lambda x, y: ops.activations.sigmoid((x - y) * _LN2),
        lambda x, y: ops.activations.sigmoid((y - x) * _LN2),
    ),
    samples=binary(special=(0.0, 1000.0, -1000.0, _INF, -_INF, _NAN)),
    doc="""``log2(2**x + 2**y)`` without overflow.

    >>> tl.logaddexp2(tl.tensor(3.0), tl.tensor(3.0)).item()
    4.0
    """,
)


def _xlogy_ref(xp: Any, x: Any, y: Any) -> Any:
    zero = (x == 0) & ~xp.isnan(y)
    return xp.where(zero, xp.zeros_like(x), x * xp.log(xp.where(zero, xp.ones_like(y), y)))


def _xlogy_slope(x: Any, y: Any) -> Any:
    if not hasattr(y, "dtype"):
        y = ops.creation.full((), y, dtype=x.dtype)
    return log(where(logical_and(eq(x, 0), ge(0, y)), 1, y))


xlogy = elementwise(
    "xlogy",
    inputs=("x", "y"),
    dtype=rules.floating,
    ref=_xlogy_ref,
    partials=(_xlogy_slope, lambda x, y: x / y),
    samples=binary(low=(-2.0, 0.2), special=(0.0, 1.0, _INF, _NAN)),
    doc="""``x * log(y)``, and 0 where `x` is 0: terms of entropies.

    >>> tl.xlogy(tl.tensor([0.0, 2.0]), tl.tensor([0.0, 1.0])).tolist()
    [0.0, 0.0]
    """,
)


def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """``input * 2**other``.

    >>> tl.ldexp(tl.tensor([1.5]), tl.tensor([3])).tolist()
    [12.0]
    """
    return input * exp2(other)


# ---- trigonometric ----

sin = _float(
    "sin",
    lambda xp, x: xp.sin(x),
    lambda x: cos(x),
    unary(-4.0, 4.0, special=(*_SPECIAL, 1e5)),
    """The sine of `x` in radians.

    >>> tl.sin(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
cos = _float(
    "cos",
    lambda xp, x: xp.cos(x),
    lambda x, g: -g * sin(x),
    unary(-4.0, 4.0, special=(*_SPECIAL, 1e5)),
    """The cosine of `x` in radians.

    >>> tl.cos(tl.tensor([0.0])).tolist()
    [1.0]
    """,
)
tan = _float(
    "tan",
    lambda xp, x: xp.tan(x),
    lambda out: out * out + 1,
    unary(-1.3, 1.3, special=(*_SPECIAL, 1e5)),
    """The tangent of `x` in radians.

    >>> tl.tan(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
asin = _float(
    "asin",
    lambda xp, x: xp.arcsin(x),
    lambda x: rsqrt(1 - x * x),
    unary(-0.95, 0.95, special=_SPECIAL),
    """The angle in [-pi/2, pi/2] whose sine is `x`; NaN outside [-1, 1].

    >>> tl.asin(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
acos = _float(
    "acos",
    lambda xp, x: xp.arccos(x),
    lambda x: -rsqrt(1 - x * x),
    unary(-0.95, 0.95, special=_SPECIAL),
    """The angle in [0, pi] whose cosine is `x`; NaN outside [-1, 1].

    >>> tl.acos(tl.tensor([1.0])).tolist()
    [0.0]
    """,
)
atan = _float(
    "atan",
    lambda xp, x: xp.arctan(x),
    lambda x, g: g / (x * x + 1),
    unary(-4.0, 4.0, special=_SPECIAL),
    """The angle in (-pi/2, pi/2) whose tangent is `x`.

    >>> tl.atan(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)


def _radius_squared(y: Any, x: Any) -> Tensor:
    """x^2 + y^2, and 1 at the origin, where the gradient of the angle is taken as 0."""
    squared = x * x + y * y
    return where(eq(squared, 0), 1, squared)


atan2 = elementwise(
    "atan2",
    inputs=("input", "other"),
    dtype=rules.floating,
    ref=lambda xp, y, x: xp.arctan2(y, x),
    partials=(
        lambda input, other, g: g * other / _radius_squared(input, other),
        lambda input, other, g: -g * input / _radius_squared(input, other),
    ),
    samples=binary(low=(0.2, -2.0), special=_SPECIAL),
    doc="""The angle of the point (other, input) in (-pi, pi]: the height comes first, as everywhere.

    >>> round(tl.atan2(tl.tensor(1.0), tl.tensor(-1.0)).item(), 4)  # 3/4 pi
    2.3562
    """,
)


def _sinc_ref(xp: Any, x: Any) -> Any:
    angle = xp.where(x == 0, xp.ones_like(x), x * math.pi)
    return xp.where(x == 0, xp.ones_like(x), xp.sin(angle) / angle)


def _sinc_slope(x: Tensor, out: Tensor) -> Tensor:
    """(cos(pi x) - out) / x. At 0 a straight line of the right slope, so that the second derivative holds there too."""
    zero = eq(x, 0)
    return where(zero, x * (-(math.pi**2) / 3), (cos(x * math.pi) - out) / where(zero, 1.0, x))


sinc = _float(
    "sinc",
    _sinc_ref,
    _sinc_slope,
    unary(0.3, 3.0, special=(0.0, -0.5, 1e-4, _NAN)),
    """``sin(pi x) / (pi x)``, and 1 at 0.

    >>> tl.sinc(tl.tensor([0.0])).tolist()
    [1.0]
    """,
)

# ---- hyperbolic ----

sinh = _float(
    "sinh",
    lambda xp, x: xp.sinh(x),
    lambda x: cosh(x),
    unary(special=(*_SPECIAL, 80.0, 1e-5)),
    """The hyperbolic sine.

    >>> tl.sinh(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
cosh = _float(
    "cosh",
    lambda xp, x: xp.cosh(x),
    lambda x: sinh(x),
    unary(special=(*_SPECIAL, 80.0)),
    """The hyperbolic cosine.

    >>> tl.cosh(tl.tensor([0.0])).tolist()
    [1.0]
    """,
)
tanh = _float(
    "tanh",
    lambda xp, x: xp.tanh(x),
    lambda out, g: g * (1 - out * out),
    unary(special=(*_SPECIAL, 20.0, 1e-5)),
    """The hyperbolic tangent, an activation with values in (-1, 1).

    >>> tl.tanh(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
asinh = _float(
    "asinh",
    lambda xp, x: xp.arcsinh(x),
    lambda x: rsqrt(x * x + 1),
    unary(-4.0, 4.0, special=_SPECIAL),
    """The inverse of `sinh`.

    >>> tl.asinh(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
acosh = _float(
    "acosh",
    lambda xp, x: xp.arccosh(x),
    lambda x: rsqrt(x * x - 1),
    unary(1.2, 4.0, special=_SPECIAL),
    """The inverse of `cosh` on [1, inf); NaN below 1.

    >>> tl.acosh(tl.tensor([1.0])).tolist()
    [0.0]
    """,
)
atanh = _float(
    "atanh",
    lambda xp, x: xp.arctanh(x),
    lambda x, g: g / (1 - x * x),
    unary(-0.95, 0.95, special=_SPECIAL),
    """The inverse of `tanh`; infinite at -1 and 1, NaN outside.

    >>> tl.atanh(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
arcsin, arccos, arctan, arctan2, arcsinh, arccosh, arctanh = asin, acos, atan, atan2, asinh, acosh, atanh

# ---- erf and gamma families ----

erf = _float(
    "erf",
    special.erf,
    lambda x: exp(-square(x)) * (2 / math.sqrt(math.pi)),
    unary(-3.0, 3.0, special=_SPECIAL),
    """The error function, ``2 / sqrt(pi)`` times the integral of exp(-t^2) from 0 to `x`.

    >>> tl.erf(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
erfc = _float(
    "erfc",
    special.erfc,
    lambda x: exp(-square(x)) * (-2 / math.sqrt(math.pi)),
    unary(-3.0, 3.0, special=(*_SPECIAL, 5.0)),
    """``1 - erf(x)``, accurate where that is tiny.

    >>> round(tl.erfc(tl.tensor(0.0)).item(), 4)
    1.0
    """,
)
erfinv = _float(
    "erfinv",
    special.erfinv,
    lambda out: exp(square(out)) * (math.sqrt(math.pi) / 2),
    unary(-0.9, 0.9, special=(*_SPECIAL, 2.0, 0.999)),
    """The inverse of `erf`; infinite at -1 and 1, NaN outside.

    >>> tl.erfinv(tl.tensor([0.0])).tolist()
    [0.0]
    """,
    real=True,
)
lgamma = _float(
    "lgamma",
    special.lgamma,
    lambda x: digamma(x),
    unary(0.2, 5.0, special=(*_SPECIAL, -0.5, -2.0, 100.0)),
    """The logarithm of ``|gamma(x)|``.

    >>> round(tl.lgamma(tl.tensor(5.0)).item(), 4)  # log(4!)
    3.1781
    """,
    real=True,
)
digamma = _float(
    "digamma",
    special.digamma,
    lambda x: polygamma(1, x),
    unary(0.2, 5.0, special=(*_SPECIAL, -0.5, -2.0, 100.0)),
    """The derivative of `lgamma`.

    >>> round(tl.digamma(tl.tensor(1.0)).item(), 4)  # minus Euler's constant
    -0.5772
    """,
    real=True,
)
_polygamma = elementwise(
    "polygamma",
    attrs=("n",),
    dtype=rules.real_floating("polygamma"),
    ref=lambda xp, x, *, n: special.polygamma(xp, x, n),
    partials=(lambda x, n: polygamma(n + 1, x),),
    samples=lambda: [Sample(s.args, {"n": n}) for n in (0, 1, 2) for s in unary(0.5, 5.0)()],
    private=True,  # the public function takes n first
)


def polygamma(n: int, input: Tensor) -> Tensor:
    """The `n`-th derivative of `digamma`.

    >>> round(tl.polygamma(1, tl.tensor(1.0)).item(), 4)  # pi^2 / 6
    1.6449
    """
    if n < 0:
        raise ValueError(f"polygamma: expected n >= 0, got {n}.")
    return _polygamma(input, n)
