import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def options_of(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """Beside AVX2 and AVX-512 the base kernels are for processors from before 2013: there, small beats fast (0.3 MB of 5)."""
    flags = options.get("extra_postargs") or []
    small = source.endswith("_base.c") and platform.machine() in ("x86_64", "AMD64") and "-O3" in flags
    return {**options, "extra_postargs": [*flags, "-Os"]} if small else options


class ParallelBuild(build_ext):
    """Compiles the extension's files side by side: most of an installation's time, on as many cores as there are."""

    def build_extension(self, ext: Extension) -> None:
        one_by_one = self.compiler.compile

        def side_by_side(sources: Sequence[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                made = pool.map(lambda source: one_by_one([source], **options_of(source, options)), sources)
                return [objects[0] for objects in made]

        self.compiler.compile = side_by_side
        super().build_extension(ext)


# One extension serves every Python from 3.10 on: cffi builds it against the limited API, and the wheel's tag says so.
setup(
    cffi_modules=["native/build.py:ffibuilder"],
    cmdclass={"build_ext": ParallelBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
