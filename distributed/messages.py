"""Tensors from one rank to another."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import tensorlib as tl

from . import moves, progress
from .calls import under_way
from .collectives import place
from .progress import Steps, Work
from .tensors import Source, Target
from .world import Group, member

__all__ = ["irecv", "isend", "monitored_barrier", "recv", "send"]


def send(
    tensor: tl.Tensor, dst: int | None = None, group: Group | None = None, tag: int = 0, *, group_dst: int | None = None
) -> None:
    """Send a tensor to one rank, which receives it by `recv` or `irecv`. Returns once `tensor` may be changed.

    Args:
        tensor: of any dtype and shape that the receiver knows.
        dst: the receiver's rank in the world (or `group_dst`, its place in the group).
        tag: 0 to 32766: `recv` takes messages of its own tag alone, those of one tag in the order in which they were sent.

    >>> if tl.distributed.size() > 1:
    ...     tl.distributed.send(tl.ones(3), dst=1)
    """
    here, peer = _peer("send", group, dst, "dst", group_dst, tag)
    source = Source("send", tensor)
    with under_way("send", here, tuple(tensor.shape), tensor.dtype.name, peer=peer):
        progress.finish(_sending(here, source, peer, tag))


def isend(
    tensor: tl.Tensor, dst: int | None = None, group: Group | None = None, tag: int = 0, *, group_dst: int | None = None
) -> Work:
    """`send` that returns at once; `tensor` must stay as it is until the Work's `wait` returns.

    >>> if tl.distributed.size() > 1:
    ...     tl.distributed.isend(tl.ones(3), dst=1).wait()
    """
    here, peer = _peer("isend", group, dst, "dst", group_dst, tag)
    return _begun(_sending(here, Source("isend", tensor), peer, tag))


def recv(
    tensor: tl.Tensor, src: int | None = None, group: Group | None = None, tag: int = 0, *, group_src: int | None = None
) -> int:
    """Receive a tensor that another rank sends, in place.

    Args:
        tensor: of the shape and dtype that were sent.
        src: the sender's rank in the world (or `group_src`, its place in the group); None: any.
        tag: of the message.

    Returns:
        the sender's rank in the world.

    Raises:
        ValueError: if the message has another number of bytes than `tensor`, whose values are then undefined.

    >>> if tl.distributed.size() > 1:
    ...     tl.distributed.recv(tl.zeros(3), src=0)
    """
    here, peer = _peer("recv", group, src, "src", group_src, tag)
    target = Target("recv", tensor)
    with under_way("recv", here, tuple(tensor.shape), tensor.dtype.name, peer=peer):
        return int(progress.finish(_receiving("recv", here, target, peer, tag)))


def irecv(
    tensor: tl.Tensor, src: int | None = None, group: Group | None = None, tag: int = 0, *, group_src: int | None = None
) -> Work:
    """`recv` that returns at once; `tensor` may be neither read nor written until the Work's `wait` returns (the sender's rank).

    >>> if tl.distributed.size() > 1:
    ...     tl.distributed.irecv(tl.zeros(3), src=0).wait()
    """
    here, peer = _peer("irecv", group, src, "src", group_src, tag)
    target = Target("irecv", tensor)
    return _begun(_receiving("irecv", here, target, peer, tag), target.note)


def _peer(
    operation: str, group: Group | None, rank: int | None, name: str, group_rank: int | None, tag: int
) -> tuple[Group, int]:
    """The group, and the other's place in it; -1: any."""
    here = member(group, operation)
    if not 0 <= tag < moves.TAG:
        raise ValueError(f"{operation}: tag is {tag}, expected 0 to {moves.TAG - 1}.")
    if rank is None and group_rank is None:
        if name == "dst":
            raise ValueError(f"{operation}: expected a dst, the receiver's rank.")
        peer = -1
    else:
        peer = place(operation, here, rank, name, group_rank)
    if peer == here.rank or here.size == 1:
        raise ValueError(
            f"{operation}: {name} must be another rank; this is rank {here.ranks[here.rank]} of {here.size}."
        )
    return here, peer


def _begun(steps: Steps, after: Callable[[], None] | None = None) -> Work:
    """The Work of a message whose requests are posted here and now: MPI matches messages in the order in which they are."""
    first = next(steps)

    def rest() -> Steps:
        yield first
        return (yield from steps)

    return progress.submit(rest(), object(), after)


