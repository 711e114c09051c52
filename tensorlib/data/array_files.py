"""Arrays in files, read whole: IDX (MNIST), CIFAR's binary version, NumPy's .npy and .npz. Nothing in a file is ever run."""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from tensorlib.dtypes import from_numpy_dtype
from tensorlib.errors import DTypeError, FileFormatError
from tensorlib.ops.creation import from_numpy
from tensorlib.tensor import Tensor

__all__ = ["read_cifar10", "read_cifar100", "read_idx", "read_npy", "read_npz"]

PathOf: TypeAlias = "str | os.PathLike[str]"
Array: TypeAlias = "np.ndarray[Any, Any]"
_DEFLATE_AT_MOST = 1032  # times larger than its input: deflate can do no better


class Stream:
    """A file, or a member of one, read from front to end. What is not as expected is a FileFormatError that names it."""

    def __init__(self, what: str, name: str, file: Any, at_most: int) -> None:
        self.what, self.name, self._file, self._left = what, name, file, at_most

    def fail(self, words: str, hint: str | None = None) -> NoReturn:
        raise FileFormatError(f"{self.what}: {self.name}: {words}", hint=hint)

    def take(self, size: int, part: str) -> Array:
        """The next `size` bytes; the memory for them is asked for only where the file can hold them."""
        if size > self._left:
            self.fail(f"{part} should take {size} bytes, at most {self._left} are left.")
        self._left -= size
        bytes_ = np.empty(size, np.uint8)
        done = 0
        while done < size:
            got = self._read(bytes_.data[done : done + (1 << 26)])
            if not got:
                self.fail(f"the file ends after {done} of the {size} bytes of {part}.")
            done += got
        return bytes_

    def end(self) -> None:
        if self._read(memoryview(bytearray(1))):
            self.fail("there are further bytes behind its end.")

    def _read(self, into: memoryview) -> int:
        try:
            return self._file.readinto(into)
        except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError) as error:
            self.fail(f"its compressed data are damaged ({error}).")


@contextmanager
def opened(what: str, path: PathOf) -> Iterator[Stream]:
    """A file, unpacked where it begins as gzip does."""
    with Path(path).open("rb") as raw:
        size, packed = os.fstat(raw.fileno()).st_size, raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if packed:
            with gzip.open(raw) as file:
                yield Stream(what, os.fspath(path), file, size * _DEFLATE_AT_MOST)
        else:
            yield Stream(what, os.fspath(path), raw, size)


# ---- IDX ----
_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: PathOf) -> Tensor:
    """The tensor in an IDX file, the format of MNIST, as it is or packed by gzip.

    Raises:
        FileFormatError: where the file is no IDX file, ends early or goes on behind its end.

    Source: the description of the format on MNIST's page (LeCun, Cortes, Burges).

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     tl.data.read_idx(path)
    tensor([7, 2, 1], dtype=tensorlib.uint8)
    """
    with opened("read_idx", path) as stream:
        magic = bytes(stream.take(4, "the magic number"))
        if magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or magic[3] > 16:
            stream.fail(
                f"begins with {magic!r}; expected two zeros, a type of {sorted(_IDX_TYPES)} and a rank up to 16."
            )
        shape = struct.unpack(f">{magic[3]}I", stream.take(4 * magic[3], "the sizes").data)
        dtype = np.dtype(_IDX_TYPES[magic[2]])
        data = stream.take(math.prod(shape) * dtype.itemsize, f"the elements of shape {shape}")
        stream.end()
    return _tensor_of(data.view(dtype).reshape(shape))


def _tensor_of(array: Array) -> Tensor:
    return from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


# ---- CIFAR ----
def read_cifar10(paths: PathOf | Sequence[PathOf]) -> tuple[Tensor, Tensor]:
    """Images and labels of CIFAR-10's binary files: data_batch_1.bin ... or test_batch.bin, one path or several.

    Shapes:
        returns: images (N, 3, 32, 32) of uint8 and labels (N,) of int64, in [0, 10); ``TensorDataset(*read_cifar10(paths))`` is a dataset.

    Raises:
        FileFormatError: where a file is not made of whole records, or a label is out of range.

    Source: Krizhevsky 2009, and the page of the data set.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "test_batch.bin")
    ...     _ = path.write_bytes(bytes([9]) + bytes(3 * 32 * 32))
    ...     images, labels = tl.data.read_cifar10(path)
    >>> images.shape, labels
    ((1, 3, 32, 32), tensor([9]))
    """
    images, labels = _cifar("read_cifar10", paths, (10,))
    return images, labels


