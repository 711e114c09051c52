"""The public functions as users call them: an argument that should be a Tensor and is not gets named, instead of missing an attribute deep inside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tensorlib.errors import DTypeError, MemoryLimitError
from tensorlib.tensor import Tensor

__all__: list[str] = []


@functools.cache
def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with that error. Elementwise operations check their operands themselves."""
    if hasattr(function, "op") or isinstance(function, type):
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except MemoryError as error:
            if isinstance(error, MemoryLimitError):
                raise
            raise MemoryLimitError(f"{function.__name__}: could not allocate ({error}).") from None  # NumPy's
        except AttributeError as error:
            foreign, attribute = error.obj, error.name or ""
            culprit = None if isinstance(foreign, Tensor) else _culprit(foreign, attribute, (*args, *kwargs.values()))
            if culprit is None:
                raise
            raise DTypeError(f"{function.__name__}: got a {culprit.__name__}, expected a Tensor.") from None

    call.__module__ = "tensorlib"  # where it is public: pickle looks there
    return call


def _culprit(foreign: Any, attribute: str, values: Any) -> type | None:
    """The type of the argument that lacks a Tensor's attribute itself, or (NumPy's have many of the same names) in what came of it."""
    from_numpy = type(foreign).__module__.startswith("numpy")
    for v in values:
        if (type(v) is type(foreign) and hasattr(Tensor, attribute)) or (
            from_numpy and type(v).__module__.startswith("numpy")
        ):
            return type(v)
        found = _culprit(foreign, attribute, v) if isinstance(v, (list, tuple)) else None
        if found is not None:
            return found
    return None
