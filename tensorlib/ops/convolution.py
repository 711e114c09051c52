"""Convolutions, and what is made of them.

Three operations close over their gradients: `convolution` (x, weight), `conv_grad_input` (y, weight) and `conv_grad_weight` (y, x), where y has the
shape of a convolution's result. Each is linear in either operand, and its gradients are the other two. A transposed convolution is
`conv_grad_input` under another name.

Dimension letters: N images, C channels, K filters, G groups; spatial sizes L, H and W, of the kernel R. Geometry is a tuple per dimension:
`stride`, `padding` as (front, back), `dilation`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.declare import structured
from tensorlib.ops.table import BATCH, sample

if TYPE_CHECKING:
    from tensorlib.ops.table import Sample

__all__: list[str] = []
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()

Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]
LIMIT = 1 << 21  # strides, paddings and dilations are below (TL_CONV_BITS in native/kernels.h)


# ---- references: a sum over the taps of the kernel ----


def padded_sizes(size: Sequence[int], padding: Pairs) -> list[int]:
    return [n + front + back for n, (front, back) in zip(size, padding, strict=True)]


def out_sizes(size: Sequence[int], kernel: Sequence[int], stride: Ints, padding: Pairs, dilation: Ints) -> Ints:
    room = zip(padded_sizes(size, padding), kernel, stride, dilation, strict=True)
    return tuple((n - d * (r - 1) - 1) // s + 1 for n, r, s, d in room)


def _taps(kernel: Ints, out: Ints, stride: Ints, dilation: Ints) -> Iterator[tuple[Any, Any]]:
    """For each position in the kernel two indices: its own in the weights, and that of what it meets in the padded image."""
    for tap in itertools.product(*map(range, kernel)):
        first = [r * d for r, d in zip(tap, dilation, strict=True)]
        met = (slice(f, f + s * (o - 1) + 1, s) for f, s, o in zip(first, stride, out, strict=True))
        yield (Ellipsis, *tap), (Ellipsis, *met)


def _padded(xp: Any, x: Any, padding: Pairs) -> Any:
    return xp.pad(x, ((0, 0), (0, 0), *padding))


def _grouped(xp: Any, x: Any, groups: int) -> Any:
    """(N, C, ...) as (N, G, C / G, all the rest)."""
    return x.reshape((x.shape[0], groups, x.shape[1] // groups, math.prod(x.shape[2:])))


def convolution_ref(
    xp: Any, x: Any, weight: Any, bias: Any, *, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Any:
    kernel = weight.shape[2:]
    size = out_sizes(x.shape[2:], kernel, stride, padding, dilation)
    out = xp.zeros((x.shape[0], groups, weight.shape[0] // groups, math.prod(size)), xp.result_type(x, weight))
    image, filters = _padded(xp, x, padding), weight.reshape((groups, weight.shape[0] // groups, *weight.shape[1:]))
    for tap, met in _taps(kernel, size, stride, dilation):
        out += xp.matmul(filters[tap], _grouped(xp, image[met], groups))
    out = out.reshape((x.shape[0], weight.shape[0], *size))
    return out if bias is None else out + bias.reshape((-1,) + (1,) * len(size))


def grad_input_ref(
    xp: Any, y: Any, weight: Any, *, size: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Any:
    channels, out = weight.shape[1] * groups, y.shape[2:]
    image = xp.zeros((y.shape[0], channels, *padded_sizes(size, padding)), xp.result_type(y, weight))
    filters = weight.reshape((groups, weight.shape[0] // groups, *weight.shape[1:])).swapaxes(1, 2)
    for tap, met in _taps(weight.shape[2:], out, stride, dilation):
        part = xp.matmul(filters[tap], _grouped(xp, y, groups))
        image[met] += part.reshape((y.shape[0], channels, *out))
    inner = (slice(f, f + n) for n, (f, _) in zip(size, padding, strict=True))
    return image[(slice(None),) * 2 + tuple(inner)].copy()


def grad_weight_ref(
    xp: Any, y: Any, x: Any, *, size: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Any:
    filters, channels = y.shape[1], x.shape[1] // groups
    gw = xp.zeros((groups, filters // groups, channels, *size), xp.result_type(y, x))
    image = _padded(xp, x, padding)
    for tap, met in _taps(size, y.shape[2:], stride, dilation):
        seen = _grouped(xp, image[met], groups).swapaxes(2, 3)
        gw[tap] = xp.matmul(_grouped(xp, y, groups), seen).sum(axis=0)
    return gw.reshape((filters, channels, *size))


# ---- the three entries ----


def _geometry(stride: Ints, padding: Pairs, dilation: Ints, groups: int) -> list[int]:
    """As native/convolution.c reads it."""
    flat: list[int] = []
    for s, (front, back), d in zip(stride, padding, dilation, strict=True):
        flat += (s, front, back, d)
    flat.append(groups)
    return flat


def _unfolded(node: int, i: int, nd: int) -> Ints:
    word = int(lib.tl_node_int(node, i))
    return tuple(word >> 21 * d & LIMIT - 1 for d in range(nd))


def _decode(node: int) -> dict[str, Any]:
    """What the rules below read; `size` follows from the operands' shapes."""
    dilation = _unfolded(node, 3, 3)
    nd = sum(d > 0 for d in dilation)
    stride, front, back = (_unfolded(node, i, nd) for i in range(3))
    return {
        "stride": stride,
        "padding": tuple(zip(front, back, strict=True)),
        "dilation": dilation[:nd],
        "groups": int(lib.tl_node_int(node, 4)),
    }


