"""PackedSequence: there and back, by rows, and over each sequence."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn
from tensorlib.nn import losses
from tensorlib.nn.utils import rnn
from tensorlib.ops.table import Sample, entries, samples_of
from tests.cases import Case, takes

LENGTHS = (3, 5, 0, 1, 5)


def sequences(*width: int) -> list[tl.Tensor]:
    return [tl.randn(n, *width) for n in LENGTHS]


def packed(*width: int) -> tuple[rnn.PackedSequence, list[np.ndarray[Any, Any]]]:
    xs = sequences(*width)
    return rnn.pack_sequence(xs, enforce_sorted=False), [x.numpy() for x in xs]


def test_there_and_back() -> None:
    xs = sequences(2)
    for made in (
        rnn.pack_sequence(xs, enforce_sorted=False),
        rnn.pack_padded_sequence(rnn.pad_sequence(xs), LENGTHS, enforce_sorted=False),
        rnn.pack_padded_sequence(rnn.pad_sequence(xs, batch_first=True), tl.tensor(LENGTHS), batch_first=True, enforce_sorted=False),
    ):  # fmt: skip
        assert made.lengths.tolist() == list(LENGTHS)
        assert made.batch_sizes.tolist() == [4, 3, 3, 2, 2]
        for a, b in zip(rnn.unpack_sequence(made), xs, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        padded, lengths = rnn.pad_packed_sequence(made, padding_value=7.0, total_length=6)
        assert padded.shape == (6, 5, 2)
        for i, (x, n) in enumerate(zip(xs, lengths.tolist(), strict=True)):
            np.testing.assert_array_equal(padded[:n, i].numpy(), x.numpy())
            assert (padded[n:, i] == 7).all()
        for a, b in zip(rnn.unpad_sequence(padded, lengths), xs, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_sorted_sequences_stay_as_they_are() -> None:
    made = rnn.pack_sequence([tl.arange(3), tl.arange(2), tl.arange(0)])
    assert made.data.tolist() == [0, 0, 1, 1, 2]
    assert made.lengths.tolist() == [3, 2, 0]
    data, sizes, order, back = rnn.pack_sequence([tl.arange(3), tl.arange(2)])
    assert (data.shape, sizes.tolist(), order, back) == ((5,), [2, 2, 1], None, None)


def test_left_padding() -> None:
    made = rnn.pad_sequence([tl.tensor([1, 2]), tl.tensor([3])], batch_first=True, padding_value=9, padding_side="left")
    assert made.tolist() == [[1, 2], [9, 3]]


def test_by_rows() -> None:
    x, _ = packed(8)
    targets = x.with_data(tl.zeros(len(x.data), dtype=tl.int64))
    linear, norm, table = nn.Linear(8, 4), nn.LayerNorm(8), nn.Embedding(3, 2)
    for got, want in [
        (tl.tanh(x), tl.tanh(x.data)), (x.tanh(), tl.tanh(x.data)), (2 * x - x / 2, 2 * x.data - x.data / 2), (-x, -x.data), (x > 0, x.data > 0),
        (F.gelu(x), F.gelu(x.data)), (linear(x), linear(x.data)), (norm(x), norm(x.data)), (F.softmax(x, -1), F.softmax(x.data, -1)),
        (table(targets), table(targets.data)), (nn.Sequential(linear, nn.ReLU())(x), F.relu(linear(x.data))),
        (F.cross_entropy(x, targets, reduction="none"), F.cross_entropy(x.data, targets.data, reduction="none")),
    ]:  # fmt: skip
        assert isinstance(got, rnn.PackedSequence)
        assert tl.equal(got.data, want)
    assert tl.equal(F.cross_entropy(x, targets), F.cross_entropy(x.data, targets.data))
    assert tl.equal(F.mse_loss(x, x * 2), F.mse_loss(x.data, x.data * 2))
    dropped = nn.Dropout(0.5)(x)
    assert isinstance(dropped, rnn.PackedSequence)
    assert 0 < (dropped.data == 0).sum().item() < dropped.data.numel()


def elementwise_methods() -> Iterator[Any]:
    """Those of one operand or of two of one shape, by the table, on operands of 14 rows."""
    for op in entries():
        method = getattr(tl.Tensor, op.name, None)
        if op.kind != "elementwise" or getattr(method, "op", None) is not op:  # or with an argument that is no operand
            continue
        like = next((s for s in samples_of(op) if {getattr(d, "shape", None) for d in s.args} == {(3, 4)}), None)
        if like is not None:
            rows = tuple(replace(d, shape=(14, 8), special=(), values=None) for d in like.args)
            case = Case(op, Sample(rows, like.attrs), tl.float32)
            yield pytest.param(op.name, case if takes(case) else replace(case, dtype=tl.int64), id=op.name)


@pytest.mark.parametrize(("name", "case"), list(elementwise_methods()))
def test_elementwise_methods_and_their_twins_in_place(name: str, case: Case) -> None:
    first, *others = case.args()
    x, *more = (rnn.PackedSequence(t, tl.tensor([4, 3, 3, 2, 2])) for t in (first, *others))
    want = getattr(first, name)(*others, **case.sample.attrs)
    for given in (more, others):
        got = getattr(x, name)(*given, **case.sample.attrs)
        assert isinstance(got, rnn.PackedSequence)
        assert got.dtype is want.dtype
        np.testing.assert_array_equal(got.data.numpy(), want.numpy())
    if hasattr(tl.Tensor, name + "_") and want.dtype is first.dtype:
        assert getattr(x, name + "_")(*more, **case.sample.attrs) is x
        np.testing.assert_array_equal(first.numpy(), want.numpy())


def test_operators() -> None:
    x, _ = packed(8)
    n = x.with_data((x.data * 4).long() + 9)
    some = tl.arange(8) + 1
    for op in (
        operator.mod,
        operator.floordiv,
        operator.and_,
        operator.xor,
        operator.lshift,
        operator.eq,
        operator.ne,
        operator.add,
    ):
        for a, b in ((n, n), (n, 3), (3, n), (n, some), (some, n)):
            got = op(a, b)
            assert isinstance(got, rnn.PackedSequence)
            assert tl.equal(got.data, op(*(t.data if isinstance(t, rnn.PackedSequence) else t for t in (a, b))))
    assert tl.equal((~(x > 0)).data, ~(x.data > 0))
    before, data = x.data.clone(), x.data
    x *= 2
    x += x
    assert x.data is data
    assert tl.equal(data, before * 4)
    assert tl.equal((np.full(8, 2, np.float32) * x).data, data * 2)
    with pytest.raises(ValueError, match="neither true nor false"):
        bool(x == 1)


def test_other_operations_of_rows() -> None:
    x, _ = packed(8)
    words = x.with_data(tl.randint(0, 5, (len(x.data),)))
    table = nn.Embedding(5, 3, max_norm=1.0)
    for got, want in [
        (x.amax(-1), x.data.amax(-1)), (x.log_softmax(-1), x.data.log_softmax(-1)), (x.softmax(1), x.data.softmax(1)),
        (x.norm(2, 1), x.data.norm(2, 1)),
        (x.sum(-1, True), x.data.sum(-1, True)), (x.mean((1,)), x.data.mean(1)), (x.cumsum(-1), x.data.cumsum(-1)), (x.double(), x.data.double()),
        (x.clone(), x.data), (x.masked_fill(x > 0, 1.0), x.data.masked_fill(x.data > 0, 1.0)), (x.clamp_min(0.5), x.data.clamp_min(0.5)),
        (x @ tl.eye(8)[:, :2], x.data @ tl.eye(8)[:, :2]), (tl.cat([x, x * 2], -1), tl.cat([x.data, x.data * 2], -1)),
        (tl.where(x > 0, x, 0.0), tl.where(x.data > 0, x.data, 0.0)), (F.normalize(x), F.normalize(x.data)), (table(words), table(words.data)),
        (F.cosine_similarity(x, x + 1), F.cosine_similarity(x.data, x.data + 1)), (F.one_hot(words, 5), F.one_hot(words.data, 5)),
        (F.glu(x), F.glu(x.data)), (F.bilinear(x, x, tl.ones(2, 8, 8)), F.bilinear(x.data, x.data, tl.ones(2, 8, 8))),
        (nn.ReLU(inplace=True)(x.clone()), F.relu(x.data)), (nn.SiLU(inplace=True)(x.clone()), F.silu(x.data)),
        (nn.ELU(inplace=True)(x.clone()), F.elu(x.data)),
    ]:  # fmt: skip
        assert isinstance(got, rnn.PackedSequence)
        assert tl.equal(got.data, want)
    values, places = tl.topk(x, 2)
    assert isinstance(values, rnn.PackedSequence)
    assert tl.equal(places.data, x.data.topk(2).indices)
    assert nn.Dropout(0.5, inplace=True)(x).data is x.data


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", [n for n in losses.__all__ if n not in ("CTCLoss", "NLLLoss2d")])
def test_losses(kind: str, reduction: str) -> None:
    x, _ = packed(8)
    n = len(x.data)
    signs, classes = tl.where(x > 0, 1.0, -1.0), x.with_data(tl.randint(0, 4, (n,)))
    one, two, ones = (x.with_data(t) for t in (x.data[:, 0], x.data[:, 1], signs.data[:, 2]))
    operands: dict[str, tuple[Any, ...]] = {
        "BCELoss": (x.sigmoid(), x > 0), "CosineEmbeddingLoss": (x, x * 2 + 1, ones), "CrossEntropyLoss": (x, classes),
        "GaussianNLLLoss": (x, x * 2, x.abs() + 1),
        "HingeEmbeddingLoss": (x, signs), "MarginRankingLoss": (one, two, ones), "MultiLabelMarginLoss": (x, classes.data[:, None].expand(n, 8)),
        "MultiMarginLoss": (x, classes), "NLLLoss": (x, classes), "SoftMarginLoss": (x, signs), "TripletMarginLoss": (x, x * 2, x * 3 + 1),
        "TripletMarginWithDistanceLoss": (x, x * 2, x * 3 + 1),
    }  # fmt: skip
    given = operands.get(kind, (x, (x > 0).float()))
    if kind == "BCELoss":
        given = (given[0], given[1].float())
    loss = getattr(nn, kind)(reduction=reduction)
    got, want = loss(*given), loss(*(t.data if isinstance(t, rnn.PackedSequence) else t for t in given))
    assert isinstance(got, rnn.PackedSequence) == (reduction == "none")
    assert tl.equal(got.data if reduction == "none" else got, want)


def test_variational_dropout_has_one_mask_for_all_steps(seed: int) -> None:
    xs = [tl.ones(n, 200) for n in LENGTHS]
    drop = nn.VariationalDropout(0.25)

    def dropped(layer: nn.Module, x: Any) -> Any:
        tl.manual_seed(seed)
        return layer(x)

    listed = dropped(drop, xs)
    for out, x in zip(listed, xs, strict=True):
        assert out.shape == x.shape
        assert not len(out) or (out == out[0]).all()
        assert set(out.unique().tolist()) <= {0.0, tl.tensor(1 / 0.75).item()}
    assert not tl.equal(listed[0][0], listed[1][0])
    zeros = sum((out[0] == 0).sum().item() for out in listed if len(out))
    assert zeros == pytest.approx(0.25 * 4 * 200, rel=0.25)

    packed = dropped(drop, rnn.pack_sequence(xs, enforce_sorted=False))
    padded = dropped(drop, rnn.pad_sequence(xs))
    first = dropped(nn.VariationalDropout(0.25, batch_first=True), rnn.pad_sequence(xs, batch_first=True))
    for same in (
        rnn.unpack_sequence(packed), rnn.unpad_sequence(padded, LENGTHS), rnn.unpad_sequence(first, LENGTHS, batch_first=True),
    ):  # fmt: skip
        assert all(tl.equal(a, b) for a, b in zip(same, listed, strict=True))


def test_variational_dropout_at_its_edges() -> None:
    drop, x = nn.VariationalDropout(0.5), tl.randn(6, 50, requires_grad=True)
    out = drop(x)
    (g,) = tl.autograd.grad([out.sum()], [x])
    assert tl.equal(g, tl.where(out == 0, 0.0, 2.0)) and (g == g[0]).all()
    assert drop.eval()(x) is x
    assert nn.VariationalDropout(0.0)(x) is x
    assert not nn.VariationalDropout(1.0)(x).any()
    assert repr(nn.VariationalDropout(0.1, batch_first=True)) == "VariationalDropout(p=0.1, batch_first=True)"
    with pytest.raises(ValueError, match=r"expected \(T, B, D\) or \(T, D\), got shape \(3,\)"):
        drop.train()(tl.ones(3))


def test_what_mixes_rows_is_refused() -> None:
    x, _ = packed(8)
    with pytest.raises(TypeError, match="softmax: got a PackedSequence, whose rows are elements of several sequences"):
        F.softmax(x, 0)
    with pytest.raises(TypeError, match="cumsum"):
        tl.cumsum(x, 0)
    with pytest.raises(ValueError, match="batches of 5 and of 1 sequences do not fit together"):
        x + rnn.pack_sequence([tl.zeros(len(x.data), 8)])
    with pytest.raises(ValueError, match="sequence 0 has length 3 in one batch and 5 in the other"):
        x + rnn.pack_sequence([tl.zeros(n, 8) for n in reversed(LENGTHS)], enforce_sorted=False)
    with pytest.raises(ValueError, match="lie in different orders"):
        x + rnn.PackedSequence(x.data, x.batch_sizes, tl.tensor([4, 1, 0, 3, 2]))
    for mixed in (
        lambda: tl.sum(x), lambda: tl.sum(x, 0), lambda: x.sum((0, 1)), lambda: tl.mean(x, -2), lambda: tl.amax(x, 0), lambda: x.norm(2, 0),
        lambda: tl.scaled_dot_product_attention(x, x, x), lambda: tl.ones(3, len(x.data)) @ x, lambda: F.linear(tl.ones(2, 8), x),
        lambda: F.layer_norm(x, x.shape), lambda: F.embedding(tl.tensor([0]), x), lambda: tl.cat([x, x]), lambda: tl.flip(x, (0,)),
        lambda: tl.logsumexp(x, 0), lambda: tl.sort(x, 0),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="got a PackedSequence, whose rows"):
            mixed()
    with pytest.raises(AttributeError, match=r"rows of `.data`"):
        x.transpose(0, 1)
    with pytest.raises(ValueError, match="sequence 2 is empty"):
        x.last()


def test_over_each_sequence() -> None:
    x, xs = packed(2, 3)
    some = [a for a in xs if len(a)]
    y = rnn.pack_sequence([tl.tensor(a) for a in some], enforce_sorted=False)
    for got, want in [
        (x.sum(), [a.sum(0) for a in xs]), (y.mean(), [a.mean(0) for a in some]), (y.max(), [a.max(0) for a in some]),
        (y.min(), [a.min(0) for a in some]), (y.first(), [a[0] for a in some]), (y.last(), [a[-1] for a in some]),
    ]:  # fmt: skip
        np.testing.assert_allclose(got.numpy(), np.stack(want), rtol=1e-6, atol=1e-6)
    for got, logs, a in zip(rnn.unpack_sequence(x.softmax()), rnn.unpack_sequence(x.log_softmax()), xs, strict=True):
        e = np.exp(a)
        np.testing.assert_allclose(got.numpy(), e / e.sum(0), rtol=1e-5)
        np.testing.assert_allclose(logs.numpy(), np.log(e / e.sum(0)), rtol=1e-5, atol=1e-6)


def test_integers_and_truth_over_each_sequence() -> None:
    x = rnn.pack_sequence([tl.tensor([3, -1]), tl.tensor([5]), tl.tensor([], dtype=tl.int64)])
    assert x.sum().tolist() == [2, 5, 0]
    assert x.max().tolist()[:2] == [3, 5]
    assert x.min().tolist()[:2] == [-1, 5]
    assert (x > 3).sum().tolist() == [0, 1, 0]
    assert (x > 3).max().tolist() == [False, True, False]
    assert x.mean()[:2].tolist() == [1.0, 5.0]


def test_batches_of_empty_sequences_alone() -> None:
    x = rnn.pack_sequence([tl.zeros(0, 2), tl.zeros(0, 2)])
    assert x.sum().tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert x.max().tolist() == [[-np.inf, -np.inf]] * 2
    assert rnn.pad_packed_sequence(x)[0].shape == (0, 2, 2)
    assert [s.shape for s in rnn.unpack_sequence(x.softmax() * 2)] == [(0, 2), (0, 2)]
    assert x.attend(x, x).shape == (0, 2)


def test_index_tensors_lie_where_the_data_lie() -> None:
    xs = [x.to("reference").requires_grad_() for x in sequences(2)]
    made = rnn.pack_sequence(xs, enforce_sorted=False)
    again = rnn.pack_padded_sequence(rnn.pad_sequence(xs), tl.tensor(LENGTHS), enforce_sorted=False)
    for x in (made, again, made.cpu().to("reference")):
        assert {str(t.device) for t in (x.data, x.sorted_indices, x.unsorted_indices)} == {"reference"}
        assert {t.device.type for t in (x.batch_sizes, x.lengths)} == {"cpu"}
        padded, lengths = rnn.pad_packed_sequence(x)
        for t in (
            padded,
            x.sum(),
            x.mean(),
            x.max(),
            x.softmax(),
            x.broadcast(x.sum()),
            x.attend(x, x),
            *rnn.unpack_sequence(x),
            x.with_padded(padded.transpose(0, 1)),
        ):
            assert str(t.device) == "reference"
        assert lengths.tolist() == list(LENGTHS)
    (made.softmax() * made).sum().sum().backward()
    assert str(xs[0].grad.device) == "reference"
    assert made.cpu().sorted_indices.device.type == "cpu"
    rebuilt = rnn.PackedSequence(*made)
    assert rebuilt.lengths.tolist() == list(LENGTHS)


@pytest.mark.parametrize(
    "lengths",
    [LENGTHS, list(LENGTHS), np.asarray(LENGTHS), tl.tensor(LENGTHS), [np.int32(n) for n in LENGTHS]],
    ids=lambda v: type(v).__name__,
)
def test_lengths_may_come_in_any_form(lengths: Any) -> None:
    padded = tl.randn(6, 5, 2)
    assert rnn.pack_padded_sequence(padded, lengths, enforce_sorted=False).lengths.tolist() == list(LENGTHS)
    assert [len(s) for s in rnn.unpad_sequence(padded, lengths)] == list(LENGTHS)


def test_attention_by_its_function() -> None:
    q, _ = packed(8)
    k, v = q * 2, q + 1
    assert tl.equal(F.scaled_dot_product_attention(q, k, v, scale=0.3).data, q.attend(k, v, scale=0.3).data)
    heads = [x.with_data(x.data.unflatten(-1, (2, 4))) for x in (q, k, v)]
    got = F.scaled_dot_product_attention(*heads, is_causal=True)
    assert tl.equal(got.data.flatten(1), q.attend(k, v, 2, is_causal=True).data)
    memory = rnn.pack_sequence([tl.randn(n, 8) for n in (2, 1, 4, 3, 3)], enforce_sorted=False)
    assert q.attend(memory, memory).lengths.tolist() == list(LENGTHS)
    with pytest.raises(ValueError, match="attn_mask and enable_gqa are for tensors"):
        F.scaled_dot_product_attention(q, k, v, tl.ones(1))
    with pytest.raises(ValueError, match="key and value: sequence 0 has length 2 in one batch and 3"):
        q.attend(memory, v)
    with pytest.raises(ValueError, match=r"rows of 3 heads, got query of shape \(14, 8\)"):
        q.attend(k, v, 3)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_within_each_sequence(causal: bool) -> None:
    q, _ = packed(8)
    k, v = (q.with_data(tl.randn(*q.shape)) for _ in range(2))
    got = rnn.unpack_sequence(q.attend(k, v, num_heads=2, is_causal=causal))
    for a, *parts in zip(got, *(rnn.unpack_sequence(x) for x in (q, k, v)), strict=True):
        heads = [p.unflatten(-1, (2, 4)).transpose(0, 1) for p in parts]
        want = F.scaled_dot_product_attention(*heads, is_causal=causal).transpose(0, 1).flatten(1)
        np.testing.assert_allclose(a.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)


def test_a_value_for_each_sequence_reaches_its_elements() -> None:
    x, xs = packed(2)
    values = tl.randn(len(xs), 3)
    for got, value, a in zip(rnn.unpack_sequence(x.broadcast(values)), values, xs, strict=True):
        assert tl.equal(got, value.expand(len(a), 3))
    with pytest.raises(ValueError, match=r"expected values of 5 sequences, got shape \(4, 3\)"):
        x.broadcast(values[:4])


def test_a_padded_batch_in_place_of_the_elements() -> None:
    x, xs = packed(2)
    padded = tl.randn(len(xs), 6, 3)
    for got, want, a in zip(rnn.unpack_sequence(x.with_padded(padded)), padded, xs, strict=True):
        assert tl.equal(got, want[: len(a)])
    with pytest.raises(ValueError, match=r"expected \(5, 5, ...\) elements, got \(5, 4, 3\)"):
        x.with_padded(padded[:, :4])


class Cell(NamedTuple):
    h: Any
    c: Any


def test_states_are_detached_wherever_they_lie() -> None:
    x = tl.ones(2, requires_grad=True)
    states = {"lstm": [Cell(x * 2, (x * 3, None))], "packed": rnn.pack_sequence([x * 4]), "step": 7}
    made = rnn.detach_states(states)
    (cell,) = made["lstm"]
    assert isinstance(cell, Cell)
    assert (cell.c[1], made["step"]) == (None, 7)
    for t, value in ((cell.h, 2), (cell.c[0], 3), (made["packed"].data, 4)):
        assert not t.requires_grad
        assert t.tolist() == [value, value]
    assert states["lstm"][0].h.requires_grad


def test_states_of_some_sequences() -> None:
    h, c, memory = tl.randn(2, 3, 4), tl.randn(2, 3, 4), tl.randn(3, 5)
    index = tl.tensor([2, 0, 0, 1])
    got = rnn.select_states({"cell": Cell(h, c), "memory": [memory, None]}, index, {"cell": 1, "memory": 0})
    assert isinstance(got["cell"], Cell)
    assert tl.equal(got["cell"].h, h[:, index]) and tl.equal(got["cell"].c, c[:, index])
    assert tl.equal(got["memory"][0], memory[index])
    assert got["memory"][1] is None
    with pytest.raises(TypeError, match="keep a padded tensor and its lengths"):
        rnn.select_states([rnn.pack_sequence([h])], index)


def test_gradients_flow_through() -> None:
    xs = [tl.randn(n, 2, dtype=tl.float64).requires_grad_() for n in (2, 3, 1)]

    def call(*inputs: tl.Tensor) -> list[tl.Tensor]:
        x = rnn.pack_sequence(inputs, enforce_sorted=False)
        return [x.sum(), x.mean(), x.max(), x.last(), *rnn.unpack_sequence(x.softmax()), rnn.pad_packed_sequence(x)[0]]

    assert tl.autograd.gradcheck(call, xs)
    assert tl.autograd.gradgradcheck(call, xs)
