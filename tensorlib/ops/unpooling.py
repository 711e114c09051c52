"""What is made of pooling and other operations: power averages, and unpooling, which puts maxima back where they were.

Dimension letters: N images, C channels, D, H, W or L the image's lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tensorlib import ops
from tensorlib.errors import IndexRangeError, ShapeError
from tensorlib.ops import pooling, rules
from tensorlib.ops.declare import Function, composite
from tensorlib.ops.pool import Sizes, avg_ref, avg_taps, check_image, each, side_by_side
from tensorlib.ops.table import BATCH, Draw, error, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["lp_pool1d", "lp_pool2d", "lp_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d"]
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()


# ---- power averages ----


def _lp(name: str, n: int, input: Tensor, power: float, kernel_size: Sizes, stride: Any, ceil_mode: bool) -> Tensor:
    if power == 0:
        raise ShapeError(f"{name}: norm_type is 0.")
    if math.isinf(power):
        largest = pooling.largest(
            name, n, input.abs() if power > 0 else -input.abs(), kernel_size, stride, 0, 1, ceil_mode, False
        )
        return largest if power > 0 else -largest
    mean = pooling.average(name, n, input.pow(power), kernel_size, stride, 0, ceil_mode, True, None)
    total = mean * math.prod(each(name, "kernel_size", kernel_size, n))
    empty = total == 0  # where the root has no slope
    return ops.elementwise.where(empty, 0.0, ops.elementwise.where(empty, 1.0, total).pow(1 / power))


def _lp_ref(xp: Any, x: Any, power: float, kernel: int, n: int) -> Any:
    mean = avg_ref(
        xp, x**power, avg_taps(x.shape[-n:], **side_by_side(kernel, n), ceil_mode=False, count_include_pad=True)
    )
    return (mean * kernel**n) ** (1 / power)


def _lp_pools(n: int) -> Callable[[Function], Function]:
    images = [Draw((batch, 3, *(size,) * n), 0.5, 2.0) for batch, size in ((2, 5), (BATCH, 10))]
    return composite(
        f"lp_pool{n}d",
        inputs=("input",),
        dtype=rules.floating,
        ref=lambda xp, input, *, norm_type, kernel_size: _lp_ref(xp, input, norm_type, kernel_size, n),
        samples=[sample(images[0], norm_type=p, kernel_size=2) for p in (1, 2, 3.5)],
        rowwise=[sample(images[1], norm_type=3, kernel_size=2)],
        errors=[error((1, *(4,) * n), norm_type=0, kernel_size=2, raises=ValueError, match="norm_type is 0")],
    )


@_lp_pools(1)
def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
) -> Any:
    """The power average of each window: as `lp_pool2d`, over one dimension.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, L') or (C, L')

    >>> tl.lp_pool1d(tl.ones(1, 2), 1, 2).tolist()
    [[2.0]]
    """
    return _lp("lp_pool1d", 1, input, norm_type, kernel_size, stride, ceil_mode)


@_lp_pools(2)
def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
) -> Any:
    """The power average ``sum(x ** norm_type) ** (1 / norm_type)`` of each window; its gradient is zero where the sum is.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, H', W') or (C, H', W')

    >>> tl.lp_pool2d(tl.ones(1, 2, 2), 1, 2).tolist()
    [[[4.0]]]
    """
    return _lp("lp_pool2d", 2, input, norm_type, kernel_size, stride, ceil_mode)


@_lp_pools(3)
def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
) -> Any:
    """The power average of each window: as `lp_pool2d`, over three dimensions.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, D', H', W') or (C, D', H', W')

    >>> tl.lp_pool3d(tl.ones(1, 2, 2, 2), 1, 2).tolist()
    [[[[8.0]]]]
    """
    return _lp("lp_pool3d", 3, input, norm_type, kernel_size, stride, ceil_mode)


# ---- unpooling ----


def _unpool(
    name: str, n: int, input: Tensor, indices: Tensor, kernel_size: Sizes, stride: Any, padding: Sizes, output_size: Sequence[int] | None
) -> Tensor:  # fmt: skip
    check_image(name, input, n)
    if indices.shape != input.shape:
        raise ShapeError(f"{name}: indices have shape {indices.shape}, expected that of input, {input.shape}.")
    kernel = each(name, "kernel_size", kernel_size, n)
    strides = kernel if stride is None else each(name, "stride", stride, n)
    pads = each(name, "padding", padding, n)
    covered = tuple((m - 1) * s + k - 2 * p for m, s, k, p in zip(input.shape[-n:], strides, kernel, pads, strict=True))
    size = covered if output_size is None else tuple(output_size)[-n:]
    if len(size) != n or any(abs(a - b) >= s for a, b, s in zip(size, covered, strides, strict=True)) or min(size) < 1:
        raise ShapeError(
            f"{name}: output_size is {size}, expected {covered}, each number by less than the stride {strides} off."
        )
    planes = math.prod(input.shape[:-n])
    flat = (planes, math.prod(input.shape[-n:]))
    empty = ops.creation.zeros((planes, math.prod(size)), dtype=input.dtype, device=input.device)
    try:
        out = ops.gather.scatter(empty, 1, indices.reshape(flat), input.reshape(flat))
    except IndexRangeError as found:
        raise IndexRangeError(f"{name}: an index lies outside an image of size {size} ({found}).") from None
    return out.reshape((*input.shape[:-n], *size))


def _unpool_ref(xp: Any, x: Any, indices: Any, kernel: int, n: int) -> Any:
    size = tuple(m * kernel for m in x.shape[-n:])
    planes = math.prod(x.shape[:-n])
    flat = (planes, math.prod(x.shape[-n:]))
    out = xp.zeros((planes, math.prod(size)), dtype=x.dtype)
    out[xp.arange(planes)[:, None], indices.reshape(flat)] = x.reshape(flat)
    return out.reshape((*x.shape[:-n], *size))


def _unpool_samples(n: int) -> list[Any]:
    values = [3, 0, 7, 4] if n == 1 else [0, 3, 5, 9, 14, 2, 10, 15]
    shapes = [(1, *(2,) * n), (2, 1, *(2,) * n)]
    return [sample(s, Draw(s, dtype="int64", values=(values * 4)[: math.prod(s[-n:])]), kernel_size=2) for s in shapes]


def _unpool_errors(n: int) -> list[Any]:
    image = (1, *(2,) * n)
    fit, far = (Draw(image, dtype="int64", values=[v]) for v in (0, 999))
    return [
        error(image, far, kernel_size=2, raises=IndexError, match="index 999"),
        error(image, fit, kernel_size=2, output_size=(9,) * n, raises=ValueError, match="output_size is .9"),
        error(
            image, Draw((1,), dtype="int64", values=[0]), kernel_size=2, raises=ValueError, match="indices have shape"
        ),
        error((2,), Draw((2,), dtype="int64", values=[0]), kernel_size=2, raises=ValueError, match="input has shape"),
    ]


def _max_unpools(n: int) -> Callable[[Function], Function]:
    return composite(
        f"max_unpool{n}d",
        inputs=("input", "indices"),
        ref=lambda xp, input, indices, *, kernel_size: _unpool_ref(xp, input, indices, kernel_size, n),
        samples=lambda: _unpool_samples(n),
        errors=lambda: _unpool_errors(n),
    )


@_max_unpools(1)
def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """What `max_pool1d` with `return_indices` took out, put back where it was: as `max_unpool2d`, over one dimension.

    Shapes:
        input, indices: (N, C, L) or (C, L)  ->  out: (N, C, L') or (C, L')

    >>> tl.max_unpool1d(*tl.max_pool1d(tl.tensor([[1.0, 4.0, 2.0, 0.0]]), 2, return_indices=True), 2).tolist()
    [[0.0, 4.0, 2.0, 0.0]]
    """
    return _unpool("max_unpool1d", 1, input, indices, kernel_size, stride, padding, output_size)


@_max_unpools(2)
def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """What `max_pool2d` with `return_indices` took out, put back where it was, with zeros between.

    Shapes:
        input, indices: (N, C, H, W) or (C, H, W)  ->  out: (N, C, H', W') or (C, H', W'), of the size that the windows cover, or of
        `output_size`, which differs from it by less than a stride

    Raises:
        IndexError: if an index lies outside the result's image.

    >>> tl.max_unpool2d(*tl.max_pool2d(tl.tensor([[[1.0, 4.0], [2.0, 0.0]]]), 2, return_indices=True), 2).tolist()
    [[[0.0, 4.0], [0.0, 0.0]]]
    """
    return _unpool("max_unpool2d", 2, input, indices, kernel_size, stride, padding, output_size)


@_max_unpools(3)
def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """What `max_pool3d` with `return_indices` took out, put back where it was: as `max_unpool2d`, over three dimensions.

    Shapes:
        input, indices: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, D', H', W') or (C, D', H', W')

    >>> tl.max_unpool3d(*tl.max_pool3d(tl.tensor([[[[1.0, 4.0], [2.0, 0.0]]]]), (1, 2, 2), return_indices=True), (1, 2, 2)).tolist()
    [[[[0.0, 4.0], [0.0, 0.0]]]]
    """
    return _unpool("max_unpool3d", 3, input, indices, kernel_size, stride, padding, output_size)
