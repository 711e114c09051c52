"""Images and sequences on another grid: interpolate, pixel_shuffle, and fold and unfold between images and patches."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from tensorlib import ops
from tensorlib.dtypes import DType, float32, float64
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.native import ffi, lib
from tensorlib.ops import rules
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.table import BATCH, Sample, error, sample
from tensorlib.tensor import Tensor

__all__ = ["fold", "interpolate", "pixel_shuffle", "pixel_unshuffle", "unfold"]


# ---- one dimension, by a table of weights ----
class Weights:
    """A sparse (out, n) matrix: out[i] is the sum of weight[t] * x[index[t]] over t from starts[i] to starts[i + 1]."""

    def __init__(
        self, n: int, row: np.ndarray[Any, Any], index: np.ndarray[Any, Any], weight: np.ndarray[Any, Any], out: int
    ) -> None:
        kept = weight != 0  # what has no weight is not read: it may be infinite
        row, index, weight = row[kept], index[kept], weight[kept]
        order = np.lexsort((index, row))
        self.n, self.out = n, out
        self.index, self.weight, self._row = index[order].astype(np.int64), weight[order].astype(np.float64), row[order]
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=out))]).astype(np.int64)

    @cached_property
    def transposed(self) -> Weights:
        made = Weights(self.out, self.index, self._row, self.weight, self.n)
        made.__dict__["transposed"] = self
        return made

    @cached_property
    def pointers(self) -> dict[DType, tuple[Any, Any, Any]]:
        """Starts, indices and weights as C takes them, by the dtype of the weights."""
        tables = [ffi.from_buffer("int64_t[]", a) for a in (self.starts, self.index)]
        return {dtype: (*tables, ffi.from_buffer(self.weight.astype(dtype.np))) for dtype in (float32, float64)}

    @cached_property
    def passes(self) -> list[tuple[Any, Any, Any]]:
        """For k = 0, 1, ...: the rows that have a k-th element, its index and its weight."""
        counts = np.diff(self.starts)
        at = [(np.flatnonzero(counts > k), k) for k in range(int(counts.max(initial=0)))]
        return [(rows, self.index[self.starts[rows] + k], self.weight[self.starts[rows] + k]) for rows, k in at]

    def __repr__(self) -> str:
        return f"{self.n}to{self.out}"


def _resample_ref(xp: Any, x: Any, *, dim: int, weights: Weights) -> Any:
    x = xp.moveaxis(x, dim, -1)
    out = xp.zeros((*x.shape[:-1], weights.out), x.dtype)
    for rows, index, weight in weights.passes:
        out[..., xp.asarray(rows)] += x[..., xp.asarray(index)] * xp.asarray(weight.astype(x.dtype))
    return xp.ascontiguousarray(xp.moveaxis(out, -1, dim))


def _resample_kernel(x: Tensor, *, dim: int, weights: Weights) -> int:
    tables = weights.pointers.get(x.dtype)
    return int(lib.tl_resample(x._array, dim, weights.out, *tables)) if tables else 0


_resample = structured(
    "resample",
    inputs=("x",),
    attrs=("dim", "weights"),
    dtype=rules.floating,
    ref=_resample_ref,
    kernel=_resample_kernel,
    vjp=(lambda g, dim, weights: _resample(g, dim=dim, weights=weights.transposed),),
    samples=lambda: [
        sample((2, 5), dim=1, weights=_linear(5, 8, 5 / 8, False)),
        sample((2, 5, 3), dim=1, weights=_cubic(5, 3, 5 / 3, True)),
        sample((70, 3), dim=0, weights=_area(70, 9)),
        sample((9, 67), dim=0, weights=_linear(9, 20, 9 / 20, True).transposed.transposed),
        sample((0, 4), dim=1, weights=_linear(4, 2, 2, False)),
    ],
    private=True,
)  # fmt: skip


# ---- weights: as PyTorch has them, computed in double ----
def _sources(n: int, out: int, scale: float, align_corners: bool) -> np.ndarray[Any, Any]:
    """Where the centres of the results lie among those of the elements."""
    i = np.arange(out, dtype=np.float64)
    return i * ((n - 1) / (out - 1) if out > 1 else 0.0) if align_corners else (i + 0.5) * scale - 0.5


def _taps(n: int, out: int, index: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> Weights:
    """From an index and a weight for each tap and result, (taps, out); indices beyond the ends mean the ends, and what meets there is added up."""
    matrix: dict[tuple[int, int], float] = {}
    for i, (js, ws) in enumerate(zip(index.clip(0, n - 1).T.tolist(), weight.T.tolist(), strict=True)):
        for j, w in zip(js, ws, strict=True):
            matrix[i, j] = matrix.get((i, j), 0.0) + w
    places = np.array(list(matrix), np.int64).reshape(-1, 2)
    return Weights(n, places[:, 0], places[:, 1], np.array(list(matrix.values()), np.float64), out)


@lru_cache(maxsize=256)
def _linear(n: int, out: int, scale: float, align_corners: bool) -> Weights:
    source = _sources(n, out, scale, align_corners).clip(0, n - 1)
    low = np.floor(source).astype(np.int64)
    return _taps(n, out, np.stack([low, low + 1]), np.stack([1 - (source - low), source - low]))


def cubic(t: Any) -> list[Any]:
    """Weights of the elements at -1, 0, 1 and 2 for a place at t in [0, 1), of whatever kind t is: Keys' convolution with a = -0.75."""
    a = -0.75

    def inner(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def outer(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [outer(t + 1), inner(t), inner(1 - t), outer(2 - t)]


@lru_cache(maxsize=256)
def _cubic(n: int, out: int, scale: float, align_corners: bool) -> Weights:
    source = _sources(n, out, scale, align_corners)
    low = np.floor(source)
    return _taps(n, out, np.stack([low + k for k in (-1, 0, 1, 2)]).astype(np.int64), np.stack(cubic(source - low)))


@lru_cache(maxsize=256)
def _area(n: int, out: int) -> Weights:
    spans = [(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]
    row = np.concatenate([np.full(b - a, i) for i, (a, b) in enumerate(spans)])
    index = np.concatenate([np.arange(a, b) for a, b in spans])
    return Weights(n, row, index, np.concatenate([np.full(b - a, 1 / (b - a)) for a, b in spans]), out)


@lru_cache(maxsize=256)
def _nearest(n: int, out: int, scale: float, exact: bool) -> np.ndarray[Any, Any]:
    """PyTorch computes these in single precision, whatever the dtype: a position may depend on it."""
    i, step = np.arange(out), np.float32(scale)
    if not exact and out in (n, 2 * n):
        return i * n // out
    source = (i.astype(np.float32) + np.float32(0.5 if exact else 0.0)) * step
    return np.minimum(np.floor(source).astype(np.int64), n - 1)


# ---- interpolate ----
_SPATIAL = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}  # modes that need so many dimensions
_MODES = ("nearest", "nearest-exact", "area", *_SPATIAL)


def _numbers(name: str, value: Any, count: int, convert: Callable[[Any], Any]) -> list[Any]:
    """One for each dimension, from one or from a sequence."""
    listed = list(value) if isinstance(value, (tuple, list)) else [value] * count
    if len(listed) != count:
        raise ShapeError(
            f"interpolate: {name} has {len(listed)} numbers; expected one, or {count} for the dimensions after (N, C)."
        )
    try:
        return [convert(v) for v in listed]
    except TypeError:
        raise TypeError(
            f"interpolate: {name} is {value!r}, expected {'integers' if convert is operator.index else 'numbers'}."
        ) from None


def _targets(shape: tuple[int, ...], size: Any, scale_factor: Any, recompute: bool | None) -> list[tuple[int, float]]:
    """(size, how far apart the results lie) of each dimension after (N, C)."""
    spatial = shape[2:]
    if (size is None) == (scale_factor is None):
        raise ValueError(f"interpolate: got size {size} and scale_factor {scale_factor}; expected one of the two.")
    if size is not None and recompute:
        raise ValueError("interpolate: recompute_scale_factor has no meaning with size.")
    factors = [] if size is not None else _numbers("scale_factor", scale_factor, len(spatial), float)
    sizes = [math.floor(n * f) for n, f in zip(spatial, factors, strict=False)] or _numbers(
        "size", size, len(spatial), operator.index
    )
    if min(sizes) <= 0 or 0 in shape[1:]:
        raise ShapeError(
            f"interpolate: from shape {shape} to {tuple(sizes)}: sizes, other than the batch's, must be positive."
        )
    if factors and not recompute:
        return [(out, 1 / f) for out, f in zip(sizes, factors, strict=True)]
    return [(out, n / out) for n, out in zip(spatial, sizes, strict=True)]


def _check_mode(ndim: int, mode: str, align_corners: bool | None, antialias: bool) -> None:
    if mode not in _MODES:
        raise ValueError(f"interpolate: mode is {mode!r}, expected one of {', '.join(_MODES)}.")
    if not 3 <= ndim <= 5:
        raise ShapeError(
            f"interpolate: input has {ndim} dimensions, expected (N, C, W), (N, C, H, W) or (N, C, D, H, W)."
        )
    if _SPATIAL.get(mode, ndim - 2) != ndim - 2:
        raise ShapeError(f"interpolate: mode {mode!r} needs an input of {_SPATIAL[mode] + 2} dimensions, got {ndim}.")
    if align_corners is not None and mode not in _SPATIAL:
        raise ValueError(f"interpolate: align_corners has no meaning with mode {mode!r}.")
    if antialias:
        raise ValueError(
            "interpolate: antialias=True is not supported.",
        )


def _weights(mode: str, n: int, out: int, scale: float, align_corners: bool) -> Weights | None:
    """None: every result is the element in its place."""
    if mode == "area":
        return None if n == out else _area(n, out)
    if n == out and (align_corners or scale == 1):
        return None
    return (_cubic if mode == "bicubic" else _linear)(n, out, scale, align_corners)


def _interpolate_ref(
    xp: Any,
    x: Any,
    *,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
) -> Any:
    for dim, (out, scale) in enumerate(_targets(x.shape, size, scale_factor, recompute_scale_factor), 2):
        if mode in ("nearest", "nearest-exact"):
            x = xp.take(x, xp.asarray(_nearest(x.shape[dim], out, scale, mode == "nearest-exact")), axis=dim)
        elif (weights := _weights(mode, x.shape[dim], out, scale, bool(align_corners))) is not None:
            x = _resample_ref(xp, x, dim=dim, weights=weights)
    return x.copy()


def _interpolate_samples() -> list[Sample]:
    return [
        sample((2, 3, 5), size=8), sample((1, 2, 4, 3), scale_factor=(2.0, 2.6)),
        sample((1, 2, 3, 4, 5), size=(2, 4, 9)), sample((2, 3, 7), size=3, mode="nearest-exact"),
        sample((1, 2, 5, 7), scale_factor=0.6, mode="nearest-exact", recompute_scale_factor=True),
        sample((2, 3, 5), size=9, mode="linear"),
        sample((2, 3, 5), size=1, mode="linear", align_corners=True),
        sample((2, 1, 4, 6), size=(7, 3), mode="bilinear"),
        sample((2, 1, 4, 6), size=(7, 3), mode="bilinear", align_corners=True),
        sample((1, 2, 4, 5), scale_factor=1.7, mode="bilinear"),
        sample((1, 2, 4, 5), scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
        sample((1, 1, 2, 3, 4), size=(3, 3, 5), mode="trilinear"),
        sample((1, 2, 5, 4), size=(8, 3), mode="bicubic"),
        sample((1, 2, 5, 4), scale_factor=2, mode="bicubic", align_corners=True),
        sample((2, 3, 7), size=3, mode="area"), sample((1, 2, 3, 5), size=(7, 2), mode="area"),
        sample((0, 2, 3, 4), size=5, mode="bilinear"),
        sample((1, 2, 3, 4), size=(3, 4), mode="bilinear"), sample((1, 2, 3, 4), size=(3, 4), mode="area"),
    ]  # fmt: skip


@composite(
    "interpolate",
    inputs=("input",),
    attrs=("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"),
    ref=_interpolate_ref,
    samples=_interpolate_samples,
    rowwise=lambda: [
        sample((BATCH, 3, 20, 30), size=(31, 17), mode=mode) for mode in ("nearest", "bilinear", "bicubic", "area")
    ],
    errors=[
        error((2, 3, 4), raises=ValueError, match="got size None and scale_factor None"),
        error((2, 3, 4), size=3, scale_factor=2, raises=ValueError, match="expected one of the two"),
        error((2, 3, 4), size=(3, 4), raises=ValueError, match="size has 2 numbers; expected one, or 1"),
        error((2, 3, 4), size=2.5, raises=TypeError, match="size is 2.5, expected integers"),
        error((2, 3, 4), size=0, raises=ValueError, match="must be positive"),
        error((2, 3, 0), size=2, raises=ValueError, match="must be positive"),
        error((2, 3), size=2, raises=ValueError, match="input has 2 dimensions"),
        error((2, 3, 4), size=2, mode="bilinear", raises=ValueError, match="'bilinear' needs an input of 4 dimensions, got 3"),
        error((2, 3, 4), size=2, mode="cubic", raises=ValueError, match="mode is 'cubic', expected one of nearest"),
        error((2, 3, 4), size=2, align_corners=True, raises=ValueError, match="align_corners has no meaning with mode 'nearest'"),
        error((2, 3, 4), size=2, recompute_scale_factor=True, raises=ValueError, match="recompute_scale_factor has no meaning with size"),
        error((2, 3, 4, 5), size=2, mode="bilinear", antialias=True, raises=ValueError, match="antialias=True is not supported"),
    ],
)  # fmt: skip
def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """The input at another resolution, given as `size` or as `scale_factor`.

    Shapes:
        input: (N, C, W), (N, C, H, W) or (N, C, D, H, W)  ->  out: (N, C, *size), with a factor the product rounded down

    `mode` is "nearest" (with PyTorch's, and OpenCV's, rounding down), "nearest-exact" (the nearest by centres), "linear", "bilinear",
    "trilinear", "bicubic", or "area" (the mean of what a result covers). With `align_corners` the centres of the outermost elements stay
    where they are; else their outer edges do. A given `scale_factor` also is the distance between results, unless `recompute_scale_factor`
    asks for the ratio of the sizes.

    Reference: Keys 1981, for bicubic (a = -0.75).

    >>> x = tl.tensor([[[0.0, 1.0, 2.0]]])
    >>> tl.interpolate(x, size=6).tolist()
    [[[0.0, 0.0, 1.0, 1.0, 2.0, 2.0]]]
    >>> tl.interpolate(x, size=5, mode="linear", align_corners=True).tolist()
    [[[0.0, 0.5, 1.0, 1.5, 2.0]]]
    """
    _check_mode(input.ndim, mode, align_corners, antialias)
    targets = _targets(input.shape, size, scale_factor, recompute_scale_factor)
    nearest = mode in ("nearest", "nearest-exact")
    if not nearest and not input.dtype.is_floating_point:
        raise DTypeError(f"interpolate: mode {mode!r} needs a float input, got {input.dtype.name}.")
    # What shrinks most comes first, of what grows the last dimension: the fewest elements on the way.
    growth = [out / n for n, (out, _) in zip(input.shape[2:], targets, strict=True)]
    x = input
    for dim in sorted(range(input.ndim - 2), key=lambda d: (growth[d], -d)):
        (out, scale), n = targets[dim], input.shape[dim + 2]
        if nearest:
            index = ops.creation.tensor(_nearest(n, out, scale, mode == "nearest-exact"), device=input.device)
            x = ops.positions.index_select(x, dim + 2, index)
        elif (weights := _weights(mode, n, out, scale, bool(align_corners))) is not None:
            x = _resample(x, dim=dim + 2, weights=weights)
    return ops.shape.clone(x) if x is input else x


# ---- pixel_shuffle ----
def _check_factor(name: str, input: Tensor, factor: int) -> int:
    if input.ndim < 3:
        raise ShapeError(f"{name}: input has {input.ndim} dimensions, expected (..., C, H, W).")
    factor = operator.index(factor)
    if factor < 1:
        raise ValueError(f"{name}: the factor is {factor}, expected a positive integer.")
    return factor


def _shuffle_ref(xp: Any, x: Any, *, upscale_factor: int) -> Any:
    *lead, c, h, w = x.shape
    r, k = upscale_factor, len(lead)
    x = x.reshape(*lead, c // r**2, r, r, h, w).transpose(*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return x.reshape(*lead, c // r**2, h * r, w * r)


@composite(
    "pixel_shuffle",
    inputs=("input",),
    attrs=("upscale_factor",),
    ref=_shuffle_ref,
    samples=[
        sample((2, 8, 3, 4), upscale_factor=2), sample((9, 2, 1), upscale_factor=3),
        sample((2, 3, 4), upscale_factor=1), sample((0, 4, 2, 2), upscale_factor=2),
    ],
    errors=[
        error((2, 6, 3, 4), upscale_factor=2, raises=ValueError, match="6 channels, expected a multiple of 4"),
        error((4, 3), upscale_factor=2, raises=ValueError, match="input has 2 dimensions"),
        error((4, 3, 3), upscale_factor=0, raises=ValueError, match="the factor is 0"),
    ],
)  # fmt: skip
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """Channels become resolution: each r x r square of the result holds what r * r channels had in one place.

    Shapes:
        input: (..., C * r * r, H, W)  ->  out: (..., C, H * r, W * r)

    Reference: Shi et al. 2016.

    >>> tl.pixel_shuffle(tl.arange(4).reshape(4, 1, 1), 2).tolist()
    [[[0, 1], [2, 3]]]
    """
    r = _check_factor("pixel_shuffle", input, upscale_factor)
    *lead, c, h, w = input.shape
    if c % r**2:
        raise ShapeError(
            f"pixel_shuffle: input of shape {input.shape} has {c} channels, expected a multiple of {r**2}."
        )
    k = len(lead)
    x = input.reshape(*lead, c // r**2, r, r, h, w).permute(*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return x.reshape(*lead, c // r**2, h * r, w * r)


def _unshuffle_ref(xp: Any, x: Any, *, downscale_factor: int) -> Any:
    *lead, c, h, w = x.shape
    r, k = downscale_factor, len(lead)
    x = x.reshape(*lead, c, h // r, r, w // r, r).transpose(*range(k), k, k + 2, k + 4, k + 1, k + 3)
    return x.reshape(*lead, c * r**2, h // r, w // r)


@composite(
    "pixel_unshuffle",
    inputs=("input",),
    attrs=("downscale_factor",),
    ref=_unshuffle_ref,
    samples=[
        sample((2, 2, 6, 4), downscale_factor=2),
        sample((1, 3, 6), downscale_factor=3),
        sample((2, 3, 4), downscale_factor=1),
    ],
    errors=[
        error((2, 6, 3, 4), downscale_factor=2, raises=ValueError, match="3 x 4 positions, expected multiples of 2"),
        error((4, 3), downscale_factor=2, raises=ValueError, match="input has 2 dimensions"),
    ],
)
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """Resolution becomes channels: what `pixel_shuffle` undoes.

    Shapes:
        input: (..., C, H * r, W * r)  ->  out: (..., C * r * r, H, W)

    >>> tl.pixel_unshuffle(tl.arange(4).reshape(1, 2, 2), 2).tolist()
    [[[0]], [[1]], [[2]], [[3]]]
    """
    r = _check_factor("pixel_unshuffle", input, downscale_factor)
    *lead, c, h, w = input.shape
    if h % r or w % r:
        raise ShapeError(
            f"pixel_unshuffle: input of shape {input.shape} has {h} x {w} positions, expected multiples of {r}."
        )
    k = len(lead)
    x = input.reshape(*lead, c, h // r, r, w // r, r).permute(*range(k), k, k + 2, k + 4, k + 1, k + 3)
    return x.reshape(*lead, c * r**2, h // r, w // r)


# ---- fold and unfold ----
Two = tuple[int, int]


def _patches(size: Two, kernel: Two, dilation: Two, padding: Two, stride: Two) -> Two:
    """How many places the kernel has, down and across."""
    a, b = (
        (n + 2 * p - d * (r - 1) - 1) // s + 1
        for n, r, d, p, s in zip(size, kernel, dilation, padding, stride, strict=True)
    )
    return a, b


def _unfold_ref(xp: Any, x: Any, *, kernel: Two, dilation: Two, padding: Two, stride: Two) -> Any:
    n, c, *size = x.shape
    h, w = _patches((size[0], size[1]), kernel, dilation, padding, stride)
    x = xp.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    out = xp.empty((n, c, *kernel, h, w), x.dtype)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            a, b = i * dilation[0], j * dilation[1]
            out[:, :, i, j] = x[
                :, :, a : a + (h - 1) * stride[0] + 1 : stride[0], b : b + (w - 1) * stride[1] + 1 : stride[1]
            ]
    return out.reshape(n, c * kernel[0] * kernel[1], h * w)


def _fold_ref(xp: Any, x: Any, *, size: Two, kernel: Two, dilation: Two, padding: Two, stride: Two) -> Any:
    h, w = _patches(size, kernel, dilation, padding, stride)
    n, c = x.shape[0], x.shape[1] // (kernel[0] * kernel[1])
    x = x.reshape(n, c, *kernel, h, w)
    out = xp.zeros((n, c, size[0] + 2 * padding[0], size[1] + 2 * padding[1]), x.dtype)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            a, b = i * dilation[0], j * dilation[1]
            out[:, :, a : a + (h - 1) * stride[0] + 1 : stride[0], b : b + (w - 1) * stride[1] + 1 : stride[1]] += x[
                :, :, i, j
            ]
    return out[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]].copy()


def _geometry(kernel: Two, dilation: Two = (1, 1), padding: Two = (0, 0), stride: Two = (1, 1)) -> dict[str, Two]:
    return {"kernel": kernel, "dilation": dilation, "padding": padding, "stride": stride}


_unfold = structured(
    "unfold_patches",
    inputs=("x",),
    attrs=("kernel", "dilation", "padding", "stride"),
    dtype=rules.promoted,
    ref=_unfold_ref,
    vjp=(
        lambda g, x_shape, kernel, dilation, padding, stride: _fold(
            g, size=tuple(x_shape[2:]), kernel=kernel, dilation=dilation, padding=padding, stride=stride
        ),
    ),
    samples=lambda: [
        sample((2, 3, 5, 6), **_geometry((2, 3))),
        sample((1, 2, 5, 4), **_geometry((2, 2), (2, 1), (1, 0), (2, 3))), sample((0, 2, 3, 3), **_geometry((3, 3))),
    ],
    private=True,
)  # fmt: skip

_fold = structured(
    "fold_patches",
    inputs=("x",),
    attrs=("size", "kernel", "dilation", "padding", "stride"),
    dtype=rules.promoted,
    ref=_fold_ref,
    vjp=(lambda g, kernel, dilation, padding, stride: _unfold(g, kernel=kernel, dilation=dilation, padding=padding, stride=stride),),
    samples=lambda: [
        sample((2, 12, 6), size=(3, 4), **_geometry((2, 2))),
        sample((1, 8, 3), size=(5, 4), **_geometry((2, 2), (2, 1), (1, 0), (2, 3))),
    ],
    private=True,
)  # fmt: skip


def _two(name: str, what: str, value: Any, least: int) -> Two:
    listed = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    try:
        a, b = (operator.index(v) for v in (listed * 2 if len(listed) == 1 else listed))
    except (TypeError, ValueError):
        raise TypeError(f"{name}: {what} is {value!r}, expected an integer or two.") from None
    if min(a, b) < least:
        raise ValueError(f"{name}: {what} is {value!r}, expected {least} at least.")
    return a, b


def _patch_geometry(name: str, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> dict[str, Two]:
    given = (("kernel_size", kernel_size, 1), ("dilation", dilation, 1), ("padding", padding, 0), ("stride", stride, 1))
    return _geometry(*(_two(name, what, value, least) for what, value, least in given))


def _squeezed(given: Any, ndim: int, out: Any) -> Any:
    """Without the batch dimension where there was none."""
    return out if given.ndim == ndim else out.reshape(out.shape[1:])


def _unfold_public_ref(
    xp: Any, x: Any, *, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    geometry = _patch_geometry("unfold", kernel_size, dilation, padding, stride)
    return _squeezed(x, 4, _unfold_ref(xp, x if x.ndim == 4 else x[None], **geometry))


def _fold_public_ref(
    xp: Any, x: Any, *, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    size, geometry = (
        _two("fold", "output_size", output_size, 1),
        _patch_geometry("fold", kernel_size, dilation, padding, stride),
    )
    return _squeezed(x, 3, _fold_ref(xp, x if x.ndim == 3 else x[None], size=size, **geometry))


@composite(
    "unfold",
    inputs=("input",),
    attrs=("kernel_size", "dilation", "padding", "stride"),
    ref=_unfold_public_ref,
    samples=[
        sample((2, 3, 5, 6), kernel_size=2), sample((3, 4, 5), kernel_size=(2, 3), padding=1, stride=(2, 1)),
        sample((1, 1, 6, 6), kernel_size=2, dilation=3),
    ],
    errors=[
        error((3, 4), kernel_size=2, raises=ValueError, match="input has 2 dimensions"),
        error((1, 3, 4, 4), kernel_size=5, raises=ValueError, match="kernel_size \\(5, 5\\).*larger than"),
        error((1, 3, 4, 4), kernel_size=0, raises=ValueError, match="kernel_size is 0, expected 1 at least"),
        error((1, 3, 4, 4), kernel_size=(1, 2, 3), raises=TypeError, match="expected an integer or two"),
        error((1, 3, 4, 4), kernel_size=2, padding=-1, raises=ValueError, match="padding is -1, expected 0 at least"),
    ],
)  # fmt: skip
def unfold(
    input: Tensor,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
) -> Tensor:
    """The patches that a sliding kernel covers, one a column (im2col).

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C * kh * kw, L) or (C * kh * kw, L), L places, row by row

    >>> tl.unfold(tl.arange(6.0).reshape(1, 2, 3), 2).tolist()
    [[0.0, 1.0], [1.0, 2.0], [3.0, 4.0], [4.0, 5.0]]
    """
    if input.ndim not in (3, 4):
        raise ShapeError(f"unfold: input has {input.ndim} dimensions, expected (N, C, H, W) or (C, H, W).")
    geometry = _patch_geometry("unfold", kernel_size, dilation, padding, stride)
    size = (input.shape[-2], input.shape[-1])
    if min(_patches(size, **geometry)) < 1:
        raise ShapeError(
            f"unfold: kernel_size {geometry['kernel']} with dilation {geometry['dilation']} is larger than {size} with padding {geometry['padding']}."
        )
    x = input if input.ndim == 4 else input.unsqueeze(0)
    return _squeezed(input, 4, _unfold(x, **geometry))


@composite(
    "fold",
    inputs=("input",),
    attrs=("output_size", "kernel_size", "dilation", "padding", "stride"),
    ref=_fold_public_ref,
    samples=[
        sample((2, 12, 6), output_size=(3, 4), kernel_size=2),
        sample((6, 10), output_size=(4, 5), kernel_size=(2, 3), padding=(0, 1), stride=(1, 1), dilation=(2, 1)),
             sample((8, 9), output_size=6, kernel_size=2, stride=2)],
    errors=[
        error((2, 12, 3, 1), output_size=4, kernel_size=2, raises=ValueError, match="input has 4 dimensions"),
        error((2, 10, 9), output_size=4, kernel_size=2, raises=ValueError, match="10 rows, expected a multiple of 4"),
        error((2, 12, 8), output_size=4, kernel_size=2, raises=ValueError, match="8 columns, expected 9 = 3 x 3"),
    ],
)  # fmt: skip
def fold(
    input: Tensor,
    output_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
) -> Tensor:
    """Patches added up where they lie in the image: the transpose of `unfold` (col2im).

    Shapes:
        input: (N, C * kh * kw, L) or (C * kh * kw, L)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.fold(tl.ones(4, 2), (2, 3), 2).tolist()
    [[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]
    """
    if input.ndim not in (2, 3):
        raise ShapeError(f"fold: input has {input.ndim} dimensions, expected (N, C * kh * kw, L) or (C * kh * kw, L).")
    size, geometry = (
        _two("fold", "output_size", output_size, 1),
        _patch_geometry("fold", kernel_size, dilation, padding, stride),
    )
    rows, columns, kernel = input.shape[-2], input.shape[-1], geometry["kernel"]
    if rows % (kernel[0] * kernel[1]):
        raise ShapeError(
            f"fold: input of shape {input.shape} has {rows} rows, expected a multiple of {kernel[0] * kernel[1]}."
        )
    h, w = _patches(size, **geometry)
    if min(h, w) < 1 or columns != h * w:
        raise ShapeError(
            f"fold: input of shape {input.shape} has {columns} columns, expected {h * w} = {h} x {w} places in an output of {size}."
        )
    x = input if input.ndim == 3 else input.unsqueeze(0)
    return _squeezed(input, 3, _fold(x, size=size, **geometry))
