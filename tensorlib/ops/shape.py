"""Views and joins: shapes change, elements stay. Geometry is computed in C (native/views.c); a view is one small node."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.dtypes import DType
from tensorlib.errors import GradError, IndexRangeError, ShapeError
from tensorlib.lines import KNOWN, describe, here
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import assign_, composite, run, structured
from tensorlib.ops.table import TABLE, error, sample
from tensorlib.status import DECLINE, raise_status
from tensorlib.tensor import Tensor, wrap

__all__ = [
    "as_strided", "broadcast_tensors", "broadcast_to", "cat", "chunk", "clone", "concat", "concatenate", "detach", "diagonal", "expand_as",
    "flatten", "moveaxis", "movedim", "narrow", "numel", "permute", "ravel", "reshape", "select", "split", "squeeze", "stack", "swapaxes",
    "swapdims", "t", "tensor_split", "transpose", "unbind", "unflatten", "unsqueeze",
]  # fmt: skip
METHODS = (
    "as_strided", "broadcast_to", "chunk", "clone", "contiguous", "copy_", "diagonal", "expand", "expand_as", "fill_", "flatten", "moveaxis",
    "movedim", "narrow", "permute", "ravel", "reshape", "reshape_as", "select", "split", "squeeze", "swapaxes", "swapdims", "t", "tensor_split",
    "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as", "zero_",
)  # fmt: skip
INPLACE: tuple[str, ...] = ()

_frame, _line_of = sys._getframe, KNOWN.get
END = 2**63 - 1


# ---- arguments ----
def normalize_dim(name: str, dim: Any, ndim: int) -> int:
    """`dim` counted from the front. Raises IndexRangeError where it is out of range; a 0-d tensor takes 0 and -1, as PyTorch's do."""
    if not isinstance(dim, int):
        try:
            dim = dim.__index__()
        except AttributeError:
            raise TypeError(f"{name}: dim is a {type(dim).__name__}, expected an integer.") from None
    n = max(ndim, 1)
    if not -n <= dim < n:
        raise IndexRangeError(f"{name}: dim {dim} is out of range for {ndim} dimensions; expected {-n} to {n - 1}.")
    return int(dim % n)


