"""What all optimizers share: names, hooks, hints, states on their way in and out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn, optim
from tensorlib.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook, required


def parameter(value: float = 1.0) -> nn.Parameter:
    p = nn.Parameter(tl.tensor([value]))
    p.grad = tl.ones(1)
    return p


def test_names_are_kept() -> None:
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.named_parameters(), lr=0.5)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.param_groups[0]["params"][1] is model.bias
    state = optimizer.state_dict()
    other = optim.SGD([("w", model.weight), ("b", model.bias)])
    other.load_state_dict(state)
    assert other.param_groups[0]["param_names"] == ["weight", "bias"]
    del state["param_groups"][0]["param_names"]
    other.load_state_dict(state)
    assert other.param_groups[0]["param_names"] == ["weight", "bias"]
    with pytest.raises(ValueError, match="either all parameters have names"):
        optim.SGD([("w", model.weight), model.bias])
    with pytest.raises(ValueError, match="either all parameters have names"):
        optimizer.add_param_group({"params": [nn.Parameter(tl.ones(1))]})
    optimizer.add_param_group({"params": [("extra", nn.Parameter(tl.ones(1)))]})
    assert len(optimizer.param_groups) == 2


def test_a_group_that_is_refused_changes_nothing() -> None:
    a, b = parameter(), parameter()
    optimizer = optim.Adagrad([a])
    for group, error, words in (
        ({"params": {b}}, TypeError, "an order that lasts, got a set"),
        ({"params": [b, a]}, ValueError, "more than once"),
        ({"params": [b], "differentiable": True}, NotImplementedError, "differentiable=True is not supported"),
        ({"params": [b * 2]}, ValueError, "not a leaf"),
    ):
        with pytest.raises(error, match=words):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1 and list(optimizer.state) == [a]
    with pytest.raises(ValueError, match=r"Muon: parameter 0 must be a matrix, got shape \(1,\)"):
        optim.Muon([b])


def test_required_settings() -> None:
    class Plain(optim.Optimizer):
        def __init__(self, params: Any, lr: Any = required) -> None:
            super().__init__(params, {"lr": lr})

    with pytest.raises(ValueError, match="must set lr"):
        Plain([parameter()])
    assert Plain([{"params": [parameter()], "lr": 1}]).param_groups[0]["lr"] == 1


def test_hints_of_pytorch_are_taken() -> None:
    for kind in (optim.SGD, optim.Adam, optim.AdamW):
        kind([parameter()], foreach=True).step()
        with pytest.raises(RuntimeError, match="fused and foreach can not both be True"):
            kind([parameter()], foreach=True, fused=True)
    for kind in (optim.Adamax, optim.NAdam, optim.RAdam, optim.Adadelta, optim.RMSprop, optim.Rprop, optim.ASGD):
        kind([parameter()], foreach=True, capturable=True).step()
        with pytest.raises(NotImplementedError, match="differentiable=True"):
            kind([parameter()], differentiable=True)


def test_hooks_of_a_step() -> None:
    said: list[Any] = []
    p = parameter()
    optimizer = optim.SGD([p], lr=0.5)
    handles = [
        register_optimizer_step_pre_hook(lambda o, args, kwargs: said.append(("before all", p.item()))),
        register_optimizer_step_post_hook(lambda o, args, kwargs: said.append(("after all", p.item()))),
        optimizer.register_step_pre_hook(lambda o, args, kwargs: said.append(("before", o is optimizer, args, kwargs))),
        optimizer.register_step_post_hook(lambda o, args, kwargs: said.append(("after", p.item()))),
    ]
    optimizer.step()
    assert said == [("before all", 1.0), ("before", True, (), {}), ("after", 0.5), ("after all", 0.5)]
    assert not copy.deepcopy(optimizer)._before
    for handle in handles:
        handle.remove()
    said.clear()
    optimizer.step()
    assert said == []
    with optimizer.register_step_pre_hook(lambda o, args, kwargs: ((lambda: said.append("closure"),), {})):
        optimizer.step()
    assert said == ["closure"]
    optimizer.register_step_pre_hook(lambda o, args, kwargs: 3)
    with pytest.raises(RuntimeError, match=r"a step pre-hook must return None or a pair \(args, kwargs\), got 3"):
        optimizer.step()
    assert not optimizer._stepping


def test_a_step_of_ones_own_runs_the_hooks_once() -> None:
    class Twice(optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step()
            return super().step(closure)

    p, said = parameter(), []
    optimizer = Twice([p], lr=0.25)
    optimizer.register_step_post_hook(lambda *_: said.append(1))
    optimizer.step()
    assert p.item() == 0.5 and said == [1]


def test_hooks_of_states() -> None:
    p = parameter()
    optimizer = optim.SGD([p], momentum=0.5)
    optimizer.step()
    said: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda o: said.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "extra": 1})
    optimizer.register_state_dict_post_hook(lambda o, state: said.append("first"), prepend=True)
    state = optimizer.state_dict()
    assert state["extra"] == 1 and said == ["before saving", "first"]

    def faster(o: Any, state: dict[str, Any]) -> dict[str, Any]:
        assert state.pop("extra") == 1
        return {**state, "param_groups": [{**state["param_groups"][0], "lr": 9.0}]}

    optimizer.register_load_state_dict_pre_hook(faster)
    optimizer.register_load_state_dict_post_hook(lambda o: said.append("after loading"))
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 9.0 and said[-1] == "after loading" and state["extra"] == 1


def test_states_of_arrays_lists_and_numbers_are_copied() -> None:
    class Remembering(optim.Optimizer):
        def update_one(self, p: Any, g: Any, state: Any, h: Any) -> None:
            state["history"] = [*state.get("history", ()), g.clone()]
            state["nested"] = {"count": len(state["history"]), "last": (g.clone(), None)}

    p = parameter()
    optimizer = Remembering([p], {"lr": 1.0})
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["array"] = np.arange(3)
    twin = Remembering([nn.Parameter(tl.ones(1, dtype=tl.float64))], {"lr": 1.0})
    twin.load_state_dict(state)
    loaded = next(iter(twin.state.values()))
    assert loaded["history"][0].dtype is tl.float64 and loaded["history"][0] is not state["state"][0]["history"][0]
    assert (
        loaded["nested"]["count"] == 1 and loaded["nested"]["last"][1] is None and loaded["array"].tolist() == [0, 1, 2]
    )


def test_a_rate_may_be_a_tensor() -> None:
    lr = tl.tensor(0.5)
    for kind in (optim.SGD, optim.Lion):
        p = parameter()
        optimizer = kind([p], lr=lr)
        optimizer.step()
        assert p.item() == 0.5
        lr.fill_(0.25)
        p.grad = tl.ones(1)
        optimizer.step()
        assert p.item() == 0.25
        lr.fill_(0.5)
    with pytest.raises(ValueError, match=r"SGD: lr must have one element, got shape \(2,\)"):
        optim.SGD([parameter()], lr=tl.ones(2))
    with pytest.raises(ValueError, match="SGD: lr must be at least 0, got nan"):
        optim.SGD([parameter()], lr=float("nan"))


@pytest.mark.parametrize(("kind", "settings", "words"), [
    (optim.Adamax, {"eps": -1}, "Adamax: eps must be at least 0, got -1"),
    (optim.NAdam, {"momentum_decay": -1}, "NAdam: momentum_decay must be at least 0"),
    (optim.RAdam, {"betas": (0.9, 1.0)}, r"RAdam: betas must be two numbers in \[0, 1\)"),
    (optim.Adagrad, {"lr_decay": -1}, "Adagrad: lr_decay must be at least 0"),
    (optim.Adadelta, {"rho": 2}, r"Adadelta: rho must be in \[0, 1\], got 2"),
    (optim.RMSprop, {"alpha": -1}, "RMSprop: alpha must be at least 0"),
    (optim.Rprop, {"etas": (1.2, 0.5)}, r"Rprop: etas must be a factor in \(0, 1\) and one above 1"),
    (optim.Rprop, {"step_sizes": (2, 1)}, "Rprop: step_sizes must be the smallest and the largest size"),
    (optim.ASGD, {"weight_decay": -1}, "ASGD: weight_decay must be at least 0"),
    (optim.Adafactor, {"d": 0.5}, "Adafactor: d must be at least 1"),
    (optim.Adafactor, {"beta2_decay": 1}, "Adafactor: beta2_decay must be at most 0"),
    (optim.Muon, {"adjust_lr_fn": "more"}, "Muon: adjust_lr_fn must be None"),
    (optim.Muon, {"ns_steps": 100}, r"Muon: ns_steps must be in \[0, 100\)"),
    (optim.Lion, {"weight_decay": -1}, "Lion: weight_decay must be at least 0"),
    (optim.LARS, {"momentum": 0, "nesterov": True}, "LARS: nesterov must be False without momentum"),
    (optim.LAMB, {"eps": -1}, "LAMB: eps must be at least 0"),
], ids=lambda v: v if isinstance(v, str) else getattr(v, "__name__", ""))  # fmt: skip
def test_settings_are_checked(kind: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind([nn.Parameter(tl.ones(2, 2))], **settings)


def test_swapped_in() -> None:
    p, q = parameter(1.0), parameter(5.0)
    optimizer = optim.SGD([p], lr=0.5, momentum=0.5)
    optimizer.step()
    state = {
        "state": {0: {"momentum_buffer": tl.ones(1)}},
        "param_groups": [{**optimizer.state_dict()["param_groups"][0], "lr": 1.0}],
    }
    before = optimizer.state[p]["momentum_buffer"].item()
    with optim.swap_in_optimizer_params_and_state(optimizer, {"q": q}, state):
        optimizer.step()
    assert q.item() == 3.5 and state["state"][0]["momentum_buffer"].item() == 1.5
    assert optimizer.param_groups[0]["params"] == [p] and optimizer.state[p]["momentum_buffer"].item() == before
    with (
        pytest.raises(ValueError, match=r"groups of \[1\] and 2 parameters do not fit groups of \[1\]"),
        optim.swap_in_optimizer_params_and_state(optimizer, {"p": p, "q": q}, state),
    ):
        pass
