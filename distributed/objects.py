"""Plain values, and tensors in dicts, lists and tuples, between ranks: what `tl.save` saves, as the same bytes. Nothing is pickled, so nothing that
arrives can run code; what can not be encoded is an error before anything is sent."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

import tensorlib as tl

from . import moves
from .collectives import place
from .messages import recv, send
from .moves import Port, carry_out
from .progress import Steps
from .world import Group, member

__all__ = [
    "all_gather_object", "broadcast_object_list", "gather_object", "recv_object_list", "scatter_object_list", "send_object_list",
]  # fmt: skip

_MISSING: Any = object()


def _encode(operation: str, value: Any) -> tl.Tensor:
    file = io.BytesIO()
    try:
        tl.save(value, file)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{operation}: {str(error).removeprefix('save: ')}") from None
    return tl.from_numpy(np.frombuffer(file.getbuffer(), np.uint8))


def _decode(flat: tl.Tensor) -> Any:
    return tl.load(io.BytesIO(np.asarray(flat).data))


def _number(flat: tl.Tensor) -> tl.Tensor:
    return tl.tensor([flat.numel()], dtype=tl.int64, device="cpu")


def _room(count: int) -> tl.Tensor:
    return tl.empty(count, dtype=tl.uint8, device="cpu")


def all_gather_object(object_list: Any, obj: Any = _MISSING, group: Group | None = None) -> list[Any]:
    """Every rank's object, on every rank: ``all_gather_object(obj)`` makes the list, ``all_gather_object(object_list, obj)`` fills one.

    Objects are None, booleans, integers, floats, strings, tensors and NumPy arrays, in dicts, lists and tuples; tensors arrive on the CPU.

    Raises:
        TypeError: for anything else, naming its place.

    >>> tl.distributed.all_gather_object({"loss": 0.5})
    [{'loss': 0.5}]
    """
    here = member(group, "all_gather_object")
    filled = None if obj is _MISSING else _list("all_gather_object", object_list, "object_list", here.size)
    mine = _encode("all_gather_object", object_list if filled is None else obj)

    def steps(port: Port) -> Steps:
        numbers = tl.zeros(here.size, dtype=tl.int64, device="cpu")
        yield from moves.all_gather(port, _number(mine), numbers, [1] * here.size)
        counts = numbers.tolist()
        flat = _room(sum(counts))
        yield from moves.all_gather(port, mine, flat, counts)
        return [_decode(part) for part in flat.split(counts)]

    result: list[Any] = carry_out("all_gather_object", here, steps, async_op=False)
    return _fill(filled, result)


def _list(operation: str, value: Any, name: str, size: int | None) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{operation}: {name} must be a list, got a {type(value).__name__}.")
    if size is not None and len(value) != size:
        raise ValueError(
            f"{operation}: {name} has {len(value)} places, expected one for each of the group's {size} ranks."
        )
    return value


def _fill(given: list[Any] | None, result: list[Any]) -> list[Any]:
    if given is None:
        return result
    given[:] = result
    return given


def broadcast_object_list(
    object_list: list[Any], src: int | None = None, group: Group | None = None, *, group_src: int | None = None
) -> list[Any]:
    """Copy one rank's list of objects (as `all_gather_object` takes them) into the others', which has as many places.

    Args:
        src: the rank that has it, by its rank in the world; None: the group's first.

    Returns:
        `object_list`.

    Raises:
        ValueError: where this rank's list has another length than the source's.

    >>> tl.distributed.broadcast_object_list(["run 7", {"lr": 0.1}])
    ['run 7', {'lr': 0.1}]
    """
    here = member(group, "broadcast_object_list")
    root = place("broadcast_object_list", here, src, "src", group_src)
    _list("broadcast_object_list", object_list, "object_list", None)
    mine = _encode("broadcast_object_list", object_list) if here.rank == root else _room(0)

    def steps(port: Port) -> Steps:
        number = _number(mine)
        yield from moves.broadcast(port, number, root)
        flat = mine if here.rank == root else _room(int(number.item()))
        yield from moves.broadcast(port, flat, root)
        return flat

    flat = carry_out("broadcast_object_list", here, steps, async_op=False)
    return object_list if here.rank == root else _fit("broadcast_object_list", object_list, flat, here.ranks[root])


def _fit(operation: str, object_list: list[Any], flat: tl.Tensor, sender: int) -> list[Any]:
    result = _decode(flat)
    if len(result) != len(object_list):
        raise ValueError(
            f"{operation}: object_list has {len(object_list)} places, rank {sender} sent {len(result)} objects."
        )
    return _fill(object_list, result)


def gather_object(
    obj: Any,
    object_gather_list: list[Any] | None = None,
    dst: int | None = None,
    group: Group | None = None,
    *,
    group_dst: int | None = None,
) -> list[Any] | None:
    """Every rank's object (as `all_gather_object` takes them), on one of them.

    Returns:
        the list on `dst` (None: the group's first rank), None elsewhere.

    >>> tl.distributed.gather_object("here")
    ['here']
    """
    here = member(group, "gather_object")
    root = place("gather_object", here, dst, "dst", group_dst)
    filled = object_gather_list
    if filled is not None and here.rank == root:
        _list("gather_object", filled, "object_gather_list", here.size)
    mine = _encode("gather_object", obj)

    def steps(port: Port) -> Steps:
        outgoing = [r == root for r in range(here.size)]
        numbers = [tl.zeros(1, dtype=tl.int64, device="cpu") if here.rank == root else None for _ in range(here.size)]
        yield from moves.exchange(port, [_number(mine) if out else None for out in outgoing], numbers)
        parts = [None if number is None else _room(int(number.item())) for number in numbers]
        yield from moves.exchange(port, [mine if out else None for out in outgoing], parts)
        return [_decode(part) for part in parts if part is not None]

    result = carry_out("gather_object", here, steps, async_op=False)
    return _fill(filled, result) if here.rank == root else None


def scatter_object_list(
    scatter_object_output_list: list[Any],
    scatter_object_input_list: Sequence[Any] | None = None,
    src: int | None = None,
    group: Group | None = None,
    *,
    group_src: int | None = None,
) -> Any:
    """One rank's objects (as `all_gather_object` takes them), one to each rank.

    Args:
        scatter_object_output_list: its first place receives this rank's.
        scatter_object_input_list: on `src` (None: the group's first rank), an object for each rank.

    Returns:
        this rank's object.

    >>> tl.distributed.scatter_object_list([None], ["for rank 0"])
    'for rank 0'
    """
    here = member(group, "scatter_object_list")
    root = place("scatter_object_list", here, src, "src", group_src)
    if not _list("scatter_object_list", scatter_object_output_list, "scatter_object_output_list", None):
        raise ValueError(
            "scatter_object_list: scatter_object_output_list is empty, expected a place for this rank's object."
        )
    parts: list[tl.Tensor | None] = [None] * here.size
    if here.rank == root:
        given = _list("scatter_object_list", scatter_object_input_list, "scatter_object_input_list", here.size)
        parts = [_encode("scatter_object_list", value) for value in given]

    def steps(port: Port) -> Steps:
        number = tl.zeros(1, dtype=tl.int64, device="cpu")
        incoming = [r == root for r in range(here.size)]
        numbers = [None if part is None else _number(part) for part in parts]
        yield from moves.exchange(port, numbers, [number if there else None for there in incoming])
        flat = _room(int(number.item()))
        yield from moves.exchange(port, parts, [flat if there else None for there in incoming])
        return _decode(flat)

    scatter_object_output_list[0] = carry_out("scatter_object_list", here, steps, async_op=False)
    return scatter_object_output_list[0]


def send_object_list(
    object_list: list[Any], dst: int | None = None, group: Group | None = None, *, group_dst: int | None = None
) -> None:
    """Send a list of objects (as `all_gather_object` takes them) to one rank.

    >>> if tl.distributed.size() > 1:
    ...     tl.distributed.send_object_list(["hello"], dst=1)
    """
    flat = _encode("send_object_list", _list("send_object_list", object_list, "object_list", None))
    send(_number(flat), dst, group, _TAG, group_dst=group_dst)
    send(flat, dst, group, _TAG, group_dst=group_dst)


def recv_object_list(
    object_list: list[Any], src: int | None = None, group: Group | None = None, *, group_src: int | None = None
) -> int:
    """Receive a list of objects, which has as many places, in place.

    Returns:
        the sender's rank in the world.

    >>> if tl.distributed.size() > 1:
    ...     tl.distributed.recv_object_list([None], src=0)
    """
    _list("recv_object_list", object_list, "object_list", None)
    number = tl.zeros(1, dtype=tl.int64, device="cpu")
    sender = recv(number, src, group, _TAG, group_src=group_src)
    flat = _room(int(number.item()))
    recv(flat, sender, group, _TAG)
    _fit("recv_object_list", object_list, flat, sender)
    return sender


_TAG = moves.TAG - 1
