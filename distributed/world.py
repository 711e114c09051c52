"""Who takes part: the world of ranks that a launcher started together, and groups of them."""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tensorlib as tl

from . import guard as guarding, progress
from .calls import GROUPS, under_way

if TYPE_CHECKING:
    from mpi4py import MPI

    from .gpus import Link

__all__ = [
    "Group", "barrier", "destroy_process_group", "get_rank", "get_world_size", "init", "init_process_group", "is_available", "is_initialized",
    "local_rank", "local_size", "new_group", "node_count", "rank", "size",
]  # fmt: skip

# What the launchers of MPICH, Open MPI, and Slurm's srun with either tell each process.
_LAUNCHED = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


@dataclass(eq=False)
class Group:
    """Ranks that communicate with each other. Every collective takes one as `group`; None is the world.

    A process outside the group has `rank` -1 and no communicators, and so has a group of one, which needs none.
    """

    ranks: tuple[int, ...]
    """The members, by their ranks in the world."""
    rank: int
    """This process's place among them."""
    comm: MPI.Comm | None = field(default=None, repr=False)
    """For calls of the thread that runs the program."""
    background: MPI.Comm | None = field(default=None, repr=False)
    """The same processes, for the communication thread."""
    node: MPI.Comm | None = field(default=None, repr=False)
    """The members that share this node's memory, for the communication thread."""
    across: MPI.Comm | None = field(default=None, repr=False)
    """The members with this one's place on their nodes, for the communication thread."""
    number: int = field(default=0, repr=False)
    """The same on all members, and no other group's."""
    calls: int = field(default=0, repr=False)
    """How many collectives this process has begun on `comm`."""
    links: dict[tuple[str, ...], Link | None] = field(default_factory=dict, repr=False)
    """Between the members' GPUs (gpus.py), by the names of these."""

    @property
    def size(self) -> int:
        return len(self.ranks)


_world: Group | None = None
_nodes = 1
_numbers = itertools.count()


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return any(name in os.environ for name in _LAUNCHED)


def mpi() -> Any:
    """mpi4py's MPI, which is initialised as it is imported."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(
            f"tensorlib.distributed: this process was started by an MPI launcher, but mpi4py can not be imported ({error}); "
            "pip install 'tensorlib[mpi]'."
        ) from error
    if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        raise RuntimeError(
            "tensorlib.distributed: MPI was initialised without support for several threads; import tensorlib.distributed before mpi4py.MPI, "
            "or leave mpi4py.rc.thread_level at 'multiple'."
        )
    return MPI


def form(comm: MPI.Comm | None, ranks: tuple[int, ...]) -> Group:
    """The group of a communicator's processes. Collective over it; takes the communicator over."""
    if comm is None or comm.size == 1:
        return Group(ranks, 0)
    background = comm.Dup()
    node = background.Split_type(mpi().COMM_TYPE_SHARED, key=comm.rank)
    across = background.Split(color=node.rank, key=comm.rank)
    number = comm.bcast(next(_numbers) * mpi().COMM_WORLD.size + ranks[0])
    group = Group(ranks, comm.rank, comm, background, node, across, number)
    GROUPS.add(group)
    return group


def init(
    *,
    guard: bool | None = None,
    heartbeat_limit: float | None = None,
    stall_limit: float | None = None,
    debug: bool | None = None,
) -> Group:
    """Join the ranks that the launcher started; returns the group of all of them. Any other function here does it on its first call.

    Without a launcher the world is this process alone. Under one, TENSORLIB_NUM_THREADS unset, each rank's kernels use its share of the cores.
    From here on an uncaught exception, or an exit with a status other than 0, ends all ranks; so does the loss of one.

    Args:
        guard: False: a rank that is lost may leave the others waiting for ever. None: as TENSORLIB_GUARD says, 0 or 1 (the default).
        heartbeat_limit: seconds without a sign of life after which a rank is lost. None: TENSORLIB_HEARTBEAT_LIMIT, or 10.
        stall_limit: seconds that a call waits for other ranks before rank 0 writes where each of them is. None: TENSORLIB_STALL_SECONDS, or 60.
        debug: True: before every collective that is not async, its ranks compare what they call, and all raise RuntimeError, with the two lines,
            where it differs in operation, number, shape or dtype. None: as TENSORLIB_DISTRIBUTED_DEBUG says, 0 (the default) or 1.

    >>> tl.distributed.init().size
    1
    """
    global _world, _nodes
    if _world is not None:
        return _world
    if not launched():
        _world = Group((0,), 0)
        return _world
    everyone = mpi().COMM_WORLD
    _world = form(everyone.Dup(), tuple(range(everyone.size)))
    if _world.node is not None and _world.comm is not None:
        _nodes = _world.comm.allreduce(_world.node.rank == 0)
        _share_cores(_world.node)
    guarding.start(_world, guard, heartbeat_limit, stall_limit, debug)
    return _world


