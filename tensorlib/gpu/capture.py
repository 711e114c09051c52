"""The CUDA graph that this thread is capturing, if it is: what kernels' launchers and whoever reads values on the host ask.

While a step is captured (`tl.cuda.graph`), nothing runs: launches and copies are written down, to be replayed with the same addresses and
arguments. So what the host decides anew at each step must reach kernels through memory:

    numbers     the host's numbers that change (a learning rate, a count of steps): `numbers(function, n)` is a float64 tensor that holds
                ``function()`` at every replay
    random      kernels draw with (key + base[1], counter + base[0]) where `random_base` is the tensor `base`, two int64 that are 0, 0 for
                the draws of the captured step itself; key and counter come from the default generator as ever
    on_replay   anything else: called before each launch, the first one included, as nothing ran when it was captured

    >>> from tensorlib.gpu import capture
    >>> capture.current() is None
    True
    >>> capture.refuse("item")  # only raises within a capture
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tensorlib import dtypes, lines
from tensorlib.errors import CaptureError

if TYPE_CHECKING:
    from tensorlib.device import Device
    from tensorlib.tensor import Tensor

    from .launch import Source

__all__ = ["Capture", "current", "put", "refuse"]


class _Own(threading.local):
    capture: Capture | None = None


_own = _Own()


def current() -> Capture | None:
    """The capture under way in this thread."""
    return _own.capture


def refuse(operation: str, why: str = "it needs values, and while a step is captured nothing is computed") -> None:
    """Raise if a capture is under way in this thread: `operation` can not be part of it.

    Raises:
        CaptureError: naming the user's line.
    """
    if _own.capture is not None:
        raise CaptureError(
            f"{operation}: can not be captured in a CUDA graph ({lines.describe(lines.here())}): {why}.",
            hint="do it outside of the step that is given to tl.cuda.graph",
        )


class Capture:
    """One capture, from the first recorded launch to the last, and what its replays need."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.callbacks: list[Callable[[], Any]] = []
        self.kept: list[Any] = []
        self._base: Tensor | None = None
        self.draws = 0
        """How often `random_base` was asked for: once for each draw."""

    def __enter__(self) -> None:
        if _own.capture is not None:
            raise CaptureError("graph: a step that is captured can not capture another one.")
        _own.capture = self

    def __exit__(self, *raised: object) -> None:
        _own.capture = None

    def on_replay(self, callback: Callable[[], Any]) -> None:
        """Have `callback` called on the host before each launch, in the order of these calls."""
        self.callbacks.append(callback)

    def keep(self, thing: Any) -> Any:
        """Keep an object alive as long as the graph, which refers to its memory. Returns it."""
        self.kept.append(thing)
        return thing

    def numbers(self, function: Callable[[], Sequence[float]], n: int) -> Tensor:
        """A float64 tensor (n,) on the device that holds the `n` numbers of ``function()``, which is called before each launch, at each replay.
        Its place among the callbacks is that of this call."""
        from .launch import empty

        made: Tensor = self.keep(empty((n,), dtypes.float64, self.device))
        self.on_replay(_Setting(made, function))
        return made

    @property
    def random_base(self) -> Tensor:
        """(2,) int64 on the device: what a kernel adds to the counter and to the key of its draw. To be asked for once for each draw."""
        self.draws += 1
        if self._base is None:
            from .launch import empty

            self._base = self.keep(empty((2,), dtypes.int64, self.device))
        return self._base


class _Setting:
    """Writes numbers to the device where they changed: as arguments of a launch, which it copies, so that nothing has to wait."""

    def __init__(self, to: Tensor, function: Callable[[], Sequence[float]]) -> None:
        self.to, self.function = to, function
        self.last: tuple[float, ...] | None = None

    def __call__(self) -> None:
        values = tuple(self.function())
        if values != self.last:
            put("doubles", self.to, values)
            self.last = values


def put(kernel: str, to: Tensor, values: Sequence[float]) -> None:
    """Write the host's numbers ("doubles": as float64, "words": as 64-bit integers) to a contiguous tensor, in the order of the current stream."""
    kind, most = (float, 8) if kernel == "doubles" else (int, 2)
    for i in range(0, len(values), most):
        few = [kind(value) for value in values[i : i + most]]
        _source()(kernel)(1, 1, to, i, len(few), *few, *[kind(0)] * (most - len(few)))


@functools.cache
def _source() -> Source:
    from .launch import Source

    return Source("capture.cu")
