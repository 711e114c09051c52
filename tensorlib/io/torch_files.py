"""PyTorch's zip files (.pt, .pth), read without PyTorch and without running anything that they contain.

Such a file is a zip archive of uncompressed records: ``NAME/data.pkl``, the program that describes the object (see opcodes.py), ``NAME/data/KEY``,
the bytes of each storage, and a few words about the format. The archive is held to what PyTorch writes: each record once, none compressed, none
over another, every checksum right.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from tensorlib import dtypes
from tensorlib.backends import ADOPTED, view_bytes
from tensorlib.device import CPU, Device
from tensorlib.dtypes import DType
from tensorlib.errors import CheckpointError
from tensorlib.io.opcodes import Maker, run
from tensorlib.native import ffi, keep, lib
from tensorlib.ops.creation import empty
from tensorlib.status import checked
from tensorlib.tensor import Tensor, wrap

__all__ = ["read_torch_file"]

Array: TypeAlias = "np.ndarray[Any, Any]"
_SPARE = 64 << 20  # bytes that names, numbers and containers may take beside the file's own size
_CHUNK = 1 << 20  # read, then summed while it is in the cache
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save began with before 1.6
_AGAIN = "load it in PyTorch and save it again by torch.save(obj, path), as state_dict() for modules"


def read_torch_file(f: Any, map_location: Device | str | None = None) -> Any:
    """What `torch.save` of PyTorch 1.6 and newer wrote: tensors, in dicts, lists and tuples, and plain values beside them.

    No code runs, whatever the file holds: its program is read by an interpreter that knows the names of tensors' parts alone. So state_dicts of
    modules, optimizers and schedules are read; a pickled module, a TorchScript archive and anything else are refused. Tensors that shared memory
    share it again, strides and `requires_grad` (of floats) are kept, parameters come as tensors. uint16, uint32 and uint64 come as NumPy arrays.

    Memory: the tensors' own, at most the file's size; for names, numbers and containers at most 64 MiB and once more the file's size.

    Args:
        f: a path, or a binary file open for reading.
        map_location: the device of the tensors, wherever they were; None: the CPU.

    Raises:
        CheckpointError: where the file is none of PyTorch's, is damaged, or holds anything else, saying what.
        FileNotFoundError: and other kinds of OSError, where it can not be read.

    >>> import tempfile, zipfile
    >>> path = tempfile.mkdtemp() + "/x.pt"
    >>> with zipfile.ZipFile(path, "w") as file:  # as torch.save([1, None], path) writes it
    ...     file.writestr("x/data.pkl", b"\\x80\\x02](K\\x01Ne.")
    ...     file.writestr("x/version", b"3\\n")
    >>> tl.io.read_torch_file(path)
    [1, None]
    """
    if hasattr(f, "readinto"):
        with _naming(getattr(f, "name", "the file")):
            return read(f, map_location)
    with Path(f).open("rb", buffering=0) as file, _naming(os.fspath(f)):
        return read(file, map_location)


@contextmanager
def _naming(name: Any) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"read_torch_file: {name}: {error}") from None


def begins(first: bytes) -> bool:
    """Whether a file with these first bytes is PyTorch's, of whatever version."""
    return first.startswith((b"PK\3\4", _LEGACY[:8]))


def read(file: Any, device: Device | str | None = None, *, mapped: bool = False) -> Any:
    """The content of an open file from where it stands. `mapped`: tensors over a map of the file, whose checksums are not compared."""
    archive = _Archive(file)
    storages = _Storages(archive, device, mapped)
    program = archive.read("data.pkl")
    return run(program, storages.names(), storages.load, _SPARE + archive.size - archive.spent)


# ---- the archive ----
class _Record(NamedTuple):
    offset: int  # of its local header
    end: int  # the next record's offset, or the directory's
    size: int
    crc: int
    name: bytes
    packed: bool