@atexit.register
def _leave() -> None:
    guarding.wait_for_all()
    destroy_process_group()
    guarding.finish()


def _share_cores(node: MPI.Comm) -> None:
    """Each rank's threads: the cores that it may use, over the ranks of its node that may use one of them too."""
    if "TENSORLIB_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return
    cores = os.sched_getaffinity(0)
    beside = sum(not cores.isdisjoint(others) for others in node.allgather(sorted(cores)))
    tl.set_num_threads(max(1, len(cores) // beside))


def is_available() -> bool:
    """Whether mpi4py is installed. Without it, and without a launcher, everything works on one rank.

    >>> isinstance(tl.distributed.is_available(), bool)
    True
    """
    return importlib.util.find_spec("mpi4py") is not None


def is_initialized() -> bool:
    """Whether this process has joined its world.

    >>> _ = tl.distributed.init()
    >>> tl.distributed.is_initialized()
    True
    """
    return _world is not None


def init_process_group(backend: str | None = "mpi", init_method: str | None = None, **options: Any) -> None:
    """PyTorch's name for `init`. The launcher says who takes part, so the arguments that do so elsewhere have no effect.

    >>> tl.distributed.init_process_group("mpi")
    """
    init()


def destroy_process_group(group: Group | None = None) -> None:
    """Leave a group, or, without one, the world. Ranks that wait for this one in a collective then wait in vain: call it where all do.

    >>> tl.distributed.destroy_process_group()
    """
    global _world, _nodes
    leaving = _world if group is None else group
    if leaving is None:
        return
    if leaving is _world:
        progress.end()
    _close_links(GROUPS if leaving is _world else [leaving])
    for name in ("across", "node", "background", "comm"):
        comm = getattr(leaving, name)
        setattr(leaving, name, None)
        if comm is not None:
            comm.Free()
    if leaving is _world:
        _world, _nodes = None, 1


def _close_links(groups: Iterable[Group]) -> None:
    """What is between GPUs, once all its ranks are done with it."""
    for group in sorted(groups, key=lambda group: group.number):
        for between in filter(None, group.links.values()):
            between.settle()
            assert group.comm is not None
            group.comm.Barrier()
            between.close()
        group.links.clear()


def member(group: Group | None, operation: str) -> Group:
    """The group, by default the world; an error where this process is not in it."""
    found = init() if group is None else group
    if not isinstance(found, Group):
        raise TypeError(f"{operation}: group must be what new_group returns, or None, got a {type(found).__name__}.")
    if found.rank < 0:
        raise ValueError(f"{operation}: rank {rank()} is not in the group of ranks {list(found.ranks)}.")
    if found.size > 1 and found.comm is None:
        raise ValueError(f"{operation}: the group of ranks {list(found.ranks)} was destroyed.")
    return found


def rank(group: Group | None = None) -> int:
    """This process's rank in the world, or in `group`; -1 outside it.

    >>> tl.distributed.rank()
    0
    """
    return (init() if group is None else group).rank


def size(group: Group | None = None) -> int:
    """The number of ranks in the world, or in `group`.

    >>> tl.distributed.size()
    1
    """
    return (init() if group is None else group).size


def local_rank() -> int:
    """This process's place among the ranks of its node.

    >>> tl.distributed.local_rank()
    0
    """
    node = init().node
    return 0 if node is None else node.rank


def local_size() -> int:
    """The number of ranks on this node.

    >>> tl.distributed.local_size()
    1
    """
    node = init().node
    return 1 if node is None else node.size


def node_count() -> int:
    """The number of nodes that the world's ranks are on.

    >>> tl.distributed.node_count()
    1
    """
    init()
    return _nodes


get_rank, get_world_size = rank, size


def new_group(ranks: Sequence[int] | None = None) -> Group:
    """A group of some ranks. Every rank of the world calls it, with the same ranks, in the same order.

    Args:
        ranks: members by their ranks in the world, in any order; their places follow it as given. None: all.

    Raises:
        ValueError: for ranks that are not there, or named twice.

    >>> tl.distributed.new_group([0]).size
    1
    """
    world = init()
    members = world.ranks if ranks is None else tuple(ranks)
    if not members or len(set(members)) != len(members) or not set(members) <= set(world.ranks):
        raise ValueError(
            f"new_group: got ranks {list(members)}, expected different ones from 0 to {world.size - 1}, at least one."
        )
    if world.comm is None:
        return Group(members, 0)
    mine = world.rank in members
    comm = world.comm.Split(color=0 if mine else mpi().UNDEFINED, key=members.index(world.rank) if mine else 0)
    return form(comm, members) if mine else Group(members, -1)


def barrier(group: Group | None = None) -> None:
    """Wait until every rank of the group is here.

    >>> tl.distributed.barrier()
    """
    here = member(group, "barrier")
    if here.comm is not None:
        with under_way("barrier", here):
            here.comm.Barrier()
