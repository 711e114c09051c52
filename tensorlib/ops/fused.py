"""Operations of neural networks that have a kernel of their own, each with its definition in plain operations beside it.

An entry's `composite` is the oracle of the tests, `native` the kernel's fast lane, `decode` reads a recorded node's attributes back from the
numbers that C keeps in it. An absent weight or bias is None.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, cast

from tensorlib import ops
from tensorlib.errors import DTypeError, GradError, IndexRangeError, ShapeError
from tensorlib.lines import KNOWN, here
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import structured
from tensorlib.ops.rows import RowMethods
from tensorlib.ops.shape import normalize_dim
from tensorlib.ops.table import BATCH, NATIVE_NUMBERS, Draw, error, sample
from tensorlib.sparse import embedding_gradient
from tensorlib.tensor import wrap

if TYPE_CHECKING:
    from tensorlib.dtypes import DType
    from tensorlib.tensor import Tensor

__all__ = ["dropout", "embedding", "linear", "log_softmax", "softmax"]
METHODS = ("log_softmax", "softmax")
INPLACE: tuple[str, ...] = ()

_frame, _line_of = sys._getframe, KNOWN.get


def handle(t: Tensor | None) -> int:
    return 0 if t is None else t._array


def caller() -> int:
    """The line that called the function that calls this."""
    frame = _frame(2)
    return _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)


# The public functions call the kernel at once: C checks what it is given. Only where it declines, or an operand is none at all (the
# exceptions below), do they look closer, word the error or take the entry's slow path.
SLOW = (AttributeError, TypeError, KeyError)


# ---- softmax ----


def _softmax_ref(xp: Any, x: Any, *, dim: int) -> Any:
    if x.size == 0:
        return x.copy()
    e = xp.exp(x - x.max(axis=dim, keepdims=True))
    return e / e.sum(axis=dim, keepdims=True)


def log_softmax_ref(xp: Any, x: Any, *, dim: int) -> Any:
    if x.size == 0:
        return x.copy()
    shifted = x - x.max(axis=dim, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=dim, keepdims=True))


def _softmax_plain(x: Tensor, *, dim: int) -> Tensor:
    if x.numel() == 0:
        return x.clone()
    e = (x - x.detach().amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


def _log_softmax_plain(x: Tensor, *, dim: int) -> Tensor:
    if x.numel() == 0:
        return x.clone()
    shifted = x - x.detach().amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _row_samples() -> list[Any]:
    shapes = [((), 0), ((5,), 0), ((0, 3), 1), ((3, 0), 1), ((4, 17), -1), ((2, 3, 4), 1), ((3, 70), 0)]
    draws = [sample(shape, dim=dim) for shape, dim in shapes]
    return [*draws, sample(Draw((3, 4), special=(-math.inf, 1e4, -1e4, 88.0)), dim=1)]


_ROWS = [
    sample(shape, dim=dim)
    for shape, dim in [((BATCH, 67), 1), ((BATCH, 2000), 1), ((BATCH, 5, 70), 1), ((BATCH, 20, 300), 1), ((BATCH, 3, 33), 2)]
]  # fmt: skip
_SOFTMAX, _LOG_SOFTMAX = NATIVE_NUMBERS["softmax"], NATIVE_NUMBERS["log_softmax"]
_ROW_ERRORS = (error((2, 3), dim=2, raises=IndexError, match="dim 2 is out of range"),)

_softmax = structured(
    "softmax",
    inputs=("x",),
    attrs=("dim",),
    dtype=rules.floating,
    ref=_softmax_ref,
    vjp=(lambda g, out, dim: out * (g - (g * out).sum(dim, keepdim=True)),),
    composite=_softmax_plain,
    native=lambda line, x, dim: lib.tl_row(_SOFTMAX, x._array, dim, line),
    rowwise=_ROWS,
    decode=lambda node: {"dim": lib.tl_node_int(node, 0)},
    samples=_row_samples,
    errors=_ROW_ERRORS,
)

_log_softmax = structured(
    "log_softmax",
    inputs=("x",),
    attrs=("dim",),
    dtype=rules.floating,
    ref=log_softmax_ref,
    vjp=(lambda g, out, dim: g - out.exp() * g.sum(dim, keepdim=True),),
    composite=_log_softmax_plain,
    native=lambda line, x, dim: lib.tl_row(_LOG_SOFTMAX, x._array, dim, line),
    rowwise=_ROWS,
    decode=lambda node: {"dim": lib.tl_node_int(node, 0)},
    samples=_row_samples,
    errors=_ROW_ERRORS,
)


def softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """``exp(input) / sum(exp(input))`` along one dimension, without overflow.

    Shapes:
        input: (..., L, ...)  ->  out: the same, non-negative, sums of 1 along `dim`; converted to `dtype` first where given

    >>> tl.softmax(tl.zeros(4), 0).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    if dtype is None:
        try:
            if made := lib.tl_row(_SOFTMAX, input._array, dim if dim >= 0 else dim + input.ndim, caller()):
                return wrap(made)
        except SLOW:
            pass
    return _softmax(input if dtype is None else input.to(dtype), dim=normalize_dim("softmax", dim, input.ndim))


