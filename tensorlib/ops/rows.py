"""Rows that belong together, such as a ragged batch's: which operations take them one by one, and the methods that follow from that."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops.table import BATCH, TABLE, Draw, Op, rowwise_of

if TYPE_CHECKING:
    from tensorlib.methods import ByRows
else:
    ByRows = object  # what operations install: methods.pyi tells type checkers

__all__ = ["RowMethods"]


class RowMethods(ByRows):
    """Tensor's methods and operators that take each row by itself, for a type that holds rows; `tl.nn.utils.rnn.PackedSequence` is one.

    They come from the table of operations: every elementwise one and its in-place twin, conversions, and whatever else makes each row of its
    result from one row of an operand, along other dimensions than the first: ``rows.clamp(0, 1)``, ``2 * rows``, ``rows.relu_()``,
    ``rows.amax(-1)``. Functions take such an object as they take a tensor: ``tl.tanh(rows)``, ``tl.linear(rows, weight)``.

    A subclass says by `map_rows` what a function makes of its rows, and what `shape` and `dtype` they have.

    >>> class Pair(tl.RowMethods):
    ...     def __init__(self, rows):
    ...         self.rows = rows
    ...     def map_rows(self, function, *args, **kwargs):
    ...         return Pair(function(*(x.rows if x is self else x for x in args), **kwargs))
    >>> (-Pair(tl.tensor([1.0, 2.0])) * 3).abs().rows
    tensor([3., 6.])
    """

    __slots__ = ()
    __array_ufunc__ = None  # NumPy's operators leave mixed operands to ours
    __hash__ = object.__hash__

    def map_rows(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def dtype(self) -> Any:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __bool__(self) -> NoReturn:
        raise ShapeError(f"bool: a {type(self).__name__} is neither true nor false.")


# ---- what an operation takes ----
@functools.cache
def _row_operands(op: Op) -> dict[int, int]:
    """The operands of which each row counts by itself, by the samples that hold tests to it: fewest dimensions of each."""
    found: dict[int, int] = {}
    for s in rowwise_of(op):
        for i, d in enumerate(s.args):
            if isinstance(d, Draw) and d.shape[:1] == (BATCH,):
                found[i] = min(found.get(i, len(d.shape)), len(d.shape))
    return found


def _takes(op: Op, inputs: Sequence[Any], attrs: dict[str, Any]) -> bool:
    if op.kind == "elementwise":
        return True
    served = _row_operands(op)
    ndims = {i: x.ndim for i, x in enumerate(inputs) if isinstance(x, RowMethods)}
    if any(ndim < served.get(i, ndim + 1) for i, ndim in ndims.items()):
        return False
    if "dims" in attrs:  # so many of the last ones
        return bool(attrs["dims"] < max(ndims.values()))
    dim = attrs.get("dim", 1)  # None: all of them
    return dim is not None and 0 not in (dim if isinstance(dim, tuple) else (dim,))


def run_by_rows(op: Op, ragged: RowMethods, inputs: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """The operation on rows, where each stands for itself."""
    if not _takes(op, inputs, attrs):
        raise DTypeError(
            f"{op.name}: got a {type(ragged).__name__}, whose rows are elements of several sequences; expected a Tensor.",
            hint="use its .data, its methods over each sequence, or pad_packed_sequence",
        )
    assert op.call is not None
    return ragged.map_rows(op.call, *inputs, **attrs)


# ---- the methods ----
def _mapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: RowMethods, *args: Any, **kwargs: Any) -> Any:
        return self.map_rows(function, self, *args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


def _mapped_in_place(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: RowMethods, *args: Any, **kwargs: Any) -> RowMethods:
        self.map_rows(function, self, *args, **kwargs)
        return self

    call.__name__ = call.__qualname__ = name
    return call


def _entry(function: Callable[..., Any]) -> Op | None:
    return getattr(function, "op", None) or TABLE.get(function.__name__)


def is_elementwise(function: Callable[..., Any]) -> bool:
    op = _entry(function)
    return op is not None and op.kind == "elementwise"


def give(name: str, function: Callable[..., Any]) -> None:
    """Give rows this method of Tensor's, if the table has it as an operation that takes them."""
    op = _entry(function)
    if op is not None and op.kind == "elementwise":
        give_mapped(name, function)
    elif op is not None and op.rowwise:
        setattr(RowMethods, name, function)  # which finds out by the dimension that it is asked for


def give_mapped(name: str, function: Callable[..., Any], *, in_place: bool = False) -> None:
    """Give rows this method of Tensor's, which takes each element by itself."""
    setattr(RowMethods, name, (_mapped_in_place if in_place else _mapped)(name, function))