def read_cifar100(paths: PathOf | Sequence[PathOf]) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and labels of superclasses of CIFAR-100's binary files, train.bin or test.bin.

    Shapes:
        returns: images (N, 3, 32, 32) of uint8, labels (N,) of int64 in [0, 100), and (N,) in [0, 20).

    Raises:
        FileFormatError: as `read_cifar10`.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "test.bin")
    ...     _ = path.write_bytes(bytes([19, 99]) + bytes(3 * 32 * 32))
    ...     images, labels, superclasses = tl.data.read_cifar100(path)
    >>> labels, superclasses
    (tensor([99]), tensor([19]))
    """
    images, coarse, fine = _cifar("read_cifar100", paths, (20, 100))
    return images, fine, coarse


def _cifar(what: str, paths: PathOf | Sequence[PathOf], classes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Records of one byte per kind of label, then the pixels: channels, rows, columns."""
    head, given = len(classes), [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise ValueError(f"{what}: got no paths.")
    found = []
    for path in given:
        size = Path(path).stat().st_size
        with opened(what, path) as stream:
            if size == 0 or size % (head + 3072):
                stream.fail(f"has {size} bytes; expected one or more records of {head + 3072}.")
            records = stream.take(size, "the records").reshape(-1, head + 3072)
        for k, n in enumerate(classes):
            wrong = np.flatnonzero(records[:, k] >= n)
            if len(wrong):
                stream.fail(f"record {wrong[0]} has label {records[wrong[0], k]}; expected labels below {n}.")
        found.append(records)
    images = np.concatenate([r[:, head:].reshape(-1, 3, 32, 32) for r in found])
    labels = [np.concatenate([r[:, k] for r in found]).astype(np.int64) for k in range(head)]
    return tuple(from_numpy(a) for a in (images, *labels))


# ---- NumPy ----
class Layout(NamedTuple):
    """What the header of a .npy file says; `begin` is where the elements do."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    begin: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


# A dict of three keys, in any order. Read by pattern: Python's own parser can be overrun by hostile text.
_HEADER = re.compile(
    r"""\s*\{(?=.*['"]descr['"]\s*:\s*['"]([<>|=]?[a-zA-Z]\d{0,4})['"])"""
    r"""(?=.*['"]fortran_order['"]\s*:\s*(True|False)\b)(?=.*['"]shape['"]\s*:\s*\(([\d,\s]*)\))[^{}]*\}\s*\Z""",
    re.DOTALL,
)


def npy_layout(stream: Stream) -> Layout:
    """Reads magic, version and header."""
    magic = bytes(stream.take(8, "the magic number"))
    if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        stream.fail(
            f"begins with {magic!r}; expected the magic of .npy files of version 1 to 3.",
            hint="read_npz reads archives of several arrays" if magic[:4] == b"PK\3\4" else None,
        )
    width, form = (2, "<H") if magic[6] == 1 else (4, "<I")
    (length,) = struct.unpack(form, stream.take(width, "the header's length").data)
    if length > 1 << 16:
        stream.fail(f"says that its header has {length} bytes; expected at most 65536.")
    text = bytes(stream.take(length, "the header")).decode("latin-1")
    found = _HEADER.match(text)
    if found is None:
        if re.search(r"descr['\"]\s*:\s*\[", text):
            stream.fail("holds a structured array; expected numbers.", hint="save each of its fields by itself")
        stream.fail(f"has the header {text[:80]!r}; expected descr, fortran_order and shape.")
    dtype = _npy_dtype(stream, found[1])
    shape = tuple(int(n) for n in found[3].split(",") if n.strip()) if len(found[3]) < 400 else (1,) * 99
    if len(shape) > 16 or math.prod(shape) >= 1 << 63:
        stream.fail(f"has the shape ({found[3][:80]}); expected up to 16 sizes, and fewer than 2^63 elements.")
    return Layout(dtype, shape, found[2] == "True", 8 + width + length)


def _npy_dtype(stream: Stream, name: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name)
    except TypeError:
        stream.fail(f"has the unknown dtype {name!r}.")
    if dtype.hasobject:
        stream.fail(
            "holds Python objects, which only pickle could read, and pickle runs whatever code a file contains.",
            hint="save it again with a dtype of numbers",
        )
    return dtype


def _npy_array(stream: Stream) -> Tensor:
    layout = npy_layout(stream)
    try:
        from_numpy_dtype(widened(layout.dtype))
    except DTypeError as error:
        stream.fail(str(error))
    data = stream.take(layout.size, f"the elements of shape {layout.shape}").view(layout.dtype)
    stream.end()
    return _tensor_of(
        data.reshape(layout.shape, order="F" if layout.fortran else "C").astype(widened(layout.dtype), copy=False)
    )


def widened(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that numbers of `dtype` have as a tensor: the unsigned ones of 16 and 32 bits become int32 and int64."""
    return np.dtype({"u2": np.int32, "u4": np.int64}.get(dtype.str[1:], dtype))


def read_npy(path: PathOf) -> Tensor:
    """The tensor in a .npy file, as it is or packed by gzip. uint16 becomes int32, uint32 int64; `MappedArray` reads rows on demand.

    Raises:
        FileFormatError: where the file is none, is cut or goes on, or holds what is no number: strings, records, Python objects.

    Source: numpy.lib.format.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "x.npy")
    ...     np.save(path, np.arange(3.0))
    ...     tl.data.read_npy(path).tolist()
    [0.0, 1.0, 2.0]
    """
    with opened("read_npy", path) as stream:
        return _npy_array(stream)


def read_npz(path: PathOf) -> dict[str, Tensor]:
    """The tensors in a .npz file, as `numpy.savez` and `numpy.savez_compressed` write it, by name.

    Raises:
        FileFormatError: as `read_npy`, naming the array, and where the archive or a checksum in it is damaged.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "x.npz")
    ...     np.savez(path, x=np.arange(2), y=np.ones(1))
    ...     tl.data.read_npz(path)
    {'x': tensor([0, 1]), 'y': tensor([1.], dtype=tensorlib.float64)}
    """
    arrays: dict[str, Tensor] = {}
    with Path(path).open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in arrays:
                    raise zipfile.BadZipFile(f"array {name!r} is there twice")
                room = info.compress_size * (_DEFLATE_AT_MOST if info.compress_type else 1)
                with archive.open(info) as member:
                    arrays[name] = _npy_array(Stream("read_npz", f"{os.fspath(path)}, array {name!r}", member, room))
        except FileFormatError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError, struct.error) as error:
            raise FileFormatError(
                f"read_npz: {os.fspath(path)}: expected a zip archive of .npy files: {error}."
            ) from None
    return arrays
