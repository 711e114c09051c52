"""Optimizers: the native call against the definition, groups, state, words."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn, optim
from tensorlib.native import lib

SHAPES = [(3, 4), (5,), (), (0, 2), (67, 33)]
SETTINGS: list[tuple[type[optim.Optimizer], dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "weight_decay": 0.2, "maximize": True}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adam, {"lr": 0.01}),
    (optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    (optim.Adam, {"lr": 0.01, "amsgrad": True}),
    (optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    (optim.AdamW, {"lr": 0.01, "amsgrad": True, "maximize": True}),
    (optim.Adadelta, {"lr": 0.5, "weight_decay": 0.1}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1}),
    (optim.Adamax, {"lr": 0.01, "maximize": True}),
    (optim.Adamax, {"lr": 0.01, "betas": (0.4, 0.5), "weight_decay": 0.1}),
    (optim.Lion, {"lr": 0.01, "weight_decay": 0.1}),
    (optim.Lion, {"lr": 0.01, "betas": (0.4, 0.5), "maximize": True}),
    (optim.NAdam, {"lr": 0.01, "weight_decay": 0.1}),
    (optim.NAdam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.1, "maximize": True}),
    (optim.RAdam, {"lr": 0.01, "betas": (0.5, 0.7), "maximize": True}),  # divided from the third step on
    (optim.RAdam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    (optim.RMSprop, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    (optim.RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.5}),
]  # fmt: skip
ALL_SETTINGS: list[tuple[type[optim.Optimizer], dict[str, Any]]] = [
    *SETTINGS,
    (optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    (optim.ASGD, {"lr": 0.1, "t0": 2}),
    (optim.Adafactor, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.LAMB, {"lr": 0.01}),
    (optim.LARS, {"lr": 10.0, "weight_decay": 0.1, "nesterov": True}),
    (optim.Rprop, {"lr": 0.01}),
]


def settings_id(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else "-".join(f"{k}={v}" for k, v in value.items())


def draw(step: int, shape: tuple[int, ...], dtype: tl.DType) -> tl.Tensor:
    return tl.tensor(np.random.default_rng([step, *shape]).standard_normal(shape), dtype=dtype)


def parameters(dtype: tl.DType = tl.float32) -> list[nn.Parameter]:
    return [nn.Parameter(draw(0, shape, dtype)) for shape in SHAPES]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    """Every parameter but the second in step 1: the one without a gradient must be passed over."""
    for i, p in enumerate(params):
        p.grad = None if step == 1 and i == 1 else draw(step, p.shape, p.dtype)


def values(params: list[nn.Parameter]) -> list[np.ndarray[Any, Any]]:
    return [p.detach().numpy().copy() for p in params]


def run(
    kind: Any, settings: dict[str, Any], dtype: tl.DType = tl.float32, steps: int = 5, native: bool = True
) -> tuple[Any, list[nn.Parameter]]:
    params = parameters(dtype)
    optimizer = kind(params, **settings)
    if not native:
        optimizer.param_groups[0]["fused" if "fused" in optimizer.defaults else "foreach"] = False
    for step in range(1, steps + 1):
        set_gradients(params, step)
        optimizer.step()
    return optimizer, params


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=settings_id)
def test_the_native_call_is_the_definition(kind: Any, settings: dict[str, Any], dtype: tl.DType) -> None:
    fused, fast = run(kind, settings, dtype)
    defined, plain = run(kind, settings, dtype, native=False)
    tolerance = 1e-6 if dtype is tl.float32 else 1e-14
    for a, b in zip(values(fast), values(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    for p, q in zip(fast, plain, strict=True):
        assert fused.state[p].keys() == defined.state[q].keys()
        for key, value in fused.state[p].items():
            np.testing.assert_allclose(
                value.numpy(), defined.state[q][key].numpy(), rtol=10 * tolerance, atol=tolerance, err_msg=key
            )


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=settings_id)
def test_the_native_call_serves_all_but_the_first_steps(kind: Any, settings: dict[str, Any], monkeypatch: Any) -> None:
    optimizer, params = run(kind, settings, steps=2)
    monkeypatch.setattr(kind, "update_one", None)
    set_gradients(params, 3)
    optimizer.step()


@pytest.mark.parametrize(("kind", "settings"), ALL_SETTINGS, ids=settings_id)
def test_the_same_bits_on_any_number_of_threads(kind: Any, settings: dict[str, Any]) -> None:
    """Of parameters that threads share, their gradients clipped to a norm taken over all of them."""

    def trained(threads: int) -> list[bytes]:
        tl.set_num_threads(threads)
        params = [nn.Parameter(draw(0, shape, tl.float32)) for shape in ((300, 211), (40_001,), (3,))]
        optimizer = kind(params, **settings)
        norms = []
        for step in (1, 2, 3):
            for p in params:
                p.grad = draw(step, p.shape, p.dtype)
            norms.append(nn.utils.clip_grad_norm_(params, 1.0))
            optimizer.step()
        return [t.detach().numpy().tobytes() for t in (*params, *norms)]

    shared = lib.tl_shared_loops()
    alone = trained(1)
    assert lib.tl_shared_loops() == shared
    for threads in (2, 3):
        assert trained(threads) == alone, f"{threads} threads"
    assert lib.tl_shared_loops() > shared


def test_definitions_step_by_step() -> None:
    p = nn.Parameter(tl.tensor([1.0], dtype=tl.float64))
    optimizer = optim.SGD([p], lr=0.5, momentum=0.5, weight_decay=0.25)
    w = v = 0.0
    for step, g in enumerate([1.0, -2.0, 3.0]):
        w = w if step else 1.0
        p.grad = tl.tensor([g], dtype=tl.float64)
        optimizer.step()
        v = g + 0.25 * w + (0.5 * v if step else 0.0)
        w -= 0.5 * v
        assert math.isclose(p.item(), w, rel_tol=1e-12)


@pytest.mark.parametrize(("kind", "settings"), ALL_SETTINGS, ids=settings_id)
def test_other_dtypes_and_strides_take_the_definition(kind: Any, settings: dict[str, Any]) -> None:
    p = nn.Parameter(tl.ones(3, 4, dtype=tl.float64).mT)
    q = nn.Parameter(tl.ones(4, 3, dtype=tl.float64))
    for parameter in (p, q):
        optimizer = kind([parameter], **settings)
        for step in range(3):
            parameter.grad = draw(step, (4, 3), tl.float64)
            optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-12)
    half = nn.Parameter(tl.ones(2, dtype=tl.float16))
    half.grad = tl.ones(2, dtype=tl.float16)
    kind([half], **settings).step()
    assert half.dtype is tl.float16 and half.tolist() != [1.0, 1.0]


@pytest.mark.parametrize(("kind", "settings"), ALL_SETTINGS, ids=settings_id)
def test_state_round_trip(kind: Any, settings: dict[str, Any]) -> None:
    first, params = run(kind, settings)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    second = kind(twins, lr=99.0)
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(state)
    assert second.param_groups[0]["lr"] == settings["lr"]
    for step in (6, 7):
        set_gradients(params, step)
        set_gradients(twins, step)
        first.step()
        second.step()
    for a, b in zip(values(params), values(twins), strict=True):
        np.testing.assert_array_equal(a, b)
    for key, value in state["state"].get(0, {}).items():  # a loaded state is a copy
        assert second.state[twins[0]][key] is not value


def test_state_has_the_structure_of_pytorch() -> None:
    state = run(optim.Adam, {"lr": 0.01})[0].state_dict()
    assert set(state) == {"state", "param_groups"} and state["param_groups"][0]["params"] == [0, 1, 2, 3, 4]
    assert list(state["state"][0]) == ["step", "exp_avg", "exp_avg_sq"]
    assert [state["state"][i]["step"].item() for i in range(3)] == [5.0, 4.0, 5.0]
    assert list(run(optim.SGD, {"momentum": 0.5})[0].state_dict()["state"][0]) == ["momentum_buffer"]


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    optimizer, params = run(optim.Adam, {"lr": 0.01})
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"groups of \[5\] parameters do not fit groups of \[1\]"):
        optim.Adam([nn.Parameter(tl.ones(1))]).load_state_dict(before)
    bad = copy.deepcopy(before)
    bad["state"][4]["exp_avg"] = tl.zeros(2)
    with pytest.raises(ValueError, match=r"exp_avg of parameter 4 has shape \(2,\), expected \(67, 33\)"):
        optimizer.load_state_dict(bad)
    with pytest.raises(ValueError, match='expected a dict with "state"'):
        optimizer.load_state_dict({})
    assert optimizer.state[params[0]]["exp_avg"] is before["state"][0]["exp_avg"]


def test_groups_have_settings_of_their_own() -> None:
    a, b = nn.Parameter(tl.zeros(1)), nn.Parameter(tl.zeros(1))
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.25)
    for p in (a, b):
        p.grad = tl.ones(1)
    optimizer.step()
    assert (a.item(), b.item()) == (-0.25, -0.5)
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()
    assert (a.item(), b.item()) == (-1.25, -1.0)
    c = nn.Parameter(tl.zeros(1))
    optimizer.add_param_group({"params": [c], "lr": 2.0})
    c.grad = tl.ones(1)
    optimizer.step()
    assert c.item() == -2.0 and "lr=2.0" in repr(optimizer)


def test_zero_grad() -> None:
    params = parameters()
    optimizer = optim.SGD(params)
    set_gradients(params, 1)
    kept = params[0].grad
    optimizer.zero_grad(set_to_none=False)
    assert params[0].grad is kept and not kept.any() and params[1].grad is None
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    optimizer.step()  # nothing to do


def test_a_closure_runs_with_gradients_and_its_loss_comes_back() -> None:
    p = nn.Parameter(tl.ones(1))
    optimizer = optim.SGD([p], lr=0.5)

    def closure() -> tl.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with tl.no_grad():
        assert optimizer.step(closure).item() == 1.0
    assert p.item() == 0.0


def test_a_step_is_noticed_by_autograd() -> None:
    p = nn.Parameter(tl.ones(1))
    p.grad = tl.ones(1)
    out = p * p
    optim.SGD([p], lr=0.5).step()
    with pytest.raises(RuntimeError, match="overwritten in place"):
        out.backward()
    assert p.is_leaf and p.requires_grad


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in ALL_SETTINGS}, key=str))
def test_what_can_not_be_optimized_is_named(kind: Any) -> None:
    p = nn.Parameter(tl.ones(1))
    with pytest.raises(TypeError, match="got a single tensor: put it in a list"):
        kind(p)
    with pytest.raises(ValueError, match="got no parameters"):
        kind([])
    with pytest.raises(TypeError, match="parameter 1 must be a Tensor, got int"):
        kind([p, 3])
    with pytest.raises(ValueError, match=r"parameter 0 of shape .* is a result, not a leaf"):
        kind([p * 2])
    with pytest.raises(ValueError, match="appears more than once"):
        kind([p, p])
    with pytest.raises(ValueError, match="lr must be at least 0, got -1"):
        kind([p], lr=-1)
    with pytest.raises(TypeError, match='a dict with "params"'):
        kind([{"weights": [p]}])


def test_settings_are_checked() -> None:
    p = nn.Parameter(tl.ones(1))
    with pytest.raises(ValueError, match="nesterov must be False without momentum"):
        optim.SGD([p], nesterov=True)
    with pytest.raises(ValueError, match=r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"):
        optim.Adam([p], betas=(0.9, 1.0))


def test_copies_train_on() -> None:
    model = nn.Linear(2, 1)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    model(tl.ones(1, 2)).sum().backward()
    optimizer.step()
    twin_model, twin = pickle.loads(pickle.dumps((model, optimizer)))
    assert twin.param_groups[0]["params"][0] is twin_model.weight
    for m, o in ((model, optimizer), (twin_model, twin)):
        o.zero_grad()
        m(tl.ones(1, 2)).sum().backward()
        o.step()
    assert model.weight.tolist() == twin_model.weight.tolist()


RATES: dict[type[optim.Optimizer], float] = {
    optim.SGD: 0.3, optim.Adam: 0.1, optim.AdamW: 0.1, optim.ASGD: 0.3, optim.Adadelta: 5.0, optim.Adafactor: 0.1, optim.Adagrad: 0.5,
    optim.Adamax: 0.1, optim.LAMB: 0.02, optim.LARS: 5.0, optim.Lion: 0.03, optim.Muon: 0.03, optim.NAdam: 0.1, optim.RAdam: 0.1,
    optim.RMSprop: 0.02, optim.Rprop: 0.1,
}  # fmt: skip


@pytest.mark.parametrize("kind", RATES, ids=settings_id)
def test_every_optimizer_fits_a_map(kind: type[Any]) -> None:
    x = draw(0, (64, 2), tl.float32)
    y = x @ tl.tensor([[2.0, -1.0], [1.0, 0.5]])
    model = nn.Linear(2, 2, bias=False)
    optimizer = kind(model.parameters(), lr=RATES[kind])
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 2e-2


def test_every_optimizer_is_tried() -> None:
    kinds = {kind for name in optim.__all__ if isinstance(kind := getattr(optim, name), type)}
    elsewhere = {optim.Optimizer, optim.LBFGS, optim.SparseAdam}  # test_lbfgs.py, test_sparse.py
    assert kinds - elsewhere == set(RATES) == {kind for kind, _ in ALL_SETTINGS} | {optim.Muon}
