"""Convolution beyond the table's samples: random geometries, large enough for every path, against the definition in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tensorlib as tl
from tensorlib.ops.convolution import convolution_ref, grad_input_ref, grad_weight_ref, out_sizes

F = tl.nn.functional


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """Shapes and attributes of a convolution that has results."""
    nd = draw(st.integers(1, 3))
    most = (80, 24, 9)[nd - 1]
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(nd))

    kernel, dilation, sides = each(1, 4), each(1, 2), tuple(zip(each(0, 3), each(0, 3), strict=True))
    spans = [d * (r - 1) + 1 - sum(p) for d, r, p in zip(dilation, kernel, sides, strict=True)]
    size = tuple(draw(st.integers(max(1, span), max(1, span) + most)) for span in spans)
    channels, filters = (groups * draw(st.sampled_from([1, 2, 5, 8, 13, 16, 33])) for _ in range(2))
    attrs = {"stride": each(1, 3), "padding": sides, "dilation": dilation, "groups": groups}
    return {
        "x": (draw(st.integers(1, 3)), channels, *size),
        "weight": (filters, channels // groups, *kernel),
        "attrs": attrs,
        "seed": draw(st.integers(0, 1000)),
    }


def operands(case: dict[str, Any]) -> list[np.ndarray]:
    """x, weight, bias, and the gradient of the result."""
    rng, (x, weight) = np.random.default_rng(case["seed"]), (case["x"], case["weight"])
    a = case["attrs"]
    sizes = out_sizes(x[2:], weight[2:], a["stride"], a["padding"], a["dilation"])
    return [rng.standard_normal(s).astype(np.float32) for s in (x, weight, weight[:1], (x[0], weight[0], *sizes))]


@settings(max_examples=120, deadline=None)
@given(geometries())
def test_random_geometries(case: dict[str, Any]) -> None:
    attrs, (x, weight, bias, g) = case["attrs"], operands(case)
    wide = [a.astype(np.float64) for a in (x, weight, bias, g)]
    want = [
        convolution_ref(np, *wide[:3], **attrs),
        grad_input_ref(np, wide[3], wide[1], size=x.shape[2:], **attrs),
        grad_weight_ref(np, wide[3], wide[0], size=weight.shape[2:], **attrs),
        wide[3].sum(axis=(0, *range(2, g.ndim))),
    ]
    for dtype, tolerance in ((tl.float32, 1e-5), (tl.float64, 1e-13)):
        for got, expected in zip(forward_and_backward(case, dtype), want, strict=True):
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=tolerance * scale)


def forward_and_backward(case: dict[str, Any], dtype: tl.DType = tl.float32) -> list[tl.Tensor]:
    """The result and the gradients of x, weight and bias."""
    from tensorlib.ops.convolution import convolution

    *inputs, g = operands(case)
    leaves = [tl.tensor(a, dtype=dtype).requires_grad_() for a in inputs]
    out = convolution(*leaves, **case["attrs"])
    return [out.detach(), *tl.autograd.grad(out, leaves, tl.tensor(g, dtype=dtype))]


def plain(
    x: tuple[int, ...], weight: tuple[int, ...], stride: int = 1, pad: int = 0, dilation: int = 1, groups: int = 1
) -> dict[str, Any]:
    nd = len(x) - 2
    attrs = {"stride": (stride,) * nd, "padding": ((pad, pad),) * nd, "dilation": (dilation,) * nd, "groups": groups}
    return {"x": x, "weight": weight, "attrs": attrs, "seed": 0}


LARGE = {  # work for several threads, by every path and cut
    "1x1": plain((3, 24, 30, 30), (40, 24, 1, 1)),
    "3x3, small images": plain((5, 40, 7, 7), (64, 40, 3, 3), pad=1),
    "3x3, large images": plain((2, 16, 40, 40), (30, 16, 3, 3), pad=1),
    "strided": plain((3, 20, 33, 31), (36, 20, 3, 3), stride=2, pad=1),
    "gaps between strides": plain((2, 32, 32, 32), (48, 32, 1, 1), stride=2),
    "dilated": plain((2, 24, 24, 24), (24, 24, 3, 3), pad=2, dilation=2),
    "grouped": plain((2, 64, 20, 20), (64, 16, 3, 3), pad=1, groups=4),
    "depthwise": plain((2, 96, 28, 28), (96, 1, 3, 3), pad=1, groups=96),
    "first layer": plain((2, 3, 64, 64), (16, 3, 7, 7), stride=2, pad=3),
    "1d": plain((3, 32, 900), (24, 32, 5), pad=2),
    "3d": plain((2, 12, 9, 10, 11), (20, 12, 3, 3, 3), pad=1),
}


@pytest.mark.parametrize("name", LARGE)
def test_extra_memory_is_bounded(name: str) -> None:
    """No buffer of the size of unfolded images: packing panels, and a few times the weights."""
    tl.set_num_threads(1)
    case = LARGE[name]
    arrays = [a.nbytes for a in operands(case)]
    forward_and_backward(case)
    tl.memory.reset_peak()
    before = tl.memory.allocated()
    forward_and_backward(case)
    kept = 2 * sum(arrays)  # operands, results and gradients
    extra = tl.memory.peak() - before - kept
    assert extra <= 8 * arrays[1] + (6 << 20), f"{extra / 2**20:.1f} MiB"


def test_empty_batch() -> None:
    x, weight = tl.zeros(0, 3, 8, 8, requires_grad=True), tl.ones(4, 3, 3, 3, requires_grad=True)
    out = F.conv2d(x, weight, stride=2)
    assert out.shape == (0, 4, 3, 3)
    out.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert weight.grad is not None and not weight.grad.any()


def test_third_derivative() -> None:
    """The three operations close over their gradients."""
    x, weight = (tl.randn(*s, dtype=tl.float64, requires_grad=True) for s in ((2, 3, 5, 4), (4, 3, 2, 3)))

    def first(x: tl.Tensor, weight: tl.Tensor) -> tl.Tensor:
        out = F.conv2d(x, weight, stride=(2, 1), padding=1).square().sum()
        return sum(g.square().sum() for g in tl.autograd.grad(out, (x, weight), create_graph=True))

    assert tl.autograd.gradgradcheck(first, (x, weight), atol=1e-3, rtol=1e-4)
