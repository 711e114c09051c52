"""Large arrays: fresh results at 16M elements (page faults and bandwidth count), the same at 1M (in cache), and the row-wise layers.

What writes into memory that is already there is held against the bandwidth of a triad measured in the same rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

import tensorlib as tl
from tests.benchmarks.harness import Figure, Race, Run, calls_for, gc_off, timed

LARGE, CACHED = 1 << 24, 1 << 20

Op = Callable[[Any, Any, Any], Any]
FRESH: dict[str, tuple[float | None, Op]] = {  # name: (target at 16M, the operation)
    "add": (0.4, lambda lib, x, y: lib.add(x, y)),
    "mul": (None, lambda lib, x, y: lib.mul(x, y)),
    "exp": (0.6, lambda lib, x, y: lib.exp(x)),
    "tanh": (0.6, lambda lib, x, y: lib.tanh(x)),
    "gelu": (0.6, lambda lib, x, y: lib.nn.functional.gelu(x)),
    "sigmoid": (None, lambda lib, x, y: lib.sigmoid(x)),
    "sum": (1.05, lambda lib, x, y: lib.sum(x)),
    "max": (None, lambda lib, x, y: lib.max(x)),
}
IN_PLACE: dict[str, tuple[int, Op]] = {  # name: (arrays read or written, the operation)
    "add_": (3, lambda lib, x, y: x.add_(y)),
    "copy_": (2, lambda lib, x, y: x.copy_(y)),
}


def drawn(lib: Any, *shape: int, seed: int = 0) -> Any:
    """Normal numbers, small enough that adding them up for a minute does not overflow."""
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return lib.from_numpy(values)


def once(op: Op, n: int) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        x, y = drawn(lib, n), drawn(lib, n, seed=1)
        return lambda: op(lib, x, y)

    return make


def owned(lib: Any, n: int) -> tuple[Any, Any]:
    """Operands in the library's own memory, as an optimizer's are."""
    return drawn(lib, n) * 1.0, drawn(lib, n, seed=1) * 1e-3


def into_existing(op: Op, n: int) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        x, y = owned(lib, n)
        return lambda: op(lib, x, y)

    return make


def share_of_triad(op: Op, arrays: int, n: int) -> Callable[[int], float]:
    from tensorlib.native import lib as native

    def measure(rounds: int) -> float:
        x, y = owned(tl, n)
        run, nbytes = (lambda: op(tl, x, y)), 4 * arrays * n
        calls = calls_for(run)
        with gc_off():
            return median(nbytes / timed(run, calls) / native.tl_bench_triad(n, 2) for _ in range(rounds))

    return measure


def softmax(lib: Any) -> Run:
    x = drawn(lib, 4096, 4096)
    return lambda: lib.softmax(x, -1)


def layer_norm(lib: Any) -> Run:
    x, g = drawn(lib, 8192, 1024).requires_grad_(), drawn(lib, 8192, 1024, seed=1)
    weight, bias = lib.ones(1024).requires_grad_(), lib.zeros(1024).requires_grad_()

    def run() -> None:
        lib.nn.functional.layer_norm(x, (1024,), weight, bias).backward(g)
        x.grad = weight.grad = bias.grad = None

    return run


def workloads() -> Iterator[Race | Figure]:
    for name, (target, op) in FRESH.items():
        yield Race(f"{name}, 16M", once(op, LARGE), target=target)
    for name, (arrays, op) in IN_PLACE.items():
        yield Race(f"{name}, 16M", into_existing(op, LARGE), nbytes=4 * arrays * LARGE)
        yield Figure(f"{name}, 16M: share of the triad's bandwidth", share_of_triad(op, arrays, LARGE), at_least=0.85)
    yield Race("softmax, 4096 x 4096", softmax, target=0.7)
    yield Race("layer_norm forward + backward, 8192 x 1024", layer_norm, target=0.7)
    for name, (_, op) in FRESH.items():
        yield Race(f"{name}, 1M", once(op, CACHED), target=1.05)
    for name, (arrays, op) in IN_PLACE.items():
        yield Race(f"{name}, 1M", into_existing(op, CACHED), nbytes=4 * arrays * CACHED, target=1.05)
