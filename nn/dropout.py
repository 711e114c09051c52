"""Dropout layers: active in training, the identity in evaluation.

Dimension letters: N, B batch, C channels, T time, D features.
"""

from __future__ import annotations

from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import functional as F
from tensorlib.nn.masks import check_probability
from tensorlib.nn.module import Module
from tensorlib.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

__all__ = [
    "AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout", "VariationalDropout",
]  # fmt: skip


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        check_probability(type(self).__name__, p)
        self.p, self.inplace = p, inplace

    def extra_repr(self) -> str:
        return f"p={self.p}" + (", inplace" if self.inplace else "")


class Dropout(_Dropout):
    """In training, zero each element with probability `p` and scale the others by ``1 / (1 - p)``; in evaluation, do nothing.

    Reference: Srivastava et al. 2014.

    >>> tl.nn.Dropout(0.5).eval()(tl.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_Dropout):
    """As Dropout, of whole channels: neighbours in a sequence say much the same, so dropping single ones would hardly matter.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: as input
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """As Dropout, of whole channels.

    Shapes:
        input: (N, C, H, W) or (N, C, L)  ->  out: as input

    Reference: Tompson et al. 2015.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_Dropout):
    """As Dropout, of whole channels.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: as input
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_Dropout):
    """Dropout for networks of SELU: elements become its lowest value, and mean 0 and variance 1 are kept.

    Reference: Klambauer et al. 2017.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.alpha_dropout(input, self.p, self.training, self.inplace)


class FeatureAlphaDropout(_Dropout):
    """AlphaDropout of whole channels.

    Shapes:
        input: (N, C, ...)  ->  out: as input
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.feature_alpha_dropout(input, self.p, self.training, self.inplace)


class VariationalDropout(Dropout):
    """Dropout with one mask for all steps of a sequence: between recurrent layers, a feature is dropped for the whole sequence or not at all.

    Args:
        p: the probability of zero; in training, all else is scaled by ``1 / (1 - p)``.
        batch_first: tensors come as (B, T, D).

    Shapes:
        input: (T, B, D), or (B, T, D) with `batch_first`, or (T, D); a PackedSequence; or a list of tensors (L_i, D)  ->  out: in the same form

    All forms of one batch get the same masks.

    Reference: Gal and Ghahramani 2016.

    >>> out = tl.nn.VariationalDropout(0.5)(tl.ones(9, 2, 3))
    >>> bool((out == out[0]).all())
    True
    """

    def __init__(self, p: float = 0.5, batch_first: bool = False) -> None:
        super().__init__(p)
        self.batch_first = batch_first

    def forward(self, input: Any) -> Any:
        if isinstance(input, (list, tuple)):
            return unpack_sequence(self.forward(pack_sequence(input, enforce_sorted=False)))
        if not self.training or self.p == 0:
            return input
        if isinstance(input, PackedSequence):
            return input.with_data(
                input.data * input.broadcast(self._mask((len(input.lengths), *input.shape[1:]), input)).data
            )
        if input.ndim < 2:
            raise tl.ShapeError(f"VariationalDropout: expected (T, B, D) or (T, D), got shape {input.shape}.")
        time = 1 if self.batch_first and input.ndim > 2 else 0
        return input * self._mask((*input.shape[:time], 1, *input.shape[time + 1 :]), input)

    def _mask(self, shape: tuple[int, ...], x: Any) -> Tensor:
        return F.dropout(tl.ones(shape, dtype=x.dtype, device=x.device), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}" + (", batch_first=True" if self.batch_first else "")
