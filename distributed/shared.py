"""Memory of a group whose ranks sum it together: MPI's shared windows where all of them are on one node, messages between nodes.

On one node nothing is sent. Each rank's memory is mapped by the others; between two barriers each sums its share of the elements, in the
order of the ranks, straight from all memories into all memories:

    rank 0   [ share 0 | share 1 ]        rank 0 reads and writes share 0 of both,
    rank 1   [ share 0 | share 1 ]        rank 1 share 1

Elsewhere the shares travel (Alltoallv), are summed by the same kernel in the same order, and come back (Allgatherv). So the bits do not
depend on who is where, except for `all_reduce` over several nodes of equally many ranks, which sums on each node first.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import tensorlib as tl

from .moves import bounds, memory, pieces
from .world import mpi

if TYPE_CHECKING:
    from mpi4py import MPI

    from .progress import Steps
    from .world import Group

__all__ = ["SharedBuffer", "meet"]


class SharedBuffer:
    """`slots` runs of `numel` elements on each rank, zeros at first, of which sums over the ranks are made.

    Made by all ranks of the group together; where it is not `needed`, nobody is told that there is no room to share it. `tensor` is this rank's
    first run. All else is for the communication thread: the generators that `join` and `all_reduce` return go to `progress.submit`. The memory
    lives as long as any tensor in it on any rank, and until the next buffer of the group is made.
    """

    def __init__(self, group: Group, numel: int, dtype: tl.DType, slots: int = 1, needed: bool = True) -> None:
        self.group, self.numel, self.dtype, self.slots = group, numel, dtype, slots
        self._window: MPI.Win | None = None
        self._ranks_here = 1
        total = slots * numel * dtype.itemsize
        memories: list[Any] = []
        if group.comm is not None:
            _release_unused(group)
            node = group.comm.Split_type(mpi().COMM_TYPE_SHARED, key=group.rank)
            nodes = group.comm.allgather((node.size, _room(total * node.size, needed)))
            if node.size > 1 and total and all(here == (node.size, True) for here in nodes):
                self._window, memories = _map(total, node)
                self._ranks_here = node.size
            node.Free()
        self._runs = [_as_tensors(run, self) for run in memories or [np.zeros(total, np.uint8)]]
        self._place = 0 if self._window is None or group.node is None else group.node.rank
        self.runs: list[tl.Tensor] = self._runs[self._place]
        """This rank's runs."""
        self.tensor = self.runs[0]
        if self._window is not None:
            _windows.setdefault(group, []).append(
                (self._window, [weakref.ref(run) for run in memories], total * self._ranks_here)
            )

    @property
    def mapped(self) -> bool:
        """Whether the ranks of a node see each other's memory."""
        return self._window is not None

    @property
    def on_one_node(self) -> bool:
        """Whether all ranks do, so that nothing is sent."""
        return self.mapped and self._ranks_here == self.group.size

    def all_reduce(self, scale: float = 1.0, begin: int = 0, end: int | None = None) -> Steps:
        """`tensor[begin:end]` becomes `scale` times its sum over the ranks, on all of them."""
        over_nodes = self.mapped and self._ranks_here < self.group.size
        if over_nodes and tl.is_floating_point(self.tensor) and self.dtype.itemsize >= 4:
            return self._by_nodes(scale, begin, self.numel if end is None else end)
        return self.join([(rank, 0) for rank in range(self.group.size)], None, scale, begin, end)

    def join(
        self,
        parts: Sequence[tuple[int, int]],
        pairs: Sequence[tuple[int, int]] | None,
        scale: float = 1.0,
        begin: int = 0,
        end: int | None = None,
    ) -> Steps:
        """`tensor[begin:end]` becomes, on all ranks, `scale` times the sum of some runs, added in a fixed order.

        Args:
            parts: (rank, slot) of each run.
            pairs: the order, as `tl.fused.sum_pairs_` has it; None: one after the other.
        """
        end = self.numel if end is None else end
        if self.on_one_node:
            return self._in_memory(parts, pairs, scale, begin, end)
        return self._by_messages(parts, pairs, scale, begin, end)

    # ---- on one node ----
    def _in_memory(self, parts: Any, pairs: Any, scale: float, begin: int, end: int) -> Steps:
        yield from meet([self])
        low, high = share(begin, end, self.group.size, self.group.rank)
        if low < high:
            _sum(self.everywhere(low, high), [self._runs[rank][slot][low:high] for rank, slot in parts], pairs, scale)
        yield from meet([self])

    def everywhere(self, begin: int, end: int) -> list[tl.Tensor]:
        """`tensor[begin:end]` of every rank of the node."""
        return [runs[0][begin:end] for runs in self._runs]

    def sum_share(self, scale: float, begin: int, end: int) -> None:
        """What `all_reduce` of these elements does on this rank between two meetings, where it is `on_one_node`."""
        low, high = share(begin, end, self.group.size, self.group.rank)
        if low < high:
            _sum(runs := self.everywhere(low, high), runs, None, scale)

    # ---- over nodes ----
    def _by_nodes(self, scale: float, begin: int, end: int) -> Steps:
        assert self.group.across is not None
        low, high = share(begin, end, self._ranks_here, self._place)
        here = self.everywhere(low, high)
        yield from meet([self])
        if low < high:
            mine = here[self._place]
            _sum([mine], here, None, 1.0)
            for piece in pieces(mine):
                yield self.group.across.Iallreduce(mpi().IN_PLACE, piece.numpy())
            _sum(here, [mine], None, scale)
        yield from meet([self])

    def _by_messages(self, parts: Any, pairs: Any, scale: float, begin: int, end: int) -> Steps:
        """In pieces, so that no message is too long. Each rank receives its share of every part, and sends the sum back."""
        group, comm = self.group, self.group.background
        if comm is None:
            runs = [self._runs[0][slot][begin:end] for _, slot in parts]
            if begin < end:
                _sum([self.tensor[begin:end]], runs, pairs, scale)
            return
        for start, stop in bounds(end - begin, self.dtype.itemsize):
            shares = [share(0, stop - start, group.size, rank) for rank in range(group.size)]
            start += begin
            low, high = shares[group.rank]
            received = tl.empty(len(parts), max(high - low, 0), dtype=self.dtype, device="cpu")
            rows = [[i for i, (rank, _) in enumerate(parts) if rank == r] for r in range(group.size)]
            for turn in range(max(map(len, rows))):  # the turn-th part of each rank that has so many
                yield comm.Ialltoallv(*self._turn(parts, rows, turn, start, shares, received))
            if low < high:
                _sum([self.tensor[start + low : start + high]], list(received), pairs, scale)
            yield comm.Iallgatherv(mpi().IN_PLACE, self._spread(start, shares))

    def _turn(
        self,
        parts: Any,
        rows: list[list[int]],
        turn: int,
        start: int,
        shares: list[tuple[int, int]],
        received: tl.Tensor,
    ) -> tuple[Any, Any]:
        size, byte, mine = self.dtype.itemsize, mpi().BYTE, rows[self.group.rank]
        slot = parts[mine[turn]][1] if turn < len(mine) else 0
        sends = turn < len(mine)
        sent = [(high - low) * size if sends else 0 for low, high in shares]
        taken = [received.shape[1] * size if turn < len(rows[r]) else 0 for r in range(self.group.size)]
        at = [rows[r][turn] * received.shape[1] * size if turn < len(rows[r]) else 0 for r in range(self.group.size)]
        send = memory(self.runs[slot])
        return (
            [send, sent, [(start + low) * size for low, _ in shares], byte],
            [memory(received.view(-1)), taken, at, byte],
        )

    def _spread(self, start: int, shares: list[tuple[int, int]]) -> Any:
        size = self.dtype.itemsize
        counts = [(high - low) * size for low, high in shares]
        return [memory(self.tensor), counts, [(start + low) * size for low, _ in shares], mpi().BYTE]


