"""Elements between ranks: what every collective is made of. No MPI call moves more than `MOST` bytes, so that counts stay far below 2^31.

Everything here takes contiguous one-dimensional tensors on the CPU, and is a generator of requests to wait for (progress.Steps).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import tensorlib as tl

from . import progress
from .calls import under_way
from .progress import Steps, Work
from .world import mpi as _mpi

if TYPE_CHECKING:
    from mpi4py import MPI

    from .tensors import Target
    from .world import Group

MOST = 1 << 30  # bytes
SMALL = 1 << 16  # bytes, up to which the number of messages counts more than what is in them
TAG = 32767  # of messages that are part of a collective: the largest that every MPI has, so the program's own are below it


class Port:
    """Where a collective's calls go: the program's communicator, where each returns once it is done, or the communication thread's."""

    def __init__(self, group: Group, background: bool = False) -> None:
        self.group, self.background = group, background
        self.comm: Any = group.background if background else group.comm

    def call(self, name: str, *arguments: Any) -> MPI.Request:
        if self.background:
            request: MPI.Request = getattr(self.comm, f"I{name.lower()}")(*arguments)
            return request
        getattr(self.comm, name)(*arguments)
        return mpi().REQUEST_NULL


def carry_out(
    operation: str,
    group: Group,
    steps: Callable[[Port], Steps],
    async_op: bool,
    example: tl.Tensor | None = None,
    targets: Sequence[Target] = (),
    shaped: bool = True,
) -> Any:
    """The result of a collective, or its Work. `example` is the tensor that messages about it describe, `shaped` where all ranks have one of its
    shape; `targets` are what it writes."""

    def whole(port: Port) -> Steps:
        result = yield from steps(port)
        for target in targets:
            target.put_back()
        return result

    def note() -> None:
        for target in targets:
            target.note()

    if async_op:
        port = Port(group, background=group.size > 1)
        return progress.submit(whole(port), group, note) if port.background else progress.done(whole(port))
    shape = tuple(example.shape) if example is not None and shaped else None
    with under_way(operation, group, shape, None if example is None else example.dtype.name):
        return progress.finish(whole(Port(group)))


mpi = functools.cache(_mpi)


def memory(flat: tl.Tensor) -> Any:
    """A tensor's bytes, as MPI takes them. Whoever calls keeps the tensor."""
    return mpi().memory.fromaddress(flat.data_ptr(), flat.nbytes)


def pieces(flat: tl.Tensor) -> Iterator[tl.Tensor]:
    for start, stop in bounds(flat.numel(), flat.itemsize):
        yield flat[start:stop] if stop - start < flat.numel() else flat


def bounds(count: int, itemsize: int) -> Iterator[tuple[int, int]]:
    """Parts of `count` elements that each take at most `MOST` bytes."""
    step = max(1, MOST // itemsize)
    return ((start, min(start + step, count)) for start in range(0, count, step))


def shares(flat: tl.Tensor, size: int) -> list[tl.Tensor]:
    """As many parts as there are ranks, as equal as can be."""
    n = flat.numel()
    return [flat[n * r // size : n * (r + 1) // size] for r in range(size)]


def broadcast(port: Port, flat: tl.Tensor, root: int) -> Steps:
    if port.group.size > 1:
        for piece in pieces(flat):
            yield port.call("Bcast", [memory(piece), mpi().BYTE], root)


def exchange(port: Port, sends: Sequence[tl.Tensor | None], receives: Sequence[tl.Tensor | None]) -> Steps:
    """`sends[r]` goes to rank r, whose `sends[me]` arrives in `receives[r]`; None: nothing. Each pair agrees on the number of elements."""
    me, size = port.group.rank, port.group.size
    api: Any = mpi() if size > 1 else None
    requests = []
    for distance in range(1, size):  # each rank begins with another one
        source, target = (me - distance) % size, (me + distance) % size
        requests += [port.comm.Irecv([part, api.BYTE], source, TAG) for part in _parts(receives[source])]
        requests += [port.comm.Isend([part, api.BYTE], target, TAG) for part in _parts(sends[target])]
    _copy(receives[me], sends[me])
    if requests and not port.background:
        api.Request.Waitall(requests)
        return
    yield from requests


def _parts(flat: tl.Tensor | None) -> Iterator[Any]:
    return (memory(piece) for piece in (() if flat is None else pieces(flat)))


def _copy(to: tl.Tensor | None, source: tl.Tensor | None) -> None:
    if to is not None and source is not None and to.data_ptr() != source.data_ptr():
        to.copy_(source)


def all_gather(port: Port, mine: tl.Tensor, flat: tl.Tensor, counts: Sequence[int]) -> Steps:
    """Every rank's `mine`, of `counts` elements, one after the other in `flat`, which may hold `mine` at its place already."""
    ends = [sum(counts[: r + 1]) for r in range(len(counts))]
    parts = [flat[end - count : end] for end, count in zip(ends, counts, strict=True)]
    if port.group.size == 1 or flat.nbytes > MOST:
        yield from exchange(port, [mine] * port.group.size, parts)
        return
    _copy(parts[port.group.rank], mine)
    api, width = mpi(), flat.itemsize
    if len(set(counts)) == 1:
        yield port.call("Allgather", api.IN_PLACE, [memory(flat), counts[0] * width, api.BYTE])
    else:
        sizes, places = [n * width for n in counts], [(e - n) * width for e, n in zip(ends, counts, strict=True)]
        yield port.call("Allgatherv", api.IN_PLACE, [memory(flat), sizes, places, api.BYTE])


__all__ = [
    "MOST", "SMALL", "TAG", "Port", "Work", "all_gather", "bounds", "broadcast", "carry_out", "exchange", "memory", "pieces", "shares",
]  # fmt: skip
