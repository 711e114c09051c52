"""Pooling: the largest element or the average of windows over the last one, two or three dimensions, whatever stands before them.

The public functions, with PyTorch's names, are in pooling.py. A maximum keeps, for its gradient, which tap of the
window it was (its code, mostly a byte), instead of a position in the image: positions are made from codes where someone asks for them.

Dimension letters: N images, C channels, L lengths (of one, two or three dimensions), O the number of windows, K of taps in a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import ops
from tensorlib.errors import MemoryLimitError, ShapeError
from tensorlib.native import ffi, lib
from tensorlib.ops import rules
from tensorlib.ops.declare import structured
from tensorlib.ops.table import BATCH, NATIVE_NUMBERS, Draw, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Sizes = int | Sequence[int]
Array = np.ndarray[Any, Any]


# ---- geometry ----


LISTED = 1 << 28  # places that windows look at, in the tables below; the kernels make none


def _check_listed(name: str, windows: int, taps: int) -> None:
    if windows * taps > LISTED:
        raise MemoryLimitError(f"{name}: {windows} windows of {taps} elements are too many.")


class Taps:
    """Where the windows of one dimension look: index and inside, both (O, K); places outside the image are clipped and not inside."""

    def __init__(self, index: Array, n: int, counted: Array | None = None) -> None:
        self.inside = (index >= 0) & (index < n)
        self.index = np.clip(index, 0, n - 1)
        self.counts = self.inside.sum(1) if counted is None else counted  # what an average divides by


def spaced(
    name: str,
    n: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int = 1,
    *,
    ceil_mode: bool,
    count_padding: bool = False,
) -> Taps:
    """Equally spaced windows over a dimension of size n; every error about them is worded here."""
    for argument, value in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
        if value < 1:
            raise ShapeError(f"{name}: {argument} is {value}, expected at least 1.")
    reach = (kernel - 1) * dilation + 1
    if not 0 <= padding <= reach // 2:
        raise ShapeError(f"{name}: padding is {padding}, expected 0 to {reach // 2}, half of what a window covers.")
    room = n + 2 * padding - reach
    if room < 0 or n < 1:
        raise ShapeError(
            f"{name}: a window covers {reach} elements, more than the image's {n} with padding {padding} on both sides."
        )
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    count -= (count - 1) * stride >= n + padding  # the last window must begin in the image or before it
    _check_listed(name, count, kernel)
    start = np.arange(count)[:, None] * stride - padding
    counted = np.minimum(start[:, 0] + kernel, n + padding) - start[:, 0] if count_padding else None
    taps = Taps(start + np.arange(kernel) * dilation, n, counted)
    if not taps.inside.any(1).all():
        raise ShapeError(f"{name}: with dilation {dilation}, a window has no element of the image of size {n}.")
    return taps


def adaptive(name: str, n: int, size: int) -> Taps:
    """`size` windows that share out n elements evenly, overlapping where they do not divide it."""
    if n < 1 or size < 1:
        what, value = ("output_size", size) if size < 1 else ("the image's size", n)
        raise ShapeError(f"{name}: {what} is {value}, expected at least 1.")
    most = n // size + (2 if n % size else 0)
    _check_listed(name, size, most)
    start = np.arange(size) * n // size
    end = -(-(np.arange(1, size + 1) * n) // size)
    index = start[:, None] + np.arange(most)
    return Taps(np.where(index < end[:, None], index, n), n)


def table(taps: Sequence[Taps], lengths: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Over all dimensions: where each tap of each window lies in the flat image (O, K), whether inside (O, K), what averages divide by (O)."""
    windows, each = (math.prod(t.index.shape[i] for t in taps) for i in (0, 1))
    _check_listed("pool", windows, each)
    index, inside, counts = np.zeros((1, 1), np.int64), np.ones((1, 1), bool), np.ones(1, np.int64)
    for t, n in zip(taps, lengths, strict=True):
        shape = (index.shape[0] * t.index.shape[0], index.shape[1] * t.index.shape[1])
        index = (index[:, None, :, None] * n + t.index[None, :, None, :]).reshape(shape)
        inside = (inside[:, None, :, None] & t.inside[None, :, None, :]).reshape(shape)
        counts = (counts[:, None] * t.counts).reshape(shape[0])
    return index, inside, counts


