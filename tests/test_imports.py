"""Imports point one way, cost little, and work from wherever and however the library is installed (DESIGN.md, section 2)."""

from __future__ import annotations

import ast
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorlib as tl
from tests.sources import ROOT, attempt, build_wheel, copy_of_sources, run

# Lower layers first; a module imports from its own layer or lower ones. The longest prefix that fits decides.
LAYERS = [
    ["tensorlib.errors", "tensorlib.dtypes", "tensorlib.device"],
    [
        "tensorlib.native",
        "tensorlib.status",
        "tensorlib.lines",
        "tensorlib.memory",
        "tensorlib.threads",
        "tensorlib.backends",
    ],
    ["tensorlib.ops.table", "tensorlib.ops.rules", "tensorlib.tensor"],
    ["tensorlib.ops", "tensorlib.gpu", "tensorlib.fused", "tensorlib.display", "tensorlib.sparse"],
    [
        "tensorlib.amp",
        "tensorlib.autograd",
        "tensorlib.cuda",
        "tensorlib.random",
        "tensorlib.io",
        "tensorlib.data",
        "tensorlib.utils",
    ],
    ["tensorlib.nn", "tensorlib.optim", "tensorlib.distributed", "tensorlib.func"],
]
# The only calls upwards, each from inside a function: a Tensor's own methods that are written with operations, the words of an error,
# and the default generator, whose state dropout draws from.
UPCALLS = {
    ("tensorlib.backends.copies", "tensorlib.gpu.capture"),
    ("tensorlib.backends.cuda", "tensorlib.gpu.capture"),
    ("tensorlib.ops.fused", "tensorlib.random"),
    ("tensorlib.status", "tensorlib.ops.table"),
    ("tensorlib.tensor", "tensorlib.autograd.modes"),
    ("tensorlib.tensor", "tensorlib.autograd.node"),
    ("tensorlib.tensor", "tensorlib.display"),
    ("tensorlib.tensor", "tensorlib.ops.creation"),
    ("tensorlib.tensor", "tensorlib.ops.shape"),
}
LAYER_OF = {prefix: level for level, prefixes in enumerate(LAYERS) for prefix in prefixes}
MAPPED = ("nn", "optim", "distributed")  # top-level folders that are sub-packages, and use only what is public
HEAVY = {"cupy", "matplotlib", "mpi4py", "pandas", "scipy", "sklearn", "torch", "tqdm"}


def sources() -> Iterator[tuple[str, Path]]:
    """(module name, file) of every Python file of the library."""
    for package, folder in [("tensorlib", "tensorlib"), *((f"tensorlib.{d}", d) for d in MAPPED)]:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path


MODULES = dict(sources())


