"""Files larger than memory, mapped into it: the system reads what is asked for, and drops it again as it needs the room."""

from __future__ import annotations

import codecs
import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorlib.data.array_files import Array, Layout, PathOf, npy_layout, opened, widened
from tensorlib.data.dataset import Dataset
from tensorlib.dtypes import as_dtype, from_numpy_dtype
from tensorlib.errors import DTypeError, FileFormatError, IndexRangeError
from tensorlib.ops.creation import from_numpy
from tensorlib.tensor import Tensor

__all__ = ["MappedArray", "TextLines"]


class _Mapping:
    """A file's bytes. Reading behind the end of a file that was cut meanwhile would kill the process: `bytes` looks first."""

    def __init__(self, path: PathOf, size: int | None = None) -> None:
        self.path = os.fspath(path)
        with Path(path).open("rb") as file:
            there = os.fstat(file.fileno()).st_size
            self.size = there if size is None else size
            self._check(there)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if there else None

    def _check(self, there: int) -> None:
        if there < self.size:
            raise FileFormatError(f"{self.path}: has {there} bytes, {self.size} when it was opened first: it was cut.")

    def bytes(self) -> Array:
        if self._map is None:
            return np.empty(0, np.uint8)
        self._check(self._map.size())
        return np.frombuffer(self._map, np.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Mapping, (self.path, self.size)


def _positions(what: str, indices: Any, n: int) -> Array:
    """Indices as NumPy's, from 0."""
    rows = np.asarray(indices.cpu().numpy() if isinstance(indices, Tensor) else indices)
    if rows.size and rows.dtype.kind not in "iu":
        raise TypeError(f"{what}: indices must be integers, got {rows.dtype}.")
    wrong = np.flatnonzero((rows < -n) | (rows >= n))
    if len(wrong):
        raise IndexRangeError(f"{what}: index {rows.flat[wrong[0]]} is out of range for {n} examples.")
    return rows.astype(np.int64) + n * (rows < 0)


class MappedArray(Dataset):
    """The rows of an array in a file, read as they are asked for: the array may be larger than memory.

    Example i is a tensor, a copy of row i. Batches are read in the order of the file, whatever the order of their indices. Worker processes map the
    file for themselves. uint16 becomes int32, uint32 int64.

    Args:
        path: a .npy file, or with `dtype` a raw file of such elements.
        dtype: of a raw file's elements, a dtype of tensorlib or of NumPy (which knows ``">f4"`` and ``np.uint16``).
        shape: of a raw file; its first size may be -1.
        offset: the bytes before a raw file's first element.

    Shapes:
        the file: (N, ...)  ->  example: (...); batch: (B, ...)

    Raises:
        FileFormatError: where the file's size is not what shape and dtype need, or it was cut since.
        IndexRangeError: for an index out of range.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "tokens.bin")
    ...     _ = path.write_bytes(np.arange(6, dtype=np.uint16).tobytes())
    ...     tokens = tl.data.MappedArray(path, dtype=np.uint16, shape=(-1, 2))
    ...     len(tokens), tokens[2].tolist(), tokens.batch([2, 0]).tolist()
    (3, [4, 5], [[4, 5], [0, 1]])
    """

    def __init__(self, path: PathOf, *, dtype: Any = None, shape: Sequence[int] | None = None, offset: int = 0) -> None:
        if dtype is None and (shape is not None or offset):
            raise ValueError("MappedArray: shape and offset describe a raw file, which needs a dtype as well.")
        self.path = os.fspath(path)
        self._raw = (dtype, shape, offset)
        self._mapping = _Mapping(path)
        layout = self._npy() if dtype is None else self._layout(dtype, shape, offset)
        try:
            self.dtype = from_numpy_dtype(widened(layout.dtype))
        except DTypeError as error:
            raise FileFormatError(f"MappedArray: {self.path}: {error}") from None
        self.shape, self._elements, self._begin = layout.shape, layout.dtype, layout.begin
        self._row = math.prod(self.shape[1:]) * layout.dtype.itemsize

    def _npy(self) -> Layout:
        with opened("MappedArray", self.path) as stream:
            layout = npy_layout(stream)
            if not layout.shape:
                stream.fail("holds a single number; expected rows.")
            if layout.fortran and len(layout.shape) > 1 and layout.size:
                stream.fail("is in Fortran's order, which scatters rows.", hint="save np.ascontiguousarray of it")
            if layout.begin + layout.size != self._mapping.size:
                stream.fail(
                    f"has {self._mapping.size} bytes; expected {layout.begin + layout.size} for {layout.dtype} of shape {layout.shape}."
                )
        return layout

    def _layout(self, dtype: Any, shape: Sequence[int] | None, offset: int) -> Layout:
        elements = np.dtype(dtype) if isinstance(dtype, (str, np.dtype, type)) else as_dtype(dtype).np
        if elements is None or elements.kind not in "biufc":
            raise DTypeError(f"MappedArray: expected a dtype of numbers that NumPy has, got {dtype}.")
        sizes, left = tuple(shape or (-1,)), self._mapping.size - offset
        if any(n < 0 for n in sizes[1:]) or sizes[0] < -1 or offset < 0:
            raise ValueError(f"MappedArray: got shape {sizes} and offset {offset}; only the first size may be -1.")
        row = math.prod(sizes[1:]) * elements.itemsize
        if sizes[0] == -1:
            sizes = (max(left, 0) // row if row else 0, *sizes[1:])
        if left != sizes[0] * row:
            raise FileFormatError(
                f"MappedArray: {self.path}: has {left} bytes after offset {offset}; expected {sizes[0] * row} "
                f"for {elements} of shape {sizes}."
            )
        return Layout(elements, sizes, False, offset)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Tensor:
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int]) -> Tensor:
        """The rows `indices`, as one tensor."""
        rows = _positions("MappedArray", indices, len(self))
        end = self._begin + len(self) * self._row
        table = self._mapping.bytes()[self._begin : end].reshape(len(self), self._row)
        order = np.argsort(rows, kind="stable")
        found = np.empty((len(rows), self._row), np.uint8)
        found[order] = table.take(rows[order], axis=0)  # both let other threads run, also while the system reads
        numbers = found.reshape(-1).view(self._elements).reshape(len(rows), *self.shape[1:])
        return from_numpy(numbers.astype(self.dtype.np, copy=False))

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        return list(self.batch(indices))

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped_array, (self.path, *self._raw)


