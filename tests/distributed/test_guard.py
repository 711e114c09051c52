"""The parts of what ends all ranks, without ending any: packets, who is told to be lost, who waits for whom."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import tensorlib.distributed as dist
from tensorlib.distributed import stalls
from tensorlib.distributed.calls import UNDER_WAY, under_way
from tensorlib.distributed.heartbeat import Channel, Heart, Middle, Outer, Rank, addresses


def wait_until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_packets_of_others_are_ignored() -> None:
    token = os.urandom(32)
    one, two, stranger = Channel(1, token), Channel(2, token), Channel(1, os.urandom(32))
    packet = one.seal(2, {"done": False})
    assert two.open(packet) == (1, {"done": False})
    assert two.open(packet) is None, "played again"
    assert two.open(stranger.seal(2, {})) is None, "another token"
    assert one.open(two.seal(0, {})) is None, "for another rank"
    for place in (0, 20, len(packet) - 1):
        later = bytearray(one.seal(2, {"done": False}))
        later[place] ^= 1
        assert two.open(bytes(later)) is None, f"byte {place} was changed"
    old, new = one.seal(2, {}), one.seal(2, {})
    assert two.open(new) is not None
    assert two.open(old) is None, "older than the newest"
    assert two.open(b"") is None


def test_addresses_are_this_machines() -> None:
    found = addresses()
    assert "127.0.0.1" in found
    assert len(set(found)) == len(found)


class Told:
    """What a heart reports, and what it has told."""

    def __init__(self, **said: Any) -> None:
        self.said, self.told, self.end = said, [], False  # type: ignore[var-annotated]

    def report(self) -> dict[str, Any]:
        return self.said

    def tick(self, now: float) -> None: ...

    def lost(self, rank: int, why: str) -> None:
        self.told.append((rank, why))

    def ended(self, status: int) -> None:
        self.told.append(("ended", status))

    def interrupted(self) -> None: ...

    def at_end(self) -> bool:
        return self.end


@contextmanager
def star(outer: int, limit: float) -> Iterator[tuple[list[Heart], list[Told]]]:
    """Rank 0 and others that have all heard each other."""
    ranks = [Rank(number, outer + 1, "here", os.getpid()) for number in range(outer + 1)]
    token, told = os.urandom(32), [Told(done=False, rank=number) for number in range(outer + 1)]
    middle = Middle(ranks, Channel(0, token), limit, told[0])
    hearts: list[Heart] = [middle]
    # The first of the ways leads nowhere.
    ways = [("127.0.0.1", 9), ("127.0.0.1", middle.port)]
    hearts += [Outer(ranks, Channel(number, token), limit, told[number], ways) for number in range(1, outer + 1)]
    try:
        for heart in hearts:
            heart.start()
        wait_until(lambda: len(middle.reports()) == outer)
        assert {number: said["rank"] for number, said in middle.reports().items()} == {
            n: n for n in range(1, outer + 1)
        }
        yield hearts, told
    finally:
        for heart in hearts:
            heart.stop()


def test_silence_is_a_loss() -> None:
    with star(2, limit=1.0) as (hearts, told):
        silenced = hearts[2]
        silenced.beat = lambda: None  # type: ignore[method-assign]
        wait_until(lambda: told[0].told)
        rank, why = told[0].told[0]
        assert rank == 2
        assert why.startswith("nothing was heard of it for 1.")
        assert why.endswith("the limit is 1 s")
        assert not told[1].told, "the others are heard"


def test_process_that_is_gone_is_a_loss_at_once() -> None:
    with star(2, limit=60.0) as (hearts, told):
        hearts[1].stop()
        wait_until(lambda: told[0].told)
        assert told[0].told[0] == (1, "its process is gone")
        hearts[0].stop()
        wait_until(lambda: told[2].told)
        assert told[2].told[0] == (0, "its process is gone")
        assert not told[1].told


def test_one_rank_speaks() -> None:
    with star(3, limit=60.0) as (hearts, told):
        may: dict[int, bool] = {}
        threads = [threading.Thread(target=lambda n=n: may.update({n: hearts[n].claim()})) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(may.values()) == [False, False, False, True]
        hearts[3].tell_end(7)
        wait_until(lambda: all(each.told for each in told))
        assert [each.told for each in told] == [[("ended", 7)], [("ended", 7)], [("ended", 7)], [("ended", 7)]]


def test_calls_are_numbered_but_for_those_with_a_peer() -> None:
    group = dist.new_group()
    with (
        under_way("one", group) as first,
        under_way("send", group, peer=0) as message,
        under_way("two", group) as second,
    ):
        assert [call.number for call in (first, message, second)] == [1, 0, 2]
        assert list(UNDER_WAY.values())[-3:] == [first, message, second]
    assert group.calls == 2
    assert not {first, message, second} & set(UNDER_WAY.values())
    dist.destroy_process_group(group)


def test_where_is_the_users_line() -> None:
    found = []
    with under_way("barrier", dist.new_group()):
        found.append(stalls.where())  # this line
    assert found[0].startswith("tests/distributed/test_guard.py:") or __file__ in found[0]
    assert found[0].endswith(": found.append(stalls.where())  # this line")


def said(
    operation: str | None = None, number: int = 3, *, at: str = "a.py:1", done: bool = False, **call: Any
) -> dict[str, Any]:
    """A rank's report."""
    waits = {
        "operation": operation, "number": number, "group": 0, "ranks": [0, 1, 2], "peer": None, "what": "float32[4]",
        "for": 9.0, "where": at, **call,
    }  # fmt: skip
    return {"done": done, "at": at, "counts": {"0": number}, "call": waits if operation else None}


