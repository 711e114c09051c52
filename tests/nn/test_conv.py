"""Convolution layers: parameters, padding modes, sizes and words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn

PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@pytest.mark.parametrize("nd", [1, 2, 3])
def test_parameters(nd: int) -> None:
    layer = PLAIN[nd - 1](4, 6, 3, groups=2)
    assert layer.weight.shape == (6, 2, *(3,) * nd) and layer.bias is not None and layer.bias.shape == (6,)
    bound = 1 / math.sqrt(2 * 3**nd)
    assert all(bool((p.detach().abs() <= bound).all()) for p in layer.parameters())
    turned = TRANSPOSED[nd - 1](4, 6, 3, groups=2, bias=False)
    assert turned.weight.shape == (4, 3, *(3,) * nd) and list(turned.state_dict()) == ["weight"]


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, (1, 2), "same"])
def test_padding_modes(mode: str, padding: int | tuple[int, int] | str) -> None:
    layer = nn.Conv2d(3, 4, (2, 3), padding=padding, dilation=(1, 2) if padding == "same" else 1, padding_mode=mode)
    x = tl.randn(2, 3, 6, 7)
    top, bottom, left, right = {"same": (0, 1, 2, 2), 2: (2,) * 4}.get(padding, (1, 1, 2, 2))  # type: ignore[call-overload]
    kind = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    bordered = np.pad(x.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode=kind)  # type: ignore[call-overload]
    want = F.conv2d(tl.tensor(bordered), layer.weight, layer.bias, dilation=layer.dilation)
    np.testing.assert_allclose(layer(x).detach().numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-6)
    if padding == "same":
        assert layer(x).shape == (2, 4, 6, 7)


def test_output_size() -> None:
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    assert layer(tl.zeros(1, 2, 4, 4)).shape == (1, 3, 7, 7)
    assert layer(tl.zeros(1, 2, 4, 4), output_size=(8, 7)).shape == (1, 3, 8, 7)
    assert layer(tl.zeros(2, 4, 4), output_size=(1, 3, 8, 8)).shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"output_size must be between \(7, 7\) and \(8, 8\)"):
        layer(tl.zeros(1, 2, 4, 4), output_size=(9, 8))


def test_words() -> None:
    with pytest.raises(ValueError, match="Conv2d: groups 2 must divide in_channels 3"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        nn.Conv2d(3, 4, 3, padding_mode="mirror")
    with pytest.raises(ValueError, match="ConvTranspose1d: padding_mode must be 'zeros'"):
        nn.ConvTranspose1d(3, 4, 3, padding_mode="circular")


def test_description() -> None:
    assert repr(nn.Conv2d(3, 8, 3)) == "Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))"
    layer = nn.Conv1d(4, 8, 3, 2, "valid", 2, 2, False, "circular")
    assert repr(layer) == (
        "Conv1d(4, 8, kernel_size=(3,), stride=(2,), padding=valid, dilation=(2,), groups=2, bias=False, padding_mode=circular)"
    )
    layer3 = nn.ConvTranspose3d(2, 2, 3, 2, 1, 1)
    assert repr(layer3).endswith("stride=(2, 2, 2), padding=(1, 1, 1), output_padding=(1, 1, 1))")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda nn: nn.Conv2d(4, 6, 3, padding="sam"),
            "Conv2d: padding is 'sam', expected numbers or 'same' or 'valid'",
        ),
        (
            lambda nn: nn.Conv1d(4, 6, 3, stride=2, padding="same"),
            'Conv1d: padding is "same", which needs a stride of 1, got 2',
        ),
        (
            lambda nn: nn.ConvTranspose1d(4, 6, 3, padding="same"),
            "ConvTranspose1d: padding is 'same', expected numbers",
        ),
    ],
    ids=["unknown", "stride", "transposed"],
)
def test_padding_by_name_is_checked_when_made(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tl.nn)
