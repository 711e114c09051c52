"""The source tree, for tests and benchmarks that build it: always a copy, because a build in place would overwrite the extension in use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILT = shutil.ignore_patterns(".*", "build", "dist", "venv", "__pycache__", "*.egg-info", "*.so", "*.o", "_kernels.c")


def copy_of_sources(to: Path) -> Path:
    """Everything that is not built or hidden. Returns `to`."""
    return shutil.copytree(ROOT, to, ignore=BUILT)


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 600) -> str:
    """Standard output of a command; its whole output is in the AssertionError if it fails."""
    done = attempt(*command, cwd=cwd, env=env, timeout=timeout)
    said = f"{done.stdout[-20000:]}\n{done.stderr[-20000:]}"
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}"
    return done.stdout


def attempt(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """As `run`, for commands that may fail."""
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        command, cwd=cwd, env=environment, timeout=timeout, capture_output=True, text=True, check=False
    )


def build_wheel(folder: Path, env: Mapping[str, str] | None = None) -> Path:
    """Builds a wheel from a copy of the tree, as pip does: in an isolated environment."""
    source = copy_of_sources(folder / "source")
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    run(*command, cwd=folder, env=env, timeout=1800)
    (wheel,) = folder.glob("tensorlib-*.whl")
    return wheel
