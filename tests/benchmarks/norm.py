"""Normalisation, forward and backward, at the sizes that convolutional nets and transformers meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.benchmarks.harness import Race, Run

Apply = Callable[[Any, Any], Any]
IMAGES = [(32, 16, 32, 32), (32, 64, 8, 8), (4, 256, 14, 14)]


def normal(lib: Any, *shape: int, seed: int = 0) -> Any:
    return lib.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def training(layer: Callable[[Any], Any], *shape: int) -> Callable[[Any], Run]:
    """Forward and backward of a layer."""

    def make(lib: Any) -> Run:
        x, g, module = normal(lib, *shape).requires_grad_(), normal(lib, *shape, seed=1), layer(lib.nn)

        def run() -> None:
            module(x).backward(g)
            x.grad = None
            module.zero_grad()

        return run

    return make


def evaluation(layer: Callable[[Any], Any], *shape: int) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        x, module = normal(lib, *shape), layer(lib.nn).eval()

        def run() -> object:
            with lib.no_grad():
                return module(x)

        return run

    return make


def workloads() -> Iterator[Race]:
    for shape in IMAGES:
        channels = shape[1]
        yield Race(f"batch_norm, {shape}", training(lambda nn, c=channels: nn.BatchNorm2d(c), *shape), target=0.8)
        yield Race(
            f"batch_norm in evaluation, {shape}",
            evaluation(lambda nn, c=channels: nn.BatchNorm2d(c), *shape),
            target=0.8,
        )
        yield Race(f"group_norm of 8, {shape}", training(lambda nn, c=channels: nn.GroupNorm(8, c), *shape), target=0.8)
    yield Race("instance_norm, (32, 16, 32, 32)", training(lambda nn: nn.InstanceNorm2d(16), *IMAGES[0]), target=0.8)
    yield Race("batch_norm, (128, 256)", training(lambda nn: nn.BatchNorm1d(256), 128, 256), target=0.8)
    yield Race("batch_norm, (64, 64, 112, 112)", training(lambda nn: nn.BatchNorm2d(64), 64, 64, 112, 112), target=0.8)
    yield Race("rms_norm, (1024, 128)", training(lambda nn: nn.RMSNorm(128), 1024, 128), target=0.8)
    yield Race("rms_norm, (8192, 1024)", training(lambda nn: nn.RMSNorm(1024), 8192, 1024), target=0.8)
