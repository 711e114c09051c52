"""Recurrent layers over ragged batches: one product for the inputs of all steps, then for each step one product and one kernel.

The states of the B sequences lie in h_n and c_n from the start; a step replaces those of the sequences that have it, which come first, so no step
copies anything, and the host, which knows the lengths, waits for nothing. For the gradient the activated gates and the states before each step are
kept; the weights' gradients are one product over all steps at the end.

The rest of this family runs as its definition says: trees, CRFs and CTC take the reference's way through CuPy.

Dimension letters: N rows of all steps together, B sequences, H hidden units, G gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.ops.recurrent import GRU, LSTM
from tensorlib.tensor import Tensor

from . import Kept, gradient_lane, lane, recorded
from .launch import Source, empty
from .matmul import SERVED, Layout, address, fill_zero, gemm, linear, product, readable

SOURCE = Source("recurrent.cu")
THREADS = 128


def _wide(x: Tensor) -> dtypes.DType:
    """What cells are kept in."""
    return x.dtype if x.dtype.itemsize >= 4 else dtypes.float32


def _state(given: Tensor | None, shape: tuple[int, ...], dtype: dtypes.DType, like: Tensor) -> Tensor:
    """A tensor of its own, that steps may overwrite: a copy, or zeros."""
    if given is None:
        made = empty(shape, dtype, like.device)
        fill_zero(made)
        return made
    return given.clone().contiguous() if given.dtype is dtype else given.to(dtype).contiguous()


class _Steps:
    """The order in which one direction goes through the rows, and the launch that a step is."""

    def __init__(self, kind: int, sizes: Sequence[int], width: int, direction: int, directions: int) -> None:
        self.kind, self.width, self.pitch, self.column = kind, width, directions * width, direction * width
        starts = np.cumsum([0, *sizes]).tolist()
        steps = list(zip(sizes, starts, strict=False))
        self.steps = steps[::-1] if direction else steps

    def launch(self, kernel: str, dtype: dtypes.DType, n: int, first: int, *given: Any) -> None:
        grid = -(-n * self.width // THREADS)
        SOURCE(kernel, T=dtype, KIND=self.kind)(grid, THREADS, *given, n, first, self.width, self.pitch)


def _run(
    kind: int, x: Tensor, batch_sizes: Tensor, h0: Tensor | None, c0: Tensor | None, weights: Sequence[Any], batch: int
) -> Kept | None:
    width = weights[1].shape[1]
    directions = 1 if weights[4] is None else 2
    if x.dtype not in SERVED or not width or not batch:
        return None
    sizes = batch_sizes.tolist()
    out = empty((x.shape[0], directions * width), x.dtype, x.device)
    h_n = _state(h0, (directions, batch, width), x.dtype, x)
    c_n = _state(c0, (directions, batch, width), _wide(x), x) if kind == LSTM else None
    kept = [
        _forward(
            _Steps(kind, sizes, width, d, directions), x, out, h_n[d], None if c_n is None else c_n[d], weights[4 * d : 4 * d + 4]
        )
        for d in range(directions)
    ]  # fmt: skip
    outs = (out, h_n) if c_n is None else (out, h_n, c_n if c_n.dtype is x.dtype else c_n.to(x.dtype))
    return Kept(outs, (sizes, kept) if recorded() else None)


def _forward(
    steps: _Steps, x: Tensor, out: Tensor, h: Tensor, c: Tensor | None, weights: Sequence[Any]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Every step of one direction; the gates and what went before them."""
    w_ih, w_hh, b_ih, b_hh = weights
    gates = linear(x, w_ih, b_ih)
    assert gates is not None
    width, units = steps.width, gates.shape[1]
    keeps = recorded()
    kept_h = empty((x.shape[0], width), x.dtype, x.device) if keeps else None
    kept_c = empty((x.shape[0], width), _wide(x), x.device) if keeps and steps.kind in (GRU, LSTM) else None
    sums = empty((h.shape[0], units), x.dtype, x.device)
    w, how = readable(w_hh.mT)
    b_hh = None if b_hh is None else b_hh.contiguous()
    state, into, right = (address(h), Layout(False, width)), (address(sums), units), (address(w), how)
    to = address(out) + steps.column * x.dtype.itemsize
    for n, first in steps.steps:
        gemm(x.dtype, (n, units, width), state, right, into)
        steps.launch("take_step", x.dtype, n, first, to, gates, sums, b_hh, h, c, kept_h, kept_c)
    return gates, kept_h, kept_c


