"""Pooling under PyTorch's names: maximum and average over one, two and three dimensions.

Dimension letters: N images, C channels, D, H, W or L the image's lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tensorlib.errors import ShapeError
from tensorlib.ops import rules
from tensorlib.ops.declare import Function, composite
from tensorlib.ops.pool import (
    Sizes,
    adaptive_avg_pool,
    adaptive_max_pool,
    adaptive_taps,
    avg_pool,
    avg_ref,
    avg_taps,
    check_image,
    each,
    max_pool,
    max_ref,
    max_taps,
    positions,
    side_by_side,
)
from tensorlib.ops.table import Draw, error, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d",
]  # fmt: skip
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()

OutputSizes = int | None | Sequence[int | None]


# ---- arguments ----


def largest(
    name: str, n: int, input: Tensor, kernel_size: Sizes, stride: Any, padding: Sizes, dilation: Sizes, ceil_mode: bool, return_indices: bool
) -> Any:  # fmt: skip
    check_image(name, input, n)
    kernel = each(name, "kernel_size", kernel_size, n)
    given = {
        "kernel": kernel,
        "stride": kernel if stride is None else each(name, "stride", stride, n),
        "padding": each(name, "padding", padding, n),
        "dilation": each(name, "dilation", dilation, n),
        "ceil_mode": bool(ceil_mode),
    }
    out, where = max_pool(input, **given)
    if not return_indices:
        return out
    lengths = input.shape[-n:]
    return out, positions(where, lengths, max_taps(lengths, **given))


def average(
    name: str, n: int, input: Tensor, kernel_size: Sizes, stride: Any, padding: Sizes, ceil_mode: bool, count_include_pad: bool, divisor: int | None
) -> Any:  # fmt: skip
    check_image(name, input, n)
    if divisor == 0:
        raise ShapeError(f"{name}: divisor_override is 0.")
    kernel = each(name, "kernel_size", kernel_size, n)
    return avg_pool(
        input,
        kernel=kernel,
        stride=kernel if stride is None else each(name, "stride", stride, n),
        padding=each(name, "padding", padding, n),
        ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
        divisor=divisor or 0,
    )


def _output_size(name: str, input: Tensor, output_size: OutputSizes, n: int) -> tuple[int, ...]:
    """The asked size; None keeps the input's."""
    check_image(name, input, n)
    sizes = (output_size,) * n if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(sizes) == 1:
        sizes = sizes * n
    if len(sizes) != n or any(s is not None and s < 0 for s in sizes):
        raise ShapeError(f"{name}: output_size is {output_size}, expected one number or {n}, none negative.")
    return tuple(have if s is None else s for s, have in zip(sizes, input.shape[-n:], strict=True))


def _adaptive_avg(name: str, n: int, input: Tensor, output_size: OutputSizes) -> Any:
    sizes = _output_size(name, input, output_size, n)
    if 0 in sizes:
        return input.new_zeros((*input.shape[:-n], *sizes))
    if all(s == 1 for s in sizes):
        return input.mean(tuple(range(-n, 0)), keepdim=True)
    return adaptive_avg_pool(input, output_size=sizes)


def _adaptive_max(name: str, n: int, input: Tensor, output_size: OutputSizes, return_indices: bool) -> Any:
    sizes, lengths = _output_size(name, input, output_size, n), input.shape[-n:]
    if 0 in sizes:
        out = input.new_zeros((*input.shape[:-n], *sizes))
        return (out, out.long()) if return_indices else out
    out, where = adaptive_max_pool(input, output_size=sizes)
    if not return_indices:
        return out
    return out, positions(where, lengths, adaptive_taps("adaptive_max_pool", lengths, sizes))


def _public_samples(n: int, attribute: str, *values: int) -> list[Any]:
    """The entries' samples go into the depths; these show that a public function over n dimensions reaches them."""
    shapes = [(2, 2, *(5,) * n), (2, *(4,) * n), (0, 3, *(4,) * n)]
    return [sample(Draw(s, distinct=True), **{attribute: v}) for s in shapes for v in values]


