"""Scans along one dimension: sums and products of everything so far, and differences, which undo the sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tensorlib import ops
from tensorlib.dtypes import bool_
from tensorlib.errors import ShapeError
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.shape import normalize_dim
from tensorlib.ops.table import BATCH, NATIVE_NUMBERS, Draw, error, sample

if TYPE_CHECKING:
    from tensorlib.dtypes import DType
    from tensorlib.tensor import Tensor

__all__ = ["cumprod", "cumsum", "diff"]
METHODS = tuple(__all__)
INPLACE = ("cumprod", "cumsum")


def _scan_ref(name: str) -> Callable[..., Any]:
    return lambda xp, x, *, dim: getattr(xp, name)(x, axis=dim if x.ndim else None).reshape(x.shape)


_SCANS = [
    sample((), dim=0),
    sample((5,), dim=0),
    sample((2, 3, 4), dim=1),
    sample((2, 70), dim=-1),
    sample((9, 3), dim=1),
    sample((2, 3, 600), dim=1),
    sample((0, 3), dim=0),
    sample((3, 0), dim=0),
]

_ROWS = [
    sample(Draw((BATCH, *s), 0.5, 1.5), dim=dim) for s, dim in [((67,), 1), ((3000,), 1), ((7, 33), 1), ((7, 90), 2)]
]
_CUMSUM, _CUMPROD = NATIVE_NUMBERS["cumsum"], NATIVE_NUMBERS["cumprod"]

_cumsum = structured(
    "cumsum",
    inputs=("x",),
    attrs=("dim",),
    dtype=rules.accumulator,
    ref=_scan_ref("cumsum"),
    vjp=(lambda g, dim: _reversed(_cumsum(_reversed(g, dim), dim=dim), dim),),
    native=lambda line, x, dim: lib.tl_scan(_CUMSUM, x._array, dim % max(x.ndim, 1), line),
    decode=lambda node: {"dim": lib.tl_node_int(node, 0)},
    samples=_SCANS,
    rowwise=_ROWS,
    errors=[error((2, 3), dim=2, raises=IndexError, match="dim 2 is out of range")],
)


def _reversed(x: Tensor, dim: int) -> Tensor:
    return ops.rearrange.flip(x, (dim,)) if x.ndim else x


def _cumprod_grad(g: Tensor, x: Tensor, dim: int) -> Tensor:
    """P_k * S_k, with P the product before k, and S_k = g_k + x_(k+1) S_(k+1) by doubling: without a division, so zeros do no harm."""
    n = x.shape[dim] if x.ndim else 1
    if n < 2:
        return g
    cat, zero = ops.joins.cat, ops.creation.zeros_like(x.narrow(dim, 0, 1))
    before = cat([zero + 1, _cumprod(x.narrow(dim, 0, n - 1), dim=dim)], dim)
    factor, total, step = cat([x.narrow(dim, 1, n - 1), zero], dim), g, 1
    while step < n:
        gap = zero.expand(tuple(step if i == dim else m for i, m in enumerate(x.shape)))
        total = total + factor * cat([total.narrow(dim, step, n - step), gap], dim)
        factor = factor * cat([factor.narrow(dim, step, n - step), gap], dim)
        step *= 2
    return before * total


_cumprod = structured(
    "cumprod",
    inputs=("x",),
    attrs=("dim",),
    dtype=rules.accumulator,
    ref=_scan_ref("cumprod"),
    vjp=(_cumprod_grad,),
    native=lambda line, x, dim: lib.tl_scan(_CUMPROD, x._array, dim % max(x.ndim, 1), line),
    decode=lambda node: {"dim": lib.tl_node_int(node, 0)},
    rowwise=_ROWS,
    samples=[*_SCANS, sample(Draw((5,), values=[1.5, 0.0, -2.0, 0.0, 3.0]), dim=0)],
    errors=[error((2, 3), dim=2, raises=IndexError, match="dim 2 is out of range")],
)


def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Cumulative sum along one dimension; integers and bool sum in int64.

    Shapes:
        input: (..., L, ...)  ->  out: (..., L, ...), summed over positions <= i of `dim`; input is first converted to `dtype` where given

    >>> tl.cumsum(tl.tensor([1.0, 2.0, 3.0]), 0).tolist()
    [1.0, 3.0, 6.0]
    """
    return _cumsum(input if dtype is None else input.to(dtype), dim=normalize_dim("cumsum", dim, input.ndim))


def cumprod(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Cumulative product along one dimension; integers and bool multiply in int64.

    Shapes:
        input: (..., L, ...)  ->  out: (..., L, ...), multiplied over positions <= i of `dim`; input is first converted to `dtype` where given

    >>> tl.cumprod(tl.tensor([1.0, 2.0, 3.0]), 0).tolist()
    [1.0, 2.0, 6.0]
    """
    return _cumprod(input if dtype is None else input.to(dtype), dim=normalize_dim("cumprod", dim, input.ndim))


@composite(
    "diff",
    inputs=("input",),
    attrs=("n", "dim"),
    ref=lambda xp, x, *, n, dim: xp.diff(x, n=n, axis=dim),
    samples=[
        sample((5,), n=1, dim=-1), sample((3, 4), n=2, dim=0), sample((2, 3, 4), n=0, dim=1), sample((2, 3), n=7, dim=1),
        sample((0, 3), n=1, dim=0),
    ],
    errors=[
        error((), n=1, dim=0, raises=ValueError, match="diff: input has no dimension"),
        error((3,), n=-1, dim=0, raises=ValueError, match="diff: n must not be negative, got -1"),
        error((3,), n=1, dim=1, raises=IndexError, match="dim 1 is out of range"),
    ],
)  # fmt: skip
def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Differences of neighbours along one dimension, `n` times over; of bool, whether neighbours differ.

    Shapes:
        input: (..., L, ...)  ->  out: (..., max(L - n, 0), ...), where L counts `prepend` and `append`, which are joined to input first

    >>> tl.diff(tl.tensor([1, 4, 9, 16])).tolist(), tl.diff(tl.tensor([1, 4, 9, 16]), n=2).tolist()
    ([3, 5, 7], [2, 2])
    """
    if input.ndim == 0:
        raise ShapeError("diff: input has no dimension to take differences along.")
    if n < 0:
        raise ShapeError(f"diff: n must not be negative, got {n}.")
    along = normalize_dim("diff", dim, input.ndim)
    joined = [t for t in (prepend, input, append) if t is not None]
    out = ops.joins.cat(joined, dim=along) if len(joined) > 1 else input
    for _ in range(min(n, out.shape[along])):
        length = max(out.shape[along] - 1, 0)
        after, before = out.narrow(along, out.shape[along] - length, length), out.narrow(along, 0, length)
        out = after != before if out.dtype == bool_ else after - before
    return out if n else ops.shape.clone(out)
