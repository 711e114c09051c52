"""The tree that a module shows: text, HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import tensorlib as tl
from tensorlib import nn


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 2)
        self.scale = nn.Parameter(tl.ones(1))
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
        self.head = nn.Linear(2, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.blocks[1].requires_grad_(False)


def test_text() -> None:
    assert (
        repr(Tied())
        == """Tied(  # 35 parameters, 29 trainable: scale (1,)
  (embedding): Embedding(5, 2)  # 10: weight (5, 2)
  (blocks): ModuleList(  # 24
    (0): Linear(2 -> 2)  # 6: weight (2, 2), bias (2,)
    (1): Linear(2 -> 2)  # 6 frozen: weight (2, 2), bias (2,)
    (2-3): 2 x Linear(2 -> 2)  # 6: weight (2, 2), bias (2,)
  )
  (head): Linear(2 -> 5, no bias)  # 0: weight (5, 2) shared
)"""
    )


def test_text_without_parameters() -> None:
    assert repr(nn.Linear(2, 3)) == "Linear(2 -> 3)"
    assert repr(nn.Sequential(nn.Tanh())) == "Sequential(\n  (0): Tanh()\n)"


def test_text_of_many_parameters_and_of_own_words() -> None:
    class Own(nn.Module):
        def __repr__(self) -> str:
            return "mine"

    net = nn.Sequential(nn.LSTM(1, 1, 2), Own())
    assert "weight_ih_l0 (4, 1), weight_hh_l0 (4, 1), bias_ih_l0 (4,), bias_hh_l0 (4,), ...\n" in repr(net)
    assert "(1): mine" in repr(net)


class Balanced(HTMLParser):
    """Every tag is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_html() -> None:
    page = Balanced(Tied()._repr_html_())
    said = "".join(page.words)
    assert "35 parameters, 29 trainable" in said and "5 -> 2" not in said
    assert "weight (5, 2) shared" in said and "2 -> 5, no bias" in said
    Balanced(nn.Tanh()._repr_html_())
