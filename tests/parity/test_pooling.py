"""Pooling beside PyTorch's: values, indices and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SETTINGS: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True},
    {"kernel_size": 4, "stride": 1, "padding": 2},
]
MAX = [("max_pool", s) for s in (*SETTINGS, {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2})]
AVERAGE = [("avg_pool", {**s, "count_include_pad": c}) for s in SETTINGS for c in (True, False)]
DIVIDED = [("avg_pool", {"kernel_size": 3, "padding": 1, "divisor_override": 5})]
POWER = [("lp_pool", {"kernel_size": 2, "norm_type": p, "ceil_mode": c}) for p in (1, 2, 3.0) for c in (False, True)]
ADAPTIVE = [
    (name, {"output_size": size}) for name in ("adaptive_max_pool", "adaptive_avg_pool") for size in (1, 3, 5, 9)
]


def images(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.standard_normal(shape).round(1) for shape in ((2, 3, *(8, 9, 7)[:n]), (2, *(7, 7, 5)[:n]))]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("name", "settings"), MAX + AVERAGE + DIVIDED + POWER + ADAPTIVE, ids=str)
def test_pooling(name: str, settings: dict[str, Any], n: int) -> None:
    if n == 1 and "divisor_override" in settings:
        pytest.skip("avg_pool1d has no divisor_override in PyTorch")
    given = {**settings, **({"return_indices": True} if "max" in name else {})}
    for x in images(n):
        results = []
        for lib in (torch, tl):
            leaf = lib.tensor(abs(x) if name == "lp_pool" else x, requires_grad=True)
            made = getattr(lib.nn.functional, f"{name}{n}d")(leaf, **given)
            out, *indices = made if isinstance(made, tuple) else (made,)
            (out * out).sum().backward()
            results.append([t.detach().numpy() for t in (out, leaf.grad, *indices)])
        for theirs, ours in zip(*results, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_unpooling(n: int) -> None:
    for x in images(n):
        results = []
        for lib in (torch, tl):
            functional, leaf = lib.nn.functional, lib.tensor(x, requires_grad=True)
            out, indices = getattr(functional, f"max_pool{n}d")(leaf, 2, return_indices=True)
            back = getattr(functional, f"max_unpool{n}d")(out, indices, 2, output_size=x.shape[-n:])
            (back * back).sum().backward()
            results.append([t.detach().numpy() for t in (back, leaf.grad)])
        for theirs, ours in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_nan() -> None:
    x = np.array([[1, np.nan, 2, np.nan, 0, -np.inf, -np.inf, -np.inf, -np.inf]], np.float32)
    theirs, ours = (lib.nn.functional.max_pool1d(lib.tensor(x), 3, 2, 1, return_indices=True) for lib in (torch, tl))
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    "make",
    [
        lambda nn: nn.MaxPool2d(3, 2, padding=1),
        lambda nn: nn.MaxPool1d(2, ceil_mode=True),
        lambda nn: nn.AvgPool1d(2),
        lambda nn: nn.AvgPool3d((1, 2, 2), divisor_override=3),
        lambda nn: nn.AdaptiveAvgPool2d((None, 2)),
        lambda nn: nn.AdaptiveMaxPool3d(2),
        lambda nn: nn.MaxUnpool2d(2),
        lambda nn: nn.LPPool2d(2, 3),
    ],
)
def test_layers_show_their_settings(make: Any) -> None:
    assert repr(make(tl.nn)) == repr(make(torch.nn))
