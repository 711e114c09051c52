"""Matrix products by cuBLAS, which reads and writes tensors where they lie, transposed and spaced as they are.

cuBLAS counts in columns. A matrix of rows is to it the transposed one, so ``out = a @ b`` is asked for as ``out.T = b.T @ a.T``: operands change
places, nothing is copied. float16 and bfloat16 are summed in float32.

Gradients need no lanes: the entries' rules are products of transposed views.

Dimension letters: M rows, N columns, K summed.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorlib import dtypes
from tensorlib.backends import backend
from tensorlib.backends.tf32 import Precision, matmul as SWITCH
from tensorlib.dtypes import DType
from tensorlib.native import lib
from tensorlib.ops.fused import as_rows
from tensorlib.ops.linalg import check_product
from tensorlib.ops.table import TABLE
from tensorlib.tensor import Tensor

from . import Alias, Kept, cublas, gradient_lane, lane, recorded
from .launch import Source, empty

__all__ = ["LIMIT", "SERVED", "Layout", "address", "fill_zero", "gemm", "linear", "product", "readable", "spread"]

SOURCE = Source("matmul.cu")
SERVED = {dtypes.float16: 2, dtypes.bfloat16: 14, dtypes.float32: 0, dtypes.float64: 1}  # cudaDataType_t
FLOAT, FLOAT_FAST_TF32, DOUBLE = 68, 77, 70  # cublasComputeType_t
DEFAULT_ALGORITHM = -1
LIMIT = 2**31  # cuBLAS counts in 32 bits
FEW = 16  # products of one call each, instead of copying operands so that one call does them all


def address(x: Tensor) -> int:
    """Of the first element."""
    return int(lib.tl_address(x._array))


@functools.lru_cache(256)
def _scalar(value: float, double: bool) -> tuple[Any, int]:
    """A number in main memory, and where."""
    kept = np.array(value, np.float64 if double else np.float32)
    return kept, kept.ctypes.data


class Layout(NamedTuple):
    """How a matrix lies: rows of contiguous elements or, `transposed`, columns; `lead` elements from one to the next."""

    transposed: bool
    lead: int


def _layout(rows: int, columns: int, down: int, along: int) -> Layout | None:
    """Of a matrix with these strides; None where cuBLAS can not read it."""
    if along == 1 or columns <= 1:
        lead = down if rows > 1 else max(columns, 1)
        return Layout(False, lead) if columns <= lead < LIMIT and lead else None
    lead = along
    return Layout(True, lead) if (down == 1 or rows <= 1) and rows <= lead < LIMIT else None


def gemm(
    dtype: DType,
    size: tuple[int, int, int],
    a: tuple[int, Layout],
    b: tuple[int, Layout],
    out: tuple[int, int],
    alpha: float = 1.0,
    beta: float = 0.0,
    batch: tuple[int, int, int, int] = (1, 0, 0, 0),
    switch: Precision = SWITCH,
) -> None:
    """``out = alpha a @ b + beta out`` of memory: `size` (M, N, K), operands as (address, layout), `out` as (address, elements from row to row).

    `batch`: how many, and from one to the next of a, b and out how many elements. No size is 0.
    """
    kind, double = SERVED[dtype], dtype is dtypes.float64
    fast = dtype is dtypes.float32 and switch.allow_tf32
    compute = DOUBLE if double else FLOAT_FAST_TF32 if fast else FLOAT
    (m, n, k), count = size, batch[0]
    plus, times = _scalar(alpha, double)[1], _scalar(beta, double)[1]
    (a_at, a_how), (b_at, b_how) = a, b
    head = int(b_how.transposed), int(a_how.transposed), n, m, k, plus
    left, right, into = (b_at, kind, b_how.lead), (a_at, kind, a_how.lead), (out[0], kind, out[1])
    if count == 1:
        cublas.gemm(*head, *left, *right, times, *into, compute, DEFAULT_ALGORITHM)
    else:
        _, a_step, b_step, step = batch
        cublas.gemm_batch(*head, *left, b_step, *right, a_step, times, *into, step, count, compute, DEFAULT_ALGORITHM)


def fill_zero(x: Tensor) -> None:
    backend(x.device).place(x._array).fill(0)


class _Axis(NamedTuple):
    """A dimension of the batch: its size, and the strides of a, b and out along it."""

    size: int
    a: int
    b: int
    out: int


def _axes(a: Tensor, b: Tensor, batch: Sequence[int], step: int) -> list[_Axis]:
    """The batch's dimensions, from the last, as few as describe it; out is contiguous, `step` elements each."""
    made: list[_Axis] = []
    for i in range(1, len(batch) + 1):
        size = batch[-i]
        if size == 1:
            continue
        own = [t.stride()[-2 - i] if t.ndim >= 2 + i and t.shape[-2 - i] != 1 else 0 for t in (a, b)]
        inner = made[-1] if made else None
        if inner is not None and own == [inner.a * inner.size, inner.b * inner.size]:
            made[-1] = inner._replace(size=inner.size * size)
        else:
            made.append(_Axis(size, own[0], own[1], step))
        step *= size
    return made


def readable(x: Tensor) -> tuple[Tensor, Layout]:
    """x as cuBLAS reads it: a copy where it has to be one."""
    how = _layout(*x.shape[-2:], *x.stride()[-2:])
    if how is None:
        x = x.contiguous()
        how = Layout(False, max(x.shape[-1], 1))
    return x, how