# How an entry's attributes become taps, one for each dimension of the image.
def max_taps(lengths: tuple[int, ...], kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any) -> Any:
    each = zip(lengths, kernel, stride, padding, dilation, strict=True)
    return [spaced(f"max_pool{len(kernel)}d", *sizes, ceil_mode=ceil_mode) for sizes in each]


def avg_taps(
    lengths: tuple[int, ...], kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool
) -> Any:
    each = zip(lengths, kernel, stride, padding, strict=True)
    name = f"avg_pool{len(kernel)}d"
    return [spaced(name, *sizes, ceil_mode=ceil_mode, count_padding=count_include_pad) for sizes in each]


def adaptive_taps(name: str, lengths: tuple[int, ...], output_size: tuple[int, ...]) -> list[Taps]:
    return [adaptive(f"{name}{len(lengths)}d", n, size) for n, size in zip(lengths, output_size, strict=True)]


# ---- references and rules, for any taps ----


def _gathered(xp: Any, x: Any, taps: Sequence[Taps], fill: Any) -> tuple[Any, Any, Any]:
    """The elements that windows look at, (..., O, K), `fill` outside the image; whether inside; counts."""
    n = len(taps)
    index, inside, counts = (xp.asarray(a) for a in table(taps, x.shape[-n:]))
    flat = x.reshape(*x.shape[:-n], math.prod(x.shape[-n:]))
    return xp.where(inside, flat[..., index], xp.asarray(fill, dtype=x.dtype)), inside, counts


def _shaped(x: Any, flat: Any, taps: Sequence[Taps]) -> Any:
    return flat.reshape(*x.shape[: -len(taps)], *(t.index.shape[0] for t in taps))


def max_ref(xp: Any, x: Any, taps: Sequence[Taps]) -> tuple[Any, Any]:
    lowest = -math.inf if x.dtype.kind in "fc" else False if x.dtype.kind == "b" else xp.iinfo(x.dtype).min
    seen, inside, _ = _gathered(xp, x, taps, lowest)
    k = seen.shape[-1]
    code = seen.argmax(-1)
    inside = xp.broadcast_to(inside, seen.shape)
    code = xp.where(xp.take_along_axis(inside, code[..., None], -1)[..., 0], code, inside.argmax(-1))
    if x.dtype.kind == "f":  # the last NaN, as in PyTorch
        nan = xp.isnan(seen)
        code = xp.where(nan.any(-1), k - 1 - xp.flip(nan, -1).argmax(-1), code)
    out = xp.take_along_axis(seen, code[..., None], -1)[..., 0]
    return _shaped(x, out, taps), _shaped(x, code, taps).astype("uint8" if k <= 256 else "int32")


def avg_ref(xp: Any, x: Any, taps: Sequence[Taps], divisor: int = 0) -> Any:
    seen, _, counts = _gathered(xp, x, taps, 0)
    return _shaped(x, (seen.sum(-1) / (divisor or counts)).astype(x.dtype), taps)


def _constant(array: Array, like: Tensor) -> Tensor:
    return ops.creation.tensor(array, device=like.device)


def _planes(x: Tensor, n: int) -> Tensor:
    """(..., lengths) as (planes, elements), also where there are none."""
    return x.reshape((math.prod(x.shape[:-n]), math.prod(x.shape[-n:])))


def positions(where: Tensor, lengths: tuple[int, ...], taps: Sequence[Taps]) -> Tensor:
    """Where in the flat image each window's largest element lies, int64, from its code."""
    index = table(taps, lengths)[0]
    first = _constant(np.arange(index.shape[0]) * index.shape[1], where)
    place = _planes(where.long(), len(taps)) + first
    found = ops.positions.index_select(_constant(index.reshape(-1), where), 0, place.reshape(-1))
    return found.reshape(where.shape)


def _max_back(g: Tensor, where: Tensor, x_shape: tuple[int, ...], taps: Sequence[Taps]) -> Tensor:
    n = len(taps)
    place = _planes(positions(where, x_shape[-n:], taps), n)
    start = ops.gather.zeros_for(g, (place.shape[0], math.prod(x_shape[-n:])))
    return ops.gather.scatter_add(start, 1, place, _planes(g, n)).reshape(x_shape)


def _shares(g: Tensor, lengths: tuple[int, ...], taps: Sequence[Taps], divisor: int) -> tuple[Tensor, Tensor]:
    """Where each tap lies (O K), and how much of its element the average takes (O, K)."""
    index, inside, counts = table(taps, lengths)
    share = inside / (divisor or counts[:, None])
    return _constant(index.reshape(-1), g), _constant(share, g).to(g.dtype)


