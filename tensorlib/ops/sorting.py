"""Order: sorting, selecting the largest, finding places in sorted sequences, counting.

Sorting is stable and treats NaN as greater than everything, so results do not depend on the machine.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import ops
from tensorlib.dtypes import DType, int32, int64
from tensorlib.errors import DTypeError, IndexRangeError, ShapeError
from tensorlib.native import ffi, lib
from tensorlib.ops import gather as gathering, rules, shape
from tensorlib.ops.declare import composite, structured, to_dtype
from tensorlib.ops.shape import normalize_dim
from tensorlib.ops.table import BATCH, NATIVE_NUMBERS, Draw, Sample, error, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Scalar = bool | int | float

__all__ = [
    "argsort", "bincount", "bucketize", "histc", "isin", "kthvalue", "msort", "searchsorted", "sort", "topk", "unique", "unique_consecutive",
]  # fmt: skip
METHODS = tuple(name for name in __all__ if name not in ("bucketize", "isin", "searchsorted"))
INPLACE: tuple[str, ...] = ()


_named: Any = namedtuple  # noqa: PYI024  a NamedTuple class could not be called `sort`, as the function is
_sort_result, _topk_result, _kthvalue_result = (
    _named(name, ("values", "indices")) for name in ("sort", "topk", "kthvalue")
)


# ---- sorting ----


def _order(xp: Any, x: Any, dim: int, descending: bool) -> Any:
    """The stable sorting permutation. Descending: sort the reversed elements, so that equal ones end up in their old order again."""
    if not descending:
        return xp.argsort(x, axis=dim, kind="stable")
    return x.shape[dim] - 1 - xp.flip(xp.argsort(xp.flip(x, axis=dim), axis=dim, kind="stable"), axis=dim)


def _native(name: str, line: int, x: Tensor, k: int | None, dim: int, descending: bool) -> Any:
    """The kernel's lane: all of the order, or its first k."""
    dim %= x.ndim
    places = ffi.new("uintptr_t[1]")
    made = lib.tl_sort(NATIVE_NUMBERS[name], x._array, dim, x.shape[dim] if k is None else k, descending, line, places)
    return (made, places[0]) if places[0] else made


def _sort_ref(xp: Any, x: Any, *, dim: int, descending: bool) -> Any:
    order = _order(xp, x, dim, descending)
    return xp.take_along_axis(x, order, axis=dim), order


def _back(g_values: Tensor, indices: Tensor, x_shape: tuple[int, ...], dim: int) -> Tensor:
    """The gradient of picked elements, put back where each came from."""
    return gathering.scatter_add(gathering.zeros_for(g_values, x_shape), dim, indices, g_values)


def _as_row(x: Tensor) -> Tensor:
    return x.reshape(1) if x.ndim == 0 else x


