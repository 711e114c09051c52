"""Functions over images and sequences that are made of others: pools with indices, fractional pools, normalisation across channels.

`tl.nn.functional` offers them under PyTorch's names. Dimension letters: N batch, C channels, L the image's lengths, K those of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorlib as tl
from tensorlib import Tensor

__all__ = [
    "adaptive_max_pool1d_with_indices", "adaptive_max_pool2d_with_indices", "adaptive_max_pool3d_with_indices", "channel_shuffle", "conv_tbc",
    "fractional_max_pool2d", "fractional_max_pool2d_with_indices", "fractional_max_pool3d", "fractional_max_pool3d_with_indices",
    "local_response_norm", "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", "upsample", "upsample_bilinear",
    "upsample_nearest",
]  # fmt: skip

Sizes = int | Sequence[int]
Ratios = float | Sequence[float]
Pair = tuple[Tensor, Tensor]

# ---- the largest and where it was ----


def max_pool1d_with_indices(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Pair:  # fmt: skip
    """`max_pool1d` with ``return_indices=True``."""
    return tl.max_pool1d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool2d_with_indices(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Pair:  # fmt: skip
    """`max_pool2d` with ``return_indices=True``."""
    return tl.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool3d_with_indices(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Pair:  # fmt: skip
    """`max_pool3d` with ``return_indices=True``."""
    return tl.max_pool3d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def adaptive_max_pool1d_with_indices(input: Tensor, output_size: Any, return_indices: bool = False) -> Pair:
    """`adaptive_max_pool1d` with ``return_indices=True``."""
    return tl.adaptive_max_pool1d(input, output_size, True)


def adaptive_max_pool2d_with_indices(input: Tensor, output_size: Any, return_indices: bool = False) -> Pair:
    """`adaptive_max_pool2d` with ``return_indices=True``."""
    return tl.adaptive_max_pool2d(input, output_size, True)


def adaptive_max_pool3d_with_indices(input: Tensor, output_size: Any, return_indices: bool = False) -> Pair:
    """`adaptive_max_pool3d` with ``return_indices=True``."""
    return tl.adaptive_max_pool3d(input, output_size, True)


# ---- windows at random places ----


def _first(name: str, size: int, kernel: int, out: int, sample: Tensor) -> Tensor:
    """(N, C, out): where the windows begin. They lie at even distances, moved by `sample` in [0, 1) before rounding; the last is at the end."""
    if kernel < 1 or out < 0 or out + kernel - 1 > size:
        raise tl.ShapeError(f"{name}: {out} windows of {kernel} do not fit into a length of {size}.")
    step = tl.tensor((size - kernel) / max(out - 1, 1), dtype=sample.dtype, device=sample.device)
    shift = sample.unsqueeze(-1)
    regular = (tl.arange(max(out - 1, 0), device=sample.device) + shift) * step
    first = regular.to(tl.int64) - (shift * step).to(tl.int64)
    last = tl.full((*sample.shape, min(out, 1)), size - kernel, dtype=tl.int64, device=sample.device)
    return tl.cat([first, last], -1)


def _fractional(
    nd: int, input: Tensor, kernel_size: Sizes, output_size: Sizes | None, output_ratio: Ratios | None, samples: Tensor | None
) -> Pair:  # fmt: skip
    name = f"fractional_max_pool{nd}d"
    if input.ndim not in (nd + 1, nd + 2):
        raise tl.ShapeError(f"{name}: expected (N, C, L...) or (C, L...) with {nd} lengths, got shape {input.shape}.")
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name}: expected output_size or output_ratio, got neither.")
    lengths, leading = input.shape[-nd:], input.shape[:-nd]
    kernel = (kernel_size,) * nd if isinstance(kernel_size, int) else tuple(kernel_size)
    if output_size is not None:
        out = (output_size,) * nd if isinstance(output_size, int) else tuple(output_size)
    else:
        ratios = output_ratio if isinstance(output_ratio, Sequence) else (output_ratio,) * nd
        out = tuple(int(n * r) for n, r in zip(lengths, ratios, strict=True))  # type: ignore[operator]
    batch = input.shape[0] if input.ndim == nd + 2 else 1
    x = input.reshape(batch, input.shape[-nd - 1], math.prod(lengths))
    if samples is None:
        samples = tl.rand((*x.shape[:2], nd), dtype=input.dtype, device=input.device)
    place: Any = 0  # (N, C, *out, *kernel): of every element of every window
    for d in range(nd):
        sample = (
            samples[..., nd - 1 - d] if nd == 2 else samples[..., d]
        )  # PyTorch's order: width first, but of volumes depth first
        first = _first(name, lengths[d], kernel[d], out[d], sample)
        window = first.unsqueeze(-1) + tl.arange(kernel[d], device=input.device)
        shape = [*x.shape[:2], *(1,) * (2 * nd)]
        shape[2 + d], shape[2 + nd + d] = out[d], kernel[d]
        place = place * lengths[d] + window.reshape(shape)
    windows, inside = math.prod(out), math.prod(kernel)
    place = place.reshape(*x.shape[:2], windows, inside)
    values, best = x.gather(2, place.reshape(*x.shape[:2], windows * inside)).reshape(place.shape).max(-1, keepdim=True)
    return values.reshape(*leading, *out), place.gather(-1, best).reshape(*leading, *out)


def fractional_max_pool2d_with_indices(
    input: Tensor, kernel_size: Sizes, output_size: Sizes | None = None, output_ratio: Ratios | None = None,
    return_indices: bool = False, _random_samples: Tensor | None = None,
) -> Pair:  # fmt: skip
    """`fractional_max_pool2d` with ``return_indices=True``."""
    return _fractional(2, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool3d_with_indices(
    input: Tensor, kernel_size: Sizes, output_size: Sizes | None = None, output_ratio: Ratios | None = None,
    return_indices: bool = False, _random_samples: Tensor | None = None,
) -> Pair:  # fmt: skip
    """`fractional_max_pool3d` with ``return_indices=True``."""
    return _fractional(3, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool2d(
    input: Tensor, kernel_size: Sizes, output_size: Sizes | None = None, output_ratio: Ratios | None = None,
    return_indices: bool = False, _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """The largest element of windows whose places are drawn at random for each channel, so that sizes may shrink by any ratio.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, *output_size), or each length times `output_ratio`, rounded down
        with `return_indices` besides: where in the image each was, as max_pool2d counts

    Reference: Graham 2014.

    >>> tl.nn.functional.fractional_max_pool2d(tl.zeros(1, 3, 9, 9), 2, output_ratio=0.7).shape
    (1, 3, 6, 6)
    """
    out = _fractional(2, input, kernel_size, output_size, output_ratio, _random_samples)
    return out if return_indices else out[0]


def fractional_max_pool3d(
    input: Tensor, kernel_size: Sizes, output_size: Sizes | None = None, output_ratio: Ratios | None = None,
    return_indices: bool = False, _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """As `fractional_max_pool2d`, of volumes.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, *output_size), or each length times `output_ratio`, rounded down

    >>> tl.nn.functional.fractional_max_pool3d(tl.zeros(1, 3, 6, 6, 6), 2, output_size=4).shape
    (1, 3, 4, 4, 4)
    """
    out = _fractional(3, input, kernel_size, output_size, output_ratio, _random_samples)
    return out if return_indices else out[0]


# ---- channels ----


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """`input` divided by ``(k + alpha * mean of squares over `size` channels around) ** beta``; channels beyond the ends count as 0.

    Shapes:
        input: (N, C, ...)  ->  out: as input

    Reference: Krizhevsky et al. 2012.

    >>> tl.nn.functional.local_response_norm(tl.ones(1, 3, 2), 1, alpha=3.0, beta=0.5).tolist()[0][0]
    [0.5, 0.5]
    """
    if input.ndim < 3:
        raise tl.ShapeError(f"local_response_norm: expected (N, C, L, ...), got shape {input.shape}.")
    if size < 1:
        raise ValueError(f"local_response_norm: size must be positive, got {size}.")
    if input.numel() == 0:
        return input
    squares = input.square().reshape(input.shape[0], 1, input.shape[1], -1)
    around = tl.avg_pool2d(tl.pad(squares, (0, 0, size // 2, (size - 1) // 2)), (size, 1), 1)
    return input / (around.reshape(input.shape) * alpha + k) ** beta


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels of different groups take turns: the result's channels are the first of each group, then the second, and so on.

    Shapes:
        input: (N, C, ...), C a multiple of groups  ->  out: as input

    Reference: Zhang et al. 2018.

    >>> tl.nn.functional.channel_shuffle(tl.arange(4).reshape(1, 4, 1), 2).flatten().tolist()
    [0, 2, 1, 3]
    """
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise tl.ShapeError(
            f"channel_shuffle: {groups} groups do not divide the channels, dimension 1, of shape {input.shape}."
        )
    n, c, *lengths = input.shape
    return input.reshape(n, groups, c // groups, *lengths).transpose(1, 2).reshape(input.shape)


# ---- under older names ----


def conv_tbc(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """A convolution over time, with time first and channels last.

    Shapes:
        input: (T, B, C_in), weight: (K, C_in, C_out), bias: (C_out,)  ->  out: (T + 2 pad - K + 1, B, C_out)

    >>> tl.nn.functional.conv_tbc(tl.ones(4, 1, 2), tl.ones(3, 2, 1), tl.zeros(1)).flatten().tolist()
    [6.0, 6.0]
    """
    for name, t, shape in (("input", input, "(T, B, C_in)"), ("weight", weight, "(K, C_in, C_out)")):
        if t.ndim != 3:
            raise tl.ShapeError(f"conv_tbc: {name} must have shape {shape}, got {t.shape}.")
    return tl.conv1d(input.permute(1, 2, 0), weight.permute(2, 1, 0), bias, padding=pad).permute(2, 0, 1)


def upsample(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Tensor:
    """`interpolate`, under its older name."""
    return tl.interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` with the nearest element, under its older name."""
    return tl.interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate`, bilinear with corners aligned, under its older name."""
    return tl.interpolate(input, size, scale_factor, "bilinear", True)
