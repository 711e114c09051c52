"""Long chains, and graph memory: freed during backward, and by reference counts alone without it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tensorlib as tl
from tensorlib.native import OBJECTS, drain

LONG = 1_000_000
SIZE = 100_000  # elements of the graphs below


@pytest.fixture
def _uncollected() -> Iterator[None]:
    gc.collect()
    drain()
    gc.disable()
    yield
    gc.enable()


def block() -> int:
    """What one tensor of SIZE elements takes, in the allocator's steps."""
    before = tl.memory.allocated()
    x = tl.zeros(SIZE)
    return tl.memory.allocated() - before + 0 * x.numel()


def chain(x: tl.Tensor, n: int) -> tl.Tensor:
    for _ in range(n):
        x = x + 1
    return x


# ---- length ----
def test_a_million_nodes_backward() -> None:
    x = tl.ones((), requires_grad=True)
    y = chain(x, LONG)
    y.backward()
    assert x.grad.item() == 1 and y.item() == LONG + 1
    del y


def test_a_million_nodes_freed_without_backward() -> None:
    before = tl.memory.allocated()
    x = tl.ones((), requires_grad=True)
    y = chain(x, LONG).exp()
    del y
    assert tl.memory.allocated() <= before + 64
    tl.autograd.grad(chain(x, 10), x)


def test_long_chains_of_saved_values_views_and_hooks() -> None:
    x = tl.ones(2, dtype=tl.float64, requires_grad=True)
    y = x
    for k in range(50_000):
        y = (y * 1.0).tanh() if k % 3 == 0 else y.reshape(2, 1).t().reshape(2) if k % 3 == 1 else y.sin()
        if k % 1000 == 0:
            y.register_hook(lambda g: g * 1)
    y.sum().backward()
    assert x.grad.shape == (2,)


def test_long_chains_of_in_place_writes() -> None:
    x = tl.ones(3, requires_grad=True)
    y = x * 1
    v = y[1:]
    for _ in range(20_000):
        v.add_(1)
        y.mul_(1.0)
    y.sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


class Keeps(tl.autograd.Function):
    """Keeps its input as a Python attribute: the chain then runs through Python objects, too."""

    @staticmethod
    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        ctx.x = x
        return x * 1

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
        return g


def contexts() -> set[int]:
    return {token for token, o in OBJECTS.items() if isinstance(o, tl.autograd.function.Context)}


def test_a_long_chain_of_functions_is_freed_without_recursion() -> None:
    drain()
    before = contexts()  # of graphs that the traceback of an expected error still holds
    for backward in (False, True):
        x = tl.ones((), requires_grad=True)
        y = x
        for _ in range(20_000):
            y = Keeps.apply(y)
        if backward:
            y.backward()
            assert x.grad.item() == 1
        del y
        drain()
        assert contexts() <= before


def test_gradients_of_gradients_of_a_long_chain() -> None:
    x = tl.tensor(1.0, dtype=tl.float64, requires_grad=True)
    y = x
    for _ in range(3_000):
        y = (y * 0.9999).sin()
    (g,) = tl.autograd.grad(y, x, create_graph=True)
    (gg,) = tl.autograd.grad(g, x)
    assert gg.item() < 0


# ---- memory ----
def deep(x: tl.Tensor, n: int = 10) -> tl.Tensor:
    for _ in range(n):
        x = x.exp() * 0.1
    return x.sum()


def ragged(x: tl.Tensor) -> tl.Tensor:
    """Kernels, Python rules, views, in-place writes, several outputs, custom Functions."""
    h = Keeps.apply(x.exp()) * 1
    h[:10].mul_(2)
    values, _ = h.sort()
    return (values.cumsum(0) / 3).reshape(-1, 10).t().softmax(0).prod(0).sum() + h.clamp(0, 1).std()


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("build", [deep, ragged])
def test_dropping_the_result_frees_the_graph(build: Callable[[tl.Tensor], tl.Tensor]) -> None:
    x = tl.full((SIZE,), 0.5, requires_grad=True)
    before, objects = tl.memory.allocated(), len(OBJECTS)
    y = build(x)
    assert tl.memory.allocated() > before
    del y
    drain()
    assert tl.memory.allocated() == before and len(OBJECTS) == objects


