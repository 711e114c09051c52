"""Diagonals and triangles of matrices; `diagonal`, the view, is in shape.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import ops
from tensorlib.errors import ShapeError
from tensorlib.ops import rules, shape
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.shape import normalize_dim
from tensorlib.ops.table import error, sample
from tensorlib.tensor import Tensor

if TYPE_CHECKING:
    from tensorlib.dtypes import DType

__all__ = ["diag", "diag_embed", "diagflat", "tril", "tril_indices", "triu", "triu_indices"]
METHODS = ("diag", "diag_embed", "diagflat", "fill_diagonal_", "tril", "triu")
INPLACE = ("tril", "triu")


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Square matrices with input's last dimension on the diagonal `offset` above (below where negative) the main one, zeros elsewhere.

    Shapes:
        input: (..., L)  ->  out: (..., N, N), N = L + abs(offset), its matrices in dimensions dim1 and dim2

    >>> tl.diag_embed(tl.tensor([1, 2])).tolist()
    [[1, 0], [0, 2]]
    """
    if input.ndim == 0:
        raise ShapeError("diag_embed: expected at least 1 dimension, got a tensor of shape ().")
    a, b = (normalize_dim("diag_embed", d, input.ndim + 1) for d in (dim1, dim2))
    if a == b:
        raise ShapeError(
            f"diag_embed: dim1 and dim2 are the same dimension: {dim1} and {dim2}; expected two different ones."
        )
    return _diag_embed(input, offset=offset, dim1=a, dim2=b)


def _diag_embed_ref(xp: Any, x: Any, *, offset: int, dim1: int, dim2: int) -> Any:
    length = x.shape[-1]
    size = length + (offset if offset > 0 else -offset)
    out = xp.zeros((*x.shape[:-1], size, size), dtype=x.dtype)
    places = xp.arange(length)
    out[..., places + max(-offset, 0), places + max(offset, 0)] = x
    return xp.moveaxis(out, (-2, -1), (dim1, dim2))


_diag_embed = structured(
    "diag_embed",
    inputs=("x",),
    attrs=("offset", "dim1", "dim2"),
    dtype=rules.promoted,
    ref=_diag_embed_ref,
    vjp=(lambda g, *, offset, dim1, dim2: shape.diagonal(g, offset, dim1, dim2),),
    samples=[
        sample((3,), offset=0, dim1=0, dim2=1), sample((2, 3), offset=1, dim1=0, dim2=2), sample((2, 3), offset=-2, dim1=2, dim2=1),
        sample((2, 0), offset=1, dim1=1, dim2=2),
    ],
    errors=[
        error((3,), offset=0, dim1=1, dim2=-1, raises=ValueError, match="diag_embed: dim1 and dim2 are the same"),
        error((), offset=0, dim1=0, dim2=1, raises=ValueError, match="diag_embed: expected at least 1 dimension"),
    ],
)  # fmt: skip


@composite(
    "diag",
    inputs=("input",),
    attrs=("diagonal",),
    ref=lambda xp, x, *, diagonal: xp.diag(x, k=diagonal),
    samples=[
        sample((3,), diagonal=0),
        sample((3,), diagonal=-2),
        sample((3, 4), diagonal=1),
        sample((3, 4), diagonal=-1),
        sample((0,), diagonal=0),
    ],
    errors=[error((2, 3, 4), diagonal=0, raises=ValueError, match="diag: expected 1 or 2 dimensions, got 3")],
)
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The matrix with input on its diagonal, or the diagonal of the matrix input (a copy; `diagonal()` gives a view).

    Shapes:
        input: (L,)  ->  out: (N, N), N = L + abs(diagonal);    input: (M, N)  ->  out: (L,)

    >>> tl.diag(tl.tensor([[1, 2], [3, 4]])).tolist()
    [1, 4]
    """
    if input.ndim == 1:
        return diag_embed(input, diagonal)
    if input.ndim != 2:
        raise ShapeError(f"diag: expected 1 or 2 dimensions, got {input.ndim} (shape {input.shape}).")
    return shape.clone(shape.diagonal(input, diagonal))


def _triangle(name: str) -> Any:
    op = structured(
        name,
        inputs=("x",),
        attrs=("diagonal",),
        dtype=rules.promoted,
        ref=lambda xp, x, *, diagonal: getattr(xp, name)(x, diagonal),
        vjp=(lambda g, *, diagonal: op(g, diagonal=diagonal),),
        samples=[
            sample((3, 3), diagonal=0),
            sample((2, 3, 4), diagonal=1),
            sample((4, 3), diagonal=-2),
            sample((0, 3), diagonal=0),
        ],
        errors=[error((3,), diagonal=0, raises=ValueError, match=f"{name}: expected at least 2 dimensions")],
    )
    return op


_tril, _triu = _triangle("tril"), _triangle("triu")


def _need_matrix(name: str, x: Tensor) -> None:
    if x.ndim < 2:
        raise ShapeError(f"{name}: expected at least 2 dimensions, got {x.ndim} (shape {x.shape}).")


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle, up to and including `diagonal` (0 the main one, 1 the one above); zeros elsewhere.

    Shapes:
        input: (..., M, N)  ->  out: as input

    >>> tl.tril(tl.tensor([[1, 2], [3, 4]])).tolist()
    [[1, 0], [3, 4]]
    """
    _need_matrix("tril", input)
    return _tril(input, diagonal=diagonal)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle, from `diagonal` (0 the main one, 1 the one above) on; zeros elsewhere.

    Shapes:
        input: (..., M, N)  ->  out: as input

    >>> tl.triu(tl.tensor([[1, 2], [3, 4]])).tolist()
    [[1, 2], [0, 4]]
    """
    _need_matrix("triu", input)
    return _triu(input, diagonal=diagonal)


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Row and column numbers of the lower triangle of a (row, col) matrix, in reading order.

    Shapes:
        out: (2, number of elements), int64

    >>> tl.tril_indices(2, 2).tolist()
    [[0, 1, 1], [0, 0, 1]]
    """
    return ops.creation.tensor(np.stack(np.tril_indices(row, offset, col)), dtype=dtype, device=device)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Row and column numbers of the upper triangle of a (row, col) matrix, in reading order.

    Shapes:
        out: (2, number of elements), int64

    >>> tl.triu_indices(2, 2).tolist()
    [[0, 0, 1], [0, 1, 1]]
    """
    return ops.creation.tensor(np.stack(np.triu_indices(row, offset, col)), dtype=dtype, device=device)


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The matrix with all elements of input on its diagonal `offset`.

    >>> tl.diagflat(tl.tensor([[1], [2]])).tolist()
    [[1, 0], [0, 2]]
    """
    return diag_embed(input.reshape(-1), offset)


def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Overwrite the elements whose indices are all equal; with `wrap`, those of a tall matrix again behind each square of it.

    >>> tl.zeros(2, 3).fill_diagonal_(1).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    if self.ndim < 2 or (self.ndim > 2 and len({*self.shape}) > 1):
        raise ShapeError(f"fill_diagonal_: expected a matrix, or dimensions of one size, got shape {self.shape}.")
    if self.ndim > 2:
        shape.as_strided(self, (self.shape[0],), (sum(self.stride()),), self.storage_offset()).fill_(fill_value)
        return self
    rows, columns = self.shape
    for top in range(0, rows if wrap else min(rows, 1), columns + 1):
        self[top:].diagonal().fill_(fill_value)
    return self
