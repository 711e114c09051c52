"""Pooling, forward and backward, at the sizes of small and large images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.benchmarks.elementwise import drawn
from tests.benchmarks.harness import Figure, Race, Run

Pool = Callable[[Any, Any], Any]  # (functional, x)
CASES: dict[str, tuple[tuple[int, ...], Pool]] = {
    "max 2x2": ((64, 6, 28, 28), lambda F, x: F.max_pool2d(x, 2)),
    "max 3x3 stride 2 pad 1": ((8, 64, 112, 112), lambda F, x: F.max_pool2d(x, 3, 2, 1)),
    "global average": ((32, 64, 8, 8), lambda F, x: F.adaptive_avg_pool2d(x, 1)),
    "average 2x2": ((64, 6, 28, 28), lambda F, x: F.avg_pool2d(x, 2)),
    "average 3x3 stride 2 pad 1": ((8, 64, 56, 56), lambda F, x: F.avg_pool2d(x, 3, 2, 1)),
    "adaptive average to 7": ((8, 64, 30, 30), lambda F, x: F.adaptive_avg_pool2d(x, 7)),
    "max 1d, 4 stride 2": ((32, 64, 1024), lambda F, x: F.max_pool1d(x, 4, 2)),
    "max 3d 2x2x2": ((4, 16, 16, 32, 32), lambda F, x: F.max_pool3d(x, 2)),
}


def both_ways(shape: tuple[int, ...], pool: Pool) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        functional, x = lib.nn.functional, drawn(lib, *shape).requires_grad_()
        g = drawn(lib, *pool(functional, x).shape, seed=1)

        def run() -> None:
            pool(functional, x).backward(g)
            x.grad = None

        return run

    return make


def workloads() -> Iterator[Race | Figure]:
    for name, (shape, pool) in CASES.items():
        yield Race(f"{name}, {'x'.join(map(str, shape))}", both_ways(shape, pool), target=0.8)