def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The elements in order along `dim`, and where each came from; equal elements keep their order, whatever `stable` says; NaN is the greatest.

    Shapes:
        input: (..., L, ...)  ->  (values, indices), both as input

    >>> values, indices = tl.sort(tl.tensor([3, 1, 2]))
    >>> values.tolist(), indices.tolist()
    ([1, 2, 3], [1, 2, 0])
    """
    row = _as_row(input)
    values, indices = _sort(row, dim=normalize_dim("sort", dim, row.ndim), descending=bool(descending))
    return _sort_result(values, indices) if input.ndim else _sort_result(values.reshape(()), indices.reshape(()))


def _distinct(shape: tuple[int, ...]) -> Draw:
    return Draw(shape, distinct=True)


def _sort_samples(**attrs: Any) -> list[Sample]:
    shapes: list[tuple[tuple[int, ...], int]] = [
        ((5,), 0),
        ((3, 4), 0),
        ((2, 3, 4), 1),
        ((2, 67), 1),
        ((3, 300), 1),
        ((70_000,), 0),
        ((0, 3), 0),
        ((0, 3), 1),
    ]
    return [sample(_distinct(s), dim=d, descending=down, **attrs) for s, d in shapes for down in (False, True)]


def _sort_rows(**attrs: Any) -> list[Sample]:
    shapes = [((BATCH, 67), 1), ((BATCH, 3000), 1), ((BATCH, 40, 9), 1), ((BATCH, 3, 200), 2)]
    return [sample(_distinct(s), dim=d, **attrs) for s, d in shapes]


def _ties() -> list[Sample]:
    draws = [
        Draw((8,), dtype="int64", values=[2, 1, 2, 0, 1, 1, 2, 0]),
        Draw((200,), dtype="int64", values=[2, 1, -2, 0, 1, 1, 2**40, 0]),
        Draw((99,), values=[1.0, -0.0, 0.0, math.nan, -3.0, math.inf, -math.inf], special=(math.nan,)),
        Draw((5,), values=[1.0, math.nan, -math.inf, math.nan, 0.0], special=(math.nan,)),
    ]
    return [sample(d, dim=0, descending=down) for d in draws for down in (False, True)]


_sort = structured(
    "sort",
    inputs=("x",),
    attrs=("dim", "descending"),
    outputs=("values", "indices"),
    dtype=rules.as_is,
    ref=_sort_ref,
    vjp=(lambda g_values, indices, x_shape, *, dim: _back(g_values, indices, x_shape, dim),),
    native=lambda line, x, dim, descending: _native("sort", line, x, None, dim, descending),
    decode=gathering.decode_dim,
    samples=lambda: _sort_samples() + _ties(),
    rowwise=lambda: _sort_rows(descending=False) + _sort_rows(descending=True),
    errors=[error((2, 3), dim=2, descending=False, raises=IndexError, match="sort: dim 2 is out of range")],
)


def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The positions of the elements in sorted order, along `dim`; see `sort`.

    Shapes:
        input: (..., L, ...)  ->  out: as input, int64

    >>> tl.argsort(tl.tensor([3, 1, 2])).tolist()
    [1, 2, 0]
    """
    row = _as_row(input)
    out = _argsort(row, dim=normalize_dim("argsort", dim, row.ndim), descending=bool(descending))
    return out.reshape(input.shape) if input.ndim == 0 else out


_argsort = structured(
    "argsort",
    inputs=("x",),
    attrs=("dim", "descending"),
    dtype=rules.index,
    ref=lambda xp, x, *, dim, descending: _order(xp, x, dim, descending),
    native=lambda line, x, dim, descending: _native("argsort", line, x, None, dim, descending),
    samples=lambda: _sort_samples() + _ties(),
    rowwise=lambda: _sort_rows(descending=False) + _sort_rows(descending=True),
    errors=[error((2, 3), dim=2, descending=False, raises=IndexError, match="argsort: dim 2 is out of range")],
)


@composite(
    "msort",
    inputs=("input",),
    ref=lambda xp, x: xp.sort(x, axis=0),
    samples=lambda: [sample(_distinct((5,))), sample(_distinct((3, 4)))],
)
def msort(input: Tensor) -> Tensor:
    """The elements in order along the first dimension.

    >>> tl.msort(tl.tensor([[3, 1], [2, 4]])).tolist()
    [[2, 1], [3, 4]]
    """
    return sort(input, 0).values


