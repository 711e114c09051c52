"""Normalisation layers: over channels with running statistics, over groups of channels, over the last dimensions.

Dimension letters: N batch, C channels, G groups, L, H, W, D positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import functional as F, init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "CrossMapLRN2d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d",
    "LayerNorm", "LocalResponseNorm", "RMSNorm",
]  # fmt: skip


class _Affine(Module):
    """A weight of ones and a bias of zeros, either of which may be absent."""

    weight: Parameter | None
    bias: Parameter | None

    def _set_affine(self, shape: tuple[int, ...], weight: bool, bias: bool, device: Any, dtype: Any) -> None:
        for name, wanted in (("weight", weight), ("bias", bias)):
            made = Parameter(tl.empty(shape, device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, made)

    def reset_parameters(self) -> None:
        """Weight one, bias zero."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class _RunningNorm(_Affine):
    """What batch and instance normalisation share: their settings, and the running statistics."""

    ranks: ClassVar[tuple[int, ...]] = ()  # dimensions that an input may have
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def _set_up(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        tracked: bool,
        bias: bool,
        device: Any,
        dtype: Any,
    ) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, tracked
        self._set_affine((num_features,), affine, affine and bias, device, dtype)
        shapes = {"running_mean": (num_features,), "running_var": (num_features,), "num_batches_tracked": ()}
        for name, shape in shapes.items():
            kind = dtype if shape else tl.int64
            self.register_buffer(name, tl.empty(shape, device=device, dtype=kind) if tracked else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean zero, variance one, no batches seen."""
        for name, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            if (buffer := getattr(self, name)) is not None:
                buffer.fill_(value)

    def reset_parameters(self) -> None:
        """Weight one, bias zero; running statistics as at first."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check(self, x: Tensor) -> None:
        if x.ndim not in self.ranks:
            expected = " or ".join(str(rank) for rank in self.ranks)
            raise tl.ShapeError(f"{type(self).__name__}: input has shape {x.shape}, expected {expected} dimensions.")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
            + ("" if self.affine else ", no weight")
            + ("" if self.track_running_stats else ", no running statistics")
        )


