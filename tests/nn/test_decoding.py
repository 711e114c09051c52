"""Greedy and beam search, held to searches over all sequences, and to a plain beam search that never stops early."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn.decoding import Hypothesis, beam_search, greedy_decode

V, END, LENGTH, INPUTS = 3, 2, 4, 5
ALL = V**LENGTH  # so wide a beam drops nothing


@pytest.fixture
def tables(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """[input, prefix] -> log-probabilities; prefixes are numbers in base V + 1."""
    p = rng.dirichlet(np.ones(V) * 0.7, (INPUTS, (V + 1) ** (LENGTH + 1)))
    return np.log(p)


class Model:
    """What comes next depends on the whole past, which the state keeps: {"prefix": (N,), "more": [(1, N) the input's number, None]}."""

    def __init__(self, tables: np.ndarray[Any, Any]) -> None:
        self.tables, self.dims = tl.tensor(tables), {"prefix": 0, "more": 1}
        self.rows: list[int] = []  # of each call

    def state(self, inputs: range | list[int] = range(INPUTS)) -> dict[str, Any]:
        return {"prefix": tl.zeros(len(inputs), dtype=tl.int64), "more": [tl.tensor([list(inputs)]), None]}

    def __call__(self, tokens: tl.Tensor, state: dict[str, Any]) -> tuple[tl.Tensor, dict[str, Any]]:
        assert not tl.is_grad_enabled()
        self.rows.append(len(tokens))
        prefix = state["prefix"] * (V + 1) + tokens + 1
        return self.tables[state["more"][0][0], prefix], {"prefix": prefix, "more": state["more"]}


def log_prob(table: np.ndarray[Any, Any], tokens: list[int]) -> float:
    """Of tokens after the start, 0."""
    prefix, total = 1, 0.0
    for token in tokens:
        total += table[prefix, token]
        prefix = prefix * (V + 1) + token + 1
    return total


def score(total: float, n: int, penalty: float) -> float:
    return total / ((5 + n) / 6) ** penalty


def every(table: np.ndarray[Any, Any], penalty: float) -> Iterator[Hypothesis]:
    """All sequences that the search could find."""
    for n in range(LENGTH + 1):
        for tokens in itertools.product(range(END), repeat=n):
            if n < LENGTH:
                yield Hypothesis([*tokens], score(log_prob(table, [*tokens, END]), n + 1, penalty), True)
            else:
                yield Hypothesis([*tokens], score(log_prob(table, [*tokens]), n, penalty), False)


def plain(table: np.ndarray[Any, Any], size: int, penalty: float) -> list[Hypothesis]:
    """Beam search by its definition, for one input, to the last step."""
    live: list[list[int]] = [[]]
    finished: list[Hypothesis] = []
    for n in range(1, LENGTH + 1):
        candidates = sorted(([*y, t] for y in live for t in range(V)), key=lambda y: -log_prob(table, y))
        finished += [
            Hypothesis(y[:-1], score(log_prob(table, y), n, penalty), True) for y in candidates[:size] if y[-1] == END
        ]
        live = [y for y in candidates if y[-1] != END][:size]
    cut = [Hypothesis(y, score(log_prob(table, y), LENGTH, penalty), False) for y in live]
    return by_score(finished + cut)[:size]


def by_score(found: list[Hypothesis]) -> list[Hypothesis]:
    return sorted(found, key=lambda h: (not h.finished, -h.score))


def assert_same(got: list[Hypothesis], want: list[Hypothesis]) -> None:
    assert [(h.tokens, h.finished) for h in got] == [(h.tokens, h.finished) for h in want]
    np.testing.assert_allclose([h.score for h in got], [h.score for h in want], rtol=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0, -1.0])
def test_a_beam_that_drops_nothing_finds_the_best_of_all(tables: np.ndarray[Any, Any], penalty: float) -> None:
    model = Model(tables)
    found = beam_search(model, model.state(), [0] * INPUTS, END, ALL, LENGTH, penalty, model.dims)
    for got, table in zip(found, tables, strict=True):
        assert_same(got, by_score(list(every(table, penalty))))


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0, -1.0])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_stopping_early_changes_nothing(tables: np.ndarray[Any, Any], size: int, penalty: float) -> None:
    model = Model(tables)
    found = beam_search(model, model.state(), [0] * INPUTS, END, size, LENGTH, penalty, model.dims)
    for got, table in zip(found, tables, strict=True):
        assert_same(got, plain(table, size, penalty))
    assert max(model.rows) <= size * INPUTS


