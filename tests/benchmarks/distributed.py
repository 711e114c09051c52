"""Data parallelism: a step of a perceptron of 10 million parameters on 128 rows a rank, every rank with one thread.

One job of two ranks does everything in rounds, so that all are measured under the same conditions: rank 0 steps alone while rank 1 sleeps;
both step without communication, which shows what the machine's memory allows; both step with DistributedDataParallel; both with PyTorch's,
on gloo. Ideal is that a step takes as long as on one rank alone.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.harness import Figure, Run, interleaved

SIZES = (1024, 2048, 2048, 1536, 512, 10)
ROWS = 128
STEPS = 3  # timed in a row
MARK = "measured: "


def perceptron(library: Any) -> Any:
    nn = library.nn
    library.manual_seed(0)
    layers = [layer for a, b in pairwise(SIZES) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def step_of(library: Any, model: Any) -> Run:
    """One training step, in either library."""
    optimizer = library.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = library.randn(ROWS, SIZES[0]), library.randint(0, SIZES[-1], (ROWS,))

    def step() -> None:
        optimizer.zero_grad()
        library.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


# ---- in the job: every rank runs this ----
def of_pytorch(folder: str, rank: int, size: int) -> Run | None:
    try:
        import torch
        import torch.distributed
    except ImportError:
        return None
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    return step_of(torch, torch.nn.parallel.DistributedDataParallel(perceptron(torch)))


def job(rounds: int, folder: str) -> None:
    import tensorlib as tl
    import tensorlib.distributed as dist

    comm = dist.init().comm
    assert comm is not None
    alone = step_of(tl, perceptron(tl))
    ours = step_of(tl, dist.DistributedDataParallel(perceptron(tl)))
    runs = {"alone": alone if dist.rank() == 0 else None, "together": alone, "ours": ours}
    theirs = of_pytorch(folder, dist.rank(), dist.size())
    if theirs is not None:
        runs["theirs"] = theirs
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            asleep(comm.Ibarrier())
            if run is None:
                continue
            run()  # not timed: what the one before left behind
            start = time.perf_counter()
            for _ in range(STEPS):
                run()
            if round_:  # the first warms up
                times[name].append((time.perf_counter() - start) / STEPS)
    asleep(comm.Ibarrier())
    if dist.rank() == 0:
        print(MARK + json.dumps({name: median(seen) for name, seen in times.items()}), flush=True)


def asleep(request: Any) -> None:
    """Wait without using up a core that the other rank's memory traffic shares."""
    while not request.Test():
        time.sleep(1e-3)


# ---- here ----
@functools.cache
def measured(rounds: int) -> dict[str, float]:
    """Seconds a step, by what was done."""
    from tests.distributed.launching import mpirun

    with tempfile.TemporaryDirectory() as folder:
        done = mpirun(2, "-m", "tests.benchmarks.distributed", str(max(3, rounds // 8)), folder, timeout=300)
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert done.returncode == 0 and found, done.stdout
    times: dict[str, float] = json.loads(found[0].removeprefix(MARK))
    print("  a step: " + ", ".join(f"{name} {t * 1e3:.0f} ms" for name, t in times.items()))
    return times


def share(of: str, by: str) -> Callable[[int], float]:
    def measure(rounds: int) -> float:
        times = measured(rounds)
        return times[of] / times[by] if of in times and by in times else float("nan")

    return measure


def at_one_rank(rounds: int) -> float:
    """A step with the wrapper over one without, in this process."""
    import tensorlib as tl
    import tensorlib.distributed as dist

    module = perceptron(tl)
    runs = [step_of(tl, model) for model in (module, dist.DistributedDataParallel(module))]
    plain, wrapped = interleaved(runs, rounds)
    return wrapped / plain


def workloads() -> Iterator[Figure]:
    yield Figure("DDP at one rank, time of a step over that without", at_one_rank, at_most=1.02)
    yield Figure("DDP at two ranks, share of the ideal", share("alone", "ours"), at_least=0.9, once=True)
    yield Figure("two ranks without communication, share of the ideal", share("alone", "together"), once=True)
    yield Figure("DDP at two ranks, over PyTorch's on gloo", share("ours", "theirs"), at_most=0.8, once=True)


if __name__ == "__main__":
    job(int(sys.argv[1]), str(Path(sys.argv[2])))
