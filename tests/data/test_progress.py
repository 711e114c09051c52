"""The progress bar: what it counts and shows, and that it goes on where the loader does."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest

import tensorlib as tl
from tensorlib import data


def loader(n: int = 10, **settings: Any) -> data.DataLoader:
    return data.DataLoader(data.TensorDataset(tl.arange(n)), batch_size=4, **settings)


def drawn(file: io.StringIO) -> str:
    """The bar as it was drawn last."""
    return file.getvalue().rstrip("\n").split("\r")[-1]


def test_what_is_shown() -> None:
    file = io.StringIO()
    bar = data.progress(loader(), "training", file=file, ncols=200)
    assert [x.tolist() for (x,) in bar] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert drawn(file).startswith("training: 100%|")
    assert "3/3 [" in drawn(file)
    assert " examples/s]" in drawn(file)


def test_a_running_mean() -> None:
    values = [float(i % 7) for i in range(500)]
    bar = data.progress(values, disable=True)
    for value in bar:
        bar.report(loss=tl.tensor(value, requires_grad=True) * 1, accuracy=value / 7)
    mean, weight = 0.0, 0.0
    for value in values:
        mean, weight = 0.98 * mean + value, 0.98 * weight + 1
    assert bar.words() == f"loss={mean / weight:.4f}, accuracy={mean / weight / 7:.4f}"


def test_tensors_are_read_only_as_the_bar_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    plain = tl.Tensor.__float__
    monkeypatch.setattr(tl.Tensor, "__float__", lambda t: (reads.append(1), plain(t))[1])
    bar = data.progress(range(1000), file=io.StringIO(), mininterval=3600)
    for _ in bar:
        bar.report(loss=tl.ones(()))
    assert 1 <= len(reads) <= 3


def test_it_begins_where_the_loader_goes_on() -> None:
    first = loader()
    next(iter(first))
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    file = io.StringIO()
    bar = data.progress(resumed, file=file)
    assert bar.n == 1
    assert len(list(bar)) == 2
    assert "3/3 [" in drawn(file)


@pytest.mark.parametrize(
    ("batch", "examples"),
    [
        (tl.ones(3, 2), 3),
        ({"x": [tl.ones(2)], "y": tl.ones(5)}, 2),
        (tl.nn.utils.rnn.pack_sequence([tl.ones(4), tl.ones(2)]), 2),
        (("a", "b"), 0),
        ([], 0),
    ],
    ids=["tensor", "nested", "packed", "text", "empty"],
)
def test_examples_of_a_batch(batch: Any, examples: int) -> None:
    file = io.StringIO()
    assert list(data.progress([batch], file=file)) == [batch]
    assert (" examples/s" in drawn(file)) == (examples > 0)
    bar = data.progress([batch], disable=True)
    list(bar)
    assert bar._examples == examples


def test_no_length() -> None:
    file = io.StringIO()
    assert len(list(data.progress((i for i in range(5)), file=file))) == 5
    assert "5batch [" in drawn(file)


def test_a_notebook_without_widgets_gets_the_bar_of_a_terminal() -> None:
    code = """
import sys, types
kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: kernel)
sys.modules["ipywidgets"] = None
import tensorlib as tl
list(tl.data.progress(range(3)))"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert "3/3 [" in done.stderr
    assert done.returncode == 0, done.stderr
