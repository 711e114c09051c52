"""Subscripts as NumPy defines them, reading and writing: ``x[index]`` and ``x[index] = value``.

Ints, slices, None and Ellipsis become views. Arrays and masks become flat positions within the dimensions they index, which index_read and
index_write (positions.py) take.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorlib import ops
from tensorlib.device import CPU
from tensorlib.dtypes import int64
from tensorlib.errors import IndexRangeError, ShapeError
from tensorlib.lines import KNOWN, here
from tensorlib.native import lib
from tensorlib.ops import elementwise, shape
from tensorlib.ops.declare import EXACT, assign_, to_dtype
from tensorlib.ops.gather import as_positions, same_dtype
from tensorlib.ops.positions import index_read, index_write, nonzero
from tensorlib.ops.rearrange import flip
from tensorlib.ops.table import TABLE
from tensorlib.tensor import Tensor, wrap

Scalar = bool | int | float

__all__ = ["index_put", "take"]
METHODS = ("index_put", "take")
INPLACE = ("index_put",)

_frame, _line_of = sys._getframe, KNOWN.get
_select, _select_two, _slice, _unsqueeze = lib.tl_select, lib.tl_select_two, lib.tl_slice, lib.tl_unsqueeze
_ndim, _drop = lib.tl_ndim, lib.tl_drop
_END = 2**63 - 1
_WHOLE = (0, _END, 1)


def getitem(x: Tensor, index: Any) -> Tensor:
    """``x[index]`` as in NumPy: a view where the index has only ints, slices, None and Ellipsis (negative steps copy), else a copy.

    >>> x = tl.tensor([[1, 2, 3], [4, 5, 6]])
    >>> x[1, ::-1].tolist(), x[:, [2, 0]].tolist(), x[x > 4].tolist()
    ([6, 5, 4], [[3, 1], [6, 4]], [5, 6])
    """
    frame = _frame(1)
    line = _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)
    kind = type(index)
    if kind is int and -_END < index < _END:
        handle = _select(x._array, 0, index, line)
    elif kind is Tensor:
        handle = _by_positions(x._array, index._array, line)
    elif kind is slice and index.step is None and type(index.start) is int and type(index.stop) is int:
        start, stop = index.start, index.stop
        handle = _slice(x._array, 0, start, stop, 1, line) if -_END < start < _END and -_END < stop < _END else 0
    elif kind is tuple and len(index) == 2 and type(index[0]) is int and type(index[1]) is int:
        i, j = index
        handle = _select_two(x._array, i, j, line) if -_END < i < _END and -_END < j < _END else 0
    else:
        handle = _basic(x._array, index if kind is tuple else (index,), line)
    if handle:
        return wrap(handle)
    sub = _parse(x, index)
    view = flip(sub.view, sub.flips) if sub.flips else sub.view
    if not sub.arrays:
        return view if view is not x else x.view(x.shape)
    try:
        view, flat, dim, ndims = _collapsed(*_together(view, sub, x.shape))
        return index_read(view, flat, dim=dim, ndims=ndims)
    except IndexRangeError:
        _check_arrays(sub, x.shape)
        raise


def setitem(x: Tensor, index: Any, value: Any) -> None:
    """``x[index] = value`` as in NumPy; gradients flow to `value`, and to what x held elsewhere.

    >>> x = tl.zeros(2, 3)
    >>> x[:, 1] = tl.tensor([1.0, 2.0])
    >>> x[x == 0] = -1
    >>> x.tolist()
    [[-1.0, 1.0, -1.0], [-1.0, 2.0, -1.0]]
    """
    frame = _frame(1)
    line = _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)
    handle = _basic(x._array, index if type(index) is tuple else (index,), line)
    if handle:
        view = wrap(handle)
        if _stored(view, value, line):
            return
    sub = _parse(x, index)
    value = _as_value(x, value)
    if not sub.arrays:
        value = _fitted(value, sub.view.shape)
        shape.copy_(sub.view, flip(value, sub.flips) if sub.flips else value)
        return
    try:
        if not _put(sub, value, x.shape, line):
            view = flip(sub.view, sub.flips) if sub.flips else sub.view
            written = _written(view, sub, value, x.shape, accumulate=False)
            assign_(sub.view, flip(written, sub.flips) if sub.flips else written, "setitem", line)
    except IndexRangeError:
        _check_arrays(sub, x.shape)
        raise


def _put(sub: _Subscript, value: Tensor, whole: tuple[int, ...], line: int) -> bool:
    """Write in place, where that need not be recorded; False: it must, or there is more to it."""
    if sub.flips or (lib.tl_is_grad_enabled() and (sub.view.requires_grad or value.requires_grad)):
        return False
    target, flat, dim, ndims = _collapsed(*_together(sub.view, sub, whole))
    if ndims > 1:
        return False
    value = _fitted(value, (*target.shape[:dim], *flat.shape, *target.shape[dim + 1 :]))
    return bool(lib.tl_index_put(target._array, dim, flat._array, value._array, False, line))


def _by_positions(handle: int, index: int, line: int) -> int:
    """x[index] for an integer tensor that has dimensions; 0: there is more to it, or an error to word."""
    if 1 <= lib.tl_dtype_of(index) <= int64.number and _ndim(index):
        return int(lib.tl_index_select(handle, 0, index, line))
    return 0


def _basic(handle: int, index: tuple[Any, ...], line: int) -> int:
    """The view under ints, slices with positive steps, None and Ellipsis, as an owned handle; 0: there is more to it, or an error to word."""
    dim, owned, seen_ellipsis = 0, 0, False
    for place, item in enumerate(index):
        kind, made = type(item), 0
        if kind is int and -_END < item < _END:
            made = _select(handle, dim, item, line)
        elif kind is slice:
            bounds = _bounds(item)
            dim += 1
            if bounds == _WHOLE and dim <= _ndim(handle):
                continue
            if bounds:
                made = _slice(handle, dim - 1, *bounds, line)
        elif item is None:
            made = _unsqueeze(handle, dim, line)
            dim += 1
        elif item is Ellipsis and not seen_ellipsis:
            seen_ellipsis = True
            last = _ndim(handle) - sum(i is not None for i in index[place + 1 :])
            if last < dim:
                break
            dim = last
            continue
        if not made:
            break
        if owned:
            _drop(owned)
        handle = owned = made
    else:
        return owned
    if owned:
        _drop(owned)
    return 0


def _bounds(item: slice) -> tuple[int, int, int] | None:
    """A slice's bounds as C takes them; None where it has something else than ints."""
    start, stop, step = item.start, item.stop, item.step
    if start is None:
        start = 0
    elif type(start) is not int or not -_END < start < _END:
        return None
    if stop is None:
        stop = _END
    elif type(stop) is not int or not -_END < stop < _END:
        return None
    if step is None:
        return start, stop, 1
    return (start, stop, step) if type(step) is int and 0 < step < _END else None


