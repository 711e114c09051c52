"""Convolution and transposed convolution of one to three dimensions, as users call them; what they are made of is in convolution.py.

Dimension letters: N images, C channels, K filters; spatial sizes L, H and W, D; of the kernel R, S, Q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tensorlib import ops
from tensorlib.errors import ShapeError
from tensorlib.ops import rules
from tensorlib.ops.convolution import (
    ATTRS,
    LIMIT,
    Ints,
    Pairs,
    conv_grad_input,
    convolution,
    convolution_ref,
    grad_input_ref,
    out_sizes,
    padded_sizes,
)
from tensorlib.ops.declare import Function, composite
from tensorlib.ops.table import BATCH, error, sample

if TYPE_CHECKING:
    from tensorlib.ops.table import ErrorSample, Sample
    from tensorlib.tensor import Tensor

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()


# ---- what users give ----


def _each(name: str, what: str, value: int | Sequence[int], nd: int, least: int) -> Ints:
    """One number a dimension from a number or a sequence of them."""
    values = (value,) * nd if isinstance(value, int) else tuple(value) * (nd if len(value) == 1 else 1)
    if len(values) != nd:
        raise ValueError(f"{name}: {what} must be a number or {nd} of them, got {value}.")
    if not all(least <= v < LIMIT for v in values):
        raise ValueError(f"{name}: {what} must be at least {least} and below {LIMIT}, got {value}.")
    return values


def _sides(name: str, padding: str | int | Sequence[int], kernel: Ints, stride: Ints, dilation: Ints) -> Pairs:
    """How much stands in front of and behind the image, in each dimension."""
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"{name}: padding='same' needs stride 1, got {stride}.")
        spans = [d * (r - 1) for r, d in zip(kernel, dilation, strict=True)]
        return tuple((n // 2, n - n // 2) for n in spans)
    if isinstance(padding, str):
        raise ValueError(f"{name}: padding must be a number, a sequence of them, 'same' or 'valid', got {padding!r}.")
    return tuple((p, p) for p in _each(name, "padding", padding, len(kernel), 0))


def _check(name: str, nd: int, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool) -> None:
    """Ranks, channels and groups."""
    spatial = ("L",) if nd == 1 else ("H", "W") if nd == 2 else ("D", "H", "W")
    if x.ndim not in (nd + 1, nd + 2):
        raise ShapeError(
            f"{name}: input must have shape (N, C, {', '.join(spatial)}) or (C, {', '.join(spatial)}), got {x.shape}."
        )
    if weight.ndim != nd + 2 or 0 in weight.shape[2:]:
        filters = "(C, K / groups" if transposed else "(K, C / groups"
        raise ShapeError(
            f"{name}: weight must have shape {filters}, {'R, ' * nd}) without zeros, got {weight.shape}.".replace(
                ", )", ")"
            )
        )
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{name}: groups must be a number of at least 1, got {groups}.")
    channels = x.shape[-nd - 1]
    if channels % groups or weight.shape[0] % groups:
        what = f"{channels} channels of input" if channels % groups else f"{weight.shape[0]} filters of weight"
        raise ValueError(f"{name}: groups {groups} does not divide the {what}.")
    taken = weight.shape[0] if transposed else weight.shape[1] * groups
    if channels != taken:
        raise ShapeError(
            f"{name}: input of shape {x.shape} has {channels} channels, weight of shape {weight.shape} with groups {groups} takes {taken}."
        )
    made = weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None and bias.shape != (made,):
        raise ShapeError(f"{name}: bias has shape {bias.shape}, expected {(made,)}.")


def _conv(
    name: str,
    nd: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    stride, dilation = _each(name, "stride", stride, nd, 1), _each(name, "dilation", dilation, nd, 1)
    _check(name, nd, x, weight, bias, groups, transposed=False)
    kernel = weight.shape[2:]
    sides = _sides(name, padding, kernel, stride, dilation)
    if x.ndim == nd + 1:
        return _conv(name, nd, x.unsqueeze(0), weight, bias, stride, padding, dilation, groups).squeeze(0)
    if any(n < 1 for n in out_sizes(x.shape[2:], kernel, (1,) * nd, sides, dilation)):
        spread = f" with dilation {dilation}" if any(d > 1 for d in dilation) else ""
        raise ShapeError(
            f"{name}: the kernel of size {kernel}{spread} is larger than the padded input of size {tuple(padded_sizes(x.shape[2:], sides))}."
        )
    return convolution(x, weight, bias, stride=stride, padding=sides, dilation=dilation, groups=groups)


def _conv_transpose(
    name: str,
    nd: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Tensor:
    stride, dilation = _each(name, "stride", stride, nd, 1), _each(name, "dilation", dilation, nd, 1)
    padding, behind = _each(name, "padding", padding, nd, 0), _each(name, "output_padding", output_padding, nd, 0)
    _check(name, nd, x, weight, bias, groups, transposed=True)
    if any(b >= max(s, d) for b, s, d in zip(behind, stride, dilation, strict=True)):
        raise ValueError(
            f"{name}: output_padding must be smaller than stride or dilation, got {behind} with stride {stride} and dilation {dilation}."
        )
    if x.ndim == nd + 1:
        x = x.unsqueeze(0)
        return _conv_transpose(name, nd, x, weight, bias, stride, padding, behind, groups, dilation).squeeze(0)
    spans = [d * (r - 1) for d, r in zip(dilation, weight.shape[2:], strict=True)]
    size = tuple(
        (n - 1) * s - 2 * p + span + b + 1
        for n, s, p, span, b in zip(x.shape[2:], stride, padding, spans, behind, strict=True)
    )
    if any(n < 1 for n in size) or 0 in x.shape[1:]:
        raise ShapeError(f"{name}: input of shape {x.shape} with padding {padding} makes an output of size {size}.")
    # Behind the image, the convolution that this is the gradient of must see the input's size again: so `behind` counts as padding that is
    # not there, as far as there is any; what reaches further is zero.
    kept = tuple(min(b, p) for b, p in zip(behind, padding, strict=True))
    beyond = tuple(b - k for b, k in zip(behind, kept, strict=True))
    out = conv_grad_input(
        x,
        weight,
        size=tuple(n - b for n, b in zip(size, beyond, strict=True)),
        stride=stride,
        padding=tuple((p, p - k) for p, k in zip(padding, kept, strict=True)),
        dilation=dilation,
        groups=groups,
    )
    for dim, n in enumerate(beyond, start=2):
        if n:
            zeros = ops.creation.zeros((*out.shape[:dim], n, *out.shape[dim + 1 :]), dtype=out.dtype, device=out.device)
            out = ops.joins.cat((out, zeros), dim)
    return out if bias is None else out + bias.reshape((-1,) + (1,) * nd)


# ---- the public functions ----


def _batched(xp: Any, ref: Any, x: Any, weight: Any, *rest: Any, **attrs: Any) -> Any:
    if x.ndim == weight.ndim:
        return ref(xp, x, weight, *rest, **attrs)
    return ref(xp, x[None], weight, *rest, **attrs)[0]


def _conv_ref(
    xp: Any, x: Any, weight: Any, bias: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    nd = weight.ndim - 2
    stride, dilation = _each("conv", "stride", stride, nd, 1), _each("conv", "dilation", dilation, nd, 1)
    sides = _sides("conv", padding, weight.shape[2:], stride, dilation)
    attrs = {"stride": stride, "padding": sides, "dilation": dilation, "groups": groups}
    return _batched(xp, convolution_ref, x, weight, bias, **attrs)


def _conv_samples(nd: int) -> Any:
    """Of any number of dimensions: batched or not, with a bias or without, padded in either way."""

    def make() -> list[Sample]:
        x, r = (5, 6, 4)[:nd], (2, 3, 2)[:nd]
        return [
            sample((2, 3, *x), (4, 3, *r), (4,)),
            sample((3, *x), (2, 3, *r), None, padding="same"),
            sample((1, 2, *x), (4, 1, *r), (4,), padding=1, stride=2, groups=2),
            sample((1, 2, *x), (2, 2, *r), None, padding=(2,) * nd, dilation=(2,) * nd),
            sample((0, 2, *x), (2, 2, *r), (2,), padding="valid"),
        ]

    return make


def _conv_errors(nd: int) -> list[ErrorSample]:
    x, r = (4,) * nd, (3,) * nd
    good = ((2, 4, *x), (6, 4, *r))
    return [
        error(*good, None, stride=0, raises=ValueError, match="stride must be at least 1"),
        error(*good, None, stride=-1, raises=ValueError, match="stride must be at least 1"),
        error(*good, None, stride=2**62, raises=ValueError, match="stride must be at least 1 and below"),
        error(*good, None, dilation=2**62, raises=ValueError, match="dilation must be at least 1 and below"),
        error(*good, None, groups=-(2**62), raises=ValueError, match="groups must be a number of at least 1"),
        error(*good, None, dilation=0, raises=ValueError, match="dilation must be at least 1"),
        error(*good, None, padding=-1, raises=ValueError, match="padding must be at least 0"),
        error(*good, None, padding=10**12, raises=ValueError, match="padding must be at least 0 and below"),
        error(*good, None, padding="some", raises=ValueError, match="'same' or 'valid', got 'some'"),
        error(*good, None, padding="same", stride=2, raises=ValueError, match="padding='same' needs stride 1"),
        error(*good, None, stride=(1, 1, 1, 1), raises=ValueError, match="stride must be a number or"),
        error(*good, None, groups=0, raises=ValueError, match="groups must be a number of at least 1"),
        error(*good, None, groups=3, raises=ValueError, match="groups 3 does not divide the 4 channels"),
        error(
            (2, 4, *x), (5, 2, *r), None, groups=2, raises=ValueError, match="groups 2 does not divide the 5 filters"
        ),
        error((2, 3, *x), (6, 4, *r), None, raises=ValueError, match="has 3 channels, .* takes 4"),
        error(*good, (5,), raises=ValueError, match=r"bias has shape \(5,\), expected \(6,\)"),
        error(
            (2, 4, *x),
            (6, 4, *(5,) * nd),
            None,
            raises=ValueError,
            match="the kernel of size .* is larger than the padded input",
        ),
        error(*good, None, dilation=2, raises=ValueError, match="with dilation .* is larger"),
        error((2,) * (nd + 3), (6, 4, *r), None, raises=ValueError, match="input must have shape"),
        error((2, 4, *x), (6, 4), None, raises=ValueError, match="weight must have shape"),
    ]


TRANSPOSE_ATTRS = ("stride", "padding", "output_padding", "groups", "dilation")


def _conv_transpose_ref(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The sum over taps, of all that the padding cuts off as well, then the cut."""
    nd = weight.ndim - 2
    stride, dilation = _each("conv", "stride", stride, nd, 1), _each("conv", "dilation", dilation, nd, 1)
    padding, behind = _each("conv", "padding", padding, nd, 0), _each("conv", "output_padding", output_padding, nd, 0)
    spans = [d * (r - 1) for d, r in zip(dilation, weight.shape[2:], strict=True)]
    whole = tuple((n - 1) * s + span + 1 for n, s, span in zip(x.shape[-nd:], stride, spans, strict=True))
    attrs = {"stride": stride, "padding": ((0, 0),) * nd, "dilation": dilation, "groups": groups}
    out = _batched(xp, grad_input_ref, x, weight, size=whole, **attrs)
    out = xp.pad(out, ((0, 0),) * (out.ndim - nd) + tuple((0, b) for b in behind))
    inner = tuple(slice(p, n - p + b) for p, n, b in zip(padding, whole, behind, strict=True))
    out = out[(slice(None),) * (out.ndim - nd) + inner].copy()
    return out if bias is None else out + bias.reshape((-1,) + (1,) * nd)


