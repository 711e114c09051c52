"""The safetensors format: what a file may look like, and nothing else is let through.

A file is eight bytes (the length of the header, little-endian), the header (a JSON object), and the tensors' bytes, one after the other without
gaps or overlaps, up to the end. The header maps each name to ``{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}``, offsets from the
end of the header on, and may map ``"__metadata__"`` to an object of strings.

The header is read by a parser of this shape alone: no depth to exhaust, and no object made for what does not belong.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tensorlib import dtypes
from tensorlib.errors import CheckpointError

LONGEST = 100_000_000  # bytes of a header: the limit of the safetensors package
METADATA = "__metadata__"
# Bytes of an element, by the dtype's name in a file; first our dtypes in our order, then those that only NumPy has.
SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "I32": 4,
    "I64": 8,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "F64": 8,
    "C64": 8,
    "U16": 2,
    "U32": 4,
    "U64": 8,
}
_OURS = [d.name for d in dtypes.ALL if d is not dtypes.complex128]  # which the format lacks
OF_FILE = dict(zip(SIZES, [*_OURS, "uint16", "uint32", "uint64"], strict=True))
TO_FILE = {ours: name for name, ours in OF_FILE.items()}
_SPACE = re.compile(rb"[ \t\r\n]*")
_FIELDS = {"dtype", "shape", "data_offsets"}


class Entry(NamedTuple):
    """One tensor of a file: where its bytes lie, from the end of the header on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def header_length(first: bytes, size: int) -> int:
    """The header's length from a file's first eight bytes; `size` is the whole file's."""
    if len(first) < 8:
        raise CheckpointError(f"not a safetensors file: {size} bytes, expected at least 8 for the header's length.")
    length = int.from_bytes(first, "little")
    if length > LONGEST:
        raise CheckpointError(
            f"not a safetensors file: its header would have {length} bytes, at most {LONGEST} are allowed."
        )
    if length > size - 8:
        raise CheckpointError(f"the file is cut off: its header has {length} bytes, {size - 8} are there.")
    return length


def parse_header(header: bytes, size: int) -> tuple[list[Entry], dict[str, str]]:
    """The tensors in the header's order, and the metadata. `size` is how many bytes follow the header."""
    return _Header(header).parse(size)


