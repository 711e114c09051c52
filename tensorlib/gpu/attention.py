"""Scaled dot-product attention a block of queries and keys at a time; the gradient, in two passes without atomics, computes the scores again.

Operands are read in place, also heads from ``x.view(B, T, H, D).transpose(1, 2)``. Dropout, a gradient for a mask, and depths whose blocks exceed a
multiprocessor's shared memory are left to the definition in plain operations, which keeps all scores.

Dimension letters: B everything before the heads, H heads, L queries, S keys, E depth of queries and keys, V of values.
"""

from __future__ import annotations

import math
from typing import Any

from tensorlib import dtypes
from tensorlib.ops.attention import definition, leading_dimensions
from tensorlib.tensor import Tensor

from . import Alias, Kept, gradient_lane, lane, recorded
from .launch import Source, empty
from .matmul import SERVED, fill_zero

SOURCE = Source("attention.cu")
DEPTHS = (16, 32, 64, 128, 256)
THREADS = 256
NO_MASK, BOOL_MASK, ADDED_MASK = range(3)


class _Call:
    """Operands as (B, H, rows, depth) views, and what kernels are told about them."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float, enable_gqa: bool
    ) -> None:  # fmt: skip
        self.leading = leading_dimensions(query, key, value, enable_gqa)
        self.heads = self.leading[-1] if self.leading else 1
        self.batch = math.prod(self.leading[:-1])
        self.queries, self.keys = query.shape[-2], key.shape[-2]
        self.depths = query.shape[-1], value.shape[-1]
        self.dtype, self.device = query.dtype, query.device
        self.wide = dtypes.float64 if self.dtype is dtypes.float64 else dtypes.float32
        own = [x.shape[-3] if enable_gqa else self.heads for x in (key, value)]
        x, k, v = (self.four(t, n) for t, n in zip((query, key, value), (self.heads, *own), strict=True))
        m = None if mask is None else self.four(mask, self.heads, (self.queries, self.keys))
        self.mask = NO_MASK if m is None else BOOL_MASK if m.dtype is dtypes.bool_ else ADDED_MASK
        sizes = self.queries, self.keys, *self.depths, self.heads, *(self.heads // max(n, 1) for n in own)
        strides = [n for t in (x, k, v) for n in t.stride()[:3]] + [*(m.stride() if m is not None else (0,) * 4)]
        self.operands = (x, k, v, m, *sizes, int(is_causal), float(scale), *strides)

    def four(self, x: Tensor, heads: int, ends: tuple[int, int] | None = None) -> Tensor:
        """(B, H, ...), broadcast; without `ends`, the last two dimensions, the last one contiguous."""
        lead = (*self.leading[:-1], heads) if self.leading else ()
        x = x.expand((*lead, *(ends or x.shape[-2:]))).reshape((self.batch, heads, *(ends or x.shape[-2:])))
        return x if ends or x.stride()[-1] == 1 or x.shape[-1] <= 1 else x.contiguous()

    def depth(self, gradient: bool) -> int | None:
        """What depths are padded to; None where blocks of it do not fit into shared memory."""
        found = next((d for d in DEPTHS if d >= max(self.depths)), None)
        fits = found is not None and found * self.wide.itemsize <= (512 if gradient else 1024)
        return found if fits else None

    def run(self, kernel: str, rows: int, *given: Any, gradient: bool) -> None:
        """A block for each tile of `rows` of every head."""
        depth = self.depth(gradient)
        assert depth is not None
        size, shared = depth * self.wide.itemsize, self.wide.itemsize * (4 * 32 * (depth + 1) + 2 * 32 * 33)
        tile = (32 if shared <= 49152 else 16) if gradient else 64 if size <= 256 else 32 if size <= 512 else 16
        grid = -(-rows // tile) * self.batch * self.heads
        source = SOURCE(kernel, T=self.dtype, D=depth, MASK=self.mask, GRADIENT=int(gradient))
        source(grid, THREADS, *given, *self.operands)

    def new(self, rows: int, depth: int) -> Tensor:
        return empty((*self.leading, rows, depth), self.dtype, self.device)

    def rows(self) -> Tensor:
        """A number for each query."""
        return empty((self.batch * self.heads * self.queries,), self.wide, self.device)


@lane("scaled_dot_product_attention")
def _(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, *, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False, seed: int = 0, counter: int = 0,
) -> Kept | Tensor | None:  # fmt: skip
    if query.dtype not in SERVED:
        return None
    scale = max(query.shape[-1], 1) ** -0.5 if scale is None else scale
    call = _Call(query, key, value, attn_mask, is_causal, scale, enable_gqa)
    if (
        dropout_p or call.depth(gradient=False) is None
    ):  # in operations, whose lanes a graph can capture, as the rules are
        how = {
            "dropout_p": dropout_p,
            "is_causal": is_causal,
            "enable_gqa": enable_gqa,
            "seed": seed,
            "counter": counter,
        }
        made: Tensor = definition(query, key, value, attn_mask, scale=scale, **how)
        return made
    out = call.new(call.queries, call.depths[1])
    if not out.numel():
        return out
    if not call.keys:
        fill_zero(out)
        return out
    lse = call.rows() if recorded() else None
    call.run("attend", call.queries, out, lse, gradient=False)
    return out if lse is None else Kept(out, (Alias(out), lse))


@gradient_lane("scaled_dot_product_attention")
def _(
    wanted: tuple[bool, ...], g: Tensor, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool,
    scale: float | None, enable_gqa: bool, kept: Any,
) -> tuple[Tensor | None, ...] | None:  # fmt: skip
    if kept is None or wanted[3] or (out := kept[0].tensor) is None:
        return None
    scale = max(query.shape[-1], 1) ** -0.5 if scale is None else scale
    call = _Call(query, key, value, attn_mask, is_causal, scale, enable_gqa)
    if call.depth(gradient=True) is None:
        return None
    lse, delta = kept[1], call.rows()
    g = call.four(g, call.heads)
    given = g, *g.stride()[:3]
    dq = call.new(call.queries, call.depths[0])
    call.run("attend_grad_query", call.queries, dq, delta, lse, out, *given, gradient=True)
    if not (wanted[1] or wanted[2]):
        return dq, None, None, None
    dk, dv = (call.new(call.keys, depth) for depth in call.depths)
    call.run("attend_grad_keys", call.keys, dk, dv, delta, lse, *given, gradient=True)
    if enable_gqa:
        dk, dv = (_folded(x, t.shape[-3]) for x, t in ((dk, key), (dv, value)))
    return dq, dk, dv, None


def _folded(g: Tensor, heads: int) -> Tensor:
    """The gradient of so many heads, from that of one for each query head."""
    return g.reshape((*g.shape[:-3], heads, g.shape[-3] // heads, *g.shape[-2:])).sum(-3)