class _Archive:
    """The records of a file, by their names behind the archive's own."""

    def __init__(self, file: Any) -> None:
        self.file, self.begin = file, file.tell()
        self.size = file.seek(0, os.SEEK_END) - self.begin
        self._check_beginning()
        begin, count, length = self._directory()
        self.spent = count * 400  # what the records' names take in memory
        if self.spent > _SPARE + self.size:
            self.fail(f"has {count} records, too many for its size.")
        self.records = self._records(begin, count, self._at(begin, length))
        if "constants.pkl" in self.records:
            self.fail("is a TorchScript archive, which holds a program.", "save state_dict() of the module instead")
        if "data.pkl" not in self.records:
            self.fail("is a zip archive without data.pkl, so torch.save did not write it.")
        for name, record in self.records.items():
            if record.packed:
                self.fail(f"record {name!r} is compressed; PyTorch stores records as they are.", _AGAIN)
        if self.records.get("byteorder") and self.read("byteorder") != b"little":
            self.fail("was not written on a little-endian machine.", "save it again on one")
        if "version" in self.records and not self.read("version").strip().isdigit():
            self.fail("has no number as its version.")

    def fail(self, words: str, hint: str = "") -> NoReturn:
        raise CheckpointError(words, hint=hint or None)

    def _check_beginning(self) -> None:
        first = self._at(0, min(self.size, 262))
        if first[:4] == b"PK\3\4":
            return
        if first.startswith(_LEGACY) or first[257:] == b"ustar":
            self.fail("has the format of PyTorch before 1.6, which is not read.", _AGAIN)
        if first[:1] == b"\x80":
            self.fail("is a bare pickle, which is not read.", _AGAIN)
        self.fail(f"begins with {bytes(first[:8])!r}; expected the zip archive that torch.save writes.")

    def _at(self, offset: int, n: int) -> bytearray:
        if offset + n > self.size:
            self.fail(f"is cut off: {n} bytes expected at {offset}, the file has {self.size}.")
        found = bytearray(n)
        self._fill(offset, memoryview(found))
        return found

    def _fill(self, offset: int, memory: memoryview) -> int:
        """Reads, and gives the checksum of what was read."""
        self.file.seek(self.begin + offset)
        done = crc = 0
        while done < len(memory):
            part = memory[done : done + _CHUNK]
            n = self.file.readinto(part)
            if not n:
                self.fail(f"is cut off at byte {offset + done}.")
            crc = zlib.crc32(part[:n], crc)
            done += n
        return crc

    def _directory(self) -> tuple[int, int, int]:
        """Offset, number of records and length of the directory at the end, which must reach up to the end."""
        if self.size < 22:
            self.fail("is cut off: a zip archive has at least 22 bytes.")
        magic, disk, start, here, count, length, begin, comment = struct.unpack(
            "<4s4H2IH", self._at(self.size - 22, 22)
        )
        if magic != b"PK\5\6" or comment or disk or start or here != count:
            self.fail("does not end as a zip archive of one part does: it is cut off, or goes on behind its end.")
        end = self.size - 22
        last = self._at(end - 76, 76) if end >= 76 else b""
        if last[56:60] == b"PK\6\7":  # a second ending, with numbers of 64 bits
            end -= 76
            if last[:4] != b"PK\6\6" or struct.unpack_from("<Q", last, 64)[0] != end:
                self.fail("has a damaged ending.")
            count, length, begin = struct.unpack_from("<3Q", last, 32)
        if begin + length != end or count * 46 > length:
            self.fail("has a directory that is not where it says, or too short.")
        return begin, count, length

    def _records(self, begin: int, count: int, directory: bytearray) -> dict[str, _Record]:
        found: list[tuple[int, int, int, bytes, bool]] = []
        at = 0
        for _ in range(count):
            if directory[at : at + 4] != b"PK\1\2" or at + 46 > len(directory):
                self.fail("has a damaged directory.")
            (flags, method, crc, packed, size, n, extra, comment, disk, offset) = struct.unpack_from(
                "<2H4x3I3HH6xI", directory, at + 8
            )
            name = bytes(directory[at + 46 : at + 46 + n])
            large = directory[at + 46 + n : at + 46 + n + extra]
            at += 46 + n + extra + comment
            size, packed, offset = self._large(large, size, packed, offset)
            if flags & ~0x808 or disk:
                self.fail(f"record {name[:80]!r} is encrypted or in parts, which is not read.")
            found.append((offset, packed, crc, name, method != 0 or size != packed))
        if at != len(directory):
            self.fail("has a directory longer than its records.")
        return self._named(sorted(found), begin)

    def _large(self, extra: bytearray, size: int, packed: int, offset: int) -> tuple[int, int, int]:
        """The 64-bit sizes, for those that say that they are there."""
        at = 0
        while at + 4 <= len(extra):
            kind, n = struct.unpack_from("<2H", extra, at)
            if kind == 1:
                wide = [extra[i : i + 8] for i in range(at + 4, min(at + 4 + n, len(extra)), 8)][::-1]
                values = [
                    int.from_bytes(wide.pop(), "little") if value == 0xFFFFFFFF and wide else value
                    for value in (size, packed, offset)
                ]
                return values[0], values[1], values[2]
            at += 4 + n
        return size, packed, offset

    def _named(self, found: list[tuple[int, int, int, bytes, bool]], begin: int) -> dict[str, _Record]:
        """By name, none twice, none over another."""
        records: dict[str, _Record] = {}
        folder = found[0][3].split(b"/")[0] + b"/" if found else b""
        ends = [offset for offset, *_ in found[1:]] + [begin]
        for (offset, size, crc, name, packed), end in zip(found, ends, strict=True):
            if offset + 30 + len(name) + size > end:
                self.fail(f"record {name[:80]!r} overlaps the next one, or the file is cut off.")
            try:
                short = name.removeprefix(folder).decode("ascii")
            except UnicodeDecodeError:
                short = ""
            if not name.startswith(folder) or not short or ".." in short or not short.isprintable() or "\\" in short:
                self.fail(f"record {name[:80]!r} has a name that PyTorch gives to none.")
            if short in records:
                self.fail(f"record {short!r} is there twice.")
            records[short] = _Record(offset, end, size, crc, name, packed)
        return records

    def read(self, name: str) -> bytearray:
        found = bytearray(self.records[name].size)
        self.fill(name, memoryview(found))
        return found

    def fill(self, name: str, memory: memoryview) -> None:
        """A record's bytes into as much memory, its checksum compared."""
        if self._fill(self.locate(name), memory) != self.records[name].crc:
            self.fail(f"record {name!r} does not have its checksum: it is damaged.")

    def locate(self, name: str) -> int:
        """Where a record's bytes begin."""
        record = self.records[name]
        head = self._at(record.offset, 30)
        magic, flags, method, n, extra = struct.unpack("<4s2x2H16x2H", head)
        begin = record.offset + 30 + n + extra
        if magic != b"PK\3\4" or flags & ~0x808 or method or begin + record.size > record.end:
            self.fail(f"record {name!r} is not where the directory says.")
        if self._at(record.offset + 30, n) != record.name:
            self.fail(f"record {name!r} has another name where it lies.")
        return begin


