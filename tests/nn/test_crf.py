"""The conditional random field, beside the sum and the best of all sequences of tags; alone and in a ragged batch; what does not fit."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn.utils import rnn
from tensorlib.ops import crf as crf_ops

TAGS, LENGTHS = 3, (2, 5, 0, 1, 5)


def field(dtype: tl.DType = tl.float64, **how: Any) -> nn.CRF:
    made = nn.CRF(TAGS, dtype=dtype, **how)
    for p in made.parameters():
        nn.init.normal_(p)
    return made


def batch(dtype: tl.DType = tl.float64, lengths: tuple[int, ...] = LENGTHS) -> tuple[list[tl.Tensor], list[tl.Tensor]]:
    return [tl.randn(n, TAGS, dtype=dtype) for n in lengths], [tl.randint(0, TAGS, (n,)) for n in lengths]


def score(crf: nn.CRF, emissions: np.ndarray[Any, Any], tags: tuple[int, ...]) -> float:
    start, end, moves = (p.detach().numpy() for p in (crf.start_transitions, crf.end_transitions, crf.transitions))
    if not tags:
        return 0.0
    steps = sum(emissions[t, k] for t, k in enumerate(tags)) + sum(moves[a, b] for a, b in itertools.pairwise(tags))
    return float(start[tags[0]] + end[tags[-1]] + steps)


def all_scores(crf: nn.CRF, emissions: tl.Tensor) -> dict[tuple[int, ...], float]:
    x = emissions.detach().numpy()
    return {tags: score(crf, x, tags) for tags in itertools.product(range(TAGS), repeat=len(x))}


def mask_of(lengths: tuple[int, ...]) -> tl.Tensor:
    return tl.arange(max(lengths)) < tl.tensor(lengths).unsqueeze(1)


def test_all_sequences_of_tags() -> None:
    crf, (xs, ys) = field(), batch()
    want, best = [], []
    for x, y in zip(xs, ys, strict=True):
        scores = all_scores(crf, x)
        want.append(scores[tuple(y.tolist())] - math.log(sum(math.exp(s) for s in scores.values())))
        best.append(list(max(scores, key=scores.__getitem__)))
    np.testing.assert_allclose(crf(xs, ys, reduction="none").detach().numpy(), want, rtol=1e-12, atol=1e-14)
    assert crf.decode(xs) == best


def test_every_form_of_a_batch() -> None:
    crf, (xs, ys) = field(), batch()
    want, best = crf(xs, ys, reduction="none"), crf.decode(xs)
    xs_packed, ys_packed = (rnn.pack_sequence(s, enforce_sorted=False) for s in (xs, ys))
    forms: list[tuple[nn.CRF, tuple[Any, ...]]] = [(crf, (xs_packed, ys_packed))]
    for batch_first in (False, True):
        other = nn.CRF(TAGS, batch_first, dtype=tl.float64)
        other.load_state_dict(crf.state_dict())
        padded = [rnn.pad_sequence(s, batch_first, padding_value=-9) for s in (xs, ys)]
        mask = mask_of(LENGTHS) if batch_first else mask_of(LENGTHS).T
        forms += [(other, (*padded, mask)), (other, (*padded, mask.to(tl.uint8)))]
    for made, (x, y, *mask) in forms:
        assert made.decode(x, *mask) == best
        np.testing.assert_array_equal(made(x, y, *mask, reduction="none").detach().numpy(), want.detach().numpy())
    falling = sorted(range(len(xs)), key=lambda i: -len(xs[i]))
    tags = [ys[i] for i in falling]
    emissions = rnn.pack_sequence([xs[i] for i in falling])
    same = [crf(emissions, rnn.pack_sequence(tags, enforce_sorted=kept)).item() for kept in (True, False)]
    assert same[0] == same[1] == crf([xs[i] for i in falling], tags).item()
    full = [s[1::3] for s in (xs, ys)]
    stacked = [tl.stack(s, 1) for s in full]
    assert crf(*stacked).item() == crf(*full).item()


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=str)
def test_a_sequence_has_the_bits_it_has_alone(dtype: tl.DType) -> None:
    """Probabilities and gradients of emissions; the parameters' are sums over the sequences."""
    lengths = (20, 3, 31, 0, 12, 31, 1)
    crf, (xs, ys) = field(dtype), batch(dtype, lengths)
    xs = [x.requires_grad_() for x in xs]
    together = crf(xs, ys, reduction="none")
    together.sum().backward()
    grads, shared = [x.grad for x in xs], [p.grad.numpy() for p in crf.parameters()]
    crf.zero_grad()
    best = []
    for x, y, loss, g in zip(xs, ys, together, grads, strict=True):
        alone = x.detach().requires_grad_()
        each = crf([alone], [y])
        each.backward()
        assert each.item() == loss.item()
        np.testing.assert_array_equal(alone.grad.numpy(), g.numpy())
        best += crf.decode([x])
    assert crf.decode(xs) == best
    for p, g in zip(crf.parameters(), shared, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), g, rtol=1e-4 if dtype is tl.float32 else 1e-11, atol=1e-5)


