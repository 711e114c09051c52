"""Whole slices by position (index_select and its kin), masks, and the pair of entries behind subscripts.

index_read and index_write take flat positions within neighbouring dimensions; each is the other's gradient, so that gradients of gradients follow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tensorlib import ops
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.native import lib
from tensorlib.ops import elementwise, rules
from tensorlib.ops.declare import composite, structured, to_dtype
from tensorlib.ops.gather import as_positions, decode_dim, last_writer, range_error, same_dtype, zeros_for
from tensorlib.ops.places import accumulate_at
from tensorlib.ops.shape import normalize_dim
from tensorlib.ops.table import BATCH, Draw, Sample, error, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Scalar = bool | int | float

__all__ = [
    "argwhere", "index_add", "index_copy", "index_fill", "index_select", "masked_fill", "masked_scatter", "masked_select", "nonzero",
]  # fmt: skip
METHODS = tuple(__all__)
INPLACE = ("index_add", "index_copy", "index_fill", "masked_fill", "masked_scatter")


# ---- whole slices: index_select and its kin ----


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of input at the positions `index` along `dim`, in that order.

    Shapes:
        input: (..., L, ...)  index: (K,) or (), integer in [-L, L)  ->  out: (..., K, ...)

    Raises:
        IndexError: if an index is out of range.

    >>> tl.index_select(tl.tensor([[1, 2, 3], [4, 5, 6]]), 1, tl.tensor([2, 0])).tolist()
    [[3, 1], [6, 4]]
    """
    dim, index = normalize_dim("index_select", dim, input.ndim), _list_of_positions("index_select", index)
    return take_slices(input, index, dim=dim)


def _list_of_positions(name: str, index: Tensor) -> Tensor:
    if index.ndim > 1:
        raise ShapeError(f"{name}: index must have 1 dimension, got shape {index.shape}.")
    index = as_positions(name, index)
    return index.reshape(1) if index.ndim == 0 else index


def _block(xp: Any, name: str, index: Any, shape: tuple[int, ...], dim: int, ndims: int) -> tuple[Any, ...]:
    """The subscript for flat positions, which may count from the end, within dimensions dim .. dim + ndims - 1 of an array of that shape."""
    sizes = shape[dim : dim + ndims]
    size = math.prod(sizes)
    if index.size:
        low, high = int(index.min()), int(index.max())
        if low < -size or high >= size:
            raise range_error(name, low if low < -size else high, dim, size, low=-size)
        index = index % size if low < 0 else index
    return (slice(None),) * dim + (tuple(xp.unravel_index(index, sizes)) if ndims > 1 else (index,))


# x: (P..., L, Q...)  index: (K...), of any number of dimensions, in [-L, L)  ->  out: (P..., K..., Q...)
take_slices = structured(
    "index_select",
    inputs=("x", "index"),
    attrs=("dim",),
    dtype=rules.as_is,
    ref=lambda xp, x, index, *, dim: x[_block(xp, "index_select", index, x.shape, dim, 1)],
    vjp=(
        lambda g, index, x_shape, *, dim: index_write(
            zeros_for(g, x_shape), index, g, dim=dim, ndims=1, accumulate=True
        ),
        None,
    ),
    native=lambda line, x, index, dim: lib.tl_index_select(x._array, dim, index._array, line),
    decode=decode_dim,
    samples=lambda: [
        sample(s, Draw((k,), 0, s[d], dtype="int64"), dim=d)
        for s, k, d in [((5,), 3, 0), ((3, 4), 6, 1), ((2, 3, 4), 2, 1), ((3, 4), 0, 0)]
    ],
    rowwise=lambda: [
        sample((BATCH, *s), Draw((k,), 0, s[0], dtype="int64"), dim=1) for s, k in [((33,), 90), ((20, 30), 70)]
    ],
    errors=[
        error(
            (2, 3),
            Draw((2,), dtype="int64", values=[0, 5]),
            dim=1,
            raises=IndexError,
            match="index_select: index 5 is out of range",
        ),
        error(
            (2, 3),
            Draw((1, 1), dtype="int64", values=[[0]]),
            dim=0,
            raises=ValueError,
            match="index must have 1 dimension",
        ),
        error((2, 3), (1,), dim=0, raises=TypeError, match="index_select: index must hold integers"),
    ],
)


def _index_ref(xp: Any, x: Any, index: Any, *, dim: int, ndims: int) -> Any:
    return x[_block(xp, "indexing", index, x.shape, dim, ndims)]


