"""The caching allocator: figures, reuse, the cap, absurd sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import tensorlib as tl

if TYPE_CHECKING:
    import numpy as np

KIB, MIB = 1024, 1024 * 1024


@pytest.fixture(autouse=True)
def _uncapped() -> Iterator[None]:
    tl.memory.empty_cache()
    yield
    tl.memory.set_cap(None)


@pytest.mark.parametrize(
    "nbytes", [1, 64, 65, 4 * KIB, 4 * KIB + 1, 100_000, 2 * MIB - 1, 2 * MIB, 5 * MIB + 3, 40 * MIB]
)
def test_figures_follow_tensors(nbytes: int) -> None:
    before = tl.memory.allocated()
    x = tl.empty(nbytes, dtype=tl.uint8)
    taken = tl.memory.allocated() - before
    assert nbytes <= taken <= max(64, nbytes + nbytes // 4 + 64)
    assert tl.memory.reserved() >= tl.memory.allocated()
    x[-1] = 7
    del x
    assert tl.memory.allocated() == before


def test_peak() -> None:
    tl.memory.reset_peak()
    start = tl.memory.allocated()
    assert tl.memory.peak() == start
    x = tl.empty(3 * MIB, dtype=tl.uint8)
    del x
    assert tl.memory.peak() >= start + 3 * MIB
    tl.memory.reset_peak()
    assert tl.memory.peak() == tl.memory.allocated()


def test_freed_blocks_are_reused_until_the_cache_is_emptied() -> None:
    def once() -> None:
        _ = tl.zeros(3 * MIB, dtype=tl.uint8)

    once()
    held, reused = tl.memory.reserved(), tl.memory.stats()["reused"]
    for _ in range(10):
        once()
    assert tl.memory.reserved() == held
    if tl.memory.stats()["reused"] == reused:
        pytest.skip("built with AddressSanitizer: each block comes from malloc")
    assert tl.memory.stats()["reused"] >= reused + 10
    tl.memory.empty_cache()
    assert tl.memory.reserved() <= held - 3 * MIB


def test_cached_memory_is_bounded() -> None:
    """Sizes that never come back do not pile up."""
    tl.memory.reset_peak()
    for size in range(1, 120):
        _ = tl.empty(size * MIB, dtype=tl.uint8)
    assert tl.memory.reserved() <= max(64 * MIB, tl.memory.peak()) * 2


def test_live_tensors_survive_emptying_the_cache(rng: np.random.Generator) -> None:
    kept, expected = [], []
    for n in rng.integers(1, 3000, 300):
        a = rng.standard_normal(int(n))
        x = tl.tensor(a)
        if n % 3:
            kept.append(x)
            expected.append(a)
    del x
    tl.memory.empty_cache()
    more = [tl.zeros(int(n)) for n in rng.integers(1, 3000, 300)]
    assert all((x.numpy() == a).all() for x, a in zip(kept, expected, strict=True))
    assert all(not m.numpy().any() for m in more)


def test_the_cap_frees_the_cache_first_and_then_refuses() -> None:
    x = tl.empty(30 * MIB, dtype=tl.uint8)
    del x  # cached
    tl.memory.set_cap(tl.memory.allocated() + 50 * MIB)
    y = tl.empty(40 * MIB, dtype=tl.uint8)  # fits only without what is cached
    before = tl.memory.allocated()
    with pytest.raises(MemoryError):
        tl.empty(40 * MIB, dtype=tl.uint8)
    assert tl.memory.allocated() == before
    del y
    tl.empty(40 * MIB, dtype=tl.uint8)


@pytest.mark.parametrize("shape", [(2**62,), (2**61, 2), (2**40, 2**40), (2**63 - 1,), (10**15,), (2**31, 2**31, 2)])
def test_absurd_sizes_are_memory_errors(shape: tuple[int, ...]) -> None:
    before = tl.memory.allocated()
    with pytest.raises(MemoryError):
        tl.empty(*shape)
    assert tl.memory.allocated() == before


def test_the_cap_comes_from_the_environment() -> None:
    code = "import tensorlib as tl; print(tl.memory.cap())"
    env = os.environ | {"TENSORLIB_MEMORY_CAP": str(12 * MIB)}
    assert (
        int(subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout)
        == 12 * MIB
    )
