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

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training, self.inplace)


class Dropout1d(_Dropout):
    """As Dropout, of whole channels: neighbours in a sequence say much the same, so dropping single ones would hardly matter.

    Shapes:
        x: (N, C, L) or (C, L)  ->  out: as x
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout1d(x, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """As Dropout, of whole channels.

    Shapes:
        x: (N, C, H, W) or (N, C, L)  ->  out: as x

    Reference: Tompson et al. 2015.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.p, self.training, self.inplace)


class Dropout3d(_Dropout):
    """As Dropout, of whole channels.

    Shapes:
        x: (N, C, D, H, W) or (C, D, H, W)  ->  out: as x
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout3d(x, self.p, self.training, self.inplace)


class AlphaDropout(_Dropout):
    """Dropout for networks of SELU: elements become its lowest value, and mean 0 and variance 1 are kept.

    Reference: Klambauer et al. 2017.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.alpha_dropout(x, self.p, self.training, self.inplace)


class FeatureAlphaDropout(_Dropout):
    """AlphaDropout of whole channels.

    Shapes:
        x: (N, C, ...)  ->  out: as x
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.feature_alpha_dropout(x, self.p, self.training, self.inplace)


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
