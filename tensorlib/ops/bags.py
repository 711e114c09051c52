"""embedding_bag: the sum, mean or maximum of rows of a table, a bag of indices at a time.

Underneath, bags are positions of a flat index, cut at `edges`: where each begins, and the end of the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import ops
from tensorlib.dtypes import int64
from tensorlib.errors import DTypeError, GradError, IndexRangeError, ShapeError
from tensorlib.native import ffi, lib
from tensorlib.ops import rules
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.fused import BY_FREQUENCY, DENSE, SPARSE, embedding_grad, embedding_rows, handle, shrink_rows
from tensorlib.ops.table import BATCH, Draw, error, sample

if TYPE_CHECKING:
    from tensorlib.dtypes import DType
    from tensorlib.tensor import Tensor

__all__ = ["embedding_bag"]
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()


def _dtype_rule(common: DType) -> tuple[None, None]:
    if common.category != 2:
        raise DTypeError(f"embedding_bag: weight must be a float tensor, got {common.name}.")
    return None, None


def _edges(xp: Any, offsets: Any, n: int, include_last_offset: bool) -> Any:
    """Where each bag begins, and behind them the end of the last."""
    return offsets if include_last_offset else xp.concatenate([offsets, xp.asarray([n], dtype=offsets.dtype)])


def _ref(
    xp: Any,
    input: Any,
    weight: Any,
    offsets: Any,
    per_sample_weights: Any,
    *,
    mode: str,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    if input.ndim == 2:
        offsets, include_last_offset = xp.arange(0, input.size + 1, max(input.shape[1], 1)), True
        offsets = offsets[: input.shape[0] + 1] if input.size else xp.zeros(input.shape[0] + 1, "int64")
    index = input.reshape(-1)
    factors = xp.ones(index.shape, weight.dtype) if per_sample_weights is None else per_sample_weights.reshape(-1)
    edges = _edges(xp, offsets, index.size, include_last_offset)
    out = xp.zeros((edges.size - 1, weight.shape[1]), weight.dtype)
    for bag in range(edges.size - 1):
        places = xp.arange(int(edges[bag]), int(edges[bag + 1]))
        if padding_idx is not None:
            places = places[index[places] != padding_idx % weight.shape[0]]
        if places.size:
            rows = weight[index[places]] * factors[places][:, None]
            out[bag] = rows.max(axis=0) if mode == "max" else rows.sum(axis=0) / (places.size if mode == "mean" else 1)
    return out


# ---- the kernels' entries ----
def _bags_ref(
    xp: Any, weight: Any, index: Any, edges: Any, factors: Any, *, mean: bool, padding_idx: int, how: int
) -> Any:
    _check_range(xp, index, weight.shape[0])
    padding = None if padding_idx < 0 else padding_idx
    mode = "mean" if mean else "sum"
    return _ref(xp, index, weight, edges, factors, mode=mode, include_last_offset=True, padding_idx=padding)


def _check_range(xp: Any, index: Any, rows: int) -> None:
    wrong = (index < 0) | (index >= rows)
    if bool(wrong.any()):
        raise IndexRangeError(
            f"embedding_bag: index {int(index[wrong][0])} is out of range; expected one in [0, {rows})."
        )


def _positions(index: Tensor, edges: Tensor, mean: bool, padding_idx: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of the positions that lie in bags: their index, the bag of each, and what a mean divides each by."""
    lengths = edges[1:] - edges[:-1]
    bag = ops.rearrange.repeat_interleave(ops.creation.arange(lengths.numel(), device=index.device), lengths)
    index = index[: bag.numel()]
    if not mean:
        return index, bag, None
    counts = ops.creation.zeros(lengths.shape, dtype=int64, device=index.device)
    counts = ops.positions.index_add(counts, 0, bag, (index != padding_idx).to(int64)).clamp(min=1)
    return index, bag, counts[bag].unsqueeze(-1)


def _scaled(rows: Tensor, factors: Tensor | None, divisor: Tensor | None) -> Tensor:
    """Rows by position, as their bags take them."""
    if factors is not None:
        rows = rows * factors[: rows.shape[0]].unsqueeze(-1)
    return rows if divisor is None else rows / divisor.to(rows.dtype)


