"""Products of vectors, matrices and tensors: everything that contracts dimensions, all of it resting on matmul.

Dimension letters: M, K, N of a product, B a batch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tensorlib import ops
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.lines import KNOWN, here
from tensorlib.native import lib
from tensorlib.ops import elementwise, rearrange, reductions, rules, shape
from tensorlib.ops.declare import OPERANDS, composite, run, structured
from tensorlib.ops.rows import RowMethods
from tensorlib.ops.shape import normalize_dim
from tensorlib.ops.table import BATCH, Draw, error, sample
from tensorlib.tensor import Tensor, wrap

Scalar = bool | int | float
_frame, _line_of, _native = sys._getframe, KNOWN.get, lib.tl_matmul

__all__ = [
    "bmm", "chain_matmul", "cross", "dot", "ger", "inner", "kron", "matmul", "matrix_power", "mm", "mv", "outer", "tensordot", "trace", "vdot",
]  # fmt: skip
METHODS = tuple(name for name in __all__ if name not in ("chain_matmul", "tensordot"))
INPLACE: tuple[str, ...] = ()


# ---- matmul ----


_conjugate = structured(
    "conjugate", inputs=("x",), ref=lambda xp, x: xp.conj(x), vjp=(lambda g: _conj(g),), private=True
)


def _conj(x: Tensor) -> Tensor:
    return _conjugate(x) if x.dtype.is_complex else x


def _conj_t(x: Tensor) -> Tensor:
    return _conj(x.mT)


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product ``input @ other``, with broadcasting over the batch dimensions in front of the last two.

    Shapes:
        input: (B..., M, K), other: (B..., K, N)  ->  out: (B..., M, N)
        A 1-dimensional a is a row, a 1-dimensional b a column; their dimension of size 1 is left out of the result.

    Raises:
        ShapeError: if K differs, or the batch dimensions do not broadcast.
        DTypeError: if the dtypes differ.

    >>> tl.matmul(tl.tensor([[1.0, 2.0], [3.0, 4.0]]), tl.tensor([1.0, 1.0])).tolist()
    [3.0, 7.0]
    """
    frame = _frame(1)
    line = _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)
    try:
        handle = _native(input._array, other._array, line)
    except AttributeError:
        handle = 0
        for x in (input, other):
            if not isinstance(x, (*OPERANDS, RowMethods)):
                raise DTypeError(f"matmul: got a {type(x).__name__}, expected a Tensor.") from None
    return wrap(handle) if handle else run(_matmul.op, (input, other), {}, line)


