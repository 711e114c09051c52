"""Convolutions: by cuDNN where that serves (cudnn.py); else the image unrolled into a matrix of columns (im2col), and cuBLAS; groups of few
channels straight from the image.

Workspace is bounded: as many images at once as fit. Where an image has few places, all of a chunk's images share one product. Sums are in an order
that shapes fix: gradients of images are gathered, those of weights are products, and nothing is added atomically.

Dimension letters: N images, C channels, F filters, G groups, P places of the result, K rows of the columns (channels of a group times taps).
"""

from __future__ import annotations

import math
from typing import Any

from tensorlib.backends.tf32 import convolutions as SWITCH
from tensorlib.ops.convolution import Ints, Pairs, out_sizes
from tensorlib.tensor import Tensor

from . import lane
from .cudnn import convolve
from .launch import Source, empty
from .matmul import LIMIT, SERVED, fill_zero, product, spread

SOURCE = Source("convolution.cu")
WORKSPACE = 1 << 28  # bytes of columns at once
JOINT = 128  # images with fewer places than this share a product
FEW = 16  # weights of a tap in a group: up to here, straight from the image


class Geometry:
    """What the kernels read, and the sizes that follow."""

    def __init__(
        self, image: Ints, kernel: Ints, out: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
    ) -> None:
        lead = 3 - len(image)
        front = tuple(p for p, _ in padding)
        wide = [(1,) * lead + v for v in (image, out, kernel, stride)] + [(0,) * lead + front, (1,) * lead + dilation]
        self.numbers = [n for v in wide for n in v]
        self.groups, self.taps, self.places, self.size = groups, math.prod(kernel), math.prod(out), math.prod(image)
        self.plain = self.taps == 1 and image == out and not any(front) and all(s == 1 for s in stride)

    def launch(self, kernel: str, out: Tensor, *given: Any, over: int, rows: int, images: int) -> None:
        """A kernel over `over` places, `rows` and `images`."""
        if not over * rows * images:
            return
        block = min(256, -(-over // 32) * 32)
        grid = min(-(-over // block), LIMIT - 1), min(rows, 65535), min(images, 65535)
        SOURCE(kernel, T=out.dtype)(grid, block, out, *given, *self.numbers)

    def chunk(self, images: int, rows: int, item: int) -> int:
        return min(images, max(1, WORKSPACE // max(1, rows * self.places * item)))


def _swapped(x: Tensor, first: int, second: int, inner: int, out: Tensor, bias: Tensor | None = None) -> None:
    if n := x.numel():
        SOURCE("swapped", T=x.dtype)(min(-(-n // 256), 65535), 256, out, x, bias, first, second, inner)


def _served(*given: Tensor | None) -> bool:
    first, *rest = (x for x in given if x is not None)
    return first.dtype in SERVED and 3 <= first.ndim <= 5 and all(x.dtype is first.dtype for x in rest)


def _small(x: Tensor, images: int) -> bool:
    """Whether 31 bits count an image's elements."""
    return x.numel() // max(images, 1) < LIMIT


@lane("convolution")
def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Tensor | None:
    if not _served(x, weight, bias):
        return None
    n, channels, *image = x.shape
    filters, own, *kernel = weight.shape
    size = out_sizes(image, kernel, stride, padding, dilation)
    at = Geometry(tuple(image), tuple(kernel), size, stride, padding, dilation, groups)
    out = empty((n, filters, *size), x.dtype, x.device)
    if not (_small(x, n) and _small(out, n)):
        return None
    if not out.numel():
        return out
    x, weight = x.contiguous(), weight.contiguous()
    if x.numel() and weight.numel() and convolve("conv_fprop", x, weight, out, stride, padding, dilation):
        return out if bias is None else out + bias.reshape((1, filters, *(1,) * len(size)))
    if groups > 1 and own * filters // groups <= FEW:
        at.launch("direct", out, x, weight, bias, n, channels, filters, groups, over=at.places, rows=filters, images=n)
    elif n > 1 and at.places < JOINT and not at.plain:
        _joint(at, x, weight.reshape((groups, filters // groups, own * at.taps)), bias, out)
    else:
        _apart(at, x, weight.reshape((groups, filters // groups, own * at.taps)), bias, out)
    return out


def _apart(at: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """A product for each image, which lands where it belongs."""
    n, channels = x.shape[:2]
    rows = weight.shape[2]
    beta = spread(out, bias, out.shape[1], at.places)
    step = n if at.plain else at.chunk(n, channels * at.taps, x.dtype.itemsize)
    for i in range(0, n, step):
        count = min(step, n - i)
        shape = (count, at.groups, rows, at.places)
        columns = x.reshape(shape) if at.plain else _columns(at, x[i : i + count], shape, joint=False)
        product(weight, columns, out[i : i + count], (count, at.groups), beta=beta, switch=SWITCH)


def _columns(at: Geometry, x: Tensor, shape: Ints, *, joint: bool) -> Tensor:
    """The column matrix of images: (N, G, K, P), or `joint` (G, K, N P)."""
    n, channels = x.shape[:2]
    rows = channels * at.taps
    made = empty(shape, x.dtype, x.device)
    if joint and at.plain:
        _swapped(x, n, channels, at.places, made)
        return made
    steps = (at.places, n * at.places) if joint else (rows * at.places, at.places)
    at.launch("columns", made, x, n, channels, *steps, over=at.places, rows=rows, images=n)
    return made


def _joint(at: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """One product for a chunk of images: their places are side by side."""
    n, channels = x.shape[:2]
    filters, rows = out.shape[1], weight.shape[2]
    step = at.chunk(n, channels * at.taps, x.dtype.itemsize)
    for i in range(0, n, step):
        count = min(step, n - i)
        columns = _columns(at, x[i : i + count], (at.groups, rows, count * at.places), joint=True)
        made = empty((*weight.shape[:2], count * at.places), x.dtype, x.device)
        product(weight, columns, made, (at.groups,), switch=SWITCH)
        _swapped(made, filters, count, at.places, out[i : i + count], bias)


@lane("conv_grad_input")
def _grad_input(
    y: Tensor, weight: Tensor, *, size: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Tensor | None:
    if not _served(y, weight):
        return None
    n, filters, *places = y.shape
    _, own, *kernel = weight.shape
    channels = own * groups
    at = Geometry(tuple(size), tuple(kernel), tuple(places), stride, padding, dilation, groups)
    out = empty((n, channels, *size), y.dtype, y.device)
    if not (_small(y, n) and _small(out, n)):
        return None
    if not out.numel():
        return out
    if not y.numel() or not weight.numel():
        fill_zero(out)
        return out
    y, weight = y.contiguous(), weight.contiguous()
    if convolve("conv_dgrad", y, weight, out, stride, padding, dilation):
        return out
    if groups > 1 and own * filters // groups <= FEW:
        at.launch(
            "direct_grad_input", out, y, weight, n, channels, filters, groups, over=at.size, rows=channels, images=n
        )
        return out
    _gathered(at, y, weight.reshape((groups, filters // groups, own * at.taps)).mT, out)
    return out


def _gathered(at: Geometry, y: Tensor, weight: Tensor, out: Tensor) -> None:
    """Columns from filters and gradients, (G, K, F / G) and (N, F, P), and from them images."""
    n, filters, channels = y.shape[0], y.shape[1], out.shape[1]
    rows = channels * at.taps
    joint = n > 1 and at.places < JOINT and not at.plain
    step = n if at.plain else at.chunk(n, rows, y.dtype.itemsize)
    for i in range(0, n, step):
        count = min(step, n - i)
        part, into = y[i : i + count], out[i : i + count]
        columns = into if at.plain else empty((count * rows * at.places,), y.dtype, y.device)
        if joint:
            wide = empty((at.groups, filters // at.groups, count * at.places), y.dtype, y.device)
            _swapped(part, count, filters, at.places, wide)
            product(weight, wide, columns, (at.groups,), switch=SWITCH)
        else:
            apart = part.reshape((count, at.groups, filters // at.groups, at.places))
            product(weight, apart, columns, (count, at.groups), switch=SWITCH)
        if not at.plain:
            steps = (at.places, count * at.places) if joint else (rows * at.places, at.places)
            at.launch("images", into, columns, count, channels, *steps, over=at.size, rows=channels, images=count)


@lane("conv_grad_weight")
def _grad_weight(
    y: Tensor, x: Tensor, *, size: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Tensor | None:
    if not _served(y, x):
        return None
    n, filters, *places = y.shape
    channels = x.shape[1]
    own = channels // groups
    at = Geometry(tuple(x.shape[2:]), tuple(size), tuple(places), stride, padding, dilation, groups)
    out = empty((filters, own, *size), y.dtype, y.device)
    if not (_small(y, n) and _small(x, n)):
        return None
    if not out.numel():
        return out
    if not y.numel() or not x.numel():
        fill_zero(out)
        return out
    y, x = y.contiguous(), x.contiguous()
    if convolve("conv_wgrad", x, y, out, stride, padding, dilation):
        return out
    if groups > 1 and own * filters // groups <= FEW:
        SOURCE("direct_grad_weight", T=y.dtype)(out.numel(), 256, out, y, x, n, channels, filters, groups, *at.numbers)
        return out
    step = at.chunk(n, channels * at.taps, y.dtype.itemsize)
    for i in range(0, n, step):
        count = min(step, n - i)
        columns = _columns(at, x[i : i + count], (groups, own * at.taps, count * at.places), joint=True)
        wide = empty((groups, filters // groups, count * at.places), y.dtype, y.device)
        _swapped(y[i : i + count], count, filters, at.places, wide)
        product(wide, columns.mT, out, (groups,), beta=float(i > 0), switch=SWITCH)
    return out
