"""Which examples come together in a batch, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any

import numpy as np

from tensorlib.device import CPU
from tensorlib.dtypes import float64
from tensorlib.ops.creation import arange, as_tensor
from tensorlib.ops.joins import cat
from tensorlib.random import Generator, initial_seed, multinomial, randint, randperm
from tensorlib.tensor import Tensor

__all__ = [
    "BatchSampler", "BucketBatchSampler", "RandomSampler", "Sampler", "SequentialSampler", "SubsetRandomSampler", "WeightedRandomSampler",
]  # fmt: skip

_Indices = np.ndarray[Any, np.dtype[np.int64]]
_STRIDE = 0x9E3779B97F4A7C15  # odd: keeps the streams of seed s, epoch e and seed s + 1, epoch e - 1 apart


class Sampler:
    """An order of indices: define `__iter__`, and `__len__` where there is an end.

    >>> class Even(tl.data.Sampler):
    ...     def __iter__(self):
    ...         return iter(range(0, 6, 2))
    >>> list(Even())
    [0, 2, 4]
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__().")


class SequentialSampler(Sampler):
    """All indices of `data_source`, rising.

    >>> list(tl.data.SequentialSampler("abc"))
    [0, 1, 2]
    """

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def _order(self) -> Tensor:
        return arange(len(self.data_source), device=CPU)

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """The indices of `data_source` in a new random order in each pass.

    Args:
        replacement: draw each index anew, so that some come several times.
        num_samples: how many; None: as many as there are examples. More than that without `replacement`: several orders, one after another.
        generator: where the order comes from; None: the default generator.

    >>> sorted(tl.data.RandomSampler("abc"))
    [0, 1, 2]
    """

    def __init__(
        self, data_source: Sized, replacement: bool = False, num_samples: int | None = None, generator: Generator | None = None
    ) -> None:  # fmt: skip
        if num_samples is not None and (not isinstance(num_samples, int) or num_samples < 0):
            raise ValueError(f"RandomSampler: num_samples must be an integer of at least 0, got {num_samples!r}.")
        self.data_source, self.replacement, self.generator, self._num_samples = (
            data_source,
            replacement,
            generator,
            num_samples,
        )

    @property
    def num_samples(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        return iter(self._order().tolist())

    def _order(self) -> Tensor:
        n = len(self.data_source)
        if self.replacement and n:
            return randint(0, n, (self.num_samples,), generator=self.generator, device=CPU)
        orders = [
            randperm(n, generator=self.generator, device=CPU) for _ in range(-(-self.num_samples // n) if n else 1)
        ]
        return (orders[0] if len(orders) == 1 else cat(orders))[: self.num_samples]

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler):
    """The given indices in a new random order in each pass.

    >>> sorted(tl.data.SubsetRandomSampler([4, 7]))
    [4, 7]
    """

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices, self.generator = indices, generator

    def __iter__(self) -> Iterator[int]:
        return (self.indices[i] for i in randperm(len(self.indices), generator=self.generator, device=CPU).tolist())

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler):
    """`num_samples` indices, each drawn in proportion to its weight.

    Raises:
        ValueError: where a weight is negative or not finite, all are zero, or, without `replacement`, fewer than `num_samples` are not zero.

    >>> list(tl.data.WeightedRandomSampler([0.0, 1.0], 3))
    [1, 1, 1]
    """

    def __init__(
        self, weights: Sequence[float] | Tensor, num_samples: int, replacement: bool = True, generator: Generator | None = None
    ) -> None:  # fmt: skip
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(
                f"WeightedRandomSampler: num_samples must be an integer of at least 1, got {num_samples!r}."
            )
        self.weights = as_tensor(weights).to(CPU, float64)
        known = self.weights.numpy()
        if known.ndim != 1 or not np.isfinite(known).all() or (known < 0).any() or not known.any():
            raise ValueError(
                "WeightedRandomSampler: weights must be one row of finite numbers of at least 0, not all 0."
            )
        if not replacement and np.count_nonzero(known) < num_samples:
            raise ValueError(
                f"WeightedRandomSampler: {np.count_nonzero(known)} weights are not 0; too few for {num_samples} samples without replacement."
            )
        self.num_samples, self.replacement, self.generator = num_samples, replacement, generator

    def __iter__(self) -> Iterator[int]:
        return iter(multinomial(self.weights, self.num_samples, self.replacement, generator=self.generator).tolist())

    def __len__(self) -> int:
        return self.num_samples


_WHOLE = (RandomSampler, SequentialSampler)  # and no heirs, which may have an order of their own


class BatchSampler(Sampler):
    """Lists of `batch_size` of another sampler's indices; the last one may be shorter, or is left out with `drop_last`.

    >>> list(tl.data.BatchSampler(range(5), batch_size=2, drop_last=False))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"BatchSampler: batch_size must be an integer of at least 1, got {batch_size!r}.")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        while batch := list(islice(indices, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def rows(self) -> Iterator[Sequence[int] | Tensor]:
        """The same batches as int64 tensors, cut from one, where the sampler is one of ours: for datasets that gather."""
        sampler = self.sampler
        if type(self) is not BatchSampler or not isinstance(sampler, _WHOLE) or type(sampler) not in _WHOLE:
            return iter(self)
        order, size = sampler._order(), self.batch_size
        return (order[i * size : (i + 1) * size] for i in range(len(self)))

    def __len__(self) -> int:
        n: int = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


class BucketBatchSampler(Sampler):
    """Batches of sequences of similar length: lists of indices, each index once in every pass.

    The (shuffled) indices are cut into windows of so many batches, each window is sorted by length and cut into batches, and the batches of all
    windows are shuffled: batches differ from pass to pass, and little of them is padding. For 10,000 lengths uniform in 5..100, batches of 32,
    these parts are:

    ==================================  ===
    ``window=1``: batches drawn freely  46%
    ``window=10``                       8%
    ``window=100``, the default         1%
    ``window=None``                     0.3%
    ==================================  ===

    Args:
        lengths: one integer for each example.
        batch_size: most examples of a batch.
        max_tokens: most elements of a padded batch, the number of its sequences times the longest one's length (at least 1). This or
            `batch_size` must be given; where both are, both hold.
        shuffle: False: windows are cut from the indices as they are, and each window's batches come by rising length.
        drop_last: leave out as many examples (of the shuffled order, whatever their lengths) as would make an incomplete batch.
        seed: of all orders; None: the default generator's seed.
        window: how many batches are sorted by length together; None: all.

    The order depends on the seed and the epoch alone. Every pass is an epoch of its own; `epoch` is the next one's number, and `set_epoch` chooses
    it. ``len()`` counts the batches of the next pass; with `max_tokens` and `shuffle`, passes may differ by a few.

    Raises:
        ValueError: where a length is negative or above `max_tokens`, naming the example, or the settings do not fit together.

    >>> sampler = tl.data.BucketBatchSampler([3, 9, 4, 8, 1], batch_size=2, shuffle=False)
    >>> list(sampler), round(sampler.padding_waste(), 3)
    ([[4, 0], [2, 3], [1]], 0.194)
    """

    def __init__(
        self, lengths: Sequence[int] | Tensor | np.ndarray[Any, Any], batch_size: int | None = None, *, max_tokens: int | None = None,
        shuffle: bool = True, drop_last: bool = False, seed: int | None = None, window: int | None = 100,
    ) -> None:  # fmt: skip
        for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens), ("window", window)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"BucketBatchSampler: {name} must be an integer of at least 1, got {value!r}.")
        if batch_size is None and max_tokens is None:
            raise ValueError("BucketBatchSampler: expected batch_size or max_tokens, got neither.")
        if drop_last and max_tokens is not None:
            raise ValueError("BucketBatchSampler: drop_last goes with batch_size alone: max_tokens fills no batch.")
        self.lengths = _checked(lengths, max_tokens)
        self.batch_size, self.max_tokens, self.shuffle, self.drop_last = batch_size, max_tokens, shuffle, drop_last
        self.seed, self.window, self.epoch = initial_seed() if seed is None else seed, window, 0
        self._planned: tuple[int, list[_Indices]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._plan()
        self.epoch += 1
        return (batch.tolist() for batch in batches)

    def __len__(self) -> int:
        return len(self._plan())

    def padding_waste(self) -> float:
        """Which part of the next pass's padded batches would be padding: 0 for none."""
        batches = [self.lengths[batch] for batch in self._plan()]
        padded = sum(len(of_batch) * int(of_batch.max()) for of_batch in batches)
        return 1 - sum(int(of_batch.sum()) for of_batch in batches) / padded if padded else 0.0

    # ---- the order ----

    def _plan(self) -> list[_Indices]:
        """The next pass's batches, kept until another epoch is asked for."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = self.epoch, self._batches(Generator().manual_seed(self.seed + self.epoch * _STRIDE))
        return self._planned[1]

    def _batches(self, generator: Generator) -> list[_Indices]:
        n = len(self.lengths)
        order = randperm(n, generator=generator, device=CPU).numpy() if self.shuffle else np.arange(n)
        if self.drop_last and self.batch_size is not None:
            order = order[: n - n % self.batch_size]
        batches = [batch for part in self._windows(order) for batch in self._cut(part)]
        return (
            [batches[i] for i in randperm(len(batches), generator=generator, device=CPU).tolist()]
            if self.shuffle
            else batches
        )

    def _windows(self, order: _Indices) -> Iterator[_Indices]:
        """The order in parts, each by rising length."""
        each = len(order) if self.window is None else self.window * self._usual_size()
        for start in range(0, len(order), max(each, 1)):
            part = order[start : start + each]
            yield part[np.argsort(self.lengths[part], kind="stable")]

    def _usual_size(self) -> int:
        """How many examples a batch has, for max_tokens about."""
        if self.max_tokens is None:
            return self.batch_size or 1
        usual = self.max_tokens * len(self.lengths) // max(int(self.lengths.sum()), len(self.lengths), 1) or 1
        return usual if self.batch_size is None else min(usual, self.batch_size)

    def _cut(self, part: _Indices) -> Iterator[_Indices]:
        lengths = np.maximum(self.lengths[part], 1)
        start = 0
        while start < len(part):
            most = len(part) - start if self.batch_size is None else self.batch_size
            if self.max_tokens is not None:
                ahead = lengths[start : start + min(most, self.max_tokens)]
                most = int(np.searchsorted(ahead * np.arange(1, len(ahead) + 1), self.max_tokens, "right"))
            yield part[start : start + most]
            start += most


def _checked(lengths: Sequence[int] | Tensor | np.ndarray[Any, Any], longest: int | None) -> _Indices:
    known = lengths.cpu().numpy() if isinstance(lengths, Tensor) else np.asarray(lengths)
    if known.ndim != 1 or (known.size and known.dtype.kind not in "iu"):
        raise ValueError(
            f"BucketBatchSampler: lengths must be integers, one for each example, got {known.dtype} of shape {known.shape}."
        )
    known = known.astype(np.int64)
    for wrong, why in (
        (known < 0, "is negative"),
        (known > (longest or known.max(initial=0)), f"is above max_tokens {longest}"),
    ):
        if wrong.any():
            i = int(wrong.argmax())
            raise ValueError(f"BucketBatchSampler: the length of example {i}, {known[i]}, {why}.")
    return known
