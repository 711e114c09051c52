"""Schedules beside PyTorch's, step by step."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEPS, MIDDLE = 100, 37
Make = Callable[[Any, Any], Any]  # (the library's optim, optimizer) -> scheduler


class Decay:
    """A user's function with a state."""

    def __init__(self) -> None:
        self.rate = 0.97

    def __call__(self, t: float) -> float:
        return float(self.rate**t)


def combined(o: Any, optimizer: Any) -> Any:
    s = o.lr_scheduler
    parts = [s.LinearLR(optimizer, total_iters=9), s.CosineAnnealingLR(optimizer, 30), s.ExponentialLR(optimizer, 0.9)]
    return s.SequentialLR(optimizer, parts, [10, 50])


def nested(o: Any, optimizer: Any) -> Any:
    s = o.lr_scheduler
    inner = s.SequentialLR(optimizer, [s.ConstantLR(optimizer, total_iters=3), s.StepLR(optimizer, 5, 0.7)], [4])
    return s.SequentialLR(optimizer, [inner, s.LinearLR(optimizer)], [20])


def chained(o: Any, optimizer: Any) -> Any:
    s = o.lr_scheduler
    return s.ChainedScheduler(
        [s.LinearLR(optimizer, total_iters=9), s.CosineAnnealingLR(optimizer, 30), s.StepLR(optimizer, 7, 0.8)]
    )


MAKES: list[tuple[str, Make]] = [
    ("LambdaLR", lambda o, x: o.lr_scheduler.LambdaLR(x, [lambda t: 0.95**t, Decay()])),
    ("MultiplicativeLR", lambda o, x: o.lr_scheduler.MultiplicativeLR(x, lambda t: 0.9 if t % 3 else 1.1)),
    ("StepLR", lambda o, x: o.lr_scheduler.StepLR(x, 7, 0.5)),
    ("MultiStepLR", lambda o, x: o.lr_scheduler.MultiStepLR(x, [3, 11, 11, 60])),
    ("ConstantLR", lambda o, x: o.lr_scheduler.ConstantLR(x, 0.3, 20)),
    ("LinearLR", lambda o, x: o.lr_scheduler.LinearLR(x, 0.2, 0.9, 40)),
    ("ExponentialLR", lambda o, x: o.lr_scheduler.ExponentialLR(x, 0.95)),
    ("PolynomialLR", lambda o, x: o.lr_scheduler.PolynomialLR(x, 60, 1.7)),
    ("CosineAnnealingLR", lambda o, x: o.lr_scheduler.CosineAnnealingLR(x, 17, 0.01)),
    ("CosineAnnealingWarmRestarts", lambda o, x: o.lr_scheduler.CosineAnnealingWarmRestarts(x, 5, 2, 0.01)),
    ("CosineAnnealingWarmRestarts-1", lambda o, x: o.lr_scheduler.CosineAnnealingWarmRestarts(x, 7)),
    ("CyclicLR", lambda o, x: o.lr_scheduler.CyclicLR(x, [0.01, 0.02], 0.5, 7, 4)),
    ("CyclicLR-triangular2", lambda o, x: o.lr_scheduler.CyclicLR(x, 0.01, 0.5, 7, mode="triangular2")),
    ("CyclicLR-exp_range", lambda o, x: o.lr_scheduler.CyclicLR(x, 0.01, 0.5, 7, mode="exp_range", gamma=0.98, cycle_momentum=False)),
    ("CyclicLR-scale_fn", lambda o, x: o.lr_scheduler.CyclicLR(x, 0.01, 0.5, 7, scale_fn=Decay(), scale_mode="iterations")),
    ("OneCycleLR", lambda o, x: o.lr_scheduler.OneCycleLR(x, [0.5, 0.7], total_steps=STEPS)),
    ("OneCycleLR-linear", lambda o, x: o.lr_scheduler.OneCycleLR(x, 0.5, epochs=20, steps_per_epoch=5, anneal_strategy="linear", pct_start=0.1)),
    ("OneCycleLR-three", lambda o, x: o.lr_scheduler.OneCycleLR(x, 0.5, STEPS, three_phase=True, cycle_momentum=False)),
    ("ReduceLROnPlateau", lambda o, x: o.lr_scheduler.ReduceLROnPlateau(x, factor=0.5, patience=2, cooldown=3, min_lr=[0.01, 0.05])),
    ("ReduceLROnPlateau-max", lambda o, x: o.lr_scheduler.ReduceLROnPlateau(x, "max", 0.5, 1, 0.05, "abs")),
    ("ReduceLROnPlateau-rel", lambda o, x: o.lr_scheduler.ReduceLROnPlateau(x, "max", 0.5, 1, 0.05)),
    ("ReduceLROnPlateau-abs", lambda o, x: o.lr_scheduler.ReduceLROnPlateau(x, "min", 0.5, 1, 0.05, "abs")),
    ("SequentialLR", combined),
    ("SequentialLR-nested", nested),
    ("ChainedScheduler", chained),
    ("SWALR", lambda o, x: o.swa_utils.SWALR(x, [0.05, 0.5], 20)),
    ("SWALR-linear", lambda o, x: o.swa_utils.SWALR(x, 0.05, 0, "linear")),
]  # fmt: skip
NAMES = [name for name in torch.optim.lr_scheduler.__all__ if name != "LRScheduler"]


