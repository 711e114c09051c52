"""Dtypes: names, sizes and promotion. The order is C's (native/tl.h), so `number` is what both sides exchange."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.errors import DTypeError

__all__ = [
    "DType",
    "bfloat16",
    "bool_",
    "can_cast",
    "complex64",
    "complex128",
    "finfo",
    "float16",
    "float32",
    "float64",
    "get_default_dtype",
    "iinfo",
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


def can_cast(from_: DType, to: DType) -> bool:
    """Whether a result of dtype `from_` may be stored as `to`: not complex in real numbers, floats in integers, or integers in bool.

    >>> tl.can_cast(tl.int64, tl.float16), tl.can_cast(tl.float32, tl.int64)
    (True, False)
    """
    return as_dtype(from_).category <= as_dtype(to).category


_BITS = {float16: (5, 10), bfloat16: (8, 7), float32: (8, 23), float64: (11, 52)}  # of the exponent, of the fraction


class finfo:
    """The limits of a floating dtype (the default one where none is given).

    >>> tl.finfo(tl.float32).eps == 2**-23, tl.finfo(tl.float16).max, tl.finfo(tl.bfloat16).bits
    (True, 65504.0, 16)
    """

    __slots__ = ("bits", "dtype", "eps", "max", "min", "resolution", "smallest_normal", "tiny")

    def __init__(self, type: DType | None = None) -> None:
        kind = _default if type is None else as_dtype(type)
        kind = {complex64: float32, complex128: float64}.get(kind, kind)
        if kind not in _BITS:
            raise DTypeError(f"finfo: {kind.name} is not a floating dtype.", hint="iinfo has the limits of integers")
        exponent, fraction = _BITS[kind]
        self.bits, self.dtype, self.eps = 8 * kind.itemsize, kind.name, 2.0**-fraction
        self.max = (2 - self.eps) * 2.0 ** (2 ** (exponent - 1) - 1)
        self.min, self.resolution = -self.max, 10.0 ** -int(fraction * 0.30103)
        self.tiny = self.smallest_normal = 2.0 ** (2 - 2 ** (exponent - 1))

    def __repr__(self) -> str:
        return f"finfo({', '.join(f'{n}={getattr(self, n)}' for n in self.__slots__)})"


class iinfo:
    """The limits of an integer dtype.

    >>> tl.iinfo(tl.uint8).max, tl.iinfo(tl.int16).min
    (255, -32768)
    """

    __slots__ = ("bits", "dtype", "max", "min")

    def __init__(self, type: DType) -> None:
        kind = as_dtype(type)
        if kind.category != 1:
            raise DTypeError(f"iinfo: {kind.name} is not an integer dtype.", hint="finfo has the limits of floats")
        self.bits, self.dtype = 8 * kind.itemsize, kind.name
        self.min, self.max = int(np.iinfo(kind.np).min), int(np.iinfo(kind.np).max)

    def __repr__(self) -> str:
        return f"iinfo({', '.join(f'{n}={getattr(self, n)}' for n in self.__slots__)})"


def result_category(value: complex) -> int:
    """The category of a Python scalar: 0 bool, 1 integer, 2 float, 3 complex."""
    if isinstance(value, bool):
        return 0
    return 1 if isinstance(value, int) else 2 if isinstance(value, float) else 3
