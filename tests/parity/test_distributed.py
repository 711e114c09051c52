"""What belongs to data-parallel training, beside PyTorch's."""

from __future__ import annotations

import inspect

import pytest

import tensorlib.distributed as dist

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("drop_last", [False, True], ids=["all", "drop_last"])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 12, 25])
def test_parts_of_a_dataset(n: int, drop_last: bool) -> None:
    data = range(n)
    for k in (1, 2, 3, 5):
        for rank in range(k):
            ours = dist.DistributedSampler(data, k, rank, shuffle=False, drop_last=drop_last)
            theirs = torch.utils.data.DistributedSampler(data, k, rank, shuffle=False, drop_last=drop_last)
            assert list(ours) == list(theirs)
            assert (len(ours), ours.total_size) == (len(theirs), theirs.total_size)


def test_arguments() -> None:
    ours, theirs = (
        inspect.signature(kind).parameters for kind in (dist.DistributedSampler, torch.utils.data.DistributedSampler)
    )
    assert [(p.name, p.default) for p in ours.values()][: len(theirs)] == [(p.name, p.default) for p in theirs.values()]
