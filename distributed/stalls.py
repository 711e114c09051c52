"""Who waits for whom: what each rank tells rank 0 about itself with every beat, and what rank 0 reads from it."""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import tensorlib as tl

from .calls import GROUPS, UNDER_WAY, Call

__all__ = ["Reports", "crossed", "in_vain", "report", "stalled", "table", "where", "where_raised"]

Reports = Mapping[int, dict[str, Any]]
"""What `report` returned on each rank of the world."""

_SHORTEST = 0.4  # seconds: calls that have waited for less are not told


@functools.cache
def _skipped() -> tuple[str, ...]:
    """What the paths of code begin with that is not the user's: the library's packages, the standard library, what pip installed."""
    beside = Path(__file__).parents[1]
    packages = [Path(inspect.getfile(tl)).parent, *(beside / name for name in ("nn", "optim", "native", "distributed"))]
    installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib")]
    return (*(f"{path}{os.sep}" for path in [*packages, *installed]), "<frozen")


def where(thread: int | None = None) -> str:
    """``train.py:31: dist.all_reduce(x)``: the line of the user's code that a thread, by default the main one, is at."""
    frame = sys._current_frames().get(thread or threading.main_thread().ident or 0)
    places = []
    while frame is not None:
        places.append((frame.f_code.co_filename, frame.f_lineno or 0))  # None at instructions of no line
        frame = frame.f_back
    return _line(places)


def where_raised(traceback: TracebackType | None) -> str:
    """The same of an exception."""
    places = []
    while traceback is not None:
        places.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno or 0))
        traceback = traceback.tb_next
    return _line(places[::-1])


def _line(places: list[tuple[str, int]]) -> str:
    """places: (file, line) of each frame, the innermost first."""
    if not places:
        return "its end"
    skipped = _skipped()
    path, line = next((place for place in places if not place[0].startswith(skipped)), places[0])
    text = linecache.getline(path, line).strip()
    near = os.path.relpath(path) if path.startswith(f"{Path.cwd()}{os.sep}") else path
    return f"{near}:{line}" + (f": {text[:100]}" if text else "")


def report(done: bool) -> dict[str, Any]:
    """What this rank is at.

    done: whether its script has ended; at: where the main thread is; counts: how many collectives it has begun, by the number of the group;
    call: the one that it has been in for the longest.
    """
    now = time.monotonic()
    calls = [call for call in list(UNDER_WAY.values()) if now - call.since > _SHORTEST]
    return {
        "done": done,
        "at": where(),
        "counts": {str(group.number): group.calls for group in list(GROUPS)},
        "call": _told(calls[0], now) if calls else None,
    }


def _told(call: Call, now: float) -> dict[str, Any]:
    return {
        "operation": call.operation,
        "group": call.group.number,
        "ranks": list(call.group.ranks),
        "number": call.number,
        "peer": call.peer if call.peer is None or call.peer < 0 else call.group.ranks[call.peer],
        "what": f"{call.dtype or ''}{list(call.shape)}" if call.shape is not None else "",
        "for": now - call.since,
        "where": where(call.thread),
    }


def _name(call: Mapping[str, Any], world: int) -> str:
    words = f"{call['operation']} {call['what']}".rstrip()
    if call["peer"] is not None:
        return f"{words} with {'any rank' if call['peer'] < 0 else _ranks([call['peer']])}"
    of = "" if len(call["ranks"]) == world else f" of the group of ranks {call['ranks']}"
    return f"{words}, number {call['number']}{of},"


def _ranks(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    shown = ", ".join(map(str, numbers[:32]))
    return f"ranks {shown}" + (f" and {len(numbers) - 32} more" if len(numbers) > 32 else "")


def stalled(reports: Reports, limit: float) -> tuple[int, int, str] | None:
    """What tells the call that has waited for the longest from others, if it is longer than `limit` seconds."""
    calls = [said["call"] for said in reports.values() if said["call"]]
    longest = max(calls, key=lambda call: call["for"], default=None)
    if longest is None or longest["for"] <= limit:
        return None
    return longest["group"], longest["number"], longest["where"]


def table(reports: Reports, world: int) -> str:
    """Every rank's place, those at the same one in one line."""
    lines: dict[tuple[str, str, str], list[int]] = {}
    for number in range(world):
        said = reports.get(number)
        call = said["call"] if said else None
        if said is None:
            text = "has", "have", "never been heard"
        elif said["done"]:
            text = "has", "have", "come to the end of the script"
        elif call:
            text = "waits", "wait", f"in {_name(call, world)} at {call['where']}"
        else:
            text = "is", "are", f"in no collective, at {said['at']}"
        if said and said.get("silent", 0) > 2:
            text = (*text[:2], f"{text[2]} (or was, {said['silent']:.0f} s ago)")
        lines.setdefault(text, []).append(number)
    return "".join(
        f"  {_ranks(who)} {several if len(who) > 1 else one} {rest}\n" for (one, several, rest), who in lines.items()
    )


def in_vain(reports: Reports, world: int) -> str | None:
    """What to say where a rank waits for one whose script has ended: for a collective that it has not begun, or a message, it never comes."""
    ended = {number for number, said in reports.items() if said["done"]}
    for number, said in sorted(reports.items()):
        call = said["call"]
        if call is None or said["done"]:
            continue
        if call["peer"] is not None:
            missing = [call["peer"]] if call["peer"] in ended and call["for"] > 5 else []  # it may have sent
        else:
            group = str(call["group"])
            missing = [r for r in call["ranks"] if r in ended and reports[r]["counts"].get(group, 0) < call["number"]]
        if missing:
            return f"{_ranks(missing)} came to the end of the script, and rank {number} waits there in vain: {_name(call, world)} at {call['where']}."
    return None


def crossed(reports: Reports, world: int) -> str | None:
    """What to say where ranks wait for each other in different calls, each for at least 2 s: none of these calls can end."""
    waits: dict[int, set[int]] = {}
    for number, said in reports.items():
        call = said["call"]
        if call is not None and call["for"] > 2 and call["peer"] is None:
            group = str(call["group"])
            late = {r for r in call["ranks"] if r in reports and reports[r]["counts"].get(group, 0) < call["number"]}
            waits[number] = late - {number}
    before = None
    while waits != before:  # leave only ranks that wait for some of those left
        before = waits
        waits = {number: late & waits.keys() for number, late in waits.items() if late & waits.keys()}
    return f"ranks wait for each other in different calls:\n{table(reports, world)}" if waits else None
