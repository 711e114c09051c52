"""What it costs to have the library: the time of an import in a fresh process, and the space it takes on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter

from tests.benchmarks.harness import Figure
from tests.sources import copy_of_sources

# As an installed package runs: with the bytecode that pip or the first import wrote.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def process_seconds(code: str) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
    return perf_counter() - start


def median_process(code: str) -> Callable[[int], float]:
    def measure(rounds: int) -> float:
        process_seconds(code)  # the first one reads from the disk and writes bytecode
        return median(process_seconds(code) for _ in range(rounds))

    return measure


@cache
def installed_bytes() -> tuple[int, int]:
    """(of the library, of everything) after `pip install` into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = copy_of_sources(Path(folder, "source")), Path(folder, "installed")
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", target, source], check=True)
        sizes = {p.relative_to(target).parts: p.stat().st_size for p in target.rglob("*") if p.is_file()}
    return sum(n for parts, n in sizes.items() if parts[0].startswith("tensorlib")), sum(sizes.values())


def workloads() -> Iterator[Figure]:
    yield Figure('python -c ""', median_process(""), "s", once=True)
    yield Figure('python -c "import numpy"', median_process("import numpy"), "s", once=True)
    yield Figure('python -c "import tensorlib"', median_process("import tensorlib"), "s", at_most=0.15, once=True)
    yield Figure("installed size", lambda rounds: installed_bytes()[0] / 1e6, "MB", at_most=5, once=True)
    yield Figure(
        "the same with its dependencies", lambda rounds: installed_bytes()[1] / 1e6, "MB", at_most=90, once=True
    )
