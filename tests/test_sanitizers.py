"""The tests of operations and of the C core once more, on kernels built with AddressSanitizer and UndefinedBehaviourSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sources import ROOT, build_wheel, run

# Behind the first two, what leads kernels through lengths and orders of use that samples do not have.
TESTS = (
    *("tests/ops", "tests/native", "tests/optim"),
    *(f"tests/autograd/test_{name}.py" for name in ("deferred", "grad_place", "sparse")),
    *(f"tests/nn/test_{name}.py" for name in ("crf", "ctc", "recurrent", "trees")),
)
EVERY_CASE_EVERYWHERE = (
    "tests/ops/test_isa.py::test_agrees_with_base"  # any of these computes all, on each instruction set
)
MINUTES = 40
COMPILER = shutil.which("gcc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMPILER, reason="the sanitizers' runtime is located through gcc"),
]


def runtime(name: str) -> str:
    found = subprocess.run(
        [str(COMPILER), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"gcc has no {name}")
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, sanitized, with the tests beside it."""
    folder = tmp_path_factory.mktemp("sanitized")
    wheel = build_wheel(folder, env={"TENSORLIB_SANITIZE": "1", "CC": "gcc"})
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    shutil.copytree(ROOT / "tests", folder / "site" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder / "site")
    (folder / "site" / "native").mkdir()
    shutil.copy(
        ROOT / "native" / "elementwise.def", folder / "site" / "native"
    )  # which states the accuracy that tests check
    return folder / "site"


def environment(site: Path) -> dict[str, str]:
    return {
        "LD_PRELOAD": runtime("libasan.so"),
        # Python itself leaks by design; allocations that fail must come back as NULL, as they do without the sanitizer.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=0:exitcode=99",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=99",
        "PYTHONPATH": str(site),
        "TENSORLIB_NUM_THREADS": "2",
    }


def test_the_build_is_sanitized(site: Path) -> None:
    used = run(sys.executable, "-c", "import tensorlib.native as n; print(n.__file__)", cwd=site, env=environment(site))
    assert Path(used.strip()).is_relative_to(site)
    (extension,) = (site / "tensorlib" / "native").glob("*.so")
    assert b"__asan_init" in extension.read_bytes()


@pytest.fixture(scope="module")
def parts(site: Path) -> Iterator[dict[str, Future[str]]]:
    """The runs of `TESTS`, each of them on one of the instruction sets that this CPU has; as many at a time as there are cores."""
    code = "from tensorlib.native import ffi, lib; print(ffi.string(lib.tl_isa_available()).decode())"
    available = run(sys.executable, "-c", code, cwd=site, env=environment(site)).strip().split(",")

    def part(number: int, isa: str) -> str:
        settings = {"TENSORLIB_ISA": isa, "TENSORLIB_TEST_PART": f"{number}/{len(available)}"}
        if number == 0:  # sees what runs over small objects of Python's as well, and takes 1.6 times as long
            settings["PYTHONMALLOC"] = "malloc"
        once = number == len(available) - 1
        return run(
            *(sys.executable, "-m", "pytest", "-q", "--maxfail=5", "-p", "no:cacheprovider", *TESTS),
            *(() if once else ("--deselect", EVERY_CASE_EVERYWHERE)),
            cwd=site,
            env={**environment(site), **settings},
            timeout=60 * MINUTES,
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {isa: pool.submit(part, number, isa) for number, isa in enumerate(available)}


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_operations_are_clean(parts: dict[str, Future[str]], isa: str) -> None:
    if isa not in parts:
        pytest.skip(f"this CPU has {', '.join(parts)}")
    parts[isa].result()
