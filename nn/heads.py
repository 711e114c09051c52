"""Attention with several heads, as a function of its weights.

`tl.nn.functional` offers it under PyTorch's name. Dimension letters: B batch, L queries, S keys, E features, H heads, D features of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tensorlib as tl
from tensorlib import Tensor

__all__ = ["multi_head_attention_forward"]

_NAME = "multi_head_attention_forward"


@dataclass(frozen=True, slots=True)
class Projections:
    """The weights of one attention: `joint` (3 E, E) for queries, keys and values, or `separate` ones (E, .)."""

    joint: Tensor | None
    separate: tuple[Tensor | None, Tensor | None, Tensor | None]
    bias: Tensor | None  # (3 E,)
    out_weight: Tensor
    out_bias: Tensor | None
    bias_k: Tensor | None = None  # (1, 1, E): one more key and value for all
    bias_v: Tensor | None = None
    add_zero: bool = False  # and one more of zeros

    def apply(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, (..., E) each. Operands that are the same tensor are projected by one product."""
        wide = self.out_weight.shape[1]
        if self.joint is None:
            operands = zip((query, key, value), self.separate, self._biases([wide] * 3), strict=True)
            return tuple(tl.linear(x, w, b) for x, w, b in operands if w is not None)
        if query is key and key is value:
            return tl.linear(query, self.joint, self.bias).split(wide, -1)
        sizes = [wide, 2 * wide] if key is value else [wide] * 3
        joint = zip((query, key, value), self.joint.split(sizes), self._biases(sizes), strict=False)
        first, *others = (tl.linear(x, w, b) for x, w, b in joint)
        return first, *(others[0].split(wide, -1) if key is value else others)

    def _biases(self, sizes: list[int]) -> Sequence[Tensor | None]:
        return [None] * len(sizes) if self.bias is None else self.bias.split(sizes)


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, weights: Projections, dropout_p: float,
    key_padding_mask: Tensor | None, need_weights: bool, attn_mask: Tensor | None, average_attn_weights: bool, is_causal: bool,
    batch_first: bool, static_k: Tensor | None = None, static_v: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Batched attention, with the batch or the time in front. (out, weights (B, L, S) or (B, H, L, S), or None)"""
    q, k, v = weights.apply(query, key, value)
    wide = q.shape[-1]
    batch, length = query.shape[:2] if batch_first else query.shape[1::-1]

    def heads(x: Tensor) -> Tensor:
        """(B, L, E) or (L, B, E) -> (B, H, L, D), as a view."""
        split = x.view(*x.shape[:2], num_heads, wide // num_heads)
        return split.transpose(1, 2) if batch_first else split.permute(1, 2, 0, 3)

    q = heads(q)
    k = _static("static_k", static_k, batch, q) if static_k is not None else _extended(heads(k), weights.bias_k)
    v = _static("static_v", static_v, batch, q) if static_v is not None else _extended(heads(v), weights.bias_v)
    if weights.add_zero:
        zeros = tl.zeros((batch, num_heads, 1, wide // num_heads), dtype=k.dtype, device=k.device)
        k, v = tl.cat([k, zeros], 2), tl.cat([v, zeros], 2)
    further = (weights.bias_k is not None and static_k is None) + weights.add_zero  # keys that no mask speaks of
    causal = is_causal and key_padding_mask is None and not further and not need_weights
    mask = (
        None if causal else _mask(attn_mask, key_padding_mask, (batch, num_heads, length, k.shape[2]), further, q.dtype)
    )
    probabilities = None
    if need_weights:
        scores = (q * math.sqrt(num_heads / wide)) @ k.mT
        if mask is not None:
            scores = scores + mask if mask.dtype is q.dtype else scores.masked_fill(~mask, -math.inf)
        probabilities = tl.dropout(scores.softmax(-1), dropout_p, dropout_p > 0)
        out = probabilities @ v
        probabilities = probabilities.mean(1) if average_attn_weights else probabilities
    else:
        out = tl.scaled_dot_product_attention(q, k, v, mask, dropout_p, causal)
    joined = out.transpose(1, 2) if batch_first else out.permute(2, 0, 1, 3)
    joined = joined.reshape(*query.shape[:2], wide)
    return tl.linear(joined, weights.out_weight, weights.out_bias), probabilities


def _extended(heads: Tensor, bias: Tensor | None) -> Tensor:
    """(B, H, S, D) and one more key or value, the same in every sequence."""
    if bias is None:
        return heads
    b, h, _, d = heads.shape
    return tl.cat([heads, bias.reshape(1, h, 1, d).expand(b, h, 1, d)], 2)


def _static(name: str, given: Tensor, batch: int, q: Tensor) -> Tensor:
    """Keys or values that came ready, (B H, S, D)."""
    _, h, _, d = q.shape
    if given.ndim != 3 or given.shape[0] != batch * h or given.shape[2] != d:
        raise tl.ShapeError(f"{_NAME}: {name} has shape {given.shape}, expected ({batch * h}, S, {d}).")
    return given.reshape(batch, h, given.shape[1], d)


def _mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, scores: tuple[int, int, int, int], further: int, dtype: tl.DType
) -> Tensor | None:  # fmt: skip
    """Both masks in one, in the form of `scaled_dot_product_attention`: True where a query sees a key, or numbers to add."""
    b, h, length, s = scores
    s -= further
    masks: list[Tensor] = []
    if attn_mask is not None:
        _check_mask("attn_mask", attn_mask, (length, s) if attn_mask.ndim == 2 else (b * h, length, s), dtype)
        masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.reshape(b, h, length, s))
    if key_padding_mask is not None:
        _check_mask("key_padding_mask", key_padding_mask, (b, s), dtype)
        masks.append(key_padding_mask.reshape(b, 1, 1, s))
    if not masks:
        return None
    if all(m.dtype is tl.bool_ for m in masks):
        hidden = masks[0] if len(masks) == 1 else masks[0] | masks[1]
        return ~(tl.pad(hidden, (0, further)) if further else hidden)
    added = [
        tl.zeros((), dtype=dtype, device=m.device).masked_fill(m, -math.inf) if m.dtype is tl.bool_ else m
        for m in masks
    ]
    total = added[0] if len(added) == 1 else added[0] + added[1]
    return tl.pad(total, (0, further)) if further else total


def _check_mask(name: str, mask: Tensor, shape: tuple[int, ...], dtype: tl.DType) -> None:
    if mask.shape != shape:
        raise tl.ShapeError(f"{_NAME}: {name} has shape {mask.shape}, expected {shape}.")
    if mask.dtype is not tl.bool_ and mask.dtype is not dtype:
        raise tl.DTypeError(f"{_NAME}: {name} is {mask.dtype.name}, expected bool or {dtype.name}.")


def check_operands(
    query: Tensor, key: Tensor, value: Tensor, embed_dim: int, key_padding_mask: Tensor | None, batch_first: bool, separate: bool
) -> bool:  # fmt: skip
    """Whether there is a batch; raises where shapes do not fit."""
    if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
        raise tl.ShapeError(
            f"{_NAME}: query, key and value must all have 3 dimensions, or 2 without a batch, got {query.shape}, {key.shape} and {value.shape}."
        )
    if query.shape[-1] != embed_dim or (not separate and not key.shape[-1] == value.shape[-1] == embed_dim):
        raise tl.ShapeError(
            f"{_NAME}: expected {embed_dim} features, got query {query.shape}, key {key.shape} and value {value.shape}."
        )
    batched, at = query.ndim == 3, 0 if batch_first else 1
    if key.shape[:-1] != value.shape[:-1] or (batched and key.shape[at] != query.shape[at]):
        raise tl.ShapeError(
            f"{_NAME}: query {query.shape}, key {key.shape} and value {value.shape} differ in batch or length."
        )
    if key_padding_mask is not None and key_padding_mask.ndim != query.ndim - 1:
        raise tl.ShapeError(
            f"{_NAME}: key_padding_mask must have shape {'(B, S)' if batched else '(S,)'}, got {key_padding_mask.shape}."
        )
    return batched


def attention(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, weights: Projections, dropout_p: float,
    key_padding_mask: Tensor | None, need_weights: bool, attn_mask: Tensor | None, average_attn_weights: bool, is_causal: bool,
    batch_first: bool, static_k: Tensor | None = None, static_v: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`attend`, with or without a batch, of operands that are checked first."""
    embed_dim = weights.out_weight.shape[1]
    if num_heads < 1 or embed_dim % num_heads:
        raise ValueError(f"{_NAME}: {num_heads} heads do not divide {embed_dim} features.")
    if is_causal and attn_mask is None:
        raise ValueError(f"{_NAME}: is_causal says what attn_mask is; give the mask as well.")
    batched = check_operands(query, key, value, embed_dim, key_padding_mask, batch_first, weights.joint is None)
    if not batched:
        same = query is key, key is value
        at = 0 if batch_first else 1
        query = query.unsqueeze(at)
        key = query if same[0] else key.unsqueeze(at)
        value = key if same[1] else value.unsqueeze(at)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    out, probabilities = attend(
        query, key, value, num_heads, weights, dropout_p, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal,
        batch_first, static_k, static_v,
    )  # fmt: skip
    if batched:
        return out, probabilities
    return out.squeeze(0 if batch_first else 1), None if probabilities is None else probabilities.squeeze(0)


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What `tl.nn.MultiheadAttention` computes, of weights that are given; time is in front.

    Shapes:
        query: (L, B, E), key: (S, B, E), value: (S, B, E); or without B
        attn_mask: (L, S) or (B H, L, S), key_padding_mask: (B, S); bool, True where a key is hidden, or numbers that are added
        returns: (L, B, E), and (B, L, S), (B, H, L, S) unless `average_attn_weights`, None unless `need_weights`

    Reference: Vaswani et al. 2017.
    """
    if query.shape[-1] != embed_dim_to_check:
        raise tl.ShapeError(f"{_NAME}: expected {embed_dim_to_check} features, got query {query.shape}.")
    if (in_proj_weight if not use_separate_proj_weight else q_proj_weight) is None:
        raise TypeError(f"{_NAME}: {'q_proj_weight' if use_separate_proj_weight else 'in_proj_weight'} is missing.")
    weights = Projections(
        None if use_separate_proj_weight else in_proj_weight, (q_proj_weight, k_proj_weight, v_proj_weight), in_proj_bias,
        out_proj_weight, out_proj_bias, bias_k, bias_v, add_zero_attn,
    )  # fmt: skip
    return attention(
        query, key, value, num_heads, weights, dropout_p if training else 0.0, key_padding_mask, need_weights, attn_mask,
        average_attn_weights, is_causal, False, static_k, static_v,
    )  # fmt: skip
