"""Images read at points that a tensor gives: grid_sample and affine_grid, the two halves of a spatial transformer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlib import dtypes, ops
from tensorlib.dtypes import DType
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.native import lib
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.resample import cubic
from tensorlib.ops.table import BATCH, Draw, Sample, error, sample
from tensorlib.tensor import Tensor

__all__ = ["affine_grid", "grid_sample"]

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


# ---- along one dimension; `lib` is tensorlib's functions or NumPy's, which have the same names here ----
@dataclass(frozen=True, slots=True)
class _Tap:
    """An element that a result reads: its index, as a float, its weight, and the weight's slope in the grid's coordinate."""

    index: Any
    weight: Any
    slope: Any


def _reflected(lib: Any, x: Any, turn: Any, n: int, align_corners: bool) -> tuple[Any, Any]:
    """Mirrored at the centres of the outermost elements, or at their edges, as often as it takes."""
    low, span = (0.0, float(n - 1)) if align_corners else (-0.5, float(n))
    if span == 0:
        return x * 0, turn
    before = x < low
    x = lib.abs(x - low)
    turns = lib.floor(x / span)
    rest, even = x - turns * span, turns % 2 == 0
    return lib.where(even, rest + low, span - rest + low), lib.where(before == even, -turn, turn)


def _inside(lib: Any, x: Any, turn: Any, n: int, padding_mode: str, align_corners: bool) -> tuple[Any, Any]:
    """x brought into the image, and what becomes of its slope `turn`: 0 where it stays at an end."""
    if padding_mode == "zeros":
        return x, turn
    if padding_mode == "reflection":
        x, turn = _reflected(lib, x, turn, n, align_corners)
    return lib.clip(x, 0, n - 1), lib.where((x > 0) & (x < n - 1), turn, 0)


def _cubic_slopes(t: Any) -> list[Any]:
    """The derivatives of `cubic`."""

    def inner(d: Any) -> Any:
        return (3.75 * d - 4.5) * d

    def outer(d: Any) -> Any:
        return (-2.25 * d + 7.5) * d - 6

    return [outer(t + 1), inner(t), -inner(1 - t), -outer(2 - t)]


def _taps(lib: Any, x: Any, n: int, mode: str, padding_mode: str, align_corners: bool) -> list[_Tap]:
    """Of points at x in [-1, 1]."""
    half = (n - 1 if align_corners else n) / 2
    turn = lib.zeros_like(x) + half
    x = (x + 1) * half if align_corners else (x + 1) * half - 0.5
    if mode == "bicubic":
        low = lib.floor(x)
        places = [_inside(lib, low + k, turn, n, padding_mode, align_corners)[0] for k in (-1, 0, 1, 2)]
        parts = zip(places, cubic(x - low), _cubic_slopes(x - low), strict=True)
        return [_Tap(place, weight, slope * half) for place, weight, slope in parts]
    x, turn = _inside(lib, x, turn, n, padding_mode, align_corners)
    if mode == "nearest":
        return [_Tap(lib.round(x), turn * 0 + 1, turn * 0)]
    low = lib.floor(x)
    return [_Tap(low, low + 1 - x, -turn), _Tap(low + 1, x - low, turn)]


def _points(lib: Any, sizes: Sequence[int], grid: Any, how: tuple[str, str, bool]) -> list[tuple[_Tap, ...]]:
    """For each of the elements that a point reads, its taps along the dimensions of the image."""
    last = len(sizes) - 1
    return list(itertools.product(*(_taps(lib, grid[..., last - d], n, *how) for d, n in enumerate(sizes))))


def _grid_sample_ref(xp: Any, x: Any, grid: Any, *, mode: str, padding_mode: str, align_corners: bool) -> Any:
    batch, sizes = xp.arange(x.shape[0]).reshape(-1, *([1] * (x.ndim - 2))), x.shape[2:]
    total: Any = 0
    for taps in _points(xp, sizes, grid, (mode, padding_mode, align_corners)):
        ok = math.prod(((t.index >= 0) & (t.index < n) for t, n in zip(taps, sizes, strict=True)), start=True)
        place = (batch, *(xp.clip(t.index, 0, n - 1).astype(int) for t, n in zip(taps, sizes, strict=True)))
        value = xp.where(ok[..., None], xp.moveaxis(x, 1, -1)[place], 0)
        total = total + value * math.prod(t.weight for t in taps)[..., None]
    return xp.ascontiguousarray(xp.moveaxis(total, -1, 1))


# ---- the definition and the gradients, in differentiable operations ----
class _Lib:
    """What the functions above need."""

    abs, floor, round = ops.elementwise.abs, ops.elementwise.floor, ops.elementwise.round
    where, clip, zeros_like = ops.elementwise.where, ops.selection.clip, ops.creation.zeros_like


class _Reading:
    """The elements that points read: one of each place in all images is a row of all channels."""

    def __init__(self, shape: tuple[int, ...], grid: Tensor, mode: str, padding_mode: str, align_corners: bool) -> None:
        self.shape, self.sizes, self.grid = shape, shape[2:], grid
        self.taps = _points(_Lib, self.sizes, grid, (mode, padding_mode, align_corners))

    def rows(self, x: Tensor) -> Tensor:
        """(N, C, ...) as (all places, C)."""
        return x.movedim(1, -1).reshape(x.shape[0] * math.prod(x.shape[2:]), x.shape[1])

    def seen(self, taps: tuple[_Tap, ...]) -> tuple[Tensor, Tensor]:
        """Of each point: the row that it reads (the first one where that is outside), and 1, or 0 outside; (points, 1)."""
        n = self.shape[0]
        ok: Any = True
        at: Any = ops.creation.arange(n, device=self.grid.device).reshape(n, *[1] * len(self.sizes))
        for tap, size in zip(taps, self.sizes, strict=True):
            index = tap.index.detach()
            here = (index >= 0) & (index <= size - 1)
            ok = here if ok is True else ok & here
            at = at * size + ops.elementwise.where(here, index, 0).to(dtypes.int64)
        points = math.prod(self.grid.shape[:-1])
        return at.reshape(points), ok.reshape(points, 1)

    def read(self, rows: Tensor, taps: tuple[_Tap, ...]) -> Tensor:
        """(points, C)"""
        at, ok = self.seen(taps)
        return ops.elementwise.where(ok, ops.positions.index_select(rows, 0, at), 0)

    def column(self, values: Sequence[Tensor]) -> Tensor:
        """Their product, (points, 1)."""
        return math.prod(values[1:], start=values[0]).reshape(math.prod(self.grid.shape[:-1]), 1)

    def images(self, rows: Tensor, places: Sequence[int]) -> Tensor:
        """What `rows` undoes."""
        n, c = self.shape[:2]
        return rows.reshape(n, *places, c).movedim(-1, 1).contiguous()

    def sample(self, x: Tensor) -> Tensor:
        rows = self.rows(x)
        parts = [self.read(rows, taps) * self.column([t.weight for t in taps]) for taps in self.taps]
        return self.images(sum(parts[1:], start=parts[0]), self.grid.shape[1:-1])

    def spread(self, g: Tensor) -> Tensor:
        """The gradient of the images."""
        given = self.rows(g)
        total = ops.gather.zeros_for(g, (self.shape[0] * math.prod(self.sizes), self.shape[1]))
        for taps in self.taps:
            at, ok = self.seen(taps)
            part = ops.elementwise.where(ok, given * self.column([t.weight for t in taps]), 0)
            total = ops.positions.index_add(total, 0, at, part)
        return self.images(total, self.sizes)

    def slopes(self, g: Tensor, x: Tensor) -> Tensor:
        """The gradient of the grid."""
        given, rows, k = self.rows(g), self.rows(x), len(self.sizes)
        columns: list[Any] = [0] * k
        for taps in self.taps:
            dot = (given * self.read(rows, taps)).sum(1, keepdim=True)
            for d in range(k):
                slope = self.column([t.slope if e == d else t.weight for e, t in enumerate(taps)])
                columns[k - 1 - d] = columns[k - 1 - d] + dot * slope
        return ops.joins.cat(columns, 1).reshape(self.grid.shape)


def _samples() -> list[Sample]:
    def case(x: Any, grid: Any, mode: str = "bilinear", padding: str = "zeros", align: bool = False) -> Sample:
        return sample(x, Draw(grid, -1.4, 1.4), mode=mode, padding_mode=padding, align_corners=align)

    # Few channels and many, few points and many: each is a way of the kernel's own.
    shapes = [((2, 3, 4, 5), (2, 3, 2, 2)), ((2, 19, 2, 5), (2, 5, 7, 2))]
    made = [case(*s, m, p, a) for m, p, a in itertools.product(_MODES, _PADDINGS, (False, True)) for s in shapes]
    made += [case((1, c, 2, 3, 4), (1, 2, 3, 7, 3), mode, p) for mode in _MODES[:2] for p in _PADDINGS for c in (2, 18)]
    made += [case((2, 6, 6, 7), (2, 1, 3, 2)), case((1, 2, 1, 6), (1, 1, 4, 2), "bilinear", "reflection", True)]
    return [*made, case((0, 2, 3, 3), (0, 2, 2, 2)), case((2, 2, 3, 3), (2, 0, 2, 2)), case((2, 0, 3, 3), (2, 1, 2, 2))]


def _rows() -> list[Sample]:
    """Channels in slices and few channels; few points; three dimensions."""
    shapes = [
        ((37, 9, 10), (8, 9, 2)),
        ((2, 19, 20), (23, 17, 2)),
        ((20, 40, 41), (5, 6, 2)),
        ((18, 6, 7, 5), (3, 8, 9, 3)),
    ]
    how = [("bilinear", "zeros", False), ("nearest", "border", True), ("bicubic", "reflection", False)]
    return [
        sample((BATCH, *x), Draw((BATCH, *grid), -1.3, 1.3), mode=mode, padding_mode=padding, align_corners=align)
        for x, grid in shapes for mode, padding, align in how if mode != "bicubic" or len(x) == 3
    ]  # fmt: skip


def _dtype_rule(common: DType) -> tuple[DType, DType]:
    if not common.is_floating_point:
        raise DTypeError(f"grid_sample: expected floats, got {common.name}.")
    return common, common


_grid_sample = structured(
    "grid_sample",
    inputs=("input", "grid"),
    attrs=("mode", "padding_mode", "align_corners"),
    dtype=_dtype_rule,
    ref=_grid_sample_ref,
    vjp=(
        lambda g, input_shape, grid, mode, padding_mode, align_corners: _Reading(
            input_shape, grid, mode, padding_mode, align_corners
        ).spread(g),
        lambda g, input, grid, mode, padding_mode, align_corners: _Reading(
            input.shape, grid, mode, padding_mode, align_corners
        ).slopes(g, input),
    ),
    composite=lambda input, grid, **how: _Reading(input.shape, grid, **how).sample(input),
    native=lambda line, input, grid, mode, padding_mode, align_corners: lib.tl_grid_sample(
        input._array, grid._array, _MODES.index(mode), _PADDINGS.index(padding_mode), align_corners, line
    ),
    decode=lambda node: {
        "mode": _MODES[lib.tl_node_int(node, 0)],
        "padding_mode": _PADDINGS[lib.tl_node_int(node, 1)],
        "align_corners": bool(lib.tl_node_int(node, 2)),
    },
    samples=_samples,
    rowwise=_rows,
    errors=[
        error((2, 3, 4), (2, 3, 2), raises=ValueError, match="input has 3 dimensions"),
        error(
            (2, 3, 4, 4),
            (2, 3, 3, 3),
            raises=ValueError,
            match="grid has shape \\(2, 3, 3, 3\\), expected \\(2, h, w, 2\\)",
        ),
        error((2, 3, 4, 4), (1, 3, 3, 2), raises=ValueError, match="expected \\(2, h, w, 2\\)"),
        error((2, 3, 0, 4), (2, 3, 3, 2), raises=ValueError, match="an input without elements"),
        error(
            (2, 3, 4, 4),
            (2, 3, 3, 2),
            mode="linear",
            raises=ValueError,
            match="mode is 'linear', expected one of bilinear",
        ),
        error((2, 3, 4, 4), (2, 3, 3, 2), padding_mode="wrap", raises=ValueError, match="padding_mode is 'wrap'"),
        error(Draw((2, 3, 4, 4), dtype="int64"), (2, 3, 3, 2), raises=TypeError, match="expected floats, got int64"),
        error((1, 1, 2, 3, 4), (1, 1, 1, 1, 3), mode="bicubic", raises=ValueError, match="bicubic.*4 dimensions"),
    ],
)


def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """The input read at the points of a grid, whose last dimension holds (x, y) or (x, y, z), each from -1 at one end to 1 at the other.

    Shapes:
        input: (N, C, H, W), grid: (N, h, w, 2)  ->  out: (N, C, h, w)
        input: (N, C, D, H, W), grid: (N, d, h, w, 3)  ->  out: (N, C, d, h, w)

    `mode` is "bilinear" (trilinear in three dimensions), "nearest", or "bicubic" (two dimensions); `padding_mode` says what lies outside:
    "zeros", "border" the outermost elements, or "reflection". With `align_corners` -1 and 1 are the centres of the outermost elements,
    else their outer edges. The gradient of a grid whose points are rounded ("nearest") is 0.

    Reference: Jaderberg et al. 2015.

    >>> x = tl.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    >>> tl.grid_sample(x, tl.tensor([[[[0.0, 0.0], [1.0, 1.0]]]]), align_corners=True).tolist()
    [[[[1.5, 3.0]]]]
    """
    if input.ndim not in (4, 5):
        raise ShapeError(f"grid_sample: input has {input.ndim} dimensions, expected (N, C, H, W) or (N, C, D, H, W).")
    spatial = input.ndim - 2
    if grid.ndim != input.ndim or grid.shape[0] != input.shape[0] or grid.shape[-1] != spatial:
        expected = f"({input.shape[0]}, {'d, ' * (spatial - 2)}h, w, {spatial})"
        raise ShapeError(
            f"grid_sample: grid has shape {grid.shape}, expected {expected} for an input of shape {input.shape}."
        )
    if mode not in _MODES:
        raise ValueError(f"grid_sample: mode is {mode!r}, expected one of {', '.join(_MODES)}.")
    if padding_mode not in _PADDINGS:
        raise ValueError(f"grid_sample: padding_mode is {padding_mode!r}, expected one of {', '.join(_PADDINGS)}.")
    if mode == "bicubic" and spatial != 2:
        raise ShapeError("grid_sample: mode 'bicubic' needs an input of 4 dimensions, got 5.")
    if 0 in input.shape[2:]:
        raise ShapeError(f"grid_sample: an input without elements, of shape {input.shape}, can not be sampled.")
    if not (input.dtype.is_floating_point and grid.dtype.is_floating_point):
        raise DTypeError(f"grid_sample: expected floats, got {input.dtype.name} and a grid of {grid.dtype.name}.")
    if dtypes.float32 not in (input.dtype, grid.dtype) and dtypes.float64 not in (input.dtype, grid.dtype):
        # 16 bits would not tell the places in a larger image apart
        made = grid_sample(input.to(dtypes.float32), grid.to(dtypes.float32), mode, padding_mode, align_corners)
        return made.to(input.dtype)
    return _grid_sample(input, grid, mode=mode, padding_mode=padding_mode, align_corners=bool(align_corners))


# ---- affine_grid ----
def _steps(n: int, align_corners: bool) -> np.ndarray[Any, Any]:
    if n == 1:
        return np.zeros(1)
    return np.linspace(-1, 1, n) * (1.0 if align_corners else (n - 1) / n)


def _base(size: Sequence[int], align_corners: bool) -> np.ndarray[Any, Any]:
    """(points, 3 or 4): x, y, (z,) 1 of every position, row by row."""
    axes = np.meshgrid(*(_steps(n, align_corners) for n in size[2:]), indexing="ij")
    return np.stack([*(a.ravel() for a in reversed(axes)), np.ones(math.prod(size[2:]))], axis=1)


@composite(
    "affine_grid",
    inputs=("theta",),
    attrs=("size", "align_corners"),
    ref=lambda xp, theta, *, size, align_corners=None: (
        xp.asarray(_base(size, bool(align_corners)).astype(theta.dtype)) @ theta.swapaxes(1, 2)
    ).reshape(size[0], *size[2:], len(size) - 2),
    samples=[
        sample((2, 2, 3), size=(2, 3, 4, 5)), sample((1, 2, 3), size=(1, 1, 1, 3), align_corners=True),
        sample((2, 3, 4), size=(2, 1, 2, 3, 4), align_corners=False),
    ],
    errors=[
        error((2, 2, 3), size=(2, 3, 4), raises=ValueError, match="size is \\(2, 3, 4\\), expected \\(N, C, H, W\\) or \\(N, C, D, H, W\\)"),
        error((2, 3, 3), size=(2, 3, 4, 4), raises=ValueError, match="theta has shape \\(2, 3, 3\\), expected \\(2, 2, 3\\)"),
        error((2, 2, 3), size=(2, 3, 0, 4), raises=ValueError, match="positive sizes"),
    ],
)  # fmt: skip
def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The grid for `grid_sample` that reads an image through affine maps.

    Shapes:
        theta: (N, 2, 3), size: (N, C, H, W)  ->  out: (N, H, W, 2);   theta: (N, 3, 4), size: (N, C, D, H, W)  ->  out: (N, D, H, W, 3)

    >>> identity = tl.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> tl.affine_grid(identity, (1, 1, 1, 3), align_corners=True).tolist()
    [[[[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]]]
    """
    size = tuple(size)
    if len(size) not in (4, 5) or min(size[1:]) < 1:
        raise ShapeError(f"affine_grid: size is {size}, expected (N, C, H, W) or (N, C, D, H, W) with positive sizes.")
    k = len(size) - 2
    if theta.shape != (size[0], k, k + 1):
        raise ShapeError(f"affine_grid: theta has shape {theta.shape}, expected {(size[0], k, k + 1)} for size {size}.")
    base = ops.creation.tensor(_base(size, bool(align_corners)), dtype=theta.dtype, device=theta.device)
    return ops.linalg.matmul(base, theta.transpose(1, 2)).reshape(size[0], *size[2:], k)
