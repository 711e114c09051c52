"""A matrix product, scaled and added to something: addmm and its kin, in one pass over their result.

Dimension letters as in linalg.py.
"""

from __future__ import annotations

from typing import Any

from tensorlib.errors import ShapeError
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.fused import handle
from tensorlib.ops.linalg import bmm_shape, matmul, need_ndim, outer
from tensorlib.ops.table import BATCH, error, sample
from tensorlib.tensor import Tensor

Scalar = bool | int | float

__all__ = ["addbmm", "addmm", "addmv", "addr", "baddbmm"]
METHODS = INPLACE = tuple(__all__)


def _scaled_sum(x: Any, product: Any, beta: Scalar, alpha: Scalar) -> Any:
    """beta * x + alpha * product; where beta is 0, x is not looked at (NaN and inf in it do not spread)."""
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    if lib.tl_autocast_dtype() and isinstance(x, Tensor) and product.dtype.itemsize == 2:
        x = x.to(product.dtype)
    return (x if beta == 1 else x * beta) + product


def _added_ref(xp: Any, x: Any, a: Any, b: Any, *, beta: Scalar, alpha: Scalar) -> Any:
    return _scaled_sum(x, xp.matmul(a, b), beta, alpha)


_SCALES: list[dict[str, Any]] = [{"beta": 1, "alpha": 1}, {"beta": 0.5, "alpha": -2.0}, {"beta": 0, "alpha": 3}]


def _check_added(name: str, x: Tensor, expected: tuple[int, ...]) -> None:
    fits = x.ndim <= len(expected) and all(
        n in (1, e) for n, e in zip(reversed(x.shape), reversed(expected), strict=False)
    )
    if not fits:
        raise ShapeError(f"{name}: input of shape {x.shape} does not broadcast to the product's shape {expected}.")


LONG = 64  # terms of each product from which it costs less to add up a batch of products than to copy its operands into one


# ---- the kernel ----


def _scaled_product_ref(xp: Any, x: Any, a: Any, b: Any, *, beta: Scalar, alpha: Scalar, over_batch: bool) -> Any:
    product = xp.matmul(a, b)
    return _scaled_sum(x, product.sum(0, dtype=a.dtype) if over_batch else product, beta, alpha)


def _times(a: Tensor, b: Tensor, alpha: Scalar) -> Tensor:
    return scaled_product(None, a, b, beta=0, alpha=alpha, over_batch=False)


# x None: nothing is added. over_batch: of the sum of a batch's products, which follow each other in one sum without a copy.
scaled_product = structured(
    "scaled_product",
    autocast="lower",
    inputs=("x", "a", "b"),
    attrs=("beta", "alpha", "over_batch"),
    dtype=rules.promoted,
    ref=_scaled_product_ref,
    vjp=(
        lambda g, beta: g if beta == 1 else g * beta,
        lambda g, b, alpha: _times(g.unsqueeze(-1), b.unsqueeze(0), alpha) if b.ndim == 1 else _times(g, b.mT, alpha),
        lambda g, a, alpha: _times(a.mT, g, alpha),
    ),
    native=lambda line, x, a, b, beta, alpha, over_batch: lib.tl_scaled_product(
        handle(x), a._array, b._array, beta, alpha, over_batch, line
    ),
    decode=lambda node: {
        "beta": lib.tl_node_real(node, 0),
        "alpha": lib.tl_node_real(node, 1),
        "over_batch": bool(lib.tl_node_int(node, 0)),
    },
    rowwise=lambda: [
        sample((BATCH, 40), (BATCH, 300), (300, 40), beta=0.5, alpha=2.0, over_batch=False),
        sample((BATCH, 600), (BATCH, 300), (300, 600), beta=1.0, alpha=-1.0, over_batch=False),
        sample((20, 40), (BATCH, 20, 30), (BATCH, 30, 40), beta=0.5, alpha=2.0, over_batch=False),
        sample((BATCH,), (BATCH, 300), (300,), beta=0.5, alpha=2.0, over_batch=False),
    ],
    samples=lambda: [
        *(
            sample(x, (2, 3), (3, 4), **s, over_batch=False)
            for x in [None, (2, 4), (2, 1), ()]
            for s in _SCALES
            if x is not None or s["beta"] == 0
        ),
        *(
            sample(x, (4, 2, 3), (4, 3, 5), **s, over_batch=True)
            for x in [None, (2, 5), (5,)]
            for s in _SCALES
            if x is not None or s["beta"] == 0
        ),
        sample((5, 1), (2, 5, 3), (2, 3, 4), beta=2.0, alpha=1, over_batch=False),
        sample((7,), (7, 33), (33,), beta=2.0, alpha=0.5, over_batch=False),
    ],
    private=True,
)


def _plus_product(x: Tensor, a: Tensor, b: Tensor, beta: Scalar, alpha: Scalar, over_batch: bool = False) -> Tensor:
    """In the kernel where it may serve; of integers, and of dtypes that differ, as it is put together."""
    if a.dtype.is_floating_point and a.dtype is b.dtype is x.dtype:
        return scaled_product(x, a, b, beta=beta, alpha=alpha, over_batch=over_batch)
    product = matmul(a, b)
    return _scaled_sum(x, product.sum(0, dtype=a.dtype) if over_batch else product, beta, alpha)


# ---- the operations ----