class _BatchNorm(_RunningNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self._set_up(num_features, eps, momentum, affine, track_running_stats, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        training = self.training or self.running_mean is None
        momentum = 0.0 if self.momentum is None else self.momentum
        seen = self.num_batches_tracked if self.training else None
        if seen is not None and self.momentum is None:
            momentum = 1 / (seen.item() + 1)  # the average of all batches
        out = self._normalized(input, training, momentum)
        if seen is not None:
            seen += 1
        return out

    def _normalized(self, x: Tensor, training: bool, momentum: float) -> Tensor:
        running = (self.running_mean, self.running_var)
        return F.batch_norm(x, *running, self.weight, self.bias, training, momentum, self.eps)


class BatchNorm1d(_BatchNorm):
    """Normalise each channel by its mean and variance: those of the batch in training, running averages in evaluation.

    Shapes:
        x: (N, C) or (N, C, L)  ->  out: the same;   weight, bias, running_mean, running_var: (C,)

    With ``momentum=None`` the running statistics are the average over all batches seen; with ``track_running_stats=False`` the batch's
    own statistics serve in evaluation too.

    Reference: Ioffe and Szegedy 2015.

    >>> layer = tl.nn.BatchNorm1d(2, momentum=1.0)
    >>> layer(tl.tensor([[1.0, 10.0], [3.0, 30.0]])).shape, layer.running_mean.tolist()
    ((2, 2), [2.0, 20.0])
    """

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """`BatchNorm1d` over images.

    Shapes:
        x: (N, C, H, W)  ->  out: the same;   weight, bias, running_mean, running_var: (C,)

    >>> tl.nn.BatchNorm2d(3)(tl.randn(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """`BatchNorm1d` over volumes.

    Shapes:
        x: (N, C, D, H, W)  ->  out: the same;   weight, bias, running_mean, running_var: (C,)

    >>> tl.nn.BatchNorm3d(3)(tl.randn(2, 3, 4, 4, 4)).shape
    (2, 3, 4, 4, 4)
    """

    ranks = (5,)


class _InstanceNorm(_RunningNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self._set_up(num_features, eps, momentum, affine, track_running_stats, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        alone = input.ndim == min(self.ranks)  # one example without the batch dimension
        if input.shape[-self.ranks[0]] != self.num_features and self.affine:
            raise tl.ShapeError(
                f"{type(self).__name__}: input of shape {input.shape} does not have num_features {self.num_features} channels."
            )
        use_own = self.training or not self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        out = F.instance_norm(
            input.unsqueeze(0) if alone else input,
            self.running_mean, self.running_var, self.weight, self.bias, use_own, momentum, self.eps,
        )  # fmt: skip
        return out.squeeze(0) if alone else out


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each example by its own mean and variance.

    Shapes:
        x: (N, C, L) or (C, L)  ->  out: the same;   with `affine` weight, bias: (C,)

    With ``track_running_stats=True`` the running averages serve in evaluation.

    Reference: Ulyanov et al. 2016.

    >>> tl.nn.InstanceNorm1d(1, eps=0.0)(tl.tensor([[[1.0, 3.0]]])).tolist()
    [[[-1.0, 1.0]]]
    """

    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """`InstanceNorm1d` over images.

    Shapes:
        x: (N, C, H, W) or (C, H, W)  ->  out: the same;   with `affine` weight, bias: (C,)

    >>> tl.nn.InstanceNorm2d(3)(tl.randn(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """`InstanceNorm1d` over volumes.

    Shapes:
        x: (N, C, D, H, W) or (C, D, H, W)  ->  out: the same;   with `affine` weight, bias: (C,)

    >>> tl.nn.InstanceNorm3d(3)(tl.randn(2, 3, 4, 4, 4)).shape
    (2, 3, 4, 4, 4)
    """

    ranks = (4, 5)


class GroupNorm(_Affine):
    """Normalise each of G groups of neighbouring channels of each example.

    Shapes:
        input: (N, C, ...)  ->  out: the same;   weight, bias: (C,), ones and zeros at first

    Reference: Wu and He 2018.

    >>> tl.nn.GroupNorm(2, 4)(tl.randn(3, 4, 5, 5)).shape
    (3, 4, 5, 5)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_groups {num_groups} does not divide num_channels {num_channels}.")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self._set_affine((num_channels,), affine, affine and bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}" + ("" if self.affine else ", no weight")


class LayerNorm(_Affine):
    """Normalise the last dimensions to mean 0 and variance 1, then scale and shift: ``(input - mean) / sqrt(var + eps) * weight + bias``.

    Shapes:
        input: (..., *normalized_shape)  ->  out: the same;   weight, bias: normalized_shape, ones and zeros at first

    Reference: Ba et al. 2016.

    >>> tl.nn.LayerNorm(4)(tl.tensor([1.0, 2.0, 3.0, 4.0])).sum().item()
    0.0
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self._set_affine(self.normalized_shape, elementwise_affine, elementwise_affine and bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}" + ("" if self.elementwise_affine else ", no weight")


class RMSNorm(_Affine):
    """Scale the last dimensions to a root mean square of 1: ``input / sqrt(mean(input**2) + eps) * weight``.

    Shapes:
        input: (..., *normalized_shape)  ->  out: the same;   weight: normalized_shape, ones at first

    `eps` is by default the dtype's machine epsilon.

    Reference: Zhang and Sennrich 2019.

    >>> tl.nn.RMSNorm(2)(tl.tensor([[3.0, -3.0]])).tolist()
    [[1.0, -1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self._set_affine(self.normalized_shape, elementwise_affine, False, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}" + ("" if self.elementwise_affine else ", no weight")


class LocalResponseNorm(Module):
    """``input`` divided by ``(k + alpha * mean of squares over `size` channels around) ** beta``.

    Shapes:
        input: (N, C, ...)  ->  out: as input

    Reference: Krizhevsky et al. 2012.

    >>> tl.nn.LocalResponseNorm(2)(tl.zeros(1, 3, 4)).shape
    (1, 3, 4)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class CrossMapLRN2d(LocalResponseNorm):
    """LocalResponseNorm of images (N, C, H, W), under its older name.

    An even `size` spans one channel less, though it divides the sum. (PyTorch's counts channel 0 for all channels beyond the first window.)
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4:
            raise tl.ShapeError(f"CrossMapLRN2d: expected (N, C, H, W), got shape {input.shape}.")
        span = self.size - 1 + self.size % 2
        return F.local_response_norm(input, span, self.alpha * span / self.size, self.beta, self.k)