def _block_samples(value: bool, **attrs: Any) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...], int, int]] = [
        ((5,), (7,), 0, 1), ((3, 4), (2, 3), 0, 2), ((2, 3, 4), (5,), 1, 2), ((2, 3, 4), (2, 2), 1, 1), ((3, 4), (0,), 0, 1), ((3, 2), (), 0, 2)
    ]  # fmt: skip
    made = []
    for s, picked, dim, ndims in cases:
        n = math.prod(s[dim : dim + ndims])
        operands: list[Any] = [s, Draw(picked, -n, n, dtype="int64")]
        made.append(
            sample(*operands, *([(*s[:dim], *picked, *s[dim + ndims :])] * value), dim=dim, ndims=ndims, **attrs)
        )
    return made


# out[..., i, ...] = x[..., index[i], ...]: reads at flat positions within `ndims` dimensions from `dim` on, which may lie anywhere in memory.
# x: (P..., D1, ..., Dn, Q...)  index: (K...) in [-N, N), N = D1 * ... * Dn  ->  out: (P..., K..., Q...)
index_read = structured(
    "index_read",
    inputs=("x", "index"),
    attrs=("dim", "ndims"),
    dtype=rules.as_is,
    ref=_index_ref,
    vjp=(
        lambda g, index, x_shape, *, dim, ndims: index_write(
            zeros_for(g, x_shape), index, g, dim=dim, ndims=ndims, accumulate=True
        ),
        None,
    ),
    native=lambda line, x, index, dim, ndims: (
        lib.tl_index_select(x._array, dim, index._array, line) if ndims == 1 else 0
    ),
    samples=lambda: _block_samples(value=False),
    private=True,
)


def _index_write_ref(xp: Any, x: Any, index: Any, value: Any, *, dim: int, ndims: int, accumulate: bool) -> Any:
    out = x.copy()
    where = _block(xp, "indexing", index, x.shape, dim, ndims)
    if accumulate:
        accumulate_at(xp, "add", out, where, value)
    else:
        out[where] = value
    return out


def _index_write_x_grad(
    g: Tensor, index: Tensor, value_shape: tuple[int, ...], *, dim: int, ndims: int, accumulate: bool
) -> Tensor:
    return g if accumulate else index_write(g, index, zeros_for(g, value_shape), dim=dim, ndims=ndims, accumulate=False)


def _index_write_value_grad(g: Tensor, index: Tensor, *, dim: int, ndims: int, accumulate: bool) -> Tensor:
    picked = index_read(g, index, dim=dim, ndims=ndims)
    if accumulate:
        return picked
    last = last_writer(index.reshape(-1), dim=0, size=math.prod(g.shape[dim : dim + ndims]))
    return elementwise.where(last.reshape(index.shape + (1,) * (g.ndim - dim - ndims)), picked, 0)


# index_read's counterpart: x with value (P..., K..., Q...) written, or added, at the positions. Of several writers of one place the last counts.
index_write = structured(
    "index_write",
    inputs=("x", "index", "value"),
    attrs=("dim", "ndims", "accumulate"),
    dtype=rules.as_is,
    ref=_index_write_ref,
    vjp=(_index_write_x_grad, None, _index_write_value_grad),
    samples=lambda: _block_samples(value=True, accumulate=False) + _block_samples(value=True, accumulate=True),
    private=True,
)


def _check_slices(name: str, x: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    expected = (*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :])
    if source.shape != expected:
        raise ShapeError(
            f"{name}: source of shape {source.shape} does not fit; expected {expected}, x's shape with one slice per index."
        )
    same_dtype(name, x, "source", source)


def _slices_ref(accumulate: bool) -> Any:
    def ref(xp: Any, x: Any, index: Any, source: Any, *, dim: int, alpha: Scalar = 1) -> Any:
        value = source if alpha == 1 else source * alpha
        return _index_write_ref(xp, x, index, value, dim=dim, ndims=1, accumulate=accumulate)

    return ref


def _slices_samples(**attrs: Any) -> list[Sample]:
    return [
        sample(s, Draw((k,), 0, s[d], dtype="int64"), (*s[:d], k, *s[d + 1 :]), dim=d, **attrs)
        for s, k, d in [((5,), 3, 0), ((3, 4), 6, 1), ((2, 3, 4), 2, 1)]
    ]


