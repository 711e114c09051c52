"""Writes the two stubs that type checkers need, because what they describe is made from the table when the library is imported:
`tensorlib/methods.pyi`, the methods that operations install on Tensor and on RowMethods, and `tensorlib/__init__.pyi`, the public names.

    python -m tests.stubs        after an operation came, went, or changed its signature; tests/test_stubs.py tells
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import tensorlib as tl
from tensorlib.ops.table import TABLE
from tests.sources import ROOT

METHODS = ROOT / "tensorlib" / "methods.pyi"
NAMES = ROOT / "tensorlib" / "__init__.pyi"
HEAD = "# Written by `python -m tests.stubs`: do not edit.\n"
BUILTINS = "bool|bytes|complex|dict|float|frozenset|int|list|object|set|slice|str|tuple|type"
COMPARISONS = ("__eq__", "__ne__")  # which Python declares with bool


def annotation(text: Any, default: str = "Any") -> str:
    """As the source has it, with builtins spelt out: `int`, `float`, `bool` ... are also names of methods."""
    if text is inspect.Parameter.empty:
        return default
    words = text if isinstance(text, str) else getattr(text, "__name__", str(text))
    return re.sub(rf"\b(?<!\.)({BUILTINS})\b", r"builtins.\1", words.strip("'\""))


def parameters(function: Callable[..., Any]) -> str:
    """The parameter list after `self`, defaults as `...`."""
    given = list(inspect.signature(function).parameters.values())[1:]
    made, star = [], False
    for p in given:
        if p.kind is p.KEYWORD_ONLY and not star:
            made.append("*")
            star = True
        prefix = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        star = star or prefix == "*"
        made.append(f"{prefix}{p.name}: {annotation(p.annotation)}{'' if p.default is p.empty else ' = ...'}")
    return ", ".join(["self", *made])


def returned(name: str, function: Callable[..., Any]) -> str:
    """What a method returns. The closures that elementwise entries make do not say: a Tensor."""
    said = annotation(inspect.signature(function).return_annotation)
    entry = TABLE.get(name.rstrip("_"))
    elementwise = entry is not None and entry.kind == "elementwise" and said == "Any"
    return "Tensor" if elementwise or (name.startswith("__") and name != "__setitem__") else said


def method(name: str, value: Any) -> str:
    if isinstance(value, property):
        return (
            f"    @property\n    def {name}(self) -> {annotation(inspect.signature(value.fget).return_annotation)}: ..."  # type: ignore[arg-type]
        )
    source = getattr(tl, name[:-1], value) if name.endswith("_") and not name.startswith("__") else value
    source = source if callable(source) and not inspect.isclass(source) else value
    if name in COMPARISONS:
        return f"    def {name}(self, other: object) -> Tensor: ...  # type: ignore[override]"
    result = "None" if name == "__setitem__" else "Tensor" if source is not value else returned(name, value)
    return f"    def {name}({parameters(source)}) -> {result}: ..."


def installed() -> Iterator[tuple[str, Any]]:
    """What Tensor has beyond its own class body."""
    for name, value in sorted(vars(tl.Tensor).items()):
        function = value.fget if isinstance(value, property) else value
        if inspect.isfunction(function) and function.__module__ != "tensorlib.tensor":
            yield name, value


def of_rows() -> str:
    """The methods of `tl.RowMethods` that the table gives it: as Tensor's, but rows come where tensors do."""
    made = []
    for name, value in sorted(vars(tl.RowMethods).items()):
        if inspect.isfunction(value) and value.__module__ != tl.RowMethods.__module__:
            more = "other: object" if name in COMPARISONS else "*args: Any, **kwargs: Any"
            made.append(f"    def {name}(self, {more}) -> Any: ...")
    return "\n".join(made)


def methods_stub() -> str:
    body = "\n".join(method(name, value) for name, value in installed())
    aliases = (
        "Scalar = builtins.bool | builtins.int | builtins.float\nDims = builtins.int | Sequence[builtins.int] | None\n"
    )
    known = {
        "Any": "typing",
        "Sequence": "collections.abc",
        "Callable": "collections.abc",
        "Generator": "tensorlib.random",
    }
    known |= {"DType": "tensorlib.dtypes", "Device": "tensorlib.device", "Tensor": "tensorlib.tensor"}
    unknown = set()
    # Whatever else annotations speak of: a class from where it is defined, an alias as Any.
    for _, value in installed():
        function = value.fget if isinstance(value, property) else value
        for word in re.findall(r"(?<![\w.])[A-Z]\w+", str(inspect.signature(function))):
            if word not in {*known, "Scalar", "Dims", "None", "True", "False"}:
                meant = function.__globals__.get(word)
                if inspect.isclass(meant):
                    known[word] = meant.__module__
                else:
                    unknown.add(word)
    aliases += "".join(f"{word} = Any\n" for word in sorted(unknown))
    imports = "".join(
        f"from {module} import {name}\n" for name, module in sorted(known.items(), key=lambda item: item[::-1])
    )
    return f"{HEAD}import builtins\n{imports}\n{aliases}\nclass Methods:\n{body}\n\nclass ByRows:\n{of_rows()}\n"


def home(name: str, value: Any) -> str | None:
    """The module a public name can be imported from under that name."""
    for module in (getattr(value, "__module__", None), *(m.__name__ for m in SOURCES)):
        if module and module != "tensorlib" and vars(__import__(module, fromlist=["_"])).get(name, ...) is value:
            return str(module)
    return None


SOURCES = (tl.dtypes, tl.errors, tl.random, tl.ops)


def names_stub() -> str:
    imports, declared, modules = [], [], []
    for name in sorted(set(tl.__all__)):
        value = getattr(tl, name)
        value = inspect.unwrap(value) if inspect.isfunction(value) else value  # as its module defines it
        if isinstance(value, ModuleType):
            modules.append(name)
        elif (module := home(name, value)) is not None:
            imports.append(f"from {module} import {name} as {name}")
        elif inspect.isclass(value):
            imports.append(f"from {value.__module__} import {value.__name__} as {name}")
        elif inspect.isfunction(value):
            declared.append(
                f"def {name}({', '.join(f'{p}: Any' for p in inspect.signature(value).parameters)}) -> Any: ..."
            )
        else:
            declared.append(f"{name}: {annotation(type(value)) if value is not None else None}")
    gathered = "from tensorlib import " + ", ".join(f"{m} as {m}" for m in modules)
    listed = "__all__ = [\n" + "".join(f'    "{name}",\n' for name in sorted(set(tl.__all__))) + "]"
    head = f"{HEAD}import builtins\nfrom typing import Any\n"
    return "\n".join([head, gathered, *sorted(imports), "", "__version__: str", *declared, "", listed, ""])


def main() -> None:
    METHODS.write_text(methods_stub())
    NAMES.write_text(names_stub())
    print(f"wrote {METHODS.name} and {NAMES.name}")


if __name__ == "__main__":
    main()
