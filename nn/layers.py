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

__all__ = ["Embedding", "EmbeddingBag", "Flatten", "Identity", "Linear", "Unflatten"]

_linear = tl.linear


class Identity(Module):
    """Returns its input; takes and ignores any arguments, so that it can stand in for another layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Linear(Module):
    """Affine map ``input @ weight.T + bias``.

    Shapes:
        input: (..., D_in)  ->  out: (..., D_out);   weight: (D_out, D_in), bias: (D_out,) or None

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

    def forward(self, input: Tensor) -> Tensor:
        return _linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}" + ("" if self.bias is not None else ", no bias")


def _sizes(name: str, table: Tensor) -> tuple[int, int]:
    if table.ndim != 2:
        raise tl.ShapeError(f"{name}.from_pretrained: expected a (V, D) table, got shape {table.shape}.")
    return table.shape[0], table.shape[1]


def _over(name: str, table: Tensor, sizes: tuple[int, int], *, freeze: bool = False) -> Parameter:
    """A parameter over a table that was given."""
    if table.shape != sizes:
        raise tl.ShapeError(f"{name}: expected a table of shape {sizes}, got {table.shape}.")
    return Parameter(table, requires_grad=not freeze)


class Embedding(Module):
    """A table of V vectors, looked up by integer.

    Shapes:
        input: (...) integer in [0, V)  ->  out: (..., D);   weight: (V, D), standard normal at first

    The row `padding_idx` starts at zero and gets no gradient. With `sparse`, the gradient of `weight` holds the rows of a batch only
    (`tl.SparseTensor`): for SGD, Adagrad and SparseAdam.

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
        _weight: Tensor | None = None,
        _freeze: bool = False,
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
        if _weight is not None:
            self.weight = _over("Embedding", _weight, (num_embeddings, embedding_dim), freeze=_freeze)
            return
        self.weight = Parameter(tl.empty((num_embeddings, embedding_dim), device=device, dtype=dtype), not _freeze)
        self.reset_parameters()

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """An embedding over a given (V, D) table, frozen unless told otherwise."""
        return cls(
            *_sizes("Embedding", embeddings), padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, embeddings, freeze
        )  # fmt: skip

    def reset_parameters(self) -> None:
        """Draw fresh vectors; the padding row is zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with tl.no_grad():
                self.weight[self.padding_idx] = 0

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
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
        _weight: Tensor | None = None,
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
        if _weight is not None:
            self.weight = _over("EmbeddingBag", _weight, (num_embeddings, embedding_dim))
            return
        self.weight = Parameter(tl.empty((num_embeddings, embedding_dim), device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """Bags over a given (V, D) table, frozen unless told otherwise."""
        made = cls(
            *_sizes("EmbeddingBag", embeddings), max_norm, norm_type, scale_grad_by_freq, mode, sparse, embeddings, include_last_offset,
            padding_idx,
        )  # fmt: skip
        made.weight.requires_grad_(not freeze)
        return made

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


class Flatten(Module):
    """Join dimensions `start_dim` to `end_dim` into one; the default keeps the batch dimension.

    >>> tl.nn.Flatten()(tl.zeros(2, 3, 4)).shape
    (2, 12)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

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

    def forward(self, input: Tensor) -> Tensor:
        return input.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, {self.unflattened_size}"
