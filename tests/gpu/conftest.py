"""Everything here runs on the GPU where there is one, else on the stand-in."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorlib as tl
from tensorlib import backends
from tensorlib.gpu import elementwise
from tests.gpu import render, standin

HERE = Path(__file__).parent
REAL = tl.cuda.is_available()
MANY, ONE_IN = 40, 25


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a slow test with many cases the stand-in runs a few, drawn by their ids: all, by TENSORLIB_GPU_TESTS=all, take over an hour."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if item.get_closest_marker("slow"):
                cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    if REAL or os.environ.get("TENSORLIB_GPU_TESTS") == "all":
        return
    many = [item for found in cases.values() if len(found) > MANY for item in found]
    left_out = {item.nodeid for item in many if zlib.crc32(item.nodeid.encode()) % ONE_IN}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]


@functools.cache
def _all_together(row: elementwise.Row, dtype: tl.DType, wanted: int) -> list[elementwise.Row]:
    """Kernels that can be compiled together are: starting the compiler takes longer than several of them."""
    like = _kind(row, dtype, wanted)
    return [other for other in elementwise.ROWS.values() if _kind(other, dtype, wanted) == like]


def _kind(row: elementwise.Row, dtype: tl.DType, wanted: int) -> object:
    made = [wanted >> i & 1 and text not in ("g", "NOGRAD") for i, text in enumerate(row.gradients)]
    return row.inputs, row.test, row.kind == "SELECT", elementwise.element_type(row, dtype), made


@pytest.fixture(autouse=True)
def cupy() -> Iterator[object]:
    """CuPy, or the stand-in for the time of a test; what that noticed afterwards fails the test."""
    if REAL:
        yield pytest.importorskip("cupy")
        return
    if render.compiler() is None:
        pytest.skip("no GPU, and no C++ compiler to run kernels on the CPU")
    before, elementwise.together_with = elementwise.together_with, _all_together
    with standin.installed() as module:
        yield module
    elementwise.together_with = before
    for device in [d for d in backends._backends if d.type == "cuda"]:
        del backends._backends[device]
    faults, standin.memory.FAULTS[:] = standin.memory.FAULTS[:], []
    assert not faults