# ---- selecting ----


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The k largest (or smallest) elements along `dim`, best first whatever `sorted` says, and where they are; of equal ones the first.

    Shapes:
        input: (..., L, ...)  ->  (values, indices), both (..., k, ...)

    >>> tl.topk(tl.tensor([1, 5, 3]), 2).indices.tolist()
    [1, 2]
    """
    row = _as_row(input)
    dim = normalize_dim("topk", dim, row.ndim)
    if not 0 <= k <= row.shape[dim]:
        raise ShapeError(
            f"topk: k is {k}, expected 0 to {row.shape[dim]}, the size of dimension {dim} (shape {input.shape})."
        )
    values, indices = _topk(row, k=k, dim=dim, largest=bool(largest))
    return (
        _topk_result(values, indices) if input.ndim or k == 0 else _topk_result(values.reshape(()), indices.reshape(()))
    )


def _topk_ref(xp: Any, x: Any, *, k: int, dim: int, largest: bool) -> Any:
    order = _order(xp, x, dim, largest)[(slice(None),) * dim + (slice(k),)]
    return xp.take_along_axis(x, order, axis=dim), order


_topk = structured(
    "topk",
    inputs=("x",),
    attrs=("k", "dim", "largest"),
    outputs=("values", "indices"),
    dtype=rules.as_is,
    ref=_topk_ref,
    vjp=(lambda g_values, indices, x_shape, *, dim: _back(g_values, indices, x_shape, dim),),
    native=lambda line, x, k, dim, largest: _native("topk", line, x, k, dim, largest),
    decode=gathering.decode_dim,
    samples=lambda: [
        sample(_distinct(s), k=k, dim=d, largest=large)
        for s, k, d in [
            ((5,), 3, 0),
            ((3, 4), 1, 0),
            ((2, 3, 4), 3, 1),
            ((2, 67), 5, 1),
            ((2, 700), 40, 1),
            ((2, 300), 9, 1),
            ((3, 4), 0, 1),
        ]
        for large in (False, True)
    ],
    rowwise=lambda: _sort_rows(k=7, largest=True),
    errors=[error((2, 3), k=4, dim=1, largest=True, raises=ValueError, match="topk: k is 4, expected 0 to 3")],
)


def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th smallest element along `dim` (the smallest is the first), and where it is.

    Shapes:
        input: (..., L, ...)  ->  (values, indices), without `dim`, or with size 1 there

    >>> tl.kthvalue(tl.tensor([3, 1, 2]), 2).values.item()
    2
    """
    row = _as_row(input)
    dim = normalize_dim("kthvalue", dim, row.ndim)
    if not 1 <= k <= row.shape[dim]:
        raise ShapeError(
            f"kthvalue: k is {k}, expected 1 to {row.shape[dim]}, the size of dimension {dim} (shape {input.shape})."
        )
    both = (shape.narrow(t, dim, k - 1, 1) for t in _topk(row, k=k, dim=dim, largest=False))
    return _kthvalue_result(*(t if keepdim and input.ndim else t.squeeze(dim) for t in both))


# ---- distinct values ----


def _changes(xp: Any, x: Any) -> Any:
    """True where a slice along the first dimension differs from the one before."""
    if x.shape[0] == 0:
        return xp.zeros((0,), dtype=bool)
    differs = (x[1:] != x[:-1]).reshape(x.shape[0] - 1, math.prod(x.shape[1:])).any(axis=1)
    return xp.concatenate([xp.ones((1,), dtype=bool), differs])


def _runs(xp: Any, x: Any) -> tuple[Any, Any, Any]:
    """The first slice of each run of equal ones, the run of each slice, the length of each run."""
    new = _changes(xp, x)
    starts = xp.flatnonzero(new)
    ends = xp.concatenate([starts[1:], xp.asarray([x.shape[0]], dtype=starts.dtype)])[: starts.shape[0]]
    return x[starts], xp.cumsum(new) - 1, ends - starts


def _lexical_order(xp: Any, x: Any) -> Any:
    """The stable order of slices along the first dimension, by their first element, then their second, ..."""
    width = math.prod(x.shape[1:])
    if width <= 1 or x.shape[0] == 0:
        return xp.argsort(x.reshape(-1), kind="stable") if width else xp.arange(x.shape[0])
    flat = x.reshape(x.shape[0], width)
    return xp.lexsort(xp.stack([flat[:, i] for i in range(width - 1, -1, -1)]))


