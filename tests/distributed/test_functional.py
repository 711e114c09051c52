"""Differentiable collectives. What all ranks hold together is one function of all their inputs, which one process can compute and differentiate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib.distributed import functional as F
from tests.distributed.holding import RANK, SIZE, drawn_by_all

Held = list[tl.Tensor]
others = pytest.mark.skipif(SIZE < 2, reason="needs a second rank")


def cut(whole: tl.Tensor) -> Held:
    return [whole[r] for r in range(SIZE)]


# name: (what a rank computes from its own tensor, (SIZE, 3); what rank r holds then, by one process that has all ranks' tensors)
CASES: dict[str, tuple[Callable[[tl.Tensor], Any], Callable[[Held, int], Any]]] = {
    "all_reduce sum": (lambda x: F.all_reduce(x), lambda xs, r: sum(xs[1:], xs[0])),
    "all_reduce mean": (lambda x: F.all_reduce(x, "mean"), lambda xs, r: sum(xs[1:], xs[0]) / SIZE),
    "all_reduce prod": (lambda x: F.all_reduce(x, "prod"), lambda xs, r: tl.stack(xs).prod(0)),
    "all_reduce max": (lambda x: F.all_reduce(x, "max"), lambda xs, r: tl.stack(xs).amax(0)),
    "all_reduce min": (lambda x: F.all_reduce(x, "min"), lambda xs, r: tl.stack(xs).amin(0)),
    "reduce": (
        lambda x: F.reduce(x, SIZE - 1, "mean"),
        lambda xs, r: sum(xs[1:], xs[0]) / SIZE if r == SIZE - 1 else tl.zeros_like(xs[0]),
    ),
    "broadcast": (lambda x: F.broadcast(x, SIZE - 1), lambda xs, r: xs[-1]),
    "all_gather": (lambda x: F.all_gather(x), lambda xs, r: xs),
    "all_gather of different shapes": (lambda x: F.all_gather(x[: RANK + 1]), lambda xs, r: [x[: k + 1] for k, x in enumerate(xs)]),
    "gather": (lambda x: F.gather(x, SIZE - 1), lambda xs, r: xs if r == SIZE - 1 else []),
    "scatter": (lambda x: F.scatter(cut(x), SIZE - 1), lambda xs, r: xs[-1][r]),
    "reduce_scatter": (lambda x: F.reduce_scatter(cut(x), "mean"), lambda xs, r: sum((x[r] for x in xs[1:]), xs[0][r]) / SIZE),
    "all_to_all": (
        lambda x: F.all_to_all([part[: RANK + 1] for part in cut(x)]),
        lambda xs, r: [x[r][: k + 1] for k, x in enumerate(xs)],
    ),
}  # fmt: skip


def loss(held: Any, rank: int) -> tl.Tensor:
    """Different on each rank, and no polynomial of degree one in anything."""
    parts = [part for part in (held if isinstance(held, list) else [held]) if part.numel()]
    total = tl.zeros((), dtype=tl.float64)
    for k, part in enumerate(parts):
        total = total + ((rank + k + 1) * part + 0.3).sin().sum()
    return total


def of_all(case: str, xs: Held) -> tl.Tensor:
    values = [loss(CASES[case][1](xs, r), r) for r in range(SIZE)]
    return sum(values[1:], values[0])


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(case: str, seed: int) -> None:
    whole = [x.requires_grad_() for x in drawn_by_all(seed, (SIZE, 3), tl.float64)]
    want = tl.autograd.grad(of_all(case, whole), whole, materialize_grads=True)[RANK]
    x = drawn_by_all(seed, (SIZE, 3), tl.float64)[RANK].requires_grad_()
    held = CASES[case][0](x)
    expected = CASES[case][1](whole, RANK)
    for part, other in zip(
        *(v if isinstance(v, list) else [v] for v in (held, expected)), strict=isinstance(expected, tl.Tensor)
    ):
        np.testing.assert_allclose(part.detach().numpy(), other.detach().numpy(), rtol=1e-14)
    outputs = loss(held, RANK) + 0 * sum(part.sum() for part in (held if isinstance(held, list) else [held]))
    outputs.backward()
    np.testing.assert_allclose(x.grad.numpy(), want.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_gradients_are_those_of_one_process(case: str, seed: int) -> None:
    def second(first: Held) -> tl.Tensor:
        return sum((g * (k + 1)).cos().sum() for k, g in enumerate(first))

    whole = [x.requires_grad_() for x in drawn_by_all(seed, (SIZE, 3), tl.float64)]
    first = tl.autograd.grad(of_all(case, whole), whole, create_graph=True, materialize_grads=True)
    want = tl.autograd.grad(second(list(first)), whole, materialize_grads=True)[RANK]

    x = drawn_by_all(seed, (SIZE, 3), tl.float64)[RANK].requires_grad_()
    held = CASES[case][0](x)
    value = loss(held, RANK) + 0 * sum(part.sum() for part in (held if isinstance(held, list) else [held]))
    (g,) = tl.autograd.grad(value, x, create_graph=True)
    (g * (RANK + 1)).cos().sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), want.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("case", ["all_reduce prod", "all_to_all", "reduce_scatter"])
def test_gradients_against_finite_differences(case: str, seed: int) -> None:
    """Along one direction, in which all ranks go together."""
    xs, directions = (drawn_by_all(seed + k, (SIZE, 3), tl.float64) for k in range(2))
    x, step = xs[RANK].clone().requires_grad_(), 1e-6
    loss(CASES[case][0](x), RANK).backward()
    slope = dist.all_reduce((x.grad * directions[RANK]).sum())
    up, down = (dist.all_reduce(loss(CASES[case][0](xs[RANK] + s * directions[RANK]), RANK)) for s in (step, -step))
    assert abs((up - down).item() / (2 * step) - slope.item()) < 1e-7


@others
def test_all_take_part_where_one_rank_asks_for_a_gradient() -> None:
    for asking in range(SIZE):
        x = tl.ones(3, requires_grad=asking == RANK)
        y = F.all_reduce(x)
        assert y.requires_grad
        y.sum().backward()
        assert (x.grad is None) == (asking != RANK)
        if asking == RANK:
            assert x.grad.tolist() == [SIZE] * 3
    assert not F.all_reduce(tl.ones(3)).requires_grad
    with tl.no_grad():
        assert not F.all_reduce(tl.ones(3, requires_grad=True)).requires_grad


def test_integers_and_inputs_are_left_alone() -> None:
    x = tl.tensor([RANK, 5])
    assert F.all_reduce(x, "bor").tolist()[1] == 5
    assert F.all_reduce(x, "max").tolist() == [SIZE - 1, 5]
    assert F.broadcast(x, 0).tolist() == [0, 5]
    assert x.tolist() == [RANK, 5]


def test_reduce_sums_alone() -> None:
    with pytest.raises(ValueError, match="reduce: op is max, expected sum or mean; all_reduce has others"):
        F.reduce(tl.ones(3), 0, "max")
