"""The command that starts the ranks: MPICH's mpirun (hydra) and Open MPI's take different words for the same things."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Launch", "find_mpirun", "launch", "placed"]


@dataclass(frozen=True)
class Launch:
    """A command, and how its output tells the ranks apart (see `output.Stream`)."""

    command: tuple[str, ...]
    tag: str | None
    open_tag: str


def find_mpirun(given: str | None) -> str:
    """mpirun: the one given, the one of this Python's environment, or the first on the path."""
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise FileNotFoundError(f"run: --mpirun {given} is not a program.")
        return found
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if os.access(folder / "mpirun", os.X_OK):
            return str(folder / "mpirun")
    found = shutil.which("mpirun")
    if found is None:
        raise FileNotFoundError(
            "run: no mpirun beside this Python nor on the path; pip install 'tensorlib[mpi]', or name one by --mpirun."
        )
    return found


def placed(ranks: int, hosts: str) -> list[tuple[str, int]]:
    """How many ranks each host gets, in order: as said (``a:2,b:4``), else as even as they divide.

    >>> from tensorlib.distributed.run.launch import placed
    >>> placed(5, "a,b")
    [('a', 3), ('b', 2)]
    >>> placed(5, "a:1,b:4")
    [('a', 1), ('b', 4)]
    """
    names = [name.strip() for name in hosts.split(",")]
    if all(re.fullmatch(r"[^:]+:[1-9]\d*", name) for name in names):
        counts = {name.partition(":")[0]: int(name.partition(":")[2]) for name in names}
        if sum(counts.values()) < ranks:
            raise ValueError(f"run: --hosts {hosts} has room for {sum(counts.values())} ranks, -n says {ranks}.")
    elif all(re.fullmatch(r"[^:]+", name) for name in names):
        share, more = divmod(ranks, len(names))
        counts = {name: share + (i < more) for i, name in enumerate(names)}
    else:
        raise ValueError(
            f"run: --hosts {hosts} should name hosts, as in a,b, or hosts and numbers of ranks, as in a:2,b:2."
        )
    if len(counts) < len(names):
        raise ValueError(f"run: --hosts {hosts} names a host twice.")
    return [(name, count) for name, count in counts.items() if count]


def launch(
    mpirun: str, ranks: int, hosts: str | None, extra: Sequence[str], program: Sequence[str], token: str, environment: Mapping[str, str]
) -> Launch:  # fmt: skip
    """The command that starts `program` on so many ranks, with tagged output."""
    said = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False, timeout=60)
    version = said.stdout + said.stderr
    where = placed(ranks, hosts) if hosts else []
    if "Open MPI" in version or "OpenRTE" in version:
        return _open_mpi(mpirun, ranks, where, extra, program, environment)
    if "HYDRA" in version:
        hydra = [mpirun, "-prepend-pattern", f"@{token}:%r:", "-n", str(ranks)]
        if where:
            hydra += ["-hosts", ",".join(f"{host}:{count}" for host, count in where)]
        return Launch((*hydra, *extra, *program), rf"@{token}:(\d+):", "@[0-9a-f]*(:[0-9]*)?")
    raise ValueError(
        f"run: {shlex.quote(mpirun)} --version names neither MPICH's hydra nor Open MPI: {version[:200]!r}."
    )


def _open_mpi(
    mpirun: str, ranks: int, where: list[tuple[str, int]], extra: Sequence[str], program: Sequence[str], environment: Mapping[str, str]
) -> Launch:  # fmt: skip
    # Not bound to cores and free to share them, as hydra does it; `init` divides the cores among a node's ranks.
    command = [mpirun, "--output", "tag", "--bind-to", "none", "--map-by", "slot:OVERSUBSCRIBE", "-n", str(ranks)]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    if max((count for _, count in where), default=ranks) > (os.cpu_count() or 1):
        command += ["--mca", "mpi_yield_when_idle", "1"]
    if where:
        command += ["--host", ",".join(f"{host}:{count}" for host, count in where)]
    for name in environment:  # hydra takes all of it along to other hosts, Open MPI what is named
        if name.startswith(("TENSORLIB_", "PYTHON")):
            command += ["-x", name]
    return Launch((*command, *extra, *program), r"\[[\w.-]*,(\d+)\]<std(?:out|err)>:(?: |(?=[^ ]))", r"\[[^\s\[]{0,40}")
