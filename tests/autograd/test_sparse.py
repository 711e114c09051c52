"""Row-sparse gradients: what they hold, how they come together, what becomes of them."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.native import lib

F = nn.functional
IDS = [[1, 2], [1, 0]]


def table(dtype: tl.DType = tl.float32) -> nn.Parameter:
    return nn.Parameter(tl.arange(12.0, dtype=dtype).reshape(4, 3))


def looked_up(w: tl.Tensor, **options: Any) -> tl.Tensor:
    return F.embedding(tl.tensor(IDS), w, sparse=True, **options)


def sparse_grad(w: tl.Tensor) -> tl.SparseTensor:
    g = w.grad
    assert isinstance(g, tl.SparseTensor) and isinstance(g, tl.Tensor) and g.is_sparse and not w.is_sparse
    return g


def dense_twin(w: nn.Parameter, loss: Any) -> np.ndarray[Any, Any]:
    """The gradient of loss(lookup) where the lookup is a dense one."""
    twin = nn.Parameter(w.detach().clone())
    loss(F.embedding(tl.tensor(IDS), twin)).backward()
    assert twin.grad is not None and not twin.grad.is_sparse
    return twin.grad.numpy()


def test_it_holds_the_rows_that_were_named() -> None:
    w = table()
    (looked_up(w) * tl.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])).sum().backward()
    g = sparse_grad(w)
    assert g.shape == (4, 3) and g.dtype is tl.float32 and g.device == w.device and g.numel() == 12
    assert (g._nnz(), g.sparse_dim(), g.dense_dim(), g.is_coalesced()) == (4, 1, 1, False)
    assert g._indices().tolist() == [[1, 2, 1, 0]] and g._values()[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    for read in (g.indices, g.values):
        with pytest.raises(RuntimeError, match=r"not coalesced(.|\n)*coalesce\(\) it first"):
            read()
    assert g.coalesce() is g and g.is_coalesced()
    assert g.indices().tolist() == [[0, 1, 2]] and g.values().tolist() == [[4.0] * 3, [4.0] * 3, [2.0] * 3]
    assert g.to_dense()[:, 1].tolist() == [4.0, 4.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64, tl.float16], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (2, 3), (300,)], ids=str)
def test_it_is_the_dense_gradient(shape: tuple[int, ...], dtype: tl.DType, rng: np.random.Generator) -> None:
    start, ids = tl.tensor(rng.standard_normal((11, 70)), dtype=dtype), tl.tensor(rng.integers(0, 11, shape))
    g = tl.tensor(rng.standard_normal((*shape, 70)), dtype=dtype)
    for padding in (None, 0, -3):
        got, expected = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        F.embedding(ids, got, padding, sparse=True).backward(g)
        F.embedding(ids, expected, padding).backward(g)
        made = sparse_grad(got)
        tolerance = 1e-2 if dtype is tl.float16 else 1e-5
        np.testing.assert_allclose(made.to_dense().numpy(), expected.grad.numpy(), rtol=tolerance, atol=tolerance)  # type: ignore[union-attr]
        assert padding is None or padding % 11 not in made._indices().tolist()[0]
        if dtype is not tl.float16:
            np.testing.assert_array_equal(made.coalesce().to_dense().numpy(), expected.grad.numpy())  # type: ignore[union-attr]
        assert made.coalesce().indices().tolist()[0] == sorted({*made._indices().tolist()[0]})


def test_sums_do_not_depend_on_threads_or_instruction_sets(isa: str, rng: np.random.Generator) -> None:
    ids, values = rng.integers(0, 200, 3000), rng.standard_normal((3000, 130)).astype(np.float32)
    expected = np.zeros((200, 130), np.float32)
    for i, v in zip(ids, values, strict=True):
        expected[i] += v
    found, shared = [], lib.tl_shared_loops()
    for threads in (1, 2, 3):
        tl.set_num_threads(threads)
        found.append(tl.sparse_coo_tensor(tl.tensor(ids), tl.tensor(values), (200, 130)).coalesce())
    assert lib.tl_shared_loops() > shared
    for g in found:
        np.testing.assert_array_equal(g.indices()[0].numpy(), np.unique(ids))
        np.testing.assert_array_equal(g.values().numpy(), expected[np.unique(ids)])


def test_wide_rows_are_summed_in_parts(rng: np.random.Generator) -> None:
    values = rng.standard_normal((3, 1500))
    g = tl.sparse_coo_tensor(tl.tensor([[7, 2, 7]]), tl.tensor(values), (9, 1500)).coalesce()
    np.testing.assert_array_equal(g.values().numpy(), [values[1], values[0] + values[2]])


def test_rows_of_no_width_and_ids_beyond_the_sort() -> None:
    g = tl.sparse_coo_tensor(tl.tensor([[1, 0, 1]]), tl.zeros(3, 0), (2, 0)).coalesce()
    assert g.indices().tolist() == [[0, 1]] and g.values().shape == (2, 0)
    big = 2**40
    g = tl.sparse_coo_tensor(tl.tensor([[big - 1, 3, big - 1]]), tl.tensor([[1.0], [2.0], [4.0]]), (big, 1)).coalesce()
    assert g.indices().tolist() == [[3, big - 1]] and g.values().tolist() == [[2.0], [5.0]]


def test_backwards_and_uses_add_up() -> None:
    w = table()
    looked_up(w).sum().backward()
    held = sparse_grad(w)
    looked_up(w).sum().backward()
    assert w.grad is held and held._nnz() == 8 and held.to_dense()[1, 0].item() == 4.0
    w.grad = None
    (looked_up(w) + 2 * looked_up(w)).sum().backward()
    assert sparse_grad(w)._nnz() == 8
    np.testing.assert_array_equal(sparse_grad(w).to_dense().numpy(), dense_twin(w, lambda e: 3 * e.sum()))


@pytest.mark.parametrize("order", ["at once", "sparse first", "dense first"])
def test_with_a_dense_gradient_it_becomes_dense(order: str) -> None:
    w = table()
    if order == "at once":
        (looked_up(w).sum() + w.sum()).backward()
    else:
        losses = [lambda: looked_up(w).sum(), lambda: w.sum()]
        for loss in losses if order == "sparse first" else losses[::-1]:
            loss().backward()
    assert w.grad is not None and not w.grad.is_sparse
    assert w.grad[:, 0].tolist() == [2.0, 3.0, 2.0, 1.0]


def test_a_tied_weight() -> None:
    w, got = table(), {}
    for sparse in (False, True):
        w.grad = None
        e = F.embedding(tl.tensor(IDS), w, sparse=sparse)
        for _ in range(3):  # products of one weight wait for each other
            e = F.linear(F.linear(e, w), w.detach().mT)
        e.sum().backward()
        assert not w.grad.is_sparse  # type: ignore[union-attr]
        got[sparse] = w.grad.numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(got[True], got[False], rtol=1e-6)


def test_through_other_operations_it_becomes_dense() -> None:
    w = table()
    looked_up(w * 2).sum().backward()
    assert not w.grad.is_sparse  # type: ignore[union-attr]
    np.testing.assert_array_equal(w.grad.numpy(), dense_twin(w, lambda e: 2 * e.sum()))  # type: ignore[union-attr]
    w.grad = None
    F.embedding(tl.tensor([1, 1]), w[1:3], sparse=True).sum().backward()
    assert w.grad[:, 0].tolist() == [0.0, 0.0, 2.0, 0.0]  # type: ignore[index]


def test_hooks_see_it() -> None:
    w, seen = table(), []
    with w.register_hook(lambda g: (seen.append(g), g * 2)[1]):
        (looked_up(w) + looked_up(w)).sum().backward()
        (g,) = tl.autograd.grad(looked_up(w).sum(), w)
    assert [type(g) for g in seen] == [tl.SparseTensor] * 2 and g.is_sparse
    assert seen[0]._nnz() == 8 and sparse_grad(w)._values()[0, 0].item() == 2.0
    assert seen[0].to_dense()[1, 0].item() == 4.0
    looked_up(w).sum().backward()
    assert seen[0]._nnz() == 8  # what a hook kept does not grow with the leaf's gradient
    with w.register_post_accumulate_grad_hook(lambda leaf: seen.append(leaf.grad)):
        looked_up(w).sum().backward()
    assert seen[-1]._nnz() == sparse_grad(w)._nnz() == 16
    interior = w * 1
    interior.register_hook(lambda g: seen.append(g))
    interior.retain_grad()
    looked_up(interior).sum().backward()
    assert seen[-1].is_sparse and interior.grad.is_sparse  # type: ignore[union-attr]


def test_grad_and_inputs() -> None:
    w = table()
    (g,) = tl.autograd.grad(looked_up(w).sum(), w)
    assert isinstance(g, tl.SparseTensor) and g._nnz() == 4 and w.grad is None
    looked_up(w).sum().backward(inputs=[w])
    looked_up(w).sum().backward(inputs=[w])
    assert sparse_grad(w)._nnz() == 8


def test_values_are_differentiable() -> None:
    for use in (lambda g: g.to_dense(), lambda g: g.coalesce().values(), lambda g: g._values()):
        w = table(tl.float64)
        (g,) = tl.autograd.grad((looked_up(w) ** 3).sum(), w, create_graph=True)
        assert g.is_sparse and g.requires_grad and not g.detach().requires_grad
        (second,) = tl.autograd.grad((use(g) ** 2).sum(), w)
        twin = nn.Parameter(w.detach().clone())
        counts = tl.tensor([1.0, 2.0, 1.0, 0.0], dtype=tl.float64).unsqueeze(1)
        rows = 1 if use(g).shape[0] == 4 and use(g)[0, 0].item() != 0 else counts  # apart, or added up
        loss = ((3 * twin**2 * (counts if rows is counts else counts.sqrt())) ** 2).sum()
        (expected,) = tl.autograd.grad(loss, twin)
        np.testing.assert_allclose(second.to_dense().numpy(), expected.numpy(), rtol=1e-12)
    looked_up(w).pow(3).sum().backward(create_graph=True)
    looked_up(w).pow(3).sum().backward(create_graph=True)
    assert sparse_grad(w).requires_grad and sparse_grad(w)._nnz() == 8
    w.grad = None


def test_arithmetic() -> None:
    w = table()
    looked_up(w).sum().backward()
    g = sparse_grad(w)
    dense = g.to_dense()
    for got, expected in [
        (g * 2, dense * 2), (2 * g, dense * 2), (g / 4, dense / 4), (-g, -dense), (g * tl.tensor(3.0), dense * 3), (g + g, dense + dense),
        (g - g * 3, dense * -2), (g.add(g, alpha=0.5), dense * 1.5), (g.clone(), dense), (g.detach(), dense), (g.to(tl.float64), dense.double()),
        (g.to("cpu"), dense), (g.coalesce() * 2, dense * 2),
    ]:  # fmt: skip
        assert isinstance(got, tl.SparseTensor) and got.dtype is expected.dtype
        np.testing.assert_array_equal(got.to_dense().numpy(), expected.numpy())
    other = tl.ones(4, 3)
    for got, expected in [
        (g + other, dense + 1), (other + g, dense + 1), (g - other, dense - 1), (other - g, 1 - dense), (w.detach() + g, w.detach() + dense),
        (nn.Parameter(tl.ones(4, 3)) + g, dense + 1),
    ]:  # fmt: skip
        assert not got.is_sparse
        np.testing.assert_array_equal(got.detach().numpy(), expected.numpy())
    assert g.sum().item() == 12.0 and np.isclose(g.norm().item(), np.linalg.norm(dense.numpy()))
    assert g.norm(1).item() == 12.0 and g.norm(float("inf")).item() == 2.0


def test_in_place_it_writes_no_memory_that_others_see() -> None:
    w = table()
    out = looked_up(w)
    out.retain_grad()
    out.backward(tl.ones(2, 2, 3))
    g = sparse_grad(w)
    assert g.mul_(2) is g and g.div_(4).neg_() is g
    g += g * 2
    assert g.to_dense()[0, 0].item() == -1.5 and out.grad.tolist() == tl.ones(2, 2, 3).tolist()  # type: ignore[union-attr]
    assert g.zero_() is g and g._nnz() == 0 and not g.to_dense().any() and g._values().shape == (0, 3)
    with pytest.raises(TypeError, match="add_: a row-sparse tensor can not hold the sum with a dense one"):
        g.add_(tl.ones(4, 3))


def test_copies_and_pickles() -> None:
    w = table()
    looked_up(w).sum().backward()
    twin = copy.deepcopy(w)
    assert sparse_grad(twin)._nnz() == 4
    twin.grad.mul_(2)  # type: ignore[union-attr]
    for g in (copy.copy(w.grad), copy.deepcopy(w.grad), pickle.loads(pickle.dumps(w.grad))):
        assert isinstance(g, tl.SparseTensor)
        np.testing.assert_array_equal(g.to_dense().numpy(), sparse_grad(w).to_dense().numpy())
    assert "nnz=4" in repr(w.grad) and "nnz=4" in w.grad._repr_html_()  # type: ignore[union-attr]


def test_threads_add_into_one_leaf() -> None:
    w = table()

    def work() -> None:
        for _ in range(50):
            looked_up(w).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sparse_grad(w)._nnz() == 800 and w.grad.to_dense()[1, 0].item() == 400.0  # type: ignore[union-attr]


def test_on_a_device_of_an_array_module() -> None:
    w = nn.Parameter(tl.arange(12.0, device="reference").reshape(4, 3))
    F.embedding(tl.tensor(IDS, device="reference"), w, sparse=True).sum().backward()
    F.embedding(tl.tensor(IDS, device="reference"), w, sparse=True).sum().backward()
    g = sparse_grad(w)
    assert g.device == w.device and g._nnz() == 8 and g.coalesce()._nnz() == 3
    assert g.to_dense()[:, 0].tolist() == [2.0, 4.0, 2.0, 0.0]
    assert g.to("cpu").device.type == "cpu"


@pytest.mark.parametrize(
    "use",
    [
        lambda g: tl.tanh(g), lambda g: g @ tl.ones(3, 1), lambda g: tl.cat([g, g]), lambda g: tl.ones(4, 3).add_(g), lambda g: g.clamp_(0, 1),
        lambda g: g.numpy(), lambda g: g.tolist(), lambda g: g.mT.tolist(), lambda g: g[0].tolist(), lambda g: g.exp(), lambda g: g.max(),
        lambda g: tl.where(tl.ones(4, 3) > 0, g, g), lambda g: tl.ones(4, 3).copy_(g), lambda g: g.reshape(12) + 1,
        lambda g: tl.linear(tl.ones(1, 3), g),
    ],
)  # fmt: skip
def test_what_needs_a_dense_one_says_so(use: Any) -> None:
    w = table()
    looked_up(w).sum().backward()
    with pytest.raises(TypeError, match=r"row-sparse tensor(.|\n)*to_dense\(\) it"):
        use(w.grad)


def test_wrong_operands_are_named() -> None:
    w = table()
    looked_up(w).sum().backward()
    g = sparse_grad(w)
    for use, kind, match in [
        (lambda: g * tl.ones(3), ValueError, r"mul: got a tensor of shape \(3,\) beside a row-sparse one"),
        (lambda: g * "a", TypeError, "mul: got a str"),
        (lambda: g + 1, TypeError, "add: got a int"),
        (lambda: g + tl.ones(3), ValueError, r"add: got \(3,\) float32 beside a row-sparse tensor of \(4, 3\) float32"),
        (lambda: g.requires_grad_(), RuntimeError, "a row-sparse tensor is a gradient"),
        (lambda: tl.SparseTensor(), TypeError, "made by sparse_coo_tensor"),
        (lambda: tl.sparse_coo_tensor(tl.tensor([[0], [1]]), tl.ones(2, 3), (4, 3)), ValueError, r"indices must be integers of shape \(1, n\)"),
        (lambda: tl.sparse_coo_tensor(tl.tensor([0.0]), tl.ones(1, 3), (4, 3)), ValueError, "indices must be integers"),
        (lambda: tl.sparse_coo_tensor(tl.tensor([0]), tl.tensor([[1]]), (4, 1)), TypeError, "values must be floating"),
        (lambda: tl.sparse_coo_tensor(tl.tensor([0]), tl.ones(2, 3), (4, 3)), ValueError, r"1 indices and values of shape \(2, 3\)"),
        (lambda: tl.sparse_coo_tensor(tl.tensor([0, 4]), tl.ones(2, 3), (4, 3)), IndexError, "index 4 is out of range for 4 rows"),
        (lambda: F.embedding(tl.tensor(IDS), w, sparse=True, scale_grad_by_freq=True), RuntimeError, "scale_grad_by_freq does not go with sparse"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=match):
            use()
    assert sparse_grad(w)._nnz() == 4