def _bag_plain(
    weight: Tensor, index: Tensor, edges: Tensor, factors: Tensor | None, *, mean: bool, padding_idx: int, how: int
) -> Tensor:
    index, bag, divisor = _positions(index, edges, mean, padding_idx)
    rows = _scaled(embedding_rows(weight, index, padding_idx=padding_idx, how=how), factors, divisor)
    rows = rows * (index != padding_idx).unsqueeze(-1)
    zeros = ops.creation.zeros((edges.numel() - 1, weight.shape[1]), dtype=weight.dtype, device=weight.device)
    return ops.positions.index_add(zeros, 0, bag, rows)


def _grad_table(
    g: Tensor, weight_shape: tuple[int, ...], index: Tensor, edges: Tensor, factors: Tensor | None, mean: bool, padding_idx: int, how: int
) -> Tensor:  # fmt: skip
    index, bag, divisor = _positions(index, edges, mean, padding_idx)
    return embedding_grad(
        _scaled(ops.positions.index_select(g, 0, bag), factors, divisor), weight_shape, index, padding_idx, how
    )


def _grad_factors(g: Tensor, weight: Tensor, index: Tensor, edges: Tensor, padding_idx: int) -> Tensor:
    n = index.numel()
    index, bag, _ = _positions(index, edges, False, padding_idx)
    made = (ops.positions.index_select(g, 0, bag) * ops.positions.index_select(weight, 0, index)).sum(-1)
    made = made * (index != padding_idx)
    return ops.joins.cat([made, ops.creation.zeros(n - made.numel(), dtype=g.dtype, device=g.device)])


_ROWS, _EDGES = (
    Draw((7,), dtype="int64", values=[0, 6, 2, 2, 5, 1, 4]),
    Draw((5,), dtype="int64", values=[0, 2, 2, 5, 6]),
)

_bag = structured(
    "bag",
    inputs=("weight", "index", "edges", "factors"),
    attrs=("mean", "padding_idx", "how"),
    dtype=rules.as_is,
    ref=_bags_ref,
    vjp=(_grad_table, None, None, _grad_factors),
    composite=_bag_plain,
    native=lambda line, weight, index, edges, factors, mean, padding_idx, how: lib.tl_bag(
        weight._array, index._array, edges._array, handle(factors), mean, padding_idx, how, line
    ),
    decode=lambda node: {
        "padding_idx": lib.tl_node_int(node, 0),
        "how": lib.tl_node_int(node, 1),
        "mean": bool(lib.tl_node_int(node, 2)),
    },
    samples=lambda: (
        [
            sample((7, width), _ROWS, _EDGES, factors, mean=mean, padding_idx=padding, how=DENSE, smooth=padding < 0)
            for width in (3, 70)
            for padding in (-1, 2)
            for mean, factors in ((False, None), (True, None), (False, Draw((7,), 0.5, 2.0)))
        ]
        + [sample((7, 3), _ROWS, _EDGES, None, mean=True, padding_idx=-1, how=BY_FREQUENCY, smooth=False)]
    ),
    private=True,
)


def _bag_max_ref(xp: Any, weight: Any, index: Any, edges: Any, *, padding_idx: int) -> Any:
    _check_range(xp, index, weight.shape[0])
    out = xp.zeros((edges.size - 1, weight.shape[1]), weight.dtype)
    which = xp.full(out.shape, -1, "int64")
    for bag in range(edges.size - 1):
        ids = index[int(edges[bag]) : int(edges[bag + 1])]
        ids = ids[ids != padding_idx]
        if ids.size:
            which[bag] = ids[xp.argmax(weight[ids], axis=0)]
            out[bag] = xp.take_along_axis(weight, which[bag][None], axis=0)[0]
    return out, which


def _grad_max(g_out: Tensor, which: Tensor, weight_shape: tuple[int, ...]) -> Tensor:
    zeros = ops.creation.zeros(weight_shape, dtype=g_out.dtype, device=g_out.device)
    return ops.gather.scatter_add(zeros, 0, which.clamp(min=0), g_out * (which >= 0))


