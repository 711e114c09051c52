"""Pooling: a thread for each window, and in gradients for each element, which gathers from the windows that see it.

What the reference refuses (sizes that do not fit) is left to it, as it words the errors.
"""

from __future__ import annotations

import math
from typing import Any

from tensorlib import dtypes
from tensorlib.ops.pool import LISTED, max_taps
from tensorlib.tensor import Tensor

from . import gradient_lane, lane
from .launch import Source, empty
from .matmul import LIMIT, SERVED

SOURCE = Source("pooling.cu")
Ints = tuple[int, ...]


def _spaced(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows there are; 0 where sizes do not fit. As ops.pool.spaced counts them."""
    reach = (kernel - 1) * dilation + 1
    room = n + 2 * padding - reach
    if min(n, kernel, stride, dilation) < 1 or not 0 <= padding <= reach // 2 or room < 0:
        return 0
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    count -= (count - 1) * stride >= n + padding
    return count if count * kernel <= LISTED else 0


class _Pool:
    """One entry's windows over an image, and the launches."""

    def __init__(self, lengths: Ints, windows: Ints, taps: Ints, spacing: tuple[Ints, Ints, Ints] | None) -> None:
        n = len(lengths)
        self.lengths, self.windows, self.taps, self.adaptive = lengths, windows, math.prod(taps), spacing is None
        stride, padding, dilation = spacing or ((1,) * n, (0,) * n, (1,) * n)
        fill = zip((lengths, windows, taps, stride, padding, dilation), (1, 1, 1, 1, 0, 1), strict=True)
        self.numbers = [v for given, one in fill for v in (one,) * (3 - n) + tuple(given)]

    @property
    def served(self) -> bool:
        sizes = self.lengths, self.windows
        return all(0 < math.prod(s) < LIMIT // 2 for s in sizes) and self.taps * math.prod(self.windows) <= LISTED

    def launch(self, kernel: str, out: Tensor, over: Ints, *given: Any, code: dtypes.DType | None = None) -> None:
        n, planes = math.prod(over), out.numel() // math.prod(over)
        if planes:
            maximum = {"MAXIMUM": 0} if code is None else {"MAXIMUM": 1, "C": code}
            source = SOURCE(kernel, T=out.dtype, ADAPTIVE=int(self.adaptive), **maximum)
            block = min(256, -(-n // 32) * 32)
            source((-(-n // block), min(planes, 65535)), block, out, *given, *self.numbers)

    def largest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*x.shape[: -len(self.lengths)], *self.windows)
        out, code = empty(shape, x.dtype, x.device), empty(shape, self.code, x.device)
        self.launch("pool", out, self.windows, code, x.contiguous(), self.planes(x), code=self.code)
        return out, code

    @property
    def code(self) -> dtypes.DType:
        return dtypes.uint8 if self.taps <= 256 else dtypes.int32

    def largest_back(self, g: Tensor, code: Tensor, shape: Ints) -> Tensor:
        out = empty(shape, g.dtype, g.device)
        self.launch("pool_back", out, self.lengths, g.contiguous(), code.contiguous(), self.planes(out), code=self.code)
        return out

    def average(self, x: Tensor, padding: bool = False, divisor: int = 0) -> Tensor:
        out = empty((*x.shape[: -len(self.lengths)], *self.windows), x.dtype, x.device)
        self.launch("pool", out, self.windows, x.contiguous(), self.planes(x), int(padding), divisor)
        return out

    def average_back(self, g: Tensor, shape: Ints, padding: bool = False, divisor: int = 0) -> Tensor:
        out = empty(shape, g.dtype, g.device)
        self.launch("pool_back", out, self.lengths, g.contiguous(), self.planes(out), int(padding), divisor)
        return out

    def planes(self, x: Tensor) -> int:
        return math.prod(x.shape[: -len(self.lengths)])


def _windows(
    lengths: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints | None, ceil_mode: bool
) -> _Pool | None:
    dilation = dilation or (1,) * len(kernel)
    if any(d > 1 for d in dilation):  # which may leave a window without an element: refused there
        max_taps(lengths, kernel, stride, padding, dilation, ceil_mode)
    each = zip(lengths, kernel, stride, padding, dilation, strict=True)
    pool = _Pool(
        lengths, tuple(_spaced(*sizes, ceil_mode) for sizes in each), tuple(kernel), (stride, padding, dilation)
    )
    return pool if pool.served else None


def _adaptive(lengths: Ints, output_size: Ints) -> _Pool | None:
    if min(*lengths, *output_size) < 1:
        return None
    taps = tuple(n // size + (2 if n % size else 0) for n, size in zip(lengths, output_size, strict=True))
    pool = _Pool(lengths, tuple(output_size), taps, None)
    return pool if pool.served else None


# ---- lanes ----
@lane("max_pool")
def _(x: Tensor, *, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool) -> Any:
    pool = _windows(x.shape[-len(kernel) :], kernel, stride, padding, dilation, ceil_mode)
    return pool.largest(x) if pool is not None and x.dtype in SERVED else None


@gradient_lane("max_pool")
def _(
    wanted: tuple[bool], g_out: Tensor, where: Tensor, x_shape: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> Any:  # fmt: skip
    pool = _windows(x_shape[-len(kernel) :], kernel, stride, padding, dilation, ceil_mode)
    return None if pool is None else (pool.largest_back(g_out, where, x_shape),)


@lane("avg_pool")
def _(
    x: Tensor, *, kernel: Ints, stride: Ints, padding: Ints, ceil_mode: bool, count_include_pad: bool, divisor: int
) -> Any:
    pool = _windows(x.shape[-len(kernel) :], kernel, stride, padding, None, ceil_mode)
    return pool.average(x, count_include_pad, divisor) if pool is not None and x.dtype in SERVED else None


@gradient_lane("avg_pool")
def _(
    wanted: tuple[bool], g: Tensor, x_shape: Ints, kernel: Ints, stride: Ints, padding: Ints, ceil_mode: bool, count_include_pad: bool, divisor: int
) -> Any:  # fmt: skip
    pool = _windows(x_shape[-len(kernel) :], kernel, stride, padding, None, ceil_mode)
    return None if pool is None else (pool.average_back(g, x_shape, count_include_pad, divisor),)


@lane("adaptive_max_pool")
def _(x: Tensor, *, output_size: Ints) -> Any:
    pool = _adaptive(x.shape[-len(output_size) :], output_size)
    return pool.largest(x) if pool is not None and x.dtype in SERVED else None


@gradient_lane("adaptive_max_pool")
def _(wanted: tuple[bool], g_out: Tensor, where: Tensor, x_shape: Ints, output_size: Ints) -> Any:
    pool = _adaptive(x_shape[-len(output_size) :], output_size)
    return None if pool is None else (pool.largest_back(g_out, where, x_shape),)


@lane("adaptive_avg_pool")
def _(x: Tensor, *, output_size: Ints) -> Any:
    pool = _adaptive(x.shape[-len(output_size) :], output_size)
    return pool.average(x) if pool is not None and x.dtype in SERVED else None


@gradient_lane("adaptive_avg_pool")
def _(wanted: tuple[bool], g: Tensor, x_shape: Ints, output_size: Ints) -> Any:
    pool = _adaptive(x_shape[-len(output_size) :], output_size)
    return None if pool is None else (pool.average_back(g, x_shape),)
