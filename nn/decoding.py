"""Decoding: the sequences that a model finds most probable, token by token, for a batch of inputs at once.

The model is a function ``step(tokens, state) -> (log_probs, state)`` of the last token of each hypothesis, (N,) int64, and whatever it wants to keep
of the past: a tensor, or nested tuples, lists and dicts of tensors with the hypotheses as one dimension. It returns log-probabilities (N, V) and
the new state. Hypotheses that have ended leave the batch: N changes from call to call, and the state's tensors are selected to match.

Dimension letters: B inputs, N hypotheses at work, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.utils.rnn import select_states

__all__ = ["Hypothesis", "beam_search", "greedy_decode"]

_Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
_Array = np.ndarray[Any, Any]


class Hypothesis(NamedTuple):
    """A decoded sequence.

    Attributes:
        tokens: without start and end.
        score: its log-probability, that of the end included; of a beam search, divided by the length penalty.
        finished: whether it came to its end; False where `max_length` cut it.
    """

    tokens: list[int]
    score: float
    finished: bool


def greedy_decode(
    step: _Step, state: Any, start: Tensor | Sequence[int], end: int | None, max_length: int, state_dim: Any = 0
) -> list[Hypothesis]:
    """Take the most probable token each time.

    Args:
        step: as the module describes it; called without recording gradients.
        state: of the B inputs, before the first token.
        start: (B,) integer, the first tokens.
        end: the token that ends a hypothesis; None: none does.
        max_length: most tokens of a hypothesis, its end included.
        state_dim: which dimension of the state's tensors holds the hypotheses, or a nest of such numbers; see `tl.nn.utils.rnn.select_states`.

    >>> table = tl.tensor([[0.1, 0.7, 0.2], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]).log()  # the next token depends on the last one; 2 is the end
    >>> [h.tokens for h in tl.nn.decoding.greedy_decode(lambda tokens, state: (table[tokens], state), None, [0, 1], end=2, max_length=9)]
    [[1], []]
    """
    tokens = _started("greedy_decode", start, max_length)
    made = [Hypothesis([], 0.0, False) for _ in range(len(tokens))]
    working = list(range(len(made)))
    with tl.no_grad():
        for _ in range(max_length):
            if not working:
                break
            log_probs, state = _stepped("greedy_decode", step, tokens, state, end)
            best, tokens = log_probs.max(-1)
            going = []
            for row, (i, value, token) in enumerate(zip(working, best.tolist(), tokens.tolist(), strict=True)):
                ended = token == end
                made[i] = Hypothesis(made[i].tokens + [token] * (not ended), made[i].score + value, ended)
                going += [row] * (not ended)
            if len(going) < len(working):
                working = [working[row] for row in going]
                index = tl.tensor(going, dtype=tl.int64, device=tokens.device)
                tokens, state = tokens.index_select(0, index), select_states(state, index, state_dim)
    return made


def beam_search(
    step: _Step, state: Any, start: Tensor | Sequence[int], end: int | None, beam_size: int, max_length: int, length_penalty: float = 0.0,
    state_dim: Any = 0,
) -> list[list[Hypothesis]]:  # fmt: skip
    """Follow the `beam_size` most probable hypotheses of each input.

    Each time, an input's hypotheses are continued by every token. Those among the best `beam_size` that end are finished; the best `beam_size` of
    those that do not end go on. An input is done as soon as no hypothesis at work could still come among its best `beam_size` finished ones.

    Args:
        step: as the module describes it; its log-probabilities must not be positive. Tokens of log-probability -inf are never taken.
        length_penalty: scores are log-probabilities divided by ``((5 + n) / 6) ** length_penalty``, n tokens with the end: 0 compares plain
            log-probabilities, more favours longer hypotheses.
        state, start, end, max_length, state_dim: as for `greedy_decode`, which this is with a `beam_size` of 1.

    Returns:
        for each input at most `beam_size` hypotheses by falling score, the finished ones first.

    Reference: Graves 2012 for the search, Wu et al. 2016, section 7, for the penalty.

    >>> table = tl.tensor([[0.1, 0.7, 0.2], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]).log()
    >>> (found,) = tl.nn.decoding.beam_search(lambda tokens, state: (table[tokens], state), None, [0], end=2, beam_size=2, max_length=9)
    >>> [(h.tokens, round(float(np.exp(h.score)), 3)) for h in found]
    [([1], 0.49), ([], 0.2)]
    """
    tokens = _started("beam_search", start, max_length)
    if not isinstance(beam_size, int) or beam_size < 1:
        raise ValueError(f"beam_search: beam_size must be an integer of at least 1, got {beam_size!r}.")
    beams = [_Beam(beam_size, max_length, length_penalty) for _ in range(len(tokens))]
    with tl.no_grad():
        for _ in range(max_length):
            working = [beam for beam in beams if beam.live]
            if not working:
                break
            log_probs, state = _stepped("beam_search", step, tokens, state, end)
            # No input goes on with more than beam_size of one hypothesis' tokens, or with its end besides.
            best = log_probs.topk(min(beam_size + 1, log_probs.shape[1]), -1)
            values, chosen = best.values.double().cpu().numpy(), best.indices.cpu().numpy()
            if np.isnan(values).any():
                raise ValueError("beam_search: step returned log-probabilities that are NaN.")
            parents, first = [], 0
            for beam in working:
                last = first + len(beam.live)
                parents += [first + row for row in beam.advance(values[first:last], chosen[first:last], end)]
                first = last
            index = tl.tensor(parents, dtype=tl.int64, device=tokens.device)
            following = [tokens[-1] for beam in working for tokens, _ in beam.live]
            tokens = tl.tensor(following, dtype=tl.int64, device=tokens.device)
            state = select_states(state, index, state_dim)
    return [beam.results() for beam in beams]


class _Beam:
    """The hypotheses of one input."""

    def __init__(self, size: int, max_length: int, length_penalty: float) -> None:
        self.size, self.max_length, self.length_penalty = size, max_length, length_penalty
        self.length = 0
        self.live: list[tuple[list[int], float]] = [([], 0.0)]  # tokens and log-probability, the best first
        self.finished: list[Hypothesis] = []  # the best first

    def score(self, log_prob: float, length: int) -> float:
        return log_prob / ((5 + length) / 6) ** self.length_penalty

    def advance(self, values: _Array, tokens: _Array, end: int | None) -> list[int]:
        """Continue each live hypothesis by its best tokens, (live, m) each; returns which hypothesis each of the next live ones continues."""
        self.length += 1
        totals = (np.asarray([log_prob for _, log_prob in self.live])[:, None] + values).ravel()
        live: list[tuple[list[int], float]] = []
        parents = []
        for rank, place in enumerate(np.argsort(-totals, kind="stable").tolist()):
            log_prob, token, parent = float(totals[place]), int(tokens.ravel()[place]), place // tokens.shape[1]
            if log_prob == -np.inf or (rank >= self.size and len(live) == self.size):
                break
            if token != end and len(live) < self.size:
                live.append(([*self.live[parent][0], token], log_prob))
                parents.append(parent)
            elif token == end and rank < self.size:
                self.finished.append(Hypothesis(self.live[parent][0], self.score(log_prob, self.length), True))
        self.finished = sorted(self.finished, key=lambda h: -h.score)[: self.size]
        self.live = live
        if self._is_done():
            self.live, parents = [], []
        return parents

    def _is_done(self) -> bool:
        """Log-probabilities only fall, so a score is at most what the best live one would have if it ended next, or last of all."""
        if not self.live or len(self.finished) < self.size:
            return not self.live
        most = max(self.score(self.live[0][1], n) for n in (self.length + 1, self.max_length))
        return self.finished[-1].score >= most

    def results(self) -> list[Hypothesis]:
        cut = [Hypothesis(tokens, self.score(log_prob, self.length), False) for tokens, log_prob in self.live]
        return (self.finished + cut)[: self.size]


def _started(name: str, start: Tensor | Sequence[int], max_length: int) -> Tensor:
    tokens = start if isinstance(start, Tensor) else tl.tensor(list(start), dtype=tl.int64)
    if tokens.ndim != 1 or tokens.dtype.is_floating_point:
        raise tl.ShapeError(
            f"{name}: start must be the integer tokens (B,) that the inputs begin with, got {tokens.dtype.name} of shape {tokens.shape}."
        )
    if not isinstance(max_length, int) or max_length < 1:
        raise ValueError(f"{name}: max_length must be an integer of at least 1, got {max_length!r}.")
    return tokens


def _stepped(name: str, step: _Step, tokens: Tensor, state: Any, end: int | None) -> tuple[Tensor, Any]:
    made = step(tokens, state)
    if not isinstance(made, tuple) or len(made) != 2:
        raise TypeError(
            f"{name}: step must return a pair, log-probabilities ({len(tokens)}, V) and a state, got a {type(made).__name__}."
        )
    log_probs, state = made
    if not isinstance(log_probs, Tensor) or log_probs.ndim != 2 or len(log_probs) != len(tokens):
        got = f"shape {log_probs.shape}" if isinstance(log_probs, Tensor) else f"a {type(log_probs).__name__}"
        raise tl.ShapeError(f"{name}: step must return log-probabilities ({len(tokens)}, V) first, got {got}.")
    if end is not None and not 0 <= end < log_probs.shape[1]:
        raise tl.IndexRangeError(f"{name}: end is {end}, but step gives {log_probs.shape[1]} tokens.")
    return log_probs, state
