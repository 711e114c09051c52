"""Layers that learn their input's size from the first input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import conv, layers, norms
from tensorlib.nn.conv import Size
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

if TYPE_CHECKING:
    Mixed = Module
else:
    Mixed = object

__all__ = [
    "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d", "LazyConv1d", "LazyConv2d", "LazyConv3d", "LazyConvTranspose1d",
    "LazyConvTranspose2d", "LazyConvTranspose3d", "LazyInstanceNorm1d", "LazyInstanceNorm2d", "LazyInstanceNorm3d", "LazyLinear",
    "LazyModuleMixin",
]  # fmt: skip


class LazyModuleMixin(Mixed):
    """Makes a module lazy: it has uninitialized parameters, and `initialize_parameters` gives them their shape from the first call's arguments.

    After the first call, a lazy module's class is `cls_to_become`, if that is not None. Parameters keep their identity, so an optimizer may
    have been made before. Loading a state gives parameters their shapes, too.

    >>> class LazyScale(tl.nn.LazyModuleMixin, tl.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = tl.nn.UninitializedParameter()
    ...     def initialize_parameters(self, x):
    ...         self.weight.materialize(x.shape[-1:])
    ...         tl.nn.init.ones_(self.weight)
    ...     def forward(self, x):
    ...         return x * self.weight
    >>> LazyScale()(tl.ones(2, 3)).shape
    (2, 3)
    """

    cls_to_become: ClassVar[type[Module] | None] = None

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Give every uninitialized parameter and buffer its shape and its first values, from forward's arguments."""
        raise NotImplementedError(f"{type(self).__name__} does not define initialize_parameters().")

    def has_uninitialized_params(self) -> bool:
        """Whether parameters or buffers of this module itself have no shape yet."""
        return any(is_lazy(t) for t in (*self._parameters.values(), *self._buffers.values()))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.cls_to_become is not None or self.has_uninitialized_params():
            with tl.no_grad():
                self.initialize_parameters(*args, **kwargs)
            if self.has_uninitialized_params():
                raise RuntimeError(
                    f"{type(self).__name__}: initialize_parameters() left parameters or buffers uninitialized."
                )
        if self.cls_to_become is not None:
            self.__class__ = self.cls_to_become  # type: ignore[assignment]
        return Module.__call__(self, *args, **kwargs)


class _LazyWeights(LazyModuleMixin):
    """What linear layers and convolutions share: a weight whose shape needs the number of features in the input."""

    sized: ClassVar[str]  # the attribute that holds this number
    weight: Any
    bias: Any

    def _set_lazy(self, bias: bool, device: Any, dtype: Any) -> None:
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw fresh weights, once there are any."""
        if not self.has_uninitialized_params() and getattr(self, self.sized) != 0:
            super().reset_parameters()  # type: ignore[misc]

    def _materialize(self, features: int, weight: tuple[int, ...], outputs: int) -> None:
        """The sizes that the first input tells; where a state was loaded before, the parameters have theirs."""
        setattr(self, self.sized, features)
        if is_lazy(self.weight):
            self.weight.materialize(weight)
            if self.bias is not None:
                self.bias.materialize((outputs,))
            self.reset_parameters()


class LazyLinear(_LazyWeights, layers.Linear):
    """`Linear` whose `in_features` is the first input's last size.

    >>> layer = tl.nn.LazyLinear(2)
    >>> layer(tl.zeros(5, 3)).shape, layer
    ((5, 2), Linear(3 -> 2))
    """

    cls_to_become = layers.Linear
    sized = "in_features"

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(0, out_features, False)
        self._set_lazy(bias, device, dtype)

    def initialize_parameters(self, x: Tensor) -> None:
        """Take `in_features` from `x`."""
        self._materialize(x.shape[-1], (self.out_features, x.shape[-1]), self.out_features)


class _LazyConv(_LazyWeights, conv._Conv):
    sized = "in_channels"

    def initialize_parameters(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take `in_channels` from `x`."""
        name, nd = type(self).__name__, self.nd
        if x.ndim not in (nd + 1, nd + 2):
            raise tl.ShapeError(f"{name}: input has shape {x.shape}, expected {nd + 1} or {nd + 2} dimensions.")
        channels = x.shape[-nd - 1]
        if channels % self.groups:
            raise ValueError(
                f"{name}: groups {self.groups} must divide the {channels} channels of x, of shape {x.shape}."
            )
        first, second = (channels, self.out_channels) if self.transposed else (self.out_channels, channels)
        self._materialize(channels, (first, second // self.groups, *self.kernel_size), self.out_channels)


class _LazyPlain(_LazyConv, conv._Plain):
    def __init__(
        self,
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
        super().__init__(0, out_channels, kernel_size, stride, padding, dilation, groups, False, padding_mode)
        self._set_lazy(bias, device, dtype)


class _LazyTransposed(_LazyConv, conv._Transposed):
    def __init__(
        self,
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
            0, out_channels, kernel_size, stride, padding, output_padding, groups, False, dilation, padding_mode
        )
        self._set_lazy(bias, device, dtype)


class _LazyNorm(LazyModuleMixin, norms._RunningNorm):
    """The four tensors over channels are lazy, as far as there are any. As in PyTorch, instance normalisation has all of them by default, too, unlike
    the layer that it becomes."""

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)  # type: ignore[call-arg]
        for name in ("weight", "bias"):
            if getattr(self, name) is not None:
                setattr(self, name, UninitializedParameter(device=device, dtype=dtype))
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.fill_(0)
            self.running_mean, self.running_var = (UninitializedBuffer(device=device, dtype=dtype) for _ in range(2))

    def reset_parameters(self) -> None:
        """As in the layer that this one becomes, once there are parameters."""
        if not self.has_uninitialized_params() and self.num_features != 0:
            super().reset_parameters()

    def _channels(self, x: Tensor) -> int:
        raise NotImplementedError

    def initialize_parameters(self, x: Tensor) -> None:
        """Take `num_features` from `x`."""
        self._check(x)
        self.num_features = self._channels(x)
        lazy = [t for t in (*self._parameters.values(), *self._buffers.values()) if is_lazy(t)]
        for t in lazy:
            t.materialize((self.num_features,))  # type: ignore[union-attr]
        if lazy:
            self.reset_parameters()


class _LazyBatchNorm(_LazyNorm, norms._BatchNorm):
    def _channels(self, x: Tensor) -> int:
        return x.shape[1]


class _LazyInstanceNorm(_LazyNorm, norms._InstanceNorm):
    def _channels(self, x: Tensor) -> int:
        return x.shape[-self.ranks[0]]


class LazyConv1d(_LazyPlain, conv.Conv1d):
    """`Conv1d` whose `in_channels` is the first input's number of channels.

    >>> tl.nn.LazyConv1d(4, 3)(tl.zeros(2, 3, 9)).shape
    (2, 4, 7)
    """

    cls_to_become = conv.Conv1d


class LazyConvTranspose1d(_LazyTransposed, conv.ConvTranspose1d):
    """`ConvTranspose1d` whose `in_channels` is the first input's number of channels.

    >>> tl.nn.LazyConvTranspose1d(4, 3)(tl.zeros(2, 3, 9)).shape
    (2, 4, 11)
    """

    cls_to_become = conv.ConvTranspose1d


class LazyBatchNorm1d(_LazyBatchNorm, norms.BatchNorm1d):
    """`BatchNorm1d` whose `num_features` is the first input's number of channels.

    >>> tl.nn.LazyBatchNorm1d()(tl.zeros(2, 3, 9)).shape
    (2, 3, 9)
    """

    cls_to_become = norms.BatchNorm1d


class LazyInstanceNorm1d(_LazyInstanceNorm, norms.InstanceNorm1d):
    """`InstanceNorm1d` whose `num_features` is the first input's number of channels.

    >>> tl.nn.LazyInstanceNorm1d()(tl.zeros(2, 3, 9)).shape
    (2, 3, 9)
    """

    cls_to_become = norms.InstanceNorm1d


class LazyConv2d(_LazyPlain, conv.Conv2d):
    """`Conv2d` whose `in_channels` is the first input's number of channels.

    >>> tl.nn.LazyConv2d(4, 3)(tl.zeros(2, 3, 9, 9)).shape
    (2, 4, 7, 7)
    """

    cls_to_become = conv.Conv2d


class LazyConvTranspose2d(_LazyTransposed, conv.ConvTranspose2d):
    """`ConvTranspose2d` whose `in_channels` is the first input's number of channels.

    >>> tl.nn.LazyConvTranspose2d(4, 3)(tl.zeros(2, 3, 9, 9)).shape
    (2, 4, 11, 11)
    """

    cls_to_become = conv.ConvTranspose2d


class LazyBatchNorm2d(_LazyBatchNorm, norms.BatchNorm2d):
    """`BatchNorm2d` whose `num_features` is the first input's number of channels.

    >>> tl.nn.LazyBatchNorm2d()(tl.zeros(2, 3, 9, 9)).shape
    (2, 3, 9, 9)
    """

    cls_to_become = norms.BatchNorm2d


class LazyInstanceNorm2d(_LazyInstanceNorm, norms.InstanceNorm2d):
    """`InstanceNorm2d` whose `num_features` is the first input's number of channels.

    >>> tl.nn.LazyInstanceNorm2d()(tl.zeros(2, 3, 9, 9)).shape
    (2, 3, 9, 9)
    """

    cls_to_become = norms.InstanceNorm2d


class LazyConv3d(_LazyPlain, conv.Conv3d):
    """`Conv3d` whose `in_channels` is the first input's number of channels.

    >>> tl.nn.LazyConv3d(4, 3)(tl.zeros(2, 3, 9, 9, 9)).shape
    (2, 4, 7, 7, 7)
    """

    cls_to_become = conv.Conv3d


class LazyConvTranspose3d(_LazyTransposed, conv.ConvTranspose3d):
    """`ConvTranspose3d` whose `in_channels` is the first input's number of channels.

    >>> tl.nn.LazyConvTranspose3d(4, 3)(tl.zeros(2, 3, 9, 9, 9)).shape
    (2, 4, 11, 11, 11)
    """

    cls_to_become = conv.ConvTranspose3d


class LazyBatchNorm3d(_LazyBatchNorm, norms.BatchNorm3d):
    """`BatchNorm3d` whose `num_features` is the first input's number of channels.

    >>> tl.nn.LazyBatchNorm3d()(tl.zeros(2, 3, 9, 9, 9)).shape
    (2, 3, 9, 9, 9)
    """

    cls_to_become = norms.BatchNorm3d


class LazyInstanceNorm3d(_LazyInstanceNorm, norms.InstanceNorm3d):
    """`InstanceNorm3d` whose `num_features` is the first input's number of channels.

    >>> tl.nn.LazyInstanceNorm3d()(tl.zeros(2, 3, 9, 9, 9)).shape
    (2, 3, 9, 9, 9)
    """

    cls_to_become = norms.InstanceNorm3d
