"""Row-sparse gradients and the steps by them beside PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Sparse invariant checks")]

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3, "initial_accumulator_value": 0.5, "maximize": True}),
    ("SparseAdam", {}),
    ("SparseAdam", {"lr": 0.1, "betas": (0.4, 0.9), "eps": 1e-3, "maximize": True}),
]


def trained(lib: Any, name: str, settings: dict[str, Any]) -> tuple[Any, Any, list[Any]]:
    """50 steps: each batch in two backwards, of two lookups each."""
    rng = np.random.default_rng(0)
    table = lib.nn.Embedding(50, 7, sparse=True, padding_idx=3)
    table.weight.data = lib.tensor(rng.standard_normal((50, 7)))
    optimizer, path = getattr(lib.optim, name)(table.parameters(), **settings), []
    for _ in range(50):
        optimizer.zero_grad()
        for _ in range(2):
            rows = table(lib.tensor(rng.integers(0, 50, (4, 5)))) - table(lib.tensor(rng.integers(0, 9, (4, 5))))
            (rows - lib.tensor(rng.standard_normal((4, 5, 7)))).square().mean().backward()
        assert table.weight.grad.is_sparse
        optimizer.step()
        path.append(table.weight.detach().numpy().copy())
    return table, optimizer, path


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_steps(name: str, settings: dict[str, Any]) -> None:
    (theirs, them, expected), (ours, us, got) = (trained(lib, name, settings) for lib in (torch, tl))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    a, b = us.state_dict()["state"].get(0, {}), them.state_dict()["state"].get(0, {})
    assert list(a) == list(b) and isinstance(a.get("step"), int) == isinstance(b.get("step"), int)
    g, h = ours.weight.grad.coalesce(), theirs.weight.grad.coalesce()
    assert g.indices().tolist() == h.indices().tolist() and g.shape == tuple(h.shape)
    np.testing.assert_allclose(g.values().numpy(), h.values().numpy(), rtol=1e-9, atol=1e-12)


def test_defaults() -> None:
    them = torch.optim.SparseAdam([torch.nn.Parameter(torch.ones(1))])
    us = tl.optim.SparseAdam([tl.nn.Parameter(tl.ones(1))])
    assert us.defaults == {k: v for k, v in them.defaults.items() if k in us.defaults}


def test_gradients_scaled_by_frequency() -> None:
    ids = [[1, 2, 1], [0, 1, 3]]
    found = []
    for lib in (torch, tl):
        w = lib.nn.Parameter(lib.tensor(np.arange(12.0).reshape(4, 3)))
        rows = lib.nn.functional.embedding(lib.tensor(ids), w, padding_idx=3, scale_grad_by_freq=True)
        (rows**2).sum().backward()
        found.append(w.grad.numpy())
    np.testing.assert_allclose(found[1], found[0])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize("form", ["rows", "offsets", "last offset"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max", "weighted"])
def test_bags(mode: str, form: str, padding_idx: int | None, sparse: bool) -> None:
    if mode == "max" and sparse:
        pytest.skip("neither library has it")
    rng = np.random.default_rng(0)
    start, ids = rng.standard_normal((7, 5)), rng.integers(0, 7, (3, 4) if form == "rows" else 9)
    offsets = {"rows": None, "offsets": [0, 2, 2, 6], "last offset": [0, 2, 2, 6, 9]}[form]
    factors, found = rng.standard_normal(ids.shape), []
    for lib in (torch, tl):
        w, f = lib.nn.Parameter(lib.tensor(start)), lib.tensor(factors, requires_grad=True)
        out = lib.nn.functional.embedding_bag(
            lib.tensor(ids), w, None if offsets is None else lib.tensor(offsets), mode="sum" if mode == "weighted" else mode,
            sparse=sparse, per_sample_weights=f if mode == "weighted" else None, include_last_offset=form == "last offset",
            padding_idx=padding_idx,
        )  # fmt: skip
        (out**2).sum().backward()
        assert w.grad.is_sparse is sparse
        found.append((out.detach().numpy(), w.grad.to_dense().numpy(), f.grad.numpy() if mode == "weighted" else 0))
    for expected, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