def _stored(view: Tensor, value: Any, line: int) -> bool:
    """Write a number or a tensor that fits as it is; False: there is more to it, or an error to word."""
    kind = type(value)
    if kind is float or (kind is int and -EXACT <= value <= EXACT):
        floating = view.dtype.is_floating_point
        return bool((floating or kind is int) and lib.tl_fill(view._array, value, line))
    return isinstance(value, Tensor) and bool(lib.tl_copy(view._array, value._array, line))


@dataclass(slots=True)
class _Subscript:
    """x[index], sorted out: `view` is x after the basic parts; `flips` are its dimensions still to be reversed (negative steps); `arrays`
    are (first dimension in view, number of dimensions, flat positions within them, which may count from the end); `sources` the dimensions
    of x that they index; `adjacent`: nothing but ints stood between them."""

    view: Tensor
    flips: list[int] = field(default_factory=list)
    arrays: list[tuple[int, int, Tensor]] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    adjacent: bool = True


def index_put(input: Tensor, indices: Sequence[Any], values: Tensor | Scalar, accumulate: bool = False) -> Tensor:
    """input with ``input[indices]`` replaced by `values`, or with `values` added there; added, a position named twice receives both.

    Shapes:
        indices: a tuple of integer or bool tensors that broadcast together  values: broadcasts to input[indices]  ->  out: as input

    >>> tl.index_put(tl.zeros(3), (tl.tensor([0, 0, 2]),), tl.tensor([1.0, 2.0, 3.0]), accumulate=True).tolist()
    [3.0, 0.0, 3.0]
    """
    sub = _parse(input, tuple(indices))
    if sub.view is not input or sub.flips or not sub.arrays:
        raise IndexRangeError(
            "index_put: indices must be integer or bool tensors, one for each of the first dimensions."
        )
    if isinstance(values, Tensor):
        same_dtype("index_put", input, "values", values)
    return _written(input, sub, _as_value(input, values), input.shape, accumulate=accumulate)


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of input as if it were flat; negative positions count from the end.

    Shapes:
        input: (...)  index: (K...), integer  ->  out: (K...)

    >>> tl.take(tl.tensor([[4, 3], [2, 1]]), tl.tensor([0, -1])).tolist()
    [4, 1]
    """
    as_positions("take", index)
    return getitem(input.reshape(-1), index)


def _parse(x: Tensor, index: Any) -> _Subscript:
    items = [_item(i, x) for i in index] if type(index) is tuple else [_item(index, x)]
    used = sum(_dims_used(i) for i in items)
    whole, n_ellipses = x.shape, sum(i is Ellipsis for i in items)
    if n_ellipses > 1:
        raise IndexRangeError(f"indexing: {n_ellipses} Ellipses (...) in one index; expected at most one.")
    if used > len(whole):
        raise IndexRangeError(f"indexing: {used} indices for a tensor of {len(whole)} dimensions (shape {whole}).")
    sub, dim, source, last = _Subscript(x), 0, 0, -1
    for place, item in enumerate(items):
        if item is None:
            sub.view = sub.view.unsqueeze(dim)
            dim += 1
        elif item is Ellipsis:
            dim += len(whole) - used
            source += len(whole) - used
        elif type(item) is slice:
            sub.view, backwards = _sliced(sub.view, dim, item, whole[source])
            if backwards:
                sub.flips.append(dim)
            dim, source = dim + 1, source + 1
        else:  # an int or an array: among arrays, ints count as arrays for where the result's dimensions go
            sub.adjacent = sub.adjacent and last in (-1, place - 1)
            last = place
            if type(item) is int:
                sub.view = _selected(sub.view, dim, item, source, whole)
            else:
                dim += _add_array(sub, dim, item, source, whole)
            source += _dims_used(item)
    return sub


def _item(i: Any, x: Tensor) -> Any:
    """One part of an index as an int, slice, None, Ellipsis, or a Tensor of int64 or bool on x's device."""
    kind = type(i)
    if kind is int or kind is slice or i is None or i is Ellipsis:
        return i
    if isinstance(i, (bool, np.bool_)):
        return ops.creation.tensor(bool(i), device=x.device)
    if isinstance(i, (list, tuple, np.ndarray)):
        try:
            array = np.asarray(i)
        except ValueError as error:
            raise IndexRangeError(f"indexing: a list does not make an array: {error}") from None
        if array.size == 0 and not isinstance(i, np.ndarray):
            array = array.astype(np.int64)
        if array.dtype.kind not in "biu":
            raise IndexRangeError(f"indexing: an index array has dtype {array.dtype}; expected integers or bool.")
        i = ops.creation.tensor(array if array.dtype.kind == "b" else array.astype(np.int64), device=x.device)
    if isinstance(i, Tensor):
        if i.dtype.category > 1:
            raise IndexRangeError(f"indexing: an index tensor has dtype {i.dtype.name}; expected integers or bool.")
        if i.dtype.category == 1 and i.ndim == 0:
            return int(i.item())
        if x.device is not CPU and i.device is CPU:
            i = i.to(x.device)
        return i if i.dtype.category == 0 else to_dtype(i, int64)
    try:
        return operator.index(i)
    except TypeError:
        raise IndexRangeError(
            f"indexing: an index is a {kind.__name__}; expected an int, slice, None, Ellipsis, or an array of integers or bool."
        ) from None


