"""One training step (forward, loss, backward, update) of the field's small networks, each written once for both libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from tests.benchmarks.harness import Race, Run


def training(model: Any, criterion: Any, optimizer: Any) -> Callable[..., Any]:
    """A step, which takes a batch and returns the loss."""

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def step(model: Any, criterion: Any, optimizer: Any, x: Any, y: Any) -> Run:
    """A run that returns the loss."""
    return partial(training(model, criterion, optimizer), x, y)


def mlp(lib: Any, *widths: int) -> Any:
    nn = lib.nn
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def lenet(lib: Any) -> Any:
    """LeCun et al. 1998, with ReLU and max pooling as it is built today."""
    nn = lib.nn
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def resnet20(lib: Any) -> Any:
    """He et al. 2016, section 4.2: three stages of three blocks; a 1x1 convolution where the shape changes."""
    nn = lib.nn

    class Block(nn.Module):
        def __init__(self, c: int, k: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
            self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)
            self.relu = nn.ReLU()
            changes = stride != 1 or c != k
            shortcut = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))
            self.shortcut = shortcut if changes else nn.Identity()

        def forward(self, x: Any) -> Any:
            out = self.relu(self.bn1(self.conv1(x)))
            return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))

    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(c, k, 1 + (c != k)) for c, k in pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@dataclass(frozen=True)
class Net:
    """`model(library)`, and what it classifies: a batch of images, in ten classes."""

    name: str
    model: Callable[[Any], Any]
    images: tuple[int, ...]
    target: float | None = None

    def build(self, lib: Any) -> tuple[Any, Run]:
        """The model, with weights that the library's seed 0 gives, and one step of SGD with momentum at each call."""
        lib.manual_seed(0)
        rng = np.random.default_rng(0)
        x = lib.from_numpy(rng.standard_normal(self.images, dtype=np.float32))
        y = lib.from_numpy(rng.integers(0, 10, self.images[0]))
        model = self.model(lib)
        optimizer = lib.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        return model, step(model, lib.nn.CrossEntropyLoss(), optimizer, x, y)

    def start(self, lib: Any) -> Run:
        return self.build(lib)[1]


NETS = [
    Net("784-256-128-10 ReLU, batch 128", lambda lib: mlp(lib, 784, 256, 128, 10), (128, 1, 28, 28)),
    Net("784-512-256-10 ReLU, batch 128", lambda lib: mlp(lib, 784, 512, 256, 10), (128, 1, 28, 28), 0.45),
    Net("LeNet 1x28x28, batch 64", lenet, (64, 1, 28, 28), 0.6),
    Net("ResNet-20 3x32x32, batch 32", resnet20, (32, 3, 32, 32), 0.8),
]


def tiny(lib: Any) -> Run:
    nn, rng = lib.nn, np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    x, y = (lib.from_numpy(rng.standard_normal((32, d), dtype=np.float32)) for d in (2, 1))
    return step(model, nn.MSELoss(), lib.optim.SGD(model.parameters(), lr=0.01), x, y)


def workloads() -> Iterator[Race]:
    yield Race("2-16-16-1 tanh, batch 32: training step", tiny, target=0.25)
    for net in NETS:
        yield Race(f"{net.name}: training step", net.start, target=net.target)