def _unique_ref(xp: Any, x: Any, *, dim: int | None) -> Any:
    moved = x.reshape(-1) if dim is None else xp.moveaxis(x, dim, 0)
    order = _lexical_order(xp, moved)
    values, runs, counts = _runs(xp, moved[order])
    inverse = xp.empty(order.shape, dtype=xp.int64)
    inverse[order] = runs
    return _placed(xp, x, values, inverse, counts, dim)


def _placed(xp: Any, x: Any, values: Any, inverse: Any, counts: Any, dim: int | None) -> tuple[Any, Any, Any]:
    if dim is None:
        return values, inverse.reshape(x.shape).astype(xp.int64), counts.astype(xp.int64)
    return xp.moveaxis(values, 0, dim), inverse.astype(xp.int64), counts.astype(xp.int64)


def _consecutive_ref(xp: Any, x: Any, *, dim: int | None) -> Any:
    moved = x.reshape(-1) if dim is None else xp.moveaxis(x, dim, 0)
    return _placed(xp, x, *_runs(xp, moved), dim)


def _distinct_samples() -> list[Sample]:
    def draw(*shape: int) -> Draw:
        return Draw(shape, 0, 3, dtype="int64")

    return [
        sample(draw(9), dim=None), sample(draw(3, 4), dim=None), sample(draw(6, 2), dim=0), sample(draw(2, 6), dim=1), sample(draw(0), dim=None),
        sample(draw(), dim=None), sample(Draw((5,), values=[1.0, -0.0, 0.0, 2.5, 1.0]), dim=None), sample(Draw((5,), dtype="bool"), dim=None),
    ]  # fmt: skip


def _distinct_entry(name: str, ref: Any) -> Any:
    return structured(
        name,
        inputs=("x",),
        attrs=("dim",),
        outputs=("values", "inverse", "counts"),
        dtype=rules.as_is,
        ref=ref,
        samples=_distinct_samples,
        private=True,
    )


_unique, _unique_consecutive = (
    _distinct_entry("unique_all", _unique_ref),
    _distinct_entry("unique_consecutive_all", _consecutive_ref),
)


def _asked(entry: Any, name: str, x: Tensor, return_inverse: bool, return_counts: bool, dim: int | None) -> Any:
    values, inverse, counts = entry(x, dim=None if dim is None else normalize_dim(name, dim, x.ndim))
    if not return_inverse and not return_counts:
        return values
    return (values, *([inverse] * return_inverse), *([counts] * return_counts))


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements (or, with `dim`, slices) in ascending order, whatever `sorted` says; NaN equals nothing, not even NaN.

    Shapes:
        input: (...)  ->  values: (U,), inverse: as input (which value each element is), counts: (U,)
        with dim: values: (..., U, ...), inverse: (L,), counts: (U,)

    >>> values, counts = tl.unique(tl.tensor([3, 1, 3]), return_counts=True)
    >>> values.tolist(), counts.tolist()
    ([1, 3], [1, 2])
    """
    return _asked(_unique, "unique", input, return_inverse, return_counts, dim)


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """One element (or, with `dim`, slice) of each run of equal ones.

    Shapes:
        as in `unique`

    >>> tl.unique_consecutive(tl.tensor([1, 1, 2, 1])).tolist()
    [1, 2, 1]
    """
    return _asked(_unique_consecutive, "unique_consecutive", input, return_inverse, return_counts, dim)


@composite(
    "isin",
    inputs=("elements", "test_elements"),
    ref=lambda xp, x, y: xp.isin(x, y),
    samples=lambda: [
        sample(Draw(s, 0, 9, dtype="int64"), Draw(t, 0, 9, dtype="int64"))
        for s in [(), (5,), (3, 4)]
        for t in [(0,), (1,), (4,), (2, 3)]
    ],
)
def isin(
    elements: Tensor, test_elements: Tensor | Scalar, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Whether each element of elements is among the elements of test_elements; `invert` negates.

    Shapes:
        elements: (...), test_elements: (...)  ->  out: as elements, bool

    >>> tl.isin(tl.tensor([1, 2, 3]), tl.tensor([3, 1])).tolist()
    [True, False, True]
    """
    found = _isin(elements, test_elements)
    return ops.comparison.logical_not(found) if invert else found


