"""softmax and log_softmax on a GPU, and how work on rows is laid out over blocks and threads: rows.cuh says what kernels make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from tensorlib.dtypes import DType, bfloat16, float16, float32, float64
from tensorlib.gpu import gradient_lane, lane
from tensorlib.gpu.launch import Source, empty
from tensorlib.tensor import Tensor

__all__ = ["BLOCK", "COMPUTED", "WARP", "Columns", "Rows", "aligned", "blocks", "columns", "rows"]

SOURCE = Source("rows.cu")
COMPUTED = {float16: float32, bfloat16: float32, float32: float32, float64: float64}  # what kernels compute in
WARP, BLOCK, MOST_THREADS = 32, 256, 512
FEW = 256  # rows that are longer than a block's registers and fewer than this are cut over several blocks


def _power(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True, slots=True)
class Rows:
    """How rows of one length are read: the numbers of rows.cuh. They follow from length and dtype, and so does the order of sums."""

    width: int
    packs: int
    lanes: int  # threads of a row
    together: int  # rows of a block
    chunks: int

    @property
    def block(self) -> tuple[int, int]:
        return self.lanes, self.together

    def grid(self, count: int) -> tuple[int, int]:
        return -(-count // self.together), 1

    def split(self, count: int) -> bool:
        """Whether so many rows are cut over several blocks."""
        return 1 < self.chunks <= 65535 and count < FEW


@cache
def rows(n: int, dtype: DType, arrays: int = 1) -> Rows:
    """For kernels that hold so many arrays in registers: 32 numbers of 4 bytes a thread for one, as many in all for several."""
    width = 16 // dtype.itemsize
    width = 1 if n % width else width
    most = max(min(128 // COMPUTED[dtype].itemsize // arrays // width, 16), 1)
    accesses = n // width
    if accesses <= WARP * most:
        lanes = min(_power(accesses), WARP)
        packs = _power(-(-accesses // WARP))
    else:
        lanes, packs = min(WARP * -(-accesses // (WARP * most)), MOST_THREADS), most
    return Rows(width, packs, lanes, max(BLOCK // lanes, 1) if lanes <= WARP else 1, -(-accesses // (lanes * packs)))


@dataclass(frozen=True, slots=True)
class Columns:
    """How (outer, n, inner) is taken along its middle: a block's threads over inner and over n."""

    block: tuple[int, int]
    grid: int


def columns(outer: int, n: int, inner: int) -> Columns:
    across = min(_power(inner), WARP)
    return Columns((across, min(_power(n), BLOCK // across)), outer * -(-inner // across))


def blocks(n: int) -> int:
    """Of a grid-stride loop over n pieces of work."""
    return max(min(-(-n // BLOCK), 1 << 16), 1)


def aligned(x: Tensor) -> Tensor:
    """x contiguous and where accesses of 16 bytes may begin: all but some slices are."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def middle(shape: tuple[int, ...], dim: int) -> tuple[int, int, int]:
    """A shape as (outer, n, inner) around one dimension."""
    dim %= len(shape)
    return math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])


def _softmax(x: Tensor, dim: int, logarithm: bool) -> Tensor | None:
    if x.dtype not in COMPUTED or x.ndim == 0:
        return None
    out = empty(x.shape, x.dtype, x.device)
    if not x.numel():
        return out
    outer, n, inner = middle(x.shape, dim)
    x = aligned(x)
    if inner > 1:
        c = columns(outer, n, inner)
        SOURCE("softmax_columns", T=x.dtype, WIDTH=1, PACKS=1)(c.grid, c.block, out, x, n, inner, logarithm)
        return out
    r = rows(n, x.dtype)
    macros: dict[str, DType | int] = {"T": x.dtype, "WIDTH": r.width, "PACKS": r.packs}
    grid, parts = r.grid(outer), None
    if r.split(outer):
        grid, parts = (outer, r.chunks), empty((outer, r.chunks, 2), COMPUTED[x.dtype], x.device)
        SOURCE("softmax_parts", **macros)(grid, r.block, parts, x, n)
    SOURCE("softmax_rows", **macros)(grid, r.block, out, x, parts, outer, n, logarithm)
    return out


def _softmax_grad(g: Tensor, out: Tensor, dim: int, logarithm: bool) -> tuple[Tensor | None] | None:
    if out.dtype not in COMPUTED or out.ndim == 0 or g.dtype is not out.dtype:
        return None
    dx = empty(out.shape, out.dtype, out.device)
    if not out.numel():
        return (dx,)
    outer, n, inner = middle(out.shape, dim)
    g, out = aligned(g), aligned(out)
    if inner > 1:
        c = columns(outer, n, inner)
        SOURCE("softmax_grad_columns", T=out.dtype, WIDTH=1, PACKS=1)(c.grid, c.block, dx, g, out, n, inner, logarithm)
        return (dx,)
    r = rows(n, out.dtype, 2)
    macros: dict[str, DType | int] = {"T": out.dtype, "WIDTH": r.width, "PACKS": r.packs}
    grid, parts = r.grid(outer), None
    if r.split(outer):
        grid, parts = (outer, r.chunks), empty((outer, r.chunks), COMPUTED[out.dtype], out.device)
        SOURCE("softmax_grad_parts", **macros)(grid, r.block, parts, g, out, n, logarithm)
    SOURCE("softmax_grad_rows", **macros)(grid, r.block, dx, g, out, parts, outer, n, logarithm)
    return (dx,)


@lane("softmax")
def softmax(x: Tensor, *, dim: int) -> Tensor | None:
    return _softmax(x, dim, False)


@lane("log_softmax")
def log_softmax(x: Tensor, *, dim: int) -> Tensor | None:
    return _softmax(x, dim, True)


@gradient_lane("softmax")
def softmax_grad(wanted: tuple[bool, ...], g: Tensor, out: Tensor, dim: int) -> tuple[Tensor | None] | None:
    return _softmax_grad(g, out, dim, False)


@gradient_lane("log_softmax")
def log_softmax_grad(wanted: tuple[bool, ...], g: Tensor, out: Tensor, dim: int) -> tuple[Tensor | None] | None:
    return _softmax_grad(g, out, dim, True)