def _avg_back(g: Tensor, x_shape: tuple[int, ...], taps: Sequence[Taps], divisor: int = 0) -> Tensor:
    n = len(taps)
    index, share = _shares(g, x_shape[-n:], taps, divisor)
    given = (_planes(g, n).unsqueeze(-1) * share).reshape((math.prod(x_shape[:-n]), share.numel()))
    start = ops.gather.zeros_for(g, (given.shape[0], math.prod(x_shape[-n:])))
    return ops.positions.index_add(start, 1, index, given).reshape(x_shape)


def _avg_plain(x: Tensor, taps: Sequence[Taps], divisor: int = 0) -> Tensor:
    n = len(taps)
    index, share = _shares(x, x.shape[-n:], taps, divisor)
    planes = _planes(x, n)
    seen = ops.positions.index_select(planes, 1, index).reshape((planes.shape[0], *share.shape))
    return _shaped(x, (seen * share).sum(-1), taps)


# ---- entries ----


def _call(name: str, line: int, x: Tensor, n: int, spec: list[int]) -> Any:
    where = ffi.new("uintptr_t[1]")
    out = lib.tl_pool(NATIVE_NUMBERS[name], x._array, n, spec, line, where)
    return (out, where[0]) if where[0] else out


def _fields(node: int, slot: int) -> tuple[int, ...]:
    """What C packed into one number: as many fields of 20 bits as the image has dimensions."""
    packed = lib.tl_node_int(node, slot)
    return tuple(packed >> 20 * i & 0xFFFFF for i in range(lib.tl_node_int(node, 4) & 3))


def _decode_max(node: int) -> dict[str, Any]:
    names = ("kernel", "stride", "padding", "dilation")
    return {name: _fields(node, i) for i, name in enumerate(names)} | {"ceil_mode": bool(lib.tl_node_int(node, 4) & 4)}


def _decode_avg(node: int) -> dict[str, Any]:
    fields, flags = _decode_max(node), lib.tl_node_int(node, 4)
    del fields["dilation"]
    return fields | {"count_include_pad": bool(flags & 8), "divisor": lib.tl_node_int(node, 5)}


def _lengths(shape: tuple[int, ...], per_dimension: tuple[int, ...]) -> tuple[int, ...]:
    return shape[len(shape) - len(per_dimension) :]


def _windows(shape: Any, kernel: Any, stride: Any, padding: Any = 0, dilation: Any = 1, **more: Any) -> Any:
    """A sample of `max_pool` or `avg_pool`: numbers stand for all dimensions."""
    n = len(kernel)
    given = {"kernel": kernel, "stride": stride, "padding": padding}
    given |= {"dilation": dilation} if dilation is not None else {}
    draw = shape if isinstance(shape, Draw) else Draw(shape, distinct=True)
    return sample(draw, **{k: v if isinstance(v, tuple) else (v,) * n for k, v in given.items()}, **more)


_NAN, _INF = math.nan, math.inf


_ROWS: list[Any] = [
    ((BATCH, 3, 29, 35), (2, 2), 2, 0), ((BATCH, 3, 29, 35), (3, 3), 2, 1), ((BATCH, 2, 700), (5,), 3, 0), ((BATCH, 2, 6, 7, 9), (2, 2, 2), 2, 0),
    ((BATCH, 1, 40, 40), (17, 17), 5, 3),
]  # fmt: skip