_isin = structured(
    "isin_any", inputs=("x", "y"), dtype=rules.comparison, ref=lambda xp, x, y: xp.isin(x, y), private=True
)


# ---- places in a sorted sequence ----


def searchsorted(
    sorted_sequence: Tensor,
    input: Tensor | Scalar,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where each value would have to be inserted to keep the sequence sorted: before equal elements, or after them with ``right=True``.

    Shapes:
        sorted_sequence: (L,), input: (...)  or  (B..., L), (B..., N)  ->  out: as input, int64

    >>> tl.searchsorted(tl.tensor([1, 3, 5]), tl.tensor([3, 4])).tolist()
    [1, 2]
    """
    if side not in (None, "left", "right") or (side == "left" and right):
        raise ShapeError(
            f'searchsorted: side must be "left" or "right" and agree with right, got side={side!r}, right={right}.'
        )
    if sorter is not None:
        sorted_sequence = gathering.gather(sorted_sequence, -1, sorter)
    return _search(sorted_sequence, input, right or side == "right", out_int32)


def bucketize(input: Tensor | Scalar, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """Which interval between ascending `boundaries` each element is in: ``boundaries[i-1] < input <= boundaries[i]``; with `right`, ``<=`` and ``<``.

    Shapes:
        input: (...), boundaries: (L,)  ->  out: as input, int64 in [0, L]

    >>> tl.bucketize(tl.tensor([0, 1, 2]), tl.tensor([1, 2])).tolist()
    [0, 0, 1]
    """
    if boundaries.ndim != 1:
        raise ShapeError(f"bucketize: boundaries must have 1 dimension, got shape {boundaries.shape}.")
    return _search(boundaries, input, right, out_int32)


def _search(sequence: Tensor, values: Tensor | Scalar, right: bool, out_int32: bool) -> Tensor:
    out = _searchsorted(sequence, values, right=bool(right))
    return to_dtype(out, int32) if out_int32 else out


def _searchsorted_ref(xp: Any, x: Any, values: Any, *, right: bool) -> Any:
    side = "right" if right else "left"
    if x.ndim == 1:
        return xp.searchsorted(x, values, side=side)
    if x.ndim == 0 or x.shape[:-1] != values.shape[:-1]:
        raise ShapeError(
            f"searchsorted: sequences of shape {x.shape} do not fit values of shape {values.shape}; expected 1 dimension, or all but the last equal."
        )
    out = xp.empty(values.shape, dtype=xp.int64)
    for i in np.ndindex(x.shape[:-1]):
        out[i] = xp.searchsorted(x[i], values[i], side=side)
    return out


def _searchsorted_samples() -> list[Sample]:
    rising = Draw((4,), dtype="int64", values=[1, 3, 3, 7])
    rows = Draw((2, 3), dtype="int64", values=[[1, 2, 3], [0, 0, 5]])
    draws = [(rising, Draw(s, 0, 9, dtype="int64")) for s in [(), (5,), (2, 3), (0,)]] + [
        (rows, Draw((2, 4), 0, 6, dtype="int64")),
        (Draw((2, 0), dtype="int64"), Draw((2, 4), 0, 6, dtype="int64")),
        (Draw((0, 2, 3), dtype="int64"), Draw((0, 2, 4), dtype="int64")),
    ]
    return [sample(a, b, right=r) for a, b in draws for r in (False, True)]


_searchsorted = structured(
    "searchsorted_int64",
    inputs=("sorted_sequence", "values"),
    attrs=("right",),
    dtype=lambda common: (common, int64),
    ref=_searchsorted_ref,
    samples=_searchsorted_samples,
    private=True,
)


# ---- counting ----


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each number from 0 on occurs, or the sum of its elements' weights, through which gradients flow.

    Shapes:
        input: (L,), integers >= 0; weights: (L,)  ->  out: (max(largest + 1, minlength),)

    >>> tl.bincount(tl.tensor([0, 2, 2])).tolist()
    [1, 0, 2]
    """
    if input.dtype.category != 1:
        raise DTypeError(f"bincount: expected integers, got {input.dtype.name}.")
    if input.ndim != 1 or minlength < 0:
        raise ShapeError(
            f"bincount: expected 1 dimension and minlength >= 0, got shape {input.shape} and minlength {minlength}."
        )
    if weights is None:
        return _bincount(input, minlength=minlength)
    if weights.shape != input.shape:
        raise ShapeError(
            f"bincount: weights of shape {weights.shape} do not fit input of shape {input.shape}; expected the same."
        )
    size = max(minlength, int(input.amax().item()) + 1) if input.numel() else minlength
    return gathering.scatter_add(
        ops.creation.zeros((size,), dtype=weights.dtype, device=weights.device), 0, input, weights
    )


def _bincount_ref(xp: Any, x: Any, *, minlength: int) -> Any:
    if x.size and x.min() < 0:
        raise IndexRangeError(f"bincount: expected integers >= 0, got {int(x.min())}.")
    return xp.bincount(x, minlength=minlength).astype(xp.int64)


_bincount = structured(
    "bincount",
    inputs=("x",),
    attrs=("minlength",),
    dtype=rules.index,
    ref=_bincount_ref,
    samples=lambda: [sample(Draw(s, 0, 6, dtype="int64"), minlength=m) for s in [(9,), (1,), (0,)] for m in (0, 8)],
    errors=[
        error(
            Draw((2,), dtype="int64", values=[1, -3]),
            minlength=0,
            raises=IndexError,
            match="bincount: expected integers >= 0, got -3",
        ),
        error((3,), minlength=0, raises=TypeError, match="bincount: expected integers, got float"),
        error(
            Draw((2, 2), 0, 3, dtype="int64"), minlength=0, raises=ValueError, match="bincount: expected 1 dimension"
        ),
    ],
)


def histc(input: Tensor, bins: int = 100, min: Scalar = 0, max: Scalar = 0) -> Tensor:
    """How many elements fall into each of `bins` equal intervals from `min` to `max` (both inclusive; the data's range where they are equal).

    Shapes:
        input: (...)  ->  out: (bins,), in input's dtype

    >>> tl.histc(tl.tensor([1.0, 2.0, 1.0]), bins=4, min=0, max=3).tolist()
    [0.0, 2.0, 1.0, 0.0]
    """
    if bins < 1 or max < min:
        raise ShapeError(f"histc: expected bins >= 1 and min <= max, got bins={bins}, min={min}, max={max}.")
    return _histc(input, bins=bins, min=min, max=max)


def _histc_ref(xp: Any, x: Any, *, bins: int, min: Scalar, max: Scalar) -> Any:
    low, high = (float(min), float(max)) if min != max or not x.size else (float(x.min()), float(x.max()))
    if low == high:
        low, high = low - 1, high + 1
    inside = x[(x >= low) & (x <= high)]
    return xp.histogram(inside, bins=bins, range=(low, high))[0].astype(x.dtype)


def _only_floating(common: DType) -> tuple[DType | None, DType | None]:
    if not common.is_floating_point:
        raise DTypeError(f"histc: expected a floating dtype, got {common.name}.")
    return common, common


_histc = structured(
    "histc",
    inputs=("x",),
    attrs=("bins", "min", "max"),
    dtype=_only_floating,
    ref=_histc_ref,
    samples=lambda: [
        sample(s, bins=b, min=low, max=high) for s in [(20,), (3, 4), (0,)] for b, low, high in [(4, -1, 1), (5, 0, 0)]
    ],
)
