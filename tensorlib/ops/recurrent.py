"""Recurrent layers over ragged batches: one call runs a whole layer, in one or both directions, over sequences of different lengths.

A ragged batch is its rows in order of time, as PyTorch's PackedSequence has them: first the first element of every sequence, then the second
element of those that have one. ``batch_sizes[t]`` says how many have a step t, so the longest sequence comes first.

Dimension letters: N rows of all steps together, T steps, B sequences, D features, H hidden units, G gates (1; GRU 3: r z n; LSTM 4: i f g o).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np

from tensorlib import ops
from tensorlib.dtypes import DType, int64
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.native import ffi, lib
from tensorlib.ops.declare import structured
from tensorlib.ops.fused import SLOW, caller, handle
from tensorlib.ops.table import Draw, sample
from tensorlib.tensor import Tensor, wrap

__all__ = ["gru_layer", "lstm_layer", "rnn_layer"]

TANH, RELU, GRU, LSTM = range(4)  # native/kernels.h
GATES = {TANH: 1, RELU: 1, GRU: 3, LSTM: 4}
_WEIGHTS = tuple(f"w_{name}{side}" for side in ("", "_reverse") for name in ("ih", "hh", "bias_ih", "bias_hh"))


# ---- the definition: steps in plain operations, over tensors and over an array module's arrays alike ----
class Plain:
    """What the steps are written in, of an array module or (None) of tensors."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.tanh: Callable[[Any], Any] = ops.transcendental.tanh if xp is None else xp.tanh

    def sigmoid(self, x: Any) -> Any:
        return ops.activations.sigmoid(x) if self.xp is None else 1 / (1 + self.xp.exp(-x))

    def relu(self, x: Any) -> Any:
        return ops.activations.relu(x) if self.xp is None else self.xp.maximum(x, 0)

    def join(self, parts: Sequence[Any], dim: int = 0) -> Any:
        if len(parts) == 1:
            return parts[0]
        return ops.joins.cat(list(parts), dim) if self.xp is None else self.xp.concatenate(parts, axis=dim)

    def zeros(self, like: Any, *shape: int) -> Any:
        if self.xp is None:
            return ops.creation.zeros(shape, dtype=like.dtype, device=like.device)
        return self.xp.zeros(shape, like.dtype)

    def stack(self, parts: Sequence[Any]) -> Any:
        return self.join([p[None] for p in parts])