def normalize_dims(name: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """One dim, several or None (all) as a sorted tuple of distinct dims counted from the front."""
    if dim is None:
        return tuple(range(ndim))
    given = [dim] if not isinstance(dim, (tuple, list)) else dim
    dims = sorted(normalize_dim(name, d, ndim) for d in given)
    if len(set(dims)) != len(dims):
        raise ShapeError(f"{name}: a dim appears twice in {tuple(given)}.")
    return tuple(dims) if ndim else ()


def sizes(name: str, shape: tuple[Any, ...]) -> list[int]:
    """A shape given as several integers or one sequence."""
    try:
        if len(shape) == 1 and not hasattr(shape[0], "__index__"):
            shape = tuple(shape[0])
        return [s if type(s) is int else s.__index__() for s in shape]
    except (AttributeError, TypeError):
        raise TypeError(f"{name}: got the shape {shape!r}, expected integers.") from None


def _made(handle: int, name: str, x: Tensor, message: str) -> Tensor:
    if handle:
        return wrap(handle)
    if lib.tl_status() != DECLINE:
        raise_status(name, x.shape)
    raise ShapeError(message)


def _permutation(node: int) -> dict[str, Any]:
    packed = lib.tl_node_int(node, 0)
    return {"dims": tuple(packed >> 4 * i & 15 for i in range(lib.tl_node_int(node, 1)))}


def _inverse(dims: Sequence[int]) -> list[int]:
    return [list(dims).index(i) for i in range(len(dims))]


def _ints(*names: str) -> Any:
    return lambda node: {name: lib.tl_node_int(node, i) for i, name in enumerate(names)}


# ---- entries: what the tape records, with rules of any order; C does the forward ----
_reshape = structured(
    "reshape", inputs=("x",), attrs=("shape",), ref=lambda xp, x, *, shape: xp.reshape(x, shape), dtype=rules.as_is,
    vjp=(lambda g, x_shape: reshape(g, x_shape),), native=lambda line, x, shape: lib.tl_reshape(x._array, len(shape), shape, True, line),
    samples=lambda: [sample((2, 6), shape=(3, 4)), sample((0, 3), shape=(3, 0)), sample((), shape=(1, 1)), sample((2, 3, 4), shape=(6, 4))],
)  # fmt: skip
_permute = structured(
    "permute", inputs=("x",), attrs=("dims",), ref=lambda xp, x, *, dims: xp.transpose(x, dims), dtype=rules.as_is,
    vjp=(lambda g, dims: permute(g, _inverse(dims)),),
    native=lambda line, x, dims: lib.tl_permute(x._array, len(dims), dims, line), decode=_permutation,
    samples=lambda: [sample((2, 3, 4), dims=(2, 0, 1)), sample((5,), dims=(0,)), sample((), dims=())],
)  # fmt: skip
_expand = structured(
    "expand", inputs=("x",), attrs=("shape",), ref=lambda xp, x, *, shape: xp.broadcast_to(x, shape), dtype=rules.as_is,
    vjp=(lambda g: g,), native=lambda line, x, shape: lib.tl_expand(x._array, len(shape), shape, line),
    samples=lambda: [sample((3, 1), shape=(2, 3, 4)), sample((), shape=(2,)), sample((1, 3), shape=(0, 3))],
)  # fmt: skip


def _embedding(place: Any) -> Any:
    """Zeros of `shape` with g where the view lay: the gradient of a view that leaves elements out, and the view's own inverse."""

    def ref(xp: Any, g: Any, *, shape: Any, **where: Any) -> Any:
        out = xp.zeros(shape, g.dtype)
        place(xp, out, where)[...] = g
        return out

    return ref


def _sliced(xp: Any, x: Any, where: dict[str, Any]) -> Any:
    dim, start, length, step = where["dim"], where["start"], where["length"], where["step"]
    return x[(slice(None),) * dim + (slice(start, start + length * step if length else start, step),)]


def _diagonal_of(xp: Any, x: Any, where: dict[str, Any]) -> Any:
    """A diagonal that can be written to: NumPy's own is read-only."""
    view = xp.diagonal(x, where["offset"], where["dim1"], where["dim2"])
    start = [slice(None)] * x.ndim
    start[where["dim1"]], start[where["dim2"]] = slice(max(-where["offset"], 0), None), slice(max(where["offset"], 0), None)
    return xp.lib.stride_tricks.as_strided(x[tuple(start)], view.shape, view.strides)


_SELECT, _SLICE, _DIAGONAL = ("dim", "index"), ("dim", "start", "length", "step"), ("offset", "dim1", "dim2")
_select = structured(
    "select", inputs=("x",), attrs=_SELECT, ref=lambda xp, x, *, dim, index: x[(slice(None),) * dim + (index,)], dtype=rules.as_is,
    vjp=(lambda g, x_shape, dim, index: _select_embed(g, shape=x_shape, dim=dim, index=index),), decode=_ints(*_SELECT),
    native=lambda line, x, dim, index: lib.tl_select(x._array, dim, index, line),
    samples=lambda: [sample((2, 3, 4), dim=1, index=2), sample((5,), dim=0, index=0)],
)  # fmt: skip
_select_embed = structured(
    "select_embed", inputs=("g",), attrs=("shape", *_SELECT), private=True, dtype=rules.as_is,
    ref=_embedding(lambda xp, x, a: x[(slice(None),) * a["dim"] + (a["index"], ...)]),
    vjp=(lambda g, dim, index: _select(g, dim=dim, index=index),), samples=lambda: [sample((2, 4), shape=(2, 3, 4), dim=1, index=2)],
)  # fmt: skip
_slice = structured(
    "slice", inputs=("x",), attrs=_SLICE, private=True, ref=lambda xp, x, **where: _sliced(xp, x, where), dtype=rules.as_is, decode=_ints(*_SLICE),
    vjp=(lambda g, x_shape, dim, start, length, step: _slice_embed(g, shape=x_shape, dim=dim, start=start, length=length, step=step),),
    native=lambda line, x, dim, start, length, step: lib.tl_slice(x._array, dim, start, start + length * step if length else start, step, line),
    samples=lambda: [sample((7, 2), dim=0, start=1, length=3, step=2), sample((3,), dim=0, start=3, length=0, step=1)],
)  # fmt: skip
_slice_embed = structured(
    "slice_embed", inputs=("g",), attrs=("shape", *_SLICE), ref=_embedding(_sliced), private=True, dtype=rules.as_is,
    vjp=(lambda g, dim, start, length, step: _slice(g, dim=dim, start=start, length=length, step=step),),
    samples=lambda: [sample((3, 2), shape=(7, 2), dim=0, start=1, length=3, step=2)],
)  # fmt: skip
_diagonal = structured(
    "diagonal", inputs=("x",), attrs=_DIAGONAL, ref=lambda xp, x, *, offset, dim1, dim2: xp.diagonal(x, offset, dim1, dim2), dtype=rules.as_is,
    vjp=(lambda g, x_shape, offset, dim1, dim2: _diagonal_embed(g, shape=x_shape, offset=offset, dim1=dim1, dim2=dim2),),
    native=lambda line, x, offset, dim1, dim2: lib.tl_diagonal(x._array, offset, dim1, dim2, line), decode=_ints(*_DIAGONAL),
    samples=lambda: [sample((3, 4), offset=1, dim1=0, dim2=1), sample((2, 3, 3), offset=-1, dim1=2, dim2=1), sample((2, 2), offset=5, dim1=0, dim2=1)],
)  # fmt: skip
_diagonal_embed = structured(
    "diagonal_embed", inputs=("g",), attrs=("shape", *_DIAGONAL), ref=_embedding(_diagonal_of), private=True, dtype=rules.as_is,
    vjp=(lambda g, offset, dim1, dim2: _diagonal(g, offset=offset, dim1=dim1, dim2=dim2),),
    samples=lambda: [sample((3,), shape=(3, 4), offset=1, dim1=0, dim2=1)],
)  # fmt: skip


def _gather_strided(xp: Any, x: Any, size: Any, stride: Any, offset: int) -> Any:
    return xp.lib.stride_tricks.as_strided(xp.ascontiguousarray(x).reshape(-1)[offset:], size, [s * x.itemsize for s in stride])


def _strided_embed_ref(xp: Any, g: Any, *, shape: Any, size: Any, stride: Any, offset: int) -> Any:
    out = xp.zeros(int(np.prod(shape, dtype=np.int64)), g.dtype)
    places = xp.zeros(size, np.int64) + offset
    for d, (n, s) in enumerate(zip(size, stride, strict=True)):
        places = places + (xp.arange(n) * s).reshape((n,) + (1,) * (len(size) - d - 1))
    xp.add.at(out, places.reshape(-1), g.reshape(-1))
    return out.reshape(shape)


_STRIDED = ("size", "stride", "offset")
# The view of a contiguous tensor; `offset` counts from its first element.
_as_strided = structured(
    "as_strided", inputs=("x",), attrs=_STRIDED, ref=lambda xp, x, *, size, stride, offset: _gather_strided(xp, x, size, stride, offset),
    dtype=rules.as_is, decode=lambda node: _strided_attrs(node),
    vjp=(lambda g, x_shape, size, stride, offset: _strided_embed(g, shape=x_shape, size=size, stride=stride, offset=offset),),
    native=lambda line, x, size, stride, offset: lib.tl_as_strided(
        x._array, len(size), size, stride, lib.tl_offset(x._array) + offset, line) if x.is_contiguous() else 0,
    samples=lambda: [sample((3, 4), size=(2, 3), stride=(4, 1), offset=1), sample((6,), size=(4, 3), stride=(1, 1), offset=0)],
)  # fmt: skip
_strided_embed = structured(
    "as_strided_embed", inputs=("g",), attrs=("shape", *_STRIDED), ref=_strided_embed_ref, private=True, dtype=rules.as_is,
    vjp=(lambda g, size, stride, offset: _as_strided(g.contiguous(), size=size, stride=stride, offset=offset),),
    samples=lambda: [sample((4, 3), shape=(6,), size=(4, 3), stride=(1, 1), offset=0)],
)  # fmt: skip


def _strided_attrs(node: int) -> dict[str, Any]:
    if lib.tl_node_int(node, 1):
        raise GradError(
            f"backward: a view (last seen to change at {describe(lib.tl_node_line(node))}) has a base that is not contiguous and was overwritten.",
            hint="call contiguous() first",
        )
    view = wrap(lib.tl_node_saved(node, 3, 0))
    return {"size": view.shape, "stride": view.stride(), "offset": view.storage_offset() - lib.tl_node_int(node, 0)}


def _overwrite(xp: Any, base: Any, value: Any, *, size: Any, stride: Any, offset: int) -> Any:
    out = xp.array(base).reshape(-1)
    xp.lib.stride_tricks.as_strided(out[offset:], size, [s * out.itemsize for s in stride])[...] = value
    return out.reshape(base.shape)


# The base after a write through a view: nothing of the region's gradient goes to the base, all of it to what was written.
_view_write = structured(
    "view_write", inputs=("base", "value"), attrs=_STRIDED, private=True, dtype=rules.as_is, decode=_strided_attrs, ref=_overwrite,
    vjp=(
        lambda g, size, stride, offset: _view_write(g, g.new_zeros(size), size=size, stride=stride, offset=offset),
        lambda g, size, stride, offset: _as_strided(g.contiguous(), size=size, stride=stride, offset=offset),
    ),
    samples=lambda: [sample((3, 4), (2, 2), size=(2, 2), stride=(4, 1), offset=5)],
)  # fmt: skip

_clone = structured(
    "clone", inputs=("x",), ref=lambda xp, x: xp.array(x), vjp=(lambda g: g,), dtype=rules.as_is, native=lambda line, x: lib.tl_clone(x._array, line),
    samples=lambda: [sample((3, 4)), sample(())],
)  # fmt: skip
_fill = structured("fill", inputs=("x",), ref=lambda xp, x: xp.zeros_like(x), vjp=(None,), dtype=rules.as_is, private=True)


def _cast_ref(xp: Any, x: Any, *, dtype: DType) -> Any:
    if x.dtype.kind == "c" and not dtype.is_complex:
        x = x.real
    return x.astype((dtypes.float32 if dtype is dtypes.bfloat16 else dtype).np)


_cast = structured(
    "cast", inputs=("x",), attrs=("dtype",), ref=_cast_ref, dtype=rules.as_is, private=True, vjp=(lambda g, x_dtype: to(g, x_dtype),)
)


# ---- views ----
def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The same elements in row-major order under another shape; a view where strides allow, else a copy. One size may be -1.

    >>> tl.arange(6).reshape(2, -1).shape
    (2, 3)
    """
    frame = _frame(1)
    wanted = sizes("reshape", shape)
    handle = lib.tl_reshape(x._array, len(wanted), wanted, True, _line_of((id(frame.f_code), frame.f_lasti)) or here(frame))
    if handle:
        return wrap(handle)
    if lib.tl_status() == DECLINE and x.device.type != "cpu" and _fits(x, wanted):
        known = -int(np.prod(wanted)) if -1 in wanted else 1
        full = [x.numel() // max(known, 1) if n == -1 else n for n in wanted]
        return run(TABLE["reshape"], (x,), {"shape": tuple(full)}, here(frame))
    return _made(0, "reshape", x, _reshape_message("reshape", x, wanted))


def _fits(x: Tensor, shape: list[int]) -> bool:
    known = 1
    for n in shape:
        known *= n if n != -1 else 1
    return shape.count(-1) <= 1 and all(n >= -1 for n in shape) and (known != 0 and x.numel() % known == 0 if -1 in shape else known == x.numel())


def _reshape_message(name: str, x: Tensor, shape: list[int]) -> str:
    return f"{name}: {x.numel()} elements of shape {x.shape} do not fit into {tuple(shape)}."


def view(self: Tensor, *shape: Any) -> Tensor:
    """As `reshape`, but never a copy; with a dtype of the same size: the same bytes read as that dtype.

    Raises:
        ShapeError: where the strides do not allow it.
    """
    if len(shape) == 1 and isinstance(shape[0], DType):
        return _reinterpret(self, shape[0])
    wanted = sizes("view", shape)
    handle = lib.tl_reshape(self._array, len(wanted), wanted, False, here(_frame(1)))
    if not handle and lib.tl_status() == DECLINE and _fits(self, wanted):
        raise ShapeError(
            f"view: a tensor of shape {self.shape} with strides {self.stride()} can not be seen as {tuple(wanted)} without a copy.",
            hint="use reshape()",
        )
    return _made(handle, "view", self, _reshape_message("view", self, wanted))


def _reinterpret(x: Tensor, dtype: DType) -> Tensor:
    if dtype.itemsize != x.itemsize or dtypes.bfloat16 in (dtype, x.dtype) and dtype is not x.dtype:
        raise ShapeError(f"view: {x.dtype.name} as {dtype.name}: only dtypes of the same size, and NumPy's, can share bytes.")
    from tensorlib.ops.creation import from_numpy

    return from_numpy(x.detach().contiguous().numpy().view(dtype.np))


def view_as(self: Tensor, other: Tensor) -> Tensor:
    """`view` with the shape of `other`."""
    return view(self, other.shape)


def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """`reshape` with the shape of `other`."""
    return reshape(self, other.shape)


def permute(x: Tensor, *dims: Any) -> Tensor:
    """Dimensions in another order.

    >>> tl.zeros(2, 3, 4).permute(2, 0, 1).shape
    (4, 2, 3)
    """
    order = sizes("permute", dims)
    handle = lib.tl_permute(x._array, len(order), order, here(_frame(1)))
    return _made(handle, "permute", x, f"permute: dims {tuple(order)} are not an order of the {x.ndim} dimensions of {x.shape}.")


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions swapped.

    >>> tl.zeros(2, 3).transpose(0, 1).shape
    (3, 2)
    """
    frame = _frame(1)
    try:
        handle = lib.tl_transpose(x._array, dim0, dim1, _line_of((id(frame.f_code), frame.f_lasti)) or here(frame))
    except (TypeError, OverflowError):
        handle = 0
    if handle:
        return wrap(handle)
    if x.ndim == 0:
        normalize_dim("transpose", dim0, 0), normalize_dim("transpose", dim1, 0)
        return permute(x)
    return permute_swapped(x, normalize_dim("transpose", dim0, x.ndim), normalize_dim("transpose", dim1, x.ndim))


def permute_swapped(x: Tensor, dim0: int, dim1: int) -> Tensor:
    order = list(range(x.ndim))
    order[dim0], order[dim1] = dim1, dim0
    return permute(x, order)


swapaxes = swapdims = transpose


def t(x: Tensor) -> Tensor:
    """A matrix transposed; tensors with fewer dimensions as they are.

    >>> tl.zeros(2, 3).t().shape
    (3, 2)
    """
    if x.ndim > 2:
        raise ShapeError(f"t: got {x.ndim} dimensions, expected at most 2.", hint="use mT or transpose()")
    return transpose(x, 0, 1) if x.ndim == 2 else permute(x, *range(x.ndim))


def movedim(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Dimensions moved to new places, the others in their order.

    >>> tl.zeros(2, 3, 4).movedim(0, -1).shape
    (3, 4, 2)
    """
    origin = [normalize_dim("movedim", d, x.ndim) for d in ([source] if isinstance(source, int) else source)]
    target = [normalize_dim("movedim", d, x.ndim) for d in ([destination] if isinstance(destination, int) else destination)]
    if len(set(origin)) != len(origin) or len(set(target)) != len(target) or len(origin) != len(target):
        raise ShapeError(f"movedim: source {source} and destination {destination} must be distinct dims, as many of each.")
    rest = iter([d for d in range(x.ndim) if d not in origin])
    placed = dict(zip(target, origin, strict=True))
    return permute(x, [placed[i] if i in placed else next(rest) for i in range(x.ndim)])


moveaxis = movedim


def expand(self: Tensor, *shape: Any) -> Tensor:
    """Dimensions of size 1 repeated without copying; -1 keeps a size.

    >>> tl.ones(3, 1).expand(-1, 4).shape
    (3, 4)
    """
    wanted = sizes("expand", shape)
    handle = lib.tl_expand(self._array, len(wanted), wanted, here(_frame(1)))
    return _made(handle, "expand", self, f"expand: shape {self.shape} does not broadcast to {tuple(wanted)}.")


def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """`x` seen under a shape it broadcasts to.

    >>> tl.broadcast_to(tl.ones(3), (2, 3)).shape
    (2, 3)
    """
    return expand(x, *sizes("broadcast_to", (shape,)))


def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """`expand` to the shape of `other`.

    >>> tl.ones(3).expand_as(tl.zeros(2, 3)).shape
    (2, 3)
    """
    return expand(x, *other.shape)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All seen under their common broadcast shape.

    >>> [x.shape for x in tl.broadcast_tensors(tl.ones(3, 1), tl.ones(4))]
    [(3, 4), (3, 4)]
    """
    try:
        shape = np.broadcast_shapes(*(x.shape for x in tensors))
    except ValueError:
        raise ShapeError(f"broadcast_tensors: shapes {', '.join(str(x.shape) for x in tensors)} do not broadcast.") from None
    return tuple(expand(x, *shape) for x in tensors)


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """A new dimension of size 1 at `dim`.

    >>> tl.zeros(3).unsqueeze(0).shape
    (1, 3)
    """
    place = normalize_dim("unsqueeze", dim, x.ndim + 1)
    return _made(lib.tl_unsqueeze(x._array, place, here(_frame(1))), "unsqueeze", x, f"unsqueeze: more than 16 dimensions from {x.shape}.")


def squeeze(x: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without dimensions of size 1: all, or those named.

    >>> tl.zeros(1, 3, 1).squeeze().shape, tl.zeros(1, 3, 1).squeeze(0).shape
    ((3,), (3, 1))
    """
    mask = sum(1 << d for d in normalize_dims("squeeze", dim, x.ndim))
    return wrap(lib.tl_squeeze(x._array, mask, here(_frame(1))))


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim as one.

    >>> tl.zeros(2, 3, 4).flatten(1).shape
    (2, 12)
    """
    first, last = normalize_dim("flatten", start_dim, x.ndim), normalize_dim("flatten", end_dim, x.ndim)
    shape = x.shape
    if first > last:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}.")
    joined = 1
    for n in shape[first : last + 1]:
        joined *= n
    return reshape(x, *shape[:first], joined, *shape[last + 1 :])


def ravel(x: Tensor) -> Tensor:
    """All elements in one dimension.

    >>> tl.zeros(2, 3).ravel().shape
    (6,)
    """
    return reshape(x, x.numel())


def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` split into `sizes`, of which one may be -1.

    >>> tl.zeros(2, 12).unflatten(1, (3, -1)).shape
    (2, 3, 4)
    """
    place = normalize_dim("unflatten", dim, x.ndim)
    shape, parts, n = x.shape, list(sizes), x.shape[place]
    known = 1
    for s in parts:
        known *= 1 if s == -1 else s
    if parts.count(-1) == 1 and known and n % known == 0:
        parts[parts.index(-1)] = n // known
    elif known != n or -1 in parts:
        raise ShapeError(f"unflatten: size {n} of dim {dim} does not split into {tuple(sizes)}.")
    return reshape(x, *shape[:place], *parts, *shape[place + 1 :])


def select(x: Tensor, dim: int, index: int) -> Tensor:
    """One position along a dimension, which goes.

    >>> tl.arange(6).reshape(2, 3).select(1, 2)
    tensor([2, 5])
    """
    if x.ndim == 0:
        raise IndexRangeError("select: a 0-d tensor has no dimension to select from.")
    place = normalize_dim("select", dim, x.ndim)
    index = index.__index__()
    n = x.shape[place]
    if not -n <= index < n:
        raise IndexRangeError(f"select: index {index} is out of range for dim {dim} of size {n}, shape {x.shape}.")
    return wrap(lib.tl_select(x._array, place, index, here(_frame(1))))


def slice_dim(x: Tensor, dim: int, start: int | None, stop: int | None, step: int = 1) -> Tensor:
    """A Python slice (step >= 1) along one dimension: bounds count from the end if negative, and stop at the ends."""
    low = 0 if start is None else builtins.max(builtins.min(start, END), -END)
    high = END if stop is None else builtins.max(builtins.min(stop, END), -END)
    return wrap(lib.tl_slice(x._array, dim, low, high, builtins.min(step, END), here(_frame(1))))


def narrow(x: Tensor, dim: int, start: int | Tensor, length: int) -> Tensor:
    """`length` positions from `start` along a dimension.

    >>> tl.arange(5).narrow(0, 1, 3)
    tensor([1, 2, 3])
    """
    place = normalize_dim("narrow", dim, x.ndim)
    n, first = (x.shape[place] if x.ndim else 0), start.__index__()
    if x.ndim == 0 or not -n <= first <= n or length < 0 or (first % n if n and first < 0 else first) + length > n:
        raise IndexRangeError(f"narrow: start {first} and length {length} leave dim {dim} of size {n}, shape {x.shape}.")
    first = first + n if first < 0 else first
    return slice_dim(x, place, first, first + length)


def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dimensions, as a view with it in the last one.

    >>> tl.arange(9).reshape(3, 3).diagonal(1)
    tensor([1, 5])
    """
    d1, d2 = normalize_dim("diagonal", dim1, x.ndim), normalize_dim("diagonal", dim2, x.ndim)
    handle = lib.tl_diagonal(x._array, offset, d1, d2, here(_frame(1)))
    return _made(handle, "diagonal", x, f"diagonal: dim1 and dim2 must be two dimensions of {x.shape}, got {dim1} and {dim2}.")


def as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """A view of any shape and strides (>= 0, in elements) over the tensor's storage.

    >>> tl.as_strided(tl.arange(5), (3, 2), (1, 1)).tolist()
    [[0, 1], [1, 2], [2, 3]]
    """
    shape, strides = sizes("as_strided", (size,)), sizes("as_strided", (stride,))
    if len(shape) != len(strides):
        raise ShapeError(f"as_strided: {len(shape)} sizes but {len(strides)} strides.")
    offset = x.storage_offset() if storage_offset is None else storage_offset
    handle = lib.tl_as_strided(x._array, len(shape), shape, strides, offset, here(_frame(1)))
    if not handle and lib.tl_status() == DECLINE and x.requires_grad and not x.is_contiguous():
        raise ShapeError(f"as_strided: the tensor of shape {x.shape} requires a gradient but is not contiguous.", hint="call contiguous() first")
    return _made(handle, "as_strided", x, f"as_strided: size {tuple(shape)}, strides {tuple(strides)}, offset {offset} leave the storage of {x.shape}.")


def detach(x: Tensor) -> Tensor:
    """A view of the same memory without history.

    >>> tl.detach(tl.ones(2, requires_grad=True)).requires_grad
    False
    """
    return x.detach()


def numel(x: Tensor) -> int:
    """The number of elements.

    >>> tl.numel(tl.zeros(2, 3))
    6
    """
    return x.numel()


# ---- copies ----
def clone(x: Tensor) -> Tensor:
    """A copy in memory of its own, recorded.

    >>> tl.ones(2).clone()
    tensor([1., 1.])
    """
    return _clone(x)


def contiguous(self: Tensor) -> Tensor:
    """The tensor itself if its elements lie in row-major order, else a copy."""
    return self if self.is_contiguous() else clone(self)


def to(x: Tensor, dtype: DType) -> Tensor:
    from tensorlib.ops.declare import to_dtype

    return to_dtype(x, dtype)


def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Overwrite with the elements of `src`, broadcast and converted. Recorded."""
    from tensorlib.ops.creation import as_tensor

    src = src if isinstance(src, Tensor) else as_tensor(src, dtype=self.dtype)
    line = here(_frame(1))
    if lib.tl_copy(self._array, src._array, line):
        return self
    if lib.tl_status() != DECLINE or lib.tl_detail(0):
        raise_status("copy_", self.shape)
    try:
        fits = np.broadcast_shapes(self.shape, src.shape) == self.shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"copy_: shape {src.shape} does not broadcast to {self.shape}.")
    value = src.to(self.device) if src.device != self.device else src
    return assign_(self, expand(to(value, self.dtype), *self.shape), "copy_", line)


def fill_(self: Tensor, value: Any) -> Tensor:
    """Overwrite every element with one value."""
    line = here(_frame(1))
    if isinstance(value, Tensor):
        if value.ndim:
            raise ShapeError(f"fill_: the value has shape {value.shape}, expected a number or a 0-d tensor.")
        return copy_(self, value)
    if isinstance(value, complex) or (isinstance(value, int) and abs(value) > 2**53) or self.device.type != "cpu":
        return copy_(self, np.asarray(value))
    if not lib.tl_fill(self._array, value, line):
        raise_status("fill_", self.shape)
    return self


def zero_(self: Tensor) -> Tensor:
    """Overwrite with zeros."""
    return fill_(self, 0)


# ---- joins and splits ----
def _cat_rule(g: Tensor, tensors_shape: list[tuple[int, ...]], dim: int) -> list[Tensor]:
    made, start = [], 0
    for shape in tensors_shape:
        made.append(slice_dim(g, dim, start, start + shape[dim]))
        start += shape[dim]
    return made


_cat = structured(
    "cat", inputs=("tensors",), attrs=("dim",), variadic=True, ref=lambda xp, tensors, *, dim: xp.concatenate(tensors, dim), vjp=(_cat_rule,),
    native=lambda line, tensors, dim: lib.tl_cat([x._array for x in tensors], len(tensors), dim, line),
    samples=lambda: [sample([(2, 3), (4, 3)], dim=0), sample([(2, 1), (2, 0), (2, 3)], dim=1), sample([(3,)], dim=0)],
)  # fmt: skip


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along an existing dimension.

    Shapes:
        tensors: each (..., L_i, ...)  ->  out: (..., L_1 + L_2 + ..., ...)

    >>> tl.cat([tl.zeros(2), tl.ones(1)])
    tensor([0., 0., 1.])
    """
    parts = list(tensors)
    if not parts or not all(isinstance(x, Tensor) for x in parts):
        raise TypeError("cat: expected a non-empty sequence of tensors.")
    some = [x for x in parts if x.ndim != 1 or x.numel()] or parts  # PyTorch lets empty 1-d tensors pass
    first = some[0].shape
    if not first:
        raise ShapeError("cat: 0-d tensors can not be joined.", hint="use stack()")
    place = normalize_dim("cat", dim, len(first))
    for i, x in enumerate(some):
        if len(x.shape) != len(first) or any(a != b for k, (a, b) in enumerate(zip(x.shape, first, strict=True)) if k != place):
            raise ShapeError(f"cat: tensor {i} has shape {x.shape}, the first {first}; expected equal sizes except in dim {dim}.")
    return _cat(some, dim=place)


concat = concatenate = cat


def _stack_ref(xp: Any, tensors: Any, *, dim: int) -> Any:
    return xp.stack(tensors, dim)


@composite("stack", inputs=("tensors",), attrs=("dim",), variadic=True, ref=_stack_ref, samples=lambda: [sample([(2, 3), (2, 3)], dim=1)],
           errors=lambda: [error([(2,), (3,)], dim=0, raises=ShapeError, match="stack: tensor 1 has shape")])  # fmt: skip
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new dimension.

    >>> tl.stack([tl.zeros(2), tl.ones(2)]).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    parts = list(tensors)
    if not parts or not all(isinstance(x, Tensor) for x in parts):
        raise TypeError("stack: expected a non-empty sequence of tensors.")
    for i, x in enumerate(parts):
        if x.shape != parts[0].shape:
            raise ShapeError(f"stack: tensor {i} has shape {x.shape}, the first {parts[0].shape}; expected equal shapes.")
    place = normalize_dim("stack", dim, parts[0].ndim + 1)
    return cat([unsqueeze(x, place) for x in parts], place)


def split(x: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of pieces along a dimension: of one size (the last may be smaller), or of the sizes given.

    >>> [p.tolist() for p in tl.arange(5).split(2)]
    [[0, 1], [2, 3], [4]]
    """
    place = normalize_dim("split", dim, x.ndim)
    n = x.shape[place] if x.ndim else 0
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 0 or (size == 0 and n):
            raise ShapeError(f"split: got the size {size}, expected at least 1.")
        parts = [builtins.min(size, n - i) for i in range(0, n, size)] if n else [0]
    else:
        parts = list(split_size_or_sections)
        if builtins.sum(parts) != n or any(p < 0 for p in parts):
            raise ShapeError(f"split: sections {tuple(parts)} do not add up to {n}, the size of dim {dim}.")
    made, start = [], 0
    for p in parts:
        made.append(slice_dim(x, place, start, start + p))
        start += p
    return tuple(made)


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size (the last may be smaller) along a dimension.

    >>> [p.tolist() for p in tl.arange(5).chunk(2)]
    [[0, 1, 2], [3, 4]]
    """
    if chunks < 1:
        raise ShapeError(f"chunk: got {chunks} chunks, expected at least 1.")
    n = x.shape[normalize_dim("chunk", dim, x.ndim)]
    return split(x, builtins.max(-(-n // chunks), 1), dim)


def tensor_split(x: Tensor, indices_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of `n` nearly equal pieces, or cut before the given indices.

    >>> [p.tolist() for p in tl.arange(5).tensor_split(2)]
    [[0, 1, 2], [3, 4]]
    """
    place = normalize_dim("tensor_split", dim, x.ndim)
    n = x.shape[place]
    if isinstance(indices_or_sections, int):
        if indices_or_sections < 1:
            raise ShapeError(f"tensor_split: got {indices_or_sections} sections, expected at least 1.")
        small, more = divmod(n, indices_or_sections)
        bounds = [i * small + builtins.min(i, more) for i in range(indices_or_sections + 1)]
        return tuple(slice_dim(x, place, a, b) for a, b in zip(bounds, bounds[1:], strict=False))
    cuts = list(indices_or_sections)
    return tuple(slice_dim(x, place, a, b) for a, b in zip([0, *cuts], [*cuts, None], strict=True))


def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The positions along a dimension, one view each.

    >>> tl.arange(4).reshape(2, 2).unbind()
    (tensor([0, 1]), tensor([2, 3]))
    """
    if x.ndim == 0:
        raise IndexRangeError("unbind: a 0-d tensor has no dimension to take apart.")
    place = normalize_dim("unbind", dim, x.ndim)
    return tuple(select(x, place, i) for i in range(x.shape[place]))


def _property_T(self: Tensor) -> Tensor:
    """All dimensions in reverse order."""
    return permute(self, *range(self.ndim - 1, -1, -1))


def _property_mT(self: Tensor) -> Tensor:
    """The last two dimensions swapped."""
    if self.ndim < 2:
        raise ShapeError(f"mT: got {self.ndim} dimensions, expected at least 2.")
    return transpose(self, -1, -2)


Tensor.T = property(_property_T)  # type: ignore[assignment, method-assign]
Tensor.mT = property(_property_mT)  # type: ignore[assignment, method-assign]
