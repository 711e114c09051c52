"""Pools at random places, pools with indices, and what works across channels; layers of two inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn


@pytest.mark.parametrize("shape", [(2, 3, 9, 11), (3, 9, 11), (2, 3, 8, 7, 9), (3, 8, 7, 9), (0, 3, 9, 11)], ids=str)
def test_fractional_pools(shape: tuple[int, ...]) -> None:
    nd = 2 if len(shape) < 5 and shape[-3] <= 3 else 3
    tl.manual_seed(0)
    pool = (F.fractional_max_pool2d, F.fractional_max_pool3d)[nd - 2]
    x = tl.randn(*shape, requires_grad=True)
    out, place = pool(x, 3, output_ratio=0.5, return_indices=True)
    assert out.shape == place.shape == (*shape[:-nd], *(n // 2 for n in shape[-nd:]))
    flat, rows = x.detach().flatten(-nd), out.detach().flatten(-nd)
    assert flat.gather(-1, place.flatten(-nd)).tolist() == rows.tolist()
    out.sum().backward()
    assert x.grad is not None and x.grad.sum().item() == out.numel()


def test_fractional_windows_cover_both_ends() -> None:
    x = tl.arange(10.0).reshape(1, 1, 10)
    image = x.reshape(1, 10, 1).expand(1, 10, 10)
    for seed in range(20):
        tl.manual_seed(seed)
        out = F.fractional_max_pool2d(image, (2, 1), (6, 1))[0, :, 0]
        steps = np.diff(out.numpy())
        assert out[0].item() == 1 and out[-1].item() == 9 and set(steps.tolist()) <= {1.0, 2.0}


def test_pools_with_indices() -> None:
    x = tl.randn(2, 3, 6, 6)
    for got, want in (
        (F.max_pool2d_with_indices(x, 2), F.max_pool2d(x, 2, return_indices=True)),
        (F.adaptive_max_pool2d_with_indices(x, 3), F.adaptive_max_pool2d(x, 3, return_indices=True)),
        (F.max_pool1d_with_indices(x[0], 2), F.max_pool1d(x[0], 2, return_indices=True)),
        (F.adaptive_max_pool1d_with_indices(x[0], 3), F.adaptive_max_pool1d(x[0], 3, return_indices=True)),
        (F.max_pool3d_with_indices(x, 2), F.max_pool3d(x, 2, return_indices=True)),
        (F.adaptive_max_pool3d_with_indices(x, 3), F.adaptive_max_pool3d(x, 3, return_indices=True)),
    ):
        assert [t.tolist() for t in got] == [t.tolist() for t in want]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_local_response_norm(size: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 3, 2))
    around = np.zeros_like(x)
    for c in range(5):
        low = max(0, c - size // 2)
        around[:, c] = (x[:, low : c + (size - 1) // 2 + 1] ** 2).sum(1)
    want = x / (1.5 + 0.3 * around / size) ** 0.6
    np.testing.assert_allclose(nn.LocalResponseNorm(size, 0.3, 0.6, 1.5)(tl.tensor(x)).numpy(), want, rtol=1e-6)


def test_cross_map_norm_spans_channels_on_both_sides() -> None:
    x = tl.randn(2, 7, 3, 2)
    for size, span in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 5)):
        want = nn.LocalResponseNorm(span, 0.3 * span / size, 0.6, 1.5)(x)
        assert nn.CrossMapLRN2d(size, 0.3, 0.6, 1.5)(x).tolist() == want.tolist()


def test_channel_shuffle() -> None:
    x = tl.arange(6).reshape(1, 6, 1).expand(2, 6, 3)
    assert nn.ChannelShuffle(2)(x)[1, :, 2].tolist() == [0, 3, 1, 4, 2, 5]


def test_bilinear() -> None:
    layer = nn.Bilinear(3, 4, 2)
    a, b = tl.randn(5, 6, 3), tl.randn(5, 6, 4)
    want = np.einsum("...i,kij,...j->...k", a.numpy(), layer.weight.detach().numpy(), b.numpy())
    assert layer.bias is not None
    np.testing.assert_allclose(layer(a, b).detach().numpy(), want + layer.bias.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert layer(tl.zeros(0, 3), tl.zeros(0, 4)).shape == (0, 2)
    assert list(nn.Bilinear(3, 4, 2, bias=False).state_dict()) == ["weight"]


def test_distances() -> None:
    x = np.random.default_rng(0).standard_normal((5, 3))
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    for p in (0.5, 1.0, 2.0, 3.0, np.inf):
        want = [
            np.abs(x[i] - x[j]).max() if p == np.inf else (np.abs(x[i] - x[j]) ** p).sum() ** (1 / p) for i, j in pairs
        ]
        np.testing.assert_allclose(F.pdist(tl.tensor(x), p).numpy(), want, rtol=1e-6)
    assert F.pdist(tl.zeros(1, 3)).shape == F.pdist(tl.zeros(0, 3)).shape == (0,)
    same = tl.ones(2, 3, requires_grad=True)
    F.pdist(same).sum().backward()
    assert same.grad is not None and not same.grad.any()


def test_older_names() -> None:
    x = tl.randn(2, 3, 4, 4)
    assert F.upsample_nearest(x, scale_factor=2).tolist() == F.interpolate(x, scale_factor=2).tolist()
    want = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True).tolist()
    assert F.upsample_bilinear(x, scale_factor=2).tolist() == want
    assert F.upsample(x, scale_factor=2, mode="bilinear", align_corners=True).tolist() == want
    t, w = tl.randn(7, 2, 3), tl.randn(3, 3, 5)
    out = F.conv_tbc(t, w, tl.zeros(5), pad=1)
    want = F.conv1d(t.permute(1, 2, 0), w.permute(2, 1, 0), padding=1).permute(2, 0, 1).tolist()
    assert out.shape == (7, 2, 5) and out.tolist() == want


Z = tl.zeros
REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("fractional_max_pool2d: expected output_size or output_ratio", lambda: F.fractional_max_pool2d(Z(1, 2, 4, 4), 2)),
    ("fractional_max_pool2d: 4 windows of 2 do not fit into a length of 4", lambda: F.fractional_max_pool2d(Z(1, 2, 4, 4), 2, 4)),
    (r"fractional_max_pool3d: expected .* got shape \(4, 4\)", lambda: F.fractional_max_pool3d(Z(4, 4), 2, 4)),
    ("FractionalMaxPool2d: expected output_size or output_ratio, got both", lambda: nn.FractionalMaxPool2d(2, 3, 0.5)),
    ("FractionalMaxPool2d: expected output_size or output_ratio, got neither", lambda: nn.FractionalMaxPool2d(2)),
    ("FractionalMaxPool3d: output_ratio must be between 0 and 1", lambda: nn.FractionalMaxPool3d(2, output_ratio=1.0)),
    (r"local_response_norm: expected \(N, C, L, ...\)", lambda: F.local_response_norm(Z(2, 3), 2)),
    ("local_response_norm: size must be positive", lambda: F.local_response_norm(Z(2, 3, 4), 0)),
    ("CrossMapLRN2d: expected", lambda: nn.CrossMapLRN2d(2)(Z(2, 3, 4))),
    ("channel_shuffle: 2 groups do not divide", lambda: F.channel_shuffle(Z(2, 3, 4), 2)),
    ("conv_tbc: weight must have shape", lambda: F.conv_tbc(Z(2, 3, 4), Z(4), Z(4))),
    ("bilinear: weight must have shape", lambda: F.bilinear(Z(2, 3), Z(2, 4), Z(3, 4))),
    (r"bilinear: expected inputs \(..., 3\) and \(..., 4\)", lambda: F.bilinear(Z(2, 3), Z(2, 5), Z(1, 3, 4))),
    ("bilinear: bias has shape", lambda: F.bilinear(Z(2, 3), Z(2, 4), Z(1, 3, 4), Z(2))),
    ("Bilinear: in1_features must be positive", lambda: nn.Bilinear(0, 2, 3)),
    ("pdist: expected", lambda: F.pdist(Z(2))),
    ("pdist: p must not be negative", lambda: F.pdist(Z(2, 2), -1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("message", "call"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
