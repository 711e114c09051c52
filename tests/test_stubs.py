"""The committed stubs say what the library offers."""

from __future__ import annotations

from tests import stubs


def test_stubs_are_up_to_date() -> None:
    again = "run `python -m tests.stubs`"
    assert stubs.METHODS.read_text() == stubs.methods_stub(), again
    assert stubs.NAMES.read_text() == stubs.names_stub(), again
