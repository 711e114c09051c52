"""Whole steps as CUDA graphs: what an eager step costs the host, launch by launch, a replay costs once.

    calls 1 ... warmup    the step runs as it is, on a side stream: kernels are compiled, optimizers make their state
    the next one          the step runs once more, but its launches are written down (tensorlib/gpu/capture.py), then launched
    from then on          inputs are copied to where the step found them, and the graph is launched; no line of the step runs

Every call is one real step: none has to be undone, and n calls do what n eager steps do, random numbers included.
"""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tensorlib import lines, random
from tensorlib.backends import copies
from tensorlib.backends.cuda import import_cupy
from tensorlib.device import Device, device as as_device
from tensorlib.errors import CaptureError, DeviceError, DTypeError, ShapeError
from tensorlib.gpu import capture
from tensorlib.native import lib
from tensorlib.tensor import Tensor

from .devices import index_of

__all__ = ["Graph", "graph", "is_current_stream_capturing"]

_WORD = (1 << 64) - 1


def graph(step: Callable[..., Any], *example_inputs: Tensor, warmup: int = 3) -> Graph:
    """A function that does what `step` does, captured as a CUDA graph: forward, backward and the optimizer's step in one launch.

    The first `warmup` calls run `step` itself; the next one captures it, and those after that replay it. Each is one step, as if `step` had been
    called: parameters, optimizer and random numbers go on from one to the next. `step` takes tensors on the GPU and returns tensors, or
    tuples, lists and dicts of them.

    A replay does what the captured step did to the same memory, with other inputs. So:

    - inputs have the shapes and dtypes of `example_inputs`, on any device; their values are copied (from pinned memory without waiting);
    - results are overwritten by the next call: ``clone()`` what is to be kept. They carry no history;
    - the step's Python runs no more: numbers that it computes on the host, and branches that it takes, stay as they were. Learning rates and
      counts of steps of `tl.optim` are read anew at each replay;
    - `.grad` of parameters lies in the graph's memory, as the step left it. ``zero_grad()`` inside the step is fine;
    - what can not be replayed is refused when the step is captured, with the line: ``item()``, printing, shapes that depend on values,
      other generators than the default one, writes to tensors in main memory, other graphs. After such an error the step was not done.

    Raises:
        CaptureError: for what can not be captured, or replayed with.
        DeviceError: without a GPU.

    Example::

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        step = tl.cuda.graph(step, *next(iter(loader)))
        for x, y in loader:
            loss = step(x, y)
    """
    return Graph(step, example_inputs, warmup)


def is_current_stream_capturing() -> bool:
    """Whether this thread captures a step.

    >>> tl.cuda.is_current_stream_capturing()
    False
    """
    return capture.current() is not None


