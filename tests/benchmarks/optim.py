"""Optimizer steps over the 65 tensors of a ResNet-20 (0.27 million parameters, most tensors small), against PyTorch's own choice (foreach) and, where
it has one, its fused step; over 100 tensors with 10 million parameters in all; and clipping by the norm of all gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.benchmarks import nets
from tests.benchmarks.harness import Race, Run

TENSORS, EACH = 100, 100_000
FUSED = {"SGD": {"momentum": 0.9}, "Adam": {}, "AdamW": {}, "Adagrad": {}}  # by PyTorch, if asked to
OTHERS = {
    "Adamax": {}, "NAdam": {}, "RAdam": {}, "RMSprop": {"momentum": 0.9}, "Adadelta": {}, "Rprop": {}, "ASGD": {}, "Adafactor": {},
}  # fmt: skip


def parameters(lib: Any, small: bool = False) -> list[Any]:
    """With gradients."""
    rng = np.random.default_rng(0)
    shapes = [tuple(p.shape) for p in nets.resnet20(lib).parameters()] if small else [(EACH,)] * TENSORS
    made = [lib.nn.Parameter(lib.from_numpy(rng.standard_normal(shape, dtype=np.float32))) for shape in shapes]
    for p in made:
        p.grad = lib.from_numpy(rng.standard_normal(tuple(p.shape), dtype=np.float32))
    return made


def steps(name: str, small: bool = False, fused: bool = True, **options: Any) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        asked = {"fused": True} if fused and lib.__name__ == "torch" else {}  # ours are, always
        run: Run = getattr(lib.optim, name)(parameters(lib, small), lr=1e-3, **options, **asked).step
        return run

    return make


def clipping(limit: float) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        ps = parameters(lib)
        return lambda: lib.nn.utils.clip_grad_norm_(ps, limit)

    return make


def muon(lib: Any) -> Run:
    matrices = [p for p in parameters(lib, small=True) if p.ndim == 4]
    flat = [lib.nn.Parameter(p.detach().reshape(p.shape[0], -1)) for p in matrices]
    for p, q in zip(flat, matrices, strict=True):
        p.grad = q.grad.reshape(tuple(p.shape))
    run: Run = lib.optim.Muon(flat, lr=1e-3).step
    return run


def workloads() -> Iterator[Race]:
    for name, options in (FUSED | OTHERS).items():
        yield Race(f"{name}, ResNet-20", steps(name, small=True, fused=False, **options))
    for name, options in FUSED.items():
        yield Race(f"{name}, ResNet-20, PyTorch fused", steps(name, small=True, **options))
    yield Race("Muon, ResNet-20's matrices", muon)
    yield Race("SGD with momentum, 100 x 100k", steps("SGD", momentum=0.9), target=1.0)
    yield Race("Adam, 100 x 100k", steps("Adam"), target=1.0)
    yield Race("AdamW, 100 x 100k", steps("AdamW"), target=1.0)
    yield Race("clip_grad_norm_, nothing to clip, 100 x 100k", clipping(1e9))
