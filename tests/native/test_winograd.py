"""Winograd's convolution: how far it is off at the edges of tiles, vectors and blocks.

The oracle is the float64 convolution, which is summed directly. Errors are counted in units of the root mean square of a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import tensorlib as tl

RMS, LARGEST = 1.5e-6, 1.5e-5  # of a direct sum in float32: about 4e-7 and 4e-6


@dataclass(frozen=True)
class Shape:
    x: tuple[int, ...]
    k: int
    padding: int | tuple[int, ...] = 1
    groups: int = 1

    def operands(self, rng: np.random.Generator) -> list[np.ndarray]:
        """x, weight, bias."""
        kernel = (3, 3) if len(self.x) == 4 else (1, 3, 3)
        shapes = (self.x, (self.k, self.x[1] // self.groups, *kernel), (self.k,))
        return [rng.standard_normal(s).astype(np.float32) for s in shapes]

    def run(self, x: np.ndarray, w: np.ndarray, b: np.ndarray, g: np.ndarray | None = None) -> list[np.ndarray]:
        """out, and where g is given the gradients of x and w."""
        conv = tl.conv2d if x.ndim == 4 else tl.conv3d
        tx, tw = (tl.tensor(a, requires_grad=True) for a in (x, w))
        out = conv(tx, tw, tl.tensor(b), padding=self.padding, groups=self.groups)
        if g is None:
            return [out.detach().numpy()]
        return [t.detach().numpy() for t in (out, *tl.autograd.grad(out, [tx, tw], tl.tensor(g)))]


SHAPES = {
    "whole tiles": Shape((2, 16, 8, 8), 16),
    "channels beside vectors": Shape((2, 12, 7, 9), 20, (0, 2)),
    "one channel more": Shape((3, 33, 13, 6), 17, (2, 0)),
    "one channel less": Shape((2, 31, 9, 10), 15, 2),
    "narrow": Shape((5, 16, 8, 3), 16),
    "images share a block": Shape((9, 16, 7, 7), 40),
    "blocks of rows": Shape((2, 64, 41, 14), 24, 0),
    "blocks of columns": Shape((1, 16, 9, 150), 16),
    "sums over several blocks of channels": Shape((2, 150, 7, 8), 140),
    "one block, every panel its own kernels": Shape((2, 80, 8, 8), 80),
    "groups": Shape((2, 39, 8, 11), 48, 1, 3),
    "slices": Shape((2, 16, 3, 7, 9), 16, (0, 1, 2)),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


def test_against_float64(shape: Shape, isa: str, rng: np.random.Generator) -> None:
    x, w, b = shape.operands(rng)
    g = rng.standard_normal(shape.run(x, w, b)[0].shape).astype(np.float32)
    exact = shape.run(*(a.astype(np.float64) for a in (x, w, b, g)))
    for got, want in zip(shape.run(x, w, b, g), exact, strict=True):
        error = np.abs(got - want) / np.sqrt(np.mean(want**2))
        assert np.sqrt(np.mean(error**2)) < RMS and error.max() < LARGEST


def test_transposed(isa: str, rng: np.random.Generator) -> None:
    x, w, b = Shape((2, 20, 8, 9), 20, 0).operands(rng)
    got, exact = (
        tl.conv_transpose2d(*map(tl.tensor, a), padding=1).numpy() for a in ((x, w, b), map(np.float64, (x, w, b)))
    )
    assert np.abs(got - exact).max() < LARGEST * np.sqrt(np.mean(exact**2))


def test_small_integers_come_out_right(isa: str) -> None:
    """A constant image and kernel: every result is a count, known without another convolution."""
    out = tl.conv2d(tl.ones(1, 16, 10, 10), tl.ones(16, 16, 3, 3), padding=1).numpy()
    rows = np.array([2.0] + [3.0] * 8 + [2.0])
    np.testing.assert_allclose(out[0], np.broadcast_to(16 * np.outer(rows, rows), (16, 10, 10)), rtol=3e-6)
