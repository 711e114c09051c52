"""Joining tensors, and taking them apart into views."""

from __future__ import annotations

import builtins
import itertools
import sys
from collections.abc import Sequence
from typing import Any, cast

from tensorlib.errors import DTypeError, IndexRangeError, ShapeError
from tensorlib.lines import KNOWN, here
from tensorlib.native import ffi, lib
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.rows import RowMethods
from tensorlib.ops.shape import normalize_dim, select, slice_dim, unsqueeze
from tensorlib.ops.table import error, sample
from tensorlib.tensor import Tensor, wrap

__all__ = ["cat", "chunk", "concat", "concatenate", "split", "stack", "tensor_split", "unbind"]
_frame, _line_of = sys._getframe, KNOWN.get
_slice, _cat_of, _numel = lib.tl_slice, lib.tl_cat, lib.tl_numel
METHODS = ("chunk", "split", "tensor_split", "unbind")
_SLOW = (
    AttributeError,
    IndexError,
    TypeError,
    OverflowError,
)  # no tensor, or no number that C takes: the functions look closer
_PIECES = ffi.typeof("uintptr_t[64]")


def _line(frame: Any) -> int:
    return _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)


def _pieces(x: Any, dim: Any, size: int, chunks: Any, frame: Any) -> tuple[Tensor, ...]:
    """What C cuts x into, pieces of `size` or (0) at most `chunks`; nothing where it declines, or they are many."""
    outs = ffi.new(_PIECES)
    try:
        n = lib.tl_split(x._array, dim, size, chunks, _line(frame), outs, len(outs))
    except _SLOW:
        return ()
    return tuple([wrap(h) for h in ffi.unpack(outs, n)])


def _cat_rule(g: Tensor, tensors_shape: list[tuple[int, ...]], dim: int) -> list[Tensor]:
    made, start = [], 0
    for shape in tensors_shape:
        made.append(slice_dim(g, dim, start, start + shape[dim]))
        start += shape[dim]
    return made


_cat = structured(
    "cat", inputs=("tensors",), attrs=("dim",), variadic=True, ref=lambda xp, tensors, *, dim: xp.concatenate(tensors, dim), vjp=(_cat_rule,),
    native=lambda line, tensors, dim: lib.tl_cat([x._array for x in tensors], len(tensors), dim, line),
    decode=lambda node: {"dim": lib.tl_node_int(node, 0)},
    samples=lambda: [sample([(2, 3), (4, 3)], dim=0), sample([(2, 1), (2, 0), (2, 3)], dim=1), sample([(3,)], dim=0)],
    errors=lambda: [
        error([(2, 3), (2, 4)], dim=0, raises=ShapeError, match=r"cat: tensor 1 has shape \(2, 4\), the first \(2, 3\)"),
        error([(), ()], dim=0, raises=ShapeError, match=r"cat: 0-d tensors.*\n  hint: use stack"),
        error([(2,)], dim=1, raises=IndexError, match="cat: dim 1 is out of range"),
        error([], dim=0, raises=TypeError, match="cat: expected a non-empty sequence"),
    ],
)  # fmt: skip


