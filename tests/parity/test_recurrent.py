"""Recurrent layers and cells beside PyTorch's: results, last states and gradients, for every option and form of input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((kind, how) for kind in ("RNN", "GRU", "LSTM") for how in (
        {}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True},
        {"num_layers": 3, "bidirectional": True, "batch_first": True},
    )),
    ("RNN", {"nonlinearity": "relu"}), ("LSTM", {"proj_size": 3, "num_layers": 2, "bidirectional": True}),
]  # fmt: skip
FORMS = {"padded": [6, 6, 6, 6], "packed": [6, 4, 4, 1], "unsorted": [4, 6, 1, 4], "unbatched": [6]}


def results(lib: Any, net: Any, kind: str, form: str, arrays: list[np.ndarray[Any, Any]]) -> list[Any]:
    """Results, last states, then gradients of input, initial states and parameters."""
    x, *states = (lib.tensor(a, requires_grad=True) for a in arrays)
    given = x
    if form in ("packed", "unsorted"):
        lengths, rnn = FORMS[form], lib.nn.utils.rnn
        given = rnn.pack_padded_sequence(x, lengths, batch_first=net.batch_first, enforce_sorted=form == "packed")
    out, last = net(given, tuple(states) if kind == "LSTM" else states[0])
    if form in ("packed", "unsorted"):
        out, _ = lib.nn.utils.rnn.pad_packed_sequence(out)
    outs = [out, *(last if kind == "LSTM" else (last,))]
    weights = [lib.tensor(np.cos(np.arange(t.numel())).reshape(tuple(t.shape))) for t in outs]
    sum((t * w).sum() for t, w in zip(outs, weights, strict=True)).backward()
    return [*outs, x.grad, *(s.grad for s in states), *(p.grad for p in net.parameters())]


def twins(kind: str, *sizes: int, **how: Any) -> tuple[Any, Any]:
    theirs = getattr(torch.nn, kind)(*sizes, **how).double()
    ours = getattr(tl.nn, kind)(*sizes, dtype=tl.float64, **how)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({name: tl.tensor(value.numpy()) for name, value in theirs.state_dict().items()})
    return ours, theirs


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == tuple(b.shape)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "how"), OPTIONS, ids=str)
def test_layers(kind: str, how: dict[str, Any], form: str) -> None:
    ours, theirs = twins(kind, 5, 7, **how)
    for a, b in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert [w.shape for w in a] == [tuple(w.shape) for w in b]
    rng = np.random.default_rng(3)
    layers = how.get("num_layers", 1) * (2 if how.get("bidirectional") else 1)
    batch = () if form == "unbatched" else (4,)
    steps = (*batch, 6) if how.get("batch_first") else (6, *batch)
    widths = (how.get("proj_size", 7), 7) if kind == "LSTM" else (7,)
    arrays = [rng.standard_normal((*steps, 5)), *(rng.standard_normal((layers, *batch, w)) for w in widths)]
    assert_same(results(tl, ours, kind, form, arrays), results(torch, theirs, kind, form, arrays))


@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_cells(kind: str, batch: tuple[int, ...]) -> None:
    ours, theirs = twins(f"{kind}Cell", 5, 7)
    rng = np.random.default_rng(4)
    x, *states = (rng.standard_normal((*batch, n)) for n in ((5, 7, 7) if kind == "LSTM" else (5, 7)))
    found = []
    for lib, cell in ((tl, ours), (torch, theirs)):
        given = [lib.tensor(a, requires_grad=True) for a in (x, *states)]
        made = cell(given[0], tuple(given[1:]) if kind == "LSTM" else given[1])
        made = list(made) if kind == "LSTM" else [made]
        sum((k + 1) * (t * t).sum() for k, t in enumerate(made)).backward()
        found.append([*made, *(t.grad for t in given), *(p.grad for p in cell.parameters())])
    assert_same(*found)


def test_ragged_batches_are_laid_out_alike() -> None:
    arrays = [np.random.default_rng(n).standard_normal((n, 2)) for n in (3, 5, 1, 5)]
    ours, theirs = (
        lib.nn.utils.rnn.pack_sequence([lib.tensor(a) for a in arrays], enforce_sorted=False) for lib in (tl, torch)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for first in (False, True):
        how = {"batch_first": first, "padding_value": -1.0, "total_length": 7}
        padded = [lib.nn.utils.rnn.pad_packed_sequence(x, **how) for lib, x in ((tl, ours), (torch, theirs))]
        for a, b in zip(*padded, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    left = [
        lib.nn.utils.rnn.pad_sequence([lib.tensor(a) for a in arrays], padding_side="left").numpy()
        for lib in (tl, torch)
    ]
    np.testing.assert_array_equal(*left)
