"""Modules that hold modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

import tensorlib as tl
from tensorlib.nn.module import Module, modules_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


class _Listed(Module):
    """Submodules named "0", "1", ...: what Sequential and ModuleList share."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._modules.values()))  # type: ignore[arg-type]

    def _name(self, index: int) -> str:
        n = len(self)
        if not -n <= index < n:
            raise tl.IndexRangeError(f"{type(self).__name__}: index {index} is out of range for {n} modules.")
        return list(self._modules)[index]

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> _Listed: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._part(list(self._modules.items())[index])
        return self._modules[self._name(index)]

    def _part(self, items: list[tuple[str, Any]]) -> _Listed:
        part = type(self).__new__(type(self))
        part._refill([module for _, module in items])
        return part

    def __setitem__(self, index: int, module: Module) -> None:
        self.register_module(self._name(index), module)

    def __delitem__(self, index: int | slice) -> None:
        kept = list(self)
        del kept[index]
        self._refill(kept)

    def _refill(self, modules: list[Module]) -> None:
        for name in list(self._modules):
            delattr(self, name)
        for i, module in enumerate(modules):
            self.register_module(str(i), module)

    def pop(self, index: int) -> Module:
        """Remove a module and return it."""
        module = self[index]
        del self[index]
        return module

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.register_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add several modules at the end."""
        for module in modules_of(modules, f"{type(self).__name__}.extend"):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Add a module before `index`; the names behind it move up."""
        modules = list(self)
        modules.insert(index, *modules_of([module], f"{type(self).__name__}.insert"))
        self._refill(modules)
        return self


class Sequential(_Listed):
    """Modules applied one after another; takes modules, or one mapping of names to modules.

    >>> net = tl.nn.Sequential(tl.nn.Linear(2, 3), tl.nn.Tanh())
    >>> net(tl.zeros(5, 2)).shape, len(net)
    ((5, 3), 2)
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.register_module(name, module)
        else:
            self._refill(modules_of(modules, "Sequential"))

    def forward(self, input: Any) -> Any:
        for module in self._modules.values():
            input = module(input)  # type: ignore[misc]
        return input

    def _part(self, items: list[tuple[str, Any]]) -> Sequential:
        return type(self)(dict(items))  # a slice keeps the names, as in PyTorch

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else [self._name(index)]:
            delattr(self, name)
        if all(name.isdigit() for name in names):
            self._refill(list(self))

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *_sequential(other))

    def __iadd__(self, other: Sequential) -> Self:
        return self.extend(_sequential(other))

    def __mul__(self, times: int) -> Sequential:
        if not isinstance(times, int) or times < 1:
            raise ValueError(f"Sequential: it can be repeated a positive number of times, got {times!r}.")
        return Sequential(*list(self) * times)

    __rmul__ = __mul__

    def __imul__(self, times: int) -> Self:
        return self.extend(list(self * times)[len(self) :])


def _sequential(other: Any) -> Sequential:
    if not isinstance(other, Sequential):
        raise ValueError(f"Sequential: only another Sequential can be added, got {type(other).__name__}.")
    return other


class ModuleList(_Listed):
    """A list of modules whose parameters count as the holder's; it has no forward of its own.

    >>> layers = tl.nn.ModuleList(tl.nn.Linear(4, 4) for _ in range(3))
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    _collapses = True

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self._refill(modules_of(modules or (), "ModuleList"))

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __iadd__(self, other: Iterable[Module]) -> Self:
        return self.extend(other)


class ModuleDict(Module):
    """Modules by name, in the order they were entered.

    >>> heads = tl.nn.ModuleDict({"class": tl.nn.Linear(4, 10), "box": tl.nn.Linear(4, 2)})
    >>> list(heads), heads["box"](tl.zeros(4)).shape
    (['class', 'box'], (2,))
    """

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]  # type: ignore[return-value]

    def __setitem__(self, key: str, module: Module) -> None:
        if key in self._modules:
            self._enter("_modules", key, *modules_of([module], "ModuleDict"))
        else:
            self.register_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self._modules:
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return self._modules.values()  # type: ignore[return-value]

    def items(self) -> Iterable[tuple[str, Module]]:
        """The names with their modules."""
        return self._modules.items()  # type: ignore[return-value]

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Enter several modules, replacing those of the same name."""
        for name, module in dict(modules).items():
            self[name] = module

    def pop(self, key: str) -> Module:
        """Remove a module and return it."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Remove all modules."""
        for key in list(self):
            del self[key]
