"""Optimizers beside PyTorch's, step by step."""

from __future__ import annotations

import inspect
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
    ("Adam", {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "amsgrad": True, "maximize": True}),
    ("Adamax", {}),
    ("Adamax", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.1, "maximize": True}),
    ("NAdam", {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {}),
    ("RAdam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("RAdam", {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.1, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.1, "alpha": 0.5, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.9, "maximize": True}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Rprop", {}),
    ("Rprop", {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.5), "maximize": True}),
    ("ASGD", {}),
    ("ASGD", {"lr": 0.1, "lambd": 0.01, "alpha": 0.5, "t0": 10, "weight_decay": 0.1, "maximize": True}),
    ("Adafactor", {}),
    ("Adafactor", {"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-6, 1e-2), "d": 2.0, "weight_decay": 0.1, "maximize": True}),
]  # fmt: skip
SHAPES = [(13, 7), (5,), (), (2, 3, 4, 5)]


def pair(name: str, settings: dict[str, Any]) -> tuple[Any, Any, list[Any], list[Any]]:
    """PyTorch's optimizer and ours, with the same parameters."""
    rng = np.random.default_rng(0)
    starts = [rng.standard_normal(shape) for shape in SHAPES]
    theirs, ours = (
        [torch.nn.Parameter(torch.tensor(s)) for s in starts],
        [tl.nn.Parameter(tl.tensor(s)) for s in starts],
    )
    return getattr(torch.optim, name)(theirs, **settings), getattr(tl.optim, name)(ours, **settings), theirs, ours


def give_gradients(step: int, *lists: list[Any]) -> None:
    """Of a bowl under noise: the same for both libraries, whatever the last bits of their parameters."""
    rng = np.random.default_rng(step)
    for group in zip(*lists, strict=True):
        g = rng.standard_normal(group[0].shape)
        for p in group:
            p.grad = torch.tensor(g) if isinstance(p, torch.Tensor) else tl.tensor(g)


def assert_close(ours: list[Any], theirs: list[Any], what: str) -> None:
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-6, atol=1e-9, err_msg=what)


