"""Where examples come from: by index, or one after another."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np

from tensorlib.device import CPU
from tensorlib.dtypes import int64
from tensorlib.errors import IndexRangeError, ShapeError
from tensorlib.ops.creation import from_numpy
from tensorlib.random import Generator, randperm
from tensorlib.tensor import Tensor

__all__ = [
    "ChainDataset", "ConcatDataset", "Dataset", "IterableDataset", "StackDataset", "Subset", "TensorDataset", "random_split",
]  # fmt: skip


class Dataset:
    """Examples by index: define `__getitem__`, and `__len__` where there is an end.

    A dataset that can fetch many examples at once defines ``__getitems__(indices)``, which returns the list of them; one that can make a whole
    batch at once, without its parts, ``batch(indices)``, of a list or an int64 tensor, which returns what the collate function would have.
    `DataLoader` uses either.

    >>> class Squares(tl.data.Dataset):
    ...     def __len__(self):
    ...         return 5
    ...     def __getitem__(self, i):
    ...         return i * i
    >>> len(Squares() + Squares())
    10
    """

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define __getitem__().")

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset):
    """Examples one after another: define `__iter__`. With workers, `get_worker_info` tells each which part is its own.

    >>> class Count(tl.data.IterableDataset):
    ...     def __iter__(self):
    ...         return iter(range(3))
    >>> list(Count() + Count())
    [0, 1, 2, 0, 1, 2]
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__().")

    def __add__(self, other: Dataset) -> Any:
        return ChainDataset([self, other])


class TensorDataset(Dataset):
    """Tensors of one first size; example i is row i of each. A batch is gathered by one native call for each tensor.

    Raises:
        ShapeError: where the first sizes differ.

    >>> data = tl.data.TensorDataset(tl.arange(6).reshape(3, 2), tl.tensor([0, 1, 2]))
    >>> data[1]
    (tensor([2, 3]), tensor(1))
    """

    def __init__(self, *tensors: Tensor) -> None:
        for i, t in enumerate(tensors):
            if not isinstance(t, Tensor):
                raise TypeError(f"TensorDataset: argument {i} must be a Tensor, got {type(t).__name__}.")
            if t.ndim == 0 or len(t) != len(tensors[0]):
                raise ShapeError(
                    f"TensorDataset: tensor {i} has shape {t.shape}, tensor 0 {tensors[0].shape}; expected one first size."
                )
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, ...]:
        """The rows `indices` of each tensor."""
        rows = indices.to(int64) if isinstance(indices, Tensor) else from_numpy(np.asarray(indices, np.int64))
        return tuple(t[rows] for t in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0]) if self.tensors else 0


class StackDataset(Dataset):
    """Datasets of one length side by side: example i is the tuple (or, of keywords, the dict) of their examples i.

    >>> pairs = tl.data.StackDataset(image=["a", "b"], label=[0, 1])
    >>> pairs[1]
    {'image': 'b', 'label': 1}
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if bool(args) == bool(kwargs):
            raise ValueError("StackDataset: expected datasets either by position or by keyword.")
        parts = list(args or kwargs.values())
        if len({len(p) for p in parts}) > 1:
            raise ShapeError(
                f"StackDataset: the datasets have {[len(p) for p in parts]} examples; expected one length."
            )
        self.datasets: Any = kwargs or args

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {name: part[index] for name, part in self.datasets.items()}
        return tuple(part[index] for part in self.datasets)

    def __len__(self) -> int:
        return len(next(iter(self.datasets.values())) if isinstance(self.datasets, dict) else self.datasets[0])


class ConcatDataset(Dataset):
    """Datasets one behind another, as one.

    >>> both = tl.data.ConcatDataset([["a", "b"], ["c"]])
    >>> len(both), both[2], both[-3]
    (3, 'c', 'a')
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset: got no datasets.")
        for i, d in enumerate(self.datasets):
            if isinstance(d, IterableDataset):
                raise TypeError(
                    f"ConcatDataset: dataset {i} is an IterableDataset, which has no indices: ChainDataset takes it."
                )
        self.cumulative_sizes = list(accumulate(len(d) for d in self.datasets))

    def __getitem__(self, index: int) -> Any:
        n = len(self)
        if not -n <= index < n:
            raise IndexRangeError(f"ConcatDataset: index {index} is out of range for {n} examples.")
        position = index % n
        part = bisect_right(self.cumulative_sizes, position)
        return self.datasets[part][position - (self.cumulative_sizes[part - 1] if part else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


class ChainDataset(IterableDataset):
    """Iterable datasets one behind another.

    >>> len(list(tl.data.ChainDataset([range(2), range(3)])))
    5
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.datasets)

    def __len__(self) -> int:
        return sum(len(d) for d in self.datasets)


class Subset(Dataset):
    """The examples of `dataset` at `indices`, in their order.

    >>> odd = tl.data.Subset("abcd", [1, 3])
    >>> odd[0], len(odd)
    ('b', 2)
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices
        if hasattr(dataset, "batch"):
            self.batch = self._batch

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[[self.indices[i] for i in index] if isinstance(index, list) else self.indices[index]]

    def _batch(self, indices: Sequence[int] | Tensor) -> Any:
        wanted = indices.tolist() if isinstance(indices, Tensor) else indices
        return self.dataset.batch([self.indices[i] for i in wanted])

    def __len__(self) -> int:
        return len(self.indices)


def random_split(dataset: Any, lengths: Sequence[float], generator: Generator | None = None) -> list[Subset]:
    """Disjoint random parts of `lengths` examples, or of fractions that sum to 1 (what rounding leaves goes to the first parts, one each).

    Raises:
        ValueError: where the lengths do not sum to the dataset's, or the fractions to 1.

    >>> train, held_back = tl.data.random_split(range(10), [0.8, 0.2])
    >>> len(train), len(held_back), sorted([*train.indices, *held_back.indices]) == list(range(10))
    (8, 2, True)
    """
    n = len(dataset)
    if not all(x >= 0 for x in lengths):
        raise ValueError(f"random_split: lengths must not be negative, got {list(lengths)}.")
    if any(isinstance(x, float) for x in lengths) and math.isclose(sum(lengths), 1):
        sizes = [math.floor(n * x) for x in lengths]
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
    elif sum(lengths) == n:
        sizes = [int(x) for x in lengths]
    else:
        raise ValueError(
            f"random_split: lengths {list(lengths)} sum to {sum(lengths)}; expected {n}, the dataset's, or fractions that sum to 1."
        )
    order = randperm(n, generator=generator, device=CPU).tolist()
    return [Subset(dataset, order[end - size : end]) for size, end in zip(sizes, accumulate(sizes), strict=True)]