def _errors(n: int, *, dilation: bool = False, divisor: bool = False) -> list[Any]:
    """What every function with windows refuses, over n dimensions."""
    image = (1, *(4,) * n)

    def refused(match: str, shape: tuple[int, ...] = image, kernel_size: Any = 2, **given: Any) -> Any:
        return error(shape, kernel_size=kernel_size, **given, raises=ValueError, match=match)

    found = [
        refused("a window covers 5 elements, more than the image's 4", kernel_size=5),
        refused("padding is 2, expected 0 to 1", kernel_size=3, padding=2),
        refused("padding is -1", padding=-1),
        refused("stride is 0, expected at least 1", stride=0),
        refused("kernel_size is 0, expected at least 1", kernel_size=0),
        refused(rf"kernel_size is .2, 2, 2, 2., expected one number or {n}", kernel_size=(2, 2, 2, 2)),
        refused(r"input has shape \(4,\)", shape=(4,)),
        refused("input has shape", shape=(2, 1, *(0,) * n)),
        refused("a window covers", kernel_size=2**62),
        error(image, kernel_size=2**30, padding=2**29, raises=MemoryError, match="windows of .* are too many"),
    ]
    if dilation:
        found += [
            refused("dilation is 0, expected at least 1", dilation=0),
            refused("a window has no element", shape=(1, *(1,) * n), padding=2, dilation=4),
        ]
    return found + [refused("divisor_override is 0", divisor_override=0)] * divisor


def _adaptive_errors(n: int) -> list[Any]:
    return [
        error((1, *(4,) * n), output_size=(2,) * 4, raises=ValueError, match=f"expected one number or {n}"),
        error((1, *(4,) * n), output_size=-1, raises=ValueError, match="output_size is -1"),
        error((1, *(4,) * n), output_size=2**31, raises=MemoryError, match="windows of .* are too many"),
        error((4,), output_size=2, raises=ValueError, match=r"input has shape \(4,\)"),
        error((2, 1, *(0,) * n), output_size=2, raises=ValueError, match="input has shape"),
    ]


def _max_pools(n: int) -> Callable[[Function], Function]:
    def ref(xp: Any, input: Any, *, kernel_size: int) -> Any:
        windows = side_by_side(kernel_size, n)
        return max_ref(xp, input, max_taps(input.shape[-n:], **windows, dilation=(1,) * n, ceil_mode=False))[0]

    return composite(
        f"max_pool{n}d",
        inputs=("input",),
        ref=ref,
        samples=lambda: _public_samples(n, "kernel_size", 2, 3),
        errors=lambda: _errors(n, dilation=True),
    )


def _avg_pools(n: int) -> Callable[[Function], Function]:
    def ref(xp: Any, input: Any, *, kernel_size: int) -> Any:
        windows = side_by_side(kernel_size, n)
        return avg_ref(xp, input, avg_taps(input.shape[-n:], **windows, ceil_mode=False, count_include_pad=True))

    return composite(
        f"avg_pool{n}d",
        inputs=("input",),
        dtype=rules.floating,
        ref=ref,
        samples=lambda: _public_samples(n, "kernel_size", 2, 3),
        errors=lambda: _errors(n, divisor=n > 1),
    )


def _adaptive_pools(name: str, n: int, ref: Any, **facts: Any) -> Callable[[Function], Function]:
    return composite(
        f"{name}{n}d",
        inputs=("input",),
        ref=lambda xp, input, *, output_size: ref(xp, input, adaptive_taps(name, input.shape[-n:], (output_size,) * n)),
        samples=lambda: _public_samples(n, "output_size", 1, 3),
        errors=lambda: _adaptive_errors(n),
        **facts,
    )


def _adaptive_avg_pools(n: int) -> Callable[[Function], Function]:
    return _adaptive_pools("adaptive_avg_pool", n, avg_ref, dtype=rules.floating)


def _adaptive_max_pools(n: int) -> Callable[[Function], Function]:
    return _adaptive_pools("adaptive_max_pool", n, lambda *given: max_ref(*given)[0])