def as_numpy(value: Any) -> Any:
    """A state with its tensors as arrays, on the way from one library to the other."""
    if isinstance(value, dict):
        return {k: as_numpy(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(as_numpy(v) for v in value)
    return value.detach().numpy() if isinstance(value, (torch.Tensor, tl.Tensor)) else value


def as_torch(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: as_torch(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(as_torch(v) for v in value)
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("native", [True, False], ids=["native", "definition"])
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_steps(name: str, settings: dict[str, Any], native: bool) -> None:
    them, us, theirs, ours = pair(name, settings)
    if not native:
        us.param_groups[0]["fused" if "fused" in us.defaults else "foreach"] = False
    for step in range(50):
        give_gradients(step, theirs, ours)
        them.step()
        us.step()
        assert_close(ours, theirs, f"step {step}")
    expected, got = them.state_dict(), us.state_dict()
    assert {k: list(v) for k, v in got["state"].items()} == {
        k: [n for n in v if v[n] is not None] for k, v in expected["state"].items()
    }
    for i, state in got["state"].items():
        for key, value in state.items():
            np.testing.assert_allclose(
                value.numpy(), expected["state"][i][key].numpy(), rtol=1e-6, atol=1e-9, err_msg=key
            )


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_states_move_both_ways(name: str, settings: dict[str, Any]) -> None:
    """Each library goes on where the other stopped."""
    them, us, theirs, ours = pair(name, settings)
    for step in range(10):
        give_gradients(step, theirs, ours)
        them.step()
        us.step()
    them_next, us_next, theirs_next, ours_next = pair(name, {})
    for p, q in zip(ours_next, theirs, strict=True):
        p.data.copy_(tl.tensor(q.detach().numpy()))
    for p, q in zip(theirs_next, ours, strict=True):
        p.data.copy_(torch.tensor(q.detach().numpy()))
    us_next.load_state_dict(as_numpy(them.state_dict()))
    them_next.load_state_dict(as_torch(as_numpy(us.state_dict())))
    for step in range(10, 20):
        give_gradients(step, theirs, ours, theirs_next, ours_next)
        for optimizer in (them, us, them_next, us_next):
            optimizer.step()
    assert_close(ours_next, theirs, "PyTorch's state here")
    assert_close(ours, theirs_next, "our state there")


@pytest.mark.parametrize("name", sorted({name for name, _ in SETTINGS}))
def test_names_and_defaults(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(lib.optim, name)).parameters for lib in (tl, torch))
    assert {n: (p.default, p.kind) for n, p in ours.items()} == {n: (p.default, p.kind) for n, p in theirs.items()}
    them, us, _, _ = pair(name, {})
    assert us.defaults == them.defaults
    assert set(us.state_dict()["param_groups"][0]) == set(them.state_dict()["param_groups"][0])
    named = [(f"p{i}", tl.nn.Parameter(tl.ones(2))) for i in range(2)]
    assert getattr(tl.optim, name)(named).state_dict()["param_groups"][0]["param_names"] == ["p0", "p1"]


def test_a_rate_in_a_tensor() -> None:
    for name in sorted({name for name, _ in SETTINGS}):
        them, us, theirs, ours = pair(name, {})
        them.param_groups[0]["lr"], us.param_groups[0]["lr"] = torch.tensor(0.5).double(), tl.tensor(0.5)
        for step in range(3):
            give_gradients(step, theirs, ours)
            them.step()
            us.step()
        assert_close(ours, theirs, name)


@pytest.mark.parametrize("settings", [{}, {"lr": 0.5, "max_iter": 4, "history_size": 3}, {"max_eval": 3}], ids=str)
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs(search: str | None, settings: dict[str, Any]) -> None:
    """Both count the same evaluations on their ways; states move both ways on it."""

    def problem(lib: Any) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(0)
        a, start = lib.tensor(rng.standard_normal((30, 12))), rng.standard_normal(12)
        w, v = (lib.nn.Parameter(lib.tensor(part)) for part in (start[:5], start[5:].reshape(7, 1)))
        optimizer = lib.optim.LBFGS([w, v], line_search_fn=search, **settings)

        def closure() -> Any:
            optimizer.zero_grad()
            x = lib.cat([w, v.reshape(-1)])
            loss = (
                lib.nn.functional.softplus(a @ x).mean()
                + 0.1 * (x[1:] - x[:-1] ** 2).square().sum()
                + 0.01 * (x * x).sum()
            )
            loss.backward()
            return loss

        return optimizer, closure, (w, v)

    runs = [problem(lib) for lib in (torch, tl)]
    for step in range(50):
        losses = [optimizer.step(closure).item() for optimizer, closure, _ in runs]
        assert np.isclose(*losses, rtol=1e-6)
        assert_close(runs[1][2], runs[0][2], f"step {step}")
        if step == 2:
            (them, *_), (us, *_) = runs
            ours, theirs = us.state_dict()["state"][0], them.state_dict()["state"][0]
            assert set(ours) == set(theirs) - {"al"}  # scratch
            assert (ours["func_evals"], ours["n_iter"]) == (theirs["func_evals"], theirs["n_iter"])
            ours, theirs = as_numpy(us.state_dict()), as_numpy(them.state_dict())
            us.load_state_dict(theirs)
            them.load_state_dict(as_torch(ours))


def test_signature_of_lbfgs_and_muon() -> None:
    for name in ("LBFGS", "Muon"):
        ours, theirs = (inspect.signature(getattr(lib.optim, name)).parameters for lib in (tl, torch))
        assert {n: (p.default, p.kind) for n, p in ours.items()} == {n: (p.default, p.kind) for n, p in theirs.items()}


@pytest.mark.parametrize("settings", [{}, {"lr": 0.02, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"}], ids=str)
@pytest.mark.parametrize("shape", [(8, 8), (32, 16), (16, 64)], ids=str)
def test_muon(shape: tuple[int, int], settings: dict[str, Any]) -> None:
    """Both work in bfloat16, where a sum in another order now and then rounds otherwise: equal at first, later within a fraction of a step."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal(shape)
    theirs, ours = torch.nn.Parameter(torch.tensor(start)), tl.nn.Parameter(tl.tensor(start))
    them, us = torch.optim.Muon([theirs], **settings), tl.optim.Muon([ours], **settings)
    for step in range(50):
        before = theirs.detach().numpy().copy()
        give_gradients(step, [theirs], [ours])
        them.step()
        us.step()
        size = np.abs(theirs.detach().numpy() - before).max()
        np.testing.assert_allclose(
            ours.detach().numpy(), theirs.detach().numpy(), rtol=0, atol=size * (0.1 if step else 1e-6)
        )
    np.testing.assert_allclose(
        us.state[ours]["momentum_buffer"].numpy(), them.state[theirs]["momentum_buffer"].numpy(), rtol=1e-9
    )


def test_clipping() -> None:
    g = np.random.default_rng(0).standard_normal(20)
    theirs, ours = torch.nn.Parameter(torch.zeros(20)), tl.nn.Parameter(tl.zeros(20))
    for norm_type in (1.0, 2.0, float("inf")):
        theirs.grad, ours.grad = torch.tensor(g, dtype=torch.float32), tl.tensor(g, dtype=tl.float32)
        expected = torch.nn.utils.clip_grad_norm_([theirs], 0.5, norm_type)
        got = tl.nn.utils.clip_grad_norm_([ours], 0.5, norm_type)
        assert np.isclose(got.item(), expected.item())
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-5)
        torch.nn.utils.clip_grads_with_norm_([theirs], 0.1, expected)
        tl.nn.utils.clip_grads_with_norm_([ours], 0.1, got)
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-5)
    for name in ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"):
        mine, its = (inspect.signature(getattr(lib.nn.utils, name)).parameters for lib in (tl, torch))
        assert [(n, p.default) for n, p in mine.items()] == [(n, p.default) for n, p in its.items()]
