"""Matrix products: the share of the processor's peak of multiply-adds, measured in the same rounds, beside NumPy's; and the race with PyTorch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

import tensorlib as tl
from tensorlib.native import lib as native
from tests.benchmarks.harness import Figure, Race, Run, calls_for, gc_off, interleaved, timed

Shape = tuple[int, ...]
SHARES: dict[str, tuple[Shape, Shape, float]] = {  # name: (a, b, target: share of the peak of every thread)
    "512x512x512": ((512, 512), (512, 512), 0.85),
    "1024x1024x1024": ((1024, 1024), (1024, 1024), 0.85),
    "2048x2048x2048": ((2048, 2048), (2048, 2048), 0.85),
    "4096x4096x4096": ((4096, 4096), (4096, 4096), 0.85),
    "32x256x1024": ((32, 256), (256, 1024), 0.55),
    "128x784x512": ((128, 784), (784, 512), 0.75),
    "64 of 128x128x128": ((64, 128, 128), (64, 128, 128), 0.60),
}
LINEAR: dict[str, tuple[int, int, int, float | None]] = {  # name: (rows, in, out, target)
    "1 row, 1024 to 1024": (1, 1024, 1024, 1.2),
    "4 rows, 1024 to 1024": (4, 1024, 1024, 1.2),
    "128 rows, 784 to 512": (128, 784, 512, None),
}


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def share(run: Run, a: Shape, b: Shape, threads: int) -> Callable[[int], float]:
    """The median over the rounds of this run's rate over that of so many threads' multiply-adds."""
    operations = 2.0 * math.prod(a) * b[-1]

    def measure(rounds: int) -> float:
        seen = []
        with gc_off():
            calls = calls_for(run)
            for _ in range(rounds):
                peak = native.tl_bench_fma(5) * threads
                run()
                seen.append(operations / timed(run, calls) / peak)
        return median(seen)

    return measure


def ours(a: Shape, b: Shape) -> Callable[[int], float]:
    def measure(rounds: int) -> float:
        x, y = tl.from_numpy(drawn(*a)), tl.from_numpy(drawn(*b, seed=1))
        return share(lambda: x @ y, a, b, tl.get_num_threads())(rounds)

    return measure


def numpy(a: Shape, b: Shape) -> Callable[[int], float]:
    def measure(rounds: int) -> float:
        x, y = drawn(*a), drawn(*b, seed=1)
        return share(lambda: x @ y, a, b, os.cpu_count() or 1)(rounds)  # its BLAS takes all cores

    return measure


def product(a: Shape, b: Shape) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        x, y = lib.from_numpy(drawn(*a)), lib.from_numpy(drawn(*b, seed=1))
        return lambda: x @ y

    return make


def linear(rows: int, inputs: int, outputs: int) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        x, w, b = (lib.from_numpy(drawn(*s)) * 1.0 for s in ((rows, inputs), (outputs, inputs), (outputs,)))
        return lambda: lib.nn.functional.linear(x, w, b)

    return make


ADDED: dict[str, tuple[str, Shape, Shape, Shape, dict[str, float]]] = {
    "addmm, a row to 128x784x512": ("addmm", (512,), (128, 784), (784, 512), {}),
    "addmm, 256x256x256, scaled": ("addmm", (256, 256), (256, 256), (256, 256), {"beta": 0.5, "alpha": 2.0}),
    "baddbmm, 64 of 64x64x64": ("baddbmm", (64, 64, 64), (64, 64, 64), (64, 64, 64), {"beta": 0.5, "alpha": 2.0}),
    "addbmm, 16 of 128x128x128": ("addbmm", (128, 128), (16, 128, 128), (16, 128, 128), {}),
    "addmv, 1024x1024": ("addmv", (1024,), (1024, 1024), (1024,), {"beta": 0.5}),
}


CONTRACTIONS: dict[str, tuple[str, tuple[Shape, ...]]] = {
    "scores of heads": ("bqhd,bkhd->bhqk", ((8, 128, 4, 32), (8, 128, 4, 32))),
    "weighted values": ("bhqk,bkhd->bqhd", ((8, 4, 128, 128), (8, 128, 4, 32))),
    "bilinear": ("bi,oij,bj->bo", ((64, 64), (32, 64, 64), (64, 64))),
    "matrix product": ("ij,jk->ik", ((256, 256), (256, 256))),
    "small product": ("ij,jk->ik", ((4, 4), (4, 4))),
    "chain that is shorter from the right": ("ij,jk,kl->il", ((256, 256), (256, 256), (256, 4))),
}


def contraction(equation: str, shapes: tuple[Shape, ...]) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        operands = [lib.from_numpy(drawn(*s, seed=i)) for i, s in enumerate(shapes)]
        return lambda: lib.einsum(equation, *operands)

    return make


def linear_act(rows: int, inputs: int, outputs: int) -> Callable[[Any], Run]:
    """PyTorch has no such function: apart."""

    def make(lib: Any) -> Run:
        x, w, b = (lib.from_numpy(drawn(*s)) for s in ((rows, inputs), (outputs, inputs), (outputs,)))
        if lib is tl:
            return lambda: tl.fused.linear_act(x, w, b, "relu")
        return lambda: lib.relu(lib.nn.functional.linear(x, w, b))

    return make


def half(rows: int, inputs: int, outputs: int) -> Callable[[int], float]:
    """The time of bfloat16's linear over float32's."""

    def measure(rounds: int) -> float:
        wide = [tl.from_numpy(drawn(*s)) for s in ((rows, inputs), (outputs, inputs), (outputs,))]
        low = [t.to(tl.bfloat16) for t in wide]
        times = interleaved([lambda: tl.linear(*low), lambda: tl.linear(*wide)], rounds)
        return times[0] / times[1]

    return measure


def added(name: str, shapes: tuple[Shape, ...], scales: dict[str, float]) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        operands = [lib.from_numpy(drawn(*s, seed=i)) for i, s in enumerate(shapes)]
        return lambda: getattr(lib, name)(*operands, **scales)

    return make


def workloads() -> Iterator[Race | Figure]:
    for name, (a, b, target) in SHARES.items():
        yield Figure(f"{name}: share of the peak", ours(a, b), at_least=target)
        yield Figure(f"{name}: NumPy's, of all cores", numpy(a, b), once=True)
        yield Race(name, product(a, b))
    for name, (rows, inputs, outputs, limit) in LINEAR.items():
        yield Race(f"linear, {name}", linear(rows, inputs, outputs), target=limit)
    for name, (op, *shapes, scales) in ADDED.items():
        yield Race(name, added(op, tuple(shapes), scales))
    for name, (equation, operands) in CONTRACTIONS.items():
        yield Race(f"einsum, {name}", contraction(equation, operands))
    for rows, inputs, outputs in ((128, 784, 512), (1024, 128, 512)):
        yield Race(f"linear and relu, {rows}x{inputs} to {outputs}", linear_act(rows, inputs, outputs))
        yield Figure(
            f"linear, bfloat16 / float32, {rows}x{inputs} to {outputs}", half(rows, inputs, outputs), at_most=1.1
        )
