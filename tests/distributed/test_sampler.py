"""Parts of a dataset for each rank: together they are what they divide, and a pass goes on in its middle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

import tensorlib as tl
import tensorlib.distributed as dist

SIZES = [0, 1, 2, 3, 7, 12, 25]


def parts(n: int, k: int, **options: Any) -> list[list[int]]:
    """What each of k ranks gets of n examples."""
    samplers = [dist.DistributedSampler(range(n), k, rank, **options) for rank in range(k)]
    got = [list(sampler) for sampler in samplers]
    assert [len(part) for part in got] == [len(sampler) for sampler in samplers]
    return got


@pytest.mark.parametrize("shuffle", [False, True], ids=["rising", "shuffled"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("n", SIZES)
def test_all_ranks_have_as_many_and_nothing_is_left_out(n: int, k: int, shuffle: bool) -> None:
    got = parts(n, k, shuffle=shuffle)
    assert {len(part) for part in got} == {-(-n // k)}
    counts = Counter(list(chain(*got)))
    assert set(counts) == set(range(n))
    assert sum(counts.values()) - n < k


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("n", SIZES)
def test_drop_last_repeats_nothing(n: int, k: int) -> None:
    got = parts(n, k, drop_last=True)
    assert {len(part) for part in got} == {n // k}
    assert len(set(chain(*got))) == n // k * k


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("n", SIZES)
def test_uneven_is_everything_once(n: int, k: int) -> None:
    got = parts(n, k, even=False)
    assert sorted(chain(*got)) == list(range(n))
    assert max(map(len, got)) - min(map(len, got)) <= 1
    assert dist.DistributedSampler(range(n), k, 0, even=False).total_size == n


def test_more_ranks_than_examples() -> None:
    assert parts(2, 5, shuffle=False) == [[0], [1], [0], [1], [0]]


def test_orders_follow_from_seed_and_epoch() -> None:
    sampler = dist.DistributedSampler(range(50), 2, 0, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    tl.rand(5)  # what others draw changes nothing
    assert list(sampler) == first
    assert list(dist.DistributedSampler(range(50), 2, 0, seed=4)) != first


def test_defaults_are_this_rank() -> None:
    sampler = dist.DistributedSampler(range(100))
    assert (sampler.num_replicas, sampler.rank) == (dist.size(), dist.rank())
    assert sampler.num_samples == len(sampler)
    assert sampler.total_size == dist.size() * len(sampler)


def batches(n: int = 23) -> tl.data.BucketBatchSampler:
    return tl.data.BucketBatchSampler([1 + i % 7 for i in range(n)], batch_size=3, seed=5)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_whole_batches(k: int) -> None:
    got = [list(dist.DistributedBatchSampler(batches(), k, rank, even=False)) for rank in range(k)]
    assert sorted(chain(*got)) == sorted(batches())
    assert len(dist.DistributedBatchSampler(batches(), k, 0)) == -(-8 // k)
    assert len(dist.DistributedBatchSampler(batches(), k, 0, drop_last=True)) == 8 // k


def test_epochs_of_batches() -> None:
    sampler = dist.DistributedBatchSampler(batches(), 2, 0)
    first = list(sampler)
    assert sampler.epoch == 1
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def loader_of_indices() -> tl.data.DataLoader:
    sampler = dist.DistributedSampler(range(30), 2, 1, seed=1)
    return tl.data.DataLoader(tl.data.TensorDataset(tl.arange(30)), batch_size=4, sampler=sampler, num_workers=2)


def loader_of_batches() -> tl.data.DataLoader:
    sampler = dist.DistributedBatchSampler(batches(30), 2, 1)
    return tl.data.DataLoader(tl.data.TensorDataset(tl.arange(30)), batch_sampler=sampler)


@pytest.mark.parametrize("make", [loader_of_indices, loader_of_batches])
def test_a_loader_goes_on_in_mid_pass(make: Callable[[], tl.data.DataLoader]) -> None:
    def rest(loader: tl.data.DataLoader) -> list[list[int]]:
        return [batch.tolist() for (batch,) in loader]

    loader = make()
    sampler: Any = loader.sampler or loader.batch_sampler
    sampler.set_epoch(6)
    begun = iter(loader)
    next(begun), next(begun)
    state = loader.state_dict()
    expected = [batch.tolist() for (batch,) in begun]
    again = make()
    again.load_state_dict(state)
    assert rest(again) == expected
    assert len(expected) == len(loader) - 2
    sampler.set_epoch(7)
    following: Any = again.sampler or again.batch_sampler
    following.set_epoch(7)
    assert rest(again) == rest(loader)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_replicas": 0}, "num_replicas must be an integer of at least 1, got 0"),
        ({"num_replicas": 2, "rank": 2}, "rank must be from 0 to 1, got 2"),
        ({"num_replicas": 2, "rank": -1}, "rank must be from 0 to 1, got -1"),
        ({"drop_last": True, "even": False}, "even=False takes every example; drop_last=True leaves some out"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"DistributedSampler: {said}"):
        dist.DistributedSampler(range(4), **options)
    with pytest.raises(ValueError, match=f"DistributedBatchSampler: {said}"):
        dist.DistributedBatchSampler(batches(), **options)
