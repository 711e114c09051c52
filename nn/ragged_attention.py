"""Attention of a decoder over memories of different lengths, such as an encoder's states.

Dimension letters: B sequences, L memory elements, T queries, Q and D features of a query and of a memory element, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.layers import Linear
from tensorlib.nn.module import Module
from tensorlib.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    unpack_sequence,
)

__all__ = ["AdditiveAttention", "AttentionMemory", "DotAttention"]


class AttentionMemory(NamedTuple):
    """A memory made ready for many queries, by the `prepare` of an attention layer. All tensors have the sequences first, so it may be part of the
    state of `tl.nn.decoding.beam_search`.

    Attributes:
        values: (B, L, D) the elements, zeros beyond each memory's length
        keys: (B, L, .) what queries are compared with
        seen: (B, L) bool, which of them there are
    """

    values: Tensor
    keys: Tensor
    seen: Tensor


class _RaggedAttention(Module):
    """What the kinds of attention share; they say how elements become keys, and how queries are compared with these."""

    query_size: int | None
    memory_size: int | None

    def _keys(self, elements: Tensor) -> Tensor:
        raise NotImplementedError

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B, T, Q), (B, L, .) -> (B, T, L)"""
        raise NotImplementedError

    def prepare(self, memory: Any, lengths: Tensor | Sequence[int] | None = None) -> AttentionMemory:
        """What depends on the memory alone, for decoders that ask once for each step: `forward` takes the result in place of the memory.

        Shapes:
            memory: (B, L, D), of which `lengths` (B,) say how much there is (None: all); a PackedSequence; or a list of tensors (L_i, D)

        Raises:
            ShapeError, ValueError: where sizes do not fit, or a length is out of range.
        """
        name, steps = type(self).__name__, None
        if isinstance(memory, Tensor):
            if memory.ndim != 3:
                raise tl.ShapeError(f"{name}: expected a memory of shape (B, L, D), got {memory.shape}.")
            steps = memory.shape[1]
            known = [steps] * memory.shape[0] if lengths is None else lengths
            memory = pack_padded_sequence(memory, known, batch_first=True, enforce_sorted=False)
        elif lengths is not None:
            raise ValueError(f"{name}: lengths go with a padded memory; a {type(memory).__name__} has its own.")
        if not isinstance(memory, (PackedSequence, list, tuple)):
            raise TypeError(
                f"{name}: the memory is a {type(memory).__name__}, expected a tensor, a PackedSequence or a list of tensors."
            )
        packed = memory if isinstance(memory, PackedSequence) else pack_sequence(memory, enforce_sorted=False)
        if packed.ndim != 2 or self.memory_size not in (None, packed.shape[1]):
            raise tl.ShapeError(
                f"{name}: expected elements of {self.memory_size or 'D'} features, got {packed.shape[1:]}."
            )
        values, own = pad_packed_sequence(packed, batch_first=True, total_length=steps)
        rows = self._keys(packed.data)
        keys = values if rows is packed.data else pad_packed_sequence(packed.with_data(rows), True, 0.0, steps)[0]
        return AttentionMemory(
            values, keys, tl.arange(values.shape[1], device=values.device) < own.unsqueeze(-1).to(values.device)
        )

    def forward(self, query: Any, memory: Any, lengths: Tensor | Sequence[int] | None = None) -> tuple[Any, Tensor]:
        """The weighted mean of each memory's elements, and the weights.

        Shapes:
            query: (B, Q), or (B, T, Q), or a PackedSequence or list of B sequences of queries
            memory, lengths: as for `prepare`, or what it returned
            returns: in the form of the query, with D features; weights (B, L) or (B, T, L), zeros beyond a memory's length

        An empty memory gives zeros.
        """
        if isinstance(query, (list, tuple)):
            context, weights = self.forward(pack_sequence(query, enforce_sorted=False), memory, lengths)
            return unpack_sequence(context), weights
        if isinstance(query, PackedSequence):
            context, weights = self.forward(pad_packed_sequence(query, batch_first=True)[0], memory, lengths)
            return query.with_padded(context), weights
        values, keys, seen = memory if isinstance(memory, AttentionMemory) else self.prepare(memory, lengths)
        features = keys.shape[-1] if self.query_size is None else self.query_size
        if query.ndim not in (2, 3) or query.shape[0] != len(values) or query.shape[-1] != features:
            raise tl.ShapeError(
                f"{type(self).__name__}: expected queries ({len(values)}, {features}) or ({len(values)}, T, {features}), got {query.shape}."
            )
        scores = self._scores(query if query.ndim == 3 else query.unsqueeze(1), keys)
        absent = ~seen.unsqueeze(1)
        # Of an empty memory nothing is masked before the softmax, which would give NaN.
        masked = scores.masked_fill(absent & ~absent.all(-1, keepdim=True), -math.inf)
        weights = masked.softmax(-1).masked_fill(absent, 0.0)
        context = weights @ values
        return (context, weights) if query.ndim == 3 else (context.squeeze(1), weights.squeeze(1))


