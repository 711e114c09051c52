"""The user's lines: every recorded operation carries the number of the line that ran it.

A line is known by its code object and instruction, both read off the calling frame, and interned to a small integer. The code object is kept, so
its id stays valid. A frame of the library itself interns to 0: then the line is looked for in the frames that called it.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

_HERE = Path(__file__).resolve().parent
# The sub-packages lie inside the package once installed, beside it in a source tree; other people's folders of those names are theirs.
_BESIDE = () if (_HERE / "nn").is_dir() else ("nn", "optim", "distributed")
_ROOTS = (f"{_HERE}/", *(f"{_HERE.parent / name}/" for name in _BESIDE))

KNOWN: dict[tuple[int, int], int] = {}  # (id(code), instruction) -> number; 0: a frame of the library
_places: list[tuple[CodeType, int] | None] = [None]
_library_code: list[CodeType] = []  # kept alive, as their ids are keys
_library_ids: dict[int, bool] = {}


class _Inherited(threading.local):
    line = 0


inherited = _Inherited()  # while a gradient rule runs: the line of the node it belongs to


def is_library(code: CodeType) -> bool:
    known = _library_ids.get(id(code))
    if known is None:
        name = code.co_filename
        known = name.startswith(_ROOTS)
        _library_ids[id(code)] = known
        _library_code.append(code)
    return known


def here(frame: FrameType | None = None) -> int:
    """The number of the innermost line outside the library, from `frame` (the caller's, if not given) outwards."""
    if inherited.line:
        return inherited.line
    frame = frame or sys._getframe(1)
    while frame is not None:
        key = (id(frame.f_code), frame.f_lasti)
        number = KNOWN.get(key)
        if number is None:
            number = _intern(key, frame)
        if number:
            return number
        frame = frame.f_back
    return 0


def _intern(key: tuple[int, int], frame: FrameType) -> int:
    code = frame.f_code
    if is_library(code):
        number = 0
    else:
        number = len(_places)
        _places.append((code, frame.f_lasti))
    KNOWN[key] = number
    return number


def describe(number: int) -> str:
    """``file:line in function``, for messages."""
    place = _places[number] if 0 < number < len(_places) else None
    if place is None:
        return "an unknown line"
    code, instruction = place
    line = code.co_firstlineno
    for start, stop, at in code.co_lines():
        if start <= instruction < stop and at is not None:
            line = at
            break
    inside = "" if code.co_name == "<module>" else f" in {code.co_name}"
    return f"{code.co_filename}:{line}{inside}"
