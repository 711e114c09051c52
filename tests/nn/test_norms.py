"""Normalisation layers: running statistics, modes, keys, and statistics that hold for many elements far from zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn


def close(a: tl.Tensor, b: Any, tolerance: float = 1e-5) -> bool:
    return np.allclose(a.detach().numpy(), np.asarray(b), rtol=tolerance, atol=tolerance)


def normalized(x: np.ndarray[Any, Any], axes: tuple[int, ...], eps: float = 1e-5) -> Any:
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def test_layer_norm() -> None:
    layer = nn.LayerNorm((3, 4), eps=1e-3)
    x = tl.randn(5, 3, 4)
    assert close(layer(x), normalized(x.numpy(), (1, 2), 1e-3))
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert list(nn.LayerNorm(4, bias=False).state_dict()) == ["weight"]
    assert not nn.LayerNorm(4, elementwise_affine=False).state_dict()
    with pytest.raises(ValueError, match=r"last dimensions to be normalized_shape \(3, 4\)"):
        layer(tl.zeros(4, 3))


def test_rms_norm() -> None:
    x = tl.randn(5, 3, 4)
    assert close(nn.RMSNorm(4)(x), x.numpy() / np.sqrt((x.numpy() ** 2).mean(-1, keepdims=True)))
    assert list(nn.RMSNorm((3, 4)).state_dict()) == ["weight"]
    assert not nn.RMSNorm(4, elementwise_affine=False).state_dict()


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)], ids=str)
def test_batch_norm(shape: tuple[int, ...]) -> None:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    layer, axes = kind(3, momentum=0.25), (0, *range(2, len(shape)))
    batches = [tl.randn(*shape) * 3 + 1 for _ in range(3)]
    mean, variance = np.zeros(3), np.ones(3)
    for x in batches:
        assert close(layer(x), normalized(x.numpy(), axes))
        mean = 0.75 * mean + 0.25 * x.numpy().mean(axes)
        variance = 0.75 * variance + 0.25 * x.numpy().var(axes, ddof=1)
    assert close(layer.running_mean, mean) and close(layer.running_var, variance)
    assert layer.num_batches_tracked.item() == 3
    layer.eval()
    wide = (3,) + (1,) * (len(shape) - 2)
    expected = (batches[0].numpy() - mean.reshape(wide)) / np.sqrt(variance.reshape(wide) + 1e-5)
    assert close(layer(batches[0]), expected)
    assert layer.num_batches_tracked.item() == 3 and close(layer.running_mean, mean)


def test_batch_norm_over_all_batches() -> None:
    layer = nn.BatchNorm1d(2, momentum=None)
    batches = [tl.randn(4, 2) for _ in range(3)]
    for x in batches:
        layer(x)
    assert close(layer.running_mean, np.mean([x.numpy().mean(0) for x in batches], 0))
    assert close(layer.running_var, np.mean([x.numpy().var(0, ddof=1) for x in batches], 0))
    layer.reset_running_stats()
    assert layer.running_mean.tolist() == [0.0, 0.0] and layer.num_batches_tracked.item() == 0


def test_batch_norm_without_running_statistics() -> None:
    layer = nn.BatchNorm1d(2, track_running_stats=False).eval()
    x = tl.randn(4, 2)
    assert layer.running_mean is None and list(layer.state_dict()) == ["weight", "bias"]
    assert close(layer(x), normalized(x.numpy(), (0,)))
    keys = ["running_mean", "running_var", "num_batches_tracked"]
    assert list(nn.BatchNorm2d(3, affine=False).state_dict()) == keys
    assert list(nn.BatchNorm2d(3).state_dict()) == ["weight", "bias", *keys]


def test_two_batches_before_backward() -> None:
    """The first batch's gradient does not read the running statistics, which the second has moved."""
    layer = nn.BatchNorm1d(3)
    x = tl.randn(5, 3, requires_grad=True)
    (layer(x) * layer(x + 1)).sum().backward()
    assert x.grad is not None


def test_running_statistics_of_another_dtype() -> None:
    """Half-precision input beside float32 statistics takes the slow path, to the same numbers."""
    x = tl.randn(8, 3, 4)
    whole, half = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    whole(x)
    half(x.to(tl.bfloat16))
    assert half.running_mean.dtype is tl.float32
    assert close(half.running_mean, whole.running_mean, 1e-2) and close(half.running_var, whole.running_var, 1e-2)