def _backward(
    steps: _Steps, gates: Tensor, kept_h: Tensor, kept_c: Tensor | None, g: Tensor | None, dstate: Tensor, dcell: Tensor | None, w_hh: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of the gates' two sums; `dstate` and `dcell` become those of the states before the first step."""
    dtype, (_, units), width = gates.dtype, gates.shape, steps.width
    dx = empty(gates.shape, dtype, gates.device)
    dh = empty(gates.shape, dtype, gates.device) if steps.kind == GRU else dx
    w, how = readable(w_hh)
    right, into, at = (address(w), how), (address(dstate), width), address(dh)
    g_at = None if g is None else address(g) + steps.column * dtype.itemsize
    for n, first in reversed(steps.steps):
        steps.launch("take_step_back", dtype, n, first, dx, dh, dstate, dcell, g_at, gates, kept_h, kept_c)
        rows = at + first * units * dtype.itemsize, Layout(False, units)
        gemm(dtype, (n, width, units), rows, right, into, beta=float(steps.kind == GRU))
    return dx, dh


def _gradients(
    kind: int, wanted: tuple[bool, ...], g: tuple[Tensor | None, ...], x: Tensor, weights: Sequence[Any], batch: int, kept: Any
) -> tuple[Tensor | None, ...] | None:  # fmt: skip
    """In order of the entry's inputs. `g`: of its results; `weights`: w_ih and w_hh of each direction."""
    if kept is None:
        return None
    sizes, directions = kept
    width, first = weights[1].shape[1], 2 + len(g) - 1  # x, batch_sizes and the states come before the weights
    shape = (len(directions), batch, width)
    g_out = None if g[0] is None else g[0].contiguous()
    dstate = _state(g[1], shape, x.dtype, x)
    dcell = _state(g[2], shape, _wide(x), x) if kind == LSTM else None
    dx = empty(x.shape, x.dtype, x.device) if wanted[0] else None
    of_weights: list[Tensor | None] = []
    for d, (gates, kept_h, kept_c) in enumerate(directions):
        w_ih, w_hh = weights[2 * d : 2 * d + 2]
        steps = _Steps(kind, sizes, width, d, len(directions))
        sums = _backward(steps, gates, kept_h, kept_c, g_out, dstate[d], None if dcell is None else dcell[d], w_hh)
        if dx is not None:
            product(sums[0], w_ih, dx, beta=float(d > 0))
        mine = wanted[first + 4 * d : first + 4 * d + 4]
        for asked, own, met in zip(mine[:2], sums, (x, kept_h), strict=True):
            of_weights.append(_met(own, met) if asked else None)
        of_weights += [own.sum(0) if asked else None for asked, own in zip(mine[2:], sums, strict=True)]
    states = [dstate] if dcell is None else [dstate, dcell if dcell.dtype is x.dtype else dcell.to(x.dtype)]
    of_states = [s if asked else None for s, asked in zip(states, wanted[2:first], strict=True)]
    return (dx, None, *of_states, *of_weights, *[None] * (8 - len(of_weights)))


def _met(g: Tensor, x: Tensor) -> Tensor:
    """The gradient of a weight that x met: one product over all rows."""
    made = empty((g.shape[1], x.shape[1]), x.dtype, x.device)
    product(g.mT, x, made)
    return made


# ---- lanes ----
@lane("recurrent")
def _(x: Tensor, batch_sizes: Tensor, h0: Tensor | None, *weights: Tensor | None, kind: int, batch: int) -> Kept | None:
    return _run(kind, x, batch_sizes, h0, None, weights, batch)


@lane("lstm")
def _(
    x: Tensor, batch_sizes: Tensor, h0: Tensor | None, c0: Tensor | None, *weights: Tensor | None, batch: int
) -> Kept | None:
    return _run(LSTM, x, batch_sizes, h0, c0, weights, batch)


@gradient_lane("recurrent")
def _(
    wanted: tuple[bool, ...], g_out: Any, g_h_n: Any, x: Tensor, w_ih: Any, w_hh: Any, w_ih_reverse: Any, w_hh_reverse: Any,
    kind: int, batch: int, kept: Any,
) -> tuple[Tensor | None, ...] | None:  # fmt: skip
    return _gradients(kind, wanted, (g_out, g_h_n), x, (w_ih, w_hh, w_ih_reverse, w_hh_reverse), batch, kept)


@gradient_lane("lstm")
def _(
    wanted: tuple[bool, ...], g_out: Any, g_h_n: Any, g_c_n: Any, x: Tensor, w_ih: Any, w_hh: Any, w_ih_reverse: Any, w_hh_reverse: Any,
    batch: int, kept: Any,
) -> tuple[Tensor | None, ...] | None:  # fmt: skip
    return _gradients(LSTM, wanted, (g_out, g_h_n, g_c_n), x, (w_ih, w_hh, w_ih_reverse, w_hh_reverse), batch, kept)
