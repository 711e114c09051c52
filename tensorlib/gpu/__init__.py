"""What runs on NVIDIA GPUs in place of an operation's reference: lanes, and behind them kernels in CUDA C++.

A lane serves one entry of the table. It takes the entry's operands as tensors of one GPU (dtypes promoted, shapes checked by the entry's
wrapper) and its attributes by name, and returns fresh tensors, or None where it declines: then the reference runs, through CuPy. A gradient lane
takes what it names, as gradient rules do (`g`, the operands and results that the entry's rules keep, attributes; `values` is all of them by
name, fetched when asked for), and `wanted`, which says for each input whether its gradient is asked for; it returns a gradient or None for each
input, or None in place of all where it declines. It serves first order alone: gradients of gradients are the rules'. Lanes run without recording
and change nothing that they are given.

Of several results, `g_<output>` is None where no gradient arrived. What a gradient lane can use besides, a lane returns as ``Kept(results, it)``, and
the gradient lane takes it as `kept`; None where the lane declined then. `recorded()` tells a lane whether a gradient may be asked for.

    @lane("softmax")
    def softmax(x, *, dim):
        ...
        out = empty(x.shape, x.dtype, x.device)
        ROWS("softmax_rows", T=x.dtype)(rows, 256, out, x, rows, columns)
        return out

    @gradient_lane("softmax")
    def _(wanted, g, out, dim):
        ...
        return (dx,)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["GRADIENT_LANES", "LANES", "Alias", "Kept", "gradient_lane", "lane", "recorded"]

Lane = TypeVar("Lane", bound=Callable[..., Any])
LANES: dict[str, Callable[..., Any]] = {}
GRADIENT_LANES: dict[str, Callable[..., Any]] = {}


class _Call(threading.local):
    """The lane that this thread is in."""

    recorded = False


CALL = _Call()


def recorded() -> bool:
    """Whether what the lane makes goes on the tape."""
    return CALL.recorded


class Kept:
    """A lane's results, and what its gradient lane is handed until backward is done; a result itself as an `Alias`, or it would keep itself alive."""

    __slots__ = ("kept", "outs")

    def __init__(self, outs: Any, kept: Any) -> None:
        self.outs, self.kept = outs, kept


class Alias:
    """A tensor's memory, and whether anybody wrote to it since."""

    __slots__ = ("_version", "_x")

    def __init__(self, x: Any) -> None:
        self._x, self._version = x.detach(), x._version

    @property
    def tensor(self) -> Any:
        """None where it was overwritten: the gradient is then the rules'."""
        return self._x if self._x._version == self._version else None


def lane(*names: str) -> Callable[[Lane], Lane]:
    """Enter a function as the way that these operations are computed on a GPU."""

    def enter(function: Lane) -> Lane:
        for name in names:
            LANES[name] = function
        return function

    return enter


def gradient_lane(*names: str) -> Callable[[Lane], Lane]:
    """The same for their gradients."""

    def enter(function: Lane) -> Lane:
        for name in names:
            GRADIENT_LANES[name] = function
        return function

    return enter


# The lanes: they use what is above.
from . import (
    attention,
    convolution,
    copy,
    elementwise,
    indexing,
    losses,
    matmul,
    norms,
    pooling,
    random,
    recurrent,
    reduce,
    rows,
)
