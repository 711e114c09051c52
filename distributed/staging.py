"""Tensors on GPUs, on their way through this machine's memory: pinned, and in the order of streams, so that neither the program nor its GPU waits.

    down      what the program has given the GPU so far, then the copy to `here`, on a stream beside the program's
    arrived   the communication thread goes on when an event says that the copy is done
    up        back, on the same stream
    landed    what the program gives its GPU from now on waits for that

For tensors in main memory nothing has to be moved: `here` is the tensor. Nor where MPI takes the GPU's memory itself (`direct`): then only the
streams keep the order. On other devices the copies are made at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import tensorlib as tl

from .progress import Steps

__all__ = ["Staged"]


class _Reached:
    """An event as collectives wait for requests."""

    def __init__(self, event: Any) -> None:
        self.Test, self.Wait = event.query, event.synchronize


class Staged:
    """A contiguous tensor `there`, and its elements `here`, where MPI takes them: in main memory, or if `direct` where they are."""

    def __init__(self, there: tl.Tensor, direct: bool = False) -> None:
        self.there = self.here = there
        self._event: Any = None
        self.on_gpu = there.is_cuda
        if self.on_gpu:
            if not direct:
                self.here = tl.empty(there.shape, dtype=there.dtype, device="cpu").pin_memory()
            self._beside = tl.cuda.Stream(there.device)
            self.follow()
        elif there.device.type != "cpu":
            self.here = there.cpu()

    def follow(self) -> None:
        """The program's stream is this thread's current one."""
        if self.on_gpu:
            self.stream = tl.cuda.current_stream(self.there.device)

    def begin(self) -> None:
        """The stream beside goes on behind what the program has given its own."""
        if self.on_gpu:
            self._beside.wait_stream(self.stream)

    @contextmanager
    def beside(self) -> Iterator[tl.cuda.Stream]:
        """Within, work goes to the stream beside, in whichever thread."""
        with tl.cuda.stream(self._beside), tl.no_grad():
            yield self._beside

    def down(self) -> None:
        """Begin to copy to `here`, behind what the program has given its stream."""
        self.begin()
        self.fetch()

    def fetch(self) -> None:
        """Begin to copy to `here`, behind what the stream beside was given."""
        self._copy(self.here, self.there)
        if self.on_gpu:
            self._event = self._beside.record_event()

    def arrived(self) -> Steps:
        """Until `here` can be read."""
        if self._event is not None:
            yield _Reached(self._event)  # type: ignore[misc]  # what is asked of a request

    def wait(self) -> None:
        """The same, for a program that has nothing else to do."""
        if self._event is not None:
            self._event.synchronize()

    def up(self) -> None:
        """Begin to copy back. Any thread may."""
        self._copy(self.there, self.here)

    def ordered(self) -> AbstractContextManager[None]:
        """Within, work goes behind the program's own, in whichever thread."""
        return tl.cuda.stream(self.stream if self.on_gpu else None)

    def landed(self) -> None:
        """What the stream is given from now on finds the new values."""
        if self.on_gpu:
            self.stream.wait_stream(self._beside)

    def _copy(self, to: tl.Tensor, source: tl.Tensor) -> None:
        if to is not source:
            with self.beside() if self.on_gpu else tl.no_grad():
                to.copy_(source, non_blocking=self.on_gpu)
