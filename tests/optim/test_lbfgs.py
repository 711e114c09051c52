"""LBFGS on losses whose lowest point is known, resumed, and the words of its errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn, optim

SETTINGS = [
    {},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "history_size": 2, "max_iter": 5},
]


def rosenbrock(**settings: Any) -> tuple[nn.Parameter, optim.LBFGS, Callable[[], tl.Tensor]]:
    """A curved valley whose floor hardly falls, lowest at (1, 1)."""
    w = nn.Parameter(tl.tensor([-1.2, 1.0], dtype=tl.float64))
    optimizer = optim.LBFGS([w], **settings)

    def closure() -> tl.Tensor:
        optimizer.zero_grad()
        loss = 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2
        loss.backward()
        return loss

    return w, optimizer, closure


@pytest.mark.parametrize("settings", SETTINGS[1:], ids=str)
def test_rosenbrock(settings: dict[str, Any]) -> None:
    w, optimizer, closure = rosenbrock(**settings)
    first = optimizer.step(closure).item()
    assert np.isclose(first, 24.2)
    for _ in range(20):
        optimizer.step(closure)
    np.testing.assert_allclose(w.tolist(), [1, 1], atol=1e-4)
    state = optimizer.state[w]
    assert state["func_evals"] < 120 and len(state["old_dirs"]) <= settings.get("history_size", 100)


def test_a_quadratic_in_a_few_steps(rng: Any) -> None:
    """In as many steps as there are dimensions, were the searches exact."""
    a = rng.standard_normal((6, 6))
    a, b = tl.tensor(a @ a.T + np.eye(6)), tl.tensor(rng.standard_normal(6))
    parts = [nn.Parameter(tl.zeros(2, 2, dtype=tl.float64)), nn.Parameter(tl.zeros(2, dtype=tl.float64))]
    unused = nn.Parameter(tl.zeros(3, dtype=tl.float64))
    optimizer = optim.LBFGS([*parts, unused], line_search_fn="strong_wolfe", max_iter=30, tolerance_change=0)

    def closure() -> tl.Tensor:
        optimizer.zero_grad()
        x = nn.utils.parameters_to_vector(parts)
        loss = 0.5 * x @ (a @ x) - b @ x
        loss.backward()
        return loss

    optimizer.step(closure)
    got = nn.utils.parameters_to_vector(parts).detach().numpy()
    np.testing.assert_allclose(got, np.linalg.solve(a.numpy(), b.numpy()), atol=1e-6)
    assert unused.tolist() == [0, 0, 0]
    evaluations = optimizer.state[parts[0]]["func_evals"]
    optimizer.step(closure)  # converged: one look
    assert optimizer.state[parts[0]]["func_evals"] <= evaluations + 2


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_resumed_one_has_the_same_bits(settings: dict[str, Any]) -> None:
    settings = settings or {"lr": 1e-3}
    w, optimizer, closure = rosenbrock(**settings)
    optimizer.step(closure)
    other, second, other_closure = rosenbrock(**settings)
    other.data.copy_(w.data)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        optimizer.step(closure)
        second.step(other_closure)
    assert w.tolist() == other.tolist() and optimizer.state[w]["func_evals"] == second.state[other]["func_evals"]


def test_limits() -> None:
    w, optimizer, closure = rosenbrock(line_search_fn="strong_wolfe", max_iter=100, max_eval=7)
    optimizer.step(closure)
    assert optimizer.state[w]["func_evals"] <= 8
    w, optimizer, closure = rosenbrock(tolerance_grad=1e9)
    optimizer.step(closure)
    assert w.tolist() == [-1.2, 1.0] and optimizer.state[w]["n_iter"] == 0


@pytest.mark.parametrize(
    "loss",
    [lambda w: w.sum(), lambda w: (w * float("nan")).sum(), lambda w: (w * 0).sum()],
    ids=["line", "nan", "flat"],
)
def test_losses_without_a_minimum_end(loss: Any) -> None:
    w = nn.Parameter(tl.ones(3))
    optimizer = optim.LBFGS([w], line_search_fn="strong_wolfe")

    def closure() -> tl.Tensor:
        optimizer.zero_grad()
        out: tl.Tensor = loss(w)
        out.backward()
        return out

    for _ in range(3):
        optimizer.step(closure)


def test_errors() -> None:
    w, optimizer, closure = rosenbrock()
    with pytest.raises(ValueError, match='LBFGS: line_search_fn must be None or "strong_wolfe", got armijo'):
        optim.LBFGS([w], line_search_fn="armijo")
    with pytest.raises(ValueError, match="LBFGS: all parameters must be in one group"):
        optim.LBFGS([{"params": [w]}, {"params": [nn.Parameter(tl.ones(1))]}])
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()
    optimizer.step(closure)
    with pytest.raises(ValueError, match=r"LBFGS.load_state_dict: d has shape \(2,\), expected \(3,\)"):
        optim.LBFGS([nn.Parameter(tl.ones(3))]).load_state_dict(optimizer.state_dict())
