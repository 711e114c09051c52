"""Tables in text, by column."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tensorlib.data.array_files import PathOf
from tensorlib.device import CPU
from tensorlib.dtypes import as_dtype, default_dtype, int64
from tensorlib.errors import FileFormatError
from tensorlib.ops.creation import tensor

__all__ = ["read_csv"]

_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def read_csv(
    path: PathOf, columns: Sequence[str | int] | None = None, *, header: bool = True, dtype: Any = None, delimiter: str = ",",
    missing_values: Collection[str] = ("",), filling_values: Any = None, encoding: str = "utf-8-sig",
) -> dict[str | int, Any]:  # fmt: skip
    """The columns of a CSV file, by name: numbers as tensors (N,), text as lists of N strings.

    ``TensorDataset(*table.values())`` makes a dataset of columns of numbers, `StackDataset(**table)` one of any columns.

    Args:
        columns: names, or numbers from 0, of those to read, in the order wanted; None: all.
        header: the first row has the names; otherwise columns are called 0, 1, ...
        dtype: of all columns, or a dict of those of some; ``str`` keeps text. What has none becomes int64 where all its values are such, else the
            default float, else bool (true and false), else text.
        missing_values: what a cell of numbers that was left out looks like.
        filling_values: the number that stands in for it, or a dict of one for each column; without, it is an error.

    Raises:
        FileFormatError: where rows differ in length, a value is missing, does not parse or does not fit, naming row (from 0), line and column.
        KeyError: for a column that is not there.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "x.csv")
    ...     _ = path.write_text("name,age,height\\nann,7,1.25\\nbob,,1.5\\n")
    ...     tl.data.read_csv(path, ["height", "age", "name"], filling_values={"age": -1})
    {'height': tensor([1.2500, 1.5000]), 'age': tensor([ 7, -1]), 'name': ['ann', 'bob']}
    """
    table = _Table(os.fspath(path), *_rows(os.fspath(path), delimiter, encoding))
    names = table.names(header)
    wanted = names if columns is None else columns
    made: dict[str | int, Any] = {}
    for column in wanted:
        name = names[column] if isinstance(column, int) and -len(names) <= column < len(names) else column
        if name not in names:
            raise KeyError(f"read_csv: {path}: has no column {column!r}; there are {', '.join(map(repr, names))}.")
        kind = dtype.get(name) if isinstance(dtype, Mapping) else dtype
        fill = filling_values.get(name) if isinstance(filling_values, Mapping) else filling_values
        made[name] = table.column(names.index(name), name, kind, frozenset(missing_values), fill)
    return made


def _rows(path: str, delimiter: str, encoding: str) -> tuple[list[list[str]], list[int]]:
    """Cells, and the line on which each row ends. Empty lines are none."""
    raw = Path(path).read_bytes()
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FileFormatError(
            f"read_csv: {path}: line {line} is not {encoding}: 0x{raw[error.start]:02x}: {error.reason}."
        ) from None
    reader, rows, lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [], []
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
                if len(row) != len(rows[0]):
                    raise csv.Error(f"has {len(row)} cells, the first row {len(rows[0])}")
    except csv.Error as error:
        raise FileFormatError(f"read_csv: {path}: line {reader.line_num}: {error}.") from None
    return rows, lines


@dataclass
class _Table:
    path: str
    rows: list[list[str]]
    lines: list[int]

    def names(self, header: bool) -> list[Any]:
        """Takes the first row off where it has the names."""
        if not self.rows:
            raise FileFormatError(f"read_csv: {self.path}: is empty; expected {'a header' if header else 'rows'}.")
        if not header:
            return list(range(len(self.rows[0])))
        names, self.rows, self.lines = [name.strip() for name in self.rows[0]], self.rows[1:], self.lines[1:]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise FileFormatError(f"read_csv: {self.path}: the header has the name {min(twice)!r} more than once.")
        return names

    def column(self, k: int, name: Any, dtype: Any, missing: frozenset[str], fill: Any) -> Any:
        cells = [row[k] for row in self.rows]
        if dtype is str:
            return cells
        words = [cell.strip() for cell in cells]
        absent = {i for i, word in enumerate(words) if word in missing}
        if dtype is None:
            parse, kind = _inferred([word for i, word in enumerate(words) if i not in absent], fill)
            if parse is None:
                return cells
        else:
            kind = as_dtype(bool if dtype is bool else dtype)
            parse = (_truth, _integer, _real, complex)[kind.category]
        if absent and fill is None:
            self._fail(min(absent), name, f"there is no value, and no filling_values for {kind.name}")
        values = [fill if i in absent else self._parsed(i, name, word, parse, kind) for i, word in enumerate(words)]
        return tensor(values, dtype=kind, device=CPU)

    def _parsed(self, i: int, name: Any, word: str, parse: Callable[[str], Any], kind: Any) -> Any:
        try:
            value = parse(word)
        except ValueError:
            self._fail(i, name, f"{word[:80]!r} is no {kind.name}")
        if kind.category == 1 and not np.iinfo(kind.np).min <= value <= np.iinfo(kind.np).max:
            self._fail(i, name, f"{word[:80]} does not fit into {kind.name}")
        return value

    def _fail(self, i: int, name: Any, words: str) -> NoReturn:
        raise FileFormatError(f"read_csv: {self.path}: row {i} (line {self.lines[i]}), column {name!r}: {words}.")


def _integer(word: str) -> int:
    return int(_plain(word))


def _truth(word: str) -> bool:
    if word.lower() not in _TRUTH:
        raise ValueError
    return _TRUTH[word.lower()]


def _plain(word: str) -> str:
    """Python would take 1_000 for a number."""
    if "_" in word:
        raise ValueError
    return word


def _real(word: str) -> float:
    return float(_plain(word))


def _inferred(words: list[str], fill: Any) -> tuple[Any, Any]:
    """The first kind of number that all words are, with its parser; (None, None) for text."""
    if not words:
        return _real, default_dtype()
    if all(word.lower() in ("true", "false") for word in words):
        return _truth, as_dtype(np.bool_)
    try:
        values = [_integer(word) for word in words]
        whole = fill is None or isinstance(fill, int)
        if all(-(1 << 63) <= v < 1 << 63 for v in values):
            return (_integer, int64) if whole else (_real, default_dtype())
        return None, None
    except ValueError:
        pass
    try:
        for word in words:
            _real(word)
    except ValueError:
        return None, None
    return _real, default_dtype()
