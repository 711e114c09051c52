"""Shared by all tests: random numbers follow from the test's id, and settings a test changes are put back."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

import tensorlib as tl
from tensorlib.native import ffi, lib

# No test depends on time or on chance: no deadline, and the same examples on every machine.
hypothesis.settings.register_profile("tensorlib", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("tensorlib")


def pytest_report_header() -> str:
    return f"GPU: {tl.cuda.get_device_name() if tl.cuda.is_available() else 'stand-in'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """TENSORLIB_TEST_PART=i/n keeps the i-th of n parts (from 0), drawn by the tests' ids."""
    i, n = map(int, os.environ.get("TENSORLIB_TEST_PART", "0/1").split("/"))
    parted: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        parted[zlib.crc32(item.nodeid.encode()) % n == i].append(item)
    items[:] = parted[True]
    if parted[False]:
        config.hook.pytest_deselected(items=parted[False])


@pytest.fixture(params=ffi.string(lib.tl_isa_available()).decode().split(","))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with the kernels of each instruction set that this machine has."""
    chosen = lib.tl_isa_name()
    assert lib.tl_isa_select(request.param.encode()) == 0
    yield request.param
    lib.tl_isa_select(chosen)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number that depends on the test's id alone."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (for code that draws from the global generator)
    tl.manual_seed(seed)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """TENSORLIB_TEST_DEVICE=reference (or cuda) runs tests with another default device than the CPU."""
    threads, dtype = tl.get_num_threads(), tl.get_default_dtype()
    tl.set_default_device(os.environ.get("TENSORLIB_TEST_DEVICE", "cpu"))
    convolutions = tl.backends.cudnn
    fast, convolutions.allow_tf32 = convolutions.allow_tf32, False  # compared with float32
    yield
    convolutions.allow_tf32 = fast
    tl.set_default_device("cpu")
    if tl.get_num_threads() != threads:
        tl.set_num_threads(threads)
    tl.set_default_dtype(dtype)
    assert tl.is_grad_enabled(), "the test left gradients switched off"
