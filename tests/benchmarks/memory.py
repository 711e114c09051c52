"""Peak resident memory of training steps: of the whole process, and of what it rose by over the import, each against PyTorch's.

Each figure starts one process per library: `python -m tests.benchmarks.memory WORK LIBRARY THREADS` prints both numbers in bytes.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import tensorlib as tl
from tests.benchmarks import gpt
from tests.benchmarks.harness import Figure, Run
from tests.benchmarks.nets import NETS

STEPS = 10
STATUS = Path("/proc/self/status")  # Linux has it; getrusage's peak is one that a child inherits
WORK: dict[str, Callable[[Any], Run]] = {net.name: net.start for net in NETS if net.name.startswith("ResNet")}
WORK["GPT, 4 layers of 128, 8 x 128 tokens"] = gpt.step


def resident() -> int:
    """The most bytes this process has had in memory so far."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def run_alone(work: str, library: str, threads: int) -> None:
    lib = importlib.import_module(library)
    lib.set_num_threads(threads)
    before = resident()
    run = WORK[work](lib)
    for _ in range(STEPS):
        run()
    print(resident(), resident() - before)


@cache
def peaks(work: str, library: str, threads: int) -> tuple[int, int]:
    command = [sys.executable, "-m", "tests.benchmarks.memory", work, library, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    whole, risen = map(int, done.stdout.split())
    return whole, risen


def ratio(work: str, which: int, rounds: int) -> float:
    threads = tl.get_num_threads()
    return peaks(work, "tensorlib", threads)[which] / peaks(work, "torch", threads)[which]


def workloads() -> Iterator[Figure]:
    if not (importlib.util.find_spec("torch") and STATUS.exists()):
        return
    for work in WORK:
        for which, what in enumerate(["peak of the process", "peak over the import"]):
            yield Figure(f"{work}: {what}, ours / PyTorch's", partial(ratio, work, which), at_most=1.0)


if __name__ == "__main__":
    run_alone(sys.argv[1], sys.argv[2], int(sys.argv[3]))
