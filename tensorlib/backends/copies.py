"""Bytes between main memory and GPUs, without a detour: contiguous tensors of one dtype and size.

Every copy is ordered behind what its GPU's current stream was given before, and before what comes after. The host goes on at once where
that is safe: always when it uploads a little (through pinned memory of its own), and where the host's side is pinned and `non_blocking`
was asked for. Then the copy keeps that memory alive until it is done, as an event tells.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.device import Device
from tensorlib.dtypes import DType
from tensorlib.native import OBJECTS, ffi, keep, lib
from tensorlib.status import checked

from . import backend
from .host import ADOPTED, device_of, view_bytes

__all__ = ["Pinned", "hold", "is_pinned", "pinned", "record_stream", "transfer", "upload"]

_STAGED = 8 << 20  # bytes up to which an upload from pageable memory is staged here instead of waited for
_held: deque[tuple[Any, Any]] = deque()  # (event, what must stay until then)
_holding = threading.RLock()  # a finalizer may interrupt its own thread here


class Pinned:
    """Memory of this machine that GPUs read and write themselves."""

    def __init__(self, cupy: Any, nbytes: int) -> None:
        self.memory = cupy.cuda.alloc_pinned_memory(max(nbytes, 1))
        self.bytes = np.frombuffer(self.memory, np.uint8, nbytes)


def pinned(cupy: Any, shape: tuple[int, ...], dtype: DType) -> int:
    """A tensor in pinned memory, of arbitrary contents."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    made = Pinned(cupy, nbytes)
    token = keep(made)
    address = made.bytes.ctypes.data
    return checked(
        lib.tl_adopt(address, max(nbytes, 1), ADOPTED, token, False, dtype.number, len(shape), shape, ffi.NULL),
        "pin_memory",
        shape,
    )


def _pinned_by(handle: int) -> Pinned | None:
    found = OBJECTS.get(lib.tl_storage_token(handle)) if lib.tl_storage_kind(handle) == ADOPTED else None
    return found if isinstance(found, Pinned) else None


def is_pinned(handle: int) -> bool:
    return _pinned_by(handle) is not None


def hold(stream: Any, event: Any, thing: Any) -> None:
    """Keep an object until a stream has done what it was given so far; `event` is a fresh one."""
    event.record(stream)
    with _holding:
        done = []  # dropped at the end: finalizers may come back here
        while _held and _held[0][0].done:
            done.append(_held.popleft())
        _held.append((event, thing))


def transfer(source: int, target: int, non_blocking: bool) -> None:
    """Overwrite one contiguous tensor with the bytes of another, at least one of them on a GPU."""
    here, there = device_of(source), device_of(target)
    nbytes = int(lib.tl_numel(source)) * dtypes.ALL[lib.tl_dtype_of(source)].itemsize
    if not nbytes:
        return
    if here == there:
        to = backend(here)
        with to.handle:
            to.pointer(target).copy_from_device_async(to.pointer(source), nbytes)
    elif here.type == "cpu":
        if not lib.tl_capture_is_made(source):
            _refuse("a copy to a GPU", "a replay would not read the host's memory again")
        owner = _pinned_by(source) if non_blocking else None
        to = backend(there)
        upload(to, view_bytes(source, lib.tl_peek(source), nbytes), to.pointer(target), owner)
    elif there.type == "cpu":
        _download(source, target, here, nbytes, non_blocking)
    else:
        _across(source, target, here, there, nbytes)


def upload(to: Any, source: np.ndarray[Any, Any], target: Any, owner: Pinned | None = None) -> None:
    """Copy bytes of main memory to where `target`, CuPy's pointer, points on the GPU of the backend `to`. `owner`: what pins them, where nobody is
    to wait for the copy. A captured step keeps the bytes as they are now."""
    cuda, nbytes, under_way = to.xp.cuda, source.nbytes, _under_way()
    with to.handle:
        stream = cuda.get_current_stream()
        if under_way is None and owner is None and nbytes > _STAGED:
            target.copy_from_host_async(source.ctypes.data, nbytes, stream)
            stream.synchronize()
            return
        if under_way is not None or owner is None:
            owner = Pinned(to.xp, nbytes)
            owner.bytes[:] = source
            source = owner.bytes
        target.copy_from_host_async(source.ctypes.data, nbytes, stream)
        if under_way is not None:
            under_way.keep(owner)
        else:
            hold(stream, cuda.Event(disable_timing=True), owner)


def _under_way() -> Any:
    """The capture of this thread."""
    from tensorlib.gpu import capture

    return capture.current()


def _refuse(operation: str, why: str = "") -> None:
    from tensorlib.gpu import capture

    capture.refuse(operation, *([why] if why else []))


def _download(source: int, target: int, where: Device, nbytes: int, non_blocking: bool) -> None:
    _refuse("a copy to main memory")
    there = backend(where)
    cuda = there.xp.cuda
    own = _pinned_by(target)
    with there.handle:
        stream = cuda.get_current_stream()
        there.pointer(source).copy_to_host_async(lib.tl_peek(target), nbytes, stream)
        if own and non_blocking:
            hold(stream, cuda.Event(disable_timing=True), own)
        else:
            stream.synchronize()
            if there.waited is not None:
                there.waited()


def _across(source: int, target: int, here: Device, there: Device, nbytes: int) -> None:
    """Between two GPUs, in the source's stream; the target's waits for it, and before it, as its memory may still be in use there."""
    _refuse("a copy between GPUs", "a graph runs on one of them")
    one, other = backend(here), backend(there)
    cuda = one.xp.cuda
    with other.handle:
        theirs = cuda.get_current_stream()
        free = cuda.Event(disable_timing=True)
        free.record(theirs)
    with one.handle:
        stream = cuda.get_current_stream()
        stream.wait_event(free)
        other.pointer(target).copy_from_device_async(one.pointer(source), nbytes, stream)
        done = cuda.Event(disable_timing=True)
        done.record(stream)
    with other.handle:
        theirs.wait_event(done)


class _Uses:
    """Streams that use a tensor's memory beside the one that it was allocated on: when the tensor goes, the memory stays until they are done."""

    def __init__(self, cuda: Any, device: Any, flat: Any) -> None:
        self.cuda, self.device, self.flat = cuda, device, flat
        self.streams: dict[int, Any] = {}  # CuPy's, by handle

    def __del__(self) -> None:
        try:
            with self.device:
                for stream in self.streams.values():
                    if stream.is_capturing():
                        _under_way().keep(self.flat)
                    else:
                        hold(stream, self.cuda.Event(disable_timing=True), self.flat)
        except Exception:  # noqa: BLE001 (the interpreter or the driver is ending: nobody gets that memory any more)
            pass


def record_stream(handle: int, stream: Any) -> None:
    """Note that a stream (CuPy's) uses a tensor's memory."""
    there = backend(device_of(handle))
    token = lib.tl_storage_token(handle)
    place, flat, *rest = OBJECTS[token]
    if not rest:
        rest = [_Uses(there.xp.cuda, there.handle, flat)]
        OBJECTS[token] = (place, flat, *rest)
    rest[0].streams[stream.ptr] = stream
