"""The largest, the smallest and the middle: values and places."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from tensorlib import ops
from tensorlib.errors import ShapeError
from tensorlib.ops import rules
from tensorlib.ops.comparison import eq
from tensorlib.ops.declare import structured
from tensorlib.ops.elementwise import where
from tensorlib.ops.reductions import (
    OUT_OF_RANGE,
    Dims,
    decode,
    dims_or_all,
    kept,
    lane,
    rows_over_dims,
    rows_over_one_dim,
    samples_over_dims,
    samples_over_one_dim,
    spread,
    sum,
)
from tensorlib.ops.selection import maximum, minimum
from tensorlib.ops.shape import normalize_dim
from tensorlib.ops.table import Draw, error, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["amax", "amin", "aminmax", "argmax", "argmin", "max", "median", "min"]
METHODS = tuple(__all__)
INPLACE: tuple[str, ...] = ()

_EMPTY = (*OUT_OF_RANGE, error((0, 3), dim=0, raises=ValueError, match=r"dim 0 of shape \(0, 3\) is empty"))


def _nonempty(name: str, x: Tensor, dim: tuple[int, ...] | None) -> None:
    for i in range(x.ndim) if dim is None else dim:
        if x.ndim and x.shape[i] == 0:
            raise ShapeError(f"{name}: dim {i} of shape {tuple(x.shape)} is empty, so there is nothing to choose from.")


def _ties(g: Tensor, x: Tensor, out: Tensor, dim: tuple[int, ...] | None, keepdim: bool) -> Tensor:
    """The gradient of amax and amin: split evenly among the elements that are the extreme one."""
    chosen = eq(x, spread(out, x.shape, dim, keepdim))
    count = sum(chosen, dim, keepdim)
    return where(chosen, spread(g / count, x.shape, dim, keepdim), 0)


_TIED = Draw((2, 4), values=[[1.0, 3.0, 3.0, -1.0], [2.0, 2.0, 2.0, 2.0]])
_WITH_NAN = Draw((5,), special=(1.0, math.nan, math.inf))

_amax = structured(
    "amax",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    ref=lambda xp, x, *, dim, keepdim: xp.max(x, axis=dim, keepdims=keepdim),
    vjp=(_ties,),
    rowwise=rows_over_dims(),
    samples=lambda: [*samples_over_dims(empty=False)(), sample(_WITH_NAN, dim=0, keepdim=False)],
    errors=_EMPTY,
    native=lane("amax"),
    decode=decode,
)
_amin = structured(
    "amin",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    ref=lambda xp, x, *, dim, keepdim: xp.min(x, axis=dim, keepdims=keepdim),
    vjp=(_ties,),
    rowwise=rows_over_dims(),
    samples=lambda: [*samples_over_dims(empty=False)(), sample(_WITH_NAN, dim=0, keepdim=False)],
    errors=_EMPTY,
    native=lane("amin"),
    decode=decode,
)


def _arg_ref(name: str) -> Callable[..., Any]:
    def ref(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
        shape = x.shape
        x = x.astype("uint8") if x.dtype.kind == "b" else x
        if dim is None or x.ndim == 0:
            return xp.asarray(getattr(xp, name)(x)).reshape(kept(shape, None) if keepdim else ())
        axis = (dim if isinstance(dim, int) else dim[0]) % x.ndim
        found = getattr(xp, name)(x, axis=axis)
        return found.reshape(kept(shape, (axis,))) if keepdim else found

    return ref


_ONE_DIM = error((2, 3), dim=(0, 1), raises=TypeError, match="dim is a tuple, expected an integer")
_argmax = structured(
    "argmax",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    dtype=rules.index,
    ref=_arg_ref("argmax"),
    rowwise=rows_over_one_dim,
    samples=lambda: [
        *samples_over_one_dim(empty=False),
        sample(_TIED, dim=1, keepdim=False),
        sample(_WITH_NAN, dim=0, keepdim=False),
    ],
    errors=(*_EMPTY, _ONE_DIM),
    native=lane("argmax"),
    decode=decode,
)
_argmin = structured(
    "argmin",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    dtype=rules.index,
    ref=_arg_ref("argmin"),
    rowwise=rows_over_one_dim,
    samples=lambda: [
        *samples_over_one_dim(empty=False),
        sample(_TIED, dim=1, keepdim=False),
        sample(_WITH_NAN, dim=0, keepdim=False),
    ],
    errors=(*_EMPTY, _ONE_DIM),
    native=lane("argmin"),
    decode=decode,
)


def amax(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The largest value over all dimensions, one, or several; NaN if there is one. Equal largest values share the gradient evenly.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...), or (..., 1, ...) with `keepdim`;  L >= 1

    >>> tl.amax(tl.tensor([[1.0, 2.0], [4.0, 3.0]]), dim=1).tolist()
    [2.0, 4.0]
    """
    return _extreme("amax", _amax, input, dim, keepdim)


