"""Losses and embeddings, forward and backward: elementwise losses at 1M, classes at the sizes of ImageNet, a vocabulary and a segmentation;
labels without places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.benchmarks.harness import Figure, Race, Run

PAIRS: dict[str, dict[str, Any]] = {
    "mse_loss": {},
    "l1_loss": {},
    "smooth_l1_loss": {},
    "huber_loss": {},
    "kl_div": {"reduction": "sum"},
    "binary_cross_entropy": {},
    "binary_cross_entropy_with_logits": {},
}
CLASSES = {"1024 x 1000": (1024, 1000), "256 x 32000": (256, 32000), "8 x 19 x 128 x 128": (8, 19, 128, 128)}


def normal(lib: Any, *shape: int, seed: int = 0) -> Any:
    return lib.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def unit(lib: Any, *shape: int, seed: int = 0) -> Any:
    return lib.from_numpy(np.random.default_rng(seed).uniform(0.05, 0.95, shape).astype(np.float32))


def trained(x: Any, loss: Callable[[], Any]) -> Run:
    def run() -> None:
        loss().backward()
        x.grad = None

    return run


def pair(name: str, settings: dict[str, Any]) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        x, target = unit(lib, 1024, 1024).requires_grad_(), unit(lib, 1024, 1024, seed=1)
        function = getattr(lib.nn.functional, name)
        return trained(x, lambda: function(x, target, **settings))

    return make


def classes(name: str, shape: tuple[int, ...], soft: bool = False, **settings: Any) -> Callable[[Any], Run]:
    def make(lib: Any) -> Run:
        x = normal(lib, *shape).requires_grad_()
        labels = np.random.default_rng(1).integers(0, shape[1], shape[:1] + shape[2:])
        target = unit(lib, *shape, seed=1) if soft else lib.from_numpy(labels)
        function = getattr(lib.nn.functional, name)
        return trained(x, lambda: function(x, target, **settings))

    return make


def ctc(lib: Any) -> Run:
    """A batch of 32 lines of text, read in 80 to 150 steps each, of 5 to 30 letters among 28 and the blank."""
    rng = np.random.default_rng(0)
    x = normal(lib, 150, 32, 29).requires_grad_()
    targets = lib.from_numpy(rng.integers(1, 29, (32, 30)))
    inputs, counts = lib.from_numpy(rng.integers(80, 151, 32)), lib.from_numpy(rng.integers(5, 31, 32))
    f = lib.nn.functional
    return trained(x, lambda: f.ctc_loss(f.log_softmax(x, -1), targets, inputs, counts))


VOCABULARY, WIDTH, BATCH = 50_000, 128, (32, 512)


def table(lib: Any) -> tuple[Any, Any]:
    """Weights, and indices into them."""
    index = lib.from_numpy(np.random.default_rng(1).integers(0, VOCABULARY, BATCH))
    return normal(lib, VOCABULARY, WIDTH).requires_grad_(), index


def lookup(lib: Any) -> Run:
    weight, index = table(lib)
    return lambda: lib.nn.functional.embedding(index, weight)


def embedding(lib: Any) -> Run:
    weight, index = table(lib)
    g = normal(lib, *BATCH, WIDTH, seed=2)

    def run() -> None:
        lib.nn.functional.embedding(index, weight).backward(g)
        weight.grad = None

    return run


def workloads() -> Iterator[Race | Figure]:
    for name, settings in PAIRS.items():
        yield Race(f"{name}, 1M", pair(name, settings), target=0.8)
    for size, shape in CLASSES.items():
        yield Race(f"cross_entropy, {size}", classes("cross_entropy", shape), target=0.8)
    smoothed = classes("cross_entropy", CLASSES["1024 x 1000"], label_smoothing=0.1)
    yield Race("cross_entropy with label smoothing, 1024 x 1000", smoothed, target=0.8)
    for size in ("1024 x 1000", "8 x 19 x 128 x 128"):
        yield Race(
            f"cross_entropy of probabilities, {size}", classes("cross_entropy", CLASSES[size], soft=True), target=0.8
        )
        yield Race(f"nll_loss, {size}", classes("nll_loss", CLASSES[size]), target=0.8)
    yield Race("log_softmax and ctc_loss, 150 x 32 x 29, 30 labels", ctc, target=1.0)
    yield Race("embedding, 50000 x 128 at 32 x 512, forward", lookup, target=1.0)
    yield Race("embedding, 50000 x 128 at 32 x 512, forward + backward", embedding, target=0.8)
