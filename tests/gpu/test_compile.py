"""Every CUDA source compiles, without a warning, with the macros that the table of operations asks for: by NVRTC, which is what runs them on a
machine with a GPU, or by nvcc. Neither needs a GPU.

Which macros those are is found by walking the table with launches that only note what they were asked for.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import shutil
import site
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import TensorlibError
from tensorlib.gpu import elementwise, launch
from tests.cases import Case, cases, differentiable_cases, leaves, typical

ARCHITECTURES = (75, 90)
UNUSED_IS_FINE = "-diag-suppress=177"  # of what common.cuh has for all
PER_FILE = 2  # variants in the quick run, which tries one architecture
Variant = tuple[str, tuple[str, ...], str]  # file, options, macros


# ---- which variants there are ----
@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> dict[Variant, None]:
    """What kernels are asked for while the test runs; none runs."""
    found: dict[Variant, None] = {}

    def note(source: launch.Source, kernel: str, **macros: Any) -> Any:
        found[source.file, source.options, launch.defines(macros)] = None
        return lambda grid, block, *arguments, shared=0: None

    monkeypatch.setattr(launch.Source, "__call__", note)
    monkeypatch.setattr(elementwise, "_plans", {})  # which hold kernels
    return found


def walk(found: Iterable[Case]) -> None:
    """Forward and backward, over values that nobody computed: what is made of those does not matter."""
    for case in found:
        with np.errstate(all="ignore"), suppress(TensorlibError, ArithmeticError, ValueError, IndexError):
            args = case.args(requires_grad=True, device="cuda")
            outs = [t for t in case.outputs(*args) if t.requires_grad]
            if outs:
                tl.autograd.grad(outs, leaves(args), [tl.ones_like(t) for t in outs], allow_unused=True)


# ---- compilers ----
def nvrtc() -> ctypes.CDLL | None:
    folders = [Path(p, "nvidia") for p in site.getsitepackages()]
    there = [str(p) for f in folders for p in sorted(f.rglob("libnvrtc.so.*")) if "builtins" not in p.name]
    for name in [*there, ctypes.util.find_library("nvrtc")]:
        if name:
            return ctypes.CDLL(name)
    return None


def complaints_of_nvrtc(library: ctypes.CDLL, variant: Variant, architecture: int) -> str:
    """The compiler's log: empty where it has nothing to say."""
    file, options, macros = variant
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    code = (macros + launch.text(file)).encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), code, file.encode(), 0, None, None) == 0
    given = [*options, UNUSED_IS_FINE, f"-arch=sm_{architecture}"]
    status = library.nvrtcCompileProgram(
        program, len(given), (ctypes.c_char_p * len(given))(*(o.encode() for o in given))
    )
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode() or ("" if status == 0 else f"nvrtc ended with {status}")


def joined(variants: Iterable[Variant]) -> str:
    """Many variants as one source, each in a namespace of its own."""
    parts = []
    for i, (file, _, macros) in enumerate(variants):
        code = macros + re.sub(r'extern "C"(?=\s+__global__)', "", launch.text(file))
        names = dict.fromkeys(re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", code, re.MULTILINE))
        parts.append(f"namespace variant_{i} {{\n{code}\n}}\n" + "".join(f"#undef {name}\n" for name in names))
    return "".join(parts)


def complaints_of_nvcc(nvcc: str, variants: list[Variant], architectures: Sequence[int], folder: Path) -> str:
    source = folder / "variants.cu"
    source.write_text(joined(variants), "utf-8")
    each = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    options = [
        *dict.fromkeys(o for _, options, _ in variants for o in options),
        *each,
        UNUSED_IS_FINE,
        "-Xptxas=-O1",
        "-Werror=all-warnings",
    ]
    done = subprocess.run(
        [nvcc, *options, "-fatbin", "-o", str(folder / "variants.fatbin"), str(source)],
        capture_output=True, text=True, check=False, timeout=540,
    )  # fmt: skip
    return (done.stderr + done.stdout)[:6000] if done.returncode or done.stderr else ""


def compile_all(variants: list[Variant], architectures: Sequence[int], folder: Path) -> None:
    library, nvcc = nvrtc(), shutil.which("nvcc")
    if library is None and nvcc is None:
        pytest.skip("needs nvcc, or the package nvidia-cuda-nvrtc")
    for file in dict.fromkeys(file for file, _, _ in variants):
        of_file = [v for v in variants if v[0] == file]
        if library is not None:
            for v in of_file:
                for a in architectures:
                    log = complaints_of_nvrtc(library, v, a)
                    assert not log, f"{file} for sm_{a} with\n{v[2]}\n{log}"
        else:
            assert nvcc is not None
            log = complaints_of_nvcc(nvcc, of_file, architectures, folder)
            assert not log, f"{file}, {len(of_file)} variants:\n{log}"


def chosen(variants: Iterable[Variant], most: int) -> list[Variant]:
    """At most so many of each file, evenly from those it has."""
    by_file: dict[str, list[Variant]] = {}
    for v in variants:
        by_file.setdefault(v[0], []).append(v)
    return [v[i * len(v) // n] for v in by_file.values() for n in [min(most, len(v))] for i in range(n)]


def test_sources_compile(noted: dict[Variant, None], tmp_path: Path) -> None:
    walk(typical(differentiable_cases(dtype=tl.float32, smooth=True), most=1))
    assert {file for file, _, _ in noted} >= {"rows.cu", "norms.cu", "losses.cu"}
    compile_all(chosen(noted, PER_FILE), ARCHITECTURES[:1], tmp_path)


@pytest.mark.slow
def test_more_variants_compile(noted: dict[Variant, None], tmp_path: Path) -> None:
    for dtype in (tl.bool_, tl.uint8, tl.int8, tl.int32, tl.int64, tl.float16, tl.bfloat16, tl.float64):
        walk(typical(cases(dtype=dtype, smooth=True), most=1))
    compile_all(chosen(noted, 4 * PER_FILE), ARCHITECTURES, tmp_path)


def test_every_source_has_a_user() -> None:
    """No file of kernels lies about unused."""
    folder = Path(launch.__file__).parent
    text = "".join(p.read_text("utf-8") for p in folder.glob("*.py"))
    for path in folder.glob("*.cu"):
        assert f'"{path.name}"' in text