def amin(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The smallest value over all dimensions, one, or several; NaN if there is one. Equal smallest values share the gradient evenly.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...), or (..., 1, ...) with `keepdim`;  L >= 1

    >>> tl.amin(tl.tensor([[1.0, 2.0], [4.0, 3.0]]), dim=1).tolist()
    [1.0, 3.0]
    """
    return _extreme("amin", _amin, input, dim, keepdim)


def _extreme(name: str, operation: Any, x: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    along = dims_or_all(name, dim, x)
    _nonempty(name, x, along)
    return operation(x, dim=along, keepdim=keepdim)


class MinMax(NamedTuple):
    """The smallest and the largest values."""

    min: Tensor
    max: Tensor


class ValuesIndices(NamedTuple):
    """Values along a dimension, and where they were."""

    values: Tensor
    indices: Tensor


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> MinMax:
    """`amin` and `amax` as a named pair (min, max).

    >>> low, high = tl.aminmax(tl.tensor([3.0, 1.0, 2.0]))
    >>> low.item(), high.item()
    (1.0, 3.0)
    """
    return MinMax(_extreme("aminmax", _amin, input, dim, keepdim), _extreme("aminmax", _amax, input, dim, keepdim))


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest value is: the first of equal ones, the first NaN if there is one; without `dim`, in the flattened tensor.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...) int64 in [0, L), or (..., 1, ...) with `keepdim`

    >>> tl.argmax(tl.tensor([[1.0, 2.0], [4.0, 3.0]]), dim=1).tolist(), tl.argmax(tl.tensor([[1.0, 2.0], [4.0, 3.0]])).item()
    ([1, 0], 2)
    """
    return _extreme("argmax", _argmax, input, dim if dim is None else normalize_dim("argmax", dim, input.ndim), keepdim)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the smallest value is: the first of equal ones, the first NaN if there is one; without `dim`, in the flattened tensor.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...) int64 in [0, L), or (..., 1, ...) with `keepdim`

    >>> tl.argmin(tl.tensor([[1.0, 2.0], [4.0, 3.0]]), dim=1).tolist()
    [0, 1]
    """
    return _extreme("argmin", _argmin, input, dim if dim is None else normalize_dim("argmin", dim, input.ndim), keepdim)


def _picked(x: Tensor, position: Tensor, dim: int, keepdim: bool) -> ValuesIndices:
    """(values, indices) of one position along `dim`; `position` has that dimension as 1. The gradient goes to the picked elements."""
    values = ops.gather.gather(x, dim, position) if x.ndim else x
    if keepdim or not x.ndim:
        return ValuesIndices(values, position)
    return ValuesIndices(values.squeeze(dim), position.squeeze(dim))


def max(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """The largest value; along a dimension, a named pair (values, indices); against another tensor, `maximum`.

    Shapes:
        input: (..., L, ...)  ->  values, indices: (..., ...), or (..., 1, ...) with `keepdim`; () without `dim`

    >>> values, indices = tl.max(tl.tensor([[1.0, 2.0], [4.0, 3.0]]), dim=1)
    >>> values.tolist(), indices.tolist(), tl.max(tl.tensor([1.0, 5.0])).item()
    ([2.0, 4.0], [1, 0], 5.0)
    """
    if other is not None:
        return maximum(input, other)
    if dim is None:
        return _extreme("max", _amax, input, None, False)
    if not isinstance(dim, int):
        return maximum(input, dim)
    dim = normalize_dim("max", dim, input.ndim)
    return _picked(input, _extreme("max", _argmax, input, dim, True), dim, keepdim)


def min(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """The smallest value; along a dimension, a named pair (values, indices); against another tensor, `minimum`.

    Shapes:
        input: (..., L, ...)  ->  values, indices: (..., ...), or (..., 1, ...) with `keepdim`; () without `dim`

    >>> values, indices = tl.min(tl.tensor([[1.0, 2.0], [4.0, 3.0]]), dim=1)
    >>> values.tolist(), indices.tolist(), tl.min(tl.tensor([1.0, 5.0])).item()
    ([1.0, 3.0], [0, 1], 1.0)
    """
    if other is not None:
        return minimum(input, other)
    if dim is None:
        return _extreme("min", _amin, input, None, False)
    if not isinstance(dim, int):
        return minimum(input, dim)
    dim = normalize_dim("min", dim, input.ndim)
    return _picked(input, _extreme("min", _argmin, input, dim, True), dim, keepdim)


def _median_position_ref(xp: Any, x: Any, *, dim: int) -> Any:
    if x.ndim == 0:
        return xp.zeros((), dtype="int64")
    order = xp.argsort(x, axis=dim, kind="stable")
    middle = xp.take(order, xp.asarray([(x.shape[dim] - 1) // 2]), axis=dim)
    if x.dtype.kind != "f":
        return middle
    nan = xp.isnan(x)
    first = xp.expand_dims(xp.argmax(nan, axis=dim), dim)
    return xp.where(xp.expand_dims(xp.any(nan, axis=dim), dim), first, middle)


_median_position = structured(
    "median_position",
    inputs=("x",),
    attrs=("dim",),
    dtype=rules.index,
    ref=_median_position_ref,
    samples=[sample((5,), dim=0), sample((3, 4), dim=1), sample((), dim=0), sample(_WITH_NAN, dim=0)],
    private=True,
)


def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median, the lower one of two; NaN if there is one. Along a dimension, a named pair (values, indices).

    Shapes:
        input: (..., L, ...)  ->  values, indices: (..., ...), or (..., 1, ...) with `keepdim`; () without `dim`

    >>> tl.median(tl.tensor([3.0, 1.0, 2.0, 4.0])).item(), tl.median(tl.tensor([[3.0, 1.0, 2.0]]), dim=1).indices.tolist()
    (2.0, [2])
    """
    if dim is None:
        _nonempty("median", input, None)
        flat = input.reshape(-1)
        return flat[_median_position(flat, dim=0)].reshape(())
    dim = normalize_dim("median", dim, input.ndim)
    _nonempty("median", input, (dim,))
    return _picked(input, _median_position(input, dim=dim), dim, keepdim)
