"""Pooling layers: none has parameters.

Dimension letters: N images, C channels, L the image's lengths: (L), (H, W) or (D, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib import Tensor
from tensorlib.nn import functional as F
from tensorlib.nn.module import Module

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "FractionalMaxPool2d", "FractionalMaxPool3d", "LPPool1d",
    "LPPool2d", "LPPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d",
]  # fmt: skip

Sizes = int | Sequence[int]
OutputSizes = int | None | Sequence[int | None]


def _each(value: Any, n: int) -> tuple[int, ...]:
    return (value,) * n if isinstance(value, int) else tuple(value)


def _listed(layer: Module, *names: str) -> str:
    return ", ".join(f"{name}={getattr(layer, name)}" for name in names)


class _MaxPool(Module):
    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def _settings(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices

    def extra_repr(self) -> str:
        return _listed(self, "kernel_size", "stride", "padding", "dilation", "ceil_mode")


class MaxPool1d(_MaxPool):
    """The largest element of each window, and with `return_indices` where it was; see `functional.max_pool1d`.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, L') or (C, L')

    >>> tl.nn.MaxPool1d(2)(tl.zeros(1, 3, 4)).shape
    (1, 3, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.max_pool1d(input, *self._settings())


class MaxPool2d(_MaxPool):
    """The largest element of each window, and with `return_indices` where it was; see `functional.max_pool2d`.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, H', W') or (C, H', W')

    >>> tl.nn.MaxPool2d(2)(tl.zeros(1, 3, 4, 4)).shape
    (1, 3, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.max_pool2d(input, *self._settings())


class MaxPool3d(_MaxPool):
    """The largest element of each window, and with `return_indices` where it was; see `functional.max_pool3d`.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, D', H', W') or (C, D', H', W')

    >>> tl.nn.MaxPool3d(2)(tl.zeros(1, 3, 4, 4, 4)).shape
    (1, 3, 2, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.max_pool3d(input, *self._settings())


class AvgPool1d(Module):
    """The average of each window; see `functional.avg_pool1d`.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, L') or (C, L')

    >>> tl.nn.AvgPool1d(2)(tl.zeros(1, 3, 4)).shape
    (1, 3, 2)
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = _each(kernel_size, 1)
        self.stride = self.kernel_size if stride is None else _each(stride, 1)
        self.padding, self.ceil_mode, self.count_include_pad = _each(padding, 1), ceil_mode, count_include_pad

    def forward(self, input: Tensor) -> Any:
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def extra_repr(self) -> str:
        return _listed(self, "kernel_size", "stride", "padding")


class _AvgPool(Module):
    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override

    def _settings(self) -> tuple[Any, ...]:
        windows = self.kernel_size, self.stride, self.padding
        return (*windows, self.ceil_mode, self.count_include_pad, self.divisor_override)

    def extra_repr(self) -> str:
        return _listed(self, "kernel_size", "stride", "padding")


class AvgPool2d(_AvgPool):
    """The average of each window; see `functional.avg_pool2d`.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, H', W') or (C, H', W')

    >>> tl.nn.AvgPool2d(2)(tl.zeros(1, 3, 4, 4)).shape
    (1, 3, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.avg_pool2d(input, *self._settings())


class AvgPool3d(_AvgPool):
    """The average of each window; see `functional.avg_pool3d`.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, D', H', W') or (C, D', H', W')

    >>> tl.nn.AvgPool3d(2)(tl.zeros(1, 3, 4, 4, 4)).shape
    (1, 3, 2, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.avg_pool3d(input, *self._settings())


class _AdaptiveAvgPool(Module):
    def __init__(self, output_size: OutputSizes) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return _listed(self, "output_size")


class _AdaptiveMaxPool(_AdaptiveAvgPool):
    def __init__(self, output_size: OutputSizes, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The average of each of `output_size` windows that share out the image evenly; None keeps a dimension's size.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.nn.AdaptiveAvgPool1d(2)(tl.zeros(1, 3, 5)).shape
    (1, 3, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The largest element of each of `output_size` windows that share out the image evenly; None keeps a dimension's size.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.nn.AdaptiveMaxPool1d(2)(tl.zeros(1, 3, 5)).shape
    (1, 3, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """The average of each of `output_size` windows that share out the image evenly; None keeps a dimension's size.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.nn.AdaptiveAvgPool2d(2)(tl.zeros(1, 3, 5, 5)).shape
    (1, 3, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The largest element of each of `output_size` windows that share out the image evenly; None keeps a dimension's size.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.nn.AdaptiveMaxPool2d(2)(tl.zeros(1, 3, 5, 5)).shape
    (1, 3, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """The average of each of `output_size` windows that share out the image evenly; None keeps a dimension's size.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.nn.AdaptiveAvgPool3d(2)(tl.zeros(1, 3, 5, 5, 5)).shape
    (1, 3, 2, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_avg_pool3d(input, self.output_size)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The largest element of each of `output_size` windows that share out the image evenly; None keeps a dimension's size.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.nn.AdaptiveMaxPool3d(2)(tl.zeros(1, 3, 5, 5, 5)).shape
    (1, 3, 2, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool3d(input, self.output_size, self.return_indices)


class _MaxUnpool(Module):
    dimensions: int

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        super().__init__()
        self.kernel_size = _each(kernel_size, self.dimensions)
        self.stride = self.kernel_size if stride is None else _each(stride, self.dimensions)
        self.padding = _each(padding, self.dimensions)

    def extra_repr(self) -> str:
        return _listed(self, "kernel_size", "stride", "padding")


class MaxUnpool1d(_MaxUnpool):
    """What MaxPool1d with `return_indices` took out, put back where it was, with zeros between.

    Shapes:
        input, indices: (N, C, L) or (C, L)  ->  out: (N, C, ...) or (C, ...), of the size that the windows cover, or of `output_size`

    >>> pool = tl.nn.MaxPool1d(2, return_indices=True)
    >>> tl.nn.MaxUnpool1d(2)(*pool(tl.zeros(1, 3, 4))).shape
    (1, 3, 4)
    """

    dimensions = 1

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return F.max_unpool1d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool2d(_MaxUnpool):
    """What MaxPool2d with `return_indices` took out, put back where it was, with zeros between.

    Shapes:
        input, indices: (N, C, H, W) or (C, H, W)  ->  out: (N, C, ...) or (C, ...), of the size that the windows cover, or of `output_size`

    >>> pool = tl.nn.MaxPool2d(2, return_indices=True)
    >>> tl.nn.MaxUnpool2d(2)(*pool(tl.zeros(1, 3, 4, 4))).shape
    (1, 3, 4, 4)
    """

    dimensions = 2

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool3d(_MaxUnpool):
    """What MaxPool3d with `return_indices` took out, put back where it was, with zeros between.

    Shapes:
        input, indices: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, ...) or (C, ...), of the size that the windows cover, or of `output_size`

    >>> pool = tl.nn.MaxPool3d(2, return_indices=True)
    >>> tl.nn.MaxUnpool3d(2)(*pool(tl.zeros(1, 3, 4, 4, 4))).shape
    (1, 3, 4, 4, 4)
    """

    dimensions = 3

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return F.max_unpool3d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class _LPPool(Module):
    def __init__(
        self, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def _settings(self) -> tuple[Any, ...]:
        return float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode

    def extra_repr(self) -> str:
        return _listed(self, "norm_type", "kernel_size", "stride", "ceil_mode")


class LPPool1d(_LPPool):
    """The power average of each window; see `functional.lp_pool1d`.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, L') or (C, L')

    >>> tl.nn.LPPool1d(2, 2)(tl.zeros(1, 3, 4)).shape
    (1, 3, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.lp_pool1d(input, *self._settings())


class LPPool2d(_LPPool):
    """The power average of each window; see `functional.lp_pool2d`.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, H', W') or (C, H', W')

    >>> tl.nn.LPPool2d(2, 2)(tl.zeros(1, 3, 4, 4)).shape
    (1, 3, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.lp_pool2d(input, *self._settings())


class LPPool3d(_LPPool):
    """The power average of each window; see `functional.lp_pool3d`.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, D', H', W') or (C, D', H', W')

    >>> tl.nn.LPPool3d(2, 2)(tl.zeros(1, 3, 4, 4, 4)).shape
    (1, 3, 2, 2, 2)
    """

    def forward(self, input: Tensor) -> Any:
        return F.lp_pool3d(input, *self._settings())


class _FractionalMaxPool(Module):
    _random_samples: Tensor | None

    def __init__(
        self,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if (output_size is None) == (output_ratio is None):
            raise ValueError(
                f"{name}: expected output_size or output_ratio, got {'both' if output_size else 'neither'}."
            )
        ratios = output_ratio if isinstance(output_ratio, Sequence) else () if output_ratio is None else (output_ratio,)
        if not all(0 < ratio < 1 for ratio in ratios):
            raise ValueError(f"{name}: output_ratio must be between 0 and 1, got {output_ratio}.")
        self.kernel_size, self.output_size, self.output_ratio = kernel_size, output_size, output_ratio
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)

    def _settings(self) -> tuple[Any, ...]:
        return self.kernel_size, self.output_size, self.output_ratio, self.return_indices, self._random_samples

    def extra_repr(self) -> str:
        return _listed(self, "kernel_size", "output_size", "output_ratio")


class FractionalMaxPool2d(_FractionalMaxPool):
    """The largest element of windows at random places; see `functional.fractional_max_pool2d`.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, H', W') or (C, H', W')

    >>> tl.nn.FractionalMaxPool2d(2, output_ratio=0.7)(tl.zeros(1, 3, 9, 9)).shape
    (1, 3, 6, 6)
    """

    def forward(self, input: Tensor) -> Any:
        return F.fractional_max_pool2d(input, *self._settings())


class FractionalMaxPool3d(_FractionalMaxPool):
    """The largest element of windows at random places; see `functional.fractional_max_pool3d`.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, D', H', W') or (C, D', H', W')

    >>> tl.nn.FractionalMaxPool3d(2, output_size=4)(tl.zeros(1, 3, 6, 6, 6)).shape
    (1, 3, 4, 4, 4)
    """

    def forward(self, input: Tensor) -> Any:
        return F.fractional_max_pool3d(input, *self._settings())
