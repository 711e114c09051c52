"""Collectives and data-parallel training on GPUs, through pinned memory of the host; without a GPU on the stand-in. Right for any number of ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib import backends
from tensorlib.distributed import DistributedDataParallel as DDP
from tests.distributed.models import assert_same_everywhere, mine, mlp, rows
from tests.gpu import render, standin

RANK, SIZE = dist.rank(), dist.size()


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    if tl.cuda.is_available():
        yield
        return
    if render.compiler() is None:
        pytest.skip("no GPU, and no C++ compiler to run kernels on the CPU")
    with standin.installed():
        yield
    for device in [d for d in backends._backends if d.type == "cuda"]:
        del backends._backends[device]


def test_each_rank_has_a_device() -> None:
    where = dist.local_device()
    assert where.type == "cuda" and where.index == dist.local_rank() % tl.cuda.device_count()


@pytest.mark.parametrize("async_op", [False, True], ids=["now", "async"])
@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16, tl.int64], ids=str)
def test_collectives(dtype: Any, async_op: bool) -> None:
    where, total = dist.local_device(), SIZE * (SIZE + 1) // 2
    for made in (
        tl.full((2, 3), RANK + 1, dtype=dtype, device=where),
        tl.full((3, 2), RANK + 1, dtype=dtype, device=where).mT,
    ):
        side, version = tl.cuda.Stream(where), made._version
        side.wait_stream(tl.cuda.current_stream(where))
        with tl.cuda.stream(side):
            x = made.add_(0)
            work = dist.all_reduce(x, async_op=async_op)
            if async_op:
                work.wait()
        assert x is made and x.tolist() == [[total] * 3] * 2 and x.device == where and x._version > version
    x = tl.full((2,), RANK, dtype=dtype, device=where)
    dist.broadcast(x, src=SIZE - 1)
    gathered = dist.all_gather(tl.full((1,), RANK, dtype=dtype, device=where))
    assert x.tolist() == [SIZE - 1] * 2 and [g.tolist() for g in gathered] == [[r] for r in range(SIZE)]
    assert all(g.device == where for g in gathered)


@pytest.mark.parametrize("hook", [None, dist.allreduce_hook, dist.fp16_compress_hook], ids=["plain", "hook", "float16"])
def test_training_equals_that_on_the_whole_batch(hook: Any) -> None:
    tl.manual_seed(7)
    module, where = mlp(), dist.local_device()
    alone = copy.deepcopy(module)
    model = DDP(module.to(where), bucket_cap_mb=0.0005)
    if hook is not None:
        model.register_comm_hook(None, hook)
    side = tl.cuda.Stream(where)
    for inner, run, batch, place in ((alone, alone, rows, "cpu"), (module, model, lambda *n: mine(rows(*n)), where)):
        optimizer = tl.optim.SGD(inner.parameters(), lr=0.1)
        side.wait_stream(tl.cuda.current_stream(where))
        with tl.cuda.stream(None if inner is alone else side):
            for step in range(3):
                optimizer.zero_grad()
                run(batch(6, step).to(place)).square().mean().backward()
                optimizer.step()
    side.synchronize()
    tolerance = 1e-9 if hook is not dist.fp16_compress_hook else 1e-2
    for p, q in zip(module.parameters(), alone.parameters(), strict=True):
        assert p.device == where and p.grad is not None and p.grad.device == where
        assert (p.detach().cpu() - q.detach()).abs().max().item() <= tolerance
    assert_same_everywhere(module.cpu())