def _listed(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    parts = list(tensors)
    for i, x in enumerate(parts):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: tensor {i} is a {type(x).__name__}, expected a Tensor.")
    if not parts:
        raise TypeError(f"{name}: expected a non-empty sequence of tensors, got none.")
    return parts


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along an existing dimension.

    Shapes:
        tensors: each (..., L_i, ...)  ->  out: (..., L_1 + L_2 + ..., ...)

    >>> tl.cat([tl.zeros(2), tl.ones(1)])
    tensor([0., 0., 1.])
    """
    parts = list(tensors)
    try:
        place = dim if dim >= 0 else dim + parts[0].ndim
        if parts and (made := _cat_of([x._array for x in parts], len(parts), place, _line(_frame(1)))):
            return wrap(made)
    except _SLOW:
        pass
    if ragged := [x for x in parts if isinstance(x, RowMethods)]:
        if dim not in (0, -ragged[0].ndim):
            return cast("Tensor", ragged[0].map_rows(cat, parts, dim))
        raise DTypeError(
            f"cat: got a {type(ragged[0]).__name__}, whose rows can not be joined; expected another dim than 0, or Tensors."
        )
    parts = _listed("cat", parts)
    some = [x for x in parts if x.ndim != 1 or x.numel()] or parts  # PyTorch lets empty 1-d tensors pass
    first = some[0].shape
    if not first:
        raise ShapeError("cat: 0-d tensors can not be joined.", hint="use stack()")
    place = normalize_dim("cat", dim, len(first))
    for i, x in enumerate(some):
        if len(x.shape) != len(first) or any(
            a != b for k, (a, b) in enumerate(zip(x.shape, first, strict=True)) if k != place
        ):
            raise ShapeError(
                f"cat: tensor {i} has shape {x.shape}, the first {first}; expected equal sizes except in dim {dim}."
            )
    return _cat(some, dim=place)


concat = concatenate = cat


def stacked(tensors: Sequence[Tensor]) -> Tensor | None:
    """`stack` along dim 0 by one native call; None where that is not enough: shapes or dtypes differ, no dimension, no element."""
    try:
        handles, shape = [x._array for x in tensors], tensors[0].shape
        if not shape or len(counts := set(map(_numel, handles))) > 1 or 0 in counts:
            return None
        made = _cat_of(handles, len(handles), 0, _line(_frame(2)))  # as many elements, and equal sizes behind the first
    except _SLOW:
        return None
    return wrap(made).view(len(handles), *shape) if made else None


def _stack_ref(xp: Any, tensors: Any, *, dim: int) -> Any:
    return xp.stack(tensors, dim)


@composite("stack", inputs=("tensors",), attrs=("dim",), variadic=True, ref=_stack_ref,
           samples=lambda: [sample([(2, 3), (2, 3)], dim=1), sample([(2, 3)] * 3, dim=-1), sample([(), ()], dim=0), sample([(2, 0)], dim=0)],
           errors=lambda: [error([(2,), (3,)], dim=0, raises=ShapeError, match="stack: tensor 1 has shape")])  # fmt: skip
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new dimension.

    >>> tl.stack([tl.zeros(2), tl.ones(2)]).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    parts = list(tensors)
    if dim == 0 and (made := stacked(parts)) is not None:
        return made
    parts = _listed("stack", parts)
    for i, x in enumerate(parts):
        if x.shape != parts[0].shape:
            raise ShapeError(
                f"stack: tensor {i} has shape {x.shape}, the first {parts[0].shape}; expected equal shapes."
            )
    place = normalize_dim("stack", dim, parts[0].ndim + 1)
    return cat([unsqueeze(x, place) for x in parts], place)


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of pieces along a dimension: of one size (the last may be smaller), or of the sizes given.

    >>> [p.tolist() for p in tl.arange(5).split(2)]
    [[0, 1], [2, 3], [4]]
    """
    if type(split_size_or_sections) is int and (pieces := _pieces(tensor, dim, split_size_or_sections, 0, _frame(1))):
        return pieces
    place = normalize_dim("split", dim, tensor.ndim)
    n = tensor.shape[place] if tensor.ndim else 0
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 0 or (size == 0 and n):
            raise ShapeError(f"split: got the size {size}, expected at least 1.")
        parts = [builtins.min(size, n - i) for i in range(0, n, size)] if n else [0]
    else:
        parts = list(split_size_or_sections)
        if builtins.sum(parts) != n or any(p < 0 for p in parts):
            raise ShapeError(f"split: sections {tuple(parts)} do not add up to {n}, the size of dim {dim}.")
    line, array, ends = _line(_frame(1)), tensor._array, list(itertools.accumulate(parts))
    return tuple([wrap(_slice(array, place, end - p, end, 1, line)) for p, end in zip(parts, ends, strict=True)])


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size (the last may be smaller) along a dimension.

    >>> [p.tolist() for p in tl.arange(5).chunk(2)]
    [[0, 1, 2], [3, 4]]
    """
    if pieces := _pieces(input, dim, 0, chunks, _frame(1)):
        return pieces
    if chunks < 1:
        raise ShapeError(f"chunk: got {chunks} chunks, expected at least 1.")
    n = input.shape[normalize_dim("chunk", dim, input.ndim)]
    return split(input, builtins.max(-(-n // chunks), 1), dim)


def tensor_split(input: Tensor, indices_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of `n` nearly equal pieces, or cut before the given indices.

    >>> [p.tolist() for p in tl.arange(5).tensor_split(2)]
    [[0, 1, 2], [3, 4]]
    """
    place = normalize_dim("tensor_split", dim, input.ndim)
    n = input.shape[place]
    if isinstance(indices_or_sections, int):
        if indices_or_sections < 1:
            raise ShapeError(f"tensor_split: got {indices_or_sections} sections, expected at least 1.")
        small, more = divmod(n, indices_or_sections)
        bounds = [i * small + builtins.min(i, more) for i in range(indices_or_sections + 1)]
        return tuple(slice_dim(input, place, a, b) for a, b in itertools.pairwise(bounds))
    cuts = list(indices_or_sections)
    return tuple(slice_dim(input, place, a, b) for a, b in zip([0, *cuts], [*cuts, None], strict=True))


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The positions along a dimension, one view each.

    >>> tl.arange(4).reshape(2, 2).unbind()
    (tensor([0, 1]), tensor([2, 3]))
    """
    if input.ndim == 0:
        raise IndexRangeError("unbind: a 0-d tensor has no dimension to take apart.")
    place = normalize_dim("unbind", dim, input.ndim)
    return tuple(select(input, place, i) for i in range(input.shape[place]))
