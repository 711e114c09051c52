"""Images onto another grid, forward and backward: interpolate in its modes, padding, patches, sampling at given points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.benchmarks.harness import Race, Run

IMAGES, VOLUMES = (4, 32, 56, 56), (4, 16, 8, 28, 28)


def values(lib: Any, shape: tuple[int, ...], seed: int = 0) -> Any:
    return lib.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))


def step(name: str, *shapes: tuple[int, ...], **kw: Any) -> Callable[[Any], Run]:
    """F.name of random operands, and all their gradients."""

    def make(lib: Any) -> Run:
        function = getattr(lib.nn.functional, name)
        operands = [values(lib, shape, i).requires_grad_() for i, shape in enumerate(shapes)]
        g = values(lib, tuple(function(*operands, **kw).shape), 9)

        def run() -> None:
            function(*operands, **kw).backward(g)
            for x in operands:
                x.grad = None

        return run

    return make


def workloads() -> Iterator[Race]:
    for mode in ("nearest", "bilinear", "bicubic"):
        yield Race(
            f"interpolate x2, {mode}, {IMAGES}", step("interpolate", IMAGES, scale_factor=2, mode=mode), target=1.0
        )
    yield Race(
        f"interpolate x2, trilinear, {VOLUMES}",
        step("interpolate", VOLUMES, scale_factor=2, mode="trilinear"),
        target=1.0,
    )
    yield Race(
        f"interpolate to half, bilinear, {IMAGES}",
        step("interpolate", IMAGES, size=(28, 28), mode="bilinear"),
        target=1.0,
    )
    yield Race(f"interpolate to 7x7, area, {IMAGES}", step("interpolate", IMAGES, size=(7, 7), mode="area"), target=1.0)
    for mode in ("constant", "reflect", "replicate", "circular"):
        yield Race(f"pad by 1, {mode}, {IMAGES}", step("pad", IMAGES, pad=(1, 1, 1, 1), mode=mode), target=0.9)
    yield Race(
        "pad by 4, reflect, (8, 3, 32, 32)", step("pad", (8, 3, 32, 32), pad=(4,) * 4, mode="reflect"), target=0.9
    )
    yield Race("unfold 3x3, (4, 32, 28, 28)", step("unfold", (4, 32, 28, 28), kernel_size=3, padding=1), target=1.0)
    yield Race(
        "fold 3x3, (4, 288, 784)",
        step("fold", (4, 288, 784), output_size=(28, 28), kernel_size=3, padding=1),
        target=1.0,
    )
    yield Race(
        "pixel_shuffle 2, (4, 128, 28, 28)", step("pixel_shuffle", (4, 128, 28, 28), upscale_factor=2), target=1.0
    )
    for mode, shape, grid in (
        ("bilinear", (4, 16, 32, 32), (4, 32, 32, 2)),
        ("bicubic", (4, 16, 32, 32), (4, 32, 32, 2)),
        ("nearest", (4, 16, 32, 32), (4, 32, 32, 2)),
        ("bilinear", (64, 1, 28, 28), (64, 28, 28, 2)),
        ("bilinear", (16, 3, 64, 64), (16, 64, 64, 2)),
        ("bilinear", (1, 256, 64, 64), (1, 10, 10, 2)),
        ("bilinear", (2, 8, 8, 28, 28), (2, 8, 28, 28, 3)),
    ):
        points = " x ".join(map(str, grid[1:-1]))
        yield Race(
            f"grid_sample, {mode}, {shape} at {points}",
            step("grid_sample", shape, grid, mode=mode, align_corners=False),
            target=0.9,
        )
