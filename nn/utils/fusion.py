"""A batch normalisation in evaluation folded into the layer before it."""

from __future__ import annotations

import copy
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.parameter import Parameter

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]


def _fused(
    weight: Tensor, bias: Tensor | None, channels: int, mean: Tensor, var: Tensor, eps: float, scale: Any, shift: Any
) -> tuple[Parameter, Parameter]:
    """`channels`: the dimension of `weight` along which the outputs lie."""
    with tl.no_grad():
        factor = (var + eps).rsqrt() * (1 if scale is None else scale)
        along = [1] * weight.ndim
        along[channels] = -1
        moved = (-mean if bias is None else bias - mean) * factor + (0 if shift is None else shift)
        made = (weight * factor.reshape(along)).to(dtype=weight.dtype)
        return Parameter(made, weight.requires_grad), Parameter(
            moved.to(dtype=weight.dtype), bias is None or bias.requires_grad
        )


def fuse_conv_bn_weights(
    conv_w: Tensor, conv_b: Tensor | None, bn_rm: Tensor, bn_rv: Tensor, bn_eps: float, bn_w: Tensor | None, bn_b: Tensor | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:  # fmt: skip
    """Weight and bias of the convolution that does what this one and the normalisation do; `transpose` for a transposed one."""
    return _fused(conv_w, conv_b, 1 if transpose else 0, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def fuse_linear_bn_weights(
    linear_w: Tensor, linear_b: Tensor | None, bn_rm: Tensor, bn_rv: Tensor, bn_eps: float, bn_w: Tensor | None, bn_b: Tensor | None
) -> tuple[Parameter, Parameter]:  # fmt: skip
    """Weight and bias of the linear map that does what this one and the normalisation do."""
    return _fused(linear_w, linear_b, 0, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def _fuse(what: str, layer: Any, bn: Any, transpose: bool) -> Any:
    if layer.training or bn.training:
        raise RuntimeError(f"{what}: only layers in evaluation can be fused; call eval() first.")
    if bn.running_mean is None or bn.running_var is None:
        raise RuntimeError(f"{what}: {type(bn).__name__} has no running statistics to fuse.")
    if transpose and layer.groups > 1:
        raise ValueError(f"{what}: a transposed convolution of {layer.groups} groups can not be fused.")
    fused = copy.deepcopy(layer)
    fused.weight, fused.bias = _fused(
        layer.weight, layer.bias, 1 if transpose else 0, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return fused


def fuse_conv_bn_eval(conv: Any, bn: Any, transpose: bool = False) -> Any:
    """A convolution that does what `conv` and `bn` after it do, both in evaluation.

    >>> conv, bn = tl.nn.Conv2d(1, 2, 3).eval(), tl.nn.BatchNorm2d(2).eval()
    >>> x = tl.randn(1, 1, 5, 5)
    >>> tl.allclose(tl.nn.utils.fuse_conv_bn_eval(conv, bn)(x), bn(conv(x)), atol=1e-5)
    True
    """
    return _fuse("fuse_conv_bn_eval", conv, bn, transpose)


def fuse_linear_bn_eval(linear: Any, bn: Any) -> Any:
    """A linear layer that does what `linear` and `bn` after it do, both in evaluation.

    >>> linear, bn = tl.nn.Linear(3, 2).eval(), tl.nn.BatchNorm1d(2).eval()
    >>> tl.allclose(tl.nn.utils.fuse_linear_bn_eval(linear, bn)(tl.ones(1, 3)), bn(linear(tl.ones(1, 3))), atol=1e-5)
    True
    """
    if bn.num_features not in (linear.out_features, 1):
        raise ValueError(
            f"fuse_linear_bn_eval: {bn.num_features} features can not be folded into {linear.out_features} outputs."
        )
    return _fuse("fuse_linear_bn_eval", linear, bn, False)
