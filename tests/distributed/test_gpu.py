"""Collectives and data-parallel training on GPUs: through pinned memory of the host, by NCCL where each rank has a GPU, and by an MPI that takes GPU
memory. Without a GPU on the stand-in, which has two: four ranks can not link theirs. Right for any number of ranks."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib import backends
from tensorlib.distributed import DistributedDataParallel as DDP, gpu_memory, gpus, progress, world
from tests.distributed.models import assert_same_everywhere, mine, mlp, rows
from tests.gpu import render, standin
from tests.sources import ROOT

RANK, SIZE = dist.rank(), dist.size()
REAL = tl.cuda.is_available()


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    if REAL:
        yield
        return
    if render.compiler() is None:
        pytest.skip("no GPU, and no C++ compiler to run kernels on the CPU")
    with standin.installed():
        yield
        world._close_links(world.GROUPS)
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


def as_on(nodes: int) -> world.Group:
    """All ranks, as if they were on so many nodes with equally many neighbours each."""
    whole = world.init()
    if whole.background is None:
        return whole
    node = whole.background.Split(RANK * nodes // SIZE)
    across = whole.background.Split(node.rank)
    return world.Group(whole.ranks, whole.rank, whole.comm, whole.background, node, across)


def can_link(nodes: int, direct: bool = False) -> bool:
    """Whether the ranks of each node have GPUs of their own, and something to say to each other."""
    here = SIZE // nodes
    return SIZE > 1 and here <= tl.cuda.device_count() and (here > 1 or direct)


@pytest.mark.parametrize("direct", [False, True], ids=["staged", "direct"])
@pytest.mark.parametrize("dtype", [tl.float32, tl.float64, tl.bfloat16, tl.float16], ids=str)
@pytest.mark.parametrize("nodes", [1, 2, SIZE])
def test_gpus_sum_among_themselves(nodes: int, dtype: Any, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if SIZE % nodes:
        return
    if not REAL:  # the stand-in's memory is main memory
        monkeypatch.setattr(gpu_memory, "taken_by_mpi", lambda group: direct)
    elif direct and SIZE > 1:
        direct = gpu_memory.taken_by_mpi(world.init())
    group, where = as_on(nodes), dist.local_device()
    between = gpus.link(group, where)
    assert (between is not None) == can_link(nodes, direct)
    if between is None:
        return
    assert gpus.link(group, where) is between
    x = tl.arange(24, dtype=dtype, device=where) * (RANK + 1)
    exchange = gpus.Exchange(between, x)
    for turn in range(2):
        progress.submit(exchange.all_reduce(0.25), world.init()).wait()
        factor = SIZE * (SIZE + 1) / 8 * (SIZE / 4) ** turn
        assert x.tolist() == [i * factor for i in range(24)]
    between.settle()
    dist.barrier()
    between.close()


@pytest.mark.parametrize("fault", ["off", "library"])
def test_without_nccl_gradients_take_the_other_way(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "off":
        monkeypatch.setenv("TENSORLIB_NCCL", "0")
    else:
        import cupy.cuda.nccl

        def fail() -> None:
            raise RuntimeError("NCCL_ERROR_SYSTEM_ERROR: no route")

        monkeypatch.setattr(cupy.cuda.nccl, "get_unique_id", fail)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert gpus.link(as_on(1), dist.local_device()) is None
    said = [str(warning.message) for warning in heard]
    tried = fault == "library" and can_link(1) and RANK == 0
    assert [True for words in said if "NCCL does not work on rank 0 (NCCL_ERROR_SYSTEM_ERROR: no route)" in words] == [
        True
    ] * tried


PROGRAMS = {
    "right": f"""
import sys
sys.path.append({str(ROOT)!r})
from tests.gpu import standin
from tensorlib.distributed import gpu_memory
with standin.installed():
    print("right" if gpu_memory.trial() else "wrong")""",
    "wrong": """
from tensorlib.distributed import rank
print("right" if rank() else "wrong")""",
    "crash": """
import os
from tensorlib.distributed import rank
print("right", flush=True)
if rank():
    os.abort()""",
    "silence": """
import time
time.sleep(100)""",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_mpi_gets_gpu_memory_only_after_a_trial_of_its_own(program: str) -> None:
    if SIZE == 2 and RANK == 1:  # one number of ranks is enough: the trial has ranks of its own
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "trial.py")
            script.write_text(PROGRAMS[program])
            limit = 1 if program == "silence" else 30
            assert gpu_memory._proven((str(script),), limit) == (program == "right")
    assert REAL or not gpu_memory._promised()  # MPI from PyPI does not take it
    dist.barrier()


def test_what_is_written_is_missed_where_the_program_waited() -> None:
    x = tl.ones(3, device=dist.local_device(), requires_grad=True)
    for many in (3, 300):
        y = tl.ones(many, device=x.device)
        made = (y * x.sum()).sum()
        dist.all_reduce(y, async_op=True).wait()
        with pytest.raises(tl.GradError, match=r"saved by `mul` .* was overwritten in place at .*test_gpu.py"):
            made.backward()


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
