"""BucketBatchSampler: every index once, little padding, an order that seed and epoch decide; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import tensorlib as tl
from tensorlib.data import BucketBatchSampler

LENGTHS = np.random.default_rng(0).integers(5, 101, 10_000)


@given(
    st.lists(st.integers(0, 30), max_size=60), st.none() | st.integers(1, 9), st.none() | st.integers(30, 90), st.booleans(),
    st.none() | st.integers(1, 3), st.integers(0, 2**70),
)  # fmt: skip
def test_every_index_comes_once_and_limits_hold(
    lengths: list[int], batch_size: int | None, max_tokens: int | None, shuffle: bool, window: int | None, seed: int
) -> None:
    if batch_size is None and max_tokens is None:
        return
    sampler = BucketBatchSampler(
        lengths, batch_size, max_tokens=max_tokens, shuffle=shuffle, window=window, seed=seed
    )  # fmt: skip
    for _ in range(2):
        count, waste = len(sampler), sampler.padding_waste()
        batches = list(sampler)
        assert len(batches) == count and all(batches)
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        padded = [len(batch) * max(lengths[i] for i in batch) for batch in batches]
        assert waste == (1 - sum(lengths) / sum(padded) if sum(padded) else 0)
        assert max_tokens is None or all(n <= max_tokens for n in padded)
        assert batch_size is None or all(len(batch) <= batch_size for batch in batches)


@pytest.mark.parametrize(
    ("window", "low", "high"), [(1, 0.44, 0.48), (10, 0.07, 0.09), (100, 0.009, 0.013), (None, 0.002, 0.004)]
)
def test_the_documented_waste(window: int | None, low: float, high: float) -> None:
    assert low < BucketBatchSampler(LENGTHS, 32, window=window, seed=0).padding_waste() < high


def test_seed_and_epoch_decide_the_order() -> None:
    a, b = (BucketBatchSampler(LENGTHS, 32, seed=3) for _ in range(2))
    passes = [list(a) for _ in range(3)]
    assert passes[0] != passes[1] != passes[2]
    tl.manual_seed(99)
    b.set_epoch(1)
    next(iter(b))  # a pass left early is a pass
    assert b.epoch == 2
    assert list(b) == passes[2]
    b.set_epoch(0)
    assert list(b) == passes[0]
    assert list(BucketBatchSampler(LENGTHS, 32, seed=4)) != passes[0]
    tl.manual_seed(3)
    assert list(BucketBatchSampler(tl.tensor(LENGTHS), 32)) == passes[0]


def test_the_order_of_today_is_that_of_tomorrow() -> None:
    assert list(BucketBatchSampler([3, 9, 4, 8, 1, 7], 2, seed=0)) == [[4, 0], [2, 5], [3, 1]]


def test_without_shuffling() -> None:
    sampler = BucketBatchSampler([5, 1, 4, 9, 2, 2, 8], 2, shuffle=False, window=2)
    assert list(sampler) == list(sampler) == [[1, 2], [0, 3], [4, 5], [6]]


def test_drop_last() -> None:
    sampler = BucketBatchSampler(LENGTHS, 32, drop_last=True)
    assert len(sampler) == 10_000 // 32
    assert all(len(batch) == 32 for batch in sampler)
    left = [set(range(10_000)) - {i for batch in sampler for i in batch} for _ in range(2)]
    assert left[0] != left[1]
    assert not list(BucketBatchSampler([1, 2], 3, drop_last=True))


@pytest.mark.parametrize(
    ("lengths", "how", "match"),
    [
        ([1, -2], {"batch_size": 1}, "the length of example 1, -2, is negative"),
        ([1, 9], {"max_tokens": 8}, "the length of example 1, 9, is above max_tokens 8"),
        ([1.5], {"batch_size": 1}, "lengths must be integers"),
        ([[1]], {"batch_size": 1}, r"got int64 of shape \(1, 1\)"),
        ([1], {}, "expected batch_size or max_tokens"),
        ([1], {"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ([1], {"batch_size": 1, "window": 0}, "window must be"),
        ([1], {"max_tokens": 3, "drop_last": True}, "drop_last goes with batch_size alone"),
    ],
)
def test_what_is_refused(lengths: list[Any], how: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        BucketBatchSampler(lengths, **how)
