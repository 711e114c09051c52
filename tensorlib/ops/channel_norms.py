"""Normalisation over channels: batch_norm, group_norm, instance_norm.

They share two entries: `channel_norm`, whose statistics come from the input, and `fixed_norm`, to which they are given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tensorlib.backends import backend
from tensorlib.errors import ShapeError
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.fused import SLOW, caller, handle
from tensorlib.ops.norms import Axes, affine, input_grad, normalized, normalized_ref
from tensorlib.ops.recording import record
from tensorlib.ops.table import BATCH, Draw, error, sample
from tensorlib.tensor import wrap

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["batch_norm", "group_norm", "instance_norm"]
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()


def _grouped(shape: tuple[int, ...], groups: int) -> tuple[tuple[int, int, int, int], Axes]:
    """(N, C, ...) as (N, groups, channels of a group, elements of a channel), and the axes that share statistics. With 0 groups every channel
    is one by itself, and the statistics are over the batch."""
    n, c, span = shape[0], shape[1], math.prod(shape[2:])
    return ((n, groups, c // groups, span), (2, 3)) if groups else ((n, c, 1, span), (0, 2, 3))


def _by_channel(t: Any, groups: int) -> Any:
    """(C,) so that it broadcasts against what `_grouped` makes; None stays None."""
    return None if t is None else t.reshape((groups or t.shape[0], -1, 1))


def _channel_sum(g: Tensor) -> Tensor:
    """(N, C, ...) -> (C,)"""
    return g.sum((0, *range(2, g.ndim)))


def _channel_norm_ref(xp: Any, input: Any, weight: Any, bias: Any, *, groups: int, eps: float) -> Any:
    if input.size == 0:
        return input.copy()
    dims, axes = _grouped(input.shape, groups)
    made = normalized_ref(xp, input.reshape(dims), axes, eps)
    return affine(made, _by_channel(weight, groups), _by_channel(bias, groups)).reshape(input.shape)


def _channel_norm_plain(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, *, groups: int, eps: float
) -> Tensor:
    if input.numel() == 0:
        return input.clone()
    dims, axes = _grouped(input.shape, groups)
    made = normalized(input.reshape(dims), axes, eps)[0]
    return affine(made, _by_channel(weight, groups), _by_channel(bias, groups)).reshape(input.shape)


def _channel_norm_input_grad(g: Tensor, input: Tensor, weight: Tensor | None, groups: int, eps: float) -> Tensor:
    if input.numel() == 0:
        return g
    dims, axes = _grouped(input.shape, groups)
    scaled = affine(g.reshape(dims), _by_channel(weight, groups), None)
    return input_grad(scaled, input.reshape(dims), axes, eps).reshape(input.shape)


def _channel_norm_weight_grad(g: Tensor, input: Tensor, groups: int, eps: float) -> Tensor:
    if input.numel() == 0:
        return _channel_sum(g)
    dims, axes = _grouped(input.shape, groups)
    made = normalized(input.reshape(dims), axes, eps)[0]
    return (g.reshape(dims) * made).sum((0, 3)).reshape(-1)


_channel_norm = structured(
    "channel_norm",
    inputs=("input", "weight", "bias"),
    attrs=("groups", "eps"),
    dtype=rules.floating,
    ref=_channel_norm_ref,
    vjp=(_channel_norm_input_grad, _channel_norm_weight_grad, _channel_sum),
    composite=_channel_norm_plain,
    native=lambda line, input, weight, bias, groups, eps: lib.tl_channel_norm(
        input._array, handle(weight), handle(bias), groups, eps, line
    ),
    decode=lambda node: {"groups": lib.tl_node_int(node, 0), "eps": lib.tl_node_real(node, 0)},
    samples=[
        sample((5, 3), None, None, groups=0, eps=1e-2),
        sample((5, 3), (3,), (3,), groups=0, eps=1e-2),
        sample((3, 2, 4), (2,), None, groups=0, eps=1e-2),
        sample((3, 4, 8), (4,), (4,), groups=0, eps=1e-2),
        sample((2, 3, 3, 5), None, (3,), groups=0, eps=1e-2),
        sample((2, 2, 2, 3, 3), (2,), (2,), groups=0, eps=1e-2),
        sample((1, 2, 67), (2,), (2,), groups=0, eps=1e-2),
        sample((0, 2, 3), (2,), (2,), groups=0, eps=1e-2),
        sample((3, 4), (4,), (4,), groups=2, eps=1e-2),
        sample((2, 6, 3, 3), (6,), (6,), groups=3, eps=1e-2),
        sample((2, 4, 9), None, None, groups=1, eps=1e-2),
        sample((2, 3, 17), (3,), None, groups=3, eps=1e-2),
        sample((2, 2, 0), (2,), (2,), groups=2, eps=1e-2),
        sample((129, 3), None, None, groups=0, eps=1e-5),
        sample((2, 2, 4099), None, None, groups=0, eps=1e-5),
        sample((1, 2, 4099), None, None, groups=1, eps=1e-5),
    ],
    rowwise=[
        sample((BATCH, 8), (8,), (8,), groups=2, eps=1e-5),
        sample((BATCH, 6, 5, 7), (6,), (6,), groups=3, eps=1e-5),
        sample((BATCH, 5, 9, 9), (5,), (5,), groups=5, eps=1e-5),
        sample((BATCH, 4, 40, 40), (4,), None, groups=2, eps=1e-5),
        sample((BATCH, 2, 9000), None, (2,), groups=1, eps=1e-5),
    ],
    private=True,
)


def _fixed_norm_ref(xp: Any, input: Any, mean: Any, variance: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    def wide(t: Any) -> Any:
        return None if t is None else t.reshape((-1,) + (1,) * (input.ndim - 2))

    made = (input - wide(mean)) / xp.sqrt(wide(variance) + input.dtype.type(eps))
    return affine(made, wide(weight), wide(bias))


def _fixed(input: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    return (input - _along(mean, input)) * _along((variance + eps).rsqrt(), input)


def _along(t: Tensor | None, x: Tensor) -> Any:
    """(C,) so that it broadcasts against x's channels."""
    return None if t is None else t.reshape((-1,) + (1,) * (x.ndim - 2))


