"""Modules that hold parameters, and values that go with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ParameterDict", "ParameterList"]


def _held(value: Any) -> Any:
    """Tensors become parameters; anything else stays what it is."""
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


class ParameterList(Module):
    """A list of parameters, which count as the holder's. Tensors become parameters; other values are held, but belong to no state.

    >>> terms = tl.nn.ParameterList([tl.ones(2), tl.zeros(2, 3)])
    >>> len(terms), terms[-1].shape, list(terms.state_dict())
    (2, (2, 3), ['0', '1'])
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        self.extend(values or ())

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, str(i)) for i in range(self._size)])

    def _name(self, index: int) -> str:
        if not -self._size <= index < self._size:
            raise tl.IndexRangeError(
                f"{type(self).__name__}: index {index} is out of range for {self._size} parameters."
            )
        return str(index % self._size)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return getattr(self, self._name(index))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, self._name(index), _held(value))

    def append(self, value: Any) -> Self:
        """Add a value at the end."""
        setattr(self, str(self._size), _held(value))
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add several values at the end."""
        if isinstance(values, Tensor) or not isinstance(values, Iterable):
            raise TypeError(f"{type(self).__name__}: expected a list of values, got {type(values).__name__}.")
        for value in list(values):
            self.append(value)
        return self

    __iadd__ = extend

    def extra_repr(self) -> str:
        return f"{self._size} values"


class ParameterDict(Module):
    """Parameters by name, in the order they were entered. Tensors become parameters; other values are held, but belong to no state.

    >>> gains = tl.nn.ParameterDict({"left": tl.ones(2), "right": tl.ones(3)})
    >>> list(gains), gains["right"].shape, list(gains.state_dict())
    (['left', 'right'], (3,), ['left', 'right'])
    """

    def __init__(self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None) -> None:
        super().__init__()
        self._names: dict[str, None] = {}
        self.update(parameters or {})

    def __getitem__(self, key: str) -> Any:
        if key not in self._names:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"ParameterDict: a key must be a string, got {type(key).__name__}.")
        if key not in self._names:
            self._check_name("ParameterDict", key)
        self._names[key] = None
        setattr(self, key, _held(value))

    def __delitem__(self, key: str) -> None:
        del self._names[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._names)

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def __or__(self, other: Mapping[str, Any]) -> ParameterDict:
        return self.copy().update(other)

    def __ror__(self, other: Mapping[str, Any]) -> ParameterDict:
        return ParameterDict(other).update(self)

    def __ior__(self, other: Mapping[str, Any]) -> Self:
        return self.update(other)

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._names.keys()

    def values(self) -> Iterable[Any]:
        """The values."""
        return [getattr(self, key) for key in self._names]

    def items(self) -> Iterable[tuple[str, Any]]:
        """The names with their values."""
        return [(key, getattr(self, key)) for key in self._names]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of that name, or `default`."""
        return getattr(self, key) if key in self._names else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of that name, which is `default` if there was none."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Remove a value and return it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove the value entered last and return it with its name."""
        if not self._names:
            raise KeyError("ParameterDict: there is nothing to remove.")
        key = next(reversed(self._names))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove all values."""
        for key in list(self):
            del self[key]

    def copy(self) -> ParameterDict:
        """Another dict of the same parameters."""
        return ParameterDict(self.items())

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new dict in which every name has the value `default`."""
        return ParameterDict((key, default) for key in keys)

    def update(self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]] | ParameterDict) -> Self:
        """Enter several values, replacing those of the same name."""
        pairs = parameters.items() if isinstance(parameters, (Mapping, ParameterDict)) else parameters
        for key, value in list(pairs):
            self[key] = value
        return self

    def extra_repr(self) -> str:
        return ", ".join(self._names)
