"""The loss of labels without places, beside the sum over all paths that give them; alone and in a ragged batch; what does not fit."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn
from tensorlib.nn.utils import rnn
from tensorlib.ops import ctc

TARGETS = [[1, 2], [1, 1], [], [2, 1, 1], [2]]


def labels(path: tuple[int, ...], blank: int) -> list[int]:
    return [k for k, _ in itertools.groupby(path) if k != blank]


def by_hand(log_probs: np.ndarray[Any, Any], target: list[int], blank: int) -> float:
    """-log of the sum over every path whose labels are the target."""
    steps, classes = log_probs.shape
    paths = [p for p in itertools.product(range(classes), repeat=steps) if labels(p, blank) == target]
    total = sum(math.exp(sum(log_probs[t, k] for t, k in enumerate(p))) for p in paths)
    return -math.log(total) if paths else math.inf


def scores(steps: int, batch: int = len(TARGETS), classes: int = 3) -> tl.Tensor:
    return tl.log_softmax(tl.randn(steps, batch, classes, dtype=tl.float64), -1)


def padded(filler: int) -> tl.Tensor:
    return tl.tensor([t + [filler] * (3 - len(t)) for t in TARGETS])


COUNTS = [len(t) for t in TARGETS]
JOINED = tl.tensor([k for t in TARGETS for k in t])


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_all_paths(steps: int) -> None:
    x = scores(steps)
    want = [by_hand(x[:, b].numpy(), t, 0) for b, t in enumerate(TARGETS)]
    got = F.ctc_loss(x, padded(0), [steps] * 5, COUNTS, reduction="none")
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12, atol=1e-14)


def test_another_blank() -> None:
    x = scores(4, 2)
    want = [by_hand(x[:, b].numpy(), t, 2) for b, t in enumerate([[0, 1], [1]])]
    got = F.ctc_loss(x, tl.tensor([[0, 1], [1, 7]]), (4, 4), tl.tensor([2, 1]), blank=2, reduction="none")
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)


def test_every_form_of_a_batch() -> None:
    lengths = [5, 4, 2, 5, 1]
    x = scores(5)
    alone = [
        F.ctc_loss(x[:n, b], tl.tensor(t, dtype=tl.int64), n, len(t), reduction="none")
        for b, (n, t) in enumerate(zip(lengths, TARGETS, strict=True))
    ]
    packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    listed = rnn.pack_sequence([tl.tensor(t, dtype=tl.int64) for t in TARGETS], enforce_sorted=False)
    for got in (
        F.ctc_loss(x, padded(-7), lengths, COUNTS, reduction="none"),
        F.ctc_loss(x, JOINED, tl.tensor(lengths), tl.tensor(COUNTS), reduction="none"),
        F.ctc_loss(x, JOINED.to(tl.int32), tuple(lengths), listed.lengths, reduction="none"),
        F.ctc_loss(packed, JOINED, None, COUNTS, reduction="none"),
        F.ctc_loss(packed, listed, reduction="none"),
        nn.CTCLoss(reduction="none")(packed, listed),
    ):
        np.testing.assert_array_equal(got.numpy(), [a.item() for a in alone])


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=str)
def test_a_sequence_has_the_bits_it_has_alone(dtype: tl.DType) -> None:
    lengths, counts = [40, 33, 7, 40], [9, 12, 3, 0]
    x, targets = tl.randn(40, 4, 6, dtype=dtype), tl.randint(1, 6, (4, 12))
    together = x.clone().requires_grad_()
    losses = F.ctc_loss(together, targets, lengths, counts, reduction="none")
    losses.sum().backward()
    for b, (n, s) in enumerate(zip(lengths, counts, strict=True)):
        alone = x[:n, b].clone().requires_grad_()
        loss = F.ctc_loss(alone, targets[b, :s], n, s, reduction="sum")
        loss.backward()
        assert loss.item() == losses[b].item()
        np.testing.assert_array_equal(together.grad[:n, b].numpy(), alone.grad.numpy())
        assert not together.grad[n:, b].any()


def test_reductions() -> None:
    x = scores(6)
    each = F.ctc_loss(x, JOINED, [6] * 5, COUNTS, reduction="none").numpy()
    assert F.ctc_loss(x, JOINED, [6] * 5, COUNTS, reduction="sum").item() == pytest.approx(each.sum())
    assert F.ctc_loss(x, JOINED, [6] * 5, COUNTS).item() == pytest.approx((each / [2, 2, 1, 3, 1]).mean())
    assert F.ctc_loss(x[:, 0], tl.tensor([1, 2]), 6, 2).item() == pytest.approx(each[0] / 2)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_inputs_too_short(reduction: str) -> None:
    """Repeated labels need a blank between them: 3 steps for two of them."""
    for zero in (False, True):
        x = scores(2, 2).requires_grad_()
        loss = F.ctc_loss(x, tl.tensor([[1, 1], [1, 2]]), [2, 2], [2, 2], reduction=reduction, zero_infinity=zero)
        loss.sum().backward()
        first = loss[0] if reduction == "none" else loss
        assert bool(first.isinf()) is not zero
        assert (x.grad[:, 0] == 0).all() if zero else x.grad[:, 0, 1].isnan().all()
        assert x.grad[:, 1].isfinite().all()


def test_classes_that_never_occur() -> None:
    """Logarithms of 0 are no numbers to trip over, in either order of derivatives."""
    x = tl.log(tl.tensor([[0.5, 0.5, 0.0]] * 4, dtype=tl.float64)).requires_grad_()
    loss = F.ctc_loss(x, tl.tensor([1]), 4, 1, reduction="sum")
    assert loss.item() == pytest.approx(by_hand(x.detach().numpy(), [1], 0))
    (g,) = tl.autograd.grad(loss, x, create_graph=True)
    (gg,) = tl.autograd.grad((g[:, :2] ** 2).sum(), x)
    assert g.isfinite().all() and gg.isfinite().all()
    np.testing.assert_allclose(g.sum(1).detach().numpy(), -1)
    assert F.ctc_loss(x, tl.tensor([2]), 4, 1, reduction="sum").item() == math.inf


@pytest.mark.parametrize("spread", [1.0, 60.0, 1e5])
def test_chances_far_below_the_smallest_number(spread: float) -> None:
    """Of many steps, and of paths that long seem hopeless; beside the definition, which keeps logarithms."""
    steps, counts = 300, [60, 150, 1]
    x = tl.log_softmax(spread * tl.randn(steps, 3, 20, dtype=tl.float64), -1)
    x[:, 1, 0] = -1e-9  # what is sure, and wrong
    targets, lengths = tl.randint(1, 20, (3, 150)), [300, 299, 40]
    arrays = [x.numpy(), targets.numpy(), np.array(lengths), np.array(counts)]
    want = ctc._ctc_loss.op.ref(np, *arrays, blank=0, reduction="none", zero_infinity=False)
    slopes = ctc._ctc_slopes.op.ref(np, np.ones(3), *arrays, blank=0, reduction="none", zero_infinity=False)
    for dtype, rtol in ((tl.float64, 1e-12), (tl.float32, 1e-6)):
        given = x.detach().to(dtype).requires_grad_()
        losses = F.ctc_loss(given, targets, tl.tensor(lengths), tl.tensor(counts), reduction="none")
        losses.sum().backward()
        np.testing.assert_allclose(losses.detach().numpy(), want, rtol=rtol)
        if dtype is tl.float64 or spread == 1.0:  # float32 can not tell which of two hopeless paths is the better one
            np.testing.assert_allclose(given.grad.numpy(), slopes, atol=3e3 * rtol)


def test_halves() -> None:
    x = scores(5).to(tl.float16).requires_grad_()
    loss = F.ctc_loss(x, JOINED, [5] * 5, COUNTS)
    loss.backward()
    assert loss.dtype is x.grad.dtype is tl.float16
    wide = F.ctc_loss(x.detach().float(), JOINED, [5] * 5, COUNTS)
    assert loss.item() == pytest.approx(wide.item(), rel=1e-3)


def test_learns_an_alignment() -> None:
    x = tl.zeros(8, 1, 4).requires_grad_()
    for _ in range(60):
        loss = F.ctc_loss(tl.log_softmax(x, -1), tl.tensor([[1, 3, 3, 2]]), [8], [4])
        loss.backward()
        x = (x.detach() - 8 * x.grad).requires_grad_()
    assert loss.item() < 0.05
    assert labels(tuple(x[:, 0].argmax(-1).tolist()), 0) == [1, 3, 3, 2]


def test_errors() -> None:
    x = scores(4, 2)
    packed = rnn.pack_padded_sequence(x, [4, 3])
    with pytest.raises(TypeError, match="input_lengths is given, but a PackedSequence of log_probs has its own"):
        F.ctc_loss(packed, tl.tensor([1, 2]), [4, 3], [1, 1])
    with pytest.raises(TypeError, match="target_lengths is missing"):
        F.ctc_loss(packed, tl.tensor([1, 2]))
    with pytest.raises(TypeError, match=r"input_lengths must be integers, got 4\.0 for sequence 0"):
        F.ctc_loss(x, tl.tensor([1, 2]), tl.tensor([4.0, 3.0]), [1, 1])
    with pytest.raises(ValueError, match=r"target_lengths\[0\] is 3, expected an integer in \[0, 2\]"):
        F.ctc_loss(x[:, 0], tl.tensor([1, 2]), 4, 3)
    assert repr(nn.CTCLoss()) == "CTCLoss()"