def test_the_same_bits_on_any_number_of_threads() -> None:
    xs, ys = (
        list(parts) for parts in zip(*((tl.randn(n, 20), tl.randint(0, 20, (n,))) for n in range(1, 60)), strict=True)
    )
    crf, found = nn.CRF(20), []
    for threads in (1, 2, 3):
        tl.set_num_threads(threads)
        crf.zero_grad()
        total = crf(xs, ys)
        total.backward()
        found.append([t.detach().numpy().tobytes() for t in (total, *(p.grad for p in crf.parameters()))])
    assert found[0] == found[1] == found[2]


def test_scores_far_apart() -> None:
    """What is forbidden by a large negative score, or not possible at all, is no number to trip over."""
    crf = field()
    with tl.no_grad():
        crf.transitions[0, 1] = -1e5
        crf.transitions[1] = -1e9
    xs, _ = batch(lengths=(40,))
    xs[0] *= 500
    xs[0][3, 2] = -math.inf
    x = xs[0].requires_grad_()
    packed = rnn.pack_sequence([x])
    operands = (packed.data, packed.batch_sizes, crf.start_transitions, crf.end_transitions, crf.transitions)
    kernel, plain = tl.fused.crf_total(*operands), crf_ops._crf_total.op.composite(*operands, batch=1)
    assert kernel.item() == pytest.approx(plain.item(), rel=1e-12)
    wanted = [x, *crf.parameters()]
    for a, b in zip(tl.autograd.grad(kernel, wanted), tl.autograd.grad(plain, wanted), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-9)


def test_gradients() -> None:
    crf, (xs, ys) = field(), batch()
    parameters = [p.detach().requires_grad_() for p in crf.parameters()]

    def call(*operands: tl.Tensor) -> tl.Tensor:
        names = [name for name, _ in crf.named_parameters()]
        made = nn.CRF(TAGS)
        for name, p in zip(names, operands, strict=False):
            delattr(made, name)
            setattr(made, name, p)
        return made(list(operands[3:]), ys, reduction="none")

    operands = [*parameters, *(x.requires_grad_() for x in xs)]
    assert tl.autograd.gradcheck(call, operands)
    assert tl.autograd.gradgradcheck(call, operands)


def test_gradient_is_observed_minus_expected() -> None:
    crf, (xs, ys) = field(), batch(lengths=(4,))
    x = xs[0].requires_grad_()
    crf([x], ys).backward()
    scores = all_scores(crf, x)
    total = sum(math.exp(s) for s in scores.values())
    chances = np.zeros((4, TAGS))
    for tags, s in scores.items():
        chances[np.arange(4), tags] += math.exp(s) / total
    np.testing.assert_allclose(x.grad.numpy(), np.eye(TAGS)[ys[0].numpy()] - chances, atol=1e-12)


