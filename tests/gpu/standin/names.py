"""Writes names.txt: what CuPy has, and with which arguments. Run it with each version that must be served, none of which needs a GPU:

    python tests/gpu/standin/names.py            # what this CuPy has
    python tests/gpu/standin/names.py --both     # of that, what names.txt has already

One name a line: `module.name(argument argument)`; ufuncs as `module.name: ufunc 2 1 types...`, with the types as NumPy spells them.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("names.txt")


def arguments(function: Any) -> list[str] | None:
    """The names of its parameters; None where it takes none by name (a class, a constant)."""
    try:
        return [
            ("*" if p.kind is p.VAR_POSITIONAL else "") + p.name
            for p in inspect.signature(function).parameters.values()
        ]
    except (TypeError, ValueError):
        found = re.search(r"\((.*?)\)(?: ->.*)?$", (function.__doc__ or "").strip().partition("\n")[0])
        if not found:
            return None
        words = [w.partition("=")[0].split()[-1] for w in found[1].split(",") if w.strip() not in {"*", "/", ""}]
        return words[1:] if words[:1] == ["self"] else words


def described(value: Any, ufunc: type) -> str | None:
    if isinstance(value, ufunc):
        return f": ufunc {value.nin} {value.nout} {' '.join(dict.fromkeys(value.types))}"
    if isinstance(value, (types.ModuleType, type)) or not callable(value):
        return ": " + (
            "module" if isinstance(value, types.ModuleType) else "class" if isinstance(value, type) else "value"
        )
    found = arguments(value)
    return None if found is None else "(" + " ".join(n for n in found if n != "self") + ")"


def names() -> dict[str, str]:
    import cupy  # type: ignore[import-not-found,unused-ignore]
    from cupyx.scipy import special  # type: ignore[import-not-found,unused-ignore]

    made = {}
    places = {"cupy": cupy, "cupy.linalg": cupy.linalg, "cupy.fft": cupy.fft, "cupy.ndarray": cupy.ndarray}
    places |= {"cupy.lib.stride_tricks": cupy.lib.stride_tricks, "cupyx.scipy.special": special}
    for place, holder in places.items():
        for name in dir(holder):
            what = None if name.startswith("_") else described(getattr(holder, name), cupy.ufunc)
            if what is not None:
                made[f"{place}.{name}"] = what
    return made


def common(one: str, other: str) -> str:
    """What both descriptions allow."""
    if one.startswith(": ufunc") and other.startswith(": ufunc"):
        return ": " + " ".join(w for w in one.split()[1:] if w in other.split())
    if "(" not in one or "(" not in other:
        return one
    return "(" + " ".join(n for n in one.strip("()").split() if n in other.strip("()").split()) + ")"


def read() -> dict[str, str]:
    lines = FILE.read_text("utf-8").splitlines()
    return {(m := re.fullmatch(r"([\w.]+)(.*)", line))[1]: m[2] for line in lines}  # type: ignore[index]


def main() -> None:
    made = names()
    if "--both" in sys.argv:
        there = read()
        made = {name: common(what, there[name]) for name, what in made.items() if name in there}
    FILE.write_text("".join(f"{name}{what}\n" for name, what in sorted(made.items())), "utf-8")


if __name__ == "__main__":
    main()
