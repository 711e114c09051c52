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


def layers(make: Callable[[Any], Any], call: Callable[[Any, Any], Any]) -> Callable[[Any], Run]:
    """Forward and backward of a layer of 128 features and 4 heads on 8 sequences of 128."""

    def run_of(lib: Any) -> Run:
        lib.manual_seed(0)
        layer = make(lib.nn)
        values = np.random.default_rng(0).standard_normal((8, 128, 128), dtype=np.float32)
        x, g = lib.from_numpy(values).requires_grad_(), lib.from_numpy(values)

        def run() -> None:
            call(layer, x).backward(g)
            x.grad = None
            layer.zero_grad()

        return run

    return run_of


def make_attention(nn: Any) -> Any:
    return nn.MultiheadAttention(128, 4, batch_first=True)


def make_encoder_layer(nn: Any, dropout: float = 0.0) -> Any:
    return nn.TransformerEncoderLayer(128, 4, 512, dropout, batch_first=True)


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
    name = "forward + backward, (8, 128, 128), 4 heads"
    lean = layers(make_attention, lambda m, x: m(x, x, x, need_weights=False)[0])
    yield Race(f"MultiheadAttention without weights {name}", lean, target=0.7)
    yield Race(
        f"MultiheadAttention with weights {name}", layers(make_attention, lambda m, x: m(x, x, x)[0]), target=0.8
    )
    yield Race(f"TransformerEncoderLayer {name}", layers(make_encoder_layer, lambda m, x: m(x)), target=0.7)
    dropping = layers(lambda nn: make_encoder_layer(nn, 0.1), lambda m, x: m(x))
    yield Race(f"TransformerEncoderLayer with dropout {name}", dropping, target=0.7)
    # The result and three gradients make 4; one 8192 x 8192 matrix alone would be 128.
    yield Figure("attention, T = 8192: peak in sizes of an operand", peak_in_operands, at_most=6, once=True)
