"""Attention with several heads.

Dimension letters: B batch, L queries, S keys, E features, H heads.
"""

from __future__ import annotations

from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import init
from tensorlib.nn.heads import Projections, attention
from tensorlib.nn.layers import Linear
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Every query's mean of the values, weighted by how well their keys fit; H times on E / H features each, and joined by a linear map.

    Args:
        embed_dim, num_heads: E and H.
        dropout: the share of weights that is dropped in training.
        bias: whether the projections have one.
        add_bias_kv: learn one more key and value for all sequences.
        add_zero_attn: add one more key and value of zeros.
        kdim, vdim: features of keys and of values, where they are not E.
        batch_first: tensors come as (B, L, E) instead of (L, B, E).

    The weights start as Glorot's uniform, out_proj's as a Linear's; biases start at 0.

    Reference: Vaswani et al. 2017.

    >>> attend, x = tl.nn.MultiheadAttention(8, 2, batch_first=True), tl.randn(3, 5, 8)
    >>> out, weights = attend(x, x, x)
    >>> out.shape, weights.shape
    ((3, 5, 8), (3, 5, 5))
    """

    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim < 1 or num_heads < 1:
            raise ValueError(
                f"MultiheadAttention: embed_dim and num_heads must be positive, got {embed_dim} and {num_heads}."
            )
        if embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: {num_heads} heads do not divide {embed_dim} features.")
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiheadAttention: dropout must be a probability in [0, 1], got {dropout}.")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        joint = self.kdim == self.vdim == embed_dim
        shapes: dict[str, tuple[int, ...] | None] = {
            "q_proj_weight": None if joint else (embed_dim, embed_dim),
            "k_proj_weight": None if joint else (embed_dim, self.kdim),
            "v_proj_weight": None if joint else (embed_dim, self.vdim),
            "in_proj_weight": (3 * embed_dim, embed_dim) if joint else None,
            "in_proj_bias": (3 * embed_dim,) if bias else None,
            "bias_k": (1, 1, embed_dim) if add_bias_kv else None,
            "bias_v": (1, 1, embed_dim) if add_bias_kv else None,
        }
        for name, shape in shapes.items():
            made = None if shape is None else Parameter(tl.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, made)
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights, but for out_proj's."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The result and, with `need_weights`, the weights. Without them the scores are never held in memory: say False where they are not used.

        Args:
            key_padding_mask: (B, S); bool, True where a key is padding, or numbers that are added to the scores.
            attn_mask: (L, S) or (B H, L, S); bool, True where a query may not see a key, or numbers that are added to the scores.
            average_attn_weights: give the mean of the heads' weights, (B, L, S), instead of each, (B, H, L, S).
            is_causal: says that attn_mask hides later keys and nothing else, so that it need not be read.

        Shapes:
            query: (B, L, E), key: (B, S, kdim), value: (B, S, vdim) with `batch_first`, else (L, B, .); or without B
            returns: as query; weights, or None
        """
        weights = Projections(
            self.in_proj_weight,
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight),
            self.in_proj_bias,
            self.out_proj.weight,
            self.out_proj.bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
        )
        return attention(
            query, key, value, self.num_heads, weights, self.dropout if self.training else 0.0, key_padding_mask, need_weights,
            attn_mask, average_attn_weights, is_causal, self.batch_first,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads} heads" + (", batch_first" if self.batch_first else "")
