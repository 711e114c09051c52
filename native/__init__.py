"""The C core, as Python sees it: `lib` and `ffi` of the compiled extension, and the registry of Python objects that C knows by number.

C keeps integer tokens instead of objects. `keep` enters an object and returns its token; when C lets go of the last reference, the token comes
back through `drain`, which the next freed tensor calls.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

try:
    from tensorlib.native._kernels import ffi, lib
except ImportError as error:
    raise ImportError(
        f"tensorlib's compiled kernels could not be loaded ({error}). Install the library (pip install . or pip install -e .) with the same"
        " Python that runs now."
    ) from error

__all__ = ["OBJECTS", "drain", "ffi", "keep", "lib"]

OBJECTS: dict[int, Any] = {}
_tokens = itertools.count(1)
_DRAIN = 256
_buffer = ffi.new("int64_t[]", _DRAIN)

lib.tl_install_gil()


def keep(thing: Any) -> int:
    """Enter an object that C will refer to; gone when C lets go."""
    token = next(_tokens)
    OBJECTS[token] = thing
    return token


_draining = False


def drain(
    _take: Any = lib.tl_drain_tokens,
    _unpack: Any = ffi.unpack,
    _buffer: Any = _buffer,
    _objects: dict[int, Any] = OBJECTS,
) -> None:
    """Let go of the objects whose tokens C returned. Their finalizers free more, and come back here: the outermost call works it all off, so a
    chain of any length goes without recursion. Names are bound as defaults: at the interpreter's end, globals are None already."""
    global _draining
    if _draining:
        return
    _draining = True
    try:
        while n := _take(_buffer, len(_buffer)):
            for key in _unpack(_buffer, n):
                _objects.pop(key, None)
    finally:
        _draining = False


def _check_isa() -> None:
    wanted = os.environ.get("TENSORLIB_ISA")
    if wanted and ffi.string(lib.tl_isa_name()).decode() != wanted:
        available = ffi.string(lib.tl_isa_available()).decode().replace(",", ", ")
        raise ImportError(f"TENSORLIB_ISA={wanted}: this processor offers {available}.")


_check_isa()
