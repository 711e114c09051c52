"""Images read at points that a tensor gives: grid_sample and affine_grid, the two halves of a spatial transformer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib import dtypes, ops
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops.declare import composite
from tensorlib.ops.resample import cubic
from tensorlib.ops.table import BATCH, Draw, Sample, error, sample
from tensorlib.tensor import Tensor

__all__ = ["affine_grid", "grid_sample"]

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


# ---- along one dimension; `lib` is tensorlib's functions or NumPy's, which have the same names here ----
def _position(x: Any, n: int, align_corners: bool) -> Any:
    """From [-1, 1] to elements."""
    return (x + 1) * ((n - 1) / 2) if align_corners else (x + 1) * (n / 2) - 0.5


def _reflected(lib: Any, x: Any, n: int, align_corners: bool) -> Any:
    """Mirrored at the centres of the outermost elements, or at their edges, as often as it takes."""
    low, span = (0.0, float(n - 1)) if align_corners else (-0.5, float(n))
    if span == 0:
        return x * 0
    x = lib.abs(x - low)
    turns = lib.floor(x / span)
    rest = x - turns * span
    return lib.where(turns % 2 == 0, rest + low, span - rest + low)


def _inside(lib: Any, x: Any, n: int, padding_mode: str, align_corners: bool) -> Any:
    if padding_mode == "zeros":
        return x
    if padding_mode == "reflection":
        x = _reflected(lib, x, n, align_corners)
    return lib.clip(x, 0, n - 1)


def _taps(lib: Any, x: Any, n: int, mode: str, padding_mode: str, align_corners: bool) -> list[tuple[Any, Any]]:
    """(index as a float, weight; None: 1) of the elements that a result reads along this dimension."""
    if mode == "bicubic":
        low = lib.floor(x)
        places = [_inside(lib, low + k, n, padding_mode, align_corners) for k in (-1, 0, 1, 2)]
        return list(zip(places, cubic(x - low), strict=True))
    x = _inside(lib, x, n, padding_mode, align_corners)
    if mode == "nearest":
        return [(lib.round(x), None)]
    low = lib.floor(x)
    return [(low, low + 1 - x), (low + 1, x - low)]


def _sample(
    lib: Any, read: Any, shape: Sequence[int], grid: Any, mode: str, padding_mode: str, align_corners: bool
) -> Any:
    """The sum over the taps of all dimensions, channels last; `read(index of each dimension)` is 0 outside."""
    sizes = shape[2:]
    dims = [
        _taps(lib, _position(grid[..., len(sizes) - 1 - d], n, align_corners), n, mode, padding_mode, align_corners)
        for d, n in enumerate(sizes)
    ]
    total: Any = None
    for taps in itertools.product(*dims):
        value = read([index for index, _ in taps])
        weights = [w for _, w in taps if w is not None]
        if weights:
            value = value * math.prod(weights[1:], start=weights[0])[..., None]
        total = value if total is None else total + value
    return total


def _grid_sample_ref(
    xp: Any,
    x: Any,
    grid: Any,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Any:
    if x.dtype.kind != "f":
        raise DTypeError(f"grid_sample: expected floats, got {x.dtype}.")
    batch = xp.arange(x.shape[0]).reshape(-1, *([1] * (x.ndim - 2)))

    def read(index: list[Any]) -> Any:
        ok = math.prod(((i >= 0) & (i < n) for i, n in zip(index, x.shape[2:], strict=True)), start=True)
        place = (batch, *(xp.clip(i, 0, n - 1).astype(int) for i, n in zip(index, x.shape[2:], strict=True)))
        return xp.where(ok[..., None], xp.moveaxis(x, 1, -1)[place], 0)

    return xp.moveaxis(_sample(xp, read, x.shape, grid, mode, padding_mode, bool(align_corners)), -1, 1)


def _samples() -> list[Sample]:
    flat = [((2, 3, 4, 5), (2, 3, 2, 2)), ((1, 2, 1, 6), (1, 1, 4, 2))]
    made = [
        sample(x, Draw(grid, -1.4, 1.4), mode=mode, padding_mode=padding, align_corners=align)
        for mode in _MODES for padding in _PADDINGS for align in (False, True) for x, grid in flat[: 1 + (mode == "bilinear")]
    ]  # fmt: skip
    made += [
        sample((1, 2, 3, 4, 5), Draw((1, 2, 3, 2, 3), -1.3, 1.3), mode=mode, padding_mode="border")
        for mode in _MODES[:2]
    ]
    return [*made, sample((0, 2, 3, 3), (0, 2, 2, 2)), sample((2, 2, 3, 3), (2, 0, 2, 2))]


class _Lib:
    """What the functions above need, in differentiable operations."""

    abs, floor, round = ops.elementwise.abs, ops.elementwise.floor, ops.elementwise.round
    where, clip = ops.elementwise.where, ops.selection.clip


@composite(
    "grid_sample",
    inputs=("input", "grid"),
    attrs=("mode", "padding_mode", "align_corners"),
    ref=_grid_sample_ref,
    samples=_samples,
    rowwise=[
        sample((BATCH, 2, 9, 10), Draw((BATCH, 5, 7, 2), -1.3, 1.3), mode=mode) for mode in ("bilinear", "bicubic")
    ],
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
    else their outer edges. No gradient flows to a grid whose points are rounded ("nearest").

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
    n, c, *sizes = input.shape
    pixels = math.prod(sizes)
    rows = input.movedim(1, -1).reshape(n * pixels, c)  # one of each place: a tap reads whole ones
    first = ops.creation.arange(0, n * pixels, pixels, device=input.device).reshape(n, *[1] * spatial)

    def read(index: list[Tensor]) -> Tensor:
        ok: Any = None
        at: Any = 0
        for i, size in zip(index, sizes, strict=True):
            i = i.detach()
            here = (i >= 0) & (i <= size - 1)
            ok = here if ok is None else ok & here
            at = at * size + ops.elementwise.where(here, i, 0).to(dtypes.int64)
        points = (first + at).reshape(math.prod(at.shape))
        values = ops.positions.index_select(rows, 0, points).reshape(*at.shape, c)
        return values if padding_mode != "zeros" else ops.elementwise.where(ok[..., None], values, 0)

    return _sample(_Lib, read, input.shape, grid, mode, padding_mode, bool(align_corners)).movedim(-1, 1).contiguous()


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
