"""Channels and patches as places of an image, and back: pixel_shuffle and pixel_unshuffle, fold and unfold."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from tensorlib.errors import ShapeError
from tensorlib.ops import rules
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.table import error, sample
from tensorlib.tensor import Tensor

__all__ = ["fold", "pixel_shuffle", "pixel_unshuffle", "unfold"]


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
