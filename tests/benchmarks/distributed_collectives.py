"""all_reduce beside mpi4py's own Allreduce on the same memory, in one job for each number of ranks, in rounds that alternate between them.

A round lasts as long as on its slowest rank. bfloat16 has as many elements, so half the bytes.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from tests.benchmarks.harness import Figure, Run

SIZES = {"4 B": 1, "64 KiB": 1 << 14, "25 MiB": 25 << 18}  # elements of float32
RANKS = (2, 4)
MARK = "measured: "


# ---- in the job: every rank runs this ----
def runs(count: int) -> dict[str, Run]:
    import tensorlib as tl
    import tensorlib.distributed as dist
    from tensorlib.distributed.world import mpi

    comm: Any = dist.init().comm
    # Sums of zeros stay what they are; assigned, so that the memory is there.
    raw, ours, half = np.empty(count, np.float32), tl.empty(count), tl.empty(count, dtype=tl.bfloat16)
    raw[:] = 0
    ours.zero_()
    half.zero_()
    return {
        "raw": lambda: comm.Allreduce(mpi().IN_PLACE, raw),
        "all_reduce": lambda: dist.all_reduce(ours),
        "ordered": lambda: dist.all_reduce(ours, ordered=True),
        "later": lambda: dist.all_reduce(ours, async_op=True).wait(),
        "bfloat16": lambda: dist.all_reduce(half),
    }


def job(rounds: int) -> None:
    import tensorlib.distributed as dist

    comm: Any = dist.init().comm
    told = {}
    for size, count in SIZES.items():
        calls = max(1, min(200, (2 << 20) // count))
        contest = runs(count)
        times: dict[str, list[float]] = {name: [] for name in contest}
        for _ in range(rounds):
            for name, run in contest.items():
                run()  # not timed: what the one before left behind
                comm.Barrier()
                start = time.perf_counter()
                for _ in range(calls):
                    run()
                times[name].append(comm.allreduce((time.perf_counter() - start) / calls, op=max))
        told[size] = {name: median(seen) for name, seen in times.items()}
    if dist.rank() == 0:
        print(MARK + json.dumps(told), flush=True)


# ---- here ----
@functools.cache
def measured(ranks: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds a call, by size and by what was called."""
    from tests.distributed.launching import mpirun

    done = mpirun(ranks, "-m", "tests.benchmarks.distributed_collectives", str(rounds), timeout=300)
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert done.returncode == 0 and found, done.stdout
    told: dict[str, dict[str, float]] = json.loads(found[0].removeprefix(MARK))
    for size, times in told.items():
        print(f"  {ranks} ranks, {size}: " + ", ".join(f"{name} {t * 1e6:.0f} us" for name, t in times.items()))
    return told


def share_of_raw(ranks: int, size: str, name: str) -> Callable[[int], float]:
    def measure(rounds: int) -> float:
        times = measured(ranks, rounds)[size]
        return times["raw"] / times[name]

    return measure


def workloads() -> Iterator[Figure]:
    for ranks in RANKS:
        for size in SIZES:
            for name in ("all_reduce", "ordered", "later", "bfloat16"):
                target = 0.95 if (name, size) == ("all_reduce", "25 MiB") else None
                yield Figure(
                    f"{name} of {size}, {ranks} ranks: share of raw Allreduce's speed",
                    share_of_raw(ranks, size, name),
                    at_least=target,
                    once=True,
                )


if __name__ == "__main__":
    job(int(sys.argv[1]))
