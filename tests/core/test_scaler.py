"""GradScaler: gradients and steps as without it, the factor's ups and downs, and calls in the wrong order."""

from __future__ import annotations

from typing import Any

import pytest

import tensorlib as tl
from tensorlib import nn


def scaler(**options: Any) -> tl.amp.GradScaler:
    return tl.amp.GradScaler("cpu", **{"init_scale": 256.0, **options})


def losses(model: nn.Module, wanted: Any) -> list[float]:
    """Of a few steps, each of `wanted(optimizer, loss)`."""
    tl.manual_seed(3)
    x, optimizer, seen = tl.randn(8, 4), tl.optim.SGD(model.parameters(), lr=0.1, momentum=0.5), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        wanted(optimizer, loss)
        seen.append(loss.item())
    return seen


def test_steps_are_those_without_it() -> None:
    """A power of two changes no bit, clipping between unscale_ and step included."""

    def plain(optimizer: Any, loss: tl.Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)
        optimizer.step()

    scale = scaler(growth_interval=2)

    def scaled(optimizer: Any, loss: tl.Tensor) -> None:
        scale.scale([loss])[0].backward()
        scale.unscale_(optimizer)
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)
        scale.step(optimizer)
        scale.update()

    found = []
    for step in (plain, scaled):
        tl.manual_seed(0)
        found.append(losses(nn.Linear(4, 3), step))
    assert found[0] == found[1]
    assert scale.get_scale() == 256 * 2 * 2


def test_small_gradients_survive_float16() -> None:
    w = tl.ones(1, dtype=tl.float16, requires_grad=True)
    (w * 2.0**-13 * 2.0**-13).sum().backward()
    assert w.grad.item() == 0
    w.grad, scale = None, scaler()
    scale.scale((w * 2.0**-13 * 2.0**-13).sum()).backward()
    assert w.grad.item() == 2.0**-18


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")], ids=str)
def test_a_step_that_is_not_finite_is_left_out(bad: float) -> None:
    p, q = nn.Parameter(tl.ones(2)), nn.Parameter(tl.ones(2))
    first, second, scale = tl.optim.SGD([p], lr=1), tl.optim.SGD([q], lr=1), scaler(growth_interval=1)
    scale.scale((p * tl.tensor([1.0, bad])).sum() + q.sum()).backward()
    scale.step(first)
    scale.step(second)
    assert p.tolist() == [1, 1] and q.tolist() == [0, 0], "each optimizer by its own gradients"
    scale.update()
    assert scale.get_scale() == 128
    first.zero_grad()
    scale.scale(p.sum()).backward()
    scale.step(first)
    scale.update()
    assert p.tolist() == [0, 0] and scale.get_scale() == 256
    scale.update(new_scale=8)
    assert scale.get_scale() == 8


def test_state() -> None:
    one, other, off = scaler(growth_interval=3), scaler(init_scale=2.0), scaler(enabled=False)
    p = nn.Parameter(tl.ones(1))
    optimizer = tl.optim.SGD([p], lr=1)
    one.scale(p.sum()).backward()
    one.step(optimizer)
    one.update()
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict() and one.state_dict()["_growth_tracker"] == 1
    assert off.state_dict() == {} and off.get_scale() == 1 and not off.is_enabled()
    loss = p.sum()
    assert off.scale(loss) is loss
    p.grad = tl.ones(1)
    off.unscale_(optimizer)
    off.step(optimizer)
    off.update()
    assert p.grad.item() == 1 and p.item() == -1
    with pytest.raises(RuntimeError, match="load_state_dict: the state is empty"):
        one.load_state_dict(off.state_dict())


def test_wrong_order_is_an_error() -> None:
    p = nn.Parameter(tl.ones(1))
    optimizer, scale = tl.optim.SGD([p], lr=1), scaler()
    with pytest.raises(RuntimeError, match=r"update: no step\(\) was called"):
        scale.update()
    with pytest.raises(RuntimeError, match="step: none of the optimizer's parameters has a gradient"):
        scale.step(optimizer)
    scale = scaler()
    scale.scale(p.sum()).backward()
    scale.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="unscale_: called twice"):
        scale.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="closure"):
        scale.step(optimizer, closure=lambda: 0.0)
    scale.step(optimizer)
    with pytest.raises(RuntimeError, match="step: called twice"):
        scale.step(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_: called after step\(\)"):
        scale.unscale_(optimizer)
    with pytest.raises(TypeError, match="scale: got a int"):
        scale.scale(3)
    for wrong in ({"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"backoff_factor": 0.0}):
        with pytest.raises(ValueError, match="GradScaler: expected growth_factor > 1"):
            scaler(**wrong)
