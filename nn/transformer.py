"""Transformers: layers of encoder and decoder, stacks of them, and both together.

Dimension letters: B batch, S, T lengths of source and target, E features, H heads. Masks are as in MultiheadAttention: where bool, True hides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import functional as F, init
from tensorlib.nn.attention import MultiheadAttention
from tensorlib.nn.containers import ModuleList
from tensorlib.nn.dropout import Dropout
from tensorlib.nn.layers import Linear
from tensorlib.nn.module import Module
from tensorlib.nn.norms import LayerNorm

__all__ = [
    "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer",
]  # fmt: skip

Activation = str | Callable[[Tensor], Tensor]


def _activation(given: Activation) -> Callable[[Tensor], Tensor]:
    if not isinstance(given, str):
        return given
    named: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
    if given not in named:
        raise ValueError(f"Transformer: activation must be 'relu', 'gelu' or a function, got {given!r}.")
    return named[given]


class _Layer(Module):
    """What the layers of encoder and decoder share: attention to oneself, the feed-forward part, and where the norms stand."""

    norms = 0  # one for each part

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, activation: Activation, layer_norm_eps: float,
        batch_first: bool, norm_first: bool, bias: bool, device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        made = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        if self.norms == 3:
            self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **made)
        self.norm_first = norm_first
        for i in range(1, self.norms + 1):
            self.add_module(f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, **made))
        for i in range(1, self.norms + 1):
            self.add_module(f"dropout{i}", Dropout(dropout))
        self.activation = _activation(activation)

    def _part(self, i: int, x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        """x plus what the part makes of it, normalised before or after."""
        norm, dropout = self._modules[f"norm{i}"], self._modules[f"dropout{i}"]
        assert norm is not None and dropout is not None
        return x + dropout(part(norm(x))) if self.norm_first else norm(x + dropout(part(x)))

    def _attend_to_self(
        self, mask: Tensor | None, padding: Tensor | None, is_causal: bool
    ) -> Callable[[Tensor], Tensor]:
        return lambda x: self.self_attn(x, x, x, padding, False, mask, is_causal=is_causal)[0]

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))

    def extra_repr(self) -> str:
        return "norm_first" if self.norm_first else ""


class TransformerEncoderLayer(_Layer):
    """Attention of a sequence to itself, then a network of two linear maps for each element; both added to what came in, and normalised.

    Args:
        d_model, nhead: E and H.
        dim_feedforward: features between the two linear maps.
        activation: "relu", "gelu" or a function, between them.
        batch_first: tensors come as (B, S, E) instead of (S, B, E).
        norm_first: normalise what goes into each part, instead of the sum.

    Reference: Vaswani et al. 2017; Xiong et al. 2020 for `norm_first`.

    >>> tl.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)(tl.randn(3, 5, 8)).shape
    (3, 5, 8)
    """

    norms = 2

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype
        )  # fmt: skip

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """
        Shapes:
            src: (B, S, E) with `batch_first`, else (S, B, E), or (S, E); src_mask: (S, S) or (B H, S, S), src_key_padding_mask: (B, S)
            returns: as src
        """
        x = self._part(1, src, self._attend_to_self(src_mask, src_key_padding_mask, is_causal))
        return self._part(2, x, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """As TransformerEncoderLayer, with attention to a memory, an encoder's result, between the two parts.

    >>> tl.nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)(tl.randn(3, 5, 8), tl.randn(3, 7, 8)).shape
    (3, 5, 8)
    """

    norms = 3

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype
        )  # fmt: skip

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """
        Shapes:
            tgt: (B, T, E), memory: (B, S, E) with `batch_first`, else (T, B, E) and (S, B, E), or without B
            tgt_mask: (T, T), memory_mask: (T, S), tgt_key_padding_mask: (B, T), memory_key_padding_mask: (B, S)
            returns: as tgt
        """

        def attend_to_memory(x: Tensor) -> Tensor:
            return self.multihead_attn(
                x, memory, memory, memory_key_padding_mask, False, memory_mask, is_causal=memory_is_causal
            )[0]

        x = self._part(1, tgt, self._attend_to_self(tgt_mask, tgt_key_padding_mask, tgt_is_causal))
        x = self._part(2, x, attend_to_memory)
        return self._part(3, x, self._feed_forward)


def _is_causal(mask: Tensor | None, said: bool | None) -> bool:
    """Whether the mask hides later elements and nothing else: what was said, or else what the mask shows."""
    if said is not None or mask is None or mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        return bool(said)
    wanted = tl.ones(mask.shape, dtype=tl.bool_, device=mask.device).triu(1)
    if mask.dtype is not tl.bool_:
        wanted = tl.zeros(mask.shape, dtype=mask.dtype, device=mask.device).masked_fill(wanted, -math.inf)
    return bool((mask == wanted).all())


class _Stack(Module):
    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        super().__init__()
        self.layers = ModuleList([deepcopy(layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm


class TransformerEncoder(_Stack):
    """`num_layers` copies of a layer, one after another, and a last norm where one is given.

    `enable_nested_tensor` and `mask_check` are there for programs that give them: nothing is nested here, and padded elements are computed.

    >>> layer = tl.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> tl.nn.TransformerEncoder(layer, 2)(tl.randn(3, 5, 8)).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__(encoder_layer, num_layers, norm)
        self.enable_nested_tensor, self.mask_check = enable_nested_tensor, mask_check

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Shapes as of the layer. `is_causal`: None looks whether `mask` is."""
        is_causal = _is_causal(mask, is_causal)
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=is_causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(_Stack):
    """`num_layers` copies of a layer, one after another, and a last norm where one is given.

    >>> layer = tl.nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    >>> tl.nn.TransformerDecoder(layer, 2)(tl.randn(3, 5, 8), tl.randn(3, 7, 8)).shape
    (3, 5, 8)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Shapes as of the layer. `tgt_is_causal`: None looks whether `tgt_mask` is."""
        tgt_is_causal = _is_causal(tgt_mask, tgt_is_causal)
        for layer in self.layers:
            tgt = layer(
                tgt,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=tgt_is_causal,
                memory_is_causal=memory_is_causal,
            )
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """An encoder and a decoder, each a stack of layers with a norm at its end.

    Args:
        custom_encoder, custom_decoder: modules in their places, called as these are.

    All weights of two or more dimensions start as Glorot's uniform.

    Reference: Vaswani et al. 2017.

    >>> model = tl.nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    >>> model(tl.randn(3, 7, 8), tl.randn(3, 5, 8)).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        settings = (
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype
        )  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)

        self.encoder = custom_encoder
        if custom_encoder is None:
            self.encoder = TransformerEncoder(TransformerEncoderLayer(*settings), num_encoder_layers, norm())
        self.decoder = custom_decoder
        if custom_decoder is None:
            self.decoder = TransformerDecoder(TransformerDecoderLayer(*settings), num_decoder_layers, norm())
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """
        Shapes:
            src: (B, S, E), tgt: (B, T, E) with `batch_first`, else (S, B, E) and (T, B, E), or without B
            returns: as tgt
        """
        at = 0 if self.batch_first else 1
        if src.ndim != tgt.ndim or (src.ndim == 3 and src.shape[at] != tgt.shape[at]):
            raise tl.ShapeError(f"Transformer: src {src.shape} and tgt {tgt.shape} must have the same batch.")
        if not src.shape[-1] == tgt.shape[-1] == self.d_model:
            raise tl.ShapeError(
                f"Transformer: expected {self.d_model} features, got src {src.shape} and tgt {tgt.shape}."
            )
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """(sz, sz): minus infinity where an element comes after the one that looks, 0 elsewhere.

        >>> tl.nn.Transformer.generate_square_subsequent_mask(2).tolist()
        [[0.0, -inf], [0.0, 0.0]]
        """
        return tl.full((sz, sz), -math.inf, device=device, dtype=dtype or tl.get_default_dtype()).triu(1)
