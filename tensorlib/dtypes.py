"""Dtypes: names, sizes and promotion. The order is C's (native/tl.h), so `number` is what both sides exchange."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.errors import DTypeError

__all__ = [
    "DType",
    "bfloat16",
    "bool_",
    "complex64",
    "complex128",
    "float16",
    "float32",
    "float64",
    "get_default_dtype",
    "int8",
    "int16",
    "int32",
    "int64",
    "promote_types",
    "result_category",
    "set_default_dtype",
    "uint8",
]  # fmt: skip

_CATEGORIES = ("bool", "integer", "float", "complex")


class DType:
    """An element type. Compare with `is` or ``==``; `itemsize` is in bytes.

    >>> tl.float32.itemsize, tl.float32.is_floating_point, str(tl.int64)
    (4, True, 'tensorlib.int64')
    """

    __slots__ = ("category", "is_complex", "is_floating_point", "is_signed", "itemsize", "name", "np", "number")

    def __init__(self, number: int, name: str, itemsize: int, category: int, numpy_dtype: Any) -> None:
        self.number, self.name, self.itemsize, self.category = number, name, itemsize, category
        self.np = numpy_dtype  # bfloat16 has none: computed in float32, see the backend
        self.is_floating_point = category == 2
        self.is_complex = category == 3
        self.is_signed = name not in ("bool", "uint8")

    def __repr__(self) -> str:
        return f"tensorlib.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _by_name, (self.name,)


def _by_name(name: str) -> DType:
    return BY_NAME[name]


_ROWS = [
    ("bool", 1, 0), ("uint8", 1, 1), ("int8", 1, 1), ("int16", 2, 1), ("int32", 4, 1), ("int64", 8, 1),
    ("float16", 2, 2), ("bfloat16", 2, 2), ("float32", 4, 2), ("float64", 8, 2), ("complex64", 8, 3), ("complex128", 16, 3),
]  # fmt: skip
ALL = [
    DType(i, name, size, category, np.dtype(name) if name != "bfloat16" else None)
    for i, (name, size, category) in enumerate(_ROWS)
]
BY_NAME = {d.name: d for d in ALL}
_BY_NUMPY = {d.np: d for d in ALL if d.np is not None}
bool_, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64, complex64, complex128 = ALL
_default = float32


def default_dtype() -> DType:
    return _default


def get_default_dtype() -> DType:
    """The dtype that Python floats become: float32 unless `set_default_dtype` said otherwise.

    >>> tl.get_default_dtype()
    tensorlib.float32
    """
    return _default


def set_default_dtype(dtype: DType) -> None:
    """Make Python floats become `dtype` (a floating dtype) from now on.

    >>> tl.set_default_dtype(tl.float32)
    """
    global _default
    if not isinstance(dtype, DType) or not dtype.is_floating_point:
        raise DTypeError(f"set_default_dtype: expected a floating dtype, got {dtype!r}.")
    _default = dtype


def from_numpy_dtype(dtype: Any) -> DType:
    """The DType of a NumPy dtype; raises DTypeError for one that has none (strings, objects, unsigned 16 to 64 bits ...)."""
    try:
        return _BY_NUMPY[np.dtype(dtype).newbyteorder("=")]
    except (KeyError, TypeError):
        known = ", ".join(d.name for d in ALL)
        raise DTypeError(f"NumPy dtype {dtype} has no counterpart here; there are {known}.") from None


def as_dtype(dtype: Any) -> DType:
    """A DType from a DType, a NumPy dtype, or Python's bool, int, float, complex."""
    if isinstance(dtype, DType):
        return dtype
    if dtype is float:
        return _default
    if dtype is int:
        return int64
    if dtype is complex:
        return complex128 if _default is float64 else complex64
    return from_numpy_dtype(dtype)


def _promote(a: DType, b: DType) -> DType:
    if a is b:
        return a
    low, high = sorted((a, b), key=lambda d: (d.category, d.number))
    if low.category < high.category:
        if high.category == 3 and low is float64:
            return complex128
        return high
    if {low, high} == {float16, bfloat16}:
        return float32
    if low is uint8 and high is int8:
        return int16
    return high


PROMOTION = {(a, b): _promote(a, b) for a in ALL for b in ALL}


def promote_types(type1: DType, type2: DType) -> DType:
    """The smallest dtype that holds both.

    >>> tl.promote_types(tl.uint8, tl.int8)
    tensorlib.int16
    """
    return PROMOTION[as_dtype(type1), as_dtype(type2)]


def result_category(value: complex) -> int:
    """The category of a Python scalar: 0 bool, 1 integer, 2 float, 3 complex."""
    if isinstance(value, bool):
        return 0
    return 1 if isinstance(value, int) else 2 if isinstance(value, float) else 3