class _Header:
    """A header being read; `at` is the next byte."""

    def __init__(self, text: bytes) -> None:
        self.text, self.at = text, 0

    def parse(self, size: int) -> tuple[list[Entry], dict[str, str]]:
        entries: dict[str, Entry] = {}
        metadata: dict[str, str] | None = None
        if self.text[:1] != b"{":
            raise CheckpointError("the header does not begin with '{'.")
        self._take(b"{")
        while self._more(first=not entries and metadata is None):
            name = self._name(entries)
            if name == METADATA:
                if metadata is not None:
                    raise CheckpointError(f'the header has "{METADATA}" twice.')
                metadata = self._metadata()
            else:
                entries[name] = self._entry(name)
        if self.text[self.at :].strip(b" \t\r\n"):
            raise CheckpointError(f"the header goes on after its end, at byte {self.at}.")
        check_layout(entries.values(), size)
        return list(entries.values()), metadata or {}

    def _peek(self) -> bytes:
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it always matches
        return self.text[self.at : self.at + 1]

    def _take(self, expected: bytes) -> None:
        if self._peek() != expected:
            raise CheckpointError(f"the header is no valid JSON: expected {expected.decode()!r} at byte {self.at}.")
        self.at += 1

    def _more(self, *, first: bool) -> bool:
        """Whether another member of the object follows; takes the comma before it, or the brace after the last."""
        if self._peek() == b"}":
            self.at += 1
            return False
        if not first:
            self._take(b",")
        return True

    def _string(self) -> str:
        begin = self.at + 1 if self._peek() == b'"' else -1
        end = self.text.find(b'"', begin) if begin > 0 else -1
        while end >= 0:
            before = end
            while self.text[before - 1] == 0x5C:  # backslashes: an odd number of them escapes the quote
                before -= 1
            if (end - before) % 2 == 0:
                break
            end = self.text.find(b'"', end + 1)
        if end < 0:
            raise CheckpointError(f"the header is no valid JSON: expected a string at byte {self.at}.")
        try:
            value: str = json.loads(self.text[begin - 1 : end + 1].decode())
        except ValueError as error:
            raise CheckpointError(f"the header has an invalid string at byte {self.at}: {error}.") from None
        self.at = end + 1
        return value

    def _name(self, known: Mapping[str, Any]) -> str:
        name = self._string()
        if name in known:
            raise CheckpointError(f"the header has {name!r} twice.")
        self._take(b":")
        return name

    def _metadata(self) -> dict[str, str]:
        found: dict[str, str] = {}
        self._take(b"{")
        while self._more(first=not found):
            key = self._name(found)
            found[key] = self._string()
        return found

    def _entry(self, name: str) -> Entry:
        self._peek()
        end = self.text.find(b"}", self.at, self.at + 1000)  # nothing of an entry nests
        try:
            pairs = json.loads(self.text[self.at : end + 1].decode(), object_pairs_hook=list)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"the header is no valid JSON where it describes {name!r}: {error}.") from None
        self.at = end + 1
        fields = dict(pairs)
        if fields.keys() != _FIELDS or len(pairs) != 3:
            raise CheckpointError(
                f"the header describes {name!r} by something else than dtype, shape and data_offsets."
            )
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        if type(dtype) is not str or dtype not in SIZES:
            raise CheckpointError(
                f"{name!r} has dtype {dtype!r}, which has no counterpart here; there are {', '.join(SIZES)}."
            )
        for what, numbers in (("shape", shape), ("data_offsets", offsets)):
            if type(numbers) is not list or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
                raise CheckpointError(f"{name!r} has {what} {numbers!r}, expected a list of integers from 0 on.")
        if len(offsets) != 2:
            raise CheckpointError(f"{name!r} has {len(offsets)} data_offsets, expected 2.")
        if len(shape) > 16:
            raise CheckpointError(f"{name!r} has {len(shape)} dimensions, at most 16 are possible.")
        return Entry(name, dtype, tuple(shape), *offsets)


def check_layout(entries: Any, size: int) -> None:
    """Every tensor has the bytes that its shape needs, and all of them together fill the `size` bytes there are, once."""
    reached, before = 0, "the beginning"
    for name, dtype, shape, start, stop in in_file_order(entries):
        if math.prod(n or 1 for n in shape) * SIZES[dtype] >= 2**63:
            raise CheckpointError(f"{name!r} has shape {shape}, beyond 63 bits.")
        needs = math.prod(shape) * SIZES[dtype]
        if stop - start != needs:
            raise CheckpointError(f"{name!r} has {stop - start} bytes, its shape {shape} of {dtype} needs {needs}.")
        if start != reached:
            what = "overlaps" if start < reached else "leaves a hole after"
            raise CheckpointError(f"{name!r} begins at byte {start}, not {reached}: it {what} {before}.")
        reached, before = stop, repr(name)
    if reached != size:
        how = "is cut off" if size < reached else "goes on after its last tensor"
        raise CheckpointError(f"the file {how}: its tensors have {reached} bytes, {size} follow the header.")


def in_file_order(entries: Any) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.start, entry.stop))


def lay_out(tensors: Mapping[str, tuple[str, Sequence[int]]]) -> list[Entry]:
    """Places for tensors given as (dtype, shape): in their order, but larger elements first, so that each lies where its elements may be read."""
    starts, reached = {}, 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: -SIZES[item[1][0]]):
        starts[name] = reached
        reached += math.prod(shape) * SIZES[dtype]
    return [
        Entry(name, dtype, tuple(shape), starts[name], starts[name] + math.prod(shape) * SIZES[dtype])
        for name, (dtype, shape) in tensors.items()
    ]


def make_header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    """The file's bytes up to the first tensor, padded by spaces so that it begins at a multiple of 64."""
    content: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    for name, dtype, shape, start, stop in entries:
        content[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    if len(text) > LONGEST:
        raise ValueError(
            f"save: names, shapes and plain values take {len(text)} bytes, a file's header has room for {LONGEST}: keep numbers in tensors."
        )
    return len(text).to_bytes(8, "little") + text