def _dims_used(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype.category == 0 else 1


def _sliced(view: Tensor, dim: int, item: slice, size: int) -> tuple[Tensor, bool]:
    """The slice with a positive step, and whether it is still to be reversed."""
    if item.start is None and item.stop is None and item.step is None:
        return view, False
    try:
        start, stop, step = item.indices(size)
    except (TypeError, ValueError) as error:
        raise IndexRangeError(f"indexing: {item} can not be used: {error}.") from None
    if step < 0:
        count = max(0, (stop - start + step + 1) // step)
        start, stop, step = start + (count - 1) * step, start + 1, -step
        if count == 0:
            start = stop = 0
        return shape.slice_dim(view, dim, start, stop, step), count > 1
    return shape.slice_dim(view, dim, start, max(start, stop), step), False


def _range_error(i: int, source: int, whole: tuple[int, ...]) -> IndexRangeError:
    return IndexRangeError(
        f"indexing: index {i} is out of range for dimension {source} of size {whole[source]} (shape {whole})."
    )


def _selected(view: Tensor, dim: int, i: int, source: int, whole: tuple[int, ...]) -> Tensor:
    if not -whole[source] <= i < whole[source]:
        raise _range_error(i, source, whole)
    return shape.select(view, dim, i)


def _add_array(sub: _Subscript, dim: int, item: Tensor, source: int, whole: tuple[int, ...]) -> int:
    """Append an integer or bool array that indexes view's dimensions from `dim` on; returns how many."""
    n = 1
    if item.dtype.category == 0:
        n = item.ndim
        if item.shape != whole[source : source + n]:
            raise IndexRangeError(
                f"indexing: a mask of shape {item.shape} does not fit dimensions {source} to {source + n - 1} of shape {whole}."
            )
        if n == 0:  # a single bool adds a dimension, of size 1 where True and 0 where False
            sub.view, n = sub.view.unsqueeze(dim), 1
            item = ops.creation.zeros((int(item.item()),), dtype=int64, device=item.device)
        else:
            item = nonzero(item if n == 1 else item.reshape(-1)).reshape(-1)
    sub.arrays.append((dim, n, item))
    sub.sources.append(source)
    return n


def _check_arrays(sub: _Subscript, whole: tuple[int, ...]) -> list[Tensor]:
    """The index arrays counted from the start; raises where one is out of range, in terms of the user's index."""
    made = []
    for (dim, n, index), source in zip(sub.arrays, sub.sources, strict=True):
        size = math.prod(sub.view.shape[dim : dim + n])
        low, high = _range(index) if index.numel() else (0, -1)
        if low < -size or high >= size:
            raise _range_error(low if low < -size else high, source, whole)
        made.append(index if low >= 0 else elementwise.where(index < 0, index + size, index))
    return made


def _range(index: Tensor) -> tuple[int, int]:
    """The least and the greatest element."""
    low, high = (
        lib.tl_reduce(TABLE[name].number, index._array, (1 << index.ndim) - 1, False, 0) for name in ("amin", "amax")
    )
    if low and high:
        return int(wrap(low).item()), int(wrap(high).item())
    return int(index.amin().item()), int(index.amax().item())


def _together(view: Tensor, sub: _Subscript, whole: tuple[int, ...]) -> tuple[Tensor, Tensor, int, int]:
    """The view with the indexed dimensions side by side (in front, unless they are adjacent), one array of positions, their place and number."""
    arrays = sub.arrays
    dim, ndims = (arrays[0][0] if sub.adjacent else 0), sum(n for _, n, _ in arrays)
    if not sub.adjacent:
        view = view.permute(_front(sub))
    if len(arrays) == 1:
        return view, arrays[0][2], dim, ndims
    try:
        np.broadcast_shapes(*(i.shape for _, _, i in arrays))
    except ValueError:
        listed = " and ".join(str(i.shape) for _, _, i in arrays)
        raise IndexRangeError(f"indexing: index arrays of shapes {listed} do not broadcast together.") from None
    flat, *rest = _check_arrays(sub, whole)
    sizes = sub.view.shape
    for (first, n, _), i in zip(arrays[1:], rest, strict=True):
        flat = flat * math.prod(sizes[first : first + n]) + i
    return view, flat, dim, ndims


def _front(sub: _Subscript) -> list[int]:
    """The permutation that brings the indexed dimensions to the front."""
    indexed = [d for first, n, _ in sub.arrays for d in range(first, first + n)]
    return indexed + [d for d in range(sub.view.ndim) if d not in indexed]


def _collapsed(view: Tensor, flat: Tensor, dim: int, ndims: int) -> tuple[Tensor, Tensor, int, int]:
    """The indexed dimensions as a single one, where that takes no copy."""
    if ndims > 1 and view.is_contiguous():
        sizes = view.shape
        view, ndims = view.reshape((*sizes[:dim], math.prod(sizes[dim : dim + ndims]), *sizes[dim + ndims :])), 1
    return view, flat, dim, ndims


def _written(view: Tensor, sub: _Subscript, value: Tensor, whole: tuple[int, ...], *, accumulate: bool) -> Tensor:
    """A copy of the view with value in, or added to, the indexed places."""
    target, flat, dim, ndims = _together(view, sub, whole)
    value = _fitted(value, (*target.shape[:dim], *flat.shape, *target.shape[dim + ndims :]))
    out = index_write(target, flat, value, dim=dim, ndims=ndims, accumulate=accumulate)
    return out if sub.adjacent else out.permute([int(d) for d in np.argsort(_front(sub))])


def _as_value(x: Tensor, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return to_dtype(value, x.dtype)
    if isinstance(value, (int, float)):
        return ops.creation.full((), value, dtype=x.dtype, device=x.device)
    return ops.creation.tensor(value, dtype=x.dtype, device=x.device)


def _fitted(value: Tensor, target: tuple[int, ...]) -> Tensor:
    """The value broadcast to the shape that is written; leading dimensions of size 1 may be too many."""
    given = value.shape
    extra = len(given) - len(target)
    if extra > 0 and all(n == 1 for n in given[:extra]):
        value = value.reshape(given[extra:])
    fits = value.ndim <= len(target) and all(
        n in (1, t) for n, t in zip(reversed(value.shape), reversed(target), strict=False)
    )
    if not fits:
        raise ShapeError(f"setitem: a value of shape {given} does not fit the indexed part, of shape {target}.")
    return value.expand(target)
