"""Pooling: what the table's walk does not reach: rows of a batch, indices, layers."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn
from tests.cases import same_bits

LAYERS = {
    "max 2x2": (nn.MaxPool2d(2), (7, 3, 29, 35)),
    "max 3x3": (nn.MaxPool2d(3, 2, padding=1), (7, 3, 29, 35)),
    "max 1d": (nn.MaxPool1d(5, 3), (7, 2, 700)),
    "max 3d": (nn.MaxPool3d(2), (5, 2, 6, 7, 9)),
    "average": (nn.AvgPool2d(3, 2, padding=1), (7, 3, 29, 35)),
    "adaptive average": (nn.AdaptiveAvgPool2d((3, 4)), (7, 3, 29, 35)),
    "global average": (nn.AdaptiveAvgPool2d(1), (7, 3, 29, 35)),
    "adaptive maximum": (nn.AdaptiveMaxPool2d((3, 4)), (7, 3, 29, 35)),
    "power": (nn.LPPool2d(2, 3), (7, 3, 29, 35)),
}


def with_gradient(layer: nn.Module, x: tl.Tensor) -> tuple[tl.Tensor, tl.Tensor]:
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * out).sum().backward()
    assert x.grad is not None
    return out, x.grad


@pytest.mark.parametrize("name", LAYERS)
def test_an_image_alone_has_the_bits_of_its_batch(name: str, rng: np.random.Generator) -> None:
    layer, shape = LAYERS[name]
    x = tl.tensor(rng.standard_normal(shape).astype(np.float32))
    whole = with_gradient(layer, x)
    for rows in (slice(0, 1), slice(3, 5)):
        assert all(same_bits(a, b[rows]) for a, b in zip(with_gradient(layer, x[rows]), whole, strict=True))
    alone = with_gradient(layer, x[2])
    assert all(same_bits(a, b[2]) for a, b in zip(alone, whole, strict=True))


@pytest.mark.parametrize("kernel", [2, (3, 2), 20])
def test_indices_lead_to_the_maxima(kernel: int | tuple[int, int], rng: np.random.Generator) -> None:
    x = tl.tensor(rng.standard_normal((2, 3, 40, 41)))
    out, indices = F.max_pool2d(x, kernel, return_indices=True)
    assert indices.dtype is tl.int64
    assert same_bits(x.flatten(2).gather(2, indices.flatten(2)).reshape(out.shape), out)


def test_sizes() -> None:
    x = tl.zeros(0, 3, 8, 8)
    assert F.max_pool2d(x, 2).shape == (0, 3, 4, 4) and F.avg_pool2d(x, 3, 2, 1).shape == (0, 3, 4, 4)
    assert F.adaptive_avg_pool2d(x, 1).shape == (0, 3, 1, 1)
    assert F.adaptive_avg_pool2d(tl.zeros(2, 3, 8, 8), 0).shape == (2, 3, 0, 0)
    assert F.adaptive_avg_pool2d(tl.zeros(2, 3, 8, 6), (None, 2)).shape == (2, 3, 8, 2)
    assert F.max_pool2d(tl.zeros(3, 8, 8), (2, 4), stride=(2, 1)).shape == (3, 4, 5)


def test_a_power_average_of_nothing_has_no_slope() -> None:
    x = tl.zeros(1, 1, 4, requires_grad=True)
    F.lp_pool1d(x, 2, 2).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[[0.0] * 4]]


def test_layers() -> None:
    layer = nn.MaxPool2d(3)
    assert layer.stride == 3 and not list(layer.parameters()) and not layer.state_dict()
    assert repr(layer) == "MaxPool2d(kernel_size=3, stride=3, padding=0, dilation=1, ceil_mode=False)"
    out, indices = nn.MaxPool1d(2, return_indices=True)(tl.tensor([[1.0, 2.0, 4.0, 3.0]]))
    assert out.tolist() == [[2.0, 4.0]] and indices.tolist() == [[1, 2]]
    assert nn.MaxUnpool1d(2)(out, indices).tolist() == [[0.0, 2.0, 4.0, 0.0]]
