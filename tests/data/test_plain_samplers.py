"""Samplers of single indices, and batches of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import data


def seeded() -> tl.Generator:
    return tl.Generator().manual_seed(5)


def test_random_orders_differ_from_pass_to_pass_and_repeat_with_the_seed() -> None:
    sampler = data.RandomSampler(range(50), generator=seeded())
    first, second = list(sampler), list(sampler)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(data.RandomSampler(range(50), generator=seeded())) == first
    tl.manual_seed(1)
    ours = list(data.RandomSampler(range(50)))
    tl.manual_seed(1)
    assert list(data.RandomSampler(range(50))) == ours


def test_more_samples_than_examples() -> None:
    drawn = list(data.RandomSampler(range(4), num_samples=10))
    assert len(drawn) == len(data.RandomSampler(range(4), num_samples=10)) == 10
    assert Counter(drawn[:8]) == dict.fromkeys(range(4), 2)
    assert list(data.RandomSampler([], num_samples=3)) == []


def test_with_replacement_draws_are_uniform() -> None:
    counts = np.bincount(list(data.RandomSampler(range(8), True, 16000, seeded())))
    assert len(counts) == 8
    assert ((counts - 2000) ** 2 / 2000).sum() < 24.3  # chi-squared, 7 degrees of freedom, 0.1%


def test_weights() -> None:
    weights = [1.0, 0.0, 3.0]
    counts = np.bincount(list(data.WeightedRandomSampler(weights, 8000, generator=seeded())))
    assert counts[1] == 0
    assert abs(counts[2] / 8000 - 0.75) < 0.02
    assert sorted(data.WeightedRandomSampler(weights, 2, replacement=False)) == [0, 2]


@pytest.mark.parametrize(
    ("weights", "samples", "replacement", "said"),
    [
        ([1.0, -1.0], 1, True, "finite numbers of at least 0"), ([0.0, 0.0], 1, True, "not all 0"),
        ([1.0, float("nan")], 1, True, "finite"), ([[1.0]], 1, True, "one row"), ([1.0, 0.0], 2, False, "1 weights are not 0"),
        ([1.0], 0, True, "num_samples must be an integer of at least 1"),
    ],
)  # fmt: skip
def test_bad_weights(weights: Any, samples: int, replacement: bool, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        data.WeightedRandomSampler(weights, samples, replacement)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n", [0, 1, 4, 6, 7])
def test_batches(n: int, drop_last: bool) -> None:
    sampler = data.BatchSampler(data.SequentialSampler(range(n)), 3, drop_last)
    batches = list(sampler)
    assert len(sampler) == len(batches)
    assert [i for b in batches for i in b] == list(range(n - n % 3 if drop_last else n))
    assert all(len(b) == 3 for b in batches[:-1])


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_bad_batch_size(size: Any) -> None:
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        data.BatchSampler(range(3), size, False)


def test_a_subset() -> None:
    sampler = data.SubsetRandomSampler([3, 5, 9], generator=seeded())
    assert sorted(sampler) == [3, 5, 9]
    assert len(sampler) == 3
