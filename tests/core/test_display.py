"""What tensors look like: the text, and the card in Jupyter, whose figures must be right and whose markup must parse."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest

import tensorlib as tl

inf, nan = float("inf"), float("nan")

TEXTS: dict[str, tuple[Callable[[], tl.Tensor], str]] = {
    "floats": (lambda: tl.tensor([1.0, 0.25]), "tensor([1.0000, 0.2500])"),
    "whole floats": (lambda: tl.tensor([1.0, -20.0]), "tensor([  1., -20.])"),
    "integers": (lambda: tl.tensor([[1, -2], [30, 4]]), "tensor([[ 1, -2],\n        [30,  4]])"),
    "bools": (lambda: tl.tensor([True, False]), "tensor([ True, False])"),
    "scalar": (lambda: tl.tensor(2.5), "tensor(2.5000)"),
    "integer": (lambda: tl.tensor(7), "tensor(7)"),
    "complex": (lambda: tl.tensor([1 + 2j]), "tensor([1.0000+2.0000j], dtype=tensorlib.complex64)"),
    "special": (lambda: tl.tensor([1.0, inf, -inf, nan]), "tensor([  1.,  inf, -inf,  nan])"),
    "large": (lambda: tl.tensor([1e10, 1.0]), "tensor([1.0000e+10, 1.0000e+00])"),
    "small": (lambda: tl.tensor([1e-6]), "tensor([1.0000e-06])"),
    "dtype": (lambda: tl.zeros(1, dtype=tl.float64), "tensor([0.], dtype=tensorlib.float64)"),
    "int8": (lambda: tl.zeros(1, dtype=tl.int8), "tensor([0], dtype=tensorlib.int8)"),
    "bfloat16": (lambda: tl.ones(1).bfloat16(), "tensor([1.], dtype=tensorlib.bfloat16)"),
    "device": (lambda: tl.zeros(1, device="reference"), "tensor([0.], device='reference')"),
    "leaf": (lambda: tl.ones(1, requires_grad=True), "tensor([1.], requires_grad=True)"),
    "recorded": (lambda: tl.ones(1, requires_grad=True) * 2, "tensor([2.], grad_fn=<mul>)"),
    "empty": (lambda: tl.zeros(0), "tensor([])"),
    "empty shape": (lambda: tl.zeros(2, 0), "tensor([], size=(2, 0))"),
    "empty integers": (lambda: tl.zeros(0, dtype=tl.int64), "tensor([], dtype=tensorlib.int64)"),
    "view": (lambda: tl.arange(6).reshape(2, 3).t()[1:], "tensor([[1, 4],\n        [2, 5]])"),
}


@pytest.mark.parametrize(("make", "expected"), TEXTS.values(), ids=TEXTS)
def test_text(make: Callable[[], tl.Tensor], expected: str) -> None:
    assert repr(make()) == str(make()) == expected


def test_long_tensors_are_cut() -> None:
    text = repr(tl.arange(100_000).reshape(100, 1000))
    assert text.count("\n") <= 10 and "..." in text and "99999" in text and len(text) < 1000
    assert "..." not in repr(tl.arange(1000)) and "..." in repr(tl.arange(1001))
    assert len(repr(tl.zeros([2] * 12))) < 200_000


def test_text_does_not_read_what_it_does_not_show() -> None:
    """An outlier in the middle does not decide the format of the corners."""
    x = tl.zeros(5000)
    x[2500] = 1e30
    assert repr(x) == "tensor([0., 0., 0., ..., 0., 0., 0.])"


# ---- the card ----
def card(t: tl.Tensor) -> tuple[dict[str, str], list[ET.Element], str]:
    """Its rows, the histogram's bars, and the text below."""
    root = ET.fromstring(t._repr_html_())
    rows = {r.findtext("th"): r.findtext("td") for r in root.iter("tr")}
    return rows, list(root.iter("rect")), root.findtext("pre") or ""  # type: ignore[return-value]


def test_figures() -> None:
    values = np.array([[1.0, 2.0, nan], [inf, -inf, 6.0]])
    rows, bars, text = card(tl.tensor(values, requires_grad=True))
    assert rows == {
        "shape": "(2, 3)", "dtype": "float64", "device": "cpu", "memory": "48 B", "min": "1", "mean": "3", "max": "6", "NaN": "1", "inf": "2",
        "grad_fn": "leaf, requires grad",
    }  # fmt: skip
    assert len(bars) == 3 and text.startswith("tensor([[")


def test_histogram(rng: np.random.Generator) -> None:
    values = rng.standard_normal(10_000)
    _, bars, text = card(tl.tensor(values))
    counts = np.histogram(values, bins=24)[0]
    heights = np.array([float(b.attrib["height"]) for b in bars])
    places = [int(b.attrib["x"]) // 6 for b in bars]
    np.testing.assert_allclose(heights, 28 * counts[places] / counts.max(), atol=0.051)
    assert not text and set(np.flatnonzero(counts)) == set(places)


def test_recorded_tensors_name_their_line() -> None:
    rows, *_ = card(tl.ones(2, requires_grad=True) * 2)
    assert re.fullmatch(rf"mul \({re.escape(__file__)}:\d+ in test_recorded_tensors_name_their_line\)", rows["grad_fn"])


@pytest.mark.parametrize(
    "t",
    [tl.zeros(0, 3), tl.tensor(True), tl.tensor([1j]), tl.tensor([nan, inf]), tl.zeros(100), tl.arange(5, dtype=tl.int8), tl.ones(3).bfloat16(),
     tl.ones(2, device="reference"), tl.tensor([1e308, -1e308], dtype=tl.float64), tl.full((3,), 2**63 - 1), tl.zeros(1000, 300)],
    ids=["empty", "bool", "complex", "nothing finite", "constant", "integers", "bfloat16", "reference", "extremes", "large integers", "large"],
)  # fmt: skip
def test_every_kind_has_a_card(t: tl.Tensor) -> None:
    rows, *_ = card(t)
    assert rows["shape"] == str(t.shape) and rows["dtype"] == t.dtype.name


def test_the_card_escapes_markup() -> None:
    code = "def f(x):\n    return x * 2\n"
    scope: dict[str, object] = {}
    exec(compile(code, "<b>&file", "exec"), scope)
    rows, *_ = card(scope["f"](tl.ones(1, requires_grad=True)))  # type: ignore[operator]
    assert "<b>&file" in rows["grad_fn"]


def test_memory_units() -> None:
    assert [card(tl.empty(n, dtype=tl.uint8))[0]["memory"] for n in (1, 1536, 3 << 20)] == ["1 B", "1.5 KiB", "3 MiB"]
