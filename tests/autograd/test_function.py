"""Custom Functions: what is saved, what is marked, double backward, errors that name the Function, and no leak through its node."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.autograd import Function, grad, gradcheck, gradgradcheck, once_differentiable
from tensorlib.native import OBJECTS, drain


def draw(rng: np.random.Generator, *shape: int) -> tl.Tensor:
    return tl.tensor(rng.standard_normal(shape), requires_grad=True)


def function(forward: Callable[..., Any], backward: Callable[..., Any], name: str = "Custom") -> type[Function]:
    return type(name, (Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)})


# ---- saving ----
class FromInput(Function):
    @staticmethod
    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
        (x,) = ctx.saved_tensors
        return g * x.exp()


class FromOutput(Function):
    @staticmethod
    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
        (y,) = ctx.saved_tensors
        return g * y


class FromIntermediate(Function):
    """exp(x) as exp(x/2)^2; the half is kept for one derivative, x for more."""

    @staticmethod
    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        half = (x / 2).exp()
        ctx.save_for_backward(x, None, half)
        return half * half

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
        x, nothing, half = ctx.saved_tensors
        assert nothing is None and not half.requires_grad
        np.testing.assert_allclose(half.numpy(), np.exp(x.detach().numpy() / 2))
        return g * x.exp()


class FromAttribute(Function):
    @staticmethod
    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        ctx.x = x
        return x.exp()

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
        return g * ctx.x.exp()


@pytest.mark.parametrize("cls", [FromInput, FromOutput, FromIntermediate, FromAttribute])
def test_derivatives_of_every_order(cls: type[Function], rng: np.random.Generator) -> None:
    x = draw(rng, 3)
    f = lambda x: cls.apply(x * 2) * x
    assert gradcheck(f, x) and gradgradcheck(f, x)
    y = cls.apply(x)
    assert y.grad_fn.name == cls.__name__ and f"{__file__}:" in y.grad_fn.where
    for _ in range(3):
        (y,) = grad(y.sum(), x, create_graph=True)
        np.testing.assert_allclose(y.detach().numpy(), np.exp(x.detach().numpy()), rtol=1e-12)


def test_more_saved_tensors_than_slots(rng: np.random.Generator) -> None:
    def forward(ctx: Any, *xs: tl.Tensor) -> tl.Tensor:
        ctx.save_for_backward(*xs, *(x * 2 for x in xs))
        return sum((x * x).sum() for x in xs)

    def backward(ctx: Any, g: tl.Tensor) -> Any:
        saved = ctx.saved_tensors
        n = len(saved) // 2
        assert all((b == 2 * a).all() for a, b in zip(saved[:n], saved[n:], strict=True))
        return tuple(2 * a * g for a in saved[:n])

    xs = [draw(rng, 2) for _ in range(40)]
    many = function(forward, backward)
    assert gradcheck(many.apply, xs) and gradgradcheck(many.apply, xs)


def test_the_engine_checks_saved_values_for_overwriting(rng: np.random.Generator) -> None:
    def backward(ctx: Any, g: tl.Tensor) -> Any:
        raise AssertionError("never reached")

    def of(which: str) -> type[Function]:
        def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
            middle, out = x * 2, x * 3
            ctx.save_for_backward({"input": x, "output": out, "intermediate": middle}[which])
            kept.append(middle)
            return out

        return function(forward, backward, name="Saver")

    for which in ("input", "output", "intermediate"):
        kept: list[tl.Tensor] = []
        x = draw(rng, 2) * 1
        y = of(which).apply(x)
        {"input": x, "output": y, "intermediate": kept[0]}[which].detach().zero_()
        with pytest.raises(
            tl.GradError, match=rf"`Saver` \({re.escape(__file__)}.*overwritten in place at {re.escape(__file__)}"
        ):
            y.sum().backward()


def test_saved_tensors_go_after_backward_unless_retained(rng: np.random.Generator) -> None:
    contexts: list[Any] = []

    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        contexts.append(ctx)
        ctx.save_for_backward(x * 5)
        return x * 2

    cls = function(forward, lambda ctx, g: g * 2 + 0 * ctx.saved_tensors[0], name="Kept")
    x = draw(rng, 2)
    y = cls.apply(x)
    y.sum().backward(retain_graph=True)
    assert contexts[0].saved_tensors[0].shape == (2,)
    y.sum().backward()
    with pytest.raises(tl.GradError, match="already used"):
        y.sum().backward()
    with pytest.raises(tl.GradError, match=r"Kept.*saved tensors went with the graph"):
        _ = contexts[0].saved_tensors


def test_a_context_that_outlives_its_graph_is_harmless(rng: np.random.Generator) -> None:
    contexts: list[Any] = []

    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        contexts.append(ctx)
        ctx.save_for_backward(x)
        return x * 2

    cls = function(forward, lambda ctx, g: g * 2)
    cls.apply(draw(rng, 2))  # the graph is gone at once
    with pytest.raises(tl.GradError, match="went with the graph"):
        _ = contexts[0].saved_tensors


def test_only_tensors_can_be_saved() -> None:
    cls = function(lambda ctx, x: ctx.save_for_backward([1]), lambda ctx, g: g)
    with pytest.raises(TypeError, match="save_for_backward: got a list"):
        cls.apply(tl.ones(1, requires_grad=True))


# ---- arguments and results ----
def test_needs_input_grad_and_other_arguments(rng: np.random.Generator) -> None:
    seen: list[Any] = []

    def forward(ctx: Any, a: tl.Tensor, power: int, b: tl.Tensor, flag: str = "", *, extra: int = 1) -> tl.Tensor:
        assert not tl.is_grad_enabled()
        ctx.power = power
        seen.append((ctx.needs_input_grad, flag, extra))
        ctx.save_for_backward(a, b)
        return a**power * b

    def backward(ctx: Any, g: tl.Tensor) -> Any:
        a, b = ctx.saved_tensors
        seen.append(ctx.needs_input_grad)
        return ctx.power * a ** (ctx.power - 1) * b * g, None, a**ctx.power * g, None

    cls = function(forward, backward)
    a, b = draw(rng, 2), draw(rng, 2)
    cls.apply(a, 3, b.detach(), "f", extra=2).sum().backward()
    assert seen == [((True, False, False, False), "f", 2), (True, False, False, False)] and b.grad is None
    assert gradcheck(lambda a, b: cls.apply(a, 3, b, "f"), (a, b)) and gradgradcheck(
        lambda a, b: cls.apply(a, 2, b, ""), (a, b)
    )
    assert not cls.apply(a.detach(), 2, b.detach()).requires_grad
    with tl.no_grad():
        assert not cls.apply(a, 2, b).requires_grad


def test_trailing_nones_and_lists_are_fine(rng: np.random.Generator) -> None:
    x = draw(rng, 2)
    cls = function(lambda ctx, x: x * 2, lambda ctx, g: [g * 2, None, None])
    cls.apply(x).sum().backward()
    assert x.grad.tolist() == [2, 2]


class Pair(NamedTuple):
    low: tl.Tensor
    high: tl.Tensor


def test_several_outputs(rng: np.random.Generator) -> None:
    given: list[Any] = []

    def backward(ctx: Any, g_low: Any, g_high: Any) -> tl.Tensor:
        given.append((g_low.tolist(), g_high.tolist()))
        return g_low * 2 + g_high * 3

    cls = function(lambda ctx, x: Pair(x * 2, x * 3), backward)
    x = draw(rng, 2)
    out = cls.apply(x)
    assert isinstance(out, Pair) and out.low.grad_fn == out.high.grad_fn
    out.high.sum().backward()
    assert given == [([0, 0], [1, 1])] and x.grad.tolist() == [3, 3]
    x.grad = None
    (cls.apply(x).low + cls.apply(x)[1]).sum().backward()
    assert x.grad.tolist() == [5, 5]
    mixed = function(lambda ctx, x: (x * 2, "text", 3), lambda ctx, g: g * 2)
    assert mixed.apply(x)[1:] == ("text", 3)


def test_without_materialized_gradients(rng: np.random.Generator) -> None:
    def forward(ctx: Any, x: tl.Tensor) -> Any:
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    given: list[Any] = []
    cls = function(forward, lambda ctx, a, b: given.append((a is None, b is None)) or a * 2)
    x = draw(rng, 2)
    cls.apply(x)[0].sum().backward()
    assert given == [(False, True)] and x.grad.tolist() == [2, 2]


def test_mark_non_differentiable(rng: np.random.Generator) -> None:
    def forward(ctx: Any, x: tl.Tensor) -> Any:
        order = x.argsort()
        ranks = order * 1.0
        ctx.mark_non_differentiable(order, ranks)
        return x * 2, order, ranks

    cls = function(forward, lambda ctx, g, g_order, g_ranks: g * 2)
    x = draw(rng, 3)
    y, order, ranks = cls.apply(x)
    assert y.requires_grad and not order.requires_grad and not ranks.requires_grad
    (y * ranks).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * ranks.numpy())
    nothing = function(lambda ctx, x: x > 0, lambda ctx, g: g).apply(x)
    assert not nothing.requires_grad and nothing.dtype is tl.bool


def test_returning_an_input_makes_another_tensor(rng: np.random.Generator) -> None:
    x = draw(rng, 2)
    y = function(lambda ctx, x: x, lambda ctx, g: g * 3).apply(x)
    assert y is not x and y.data_ptr() == x.data_ptr() and x.is_leaf
    y.sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_gradients_are_reduced_and_cast_to_the_input(rng: np.random.Generator) -> None:
    x = tl.ones(3, requires_grad=True)
    cls = function(lambda ctx, x: x * tl.ones(2, 3), lambda ctx, g: g.double())
    cls.apply(x).sum().backward()
    assert x.grad.dtype is tl.float32 and x.grad.tolist() == [2, 2, 2]


# ---- in place ----
def double_(ctx: Any, x: tl.Tensor) -> tl.Tensor:
    ctx.mark_dirty(x)
    return x.mul_(2)


def test_mark_dirty(rng: np.random.Generator) -> None:
    cls = function(double_, lambda ctx, g: g * 2, name="Double")
    x = draw(rng, 3)
    y = x * 1
    view = y[:2]
    z = cls.apply(y)
    assert z is y and y.grad_fn.name == "Double"
    (y.sum() + view.sum() * 10).backward()
    assert x.grad.tolist() == [22, 22, 2]
    assert gradcheck(lambda x: cls.apply(x * x) * x, x) and gradgradcheck(lambda x: cls.apply(x * x) * x, x)


def test_mark_dirty_on_a_view_reaches_the_base(rng: np.random.Generator) -> None:
    cls = function(double_, lambda ctx, g: g * 2)
    x = draw(rng, 3)
    y = x * 1
    cls.apply(y[1:])
    y.sum().backward()
    assert x.grad.tolist() == [1, 2, 2]


def test_mark_dirty_on_leaves_is_refused_before_anything_changes(rng: np.random.Generator) -> None:
    cls = function(double_, lambda ctx, g: g * 2, name="Double")
    x = draw(rng, 3)
    before = x.tolist()
    for leaf in (x, x[:2]):
        with pytest.raises(tl.GradError, match=r"Double: a .*leaf tensor.* can not be written in place"):
            cls.apply(leaf)
    assert x.tolist() == before


def test_a_saved_dirty_input_is_the_output(rng: np.random.Generator) -> None:
    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        ctx.mark_dirty(x)
        x.exp_()
        ctx.save_for_backward(x)
        return x

    cls = function(forward, lambda ctx, g: g * ctx.saved_tensors[0])
    x = draw(rng, 3)
    f = lambda x: cls.apply(x * 1)
    assert gradcheck(f, x) and gradgradcheck(f, x)


# ---- once_differentiable ----
def test_once_differentiable(rng: np.random.Generator) -> None:
    @once_differentiable
    def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
        assert not tl.is_grad_enabled()
        (x,) = ctx.saved_tensors
        return tl.from_numpy(2 * x.detach().numpy() * g.detach().numpy())

    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        ctx.save_for_backward(x)
        return x * x

    cls = function(forward, backward, name="Square")
    x = draw(rng, 2)
    assert gradcheck(cls.apply, x)
    (g,) = grad((cls.apply(x) * x).sum(), x, create_graph=True)
    with pytest.raises(tl.GradError, match=r"Square.*marked once_differentiable"):
        grad(g.sum(), x)


# ---- errors ----
@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        (lambda g: (g, g, g), tl.GradError, "returned 3 gradients for 2 inputs"),
        (lambda g: g, tl.GradError, "returned 1 gradients for 2 inputs"),
        (lambda g: (tl.ones(5), None), tl.ShapeError, r"gradient 0 has shape \(5,\), expected the argument's, \(3,\)"),
        (lambda g: (tl.ones(()), None), tl.ShapeError, r"gradient 0 has shape \(\), expected the argument's, \(3,\)"),
        (lambda g: (1.0, None), TypeError, "gradient 0 is a float"),
        (lambda g: (g, g), tl.GradError, "argument 1 is no tensor"),
    ],
    ids=["too many", "too few", "wrong shape", "too small", "no tensor", "for a number"],
)
def test_wrong_gradients(result: Callable[[tl.Tensor], Any], error: type[Exception], match: str) -> None:
    cls = function(lambda ctx, x, n: x * n, lambda ctx, g: result(g), name="Faulty")
    x = tl.ones(3, requires_grad=True)
    with pytest.raises(error, match=rf"Faulty \({re.escape(__file__)}:\d+.*{match}"):
        cls.apply(x, 2).sum().backward()
    assert x.grad is None


def test_exceptions_pass_through(rng: np.random.Generator) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    x = draw(rng, 2)
    with pytest.raises(ZeroDivisionError):
        function(fail, fail).apply(x)
    assert tl.is_grad_enabled()
    with pytest.raises(ZeroDivisionError):
        function(lambda ctx, x: x * 1, fail).apply(x).sum().backward()
    assert tl.is_grad_enabled() and x.grad is None
    with pytest.raises(NotImplementedError):
        type("Empty", (Function,), {}).apply(x)


# ---- nesting ----
def test_functions_call_functions_and_backward(rng: np.random.Generator) -> None:
    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        with tl.enable_grad():
            inside = x.detach().requires_grad_()
            y = FromInput.apply(inside) * inside
        ctx.save_for_backward(grad(y, inside, tl.ones_like(y))[0])
        return y.detach()

    cls = function(forward, lambda ctx, g: g * ctx.saved_tensors[0])
    assert gradcheck(cls.apply, draw(rng, 3))

    def checkpointed(ctx: Any, g: tl.Tensor) -> Any:
        with tl.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            FromOutput.apply(x * 2).backward(g)
        return x.grad

    def run(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        ctx.save_for_backward(x)
        return FromOutput.apply(x * 2)

    assert gradcheck(function(run, checkpointed).apply, draw(rng, 3))


# ---- lifetimes: with the garbage collector off, reference counts alone must do ----
@pytest.fixture
def _uncollected() -> Iterator[None]:
    gc.collect()
    drain()
    gc.disable()
    before = len(OBJECTS), tl.memory.allocated()
    yield
    try:
        drain()
        assert (len(OBJECTS), tl.memory.allocated()) == before
    finally:
        gc.enable()


class Token:
    """Something to hold a weak reference to."""


def _attribute(ctx: Any, x: tl.Tensor) -> tl.Tensor:
    ctx.out = x * 2
    return ctx.out


def _saved_output(ctx: Any, x: tl.Tensor) -> tl.Tensor:
    out = x * 2
    ctx.save_for_backward(x, out, out * 2, out[0])
    return out


def _dirty(ctx: Any, x: tl.Tensor) -> tl.Tensor:
    ctx.mark_dirty(x)
    x.mul_(2)
    ctx.save_for_backward(x)
    return x


def _view_of_kept(ctx: Any, x: tl.Tensor) -> tl.Tensor:
    ctx.whole = x * 2
    return ctx.whole[:]


def _returns_input(ctx: Any, x: tl.Tensor) -> tl.Tensor:
    ctx.save_for_backward(x)
    return x


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("run", ["dropped", "backward", "retained", "created"])
@pytest.mark.parametrize(
    "forward", [_attribute, _saved_output, _dirty, _view_of_kept, _returns_input], ids=lambda f: f.__name__[1:]
)
def test_no_leak(forward: Callable[..., Any], run: str) -> None:
    alive: list[weakref.ref[Token]] = []

    def watched(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        ctx.token = Token()
        alive.append(weakref.ref(ctx.token))
        return forward(ctx, x)

    cls = function(watched, lambda ctx, g: g * 2)
    x = tl.ones(100, requires_grad=True)
    y = cls.apply(x * 1)
    z = cls.apply(y * 1).sum() if forward is _dirty else (cls.apply(y) * y).sum()
    if run == "created":
        (g,) = grad(z, x, create_graph=True)
        del g
    elif run != "dropped":
        z.backward(retain_graph=run == "retained")
        assert (alive[0]() is not None) is True  # still held by z's graph
    del y, z
    drain()
    assert [a() for a in alive] == [None, None]


@pytest.mark.usefixtures("_uncollected")
def test_no_leak_where_a_saved_tensor_later_leads_back() -> None:
    """The saved input is overwritten with what was computed from the output: node -> saved -> its new history -> node, were it not data only."""
    kept: list[tl.Tensor] = []

    def forward(ctx: Any, x: tl.Tensor, scratch: tl.Tensor) -> tl.Tensor:
        ctx.save_for_backward(x, scratch)
        return x * 2

    cls = function(forward, lambda ctx, g: (g * 2, None))
    x, scratch = tl.ones(100, requires_grad=True), tl.zeros(100)
    middle = x * 1
    y = cls.apply(middle, scratch)
    scratch.copy_(y)
    middle.mul_(y)
    kept.extend([y, scratch, middle])
    kept.clear()
    del y, scratch, middle


@pytest.mark.usefixtures("_uncollected")
def test_no_leak_after_an_exception_in_backward() -> None:
    def backward(ctx: Any, g: tl.Tensor) -> Any:
        raise KeyError

    cls = function(_attribute, backward)
    x = tl.ones(100, requires_grad=True)
    try:
        cls.apply(x).sum().backward()
    except KeyError as error:
        error.__traceback__ = None
    else:
        pytest.fail("no exception")


@pytest.mark.usefixtures("_uncollected")
def test_contexts_of_what_is_not_recorded_go_at_once() -> None:
    cls = function(_saved_output, lambda ctx, g: g)
    cls.apply(tl.ones(100))
    function(lambda ctx, x: x > 0, lambda ctx, g: g).apply(tl.ones(100, requires_grad=True))
    with tl.no_grad():
        cls.apply(tl.ones(100, requires_grad=True))