def _slices_errors(name: str, **attrs: Any) -> list[Any]:
    zero_five = Draw((2,), dtype="int64", values=[0, 5])
    return [
        error(
            (2, 3),
            zero_five,
            (2, 2),
            dim=1,
            raises=IndexError,
            match="index 5 is out of range for dimension 1 of size 3",
            **attrs,
        ),
        error(
            (2, 3),
            zero_five,
            (2, 3),
            dim=1,
            raises=ValueError,
            match=f"{name}: source of shape .2, 3. does not fit; expected .2, 2.",
            **attrs,
        ),
    ]


@composite(
    "index_add",
    inputs=("input", "index", "source"),
    attrs=("dim", "alpha"),
    ref=_slices_ref(accumulate=True),
    samples=lambda: _slices_samples(alpha=1) + _slices_samples(alpha=-2),
    errors=lambda: _slices_errors("index_add", alpha=1),
)
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Scalar = 1) -> Tensor:
    """input with ``alpha * source`` added slice by slice at the positions `index` along `dim`; a position named twice receives both.

    Shapes:
        input: (..., L, ...)  index: (K,), integer in [-L, L)  source: (..., K, ...)  ->  out: as input

    >>> tl.index_add(tl.zeros(3), 0, tl.tensor([0, 0, 2]), tl.tensor([1.0, 2.0, 3.0])).tolist()
    [3.0, 0.0, 3.0]
    """
    dim, index = normalize_dim("index_add", dim, input.ndim), _list_of_positions("index_add", index)
    _check_slices("index_add", input, dim, index, source)
    return index_write(input, index, source if alpha == 1 else source * alpha, dim=dim, ndims=1, accumulate=True)


@composite(
    "index_copy",
    inputs=("input", "index", "source"),
    attrs=("dim",),
    ref=_slices_ref(accumulate=False),
    samples=_slices_samples,
    errors=lambda: _slices_errors("index_copy"),
)
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """input with the slices at the positions `index` along `dim` replaced by those of `source`; of two for one position the last counts.

    Shapes:
        input: (..., L, ...)  index: (K,), integer in [-L, L)  source: (..., K, ...)  ->  out: as input

    >>> tl.index_copy(tl.zeros(3), 0, tl.tensor([2, 0]), tl.tensor([1.0, 2.0])).tolist()
    [2.0, 0.0, 1.0]
    """
    dim, index = normalize_dim("index_copy", dim, input.ndim), _list_of_positions("index_copy", index)
    _check_slices("index_copy", input, dim, index, source)
    return index_write(input, index, source, dim=dim, ndims=1, accumulate=False)


@composite(
    "index_fill",
    inputs=("input", "index"),
    attrs=("dim", "value"),
    ref=lambda xp, x, index, *, dim, value: _index_write_ref(xp, x, index, value, dim=dim, ndims=1, accumulate=False),
    samples=lambda: [sample((3, 4), Draw((2,), dtype="int64", values=[0, 2]), dim=d, value=1.5) for d in (0, 1)],
)
def index_fill(input: Tensor, dim: int, index: Tensor, value: Tensor | Scalar) -> Tensor:
    """input with the slices at the positions `index` along `dim` filled with one value (a number or a 0-dimensional tensor).

    Shapes:
        input: (..., L, ...)  index: (K,), integer in [-L, L)  ->  out: as input

    >>> tl.index_fill(tl.zeros(2, 3), 1, tl.tensor([0, 2]), 7.0).tolist()
    [[7.0, 0.0, 7.0], [7.0, 0.0, 7.0]]
    """
    dim, index = normalize_dim("index_fill", dim, input.ndim), _list_of_positions("index_fill", index)
    filled = (*input.shape[:dim], index.shape[0], *input.shape[dim + 1 :])
    return index_write(
        input, index, _value("index_fill", input, value).expand(filled), dim=dim, ndims=1, accumulate=False
    )


def _value(name: str, x: Tensor, value: Any) -> Tensor:
    """A number or 0-dimensional tensor as a 0-dimensional tensor of x's dtype."""
    if isinstance(value, (bool, int, float, complex)):
        return ops.creation.full((), value, dtype=x.dtype, device=x.device)
    if value.ndim != 0:
        raise ShapeError(f"{name}: value must be a number or have 0 dimensions, got shape {value.shape}.")
    return to_dtype(value, x.dtype)


# ---- masks ----


