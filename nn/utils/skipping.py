"""Layers without initial values."""

from __future__ import annotations

from typing import Any

from tensorlib.nn.module import Module

__all__ = ["skip_init"]


def skip_init(module_cls: type[Module], *args: Any, **kwargs: Any) -> Any:
    """A layer whose parameters are not initialized, for values that will be loaded: nothing is drawn, no memory is touched.

    It saves what the class does in `reset_parameters`.

    >>> tl.nn.utils.skip_init(tl.nn.Linear, 3, 2)
    Linear(3 -> 2)
    """
    if not (isinstance(module_cls, type) and issubclass(module_cls, Module)):
        raise RuntimeError(f"skip_init: expected a subclass of Module, got {module_cls!r}.")

    def nothing(self: Module) -> None:
        """Leave the parameters as they are."""

    bare = type(module_cls.__name__, (module_cls,), {"reset_parameters": nothing, "_reset_parameters": nothing})
    made = bare(*args, **kwargs)
    made.__class__ = module_cls
    return made