def meet(buffers: Sequence[SharedBuffer]) -> Iterator[MPI.Request]:
    """A barrier of the node, after which each rank sees what the others wrote to these before it."""
    windows = [buffer._window for buffer in buffers if buffer._window is not None]
    for window in windows:
        window.Sync()
    assert buffers[0].group.node is not None
    yield buffers[0].group.node.Ibarrier()
    for window in windows:
        window.Sync()


def share(begin: int, end: int, ranks: int, rank: int) -> tuple[int, int]:
    """Which of the elements from begin to end a rank sums, in whole runs of 64 elements as far as there are."""
    each = -(-(end - begin) // (ranks * 64)) * 64
    return min(begin + rank * each, end), min(begin + (rank + 1) * each, end)


def _sum(outs: list[tl.Tensor], parts: list[tl.Tensor], pairs: Any, scale: float) -> None:
    if not tl.fused.sum_pairs_(outs, parts, pairs, scale):
        raise tl.errors.DTypeError(f"distributed: {parts[0].dtype} gradients can not be summed.")


def _map(nbytes: int, node: MPI.Comm) -> tuple[MPI.Win, list[Any]]:
    """A window of so many bytes on each rank of the node, and everyone's memory as this rank sees it."""
    info = mpi().Info.Create({"alloc_shared_noncontig": "true"})
    window = mpi().Win.Allocate_shared(nbytes, 1, info, node)
    info.Free()
    window.Lock_all(mpi().MODE_NOCHECK)
    return window, [np.frombuffer(window.Shared_query(rank)[0], np.uint8) for rank in range(node.size)]


# Of each group, the windows not yet released, in the order in which all ranks made them, with this rank's views of their memory and its size.
_windows: dict[Group, list[tuple[MPI.Win, list[weakref.ref[Any]], int]]] = {}


def _release_unused(group: Group) -> None:
    """Give back the windows in whose memory no rank has a tensor left. All ranks do so together."""
    windows = _windows.get(group, [])
    used = np.array([any(view() is not None for view in memories) for _, memories, _ in windows], np.uint8)
    if used.size and group.comm is not None:
        group.comm.Allreduce(mpi().IN_PLACE, used, op=mpi().MAX)
    for (window, *_), still in zip(windows, used, strict=True):
        if not still:
            window.Unlock_all()
            window.Free()
    _windows[group] = [entry for entry, still in zip(windows, used, strict=True) if still]


def _as_tensors(found: Any, buffer: SharedBuffer) -> list[tl.Tensor]:
    if buffer.dtype is tl.bfloat16:
        whole = tl.from_numpy(found.view(np.int16)).view(tl.bfloat16)
    else:
        whole = tl.from_numpy(found.view(tl.empty(0, dtype=buffer.dtype, device="cpu").numpy().dtype))
    return [whole[slot * buffer.numel : (slot + 1) * buffer.numel] for slot in range(buffer.slots)]


_without_windows = 0  # bytes that were free when there was no window


def _room(nbytes: int, needed: bool) -> bool:
    """Whether the node's shared memory can hold so much: a container may have little, and writing beyond it would end the process."""
    global _without_windows
    try:
        free = os.statvfs("/dev/shm")
    except OSError:
        return False
    room = free.f_bavail * free.f_frsize
    # Memory is taken only as it is written: what windows were promised may still look free.
    promised = sum(size for windows in _windows.values() for *_, size in windows)
    if not promised:
        _without_windows = room
    room = min(room, _without_windows - promised)
    if 2 * nbytes <= room or not needed:
        return 2 * nbytes <= room
    warnings.warn(
        f"distributed: the ranks of this node would share {nbytes >> 20} MiB of memory, but /dev/shm has {room >> 20} MiB left, which is less than "
        "twice as much: messages are used instead, which is slower. Give it more room (Docker: --shm-size=...).",
        stacklevel=4,
    )
    return False
