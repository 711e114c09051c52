"""Training a table of 1,000,000 x 64 by row-sparse gradients, 4,096 rows a step, other rows each time: lookup, backward and the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from tests.benchmarks.harness import Race, Run

ROWS, WIDTH, NAMED, BATCHES = 1_000_000, 64, 4096, 8


def steps(name: str) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        rng = np.random.default_rng(0)
        batches = cycle([lib.tensor(rng.integers(0, ROWS, NAMED)) for _ in range(BATCHES)])
        g = lib.from_numpy(rng.standard_normal((NAMED, WIDTH), dtype=np.float32))
        table = lib.nn.Embedding(ROWS, WIDTH, sparse=True)
        optimizer = getattr(lib.optim, name)(table.parameters(), lr=1e-3)

        def run() -> None:
            optimizer.zero_grad()
            table(next(batches)).backward(g)
            optimizer.step()

        return run

    return make


def workloads() -> Iterator[Race]:
    yield Race("SGD, 1M x 64, 4096 rows", steps("SGD"), target=0.5)
    yield Race("SparseAdam, 1M x 64, 4096 rows", steps("SparseAdam"), target=0.5)
