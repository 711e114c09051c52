"""CUDA sources compiled for the CPU, and their kernels as callables: see render.h."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Kernel", "Module", "compiler"]

HEADER = Path(__file__).with_name("render.h")
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+((?:__align__\s*\(\s*\d+\s*\)\s*)?)([\w:]+(?:\s+\w+)*?)\s+(\w+)\s*\[\s*\]\s*;"
)
_KERNEL = re.compile(
    r"\b__global__\b(?:\s*\b__launch_bounds__\b\s*\([^()]*\))?\s+void\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?(\w+)\s*\("
)


@functools.cache
def compiler() -> str | None:
    """The C++ compiler of this machine."""
    named = os.environ.get("CXX", "").split()
    return next((found for c in (*named[:1], "g++", "c++", "clang++") if (found := shutil.which(c))), None)


def _run(command: Sequence[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-6000:]}")
    return str(done.stdout)


def _defines(options: Sequence[str]) -> str:
    """-D options as lines, for behind the header: they are the source's macros, not the header's."""
    lines = []
    for option in options:
        if option.startswith("-D"):
            name, _, value = option[2:].partition("=")
            lines.append(f"#define {name} {value or 1}\n")
    return "".join(lines)


def _folder() -> Path:
    """Where compiled sources are kept, by their contents, from one run of the tests to the next."""
    found = Path(tempfile.gettempdir()) / f"tensorlib-render-{os.getuid()}"
    found.mkdir(mode=0o700, exist_ok=True)
    return found


class Module:
    """A source with a set of macros, compiled for the CPU. `options` as for NVRTC: -D counts, the others are not the host's.

    Raises:
        RuntimeError: with the compiler's words, where the source does not compile.
    """

    def __init__(self, code: str, options: Sequence[str] = ()) -> None:
        cxx = compiler()
        if cxx is None:
            raise RuntimeError("rendering needs a C++ compiler; none was found (CXX, g++, c++, clang++)")
        code = _DYNAMIC.sub(r"\2 *const \3 = (\2 *)render::dynamic_memory;", code)
        defines = _defines(options)
        key = hashlib.sha256("\0".join((str(_header(cxx)), defines, code)).encode()).hexdigest()[:24]
        built = _folder() / f"{key}.so"
        if not built.exists():
            _build(cxx, defines, code, built)
        self.library = ctypes.CDLL(str(built))

    def get_function(self, name: str) -> Kernel:
        return Kernel(self, name)


FLAGS = (
    "-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv", "-fno-exceptions", "-fno-rtti", "-fPIC", "-w",
)  # fmt: skip


@functools.cache
def _header(cxx: str) -> Path:
    """render.h, beside it what g++ makes of it once for all sources (others read the text)."""
    text = HEADER.read_text("utf-8")
    place = _folder() / hashlib.sha256(f"{cxx}{FLAGS}{text}".encode()).hexdigest()[:16]
    place.mkdir(exist_ok=True)
    header, made = place / "render.h", place / "render.h.gch"
    if not made.exists():
        for path, write in (
            (header, lambda to: to.write_text(text, "utf-8")),
            (made, lambda to: _precompile(cxx, header, to)),
        ):
            own = path.with_suffix(f".{os.getpid()}{path.suffix}")
            write(own)
            own.replace(path)
    return header


def _precompile(cxx: str, header: Path, to: Path) -> None:
    _run([cxx, *FLAGS, "-x", "c++-header", "-o", str(to), str(header)])


def _build(cxx: str, defines: str, code: str, built: Path) -> None:
    """Names of kernels are read from the text; where macros hide or make some, from what the preprocessor makes of it."""
    named = _KERNEL.findall(code)
    try:
        if len(named) < code.count("__global__ "):
            raise RuntimeError("macros make names")
        _compile(cxx, defines, code, built, named)
    except RuntimeError:
        _compile(
            cxx, defines, code, built, _KERNEL.findall(_run([cxx, "-E", "-P", "-x", "c++", "-"], input=defines + code))
        )


def _compile(cxx: str, defines: str, code: str, built: Path, kernels: Sequence[str]) -> None:
    entries = "".join(
        f'extern "C" const char *render_launch_{k}(const uint64_t *a, const unsigned *g, const unsigned *b, size_t m, int o)'
        f" {{ return render::launch({k}, a, g, b, m, o); }}\n"
        f'extern "C" const char *render_letters_{k}() {{ return render::letters({k}); }}\n'
        for k in dict.fromkeys(kernels)
    )
    source = built.with_suffix(f".{os.getpid()}.cc")
    source.write_text(
        f'#include "{_header(cxx)}"\n#define __global__\n{defines}'
        f'#line 1 "{built.stem}.cu"\n{code}\n{entries}'
        'extern "C" size_t render_static_shared() { return render::static_shared(); }\n',
        "utf-8",
    )
    made = built.with_suffix(f".{os.getpid()}.so")
    try:
        _run([cxx, *FLAGS, "-shared", "-o", str(made), str(source)])
        built.with_suffix(".cu").write_text(code, "utf-8")
        made.replace(built)
    finally:
        source.unlink()
        made.unlink(missing_ok=True)


class Kernel:
    """A kernel of a compiled source: ``kernel(grid, block, arguments, shared)`` runs it. Numbers are 8 bytes each, as CuPy passes Python's."""

    order = 0  # of threads and blocks: ascending, descending (1), drawn (more)

    def __init__(self, module: Module, name: str) -> None:
        try:
            self._launch = getattr(module.library, f"render_launch_{name}")
            letters = getattr(module.library, f"render_letters_{name}")
        except AttributeError:
            raise RuntimeError(f"the source has no kernel {name}") from None
        self._launch.restype = letters.restype = ctypes.c_char_p
        self.name, self.letters = name, letters().decode()
        self._module = module
        static = module.library.render_static_shared
        static.restype = ctypes.c_size_t
        self.static_shared: int = static()

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[int | float], shared: int = 0
    ) -> None:
        if len(arguments) != len(self.letters):
            raise TypeError(
                f"kernel {self.name}: got {len(arguments)} arguments, it has {len(self.letters)} parameters"
            )
        bits = (ctypes.c_uint64 * max(len(arguments), 1))(*(self._bits(i, a) for i, a in enumerate(arguments)))
        grid, block = ([*given, 1, 1][:3] for given in (grid, block))
        threads = block[0] * block[1] * block[2]
        if min(*grid, *block) < 1 or threads > 1024 or block[2] > 64 or grid[0] >= 2**31 or max(grid[1:]) > 65535:
            raise RuntimeError(f"kernel {self.name}: invalid grid {grid} or block {block}")
        if shared + self.static_shared > 227 << 10:
            raise RuntimeError(
                f"kernel {self.name}: {shared} bytes of dynamic and {self.static_shared} of static shared memory"
            )
        three = ctypes.c_uint * 3
        wrong = self._launch(bits, three(*grid), three(*block), ctypes.c_size_t(shared), ctypes.c_int(Kernel.order))
        if wrong:
            raise RuntimeError(f"kernel {self.name}: {wrong.decode()}")

    def _bits(self, i: int, argument: float) -> int:
        number = isinstance(argument, float)
        if number != (self.letters[i] == "d"):
            kind = {"p": "a pointer", "i": "a long long", "d": "a double"}[self.letters[i]]
            raise TypeError(f"kernel {self.name}: argument {i} is {argument!r}, the parameter is {kind}")
        return int(struct.unpack("<Q", struct.pack("<d" if number else "<q", argument))[0])
