"""The tests of this folder hold on any number of ranks. Collected by pytest they run on one; test_launched.py runs them under mpirun."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

from tensorlib.distributed.world import launched


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A rank that fails says so and ends the job: the others may wait for it."""
    report = yield
    if report.failed and launched():
        from mpi4py import MPI

        import tensorlib.distributed as dist

        os.write(2, f"\nrank {dist.rank()} failed {item.nodeid}, {report.when}\n{report.longreprtext}\n".encode())
        MPI.COMM_WORLD.Abort(1)
    return report


def speaks() -> bool:
    """Whether this process is the one of its job that prints and writes the record of results; the others would write over it."""
    return not launched() or os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "0"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if not speaks():
        config.option.xmlpath = None


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if not speaks():
        reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        config.pluginmanager.unregister(reporter)