def _fixed_norm_input_grad(g: Tensor, variance: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return g * _along(affine((variance + eps).rsqrt(), weight, None), g)


_fixed_norm = structured(
    "fixed_norm",
    inputs=("input", "mean", "variance", "weight", "bias"),
    attrs=("eps",),
    dtype=rules.floating,
    ref=_fixed_norm_ref,
    vjp=(
        _fixed_norm_input_grad,
        None,
        None,
        lambda g, input, mean, variance, eps: _channel_sum(g * _fixed(input, mean, variance, eps)),
        _channel_sum,
    ),
    composite=lambda input, mean, variance, weight, bias, *, eps: affine(
        _fixed(input, mean, variance, eps), _along(weight, input), _along(bias, input)
    ),
    native=lambda line, input, mean, variance, weight, bias, eps: lib.tl_fixed_norm(
        input._array, mean._array, variance._array, handle(weight), handle(bias), eps, line
    ),
    decode=lambda node: {"eps": lib.tl_node_real(node, 0)},
    samples=lambda: [
        sample(shape, shape[1:2], Draw(shape[1:2], low=0.5), weight, bias, eps=1e-2)
        for shape, weight, bias in [
            ((5, 3), (3,), (3,)),
            ((2, 5), None, None),
            ((3, 2, 4), (2,), None),
            ((3, 4, 17), None, (4,)),
            ((2, 3, 3, 5), (3,), (3,)),
            ((0, 3, 5), (3,), (3,)),
        ]
    ],
    rowwise=lambda: [
        sample(shape, shape[1:2], Draw(shape[1:2], low=0.5), shape[1:2], shape[1:2], eps=1e-5)
        for shape in [(BATCH, 33), (BATCH, 6, 5, 7), (BATCH, 3, 2000), (BATCH, 3, 4, 5, 6)]
    ],
    private=True,
)


def _check_channels(name: str, input: Tensor, **parameters: Tensor | None) -> None:
    if input.ndim < 2:
        raise ShapeError(f"{name}: input must have shape (N, C, ...), got {input.shape}.")
    for parameter, t in parameters.items():
        if t is not None and t.shape != input.shape[1:2]:
            raise ShapeError(
                f"{name}: {parameter} has shape {t.shape}, expected {input.shape[1:2]}: one number a channel."
            )


def _move(running: Tensor, seen: Tensor, momentum: float) -> None:
    running.detach().mul_(1 - momentum).add_(seen.to(running.dtype), alpha=momentum)


@composite(
    "batch_norm",
    inputs=("input", "running_mean", "running_var", "weight", "bias"),
    attrs=("training", "momentum", "eps"),
    dtype=rules.floating,
    ref=lambda xp, input, running_mean, running_var, weight, bias, *, training, eps: (
        _channel_norm_ref(xp, input, weight, bias, groups=0, eps=eps)
        if training
        else _fixed_norm_ref(xp, input, running_mean, running_var, weight, bias, eps=eps)
    ),
    samples=lambda: [
        sample((4, 3, 5), None, None, (3,), (3,), training=True, eps=1e-2),
        sample((0, 3, 5), None, None, (3,), (3,), training=True, eps=1e-2),
        sample((2, 0, 4), None, None, (0,), (0,), training=True, eps=1e-2),
        sample((4, 3), (3,), Draw((3,), low=0.5), (3,), None, training=False, eps=1e-2, smooth=False),
    ],
    rowwise=lambda: [sample((BATCH, 6, 5, 7), (6,), Draw((6,), low=0.5), (6,), (6,), training=False)],
    errors=[
        error(
            (3,),
            None,
            None,
            None,
            None,
            training=True,
            raises=ValueError,
            match=r"input must have shape \(N, C, ...\), got \(3,\)",
        ),
        error((1, 3), None, None, None, None, training=True, raises=ValueError, match="more than one value a channel"),
        error((2, 3), None, None, None, None, raises=ValueError, match="running_mean and running_var are needed"),
        error(
            (2, 3), (3,), (2,), None, None, raises=ValueError, match=r"running_var has shape \(2,\), expected \(3,\)"
        ),
        error(
            (2, 3),
            None,
            None,
            (4,),
            None,
            training=True,
            raises=ValueError,
            match=r"weight has shape \(4,\), expected \(3,\)",
        ),
    ],
)
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    In training, mean and variance are those of the channel in this batch (the variance without Bessel's correction), and the running
    statistics, where given, move towards them in place: ``running = (1 - momentum) * running + momentum * seen``, the variance with it.
    Otherwise the running statistics are used.

    Shapes:
        input: (N, C, ...), everything else: (C,)  ->  out: (N, C, ...)

    Raises:
        ShapeError: for an input without channels, parameters of another size, or a single value per channel in training.

    Reference: Ioffe and Szegedy 2015.

    >>> tl.batch_norm(tl.tensor([[1.0], [3.0]]), None, None, training=True, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    line = caller()
    try:
        if not training:
            made = lib.tl_fixed_norm(
                input._array, running_mean._array, running_var._array, handle(weight), handle(bias), eps, line  # type: ignore[union-attr]
            )  # fmt: skip
        elif running_mean is None and running_var is None:
            made = lib.tl_channel_norm(input._array, handle(weight), handle(bias), 0, eps, line)
        else:
            made = lib.tl_batch_norm(
                input._array, running_mean._array, running_var._array, handle(weight), handle(bias), momentum, eps, line  # type: ignore[union-attr]
            )  # fmt: skip
        if made:
            return wrap(made)
    except SLOW:
        pass
    _check_channels(
        "batch_norm", input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )  # fmt: skip
    if not training:
        if running_mean is None or running_var is None:
            raise ShapeError("batch_norm: running_mean and running_var are needed unless training=True.")
        return _fixed_norm(input, running_mean, running_var, weight, bias, eps=eps)
    if input.numel() == input.shape[1] > 0:
        raise ShapeError(
            f"batch_norm: expected more than one value a channel in training, got an input of shape {input.shape}."
        )
    if input.is_cuda and input.numel():
        made = _batch_norm_on_gpu(input, running_mean, running_var, weight, bias, momentum, eps, line)
        if made is not None:
            return made
    out = _channel_norm(input, weight, bias, groups=0, eps=eps)
    if input.numel():
        seen, axes = input.detach(), (0, *range(2, input.ndim))
        if running_mean is not None:
            _move(running_mean, seen.mean(axes), momentum)
        if running_var is not None:
            _move(running_var, seen.var(axes), momentum)
    return out


def _batch_norm_on_gpu(
    input: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None, bias: Tensor | None, momentum: float, eps: float, line: int
) -> Tensor | None:  # fmt: skip
    """In training, with running statistics moved by the kernel that knows the batch's."""
    from tensorlib.gpu.norms import batch_norm as serve

    recording = lib.tl_set_grad_enabled(False)
    try:
        with backend(input.device).handle:
            out = serve(input, mean, var, weight, bias, momentum, eps)
    finally:
        lib.tl_set_grad_enabled(recording)
    if out is not None:
        for running in (mean, var):
            if running is not None:
                lib.tl_written(running._array, line)
        record(_channel_norm.op, (input, weight, bias), (out,), {"groups": 0, "eps": eps}, line)
    return out


@composite(
    "group_norm",
    inputs=("input", "weight", "bias"),
    attrs=("num_groups", "eps"),
    dtype=rules.floating,
    ref=lambda xp, input, weight, bias, *, num_groups, eps: _channel_norm_ref(
        xp, input, weight, bias, groups=num_groups, eps=eps
    ),
    samples=[sample((2, 4, 3), (4,), (4,), num_groups=2, eps=1e-2), sample((2, 4), None, None, num_groups=1, eps=1e-2)],
    rowwise=[sample((BATCH, 6, 5, 7), (6,), (6,), num_groups=2)],
    errors=[
        error(
            (2, 4, 3), None, None, num_groups=3, raises=ValueError, match="num_groups 3 does not divide the 4 channels"
        ),
        error((2, 4, 3), None, None, num_groups=0, raises=ValueError, match="num_groups must be at least 1, got 0"),
        error((1, 4), None, None, num_groups=4, raises=ValueError, match="more than one value a group"),
        error(
            (2, 4),
            (3,),
            None,
            num_groups=2,
            raises=ValueError,
            match=r"group_norm: weight has shape \(3,\), expected \(4,\)",
        ),
    ],
)
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise groups of neighbouring channels of each example: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    Shapes:
        input: (N, C, ...), weight and bias: (C,)  ->  out: (N, C, ...);   `num_groups` divides C

    Raises:
        ShapeError: if `num_groups` does not divide the channels, or weight or bias have another size.

    Reference: Wu and He 2018.

    >>> tl.group_norm(tl.tensor([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    _check_channels("group_norm", input, weight=weight, bias=bias)
    if num_groups < 1:
        raise ShapeError(f"group_norm: num_groups must be at least 1, got {num_groups}.")
    if input.shape[1] % num_groups:
        raise ShapeError(f"group_norm: num_groups {num_groups} does not divide the {input.shape[1]} channels of input.")
    if input.numel() == num_groups:
        raise ShapeError(f"group_norm: expected more than one value a group, got an input of shape {input.shape}.")
    return _channel_norm(input, weight, bias, groups=num_groups if input.numel() else 1, eps=eps)


@composite(
    "instance_norm",
    inputs=("input", "running_mean", "running_var", "weight", "bias"),
    attrs=("use_input_stats", "momentum", "eps"),
    dtype=rules.floating,
    ref=lambda xp, input, running_mean, running_var, weight, bias, *, use_input_stats, eps: (
        _channel_norm_ref(xp, input, weight, bias, groups=input.shape[1], eps=eps)
        if use_input_stats
        else _fixed_norm_ref(xp, input, running_mean, running_var, weight, bias, eps=eps)
    ),
    samples=lambda: [
        sample((2, 3, 5), None, None, (3,), (3,), use_input_stats=True, eps=1e-2),
        sample((2, 3, 4), (3,), Draw((3,), low=0.5), None, None, use_input_stats=False, eps=1e-2, smooth=False),
    ],
    rowwise=[sample((BATCH, 6, 5, 7), None, None, (6,), (6,))],
    errors=[
        error((2, 3, 1), None, None, None, None, raises=ValueError, match="more than one element a channel"),
        error(
            (2, 3, 2),
            None,
            None,
            None,
            None,
            use_input_stats=False,
            raises=ValueError,
            match="running_mean and running_var are needed",
        ),
        error((2, 3, 4), None, None, None, (2,), raises=ValueError, match=r"bias has shape \(2,\), expected \(3,\)"),
    ],
)
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each example by its own mean and variance, or, without `use_input_stats`, by the running ones.

    Running statistics, where given, move towards the average over the batch, as those of `batch_norm` do.

    Shapes:
        input: (N, C, L, ...), everything else: (C,)  ->  out: (N, C, L, ...)

    Raises:
        ShapeError: for parameters of another size, or a single element per channel.

    Reference: Ulyanov et al. 2016.

    >>> tl.instance_norm(tl.tensor([[[1.0, 3.0], [10.0, 30.0]]]), eps=0.0).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    _check_channels(
        "instance_norm", input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )  # fmt: skip
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ShapeError("instance_norm: running_mean and running_var are needed unless use_input_stats=True.")
        return _fixed_norm(input, running_mean, running_var, weight, bias, eps=eps)
    if math.prod(input.shape[2:]) == 1:
        raise ShapeError(
            f"instance_norm: expected more than one element a channel, got an input of shape {input.shape}."
        )
    out = _channel_norm(input, weight, bias, groups=input.shape[1], eps=eps) if input.shape[1] else input.clone()
    if input.numel():
        seen, axes = input.detach(), tuple(range(2, input.ndim))
        if running_mean is not None:
            _move(running_mean, seen.mean(axes).mean(0), momentum)
        if running_var is not None:
            _move(running_var, seen.var(axes).mean(0), momentum)
    return out