def _mapped_array(path: str, dtype: Any, shape: Any, offset: int) -> MappedArray:
    return MappedArray(path, dtype=dtype, shape=shape, offset=offset)


class TextLines(Dataset):
    """The lines of a text file, without their ends: example i is line i, read as it is asked for.

    One pass over the file notes where lines begin, 8 bytes for each; the text stays on disk.

    Raises:
        FileFormatError: where a line is not in `encoding`, naming line and byte, or the file was cut since it was opened.
        IndexRangeError: for an index out of range.
        ValueError: for an encoding whose line feed is not the byte 10, as UTF-16's.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "text")
    ...     _ = path.write_text("one\\ntwo\\n")
    ...     lines = tl.data.TextLines(path)
    ...     len(lines), lines[1]
    (2, 'two')
    """

    _STEP = 1 << 22

    def __init__(self, path: PathOf, encoding: str = "utf-8") -> None:
        if "\n".encode(encoding) != b"\n":
            raise ValueError(f"TextLines: in {encoding} a line feed is not the byte 10: lines can not be found.")
        self.path, self.encoding = os.fspath(path), encoding
        self._mapping = _Mapping(path)
        text = self._mapping.bytes()
        begin = 3 if codecs.lookup(encoding).name == "utf-8" and text[:3].tobytes() == codecs.BOM_UTF8 else 0
        ends = [np.flatnonzero(text[at : at + self._STEP] == 10) + at + 1 for at in range(0, len(text), self._STEP)]
        bounds = np.concatenate([np.array([begin], np.int64), *ends])
        self._bounds = bounds if bounds[-1] == len(text) else np.append(bounds, len(text))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> str:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[str]:
        rows = _positions("TextLines", indices, len(self))
        text, lines = self._mapping.bytes(), [""] * len(rows)
        for place in np.argsort(rows, kind="stable").tolist():
            begin, end = self._bounds[rows[place]], self._bounds[rows[place] + 1]
            lines[place] = self._decoded(int(rows[place]), text[begin:end].tobytes())
        return lines

    def _decoded(self, number: int, line: bytes) -> str:
        try:
            return line.removesuffix(b"\n").removesuffix(b"\r").decode(self.encoding)
        except UnicodeDecodeError as error:
            raise FileFormatError(
                f"TextLines: {self.path}: line {number} (from 0) is not {self.encoding}: byte {error.start}, "
                f"0x{line[error.start]:02x}: {error.reason}."
            ) from None
