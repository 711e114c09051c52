"""Pooling: what the table's walk does not reach: indices, layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn
from tests.cases import same_bits

if TYPE_CHECKING:
    import numpy as np


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