def _gates(f: Plain, kind: int, from_x: Any, from_h: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """State and cell after one step; `from_x` and `from_h` are both parts of the gates' sums."""
    width = from_x.shape[1] // GATES[kind]
    x, u = ([part[:, k * width : (k + 1) * width] for k in range(GATES[kind])] for part in (from_x, from_h))
    if kind == LSTM:
        i, forget, o = (f.sigmoid(x[k] + u[k]) for k in (0, 1, 3))
        c = forget * c + i * f.tanh(x[2] + u[2])
        return o * f.tanh(c), c
    if kind == GRU:
        r, z = (f.sigmoid(x[k] + u[k]) for k in (0, 1))
        n = f.tanh(x[2] + r * u[2])
        return n + z * (h - n), c
    return (f.relu if kind == RELU else f.tanh)(x[0] + u[0]), c


def _direction(
    f: Plain, kind: int, x: Any, sizes: list[int], h: Any, c: Any, weights: Sequence[Any], *, backward: bool
) -> Any:
    """(rows of states in order of time, last state, last cell of each sequence); h and c are (B, H)."""
    w_ih, w_hh, b_ih, b_hh = weights
    starts = np.cumsum([0, *sizes]).tolist()
    from_x = x @ w_ih.T if b_ih is None else x @ w_ih.T + b_ih
    done: dict[int, Any] = {}
    for t in reversed(range(len(sizes))) if backward else range(len(sizes)):
        n = sizes[t]
        from_h = h[:n] @ w_hh.T if b_hh is None else h[:n] @ w_hh.T + b_hh
        done[t], cell = _gates(f, kind, from_x[starts[t] : starts[t + 1]], from_h, h[:n], None if c is None else c[:n])
        h = f.join([done[t], h[n:]])  # sequences that have no such step keep the state they have
        c = None if c is None else f.join([cell, c[n:]])
    rows = f.join([done[t] for t in range(len(sizes))]) if sizes else f.zeros(x, 0, h.shape[1])
    return rows, h, c


def _layer(
    f: Plain, kind: int, x: Any, sizes: list[int], h0: Any, c0: Any, weights: Sequence[Any], batch: int
) -> tuple[Any, ...]:
    """What the layer functions return; four weights of each direction."""
    width = weights[1].shape[1]
    outs, states, cells = [], [], []
    for d, own in enumerate(weights[k : k + 4] for k in range(0, len(weights), 4)):
        h = f.zeros(x, batch, width) if h0 is None else h0[d]
        c = None if kind != LSTM else f.zeros(x, batch, width) if c0 is None else c0[d]
        made, h, c = _direction(f, kind, x, sizes, h, c, own, backward=d == 1)
        outs.append(made)
        states.append(h)
        cells.append(c)
    done = (f.join(outs, 1), f.stack(states))
    return (*done, f.stack(cells)) if kind == LSTM else done


# ---- the entries ----
def dtype_rule(common: DType) -> tuple[DType | None, DType | None]:
    if not common.is_floating_point:
        raise DTypeError(f"recurrent layer: expected floating-point tensors, got {common.name}.")
    return None, common


def _native(line: int, kind: int, operands: Sequence[Any], batch: int) -> Any:
    outs = ffi.new("uintptr_t[3]")
    if not lib.tl_recurrent_layer(kind, [handle(x) for x in operands], batch, line, outs):
        return 0
    return (outs[0], outs[1], outs[2]) if kind == LSTM else (outs[0], outs[1])


def _samples(kind: int) -> list[Any]:
    made = []
    for sizes, batch, d, h, dirs, initial, biases in [
        ([3, 2, 2, 1], 3, 2, 3, 1, True, True), ([2, 2], 2, 3, 2, 1, False, False), ([3, 1], 4, 2, 2, 2, True, True), ([2], 2, 2, 3, 1, True, True),
        ([3], 3, 2, 2, 2, True, False), ([1, 1, 1], 1, 1, 1, 2, False, True), ([], 2, 2, 2, 1, True, True), ([5, 4, 1], 5, 3, 17, 2, False, True),
        ([9, 8, 8, 3], 9, 5, 50, 1, True, True),
    ]:  # fmt: skip
        rows = GATES[kind] * h
        shapes = [(rows, d), (rows, h), *[(rows,) if biases else None] * 2]
        weights = [s and Draw(s, -(h**-0.5), h**-0.5) for s in shapes] * dirs + [None] * (8 - 4 * dirs)
        states = [(dirs, batch, h) if initial else None] * (2 if kind == LSTM else 1)
        step_sizes = Draw((len(sizes),), dtype="int64", values=sizes)
        attrs = {} if kind == LSTM else {"kind": kind}
        made.append(sample((sum(sizes), d), step_sizes, *states, *weights, batch=batch, **attrs))
    return made


def _declare(name: str, states: tuple[str, ...], attrs: tuple[str, ...], kind: Callable[..., int]) -> Any:
    inputs = ("x", "batch_sizes", *states, *_WEIGHTS)
    first = len(inputs) - len(_WEIGHTS)

    def of(f: Plain, operands: Sequence[Any], batch: int, **how: int) -> tuple[Any, ...]:
        x, sizes, h0, *c0 = operands[:first]
        weights = operands[first : first + 4] if operands[first + 4] is None else operands[first:]
        return _layer(f, kind(**how), x, sizes.tolist(), h0, c0[0] if c0 else None, weights, batch)

    return structured(
        name,
        inputs=inputs,
        attrs=(*attrs, "batch"),
        outputs=("out", "h_n", "c_n") if len(states) == 2 else ("out", "h_n"),
        dtype=dtype_rule,
        ref=lambda xp, *operands, batch, **how: of(Plain(xp), operands, batch, **how),
        composite=lambda *operands, batch, **how: of(Plain(None), operands, batch, **how),
        replays=True,
        host=("batch_sizes",),
        native=lambda line, *operands, batch, **how: _native(line, kind(**how), operands, batch),
        decode=lambda node: {
            "batch": lib.tl_node_int(node, 1),
            **({"kind": lib.tl_node_int(node, 0)} if attrs else {}),
        },
        samples=lambda: [s for k in ((TANH, RELU, GRU) if attrs else (LSTM,)) for s in _samples(k)],
        private=True,
    )


_recurrent = _declare("recurrent", ("h0",), ("kind",), lambda kind: kind)
_lstm = _declare("lstm", ("h0", "c0"), (), lambda: LSTM)


# ---- the functions ----
def rnn_layer(
    x: Tensor, batch_sizes: Tensor, weights: Sequence[Tensor | None], h0: Tensor | None = None, nonlinearity: str = "tanh",
    batch: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A layer of plain recurrent units over a ragged batch: ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``.

    Args:
        weights: w_ih, w_hh, b_ih, b_hh, and four more for a second direction, which goes from each sequence's end to its start. Both biases of
            a direction may be None.
        h0: the state before the first step; None: zeros.
        nonlinearity: "tanh" or "relu".
        batch: how many sequences there are, if some at the end are empty and no `h0` tells.

    Shapes:
        x: (N, D) float, the rows of step 0, then those of step 1 ...; batch_sizes: (T,) int64, sequences with a step t, never rising
        w_ih: (H, D), w_hh: (H, H), b_ih, b_hh: (H,); h0: (directions, B, H)
        returns: out (N, directions * H), the state after each step; h_n (directions, B, H), each sequence's last one

    Raises:
        ShapeError, DTypeError: where sizes or dtypes do not fit.

    >>> one = tl.ones(1, 1)
    >>> out, h_n = tl.fused.rnn_layer(tl.tensor([[1.0], [2.0], [3.0]]), tl.tensor([2, 1]), [one, one, None, None], nonlinearity="relu")
    >>> out.tolist(), h_n.tolist()
    ([[1.0], [2.0], [4.0]], [[[4.0], [2.0]]])
    """
    kinds = {"tanh": TANH, "relu": RELU}
    if nonlinearity not in kinds:
        raise ValueError(f"rnn_layer: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}.")
    return _call(caller(), "rnn_layer", kinds[nonlinearity], x, batch_sizes, weights, (h0,), batch)


def gru_layer(
    x: Tensor, batch_sizes: Tensor, weights: Sequence[Tensor | None], h0: Tensor | None = None, batch: int | None = None
) -> tuple[Tensor, Tensor]:
    """A layer of gated recurrent units over a ragged batch; arguments and results as in `rnn_layer`, with three gates (r, z, n) in each weight.

    ``r, z = sigmoid(...)``, ``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``, ``h' = (1 - z) n + z h``.

    Reference: Cho et al. 2014, with the reset gate behind the product, as in cuDNN and PyTorch.

    >>> w = [tl.zeros(3, 1), tl.zeros(3, 1), None, None]
    >>> tl.fused.gru_layer(tl.ones(1, 1), tl.tensor([1]), w, h0=tl.ones(1, 1, 1))[0].item()
    0.5
    """
    return _call(caller(), "gru_layer", GRU, x, batch_sizes, weights, (h0,), batch)


def lstm_layer(
    x: Tensor, batch_sizes: Tensor, weights: Sequence[Tensor | None], h0: Tensor | None = None, c0: Tensor | None = None,
    batch: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """A layer of long short-term memory over a ragged batch; arguments and results as in `rnn_layer`, with four gates (i, f, g, o) in each weight.

    ``i, f, o = sigmoid(...)``, ``g = tanh(...)``, ``c' = f c + i g``, ``h' = o tanh(c')``. `c0` and the third result are the cells.

    A fifth weight of each direction, w_hr (P, H), projects the states: ``h' = w_hr (o tanh(c'))``, w_hh is (4H, P) and `h0` (directions, B, P). Then
    each step is a call of its own.

    Reference: Hochreiter and Schmidhuber 1997; Gers et al. 2000; Sak et al. 2014 for projections.

    >>> w = [tl.zeros(4, 1), tl.zeros(4, 1), None, None]
    >>> tl.fused.lstm_layer(tl.ones(1, 1), tl.tensor([1]), w, c0=tl.ones(1, 1, 1))[2].item()
    0.5
    """
    if len(weights) in (5, 10):
        batch = _batch(batch_sizes, h0, batch)
        _check("lstm_layer", LSTM, x, batch_sizes, weights, (h0, c0), batch)
        return _projected(x, batch_sizes, h0, c0, weights, batch)
    made: tuple[Tensor, Tensor, Tensor] = _call(caller(), "lstm_layer", LSTM, x, batch_sizes, weights, (h0, c0), batch)
    return made


def _projected(
    x: Tensor, sizes: Tensor, h0: Tensor | None, c0: Tensor | None, weights: Sequence[Tensor | None], batch: int
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`lstm_layer` with five weights of each direction, the last one a projection of the states."""
    cat = ops.joins.cat
    made = []
    for d, own in enumerate(weights[k : k + 5] for k in range(0, len(weights), 5)):
        width, units = cast("Tensor", own[4]).shape
        h = Plain(None).zeros(x, batch, width) if h0 is None else h0[d]
        c = Plain(None).zeros(x, 1, batch, units) if c0 is None else c0[d : d + 1]
        made.append(_projected_direction(x, sizes, h, c, own, backward=d == 1))
    outs, states, cells = zip(*made, strict=True)
    return cat(outs, 1), ops.joins.stack(states), cat(cells)


def _projected_direction(
    x: Tensor, sizes: Tensor, h0: Tensor, c0: Tensor, weights: Sequence[Any], *, backward: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(rows of states in order of time, last states (B, P), last cells (1, B, H)); h0 is (B, P), c0 (1, B, H).

    A step is a layer of one step, which has the state before beside its inputs and none of its own, and then the projection."""
    cat, linear = ops.joins.cat, ops.fused.linear
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    units, counts = w_hr.shape[1], sizes.tolist()
    none = Plain(None).zeros(x, 1, 1).expand(4 * units, units)
    own = (cat([w_ih, w_hh], 1), none, b_ih, b_hh)
    inputs, each = ops.joins.split(x, counts), ops.joins.split(sizes, 1)
    most = max(counts, default=0)
    done: dict[int, Tensor] = {}
    ended = [(h0[most:], c0[:, most:])]  # states of the sequences that have no step more, the shortest first
    start = counts[-1 if backward else 0] if counts else 0
    h, c = h0[:start], c0[:, :start]
    for t in reversed(range(len(counts))) if backward else range(len(counts)):
        n, before = counts[t], h.shape[0]
        if n < before:
            ended.append((h[n:], c[:, n:]))
            h, c = h[:n], c[:, :n]
        elif n > before:
            h, c = cat([h, h0[before:n]]), cat([c, c0[:, before:n]], 1)
        out, _, c = _call(caller(), "lstm_layer", LSTM, cat([inputs[t], h], 1), each[t], own, (None, c), n)
        done[t] = h = linear(out, w_hr)
    rows = cat([done[t] for t in range(len(counts))]) if counts else h0[:0]
    last = [(h, c), *reversed(ended)]
    return rows, cat([h for h, _ in last]), cat([c for _, c in last], 1)


def _batch(sizes: Tensor, h0: Tensor | None, batch: int | None) -> int:
    if batch is not None:
        return batch
    if h0 is not None:
        return h0.shape[1]
    return int(sizes[0]) if sizes.shape[0] else 0


def _call(
    line: int, name: str, kind: int, x: Tensor, sizes: Tensor, weights: Sequence[Tensor | None], states: tuple[Tensor | None, ...], batch: int | None
) -> Any:  # fmt: skip
    given = [*weights, *[None] * (8 - len(weights))]
    try:
        batch = _batch(sizes, states[0], batch)
        handles: Any = _native(line, kind, (x, sizes, *states, *given), batch) if len(weights) in (4, 8) else 0
        if handles:
            return tuple(wrap(h) for h in handles)
    except SLOW:
        pass
    _check(name, kind, x, sizes, weights, states, batch)
    entry, how = (_lstm, {}) if kind == LSTM else (_recurrent, {"kind": kind})
    return entry(x, sizes.cpu(), *states, *given, batch=batch, **how)


def _check(
    name: str, kind: int, x: Any, sizes: Any, weights: Sequence[Any], states: tuple[Any, ...], batch: int | None
) -> None:  # fmt: skip
    """Raises where something does not fit, naming it."""
    each = 5 if kind == LSTM and len(weights) in (5, 10) else 4
    if len(weights) not in (each, 2 * each):
        raise ShapeError(
            f"{name}: got {len(weights)} weights, expected 4 (w_ih, w_hh, b_ih, b_hh) or 8 for two directions."
        )
    check_sizes(name, x, sizes, batch)
    if not isinstance(weights[1], Tensor) or weights[1].ndim != 2:
        raise ShapeError(f"{name}: w_hh must have shape (gates * H, H), got {said(weights[1])}.")
    rows, state = weights[1].shape
    units = rows // GATES[kind]
    if rows != GATES[kind] * (units if each == 5 else state):
        raise ShapeError(f"{name}: w_hh must have shape ({GATES[kind]} * H, H), got {weights[1].shape}.")
    wanted = {
        "w_ih": (rows, x.shape[1]),
        "w_hh": (rows, state),
        "b_ih": (rows,),
        "b_hh": (rows,),
        "w_hr": (state, units),
    }
    for i, w in enumerate(weights):
        part, shape = list(wanted.items())[i % each]
        if w is None and part.startswith("b"):
            continue
        if not isinstance(w, Tensor) or w.shape != shape or w.dtype is not x.dtype:
            raise ShapeError(
                f"{name}: {part} of direction {i // each} must be {x.dtype.name} of shape {shape}, got {said(w)}."
            )
    for part, s, width in zip(("h0", "c0"), states, (state, units), strict=False):
        expected = (len(weights) // each, batch, width)
        if s is not None and (not isinstance(s, Tensor) or s.shape != expected or s.dtype is not x.dtype):
            raise ShapeError(f"{name}: {part} must be {x.dtype.name} of shape {expected}, got {said(s)}.")


def check_sizes(name: str, x: Any, sizes: Any, batch: int | None) -> None:
    """Raises where these are no rows of a ragged batch."""
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point or x.ndim != 2:
        raise ShapeError(f"{name}: x must be a floating-point tensor of shape (N, D), got {said(x)}.")
    if not isinstance(sizes, Tensor) or sizes.dtype is not int64 or sizes.ndim != 1:
        raise DTypeError(f"{name}: batch_sizes must be an int64 tensor of shape (T,), got {said(sizes)}.")
    listed = sizes.tolist()
    if any(n < 1 for n in listed) or any(a < b for a, b in pairwise(listed)) or sum(listed) != x.shape[0]:
        raise ShapeError(
            f"{name}: batch_sizes must be positive, never rise, and add up to the {x.shape[0]} rows of x, got {listed[:8]}."
        )
    if listed and batch is not None and listed[0] > batch:
        raise ShapeError(f"{name}: {listed[0]} sequences have a first step, but the batch is of {batch}.")


def said(x: Any) -> str:
    return f"{x.dtype.name} of shape {x.shape}" if isinstance(x, Tensor) else type(x).__name__
