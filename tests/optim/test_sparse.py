"""Steps by row-sparse gradients: the rows they hold move as with a dense gradient, the others not at all; clipping; refusals."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn, optim
from tensorlib.native import lib

F = nn.functional
SETTINGS: list[tuple[Any, dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "maximize": True}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (optim.Adagrad, {"lr": 0.1}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3, "initial_accumulator_value": 0.5, "maximize": True}),
    (optim.SparseAdam, {"lr": 0.1}),
    (optim.SparseAdam, {"lr": 0.1, "betas": (0.4, 0.9), "eps": 1e-3, "maximize": True}),
]


def trained(
    kind: Any, settings: dict[str, Any], *, sparse: bool = True, size: tuple[int, int, int] = (40, 9, 30),
    dtype: Any = tl.float32, strided: bool = False,
) -> tuple[Any, nn.Parameter]:  # fmt: skip
    """After four steps; size: rows, their width, how many are named each time."""
    rows, width, n = size
    rng = np.random.default_rng([rows, width, n])
    start = tl.tensor(rng.standard_normal((rows, width)), dtype=dtype)
    w = nn.Parameter(start.mT.contiguous().mT if strided else start)
    optimizer = kind([w], **settings)
    for _ in range(4):
        optimizer.zero_grad()
        ids, target = tl.tensor(rng.integers(0, rows // 2, n)), tl.tensor(rng.standard_normal((n, width)), dtype=dtype)
        ((F.embedding(ids, w, sparse=sparse) - target) ** 2).sum().backward()
        optimizer.step()
    return optimizer, w


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=str)
@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=str)
def test_the_native_call_is_the_definition(kind: Any, settings: dict[str, Any], dtype: tl.DType, isa: str) -> None:
    fast, a = trained(kind, settings, dtype=dtype)
    plain, b = trained(kind, settings, dtype=dtype, strided=True)  # which kernels decline
    tolerance = 1e-5 if dtype is tl.float32 else 1e-13
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)
    assert fast.state[a].keys() == plain.state[b].keys()
    half = trained(kind, settings, dtype=tl.float16)[1]
    assert half.dtype is tl.float16 and np.isfinite(half.detach().numpy()).all()


@pytest.mark.parametrize(("kind", "settings"), [s for s in SETTINGS if s[0] is not optim.SparseAdam], ids=str)
def test_rows_step_as_by_a_dense_gradient(kind: Any, settings: dict[str, Any]) -> None:
    sparse, dense = trained(kind, settings)[1], trained(kind, settings, sparse=False)[1]
    if settings.get("momentum") or kind is optim.Adagrad:
        np.testing.assert_allclose(sparse.detach().numpy(), dense.detach().numpy(), rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(sparse.detach().numpy(), dense.detach().numpy())


def test_sparse_adam_by_hand() -> None:
    w = nn.Parameter(tl.tensor([[1.0], [2.0], [3.0]], dtype=tl.float64))
    optimizer = optim.SparseAdam([w], lr=0.5, betas=(0.5, 0.75), eps=0.125)
    p, m, v = [1.0, 2.0, 3.0], [0.0] * 3, [0.0] * 3
    for t, gradient in enumerate([{0: 1.0, 2: -2.0}, {2: 3.0}, {}, {0: 0.5}], start=1):
        ids = [i for i in gradient for _ in range(2)]  # each in two halves
        values = tl.tensor([[gradient[i] / 2] for i in ids] or np.zeros((0, 1)), dtype=tl.float64)
        w.grad = tl.sparse_coo_tensor(tl.tensor(ids, dtype=tl.int64), values, (3, 1))
        optimizer.step()
        for i, g in gradient.items():
            m[i] += 0.5 * (g - m[i])
            v[i] += 0.25 * (g * g - v[i])
            p[i] -= 0.5 * (1 - 0.75**t) ** 0.5 / (1 - 0.5**t) * m[i] / (v[i] ** 0.5 + 0.125)
        np.testing.assert_allclose(w.detach().numpy()[:, 0], p, rtol=1e-14)
    assert optimizer.state[w]["step"] == 4 and optimizer.state[w]["exp_avg"].tolist() == [[x] for x in m]


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=str)
def test_threads_do_not_show(kind: Any, settings: dict[str, Any]) -> None:
    def run(threads: int) -> bytes:
        tl.set_num_threads(threads)
        out: bytes = trained(kind, settings, size=(900, 67, 2000))[1].detach().numpy().tobytes()
        return out

    alone, shared = run(1), lib.tl_shared_loops()
    assert run(2) == alone and run(3) == alone
    assert lib.tl_shared_loops() > shared


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=str)
def test_rows_that_are_not_named_stay_and_state_survives(kind: Any, settings: dict[str, Any]) -> None:
    first, w = trained(kind, settings)
    start = np.random.default_rng([40, 9, 30]).standard_normal((40, 9)).astype(np.float32)
    np.testing.assert_array_equal(w.detach().numpy()[20:], start[20:])
    assert not np.any(w.detach().numpy()[:20] == start[:20])
    twin = nn.Parameter(w.detach().clone())
    second = kind([twin], lr=9.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for p, optimizer in ((w, first), (twin, second)):
        p.grad = tl.sparse_coo_tensor(tl.tensor([3, 1, 3]), tl.ones(3, 9), (40, 9))
        optimizer.step()
    np.testing.assert_array_equal(w.detach().numpy(), twin.detach().numpy())


def test_dense_and_sparse_parameters_share_a_group() -> None:
    dense, sparse = nn.Parameter(tl.ones(2, 2)), nn.Parameter(tl.ones(3, 1))
    optimizer = optim.SGD([dense, sparse], lr=0.5)
    dense.grad, sparse.grad = tl.ones(2, 2), tl.sparse_coo_tensor(tl.tensor([1]), tl.ones(1, 1), (3, 1))
    optimizer.step()
    assert dense.tolist() == [[0.5, 0.5], [0.5, 0.5]] and sparse.tolist() == [[1.0], [0.5], [1.0]]
    optimizer.zero_grad(set_to_none=False)
    assert sparse.grad._nnz() == 0 and dense.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    optimizer.step()
    assert sparse.tolist() == [[1.0], [0.5], [1.0]]
    optimizer.zero_grad()
    assert sparse.grad is None


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW, optim.RMSprop, optim.NAdam])
def test_who_takes_no_sparse_gradient_says_so_and_changes_nothing(kind: Any) -> None:
    dense, sparse = nn.Parameter(tl.ones(2, 2)), nn.Parameter(tl.ones(3, 1))
    optimizer = kind([dense, sparse])
    dense.grad, sparse.grad = tl.ones(2, 2), tl.sparse_coo_tensor(tl.tensor([1]), tl.ones(1, 1), (3, 1))
    with pytest.raises(
        RuntimeError, match=f"{kind.__name__} does not support sparse gradients, please consider SparseAdam"
    ):
        optimizer.step()
    assert dense.tolist() == [[1.0, 1.0], [1.0, 1.0]] and not any(optimizer.state.values())


def test_what_sparse_steps_refuse() -> None:
    w = nn.Parameter(tl.ones(3, 1))
    w.grad = tl.ones(3, 1)
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients, please consider Adam"):
        optim.SparseAdam([w]).step()
    w.grad = tl.sparse_coo_tensor(tl.tensor([1]), tl.ones(1, 1), (3, 1))
    for kind in (optim.SGD, optim.Adagrad):
        with pytest.raises(RuntimeError, match=f"{kind.__name__}: weight_decay does not go with sparse gradients"):
            kind([w], weight_decay=0.1).step()
    assert w.tolist() == [[1.0]] * 3
    for settings, match in [
        ({"lr": 0.0}, "lr must be above 0"),
        ({"eps": 0.0}, "eps must be above 0"),
        ({"betas": (1.0, 0.9)}, "betas must be two numbers"),
    ]:
        with pytest.raises(ValueError, match=match):
            optim.SparseAdam([w], **settings)
    with pytest.raises(TypeError, match="sgd_rows_: got a Tensor, expected a row-sparse gradient"):
        tl.fused.sgd_rows_(w.detach(), tl.ones(3, 1), 0.1)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
def test_clipping_is_that_of_dense_gradients(norm_type: float, rng: np.random.Generator) -> None:
    ids, g, other = tl.tensor(rng.integers(0, 8, 20)), tl.tensor(rng.standard_normal((20, 5))), rng.standard_normal(6)
    found = []
    for sparse in (True, False):
        w, b = nn.Parameter(tl.zeros(8, 5, dtype=tl.float64)), nn.Parameter(tl.zeros(6, dtype=tl.float64))
        F.embedding(ids, w, sparse=sparse).backward(g)
        b.grad = tl.tensor(other)
        norm = nn.utils.clip_grad_norm_([w, b], 0.5, norm_type)
        assert w.grad.is_sparse is sparse
        clipped = w.grad.to_dense().numpy() if sparse else w.grad.numpy().copy()
        nn.utils.clip_grad_value_([w, b], 0.05)
        limited = w.grad.to_dense().numpy() if sparse else w.grad.numpy()
        found.append((norm.item(), clipped, limited, b.grad.numpy()))
    for got, expected in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert np.abs(found[0][2]).max() <= 0.05