def _sending(here: Group, source: Source, peer: int, tag: int) -> Steps:
    api = moves.mpi()
    parts = [moves.memory(piece) for piece in _at_least_one(source.flat)]
    yield from [here.comm.Isend([part, api.BYTE], peer, tag) for part in parts]  # type: ignore[union-attr]


def _at_least_one(flat: tl.Tensor) -> list[tl.Tensor]:
    """An empty tensor is a message, too."""
    return list(moves.pieces(flat)) or [flat]


class _Arrival:
    """A receive, as a request that checks what came."""

    def __init__(self, operation: str, here: Group, part: Any, peer: int, tag: int) -> None:
        api = moves.mpi()
        self._operation, self._here, self._expected = operation, here, len(part)
        self._status = api.Status()
        self._request = here.comm.Irecv([part, api.BYTE], api.ANY_SOURCE if peer < 0 else peer, tag)  # type: ignore[union-attr]

    def Test(self) -> bool:
        return self._checked(self._request.Test)

    def Wait(self) -> None:
        self._checked(self._request.Wait)

    def _checked(self, call: Callable[..., bool]) -> bool:
        api = moves.mpi()
        try:
            if not call(self._status):
                return False
            got = str(self._status.Get_count(api.BYTE))
        except api.Exception as error:
            if error.Get_error_class() != api.ERR_TRUNCATE:
                raise
            got = "more"
        self.source: int = self._status.source
        if got != str(self._expected):
            raise ValueError(
                f"{self._operation}: rank {self._here.ranks[self.source]} sent {got} bytes, the tensor has room for {self._expected}; expected the "
                "shape and dtype that were sent."
            )
        return True


def _receiving(operation: str, here: Group, target: Target, peer: int, tag: int) -> Steps:
    arrive = functools.partial(_Arrival, operation, here)
    first, *others = [moves.memory(piece) for piece in _at_least_one(target.flat)]
    if peer >= 0:
        arrivals: list[Any] = [arrive(part, peer, tag) for part in (first, *others)]
        yield from arrivals
    else:
        arrivals = [arrive(first, peer, tag)]
        yield from arrivals
        yield from [arrive(part, arrivals[0].source, tag) for part in others]  # type: ignore[misc]
    target.put_back()
    return here.ranks[arrivals[0].source]


def monitored_barrier(
    group: Group | None = None, timeout: float | timedelta | None = None, wait_all_ranks: bool = False
) -> None:
    """A barrier that names who does not come: the group's first rank waits for all others, and they for its answer.

    Args:
        timeout: seconds; None: 300.
        wait_all_ranks: taken as PyTorch takes it; all ranks that are missing are named in any case.

    Raises:
        RuntimeError: on the first rank, with the ranks that did not come in time; on the others, where it gives no answer in time.

    >>> tl.distributed.monitored_barrier(timeout=10)
    """
    here = member(group, "monitored_barrier")
    limit = timeout.total_seconds() if isinstance(timeout, timedelta) else 300.0 if timeout is None else timeout
    if here.size == 1:
        return
    api, comm = moves.mpi(), moves.Port(here).comm
    nothing, others = bytearray(0), range(1, here.size)
    with under_way("monitored_barrier", here):
        if here.rank:
            comm.Isend([nothing, api.BYTE], 0, moves.TAG).Free()
        missing = set(others if here.rank == 0 else [0])
        deadline = time.monotonic() + limit
        while missing and time.monotonic() < deadline:
            arrived = {r for r in missing if comm.Iprobe(r, moves.TAG)}
            for r in arrived:
                comm.Recv([bytearray(0), api.BYTE], r, moves.TAG)
            missing -= arrived
            if not arrived:
                time.sleep(1e-3)
        if missing:
            ranks = ", ".join(str(here.ranks[r]) for r in sorted(missing))
            raise RuntimeError(
                f"monitored_barrier: no word from rank{'s' * (len(missing) > 1)} {ranks} within {limit:g} s."
            )
        if here.rank == 0:
            for r in others:
                comm.Isend([nothing, api.BYTE], r, moves.TAG).Free()