def _bag_max_kernel(weight: Tensor, index: Tensor, edges: Tensor, padding_idx: int) -> Any:
    which = ffi.new("uintptr_t *")
    out = lib.tl_bag_max(weight._array, index._array, edges._array, padding_idx, which)
    return (out, which[0]) if out else 0


_bag_max = structured(
    "bag_max",
    inputs=("weight", "index", "edges"),
    attrs=("padding_idx",),
    outputs=("out", "which"),
    dtype=rules.as_is,
    ref=_bag_max_ref,
    vjp=(_grad_max, None, None),
    kernel=_bag_max_kernel,
    samples=lambda: [sample(_TABLE, _ROWS, _EDGES, padding_idx=padding, smooth=padding < 0) for padding in (-1, 2)],
    private=True,
)


# ---- the public function ----
_INDEX = Draw((7,), dtype="int64", values=[0, 6, 2, 2, 5, 1, 4])
_OFFSETS = Draw((4,), dtype="int64", values=[0, 2, 2, 5])  # the second bag is empty
_SQUARE = Draw((2, 3), dtype="int64", values=[0, 6, 2, 3, 3, 1])
_TABLE = Draw((7, 3), -2.0, 2.0, distinct=True)


def _samples() -> list[Any]:
    made = [
        sample(index, _TABLE, offsets, None, mode=mode)
        for mode in ("sum", "mean", "max")
        for index, offsets in ((_INDEX, _OFFSETS), (_SQUARE, None))
    ]
    made += [sample(_INDEX, _TABLE, _OFFSETS, Draw((7,), 0.5, 2.0), mode="sum")]
    made += [sample(_SQUARE, _TABLE, None, Draw((2, 3), 0.5, 2.0), mode="sum")]
    last = Draw((3,), dtype="int64", values=[0, 3, 7])
    made += [sample(_INDEX, _TABLE, last, None, mode=m, include_last_offset=True) for m in ("sum", "mean", "max")]
    made += [
        sample(_INDEX, _TABLE, _OFFSETS, None, mode=m, padding_idx=2, smooth=False) for m in ("sum", "mean", "max")
    ]
    return [*made, sample(Draw((2, 0), dtype="int64", values=[]), _TABLE, None, None, mode="mean")]


@composite(
    "embedding_bag",
    inputs=("input", "weight", "offsets", "per_sample_weights"),
    attrs=("mode", "include_last_offset", "padding_idx"),
    dtype=_dtype_rule,
    ref=_ref,
    samples=_samples,
    rowwise=lambda: [sample(Draw((BATCH, 9), 0, 50, dtype="int64"), (50, 33), None, None, mode=mode) for mode in ("sum", "mean", "max")],
    errors=[
        error(_INDEX, _TABLE, None, None, mode="sum", raises=ValueError, match="embedding_bag: a 1-dimensional input needs offsets"),
        error(_SQUARE, _TABLE, _OFFSETS, None, mode="sum", raises=ValueError, match="embedding_bag: .* takes no offsets"),
        error(_INDEX, _TABLE, Draw((2,), dtype="int64", values=[1, 2]), None, mode="sum", raises=ValueError, match="offsets must begin"),
        error(_INDEX, _TABLE, Draw((2,), dtype="int64", values=[0, 9]), None, mode="sum", raises=ValueError, match="offsets .* 9"),
        error(_INDEX, _TABLE, _OFFSETS, (7,), mode="mean", raises=ValueError, match="per_sample_weights .*mode 'sum'"),
        error(_INDEX, _TABLE, _OFFSETS, (6,), mode="sum", raises=ValueError, match=r"per_sample_weights has shape \(6,\)"),
        error(_INDEX, _TABLE, _OFFSETS, None, mode="prod", raises=ValueError, match="mode must be"),
        error(_INDEX, _TABLE, _OFFSETS, None, mode="sum", padding_idx=7, raises=IndexError, match="padding_idx 7"),
        error((7,), _TABLE, _OFFSETS, None, mode="sum", raises=TypeError, match="input must be an integer tensor"),
    ],
)  # fmt: skip
def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The sum, mean or maximum of a table's rows, for each bag of indices; zeros for an empty bag.

    Shapes:
        input: (B, L) integer in [0, V), weight: (V, D)                      ->  out: (B, D)
        input: (N,), offsets: (B,), where each bag begins (the first at 0)   ->  out: (B, D)
        per_sample_weights: input's shape, factors of the rows; for mode "sum" only

    With `include_last_offset`, `offsets` ends with N: (B + 1,). Indices equal to `padding_idx` count for nothing.

    >>> table = tl.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> tl.embedding_bag(tl.tensor([0, 1, 1]), table, tl.tensor([0, 2]), mode="sum").tolist()
    [[4.0, 6.0], [3.0, 4.0]]
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: mode must be 'sum', 'mean' or 'max', got {mode!r}.")
    if (scale_grad_by_freq or sparse) and mode == "max":
        raise ValueError("embedding_bag: mode 'max' takes neither scale_grad_by_freq nor sparse gradients.")
    if scale_grad_by_freq and sparse:
        raise GradError("embedding_bag: scale_grad_by_freq does not go with sparse gradients.")
    if weight.ndim != 2:
        raise ShapeError(f"embedding_bag: weight must have shape (V, D), got {weight.shape}.")
    _dtype_rule(weight.dtype)
    if input.dtype.category != 1:
        raise DTypeError(f"embedding_bag: input must be an integer tensor, got {input.dtype.name}.")
    _check_weights(input, per_sample_weights, mode)
    padding = -1 if padding_idx is None else _padding(padding_idx, weight.shape[0])
    edges = _edges_of(input, offsets, include_last_offset)
    if max_norm is not None:
        shrink_rows(weight, input, max_norm, norm_type)
    index = input.reshape(-1).to(int64).contiguous()
    if mode == "max":
        out: Tensor = _bag_max(weight, index, edges, padding_idx=padding)[0]
        return out
    factors = None if per_sample_weights is None else per_sample_weights.reshape(-1).contiguous()
    how = SPARSE if sparse else BY_FREQUENCY if scale_grad_by_freq else DENSE
    return _bag(weight, index, edges, factors, mean=mode == "mean", padding_idx=padding, how=how)


