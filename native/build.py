"""Builds the extension `tensorlib.native._kernels`: cffi's out-of-line API mode over the C files of this folder.

setuptools calls `ffibuilder` through its cffi hook (setup.py). The prototypes come from api.h alone: below its line of dashes stands one a
line, and pointers to the core's own structs become plain integers on Python's side, by one macro a function that casts both ways.

    TENSORLIB_SANITIZE=1   AddressSanitizer and UndefinedBehaviourSanitizer
    TENSORLIB_WERROR=1     warnings are errors
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent
HANDLES = r"(?:const )?tl_(?:tensor|node|run|meta|capture) \*"
X86_ONLY = ("_avx2.c", "_avx512.c")
X86 = platform.machine() in ("x86_64", "AMD64")

# cffi releases the GIL around every call; beside a busy Python thread that costs up to 480 us a call. The core releases it itself,
# around work that lasts (tl_unlock in tl.h), so cffi's pair becomes a plain block.
PREAMBLE = """
#include "api.h"
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
static void *gil_save(void) { return PyEval_SaveThread(); }
static void gil_restore(void *state) { PyEval_RestoreThread(state); }
static void tl_install_gil(void) { tl_gil_save = gil_save; tl_gil_restore = gil_restore; }
"""


def prototypes() -> list[tuple[str, str, list[str]]]:
    """(result type, name, parameter types) of everything api.h declares below its line."""
    text = (HERE / "api.h").read_text().split("/* -----", 1)[1]
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"([\w ]+?[ *]+)(tl_\w+)\((.*)\);", line)
        if match:
            result, name, parameters = match.groups()
            types = (
                [] if parameters == "void" else [re.sub(r"\w+$", "", p.strip()).strip() for p in parameters.split(",")]
            )
            found.append((result.strip(), name, types))
    return found


def as_integer(ctype: str) -> str:
    ctype = re.sub(r"tl_(tensor|node|run|meta) \*const \*", "const uintptr_t *", ctype)
    return re.sub(HANDLES, "uintptr_t", ctype)


def declarations() -> tuple[str, str]:
    """What cffi shall declare, and the macros that cast between its types and the core's."""
    cdef, macros = ["void tl_install_gil(void);"], []
    for result, name, types in prototypes():
        cdef.append(f"{as_integer(result)} {name}({', '.join(map(as_integer, types)) or 'void'});")
        names = [f"a{i}" for i in range(len(types))]
        casts = ", ".join(f"({t})({a})" for t, a in zip(types, names, strict=True))
        outer = "" if result == "void" else f"({as_integer(result)})"
        macros.append(f"#define {name}({', '.join(names)}) ({outer}({name})({casts}))")
    return "\n".join(cdef), "\n".join(macros)


def require_compiler() -> None:
    """Say plainly what is missing, before setuptools fails with a traceback."""
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if os.name == "posix" and not shutil.which(command):
        sys.exit(
            f"tensorlib: no C compiler found ({command!r} is not on PATH). Its kernels are compiled when it is installed: install gcc or"
            " clang (Debian and Ubuntu: apt-get install gcc; Fedora: dnf install gcc; macOS: xcode-select --install), or name one with CC=..."
        )


def make_builder() -> cffi.FFI:
    sanitize, strict = (os.environ.get(v) == "1" for v in ("TENSORLIB_SANITIZE", "TENSORLIB_WERROR"))
    flags = [
        "-std=gnu11",
        "-O3",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-pthread",
    ]
    flags += ["-Werror"] if strict else []
    link = ["-pthread", "-lm"]
    if sanitize:
        checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
        flags += ["-g1", "-O1", *checks]
        link += checks
    else:
        flags += ["-g0", "-fno-asynchronous-unwind-tables"]  # nothing unwinds through C
        link += ["-Wl,-s", "-Wl,-z,noseparate-code"] if sys.platform == "linux" else []
    sources = sorted(p.name for p in HERE.glob("*.c") if not p.name.endswith((".inc.c", *(() if X86 else X86_ONLY))))
    cdef, macros = declarations()
    builder = cffi.FFI()
    builder.cdef(cdef)
    builder.set_source(
        "tensorlib.native._kernels",
        PREAMBLE + macros,
        sources=[os.path.relpath(HERE / s) for s in sources],
        include_dirs=[os.path.relpath(HERE)],
        depends=[str(p) for p in HERE.iterdir() if p.suffix in (".h", ".def", ".c")],
        extra_compile_args=flags,
        extra_link_args=link,
        py_limited_api=True,
    )
    return builder


require_compiler()
ffibuilder = make_builder()
