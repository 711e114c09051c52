"""Every other file of this folder, under mpirun with 2, 3 and 4 ranks: one job per number of ranks, one test per file."""

from __future__ import annotations

import functools
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.distributed.launching import Environment, mpirun, with_open_mpi

HERE = Path(__file__).parent
# test_launched.py and tests that start jobs of their own (test_faults*.py, test_run*.py) stay out.
FILES = [
    path
    for path in sorted(HERE.glob("test_*.py"))
    if not path.stem.startswith(("test_launched", "test_faults", "test_run"))
]


@functools.cache
def results(ranks: int, where: Environment = Environment()) -> tuple[dict[str, int], str]:  # noqa: B008  (frozen)
    """(how many tests of each file passed on rank 0, what the job said)."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"PYTHONPATH": "", **dict(where.env)}
        record = Path(folder, "results.xml")
        options = ("-q", "--color=no", "-p", "no:cacheprovider", f"--junitxml={record}")
        job = mpirun(ranks, HERE / "rank.py", *options, *FILES, env=env, python=where.python, timeout=60 * ranks)
        passed: dict[str, int] = {}
        if job.returncode == 0 and record.exists():
            for case in ET.parse(record).iter("testcase"):
                if not len(case):
                    name = case.get("classname", "").split(".")[2]
                    passed[name] = passed.get(name, 0) + 1
    return passed, f"status {job.returncode}: {job.stdout}"


@pytest.mark.parametrize("ranks", [2, 3, 4], ids="{} ranks".format)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file(path: Path, ranks: int) -> None:
    passed, said = results(ranks)
    assert passed.get(path.stem, 0) > 0, said[-20000:]


@pytest.fixture(scope="module")
def open_mpi(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return with_open_mpi(tmp_path_factory.mktemp("open_mpi"))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4], ids="{} ranks".format)
def test_every_file_with_open_mpi(ranks: int, open_mpi: Environment) -> None:
    passed, said = results(ranks, open_mpi)
    assert passed.keys() == {path.stem for path in FILES}, said[-20000:]