@composite(
    "addmm",
    inputs=("input", "mat1", "mat2"),
    attrs=("beta", "alpha"),
    ref=_added_ref,
    samples=lambda: [sample(x, (2, 3), (3, 4), **s) for x in [(2, 4), (4,), (2, 1), ()] for s in _SCALES],
    rowwise=[sample((400,), (BATCH, 300), (300, 400))],
    errors=[
        error(
            (3, 4),
            (2, 3),
            (3, 4),
            beta=1,
            alpha=1,
            raises=ValueError,
            match=r"addmm: input of shape \(3, 4\) does not broadcast",
        )
    ],
)
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta * input + alpha * (mat1 @ mat2)``. With beta 0, NaN and inf in input do not spread.

    Shapes:
        input: broadcasts to (M, N), mat1: (M, K), mat2: (K, N)  ->  out: (M, N)

    >>> tl.addmm(tl.ones(1), tl.ones(2, 3), tl.ones(3, 1)).tolist()
    [[4.0], [4.0]]
    """
    need_ndim("addmm", mat1=(mat1, 2), mat2=(mat2, 2))
    _check_added("addmm", input, (mat1.shape[0], mat2.shape[1]))
    return _plus_product(input, mat1, mat2, beta, alpha)


@composite(
    "addmv",
    inputs=("input", "mat", "vec"),
    attrs=("beta", "alpha"),
    ref=_added_ref,
    samples=lambda: [sample(x, (2, 3), (3,), **s) for x in [(2,), ()] for s in _SCALES],
)
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta * input + alpha * (mat @ vec)``.

    Shapes:
        input: broadcasts to (M,), mat: (M, K), vec: (K,)  ->  out: (M,)

    >>> tl.addmv(tl.ones(2), tl.ones(2, 3), tl.ones(3)).tolist()
    [4.0, 4.0]
    """
    need_ndim("addmv", mat=(mat, 2), vec=(vec, 1))
    _check_added("addmv", input, (mat.shape[0],))
    return _plus_product(input, mat, vec, beta, alpha)


@composite(
    "addr",
    inputs=("input", "vec1", "vec2"),
    attrs=("beta", "alpha"),
    ref=lambda xp, x, a, b, *, beta, alpha: _scaled_sum(x, xp.outer(a, b), beta, alpha),
    samples=lambda: [sample(x, (2,), (3,), **s) for x in [(2, 3), (3,)] for s in _SCALES[:2]],
)
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta * input + alpha * outer(vec1, vec2)``.

    Shapes:
        input: broadcasts to (M, N), vec1: (M,), vec2: (N,)  ->  out: (M, N)

    >>> tl.addr(tl.ones(2, 2), tl.ones(2), tl.ones(2)).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    need_ndim("addr", vec1=(vec1, 1), vec2=(vec2, 1))
    _check_added("addr", input, (vec1.shape[0], vec2.shape[0]))
    return _scaled_sum(input, outer(vec1, vec2), beta, alpha)


@composite(
    "baddbmm",
    inputs=("input", "batch1", "batch2"),
    attrs=("beta", "alpha"),
    ref=_added_ref,
    samples=lambda: [sample(x, (5, 2, 3), (5, 3, 4), **s) for x in [(5, 2, 4), (1, 2, 4), (4,)] for s in _SCALES],
    rowwise=[sample((BATCH, 20, 40), (BATCH, 20, 30), (BATCH, 30, 40), alpha=0.5)],
)
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta * input + alpha * (batch1 @ batch2)`` for batches of matrices.

    Shapes:
        input: broadcasts to (B, M, N), batch1: (B, M, K), batch2: (B, K, N)  ->  out: (B, M, N)

    >>> tl.baddbmm(tl.ones(1), tl.ones(2, 1, 3), tl.ones(2, 3, 1)).tolist()
    [[[4.0]], [[4.0]]]
    """
    _check_added("baddbmm", input, bmm_shape("baddbmm", batch1, batch2))
    return _plus_product(input, batch1, batch2, beta, alpha)


@composite(
    "addbmm",
    inputs=("input", "batch1", "batch2"),
    attrs=("beta", "alpha"),
    ref=lambda xp, x, a, b, *, beta, alpha: _scaled_sum(x, xp.matmul(a, b).sum(0, dtype=a.dtype), beta, alpha),
    samples=lambda: [sample(x, (5, 2, 3), (5, 3, 4), **s) for x in [(2, 4), (4,)] for s in _SCALES],
)
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta * input + alpha * (the sum of batch1[i] @ batch2[i])``.

    Shapes:
        input: broadcasts to (M, N), batch1: (B, M, K), batch2: (B, K, N)  ->  out: (M, N)

    >>> tl.addbmm(tl.ones(1), tl.ones(2, 1, 3), tl.ones(2, 3, 1)).tolist()
    [[7.0]]
    """
    batch, *shape = bmm_shape("addbmm", batch1, batch2)
    _check_added("addbmm", input, tuple(shape))
    inner = batch1.shape[2]
    if inner >= LONG and batch and shape[1] > 1:
        return _plus_product(input, batch1, batch2, beta, alpha, over_batch=True)
    rows, columns = batch1.permute(1, 0, 2).reshape(shape[0], batch * inner), batch2.reshape(batch * inner, shape[1])
    return _plus_product(input, rows, columns, beta, alpha)
