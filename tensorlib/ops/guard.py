"""The public functions as users call them: an argument that should be a Tensor and is not gets named, instead of missing an attribute deep inside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tensorlib.errors import DTypeError
from tensorlib.tensor import Tensor

__all__: list[str] = []


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with that error. Elementwise operations check their operands themselves."""
    if hasattr(function, "op") or isinstance(function, type):
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except AttributeError as error:
            foreign, attribute = error.obj, error.name or ""
            if (
                isinstance(foreign, Tensor)
                or not hasattr(Tensor, attribute)
                or not _holds(type(foreign), (*args, *kwargs.values()))
            ):
                raise
            raise DTypeError(f"{function.__name__}: got a {type(foreign).__name__}, expected a Tensor.") from None

    return call


def _holds(kind: type, values: Any) -> bool:
    return any(type(v) is kind or (isinstance(v, (list, tuple)) and _holds(kind, v)) for v in values)