def log_softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """``log(softmax(input))`` along one dimension, exact also where the softmax underflows.

    Shapes:
        input: (..., L, ...)  ->  out: the same; converted to `dtype` first where given

    >>> tl.log_softmax(tl.tensor([0.0, 200.0]), 0).tolist()
    [-200.0, 0.0]
    """
    if dtype is None:
        try:
            if made := lib.tl_row(_LOG_SOFTMAX, input._array, dim if dim >= 0 else dim + input.ndim, caller()):
                return wrap(made)
        except SLOW:
            pass
    return _log_softmax(input if dtype is None else input.to(dtype), dim=normalize_dim("log_softmax", dim, input.ndim))


# ---- linear ----


def as_rows(t: Tensor) -> Tensor:
    """(..., D) as (rows, D), also where there are no elements."""
    return t.reshape((math.prod(t.shape[:-1]), t.shape[-1]))


def _linear_ref(xp: Any, x: Any, weight: Any, bias: Any) -> Any:
    out = xp.matmul(x, weight.T)
    return out if bias is None else out + bias


def _linear_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = x @ weight.mT
    return out if bias is None else out + bias


_linear = structured(
    "linear",
    autocast="half",
    inputs=("x", "weight", "bias"),
    dtype=rules.promoted,
    ref=_linear_ref,
    vjp=(
        lambda g, weight: g @ weight,
        lambda g, x: as_rows(g).mT @ as_rows(x),
        lambda g: g,
    ),
    composite=_linear_plain,
    native=lambda line, x, weight, bias: lib.tl_linear(
        x._array, weight._array, 0 if bias is None else bias._array, line
    ),
    samples=[
        sample((5,), (3, 5), (3,)),
        sample((4, 5), (3, 5), None),
        sample((2, 0, 5), (3, 5), (3,)),
        sample((2, 3, 1), (4, 1), (4,)),
        sample((4, 0), (3, 0), (3,)),
        sample((33, 17), (16, 17), (16,)),
    ],
    rowwise=[
        sample((BATCH, 5), (3, 5), (3,)),
        sample((BATCH, 33), (40, 33), (40,)),
        sample((BATCH, 7, 64), (48, 64), None),
        sample((BATCH, 784), (512, 784), (512,)),
        sample((BATCH, 2000), (30, 2000), None),
        sample((BATCH, 300), (1, 300), (1,)),
    ],
    errors=[
        error((2, 3), (4, 5), raises=ValueError, match=r"linear: .* \(2, 3\) .* \(4, 5\)"),
        error((2, 5), (4, 5), (3,), raises=ValueError, match=r"linear: bias has shape \(3,\)"),
        error((), (4, 5), raises=ValueError, match="linear: x"),
        error((2, 5), (1, 4, 5), raises=ValueError, match="linear: weight"),
    ],
)


_tl_linear, _tl_embedding = lib.tl_linear, lib.tl_embedding


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Affine map ``input @ weight.T + bias``.

    Shapes:
        input: (..., D_in), weight: (D_out, D_in), bias: (D_out,)  ->  out: (..., D_out)
        weight: (D_in,), bias: ()                              ->  out: (...)

    >>> tl.linear(tl.ones(2, 3), tl.ones(1, 3), tl.tensor([0.5])).tolist()
    [[3.5], [3.5]]
    """
    try:
        if made := _tl_linear(input._array, weight._array, 0 if bias is None else bias._array, caller()):
            return wrap(made)
    except SLOW:
        pass
    try:
        return _linear(input, weight, bias)
    except (ShapeError, ValueError, TypeError):
        if weight.ndim == 1 and input.ndim and input.shape[-1] == weight.shape[0]:
            return input @ weight if bias is None else input @ weight + bias
        check_linear("linear", input, weight, bias, ndims=(1, 2))
        raise


def check_linear(name: str, x: Tensor, weight: Tensor, bias: Tensor | None, ndims: tuple[int, ...] = (2,)) -> None:
    if weight.ndim not in ndims:
        raise ShapeError(f"{name}: weight must have shape (D_out, D_in), got {weight.shape}.")
    if x.ndim == 0:
        raise ShapeError(f"{name}: x must have shape (..., D_in), got ().")
    if x.shape[-1] != weight.shape[-1]:
        raise ShapeError(
            f"{name}: input of shape {x.shape} does not fit weight of shape {weight.shape}; expected input.shape[-1] == {weight.shape[-1]}, "
            f"got {x.shape[-1]}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"{name}: bias has shape {bias.shape}, expected {weight.shape[:1]}.")


# ---- embedding ----


def _embedding_ref(xp: Any, weight: Any, index: Any, *, padding_idx: int, how: int) -> Any:
    wrong = (index < 0) | (index >= weight.shape[0])
    if bool(wrong.any()):
        raise IndexRangeError(
            f"embedding: index {int(index[wrong][0])} is out of range; expected one in [0, {weight.shape[0]})."
        )
    return weight[index]


DENSE, SPARSE, BY_FREQUENCY = range(3)  # how the gradient of a table comes


def _frequency(index: Tensor, dtype: DType) -> Tensor:
    """How often each position's row is named, (..., 1)."""
    _, where, counts = ops.sorting.unique(index.reshape(-1), return_inverse=True, return_counts=True)
    return counts[where.reshape(-1)].to(dtype).reshape((*index.shape, 1))


