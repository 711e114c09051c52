"""Whether MPI sends and sums memory of GPUs itself: believed only after a run of other processes has done so, because one that can not may crash.

1. MPI's own word      MPIX_GPU_query_support (MPICH), MPIX_Query_cuda_support (Open MPI); what PyPI has says no, and nothing is started
2. a trial             two ranks of their own, of `python -m tensorlib.distributed.gpu_memory`, sum and exchange on this node's GPU
                       what gradients need; a wrong number, a crash or 60 s without an end mean no
3. all nodes agree
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tensorlib as tl

from . import moves, progress, reductions
from .moves import Port

if TYPE_CHECKING:
    from .world import Group

__all__ = ["taken_by_mpi", "trial"]

_LIMIT = 60.0  # seconds
_SIZES = (1, 1000, 1 << 20)  # elements: messages go by other ways when they are long
_CUDA = 0  # MPIX_GPU_SUPPORT_CUDA
# What tells a process that it is part of the job that it is not to be part of.
_OF_THE_JOB = ("PMI", "HYD", "MPI_LOCAL", "OMPI_", "PRTE_", "SLURM_", "TENSORLIB_RUN_")


def taken_by_mpi(group: Group) -> bool:
    """Whether it is on every node of the group. Collective. ``TENSORLIB_CUDA_AWARE_MPI=0``: no, and nothing is tried."""
    assert group.comm is not None and group.node is not None
    mine = _tried() if group.node.rank == 0 else True
    return all(group.comm.allgather(mine))


@functools.cache
def _tried() -> bool:
    return os.environ.get("TENSORLIB_CUDA_AWARE_MPI", "1") != "0" and _promised() and _proven()


def _promised() -> bool:
    """What the MPI library of this process says of itself."""
    moves.mpi()
    for path in _loaded("libmpi"):
        library = ctypes.CDLL(path)
        if hasattr(library, "MPIX_GPU_query_support"):
            found = ctypes.c_int(0)
            return library.MPIX_GPU_query_support(_CUDA, ctypes.byref(found)) == 0 and found.value != 0
        if hasattr(library, "MPIX_Query_cuda_support"):
            return bool(library.MPIX_Query_cuda_support() == 1)
    return False


def _loaded(name: str) -> list[str]:
    """Shared libraries of this process whose files' names begin so."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    return sorted({path for line in lines if Path(path := line.split()[-1]).name.startswith(name + ".")})


def _proven(program: tuple[str, ...] = ("-m", "tensorlib.distributed.gpu_memory"), limit: float = _LIMIT) -> bool:
    """Whether two ranks of their own get through the trial."""
    from .run.launch import find_mpirun, launch

    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_JOB)}
    try:
        job = launch(find_mpirun(None), 2, None, (), (sys.executable, *program), "trial", environment)
        child = subprocess.Popen(
            job.command,
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except (
        OSError,
        ValueError,
        subprocess.TimeoutExpired,
    ):  # no mpirun, an unknown one, one that does not say which it is
        return False
    try:
        said, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return False
    return child.returncode == 0 and said.count(b"right") == 2


def trial() -> bool:
    """Sums of two ranks' GPU memory, by the very calls that gradients take: whether every number is right."""
    from .world import init

    group = init(guard=False)
    right = group.size == 2
    for n in _SIZES:
        for dtype in (tl.float32, tl.float64):
            x = tl.arange(n, dtype=dtype, device="cuda") * (group.rank + 1)
            tl.cuda.synchronize()
            progress.submit(reductions.all_reduce(Port(group, background=True), x, "sum"), group).wait()
            right &= x.tolist() == [3 * i for i in range(n)]
    return bool(right)


if __name__ == "__main__":
    sys.stdout.write("right\n" if trial() else "wrong\n")
