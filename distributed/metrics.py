"""What a run reports, over all ranks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import tensorlib as tl
from tensorlib import Tensor

from . import world
from .collectives import all_gather

__all__ = ["Metrics"]


class Metrics:
    """Means over all ranks, exact for any division of the examples among them: each rank sums what it sees, and `compute` adds the sums.

    Args:
        names: of the means. All ranks give the same ones, in one order.
        group: whose ranks; None: all.

    >>> metrics = tl.distributed.Metrics("loss", "accuracy")
    >>> for x, y in [(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 1.0])), (tl.tensor([3.0]), tl.tensor([3.0]))]:
    ...     metrics.update(len(y), loss=(x - y).square().mean(), accuracy=(x == y).float().mean())
    >>> {name: round(value, 4) for name, value in metrics.compute().items()}
    {'loss': 0.3333, 'accuracy': 0.6667}
    """

    def __init__(self, *names: str, group: world.Group | None = None) -> None:
        if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"Metrics: expected different names, got {names}.")
        self.names, self._group = names, world.member(group, "Metrics")
        self.reset()

    def reset(self) -> None:
        """Begin anew: no sums, and the clock at 0."""
        self._sums: dict[str, tuple[Any, Any]] = dict.fromkeys(
            self.names, (0.0, 0.0)
        )  # sum of weighted values, and of weights
        self._samples: Any = 0
        self._began = time.perf_counter()

    def update(self, weight: Any = 1, /, **means: Any) -> None:
        """Add means over `weight` things (samples, tokens): numbers or tensors of one element, of which some may wait for the next call.

        Tensors are read by `compute` alone: nothing waits here for a device.

        Raises:
            KeyError: for a name that is not one of `names`.
            ValueError: for a tensor of several elements. Nothing is added then.
        """
        if strange := means.keys() - self._sums.keys():
            raise KeyError(f"Metrics.update: {sorted(strange)} are not among {list(self.names)}.")
        weight, means = _exact("weight", weight), {name: _exact(name, mean) for name, mean in means.items()}
        for name, mean in means.items():
            total, weights = self._sums[name]
            self._sums[name] = total + _weighted(mean, weight), weights + weight

    def count(self, samples: Any) -> None:
        """Say that so many samples were worked on, for ``samples_per_second``."""
        self._samples = self._samples + _exact("samples", samples)

    def compute(self) -> dict[str, float]:
        """The means over all ranks since `reset`; nan where nobody gave a value. Every rank of the group calls it, and gets the same bits.

        With `count`, ``samples_per_second`` too: the samples of all ranks, by the time of the slowest.
        """
        own = [float(number) for pair in self._sums.values() for number in pair]
        own += [float(self._samples), time.perf_counter() - self._began]
        all_ranks = np.stack(
            [known.numpy() for known in all_gather(tl.tensor(own, dtype=tl.float64, device="cpu"), group=self._group)]
        )
        *sums, samples, _ = (float(total) for total in all_ranks.sum(0))
        found = {
            name: total / weight if weight else float("nan")
            for name, total, weight in zip(self.names, sums[::2], sums[1::2], strict=True)
        }
        return {**found, "samples_per_second": samples / float(all_ranks[:, -1].max())} if samples else found


def _exact(name: str, value: Any) -> Any:
    """For sums in double precision; a tensor stays one."""
    if not isinstance(value, Tensor):
        return value
    if value.numel() != 1:
        raise ValueError(f"Metrics: {name} has shape {value.shape}, expected one number, such as a mean.")
    return value.detach().double().reshape(())


def _weighted(mean: Any, weight: Any) -> Any:
    """The sum that a mean stands for; 0 for the mean of nothing, which is nan."""
    if isinstance(weight, Tensor):
        return tl.where(weight == 0, tl.zeros_like(weight), mean * weight)
    return mean * weight if weight else 0.0
