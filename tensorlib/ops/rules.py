"""Dtype rules: pure functions from the operands' dtypes to the dtype to compute in and the dtype of the result.

A rule gets the promoted dtype of all operands (Python scalars are weak) and returns (compute, result). `None` for compute leaves every
operand as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from tensorlib.dtypes import DType, bool_, complex64, complex128, default_dtype, float32, float64, int64
from tensorlib.errors import DTypeError

DTypeRule = Callable[
    [DType], tuple["DType | None", "DType | None"]
]  # result None: whatever dtype the reference returns


def promoted(common: DType) -> tuple[DType | None, DType | None]:
    """Operands and result share the promoted dtype: add, where, maximum."""
    return common, common


def floating(common: DType) -> tuple[DType | None, DType | None]:
    """As `promoted`, but integers and bool become the default float dtype first: exp, div, mean."""
    dtype = common if common.is_floating_point or common.is_complex else default_dtype()
    return dtype, dtype


def real_floating(name: str) -> DTypeRule:
    """As `floating`, for a function that is not defined here for complex numbers: erfinv, digamma."""

    def rule(common: DType) -> tuple[DType | None, DType | None]:
        if common.is_complex:
            raise DTypeError(f"{name}: expected real numbers, got {common.name}.")
        return floating(common)

    return rule


def magnitude(common: DType) -> tuple[DType | None, DType | None]:
    """As `floating`, but the result of complex numbers is real: norm."""
    dtype, _ = floating(common)
    return dtype, {complex64: float32, complex128: float64}.get(common, dtype)


def comparison(common: DType) -> tuple[DType | None, DType | None]:
    """Compared in the promoted dtype, the result is bool: eq, less."""
    return common, bool_


def boolean(common: DType) -> tuple[DType | None, DType | None]:
    """Any dtype in, bool out, nothing converted: isnan, logical_and, any."""
    return None, bool_


def accumulator(common: DType) -> tuple[DType | None, DType | None]:
    """Sums and products: bool and integers become int64, so that nothing overflows early."""
    dtype = common if common.is_floating_point or common.is_complex else int64
    return dtype, dtype


def index(common: DType) -> tuple[DType | None, DType | None]:
    """Any dtype in, int64 out: argmax, count_nonzero."""
    return None, int64


def as_is(common: DType) -> tuple[DType | None, DType | None]:
    """Nothing converted; the result has the dtype that the reference returns: gather, sort, embedding."""
    return None, None