class Graph:
    """What `graph` returns. Calls from several threads go one after the other."""

    def __init__(self, step: Callable[..., Any], examples: tuple[Tensor, ...], warmup: int) -> None:
        if not callable(step):
            raise TypeError(f"graph: the step is a {type(step).__name__}, expected a function.")
        if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 1:
            raise ValueError(f"graph: warmup must be an integer of at least 1, got {warmup!r}.")
        for i, x in enumerate(examples):
            if not isinstance(x, Tensor):
                raise TypeError(f"graph: example input {i} is a {type(x).__name__}, expected a Tensor.")
        self._step, self._left = step, warmup
        self.device = _one_device(examples)
        cupy = import_cupy()
        self._gpu = cupy.cuda.Device(self.device.index)
        with self._gpu:
            self._side = cupy.cuda.Stream(non_blocking=True)
            self._inputs = tuple(x.detach().to(self.device, copy=True).contiguous() for x in examples)
        self._expected = tuple((x.shape, x.dtype) for x in self._inputs)
        self._capture: capture.Capture | None = None
        self._launch: Callable[[Any], None] | None = None
        self._held = self._drawn = 0
        self._busy = threading.Lock()

    def __del__(self, _free: Any = lib.tl_capture_free) -> None:
        if getattr(self, "_held", 0):
            _free(self._held)

    @property
    def captured(self) -> bool:
        """Whether the step has been captured: calls are replays from now on."""
        return self._launch is not None

    def __call__(self, *inputs: Tensor) -> Any:
        capture.refuse("a replay", "a graph can not be part of another")
        with self._busy, self._gpu:
            self._take(inputs)
            if self._launch is not None:
                self._replay()
                lib.tl_capture_replayed(self._held)
                return self._results
            with self._beside():
                if self._left:
                    self._left -= 1
                    return self._step(*self._inputs)
                self._record()
            self._replay()
            return self._results

    def _take(self, inputs: tuple[Tensor, ...]) -> None:
        """Copy the inputs to where the step reads them."""
        if len(inputs) != len(self._inputs):
            raise TypeError(f"graph: got {len(inputs)} inputs, expected {len(self._inputs)}, as in the example.")
        for i, (x, (shape, dtype)) in enumerate(zip(inputs, self._expected, strict=True)):
            if not isinstance(x, Tensor):
                raise TypeError(f"graph: input {i} is a {type(x).__name__}, expected a Tensor.")
            if x.shape != shape:
                raise ShapeError(f"graph: input {i} has shape {x.shape}, but the step is for {shape}.")
            if x.dtype is not dtype:
                raise DTypeError(f"graph: input {i} is {x.dtype.name}, but the step is for {dtype.name}.")
        for x, place in zip(inputs, self._inputs, strict=True):
            if x is not place:
                dense = x.detach().contiguous()
                copies.transfer(dense._array, place._array, non_blocking=True)
                lib.tl_written(place._array, 0)

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On the side stream, which waits for the current one, and it afterwards for that."""
        cuda = import_cupy().cuda
        main = cuda.get_current_stream()
        self._side.wait_event(main.record(cuda.Event(disable_timing=True)))
        with self._side:
            yield
        main.wait_event(self._side.record(cuda.Event(disable_timing=True)))

    def _replay(self) -> None:
        assert self._capture is not None and self._launch is not None
        if self._drawn:
            self._draw()
        for callback in self._capture.callbacks:
            callback()
        self._launch(None)

    def _draw(self) -> None:
        """Move the default generator past what a step draws, and have the step draw from where it stood."""
        assert self._capture is not None
        generator = random.default_generator()
        key, counter = generator.advance(self._drawn)
        moved = _signed(counter - self._began[1]), _signed(key - self._began[0])
        capture.put("words", self._capture.random_base, moved)

    # ---- capturing ----
    def _record(self) -> None:
        cupy = import_cupy()
        stream, generator = self._side, random.default_generator()
        pool = cupy.cuda.MemoryPool()
        recording = capture.Capture(self.device)
        self._began = before = generator.where()
        gc.collect()  # nothing may be freed while the stream captures that CUDA would have to wait for
        collecting = gc.isenabled()
        gc.disable()
        held = lib.tl_capture_begin()
        if not held:
            raise CaptureError("graph: another thread captures a step.")
        try:
            drawn = _DefaultOnly(generator)
            with (
                recording,
                cupy.cuda.using_allocator(pool.malloc),
                _kept_pinned(cupy, recording),
                random.watched(drawn),
            ):
                made, results = _recorded(stream, self._step, self._inputs)
                lib.tl_capture_end(held)
            self._drawn = (generator.where()[1] - before[1]) & _WORD
            _check_writes(held)
            if drawn.draws > recording.draws:
                raise CaptureError(
                    "graph: the step draws random numbers by an operation that can not draw others at a replay.",
                    hint="draw them outside of the step and give them to it",
                )
        except BaseException:
            lib.tl_capture_free(held)
            raise
        finally:
            generator.move_to(*before)
            if collecting:
                gc.enable()
        recording.keep(pool)
        self._held, self._capture, self._results, self._launch = held, recording, results, made.launch


def _recorded(stream: Any, step: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """(CuPy's graph, the step's results) of a step that a stream captures."""
    stream.begin_capture()
    try:
        results = _without_history(step(*inputs))
    except BaseException as error:
        with suppress(RuntimeError):  # what was captured so far is no graph
            stream.end_capture()
        if isinstance(error, Exception) and 900 <= getattr(error, "status", 0) < 910:  # CUDA's codes for captures
            raise CaptureError(f"graph: the step can not be captured ({_users_line(error)}): {error}.") from error
        raise
    return stream.end_capture(), results


@contextmanager
def _kept_pinned(cupy: Any, recording: capture.Capture) -> Iterator[None]:
    """Pinned memory that this thread takes stays as long as the graph: CuPy stages what it uploads there, and a replay reads it again."""
    plain = cupy.get_default_pinned_memory_pool().malloc

    def malloc(size: int) -> Any:
        taken = plain(size)
        return taken if capture.current() is not recording else recording.keep(taken)

    cupy.cuda.set_pinned_memory_allocator(malloc)
    try:
        yield
    finally:
        cupy.cuda.set_pinned_memory_allocator(plain)


class _DefaultOnly:
    """Watches what a captured step draws."""

    def __init__(self, generator: random.Generator) -> None:
        self.generator, self.draws = generator, 0
        self.thread = threading.get_ident()

    def __call__(self, generator: random.Generator | None) -> None:
        if threading.get_ident() != self.thread:
            return
        if generator is not self.generator:
            what = "a draw in main memory" if generator is None else "a draw from a generator of its own"
            capture.refuse(what, "a replay draws on the GPU, from the default generator")
        self.draws += 1


def _check_writes(held: int) -> None:
    if lib.tl_capture_wrote_host(held):
        where = lines.describe(lib.tl_capture_host_line(held))
        raise CaptureError(
            f"graph: the step writes a tensor in main memory ({where}), which a replay would not.",
            hint="keep it on the GPU, or write it outside of the step",
        )


def _one_device(examples: tuple[Tensor, ...]) -> Device:
    found = {x.device for x in examples if x.device.type != "cpu"}
    if len(found) > 1:
        raise DeviceError(f"graph: inputs are on {' and '.join(sorted(map(str, found)))}, expected one GPU.")
    where = found.pop() if found else as_device("cuda")
    if where.type != "cuda":
        raise DeviceError(f"graph: inputs are on {where}, expected a GPU.")
    index_of(where, "graph")
    return where


def _without_history(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (tuple, list)):
        kept = [_without_history(v) for v in value]
        return type(value)(*kept) if hasattr(value, "_fields") else type(value)(kept)
    return {key: _without_history(v) for key, v in value.items()} if isinstance(value, dict) else value


def _signed(word: int) -> int:
    """A difference modulo 2^64, as a signed integer of 64 bits."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def _users_line(error: BaseException) -> str:
    """The line from which an exception's way led into the library for the last time, or first left it."""
    passed = list(traceback.walk_tb(error.__traceback__))
    library = [lines.is_library(frame.f_code) for frame, _ in passed]
    last = max((i for i, own in enumerate(library) if own), default=-1)
    users = [i for i, own in enumerate(library) if not own]
    frame, line = passed[max((i for i in users if i < last), default=users[0] if users else 0)]
    return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
