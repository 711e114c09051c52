"""Layers that pad: N batch, C channels, and one to three dimensions after them, or these without the batch.

`padding` is one number for all sides, or two for each dimension, from the last on: (left, right, top, bottom, front, back).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tensorlib import Tensor
from tensorlib.nn import functional as F
from tensorlib.nn.module import Module

__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip


class _Pad(Module):
    """`pad` in one mode; the subclasses say how many dimensions it pads."""

    mode: ClassVar[str]
    dims: ClassVar[int]

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = (padding,) * (2 * self.dims) if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 2 * self.dims:
            raise ValueError(
                f"{type(self).__name__}: padding is {padding}, expected a number or {2 * self.dims} of them."
            )

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """Pads (..., C, W) with `value`.

    >>> tl.nn.ConstantPad1d((1, 2), 7)(tl.zeros(1, 2)).tolist()
    [[7.0, 0.0, 0.0, 7.0, 7.0]]
    """

    dims = 1


class ConstantPad2d(_ConstantPad):
    """Pads (..., C, H, W) with `value`."""

    dims = 2


class ConstantPad3d(_ConstantPad):
    """Pads (..., C, D, H, W) with `value`."""

    dims = 3


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad1d(_ZeroPad):
    """Pads (..., C, W) with zeros."""

    dims = 1


class ZeroPad2d(_ZeroPad):
    """Pads (..., C, H, W) with zeros.

    >>> tl.nn.ZeroPad2d((1, 0, 0, 1))(tl.ones(1, 1, 2)).tolist()
    [[[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]
    """

    dims = 2


class ZeroPad3d(_ZeroPad):
    """Pads (..., C, D, H, W) with zeros."""

    dims = 3


class _ReflectionPad(_Pad):
    mode = "reflect"


class ReflectionPad1d(_ReflectionPad):
    """Pads (..., C, W) with what is mirrored at its ends.

    >>> tl.nn.ReflectionPad1d(2)(tl.tensor([[1, 2, 3]])).tolist()
    [[3, 2, 1, 2, 3, 2, 1]]
    """

    dims = 1


class ReflectionPad2d(_ReflectionPad):
    """Pads (..., C, H, W) with what is mirrored at its borders."""

    dims = 2


class ReflectionPad3d(_ReflectionPad):
    """Pads (..., C, D, H, W) with what is mirrored at its borders."""

    dims = 3


class _ReplicationPad(_Pad):
    mode = "replicate"


class ReplicationPad1d(_ReplicationPad):
    """Pads (..., C, W) with its first and last element.

    >>> tl.nn.ReplicationPad1d(2)(tl.tensor([[1, 2, 3]])).tolist()
    [[1, 1, 1, 2, 3, 3, 3]]
    """

    dims = 1


class ReplicationPad2d(_ReplicationPad):
    """Pads (..., C, H, W) with the elements at its borders."""

    dims = 2


class ReplicationPad3d(_ReplicationPad):
    """Pads (..., C, D, H, W) with the elements at its borders."""

    dims = 3


class _CircularPad(_Pad):
    mode = "circular"


class CircularPad1d(_CircularPad):
    """Pads (..., C, W) with its other end.

    >>> tl.nn.CircularPad1d(1)(tl.tensor([[1, 2, 3]])).tolist()
    [[3, 1, 2, 3, 1]]
    """

    dims = 1


class CircularPad2d(_CircularPad):
    """Pads (..., C, H, W) with its other ends."""

    dims = 2


class CircularPad3d(_CircularPad):
    """Pads (..., C, D, H, W) with its other ends."""

    dims = 3
