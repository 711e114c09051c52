"""`save` and `load`: nested dicts of tensors and plain values, as one safetensors file."""

from __future__ import annotations

import mmap as memory_map
import os
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.backends import view_bytes
from tensorlib.device import CPU, Device
from tensorlib.errors import CheckpointError
from tensorlib.io import structure, torch_files
from tensorlib.io.safetensors import OF_FILE, Entry, header_length, in_file_order, lay_out, make_header, parse_header
from tensorlib.native import lib
from tensorlib.ops.creation import empty
from tensorlib.tensor import Tensor

__all__ = ["load", "save"]

STRUCTURE, SUMS = "tensorlib", "crc32"  # keys of the metadata
_SUMS_FIRST = f'{{"__metadata__":{{"{SUMS}":"'.encode()  # how the header of a file with checksums begins


def save(obj: Any, f: Any, *, checksums: bool = False, sync: bool = True) -> None:
    """Save tensors, in dicts, lists and tuples, and plain values beside them, as one safetensors file.

    Plain values are None, booleans, integers, floats and strings; NumPy arrays and numbers are kept as such. A flat dict of tensors becomes the
    very file that the safetensors package writes; anything else has its structure as JSON in the file's metadata, and its tensors, named by their
    place (``"model.0.weight"``), can be read by that package all the same. Tensors that share memory share it after `load`, and take it once.
    Values alone are saved, on the CPU: no gradients, no history.

    The file appears whole or not at all: it is written beside `f` under another name, made durable, and renamed. If that fails or is
    interrupted, whatever `f` was is still there.

    Args:
        obj: what to save.
        f: a path, or a binary file open for writing (which is neither renamed nor made durable).
        checksums: store a CRC-32 of each tensor and of the header, which `load` compares.
        sync: wait until the disk has it. Without, a system that crashes may leave an incomplete file, never a program that is killed.

    Raises:
        TypeError: for anything else in `obj`, naming its place; nothing is written then.
        ValueError: where it is nested too deeply, or its plain values and names are too long for the header.
        OSError: where the file can not be written, such as on a full disk; what was there before is unchanged.

    Reference: https://github.com/huggingface/safetensors (the format).

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> tl.save({"model": tl.nn.Linear(2, 1).state_dict(), "lr": 0.1, "steps": [1, 2]}, path)
    >>> state = tl.load(path)
    >>> state["model"]["weight"].shape, state["lr"], state["steps"]
    ((1, 2), 0.1, [1, 2])
    """
    flat = structure.flatten(obj)
    entries = lay_out({name: (stored.dtype, stored.shape) for name, stored in flat.tensors.items()})
    metadata = {SUMS: "0" * 8 * (len(entries) + 1)} if checksums else {}
    if not flat.plain:
        metadata[STRUCTURE] = structure.dump(flat.structure)
    header = make_header(entries, metadata)
    order = [flat.tensors[entry.name] for entry in in_file_order(entries)]
    if checksums:
        sums = [_checksum(stored.content()) for stored in order]
        digits = "".join(f"{value:08x}" for value in sums).encode()
        begin = 8 + len(_SUMS_FIRST) + 8
        header = header[:begin] + digits + header[begin + len(digits) :]
        header = header[: begin - 8] + f"{zlib.crc32(header):08x}".encode() + header[begin:]

    def write(file: Any) -> None:
        _write_all(file, memoryview(header))
        for stored in order:
            _write_all(file, stored.content().data)

    if hasattr(f, "write"):
        write(f)
    else:
        _replace(Path(os.fspath(f)), write, sync=sync)


def _write_all(file: Any, data: memoryview) -> None:
    """To a raw file too, which may take a part of what it is given."""
    while len(data):
        data = data[file.write(data) :]


def _replace(path: Path, write: Callable[[Any], None], *, sync: bool) -> None:
    """Have `write` fill a new file, and put it in the place of `path`, whole, or leave all as it was."""
    path = Path(os.path.realpath(path))  # a link stays a link
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("xb", buffering=0) as file:
            write(file)
            if sync:
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(
                error.errno, f"save: {error.strerror}; what was there before is unchanged", str(path)
            ) from error
        raise
    if sync:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _checksum(data: np.ndarray[Any, Any]) -> int:
    return zlib.crc32(data.data)


# ---- loading ----


def load(
    f: Any, map_location: Device | str | None = None, *, mmap: bool | None = None, weights_only: bool = True
) -> Any:
    """What `save` saved; of another safetensors file, a dict of its tensors by name; of a file of PyTorch's, what `read_torch_file` says.

    No code runs and no object is made but tensors, NumPy arrays, dicts, lists, tuples and plain values, whatever the file holds. Tensors are read
    right into their memory. Checksums are compared where the file has them. Tensors of unsigned integers of 16 to 64 bits, which this library lacks,
    come as NumPy arrays.

    Args:
        f: a path, or a binary file open for reading.
        map_location: the device of the tensors; None: the CPU.
        mmap: map the file (a path) into memory instead of reading it: at once, and only what is used is ever read. Writing to such a tensor
            changes the copy in memory, never the file. The file may be deleted or replaced meanwhile, as `save` does; but if another program
            shortens it in place, using a tensor ends the process (SIGBUS), and what another program writes into it may be seen. Checksums are not
            compared, since that would read everything.
        weights_only: taken as PyTorch takes it; there is nothing else.

    Raises:
        CheckpointError: where the file is none of these, or is damaged, saying how.
        FileNotFoundError: and other kinds of OSError, where it can not be read.

    >>> import io
    >>> file = io.BytesIO()
    >>> tl.save({"a": tl.arange(3), "b": (None, 0.5)}, file)
    >>> _ = file.seek(0)
    >>> tl.load(file)
    {'a': tensor([0, 1, 2]), 'b': (None, 0.5)}
    """
    if hasattr(f, "readinto"):
        if mmap:
            raise ValueError("load: mmap needs a path, got an open file.")
        return read(f, "the file", map_location)
    path = os.fspath(f)
    with Path(path).open("rb", buffering=0) as file:
        return read(file, str(path), map_location, mapped=bool(mmap))