def test_an_input_is_decoded_as_it_is_alone(tables: np.ndarray[Any, Any]) -> None:
    model = Model(tables)
    together = beam_search(model, model.state(), tl.zeros(INPUTS, dtype=tl.int64), END, 2, LENGTH, 0.6, model.dims)
    for i, got in enumerate(together):
        assert [got] == beam_search(model, model.state([i]), [0], END, 2, LENGTH, 0.6, model.dims)


def test_greedy_is_a_beam_of_one(tables: np.ndarray[Any, Any]) -> None:
    model = Model(tables)
    found = greedy_decode(model, model.state(), [0] * INPUTS, END, LENGTH, model.dims)
    assert model.rows[0] == INPUTS and model.rows[-1] < INPUTS, "ended hypotheses leave the batch"
    beams = beam_search(model, model.state(), [0] * INPUTS, END, 1, LENGTH, state_dim=model.dims)
    for h, (same,), table in zip(found, beams, tables, strict=True):
        assert_same([h], [same])
        prefix: list[int] = []
        while len(prefix) < LENGTH and END not in prefix:
            prefix.append(max(range(V), key=lambda t: log_prob(table, [*prefix, t])))
        assert (h.tokens, h.finished) == ([t for t in prefix if t != END], END in prefix)


def test_without_an_end() -> None:
    table = tl.tensor([[0.25, 0.75], [0.5, 0.5]]).log()

    def step(tokens: tl.Tensor, state: None) -> tuple[tl.Tensor, None]:
        return table[tokens], state

    assert greedy_decode(step, None, [0], None, 3) == [Hypothesis([1, 0, 1], pytest.approx(np.log(0.28125)), False)]
    (found,) = beam_search(step, None, [0], None, 2, 3)
    assert [h.finished for h in found] == [False, False]
    assert found[0].tokens == [1, 0, 1]


def test_tokens_that_are_ruled_out() -> None:
    never = tl.tensor([[-np.inf, 0.0, -np.inf], [-np.inf, -np.inf, 0.0], [0.0, 0.0, 0.0]])
    (found,) = beam_search(lambda tokens, s: (never[tokens], s), None, [0], 2, 5, 9)
    assert found == [Hypothesis([1], 0.0, True)]


def test_states_of_an_lstm() -> None:
    cell, table, out = nn.LSTM(4, 6, 2), nn.Embedding(V, 4), nn.Linear(6, V)

    def step(tokens: tl.Tensor, state: Any) -> tuple[tl.Tensor, Any]:
        made, state = cell(table(tokens).unsqueeze(0), state)
        return out(made[0]).log_softmax(-1), state

    start = (tl.randn(2, INPUTS, 6), tl.randn(2, INPUTS, 6))
    found = beam_search(step, start, [0] * INPUTS, END, 3, 6, state_dim=1)
    for i, hypotheses in enumerate(found):
        assert 0 < len(hypotheses) <= 3
        for h in hypotheses:
            given = [0, *h.tokens, *([END] if h.finished else [])]
            made, _ = cell(table(tl.tensor(given[:-1])).unsqueeze(1), tuple(s[:, i : i + 1] for s in start))
            log_probs = out(made[:, 0]).log_softmax(-1)
            total = sum(log_probs[t, y].item() for t, y in enumerate(given[1:]))
            assert h.score == pytest.approx(total, rel=1e-5)


def test_no_inputs() -> None:
    assert greedy_decode(lambda tokens, s: (tl.zeros(0, V), s), None, [], END, 3) == []
    assert beam_search(lambda tokens, s: (tl.zeros(0, V), s), None, [], END, 2, 3) == []


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ({"beam_size": 0}, ValueError, "beam_size must be an integer of at least 1, got 0"),
        ({"max_length": 0}, ValueError, "max_length must be"),
        ({"start": tl.zeros(2)}, ValueError, r"got float32 of shape \(2,\)"),
        ({"end": 3}, IndexError, "end is 3, but step gives 3 tokens"),
        ({"step": lambda tokens, s: (tl.zeros(3, V), s)}, ValueError, r"step must return log-probabilities \(1, V\) first, got shape \(3, 3\)"),
        ({"step": lambda tokens, s: (None, s)}, ValueError, "got a NoneType"),
        ({"step": lambda tokens, s: (tl.full((1, V), np.nan), s)}, ValueError, "NaN"),
    ],
)  # fmt: skip
def test_what_is_refused(how: dict[str, Any], error: type[Exception], match: str) -> None:
    given = {"step": lambda tokens, s: (tl.zeros(1, V), s), "state": None, "start": [0], "end": END} | how
    with pytest.raises(error, match=match):
        beam_search(**{"beam_size": 2, "max_length": 3, **given})