def check_product(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Raise unless shapes a and b fit for a matrix product."""
    if not a or not b:
        raise ShapeError(f"matmul: expected at least 1 dimension each, got {a} @ {b}.", hint="use * for a number")
    k, expected = b[-2] if len(b) > 1 else b[0], "b.shape[-2]" if len(b) > 1 else "b.shape[0]"
    if a[-1] != k:
        transposed = len(b) > 1 and a[-1] == b[-1]
        raise ShapeError(
            f"matmul: inner dimensions differ: {a} @ {b}; expected a.shape[-1] == {expected}, got {a[-1]} != {k}.",
            hint="b.mT would fit" if transposed else None,
        )
    for m, n in zip(reversed(a[:-2]), reversed(b[:-2]), strict=False):
        if m != n and 1 not in (m, n):
            raise ShapeError(
                f"matmul: batch dimensions do not broadcast: {a} @ {b}; expected {a[:-2]} and {b[:-2]} to be equal or 1 in each place."
            )


def _matmul_ref(xp: Any, a: Any, b: Any) -> Any:
    if a.dtype != b.dtype:
        raise DTypeError(
            f"matmul: dtypes differ: {a.dtype} and {b.dtype}; expected the same.", hint="convert one with .to(dtype)"
        )
    check_product(a.shape, b.shape)
    return xp.matmul(a, b)


def _matmul_grad_a(g: Tensor, b: Tensor, a_shape: tuple[int, ...]) -> Tensor:
    if b.ndim == 1:  # (..., M) x (K,)
        return g.unsqueeze(-1) * _conj(b)
    if len(a_shape) == 1:  # (B..., N): the row takes part in every product of the batch, which the engine sums
        return _matmul(_conj(b), g.unsqueeze(-1)).squeeze(-1)
    return _matmul(g, _conj_t(b))


def _matmul_grad_b(g: Tensor, a: Tensor, b_shape: tuple[int, ...]) -> Tensor:
    if a.ndim == 1:
        return _conj(a) * g if len(b_shape) == 1 else _conj(a).unsqueeze(-1) * g.unsqueeze(-2)
    if len(b_shape) == 1:
        g = g.unsqueeze(-1)
    if (
        a.ndim > 2 and len(b_shape) <= 2
    ):  # one product over the whole batch instead of a batch of products that the engine would sum
        a, g = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), g.reshape(math.prod(g.shape[:-1]), g.shape[-1])
    out = _matmul(_conj_t(a), g)
    return out.squeeze(-1) if len(b_shape) == 1 else out


_matmul = structured(
    "matmul",
    autocast="half",
    inputs=("a", "b"),
    dtype=rules.as_is,  # mixed dtypes are more often a mistake than a wish
    ref=_matmul_ref,
    vjp=(_matmul_grad_a, _matmul_grad_b),
    native=lambda line, a, b: lib.tl_matmul(a._array, b._array, line),
    samples=lambda: [
        sample(a, b)
        for a, b in [
            ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((1, 1), (1, 1)), ((5, 2, 3), (5, 3, 4)), ((5, 2, 3), (3, 4)),
            ((2, 3), (5, 3, 4)), ((2, 1, 3, 4), (5, 4, 2)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)), ((0, 3), (3, 4)), ((2, 0), (0, 4)),
            ((2, 3), (3, 0)), ((0, 2, 3), (3, 4)), ((17, 33), (33, 9)), ((0,), (0,)),
        ]
    ],
    rowwise=lambda: [
        sample((BATCH, *a), (BATCH, *b) if paired else b)
        for a, b, paired in [
            ((100,), (100, 70), False), ((784,), (784, 300), False), ((300,), (300,), False), ((50,), (50, 1), False), ((2000,), (2000, 40), False),
            ((5, 33), (33, 40), False), ((20, 30), (30, 40), True), ((1, 300), (300, 50), True), ((130, 200), (200, 96), True), ((3, 4), (4,), False),
            ((7, 90), (90, 1), True),
        ]
    ],
    errors=[
        error((2, 3), (4, 3), raises=ValueError, match=r"matmul: inner dimensions differ: \(2, 3\) @ \(4, 3\)[^?]*b.mT would fit"),
        error((2, 3), (4,), raises=ValueError, match=r"expected a.shape\[-1\] == b.shape\[0\], got 3 != 4"),
        error((2, 2, 3), (3, 3, 4), raises=ValueError, match="matmul: batch dimensions do not broadcast"),
        error((), (3,), raises=ValueError, match="matmul: expected at least 1 dimension each"),
        error((2, 3), Draw((3, 4), dtype="int64"), raises=TypeError, match="matmul: dtypes differ: float[0-9]+ and int64"),
    ],
)  # fmt: skip


# ---- the same for operands of a given rank ----


def need_ndim(name: str, **operands: tuple[Any, int]) -> None:
    """Raise unless each operand has so many dimensions."""
    for role, (x, ndim) in operands.items():
        if x.ndim != ndim:
            raise ShapeError(f"{name}: {role} must have {ndim} dimension{'s' * (ndim != 1)}, got shape {x.shape}.")


def _product_errors(name: str, good: tuple[int, ...], b: tuple[int, ...]) -> list[Any]:
    return [error((2, 3, 4, 5), b, raises=ValueError, match=rf"{name}: \w+ must have {len(good)} dimension")]


@composite(
    "mm",
    inputs=("input", "mat2"),
    ref=_matmul_ref,
    samples=[sample((2, 3), (3, 4))],
    errors=_product_errors("mm", (2, 3), (5, 2)),
)
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices.

    Shapes:
        input: (M, K), mat2: (K, N)  ->  out: (M, N)

    >>> tl.mm(tl.tensor([[1.0, 2.0]]), tl.tensor([[3.0], [4.0]])).tolist()
    [[11.0]]
    """
    need_ndim("mm", input=(input, 2), mat2=(mat2, 2))
    return matmul(input, mat2)


def bmm_shape(name: str, a: Tensor, b: Tensor) -> tuple[int, int, int]:
    """(B, M, N) of the products of two batches of matrices; raises where they do not fit."""
    need_ndim(name, a=(a, 3), b=(b, 3))
    if a.shape[0] != b.shape[0]:
        raise ShapeError(f"{name}: batch sizes differ: {a.shape} @ {b.shape}; expected a.shape[0] == b.shape[0].")
    if a.shape[2] != b.shape[1]:
        check_product(a.shape, b.shape)
    return a.shape[0], a.shape[1], b.shape[2]


@composite(
    "bmm",
    inputs=("input", "mat2"),
    ref=_matmul_ref,
    samples=[sample((5, 2, 3), (5, 3, 4))],
    errors=_product_errors("bmm", (5, 2, 3), (5, 3, 4)),
)
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two batches of matrices, without broadcasting.

    Shapes:
        input: (B, M, K), mat2: (B, K, N)  ->  out: (B, M, N)

    >>> tl.bmm(tl.ones(2, 1, 3), tl.ones(2, 3, 1)).tolist()
    [[[3.0]], [[3.0]]]
    """
    bmm_shape("bmm", input, mat2)
    return matmul(input, mat2)


@composite(
    "mv",
    inputs=("input", "vec"),
    ref=_matmul_ref,
    samples=[sample((2, 3), (3,))],
    errors=_product_errors("mv", (2, 3), (5,)),
)
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """A matrix times a vector.

    Shapes:
        input: (M, K), vec: (K,)  ->  out: (M,)

    >>> tl.mv(tl.tensor([[1.0, 2.0]]), tl.tensor([3.0, 4.0])).tolist()
    [11.0]
    """
    need_ndim("mv", input=(input, 2), vec=(vec, 1))
    return matmul(input, vec)


@composite(
    "dot",
    inputs=("input", "tensor"),
    ref=_matmul_ref,
    samples=[sample((3,), (3,))],
    errors=_product_errors("dot", (3,), (5,)),
)
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The sum of the products of two vectors' elements.

    Shapes:
        input, tensor: (K,)  ->  out: ()

    >>> tl.dot(tl.tensor([1, 2]), tl.tensor([3, 4])).item()
    11
    """
    need_ndim("dot", input=(input, 1), tensor=(tensor, 1))
    return matmul(input, tensor)


@composite(
    "vdot",
    inputs=("input", "other"),
    ref=lambda xp, a, b: xp.matmul(xp.conj(a) if a.dtype.kind == "c" else a, b),
    samples=[sample((3,), (3,))],
)
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """As `dot`, with the first vector conjugated.

    >>> tl.vdot(tl.tensor([1.0, 2.0]), tl.tensor([3.0, 4.0])).item()
    11.0
    """
    need_ndim("vdot", input=(input, 1), other=(other, 1))
    return matmul(_conj(input), other)


@composite(
    "inner",
    inputs=("input", "other"),
    ref=lambda xp, a, b: xp.inner(a, b),
    samples=[sample((3,), (3,)), sample((2, 3), (4, 5, 3)), sample((), (3,))],
)
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products along both last dimensions.

    Shapes:
        input: (P..., K), other: (Q..., K)  ->  out: (P..., Q...)

    >>> tl.inner(tl.tensor([[1, 2]]), tl.tensor([[3, 4], [5, 6]])).tolist()
    [[11, 17]]
    """
    if input.ndim == 0 or other.ndim == 0:
        return elementwise.mul(input, other)
    return tensordot(input, other, ([input.ndim - 1], [other.ndim - 1]))


@composite(
    "outer",
    inputs=("input", "vec2"),
    ref=lambda xp, a, b: xp.outer(a, b),
    samples=[sample((3,), (4,)), sample((0,), (2,))],
)
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of an element of a with one of b.

    Shapes:
        input: (M,), vec2: (N,)  ->  out: (M, N)

    >>> tl.outer(tl.tensor([1, 2]), tl.tensor([3, 4])).tolist()
    [[3, 4], [6, 8]]
    """
    need_ndim("outer", input=(input, 1), vec2=(vec2, 1))
    return elementwise.mul(input.unsqueeze(1), vec2)


ger = outer


# ---- over chosen dimensions ----


Shape = tuple[int, ...]


def _tensordot_dims(a: Shape, b: Shape, dims: int | tuple[Shape, Shape]) -> tuple[list[int], list[int]]:
    if isinstance(dims, int):
        most = min(len(a), len(b))
        if not 0 <= dims <= most:
            raise ShapeError(f"tensordot: dims is {dims}, expected 0 to {most} for shapes {a} and {b}.")
        if a[len(a) - dims :] != b[:dims]:
            raise ShapeError(f"tensordot: the last {dims} dimensions of {a} differ from the first {dims} of {b}.")
        return list(range(len(a) - dims, len(a))), list(range(dims))
    over_a = [normalize_dim("tensordot", d, len(a)) for d in dims[0]]
    over_b = [normalize_dim("tensordot", d, len(b)) for d in dims[1]]
    sizes = [a[d] for d in over_a], [b[d] for d in over_b]
    if sizes[0] != sizes[1] or len(set(over_a)) < len(over_a) or len(set(over_b)) < len(over_b):
        raise ShapeError(
            f"tensordot: dims {over_a} of {a} and {over_b} of {b} do not fit; expected distinct dims of the same sizes."
        )
    return over_a, over_b


@lru_cache(maxsize=256)
def _tensordot_plan(
    a: Shape, b: Shape, b_strides: Shape, dims: int | tuple[Shape, Shape]
) -> tuple[list[int] | None, list[int], list[int] | None, list[int], list[int]]:
    """How both operands become matrices (an order of dimensions, None where they have it; rows and columns), and the result's shape."""
    over_a, over_b = _tensordot_dims(a, b, dims)
    order = sorted(range(len(over_b)), key=lambda i: -b_strides[over_b[i]])  # b need not be copied then
    over_a, over_b = [over_a[i] for i in order], [over_b[i] for i in order]
    keep_a, keep_b = ([d for d in range(len(x)) if d not in over] for x, over in ((a, over_a), (b, over_b)))
    rows, columns, k = [a[d] for d in keep_a], [b[d] for d in keep_b], math.prod(a[d] for d in over_a)
    left, right = keep_a + over_a, over_b + keep_b
    return (
        None if left == sorted(left) else left,
        [math.prod(rows), k],
        None if right == sorted(right) else right,
        [k, math.prod(columns)],
        rows + columns,
    )


def tensordot(a: Tensor, b: Tensor, dims: int | Sequence[Any] = 2) -> Tensor:
    """Sums of products over the last `dims` dimensions of a and the first of b, or over the pairs that (dims of a, dims of b) names.

    Shapes:
        a: (P..., K...), b: (K..., Q...)  ->  out: (P..., Q...)

    >>> tl.tensordot(tl.ones(2, 3, 4), tl.ones(3, 4, 5)).shape
    (2, 5)
    """
    if not isinstance(dims, int):
        over_a, over_b = ((d,) if isinstance(d, int) else tuple(d) for d in dims)
        dims = (over_a, over_b)
    order_a, left, order_b, right, whole = _tensordot_plan(a.shape, b.shape, b.stride(), dims)
    a = (a if order_a is None else a.permute(order_a)).reshape(left)
    b = (b if order_b is None else b.permute(order_b)).reshape(right)
    return matmul(a, b).reshape(whole)


@composite(
    "kron",
    inputs=("input", "other"),
    ref=lambda xp, a, b: xp.kron(a, b),
    samples=[
        sample((2, 3), (4, 2)),
        sample((3,), (2,)),
        sample((3,), (2, 2)),
        sample((2, 1, 3), (2,)),
        sample((), (2,)),
    ],
)
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: b, scaled by each element of a, side by side.

    Shapes:
        input: (M..., ), other: (N..., )  ->  out: (M * N, ...), missing dimensions added in front

    >>> tl.kron(tl.tensor([1, 10]), tl.tensor([1, 2, 3])).tolist()
    [1, 2, 3, 10, 20, 30]
    """
    ndim = max(input.ndim, other.ndim)
    left, right = (1,) * (ndim - input.ndim) + input.shape, (1,) * (ndim - other.ndim) + other.shape
    spread_a = input.reshape([n for m in left for n in (m, 1)])
    spread_b = other.reshape([n for m in right for n in (1, m)])
    return elementwise.mul(spread_a, spread_b).reshape([m * n for m, n in zip(left, right, strict=True)])


@composite(
    "trace", inputs=("input",), ref=lambda xp, x: xp.trace(x), samples=[sample((3, 3)), sample((2, 4)), sample((0, 3))]
)
def trace(input: Tensor) -> Tensor:
    """The sum of the main diagonal of a matrix.

    Shapes:
        input: (M, N)  ->  out: ()

    >>> tl.trace(tl.tensor([[1, 2], [3, 4]])).item()
    5
    """
    need_ndim("trace", input=(input, 2))
    return reductions.sum(shape.diagonal(input))


def _cross_ref(xp: Any, a: Any, b: Any, *, dim: int) -> Any:
    return xp.cross(xp.moveaxis(a, dim, -1), xp.moveaxis(b, dim, -1)) if dim == -1 else xp.cross(a, b, axis=dim)


@composite(
    "cross",
    inputs=("input", "other"),
    attrs=("dim",),
    ref=_cross_ref,
    samples=[sample((3,), (3,), dim=-1), sample((2, 3), (2, 3), dim=1), sample((3, 4), (3, 4), dim=0)],
    errors=[error((2, 4), (2, 4), dim=1, raises=ValueError, match="cross: dim 1 has size 4")],
)
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The vector product in three dimensions, along `dim` (by default the first of size 3).

    Shapes:
        input, other: (..., 3, ...), broadcast together  ->  out: the common shape

    >>> tl.cross(tl.tensor([1, 0, 0]), tl.tensor([0, 1, 0])).tolist()
    [0, 0, 1]
    """
    if dim is None:
        if 3 not in input.shape:
            raise ShapeError(f"cross: no dimension of {input.shape} has size 3.")
        dim = input.shape.index(3)
    dim = normalize_dim("cross", dim, input.ndim)
    for x in (input, other):
        if x.ndim != input.ndim or x.shape[dim] != 3:
            raise ShapeError(
                f"cross: dim {dim} has size {x.shape[dim] if dim < x.ndim else 'none'} in {x.shape}; expected 3, in as many dimensions."
            )
    after, before = (
        (rearrange.roll(x, -1, dim) for x in (input, other)),
        (rearrange.roll(x, 1, dim) for x in (other, input)),
    )
    (a1, b1), (b2, a2) = tuple(after), tuple(before)
    return elementwise.sub(elementwise.mul(a1, b2), elementwise.mul(a2, b1))


@composite(
    "matrix_power",
    inputs=("input",),
    attrs=("n",),
    ref=lambda xp, x, *, n: xp.linalg.matrix_power(x, n),
    samples=lambda: [sample((3, 3), n=n) for n in (0, 1, 2, 5)] + [sample((2, 3, 3), n=3), sample((2, 3, 3), n=0)],
    errors=[
        error((2, 3), n=2, raises=ValueError, match="matrix_power: expected square matrices"),
        error((3, 3), n=-1, raises=ValueError, match="matrix_power: n must not be negative"),
    ],
)
def matrix_power(input: Tensor, n: int) -> Tensor:
    """The matrix multiplied n times with itself; the identity for n = 0.

    Shapes:
        input: (..., N, N)  ->  out: as input

    >>> tl.matrix_power(tl.tensor([[1, 1], [0, 1]]), 5).tolist()
    [[1, 5], [0, 1]]
    """
    if input.ndim < 2 or input.shape[-1] != input.shape[-2]:
        raise ShapeError(f"matrix_power: expected square matrices, got shape {input.shape}.")
    if n < 0:
        raise ShapeError(f"matrix_power: n must not be negative, got {n}.")
    if n == 0:
        return shape.clone(
            ops.creation.eye(input.shape[-1], dtype=input.dtype, device=input.device).expand(input.shape)
        )
    power, out = input, None
    while n:
        if n & 1:
            out = power if out is None else matmul(out, power)
        n >>= 1
        if n:
            power = matmul(power, power)
    return shape.clone(input) if out is input else out  # type: ignore[return-value]


def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of several matrices, multiplied in the order that takes the fewest operations.

    Shapes:
        matrices: (N0, N1), (N1, N2), ..., (Nk-1, Nk)  ->  out: (N0, Nk)

    >>> tl.chain_matmul(tl.ones(2, 3), tl.ones(3, 4), tl.ones(4, 1)).tolist()
    [[12.0], [12.0]]
    """
    given = list(matrices[0]) if len(matrices) == 1 and not isinstance(matrices[0], Tensor) else list(matrices)
    if not given:
        raise ShapeError("chain_matmul: expected at least one matrix, got none.")
    for i, x in enumerate(given):
        need_ndim("chain_matmul", **{f"matrix {i}": (x, 2)})
    sizes = [given[0].shape[0], *(x.shape[1] for x in given)]
    best: dict[tuple[int, int], tuple[int, int]] = {
        (i, i): (0, i) for i in range(len(given))
    }  # (first, last) -> (cost, where to split)
    for length in range(1, len(given)):
        for i in range(len(given) - length):
            j = i + length
            best[i, j] = min(
                (best[i, s][0] + best[s + 1, j][0] + sizes[i] * sizes[s + 1] * sizes[j + 1], s) for s in range(i, j)
            )

    def product(i: int, j: int) -> Tensor:
        split = best[i, j][1]
        return given[i] if i == j else matmul(product(i, split), product(split + 1, j))

    return product(0, len(given) - 1)
