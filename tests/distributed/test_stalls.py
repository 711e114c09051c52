"""Where a rank is, in words."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from tensorlib.distributed import stalls


@pytest.mark.parametrize(("line", "said"), [(None, "train.py:0"), (31, "train.py:31")], ids=["between lines", "a line"])
def test_where(monkeypatch: pytest.MonkeyPatch, line: int | None, said: str) -> None:
    """The compiler makes instructions of no line, around `with` for example: a thread that looks at them must not fall."""
    frame = SimpleNamespace(f_code=SimpleNamespace(co_filename="train.py"), f_lineno=line, f_back=None)
    monkeypatch.setattr(sys, "_current_frames", lambda: {threading.main_thread().ident: frame})
    assert stalls.where() == said
