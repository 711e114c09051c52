"""Datasets by index and one after another, their parts and their splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import data


class Letters(data.IterableDataset):
    def __iter__(self) -> Any:
        return iter("abc")


def test_tensors_row_by_row_and_batch_by_batch() -> None:
    x, y = np.arange(24.0).reshape(4, 3, 2), np.arange(4)
    dataset = data.TensorDataset(tl.tensor(x), tl.tensor(y))
    assert len(dataset) == 4
    row, label = dataset[2]
    np.testing.assert_array_equal(row.numpy(), x[2])
    assert label.item() == 2
    for indices in ([3, 0, 3], tl.tensor([3, 0, 3]), np.array([3, 0, 3]), []):
        rows, labels = dataset.batch(indices)
        where = np.asarray(indices, dtype=int)
        np.testing.assert_array_equal(rows.numpy(), x[where])
        np.testing.assert_array_equal(labels.numpy(), y[where])
    assert len(data.TensorDataset()) == 0


def test_wrong_tensors_are_named() -> None:
    with pytest.raises(ValueError, match=r"tensor 1 has shape \(3,\), tensor 0 \(2, 2\)"):
        data.TensorDataset(tl.zeros(2, 2), tl.zeros(3))
    with pytest.raises(ValueError, match="expected one first size"):
        data.TensorDataset(tl.zeros(()))
    with pytest.raises(TypeError, match="argument 1 must be a Tensor, got list"):
        data.TensorDataset(tl.zeros(2), [1, 2])  # type: ignore[arg-type]


def test_concatenated() -> None:
    both = data.ConcatDataset([[1, 2], [], [3]])
    assert [both[i] for i in range(-3, 3)] == [1, 2, 3, 1, 2, 3]
    with pytest.raises(IndexError, match="index 3 is out of range for 3 examples"):
        both[3]
    with pytest.raises(ValueError, match="got no datasets"):
        data.ConcatDataset([])
    with pytest.raises(TypeError, match="dataset 1 is an IterableDataset"):
        data.ConcatDataset([[1], Letters()])


def test_chained() -> None:
    assert list(Letters() + Letters()) == list("abcabc")
    assert len(data.ChainDataset([[1], [2, 3]])) == 3


def test_side_by_side() -> None:
    assert data.StackDataset([1, 2], "ab")[1] == (2, "b")
    assert len(data.StackDataset(x=[1, 2])) == 2
    with pytest.raises(ValueError, match=r"the datasets have \[1, 2\] examples"):
        data.StackDataset([1], [1, 2])
    with pytest.raises(ValueError, match="either by position or by keyword"):
        data.StackDataset()


def test_a_subset_gathers_where_its_dataset_does() -> None:
    whole = data.TensorDataset(tl.arange(10) * 10)
    part = data.Subset(data.Subset(whole, [8, 6, 4]), [2, 0])
    assert [part[i][0].item() for i in range(len(part))] == [40, 80]
    assert part.batch([1, 0, 1])[0].tolist() == [80, 40, 80]
    assert not hasattr(data.Subset([1, 2], [0]), "batch")


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [([7, 3], [7, 3]), ([0.5, 0.5], [5, 5]), ([0.33, 0.33, 0.34], [4, 3, 3]), ([0, 10], [0, 10]), ([1.0], [10])],
    ids=str,
)
def test_split(lengths: list[float], sizes: list[int]) -> None:
    parts = data.random_split(range(10), lengths, generator=tl.Generator().manual_seed(3))
    assert [len(p) for p in parts] == sizes
    assert sorted(p[i] for p in parts for i in range(len(p))) == list(range(10))
    again = data.random_split(range(10), lengths, generator=tl.Generator().manual_seed(3))
    assert [list(p.indices) for p in again] == [list(p.indices) for p in parts]


@pytest.mark.parametrize("lengths", [[5, 4], [0.5, 0.6], [-1, 11], [float("nan"), 1.0]], ids=str)
def test_lengths_that_do_not_fit(lengths: list[float]) -> None:
    with pytest.raises(ValueError, match="random_split: lengths"):
        data.random_split(range(10), lengths)


@pytest.mark.parametrize("base", [data.Dataset, data.IterableDataset, data.Sampler])
def test_what_must_be_defined(base: type) -> None:
    with pytest.raises(NotImplementedError, match=base.__name__):
        iter(base()).__next__()
