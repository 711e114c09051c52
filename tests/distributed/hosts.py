"""Several hosts on one machine, for tests: each has a network, processes, shared memory and a name of its own.

        a          b          c        namespaces: network, pid, IPC, mount (its /proc, /dev/shm and /etc/hosts), host name
      eth0       eth0       eth0
        |          |          |
    [--------- switch ---------]       one more network namespace, with nothing but a bridge

A host lives as long as its first process, which reads a pipe of ours: when the pipe closes, also because the tests were killed, the kernel ends
every process of the host, and its links with it. Nothing is left to remove, nothing has a name outside, and no traffic leaves the switch.
Jobs start on the first host. It sees the others' processes, under other ids than they have there, because one may only enter what one can see.
"""

from __future__ import annotations

import functools
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.distributed.launching import launcher
from tests.distributed.supervising import processes

__all__ = ["Hosts", "hosts", "unavailable"]

# A host's first process. With SIGCHLD ignored, the kernel buries whatever dies there without a parent.
_FIRST = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"
_HOST = "mount -t tmpfs tmpfs /dev/shm && mount --bind {table} /etc/hosts && hostname {name} && exec {first}"


class Hosts:
    """The hosts that `hosts` made."""

    def __init__(self, switch: int, first: dict[str, int], folder: Path) -> None:
        self._switch, self._first = switch, first
        self.agent = folder / "agent"
        """In place of ssh: ``agent [options] host command...``."""
        enter = "\n".join(
            f'{name}) set -- {self._enter(_id_on_first(pid))} sh -c "$*";;' for name, pid in first.items()
        )
        self.agent.write_text(
            f'#!/bin/sh\nwhile [ "${{1#-}}" != "$1" ]; do shift; done\nhost=$1; shift\ncase $host in\n{enter}\n'
            '*) echo "no host $host" >&2; exit 255;;\nesac\nexec "$@"\n'
        )
        self.agent.chmod(0o755)
        self._furniture = frozenset(pid for name in first for pid in self._alive(name))

    @property
    def names(self) -> list[str]:
        return list(self._first)

    def on(self, name: str) -> list[str]:
        """What to put before a command that is to run on the host."""
        return self._enter(self._first[name]).split()

    @staticmethod
    def _enter(first: int) -> str:
        # Open MPI keeps files by host and process id in the folder for temporary ones, where other jobs' hosts have had the same.
        return f"nsenter -t {first} -n -u -i -m -p -- env TMPDIR=/dev/shm"

    def reach(self) -> list[str]:
        """mpirun's options to reach the hosts by `agent`, and to keep all bytes on the wire with Open MPI; for MPICH there is UCX_TLS=tcp,self."""
        if "--oversubscribe" in launcher():
            where = f"--prtemca plm_ssh_agent {self.agent} --prtemca prte_if_include eth0"
            return f"{where} --mca pml ob1 --mca btl self,tcp --mca btl_tcp_if_include eth0".split()
        return f"-launcher ssh -launcher-exec {self.agent} -iface eth0".split()

    def pids(self, name: str) -> list[int]:
        """The processes that run on the host, by their ids outside."""
        return [pid for pid in self._alive(name) if pid not in self._furniture]

    def _alive(self, name: str) -> list[int]:
        inside = Path(f"/proc/{self._first[name]}/ns/pid").readlink()
        return processes(lambda process: process.joinpath("ns/pid").readlink() == inside)

    def cut(self, name: str) -> None:
        """Pull the host's cable out of the switch: no host is told."""
        self._ip("link", "set", "dev", name, "down")

    def join(self, name: str) -> None:
        """Put it back."""
        self._ip("link", "set", "dev", name, "up")

    def limit(self, rate: str) -> None:
        """Let each cable carry so much, such as "1gbit", each way."""
        for name, pid in self._first.items():
            for where, device in ((self._switch, name), (pid, "eth0")):
                _do("nsenter", "-t", str(where), "-n", "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate,
                    "burst", "256kb", "latency", "50ms")  # fmt: skip

    def _ip(self, *arguments: str) -> None:
        _do("nsenter", "-t", str(self._switch), "-n", "ip", *arguments)


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise OSError(f"{shlex.join(command)}: {done.stderr.strip()}")


def _innermost(pid: int) -> int:
    """The process at the end of a line of only children."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def _id_on_first(pid: int) -> int:
    """The id that a host's first process has on the first host."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("NSpid:")[2].split("\n")[0].split()[1])


@contextmanager
def _process(*command: str) -> Iterator[int]:
    """Run something in namespaces that are left with it: ``unshare ...``. Gives the id of its first process."""
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert holder.stdin and holder.stdout and holder.stderr
    try:
        if holder.stdout.readline() != "up\n":
            raise OSError(f"{shlex.join(command)}: {holder.stderr.read().strip()}")
        yield _innermost(holder.pid)
    finally:
        holder.stdin.close()
        holder.wait(timeout=20)
        holder.stdout.close()
        holder.stderr.close()


@contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    """Hosts 10.9.0.1, 10.9.0.2, ... of these names. They are gone afterwards, with all that runs on them."""
    first = [sys.executable, "-I", "-S", "-c", _FIRST]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        table = Path(folder, "hosts")
        address = {name: f"10.9.0.{number}" for number, name in enumerate(names, 1)}
        table.write_text("127.0.0.1 localhost\n" + "".join(f"{address[name]} {name}\n" for name in names))
        switch = stack.enter_context(_process("unshare", "-n", *first))
        at = ("nsenter", "-t", str(switch), "-n", "ip", "link")
        _do(*at, "add", "switch", "type", "bridge")
        _do(*at, "set", "switch", "up")
        pids: dict[str, int] = {}
        for name in names:
            make = _HOST.format(table=shlex.quote(str(table)), name=name, first=shlex.join(first))
            among = ("nsenter", "-t", str(pids[names[0]]), "-p", "--") if pids else ()
            pid = stack.enter_context(
                _process(*among, *["unshare", "-n", "-u", "-i", "-m", "-p", "-f", "--mount-proc", "sh", "-c"], make)
            )
            _do(*at, "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
            _do(*at, "set", "dev", name, "up", "master", "switch")
            inside = ("nsenter", "-t", str(pid), "-n", "ip")
            _do(*inside, "link", "set", "lo", "up")
            _do(*inside, "address", "add", f"{address[name]}/24", "dev", "eth0")
            _do(*inside, "link", "set", "eth0", "up")
            pids[name] = pid
        yield Hosts(switch, pids, Path(folder))


@functools.cache
def unavailable() -> str:
    """Why there can be no hosts here; empty where there can be."""
    try:
        with hosts("a"):
            return ""
    except (OSError, AssertionError) as error:
        return f"hosts on one machine need root and a kernel with namespaces, veth and bridges: {error}"
