import os
import platform
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# gcc's -O3 without its peeled and split copies of loops, whose vectors are written out by hand where it counts, and without gaps between
# functions: 0.7 MB less, no slower. The same before loops, except in products, which would be slower: 0.02 MB.
LEAN = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-falign-functions=1", "-falign-jumps=1"]
# Small beats fast for the base kernels, which beside AVX2 and AVX-512 are for processors from before 2013 (0.6 MB of 5), and for drivers whose calls
# are long ones (0.03 MB).
BASE = ["-Os", "-DTL_SMALL"]
LONG_CALLS = {
    "attention", "bags", "bench", "capture", "conv", "convolution", "crf", "ctc", "direct", "grid", "losses", "mask", "norm", "norms", "pool",
    "product", "random", "recurrent", "resample", "rows", "segments", "slide", "sort", "sparse", "sums", "trees", "winograd",
}  # fmt: skip


def is_gcc(compiler: Sequence[str]) -> bool:
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return "Free Software Foundation" in said


def options_of(source: str, options: dict[str, Any], gcc: bool) -> dict[str, Any]:
    flags = options.get("extra_postargs") or []
    if "-O3" not in flags:
        return options
    if source.endswith("_base.c") and platform.machine() in ("x86_64", "AMD64"):
        flags = [*flags, *BASE]
    elif Path(source).stem in LONG_CALLS:
        flags = [*flags, "-Os"]
    elif gcc:
        flags = [*flags, *LEAN, *([] if Path(source).stem.startswith("isa_dense") else ["-falign-loops=1"])]
    return {**options, "extra_postargs": flags}


class ParallelBuild(build_ext):
    """Compiles the extension's files side by side: most of an installation's time, on as many cores as there are."""

    def build_extension(self, ext: Extension) -> None:
        one_by_one, gcc = self.compiler.compile, is_gcc(self.compiler.compiler_so[:1])

        def side_by_side(sources: Sequence[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                made = pool.map(lambda source: one_by_one([source], **options_of(source, options, gcc)), sources)
                return [objects[0] for objects in made]

        self.compiler.compile = side_by_side
        super().build_extension(ext)


# One extension serves every Python from 3.10 on: cffi builds it against the limited API, and the wheel's tag says so.
setup(
    cffi_modules=["native/build.py:ffibuilder"],
    cmdclass={"build_ext": ParallelBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