def product(
    a: Tensor, b: Tensor, out: Tensor, batch: tuple[int, ...] = (), alpha: float = 1.0, beta: float = 0.0, switch: Precision = SWITCH
) -> None:  # fmt: skip
    """``out = alpha a @ b + beta out``; leading dimensions of (..., M, K) and (..., K, N) broadcast to `batch`. out: contiguous, of any shape."""
    (m, k), n = a.shape[-2:], b.shape[-1]
    if not (count := math.prod(batch) * m * n):
        return
    if not k:
        if beta == 0:
            fill_zero(out)
        assert beta in (0.0, 1.0)
        return
    (a, a_how), (b, b_how) = readable(a), readable(b)
    axes = _axes(a, b, batch, m * n)
    if len(axes) > 1 and count // (m * n) // max(axis.size for axis in axes) > FEW:
        a, b = (x.expand(*batch, *x.shape[-2:]).contiguous() for x in (a, b))
        (a, a_how), (b, b_how) = readable(a), readable(b)
        axes = _axes(a, b, batch, m * n)
    follow = len(axes) == 1 and axes[0].b == 0 and not a_how.transposed and axes[0].a == a_how.lead * m
    if follow and m * axes[0].size < LIMIT:
        m, axes = m * axes[0].size, []  # a's matrices follow each other: one product of all their rows
    axes.sort()
    together = axes.pop() if axes else _Axis(1, 0, 0, 0)
    places = [address(x) for x in (a, b, out)]
    item = a.dtype.itemsize
    for at in itertools.product(*(range(axis.size) for axis in axes)):
        moved = [sum(i * axis[j] for i, axis in zip(at, axes, strict=True)) * item for j in (1, 2, 3)]
        x, y, z = (place + by for place, by in zip(places, moved, strict=True))
        gemm(a.dtype, (m, n, k), (x, a_how), (y, b_how), (z, n), alpha, beta, together, switch)


def spread(out: Tensor, values: Tensor | None, channels: int, inner: int) -> float:
    """Write a bias, (channels,), into `out`, (..., channels, inner): what a product is added to. Its beta: 0 where there is none."""
    if values is None:
        return 0.0
    if n := out.numel():
        SOURCE("spread", T=out.dtype)(min(-(-n // 256), 65535), 256, out, values.contiguous(), n, channels, inner)
    return 1.0


def _served(*given: Tensor | None) -> bool:
    """One dtype, and sizes within cuBLAS's."""
    there = [x for x in given if x is not None]
    first = there[0].dtype
    return first in SERVED and all(x.dtype is first and x.ndim > 0 and max(x.shape) < LIMIT for x in there)


def _batch(a: Tensor, b: Tensor) -> tuple[int, ...]:
    """The leading dimensions of their product."""
    if b.ndim == 2 or b.shape[:-2] == a.shape[:-2]:
        return a.shape[:-2]
    return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])


# ---- lanes ----
@lane("matmul")
def _matmul(a: Tensor, b: Tensor) -> Tensor | None:
    if not _served(a, b):
        return None
    check_product(a.shape, b.shape)
    left, right = a if a.ndim > 1 else a.unsqueeze(0), b if b.ndim > 1 else b.unsqueeze(1)
    batch = _batch(left, right)
    out = empty(
        (*batch, *left.shape[-2 : -1 if a.ndim > 1 else -2], *right.shape[-1 : None if b.ndim > 1 else -1]),
        a.dtype,
        a.device,
    )
    product(left, right, out, batch)
    return out


@lane("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    if not _served(x, weight, bias) or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return None  # the reference words the error
    units = weight.shape[0]
    if bias is not None and bias.shape != (units,):
        return None
    out = empty((*x.shape[:-1], units), x.dtype, x.device)
    product(x if x.ndim > 1 else x.unsqueeze(0), weight.mT, out, x.shape[:-2], beta=spread(out, bias, units, 1))
    return out


@lane("linear_act")
def _linear_act(x: Tensor, weight: Tensor, bias: Tensor | None, *, activation: str) -> Kept | Tensor | None:
    inner = linear(x, weight, bias)
    if inner is None:
        return None
    activate = TABLE[activation].call
    assert activate is not None
    out = activate(inner)
    return Kept(out, Alias(out if activation in OF_RESULT else inner)) if recorded() else out


OF_RESULT = ("relu", "sigmoid", "tanh")  # activations whose gradients are written in what they made


@gradient_lane("linear_act")
def _(
    wanted: tuple[bool, ...], g: Tensor, x: Tensor, weight: Tensor, activation: str, kept: Alias | None
) -> tuple[Tensor | None, ...] | None:
    if kept is None or (made := kept.tensor) is None:
        return None
    op = TABLE[activation]
    assert op.vjp is not None and op.vjp[0] is not None
    values = {"g": g, "x": made, "out": made}
    inner = op.vjp[0](**{name: values[name] for name in op.needs[0]})
    return (
        inner @ weight if wanted[0] else None,
        as_rows(inner).mT @ as_rows(x) if wanted[1] else None,
        inner if wanted[2] else None,
    )


@lane("scaled_product")
def _scaled_product(
    x: Tensor | None, a: Tensor, b: Tensor, *, beta: float, alpha: float, over_batch: bool
) -> Tensor | None:
    if a.ndim < 2 or not _served(a, b) or (x is not None and x.dtype is not a.dtype):
        return None
    if over_batch:  # the sum of a batch's products is one product of operands side by side
        k = a.shape[0] * a.shape[2]
        a, b = a.transpose(0, 1).reshape((a.shape[1], k)), b.reshape((k, b.shape[2]))
    right = b if b.ndim > 1 else b.unsqueeze(1)
    batch = _batch(a, right)
    shape = (*batch, a.shape[-2], *right.shape[-1 : None if b.ndim > 1 else -1])
    if x is None or beta == 0:
        out, plus = empty(shape, a.dtype, a.device), 0.0
    else:
        out, plus = (x if beta == 1 else x * beta).expand(shape).clone().contiguous(), 1.0
    product(a, right, out, batch, alpha, plus)
    return out
