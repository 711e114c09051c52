"""summary: the table of a model's layers for one input."""

from __future__ import annotations

from typing import Any

import pytest

import tensorlib as tl
from tensorlib import nn
from tests.nn.test_tree import Balanced


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.twice = nn.Linear(4, 4).requires_grad_(False)
        self.never = nn.Tanh()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Any, *, scale: Any = 1) -> Any:
        h = self.norm(self.lstm(x)[0][-1])
        return {"out": self.drop(self.twice(self.twice(h))) * scale}


def test_rows_and_figures() -> None:
    net = Net()
    made = nn.summary(net, tl.randn(5, 2, 3), scale=2)
    rows = {row.name: row for row in made.rows}
    assert list(rows) == ["", "lstm", "norm", "twice", "never", "drop"]
    assert rows["lstm"].output == "(5, 2, 4), (1, 2, 4), (1, 2, 4)" and rows["lstm"].nbytes == 4 * (40 + 8 + 8)
    assert rows["twice"].output == "(2, 4) (2 calls)" and rows["twice"].nbytes == 2 * 32
    assert rows["never"].output == "not called" and rows[""].output == "(2, 4)"
    total = sum(p.numel() for p in net.parameters())
    assert (made.total_params, made.trainable_params) == (total, total - 20)
    assert made.parameter_bytes == 4 * total and made.buffer_bytes == 4 * 8 + 8 and made.input_bytes == 120
    assert made.output_bytes == 224 + 32 + 64 + 32
    assert f"parameters: {total}, {total - 20} trainable" in str(made)


def test_the_model_stays_as_it_is() -> None:
    net = Net()
    net.norm.eval()
    state, drawn = {k: v.tolist() for k, v in net.state_dict().items()}, tl.get_rng_state()
    nn.summary(net, tl.ones(5, 2, 3))
    assert state == {k: v.tolist() for k, v in net.state_dict().items()} and tl.equal(drawn, tl.get_rng_state())
    assert net.training and not net.norm.training and net.drop.training
    net(tl.ones(5, 2, 3))
    assert all(m._hooks is None for m in net.modules() if m is not net.never)


def test_a_model_that_fails_loses_its_hooks() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(tl.ShapeError):
        nn.summary(net, tl.ones(1, 3))
    assert net.training and not net._hooks
    with pytest.raises(TypeError, match="expected a Module, got int"):
        nn.summary(3, tl.ones(1))  # type: ignore[arg-type]


def test_inputs_and_outputs_of_other_kinds() -> None:
    class Two(nn.Module):
        def forward(self, x: Any, n: int) -> Any:
            return n

    assert nn.summary(Two(), (tl.ones(3), 4)).rows[0].output == "int"
    packed = nn.utils.rnn.pack_sequence([tl.ones(3, 2), tl.ones(1, 2)])
    assert nn.summary(nn.LSTM(2, 5), packed).rows[0].output == "(4, 5), (1, 2, 5), (1, 2, 5)"
    lazy = nn.Sequential(nn.LazyLinear(2))
    assert nn.summary(lazy, tl.ones(1, 3)).total_params == 8


def test_html() -> None:
    page = Balanced(nn.summary(Net(), tl.ones(5, 2, 3))._repr_html_())
    assert "twice: Linear" in page.words and "(2, 4) (2 calls)" in page.words
