"""Optimizers beside PyTorch's, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "amsgrad": True, "maximize": True}),
]


@pytest.mark.parametrize("fused", [None, False], ids=["native", "definition"])
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_steps(name: str, settings: dict[str, Any], fused: bool | None) -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal((13, 7))
    theirs, ours = torch.nn.Parameter(torch.tensor(start)), tl.nn.Parameter(tl.tensor(start))
    them = getattr(torch.optim, name)([theirs], **settings)
    us = getattr(tl.optim, name)([ours], **settings, fused=fused)
    for _ in range(6):
        g = rng.standard_normal(start.shape)
        theirs.grad, ours.grad = torch.tensor(g), tl.tensor(g)
        them.step()
        us.step()
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-10, atol=1e-12)
    expected, got = them.state_dict(), us.state_dict()
    assert {k: list(v) for k, v in got["state"].items()} == {
        k: [n for n in v if v[n] is not None] for k, v in expected["state"].items()
    }
    assert got["param_groups"][0]["params"] == expected["param_groups"][0]["params"]
    for key, value in us.param_groups[0].items():
        if key not in ("params", "fused"):
            assert them.param_groups[0][key] == value


def test_defaults() -> None:
    for name in ("SGD", "Adam", "AdamW"):
        them = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1))])
        us = getattr(tl.optim, name)([tl.nn.Parameter(tl.ones(1))])
        shared = us.defaults.keys() & them.defaults.keys()
        assert {k: us.defaults[k] for k in shared} == {k: them.defaults[k] for k in shared}


def test_clipping() -> None:
    g = np.random.default_rng(0).standard_normal(20)
    theirs, ours = torch.nn.Parameter(torch.zeros(20)), tl.nn.Parameter(tl.zeros(20))
    for norm_type in (1.0, 2.0, float("inf")):
        theirs.grad, ours.grad = torch.tensor(g, dtype=torch.float32), tl.tensor(g, dtype=tl.float32)
        expected = torch.nn.utils.clip_grad_norm_([theirs], 0.5, norm_type)
        got = tl.nn.utils.clip_grad_norm_([ours], 0.5, norm_type)
        assert np.isclose(got.item(), expected.item())
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-5)
