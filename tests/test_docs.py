"""What the documentation says is true: every example runs, every public name is explained."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tests.sources import ROOT

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PACKAGES = (
    "tensorlib", "tensorlib.autograd", "tensorlib.backends", "tensorlib.cuda", "tensorlib.data", "tensorlib.distributed", "tensorlib.io",
    "tensorlib.nn", "tensorlib.ops", "tensorlib.optim",
)  # fmt: skip


def modules() -> Iterator[str]:
    for name in PACKAGES:
        yield name
        for found in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            if name != "tensorlib" or not found.ispkg:
                yield found.name


def globs() -> dict[str, object]:
    return {"tl": tl, "np": np, "__name__": "__main__"}


def examples() -> list[doctest.DocTest]:
    """Every docstring with an example in it, whether written on the object or declared in the table, once."""
    finder, found = doctest.DocTestFinder(exclude_empty=True), {}
    for name in dict.fromkeys(modules()):
        for test in finder.find(importlib.import_module(name), name, globs=globs()):
            if test.examples:
                found.setdefault(test.docstring, test)
    for name, value in vars(
        tl
    ).items():  # functions that the table makes do not belong to the module that DocTestFinder looks at
        if callable(value) and not name.startswith("_") and (doc := inspect.getdoc(value)):
            test = doctest.DocTestParser().get_doctest(doc, globs(), f"tensorlib.{name}", None, 0)
            if test.examples and not any(known.name.endswith(f".{name}") for known in found.values()):
                found.setdefault(doc, test)
    return list(found.values())


def check(test: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("test", examples(), ids=lambda test: test.name)
def test_examples_in_docstrings(test: doctest.DocTest) -> None:
    check(test)


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(fenced("python"))))
def test_snippets_of_the_readme(number: int) -> None:
    """Each snippet stands alone, apart from `import tensorlib as tl`."""
    test = doctest.DocTestParser().get_doctest(fenced("python")[number], globs(), f"README snippet {number}", None, 0)
    assert test.examples, "a snippet without >>> is not tested"
    check(test)


def program_of_the_readme(sign: str) -> dict[str, Any]:
    """What the program under "From PyTorch" leaves behind, with the lines marked by `sign` and those of both sides."""
    (difference,) = fenced("diff")
    lines = [line[1:] for line in difference.splitlines() if line[:1] in ("", " ", sign)]
    names: dict[str, Any] = {}
    exec(compile("\n".join(lines), f"README, {sign} side", "exec"), names)
    return names


def test_the_program_of_the_readme_learns(capsys: pytest.CaptureFixture[str]) -> None:
    assert program_of_the_readme("+")["error"] < 0.01  # of a variance of 0.24
    assert "mean squared error 0.00" in capsys.readouterr().out


def test_only_imports_differ_in_the_program_of_the_readme() -> None:
    changed = [line for line in fenced("diff")[0].splitlines() if line[:1] in ("+", "-")]
    assert len(changed) == 4 and all(re.match(r"[+-](import|from) ", line) for line in changed)


def test_the_readme_names_the_two_commands() -> None:
    """.ci/run takes them from there."""
    assert fenced("sh")[0].splitlines() == [
        "pip install -e '.[examples]' && python examples/digits.py",
        "pip install -e '.[test]' && pytest",
    ]


EXPLAINED = (
    "tensorlib", "tensorlib.autograd", "tensorlib.data", "tensorlib.distributed", "tensorlib.io", "tensorlib.nn", "tensorlib.nn.decoding",
    "tensorlib.nn.functional", "tensorlib.nn.utils.rnn", "tensorlib.optim", "tensorlib.optim.lr_scheduler", "tensorlib.optim.swa_utils",
)  # fmt: skip
NAMES = [f"{package}.{name}" for package in EXPLAINED for name in importlib.import_module(package).__all__]


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_explained(name: str) -> None:
    package, own = name.rsplit(".", 1)
    value = getattr(importlib.import_module(package), own)
    if inspect.isclass(value) or inspect.isroutine(value):
        doc = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
        assert doc and doc.strip(), f"{name} has no docstring"
