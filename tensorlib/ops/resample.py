"""Images and sequences at another resolution: interpolate."""

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

__all__ = ["interpolate"]


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
    if not all(map(math.isfinite, factors)):
        raise ValueError(f"interpolate: scale_factor is {scale_factor}, expected finite numbers.")
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
        error((2, 3, 4), size=2**62, mode="area", raises=MemoryError, match="interpolate"),
        error((2, 3, 4), scale_factor=math.inf, raises=ValueError, match="scale_factor is inf, expected finite numbers"),
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
    ops.creation.check_room("interpolate", (*input.shape[:2], *(out for out, _ in targets)), input.dtype)
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