def embedding_grad(g: Tensor, weight_shape: tuple[int, ...], index: Tensor, padding_idx: int, how: int) -> Tensor:
    if how == SPARSE:
        return embedding_gradient(g, index, weight_shape, padding_idx)
    if how == BY_FREQUENCY:
        g = g / _frequency(index, g.dtype)
    if padding_idx >= 0:
        g = g * (index != padding_idx).unsqueeze(-1)
    rows = g.reshape((index.numel(), weight_shape[-1]))
    start = ops.creation.zeros(weight_shape, dtype=g.dtype, device=g.device)
    return ops.positions.index_add(start, 0, index.reshape(-1), rows)


embedding_rows = structured(
    "embedding",
    inputs=("weight", "index"),
    attrs=("padding_idx", "how"),
    dtype=rules.as_is,
    ref=_embedding_ref,
    vjp=(embedding_grad, None),
    composite=lambda weight, index, *, padding_idx, how: _embedding_plain(weight, index, padding_idx, how),
    native=lambda line, weight, index, padding_idx, how: lib.tl_embedding(
        weight._array, index._array, padding_idx, how, line
    ),
    decode=lambda node: {"padding_idx": lib.tl_node_int(node, 0), "how": lib.tl_node_int(node, 1)},
    samples=lambda: [
        sample((7, 3), Draw((4,), dtype="int64", values=[0, 6, 2, 2]), padding_idx=-1, how=DENSE),
        sample((7, 3), Draw((2, 2), dtype="int64", values=[0, 6, 2, 2]), padding_idx=2, how=DENSE, smooth=False),
        sample((7, 3), Draw((), dtype="int32", values=[5]), padding_idx=-1, how=DENSE),
        sample((7, 3), Draw((0, 2), dtype="int64", values=[]), padding_idx=-1, how=DENSE),
        sample((5, 70), Draw((3,), dtype="int64", values=[4, 0, 4]), padding_idx=0, how=DENSE, smooth=False),
        sample((7, 3), Draw((2, 2), dtype="int64", values=[0, 6, 2, 2]), padding_idx=0, how=BY_FREQUENCY, smooth=False),
        sample((7, 3), Draw((0,), dtype="int64", values=[]), padding_idx=-1, how=BY_FREQUENCY, smooth=False),
    ],
    rowwise=lambda: [
        sample((50, 33), Draw((BATCH, *more), 0, 50, dtype="int64"), padding_idx=-1, how=DENSE) for more in [(), (7,)]
    ],
    errors=[
        error(Draw((2,), dtype="int64", values=[0, 7]), (7, 3), raises=IndexError, match="index 7 is out of range"),
        error(Draw((2,), dtype="int64", values=[0, -1]), (7, 3), raises=IndexError, match="index -1 is out of range"),
        error((2,), (7, 3), raises=TypeError, match="must be an integer tensor, got float"),
        error(Draw((1,), dtype="int64", values=[0]), (7,), raises=ValueError, match=r"weight must have shape \(V, D\)"),
        error(Draw((1,), dtype="int64", values=[0]), (7, 3), padding_idx=7, raises=IndexError, match="padding_idx 7"),
    ],
)


