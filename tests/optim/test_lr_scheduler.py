"""Schedules beside their closed formulas, resumed in the middle, and the words of their errors."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn, optim
from tensorlib.optim import lr_scheduler as s
from tensorlib.optim.swa_utils import SWALR


def optimizer_of(lr: Any = 0.5, momentum: float = 0.9) -> optim.SGD:
    """Two groups, the second with a rate of 0.25."""
    return optim.SGD(
        [{"params": [nn.Parameter(tl.ones(1))]}, {"params": [nn.Parameter(tl.ones(1))], "lr": 0.25}],
        lr=lr,
        momentum=momentum,
    )


def run(scheduler: Any, steps: int) -> list[list[float]]:
    rates = [list(map(float, scheduler.get_last_lr()))]
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
        rates.append(list(map(float, scheduler.get_last_lr())))
    return rates


def wave(x: float) -> float:
    """From 1 to 0 as x goes from 0 to 1."""
    return (1 + math.cos(math.pi * x)) / 2


FORMULAS: list[tuple[Callable[[Any], Any], Callable[[int], float]]] = [  # a scheduler, and the factor at step t
    (lambda o: s.LambdaLR(o, lambda t: 1 / (t + 1)), lambda t: 1 / (t + 1)),
    (lambda o: s.MultiplicativeLR(o, lambda t: 1 - 1 / (t + 1)), lambda t: 1 / (t + 1)),
    (lambda o: s.StepLR(o, 4, 0.5), lambda t: 0.5 ** (t // 4)),
    (lambda o: s.MultiStepLR(o, [3, 8, 8], 0.5), lambda t: 0.5 ** ((t >= 3) + 2 * (t >= 8))),
    (lambda o: s.ConstantLR(o, 0.25, 6), lambda t: 0.25 if t < 6 else 1),
    (lambda o: s.LinearLR(o, 0.25, 0.75, 8), lambda t: 0.25 + 0.5 * min(t, 8) / 8),
    (lambda o: s.ExponentialLR(o, 0.9), lambda t: 0.9**t),
    (lambda o: s.PolynomialLR(o, 12, 2.0), lambda t: (1 - min(t, 12) / 12) ** 2),
    (lambda o: s.CosineAnnealingLR(o, 7), lambda t: wave(t / 7)),
    (lambda o: s.CosineAnnealingWarmRestarts(o, 3, 2), lambda t: wave(t / 3) if t < 3 else wave((t - 3) / 6) if t < 9 else wave((t - 9) / 12)),
    (lambda o: s.ChainedScheduler([s.ExponentialLR(o, 0.9), s.StepLR(o, 4, 0.5)]), lambda t: 0.9**t * 0.5 ** (t // 4)),
    (lambda o: s.SequentialLR(o, [s.LinearLR(o, 0.5, 1, 4), s.ExponentialLR(o, 0.5)], [4]), lambda t: 0.5 + t / 8 if t < 4 else 0.5 ** (t - 4)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "factor"), FORMULAS, ids=lambda v: v.__code__.co_names[0] if v.__code__.co_varnames == ("o",) else ""
)
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_formula(make: Any, factor: Any, tensor: bool) -> None:
    optimizer = optimizer_of(tl.tensor(0.5, dtype=tl.float64) if tensor else 0.5)
    held = optimizer.param_groups[0]["lr"]
    rates = run(make(optimizer), 20)
    np.testing.assert_allclose(rates, [[0.5 * factor(t), 0.25 * factor(t)] for t in range(21)], rtol=1e-9, atol=1e-15)
    assert not tensor or optimizer.param_groups[0]["lr"] is held


def test_cycles() -> None:
    optimizer = optimizer_of()
    rates = run(s.CyclicLR(optimizer, 0.0, 1.0, 4, 2, mode="triangular2"), 12)
    np.testing.assert_allclose(
        [r[0] for r in rates], [0, 0.25, 0.5, 0.75, 1, 0.5, 0, 0.125, 0.25, 0.375, 0.5, 0.25, 0], atol=1e-12
    )
    assert math.isclose(optimizer.param_groups[0]["momentum"], 0.9)
    rates = run(s.CyclicLR(optimizer_of(), 0.0, 1.0, 2, mode="exp_range", gamma=0.5), 4)
    np.testing.assert_allclose([r[0] for r in rates], [0, 0.25, 0.25, 0.0625, 0], atol=1e-12)
    adam = optim.Adam([nn.Parameter(tl.ones(1))])
    run(s.CyclicLR(adam, 0.0, 1.0, 2), 2)
    assert adam.param_groups[0]["betas"] == (0.8, 0.999)


def test_one_cycle() -> None:
    optimizer = optimizer_of()
    scheduler = s.OneCycleLR(
        optimizer, 1.0, 11, pct_start=0.5, anneal_strategy="linear", div_factor=10, final_div_factor=10
    )
    rates = [r[0] for r in run(scheduler, 10)]
    np.testing.assert_allclose(rates[:5], [0.1, 0.3, 0.5, 0.7, 0.9], atol=1e-12)
    assert math.isclose(rates[10], 0.01) and math.isclose(optimizer.param_groups[1]["momentum"], 0.95)
    run(scheduler, 1)
    with pytest.raises(ValueError, match="step 12 of a schedule of total_steps=11"):
        run(scheduler, 1)
    short = s.OneCycleLR(optimizer_of(), 1.0, 2, pct_start=0.5)  # the way up has no step
    assert all(map(math.isfinite, run(short, 2)[-1]))


def test_plateau() -> None:
    optimizer = optimizer_of()
    scheduler = s.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=2, min_lr=0.1)
    rates = []
    for loss in (5, 4, 4, tl.tensor(4.0), 4, 4, 4, 4, 3, 3, 3, 3):
        scheduler.step(loss)
        rates.append(scheduler.get_last_lr()[0])
    assert rates == [0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125, 0.125, 0.1]
    assert optimizer.param_groups[1]["lr"] == 0.1
    optimizer.add_param_group({"params": [nn.Parameter(tl.ones(1))], "lr": 1.0})
    for _ in range(4):
        scheduler.step(9)
    assert optimizer.param_groups[2]["lr"] == 0.5
    scheduler = s.ReduceLROnPlateau(optimizer, "max", patience=0, min_lr=[0, 0, 0])
    optimizer.add_param_group({"params": [nn.Parameter(tl.ones(1))]})
    scheduler.step(1)
    with pytest.raises(RuntimeError, match="min_lr has 3 values, expected one for each of 4 groups"):
        scheduler.step(1)


@pytest.mark.parametrize("make", [
    *(make for make, _ in FORMULAS),
    lambda o: s.CyclicLR(o, 0.1, 1.0, 3, mode="triangular2"),
    lambda o: s.OneCycleLR(o, 1.0, 40),
    lambda o: SWALR(o, 0.05, 12),
], ids=lambda v: v.__code__.co_names[0])  # fmt: skip
def test_a_resumed_schedule_has_the_same_bits(make: Any) -> None:
    whole, first = make(optimizer_of()), make(optimizer_of())
    run(first, 10)
    expected = run(whole, 30)[10:]
    optimizer = optimizer_of(lr=7.0)
    second = make(optimizer)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    optimizer.load_state_dict(first.optimizer.state_dict())
    assert run(second, 20) == expected
    assert optimizer.param_groups[0]["momentum"] == whole.optimizer.param_groups[0]["momentum"]


def test_copies_go_on() -> None:
    scheduler = s.CosineAnnealingLR(optimizer_of(), 9)
    run(scheduler, 3)
    twin = pickle.loads(pickle.dumps(scheduler))
    assert twin.optimizer is not scheduler.optimizer
    assert run(twin, 5) == run(scheduler, 5)


def test_functions_with_a_state_keep_it() -> None:
    class Falling:
        rate = 0.5

        def __call__(self, t: float) -> float:
            return float(self.rate**t)

    function = Falling()
    function.rate = 0.25
    state = s.LambdaLR(optimizer_of(), [lambda t: 1.0, function]).state_dict()
    assert state["lr_lambdas"] == [None, {"rate": 0.25}]
    other = Falling()
    s.LambdaLR(optimizer_of(), [lambda t: 1.0, other]).load_state_dict(state)
    assert other.rate == 0.25
    cycle = s.CyclicLR(optimizer_of(), 0.0, 1.0, 2, scale_fn=function)
    twin = s.CyclicLR(optimizer_of(), 0.0, 1.0, 2, scale_fn=(other := Falling()))
    twin.load_state_dict(cycle.state_dict())
    assert other.rate == 0.25


def test_what_users_define_works() -> None:
    class Halving(s._LRScheduler):
        def get_lr(self) -> list[float]:
            assert self._get_lr_called_within_step
            return [base * 0.5**self.last_epoch for base in self.base_lrs]

    assert run(Halving(optimizer_of()), 2) == [[0.5, 0.25], [0.25, 0.125], [0.125, 0.0625]]


def test_warnings() -> None:
    scheduler = s.StepLR(optimizer_of(), 3)
    with pytest.warns(UserWarning, match=r"scheduler.step\(\) was called before optimizer.step\(\)"):
        scheduler.step()
    with pytest.warns(UserWarning, match="deprecated: call step"):
        scheduler.step(6)
    assert math.isclose(scheduler.get_last_lr()[0], 0.005)
    with pytest.warns(UserWarning, match="deprecated: call step"):
        s.ReduceLROnPlateau(optimizer_of()).step(1.0, 3)


def bad(make: Callable[[Any], Any], error: type[Exception], words: str) -> Any:
    return pytest.param(make, error, words, id=words[:40])


@pytest.mark.parametrize(("make", "error", "words"), [
    bad(lambda o: s.StepLR(3, 1), TypeError, "StepLR: optimizer must be an Optimizer, got int"),
    bad(lambda o: s.StepLR(o, 0), ValueError, "StepLR: step_size must be positive, got 0"),
    bad(lambda o: s.StepLR(o, 3, last_epoch=4), KeyError, "group 0 has no initial_lr: to go on at last_epoch=4"),
    bad(lambda o: s.LambdaLR(o, [abs]), ValueError, "LambdaLR: got 1 lr_lambda, expected one for each of 2"),
    bad(lambda o: s.MultiplicativeLR(o, 0.5), TypeError, "MultiplicativeLR: lr_lambda must be a function, got float"),
    bad(lambda o: s.ConstantLR(o, 2), ValueError, r"ConstantLR: factor must be in \[0, 1\], got 2"),
    bad(lambda o: s.LinearLR(o, 0), ValueError, r"LinearLR: start_factor must be in \(0, 1\], got 0"),
    bad(lambda o: s.CosineAnnealingLR(o, 0), ValueError, "CosineAnnealingLR: T_max must be positive"),
    bad(lambda o: s.CosineAnnealingWarmRestarts(o, 2.5), ValueError, "T_0 must be a positive integer, got 2.5"),
    bad(lambda o: s.CyclicLR(o, 0.1, 1, mode="square"), ValueError, "mode must be one of triangular, triangular2, exp_range"),
    bad(lambda o: s.CyclicLR(optim.Adagrad([nn.Parameter(tl.ones(1))]), 0.1, 1), ValueError, "cycle_momentum must be False for Adagrad"),
    bad(lambda o: s.OneCycleLR(o, [1.0], 5), ValueError, "OneCycleLR: max_lr has 1 values, expected one for each of 2"),
    bad(lambda o: s.OneCycleLR(o, 1.0), ValueError, "give total_steps, or both epochs and steps_per_epoch"),
    bad(lambda o: s.OneCycleLR(o, 1.0, epochs=0, steps_per_epoch=3), ValueError, "epochs must be a positive integer, got 0"),
    bad(lambda o: s.ReduceLROnPlateau(o, "least"), ValueError, 'mode must be "min" or "max", got least'),
    bad(lambda o: s.SequentialLR(o, [], []), ValueError, "SequentialLR: got no schedulers"),
    bad(lambda o: s.SequentialLR(o, [s.StepLR(o, 1)], [3]), ValueError, "got 1 milestones, expected 0 for 1 schedulers"),
    bad(lambda o: s.SequentialLR(o, [s.StepLR(o, 1), s.ChainedScheduler([s.StepLR(o, 1)])], [3]), ValueError, "which can only come first"),
    bad(lambda o: s.ChainedScheduler([s.ReduceLROnPlateau(o)]), ValueError, "scheduler 0 is a ReduceLROnPlateau"),
    bad(lambda o: s.ChainedScheduler([s.StepLR(o, 1), s.StepLR(optimizer_of(), 1)]), ValueError, "scheduler 1, StepLR, belongs to another"),
    bad(lambda o: s.ChainedScheduler([o]), TypeError, "scheduler 0 must have an optimizer, got SGD"),
    bad(lambda o: s.ChainedScheduler([s.StepLR(o, 1)]).load_state_dict({"_schedulers": []}), ValueError, "0 schedulers do not fit 1"),
    bad(lambda o: SWALR(o, 0.1, -1), ValueError, "SWALR: anneal_epochs must be an integer, at least 0, got -1"),
])  # fmt: skip
def test_errors(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make(optimizer_of())
