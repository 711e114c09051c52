"""Convolution layers.

Dimension letters: N images, C channels, K filters; L, or H and W, or D, H and W: sizes; R the kernel's.
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

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

Size = int | Sequence[int]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _tuple(value: Size, nd: int) -> tuple[int, ...]:
    return (value,) * nd if isinstance(value, int) else tuple(value)


class _Conv(Module):
    """What the six layers share: the parameters, their initial values, and the description."""

    nd: int
    transposed = False
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: str | Size,
        dilation: Size,
        output_padding: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        name, nd = type(self).__name__, self.nd
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups {groups} must divide in_channels {in_channels} and out_channels {out_channels}."
            )
        if padding_mode not in (PADDING_MODES[:1] if self.transposed else PADDING_MODES):
            allowed = "'zeros'" if self.transposed else f"one of {', '.join(PADDING_MODES)}"
            raise ValueError(f"{name}: padding_mode must be {allowed}, got {padding_mode!r}.")
        names = () if self.transposed else ("same", "valid")
        if isinstance(padding, str) and padding not in names:
            raise ValueError(f"{name}: padding is {padding!r}, expected {' or '.join(('numbers', *map(repr, names)))}.")
        if padding == "same" and any(s != 1 for s in _tuple(stride, nd)):
            raise ValueError(f'{name}: padding is "same", which needs a stride of 1, got {stride}.')
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = (_tuple(v, nd) for v in (kernel_size, stride, dilation))
        self.padding = padding if isinstance(padding, str) else _tuple(padding, nd)
        self.output_padding, self.padding_mode = _tuple(output_padding, nd), padding_mode
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        self.weight = Parameter(tl.empty(shape, device=device, dtype=dtype))
        self.register_parameter(
            "bias", Parameter(tl.empty((out_channels,), device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights: all uniform in +-1/sqrt(fan in)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(self.weight.shape[1:])
            bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        zeros, ones = (0,) * self.nd, (1,) * self.nd
        said = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, usual in (("padding", zeros), ("dilation", ones), ("output_padding", zeros), ("groups", 1)):
            if (value := getattr(self, name)) != usual:
                said += f", {name}={value}"
        if self.bias is None:
            said += ", bias=False"
        return said if self.padding_mode == "zeros" else f"{said}, padding_mode={self.padding_mode}"


class _Plain(_Conv):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 0, groups, bias, padding_mode, device, dtype
        )  # fmt: skip

    def _borders(self) -> list[int]:
        """The padding, as `pad` takes it."""
        pairs = [(0, 0)] * self.nd
        if self.padding == "same":
            spans = [d * (r - 1) for d, r in zip(self.dilation, self.kernel_size, strict=True)]
            pairs = [(n // 2, n - n // 2) for n in spans]
        elif not isinstance(self.padding, str):
            pairs = [(p, p) for p in self.padding]
        return [n for pair in reversed(pairs) for n in pair]

    def forward(self, input: Tensor) -> Tensor:
        padding: str | Size = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._borders(), self.padding_mode), 0
        conv = (F.conv1d, F.conv2d, F.conv3d)[self.nd - 1]
        return conv(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class _Transposed(_Conv):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, groups, bias, padding_mode, device, dtype
        )  # fmt: skip

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        behind = self.output_padding if output_size is None else self._missing(input, output_size)
        assert not isinstance(self.padding, str)
        conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.nd - 1]
        return conv(input, self.weight, self.bias, self.stride, self.padding, behind, self.groups, self.dilation)

    def _missing(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output_padding with which the result has `output_size` (its last numbers)."""
        assert not isinstance(self.padding, str)
        wanted = tuple(output_size)[-self.nd :]
        sizes = zip(x.shape[-self.nd :], self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        least = tuple((n - 1) * s - 2 * p + d * (r - 1) + 1 for n, s, p, d, r in sizes)
        most = tuple(n + s - 1 for n, s in zip(least, self.stride, strict=True))
        if len(wanted) != self.nd or not all(a <= w <= b for a, w, b in zip(least, wanted, most, strict=True)):
            raise tl.ShapeError(
                f"{type(self).__name__}: output_size must be between {least} and {most} for an input of shape {x.shape}, got {tuple(output_size)}."
            )
        return tuple(w - a for w, a in zip(wanted, least, strict=True))


class Conv1d(_Plain):
    """Filters over signals: see `conv1d`. `padding_mode` says what stands beside them: "zeros", or as in `pad`.

    Shapes:
        x: (N, C, L) or (C, L)  ->  out: (N, K, L');   weight: (K, C / groups, R), bias: (K,) or None

    >>> tl.nn.Conv1d(4, 8, 3, padding=1)(tl.zeros(2, 4, 10)).shape
    (2, 8, 10)
    """

    nd = 1


class Conv2d(_Plain):
    """Filters over images: see `conv2d`. `padding_mode` says what stands beside them: "zeros", or as in `pad`.

    Shapes:
        x: (N, C, H, W) or (C, H, W)  ->  out: (N, K, H', W');   weight: (K, C / groups, R, R), bias: (K,) or None

    >>> tl.nn.Conv2d(3, 8, 3, stride=2)(tl.zeros(2, 3, 9, 9)).shape
    (2, 8, 4, 4)
    """

    nd = 2


class Conv3d(_Plain):
    """Filters over volumes: see `conv3d`. `padding_mode` says what stands beside them: "zeros", or as in `pad`.

    Shapes:
        x: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, K, D', H', W');   weight: (K, C / groups, R, R, R), bias: (K,) or None

    >>> tl.nn.Conv3d(1, 2, 3, padding="same")(tl.zeros(1, 4, 4, 4)).shape
    (2, 4, 4, 4)
    """

    nd = 3


class ConvTranspose1d(_Transposed):
    """Filters added into signals, each scaled by an element of the input: see `conv_transpose1d`. `output_size` chooses among the sizes that differ
    by less than the stride, in place of `output_padding`.

    Shapes:
        x: (N, C, L) or (C, L)  ->  out: (N, K, L');   weight: (C, K / groups, R), bias: (K,) or None

    >>> tl.nn.ConvTranspose1d(4, 2, 3, stride=2)(tl.zeros(1, 4, 3)).shape
    (1, 2, 7)
    """

    nd = 1


class ConvTranspose2d(_Transposed):
    """Filters added into images, each scaled by an element of the input: see `conv_transpose2d`. `output_size` chooses among the sizes that differ
    by less than the stride, in place of `output_padding`.

    Shapes:
        x: (N, C, H, W) or (C, H, W)  ->  out: (N, K, H', W');   weight: (C, K / groups, R, R), bias: (K,) or None

    >>> tl.nn.ConvTranspose2d(4, 2, 3, stride=2)(tl.zeros(1, 4, 3, 3)).shape
    (1, 2, 7, 7)
    """

    nd = 2


class ConvTranspose3d(_Transposed):
    """Filters added into volumes, each scaled by an element of the input: see `conv_transpose3d`. `output_size` chooses among the sizes that differ
    by less than the stride, in place of `output_padding`.

    Shapes:
        x: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, K, D', H', W');   weight: (C, K / groups, R, R, R), bias: (K,) or None

    >>> tl.nn.ConvTranspose3d(4, 2, 3, stride=2)(tl.zeros(1, 4, 3, 3, 3)).shape
    (1, 2, 7, 7, 7)
    """

    nd = 3