ATTRS = ("stride", "padding", "dilation", "groups")


def _case(x: Ints, w: Ints, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> dict[str, Any]:
    """Operands' shapes and the attributes; a number stands for all dimensions."""
    nd = len(x) - 2

    def each(v: Any) -> tuple[Any, ...]:
        return v if isinstance(v, tuple) else (v,) * nd

    sides = tuple(p if isinstance(p, tuple) else (p, p) for p in each(padding))
    attrs = {"stride": each(stride), "padding": sides, "dilation": each(dilation), "groups": groups}
    return {"x": x, "w": w, "attrs": attrs}


def _samples() -> list[dict[str, Any]]:
    """Geometries that visit every branch."""
    return [
        _case((2, 3, 7), (4, 3, 3)),
        _case((1, 2, 33), (3, 2, 5), stride=2, padding=2),
        _case((2, 1, 9), (2, 1, 2), stride=3, padding=((1, 2),), dilation=2),
        _case((2, 3, 5, 6), (4, 3, 3, 3), padding=1),
        _case((1, 2, 6, 5), (2, 2, 1, 1)),
        _case((2, 4, 5, 5), (6, 2, 3, 2), stride=(2, 1), padding=((1, 0), (0, 1)), groups=2),
        _case((1, 4, 6, 6), (4, 1, 3, 3), padding=1, groups=4),
        _case((1, 2, 9, 8), (3, 2, 3, 3), padding=2, dilation=(2, 3)),
        _case((1, 3, 4, 4), (2, 3, 2, 2), stride=3),
        _case((2, 2, 3, 3), (3, 2, 1, 1), stride=2),
        _case((1, 2, 3, 4, 5), (2, 2, 2, 3, 2), stride=(1, 2, 1), padding=(1, 0, 1)),
        _case((0, 2, 5, 5), (3, 2, 3, 3)),
        _case((1, 0, 5, 5), (3, 0, 3, 3)),
        _case((1, 17, 6, 19), (33, 17, 3, 2), padding=1),
        _case((2, 12, 7, 9), (10, 6, 2, 3), stride=(2, 1), padding=1, groups=2),
        _case((2, 6, 5), (5, 6, 1)),
        _case((1, 8, 970), (9, 8, 3), padding=1),
        _case((2, 16, 9, 11), (10, 8, 3, 3), stride=2, padding=1, groups=2),
        _case((1, 8, 13, 14), (8, 8, 2, 5), stride=(3, 4), padding=2),
        _case((1, 8, 3, 12, 9), (9, 8, 2, 3, 3), stride=(1, 1, 3), padding=(1, 3, 2), dilation=(1, 3, 1)),
    ]


def _rowwise_samples() -> list[dict[str, Any]]:
    """Images of every path, several times what a thread takes at once."""
    return [
        _case((BATCH, 24, 30, 30), (40, 24, 1, 1)),  # products: of one size,
        _case((BATCH, 32, 32, 32), (48, 32, 1, 1), stride=2),  # with gaps,
        _case((BATCH, 20, 33, 31), (36, 20, 3, 3), stride=2, padding=1),
        _case((BATCH, 24, 24, 24), (24, 24, 3, 3), padding=2, dilation=2),
        _case((BATCH, 64, 20, 20), (64, 16, 5, 5), padding=2, groups=4),
        _case((BATCH, 200, 5, 5), (150, 200, 2, 2)),
        _case((BATCH, 32, 900), (24, 32, 5), padding=2),
        _case((BATCH, 12, 9, 10, 11), (20, 12, 3, 3, 3), padding=1),
        _case((BATCH, 16, 8, 8), (16, 16, 3, 3), padding=1),  # Winograd: whole tiles,
        _case((BATCH, 40, 7, 7), (64, 40, 3, 3), padding=1),  # images that share a block,
        _case((BATCH, 16, 40, 40), (30, 16, 3, 3), padding=1),
        _case((BATCH, 39, 8, 11), (48, 13, 3, 3), padding=1, groups=3),
        _case((BATCH, 16, 8, 3), (16, 16, 3, 3), padding=1),
        _case((BATCH, 64, 41, 14), (24, 64, 3, 3)),
        _case((BATCH, 16, 9, 150), (16, 16, 3, 3), padding=1),
        _case((BATCH, 150, 7, 8), (140, 150, 3, 3), padding=1),
        _case((BATCH, 80, 8, 8), (80, 80, 3, 3), padding=1),
        _case((BATCH, 16, 3, 7, 9), (16, 16, 1, 3, 3), padding=(0, 1, 2)),
        _case((BATCH, 96, 14, 14), (96, 1, 3, 3), padding=1, groups=96),  # straight from the image: depthwise,
        _case((BATCH, 3, 64, 64), (16, 3, 7, 7), stride=2, padding=3),  # a first layer,
        _case((BATCH, 6, 14, 14), (16, 6, 5, 5)),
        _case((BATCH, 12, 30, 30), (2, 12, 3, 3), padding=1),  # few results
        _case((BATCH, 1, 700), (4, 1, 9), stride=3, padding=4),
    ]


def _out_shape(c: dict[str, Any]) -> Ints:
    a = c["attrs"]
    sizes = out_sizes(c["x"][2:], c["w"][2:], a["stride"], a["padding"], a["dilation"])
    return (c["x"][0], c["w"][0], *sizes)


def _convolution_samples() -> list[Sample]:
    return [sample(c["x"], c["w"], (c["w"][0],) if i % 2 else None, **c["attrs"]) for i, c in enumerate(_samples())]


convolution = structured(
    "convolution",
    autocast="lower",
    inputs=("x", "weight", "bias"),
    attrs=ATTRS,
    dtype=rules.floating,
    ref=convolution_ref,
    vjp=(
        lambda g, weight, x_shape, stride, padding, dilation, groups: conv_grad_input(
            g, weight, size=x_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        lambda g, x, weight_shape, stride, padding, dilation, groups: conv_grad_weight(
            g, x, size=weight_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        lambda g: g.sum((0, *range(2, g.ndim))),
    ),
    native=lambda line, x, weight, bias, stride, padding, dilation, groups: lib.tl_convolution(
        x._array,
        weight._array,
        0 if bias is None else bias._array,
        _geometry(stride, padding, dilation, groups),
        line,
    ),
    decode=_decode,
    samples=_convolution_samples,
    rowwise=lambda: [sample(c["x"], c["w"], (c["w"][0],), **c["attrs"]) for c in _rowwise_samples()],
    private=True,
)

conv_grad_input = structured(
    "conv_grad_input",
    inputs=("y", "weight"),
    attrs=("size", *ATTRS),
    dtype=rules.floating,
    ref=grad_input_ref,
    vjp=(
        lambda g, weight, stride, padding, dilation, groups: convolution(
            g, weight, None, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        lambda g, y, weight_shape, stride, padding, dilation, groups: conv_grad_weight(
            y, g, size=weight_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    ),
    native=lambda line, y, weight, size, stride, padding, dilation, groups: lib.tl_conv_grad_input(
        y._array, weight._array, size, _geometry(stride, padding, dilation, groups), line
    ),
    decode=_decode,
    samples=lambda: [sample(_out_shape(c), c["w"], size=c["x"][2:], **c["attrs"]) for c in _samples()],
    rowwise=lambda: [sample(_out_shape(c), c["w"], size=c["x"][2:], **c["attrs"]) for c in _rowwise_samples()],
    private=True,
)

conv_grad_weight = structured(
    "conv_grad_weight",
    inputs=("y", "x"),
    attrs=("size", *ATTRS),
    dtype=rules.floating,
    ref=grad_weight_ref,
    vjp=(
        lambda g, x, stride, padding, dilation, groups: convolution(
            x, g, None, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        lambda g, y, x_shape, stride, padding, dilation, groups: conv_grad_input(
            y, g, size=x_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    ),
    native=lambda line, y, x, size, stride, padding, dilation, groups: lib.tl_conv_grad_weight(
        y._array, x._array, size, _geometry(stride, padding, dilation, groups), line
    ),
    decode=_decode,
    samples=lambda: [sample(_out_shape(c), c["x"], size=c["w"][2:], **c["attrs"]) for c in _samples()],
    private=True,
)
