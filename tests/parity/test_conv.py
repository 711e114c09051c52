"""Convolution beside PyTorch's: layers of every kind, values and gradients, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "1d": (lambda nn: nn.Conv1d(3, 5, 4, stride=2, padding=1), (2, 3, 17)),
    "1d, same": (lambda nn: nn.Conv1d(3, 5, 4, padding="same", dilation=3), (2, 3, 17)),
    "2d": (lambda nn: nn.Conv2d(16, 24, 3, padding=1), (2, 16, 13, 15)),
    "2d, strided": (lambda nn: nn.Conv2d(6, 12, 3, stride=2, padding=1, bias=False), (2, 6, 13, 15)),
    "2d, dilated": (lambda nn: nn.Conv2d(6, 12, (3, 2), padding=(2, 1), dilation=2), (2, 6, 13, 15)),
    "2d, grouped": (lambda nn: nn.Conv2d(12, 18, 3, groups=3), (2, 12, 9, 9)),
    "2d, depthwise": (lambda nn: nn.Conv2d(12, 12, 3, padding=1, groups=12), (2, 12, 9, 9)),
    "2d, 1x1": (lambda nn: nn.Conv2d(12, 30, 1), (2, 12, 9, 9)),
    "2d, unbatched": (lambda nn: nn.Conv2d(3, 4, 3), (3, 9, 9)),
    "2d, same": (lambda nn: nn.Conv2d(3, 4, (2, 4), padding="same"), (2, 3, 9, 9)),
    "2d, reflect": (lambda nn: nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="reflect"), (2, 3, 9, 9)),
    "2d, replicate": (lambda nn: nn.Conv2d(3, 4, 4, padding="same", padding_mode="replicate"), (2, 3, 9, 9)),
    "2d, circular": (lambda nn: nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular"), (2, 3, 9, 9)),
    "3d": (lambda nn: nn.Conv3d(5, 7, (2, 3, 3), stride=(1, 2, 1), padding=1), (2, 5, 6, 7, 8)),
    "transposed 1d": (lambda nn: nn.ConvTranspose1d(3, 5, 4, stride=3, output_padding=2), (2, 3, 9)),
    "transposed 2d": (
        lambda nn: nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 6, 7, 8),
    ),
    "transposed 2d, dilated": (lambda nn: nn.ConvTranspose2d(6, 8, 3, dilation=3, output_padding=2), (2, 6, 7, 8)),
    "transposed 3d": (lambda nn: nn.ConvTranspose3d(4, 3, 2, stride=2), (1, 4, 3, 4, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    make, shape = LAYERS[name]
    theirs, ours = make(torch.nn), make(tl.nn)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tx, ox = torch.tensor(x, requires_grad=True), tl.tensor(x, requires_grad=True)
    expected, got = theirs(tx), ours(ox)
    np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    expected.square().sum().backward()
    got.square().sum().backward()
    for a, b in [(ox, tx), *zip(ours.parameters(), theirs.parameters(), strict=True)]:
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-3, atol=1e-5 * float(b.grad.abs().max()))


@pytest.mark.parametrize("layer", ["Conv1d", "Conv2d", "ConvTranspose2d"])
def test_initial_values(layer: str) -> None:
    """Uniform with the same spread."""
    ours, theirs = (getattr(nn, layer)(60, 300, 3, groups=2).state_dict() for nn in (tl.nn, torch.nn))
    for name, value in theirs.items():
        spread = np.abs(value.numpy()).max()
        assert ours[name].shape == tuple(value.shape)
        assert 0.97 < float(ours[name].abs().max()) / spread < 1.03
        assert abs(float(ours[name].mean())) < 0.15 * spread


REFUSED: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("conv2d", (1, 3, 4, 4), (2, 3, 5, 5), {}),
    ("conv2d", (1, 3, 4, 4), (2, 2, 3, 3), {}),
    ("conv2d", (1, 4, 4, 4), (3, 2, 3, 3), {"groups": 2}),
    ("conv2d", (1, 3, 4, 4), (2, 3, 3, 3), {"stride": -1}),
    ("conv2d", (1, 3, 4, 4), (2, 3, 3, 3), {"stride": 0}),
    ("conv2d", (1, 3, 4, 4), (2, 3, 3, 3), {"padding": -1}),
    ("conv2d", (1, 3, 4, 4), (2, 3, 3, 3), {"padding": "same", "stride": 2}),
    ("conv1d", (4, 4), (2, 3, 3), {}),
    ("conv_transpose2d", (1, 3, 4, 4), (3, 2, 3, 3), {"output_padding": 1}),
    ("conv_transpose2d", (1, 3, 4, 4), (2, 2, 3, 3), {}),
]


@pytest.mark.parametrize(("name", "x", "weight", "attrs"), REFUSED)
def test_both_refuse(name: str, x: tuple[int, ...], weight: tuple[int, ...], attrs: dict[str, Any]) -> None:
    for lib, errors in ((torch, (RuntimeError, ValueError)), (tl, ValueError)):
        with pytest.raises(errors):
            getattr(lib.nn.functional, name)(lib.ones(x), lib.ones(weight), **attrs)