# ---- storages and tensors ----
_STORAGES: dict[str, DType | None] = {
    "FloatStorage": dtypes.float32, "DoubleStorage": dtypes.float64, "HalfStorage": dtypes.float16, "BFloat16Storage": dtypes.bfloat16,
    "LongStorage": dtypes.int64, "IntStorage": dtypes.int32, "ShortStorage": dtypes.int16, "CharStorage": dtypes.int8,
    "ByteStorage": dtypes.uint8, "BoolStorage": dtypes.bool_, "ComplexFloatStorage": dtypes.complex64,
    "ComplexDoubleStorage": dtypes.complex128,
}  # fmt: skip


class _Kind(NamedTuple):
    """A class of storages; the dtype is None for bytes of which each tensor says the dtype."""

    dtype: DType | None


class _Storage(NamedTuple):
    kind: _Kind
    numel: int
    data: Any  # a tensor of one dimension; without a dtype, a NumPy array of bytes


class _Storages:
    """What the program of one file refers to: each storage is read once, when it is first named."""

    def __init__(self, archive: _Archive, device: Device | str | None, mapped: bool) -> None:
        self.archive, self.device = archive, device
        self.map: Any = np.frombuffer(mmap(archive.file.fileno(), 0, access=ACCESS_COPY), np.uint8) if mapped else None
        self.loaded: dict[str, _Storage] = {}

    def names(self) -> dict[tuple[str, str], Any]:
        """All that a program may name."""
        known: dict[tuple[str, str], Any] = {("torch", name): _Kind(dtype) for name, dtype in _STORAGES.items()}
        known["torch.storage", "UntypedStorage"] = known["torch", "UntypedStorage"] = _Kind(None)
        known |= {("torch", name): dtype for name, dtype in dtypes.BY_NAME.items()}
        known |= {("torch", name): np.dtype(name) for name in ("uint16", "uint32", "uint64")}
        known["collections", "OrderedDict"] = Maker(_ordered_dict, 150)
        known["collections", "Counter"] = Maker(_counter, 350, each=128)
        known["torch", "Size"] = Maker(_size, 64)
        known["_codecs", "encode"] = Maker(_bytes, 64, each=1)
        known["torch._utils", "_rebuild_tensor_v2"] = Maker(lambda args: self._tensor(args, typed=True), 700)
        known["torch._utils", "_rebuild_tensor_v3"] = Maker(lambda args: self._tensor(args, typed=False), 700)
        known["torch._utils", "_rebuild_parameter"] = Maker(_parameter)
        return known

    def load(self, key: Any) -> _Storage:
        """The storage of a persistent id: the word "storage", a class, the record's key, a device, the number of elements."""
        if not (
            type(key) is tuple and len(key) == 5 and key[0] == "storage" and isinstance(key[1], _Kind)
            and isinstance(key[2], str) and isinstance(key[3], str) and type(key[4]) is int and key[4] >= 0
        ):  # fmt: skip
            raise CheckpointError("a storage is not described as PyTorch does.")
        kind, name, numel = key[1], f"data/{key[2]}"[:200], key[4]
        known = self.loaded.get(name)
        if known is None:
            known = self.loaded[name] = _Storage(kind, numel, self._read(kind, name, numel))
        elif known[:2] != (kind, numel):
            raise CheckpointError(f"storage {name!r} is described in two ways.")
        return known

    def _read(self, kind: _Kind, name: str, numel: int) -> Any:
        record = self.archive.records.get(name)
        if record is None:
            raise CheckpointError(f"record {name!r} is not in the archive.")
        nbytes = numel * (kind.dtype.itemsize if kind.dtype else 1)
        if record.size != nbytes:
            raise CheckpointError(f"record {name!r} has {record.size} bytes, expected {nbytes}.")
        made, content = self._content(name, kind.dtype, numel, nbytes)
        if kind.dtype is None:
            return content
        if kind.dtype is dtypes.bool_ and content.size and content.max() > 1:
            raise CheckpointError(f"record {name!r} has bytes that are neither true nor false.")
        return made if self.device is None else made.to(self.device)

    def _content(self, name: str, dtype: DType | None, numel: int, nbytes: int) -> tuple[Any, Array]:
        """A tensor of one dimension, where there is a dtype, and its bytes."""
        if self.map is not None:
            begin = self.archive.begin + self.archive.locate(name)
            content = self.map[begin : begin + nbytes]
            return None if dtype is None else tensor_over(content, dtype, (numel,)), content
        made = None if dtype is None else empty(numel, dtype=dtype, device=CPU)
        content = (
            np.empty(nbytes, np.uint8) if made is None else view_bytes(made._array, lib.tl_peek(made._array), nbytes)
        )
        self.archive.fill(name, content.data)
        return made, content

    def _tensor(self, arguments: tuple[Any, ...], *, typed: bool) -> Any:
        storage, offset, shape, strides, grad, hooks, *more = arguments if len(arguments) > 5 else (None,) * 6
        dtype = None if typed or not more else more.pop(0)
        if not isinstance(storage, _Storage) or len(more) > 1 or not _no_hooks(hooks):
            raise CheckpointError("a tensor is not described as PyTorch does.")
        if (storage.kind.dtype is None) == typed or not (typed or isinstance(dtype, np.dtype)):
            raise CheckpointError("a tensor does not have its storage's dtype.")
        if more and more[0]:
            raise CheckpointError(
                "a tensor is a conjugated or negated view.", hint="save resolve_conj() or resolve_neg() of it"
            )
        itemsize = dtype.itemsize if isinstance(dtype, np.dtype) else 1
        _check_layout(offset, shape, strides, storage.numel // itemsize)
        if isinstance(dtype, np.dtype):
            numbers = storage.data[: storage.numel // itemsize * itemsize].view(dtype)[offset:]
            return np.lib.stride_tricks.as_strided(numbers, shape, [s * itemsize for s in strides])
        made = storage.data.as_strided(shape, strides, offset)
        return _with_grad(made, grad)


def tensor_over(content: Array, dtype: DType, shape: Sequence[int]) -> Tensor:
    """A tensor over an array's bytes; over a copy where a file has them at an odd address."""
    if not content.size:
        return empty(shape, dtype=dtype, device=CPU)
    if content.ctypes.data % dtype.itemsize:
        content = content.copy()
    handle = lib.tl_adopt(
        content.ctypes.data, content.size, ADOPTED, keep(content), False, dtype.number, len(shape), shape, ffi.NULL
    )
    return wrap(checked(handle, "load", tuple(shape)))


def _check_layout(offset: Any, shape: Any, strides: Any, numel: int) -> None:
    """A tensor lies within its storage."""
    if not (_sizes(shape) and _sizes(strides) and len(shape) == len(strides) <= 16 and _sizes((offset,))):
        raise CheckpointError("a tensor's sizes, strides and offset are not as PyTorch's.")
    if math.prod(shape) >> 63:
        raise CheckpointError(f"a tensor has the shape {shape}, which is beyond 63 bits.")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if offset > numel or (0 not in shape and last >= numel):
        raise CheckpointError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} passes the end of its storage of {numel} elements."
        )


