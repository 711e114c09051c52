"""Hooks around a module's forward pass; a module without any never comes here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_keys = count()


class RemovableHandle:
    """Returned by ``register_*_hook``: `remove()` takes the hook away again; as a context manager it does so at the end."""

    def __init__(self, hooks: dict[int, Any], key: int) -> None:
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        self._hooks.pop(self._key, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class HookList(dict[int, tuple[Callable[..., Any], bool]]):
    """Hooks in the order they run, each with whether it takes the keyword arguments."""

    def add(self, hook: Callable[..., Any], prepend: bool, with_kwargs: bool) -> RemovableHandle:
        key = next(_keys)
        others = list(self.items()) if prepend else []
        if prepend:
            self.clear()
        self[key] = (hook, with_kwargs)
        self.update(others)
        return RemovableHandle(self, key)


class Hooks:
    """The hooks of one module."""

    def __init__(self) -> None:
        self.before, self.after = HookList(), HookList()

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """forward between its hooks; each sees what the one before it made of the arguments or the output."""
        for hook, with_kwargs in list(self.before.values()):
            replaced = hook(module, args, kwargs) if with_kwargs else hook(module, args)
            if replaced is None:
                continue
            if with_kwargs:
                if not (isinstance(replaced, tuple) and len(replaced) == 2):
                    raise TypeError(
                        f"forward pre-hook with kwargs: expected None or a pair (args, kwargs), got {type(replaced).__name__}."
                    )
                args, kwargs = replaced
            else:
                args = replaced if isinstance(replaced, tuple) else (replaced,)
        out = module.forward(*args, **kwargs)
        for hook, with_kwargs in list(self.after.values()):
            replaced = hook(module, args, kwargs, out) if with_kwargs else hook(module, args, out)
            out = out if replaced is None else replaced
        return out
