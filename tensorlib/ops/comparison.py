"""Comparisons, tests of single values, logic and bits: nothing here has a gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tensorlib.errors import DTypeError
from tensorlib.ops import rules
from tensorlib.ops.declare import composite, elementwise
from tensorlib.ops.table import BATCH, Draw, Sample, binary, error, sample, unary
from tensorlib.tensor import Tensor

if TYPE_CHECKING:
    from tensorlib.dtypes import DType

__all__ = [
    "allclose", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "eq", "equal", "ge",
    "greater", "greater_equal", "gt", "isclose", "isfinite", "isinf", "isnan", "isneginf", "isposinf", "le", "less", "less_equal", "logical_and",
    "logical_not", "logical_or", "logical_xor", "lt", "ne", "not_equal", "signbit",
]  # fmt: skip
METHODS = tuple(__all__)
INPLACE = (
    "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "eq", "ge", "greater",
    "greater_equal", "gt", "le", "less", "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne", "not_equal",
)  # fmt: skip

_SPECIAL = (0.0, -0.0, 1.0, math.inf, -math.inf, math.nan)


def integral(name: str, *, with_bool: bool = True) -> rules.DTypeRule:
    """Operands and result share the promoted dtype, which must be an integer one (or bool)."""

    def rule(common: DType) -> tuple[DType | None, DType | None]:
        if common.category > 1 or (common.category == 0 and not with_bool):
            raise DTypeError(f"{name}: expected {'bool or ' if with_bool else ''}integer operands, got {common}.")
        return common, common

    return rule


# ---- comparisons ----

eq = elementwise(
    "eq",
    inputs=("x", "y"),
    dtype=rules.comparison,
    ref=lambda xp, x, y: xp.equal(x, y),
    samples=binary(special=_SPECIAL),
    errors=[error((2, 3), (2, 4), raises=ValueError, match=r"eq.*\(2, 3\).*\(2, 4\)")],
    doc="""True where `x` equals `y`.

    >>> tl.eq(tl.tensor([1.0, 2.0]), 2).tolist()
    [False, True]
    """,
)
ne = elementwise(
    "ne",
    inputs=("x", "y"),
    dtype=rules.comparison,
    ref=lambda xp, x, y: xp.not_equal(x, y),
    samples=binary(special=_SPECIAL),
    doc="""True where `x` differs from `y`; NaN differs from everything.

    >>> tl.ne(tl.tensor([1.0, 2.0]), 2).tolist()
    [True, False]
    """,
)
lt = elementwise(
    "lt",
    inputs=("x", "y"),
    dtype=rules.comparison,
    ref=lambda xp, x, y: xp.less(x, y),
    samples=binary(special=_SPECIAL),
    doc="""True where ``x < y``.

    >>> tl.lt(tl.tensor([1, 2, 3]), 2).tolist()
    [True, False, False]
    """,
)
le = elementwise(
    "le",
    inputs=("x", "y"),
    dtype=rules.comparison,
    ref=lambda xp, x, y: xp.less_equal(x, y),
    samples=binary(special=_SPECIAL),
    doc="""True where ``x <= y``.

    >>> tl.le(tl.tensor([1, 2, 3]), 2).tolist()
    [True, True, False]
    """,
)
gt = elementwise(
    "gt",
    inputs=("x", "y"),
    dtype=rules.comparison,
    ref=lambda xp, x, y: xp.greater(x, y),
    samples=binary(special=_SPECIAL),
    doc="""True where ``x > y``.

    >>> tl.gt(tl.tensor([1, 2, 3]), 2).tolist()
    [False, False, True]
    """,
)
ge = elementwise(
    "ge",
    inputs=("x", "y"),
    dtype=rules.comparison,
    ref=lambda xp, x, y: xp.greater_equal(x, y),
    samples=binary(special=_SPECIAL),
    doc="""True where ``x >= y``.

    >>> tl.ge(tl.tensor([1, 2, 3]), 2).tolist()
    [False, True, True]
    """,
)
not_equal, less, less_equal, greater, greater_equal = ne, lt, le, gt, ge

_isclose = elementwise(
    "isclose",
    inputs=("x", "y"),
    attrs=("rtol", "atol", "equal_nan"),
    dtype=rules.comparison,
    ref=lambda xp, x, y, *, rtol, atol, equal_nan: xp.isclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan),
    samples=lambda: [
        Sample(s.args, {"rtol": 0.1, "atol": 0.5, "equal_nan": n})
        for n in (False, True)
        for s in binary(special=_SPECIAL)()
    ],
)


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """True where ``|input - other| <= atol + rtol * |other|``; infinities are close to themselves, NaN to NaN only with `equal_nan`.

    >>> tl.isclose(tl.tensor([1.0, 2.0]), tl.tensor([1.0 + 1e-7, 2.1])).tolist()
    [True, False]
    """
    return _isclose(input, other, rtol, atol, equal_nan)


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether `isclose` holds everywhere.

    >>> tl.allclose(tl.ones(3), tl.ones(3) + 1e-7)
    True
    """
    return bool(_isclose(input, other, rtol, atol, equal_nan).all().item())


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether `input` and `other` have the same shape and the same values.

    >>> tl.equal(tl.zeros(2), tl.zeros(2)), tl.equal(tl.zeros(2), tl.zeros(1))
    (True, False)
    """
    if not isinstance(input, Tensor) or not isinstance(other, Tensor):
        raise DTypeError(f"equal: got a {type(input).__name__} and a {type(other).__name__}, expected two Tensors.")
    return input.shape == other.shape and bool(eq(input, other).all().item())


# ---- tests of single values ----

isnan = elementwise(
    "isnan",
    dtype=rules.boolean,
    ref=lambda xp, x: xp.isnan(x),
    samples=unary(special=_SPECIAL),
    doc="""True where `x` is NaN.

    >>> tl.isnan(tl.tensor([0.0, float("nan")])).tolist()
    [False, True]
    """,
)
isinf = elementwise(
    "isinf",
    dtype=rules.boolean,
    ref=lambda xp, x: xp.isinf(x),
    samples=unary(special=_SPECIAL),
    doc="""True where `x` is infinite.

    >>> tl.isinf(tl.tensor([0.0, -float("inf")])).tolist()
    [False, True]
    """,
)
isfinite = elementwise(
    "isfinite",
    dtype=rules.boolean,
    ref=lambda xp, x: xp.isfinite(x),
    samples=unary(special=_SPECIAL),
    doc="""True where `x` is neither infinite nor NaN.

    >>> tl.isfinite(tl.tensor([0.0, float("inf"), float("nan")])).tolist()
    [True, False, False]
    """,
)


def _signbit_ref(xp: Any, x: Any) -> Any:
    return xp.signbit(x) if x.dtype.kind == "f" else x < 0


signbit = elementwise(
    "signbit",
    dtype=rules.boolean,
    ref=_signbit_ref,
    samples=unary(special=_SPECIAL[:-1]),
    doc="""True where the sign bit is set: negative values and -0.0.

    >>> tl.signbit(tl.tensor([1.0, -0.0, -2.0])).tolist()
    [False, True, True]
    """,
)


@composite(
    "isposinf",
    inputs=("input",),
    ref=lambda xp, x: xp.equal(x, math.inf),
    samples=unary(special=_SPECIAL),
    rowwise=[sample((BATCH, 67))],
)
def isposinf(input: Tensor) -> Tensor:
    """True where `input` is +infinity.

    >>> tl.isposinf(tl.tensor([float("inf"), -float("inf")])).tolist()
    [True, False]
    """
    return eq(input, math.inf)


@composite(
    "isneginf",
    inputs=("input",),
    ref=lambda xp, x: xp.equal(x, -math.inf),
    samples=unary(special=_SPECIAL),
    rowwise=[sample((BATCH, 67))],
)
def isneginf(input: Tensor) -> Tensor:
    """True where `input` is -infinity.

    >>> tl.isneginf(tl.tensor([float("inf"), -float("inf")])).tolist()
    [False, True]
    """
    return eq(input, -math.inf)


# ---- logic: any dtype counts as "is not zero" ----

logical_not = elementwise(
    "logical_not",
    dtype=rules.boolean,
    ref=lambda xp, x: x == 0,
    samples=unary(special=_SPECIAL),
    doc="""True where `x` is zero.

    >>> tl.logical_not(tl.tensor([0, 2])).tolist()
    [True, False]
    """,
)
logical_and = elementwise(
    "logical_and",
    inputs=("x", "y"),
    dtype=rules.boolean,
    ref=lambda xp, x, y: (x != 0) & (y != 0),
    samples=binary(special=_SPECIAL),
    doc="""True where both are nonzero.

    >>> tl.logical_and(tl.tensor([True, True]), tl.tensor([0.0, 0.5])).tolist()
    [False, True]
    """,
)
logical_or = elementwise(
    "logical_or",
    inputs=("x", "y"),
    dtype=rules.boolean,
    ref=lambda xp, x, y: (x != 0) | (y != 0),
    samples=binary(special=_SPECIAL),
    doc="""True where either is nonzero.

    >>> tl.logical_or(tl.tensor([False, True]), tl.tensor([0.0, 0.0])).tolist()
    [False, True]
    """,
)
logical_xor = elementwise(
    "logical_xor",
    inputs=("x", "y"),
    dtype=rules.boolean,
    ref=lambda xp, x, y: (x != 0) ^ (y != 0),
    samples=binary(special=_SPECIAL),
    doc="""True where exactly one is nonzero.

    >>> tl.logical_xor(tl.tensor([True, True]), tl.tensor([0, 1])).tolist()
    [True, False]
    """,
)

# ---- bits ----

bitwise_not = elementwise(
    "bitwise_not",
    dtype=integral("bitwise_not"),
    ref=lambda xp, x: xp.invert(x),
    samples=unary(-8, 9, dtype="int64"),
    errors=[
        error((2,), raises=TypeError, match=r"bitwise_not: expected bool or integer operands, got tensorlib\.float")
    ],
    doc="""Every bit flipped; logical negation for bool.

    >>> tl.bitwise_not(tl.tensor([0, 5])).tolist()
    [-1, -6]
    """,
)
bitwise_and = elementwise(
    "bitwise_and",
    inputs=("x", "y"),
    dtype=integral("bitwise_and"),
    ref=lambda xp, x, y: xp.bitwise_and(x, y),
    samples=binary(-8, 9, dtype="int64"),
    errors=[
        error(
            (2,), (2,), raises=TypeError, match=r"bitwise_and: expected bool or integer operands, got tensorlib\.float"
        )
    ],
    doc="""Bits set in both.

    >>> tl.bitwise_and(tl.tensor([6, 5]), 3).tolist()
    [2, 1]
    """,
)
bitwise_or = elementwise(
    "bitwise_or",
    inputs=("x", "y"),
    dtype=integral("bitwise_or"),
    ref=lambda xp, x, y: xp.bitwise_or(x, y),
    samples=binary(-8, 9, dtype="int64"),
    doc="""Bits set in either.

    >>> tl.bitwise_or(tl.tensor([6, 5]), 3).tolist()
    [7, 7]
    """,
)
bitwise_xor = elementwise(
    "bitwise_xor",
    inputs=("x", "y"),
    dtype=integral("bitwise_xor"),
    ref=lambda xp, x, y: xp.bitwise_xor(x, y),
    samples=binary(-8, 9, dtype="int64"),
    doc="""Bits set in exactly one.

    >>> tl.bitwise_xor(tl.tensor([6, 5]), 3).tolist()
    [5, 6]
    """,
)


def _shifts() -> list[Sample]:
    edges = Draw((4,), dtype="int64", values=[-1, 63, 64, 100])
    return [*binary((-8, 0), (9, 5), dtype="int64")(), sample(Draw((3, 1), -8, 9, "int64"), edges)]


def _left_shift_ref(xp: Any, x: Any, y: Any) -> Any:
    bits = 8 * x.dtype.itemsize
    inside = (y >= 0) & (y < bits)
    return xp.where(inside, xp.left_shift(x, xp.where(inside, y, 0)), 0).astype(x.dtype)


def _right_shift_ref(xp: Any, x: Any, y: Any) -> Any:
    bits = 8 * x.dtype.itemsize
    inside = (y >= 0) & (y < bits)
    return xp.right_shift(x, xp.where(inside, y, bits - 1)).astype(x.dtype)


bitwise_left_shift = elementwise(
    "bitwise_left_shift",
    inputs=("x", "y"),
    dtype=integral("bitwise_left_shift", with_bool=False),
    ref=_left_shift_ref,
    samples=_shifts,
    doc="""``x << y``; 0 where `y` is negative or not less than the number of bits.

    >>> tl.bitwise_left_shift(tl.tensor([1, 3]), tl.tensor([4, 64])).tolist()
    [16, 0]
    """,
)
bitwise_right_shift = elementwise(
    "bitwise_right_shift",
    inputs=("x", "y"),
    dtype=integral("bitwise_right_shift", with_bool=False),
    ref=_right_shift_ref,
    samples=_shifts,
    doc="""``x >> y``, keeping the sign; a `y` that is negative or not less than the number of bits leaves only the sign.

    >>> tl.bitwise_right_shift(tl.tensor([16, -16]), tl.tensor([2, 64])).tolist()
    [4, -1]
    """,
)
