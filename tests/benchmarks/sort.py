"""Sorting, selecting and running sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.benchmarks.elementwise import drawn
from tests.benchmarks.harness import Figure, Race, Run

CASES: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "sort": ((1000, 1000), lambda x: x.sort(-1)),
    "sort, one row": ((1_000_000,), lambda x: x.sort(-1)),
    "argsort, the first dimension": ((1000, 200), lambda x: x.argsort(0)),
    "topk 50": ((128, 50_000), lambda x: x.topk(50)),
    "cumsum, the last dimension": ((4096, 4096), lambda x: x.cumsum(-1)),
    "cumsum, the first dimension": ((4096, 4096), lambda x: x.cumsum(0)),
    "cumprod": ((4096, 1024), lambda x: x.cumprod(-1)),
}


def on(shape: tuple[int, ...], operation: Callable[[Any], Any]) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        x = drawn(lib, *shape)
        return lambda: operation(x)

    return make


def workloads() -> Iterator[Race | Figure]:
    for name, (shape, operation) in CASES.items():
        yield Race(f"{name}, {'x'.join(map(str, shape))}", on(shape, operation), target=1.0)
