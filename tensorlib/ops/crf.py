"""Linear-chain random fields: what all sequences of tags score together, for each sequence of a ragged batch.

Dimension letters: N rows of all steps together, T steps, B sequences, K tags.
"""

from __future__ import annotations

from typing import Any

from tensorlib import ops
from tensorlib.errors import ShapeError
from tensorlib.native import lib
from tensorlib.ops.declare import structured
from tensorlib.ops.fused import SLOW, caller
from tensorlib.ops.recurrent import Plain, check_sizes, dtype_rule, said
from tensorlib.ops.table import Draw, sample
from tensorlib.tensor import Tensor, wrap

__all__ = ["crf_total"]


# ---- the definition ----
def _log_sum(f: Plain, x: Any) -> Any:
    """The logarithm of the sum of exp(x) over the last dimension."""
    if f.xp is None:
        return ops.reductions.logsumexp(x, -1)
    most = x.max(-1, keepdims=True)
    return f.xp.log(f.xp.exp(x - most).sum(-1)) + most[..., 0]


def _total(f: Plain, x: Any, sizes: Any, start: Any, end: Any, transitions: Any, *, batch: int) -> Any:
    scores, ended, row = None, [], 0
    for n in sizes.tolist():
        emissions = x[row : row + n]
        row += n
        if scores is None:
            scores = emissions + start
            continue
        ended.append(scores[n:])
        scores = _log_sum(f, scores[:n, None] + transitions.T) + emissions
    if scores is None:
        return f.zeros(x, batch)
    scores = f.join([scores, *reversed(ended)])
    return f.join([_log_sum(f, scores + end), f.zeros(x, batch - scores.shape[0])])


# ---- the entry ----
def _samples() -> list[Any]:
    return [
        sample((sum(sizes), k), Draw((len(sizes),), dtype="int64", values=sizes), (k,), (k,), (k, k), batch=batch)
        for sizes, batch, k in [([3, 2, 2, 1], 3, 3), ([2], 4, 2), ([1, 1, 1], 1, 1), ([], 2, 2), ([9, 9, 4, 1, 1], 9, 17), ([2, 2], 2, 8)]
    ]  # fmt: skip


_crf_total = structured(
    "crf_total",
    inputs=("x", "batch_sizes", "start", "end", "transitions"),
    attrs=("batch",),
    dtype=dtype_rule,
    ref=lambda xp, *operands, batch: _total(Plain(xp), *operands, batch=batch),
    composite=lambda *operands, batch: _total(Plain(None), *operands, batch=batch),
    replays=True,
    native=lambda line, *operands, batch: lib.tl_crf_total(*(x._array for x in operands), batch, line),
    decode=lambda node: {"batch": lib.tl_node_int(node, 0)},
    samples=_samples,
    private=True,
)


# ---- the function ----
def crf_total(
    x: Tensor, batch_sizes: Tensor, start: Tensor, end: Tensor, transitions: Tensor, batch: int | None = None
) -> Tensor:
    """The logarithm of the sum of ``exp(score)`` over all sequences of tags, of each sequence of a ragged batch: what `nn.CRF` divides by.

    A sequence of tags scores ``start[y_1] + end[y_L] + sum_t x[t, y_t] + sum_t transitions[y_t-1, y_t]``. An empty sequence has one, with score 0.

    Args:
        batch: how many sequences there are, if some at the end are empty.

    Shapes:
        x: (N, K) float, the rows of step 0, then those of step 1 ...; batch_sizes: (T,) int64, sequences with a step t, never rising
        start, end: (K,); transitions: (K, K), from the row's tag to the column's
        returns: (B,)

    Raises:
        ShapeError, DTypeError: where sizes or dtypes do not fit.

    >>> zeros = tl.zeros(2)
    >>> tl.fused.crf_total(tl.zeros(3, 2), tl.tensor([2, 1]), zeros, zeros, tl.zeros(2, 2)).exp().round().tolist()
    [4.0, 2.0]
    """
    line = caller()
    try:
        if batch is None:
            batch = int(batch_sizes[0]) if batch_sizes.shape[0] else 0
        operands = (x, batch_sizes, start, end, transitions)
        handles = (t._array for t in operands)
        made = lib.tl_crf_total(*handles, batch, line)
        if made:
            return wrap(made)
    except SLOW:
        pass
    check_sizes("crf_total", x, batch_sizes, batch)
    wanted = {"start": (start, 1), "end": (end, 1), "transitions": (transitions, 2)}
    for name, (t, ndim) in wanted.items():
        shape = (x.shape[1],) * ndim
        if not isinstance(t, Tensor) or t.shape != shape or t.dtype is not x.dtype:
            raise ShapeError(f"crf_total: {name} must be {x.dtype.name} of shape {shape}, got {said(t)}.")
    total: Tensor = _crf_total(x, batch_sizes.to(x.device), start, end, transitions, batch=batch)
    return total
