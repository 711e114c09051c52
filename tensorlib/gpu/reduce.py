"""Reductions on GPUs: sums, products, extremes, questions, places, variances, over any dimensions.

A result's bits follow from shapes alone. Where results are not side by side in memory they do not even depend on how many there are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tensorlib.dtypes import DType, bool_, float32, float64, int64
from tensorlib.tensor import Tensor

from . import LANES, lane
from .launch import Source, empty

__all__ = ["reduced"]

REDUCE = Source("reduce.cu")
THREADS = 256
CHUNK = 16384  # elements of a result that one block joins; of columns it is CHUNK_ROWS for each of its lines
CHUNK_ROWS = 32
MAX_DIMS, MAX_CHUNKS = 4, 65535
OPS = {
    "sum": "SUM", "mean": "SUM", "prod": "PROD", "amax": "MAX", "amin": "MIN", "all": "ALL", "any": "ANY", "count_nonzero": "COUNT",
    "argmax": "ARGMAX", "argmin": "ARGMIN",
}  # fmt: skip
_RESULTS = {"ALL": bool_, "ANY": bool_, "COUNT": int64, "ARGMAX": int64, "ARGMIN": int64}

Dims = tuple[int, ...] | int | None


class Work(NamedTuple):
    """Dimensions as (size, stride in x), the outermost first; width: results side by side, 0 where each is read on its own."""

    kept: list[tuple[int, int]]
    reduced: list[tuple[int, int]]
    width: int


def merged(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The fewest dimensions that visit the same elements in the same order."""
    made: list[tuple[int, int]] = []
    for size, stride in dims:
        if size == 1:
            continue
        if made and made[-1][1] == size * stride:
            made[-1] = made[-1][0] * size, stride
        else:
            made.append((size, stride))
    return made


def planned(x: Tensor, along: set[int], *, ordered: bool) -> Work:
    dims = list(zip(x.shape, x.stride(), strict=True))
    kept = merged([d for i, d in enumerate(dims) if i not in along])
    reduced = [d for i, d in enumerate(dims) if i in along]
    reduced = merged(reduced if ordered else sorted(reduced, key=lambda d: -d[1]))
    beside = bool(kept) and kept[-1][1] == 1 and bool(reduced) and reduced[-1][1] > 1
    return Work(kept[:-1] if beside else kept, reduced or [(1, 1)], kept[-1][0] if beside else 0)


def _power(n: int, most: int) -> int:
    """The smallest power of two that is not below n; at most `most`, which is one."""
    return min(1 << max(n - 1, 0).bit_length(), most)


def reduced(
    op: str, x: Tensor, dim: Dims, keepdim: bool, divisor: float = 0.0, center: Tensor | None = None
) -> Tensor | None:
    """The reduction `op` of reduce.cu; None where it has too many dimensions. `divisor`: of its results, unless 0."""
    if x.dtype.is_complex:
        return None
    along = (
        set(range(x.ndim)) if dim is None else {d % max(x.ndim, 1) for d in ((dim,) if isinstance(dim, int) else dim)}
    )
    shape = tuple(1 if i in along else n for i, n in enumerate(x.shape) if keepdim or i not in along)
    out = empty(shape, _RESULTS.get(op, x.dtype), x.device)
    if not out.numel():
        return out
    n = math.prod(size for i, size in enumerate(x.shape) if i in along)
    if not n:  # nothing is read, so all that counts is how many results there are
        _rows(op, out, x, None, Work([(out.numel(), 0)], [(0, 0)], 0), x.dtype, out.dtype, False, divisor)
        return out
    work = planned(x, along, ordered=op.startswith("ARG"))
    if max(len(work.kept), len(work.reduced)) > MAX_DIMS:
        return None
    run = _columns if work.width else _rows
    return run(op, out, x, center, work, x.dtype, out.dtype, False, divisor)


def _macros(
    op: str, work: Work, given: DType, made: DType, parts: bool, divisor: float
) -> dict[str, DType | int | str]:
    return {
        "OP": op, "T": given, "O": made, "KD": max(len(work.kept), 1), "RD": len(work.reduced), "PARTS": int(parts), "DIVIDE": int(divisor != 0),
    }  # fmt: skip