def _check_weights(input: Tensor, per_sample_weights: Tensor | None, mode: str) -> None:
    if per_sample_weights is None:
        return
    if mode != "sum":
        raise ValueError(f"embedding_bag: per_sample_weights are for mode 'sum' only, got mode {mode!r}.")
    if per_sample_weights.shape != input.shape:
        raise ShapeError(
            f"embedding_bag: per_sample_weights has shape {per_sample_weights.shape}, expected input's shape {input.shape}."
        )


def _padding(padding_idx: int, rows: int) -> int:
    if not -rows <= padding_idx < rows:
        raise IndexRangeError(f"embedding_bag: padding_idx {padding_idx} is out of range for {rows} rows.")
    return padding_idx % rows


def _edges_of(input: Tensor, offsets: Tensor | None, include_last_offset: bool) -> Tensor:
    """Where the bags are cut, checked."""
    n = input.numel()
    if input.ndim == 2:
        if offsets is not None:
            raise ShapeError("embedding_bag: a 2-dimensional input holds one bag a row and takes no offsets.")
        return ops.creation.arange(input.shape[0] + 1, device=input.device) * input.shape[1]
    if input.ndim != 1 or offsets is None:
        raise ShapeError(
            f"embedding_bag: a 1-dimensional input needs offsets, a 2-dimensional one none; got input {input.shape}."
        )
    if offsets.ndim != 1 or offsets.dtype.category != 1:
        raise ShapeError(
            f"embedding_bag: offsets must be integers of shape (B,), got {offsets.dtype.name} {offsets.shape}."
        )
    edges = _edges(np, offsets.detach().cpu().numpy().astype(np.int64), n, include_last_offset)
    if not len(edges):
        raise ShapeError("embedding_bag: offsets that include the last have at least one element, got none.")
    if len(edges) > 1 and edges[0] != 0:
        raise ShapeError(f"embedding_bag: offsets must begin with 0, got {edges[0]}.")
    if (np.diff(edges) < 0).any() or edges[-1] > n:
        raise ShapeError(f"embedding_bag: offsets must rise to at most {n}, the number of indices; got {edges.max()}.")
    return ops.creation.tensor(edges, device=input.device)