def read(
    file: Any, name: str, device: Device | str | None = None, *, mapped: bool = False, verified: bool = False
) -> Any:
    """The content of an open file. `verified`: it must have checksums."""
    with _naming(name):
        begin = file.tell()
        size = file.seek(0, os.SEEK_END) - begin
        file.seek(begin)
        first = _read_bytes(file, min(8, size))
        if not verified and torch_files.begins(first) and (size < 9 or file.read(1) != b"{"):
            file.seek(begin)
            return torch_files.read(file, device, mapped=mapped)
        file.seek(begin + len(first))
        header = _read_bytes(file, header_length(first, size))
        entries, metadata = parse_header(header, size - 8 - len(header))
        sums = _check_header(first + header, len(entries), metadata, required=verified)
        del header
        if mapped:
            tensors = _map(file, 8 + int.from_bytes(first, "little"), entries)
        else:
            tensors = _read_tensors(file, entries, sums)
        text = metadata.get(STRUCTURE)
        if text is not None:
            return structure.load(text, tensors, device)
        return {k: t.to(device) if device is not None and isinstance(t, Tensor) else t for k, t in tensors.items()}


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Errors say which file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"load: {name}: {error}") from None


def _read_bytes(file: Any, n: int) -> bytes:
    found = bytearray(n)
    _fill(file, memoryview(found), "the header")
    return bytes(found)


def _fill(file: Any, memory: memoryview, what: str) -> None:
    """Read exactly as many bytes as there is memory for."""
    done = 0
    while done < len(memory):
        n = file.readinto(memory[done:])
        if not n:
            raise CheckpointError(f"the file is cut off: {done} of {len(memory)} bytes of {what} are there.")
        done += n


def _check_header(whole: bytes, n: int, metadata: Mapping[str, str], *, required: bool) -> list[int] | None:
    """The checksums of the tensors, as they lie in the file; None where it has none."""
    text = metadata.get(SUMS)
    if text is None:
        if required:
            raise CheckpointError("it has no checksums.")
        return None
    begin = 8 + len(_SUMS_FIRST)
    if not text or len(text) % 8 or not set(text) <= set("0123456789abcdef"):
        raise CheckpointError("its checksums are no numbers.")
    own, *sums = np.frombuffer(bytes.fromhex(text), ">u4").tolist()
    if len(sums) != n or not whole.startswith(_SUMS_FIRST, 8):
        raise CheckpointError("its checksums are not those that this library writes.")
    if zlib.crc32(whole[begin + 8 :], zlib.crc32(whole[:begin] + b"0" * 8)) != own:
        raise CheckpointError("the header does not have its checksum: it is damaged.")
    return sums


def _read_tensors(file: Any, entries: list[Entry], sums: list[int] | None) -> dict[str, Any]:
    found: dict[str, Any] = {entry.name: None for entry in entries}
    for i, entry in enumerate(in_file_order(entries)):
        ours = dtypes.BY_NAME.get(OF_FILE[entry.dtype])
        made: Any
        if ours is None:
            made = np.empty(entry.shape, OF_FILE[entry.dtype])
            content = made.reshape(-1).view(np.uint8)
        else:
            made = empty(entry.shape, dtype=ours, device=CPU)
            content = view_bytes(made._array, lib.tl_peek(made._array), made.nbytes)
        _fill(file, content.data, repr(entry.name))
        if sums is not None and _checksum(content) != sums[i]:
            raise CheckpointError(f"{entry.name!r} does not have its checksum: it is damaged.")
        _check_booleans(entry, content)
        found[entry.name] = made
    return found


def _check_booleans(entry: Entry, content: np.ndarray[Any, Any]) -> None:
    if entry.dtype == "BOOL" and content.size and content.max() > 1:
        raise CheckpointError(f"{entry.name!r} has bytes that are neither true nor false.")


def _map(file: Any, begin: int, entries: list[Entry]) -> dict[str, Any]:
    whole: Any = memory_map.mmap(file.fileno(), 0, access=memory_map.ACCESS_COPY)
    everything = np.frombuffer(whole, np.uint8)
    found: dict[str, Any] = {}
    for entry in entries:
        part = everything[begin + entry.start : begin + entry.stop]
        _check_booleans(entry, part)
        found[entry.name] = _over(part, entry)
    return found


def _over(part: np.ndarray[Any, Any], entry: Entry) -> Any:
    """A tensor over bytes of a mapped file; over a copy where other programs put it at an odd address."""
    ours = dtypes.BY_NAME.get(OF_FILE[entry.dtype])
    if ours is None:
        return part.view(OF_FILE[entry.dtype]).reshape(entry.shape)
    return torch_files.tensor_over(part, ours, entry.shape)