def _embedding_plain(weight: Tensor, index: Tensor, padding_idx: int, how: int) -> Tensor:
    rows = ops.positions.index_select(weight, 0, index.reshape(-1)).reshape((*index.shape, weight.shape[1]))
    if how == BY_FREQUENCY:
        rows = rows.detach() + (rows - rows.detach()) / _frequency(index, rows.dtype)
    return ops.elementwise.where((index == padding_idx).unsqueeze(-1), rows.detach(), rows)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of a table by integer index. The row `padding_idx` gets no gradient; `max_norm` first shrinks longer rows in place.

    `scale_grad_by_freq` divides a row's gradient by how often it is named. With `sparse`, the gradient of a leaf `weight` holds only the rows
    that are named (`tl.SparseTensor`); SGD, Adagrad and SparseAdam then touch no others.

    Shapes:
        input: (...) integer in [0, V), weight: (V, D)  ->  out: (..., D)

    >>> tl.embedding(tl.tensor([1, 0]), tl.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[3.0, 4.0], [1.0, 2.0]]
    """
    if padding_idx is max_norm is None and not scale_grad_by_freq:
        try:
            if made := _tl_embedding(weight._array, input._array, -1, SPARSE if sparse else DENSE, caller()):
                return wrap(made)
        except SLOW:
            pass
    if scale_grad_by_freq and sparse:
        raise GradError("embedding: scale_grad_by_freq does not go with sparse gradients.")
    if weight.ndim != 2:
        raise ShapeError(f"embedding: weight must have shape (V, D), got {weight.shape}.")
    if input.dtype.category != 1:
        raise DTypeError(f"embedding: input must be an integer tensor, got {input.dtype.name}.")
    padding = -1
    if padding_idx is not None:
        rows = weight.shape[0]
        if not -rows <= padding_idx < rows:
            raise IndexRangeError(f"embedding: padding_idx {padding_idx} is out of range for {rows} rows.")
        padding = padding_idx % rows
    if max_norm is not None:
        if isinstance(input, RowMethods):
            return cast(
                "Tensor",
                input.map_rows(embedding, input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse),
            )
        shrink_rows(weight, input, max_norm, norm_type)
    how = SPARSE if sparse else BY_FREQUENCY if scale_grad_by_freq else DENSE
    return embedding_rows(weight, input, padding_idx=padding, how=how)


def shrink_rows(weight: Tensor, index: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows in use whose norm is above `max_norm` down to it, in place and unrecorded."""
    table = weight.detach()
    used = ops.sorting.unique(index.reshape(-1))
    rows = ops.positions.index_select(table, 0, used)
    norm = rows.norm(norm_type, 1, keepdim=True)
    scaled = ops.elementwise.where(norm > max_norm, rows * (max_norm / (norm + 1e-7)), rows)
    table[used] = scaled


# ---- dropout ----


def next_draw(n: int) -> tuple[int, int]:
    """Key and counter of a draw of `n` numbers from the default generator, which moves past it."""
    from tensorlib.random import default_generator

    return default_generator().next(n)


def _kept(xp: Any, shape: tuple[int, ...], p: float, key: int, counter: int) -> Any:
    """Which elements dropout keeps: element i reads the i-th uniform number of the draw, as in native/random.c."""
    from tensorlib.ops.philox import uniform

    return (uniform(xp, math.prod(shape), key, counter) >= xp.float32(p)).reshape(shape)


def _dropout_ref(xp: Any, x: Any, *, p: float, key: int, counter: int) -> Any:
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return xp.where(_kept(xp, x.shape, p, key, counter), x * x.dtype.type(scale), x.dtype.type(0))


_KEYS = 2**64 - 1  # C keeps them as signed numbers

_dropout = structured(
    "dropout",
    inputs=("x",),
    attrs=("p", "key", "counter"),
    dtype=rules.floating,
    ref=_dropout_ref,
    vjp=(
        lambda g, p, key, counter: _dropout(g, p=p, key=key, counter=counter),
    ),  # linear in x: the same mask again, nothing is kept
    native=lambda line, x, p, key, counter: lib.tl_dropout(x._array, p, key, counter, line),
    decode=lambda node: {
        "p": lib.tl_node_real(node, 0),
        "key": lib.tl_node_int(node, 0),
        "counter": lib.tl_node_int(node, 1),
    },
    samples=[sample(s, p=p, key=7, counter=11) for s in [(), (5,), (0, 3), (3, 70)] for p in (0.25, 1.0)],
    errors=[error((3,), p=1.5, raises=ValueError, match="p must be a probability")],
)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability `p` and scale the others by ``1 / (1 - p)``; the input itself where not `training`.

    The mask depends on the generator's state and the shape alone, not on threads or device.

    Reference: Srivastava et al. 2014.

    >>> tl.dropout(tl.ones(3), p=0.5, training=False).tolist()
    [1.0, 1.0, 1.0]
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be a probability in [0, 1], got {p}.")
    if not training or p == 0:
        return input
    if isinstance(input, RowMethods):
        return cast("Tensor", input.map_rows(dropout, input, p, training, inplace))
    key, counter = next_draw(input.numel())
    out = _dropout(input, p=float(p), key=key, counter=counter)
    return input.copy_(out) if inplace else out