def test_reductions() -> None:
    crf, (xs, ys) = field(), batch()
    each = crf(xs, ys, reduction="none").detach().numpy()
    assert each.shape == (5,)
    for reduction, want in (("sum", each.sum()), ("mean", each.mean()), ("token_mean", each.sum() / sum(LENGTHS))):
        assert crf(xs, ys, reduction=reduction).item() == pytest.approx(want)
    assert crf(xs, ys).item() == pytest.approx(each.sum())


def test_only_empty_sequences() -> None:
    crf, (xs, ys) = field(), batch(lengths=(0, 0))
    assert crf(xs, ys, reduction="none").tolist() == [0, 0]
    assert crf.decode(xs) == [[], []]


def test_learns_what_emissions_do_not_say() -> None:
    """Tags that take turns, though nothing but the first one is seen."""
    crf = nn.CRF(2)
    seen = tl.zeros(6, 2, 2)
    seen[0, 0, 0] = seen[0, 1, 1] = 3.0
    tags = tl.tensor([[0, 1], [1, 0]] * 3)
    for _ in range(100):
        loss = -crf(seen, tags, reduction="token_mean")
        crf.zero_grad()
        loss.backward()
        with tl.no_grad():
            for p in crf.parameters():
                p.sub_(2 * p.grad)
    assert loss.item() < 0.1
    assert crf.decode(seen) == tags.T.tolist()


def test_names() -> None:
    crf = nn.CRF(4)
    assert {k: v.shape for k, v in crf.state_dict().items()} == {
        "start_transitions": (4,), "end_transitions": (4,), "transitions": (4, 4),
    }  # fmt: skip
    assert max(p.abs().max().item() for p in crf.parameters()) <= 0.1
    assert repr(nn.CRF(4, batch_first=True)) == "CRF(4, batch_first=True)"


def test_errors() -> None:
    crf, (xs, ys) = field(), batch()
    x, y = tl.zeros(4, 2, TAGS, dtype=tl.float64), tl.zeros(4, 2, dtype=tl.int64)
    mask = tl.tensor([[True, True], [True, False], [True, True], [False, False]])
    for raises, match, call in [
        (ValueError, "num_tags must be a positive integer, got 0", lambda: nn.CRF(0)),
        (ValueError, "the mask of sequence 1 has a hole", lambda: crf(x, y, mask)),
        (ValueError, "the mask of sequence 1 has a hole", lambda: crf.decode(x, mask)),
        (ValueError, r"mask must have shape \(4, 2\), got \(2, 4\)", lambda: crf(x, y, mask.T)),
        (TypeError, "a mask is for padded tensors; the emissions are a list", lambda: crf(xs, ys, mask)),
        (ValueError, "emissions must have 3 dimensions, got shape", lambda: crf(x[0], y)),
        (ValueError, r"emissions must be float64 with 3 tags .* got float32 of shape \(4, 2, 3\)", lambda: crf(x.float(), y)),
        (ValueError, r"emissions must be .* of shape \(4, 2, 2\)", lambda: crf(x[..., :2], y)),
        (TypeError, "emissions are a int, expected a tensor", lambda: crf(3, y)),
        (ValueError, r"tags of shape \(3, 2\) do not fit emissions of shape \(4, 2, 3\)", lambda: crf(x, y[:3])),
        (ValueError, "sequence 1 has 4 tags, but emissions of 5 steps", lambda: crf(xs, [ys[0], ys[1][:4], *ys[2:]])),
        (ValueError, "got tags of 4 sequences, but emissions of 5", lambda: crf(xs, ys[:4])),
        (TypeError, "tags must be integers, one a step, got float64", lambda: crf(x, y.double())),
        (IndexError, r"tag [345] of sequence 0 is out of range; expected one in \[0, 3\)", lambda: crf(x, y + 3)),
        (ValueError, "reduction must be", lambda: crf(x, y, reduction="avg")),
    ]:  # fmt: skip
        with pytest.raises(raises, match=match):
            call()
