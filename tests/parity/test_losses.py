"""Losses beside PyTorch's: values and gradients, over settings, shapes and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]

RNG = np.random.default_rng(0)
X, Y, Z = (RNG.standard_normal((6, 4)) for _ in range(3))
P, Q = RNG.uniform(0.05, 0.95, (6, 4)), RNG.uniform(0.05, 0.95, (6, 4))
SIGNS, ROW_SIGNS = RNG.choice([-1.0, 1.0], (6, 4)), RNG.choice([-1, 1], 6)
LABELS, ROW_WEIGHTS = RNG.integers(0, 4, 6), RNG.uniform(0.5, 2, 4)
MANY = np.array([[0, 2, -1, 1], [3, -1, 0, 0], [-1, 0, 1, 2], [1, 0, 2, 3], [2, 2, -1, -1], [0, -1, -1, -1]])
FLOATS = ("input", "target", "weight", "pos_weight", "var", "input1", "input2", "anchor", "positive", "negative")

CASES: list[tuple[str, dict[str, Any]]] = [
    ("mse_loss", {"input": X, "target": Y}),
    ("mse_loss", {"input": X, "target": Y, "weight": P}),
    ("l1_loss", {"input": X, "target": Y}),
    ("l1_loss", {"input": X, "target": Y, "weight": P}),
    ("huber_loss", {"input": X, "target": Y, "delta": 0.7}),
    ("huber_loss", {"input": X, "target": Y, "weight": P}),
    ("smooth_l1_loss", {"input": X, "target": Y, "beta": 0.7}),
    ("smooth_l1_loss", {"input": X, "target": Y, "beta": 0.0}),
    ("kl_div", {"input": np.log(P), "target": Q}),
    ("kl_div", {"input": np.log(P), "target": np.log(Q), "log_target": True}),
    ("binary_cross_entropy", {"input": P, "target": Q}),
    ("binary_cross_entropy", {"input": P, "target": np.round(Q), "weight": ROW_WEIGHTS}),
    ("binary_cross_entropy_with_logits", {"input": X, "target": Q}),
    ("binary_cross_entropy_with_logits", {"input": X, "target": Q, "weight": P, "pos_weight": ROW_WEIGHTS}),
    ("soft_margin_loss", {"input": X, "target": SIGNS}),
    ("hinge_embedding_loss", {"input": X, "target": SIGNS, "margin": 0.8}),
    ("margin_ranking_loss", {"input1": X, "input2": Y, "target": SIGNS, "margin": 0.3}),
    ("cosine_embedding_loss", {"input1": X, "input2": Y, "target": ROW_SIGNS, "margin": 0.1}),
    ("cosine_embedding_loss", {"input1": X[0], "input2": Y[0], "target": ROW_SIGNS[0]}),
    ("triplet_margin_loss", {"anchor": X, "positive": Y, "negative": Z, "margin": 2.0}),
    ("triplet_margin_loss", {"anchor": X, "positive": Y, "negative": Z, "p": 1, "swap": True}),
    ("triplet_margin_with_distance_loss", {"anchor": X, "positive": Y, "negative": Z, "swap": True}),
    ("poisson_nll_loss", {"input": X, "target": 3 * Q}),
    ("poisson_nll_loss", {"input": P, "target": 3 * Q, "log_input": False, "full": True}),
    ("gaussian_nll_loss", {"input": X, "target": Y, "var": P, "full": True}),
    ("gaussian_nll_loss", {"input": X, "target": Y, "var": P[:, 0]}),
    ("gaussian_nll_loss", {"input": X, "target": Y, "var": P[:, :1] - 0.05}),
    ("multilabel_margin_loss", {"input": X, "target": MANY}),
    ("multilabel_margin_loss", {"input": X[0], "target": MANY[0]}),
    ("multilabel_soft_margin_loss", {"input": X, "target": np.round(Q), "weight": ROW_WEIGHTS}),
    ("multi_margin_loss", {"input": X, "target": LABELS}),
    ("multi_margin_loss", {"input": X, "target": LABELS, "p": 2, "margin": 0.5, "weight": ROW_WEIGHTS}),
    ("multi_margin_loss", {"input": X[0], "target": LABELS[0]}),
    ("cross_entropy", {"input": X, "target": Q}),
    ("cross_entropy", {"input": X, "target": Q, "weight": ROW_WEIGHTS, "label_smoothing": 0.2}),
    ("cross_entropy", {"input": X.reshape(2, 3, 4), "target": Q.reshape(2, 3, 4), "label_smoothing": 0.1}),
]
WITHOUT_GRADIENT = {  # there, or by its nature
    "multi_margin_loss": ("weight",),
    "poisson_nll_loss": ("target",),
    "binary_cross_entropy": ("weight",),
    "binary_cross_entropy_with_logits": ("weight", "pos_weight"),
    "hinge_embedding_loss": ("target",),
    "soft_margin_loss": ("target",),
}


def results(lib: Any, functional: Any, name: str, given: dict[str, Any], reduction: str) -> list[np.ndarray]:
    """The loss, and the gradients of its floating operands."""
    operands, leaves = {}, []
    for role, value in given.items():
        if not isinstance(value, (np.ndarray, np.generic)):
            operands[role] = value
            continue
        array = np.array(value)
        operands[role] = lib.tensor(array)
        if array.dtype.kind == "f" and role in FLOATS and role not in WITHOUT_GRADIENT.get(name, ()):
            operands[role] = lib.tensor(array, requires_grad=True)
            leaves.append(operands[role])
    out = getattr(functional, name)(**operands, reduction=reduction)
    (out * out).sum().backward()
    return [np.asarray(t.detach()) for t in (out, *(leaf.grad for leaf in leaves))]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "given"), CASES, ids=[f"{i} {n}" for i, (n, _) in enumerate(CASES)])
def test_values_and_gradients(name: str, given: dict[str, Any], reduction: str) -> None:
    theirs = results(torch, torch.nn.functional, name, given, reduction)
    ours = results(tl, tl.nn.functional, name, given, reduction)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_batchmean() -> None:
    for log_target in (False, True):
        target = np.log(Q) if log_target else Q
        a, b = (
            lib.nn.functional.kl_div(lib.tensor(np.log(P)), lib.tensor(target), reduction="batchmean", log_target=log_target)
            for lib in (tl, torch)
        )  # fmt: skip
        np.testing.assert_allclose(a.item(), b.item(), rtol=1e-12)


CTC: list[tuple[str, np.ndarray, np.ndarray, Any, Any, int]] = [
    ("padded", RNG.standard_normal((9, 4, 5)), RNG.integers(1, 5, (4, 3)), (9, 7, 8, 4), (3, 2, 0, 3), 0),
    ("joined", RNG.standard_normal((9, 4, 5)), RNG.integers(0, 4, 8), (9, 7, 8, 4), (3, 2, 0, 3), 4),
    ("too short", RNG.standard_normal((6, 3, 3)), np.ones((3, 4), np.int64), (6, 3, 0), (2, 4, 1), 0),
    ("nothing to read", RNG.standard_normal((6, 2, 3)), np.ones((2, 2), np.int64), (0, 5), (0, 1), 0),
    ("unbatched", RNG.standard_normal((6, 5)), RNG.integers(1, 5, 3), (6,), (3,), 0),
    ("long", RNG.standard_normal((80, 3, 30)), RNG.integers(1, 30, (3, 20)), (80, 60, 41), (20, 12, 20), 0),
]


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CTC, ids=lambda case: case[0])
def test_ctc(case: Any, reduction: str, zero_infinity: bool) -> None:
    """Gradients beside log_softmax, where PyTorch's and the exact ones are the same."""
    _, scores, targets, inputs, counts, blank = case
    made = []
    for lib in (tl, torch):
        x = lib.tensor(scores, requires_grad=True)
        layer = lib.nn.CTCLoss(blank, reduction, zero_infinity)
        loss = layer(lib.log_softmax(x, -1), lib.tensor(targets), lib.tensor(inputs), lib.tensor(counts))
        loss.sum().backward()
        made.append((loss.detach().numpy(), x.grad.numpy()))
    (loss, grad), (their_loss, their_grad) = made
    np.testing.assert_allclose(loss, their_loss, rtol=1e-9, atol=1e-12)
    finite = ~np.isnan(their_grad)
    np.testing.assert_allclose(grad[finite], their_grad[finite], rtol=1e-7, atol=1e-9)
    assert finite.all() == np.isfinite(grad).all()