def _conv_transpose_samples(nd: int) -> Any:
    def make() -> list[Sample]:
        x, r = (4, 3, 2)[:nd], (2, 3, 2)[:nd]
        return [
            sample((2, 3, *x), (3, 4, *r), (4,)),
            sample((3, *x), (3, 2, *r), None, stride=2),
            sample((1, 4, *x), (4, 1, *r), (2,), padding=1, stride=3, output_padding=2, groups=2),
            sample((1, 2, *x), (2, 2, *r), None, padding=1, output_padding=(2,) * nd, dilation=3),
            sample((0, 2, *x), (2, 2, *r), (2,)),
        ]

    return make


def _conv_transpose_errors(nd: int) -> list[ErrorSample]:
    good = ((2, 4, *(4,) * nd), (4, 6, *(3,) * nd))
    return [
        error(*good, None, stride=0, raises=ValueError, match="stride must be at least 1"),
        error(*good, None, padding=9, raises=ValueError, match="with padding .* makes an output of size"),
        error(*good, None, padding=2**62, raises=ValueError, match="padding must be at least 0 and below"),
        error(*good, None, stride=-2, raises=ValueError, match="stride must be at least 1"),
        error(
            *good,
            None,
            output_padding=1,
            raises=ValueError,
            match="output_padding must be smaller than stride or dilation",
        ),
        error(*good, None, groups=3, raises=ValueError, match="groups 3 does not divide the 4 channels"),
        error((2, 3, *(4,) * nd), (4, 6, *(3,) * nd), None, raises=ValueError, match="has 3 channels, .* takes 4"),
        error(*good, (5,), raises=ValueError, match=r"bias has shape \(5,\), expected \(6,\)"),
    ]


