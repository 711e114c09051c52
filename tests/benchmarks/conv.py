"""Convolutions, forward and backward: the input's gradient and the weights', by the sizes that networks have.

A first layer (of at most 3 channels) has data for its input, which needs no gradient, so it is measured without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import tensorlib as tl
from tests.benchmarks.harness import Figure, Race, Run, interleaved

Shape = tuple[int, int, int, int, int]
SHAPES: list[tuple[Shape, dict[str, int]]] = [  # (images, channels, size, filters, kernel), attributes
    ((4, 64, 56, 64, 3), {"padding": 1}),
    ((4, 64, 56, 256, 1), {}),
    ((4, 256, 14, 256, 3), {"padding": 1}),
    ((4, 512, 7, 512, 3), {"padding": 1}),
    ((32, 16, 32, 16, 3), {"padding": 1}),
    ((32, 64, 8, 64, 3), {"padding": 1}),
    ((64, 1, 28, 6, 5), {"padding": 2}),
    ((8, 3, 224, 64, 7), {"stride": 2, "padding": 3}),
    ((8, 96, 28, 96, 3), {"padding": 1, "groups": 96}),
    ((4, 64, 56, 128, 3), {"stride": 2, "padding": 1}),
    ((4, 64, 56, 128, 1), {"stride": 2}),
    ((4, 64, 28, 64, 3), {"padding": 2, "dilation": 2}),
    ((4, 128, 28, 128, 3), {"padding": 1, "groups": 4}),
    ((64, 6, 14, 16, 5), {}),  # LeNet's second
    ((4, 128, 28, 128, 3), {"padding": 1, "groups": 32}),  # ResNeXt
    ((8, 120, 28, 120, 5), {"stride": 2, "padding": 2, "groups": 120}),  # MobileNet
    ((8, 32, 28, 32, 5), {"padding": 2}),
    ((4, 3, 224, 192, 16), {"stride": 16}),  # patches of a vision transformer
    ((16, 128, 1000, 128, 5), {"padding": 2, "dims": 1}),
    ((2, 16, 16, 32, 3), {"padding": 1, "dims": 3}),
    ((4, 128, 14, 64, 4), {"stride": 2, "padding": 1, "transposed": 1}),
]


def convolution(shape: Shape, attrs: dict[str, int]) -> Callable[[Any], Run]:
    n, c, size, k, r = shape
    kw = dict(attrs)
    dims, transposed = kw.pop("dims", 2), kw.pop("transposed", 0)
    channels = (c, k) if transposed else (k, c // attrs.get("groups", 1))

    def make(lib: Any) -> Run:
        rng = np.random.default_rng(0)
        x = lib.from_numpy(rng.standard_normal((n, c, *[size] * dims), dtype=np.float32))
        w = lib.from_numpy(rng.standard_normal((*channels, *[r] * dims), dtype=np.float32))
        w.requires_grad_()
        if c > 3:
            x.requires_grad_()
        conv = getattr(lib.nn.functional, f"conv{'_transpose' if transposed else ''}{dims}d")
        g = lib.ones_like(conv(x, w, **kw))

        def run() -> None:
            conv(x, w, **kw).backward(g)
            x.grad = w.grad = None

        return run

    return make


def name_of(shape: Shape, attrs: dict[str, int]) -> str:
    return f"conv {shape}" + "".join(f", {name} {value}" for name, value in attrs.items())


def geometric_mean(rounds: int) -> float:
    """Of our time over PyTorch's, over all the shapes."""
    import torch

    torch.set_num_threads(tl.get_num_threads())
    logs = []
    for shape, attrs in SHAPES:
        ours, theirs = interleaved([convolution(shape, attrs)(lib) for lib in (tl, torch)], rounds)
        logs.append(math.log(ours / theirs))
    return math.exp(sum(logs) / len(logs))


def workloads() -> Iterator[Race | Figure]:
    for shape, attrs in SHAPES:
        yield Race(name_of(shape, attrs), convolution(shape, attrs), target=1.1)
    yield Figure("conv: geometric mean of ours / PyTorch's", geometric_mean, at_most=0.8)
