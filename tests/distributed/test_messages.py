"""Tensors from one rank to another."""

from __future__ import annotations

from typing import Any

import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib.distributed import moves
from tests.distributed.holding import DTYPES, RANK, SIZE, drawn, same

others = pytest.mark.skipif(SIZE < 2, reason="needs a second rank")
NEXT, BEFORE = (RANK + 1) % SIZE, (RANK - 1) % SIZE
SHAPES = [(), (0,), (35,), (3, 4)]


@others
@pytest.mark.parametrize("most", [1 << 30, 64], ids=["whole", "in pieces"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_around_a_ring(dtype: tl.DType, most: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "MOST", most)
    for shape in SHAPES:
        x, y = drawn(seed, RANK, shape, dtype), tl.zeros(shape, dtype=dtype)
        if RANK % 2:
            assert dist.recv(y, BEFORE) == BEFORE
            dist.send(x, NEXT)
        else:
            work = dist.isend(x, NEXT)
            assert dist.recv(y, BEFORE) == BEFORE
            work.wait(60)
        same(y, drawn(seed, BEFORE, shape, dtype))


@others
def test_messages_of_one_tag_keep_their_order_and_tags_are_told_apart(seed: int) -> None:
    sent = [drawn(seed, k, (5,)) for k in range(4)]
    works = [dist.isend(x, NEXT, tag=k // 2) for k, x in enumerate(sent)]
    got = {k: tl.zeros(5) for k in (2, 3, 0, 1)}
    arrivals = [dist.irecv(y, BEFORE, tag=k // 2) for k, y in got.items()]
    assert [work.wait(60) for work in arrivals] == [BEFORE] * 4
    for k, y in got.items():
        same(y, sent[k])
    for work in works:
        work.wait(60)


@others
@pytest.mark.parametrize("most", [1 << 30, 64], ids=["whole", "in pieces"])
def test_from_any_rank(most: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "MOST", most)
    senders = set()
    if RANK:
        dist.send(drawn(seed, RANK, (40,)), 0)
    for k in range(0 if RANK else SIZE - 1):
        y = tl.zeros(40)
        sender = dist.irecv(y).wait(60) if k % 2 else dist.recv(y)
        same(y, drawn(seed, sender, (40,)))
        senders.add(sender)
    dist.barrier()  # or what another test sends comes here
    assert senders == (set() if RANK else set(range(1, SIZE)))


@others
@pytest.mark.parametrize("sent", [2, 9], ids=["too short", "too long"])
def test_messages_of_another_size(sent: int) -> None:
    work = dist.isend(tl.zeros(sent), NEXT)
    said = {2: "8", 9: "more"}[sent]
    with pytest.raises(
        ValueError, match=f"recv: rank {BEFORE} sent {said} bytes, the tensor has room for 12; expected the shape"
    ):
        dist.recv(tl.zeros(3), BEFORE)
    work.wait(60)


@others
def test_what_is_received_is_missed_by_backward() -> None:
    work = dist.isend(tl.zeros(3), NEXT)
    x, w = tl.ones(3), tl.ones(3, requires_grad=True)
    early = (w * x).sum()
    arrival = dist.irecv(x, BEFORE)
    late = (w * x.detach()).sum()
    arrival.wait(60)
    for loss in (early, late):
        with pytest.raises(tl.GradError, match=r"saved by `mul` .* was overwritten in place at .*test_messages.py"):
            loss.backward()
    with pytest.raises(tl.GradError, match=r"recv: tensor of shape \(3,\) requires a gradient"):
        dist.recv(w, BEFORE)
    work.wait(60)


@others
def test_tensors_that_are_not_contiguous(seed: int) -> None:
    work = dist.isend(drawn(seed, RANK, (4, 3)).t(), NEXT)
    base = tl.zeros(3, 8)
    dist.recv(base[:, ::2], BEFORE)
    same(base[:, ::2], drawn(seed, BEFORE, (4, 3)).t())
    assert not base[:, 1::2].any()
    work.wait(60)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dst": RANK}, f"dst must be another rank; this is rank {RANK} of {SIZE}"),
        ({"dst": SIZE}, rf"dst is rank {SIZE}, the group has the ranks \[0"),
        ({}, "send: expected a dst, the receiver's rank"),
        ({"dst": NEXT, "tag": -1}, "send: tag is -1, expected 0 to 32766"),
        ({"dst": NEXT, "tag": 32767}, "send: tag is 32767, expected 0 to 32766"),
    ],
    ids=["itself", "nobody", "no rank", "a negative tag", "a tag of collectives"],
)
def test_messages_that_can_not_be_sent(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dist.send(tl.zeros(2), **arguments)


@others
def test_what_is_no_tensor_is_not_sent() -> None:
    for call in (dist.send, dist.isend, dist.recv, dist.irecv):
        with pytest.raises(TypeError, match="tensor must be a tensor, got a float"):
            call(1.0, NEXT)


def test_monitored_barrier() -> None:
    for _ in range(3):
        dist.monitored_barrier(timeout=60)


@others
def test_monitored_barrier_names_who_does_not_come() -> None:
    group = dist.new_group()
    if RANK == 0:
        with pytest.raises(
            RuntimeError,
            match=f"monitored_barrier: no word from ranks? {', '.join(map(str, range(1, SIZE)))} within 0.05 s",
        ):
            dist.monitored_barrier(group, timeout=0.05)
    dist.barrier()
    dist.destroy_process_group(group)
