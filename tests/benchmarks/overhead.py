"""What one small operation costs: 4x4 float32 tensors, so that nothing but the library itself is timed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean, median
from time import perf_counter_ns
from typing import Any

import tensorlib as tl
from tests.benchmarks.harness import Figure, Race, Run, calls_for, gc_off

STEPS = 100
CHAIN = 3 * STEPS  # operations: a multiplication, an addition, a tanh per step
REPEATS = 50


def operands(lib: Any, requires_grad: bool) -> tuple[Any, Any, Any]:
    values = [[0.1 * (i + 1) - 0.03 * j for j in range(4)] for i in range(4)]
    return tuple(lib.tensor(values, requires_grad=requires_grad) for _ in range(3))  # type: ignore[return-value]


def chain(lib: Any, x: Any, a: Any, b: Any) -> Any:
    tanh = lib.tanh
    for _ in range(STEPS):
        x = tanh(x * a + b)
    return x


def forward(lib: Any) -> Run:
    x, a, b = operands(lib, True)
    return lambda: chain(lib, x, a, b)


def forward_no_grad(lib: Any) -> Run:
    x, a, b = operands(lib, True)

    def run() -> None:
        with lib.no_grad():
            chain(lib, x, a, b)

    return run


def forward_backward(lib: Any) -> Run:
    x, a, b = operands(lib, True)

    def run() -> None:
        chain(lib, x, a, b).sum().backward()
        x.grad = a.grad = b.grad = None

    return run


@contextmanager
def busy_thread() -> Iterator[None]:
    """A second Python thread that does nothing but run bytecode."""
    stop = threading.Event()

    def spin() -> None:
        total = 0
        while not stop.is_set():
            for i in range(1000):
                total ^= i

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def sampled(run: Run, calls: int) -> list[int]:
    """Nanoseconds of each call."""
    times = []
    for _ in range(calls):
        start = perf_counter_ns()
        run()
        times.append(perf_counter_ns() - start)
    return times


def beside_busy(make: Callable[[Any], Run], average: Callable[[list[int]], float]) -> Callable[[int], float]:
    """Time of the chain beside a busy thread / alone.

    The median is over single chains, each far shorter than the 5 ms for which Python lets a thread keep the GIL: it shows what the chain
    itself loses (a library that gives the GIL up at every operation waits 5 ms each time). The mean also counts the time slices that the
    other thread gets, so a fair share of one interpreter is 2.
    """

    def measure(rounds: int) -> float:
        run = make(tl)
        calls = calls_for(run) * rounds
        with gc_off():
            alone = sampled(run, calls)
            with busy_thread():
                beside = sampled(run, calls)
        return average(beside) / average(alone)

    return measure


def repeated(op: Callable[[Any, Any, Any], Any], requires_grad: bool, backward: bool = False) -> Callable[[Any], Run]:
    """`op(lib, x, y)`, REPEATS times on the same operands."""

    def make(lib: Any) -> Run:
        x, y, _ = operands(lib, requires_grad)

        def run() -> None:
            for _ in range(REPEATS):
                op(lib, x, y)

        def run_backward() -> None:
            for _ in range(REPEATS):
                op(lib, x, y).sum().backward()
            x.grad = y.grad = None

        return run_backward if backward else run

    return make


VIEWS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "x.transpose(0, 1)": lambda lib, x, y: x.transpose(0, 1),
    "x.reshape(2, 8)": lambda lib, x, y: x.reshape(2, 8),
    "x[2]": lambda lib, x, y: x[2],
    "x[1, 2]": lambda lib, x, y: x[1, 2],
    "x[1:3]": lambda lib, x, y: x[1:3],
}

SINGLE: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda lib, x, y: x + y,
    "mul": lambda lib, x, y: x * y,
    "tanh": lambda lib, x, y: lib.tanh(x),
    "matmul": lambda lib, x, y: x @ y,
    "x + 1.0": lambda lib, x, y: x + 1.0,
    "sum": lambda lib, x, y: x.sum(),
}


def module_calls(make: Callable[[Any], Any], grad: bool = False) -> Callable[[Any], Run]:
    """A module, called REPEATS times on 4x4 values."""

    def prepared(lib: Any) -> Run:
        module, (x, _, _) = make(lib.nn), operands(lib, grad)

        def run() -> None:
            for _ in range(REPEATS):
                module(x)

        return run

    return prepared


def hooked(nn: Any) -> Any:
    module = nn.Identity()
    module.register_forward_hook(lambda m, args, out: None)
    return module


def workloads() -> Iterator[Race | Figure]:
    yield Race("chain of add, mul, tanh: forward", forward, CHAIN, target=0.45)
    yield Race("chain of add, mul, tanh: forward + backward", forward_backward, CHAIN, target=0.20)
    yield Race("chain of add, mul, tanh: no_grad", forward_no_grad, CHAIN, target=0.55)
    for name, make in (("forward", forward), ("forward + backward", forward_backward)):
        yield Figure(f"{name} beside a busy thread / alone, median", beside_busy(make, median), at_most=1.5, once=True)
        yield Figure(f"{name} beside a busy thread / alone, mean", beside_busy(make, fmean), once=True)
    yield Race("module call: Identity", module_calls(lambda nn: nn.Identity()), REPEATS, target=0.5)
    yield Race(
        "module call: ten in a Sequential",
        module_calls(lambda nn: nn.Sequential(*[nn.Identity() for _ in range(10)])),
        REPEATS,
    )
    yield Race("module call: Identity with a forward hook", module_calls(hooked), REPEATS)
    yield Race("module call: Linear(4, 4), recorded", module_calls(lambda nn: nn.Linear(4, 4), grad=True), REPEATS)
    for name, op in VIEWS.items():
        yield Race(name, repeated(op, requires_grad=False), REPEATS, target=0.9)
        yield Race(f"{name}, recorded", repeated(op, requires_grad=True), REPEATS, target=0.9)
    for name, op in SINGLE.items():
        yield Race(f"{name}: no gradient", repeated(op, requires_grad=False), REPEATS)
        yield Race(f"{name}: recorded", repeated(op, requires_grad=True), REPEATS)
        yield Race(f"{name}: recorded, sum, backward", repeated(op, requires_grad=True, backward=True), REPEATS)
