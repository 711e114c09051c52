"""Attention, forward and backward, on heads as a transformer has them: `x.view(B, T, H, D).transpose(1, 2)`. And what memory it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import tensorlib as tl
from tests.benchmarks.harness import Figure, Race, Run

Shape = tuple[int, int, int, int]  # B, H, T, D


def heads(lib: Any, shape: Shape, seed: int) -> Any:
    b, h, t, d = shape
    values = np.random.default_rng(seed).standard_normal((b, t, h * d), dtype=np.float32)
    return lib.from_numpy(values).view(b, t, h, d).transpose(1, 2)


def attention(shape: Shape, causal: bool) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        q, k, v = (heads(lib, shape, seed).requires_grad_() for seed in range(3))
        g = heads(lib, shape, 3)

        def run() -> None:
            lib.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal).backward(g)
            q.grad = k.grad = v.grad = None

        return run

    return make


def peak_in_operands(rounds: int) -> float:
    """The most that lives at a time, in sizes of one operand: three of them and the result's gradient are there before."""
    shape = (1, 1, 8192, 64)
    run = attention(shape, causal=True)(tl)
    before = tl.memory.allocated()
    tl.memory.reset_peak()
    run()
    return (tl.memory.peak() - before) / (8192 * 64 * 4)


def workloads() -> Iterator[Race | Figure]:
    for shape, causal in (((8, 4, 128, 32), True), ((2, 8, 1024, 64), True), ((2, 8, 1024, 64), False)):
        name = f"attention forward + backward, {shape}{', causal' if causal else ''}"
        yield Race(name, attention(shape, causal), target=0.7)
    # The result and three gradients make 4; one 8192 x 8192 matrix alone would be 128.
    yield Figure("attention, T = 8192: peak in sizes of an operand", peak_in_operands, at_most=6, once=True)
