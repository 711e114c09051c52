"""Normalisation beside PyTorch's: values, gradients, running statistics, keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

LAYERS = {
    "batch 1d": (lambda nn: nn.BatchNorm1d(6), (5, 6)),
    "batch 1d, long": (lambda nn: nn.BatchNorm1d(6, momentum=None), (5, 6, 7)),
    "batch 2d": (lambda nn: nn.BatchNorm2d(6, eps=1e-3, momentum=0.3), (5, 6, 4, 3)),
    "batch 2d, bare": (lambda nn: nn.BatchNorm2d(6, affine=False, track_running_stats=False), (5, 6, 4, 3)),
    "batch 3d": (lambda nn: nn.BatchNorm3d(6), (2, 6, 3, 4, 3)),
    "group": (lambda nn: nn.GroupNorm(3, 6), (2, 6, 5, 3)),
    "group of vectors": (lambda nn: nn.GroupNorm(2, 6), (4, 6)),
    "instance 1d": (lambda nn: nn.InstanceNorm1d(6), (2, 6, 9)),
    "instance 2d": (lambda nn: nn.InstanceNorm2d(6, affine=True, track_running_stats=True), (2, 6, 5, 3)),
    "instance 2d, alone": (lambda nn: nn.InstanceNorm2d(6, affine=True), (6, 5, 3)),
    "instance 3d": (lambda nn: nn.InstanceNorm3d(6), (2, 6, 2, 5, 3)),
    "rms": (lambda nn: nn.RMSNorm((6, 5)), (3, 6, 5)),
    "layer": (lambda nn: nn.LayerNorm(5), (3, 6, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    """Some steps in training, then evaluation: outputs, gradients and states agree all the way."""
    make, shape = LAYERS[name]
    theirs, ours = make(torch.nn), make(tl.nn)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(0)
    for training in (True, True, False):
        theirs.train(training), ours.train(training)
        x, g = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        results = []
        for lib, layer in ((torch, theirs), (tl, ours)):
            leaf = lib.tensor(x * 2 + 3, requires_grad=True)
            out = layer(leaf)
            out.backward(lib.tensor(g))
            state = [v.detach().numpy().copy() for v in layer.state_dict().values()]
            results.append(
                [out.detach().numpy(), leaf.grad.numpy(), *state, *(p.grad.numpy().copy() for p in layer.parameters())]
            )
        for got, want in zip(results[1], results[0], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


CALLS: dict[str, Any] = {
    "one value": lambda F, lib: F.batch_norm(lib.zeros(1, 3), None, None, training=True),
    "eval without statistics": lambda F, lib: F.batch_norm(lib.zeros(2, 3), None, None),
    "weights": lambda F, lib: F.batch_norm(lib.zeros(2, 3), None, None, lib.zeros(4), training=True),
    "groups": lambda F, lib: F.group_norm(lib.zeros(2, 3), 2),
    "one value a group": lambda F, lib: F.group_norm(lib.zeros(1, 3), 3),
    "one element": lambda F, lib: F.instance_norm(lib.zeros(2, 3, 1)),
    "shape": lambda F, lib: F.rms_norm(lib.zeros(2, 3), (2,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_where_theirs_are(name: str) -> None:
    for lib in (torch, tl):
        with pytest.raises((ValueError, RuntimeError)):
            CALLS[name](lib.nn.functional, lib)


def test_empty_batches() -> None:
    for lib in (torch, tl):
        F = lib.nn.functional
        assert tuple(F.batch_norm(lib.zeros(0, 3, 4), None, None, training=True).shape) == (0, 3, 4)
        assert tuple(F.group_norm(lib.zeros(0, 4, 4), 2).shape) == (0, 4, 4)
        assert tuple(F.rms_norm(lib.zeros(0, 4), (4,)).shape) == (0, 4)