@_max_pools(1)
def max_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window: as `max_pool2d`, over one dimension.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, L') or (C, L'); with `return_indices` besides, as out, the places

    >>> tl.max_pool1d(tl.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[3.0, 2.0]]
    """
    return largest("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@_max_pools(2)
def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of `kernel_size`, `stride` apart (default: side by side), NaN if there is one.

    `padding` on both sides never wins; `dilation` is the distance of neighbouring taps; `ceil_mode` keeps a last window that is not whole.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, H', W') or (C, H', W'); with `return_indices` besides, as out, int64, where in
        the flat (H, W) each lies: the first of equals, the last NaN

    >>> tl.max_pool2d(tl.arange(16.0).reshape(1, 4, 4), 2).tolist()
    [[[5.0, 7.0], [13.0, 15.0]]]
    """
    return largest("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@_max_pools(3)
def max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window: as `max_pool2d`, over three dimensions.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, D', H', W') or (C, D', H', W'); with `return_indices` besides, as out, the places

    >>> tl.max_pool3d(tl.arange(8.0).reshape(1, 2, 2, 2), 2).tolist()
    [[[[7.0]]]]
    """
    return largest("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@_avg_pools(1)
def avg_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The average of each window: as `avg_pool2d`, over one dimension.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, L') or (C, L')

    >>> tl.avg_pool1d(tl.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[2.0, 1.0]]
    """
    return average("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@_avg_pools(2)
def avg_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The average of each window of `kernel_size`, `stride` apart (default: side by side).

    `padding` on both sides is zero, and counts unless `count_include_pad` is False; `ceil_mode` keeps a last window that is not whole; where given,
    `divisor_override` divides every sum.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, H', W') or (C, H', W')

    >>> tl.avg_pool2d(tl.arange(16.0).reshape(1, 4, 4), 2).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """
    return average("avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@_avg_pools(3)
def avg_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The average of each window: as `avg_pool2d`, over three dimensions.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, D', H', W') or (C, D', H', W')

    >>> tl.avg_pool3d(tl.arange(8.0).reshape(1, 2, 2, 2), 2).tolist()
    [[[[3.5]]]]
    """
    return average("avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@_adaptive_avg_pools(1)
def adaptive_avg_pool1d(input: Tensor, output_size: OutputSizes) -> Any:
    """The average of each of `output_size` windows: as `adaptive_avg_pool2d`, over one dimension.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.adaptive_avg_pool1d(tl.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[2.0, 1.0]]
    """
    return _adaptive_avg("adaptive_avg_pool1d", 1, input, output_size)


@_adaptive_max_pools(1)
def adaptive_max_pool1d(input: Tensor, output_size: OutputSizes, return_indices: bool = False) -> Any:
    """The largest element of each of `output_size` windows: as `adaptive_max_pool2d`, over one dimension.

    Shapes:
        input: (N, C, L) or (C, L)  ->  out: (N, C, *output_size) or (C, *output_size); with `return_indices` besides, as out, the places

    >>> tl.adaptive_max_pool1d(tl.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[3.0, 2.0]]
    """
    return _adaptive_max("adaptive_max_pool1d", 1, input, output_size, return_indices)


@_adaptive_avg_pools(2)
def adaptive_avg_pool2d(input: Tensor, output_size: OutputSizes) -> Any:
    """The average of each of `output_size` windows that share out the image evenly; None in it keeps a dimension's size.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.adaptive_avg_pool2d(tl.arange(16.0).reshape(1, 4, 4), (1, 2)).tolist()
    [[[6.5, 8.5]]]
    """
    return _adaptive_avg("adaptive_avg_pool2d", 2, input, output_size)


@_adaptive_max_pools(2)
def adaptive_max_pool2d(input: Tensor, output_size: OutputSizes, return_indices: bool = False) -> Any:
    """The largest element of each of `output_size` windows that share out the image evenly; None in it keeps a dimension's size.

    Shapes:
        input: (N, C, H, W) or (C, H, W)  ->  out: (N, C, *output_size) or (C, *output_size); with `return_indices` besides,
        as out, int64, where in the flat image each lies

    >>> tl.adaptive_max_pool2d(tl.arange(16.0).reshape(1, 4, 4), (1, 2)).tolist()
    [[[13.0, 15.0]]]
    """
    return _adaptive_max("adaptive_max_pool2d", 2, input, output_size, return_indices)


@_adaptive_avg_pools(3)
def adaptive_avg_pool3d(input: Tensor, output_size: OutputSizes) -> Any:
    """The average of each of `output_size` windows: as `adaptive_avg_pool2d`, over three dimensions.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, *output_size) or (C, *output_size)

    >>> tl.adaptive_avg_pool3d(tl.arange(8.0).reshape(1, 2, 2, 2), 1).tolist()
    [[[[3.5]]]]
    """
    return _adaptive_avg("adaptive_avg_pool3d", 3, input, output_size)


@_adaptive_max_pools(3)
def adaptive_max_pool3d(input: Tensor, output_size: OutputSizes, return_indices: bool = False) -> Any:
    """The largest element of each of `output_size` windows: as `adaptive_max_pool2d`, over three dimensions.

    Shapes:
        input: (N, C, D, H, W) or (C, D, H, W)  ->  out: (N, C, *output_size) or (C, *output_size); with `return_indices` besides, as out, the places

    >>> tl.adaptive_max_pool3d(tl.arange(8.0).reshape(1, 2, 2, 2), 1).tolist()
    [[[[7.0]]]]
    """
    return _adaptive_max("adaptive_max_pool3d", 3, input, output_size, return_indices)
