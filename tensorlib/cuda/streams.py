"""Streams: queues of work on a GPU, and events, marks in them.

What a thread gives a GPU goes to that GPU's current stream, one after the other; streams run beside each other. The pool gives memory that a
stream freed to that stream alone, so that the order of its queue keeps users of one piece of memory apart. A tensor that another stream reads
must therefore outlive that reading: wait for the other stream first (`wait_stream`), or call `Tensor.record_stream`.
"""

from __future__ import annotations

from typing import Any

from tensorlib.backends.cuda import import_cupy
from tensorlib.device import Device, device as as_device
from tensorlib.errors import DeviceError

from .devices import index_of, waited

__all__ = ["Event", "ExternalStream", "Stream", "current_stream", "default_stream", "set_stream", "stream"]


class Stream:
    """A queue of work on a GPU, the current one if not told otherwise. It does not wait for the default stream, nor that for it.

    `priority`: a lower number goes first, -1 before 0.
    """

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        cupy, index = import_cupy(), index_of(device, "Stream")
        with cupy.cuda.Device(index):
            ordered = {"priority": priority} if priority else {}  # CuPy has not always had it
            self._take(cupy.cuda.Stream(non_blocking=True, **ordered), index)

    def _take(self, raw: Any, index: int) -> None:
        self._raw, self._index = raw, index
        self._contexts: list[Any] = []

    @classmethod
    def _over(cls, raw: Any, index: int) -> Stream:
        made = object.__new__(Stream)
        made._take(raw, index)
        return made

    @property
    def device(self) -> Device:
        """The GPU it is a queue of."""
        return as_device(f"cuda:{self._index}")

    @property
    def cuda_stream(self) -> int:
        """CUDA's handle, as other libraries take it."""
        return int(self._raw.ptr)

    @property
    def priority(self) -> int:
        """Lower numbers go first."""
        return int(getattr(self._raw, "priority", 0))

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.cuda_stream

    def synchronize(self) -> None:
        """Wait until all that was given to this stream is done."""
        self._raw.synchronize()
        waited(self._index)

    def query(self) -> bool:
        """Whether all that was given to this stream is done."""
        return bool(self._raw.done)

    def record_event(self, event: Event | None = None) -> Event:
        """Mark the end of what this stream was given so far; returns the event."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """What this stream is given from now on waits for the event."""
        event.wait(self)

    def wait_stream(self, stream: Stream) -> None:
        """What this stream is given from now on waits for what the other was given so far."""
        self.wait_event(stream.record_event())

    def __enter__(self) -> Stream:  # noqa: PYI034 (a class by that name is in reach, typing_extensions are not)
        self._contexts.append(stream(self))
        self._contexts[-1].__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._contexts.pop().__exit__(*raised)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (self.cuda_stream, self._index) == (other.cuda_stream, other._index)

    def __hash__(self) -> int:
        return hash((self.cuda_stream, self._index))

    def __repr__(self) -> str:
        return f"<tensorlib.cuda.{type(self).__name__} device={self.device} cuda_stream={self.cuda_stream:#x}>"


class ExternalStream(Stream):
    """A stream that another library made and keeps alive, by CUDA's handle."""

    def __init__(self, stream_ptr: int, device: Any = None) -> None:
        index = index_of(device, "ExternalStream")
        self._take(import_cupy().cuda.ExternalStream(stream_ptr, index), index)


class Event:
    """A mark in a stream: to wait for, and with `enable_timing` to measure between.

    Not recorded yet, it counts as reached, and waits for nothing.
    """

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self._timing, self._blocking = enable_timing, blocking
        self._raw: Any = None
        self._index: int | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Mark the end of what a stream, the current one if not given, was given so far.

        Raises:
            DeviceError: if the event marked a stream of another GPU before.
        """
        stream = stream or current_stream()
        cupy = import_cupy()
        if self._index not in (None, stream._index):
            raise DeviceError(f"record: the event belongs to cuda:{self._index}, the stream to {stream.device}.")
        with cupy.cuda.Device(stream._index):
            if self._raw is None:
                self._raw = cupy.cuda.Event(block=self._blocking, disable_timing=not self._timing)
                self._index = stream._index
            self._raw.record(stream._raw)

    def wait(self, stream: Stream | None = None) -> None:
        """What a stream, the current one if not given, is given from now on waits for the event."""
        if self._raw is not None:
            stream = stream or current_stream()
            with import_cupy().cuda.Device(stream._index):
                stream._raw.wait_event(self._raw)

    def query(self) -> bool:
        """Whether the event was reached."""
        return self._raw is None or bool(self._raw.done)

    def synchronize(self) -> None:
        """Wait until the event is reached."""
        if self._raw is not None and self._index is not None:
            self._raw.synchronize()
            waited(self._index)

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to another.

        Raises:
            ValueError: unless both have `enable_timing`, and were recorded.
        """
        for event, name in ((self, "the first"), (end_event, "the second")):
            if not event._timing:
                raise ValueError(f"elapsed_time: {name} event was made without enable_timing=True.")
            if event._raw is None:
                raise ValueError(f"elapsed_time: {name} event was not recorded.")
        return float(import_cupy().cuda.get_elapsed_time(self._raw, end_event._raw))

    def __repr__(self) -> str:
        return f"<tensorlib.cuda.Event {'not recorded' if self._raw is None else f'on cuda:{self._index}'}>"


def current_stream(device: Any = None) -> Stream:
    """The stream that this thread gives work for a GPU to."""
    index = index_of(device, "current_stream")
    return Stream._over(import_cupy().cuda.get_current_stream(index), index)


def default_stream(device: Any = None) -> Stream:
    """The stream that is current where no other was chosen. It waits for all of CuPy's own streams, and they for it, unless they are
    non-blocking, as those of `Stream` are."""
    return Stream._over(import_cupy().cuda.Stream.null, index_of(device, "default_stream"))


def set_stream(stream: Stream | None) -> None:
    """Make a stream the current one of its GPU, in this thread; None changes nothing.

    >>> tl.cuda.set_stream(None)
    """
    if stream is not None:
        with import_cupy().cuda.Device(stream._index):
            stream._raw.use()


class stream:
    """Context manager: within, a stream is the current one of its GPU, and that GPU is the current one. None changes nothing.

    >>> with tl.cuda.stream(None):
    ...     pass
    """

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream
        self._entered: list[Any] = []

    def __enter__(self) -> None:
        if self._stream is not None:
            self._entered = [import_cupy().cuda.Device(self._stream._index), self._stream._raw]
            for context in self._entered:
                context.__enter__()

    def __exit__(self, *raised: object) -> None:
        while self._entered:
            self._entered.pop().__exit__(*raised)
