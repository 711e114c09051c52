"""How everything here is measured.

A `Race` is one program, written once for both libraries (their names agree), timed against PyTorch's: rounds alternate between the two
in one process, each round first runs untimed, then for at least `WINDOW` seconds; the medians of the rounds are compared. Garbage
collection is off while the clock runs, and both libraries use the same number of threads.

A `Figure` is anything else that has a target of its own: a share of the machine's bandwidth, a time, a size.

A workload file offers `workloads()`, a generator of both. Operands are made when a race starts and dropped when it ends.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any

WINDOW = 0.005  # short: a round that the system interrupts is one of many, and the median drops it

Run = Callable[[], object]


@dataclass(frozen=True)
class Race:
    """`make(library)` prepares the operands and returns one run: `count` operations, or `nbytes` of memory traffic where that is what counts."""

    name: str
    make: Callable[[Any], Run]
    count: int = 1
    nbytes: int = 0
    target: float | None = None  # our time / PyTorch's


@dataclass(frozen=True)
class Figure:
    """`measure(rounds)` returns the value; `at_most` or `at_least` is its target. `once`: does not depend on the number of threads."""

    name: str
    measure: Callable[[int], float]
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    once: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table. `value` is what the target speaks of: a Race's ratio, a Figure's value."""

    file: str
    name: str
    threads: int
    shown: str
    value: float | None
    target: str
    ok: bool | None
    ours: float | None = None
    theirs: float | None = None


@contextmanager
def gc_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed(run: Run, calls: int) -> float:
    """Seconds per call."""
    start = perf_counter()
    for _ in range(calls):
        run()
    return (perf_counter() - start) / calls


def calls_for(run: Run) -> int:
    """How many calls fill the window. Warms up on the way."""
    calls = 1
    while (spent := timed(run, calls) * calls) < WINDOW / 2:
        calls *= 2
    return max(1, round(calls * WINDOW / spent))


def interleaved(runs: Sequence[Run], rounds: int) -> list[float]:
    """Median seconds per call of each run, in rounds that alternate among them."""
    with gc_off():
        calls = [calls_for(run) for run in runs]
        times: list[list[float]] = [[] for _ in runs]
        for _ in range(rounds):
            for run, n, seen in zip(runs, calls, times, strict=True):
                run()  # whatever the other one left behind (spinning threads, cold caches) is not ours to pay
                seen.append(timed(run, n))
    return [median(seen) for seen in times]


def run_race(race: Race, file: str, ours: ModuleType, against: ModuleType | None, threads: int, rounds: int) -> Row:
    runs = [race.make(library) for library in (ours, against) if library is not None]
    times = [t / race.count for t in interleaved(runs, rounds)]
    ratio = times[0] / times[1] if against else None
    shown = "  ".join(f"{quantity(t, race):>12}" for t in times)
    target, ok = verdict(ratio, race.target, None)
    return Row(file, race.name, threads, shown, ratio, target, ok, *times)


def run_figure(figure: Figure, file: str, threads: int, rounds: int) -> Row:
    value = figure.measure(rounds)
    target, ok = verdict(value, figure.at_most, figure.at_least)
    shown = f"{value:.3g} {figure.unit}".rstrip()
    return Row(file, figure.name, threads, f"{shown:>12}", value, target, ok, ours=value)


def verdict(value: float | None, at_most: float | None, at_least: float | None) -> tuple[str, bool | None]:
    """The target in words, and whether it is met; None where there is nothing to say."""
    if at_most is not None:
        return f"<= {at_most:g}", None if value is None else value <= at_most
    if at_least is not None:
        return f">= {at_least:g}", None if value is None else value >= at_least
    return "", None


def quantity(seconds: float, race: Race) -> str:
    if race.nbytes:
        return f"{race.nbytes / seconds / 1e9:.1f} GB/s"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3f} us"