def layer(module: str) -> int | None:
    """None: not in any layer (`tensorlib` itself, which gathers the public names)."""
    fitting = [prefix for prefix in LAYER_OF if module == prefix or module.startswith(prefix + ".")]
    return LAYER_OF[max(fitting, key=len)] if fitting else None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """(line, module, names) of every import that runs, at the top or inside functions."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: None if is_package else -1]
            prefix = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*prefix, *(node.module or "").split(".")]).strip(".")
            yield node.lineno, source, tuple(alias.name for alias in node.names)
        else:
            yield from imports(node, module, is_package)


def imported_modules(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """(line, module of the library) pairs; `from package import module` counts as the module."""
    for line, source, names in imports(ast.parse(path.read_text()), module, path.name == "__init__.py"):
        whole = [f"{source}.{name}" for name in names]
        found = [name for name in whole if name in MODULES]
        for target in found if len(found) == len(names) > 0 else [source, *found]:
            if target.split(".")[0] == "tensorlib":
                yield line, target


def at_the_top(path: Path) -> set[int]:
    """Lines of imports that run when the module does."""
    tree = ast.parse(path.read_text())
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    return {n.lineno for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and id(n) not in inside}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_one_way(module: str) -> None:
    own = layer(module)
    if module == "tensorlib":
        return
    assert own is not None, f"{module} is in no layer: place it in LAYERS"
    for line, target in imported_modules(MODULES[module], module):
        other = layer(target)
        if target == "tensorlib":
            assert own == len(LAYERS) - 1, f"{module}:{line}: only the top layer imports `tensorlib` itself"
        elif (module, target) not in UPCALLS or line in at_the_top(MODULES[module]):
            assert other is not None and other <= own, f"{module}:{line} imports {target}, which lies above it"


TOP = [m for m in MODULES if m.split(".")[1:2] and m.split(".")[1] in MAPPED]


@pytest.mark.parametrize("module", TOP, ids=str)
def test_the_top_layer_uses_only_public_names(module: str) -> None:
    own = ".".join(module.split(".")[:2])
    tree = ast.parse(MODULES[module].read_text())
    for line, source, names in imports(tree, module, MODULES[module].name == "__init__.py"):
        if source == "tensorlib":
            private = [n for n in names if n.startswith("_") or not hasattr(tl, n)]
            assert not private, f"{module}:{line}: {private} are not public names of tensorlib"
        elif source.split(".")[0] == "tensorlib":
            allowed = (own, *(f"tensorlib.{d}" for d in MAPPED), "tensorlib.errors")
            assert source.startswith(allowed), f"{module}:{line} imports {source}: only `tl.*` is for this layer"
    hidden = {n for n in dir(tl.Tensor) if n.startswith("_") and not n.startswith("__")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of_tl = isinstance(node.value, ast.Name) and node.value.id == "tl" and node.attr.startswith("_")
            assert not of_tl and node.attr not in hidden, (
                f"{module}:{node.lineno}: `.{node.attr}` is private to the core"
            )


def test_import_brings_nothing_heavy(tmp_path: Path) -> None:
    loaded = run(sys.executable, "-c", "import sys, tensorlib; print(*sys.modules)", cwd=tmp_path).split()
    assert not HEAVY & {name.split(".")[0] for name in loaded}


@pytest.mark.parametrize("folder", [d for d in MAPPED if (ROOT / d / "__init__.py").exists()])
def test_a_bare_import_of_a_mapped_folder_explains_itself(folder: str) -> None:
    code = f"try:\n    import {folder}\nexcept ImportError as error:\n    print(error)\nelse:\n    print('it loaded')"
    assert f"tensorlib.{folder}" in run(sys.executable, "-c", code, cwd=ROOT)


@pytest.mark.parametrize("folder", [d for d in MAPPED if (ROOT / d / "__init__.py").exists()])
def test_every_package_is_listed(folder: str) -> None:
    config = (ROOT / "pyproject.toml").read_text()
    packages = {f"tensorlib.{folder}"}
    for base, prefix in ((ROOT / "tensorlib", "tensorlib"), (ROOT / folder, f"tensorlib.{folder}")):
        packages |= {".".join((prefix, *p.parent.relative_to(base).parts)) for p in base.rglob("__init__.py")}
    assert not {name for name in packages if f'"{name}"' not in config}


# ---- slow: build it, install it, use it from elsewhere ----

USE = """
import tensorlib as tl, tensorlib.native
x = tl.tensor([[1.0, 2.0]], requires_grad=True)
tl.nn.Linear(2, 3)(x).sum().backward()
tl.optim.SGD([x], lr=0.1).step()
print(tl.__file__, tl.nn.__file__, tl.native.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_a_wheel_holds_what_is_needed_and_no_more(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        entries = {i.filename: i.file_size for i in archive.infolist()}
    suffixes = {Path(n).suffix for n in entries if ".dist-info/" not in n}
    assert suffixes <= {".cu", ".cuh", ".def", ".h", ".py", ".pyi", ".so", ".typed"}
    assert {"tensorlib/py.typed", "tensorlib/nn/__init__.py", "tensorlib/native/_kernels.abi3.so"} <= entries.keys()
    assert {n.split("/")[0].split("-")[0] for n in entries} == {"tensorlib"}
    assert sum(entries.values()) <= 5e6


@pytest.mark.slow
def test_a_wheel_works_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    used = run(sys.executable, "-c", USE, cwd=tmp_path, env={"PYTHONPATH": str(site)}).split()
    assert [Path(f).is_relative_to(site) for f in used] == [True] * 3


@pytest.mark.slow
def test_an_editable_install_works_from_elsewhere(tmp_path: Path) -> None:
    source, venv = copy_of_sources(tmp_path / "source"), tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=tmp_path)
    run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", "-e", source, cwd=tmp_path)
    used = run(venv / "bin" / "python", "-c", USE, cwd=tmp_path).split()
    assert [Path(f).is_relative_to(source) for f in used] == [True] * 3
    assert Path(used[1]) == source / "nn" / "__init__.py"


@pytest.mark.slow
def test_a_source_distribution_can_be_built_from(tmp_path: Path) -> None:
    source = copy_of_sources(tmp_path / "source")
    code = f"import setuptools.build_meta as b; print(b.build_sdist({str(tmp_path)!r}))"
    name = run(sys.executable, "-c", code, cwd=source).split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        members = {"/".join(Path(m.name).parts[1:]) for m in archive.getmembers() if m.isfile()}
    native = {str(p.relative_to(ROOT)) for p in (ROOT / "native").iterdir() if p.suffix in {".c", ".h", ".def", ".py"}}
    needed = native - {"native/_kernels.c"} | {str(p.relative_to(ROOT)) for p in MODULES.values()}
    assert needed | {"LICENSE", "README.md", "setup.py", "tensorlib/py.typed"} <= members
    assert not [m for m in members if m.endswith((".so", ".o"))]


@pytest.mark.slow
def test_no_compiler_is_said_clearly(tmp_path: Path) -> None:
    source, tools = copy_of_sources(tmp_path / "source"), tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "uname"):  # distutils and platform may ask for these
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    done = attempt(sys.executable, "setup.py", "build_ext", cwd=source, env={"PATH": str(tools)})
    assert done.returncode != 0
    assert "C compiler" in done.stderr