@pytest.mark.usefixtures("_uncollected")
def test_backward_frees_what_was_saved_while_the_result_lives() -> None:
    x = tl.full((SIZE,), 0.5, requires_grad=True)
    x.grad = tl.zeros(SIZE)
    before = tl.memory.allocated()
    y = deep(x)
    assert tl.memory.allocated() >= before + 10 * 4 * SIZE
    y.backward()
    assert tl.memory.allocated() <= before + 1024


@pytest.mark.usefixtures("_uncollected")
def test_memory_falls_during_backward() -> None:
    """A node's saved values go as soon as it has run: backward needs hardly more than forward held."""
    x = tl.full((SIZE,), 0.5, requires_grad=True)
    y = deep(x, 50)
    held = tl.memory.allocated()
    tl.memory.reset_peak()
    y.backward()
    assert tl.memory.peak() <= held + 8 * block()


@pytest.mark.usefixtures("_uncollected")
def test_retained_graphs_are_freed_with_the_result() -> None:
    x = tl.full((SIZE,), 0.5, requires_grad=True)
    x.grad = tl.zeros(SIZE)
    before = tl.memory.allocated()
    y = deep(x)
    held = tl.memory.allocated()
    y.backward(retain_graph=True)
    assert tl.memory.allocated() == held
    del y
    assert tl.memory.allocated() == before


@pytest.mark.usefixtures("_uncollected")
def test_graphs_of_gradients_are_freed() -> None:
    x = tl.full((SIZE,), 0.5, requires_grad=True)
    before = tl.memory.allocated()
    y = deep(x, 3)
    (g,) = tl.autograd.grad(y, x, create_graph=True)
    (gg,) = tl.autograd.grad(g.sum(), x, create_graph=True)
    del y, g, gg
    assert tl.memory.allocated() == before


@pytest.mark.usefixtures("_uncollected")
def test_a_failed_backward_keeps_nothing() -> None:
    x = tl.full((SIZE,), 0.5, requires_grad=True)
    before = tl.memory.allocated()

    def fail(g: tl.Tensor) -> None:
        raise KeyError

    h = x.exp()
    y = deep(h, 3)
    h.register_hook(fail)
    try:
        y.backward()
    except KeyError as error:
        error.__traceback__ = None
    del h, y
    drain()
    assert tl.memory.allocated() == before


@pytest.mark.usefixtures("_uncollected")
def test_views_keep_their_base_and_let_it_go() -> None:
    before = tl.memory.allocated()
    x = tl.zeros(SIZE)
    v = x[5:][3]
    del x
    assert v.item() == 0 and tl.memory.allocated() >= before + 4 * SIZE
    del v
    assert tl.memory.allocated() == before


@pytest.mark.usefixtures("_uncollected")
def test_writes_through_views_make_no_cycle() -> None:
    x = tl.ones(SIZE, requires_grad=True)
    before = tl.memory.allocated()
    y = x * 1
    views = [y[k:] for k in range(5)]
    for v in views:
        v.mul_(2)
        y.add_(v[0])
    y[0] = y[1] * views[2].sum()
    del y, views, v
    assert tl.memory.allocated() == before


@pytest.mark.usefixtures("_uncollected")
def test_only_what_a_rule_names_is_kept() -> None:
    x = tl.ones(SIZE, requires_grad=True)
    unit = block()

    def held(f: Callable[[tl.Tensor], tl.Tensor]) -> int:
        before = tl.memory.allocated()
        y = f(x * 1)
        return round((tl.memory.allocated() - before) / unit) if y.requires_grad else -1

    assert held(lambda h: h + 1) == 1  # the result alone
    assert held(lambda h: h.exp()) == 1  # the result is what exp keeps
    assert held(lambda h: h * h) == 2
    assert held(lambda h: h.sum()) == 0
    assert held(lambda h: h.square().sum()) == 1
    assert held(lambda h: h * tl.ones(SIZE)) == 2  # the other operand; h itself needs no keeping
    assert held(lambda h: -(h + 3) / 2) == 1


@pytest.mark.usefixtures("_uncollected")
def test_a_gradients_first_arrival_is_not_copied_where_nobody_else_holds_it() -> None:
    x = tl.ones(SIZE, requires_grad=True)
    y = (x * 3).sum()
    before = tl.memory.allocated()
    y.backward()
    assert tl.memory.allocated() <= before + block() + 1024