def _need_mask(name: str, mask: Tensor) -> None:
    if mask.dtype.category != 0:
        raise DTypeError(f"{name}: mask must be bool, got {mask.dtype.name}.")


@composite(
    "masked_fill",
    inputs=("input", "mask"),
    attrs=("value",),
    ref=lambda xp, x, mask, *, value: xp.where(mask, xp.asarray(value, x.dtype), x),
    samples=lambda: [
        sample(s, Draw(m, dtype="bool"), value=-1.5)
        for s, m in [((3, 4), (3, 4)), ((3, 4), (4,)), ((4,), (3, 1)), ((), ()), ((0, 3), (3,))]
    ],
    rowwise=lambda: [sample((BATCH, 67), Draw((BATCH, 67), dtype="bool"), value=-1.5)],
    errors=[error((3,), (3,), value=0, raises=TypeError, match="masked_fill: mask must be bool")],
)
def masked_fill(input: Tensor, mask: Tensor, value: Tensor | Scalar) -> Tensor:
    """`value` (a number or a 0-dimensional tensor, cast to input's dtype) where the mask is True, input elsewhere.

    Shapes:
        input, mask: broadcast together  ->  out: the common shape

    >>> tl.masked_fill(tl.tensor([1.0, 2.0]), tl.tensor([True, False]), 0.0).tolist()
    [0.0, 2.0]
    """
    _need_mask("masked_fill", mask)
    return elementwise.where(mask, _value("masked_fill", input, value), input)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask is True, in reading order.

    Shapes:
        input, mask: broadcast together  ->  out: (number of True,)

    >>> tl.masked_select(tl.tensor([1, 2, 3]), tl.tensor([True, False, True])).tolist()
    [1, 3]
    """
    _need_mask("masked_select", mask)
    if mask.shape != input.shape:
        input, mask = ops.shape.broadcast_tensors(input, mask)
    return take_slices(input.reshape(-1), nonzero(mask.reshape(-1)).reshape(-1), dim=0)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """input with the places where the mask is True filled with the first elements of `source`, in reading order.

    Shapes:
        input, mask: broadcast together  source: at least as many elements as True  ->  out: the common shape

    >>> tl.masked_scatter(tl.tensor([1, 2, 3]), tl.tensor([True, False, True]), tl.tensor([8, 9])).tolist()
    [8, 2, 9]
    """
    _need_mask("masked_scatter", mask)
    same_dtype("masked_scatter", input, "source", source)
    if mask.shape != input.shape:
        input, mask = ops.shape.broadcast_tensors(input, mask)
    places = nonzero(mask.reshape(-1)).reshape(-1)
    count = places.shape[0]
    if source.numel() < count:
        raise ShapeError(
            f"masked_scatter: source has {source.numel()} elements for {count} places where the mask is True."
        )
    filled = index_write(
        input.reshape(-1), places, ops.shape.narrow(source.reshape(-1), 0, 0, count), dim=0, ndims=1, accumulate=False
    )
    return filled.reshape(input.shape)


_nonzero = structured(
    "nonzero",
    inputs=("x",),
    dtype=rules.index,
    ref=lambda xp, x: xp.argwhere(x),
    native=lambda line, x: lib.tl_nonzero(x._array),
    samples=lambda: (
        [sample(Draw(s, 0, 2, dtype="int64")) for s in [(), (5,), (3, 4), (2, 3, 4), (0, 3)]]
        + [sample(Draw((3, 4), dtype="bool")), sample(Draw((4,), values=[0.0, -0.0, math.nan, 1.0]))]
    ),
)


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The positions of the elements that are not zero, in reading order; as_tuple gives one tensor per dimension, ready for ``input[...]``.

    Shapes:
        input: (d1, ..., dn)  ->  out: (number of them, n), int64; or n tensors of shape (number of them,)

    >>> tl.nonzero(tl.tensor([[0, 5], [7, 0]])).tolist()
    [[0, 1], [1, 0]]
    """
    if as_tuple and input.ndim == 0:
        input = input.reshape(1)
    out = _nonzero(input)
    return tuple(ops.joins.unbind(out, 1)) if as_tuple else out


def argwhere(input: Tensor) -> Tensor:
    """The positions of the elements that are not zero: ``nonzero(input)``.

    >>> tl.argwhere(tl.tensor([0, 5, 7])).tolist()
    [[1], [2]]
    """
    return _nonzero(input)
