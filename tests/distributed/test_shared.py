"""Buffers that the ranks sum together: against NumPy's additions in the order of the ranks."""

from __future__ import annotations

import gc
import os
import types
import warnings

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib.distributed import moves, progress, shared

MAPPED = pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "messages"])


def values(rank: int, n: int, slot: int = 0) -> np.ndarray:
    return np.random.default_rng([rank, slot]).standard_normal(n).astype(np.float32)


@pytest.fixture
def buffer_of(monkeypatch: pytest.MonkeyPatch, mapped: bool):
    if not mapped:
        monkeypatch.setattr(shared, "_room", lambda nbytes, needed: False)

    def make(numel: int, dtype: tl.DType = tl.float32, slots: int = 1) -> shared.SharedBuffer:
        buffer = shared.SharedBuffer(dist.init(), numel, dtype, slots)
        assert buffer.mapped == (mapped and dist.size() > 1 and numel > 0)
        return buffer

    return make


def test_memory_that_was_promised_counts_as_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages come into being when they are written, so what the system says is free is not."""
    gc.collect()
    group, each = dist.init(), 1 << 20
    shared.SharedBuffer(group, 1, tl.float32)  # releases what the tests before left behind
    promised = sum(size for windows in shared._windows.values() for *_, size in windows)
    free = types.SimpleNamespace(f_bavail=10 * each * group.size, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: free)
    monkeypatch.setattr(shared, "_without_windows", promised + free.f_bavail)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffers = [shared.SharedBuffer(group, each, tl.int8) for _ in range(12)]
    assert [buffer.mapped for buffer in buffers] == [group.size > 1] * 9 + [False] * 3, (
        "and twice as much as is needed has to be free"
    )


def run(buffer: shared.SharedBuffer, steps: progress.Steps) -> None:
    progress.submit(steps, buffer.group).wait(60)


@MAPPED
@pytest.mark.parametrize("n", [0, 1, 63, 200, 5000])
def test_all_reduce_is_the_sum_in_the_order_of_ranks(buffer_of, mapped: bool, n: int) -> None:
    buffer = buffer_of(n)
    buffer.tensor.copy_(tl.tensor(values(dist.rank(), n)))
    expected = values(0, n)
    for rank in range(1, dist.size()):
        expected += values(rank, n)
    run(buffer, buffer.all_reduce(0.5))
    np.testing.assert_array_equal(buffer.tensor.numpy(), expected * np.float32(0.5))


@MAPPED
@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16, tl.float64], ids=str)
def test_other_dtypes(buffer_of, mapped: bool, dtype: tl.DType) -> None:
    buffer = buffer_of(1000, dtype)
    parts = [tl.tensor(values(rank, 1000)).to(dtype) for rank in range(dist.size())]
    buffer.tensor.copy_(parts[dist.rank()])
    expected = tl.zeros(1000, dtype=dtype)
    assert tl.fused.sum_pairs_([expected], parts)
    run(buffer, buffer.all_reduce())
    assert buffer.tensor.equal(expected)


@MAPPED
def test_ranges_one_after_the_other(buffer_of, mapped: bool) -> None:
    buffer = buffer_of(1000)
    buffer.tensor.fill_(dist.rank() + 1.0)
    works = [progress.submit(buffer.all_reduce(1.0, i, i + 100), buffer.group) for i in range(0, 900, 100)]
    for work in works:
        work.wait(60)
    total = dist.size() * (dist.size() + 1) / 2
    assert buffer.tensor.tolist() == [total] * 900 + [dist.rank() + 1.0] * 100


@MAPPED
def test_join_adds_runs_in_a_tree(buffer_of, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "MOST", 1200)  # several messages
    n = 700
    buffer = buffer_of(n, slots=3)
    for slot in range(3):
        buffer.runs[slot].copy_(tl.tensor(values(dist.rank(), n, slot)))
    parts = [(rank, slot) for rank in range(dist.size()) for slot in range(2 if rank % 2 else 3)]
    pairs, alive = [], list(range(len(parts)))
    while len(alive) > 1:
        pairs += [(alive[i], alive[i + 1]) for i in range(0, len(alive) - 1, 2)]
        alive = alive[::2]
    sums = [values(rank, n, slot) for rank, slot in parts]
    for a, b in pairs:
        sums[a] += sums[b]
    run(buffer, buffer.join(parts, pairs, 0.25))
    np.testing.assert_array_equal(buffer.tensor.numpy(), sums[0] * np.float32(0.25))


@pytest.mark.parametrize("mapped", [True], ids=["mapped"])
def test_memory_is_released_once_no_rank_uses_it(buffer_of, mapped: bool) -> None:
    first = buffer_of(100)
    kept = first.tensor[3:5]
    kept.fill_(7.0)
    del first
    for _ in range(3):
        buffer_of(100)
        gc.collect()
    held = len(shared._windows.get(dist.init(), []))
    assert held == (2 if dist.size() > 1 else 0), "the first, in which a view is left, and the last, not yet released"
    assert kept.tolist() == [7.0, 7.0]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 64, 65, 1000])
def test_shares_cover_everything_once(n: int, ranks: int) -> None:
    shares = [shared.share(0, n, ranks, rank) for rank in range(ranks)]
    assert [i for low, high in shares for i in range(low, high)] == list(range(n))
