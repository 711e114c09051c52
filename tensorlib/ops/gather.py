"""Gathering and scattering along one dimension: one position for each element.

Reading and writing are each other's gradients, so each rule here is one line, and gradients of gradients follow. Positions are checked where they
are used (here in the references, in C in the kernels): a position out of range is an IndexError, never a wrong read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tensorlib import ops
from tensorlib.dtypes import int64
from tensorlib.errors import DTypeError, IndexRangeError, ShapeError
from tensorlib.native import lib
from tensorlib.ops import elementwise, rules
from tensorlib.ops.declare import structured, to_dtype
from tensorlib.ops.places import accumulate_at
from tensorlib.ops.shape import normalize_dim
from tensorlib.ops.table import BATCH, Draw, Sample, error, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Scalar = bool | int | float

__all__ = ["gather", "scatter", "scatter_add", "scatter_reduce", "take_along_dim"]
METHODS = tuple(__all__)
INPLACE = ("scatter", "scatter_add", "scatter_reduce")


# ---- checks ----


def range_error(name: str, bad: int, dim: int, size: int, low: int = 0) -> IndexRangeError:
    return IndexRangeError(
        f"{name}: index {bad} is out of range for dimension {dim} of size {size}; expected {low} <= index < {size}."
    )


def check_range(name: str, index: Any, dim: int, size: int) -> None:
    """Raise unless every element of the integer array lies in [0, size)."""
    if index.size:
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= size:
            raise range_error(name, low if low < 0 else high, dim, size)


def as_positions(name: str, index: Tensor) -> Tensor:
    """The index as int64; raise where it does not hold integers."""
    if index.dtype is int64:
        return index
    if index.dtype.category != 1:
        raise DTypeError(f"{name}: index must hold integers, got {index.dtype.name}.")
    return to_dtype(index, int64)


def same_dtype(name: str, x: Tensor, role: str, other: Tensor) -> None:
    if other.dtype is not x.dtype:
        raise DTypeError(
            f"{name}: dtypes differ: x is {x.dtype.name}, {role} is {other.dtype.name}; expected the same."
        )


def decode_dim(node: int) -> dict[str, Any]:
    """The attributes of a node that C recorded (native/positions.c)."""
    return {"dim": lib.tl_node_int(node, 0)}


def zeros_for(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    return ops.creation.zeros(shape, dtype=g.dtype, device=g.device)


# ---- along one dimension, one position per element: gather and scatter ----


def _along(xp: Any, index: Any, dim: int) -> tuple[Any, ...]:
    """The subscript that reads x[i, ..., index[i, ..., k], ...]: `index` at `dim`, its own coordinates elsewhere."""
    grid = [xp.arange(n).reshape((1,) * d + (n,) + (1,) * (index.ndim - d - 1)) for d, n in enumerate(index.shape)]
    grid[dim] = index
    return tuple(grid)


def _check_along(name: str, x: Tensor, dim: int, index: Tensor) -> None:
    fits = index.ndim == x.ndim and all(
        d == dim or i <= n for d, (i, n) in enumerate(zip(index.shape, x.shape, strict=True))
    )
    if not fits:
        raise ShapeError(
            f"{name}: index of shape {index.shape} does not fit input of shape {x.shape}; expected as many dimensions, none larger except dim {dim}."
        )


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """One element of input for each element of `index`, which says where along `dim` it lies: out[i, j] = input[index[i, j], j] for dim 0.

    Shapes:
        input: (..., L, ...)  index: (..., K, ...), integer in [0, L), its other dimensions at most as large  ->  out: as index

    Raises:
        IndexError: if an index is out of range.

    >>> tl.gather(tl.tensor([[1, 2], [3, 4]]), 1, tl.tensor([[0], [1]])).tolist()
    [[1], [4]]
    """
    dim, index = normalize_dim("gather", dim, input.ndim), as_positions("gather", index)
    _check_along("gather", input, dim, index)
    return _gather(input, index, dim=dim)


def _gather_ref(xp: Any, x: Any, index: Any, *, dim: int) -> Any:
    check_range("gather", index, dim, x.shape[dim])
    return x[_along(xp, index, dim)]


def _along_samples(src: bool) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...], int]] = [
        ((5,), (3,), 0), ((3, 4), (3, 6), 1), ((3, 4), (2, 2), 0), ((2, 3, 4), (2, 5, 3), 1), ((3, 4), (0, 4), 0), ((3, 4), (3, 7), 0)
    ]  # fmt: skip
    made = []
    for shape, picked, dim in cases:
        picked = tuple(n if d == dim else min(n, shape[d]) for d, n in enumerate(picked))
        operands: list[Any] = [shape, Draw(picked, 0, shape[dim], dtype="int64")] + [picked] * src
        made.append(sample(*operands, dim=dim))
    return made


def _along_rows(src: bool) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((33,), (90,)), ((5, 20), (70, 20))]
    return [
        sample((BATCH, *shape), Draw((BATCH, *picked), 0, shape[0], dtype="int64"), *[(BATCH, *picked)] * src, dim=1)
        for shape, picked in cases
    ]


def _along_errors(name: str, src: bool) -> list[Any]:
    def index(*values: int) -> Draw:
        return Draw((1, len(values)), dtype="int64", values=[list(values)])

    def more(*shape: int) -> list[Any]:
        return [shape] * src

    return [
        error(
            (2, 3),
            index(0, 3),
            *more(1, 2),
            dim=1,
            raises=IndexError,
            match=f"{name}: index 3 is out of range for dimension 1 of size 3",
        ),
        error((2, 3), index(0, -1), *more(1, 2), dim=1, raises=IndexError, match=f"{name}: index -1 is out of range"),
        error(
            (2, 3),
            Draw((3,), 0, 2, dtype="int64"),
            *more(3),
            dim=0,
            raises=ValueError,
            match=f"{name}: index of shape .3,. does not fit",
        ),
        error((2, 3), (2, 3), *more(2, 3), dim=0, raises=TypeError, match=f"{name}: index must hold integers"),
    ]


_gather = structured(
    "gather",
    inputs=("x", "index"),
    attrs=("dim",),
    dtype=rules.as_is,
    ref=_gather_ref,
    vjp=(lambda g, index, x_shape, *, dim: _scatter_add(zeros_for(g, x_shape), index, g, dim=dim), None),
    native=lambda line, x, index, dim: lib.tl_gather(x._array, dim, index._array, line),
    decode=decode_dim,
    samples=lambda: _along_samples(src=False),
    rowwise=lambda: _along_rows(src=False),
    errors=lambda: _along_errors("gather", src=False),
)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """As `gather`, with the other dimensions broadcast: made for the results of argsort and argmax with keepdim. Without dim, both are flat.

    Shapes:
        input: (..., L, ...)  indices: (..., K, ...), integer in [0, L)  ->  out: (..., K, ...)

    >>> x = tl.tensor([[3, 1, 2]])
    >>> tl.take_along_dim(x, tl.argsort(x, dim=1), dim=1).tolist()
    [[1, 2, 3]]
    """
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    dim = normalize_dim("take_along_dim", dim, input.ndim)
    if indices.ndim != input.ndim or any(
        d != dim and i != n and 1 not in (i, n) for d, (i, n) in enumerate(zip(indices.shape, input.shape, strict=True))
    ):
        raise ShapeError(
            f"take_along_dim: indices of shape {indices.shape} do not broadcast with input of shape {input.shape} outside dim {dim}."
        )
    common = [n if i == 1 else i for i, n in zip(indices.shape, input.shape, strict=True)]

    def spread(t: Tensor) -> Tensor:
        return t.expand((*common[:dim], t.shape[dim], *common[dim + 1 :]))

    return gather(spread(input), dim, spread(indices))


def _source(name: str, x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """`src`, cut to the shape of `index`, as scatter and its kin read it."""
    _check_along(name, x, dim, index)
    if src.ndim != index.ndim or any(i > n for i, n in zip(index.shape, src.shape, strict=True)):
        raise ShapeError(
            f"{name}: src of shape {src.shape} is smaller than index of shape {index.shape}; expected at least its size."
        )
    same_dtype(name, x, "src", src)
    for d, n in enumerate(index.shape):
        if src.shape[d] != n:
            src = ops.shape.narrow(src, d, 0, n)
    return src


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """input with every element of `src` added at the place that `index` gives along `dim`: out[index[i, j], j] += src[i, j] for dim 0.

    Shapes:
        input: (..., L, ...)  index: (..., K, ...), integer in [0, L)  src: at least as large as index  ->  out: as input

    Raises:
        IndexError: if an index is out of range.

    >>> tl.scatter_add(tl.zeros(3), 0, tl.tensor([0, 2, 2]), tl.tensor([1.0, 2.0, 3.0])).tolist()
    [1.0, 0.0, 5.0]
    """
    dim, index = normalize_dim("scatter_add", dim, input.ndim), as_positions("scatter_add", index)
    return _scatter_add(input, index, _source("scatter_add", input, dim, index, src), dim=dim)


def _scatter_ref(name: str, write: Any) -> Any:
    """The reference of scatter and its kin: `write(xp, out, subscript, src)` changes a copy of x."""

    def ref(xp: Any, x: Any, index: Any, src: Any, *, dim: int) -> Any:
        check_range(name, index, dim, x.shape[dim])
        out = x.copy()
        write(xp, out, _along(xp, index, dim), src)
        return out

    return ref


_scatter_add = structured(
    "scatter_add",
    inputs=("x", "index", "src"),
    attrs=("dim",),
    dtype=rules.as_is,
    ref=_scatter_ref("scatter_add", lambda xp, *to: accumulate_at(xp, "add", *to)),
    vjp=(lambda g: g, None, lambda g, index, *, dim: _gather(g, index, dim=dim)),
    native=lambda line, x, index, src, dim: lib.tl_scatter_add(x._array, dim, index._array, src._array, line),
    decode=decode_dim,
    samples=lambda: _along_samples(src=True),
    rowwise=lambda: _along_rows(src=True),
    errors=lambda: _along_errors("scatter_add", src=True),
)


def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor | Scalar | None = None,
    *,
    reduce: str | None = None,
    value: Scalar | None = None,
) -> Tensor:
    """input with every element of `src` (or one number, `value`) written where `index` says along `dim`: out[index[i, j], j] = src[i, j].

    Where a place is written twice, the last one counts, and the gradient goes to it alone. ``reduce="add"`` and ``"multiply"`` combine instead.

    Shapes:
        input: (..., L, ...)  index: (..., K, ...), integer in [0, L)  src: at least as large as index, or a number  ->  out: as input

    Raises:
        IndexError: if an index is out of range.

    >>> tl.scatter(tl.zeros(2, 3), 1, tl.tensor([[2], [0]]), 5.0).tolist()
    [[0.0, 0.0, 5.0], [5.0, 0.0, 0.0]]
    """
    if reduce is not None and reduce not in ("add", "multiply"):
        raise ShapeError(f'scatter: reduce must be None, "add" or "multiply", got {reduce!r}.')
    dim, index = normalize_dim("scatter", dim, input.ndim), as_positions("scatter", index)
    src = value if src is None else src
    if src is None:
        raise TypeError("scatter: got neither src nor value.")
    if isinstance(src, (bool, int, float)):
        src = ops.creation.full(index.shape, src, dtype=input.dtype, device=input.device)
    src = _source("scatter", input, dim, index, src)
    if reduce == "multiply":
        return _scatter_prod(input, index, src, dim=dim)
    return _scatter_add(input, index, src, dim=dim) if reduce == "add" else _scatter(input, index, src, dim=dim)


def _scatter_src_grad(g: Tensor, index: Tensor, *, dim: int) -> Tensor:
    picked = _gather(g, index, dim=dim)
    return elementwise.where(last_writer(index, dim=dim, size=g.shape[dim]), picked, 0)


def _write(xp: Any, out: Any, where: Any, src: Any) -> None:
    out[where] = src


_scatter = structured(
    "scatter",
    inputs=("x", "index", "src"),
    attrs=("dim",),
    dtype=rules.as_is,
    ref=_scatter_ref("scatter", _write),
    vjp=(lambda g, index, *, dim: _scatter(g, index, zeros_for(g, index.shape), dim=dim), None, _scatter_src_grad),
    samples=lambda: _along_samples(src=True),
    errors=lambda: _along_errors("scatter", src=True),
)


def _last_writer_ref(xp: Any, index: Any, *, dim: int, size: int) -> Any:
    index = index % size if size else index
    order = xp.arange(index.shape[dim]).reshape((-1,) + (1,) * (index.ndim - dim - 1))
    seen = xp.zeros(tuple(size if d == dim else n for d, n in enumerate(index.shape)), dtype=xp.int64)
    where = _along(xp, index, dim)
    seen[where] = order
    return seen[where] == order


# True where no later element of `index` writes to the same place: among several writers, only the last receives a gradient.
last_writer = structured(
    "last_writer",
    inputs=("index",),
    attrs=("dim", "size"),
    dtype=rules.boolean,
    ref=_last_writer_ref,
    samples=[
        sample(Draw((9,), 0, 4, dtype="int64"), dim=0, size=4),
        sample(Draw((3, 5), 0, 3, dtype="int64"), dim=1, size=3),
    ],
    private=True,
)


# ---- reductions by place ----


def _scatter_prod_src_grad(g: Tensor, x: Tensor, index: Tensor, src: Tensor, out: Tensor, *, dim: int) -> Tensor:
    """The product of the others: out / src, and where src is the only zero at its place, the product without it."""
    zero = src == 0
    n_zeros = _gather(_scatter_add(zeros_for(g, x.shape), index, to_dtype(zero, g.dtype), dim=dim), index, dim=dim)
    alone = ops.comparison.logical_and(zero, n_zeros == 1)
    without = _scatter_prod(x, index, elementwise.where(alone, 1, src), dim=dim)
    others = elementwise.where(alone, _gather(g * without, index, dim=dim), 0)
    return elementwise.where(zero, others, _gather(g * out, index, dim=dim) / elementwise.where(zero, 1, src))


_scatter_prod = structured(
    "scatter_prod",
    inputs=("x", "index", "src"),
    attrs=("dim",),
    dtype=rules.as_is,
    ref=_scatter_ref("scatter_reduce", lambda xp, *to: accumulate_at(xp, "multiply", *to)),
    vjp=(
        lambda g, x, index, src, *, dim: g * _scatter_prod(ops.creation.ones_like(x), index, src, dim=dim),
        None,
        _scatter_prod_src_grad,
    ),
    samples=lambda: _along_samples(src=True),
    private=True,
)


def _scatter_extreme(name: str) -> Any:
    """maximum or minimum by place; elements that share the extreme share the gradient evenly, as in amax and amin."""

    def share(g: Tensor, x: Tensor, index: Tensor, src: Tensor, out: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        x_best = to_dtype(x == out, g.dtype)
        src_best = to_dtype(src == _gather(out, index, dim=dim), g.dtype)
        return g / _scatter_add(x_best, index, src_best, dim=dim), x_best, src_best

    def x_grad(g: Tensor, x: Tensor, index: Tensor, src: Tensor, out: Tensor, *, dim: int) -> Tensor:
        part, x_best, _ = share(g, x, index, src, out, dim)
        return part * x_best

    def src_grad(g: Tensor, x: Tensor, index: Tensor, src: Tensor, out: Tensor, *, dim: int) -> Tensor:
        part, _, src_best = share(g, x, index, src, out, dim)
        return _gather(part, index, dim=dim) * src_best

    return structured(
        f"scatter_{name}",
        inputs=("x", "index", "src"),
        attrs=("dim",),
        dtype=rules.as_is,
        ref=_scatter_ref("scatter_reduce", lambda xp, *to: accumulate_at(xp, name, *to)),
        vjp=(x_grad, None, src_grad),
        samples=lambda: _along_samples(src=True),
        private=True,
    )


_scatter_maximum, _scatter_minimum = _scatter_extreme("maximum"), _scatter_extreme("minimum")


def _neutral(x: Tensor, reduce: str) -> Scalar:
    """The value that does not change a reduction: what places that are written to start with, unless include_self."""
    if reduce in ("sum", "mean", "prod"):
        return int(reduce == "prod")
    sign = -1 if reduce == "amax" else 1
    if x.dtype.is_floating_point:
        return sign * math.inf
    if x.dtype.category == 0:
        return sign > 0
    bits = 8 * x.dtype.itemsize - x.dtype.is_signed
    return 2**bits - 1 if sign > 0 else (-(2**bits) if x.dtype.is_signed else 0)


def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """All elements of `src` that `index` sends to one place, reduced, together with what input holds there unless `include_self` is False.

    `reduce` is "sum", "prod", "mean", "amax" or "amin". Places that nothing is sent to keep input.

    Shapes:
        input: (..., L, ...)  index: (..., K, ...), integer in [0, L)  src: at least as large as index  ->  out: as input

    >>> tl.scatter_reduce(tl.zeros(2), 0, tl.tensor([0, 0, 1]), tl.tensor([1.0, 4.0, -5.0]), "amax").tolist()
    [4.0, 0.0]
    """
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise ShapeError(f'scatter_reduce: reduce must be "sum", "prod", "mean", "amax" or "amin", got {reduce!r}.')
    dim, index = normalize_dim("scatter_reduce", dim, input.ndim), as_positions("scatter_reduce", index)
    src = _source("scatter_reduce", input, dim, index, src)
    start = input
    if not include_self:
        start = _scatter(
            input,
            index,
            ops.creation.full(index.shape, _neutral(input, reduce), dtype=input.dtype, device=input.device),
            dim=dim,
        )
    if reduce == "prod":
        return _scatter_prod(start, index, src, dim=dim)
    if reduce in ("amax", "amin"):
        return (_scatter_maximum if reduce == "amax" else _scatter_minimum)(start, index, src, dim=dim)
    total = _scatter_add(start, index, src, dim=dim)
    if reduce == "sum":
        return total
    ones = [ops.creation.full(t.shape, 1, dtype=input.dtype, device=input.device) for t in (input, index)]
    if not include_self:
        ones[0] = _scatter(ones[0], index, ones[1] * 0, dim=dim)
    count = _scatter_add(ones[0], index, ones[1], dim=dim)
    return elementwise.div(total, count, rounding_mode=None if input.dtype.is_floating_point else "floor")
