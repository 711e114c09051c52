"""The views as the tape records them: one entry each, with rules of every order. C computes the geometry (native/views.c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib import dtypes, ops
from tensorlib.dtypes import DType
from tensorlib.errors import GradError
from tensorlib.lines import describe
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import structured, to_dtype
from tensorlib.ops.places import accumulate_at
from tensorlib.ops.table import BATCH, sample
from tensorlib.tensor import wrap

__all__: list[str] = []


def _permutation(node: int) -> dict[str, Any]:
    packed = lib.tl_node_int(node, 0)
    return {"dims": tuple(packed >> 4 * i & 15 for i in range(lib.tl_node_int(node, 1)))}


def _inverse(dims: Sequence[int]) -> list[int]:
    return [list(dims).index(i) for i in range(len(dims))]


def _ints(*names: str) -> Any:
    return lambda node: {name: lib.tl_node_int(node, i) for i, name in enumerate(names)}


_reshape = structured(
    "reshape", inputs=("x",), attrs=("shape",), ref=lambda xp, x, *, shape: xp.reshape(x, shape), dtype=rules.as_is,
    vjp=(lambda g, x_shape: ops.shape.reshape(g, x_shape),), native=lambda line, x, shape: lib.tl_reshape(x._array, len(shape), shape, True, line),
    samples=lambda: [sample((2, 6), shape=(3, 4)), sample((0, 3), shape=(3, 0)), sample((), shape=(1, 1)), sample((2, 3, 4), shape=(6, 4))],
)  # fmt: skip
_permute = structured(
    "permute", inputs=("x",), attrs=("dims",), ref=lambda xp, x, *, dims: xp.transpose(x, dims), dtype=rules.as_is,
    vjp=(lambda g, dims: ops.shape.permute(g, _inverse(dims)),),
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
    start[where["dim1"]], start[where["dim2"]] = (
        slice(max(-where["offset"], 0), None),
        slice(max(where["offset"], 0), None),
    )
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
    samples=lambda: [
        sample((3, 4), offset=1, dim1=0, dim2=1), sample((2, 3, 3), offset=-1, dim1=2, dim2=1), sample((2, 2), offset=5, dim1=0, dim2=1),
    ],
)  # fmt: skip
_diagonal_embed = structured(
    "diagonal_embed", inputs=("g",), attrs=("shape", *_DIAGONAL), ref=_embedding(_diagonal_of), private=True, dtype=rules.as_is,
    vjp=(lambda g, offset, dim1, dim2: _diagonal(g, offset=offset, dim1=dim1, dim2=dim2),),
    samples=lambda: [sample((3,), shape=(3, 4), offset=1, dim1=0, dim2=1)],
)  # fmt: skip


def _gather_strided(xp: Any, x: Any, size: Any, stride: Any, offset: int) -> Any:
    return xp.lib.stride_tricks.as_strided(
        xp.ascontiguousarray(x).reshape(-1)[offset:], size, [s * x.itemsize for s in stride]
    )


def _strided_embed_ref(xp: Any, g: Any, *, shape: Any, size: Any, stride: Any, offset: int) -> Any:
    out = xp.zeros(int(np.prod(shape, dtype=np.int64)), g.dtype)
    places = xp.zeros(size, np.int64) + offset
    for d, (n, s) in enumerate(zip(size, stride, strict=True)):
        places = places + (xp.arange(n) * s).reshape((n,) + (1,) * (len(size) - d - 1))
    accumulate_at(xp, "add", out, places.reshape(-1), g.reshape(-1))
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

clone = structured(
    "clone", inputs=("x",), ref=lambda xp, x: xp.array(x), vjp=(lambda g: g,), dtype=rules.as_is, native=lambda line, x: lib.tl_clone(x._array, line),
    samples=lambda: [sample((3, 4)), sample(())], rowwise=[sample((BATCH, 67))],
)  # fmt: skip
_fill = structured(
    "fill", inputs=("x",), ref=lambda xp, x: xp.zeros_like(x), vjp=(None,), dtype=rules.as_is, private=True
)


def _cast_ref(xp: Any, x: Any, *, dtype: DType) -> Any:
    if x.dtype.kind == "c" and not dtype.is_complex:
        x = x.real
    return x.astype((dtypes.float32 if dtype is dtypes.bfloat16 else dtype).np)


_cast = structured(
    "cast",
    inputs=("x",),
    attrs=("dtype",),
    ref=_cast_ref,
    dtype=rules.as_is,
    private=True,
    vjp=(lambda g, x_dtype: to_dtype(g, x_dtype),),
)