@pytest.mark.parametrize("x", [(4, 3), (4, 2, 3, 3)], ids=str)
def test_batch_norm_words_what_does_not_fit(x: tuple[int, ...]) -> None:
    layer = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match=r"expected 4 dimensions|running_mean has shape \(3,\), expected \(2,\)"):
        layer(tl.zeros(*x))
    assert layer.num_batches_tracked.item() == 0 and layer.running_var.tolist() == [1.0] * 3
    with pytest.raises(ValueError, match="more than one value a channel in training"):
        nn.BatchNorm2d(3)(tl.zeros(1, 3, 1, 1))
    assert nn.BatchNorm2d(3)(tl.zeros(0, 3, 2, 2)).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(groups: int) -> None:
    x = tl.randn(2, 6, 5, 7)
    layer = nn.GroupNorm(groups, 6)
    expected = normalized(x.numpy().reshape(2, groups, -1), (2,)).reshape(x.shape)
    assert close(layer(x), expected)
    assert list(layer.state_dict()) == ["weight", "bias"] and not nn.GroupNorm(2, 4, affine=False).state_dict()
    with pytest.raises(ValueError, match="num_groups 4 does not divide num_channels 6"):
        nn.GroupNorm(4, 6)


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)], ids=str)
def test_instance_norm(shape: tuple[int, ...]) -> None:
    kind = {2: nn.InstanceNorm1d, 3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[len(shape)]
    x = tl.randn(*shape)
    first = 1 if shape[0] == 3 else 2
    expected = normalized(x.numpy(), tuple(range(first, len(shape))))
    assert close(kind(3)(x), expected) and not kind(3).state_dict()
    layer = kind(3, affine=True, track_running_stats=True, momentum=1.0)
    assert close(layer(x), expected)
    axes = tuple(range(2, len(shape) + 2 - first))
    batch = x.numpy()[None] if first == 1 else x.numpy()
    assert close(layer.running_mean, batch.mean(axes).mean(0))
    assert close(layer.running_var, batch.var(axes, ddof=1).mean(0))
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert not close(layer.eval()(x), expected, 1e-3)


FAR = [(200_000, 1), (40_000, 5), (2, 1, 300_000), (2000, 2, 49), (1, 300_000)]


@pytest.mark.parametrize("shape", FAR, ids=str)
def test_statistics_far_from_zero(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """A mean of 1000 deviations costs no digits, in blocks of rows and of elements, in lines and in columns."""
    x = (1000 + rng.standard_normal(shape)).astype(np.float32)
    wide, axes = x.astype(np.float64), (0, *range(2, len(shape)))
    if shape[0] > 1:
        mean, variance = tl.zeros(shape[1]), tl.zeros(shape[1])
        out = F.batch_norm(tl.tensor(x), mean, variance, training=True, momentum=1.0)
        assert np.abs(mean.numpy() / wide.mean(axes) - 1).max() < 1e-6
        assert np.abs(variance.numpy() / wide.var(axes, ddof=1) - 1).max() < 2e-6
        np.testing.assert_allclose(out.numpy(), normalized(x, axes), atol=3e-6)
    grouped = F.group_norm(tl.tensor(x[:3]), 1)
    rows = tuple(range(1, len(shape)))
    if shape[1:] != (1,):
        np.testing.assert_allclose(grouped.numpy(), normalized(x[:3], rows), atol=3e-6)


def test_first_block_unlike_the_rest() -> None:
    """Values that a sum is centred on may be the odd ones out."""
    x = np.full((1, 1, 20_000), 1000.0, np.float32)
    x[..., :300] = -5e4
    x[..., 300:] += np.linspace(-1, 1, 19_700, dtype=np.float32)
    mean, variance = tl.zeros(1), tl.zeros(1)
    F.batch_norm(tl.tensor(x), mean, variance, training=True, momentum=1.0)
    wide = x.astype(np.float64)
    assert abs(mean.item() - wide.mean()) < 1e-6 * wide.std()
    assert abs(variance.item() / wide.var(ddof=1) - 1) < 1e-5


@pytest.mark.parametrize("groups", [0, 2])
def test_gradients_of_many_elements(groups: int, rng: np.random.Generator) -> None:
    """Sums of boxes, channels and examples, against the rule in float64."""
    shape = (3, 4, 9000)
    x, g = 50 + rng.standard_normal(shape), rng.standard_normal(shape)
    found = []
    for dtype, create_graph in ((tl.float32, False), (tl.float64, True)):
        leaves = [
            tl.tensor(v, dtype=dtype, requires_grad=True) for v in (x, rng.uniform(1, 2, 4) * 0 + 1.5, x[0, :, 0])
        ]
        out = (
            F.group_norm(leaves[0], groups, *leaves[1:])
            if groups
            else F.batch_norm(leaves[0], None, None, *leaves[1:], True)
        )
        found.append(tl.autograd.grad(out, leaves, tl.tensor(g, dtype=dtype), create_graph=create_graph))
    for a, b, largest in zip(*found, (1.0, 200.0, 200.0), strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), atol=3e-6 * largest)
