"""Grad modes: nesting, exceptions, decorators, threads, and what inference_mode forbids."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

import tensorlib as tl

MODES = {
    "no_grad": (tl.no_grad, False),
    "enable_grad": (tl.enable_grad, True),
    "inference_mode": (tl.inference_mode, False),
    "off": (lambda: tl.set_grad_enabled(False), False),
    "on": (lambda: tl.set_grad_enabled(True), True),
}
each_mode = pytest.mark.parametrize(("mode", "on"), MODES.values(), ids=MODES)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    assert tl.is_grad_enabled() and not tl.is_inference_mode_enabled()


@pytest.fixture
def x() -> tl.Tensor:
    return tl.ones(2, requires_grad=True)


@each_mode
def test_context(x: tl.Tensor, mode: Callable[[], tl.no_grad], on: bool) -> None:
    with mode():
        assert tl.is_grad_enabled() is on and (x * 2).requires_grad is on
    assert (x * 2).requires_grad


@each_mode
def test_exceptions_restore(mode: Callable[[], tl.no_grad], on: bool) -> None:
    with pytest.raises(KeyError), mode():
        raise KeyError
    assert tl.is_grad_enabled()


@each_mode
def test_decorator(x: tl.Tensor, mode: Callable[[], tl.no_grad], on: bool) -> None:
    @mode()
    def f(a: tl.Tensor, depth: int = 0) -> bool:
        "A docstring."
        return f(a, depth - 1) if depth else (a * 2).requires_grad

    assert tl.is_grad_enabled() and f.__name__ == "f" and f.__doc__ == "A docstring."
    assert f(x) is on and f(x, depth=3) is on
    with tl.no_grad():
        assert f(x) is on and not tl.is_grad_enabled()


def test_decorator_without_parentheses(x: tl.Tensor) -> None:
    @tl.no_grad
    def f() -> tl.Tensor:
        return x * 2

    assert not f().requires_grad

    class Model:
        @tl.inference_mode
        def run(self) -> bool:
            return tl.is_inference_mode_enabled()

    assert Model().run()


def test_nesting(x: tl.Tensor) -> None:
    with tl.no_grad():
        with tl.enable_grad():
            assert (x * 2).requires_grad
            with tl.no_grad():
                assert not (x * 2).requires_grad
            assert tl.is_grad_enabled()
        assert not tl.is_grad_enabled()
    mode = tl.no_grad()
    with mode, mode:  # one object, entered twice
        assert not tl.is_grad_enabled()


def test_plain_call_lasts(x: tl.Tensor) -> None:
    tl.set_grad_enabled(False)
    try:
        assert not (x * 2).requires_grad
    finally:
        tl.set_grad_enabled(True)
    assert (x * 2).requires_grad


def test_generators_are_refused() -> None:
    with pytest.raises(TypeError, match="generator"):

        @tl.no_grad()
        def f() -> Iterator[int]:
            yield 1


def test_modes_belong_to_their_thread(x: tl.Tensor) -> None:
    seen: list[bool] = []
    with tl.no_grad():
        t = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        t.start()
        t.join()
    assert seen == [True]


def test_backward_works_inside_no_grad(x: tl.Tensor) -> None:
    y = (x * x).sum()
    with tl.no_grad():
        y.backward()
        assert not tl.is_grad_enabled()
    assert x.grad.tolist() == [2, 2]


def test_leaves_can_be_updated_in_no_grad(x: tl.Tensor) -> None:
    with tl.no_grad():
        x.sub_(0.5)
        x[0] = 7
    assert x.tolist() == [7, 0.5] and x.is_leaf and x.requires_grad


# ---- inference mode ----
def test_inference_tensors_stay_out_of_graphs(x: tl.Tensor) -> None:
    with tl.inference_mode():
        assert tl.is_inference_mode_enabled()
        made = x * 2
        view = x[:1]
        made.add_(1)  # inside, everything goes
    assert not tl.is_inference_mode_enabled() and not made.requires_grad
    assert (made * 2).tolist() == [6, 6]  # nothing recorded: fine
    for record in (lambda: x * made, lambda: tl.cat([x, made]), lambda: tl.where(x > 0, x, made), lambda: x @ made):
        with pytest.raises(tl.GradError, match="inference_mode"):
            record()
    assert (x * made.clone()).requires_grad
    assert (x[:1] * view.clone()).requires_grad


def test_inference_tensors_are_not_written_outside() -> None:
    with tl.inference_mode():
        made = tl.ones(2) * 2
    for write in (lambda: made.add_(1), lambda: made.__setitem__(0, 5), lambda: made[:1].zero_(), lambda: made.exp_()):
        with pytest.raises(tl.GradError, match="inference_mode"):
            write()
    with pytest.raises(tl.GradError, match="inference_mode"):
        made.requires_grad_()
    assert made.tolist() == [2, 2]
    for outer in (tl.no_grad, tl.inference_mode, tl.enable_grad):
        with outer(), tl.inference_mode(False):
            assert tl.is_grad_enabled() and not tl.is_inference_mode_enabled()
    with tl.inference_mode():
        made.add_(1)
    assert made.tolist() == [3, 3]


def test_ordinary_tensors_are_read_and_written_in_inference_mode(x: tl.Tensor) -> None:
    plain = tl.zeros(2)
    with tl.inference_mode():
        plain.add_(1)
        seen = plain[0]
    assert plain.tolist() == [1, 1] and seen.item() == 1
    assert (x * plain).requires_grad