class AdditiveAttention(_RaggedAttention):
    """Attention with scores ``v . tanh(W q + U m + b)`` over memories of different lengths.

    Parameters: query_proj.weight W (H, Q), memory_proj.weight U (H, D), memory_proj.bias b (H,), score.weight v (1, H).

    Shapes: see `forward`. The hidden units of all pairs, (B, T, L, H), are in memory at once.

    Reference: Bahdanau et al. 2015, appendix A.1.2.

    >>> attention = tl.nn.AdditiveAttention(5, 3, 8)
    >>> context, weights = attention(tl.zeros(2, 5), [tl.ones(4, 3), tl.ones(0, 3)])
    >>> context.tolist(), weights.tolist()
    ([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], [[0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 0.0]])
    """

    def __init__(
        self, query_size: int, memory_size: int, hidden_size: int, *, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.query_size, self.memory_size, self.hidden_size = query_size, memory_size, hidden_size
        self.query_proj = Linear(query_size, hidden_size, bias=False, device=device, dtype=dtype)
        self.memory_proj = Linear(memory_size, hidden_size, device=device, dtype=dtype)
        self.score = Linear(hidden_size, 1, bias=False, device=device, dtype=dtype)

    def _keys(self, elements: Tensor) -> Tensor:
        return self.memory_proj(elements)

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        hidden = tl.tanh(self.query_proj(query).unsqueeze(2) + keys.unsqueeze(1))
        return self.score(hidden).squeeze(-1)

    def extra_repr(self) -> str:
        return f"{self.query_size}, {self.memory_size}, {self.hidden_size}"


class DotAttention(_RaggedAttention):
    """Attention with scores ``q . m`` over memories of different lengths, or ``q . W m`` where sizes are given.

    Args:
        query_size, memory_size: Q and D, for a weight memory_proj.weight W (Q, D); None: no weight, and Q is D.
        scaled: divide the scores by ``sqrt(Q)``, as Vaswani et al. 2017 do.

    Shapes: see `forward`.

    Reference: Luong et al. 2015, section 3.1, "dot" and "general".

    >>> memory = tl.nn.utils.rnn.pack_sequence([tl.tensor([[1.0, 0.0], [0.0, 1.0]]), tl.tensor([[2.0, 3.0]])])
    >>> context, weights = tl.nn.DotAttention()(tl.tensor([[9.0, -9.0], [1.0, 1.0]]), memory)
    >>> weights.round().tolist(), context[1].tolist()
    ([[1.0, 0.0], [1.0, 0.0]], [2.0, 3.0])
    """

    memory_proj: Linear | None

    def __init__(
        self, query_size: int | None = None, memory_size: int | None = None, scaled: bool = False, *, device: Any = None, dtype: Any = None
    ) -> None:  # fmt: skip
        super().__init__()
        if (query_size is None) != (memory_size is None):
            raise ValueError(f"DotAttention: expected both sizes or none, got {query_size} and {memory_size}.")
        self.query_size, self.memory_size, self.scaled = query_size, memory_size, scaled
        self.memory_proj = None
        if query_size is not None and memory_size is not None:
            self.memory_proj = Linear(memory_size, query_size, bias=False, device=device, dtype=dtype)

    def _keys(self, elements: Tensor) -> Tensor:
        return elements if self.memory_proj is None else self.memory_proj(elements)

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return (query / math.sqrt(query.shape[-1]) if self.scaled else query) @ keys.transpose(1, 2)

    def extra_repr(self) -> str:
        sizes = "" if self.query_size is None else f"{self.query_size}, {self.memory_size}, "
        return f"{sizes}scaled={self.scaled}"
