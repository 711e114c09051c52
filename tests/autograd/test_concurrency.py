"""backward from several threads at once, inside itself, after fork, and interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import tensorlib as tl

if TYPE_CHECKING:
    from types import FrameType

    import numpy as np

THREADS, ROUNDS = 4, 25


def in_threads(work: Callable[[int], Any], n: int = THREADS) -> list[Any]:
    results: list[Any] = [None] * n
    start = threading.Barrier(n)

    def run(k: int) -> None:
        start.wait()
        try:
            results[k] = work(k)
        except BaseException as error:  # noqa: BLE001 (reported to the test's own thread)
            results[k] = error

    threads = [threading.Thread(target=run, args=(k,)) for k in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
        assert not t.is_alive()
    errors = [r for r in results if isinstance(r, BaseException)]
    if errors:
        raise errors[0]
    return results


class Twice(tl.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
        assert ctx.saved_tensors[0] is not None
        return g * 2


GRAPHS: dict[str, Callable[[tl.Tensor], tl.Tensor]] = {
    "kernels": lambda x: (x * 3).reshape(-1).sum(),
    "python rules": lambda x: (x.cumsum(-1).flip(-1) * 0 + Twice.apply(x) * 1.5).sum(),
    "views and writes": lambda x: _written(x).sum(),
}


def _written(x: tl.Tensor) -> tl.Tensor:
    y = x * 1
    y[:2].mul_(3)
    y[2:].mul_(3)
    return y


@pytest.mark.parametrize("size", [3, 100_000], ids=["small", "large"])  # large: additions release the GIL
@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_shared_leaves_receive_every_contribution(
    graph: Callable[[tl.Tensor], tl.Tensor], hooked: bool, size: int
) -> None:
    x = tl.ones(4, size, requires_grad=True)
    rounds = ROUNDS if size < 1000 else 6
    calls: list[int] = []
    if hooked:
        x.register_hook(lambda g: g * 1)
        x.register_post_accumulate_grad_hook(lambda leaf: calls.append(1))

    def work(k: int) -> None:
        for _ in range(rounds):
            graph(x).backward()

    in_threads(work)
    assert (x.grad.numpy() == 3 * THREADS * rounds).all()
    assert len(calls) == (THREADS * rounds if hooked else 0)


def test_threads_with_leaves_of_their_own_do_not_meet(rng: np.random.Generator) -> None:
    values = rng.standard_normal((THREADS, 20, 20))

    def work(k: int) -> np.ndarray:
        x = tl.tensor(values[k], requires_grad=True)
        for _ in range(ROUNDS):
            x.grad = None
            h = x
            for _ in range(10):
                h = tl.tanh(h @ x)
            h.sum().backward()
        return x.grad.numpy()

    alone = [work(k) for k in range(THREADS)]
    for a, b in zip(in_threads(work), alone, strict=True):
        assert a.tobytes() == b.tobytes()


def test_one_graph_retained_by_several_threads() -> None:
    x = tl.tensor([1.0, 2.0], dtype=tl.float64, requires_grad=True)
    y = Twice.apply((x * x).exp()).cumsum(0).sum()

    def work(k: int) -> list[float]:
        for _ in range(ROUNDS):
            (g,) = tl.autograd.grad(y, x, retain_graph=True)
        return g.tolist()

    results = in_threads(work)
    assert all(r == results[0] for r in results)


def test_one_graph_used_up_by_one_of_several_threads() -> None:
    """Exactly one may have it; the others get the error, and nothing breaks."""
    for _ in range(20):
        x = tl.ones(50_000, requires_grad=True)
        y = ((x * x).exp() * x).sum()

        def work(k: int, y: tl.Tensor = y) -> str:
            try:
                y.backward()
            except tl.GradError as error:
                return str(error)
            return "done"

        results = in_threads(work)
        assert "done" in results and all(r == "done" or "already used" in r for r in results)
        assert x.grad is not None


def test_grad_modes_and_saved_lines_are_each_threads_own() -> None:
    x = tl.ones(2, requires_grad=True)

    def work(k: int) -> bool:
        for _ in range(200):
            if k % 2:
                with tl.no_grad():
                    if (x * 2).requires_grad:
                        return False
            elif not (x * 2).requires_grad:
                return False
        return True

    assert all(in_threads(work))


def test_graphs_are_made_in_one_thread_and_run_in_another() -> None:
    x = tl.ones(2, requires_grad=True)
    losses = in_threads(lambda k: (x * (k + 1)).sum())
    in_threads(lambda k: losses[k].backward())
    assert x.grad.tolist() == [10, 10]


def test_dropping_gradients_while_others_add_to_them() -> None:
    """Whoever wins, nothing crashes, and what is left is whole multiples."""
    x = tl.ones(100_000, requires_grad=True)

    def work(k: int) -> None:
        for _ in range(20):
            if k:
                (x * 2).sum().backward()
            else:
                x.grad = None
                time.sleep(0.001)

    in_threads(work)
    if x.grad is not None:
        assert not (x.grad.numpy() % 2).any()


# ---- signals ----
# Python drops an exception that is raised inside a __del__, Tensor's too: who presses Ctrl-C just then has to press it again.
may_fall_into_a_finalizer = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def _interrupted(work: Callable[[], None]) -> None:
    """Sends SIGINT shortly after `work` began, and again; it must end with KeyboardInterrupt long before it would by itself."""
    ended = threading.Event()

    def press() -> None:
        while not ended.wait(0.2):
            os.kill(os.getpid(), signal.SIGINT)

    def pressed(number: int, frame: FrameType | None) -> None:
        if not ended.is_set():
            signal.default_int_handler(number, frame)

    presses = threading.Thread(target=press)
    previous = signal.signal(signal.SIGINT, pressed)
    presses.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        ended.set()
        presses.join()
        signal.signal(signal.SIGINT, previous)


@may_fall_into_a_finalizer
def test_ctrl_c_in_a_backward_that_runs_in_c() -> None:
    x = tl.ones(200, 200, requires_grad=True)
    y = x
    for _ in range(2000):
        y = y * 1.0
    z = y.sum()

    def forever() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            z.backward(retain_graph=True)

    _interrupted(forever)
    x.grad = None
    z.backward()
    assert (x.grad.numpy() == 1).all()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")
def test_the_engine_looks_for_signals_while_it_runs() -> None:
    """One call of C for the whole graph: the handler must run before it has come to the graph's beginning."""
    arrived: list[int] = []
    x = tl.ones(20_000, requires_grad=True)
    first = x * 1.0
    first.register_hook(lambda g: arrived.append(1))
    y = first
    for _ in range(50_000):
        y = y * 1.0
    z = y.sum()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (the timer must not go off elsewhere)
            signal.setitimer(signal.ITIMER_REAL, 0.03)
            z.backward(retain_graph=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not arrived and x.grad is None
    z.backward()
    assert arrived == [1] and (x.grad.numpy() == 1).all()


@may_fall_into_a_finalizer
def test_ctrl_c_inside_python_rules() -> None:
    x = tl.ones(10, requires_grad=True)
    y = x
    for _ in range(300):
        y = Twice.apply(y) * 0.5
    z = y.sum()

    def forever() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            z.backward(retain_graph=True)

    _interrupted(forever)
    assert tl.is_grad_enabled()
    x.grad = None
    z.backward()
    assert x.grad.tolist() == [1.0] * 10


# ---- fork ----
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_backward_on_several_threads() -> None:
    tl.set_num_threads(3)
    x = tl.ones(300, 300, requires_grad=True)

    def loss() -> tl.Tensor:
        return tl.tanh(x @ x / 300).sum()

    loss().backward()
    expected = x.grad.numpy().tobytes()
    made_before = loss()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            x.grad = None
            made_before.backward()
            ok = x.grad.numpy().tobytes() == expected
            x.grad = None
            in_threads(lambda k: loss().backward(), 1)
            code = 0 if ok and x.grad.numpy().tobytes() == expected else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    x.grad = None
    loss().backward()
    assert x.grad.numpy().tobytes() == expected
