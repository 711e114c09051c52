"""embedding_bag: the sum, mean or maximum of rows of a table, a bag of indices at a time, in plain operations over embedding's kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import ops
from tensorlib.dtypes import int64
from tensorlib.errors import DTypeError, GradError, IndexRangeError, ShapeError
from tensorlib.ops.declare import composite
from tensorlib.ops.fused import embedding
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
    if scale_grad_by_freq or sparse:
        raise GradError("embedding_bag: scale_grad_by_freq and sparse gradients are not supported; leave both False.")
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: mode must be 'sum', 'mean' or 'max', got {mode!r}.")
    if weight.ndim != 2:
        raise ShapeError(f"embedding_bag: weight must have shape (V, D), got {weight.shape}.")
    _dtype_rule(weight.dtype)
    if input.dtype.category != 1:
        raise DTypeError(f"embedding_bag: input must be an integer tensor, got {input.dtype.name}.")
    _check_weights(input, per_sample_weights, mode)
    padding = None if padding_idx is None else _padding(padding_idx, weight.shape[0])
    if input.ndim == 2:
        if offsets is not None:
            raise ShapeError("embedding_bag: a 2-dimensional input holds one bag a row and takes no offsets.")
        index, factors = input, per_sample_weights
        counts = None if padding is None else index != padding
    else:
        index, factors, counts = _in_rows(input, offsets, per_sample_weights, include_last_offset, padding)
    rows = embedding(index, weight, padding, max_norm, norm_type)
    return _reduced(rows, factors, counts, mode)


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


def _in_rows(
    input: Tensor, offsets: Tensor | None, factors: Tensor | None, include_last_offset: bool, padding: int | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Bags of different lengths as rows of one length: (index, factors, which places count)."""
    if input.ndim != 1 or offsets is None:
        raise ShapeError(
            f"embedding_bag: a 1-dimensional input needs offsets, a 2-dimensional one none; got input {input.shape}."
        )
    if offsets.ndim != 1 or offsets.dtype.category != 1:
        raise ShapeError(
            f"embedding_bag: offsets must be integers of shape (B,), got {offsets.dtype.name} {offsets.shape}."
        )
    n = input.shape[0]
    edges = _edges(np, offsets.detach().cpu().numpy().astype(np.int64), n, include_last_offset)
    if len(edges) > 1 and edges[0] != 0:
        raise ShapeError(f"embedding_bag: offsets must begin with 0, got {edges[0]}.")
    lengths = np.diff(edges)
    if (lengths < 0).any() or (len(edges) and edges[-1] > n):
        raise ShapeError(f"embedding_bag: offsets must rise to at most {n}, the number of indices; got {edges.max()}.")
    places = edges[:-1, None] + np.arange(max(lengths.max(initial=0), 1 if n else 0))
    inside = np.arange(places.shape[1]) < lengths[:, None]
    at = ops.creation.tensor(np.where(inside, places, 0), dtype=int64, device=input.device)
    counts = ops.creation.tensor(inside, device=input.device)
    index = ops.positions.index_select(input, 0, at.reshape(-1)).reshape(at.shape)
    if padding is not None:
        counts = counts & (index != padding)
    if factors is not None:
        factors = ops.positions.index_select(factors, 0, at.reshape(-1)).reshape(at.shape)
    return index, factors, counts


def _reduced(rows: Tensor, factors: Tensor | None, counts: Tensor | None, mode: str) -> Tensor:
    """(B, L, D) rows to (B, D), over the places that count (None: all)."""
    if factors is not None:
        rows = rows * factors.unsqueeze(-1)
    if rows.shape[1] == 0:
        return rows.sum(1)
    if mode == "max":
        if counts is None:
            return rows.amax(1)
        lowest = ops.elementwise.where(counts.unsqueeze(-1), rows, -np.inf).amax(1)
        return ops.elementwise.where(counts.any(1).unsqueeze(-1), lowest, 0.0)
    total = (rows if counts is None else ops.elementwise.where(counts.unsqueeze(-1), rows, 0.0)).sum(1)
    if mode == "sum":
        return total
    return total / (rows.shape[1] if counts is None else counts.sum(1, keepdim=True).clamp(min=1).to(rows.dtype))
