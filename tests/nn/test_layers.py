"""Layers, losses, initial values and clipping against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn


def close(a: tl.Tensor, b: Any, tolerance: float = 1e-5) -> bool:
    return np.allclose(a.detach().numpy(), np.asarray(b), rtol=tolerance, atol=tolerance)


def test_linear() -> None:
    layer = nn.Linear(3, 2)
    x = tl.randn(4, 3)
    assert close(layer(x), x.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
    bound = 1 / math.sqrt(3)
    assert all(bool((p.detach().abs() <= bound).all()) for p in layer.parameters())
    assert nn.Linear(3, 2, bias=False).bias is None and list(nn.Linear(3, 2, bias=False).state_dict()) == ["weight"]
    assert nn.Linear(0, 2)(tl.zeros(4, 0)).shape == (4, 2)
    assert nn.Linear(3, 2, dtype=tl.float64).weight.dtype is tl.float64


def test_linear_words_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"linear: input of shape \(4, 5\) does not fit weight of shape \(2, 3\)"):
        nn.Linear(3, 2)(tl.zeros(4, 5))


def test_embedding() -> None:
    layer = nn.Embedding(5, 3, padding_idx=-1)
    assert layer.padding_idx == 4 and layer.weight[4].tolist() == [0.0, 0.0, 0.0]
    index = tl.tensor([[1, 4], [1, 0]])
    layer(index).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1.0] * 3, [2.0] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3]
    with pytest.raises(IndexError, match="index 5 is out of range"):
        layer(tl.tensor([5]))
    with pytest.raises(TypeError, match="must be an integer tensor, got float32"):
        layer(tl.tensor([1.0]))
    with pytest.raises(ValueError, match="padding_idx 5 is out of range"):
        nn.Embedding(5, 3, padding_idx=5)
    given = nn.Embedding.from_pretrained(tl.arange(6.0).reshape(3, 2))
    assert given(tl.tensor(2)).tolist() == [4.0, 5.0] and not given.weight.requires_grad


def test_embedding_with_a_largest_norm() -> None:
    weight = tl.tensor([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0]])
    out = F.embedding(tl.tensor([0, 1, 0]), weight, max_norm=1.0)
    assert close(out.norm(2, 1), [1.0, 0.5, 1.0]) and close(weight[2], [6.0, 8.0])


def test_dropout() -> None:
    tl.manual_seed(0)
    layer, x = nn.Dropout(0.25), tl.ones(400, 100, requires_grad=True)
    out = layer(x)
    assert set(np.unique(out.detach().numpy()).tolist()) == {0.0, np.float32(1 / 0.75)}
    assert abs((out == 0).float().mean().item() - 0.25) < 0.01
    out.sum().backward()
    assert x.grad is not None and x.grad.tolist() == out.tolist()  # the same elements let the gradient through
    assert layer(x).tolist() != out.tolist()
    tl.manual_seed(0)
    assert layer(x).tolist() == out.tolist()
    assert layer.eval()(x) is x
    assert nn.Dropout(1.0)(tl.ones(3)).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="p must be a probability"):
        nn.Dropout(1.5)


ACTIVATIONS: list[tuple[nn.Module, Callable[[np.ndarray[Any, Any]], Any]]] = [
    (nn.ReLU(), lambda x: np.maximum(x, 0)),
    (nn.ReLU(inplace=True), lambda x: np.maximum(x, 0)),
    (nn.SiLU(), lambda x: x / (1 + np.exp(-x))),
    (nn.SiLU(inplace=True), lambda x: x / (1 + np.exp(-x))),
    (nn.ELU(0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    (nn.LeakyReLU(0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
    (nn.GELU(), lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
    (nn.GELU("tanh"), lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    (nn.Tanh(), np.tanh),
    (nn.Softplus(2.0), lambda x: np.log1p(np.exp(2 * x)) / 2),
    (nn.Softmax(1), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    (nn.LogSoftmax(1), lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))),
    (nn.Identity(3, anything=4), lambda x: x),
    (nn.Flatten(0), lambda x: x.reshape(-1)),
    (nn.Unflatten(1, (2, 2)), lambda x: x.reshape(3, 2, 2)),
]


@pytest.mark.parametrize(("module", "expected"), ACTIVATIONS, ids=lambda v: repr(v) if isinstance(v, nn.Module) else "")
def test_modules_without_parameters(module: nn.Module, expected: Callable[[Any], Any]) -> None:
    x = np.linspace(-3, 3, 12).reshape(3, 4)
    assert close(module(tl.tensor(x)), expected(x), 1e-6)
    assert not module.state_dict()


def log_softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction: str, weighted: bool, smoothing: float) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3))
    target = np.array([0, 2, -100, 1, 2])
    weight = np.array([0.5, 1.0, 2.0]) if weighted else np.ones(3)
    losses, used = [], 0.0
    for row, t in zip(log_softmax(x), target, strict=True):
        if t == -100:
            losses.append(0.0)
            continue
        q = (1 - smoothing) * np.eye(3)[t] * weight[t] + smoothing / 3 * weight
        losses.append(-float(q @ row))
        used += weight[t]
    expected = {"mean": sum(losses) / used, "sum": sum(losses), "none": losses}[reduction]
    module = nn.CrossEntropyLoss(
        tl.tensor(weight) if weighted else None, reduction=reduction, label_smoothing=smoothing
    )
    assert close(module(tl.tensor(x), tl.tensor(target)), expected, 1e-9)
    if not smoothing:
        nll = nn.NLLLoss(tl.tensor(weight) if weighted else None, reduction=reduction)
        assert close(nll(F.log_softmax(tl.tensor(x), 1), tl.tensor(target)), expected, 1e-9)


def test_cross_entropy_of_probabilities() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3))
    p = np.abs(np.random.default_rng(1).standard_normal((4, 3)))
    assert close(F.cross_entropy(tl.tensor(x), tl.tensor(p)), -(p * log_softmax(x)).sum(1).mean(), 1e-9)
    hot = F.one_hot(tl.tensor([0, 2, 1, 1]), 3).to(tl.float64)
    whole, soft = (
        F.cross_entropy(tl.tensor(x), t, label_smoothing=0.2, reduction="none") for t in (tl.tensor([0, 2, 1, 1]), hot)
    )
    assert close(whole, soft.numpy(), 1e-9)


def test_cross_entropy_with_further_dimensions() -> None:
    x, target = tl.randn(2, 3, 4, 5), tl.randint(0, 3, (2, 4, 5))
    flat = F.cross_entropy(x.permute(0, 2, 3, 1).reshape(-1, 3), target.reshape(-1))
    assert close(F.cross_entropy(x, target), flat.item())


@pytest.mark.parametrize(
    ("x", "target", "words"),
    [
        ((2, 3), [0, 3], "target 3 is out of range"),
        ((2, 3), [0, -1], "target -1 is out of range"),
        ((2, 3), [0, 1, 2], r"target of shape \(3,\) does not fit input of shape \(2, 3\)"),
        ((2, 3), [0.0, 1.0], "target must be integer class numbers"),
    ],
)
def test_cross_entropy_words_what_does_not_fit(x: tuple[int, ...], target: list[Any], words: str) -> None:
    for loss in (F.cross_entropy, F.nll_loss):
        with pytest.raises((ValueError, IndexError, TypeError), match=words):
            loss(tl.zeros(*x), tl.tensor(target))


def test_other_losses() -> None:
    x, y = np.array([0.2, 0.7, 0.9]), np.array([0.0, 1.0, 0.25])
    p = 1 / (1 + np.exp(-x))
    tx, ty = tl.tensor(x), tl.tensor(y)
    assert close(nn.MSELoss()(tx, ty), ((x - y) ** 2).mean(), 1e-12)
    assert close(nn.L1Loss("sum")(tx, ty), np.abs(x - y).sum(), 1e-12)
    assert close(nn.BCELoss()(tx, ty), -(y * np.log(x) + (1 - y) * np.log(1 - x)).mean(), 1e-12)
    assert close(nn.BCEWithLogitsLoss()(tx, ty), -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(), 1e-12)
    positive = nn.BCEWithLogitsLoss(pos_weight=tl.tensor([3.0], dtype=tl.float64))
    assert close(positive(tx, ty), -(3 * y * np.log(p) + (1 - y) * np.log(1 - p)).mean(), 1e-12)
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'avg'"):
        F.mse_loss(tx, ty, "avg")
    with pytest.warns(UserWarning, match="differ and are broadcast"):
        F.mse_loss(tl.zeros(3, 1), tl.zeros(3))


def test_logits_of_zero_have_the_right_slope() -> None:
    x = tl.zeros(1, requires_grad=True)
    F.binary_cross_entropy_with_logits(x, tl.ones(1)).backward()
    assert x.grad is not None and x.grad.item() == -0.5


def statistics(x: tl.Tensor) -> tuple[float, float]:
    values = x.numpy()
    return float(values.mean()), float(values.std())


@pytest.mark.parametrize(
    ("fill", "std"),
    [
        (nn.init.uniform_, math.sqrt(1 / 12)),
        (lambda t: nn.init.normal_(t, 0.5, 2.0), 2.0),
        (nn.init.xavier_uniform_, math.sqrt(2 / 500)),
        (lambda t: nn.init.xavier_normal_(t, gain=2.0), 2 * math.sqrt(2 / 500)),
        (lambda t: nn.init.kaiming_uniform_(t, nonlinearity="relu"), math.sqrt(2 / 300)),
        (lambda t: nn.init.kaiming_normal_(t, mode="fan_out", nonlinearity="linear"), math.sqrt(1 / 200)),
    ],
    ids=["uniform", "normal", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"],
)
def test_initial_distributions(fill: Callable[[tl.Tensor], tl.Tensor], std: float) -> None:
    tl.manual_seed(0)
    weight = nn.Parameter(tl.empty(200, 300))
    assert fill(weight) is weight and weight.is_leaf
    mean, found = statistics(weight.detach())
    expected_mean = 0.5 if std in (2.0, math.sqrt(1 / 12)) else 0.0
    assert abs(found / std - 1) < 0.02 and abs(mean - expected_mean) < 0.03 * max(std, 0.3)


def test_other_initial_values() -> None:
    assert nn.init.constant_(tl.empty(2), 3.0).tolist() == [3.0, 3.0]
    assert nn.init.zeros_(tl.empty(1)).tolist() == [0.0] and nn.init.ones_(tl.empty(1)).tolist() == [1.0]
    assert nn.init.eye_(tl.empty(2, 3)).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    w = nn.init.orthogonal_(tl.empty(4, 2, 3), gain=2.0).reshape(4, 6)
    assert close(w @ w.mT, 4 * np.eye(4))
    t = nn.init.trunc_normal_(tl.empty(10000), std=5.0, a=-1, b=1)
    assert bool((t.abs() <= 1).all()) and abs(statistics(t)[1] - math.sqrt(1 / 3)) < 0.02
    assert nn.init.calculate_gain("tanh") == 5 / 3 and nn.init.calculate_gain("leaky_relu", 1.0) == 1.0
    with pytest.raises(ValueError, match="unknown nonlinearity 'rely'"):
        nn.init.calculate_gain("rely")
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        nn.init.xavier_uniform_(tl.empty(3))
    own = tl.Generator().manual_seed(5)
    first = nn.init.normal_(tl.empty(3), generator=own).tolist()
    assert nn.init.normal_(tl.empty(3), generator=own.manual_seed(5)).tolist() == first


def test_sparse_and_dirac() -> None:
    w = nn.init.sparse_(tl.empty(50, 400), 0.33, std=2.0)
    assert set((w == 0).sum(0).tolist()) == {17} and abs(w[w != 0].std().item() - 2) < 0.1
    assert len({tuple(row) for row in (w == 0).T.tolist()}) == 400  # each column has zeros of its own
    seeded = [nn.init.sparse_(tl.empty(9, 9), 0.5, generator=tl.Generator().manual_seed(3)).tolist() for _ in range(2)]
    assert seeded[0] == seeded[1]
    x = tl.randn(2, 4, 5, 6)
    weight = nn.init.dirac_(tl.empty(4, 2, 3, 3), groups=2)
    assert F.conv2d(x, weight, padding=1, groups=2).tolist() == x.tolist()


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("sparse_: expected a matrix", lambda: nn.init.sparse_(tl.empty(3), 0.1)),
        ("sparse_: sparsity must be in", lambda: nn.init.sparse_(tl.empty(3, 3), 1.5)),
        ("dirac_: expected the weight of a convolution", lambda: nn.init.dirac_(tl.empty(3, 3))),
        ("dirac_: 2 groups do not divide", lambda: nn.init.dirac_(tl.empty(3, 3, 3), 2)),
    ],
    ids=["sparse shape", "sparsity", "dirac shape", "dirac groups"],
)
def test_initial_values_refuse(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def with_gradients(*values: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(tl.zeros(len(v))) for v in values]
    for p, v in zip(parameters, values, strict=True):
        p.grad = tl.tensor(v)
    return [*parameters, nn.Parameter(tl.zeros(1))]  # the last one has none


@pytest.mark.parametrize("order", [1.0, 2.0, math.inf])
def test_clipping_by_norm(order: float) -> None:
    parameters = with_gradients([3.0, -4.0], [12.0])
    norm = float(np.linalg.norm([3, -4, 12], order))
    assert close(nn.utils.clip_grad_norm_(parameters, 2.0, order), norm)
    assert close(tl.cat([p.grad for p in parameters if p.grad is not None]), np.array([3, -4, 12]) * 2 / norm)
    assert close(nn.utils.clip_grad_norm_(parameters, 100.0, order), 2.0)
    assert close(parameters[1].grad, [24 / norm])


def test_clipping_by_value_and_what_can_go_wrong() -> None:
    parameters = with_gradients([3.0, -0.5], [-12.0])
    nn.utils.clip_grad_value_(parameters, 1.0)
    assert [p.grad.tolist() for p in parameters if p.grad is not None] == [[1.0, -0.5], [-1.0]]
    with pytest.raises(RuntimeError, match="expected a finite one"):
        nn.utils.clip_grad_norm_(with_gradients([math.inf]), 1.0, error_if_nonfinite=True)
    assert nn.utils.clip_grad_norm_(nn.Parameter(tl.zeros(1)), 1.0).item() == 0.0


def test_parameters_as_one_vector() -> None:
    layer, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(vector, twin.parameters())
    assert twin.weight.tolist() == layer.weight.tolist() and twin.bias.tolist() == layer.bias.tolist()
    with pytest.raises(ValueError, match=r"a vector of 8 elements, got shape \(7,\)"):
        nn.utils.vector_to_parameters(vector[:7], twin.parameters())


def test_tables_that_were_given() -> None:
    table = tl.arange(6.0).reshape(3, 2)
    layer = nn.Embedding.from_pretrained(table, padding_idx=-1, sparse=True, freeze=False)
    assert (layer.num_embeddings, layer.embedding_dim, layer.padding_idx, layer.sparse) == (3, 2, 2, True)
    layer(tl.tensor([0, 2, 0])).sum().backward()
    assert isinstance(layer.weight.grad, tl.SparseTensor) and layer.weight.grad.to_dense().tolist() == [
        [2.0, 2.0],
        [0.0, 0.0],
        [0.0, 0.0],
    ]
    assert layer.weight.tolist() == table.tolist()  # the padding row too
    bags = nn.EmbeddingBag.from_pretrained(table, mode="sum", include_last_offset=True)
    assert not bags.weight.requires_grad and bags(tl.tensor([0, 1, 2]), tl.tensor([0, 2, 3])).tolist() == [
        [2.0, 4.0],
        [4.0, 5.0],
    ]
    with pytest.raises(ValueError, match=r"EmbeddingBag.from_pretrained: expected a \(V, D\) table, got shape \(3,\)"):
        nn.EmbeddingBag.from_pretrained(tl.ones(3))
    with pytest.raises(ValueError, match=r"Embedding: expected a table of shape \(4, 2\), got \(3, 2\)"):
        nn.Embedding(4, 2, _weight=table)
