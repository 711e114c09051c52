"""Which rank gets which examples: each takes its part of one order that all ranks know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import tensorlib as tl

from . import world

__all__ = ["DistributedBatchSampler", "DistributedSampler"]


class _Share(tl.data.Sampler):
    """Item `rank` of an order, and every `num_replicas`-th one after it."""

    def __init__(self, num_replicas: int | None, rank: int | None, drop_last: bool, even: bool) -> None:
        name = type(self).__name__
        self.num_replicas = world.size() if num_replicas is None else num_replicas
        self.rank = world.rank() if rank is None else rank
        if not isinstance(self.num_replicas, int) or self.num_replicas < 1:
            raise ValueError(f"{name}: num_replicas must be an integer of at least 1, got {num_replicas!r}.")
        if not isinstance(self.rank, int) or not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"{name}: rank must be from 0 to {self.num_replicas - 1}, got {self.rank!r}.")
        if drop_last and not even:
            raise ValueError(f"{name}: even=False takes every example; drop_last=True leaves some out.")
        self.drop_last, self.even = drop_last, even

    def _of(self, order: list[Any]) -> list[Any]:
        n, k = len(order), self.num_replicas
        if self.drop_last:
            order = order[: n - n % k]
        elif self.even:
            order = order + (order * k)[: -n % k]
        return order[self.rank :: k]

    def _number_of(self, n: int) -> int:
        if self.even:
            return n // self.num_replicas if self.drop_last else -(-n // self.num_replicas)
        return len(range(self.rank, n, self.num_replicas))


class DistributedSampler(_Share):
    """This rank's part of a dataset's indices, as a `DataLoader` takes it by `sampler=`.

    All ranks draw the same order from `seed` and the epoch, and rank r takes every `num_replicas`-th index of it from the r-th on. So that all have
    the same number, the order is continued with its own beginning, or cut (`drop_last`).

    Args:
        num_replicas, rank: how many parts, and which; None: the world's size, and this process's rank.
        shuffle: a random order for each epoch; False: rising indices.
        seed: of all orders, the same on every rank.
        drop_last: cut what can not be divided.
        even: False: no index comes twice and none is left out, and some ranks have one less; for evaluation (`Metrics` counts what there is) and
            for training inside `DistributedDataParallel.join`.

    Call `set_epoch` before each pass: the order stays that of the last epoch set. A DataLoader's `state_dict` remembers it, so that a pass goes on
    in its middle.

    Raises:
        ValueError: for a rank that is not there, or settings that do not fit together.

    >>> parts = [tl.distributed.DistributedSampler(range(5), num_replicas=2, rank=r, shuffle=False) for r in range(2)]
    >>> [list(part) for part in parts]
    [[0, 2, 4], [1, 3, 0]]
    >>> list(tl.distributed.DistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False, even=False))
    [1, 3]
    """

    def __init__(
        self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None, shuffle: bool = True, seed: int = 0,
        drop_last: bool = False, *, even: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_replicas, rank, drop_last, even)
        self.dataset, self.shuffle, self.seed, self.epoch = dataset, shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Make the following passes those of `epoch`; on every rank the same."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = list(range(len(self.dataset)))
        if self.shuffle:
            with tl.fork_stream(self.seed, self.epoch):
                order = tl.randperm(len(order), device="cpu").tolist()
        return iter(self._of(order))

    def __len__(self) -> int:
        return self._number_of(len(self.dataset))

    @property
    def num_samples(self) -> int:
        """How many indices this rank has."""
        return len(self)

    @property
    def total_size(self) -> int:
        """How many indices all ranks have together."""
        return self.num_replicas * len(self) if self.even else len(self.dataset)


class DistributedBatchSampler(_Share):
    """This rank's part of the batches of a batch sampler, as a `DataLoader` takes it by `batch_sampler=`: whole batches, as a
    `BucketBatchSampler` made them.

    Args:
        batch_sampler: gives the same batches in the same order on every rank: its seed must be given, and the same.
        num_replicas, rank, drop_last, even: as `DistributedSampler` has them, over batches.

    >>> batches = tl.data.BucketBatchSampler([3, 9, 4, 8, 1], batch_size=2, shuffle=False)
    >>> list(tl.distributed.DistributedBatchSampler(batches, num_replicas=2, rank=1))
    [[2, 3], [4, 0]]
    """

    def __init__(
        self, batch_sampler: Any, num_replicas: int | None = None, rank: int | None = None, drop_last: bool = False, *, even: bool = True
    ) -> None:  # fmt: skip
        super().__init__(num_replicas, rank, drop_last, even)
        self.batch_sampler = batch_sampler

    @property
    def epoch(self) -> int | None:
        """The batch sampler's epoch, where it counts them."""
        return getattr(self.batch_sampler, "epoch", None)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.batch_sampler.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`; on every rank the same."""
        self.batch_sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Sequence[int]]:
        return iter(self._of(list(self.batch_sampler)))

    def __len__(self) -> int:
        return self._number_of(len(self.batch_sampler))
