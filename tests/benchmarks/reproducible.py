"""Reproducible mode: a step on 512 rows, 16 shards of 32, over that of the fast mode, every rank with one thread.

Each model is stepped in both modes in alternating rounds, on one rank here and on two under mpirun. What it costs is the time of a program's
own lines and of packing weights once more, for every shard, so it shows where there is little else to do: in a perceptron.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from tests.benchmarks.harness import Figure

ROWS, CLASSES = 512, 10
MARK = "measured: "


def perceptron(tl: Any) -> tuple[Any, Any]:
    nn = tl.nn
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, CLASSES))
    return model, tl.randn(ROWS, 784)


def convolutions(tl: Any) -> tuple[Any, Any]:
    nn = tl.nn
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(4096, CLASSES)]
    return nn.Sequential(*layers), tl.randn(ROWS, 3, 16, 16)


def lstm(tl: Any) -> tuple[Any, Any]:
    nn = tl.nn

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(64, 128, num_layers=2, dropout=0.2, batch_first=True)
            self.out = nn.Linear(128, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.out(self.lstm(x)[0][:, -1])

    return Reader(), tl.randn(ROWS, 20, 64)


MODELS = {"perceptron": perceptron, "convolutions and batch norm": convolutions, "LSTM with dropout": lstm}


def ratios(rounds: int) -> dict[str, float]:
    """Time of a reproducible step over that of a fast one, on all ranks of this job."""
    import tensorlib as tl
    import tensorlib.distributed as dist

    def trainer(make: Callable[[Any], tuple[Any, Any]], reproducible: bool) -> Callable[[], None]:
        model, x = make(tl)
        y = tl.randint(0, CLASSES, (ROWS,))
        ddp = dist.DistributedDataParallel(model, reproducible=reproducible)
        optimizer = tl.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
        mine = slice(ROWS * dist.rank() // dist.size(), ROWS * (dist.rank() + 1) // dist.size())

        def step() -> None:
            optimizer.zero_grad()
            for rows, labels in ddp.shards((x, y)) if reproducible else [(x[mine], y[mine])]:
                tl.nn.functional.cross_entropy(ddp(rows), labels).backward()
            optimizer.step()

        return step

    found = {}
    for name, make in MODELS.items():
        tl.manual_seed(0)
        runs = [trainer(make, reproducible) for reproducible in (False, True)]
        times: list[list[float]] = [[], []]
        for round_ in range(rounds + 1):
            for seen, run in zip(times, runs, strict=True):
                dist.barrier()
                start = time.perf_counter()
                run()
                dist.barrier()
                if round_:  # the first warms up
                    seen.append(time.perf_counter() - start)
        found[name] = median(times[1]) / median(times[0])
    return found


# ---- here ----
@functools.cache
def measured(rounds: int, ranks: int) -> dict[str, float]:
    from tests.distributed.launching import mpirun

    done = mpirun(ranks, "-m", "tests.benchmarks.reproducible", str(max(3, rounds // 4)), timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert done.returncode == 0 and lines, done.stdout
    found: dict[str, float] = json.loads(lines[0].removeprefix(MARK))
    return found


def ratio(name: str, ranks: int) -> Callable[[int], float]:
    return lambda rounds: measured(rounds, ranks)[name]


def workloads() -> Iterator[Figure]:
    for ranks in (1, 2):
        for name in MODELS:
            words = f"{name}, {ranks} rank{'s' * (ranks > 1)}, over the fast mode"
            yield Figure(words, ratio(name, ranks), at_most=1.3, once=True)


if __name__ == "__main__":
    import tensorlib.distributed as dist

    shown = ratios(int(sys.argv[1]))
    if dist.rank() == 0:
        print(MARK + json.dumps(shown), flush=True)