def _max_samples() -> list[Any]:
    specials = Draw((2, 9), values=[1.0, _NAN, 2.0, _NAN, 0.0, -_INF, -_INF, -_INF, -_INF], special=(_NAN,))
    ties = Draw((2, 4, 6), values=[1.0, 1.0, 0.0, 1.0, -1.0], special=(1.0,))
    cases = [
        ((3, 9), (2,), 2, 0, 1), ((2, 67), (3,), 2, 1, 1), ((2, 21), (4,), 3, 2, 1), ((2, 9), (2,), 1, 2, 4), ((1, 700), (300,), 7, 150, 1),
        ((2, 2, 4, 6), (2, 2), 2, 0, 1), ((2, 5, 7), (2, 2), 2, 0, 1), ((2, 35, 69), (2, 2), 2, 0, 1), ((2, 9, 35), (3, 3), 2, 1, 1),
        ((2, 6, 7), (3, 2), (1, 3), (1, 0), (2, 1)), ((3, 40, 6), (5, 4), (1, 1), (2, 2), 1), ((0, 2, 4, 4), (2, 2), 2, 0, 1),
        ((2, 5, 6, 7), (2, 3, 2), (2, 1, 2), (1, 1, 0), 1), ((2, 4, 4, 4), (2, 2, 2), 2, 0, 1), ((2, 9, 9), (9, 9), 9, 0, 1),
        ((1, 1, 2500), (1, 1100), (1, 3), 0, 1), ((2, 40, 40), (17, 17), 5, 3, 1), (specials, (3,), 2, 1, 1), (ties, (3, 3), 1, 1, 1),
    ]  # fmt: skip
    return [_windows(*case, ceil_mode=i % 2 == 1) for i, case in enumerate(cases)] + [
        _windows(*cases[8], ceil_mode=c) for c in (True, False)
    ]


max_pool = structured(
    "max_pool",
    inputs=("x",),
    attrs=("kernel", "stride", "padding", "dilation", "ceil_mode"),
    outputs=("out", "where"),
    dtype=rules.as_is,
    ref=lambda xp, x, *, kernel, **given: max_ref(xp, x, max_taps(_lengths(x.shape, kernel), kernel, **given)),
    vjp=(
        lambda g_out, where, x_shape, kernel, stride, padding, dilation, ceil_mode: _max_back(
            g_out, where, x_shape, max_taps(_lengths(x_shape, kernel), kernel, stride, padding, dilation, ceil_mode)
        ),
    ),
    native=lambda line, x, kernel, stride, padding, dilation, ceil_mode: _call(
        "max_pool", line, x, len(kernel), [*kernel, *stride, *padding, *dilation, ceil_mode, 0, 0]
    ),
    decode=_decode_max,
    samples=_max_samples,
    rowwise=lambda: [_windows(*case, ceil_mode=False) for case in _ROWS],
    private=True,
)


def _avg_samples() -> list[Any]:
    cases = [
        ((3, 9), (2,), 2, 0), ((2, 67), (3,), 2, 1), ((2, 21), (4,), 3, 2), ((2, 2, 4, 6), (2, 2), 2, 0), ((2, 5, 7), (2, 2), 2, 0),
        ((2, 9, 35), (3, 3), 2, 1), ((2, 6, 7), (3, 2), (1, 3), (1, 0)), ((3, 40, 6), (5, 4), (1, 1), (2, 2)), ((0, 2, 4, 4), (2, 2), 2, 0),
        ((2, 5, 6, 7), (2, 3, 2), (2, 1, 2), (1, 1, 0)), ((2, 9, 9), (9, 9), 9, 0), ((1, 2500), (1100,), 3, 0), ((1, 700), (30,), 7, 15),
    ]  # fmt: skip
    ways = [(False, True, 0), (True, True, 0), (True, False, 0), (False, True, 3)]
    chosen = [(case, ways[i % 4]) for i, case in enumerate(cases)] + [
        (case, way) for case in cases[5:8] for way in ways
    ]
    return [_windows(*case, dilation=None, ceil_mode=c, count_include_pad=i, divisor=d) for case, (c, i, d) in chosen]


avg_pool = structured(
    "avg_pool",
    inputs=("x",),
    attrs=("kernel", "stride", "padding", "ceil_mode", "count_include_pad", "divisor"),
    dtype=rules.floating,
    ref=lambda xp, x, *, kernel, divisor, **given: avg_ref(
        xp, x, avg_taps(_lengths(x.shape, kernel), kernel, **given), divisor
    ),
    vjp=(
        lambda g, x_shape, kernel, stride, padding, ceil_mode, count_include_pad, divisor: _avg_back(
            g,
            x_shape,
            avg_taps(_lengths(x_shape, kernel), kernel, stride, padding, ceil_mode, count_include_pad),
            divisor,
        ),
    ),
    composite=lambda x, *, kernel, divisor, **given: _avg_plain(
        x, avg_taps(_lengths(x.shape, kernel), kernel, **given), divisor
    ),
    native=lambda line, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor: _call(
        "avg_pool",
        line,
        x,
        len(kernel),
        [*kernel, *stride, *padding, *[1] * len(kernel), ceil_mode, count_include_pad, divisor],
    ),
    decode=_decode_avg,
    samples=_avg_samples,
    rowwise=lambda: [
        _windows(shape, kernel, stride, padding, None, ceil_mode=True, count_include_pad=False, divisor=0)
        for shape, kernel, stride, padding in _ROWS
    ],
    private=True,
)


