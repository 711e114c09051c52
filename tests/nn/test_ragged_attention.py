"""Attention over ragged memories: every form of memory and query gives the same, which is what a loop over the sequences gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn.utils import rnn

LENGTHS = (3, 5, 0, 1)
KINDS: dict[str, tuple[int, Callable[[], Any]]] = {  # features of a query, the layer; elements have 4
    "additive": (6, lambda: nn.AdditiveAttention(6, 4, 7, dtype=tl.float64)),
    "dot": (4, nn.DotAttention),
    "scaled": (4, lambda: nn.DotAttention(scaled=True)),
    "general": (6, lambda: nn.DotAttention(6, 4, dtype=tl.float64)),
}


def memories(lengths: tuple[int, ...] = LENGTHS) -> list[tl.Tensor]:
    return [tl.randn(n, 4, dtype=tl.float64).requires_grad_() for n in lengths]


def scores(kind: str, layer: Any, q: np.ndarray[Any, Any], m: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The definitions: one query, (L,)."""
    p = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    if kind == "additive":
        hidden = np.tanh(p["query_proj.weight"] @ q + m @ p["memory_proj.weight"].T + p["memory_proj.bias"])
        return np.asarray(hidden @ p["score.weight"][0])
    if kind == "general":
        return np.asarray(m @ p["memory_proj.weight"].T @ q)
    return np.asarray(m @ q / (2 if kind == "scaled" else 1))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_a_loop_gives(kind: str) -> None:
    size, make = KINDS[kind]
    layer, xs, query = make(), memories(), tl.randn(len(LENGTHS), 2, size, dtype=tl.float64)
    context, weights = layer(query, xs)
    assert weights.shape == (4, 2, 5)
    for i, x in enumerate(xs):
        for t in range(2):
            m = x.detach().numpy()
            e = np.exp(scores(kind, layer, query[i, t].numpy(), m))
            want = e / e.sum() if len(e) else e
            np.testing.assert_allclose(weights[i, t].detach().numpy(), np.pad(want, (0, 5 - len(m))), rtol=1e-12)
            np.testing.assert_allclose(context[i, t].detach().numpy(), want @ m, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_all_forms_agree(kind: str) -> None:
    size, make = KINDS[kind]
    layer, xs = make(), memories()
    query = tl.randn(len(LENGTHS), size, dtype=tl.float64)
    padded = rnn.pad_sequence(xs, batch_first=True, padding_value=np.nan)  # which is never read
    packed = rnn.pack_sequence(xs, enforce_sorted=False)
    results = [
        layer(query, *memory)
        for memory in (
            (xs,), (tuple(xs),), (packed,), (padded, LENGTHS), (padded, tl.tensor(LENGTHS)), (layer.prepare(packed),),
            (layer.prepare(padded, LENGTHS),),
        )
    ]  # fmt: skip
    inputs = [*xs, *layer.parameters()]
    grads = [tl.autograd.grad([(c * c).sum()], inputs, retain_graph=True) for c, _ in results]
    for (context, weights), of_inputs in zip(results[1:], grads[1:], strict=True):
        assert tl.equal(context, results[0][0]) and tl.equal(weights, results[0][1])
        for a, b in zip(of_inputs, grads[0], strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-13)
    with_steps, _ = layer(query.unsqueeze(1), xs)
    assert tl.equal(with_steps.squeeze(1), results[0][0])


def test_a_whole_padded_memory() -> None:
    layer, memory = nn.DotAttention(), tl.randn(2, 3, 4)
    whole, parts = layer(tl.ones(2, 4), memory), layer(tl.ones(2, 4), memory, [3, 3])
    assert tl.equal(whole[0], parts[0]) and tl.equal(whole[1], parts[1])
    assert layer(tl.ones(2, 4), tl.randn(2, 7, 4), [3, 0])[1].shape == (2, 7)


def test_ragged_queries() -> None:
    layer, xs = nn.AdditiveAttention(6, 4, 7, dtype=tl.float64), memories()
    queries = [tl.randn(n, 6, dtype=tl.float64) for n in (2, 1, 4, 0)]
    context, weights = layer(queries, xs)
    assert weights.shape == (4, 4, 5)
    assert [c.shape for c in context] == [(2, 4), (1, 4), (4, 4), (0, 4)]
    for i, (c, q, x) in enumerate(zip(context, queries, xs, strict=True)):
        if len(q):
            alone, of_alone = layer(q.unsqueeze(0), [x])
            np.testing.assert_allclose(c.detach().numpy(), alone[0].detach().numpy(), rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(
                weights[i, : len(q), : len(x)].detach().numpy(), of_alone[0].detach().numpy(), rtol=1e-12
            )
    packed = rnn.pack_sequence(queries, enforce_sorted=False)
    again, _ = layer(packed, xs)
    assert isinstance(again, rnn.PackedSequence)
    for a, b in zip(rnn.unpack_sequence(again), context, strict=True):
        assert tl.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [LENGTHS, (0, 0)], ids=str)
def test_gradients_of_any_order(kind: str, lengths: tuple[int, ...]) -> None:
    size, make = KINDS[kind]
    layer, xs = make(), memories(lengths)
    query = tl.randn(len(lengths), size, dtype=tl.float64).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(q: tl.Tensor, *rest: tl.Tensor) -> tuple[tl.Tensor, ...]:
        assert len(rest) == len(xs) + len(names)
        return tuple(layer(q, list(rest[: len(xs)])))

    inputs = [query, *xs, *layer.parameters()]
    assert tl.autograd.gradcheck(call, inputs)
    assert tl.autograd.gradgradcheck(call, inputs)


def test_a_prepared_memory_goes_through_a_beam_search() -> None:
    attention, cell, out = nn.DotAttention(), nn.GRUCell(4, 4), nn.Linear(8, 3)
    table, xs = nn.Embedding(3, 4), [tl.randn(n, 4) for n in LENGTHS]

    def step(tokens: tl.Tensor, state: Any) -> tuple[tl.Tensor, Any]:
        h, memory = cell(table(tokens), state[0]), state[1]
        return out(tl.cat([h, attention(h, memory)[0]], 1)).log_softmax(-1), (h, memory)

    def search(memories: list[tl.Tensor]) -> list[list[nn.decoding.Hypothesis]]:
        state = (tl.zeros(len(memories), 4), attention.prepare(memories))
        return nn.decoding.beam_search(step, state, [0] * len(memories), 2, 3, 5)

    for got, x in zip(search(xs), xs, strict=True):
        (alone,) = search([x])
        assert [h.tokens for h in got] == [h.tokens for h in alone]
        assert [h.score for h in got] == pytest.approx([h.score for h in alone], rel=1e-5)


def test_what_is_printed() -> None:
    assert repr(nn.DotAttention(scaled=True)) == "DotAttention(scaled=True)"
    assert "6, 4, scaled=False" in repr(nn.DotAttention(6, 4))
    assert list(nn.AdditiveAttention(6, 4, 7).state_dict()) == [
        "query_proj.weight", "memory_proj.weight", "memory_proj.bias", "score.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ((tl.ones(2, 6), tl.ones(2, 4)), ValueError, r"expected a memory of shape \(B, L, D\), got \(2, 4\)"),
        ((tl.ones(2, 6), tl.ones(2, 3, 5)), ValueError, r"expected elements of 4 features, got \(5,\)"),
        ((tl.ones(2, 6), [tl.ones(3), tl.ones(2)]), ValueError, r"expected elements of 4 features, got \(\)"),
        ((tl.ones(2, 5), tl.ones(2, 3, 4)), ValueError, r"expected queries \(2, 6\) or \(2, T, 6\), got \(2, 5\)"),
        ((tl.ones(3, 6), tl.ones(2, 3, 4)), ValueError, r"expected queries \(2, 6\) or \(2, T, 6\), got \(3, 6\)"),
        ((tl.ones(2, 6), tl.ones(2, 3, 4), [3, 4]), ValueError, "sequence 1 has length 4"),
        ((tl.ones(2, 6), tl.ones(2, 3, 4), [3]), ValueError, "got 1 lengths for 2 sequences"),
        ((tl.ones(2, 6), [tl.ones(3, 4)] * 2, [3, 3]), ValueError, "lengths go with a padded memory; a list has its own"),
    ],
)  # fmt: skip
def test_what_is_refused(given: tuple[Any, ...], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        nn.DotAttention(6, 4)(*given)


def test_sizes_come_together() -> None:
    with pytest.raises(ValueError, match="expected both sizes or none, got 6 and None"):
        nn.DotAttention(6)
