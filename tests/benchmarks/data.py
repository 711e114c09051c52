"""Loading: whole passes over datasets in memory against PyTorch's DataLoader, and how far loading hides behind the training step.

Where both libraries use workers, ours are threads and PyTorch's processes, the default of each. A pass includes starting them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import tensorlib as tl
from tests.benchmarks.harness import Figure, Race, Run, gc_off

IMAGES, BATCH = 60_000, 128
SLOW = 3  # rounds of what takes seconds


def images() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.random((IMAGES, 28, 28), dtype=np.float32), rng.integers(0, 10, IMAGES)


def loading(lib: Any) -> Any:
    return importlib.import_module(f"{lib.__name__}.utils.data")


def in_tensors(lib: Any) -> Any:
    x, y = images()
    return loading(lib).TensorDataset(lib.from_numpy(x), lib.from_numpy(y))


class MapStyle:
    """Examples one by one, as (image, int): rows of a tensor of `lib`, or of an array."""

    def __init__(self, lib: Any = None) -> None:
        x, y = images()
        self.x, self.y = x if lib is None else lib.from_numpy(x), y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.x[index], int(self.y[index])


def one_pass(dataset: Callable[[Any], Any], lib: Any, **settings: Any) -> Run:
    loader = loading(lib).DataLoader(dataset(lib), batch_size=BATCH, shuffle=True, **settings)

    def run() -> int:
        return sum(len(labels) for _, labels in loader)

    assert run() == IMAGES
    return run


def passes(dataset: Callable[[Any], Any]) -> Callable[[Any], Run]:
    return partial(one_pass, dataset)


def medians(runs: list[Run], rounds: int) -> list[float]:
    """Seconds of each, in rounds that alternate."""
    times: list[list[float]] = [[] for _ in runs]
    with gc_off():
        for _ in range(rounds):
            for run, seen in zip(runs, times, strict=True):
                start = perf_counter()
                run()
                seen.append(perf_counter() - start)
    return [median(seen) for seen in times]


def against_two_workers(ours: int, rounds: int) -> float:
    import torch

    runs = [one_pass(in_tensors, tl, num_workers=ours), one_pass(in_tensors, torch, num_workers=2)]
    mine, theirs = medians(runs, min(rounds, SLOW))
    return mine / theirs


# ---- beside the training step ----
class Photos:
    """Images of 3x64x64 that `transform` changes as they are fetched: 50 batches, so that waiting for the first is 2%."""

    def __init__(self, transform: Callable[[Any], Any], number: int = 1600) -> None:
        self.x = np.random.default_rng(0).random((number, 3, 64, 64), dtype=np.float32)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.x[index])


def with_numpy(image: Any) -> Any:
    """Flip, crop, jitter, noise: half a dozen calls of NumPy."""
    rng = tl.data.sample_rng()
    if rng.random() < 0.5:
        image = image[:, :, ::-1]
    top, left = rng.integers(0, 9, 2)
    padded = np.pad(image, ((0, 0), (4, 4), (4, 4)), mode="reflect")[:, top : top + 64, left : left + 64]
    noisy = padded * rng.uniform(0.8, 1.2) + rng.standard_normal(padded.shape, dtype=np.float32) * np.float32(0.05)
    mean, std = noisy.mean((1, 2), keepdims=True), noisy.std((1, 2), keepdims=True)
    return (np.tanh((noisy - mean) / std)).astype(np.float32)


def with_kernels(image: Any) -> Any:
    """A random rotation, resampled, then noise: kernels of this library."""
    turn = (tl.rand(()) - 0.5).item()
    theta = tl.tensor([[[np.cos(turn), -np.sin(turn), 0.0], [np.sin(turn), np.cos(turn), 0.0]]], dtype=tl.float32)
    F = tl.nn.functional
    turned = F.grid_sample(tl.from_numpy(image)[None], F.affine_grid(theta, (1, 3, 64, 64), False), align_corners=False)
    return (turned + tl.randn_like(turned) * 0.05)[0]


def in_python(image: Any) -> Any:
    """What holds the interpreter all the time."""
    total = 0
    for k in range(9000):
        total += k * k
    return image


def overlap(transform: Callable[[Any], Any], rounds: int) -> float:
    """Loading beside the step / the longer of the two alone."""
    loader = tl.data.DataLoader(Photos(transform), batch_size=32, num_workers=1)
    nn = tl.nn
    layers = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16 * 16, 10))
    x, y = tl.rand(32, 3, 64, 64), tl.arange(32) % 10
    optimizer = tl.optim.SGD(model.parameters(), lr=0.01)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        tl.nn.functional.cross_entropy(model(batch), y).backward()
        optimizer.step()

    def load() -> None:
        for _ in loader:
            pass

    def compute() -> None:
        for _ in range(len(loader)):
            step(x)

    def both() -> None:
        for batch in loader:
            step(batch)

    both()
    alone, computing, together = medians([load, compute, both], min(rounds, SLOW))
    print(f"  load {alone:.3f} s, compute {computing:.3f} s, both {together:.3f} s")
    return together / max(alone, computing)


def workloads() -> Iterator[Race | Figure]:
    yield Race("TensorDataset, 60000 x 28x28, batch 128, shuffled", passes(in_tensors), target=0.2)
    yield Race("the same, examples one by one, rows of a tensor", passes(MapStyle), target=1.0)
    yield Race("the same, rows of a NumPy array", passes(lambda _: MapStyle()), target=1.0)
    if importlib.util.find_spec("torch"):
        for ours in (0, 2):
            name = f"TensorDataset, {ours} workers / PyTorch's 2"
            yield Figure(name, partial(against_two_workers, ours), at_most=1.0)
    for what, transform in (("NumPy", with_numpy), ("kernels", with_kernels), ("pure Python", in_python)):
        target = None if what == "pure Python" else 1.1
        yield Figure(
            f"1 worker, {what}, beside a small net: / the longer alone", partial(overlap, transform), at_most=target
        )
