"""The thread pool: the same bits on any number of threads, several Python threads at once, fork, and where the default comes from."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import tensorlib as tl

if TYPE_CHECKING:
    import numpy as np

SIZE = 300_000  # large enough for every kernel to use the pool


def some_work(seed: int = 0) -> list[np.ndarray]:
    generator = tl.Generator().manual_seed(seed)
    x = tl.randn(SIZE, generator=generator)
    rows = x.reshape(-1, 100)
    return [
        v.numpy()
        for v in (x, x.sum(), x.exp() + x, rows.t().contiguous(), tl.softmax(rows, -1), rows.sum(0), rows.t() @ rows)
    ]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_number_of_threads_does_not_change_a_bit(threads: int) -> None:
    tl.set_num_threads(1)
    alone = some_work()
    tl.set_num_threads(threads)
    assert all(same(some_work(), alone) for _ in range(5))


def test_several_python_threads_at_once() -> None:
    tl.set_num_threads(3)
    expected = [some_work(seed) for seed in range(4)]
    wrong: list[int] = []

    def run(seed: int) -> None:
        wrong.extend(seed for _ in range(10) if not same(some_work(seed), expected[seed]))

    callers = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for c in callers:
        c.start()
    for n in (1, 4, 2, 3):  # growing and shrinking meanwhile
        tl.set_num_threads(n)
    for c in callers:
        c.join()
    assert not wrong


def small_numbers() -> int:
    """How many of SIZE denormal results are not 0."""
    return int((tl.full((SIZE,), 2e-38) / 10).count_nonzero())


@pytest.mark.skipif(not tl.set_flush_denormal(False), reason="the CPU has no such mode")
def test_denormal_numbers_are_flushed_for_the_thread_that_asks() -> None:
    tl.set_num_threads(3)
    asked, seen = threading.Event(), []
    other = threading.Thread(target=lambda: (asked.wait(), seen.append(small_numbers())))
    other.start()
    try:
        assert all(
            tl.set_flush_denormal(mode) and small_numbers() == (0 if mode else SIZE) for mode in (True, False, True)
        )
        x = tl.ones(SIZE, requires_grad=True)
        (x * 0.1).backward(tl.full((SIZE,), 2e-38))
        assert not x.grad.count_nonzero()
    finally:
        asked.set()
        other.join()
        tl.set_flush_denormal(False)
    assert seen == [SIZE] and small_numbers() == SIZE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_a_pool_of_its_own() -> None:
    tl.set_num_threads(3)
    expected = some_work()
    busy = threading.Thread(target=lambda: [some_work() for _ in range(5)])
    busy.start()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            grandchild_agrees = False
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if same(some_work(), expected) else 1)
            grandchild_agrees = os.waitpid(grandchild, 0)[1] == 0
            code = 0 if grandchild_agrees and same(some_work(), expected) else 1
        finally:
            os._exit(code)
    busy.join()
    assert os.waitpid(child, 0)[1] == 0
    assert same(some_work(), expected)


def default_threads(**env: str) -> int:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TENSORLIB_", "OMPI_", "MPI_", "MV2_", "SLURM_"))}
    code = "import tensorlib as tl; print(tl.get_num_threads())"
    return int(
        subprocess.run([sys.executable, "-c", code], env=clean | env, check=True, capture_output=True, text=True).stdout
    )


def test_default_follows_environment_and_launcher() -> None:
    cores = default_threads()
    assert 1 <= cores <= (os.cpu_count() or 1)
    assert default_threads(TENSORLIB_NUM_THREADS="1") == 1
    assert default_threads(TENSORLIB_NUM_THREADS="nonsense") == cores
    assert default_threads(OMPI_COMM_WORLD_LOCAL_SIZE="2") == max(1, cores // 2)
    assert default_threads(MPI_LOCALNRANKS="1000") == 1


@pytest.mark.parametrize("n", [0, -1, 1025, 1.5, "2"])
def test_refuses(n: object) -> None:
    with pytest.raises(ValueError, match="set_num_threads"):
        tl.set_num_threads(n)  # type: ignore[arg-type]