def optimizer_of(lib: Any, kind: str, rate: Any = 0.3) -> Any:
    groups = [{"params": [lib.nn.Parameter(lib.ones(1))]}, {"params": [lib.nn.Parameter(lib.ones(1))], "lr": 0.1}]
    return getattr(lib.optim, kind)(groups, lr=rate, **({"momentum": 0.9} if kind == "SGD" else {}))


def trace(optimizer: Any, scheduler: Any, first: int, last: int) -> Iterator[list[float]]:
    """Rates and momenta of each step."""
    for step in range(first, last):
        optimizer.step()
        if type(scheduler).__name__ == "ReduceLROnPlateau":
            scheduler.step(np.random.default_rng(step).uniform(0, 1 + 0.1 * (step % 11)))
        else:
            scheduler.step()
        assert [float(v) for v in scheduler.get_last_lr()] == [float(g["lr"]) for g in optimizer.param_groups]
        yield [
            float(v)
            for g in optimizer.param_groups
            for v in (g["lr"], g["momentum"] if "momentum" in g else g["betas"][0])
        ]


def plain(value: Any) -> Any:
    return (
        {k: plain(v) for k, v in value.items()}
        if isinstance(value, dict)
        else list(map(plain, value))
        if isinstance(value, (list, tuple))
        else value
    )


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "make"), MAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_steps_and_states(name: str, make: Make, kind: str) -> None:
    """The same rates; a state taken in the middle goes on to the end in either library."""
    us, them = optimizer_of(tl, kind), optimizer_of(torch, kind)
    ours, theirs = make(tl.optim, us), make(torch.optim, them)
    np.testing.assert_allclose(list(trace(us, ours, 0, MIDDLE)), list(trace(them, theirs, 0, MIDDLE)), rtol=1e-12)
    state, expected = ours.state_dict(), theirs.state_dict()
    assert set(state) == set(expected)
    for key, value in expected.items():
        np.testing.assert_equal(_rounded(plain(state[key])), _rounded(plain(value)), err_msg=key)
    assert [set(g) - {"params"} for g in us.param_groups] == [set(g) - {"params"} for g in them.param_groups]
    resumed, there = optimizer_of(tl, kind), optimizer_of(torch, kind)
    ours_resumed, ours_there = make(tl.optim, resumed), make(torch.optim, there)
    ours_resumed.load_state_dict(expected)
    resumed.load_state_dict(them.state_dict())
    ours_there.load_state_dict(state)
    there.load_state_dict(us.state_dict())
    rest = list(trace(them, theirs, MIDDLE, STEPS))
    for optimizer, scheduler in ((us, ours), (resumed, ours_resumed), (there, ours_there)):
        np.testing.assert_allclose(list(trace(optimizer, scheduler, MIDDLE, STEPS)), rest, rtol=1e-12, atol=1e-15)


