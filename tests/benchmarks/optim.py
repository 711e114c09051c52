"""Optimizer steps over 100 tensors with 10 million parameters in all, against PyTorch's fused ones; and clipping by the norm of all gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.benchmarks.harness import Race, Run

TENSORS, EACH = 100, 100_000


def parameters(lib: Any) -> list[Any]:
    """With gradients."""
    rng = np.random.default_rng(0)
    made = [lib.nn.Parameter(lib.from_numpy(rng.standard_normal(EACH, dtype=np.float32))) for _ in range(TENSORS)]
    for p in made:
        p.grad = lib.from_numpy(rng.standard_normal(EACH, dtype=np.float32))
    return made


def steps(name: str, **options: Any) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        fused = {"fused": True} if lib.__name__ == "torch" else {}  # ours are, always
        run: Run = getattr(lib.optim, name)(parameters(lib), lr=1e-3, **options, **fused).step
        return run

    return make


def clipping(limit: float) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        ps = parameters(lib)
        return lambda: lib.nn.utils.clip_grad_norm_(ps, limit)

    return make


def workloads() -> Iterator[Race]:
    yield Race("SGD with momentum, 100 x 100k", steps("SGD", momentum=0.9), target=1.0)
    yield Race("Adam, 100 x 100k", steps("Adam"), target=1.0)
    yield Race("AdamW, 100 x 100k", steps("AdamW"), target=1.0)
    yield Race("clip_grad_norm_, nothing to clip, 100 x 100k", clipping(1e9))
