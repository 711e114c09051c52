"""Copies on GPUs, from any layout and dtype into any other: what `clone`, `to` and `cat` are made of."""

from __future__ import annotations

from collections.abc import Sequence

from tensorlib.dtypes import DType
from tensorlib.tensor import Tensor

from . import lane
from .elementwise import BLOCK, MAX_DIMS, merged, spread_strides
from .launch import Source, empty

__all__ = ["copy"]

COPY = Source("copy.cu")


def copy(to: Tensor, x: Tensor) -> bool:
    """to[...] = x, which broadcasts to it, converted as the CPU does; they share no memory. False: it has too many dimensions."""
    n = to.numel()
    if not n:
        return True
    sizes, (into, out_of) = merged(to.shape, [to.stride(), spread_strides(x, to.ndim)])
    if len(sizes) > MAX_DIMS or to.dtype.is_complex or x.dtype.is_complex:
        return False
    while len(sizes) in (3, 5):  # so that fewer kernels are compiled
        sizes, into, out_of = [1, *sizes], [0, *into], [0, *out_of]
    per = 16 // max(to.dtype.itemsize, x.dtype.itemsize)
    if (
        (into[-1], out_of[-1]) not in ((1, 1), (1, 0))
        or (len(sizes) > 1 and sizes[-1] % per)
        or any(s % per for s in (*into[:-1], *out_of[:-1]))
        or any(t.data_ptr() % (per * t.dtype.itemsize) for t in (to, x))
    ):
        per = 1
    groups = -(-n // per)
    if len(sizes) > 1:
        sizes[-1] //= per
    kernel = COPY("copy", T=x.dtype, O=to.dtype, ND=len(sizes), PER=per, INDEX="u32" if groups < 2**32 else "u64")
    kernel(min(-(-groups // BLOCK), 2**31 - 1), BLOCK, to, x, n, *sizes, *into, *out_of)
    return True


def _made(x: Tensor, dtype: DType) -> Tensor | None:
    out = empty(x.shape, dtype, x.device)
    return out if copy(out, x) else None


@lane("cast")
def cast(x: Tensor, *, dtype: DType) -> Tensor | None:
    return _made(x, dtype)


@lane("clone")
def clone(x: Tensor) -> Tensor | None:
    return _made(x, x.dtype)


@lane("cat")
def cat(tensors: Sequence[Tensor], *, dim: int) -> Tensor | None:
    first = tensors[0]
    if any(x.dtype is not first.dtype or x.ndim != first.ndim for x in tensors):
        return None
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    out, begin = empty(tuple(shape), first.dtype, first.device), 0
    for x in tensors:
        if not copy(out.narrow(dim, begin, x.shape[dim]), x):
            return None
        begin += x.shape[dim]
    return out