def _geometry(work: Work) -> list[int]:
    kept = work.kept or [(1, 0)]
    return [*(s for s, _ in kept), *(s for _, s in kept), *(s for s, _ in work.reduced), *(s for _, s in work.reduced)]


def _room(op: str, n: int, like: Tensor, given: DType) -> Tensor:
    """Memory for what chunks join to."""
    if op.startswith("ARG"):
        return empty((2 * n,), float64, like.device)
    wide = {"ALL": bool_, "ANY": bool_, "COUNT": int64}.get(
        op, float32 if given.itemsize == 2 and given.is_floating_point else given
    )
    return empty((n,), wide, like.device)


def _aligned(x: Tensor, per: int, strides: list[int]) -> bool:
    return per > 1 and x.data_ptr() % (per * x.dtype.itemsize) == 0 and all(s % per == 0 for s in strides)


def _rows(
    op: str,
    out: Tensor,
    x: Tensor,
    center: Tensor | None,
    work: Work,
    given: DType,
    made: DType,
    parts: bool,
    divisor: float,
) -> Tensor:
    results, n = out.numel(), math.prod(size for size, _ in work.reduced)
    per = 1 if parts else 16 // given.itemsize
    wide = len(work.reduced) == 1 and work.reduced[0][1] == 1 and _aligned(x, per, [s for _, s in work.kept])
    per = per if wide and n >= per else 1
    chunk = max(CHUNK, -(-n // MAX_CHUNKS))
    chunk += -chunk % per
    chunks = max(-(-n // chunk), 1)
    lanes = _power(-(-min(n, chunk) // (4 * per)), THREADS)
    together = THREADS // lanes
    to = out if chunks == 1 else _room(op, results * chunks, out, given)
    grid = min(-(-results // together), 2**31 - 1), chunks
    REDUCE("rows", **_macros(op, work, given, made, parts, divisor), PER=per)(
        grid, (lanes, together), to, x, center, results, n, chunk, divisor or 1.0, *_geometry(work)
    )
    if chunks > 1:
        _rows(op, out, to, None, Work([(results, chunks)], [(chunks, 1)], 0), given, made, True, divisor)
    return out


def _columns(
    op: str,
    out: Tensor,
    x: Tensor,
    center: Tensor | None,
    work: Work,
    given: DType,
    made: DType,
    parts: bool,
    divisor: float,
) -> Tensor:
    results, width, n = out.numel(), work.width, math.prod(size for size, _ in work.reduced)
    per = 1 if parts else min(16 // given.itemsize, 8)
    strides = [s for _, s in (*work.kept, *work.reduced)]
    per = per if not width % per and _aligned(x, per, strides) else 1
    across = _power(-(-width // per), 32)
    lines = THREADS // across
    chunk = max(lines * CHUNK_ROWS, -(-n // MAX_CHUNKS))
    chunks = -(-n // chunk)
    to = out if chunks == 1 else _room(op, results * chunks, out, given)
    grid = results // width * -(-width // (across * per)), chunks
    REDUCE("columns", **_macros(op, work, given, made, parts, divisor), PER=per)(
        grid, (across, lines), to, x, center, results, width, n, chunk, divisor or 1.0, *_geometry(work)
    )
    if chunks > 1:
        _columns(op, out, to, None, Work([], [(chunks, results)], results), given, made, True, divisor)
    return out


# ---- lanes ----
def _lane(name: str) -> None:
    op = OPS[name]

    def serve(x: Tensor, *, dim: Dims, keepdim: bool = False) -> Tensor | None:
        count = 0.0
        if name == "mean":
            count = float(counted(x, dim))
            if not count:
                return None
        return reduced(op, x, dim, keepdim, count)

    LANES[name] = serve


def counted(x: Tensor, dim: Dims) -> int:
    """How many elements one result is made of."""
    along = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return math.prod(x.shape[d] for d in along) if x.ndim else 1


for _name in OPS:
    _lane(_name)


@lane("var")
def var(x: Tensor, *, dim: Dims, correction: float, keepdim: bool) -> Tensor | None:
    count = counted(x, dim)
    if not x.dtype.is_floating_point or x.dtype.itemsize == 2 or count <= max(correction, 0):
        return None
    mean = reduced("SUM", x, dim, keepdim, float(count))
    return None if mean is None else reduced("SQDEV", x, dim, keepdim, float(count - correction), mean)
