"""Layers with parameters, and the small ones without.

Dimension letters: B batch, T time, D features, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import functional as F, init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

__all__ = ["Dropout", "Embedding", "EmbeddingBag", "Flatten", "Identity", "Linear", "Unflatten", "VariationalDropout"]

_linear = tl.linear


class Identity(Module):
    """Returns its input; takes and ignores any arguments, so that it can stand in for another layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class Linear(Module):
    """Affine map ``x @ weight.T + bias``.

    Shapes:
        x: (..., D_in)  ->  out: (..., D_out);   weight: (D_out, D_in), bias: (D_out,) or None

    Both start uniform in +-1/sqrt(D_in).

    >>> tl.nn.Linear(3, 2)(tl.zeros(5, 3)).shape
    (5, 2)
    """

    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(tl.empty((out_features, in_features), device=device, dtype=dtype))
        self.register_parameter(
            "bias", Parameter(tl.empty((out_features,), device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return _linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}" + ("" if self.bias is not None else ", no bias")


class Embedding(Module):
    """A table of V vectors, looked up by integer.

    Shapes:
        index: (...) integer in [0, V)  ->  out: (..., D);   weight: (V, D), standard normal at first

    The row `padding_idx` starts at zero and gets no gradient.

    >>> tl.nn.Embedding(10, 4)(tl.tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx {padding_idx} is out of range for {num_embeddings} rows.")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx if padding_idx is None or padding_idx >= 0 else padding_idx + num_embeddings
        self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse = (
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
        )
        self.weight = Parameter(tl.empty((num_embeddings, embedding_dim), device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """An embedding over a given (V, D) table, frozen unless told otherwise."""
        if embeddings.ndim != 2:
            raise tl.ShapeError(f"Embedding.from_pretrained: expected a (V, D) table, got shape {embeddings.shape}.")
        made = cls(0, embeddings.shape[1])
        made.num_embeddings, made.padding_idx = embeddings.shape[0], padding_idx
        made.weight = Parameter(embeddings, requires_grad=not freeze)
        return made

    def reset_parameters(self) -> None:
        """Draw fresh vectors; the padding row is zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with tl.no_grad():
                self.weight[self.padding_idx] = 0

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(
            index, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}" + (
            "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        )


class EmbeddingBag(Module):
    """The sum, mean or maximum of a table's vectors, for each bag of indices; see `tl.nn.functional.embedding_bag`.

    Shapes:
        input: (B, L), or (N,) with offsets (B,)  ->  out: (B, D);   weight: (V, D), standard normal at first

    >>> tl.nn.EmbeddingBag(10, 4)(tl.tensor([[1, 2, 3]])).shape
    (1, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"EmbeddingBag: padding_idx {padding_idx} is out of range for {num_embeddings} rows.")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.max_norm, self.norm_type, self.scale_grad_by_freq = max_norm, norm_type, scale_grad_by_freq
        self.mode, self.sparse, self.include_last_offset = mode, sparse, include_last_offset
        self.padding_idx = padding_idx if padding_idx is None or padding_idx >= 0 else padding_idx + num_embeddings
        self.weight = Parameter(tl.empty((num_embeddings, embedding_dim), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh vectors; the padding row is zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with tl.no_grad():
                self.weight[self.padding_idx] = 0

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        return F.embedding_bag(
            input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.mode, self.sparse,
            per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}" + (
            "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        )


class Dropout(Module):
    """In training, zero each element with probability `p` and scale the others by ``1 / (1 - p)``; in evaluation, do nothing.

    Reference: Srivastava et al. 2014.

    >>> tl.nn.Dropout(0.5).eval()(tl.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be a probability in [0, 1], got {p}.")
        self.p, self.inplace = p, inplace

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class VariationalDropout(Dropout):
    """Dropout with one mask for all steps of a sequence: between recurrent layers, a feature is dropped for the whole sequence or not at all.

    Args:
        p: the probability of zero; in training, all else is scaled by ``1 / (1 - p)``.
        batch_first: tensors come as (B, T, D).

    Shapes:
        x: (T, B, D), or (B, T, D) with `batch_first`, or (T, D); a PackedSequence; or a list of tensors (L_i, D)  ->  out: in the same form

    All forms of one batch get the same masks.

    Reference: Gal and Ghahramani 2016.

    >>> out = tl.nn.VariationalDropout(0.5)(tl.ones(9, 2, 3))
    >>> bool((out == out[0]).all())
    True
    """

    def __init__(self, p: float = 0.5, batch_first: bool = False) -> None:
        super().__init__(p)
        self.batch_first = batch_first

    def forward(self, x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return unpack_sequence(self.forward(pack_sequence(x, enforce_sorted=False)))
        if not self.training or self.p == 0:
            return x
        if isinstance(x, PackedSequence):
            return x.with_data(x.data * x.broadcast(self._mask((len(x.lengths), *x.shape[1:]), x)).data)
        if x.ndim < 2:
            raise tl.ShapeError(f"VariationalDropout: expected (T, B, D) or (T, D), got shape {x.shape}.")
        time = 1 if self.batch_first and x.ndim > 2 else 0
        return x * self._mask((*x.shape[:time], 1, *x.shape[time + 1 :]), x)

    def _mask(self, shape: tuple[int, ...], x: Any) -> Tensor:
        return F.dropout(tl.ones(shape, dtype=x.dtype, device=x.device), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}" + (", batch_first=True" if self.batch_first else "")


class Flatten(Module):
    """Join dimensions `start_dim` to `end_dim` into one; the default keeps the batch dimension.

    >>> tl.nn.Flatten()(tl.zeros(2, 3, 4)).shape
    (2, 12)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"{self.start_dim}..{self.end_dim}"


class Unflatten(Module):
    """Split dimension `dim` into the sizes `unflattened_size`: the opposite of Flatten.

    >>> tl.nn.Unflatten(1, (3, 4))(tl.zeros(2, 12)).shape
    (2, 3, 4)
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, {self.unflattened_size}"