def test_table() -> None:
    reports = {
        0: said("all_reduce", at="a.py:31: f(x)"),
        1: said(at="a.py:44: g({})"),
        2: said("all_reduce", at="a.py:31: f(x)"),
    }
    assert stalls.table(reports, 3) == (
        "  ranks 0, 2 wait in all_reduce float32[4], number 3, at a.py:31: f(x)\n"
        "  rank 1 is in no collective, at a.py:44: g({})\n"
    )
    reports = {0: said("recv", peer=1), 1: {**said(done=True), "silent": 5.0}}
    assert stalls.table(reports, 3) == (
        "  rank 0 waits in recv float32[4] with rank 1 at a.py:1\n"
        "  rank 1 has come to the end of the script (or was, 5 s ago)\n"
        "  rank 2 has never been heard\n"
    )
    reports = {0: said("barrier", ranks=[0, 2], group=5, what=""), 2: said("barrier", ranks=[0, 2], group=5, what="")}
    assert "  ranks 0, 2 wait in barrier, number 3 of the group of ranks [0, 2], at a.py:1\n" in stalls.table(
        reports, 3
    )


def test_stalled() -> None:
    reports = {0: said(), 1: said("barrier", **{"for": 8.0}), 2: said("barrier", 4)}
    assert stalls.stalled(reports, 10) is None
    assert stalls.stalled(reports, 8.5) == (0, 4, "a.py:1")


def test_waiting_for_an_ended_rank_is_in_vain() -> None:
    ended = said(number=3, done=True)
    assert stalls.in_vain({0: said("barrier", 3), 1: ended}, 3) is None, "it has begun that one"
    assert stalls.in_vain({0: said("barrier", 4, ranks=[0, 2]), 1: ended}, 3) is None, "it takes no part"
    assert stalls.in_vain({0: said("recv", 0, peer=1, **{"for": 1.0}), 1: ended}, 3) is None, "it may have sent"
    assert stalls.in_vain({0: said("barrier", 4), 1: ended}, 3) == (
        "rank 1 came to the end of the script, and rank 0 waits there in vain: barrier float32[4], number 4, at a.py:1."
    )
    assert (stalls.in_vain({0: said("recv", 0, peer=1), 1: ended}, 3) or "").startswith("rank 1 came to the end")


def test_ranks_that_wait_for_each_other() -> None:
    world, pair = said("barrier", 4), said("barrier", 2, ranks=[1, 2], group=5)
    pair["counts"] = {"0": 3, "5": 2}
    late = {**said("barrier", 4), "counts": {"0": 4, "5": 1}}
    told = stalls.crossed({0: world, 1: pair, 2: late}, 3)
    assert told is not None
    assert told.startswith("ranks wait for each other in different calls:\n  ranks 0, 2 wait in barrier")
    assert stalls.crossed({0: world, 1: pair, 2: {**late, "call": None}}, 3) is None, "rank 2 may still come"
    assert stalls.crossed({0: world, 1: said("barrier", 4), 2: late}, 3) is None, "all are in the same one"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon"])
def test_limits(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    from tensorlib.distributed.guard import _seconds

    monkeypatch.setenv("TENSORLIB_HEARTBEAT_LIMIT", text)
    with pytest.raises(ValueError, match="init: TENSORLIB_HEARTBEAT_LIMIT must be"):
        _seconds("heartbeat_limit", None, "TENSORLIB_HEARTBEAT_LIMIT", 10.0)
    with pytest.raises(ValueError, match=r"init: heartbeat_limit must be above 0 s, got -2\."):
        _seconds("heartbeat_limit", -2.0, "TENSORLIB_HEARTBEAT_LIMIT", 10.0)
    assert _seconds("heartbeat_limit", 3.0, "TENSORLIB_HEARTBEAT_LIMIT", 10.0) == 3.0