def _sizes(values: Any) -> bool:
    return type(values) is tuple and all(type(v) is int and 0 <= v < 1 << 63 for v in values)


def _with_grad(x: Any, requires_grad: Any) -> Any:
    if type(requires_grad) is not bool or (requires_grad and x.dtype.category < 2):
        raise CheckpointError("a tensor that is no float is said to require a gradient.")
    return x.requires_grad_(True) if requires_grad and x.dtype.is_floating_point else x


def _no_hooks(hooks: Any) -> bool:
    return hooks is None or (type(hooks) is OrderedDict and not hooks)


def _parameter(arguments: tuple[Any, ...]) -> Any:
    if len(arguments) != 3 or not isinstance(arguments[0], Tensor) or not _no_hooks(arguments[2]):
        raise CheckpointError("a parameter is not described as PyTorch does.")
    return _with_grad(arguments[0], arguments[1])


def _ordered_dict(arguments: tuple[Any, ...]) -> Any:
    if arguments:
        raise CheckpointError("an OrderedDict is not made as PyTorch does.")
    return OrderedDict()


def _counter(arguments: tuple[Any, ...]) -> Any:
    if len(arguments) != 1 or type(arguments[0]) is not dict or not all(type(n) is int for n in arguments[0].values()):
        raise CheckpointError("a Counter is not made of a dict of integers.")
    return Counter(arguments[0])


def _size(arguments: tuple[Any, ...]) -> Any:
    if len(arguments) != 1 or not _sizes(arguments[0]):
        raise CheckpointError("a torch.Size is not made of a tuple of sizes.")
    return arguments[0]


def _bytes(arguments: tuple[Any, ...]) -> Any:
    """How protocol 2 writes bytes."""
    if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
        with suppress(UnicodeEncodeError):
            return arguments[0].encode("latin-1")
    raise CheckpointError("bytes are not described as PyTorch does.")
