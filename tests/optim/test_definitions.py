"""Every optimizer beside its formula in NumPy, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn, optim

Array = np.ndarray[Any, Any]
Rule = Callable[
    ..., Array
]  # (step from 1, parameter, gradient, memory, settings) -> parameter; the memory starts empty


def norm(x: Array) -> float:
    return float(np.sqrt((x * x).sum()))


def average(s: Any, key: str, new: Array, keep: float) -> Array:
    """A running average from 0."""
    s[key] = keep * s.get(key, 0.0) + (1 - keep) * new
    return s[key]


def adam(
    t: int,
    p: Array,
    g: Array,
    s: Any,
    *,
    lr: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    decay: float = 0.0,
) -> Array:
    m, v = average(s, "m", g, b1), average(s, "v", g * g, b2)
    return p * (1 - lr * decay) - lr * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def adamax(t: int, p: Array, g: Array, s: Any, *, lr: float) -> Array:
    s["u"] = np.maximum(0.999 * s.get("u", 0 * g), abs(g) + 1e-8)
    return p - lr * average(s, "m", g, 0.9) / (1 - 0.9**t) / s["u"]


def nadam(t: int, p: Array, g: Array, s: Any, *, lr: float) -> Array:
    m, v = average(s, "m", g, 0.9), average(s, "v", g * g, 0.999)
    momenta = [0.9 * (1 - 0.5 * 0.96 ** (i * 0.004)) for i in range(1, t + 2)]
    step = (1 - momenta[-2]) * g / (1 - math.prod(momenta[:-1])) + momenta[-1] * m / (1 - math.prod(momenta))
    return p - lr * step / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def radam(t: int, p: Array, g: Array, s: Any, *, lr: float, b2: float) -> Array:
    m, v = average(s, "m", g, 0.9) / (1 - 0.9**t), average(s, "v", g * g, b2)
    most = 2 / (1 - b2) - 1
    seen = most - 2 * t * b2**t / (1 - b2**t)
    if seen <= 5:
        return p - lr * m
    trust = math.sqrt((seen - 4) * (seen - 2) * most / ((most - 4) * (most - 2) * seen))
    return p - lr * m * trust * math.sqrt(1 - b2**t) / (np.sqrt(v) + 1e-8)


def adagrad(t: int, p: Array, g: Array, s: Any, *, lr: float, lr_decay: float, start: float) -> Array:
    s["sum"] = s.get("sum", start) + g * g
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["sum"]) + 1e-10)


def adadelta(t: int, p: Array, g: Array, s: Any, *, lr: float) -> Array:
    v = average(s, "v", g * g, 0.9)
    d = g * np.sqrt(s.get("u", 0.0) + 1e-6) / np.sqrt(v + 1e-6)
    average(s, "u", d * d, 0.9)
    return p - lr * d


def rmsprop(t: int, p: Array, g: Array, s: Any, *, lr: float, momentum: float, centered: bool) -> Array:
    v = average(s, "v", g * g, 0.99) - (average(s, "m", g, 0.99) ** 2 if centered else 0)
    s["b"] = momentum * s.get("b", 0.0) + g / (np.sqrt(v) + 1e-8)
    return p - lr * s["b"]


def rprop(t: int, p: Array, g: Array, s: Any, *, lr: float) -> Array:
    agreement = np.sign(g * s.get("g", 0 * g))
    s["size"] = np.clip(
        s.get("size", lr + 0 * g) * np.where(agreement > 0, 1.2, np.where(agreement < 0, 0.5, 1)), 1e-6, 50
    )
    s["g"] = np.where(agreement < 0, 0, g)
    return p - np.sign(s["g"]) * s["size"]


def asgd(t: int, p: Array, g: Array, s: Any, *, lr: float) -> Array:
    eta = lr if t == 1 else lr / (1 + 1e-4 * lr * (t - 1)) ** 0.75
    return p * (1 - 1e-4 * eta) - eta * g


def adafactor(t: int, p: Array, g: Array, s: Any, *, lr: float) -> Array:
    keep = 1 - t**-0.8
    if p.ndim > 1:
        row, column = (
            average(s, "r", (g * g).mean(-1, keepdims=True), keep),
            average(s, "c", (g * g).mean(-2, keepdims=True), keep),
        )
        v = row * column / row.mean(-2, keepdims=True)
    else:
        v = average(s, "v", g * g, keep)
    u = g / np.sqrt(v)
    return p - max(1e-3, norm(p) / math.sqrt(p.size)) * min(lr, t**-0.5) * u / max(1, norm(u) / math.sqrt(p.size))


def lion(t: int, p: Array, g: Array, s: Any, *, lr: float, decay: float) -> Array:
    direction = np.sign(0.9 * s.get("m", 0.0) + 0.1 * g)
    average(s, "m", g, 0.99)
    return p * (1 - lr * decay) - lr * direction


def lars(t: int, p: Array, g: Array, s: Any, *, lr: float, decay: float, adapt: bool = True) -> Array:
    rate = lr * (1e-3 * norm(p) / (norm(g) + decay * norm(p) + 1e-8) if adapt else 1)
    s["b"] = 0.9 * s.get("b", 0.0) + rate * (g + decay * p)
    return p - s["b"]


def lamb(t: int, p: Array, g: Array, s: Any, *, lr: float, adapt: bool = True) -> Array:
    m, v = average(s, "m", g, 0.9) / (1 - 0.9**t), average(s, "v", g * g, 0.999) / (1 - 0.999**t)
    r = m / (np.sqrt(v) + 1e-6) + 0.01 * p
    return p - lr * (norm(p) / norm(r) if adapt else 1) * r


RULES: list[tuple[type[optim.Optimizer], dict[str, Any], Rule, dict[str, Any]]] = [
    (optim.Adam, {"lr": 0.1}, adam, {"lr": 0.1}),
    (optim.AdamW, {"lr": 0.1, "weight_decay": 0.2}, adam, {"lr": 0.1, "decay": 0.2}),
    (optim.Adamax, {"lr": 0.1}, adamax, {"lr": 0.1}),
    (optim.NAdam, {"lr": 0.1}, nadam, {"lr": 0.1}),
    (optim.RAdam, {"lr": 0.1, "betas": (0.9, 0.9)}, radam, {"lr": 0.1, "b2": 0.9}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2}, adagrad, {"lr": 0.1, "lr_decay": 0.1, "start": 0.2}),
    (optim.Adadelta, {"lr": 0.5}, adadelta, {"lr": 0.5}),
    (optim.RMSprop, {"lr": 0.1}, rmsprop, {"lr": 0.1, "momentum": 0, "centered": False}),
    (optim.RMSprop, {"lr": 0.1, "momentum": 0.5, "centered": True}, rmsprop, {"lr": 0.1, "momentum": 0.5, "centered": True}),
    (optim.Rprop, {"lr": 0.1}, rprop, {"lr": 0.1}),
    (optim.ASGD, {"lr": 0.1}, asgd, {"lr": 0.1}),
    (optim.Adafactor, {"lr": 0.1}, adafactor, {"lr": 0.1}),
    (optim.Lion, {"lr": 0.1, "weight_decay": 0.2}, lion, {"lr": 0.1, "decay": 0.2}),
    (optim.LARS, {"lr": 10, "weight_decay": 0.2}, lars, {"lr": 10, "decay": 0.2}),
    (optim.LARS, {"lr": 0.1, "adapt": False}, lars, {"lr": 0.1, "decay": 0, "adapt": False}),
    (optim.LAMB, {"lr": 0.1}, lamb, {"lr": 0.1}),
    (optim.LAMB, {"lr": 0.1, "adapt": False}, lamb, {"lr": 0.1, "adapt": False}),
]  # fmt: skip


@pytest.mark.parametrize("maximize", [False, True], ids=["down", "up"])
@pytest.mark.parametrize(("kind", "settings", "rule", "own"), RULES, ids=lambda v: getattr(v, "__name__", None))
def test_formula(
    kind: Any, settings: dict[str, Any], rule: Rule, own: dict[str, Any], maximize: bool, rng: Any
) -> None:
    expected = [rng.standard_normal(shape) for shape in ((4, 3), (7,))]
    params, memories = [nn.Parameter(tl.tensor(e)) for e in expected], [{}, {}]
    optimizer = kind(params, **settings, maximize=maximize)
    for step in range(1, 21):
        gradients = [rng.standard_normal(e.shape) for e in expected]
        expected = [
            rule(step, e, -g if maximize else g, memory, **own)
            for e, g, memory in zip(expected, gradients, memories, strict=True)
        ]
        for p, g in zip(params, gradients, strict=True):
            p.grad = tl.tensor(g)
        optimizer.step()
        for p, e in zip(params, expected, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), e, rtol=1e-6, atol=1e-7, err_msg=f"step {step}")


def test_asgd_averages_from_its_start_on() -> None:
    p = nn.Parameter(tl.ones(2, dtype=tl.float64))
    optimizer = optim.ASGD([p], lr=0.1, t0=3)
    seen = []
    for _ in range(8):
        p.grad = p.detach().clone()
        optimizer.step()
        seen.append(p.detach().numpy().copy())
    np.testing.assert_allclose(optimizer.state[p]["ax"].numpy(), np.mean(seen[4:], axis=0), rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=str)
@pytest.mark.parametrize(
    ("adjust", "rate"), [(None, math.sqrt(1.5)), ("match_rms_adamw", 0.2 * math.sqrt(6))], ids=["original", "adamw"]
)
def test_muon_steps_along_an_orthogonal_matrix(
    shape: tuple[int, int], adjust: str | None, rate: float, rng: Any
) -> None:
    start, g = rng.standard_normal(shape), rng.standard_normal(shape)
    p = nn.Parameter(tl.tensor(start))
    optimizer = optim.Muon([p], lr=0.5, weight_decay=0.1, adjust_lr_fn=adjust)
    p.grad = tl.tensor(g)
    optimizer.step()
    if adjust is None and shape[0] < shape[1]:
        rate = 1.0
    step = (start * (1 - 0.5 * 0.1) - p.detach().numpy()) / (0.5 * rate)
    left, _, right = np.linalg.svd(g, full_matrices=False)
    values = np.diag(left.T @ step @ right.T)
    assert ((values > 0.6) & (values < 1.3)).all()  # the polynomial brings them that near
    np.testing.assert_allclose(left @ np.diag(values) @ right, step, atol=0.05)
    np.testing.assert_allclose(optimizer.state[p]["momentum_buffer"].numpy(), 0.05 * g)
