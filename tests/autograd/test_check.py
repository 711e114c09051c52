"""gradcheck and gradgradcheck: what they accept, and that they notice each kind of wrong gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import tensorlib as tl
from tensorlib.autograd import gradcheck, gradgradcheck

if TYPE_CHECKING:
    import numpy as np

both_modes = pytest.mark.parametrize("fast", [True, False], ids=["fast", "full"])


def draw(rng: np.random.Generator, *shape: int) -> tl.Tensor:
    return tl.tensor(rng.standard_normal(shape), requires_grad=True)


class Wrong(tl.autograd.Function):
    """x ** 2 whose gradient is off by `how`."""

    @staticmethod
    def forward(ctx: Any, x: tl.Tensor, how: str) -> tl.Tensor:
        ctx.save_for_backward(x)
        ctx.how = how
        return x * x

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        right = 2 * x * g
        if ctx.how == "scale":
            return right * 1.01, None
        if ctx.how == "one entry":
            spoilt = right.detach().clone()
            spoilt[0] += 0.1
            return spoilt, None
        return None, None


@both_modes
def test_right_gradients_pass(rng: np.random.Generator, fast: bool) -> None:
    def f(x: tl.Tensor, n: int, w: tl.Tensor) -> tuple[tl.Tensor, tl.Tensor, tl.Tensor]:
        return tl.tanh(x @ w) ** n, x.exp().sum(), (x > 0).to(tl.int64)

    x, w = draw(rng, 2, 3), draw(rng, 3, 2)
    before = x.tolist()
    assert gradcheck(f, (x, 3, w), fast_mode=fast)
    assert gradgradcheck(f, (x, 3, w), fast_mode=fast)
    assert x.tolist() == before
    assert x.grad is None and w.grad is None


@both_modes
@pytest.mark.parametrize("how", ["scale", "one entry", "missing"])
def test_wrong_gradients_are_named(rng: np.random.Generator, how: str, fast: bool) -> None:
    x, y = draw(rng, 2), draw(rng, 4)
    f = lambda x, y: (x.sum(), Wrong.apply(y, how))
    with pytest.raises(
        tl.GradError, match=r"input 1 of shape \(4,\), output 1, .*backward gives \S+, finite\s+differences give"
    ):
        gradcheck(f, (x, y), fast_mode=fast)
    assert gradcheck(f, (x, y), fast_mode=fast, raise_exception=False) is False


@both_modes
def test_a_wrong_second_derivative_is_noticed(rng: np.random.Generator, fast: bool) -> None:
    class Once(tl.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: tl.Tensor) -> Any:
            return 3 * ctx.saved_tensors[0].detach() ** 2 * g  # right once, but cut off from x

    x = draw(rng, 3)
    assert gradcheck(Once.apply, x, fast_mode=fast)
    with pytest.raises(tl.GradError, match="input 0"):
        gradgradcheck(Once.apply, x, fast_mode=fast)


def test_given_grad_outputs(rng: np.random.Generator) -> None:
    x = draw(rng, 3)
    assert gradgradcheck(lambda x: x.sin(), x, draw(rng, 3))
    assert gradgradcheck(lambda x: (x.sin(), x.cos()), x, [draw(rng, 3), draw(rng, 3)])


def test_backward_that_differs_between_runs(rng: np.random.Generator) -> None:
    x, noise = draw(rng, 3), iter(range(100))

    class Noisy(tl.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: tl.Tensor) -> Any:
            return g + 1e-9 * next(noise)

    with pytest.raises(tl.GradError, match="two runs of backward differ"):
        gradcheck(Noisy.apply, x)
    assert gradcheck(Noisy.apply, x, nondet_tol=1e-7)


def test_closures_over_inputs_are_checked_too(rng: np.random.Generator) -> None:
    x = draw(rng, 3)
    assert gradcheck(lambda _: (x * x).sum(), x)


def test_zero_size_and_0d(rng: np.random.Generator) -> None:
    for fast in (True, False):
        assert gradcheck(lambda x: x * 2, tl.zeros(0, 3, dtype=tl.float64, requires_grad=True), fast_mode=fast)
        assert gradcheck(lambda x: x.exp(), draw(rng), fast_mode=fast)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="no input requires a gradient"):
        gradcheck(lambda x: x, tl.zeros(3))
    with pytest.warns(UserWarning, match="input 0 is float32"):
        gradcheck(lambda x: x * 2, tl.zeros(3, requires_grad=True), eps=0.25)