def _convolves(nd: int) -> Callable[[Function], Function]:
    return composite(
        f"conv{nd}d",
        inputs=("input", "weight", "bias"),
        attrs=ATTRS,
        dtype=rules.floating,
        ref=_conv_ref,
        samples=_conv_samples(nd),
        errors=_conv_errors(nd),
    )


def _transposes(nd: int) -> Callable[[Function], Function]:
    image, kernel = (9, 11, 6)[:nd], (3,) * nd
    return composite(
        f"conv_transpose{nd}d",
        inputs=("input", "weight", "bias"),
        attrs=TRANSPOSE_ATTRS,
        dtype=rules.floating,
        ref=_conv_transpose_ref,
        samples=_conv_transpose_samples(nd),
        rowwise=[sample((BATCH, 12, *image), (12, 10, *kernel), (10,), stride=2, output_padding=1)],
        errors=_conv_transpose_errors(nd),
    )


@_convolves(1)
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of signals with filters: as `conv2d`, over one dimension.

    Shapes:
        input: (N, C, L) or (C, L), weight: (K, C / groups, R), bias: (K,)  ->  out: (N, K, L')

    >>> tl.conv1d(tl.tensor([[[1.0, 2.0, 4.0]]]), tl.tensor([[[-1.0, 1.0]]])).tolist()
    [[[1.0, 2.0]]]
    """
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


@_convolves(2)
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of images with filters:
    ``out[n, k, o] = bias[k] + sum of input[n, c, o * stride + r * dilation - padding] * weight[k, c, r]`` over c and r.

    `padding` zeros stand on either side; "same" makes it as many as keep the size, one more behind where they are odd in number; "valid" is 0.
    With `groups`, the channels and the filters fall into that many groups, and a filter sees its own group.

    Shapes:
        input: (N, C, H, W) or (C, H, W), weight: (K, C / groups, R, S), bias: (K,)  ->  out: (N, K, H', W')

    Raises:
        ShapeError: if channels differ, or the kernel is larger than the padded input.
        ValueError: if `stride` or `dilation` is below 1, `padding` below 0, or `groups` does not divide the channels.

    >>> tl.conv2d(tl.ones(1, 1, 3, 3), tl.ones(1, 1, 3, 3), padding="same").tolist()
    [[[[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]]]
    """
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


@_convolves(3)
def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of volumes with filters: as `conv2d`, over three dimensions.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W), weight: (K, C / groups, Q, R, S), bias: (K,)  ->  out: (N, K, D', H', W')

    >>> tl.conv3d(tl.ones(2, 3, 8, 8, 8), tl.ones(4, 3, 3, 3, 3), stride=2, padding=1).shape
    (2, 4, 4, 4, 4)
    """
    return _conv("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


@_transposes(1)
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """The gradient of `conv1d` with respect to its input, as an operation: as `conv_transpose2d`, over one dimension.

    Shapes:
        input: (N, C, L) or (C, L), weight: (C, K / groups, R), bias: (K,)  ->  out: (N, K, L')

    >>> tl.conv_transpose1d(tl.tensor([[[1.0, 2.0]]]), tl.tensor([[[1.0, 1.0]]]), stride=2).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    """
    return _conv_transpose(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


@_transposes(2)
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """The gradient of `conv2d` with respect to its input, as an operation: each element of the input adds the filter, scaled, into the result.

    Shapes:
        input: (N, C, H, W) or (C, H, W), weight: (C, K / groups, R, S), bias: (K,)  ->  out: (N, K, H', W')
        a size n becomes (n - 1) * stride - 2 * padding + dilation * (r - 1) + output_padding + 1

    Raises:
        ShapeError: if channels differ, or nothing of the result is left.
        ValueError: if `output_padding` is not smaller than `stride` or `dilation`, or an argument is out of its range.

    >>> tl.conv_transpose2d(tl.ones(1, 4, 8, 8), tl.ones(4, 2, 3, 3), stride=2, padding=1, output_padding=1).shape
    (1, 2, 16, 16)
    """
    return _conv_transpose(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


@_transposes(3)
def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """The gradient of `conv3d` with respect to its input, as an operation: as `conv_transpose2d`, over three dimensions.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W), weight: (C, K / groups, Q, R, S), bias: (K,)  ->  out: (N, K, D', H', W')

    >>> tl.conv_transpose3d(tl.ones(1, 2, 3, 3, 3), tl.ones(2, 1, 2, 2, 2), stride=2).shape
    (1, 1, 6, 6, 6)
    """
    return _conv_transpose(
        "conv_transpose3d", 3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )
