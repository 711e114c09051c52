"""Whether operations are recorded: per thread, as context managers and decorators."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from tensorlib.native import lib

__all__ = [
    "enable_grad",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "set_grad_enabled",
]

F = TypeVar("F", bound=Callable[..., Any])


class _Mode:
    """Sets grad mode inside a ``with`` block or a decorated function, and puts back what was there."""

    grad = True

    def __init__(self) -> None:
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append((lib.tl_set_grad_enabled(self.grad), lib.tl_is_inference_mode()))

    def __exit__(self, *_: object) -> None:
        grad, inference = self._before.pop()
        lib.tl_set_grad_enabled(grad)
        lib.tl_set_inference(inference)

    def _fresh(self) -> _Mode:
        return type(self)()

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{type(self).__name__}: can not decorate a generator function; put a with block inside it."
            )

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._fresh():
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]

    def __new__(cls, *args: Any, **_: Any) -> Any:
        """As PyTorch allows: ``@no_grad`` without parentheses."""
        mode = super().__new__(cls)
        if len(args) == 1 and callable(args[0]):
            mode.__init__()  # type: ignore[misc]
            return mode(args[0])
        return mode


class no_grad(_Mode):
    """Do not record: for evaluation and for updates of parameters.

    >>> w = tl.ones(2, requires_grad=True)
    >>> with tl.no_grad():
    ...     (w * 2).requires_grad
    False
    """

    grad = False


class enable_grad(_Mode):
    """Record, also inside `no_grad`.

    >>> w = tl.ones(2, requires_grad=True)
    >>> with tl.no_grad(), tl.enable_grad():
    ...     (w * 2).requires_grad
    True
    """


class set_grad_enabled(_Mode):
    """Record or not, by a flag; also works as a plain call that lasts.

    >>> with tl.set_grad_enabled(False):
    ...     tl.is_grad_enabled()
    False
    """

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.grad = bool(mode)
        self._outside = lib.tl_set_grad_enabled(self.grad)

    def __enter__(self) -> None:
        lib.tl_set_grad_enabled(self._outside)
        super().__enter__()

    def __call__(self, function: F) -> F:
        lib.tl_set_grad_enabled(self._outside)
        return super().__call__(function)

    def _fresh(self) -> _Mode:
        mode = _Mode()
        mode.grad = self.grad
        return mode


class inference_mode(_Mode):
    """As `no_grad`, and what is made inside can never take part in a recorded operation later.

    >>> with tl.inference_mode():
    ...     x = tl.ones(2) * 2
    >>> x.requires_grad
    False
    """

    grad = False
    inference = True

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self.inference = bool(mode)
        self.grad = not mode

    def __enter__(self) -> None:
        """Off, it also leaves an inference mode around it."""
        inference = lib.tl_set_inference(self.inference)
        self._before.append((lib.tl_set_grad_enabled(self.grad), inference))

    def _fresh(self) -> _Mode:
        return inference_mode(self.inference)


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread.

    >>> tl.is_grad_enabled()
    True
    """
    return bool(lib.tl_is_grad_enabled())


def is_inference_mode_enabled() -> bool:
    """Whether inference_mode is on in this thread.

    >>> tl.is_inference_mode_enabled()
    False
    """
    return bool(lib.tl_is_inference_mode())