def _adaptive_samples() -> list[Any]:
    cases: list[Any] = [
        ((3, 9), (3,)), ((3, 10), (4,)), ((2, 3), (5,)), ((2, 2, 4, 6), (2, 3)), ((2, 7, 9), (3, 4)), ((0, 2, 4, 4), (2, 2)), ((2, 8, 9), (4, 4)),
        ((2, 5, 6, 7), (2, 3, 5)), ((2, 300, 3), (1, 1)), ((1, 700), (2,)), ((2, 33, 35), (1, 7)),
    ]  # fmt: skip
    return [sample(Draw(shape, distinct=True), output_size=size) for shape, size in cases]


def _adaptive_rows() -> list[Any]:
    cases: list[Any] = [
        ((BATCH, 3, 29, 35), (3, 4)),
        ((BATCH, 2, 700), (5,)),
        ((BATCH, 2, 6, 7, 9), (2, 3, 4)),
        ((BATCH, 4, 40, 40), (1, 1)),
    ]
    return [sample(Draw(shape, distinct=True), output_size=size) for shape, size in cases]


adaptive_max_pool = structured(
    "adaptive_max_pool",
    inputs=("x",),
    attrs=("output_size",),
    outputs=("out", "where"),
    dtype=rules.as_is,
    ref=lambda xp, x, *, output_size: max_ref(
        xp, x, adaptive_taps("adaptive_max_pool", _lengths(x.shape, output_size), output_size)
    ),
    vjp=(
        lambda g_out, where, x_shape, output_size: _max_back(
            g_out, where, x_shape, adaptive_taps("adaptive_max_pool", _lengths(x_shape, output_size), output_size)
        ),
    ),
    native=lambda line, x, output_size: _call("adaptive_max_pool", line, x, len(output_size), [*output_size]),
    decode=lambda node: {"output_size": _fields(node, 0)},
    samples=_adaptive_samples,
    rowwise=_adaptive_rows,
    private=True,
)

adaptive_avg_pool = structured(
    "adaptive_avg_pool",
    inputs=("x",),
    attrs=("output_size",),
    dtype=rules.floating,
    ref=lambda xp, x, *, output_size: avg_ref(
        xp, x, adaptive_taps("adaptive_avg_pool", _lengths(x.shape, output_size), output_size)
    ),
    vjp=(
        lambda g, x_shape, output_size: _avg_back(
            g, x_shape, adaptive_taps("adaptive_avg_pool", _lengths(x_shape, output_size), output_size)
        ),
    ),
    composite=lambda x, *, output_size: _avg_plain(
        x, adaptive_taps("adaptive_avg_pool", _lengths(x.shape, output_size), output_size)
    ),
    native=lambda line, x, output_size: _call("adaptive_avg_pool", line, x, len(output_size), [*output_size]),
    decode=lambda node: {"output_size": _fields(node, 0)},
    samples=_adaptive_samples,
    rowwise=_adaptive_rows,
    private=True,
)


# ---- arguments of the public functions ----


def each(name: str, argument: str, value: Sizes, n: int) -> tuple[int, ...]:
    """One number for each of n dimensions, from one for all or from a sequence."""
    if isinstance(value, int):
        return (value,) * n
    sizes = tuple(value)
    if len(sizes) == 1:
        return sizes * n
    if len(sizes) != n:
        raise ShapeError(f"{name}: {argument} is {value}, expected one number or {n}.")
    return sizes


def check_image(name: str, input: Tensor, n: int) -> None:
    """(N, C, L...), or (C, L...) for a single image; L must not be empty."""
    if input.ndim not in (n + 1, n + 2) or 0 in input.shape[-n:]:
        raise ShapeError(
            f"{name}: input has shape {input.shape}, expected (N, C, ...) or (C, ...) with {n} dimensions of size 1 or more."
        )


def side_by_side(kernel: int, n: int) -> dict[str, tuple[int, ...]]:
    """The geometry of windows that neither overlap nor leave gaps."""
    return {"kernel": (kernel,) * n, "stride": (kernel,) * n, "padding": (0,) * n}
