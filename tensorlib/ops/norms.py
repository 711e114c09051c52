"""Normalisation over the last dimensions (layer_norm, rms_norm), and what it shares with that over channels (channel_norms.py).

All of them centre and scale by statistics over some axes; what follows from that, values and gradients, is written once for any axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.dtypes import default_dtype
from tensorlib.errors import ShapeError
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import structured
from tensorlib.ops.fused import handle
from tensorlib.ops.table import BATCH, error, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["layer_norm", "rms_norm"]
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()

Axes = tuple[int, ...]


# ---- any axes ----


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """``x * weight + bias``, either of which may be absent."""
    scaled = x if weight is None else x * weight
    return scaled if bias is None else scaled + bias


def normalized_ref(xp: Any, x: Any, axes: Axes, eps: float) -> Any:
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / xp.sqrt(xp.square(centred).mean(axis=axes, keepdims=True) + x.dtype.type(eps))


def normalized(x: Tensor, axes: Axes, eps: float) -> tuple[Tensor, Tensor]:
    """x with mean 0 and variance 1 over `axes`, and the factor 1 / sqrt(var + eps)."""
    centred = x - x.mean(axes, keepdim=True)
    scale = (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    return centred * scale, scale


def input_grad(g: Tensor, x: Tensor, axes: Axes, eps: float) -> Tensor:
    """What a gradient of the normalised values is for x."""
    made, scale = normalized(x, axes, eps)
    dependent = made * (g * made).mean(axes, keepdim=True)  # through the variance
    return scale * (g - g.mean(axes, keepdim=True) - dependent)


# ---- over the last dimensions ----


def _last(n: int) -> Axes:
    return tuple(range(-n, 0))


def _layer_norm_ref(xp: Any, x: Any, weight: Any, bias: Any, *, dims: int, eps: float) -> Any:
    return x.copy() if x.size == 0 else affine(normalized_ref(xp, x, _last(dims), eps), weight, bias)


_layer_norm = structured(
    "layer_norm",
    inputs=("x", "weight", "bias"),
    attrs=("dims", "eps"),
    dtype=rules.floating,
    ref=_layer_norm_ref,
    vjp=(
        lambda g, x, weight, dims, eps: input_grad(affine(g, weight, None), x, _last(dims), eps),
        lambda g, x, dims, eps: g * normalized(x, _last(dims), eps)[0],
        lambda g: g,
    ),
    composite=lambda x, weight, bias, *, dims, eps: affine(normalized(x, _last(dims), eps)[0], weight, bias),
    native=lambda line, x, weight, bias, dims, eps: lib.tl_layer_norm(
        x._array, dims, handle(weight), handle(bias), eps, line
    ),
    decode=lambda node: {"dims": lib.tl_node_int(node, 0), "eps": lib.tl_node_real(node, 0)},
    samples=[
        sample((3, 4), None, None, dims=1, eps=1e-5),
        sample((3, 4), (4,), (4,), dims=1, eps=1e-5),
        sample((2, 3, 67), (67,), None, dims=1, eps=1e-2),
        sample((2, 3, 5), None, (5,), dims=1, eps=1e-2),
        sample((2, 3, 4), (3, 4), (3, 4), dims=2, eps=1e-5),
        sample((0, 4), (4,), (4,), dims=1, eps=1e-5),
        sample((1,), (1,), (1,), dims=1, eps=1e-5),
    ],
    rowwise=[
        sample((BATCH, 67), (67,), (67,), dims=1, eps=1e-5),
        sample((BATCH, 3, 700), (700,), None, dims=1, eps=1e-5),
        sample((BATCH, 20, 30), (20, 30), (20, 30), dims=2, eps=1e-5),
        sample((BATCH, 5000), None, None, dims=1, eps=1e-5),
    ],
    errors=[
        error(
            (2, 3),
            normalized_shape=(2, 4),
            raises=ValueError,
            match=r"input has shape \(2, 3\), .* normalized_shape \(2, 4\)",
        ),
        error((2, 3), normalized_shape=(), raises=ValueError, match="at least one"),
    ],
)


def _check_last(
    name: str, x: Tensor, normalized_shape: int | Sequence[int], **parameters: Tensor | None
) -> tuple[int, ...]:
    """normalized_shape as a tuple, once x and the parameters are known to fit it."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(
            f"{name}: input has shape {x.shape}, expected its last dimensions to be normalized_shape {shape}, at least one."
        )
    for parameter, t in parameters.items():
        if t is not None and t.shape != shape:
            raise ShapeError(f"{name}: {parameter} has shape {t.shape}, expected normalized_shape {shape}.")
    return shape


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions: ``(input - mean) / sqrt(var + eps) * weight + bias``, the variance without Bessel's correction.

    Shapes:
        input: (..., *normalized_shape), weight and bias: normalized_shape  ->  out: input's shape

    Reference: Ba et al. 2016.

    >>> tl.layer_norm(tl.tensor([[1.0, 3.0]]), (2,), eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    shape = _check_last("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    return _layer_norm(input, weight, bias, dims=len(shape), eps=eps)


def _rms(x: Tensor, dims: int, eps: float) -> tuple[Tensor, Tensor]:
    """x with mean square 1 over its last dimensions, and the factor that does it."""
    scale = (x.square().mean(_last(dims), keepdim=True) + eps).rsqrt()
    return x * scale, scale


def _rms_norm_ref(xp: Any, x: Any, weight: Any, *, dims: int, eps: float) -> Any:
    if x.size == 0:
        return x.copy()
    return affine(x / xp.sqrt(xp.square(x).mean(axis=_last(dims), keepdims=True) + x.dtype.type(eps)), weight, None)


def _rms_norm_input_grad(g: Tensor, x: Tensor, weight: Tensor | None, dims: int, eps: float) -> Tensor:
    made, scale = _rms(x, dims, eps)
    g = affine(g, weight, None)
    return scale * (g - made * (g * made).mean(_last(dims), keepdim=True))


_rms_norm = structured(
    "rms_norm",
    inputs=("x", "weight"),
    attrs=("dims", "eps"),
    dtype=rules.floating,
    ref=_rms_norm_ref,
    vjp=(_rms_norm_input_grad, lambda g, x, dims, eps: g * _rms(x, dims, eps)[0]),
    composite=lambda x, weight, *, dims, eps: affine(_rms(x, dims, eps)[0], weight, None),
    native=lambda line, x, weight, dims, eps: lib.tl_rms_norm(x._array, dims, handle(weight), eps, line),
    decode=lambda node: {"dims": lib.tl_node_int(node, 0), "eps": lib.tl_node_real(node, 0)},
    samples=[
        sample((3, 4), None, dims=1, eps=1e-5),
        sample((3, 4), (4,), dims=1, eps=1e-5),
        sample((2, 3, 67), (67,), dims=1, eps=1e-2),
        sample((2, 3, 4), (3, 4), dims=2, eps=1e-5),
        sample((0, 4), (4,), dims=1, eps=1e-5),
        sample((1,), (1,), dims=1, eps=1e-5),
    ],
    rowwise=[
        sample((BATCH, 67), (67,), dims=1, eps=1e-5),
        sample((BATCH, 20, 30), (20, 30), dims=2, eps=1e-5),
        sample((BATCH, 5000), None, dims=1, eps=1e-5),
    ],
    errors=[
        error((2, 3), normalized_shape=(4,), raises=ValueError, match=r"rms_norm: input has shape \(2, 3\)"),
        error((2, 3), (2,), normalized_shape=(3,), raises=ValueError, match=r"rms_norm: weight has shape \(2,\)"),
    ],
)


def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Scale to a root mean square of 1 over the last dimensions: ``input / sqrt(mean(input**2) + eps) * weight``; nothing is subtracted.

    `eps` is by default the dtype's machine epsilon.

    Shapes:
        input: (..., *normalized_shape), weight: normalized_shape  ->  out: input's shape

    Reference: Zhang and Sennrich 2019.

    >>> tl.rms_norm(tl.tensor([[3.0, 3.0, 3.0, -3.0]]), (4,), eps=0.0).tolist()
    [[1.0, 1.0, 1.0, -1.0]]
    """
    shape = _check_last("rms_norm", input, normalized_shape, weight=weight)
    return _rms_norm(input, weight, dims=len(shape), eps=_epsilon(input) if eps is None else eps)


def _epsilon(x: Tensor) -> float:
    """Of x's dtype, as it is computed in: float32 for what is smaller."""
    dtype = x.dtype if x.dtype.is_floating_point else default_dtype()
    return float(np.finfo(np.float64 if dtype.itemsize == 8 else np.float32).eps)
