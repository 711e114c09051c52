"""The ranks' output: told apart, in whole lines, behind their numbers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import BinaryIO

from tensorlib.distributed.records import MARK, Record

__all__ = ["Printer", "Stream"]

_ERASE = b"\r\x1b[K"
_LONGEST = 1 << 20  # bytes of a line that are kept until it ends


class Printer:
    """Writes whole lines to this process's output and error stream; on a terminal, a progress bar stays below them."""

    def __init__(self, out: BinaryIO | None = None, err: BinaryIO | None = None) -> None:
        self._files = (out or sys.stdout.buffer, err or sys.stderr.buffer)
        self._bar = b""
        self._live = self._files[1].isatty()

    def line(self, text: bytes, stream: int) -> None:
        """One line, without its end, to stream 1 or 2."""
        self._write(stream, text + b"\n")

    def bar(self, text: bytes) -> None:
        """What a program shows and will overwrite: seen only where that can be done."""
        if self._live:
            self._bar = text
            self._write(2, b"")

    def end_bar(self) -> None:
        if self._bar:
            self._bar = b""
            self._files[1].write(_ERASE)
            self._files[1].flush()

    def _write(self, stream: int, text: bytes) -> None:
        file = self._files[stream - 1]
        if self._bar:
            self._files[1].write(_ERASE)
            self._files[1].flush()
        file.write(text)
        file.flush()
        if self._bar:
            self._files[1].write(self._bar)
            self._files[1].flush()


class _Line:
    """What one rank has written of a line, until it ends."""

    def __init__(self, name: bytes, stream: int, stream_of_records: Stream) -> None:
        self._name, self._stream, self._owner = name, stream, stream_of_records
        self._text = b""

    def add(self, text: bytes) -> None:
        *whole, rest = (self._text + text).split(b"\n")
        unfinished = b""
        for line in whole:
            before, mark, record = line.partition(self._owner.mark)
            if mark:
                self._owner.heard(Record(**json.loads(record)))
                unfinished += before  # the record's end is not the line's
            else:
                self._print(unfinished + line)
                unfinished = b""
        self._text = unfinished + rest
        if b"\r" in self._text:
            # What was overwritten is forgotten, so a bar that runs for days takes no memory.
            self._text = b"\r" + _shown(self._text) + b"\r" * self._text.endswith(b"\r")
            if MARK.encode() not in self._text:
                self._owner.printer.bar(self._name + self._text.strip(b"\r"))
        elif len(self._text) > _LONGEST:
            self.end()

    def end(self) -> None:
        if self._text:
            self._print(self._text)
            self._text = b""

    def _print(self, line: bytes) -> None:
        if b"\r" in line:
            self._owner.printer.end_bar()
        self._owner.printer.line(self._name + _shown(line), self._stream)


def _shown(line: bytes) -> bytes:
    """What is left on a terminal of text that went back to the start of its line."""
    return line if b"\r" not in line else next((part for part in reversed(line.split(b"\r")) if part.strip()), b"")


class Stream:
    """One of the launcher's two output streams, in which the ranks' pieces follow each other.

    Args:
        number: 1 for output, 2 for errors.
        tag: what the launcher puts before a rank's piece of text, a pattern with the rank as its group. A piece reaches to the end of its line or to
            the next tag; text at the start of a line without one is the launcher's own. None: all text is rank 0's.
        open_tag: a pattern of what may be the beginning of a tag, at the end of what has come so far.
        token: what a record starts with, after its mark.
    """

    def __init__(
        self, number: int, tag: str | None, open_tag: str, token: str, printer: Printer, heard: Callable[[Record], None]
    ) -> None:
        self.printer, self.heard = printer, heard
        self.mark = f"{MARK}{token} ".encode()
        self._number = number
        self._tag = re.compile(tag.encode()) if tag else None
        self._open_tag = re.compile(open_tag.encode() + rb"\Z")
        self._lines: dict[int | None, _Line] = {}
        self._rank: int | None = None
        self._held = b""

    def feed(self, chunk: bytes) -> None:
        """Text as it comes, cut anywhere."""
        if self._tag is None:
            self._give(0, chunk)
            return
        text = self._held + chunk
        at = 0
        for tag in self._tag.finditer(text):
            self._piece(text[at : tag.start()])
            self._rank, at = int(tag[1]), tag.end()
        beginning = self._open_tag.search(text, at)
        end = beginning.start() if beginning else len(text)
        self._piece(text[at:end])
        self._held = text[end:]

    def close(self) -> None:
        """No more will come: what is left of lines is printed."""
        self._piece(self._held)
        self._held = b""
        for line in self._lines.values():
            line.end()
        self.printer.end_bar()

    def _piece(self, text: bytes) -> None:
        of_rank, newline, own = text.partition(b"\n")
        self._give(self._rank, of_rank + newline)
        if newline:
            self._rank = None
            self._give(None, own)

    def _give(self, rank: int | None, text: bytes) -> None:
        if text:
            if rank not in self._lines:
                name = b"" if rank is None else b"[%d] " % rank
                self._lines[rank] = _Line(name, self._number, self)
            self._lines[rank].add(text)
