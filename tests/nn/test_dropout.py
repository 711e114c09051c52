"""Dropout layers: shares, what shares a mask, scales, and the identity in evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn

CHANNELS = {
    "1d": (nn.Dropout1d, (60, 50, 4)),
    "1d, no batch": (nn.Dropout1d, (3000, 4)),
    "2d": (nn.Dropout2d, (60, 50, 2, 3)),
    "2d, of sequences": (nn.Dropout2d, (60, 50, 4)),
    "3d": (nn.Dropout3d, (60, 50, 2, 1, 2)),
    "3d, no batch": (nn.Dropout3d, (3000, 2, 1, 2)),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_share_a_mask(name: str) -> None:
    make, shape = CHANNELS[name]
    tl.manual_seed(0)
    layer, x = make(0.25), tl.ones(shape, requires_grad=True)
    out = layer(x)
    rows = out.detach().reshape(3000, out.numel() // 3000).numpy()
    assert (rows == rows[:, :1]).all() and set(np.unique(rows).tolist()) == {0.0, np.float32(1 / 0.75)}
    assert abs((rows == 0).mean() - 0.25) < 0.03
    out.sum().backward()
    assert x.grad is not None and x.grad.tolist() == out.tolist()
    assert layer(x).tolist() != out.tolist()


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("make", [nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_alpha_dropout_keeps_mean_and_variance(make: Any, p: float) -> None:
    tl.manual_seed(0)
    x = tl.randn(200, 100, 3)
    out = make(p)(x)
    assert abs(out.mean().item()) < 0.03 and abs(out.std().item() - 1) < 0.03
    lowest = -1.7580993408473766  # of selu
    scale = ((1 - p) * (1 + p * lowest**2)) ** -0.5
    dropped = np.isclose(out.numpy(), scale * lowest * (1 - p), rtol=1e-6)
    assert abs(dropped.mean() - p) < 0.03
    if make is nn.FeatureAlphaDropout:
        assert (dropped == dropped[..., :1]).all()


@pytest.mark.parametrize(
    "make", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout]
)
def test_limits(make: Any) -> None:
    x = tl.randn(2, 3, 4, 5) if make is not nn.Dropout1d else tl.randn(2, 3, 4)
    assert make(0.5).eval()(x) is x and make(0.0)(x) is x
    assert not make(1.0)(x).any()
    before = x.clone()
    assert make(0.5, inplace=True)(x) is x and x.tolist() != before.tolist()
    with pytest.raises(ValueError, match=f"{make.__name__}: p must be a probability in \\[0, 1\\], got 1.5"):
        make(1.5)


def test_functions_refuse_what_has_no_channels() -> None:
    for function in (F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout):
        with pytest.raises(ValueError, match=rf"{function.__name__}: expected channels in dimension 1"):
            function(tl.ones(3), training=True)
        with pytest.raises(ValueError, match=rf"{function.__name__}: p must be a probability"):
            function(tl.ones(3, 2), -0.1, training=True)


def test_the_functions_are_off_by_default_where_pytorchs_are() -> None:
    x = tl.ones(2, 3, 4)
    assert F.alpha_dropout(x) is x and F.feature_alpha_dropout(x) is x
    assert F.dropout1d(x) is not x
