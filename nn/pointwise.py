"""Activations as functions, with PyTorch's `inplace` where it has one, and the gated and random ones.

`tl.nn.functional` offers them under PyTorch's names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import tensorlib as tl
from tensorlib import Tensor

__all__ = [
    "celu", "celu_", "elu", "elu_", "glu", "gumbel_softmax", "hardsigmoid", "hardswish", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_",
    "mish", "relu", "relu6", "relu_", "rrelu", "rrelu_", "selu", "selu_", "silu", "softmin", "threshold", "threshold_",
]  # fmt: skip


def written(input: Tensor, function: Callable[..., Tensor], *settings: Any) -> Tensor:
    """``input := function(input, *settings)``. Where that is recorded, the gradient may need the input as it was: it gets a copy."""
    before = input.clone() if tl.is_grad_enabled() and input.requires_grad else input
    return input.copy_(function(before, *settings))


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(input, 0)``.

    >>> tl.nn.functional.relu(tl.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return input.relu_() if inplace else tl.relu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """`input` limited to [0, 6]; see `tl.relu6`."""
    return written(input, tl.relu6) if inplace else tl.relu6(input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``input * sigmoid(input)``; see `tl.silu`."""
    return written(input, tl.silu) if inplace else tl.silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``input * tanh(softplus(input))``; see `tl.mish`."""
    return written(input, tl.mish) if inplace else tl.mish(input)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """`elu` with a scale and alpha that keep mean 0 and variance 1; see `tl.selu`."""
    return written(input, tl.selu) if inplace else tl.selu(input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``relu6(input + 3) / 6``; see `tl.hardsigmoid`."""
    return written(input, tl.hardsigmoid) if inplace else tl.hardsigmoid(input)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """``input * hardsigmoid(input)``; see `tl.hardswish`."""
    return written(input, tl.hardswish) if inplace else tl.hardswish(input)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """`input` limited to [min_val, max_val]; see `tl.hardtanh`."""
    return written(input, tl.hardtanh, min_val, max_val) if inplace else tl.hardtanh(input, min_val, max_val)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """`input` where it is positive, else ``alpha * (exp(input) - 1)``; see `tl.elu`."""
    return written(input, tl.elu, alpha) if inplace else tl.elu(input, alpha)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``alpha * elu(input / alpha)``; see `tl.celu`."""
    return written(input, tl.celu, alpha) if inplace else tl.celu(input, alpha)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """`input` where it is positive, else ``negative_slope * input``; see `tl.leaky_relu`."""
    return written(input, tl.leaky_relu, negative_slope) if inplace else tl.leaky_relu(input, negative_slope)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """`input` where it is above `threshold`, else `value`; see `tl.threshold`."""
    return written(input, tl.threshold, threshold, value) if inplace else tl.threshold(input, threshold, value)


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """`leaky_relu` with slopes that are drawn from [lower, upper) in training; see `tl.rrelu`."""
    return written(input, tl.rrelu, lower, upper, training) if inplace else tl.rrelu(input, lower, upper, training)


# ---- the same in place, by name ----


def relu_(input: Tensor) -> Tensor:
    """`relu`, in place."""
    return input.relu_()


def selu_(input: Tensor) -> Tensor:
    """`selu`, in place."""
    return selu(input, True)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`hardtanh`, in place."""
    return hardtanh(input, min_val, max_val, True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu`, in place."""
    return elu(input, alpha, True)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`celu`, in place."""
    return celu(input, alpha, True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`leaky_relu`, in place."""
    return leaky_relu(input, negative_slope, True)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """`threshold`, in place."""
    return written(input, tl.threshold, threshold, value)


def rrelu_(input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Tensor:
    """`rrelu`, in place."""
    return rrelu(input, lower, upper, training, True)


# ---- along a dimension ----


def softmin(input: Tensor, dim: int = -1, dtype: tl.DType | None = None) -> Tensor:
    """``softmax(-input)`` along `dim`: the smallest gets the most.

    >>> tl.nn.functional.softmin(tl.tensor([1.0, 1.0])).tolist()
    [0.5, 0.5]
    """
    return tl.softmax(-input, dim, dtype)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half of `input` along `dim`, times the sigmoid of the second.

    Shapes:
        input: (..., 2 D, ...)  ->  out: (..., D, ...)

    Reference: Dauphin et al. 2017.

    >>> tl.nn.functional.glu(tl.tensor([3.0, 0.0])).tolist()
    [1.5]
    """
    if isinstance(input, tl.RowMethods) and dim % input.ndim:
        return cast("Tensor", input.map_rows(glu, input, dim))
    if input.ndim == 0 or input.shape[dim] % 2:
        raise tl.ShapeError(f"glu: dimension {dim} must have an even size, got shape {input.shape}.")
    value, gate = input.split(input.shape[dim] // 2, dim) if input.shape[dim] else (input, input)
    return value * gate.sigmoid()


def gumbel_softmax(logits: Tensor, tau: float = 1.0, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A draw from the categorical distribution of `logits`, softened by the temperature `tau` so that gradients flow.

    Args:
        hard: return the draw itself, a one at one place; its gradient is that of the soft one.
        eps: has no effect; there for programs that give it.

    Reference: Jang et al. 2017; Maddison et al. 2017.

    >>> tl.nn.functional.gumbel_softmax(tl.tensor([0.0, 200.0]), hard=True).tolist()
    [0.0, 1.0]
    """
    drawn = tl.rand(logits.shape, dtype=logits.dtype, device=logits.device)
    exponential = (-tl.log1p(-drawn)).clamp_min(2.0**-25)  # never 0, whose logarithm is not finite
    soft = ((logits - exponential.log()) / tau).softmax(dim)
    if not hard:
        return soft
    best = soft.detach().argmax(dim, keepdim=True)
    return tl.zeros_like(soft.detach()).scatter(dim, best, 1.0) - soft.detach() + soft
