"""One SGD step (forward, loss, backward, update) of two multilayer perceptrons, written as a user would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.benchmarks.harness import Race, Run


def step(model: Any, criterion: Any, optimizer: Any, x: Any, y: Any) -> Run:
    def run() -> None:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()

    return run


def tiny(lib: Any) -> Run:
    nn, rng = lib.nn, np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    x, y = (lib.from_numpy(rng.standard_normal((32, d), dtype=np.float32)) for d in (2, 1))
    return step(model, nn.MSELoss(), lib.optim.SGD(model.parameters(), lr=0.01), x, y)


def mnist_size(lib: Any) -> Run:
    nn, rng = lib.nn, np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    x = lib.from_numpy(rng.standard_normal((128, 784), dtype=np.float32))
    y = lib.from_numpy(rng.integers(0, 10, 128))
    return step(model, nn.CrossEntropyLoss(), lib.optim.SGD(model.parameters(), lr=0.01), x, y)


def workloads() -> Iterator[Race]:
    yield Race("2-16-16-1 tanh, batch 32: training step", tiny, target=0.25)
    yield Race("784-256-128-10 ReLU, batch 128: training step", mnist_size)
