"""The two paths that convolve from a padded copy: every way the copy, its phases and its blocks can be cut, beside a definition in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

Array = np.ndarray[Any, Any]
# channels, results, groups: depthwise, with a multiple, few channels, few results, and both around a block of four; many of both: sliding
CHANNELS = [
    (1, 1, 1),
    (5, 5, 5),
    (3, 6, 3),
    (3, 9, 1),
    (4, 5, 1),
    (9, 3, 1),
    (8, 6, 2),
    (2, 17, 1),
    (9, 8, 1),
    (20, 38, 2),
]
# size, kernel, stride, padding, dilation of one dimension; sizes around a vector and around a few
LINES = [
    (1, 1, 1, 0, 1), (7, 3, 1, 1, 1), (16, 3, 1, 1, 1), (17, 5, 1, 2, 1), (33, 3, 1, 0, 2), (67, 3, 1, 3, 3), (130, 3, 1, 1, 1), (28, 7, 2, 3, 1),
    (31, 3, 2, 1, 1), (65, 2, 2, 0, 1), (40, 3, 3, 4, 2), (9, 1, 2, 0, 1), (12, 2, 4, 0, 1), (5, 5, 1, 4, 1), (19, 2, 3, 1, 4),
]  # fmt: skip


def definition(
    x: Array, w: Array, stride: int, padding: int, dilation: int, groups: int
) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """The convolution along the last dimension and, for its gradient, those of x and w; images (n, c, rows, width), kernels one row high."""
    n, _, rows, width = x.shape
    k, cs, _, taps = w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (padding, padding)))
    size = (padded.shape[-1] - dilation * (taps - 1) - 1) // stride + 1
    at = [slice(r * dilation, r * dilation + (size - 1) * stride + 1, stride) for r in range(taps)]
    parts = [(g, slice(g * cs, (g + 1) * cs), slice(g * (k // groups), (g + 1) * (k // groups))) for g in range(groups)]
    out = np.zeros((n, k, rows, size))
    for (_, cg, kg), r in itertools.product(parts, range(taps)):
        out[:, kg] += np.einsum("nchw,kc->nkhw", padded[:, cg, :, at[r]], w[kg, :, 0, r])

    def gradients(g: Array) -> tuple[Array, Array]:
        gx, gw = np.zeros_like(padded), np.zeros_like(w)
        for (_, cg, kg), r in itertools.product(parts, range(taps)):
            gx[:, cg, :, at[r]] += np.einsum("nkhw,kc->nchw", g[:, kg], w[kg, :, 0, r])
            gw[kg, :, 0, r] += np.einsum("nkhw,nchw->kc", g[:, kg], padded[:, cg, :, at[r]])
        return gx[..., padding : padding + width], gw

    return out, gradients


def run(x: Array, w: Array, g: Array, **kw: Any) -> list[Array]:
    tx, tw = tl.tensor(x, requires_grad=True), tl.tensor(w, requires_grad=True)
    out = tl.conv2d(tx, tw, **kw)
    out.backward(tl.tensor(g))
    assert tx.grad is not None and tw.grad is not None
    return [out.detach().numpy(), tx.grad.numpy(), tw.grad.numpy()]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_against_the_definition(channels: tuple[int, int, int], dtype: str, rng: np.random.Generator) -> None:
    """Along the rows, and, turned by a quarter, along the columns."""
    c, k, groups = channels
    tolerance = {"rtol": 0, "atol": 1e-11 if dtype == "float64" else 3e-4}
    for width, taps, stride, padding, dilation in LINES:
        x, w = (
            rng.standard_normal((3, c, 5, width)).astype(dtype),
            rng.standard_normal((k, c // groups, 1, taps)).astype(dtype),
        )
        out, gradients = definition(x.astype(float), w.astype(float), stride, padding, dilation, groups)
        g = rng.standard_normal(out.shape).astype(dtype)
        want = [out, *gradients(g.astype(float))]
        kw = {"stride": (1, stride), "padding": (0, padding), "dilation": (1, dilation), "groups": groups}
        turned = {name: value[::-1] if isinstance(value, tuple) else value for name, value in kw.items()}
        for got, expected in zip(run(x, w, g, **kw), want, strict=True):
            np.testing.assert_allclose(got, expected, **tolerance)
        for got, expected in zip(
            run(*(np.ascontiguousarray(a.swapaxes(2, 3)) for a in (x, w, g)), **turned), want, strict=True
        ):
            np.testing.assert_allclose(got.swapaxes(2, 3), expected, **tolerance)


def test_what_lies_beside_a_row_stays_out() -> None:
    """An infinity in one row reaches the results that read it, no others."""
    x = np.ones((1, 2, 6, 19), np.float32)
    x[0, 0, 3, :] = np.inf
    w, g = np.ones((2, 1, 1, 3), np.float32), np.ones((1, 2, 6, 17), np.float32)
    g[0, 0, 3, :] = 0
    out, _, gw = run(x, w, g, groups=2)
    assert np.isinf(out[0, 0, 3]).all()
    assert np.isfinite(np.delete(out[0, 0], 3, axis=0)).all()
    assert np.isfinite(out[0, 1]).all() and np.isfinite(gw[1]).all()
