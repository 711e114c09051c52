"""Dropout of whole channels, and the kinds that keep mean and variance of self-normalising networks.

`tl.nn.functional` offers them under PyTorch's names. Dimension letters: N batch, C channels.
"""

from __future__ import annotations

import tensorlib as tl
from tensorlib import Tensor

__all__ = ["alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]

_FLOOR = -1.7580993408473766  # what selu tends to far below zero: -scale * alpha


def check_probability(name: str, p: float) -> None:
    """p must be in [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must be a probability in [0, 1], got {p}.")


def _by_channel(name: str, input: Tensor, unbatched: int = 0) -> tuple[int, ...]:
    """The shape of a mask with one element for each channel; inputs of `unbatched` dimensions have no batch."""
    if input.ndim < 2:
        raise tl.ShapeError(f"{name}: expected channels in dimension 1, as (N, C, ...), got shape {input.shape}.")
    kept = 1 if input.ndim == unbatched else 2
    return (*input.shape[:kept], *(1,) * (input.ndim - kept))


def _channels(name: str, input: Tensor, p: float, training: bool, inplace: bool, unbatched: int = 0) -> Tensor:
    check_probability(name, p)
    shape = _by_channel(name, input, unbatched)
    if not training or p == 0:
        return input
    out = input * tl.dropout(tl.ones(shape, dtype=input.dtype, device=input.device), p)
    return input.copy_(out) if inplace else out


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels with probability `p` and scale the others by ``1 / (1 - p)``.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: as input

    >>> out = tl.nn.functional.dropout1d(tl.ones(2, 8, 3))
    >>> bool((out == out[..., :1]).all())
    True
    """
    return _channels("dropout1d", input, p, training, inplace, unbatched=2)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels with probability `p` and scale the others by ``1 / (1 - p)``.

    Shapes:
        input: (N, C, H, W) or, as PyTorch reads it, (N, C, L)  ->  out: as input

    Reference: Tompson et al. 2015.

    >>> out = tl.nn.functional.dropout2d(tl.ones(2, 8, 3, 3))
    >>> bool((out == out[..., :1, :1]).all())
    True
    """
    return _channels("dropout2d", input, p, training, inplace)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels with probability `p` and scale the others by ``1 / (1 - p)``.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: as input
    """
    return _channels("dropout3d", input, p, training, inplace, unbatched=4)


def _alpha(input: Tensor, shape: tuple[int, ...], p: float, inplace: bool) -> Tensor:
    if p == 1:
        out = input * 0
    else:
        kept = tl.rand(shape, device=input.device) >= p
        scale = ((1 - p) * (1 + p * _FLOOR**2)) ** -0.5
        out = tl.where(kept, input, _FLOOR) * scale - scale * _FLOOR * p
    return input.copy_(out) if inplace else out


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Put selu's lowest value in place of elements with probability `p`, then scale and shift so that mean 0 and variance 1 are kept.

    Reference: Klambauer et al. 2017.

    >>> tl.nn.functional.alpha_dropout(tl.ones(3), 0.5).tolist()  # not in training
    [1.0, 1.0, 1.0]
    """
    check_probability("alpha_dropout", p)
    return _alpha(input, input.shape, p, inplace) if training and p else input


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """`alpha_dropout` of whole channels.

    Shapes:
        input: (N, C, ...)  ->  out: as input
    """
    check_probability("feature_alpha_dropout", p)
    shape = _by_channel("feature_alpha_dropout", input)
    return _alpha(input, shape, p, inplace) if training and p else input
