"""Losses with weights of their own, and those for rare and for many classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn
from tensorlib.nn.vocabulary import AdaptiveOutput


def close(a: tl.Tensor, b: tl.Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and np.allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_adaptive_softmax_is_a_distribution() -> None:
    tl.manual_seed(0)
    model = nn.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 10], div_value=2.0, head_bias=True)
    x, target = tl.randn(40, 8), tl.randint(0, 20, (40,))
    every = model.log_prob(x)
    assert close(every.exp().sum(1), tl.ones(40))
    made = model(x, target)
    assert isinstance(made, AdaptiveOutput)
    assert close(made.output, every.gather(1, target.unsqueeze(1)).squeeze(1)) and close(made.loss, -made.output.mean())
    assert model.predict(x).tolist() == every.argmax(1).tolist()
    assert [tuple(p.shape) for p in model.parameters()] == [(6, 8), (6,), (4, 8), (6, 4), (2, 8), (10, 2)]
    alone = model(x[3], target[3])
    assert close(alone.output, made.output[3]) and alone.loss.shape == ()


def test_adaptive_softmax_touches_only_the_clusters_that_occur() -> None:
    model = nn.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 10])
    model(tl.randn(3, 8), tl.tensor([0, 12, 3])).loss.backward()
    grads = {name: p.grad is not None for name, p in model.named_parameters()}
    assert [name for name, given in grads.items() if given] == ["head.weight", "tail.1.0.weight", "tail.1.1.weight"]


def test_linear_cross_entropy() -> None:
    x, target = tl.randn(5, 8), tl.tensor([0, 3, 1, 1, 2])
    loss = nn.LinearCrossEntropyLoss(8, 4, bias=True, label_smoothing=0.1)
    assert close(loss(x, target), F.cross_entropy(loss.linear(x), target, label_smoothing=0.1))
    assert list(loss.state_dict()) == ["linear.weight", "linear.bias"]


def test_focal_loss() -> None:
    x, target = tl.randn(5, 4, dtype=tl.float64), (tl.rand(5, 4) < 0.5).double()
    p = x.sigmoid()
    of_true = tl.where(target == 1, p, 1 - p)
    weight = tl.where(target == 1, 0.3, 0.7)
    want = -weight * (1 - of_true) ** 1.5 * of_true.log()
    assert close(F.sigmoid_focal_loss(x, target, 0.3, 1.5), want)
    assert close(nn.FocalLoss(0.3, 1.5)(x, target), want.mean())
    assert close(
        F.sigmoid_focal_loss(x, target, -1, 0.0, "sum"), F.binary_cross_entropy_with_logits(x, target, reduction="sum")
    )
    leaf = (x * 1).requires_grad_()
    assert tl.autograd.gradcheck(lambda t: F.sigmoid_focal_loss(t, target), (leaf.detach().requires_grad_(),))


def test_negative_sampling() -> None:
    rng = np.random.default_rng(0)
    x, table = rng.standard_normal((4, 3)), rng.standard_normal((6, 3))
    target, drawn = np.array([0, 5, 2, 2]), np.array([[1, 0], [5, 5], [3, 4], [2, 0]])
    want = []
    for i in range(4):
        terms = [np.log1p(np.exp(-x[i] @ table[target[i]]))]
        terms += [np.log1p(np.exp(x[i] @ table[k])) for k in drawn[i] if k != target[i]]
        want.append(sum(terms))
    given = [tl.tensor(a) for a in (x, table, target, drawn)]
    np.testing.assert_allclose(F.negative_sampling_loss(*given, reduction="none").numpy(), want, rtol=1e-12)
    np.testing.assert_allclose(F.negative_sampling_loss(*given).item(), np.mean(want), rtol=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_negative_sampling_layer(sparse: bool) -> None:
    tl.manual_seed(0)
    loss = nn.NegativeSamplingLoss(4, [16, 1, 0, 81, 0], num_samples=3, sparse=sparse)
    drawn = loss.draw(5000).flatten()
    shares = np.bincount(drawn.numpy(), minlength=5) / 15000
    np.testing.assert_allclose(shares, np.array([8, 1, 0, 27, 0]) / 36, atol=0.015)
    assert list(loss.state_dict()) == ["weight"] and not loss.weight.any()
    x = tl.randn(6, 4)
    optimizer = tl.optim.SGD(loss.parameters(), lr=0.5)
    target = tl.tensor([0, 3, 0, 3, 3, 0])
    before = loss(x, target).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(x, target).backward()
        optimizer.step()
    assert loss(x, target).item() < before and not loss.weight[2].any() and not loss.weight[4].any()


Z, INT = tl.zeros, tl.int64
REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("cutoffs must be rising integers between 1 and 9, got \\[5, 5\\]", lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 10, [5, 5])),
    ("cutoffs must be", lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 10, [])),
    ("cutoffs must be", lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 10, [10])),
    (r"expected input \(N, 8\) and target \(N,\)", lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 10, [5])(Z(2, 8), Z(3, dtype=INT))),
    ("weight has shape", lambda: nn.LinearCrossEntropyLoss(8, 4, weight=Z(3))),
    ("label_smoothing must be in", lambda: nn.LinearCrossEntropyLoss(8, 4, label_smoothing=2.0)),
    ("expected input", lambda: F.linear_cross_entropy(Z(2, 3), Z(4, 5), Z(2, dtype=INT))),
    ("linear_bias has shape", lambda: F.linear_cross_entropy(Z(2, 3), Z(4, 3), Z(2, dtype=INT), linear_bias=Z(3))),
    ("needs input", lambda: F.linear_cross_entropy(Z(3), Z(4, 2, 3), Z(2, dtype=INT))),
    ("ignore_index does not go", lambda: F.linear_cross_entropy(Z(2, 3), Z(4, 3), Z(2, 4), ignore_index=1)),
    ("targets has shape", lambda: F.sigmoid_focal_loss(Z(2), Z(3))),
    ("alpha must be at most 1", lambda: F.sigmoid_focal_loss(Z(2), Z(2), alpha=2.0)),
    ("reduction must be", lambda: F.sigmoid_focal_loss(Z(2), Z(2), reduction="all")),
    ("expected input", lambda: F.negative_sampling_loss(Z(2, 3), Z(4, 5), Z(2, dtype=INT), Z(2, 2, dtype=INT))),
    ("expected target", lambda: F.negative_sampling_loss(Z(2, 3), Z(4, 3), Z(2, dtype=INT), Z(3, 2, dtype=INT))),
    ("counts must be", lambda: nn.NegativeSamplingLoss(4, [1.0, -1.0])),
    ("counts must be", lambda: nn.NegativeSamplingLoss(4, [0.0, 0.0])),
    ("num_samples must be positive", lambda: nn.NegativeSamplingLoss(4, [1.0], 0)),
]  # fmt: skip


@pytest.mark.parametrize(("message", "call"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_targets_out_of_range() -> None:
    model = nn.AdaptiveLogSoftmaxWithLoss(8, 10, [5])
    with pytest.raises(IndexError, match=r"targets must be in \[0, 10\), got 0 to 10"):
        model(Z(2, 8), tl.tensor([0, 10]))