def _rounded(value: Any) -> Any:
    """Rates may differ in their last bits."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


@pytest.mark.parametrize("epochs", [[0, 5, 3, 50, 51], [2.5, 7.25, 31.5]], ids=["whole", "fractions"])
@pytest.mark.parametrize(("name", "make"), MAKES[:12], ids=lambda v: v if isinstance(v, str) else "")
def test_steps_to_any_epoch(name: str, make: Make, epochs: list[Any]) -> None:
    if isinstance(epochs[0], float) and "Restarts" not in name:
        epochs = [int(e) for e in epochs]
    us, them = optimizer_of(tl, "SGD"), optimizer_of(torch, "SGD")
    ours, theirs = make(tl.optim, us), make(torch.optim, them)
    for epoch in epochs:
        ours.step(epoch)
        theirs.step(epoch)
        np.testing.assert_allclose(ours.get_last_lr(), theirs.get_last_lr(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "make"), MAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_rates_in_tensors(name: str, make: Make) -> None:
    us, them = optimizer_of(tl, "SGD", tl.tensor(0.3)), optimizer_of(torch, "SGD", torch.tensor(0.3))
    held = us.param_groups[0]["lr"]
    ours, theirs = make(tl.optim, us), make(torch.optim, them)
    np.testing.assert_allclose(list(trace(us, ours, 0, 50)), list(trace(them, theirs, 0, 50)), rtol=1e-4, atol=1e-6)
    assert us.param_groups[0]["lr"] is held


@pytest.mark.parametrize(
    ("name", "make"),
    [m for m in MAKES if m[0].split("-")[0] in NAMES[:9]],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_made_in_the_middle(name: str, make: Make) -> None:
    """With last_epoch given, for groups that know their initial_lr."""
    last = {"last_epoch": 10}
    us, them = optimizer_of(tl, "SGD"), optimizer_of(torch, "SGD")
    ends = []
    for lib, optimizer in ((tl, us), (torch, them)):
        first = make(lib.optim, optimizer)
        list(trace(optimizer, first, 0, 10))
        if name.startswith("SequentialLR"):
            return
        kind, settings = (
            type(first),
            {k: v for k, v in first.state_dict().items() if k in inspect.signature(type(first)).parameters},
        )
        if "lr_lambdas" in first.state_dict():
            settings["lr_lambda"] = first.lr_lambdas
        ends.append(list(trace(optimizer, kind(optimizer, **{**settings, **last}), 10, 40)))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", [*NAMES, "LRScheduler"])
def test_signatures(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(lib.optim.lr_scheduler, name)).parameters for lib in (tl, torch))
    assert {n: (p.default, p.kind) for n, p in ours.items()} == {n: (p.default, p.kind) for n, p in theirs.items()}


def test_all_are_compared() -> None:
    assert {name.split("-")[0] for name, _ in MAKES} == {*NAMES, "SWALR"}
    assert set(tl.optim.lr_scheduler.__all__) == {*NAMES, "LRScheduler"}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("ConstantLR", {"factor": 1.5}), ("LinearLR", {"start_factor": 0}), ("LinearLR", {"end_factor": 2}), ("LambdaLR", {"lr_lambda": [Decay()]}),
    ("CosineAnnealingWarmRestarts", {"T_0": 0}), ("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 0}),
    ("CyclicLR", {"base_lr": 1, "max_lr": 2, "mode": "square"}), ("CyclicLR", {"base_lr": [1], "max_lr": 2}),
    ("OneCycleLR", {"max_lr": 1}), ("OneCycleLR", {"max_lr": 1, "total_steps": 0}),
    ("OneCycleLR", {"max_lr": 1, "total_steps": 5, "pct_start": 2.0}),
    ("OneCycleLR", {"max_lr": 1, "total_steps": 5, "anneal_strategy": "none"}), ("ReduceLROnPlateau", {"factor": 1.0}),
    ("ReduceLROnPlateau", {"mode": "less"}), ("ReduceLROnPlateau", {"min_lr": [1]}), ("StepLR", {"step_size": 3, "last_epoch": 5}),
    ("ChainedScheduler", {"schedulers": []}), ("SequentialLR", {"schedulers": [], "milestones": []}), ("MultiplicativeLR", {"lr_lambda": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), BAD, ids=str)
def test_classes_of_errors(name: str, settings: dict[str, Any]) -> None:
    raised = []
    for lib in (tl, torch):
        with pytest.raises((ValueError, TypeError, KeyError)) as caught:
            getattr(lib.optim.lr_scheduler, name)(**{"optimizer": optimizer_of(lib, "SGD"), **settings})
        raised.append(caught.type)
    assert issubclass(raised[0], raised[1])


def test_the_order_of_steps_is_warned_about() -> None:
    for lib in (tl, torch):
        optimizer = optimizer_of(lib, "SGD")
        scheduler = lib.optim.lr_scheduler.StepLR(optimizer, 3)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            scheduler.step()
        assert [w.category for w in said] == [UserWarning], lib
