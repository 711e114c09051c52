"""Plain values and tensors in dicts, lists and tuples, between ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib.distributed import moves
from tests.distributed.holding import RANK, SIZE, drawn, same

others = pytest.mark.skipif(SIZE < 2, reason="needs a second rank")
NEXT, BEFORE = (RANK + 1) % SIZE, (RANK - 1) % SIZE


def value(rank: int) -> Any:
    """Of another size on each rank, the first one small."""
    return {
        "rank": rank,
        "text": "ä" * 50 * rank,
        7: (None, True, -(2**70), math.inf, [0.1] * rank),
        "x": drawn(3, rank, (rank, 2), tl.bfloat16),
    }


def check(got: Any, rank: int) -> None:
    want = value(rank)
    same(got.pop("x"), want.pop("x"))
    assert got == want
    assert list(map(type, got[7])) == list(map(type, want[7]))


@pytest.fixture(params=[1 << 30, 64], ids=["whole", "in pieces"], autouse=True)
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "MOST", request.param)


def test_all_gather_object() -> None:
    filled = [None] * SIZE
    assert dist.all_gather_object(filled, value(RANK)) is filled
    for got in (dist.all_gather_object(value(RANK)), filled):
        for r, one in enumerate(got):
            check(one, r)


def test_objects_of_one_rank() -> None:
    for root in range(SIZE):
        objects = [value(root), "two"] if root == RANK else [None, None]
        assert dist.broadcast_object_list(objects, root) is objects
        check(objects[0], root)
        assert objects[1] == "two"

        gathered = dist.gather_object(value(RANK), [None] * SIZE if root == RANK else None, root)
        assert (gathered is None) == (root != RANK)
        for r, one in enumerate(gathered or []):
            check(one, r)

        mine = [None]
        got = dist.scatter_object_list(mine, [value(r) for r in range(SIZE)] if root == RANK else None, root)
        assert mine[0] is got
        check(got, RANK)


@others
def test_objects_between_two() -> None:
    objects: list[Any] = [None, None]
    if RANK % 2:
        assert dist.recv_object_list(objects, BEFORE) == BEFORE
        dist.send_object_list([value(RANK), 1], NEXT)
    else:
        dist.send_object_list([value(RANK), 1], NEXT)
        assert dist.recv_object_list(objects, BEFORE) == BEFORE
    check(objects[0], BEFORE)
    assert objects[1] == 1


class Unknown:
    def state_dict(self) -> None: ...


CALLS: dict[str, Callable[[Any], Any]] = {
    "all_gather_object": dist.all_gather_object,
    "gather_object": dist.gather_object,
    "broadcast_object_list": lambda x: dist.broadcast_object_list([x], RANK),
    "scatter_object_list": lambda x: dist.scatter_object_list([None], [x] * SIZE, RANK),
    "send_object_list": lambda x: dist.send_object_list([x], NEXT),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_can_not_be_encoded_is_not_sent(name: str) -> None:
    with pytest.raises(
        TypeError, match=rf"{name}: the object.*\['x'\] is a Unknown, expected a dict, .*; save its state_dict\(\)"
    ):
        CALLS[name]({"x": Unknown()})
    with pytest.raises(TypeError, match=f"{name}: the object.* is an array of object, expected"):
        CALLS[name](np.array([None]))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: dist.all_gather_object((), 1), TypeError, "all_gather_object: object_list must be a list, got a tuple"),
        (lambda: dist.all_gather_object([], 1), ValueError, "object_list has 0 places, expected one for each of the group's"),
        (lambda: dist.scatter_object_list([], [1] * SIZE, RANK), ValueError, "scatter_object_output_list is empty, expected a place"),
        (lambda: dist.scatter_object_list([None], None, RANK), TypeError, "scatter_object_input_list must be a list, got a NoneType"),
    ],
    ids=["a tuple", "no places", "no place", "no objects"],
)  # fmt: skip
def test_lists_that_do_not_fit(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


@others
def test_lists_of_another_length() -> None:
    objects = [1, 2] if RANK == 0 else [None]
    if RANK == 0:
        dist.broadcast_object_list(objects, 0)
    else:
        with pytest.raises(ValueError, match="broadcast_object_list: object_list has 1 places, rank 0 sent 2 objects"):
            dist.broadcast_object_list(objects, 0)
        assert objects == [None]
