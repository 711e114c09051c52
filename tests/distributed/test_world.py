"""Who takes part, and groups."""

from __future__ import annotations

import pytest

import tensorlib as tl
import tensorlib.distributed as dist


def test_world_is_numbered() -> None:
    assert 0 <= dist.rank() < dist.size()
    assert dist.get_rank() == dist.rank()
    assert dist.get_world_size() == dist.size()
    assert dist.is_initialized()
    assert 0 <= dist.local_rank() < dist.local_size() <= dist.size()
    assert dist.node_count() == 1, "all ranks of a test run on one machine"


def test_group_in_another_order() -> None:
    backwards = dist.new_group(range(dist.size() - 1, -1, -1))
    assert dist.rank(backwards) == dist.size() - 1 - dist.rank()
    assert backwards.ranks == tuple(range(dist.size()))[::-1]
    dist.destroy_process_group(backwards)


def test_group_of_some() -> None:
    some = dist.new_group(range(0, dist.size(), 2))
    if dist.rank() % 2:
        assert dist.rank(some) == -1
        with pytest.raises(ValueError, match=rf"barrier: rank {dist.rank()} is not in the group of ranks \[0"):
            dist.barrier(some)
    else:
        assert dist.rank(some) == dist.rank() // 2
        dist.barrier(some)
    dist.destroy_process_group(some)


@pytest.mark.parametrize("ranks", [[], [0, 0], [-1], [10_000]], ids=str)
def test_group_of_ranks_that_are_not_there(ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="new_group: got ranks"):
        dist.new_group(ranks)


def test_threads_are_shared() -> None:
    assert tl.get_num_threads() >= 1
