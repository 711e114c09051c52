"""Files of 500 MB beside the safetensors package, in a folder of the system's disk.

By default that package maps a file when it loads for PyTorch: nothing is read before it is used. So two things are compared: loading by reading
(`backend="pread"` there, and NumPy's loader, which reads too), and mapping with everything used once (a sum over all tensors) on both sides.
Saving: the package leaves the bytes to the system's cache, while `tl.save` by default waits for the disk, so `sync=False` is compared with it as it
is, and `sync=True` with it followed by the same two fsyncs.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import tensorlib as tl
from tests.benchmarks.harness import Figure, Run, gc_off

NBYTES = 500_000_000
LAYERS = 20
ROUNDS = 5  # each takes seconds


@cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tensorlib-benchmark-")  # removed when the process ends


def place(name: str) -> Path:
    return Path(scratch().name, name)


@cache
def path() -> Path:
    weights = {f"layer.{i}.weight": tl.randn(NBYTES // 4 // LAYERS // 500, 500) for i in range(LAYERS)}
    tl.save(weights, place("weights"), sync=False)
    return place("weights")


def interleaved(*runs: Run) -> list[float]:
    """Median seconds of each; every run drops its result before the clock stops."""
    times: list[list[float]] = [[] for _ in runs]
    with gc_off():
        for round_ in range(ROUNDS + 1):
            for run, seen in zip(runs, times, strict=True):
                start = perf_counter()
                run()
                if round_:
                    seen.append(perf_counter() - start)
    return [median(seen) for seen in times]


def ratio(ours: Callable[[], Run], theirs: Callable[[], Run], _: int) -> float:
    a, b = interleaved(ours(), theirs())
    return a / b


def used(tensors: dict[str, Any]) -> None:
    for t in tensors.values():
        t.sum()


def reading() -> Run:
    return lambda: tl.load(path())


def mapping_and_using() -> Run:
    return lambda: used(tl.load(path(), mmap=True))


def reading_and_using() -> Run:
    return lambda: used(tl.load(path()))


def their_reading() -> Run:
    from safetensors.torch import load_file

    return lambda: load_file(path(), backend="pread")


def their_numpy() -> Run:
    from safetensors.numpy import load_file

    return lambda: load_file(path())


def their_mapping_and_using() -> Run:
    from safetensors.torch import load_file

    return lambda: used(load_file(path()))


def saving(sync: bool) -> Run:
    tensors = tl.load(path())
    return lambda: tl.save(tensors, place("ours"), sync=sync)


def their_saving(sync: bool) -> Run:
    from safetensors.torch import load_file, save_file

    tensors = {name: t.clone() for name, t in load_file(path()).items()}

    def run() -> None:
        save_file(tensors, place("theirs"))
        for name in (place("theirs"), place("")) if sync else ():
            opened = os.open(name, os.O_RDONLY)
            os.fsync(opened)
            os.close(opened)

    return run


def milliseconds(run: Run, _: int) -> float:
    return interleaved(run)[0] * 1e3


def workloads() -> Iterator[Figure]:
    yield Figure(
        "mapping 500 MB", partial(milliseconds, lambda: tl.load(path(), mmap=True)), "ms", at_most=50, once=True
    )
    if not (importlib.util.find_spec("safetensors") and importlib.util.find_spec("torch")):
        return
    import torch

    torch.set_num_threads(tl.get_num_threads())  # theirs, also where PyTorch is not raced
    pairs: list[tuple[str, Callable[[], Run], Callable[[], Run]]] = [
        ("reading, ours / for PyTorch by pread", reading, their_reading),
        ("reading, ours / for NumPy", reading, their_numpy),
        ("mapped and summed, ours / for PyTorch", mapping_and_using, their_mapping_and_using),
        ("saving without fsync, ours / theirs", partial(saving, False), partial(their_saving, False)),
        ("saving with fsync, ours / theirs", partial(saving, True), partial(their_saving, True)),
    ]
    for name, ours, theirs in pairs:
        yield Figure(name, partial(ratio, ours, theirs), at_most=1.2, once=True)
    yield Figure(
        "read and summed, ours / theirs mapped and summed",
        partial(ratio, reading_and_using, their_mapping_and_using),
        once=True,
    )