LAYERS: list[tuple[Callable[[Any], Any], tuple[Any, ...]]] = [
    (lambda nn: nn.KLDivLoss(reduction="batchmean", log_target=True), (np.log(P), np.log(Q))),
    (lambda nn: nn.SmoothL1Loss(beta=0.3), (X, Y)),
    (lambda nn: nn.HuberLoss(delta=0.3), (X, Y)),
    (lambda nn: nn.SoftMarginLoss(), (X, SIGNS)),
    (lambda nn: nn.HingeEmbeddingLoss(0.4), (X, SIGNS)),
    (lambda nn: nn.MarginRankingLoss(0.4), (X, Y, SIGNS)),
    (lambda nn: nn.CosineEmbeddingLoss(0.4), (X, Y, ROW_SIGNS)),
    (lambda nn: nn.TripletMarginLoss(0.4, 1.5, swap=True), (X, Y, Z)),
    (lambda nn: nn.TripletMarginWithDistanceLoss(margin=0.4), (X, Y, Z)),
    (lambda nn: nn.PoissonNLLLoss(full=True), (X, 3 * Q)),
    (lambda nn: nn.GaussianNLLLoss(full=True), (X, Y, P)),
    (lambda nn: nn.MultiLabelMarginLoss(reduction="sum"), (X, MANY)),
    (lambda nn: nn.MultiLabelSoftMarginLoss(), (X, np.round(Q))),
    (lambda nn: nn.MultiMarginLoss(2, 0.5), (X, LABELS)),
]


@pytest.mark.parametrize(("make", "given"), LAYERS)
def test_layers(make: Any, given: tuple[Any, ...]) -> None:
    a, b = (make(lib.nn)(*(lib.tensor(x) for x in given)).item() for lib in (tl, torch))
    np.testing.assert_allclose(a, b, rtol=1e-9)
