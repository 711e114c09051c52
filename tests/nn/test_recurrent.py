"""Recurrent layers: a sequence has the bits that it has alone, threads do not show, gradients of any order; and what is refused.

That the layers compute what they should, the table's tests say of the entries (against their references) and the parity suite of the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn.utils import rnn
from tensorlib.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

LENGTHS = (7, 1, 30, 12, 0, 12, 3, 2, 1, 40)
LAYERS: dict[str, Callable[..., nn.RNNBase]] = {
    "RNN": nn.RNN,
    "ReLU": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
    "GRU": nn.GRU,
    "LSTM": nn.LSTM,
    "projected": lambda d, h, *a, **k: nn.LSTM(d, h + 1, *a, proj_size=(h + 1) // 2, **k),
}
CELLS = {"RNN": nn.RNNCell, "GRU": nn.GRUCell, "LSTM": nn.LSTMCell}


def states_of(result: Any) -> list[tl.Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def initial(net: nn.RNNBase, batch: int) -> list[tl.Tensor]:
    layers, dtype = net.num_layers * (2 if net.bidirectional else 1), net.weight_ih_l0.dtype
    widths = [net.proj_size or net.hidden_size, *([net.hidden_size] if net.mode == "LSTM" else [])]
    return [tl.randn(layers, batch, width, dtype=dtype).requires_grad_() for width in widths]


def run(net: nn.RNNBase, x: Any, states: list[tl.Tensor]) -> tuple[list[tl.Tensor], list[tl.Tensor]]:
    """(results of each sequence, last states)"""
    out, last = net(x, tuple(states) if net.mode == "LSTM" else states[0])
    return (out if isinstance(out, list) else [out]), states_of(last)


def gradients(outs: list[tl.Tensor], last: list[tl.Tensor], inputs: list[tl.Tensor]) -> list[tl.Tensor]:
    return list(tl.autograd.grad([(o * o).sum() for o in outs] + [h.sum() for h in last], inputs))  # type: ignore[arg-type]


def same(a: tl.Tensor, b: tl.Tensor) -> bool:
    return a.shape == b.shape and a.detach().numpy().tobytes() == b.detach().contiguous().numpy().tobytes()


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=lambda d: d.name)
@pytest.mark.parametrize("hidden", [1, 5, 50, 130])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_sequence_has_the_bits_that_it_has_alone(kind: str, hidden: int, dtype: tl.dtype) -> None:
    net = LAYERS[kind](6, hidden, 2, bidirectional=True, dtype=dtype)
    xs = [tl.randn(n, 6, dtype=dtype).requires_grad_() for n in LENGTHS]
    states = initial(net, len(xs))
    outs, last = run(net, xs, states)
    got = gradients(outs, last, [*xs, *states])
    sums = [tl.zeros_like(p) for p in net.parameters()]
    for i, x in enumerate(xs):
        own = [s.detach()[:, i].requires_grad_() for s in states]
        if not len(x):
            continue
        (out,), after = run(net, x, own)
        assert same(outs[i], out)
        assert all(same(h[:, i].contiguous(), a) for h, a in zip(last, after, strict=True))
        (*alone,) = gradients([out], after, [x, *own, *net.parameters()])
        assert same(got[i], alone[0])
        assert all(same(g[:, i].contiguous(), a) for g, a in zip(got[len(xs) :], alone[1:], strict=False))
        sums = [s + a for s, a in zip(sums, alone[1 + len(own) :], strict=True)]
    outs, last = run(net, xs, states)
    last = [
        h.index_select(1, tl.tensor([i for i, n in enumerate(LENGTHS) if n])) for h in last
    ]  # an empty one's state is its initial one
    together = gradients(outs, last, list(net.parameters()))
    scale = 2e-6 if dtype is tl.float32 else 1e-14
    for a, b in zip(together, sums, strict=True):
        assert (a - b).abs().max().item() <= 20 * scale * max(1.0, b.abs().max().item())


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_bits_on_any_number_of_threads(kind: str, directions: int) -> None:
    """130 units and 40 sequences: steps that threads share, and at the end some that they do not."""
    net = LAYERS[kind](30, 130, bidirectional=directions == 2)
    xs = [tl.randn(n, 30).requires_grad_() for n in 4 * LENGTHS]
    states = initial(net, len(xs))
    found = []
    for threads in (1, 2, 3):
        tl.set_num_threads(threads)
        outs, last = run(net, xs, states)
        found.append([*outs, *last, *gradients(outs, last, [*xs, *states, *net.parameters()])])
    for other in found[1:]:
        assert all(same(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_gradients(kind: str) -> None:
    net = LAYERS[kind](2, 3, 2, bidirectional=True, dtype=tl.float64)
    lengths = (2, 3) if kind == "ReLU" else (1, 3, 2)
    xs = [tl.randn(n, 2, dtype=tl.float64).requires_grad_() for n in lengths]

    def call(*inputs: tl.Tensor) -> list[tl.Tensor]:
        out, last = net(list(inputs))
        return [*out, *states_of(last)]

    assert tl.autograd.gradcheck(call, xs)
    assert tl.autograd.gradgradcheck(call, xs)


@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind: str) -> None:
    cell = CELLS[kind](4, 3, dtype=tl.float64)
    layer = LAYERS[kind](4, 3, dtype=tl.float64)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    xs, state = tl.randn(5, 2, 4, dtype=tl.float64), None
    for x in xs:
        state = cell(x, state)
    _, last = layer(xs)
    for a, b in zip(states_of(state), states_of(last), strict=True):
        assert same(a, b[0])
    alone = states_of(cell(xs[0, 0], tuple(s[0] for s in states_of(state)) if kind == "LSTM" else state[0]))
    for a, b in zip(alone, states_of(cell(xs[0], state)), strict=True):
        assert same(a, b[0])
    inputs = [xs[0].detach().requires_grad_(), *(s.detach().requires_grad_() for s in states_of(state))]

    def call(x: tl.Tensor, *s: tl.Tensor) -> list[tl.Tensor]:
        return states_of(cell(x, s if kind == "LSTM" else s[0]))

    assert tl.autograd.gradgradcheck(call, inputs)


def test_cells_in_inference_mode_leave_nothing_behind() -> None:
    cell = nn.GRUCell(3, 4)
    x = tl.randn(23, 3)  # a batch that no other test has
    with tl.inference_mode():
        cell(x)
    cell(x).sum().backward()
    assert cell.weight_ih.grad is not None


def test_projected_states_by_their_definition() -> None:
    net = nn.LSTM(3, 5, proj_size=2, bidirectional=True, dtype=tl.float64)
    x, h_0, c_0 = (tl.randn(n, k, dtype=tl.float64) for n, k in ((4, 3), (2, 2), (2, 5)))
    out, (h_n, c_n) = net(x, (h_0, c_0))
    for d, (w_ih, w_hh, b_ih, b_hh, w_hr) in enumerate(net.all_weights):
        h, c = h_0[d], c_0[d]
        for t in reversed(range(4)) if d else range(4):
            i, f, g, o = (w_ih @ x[t] + b_ih + w_hh @ h + b_hh).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = w_hr @ (o.sigmoid() * c.tanh())
            assert tl.allclose(out[t, 2 * d : 2 * d + 2], h, rtol=1e-12)
        assert tl.allclose(h_n[d], h, rtol=1e-12)
        assert tl.allclose(c_n[d], c, rtol=1e-12)


def test_forms_of_input_agree() -> None:
    net = nn.LSTM(3, 4, 2, bidirectional=True)
    xs = [tl.randn(5, 3), tl.randn(2, 3)]
    listed, (h, c) = net(xs)
    packed, (h_packed, c_packed) = net(pack_sequence(xs))
    assert isinstance(packed, PackedSequence)
    assert all(same(a, b) for a, b in zip(rnn.unpack_sequence(packed), listed, strict=True))
    assert same(h, h_packed)
    assert same(c, c_packed)
    first = nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True)
    first.load_state_dict(net.state_dict())
    out, (h_first, _) = first(xs[0].unsqueeze(0))
    assert same(out[0], listed[0])
    assert same(h_first[:, 0].contiguous(), h[:, 0].contiguous())
    out, (h_alone, _) = net(xs[0])
    assert same(out, listed[0])
    assert same(h_alone, h[:, 0].contiguous())


def test_dropout_between_layers() -> None:
    net = nn.GRU(3, 8, 2, dropout=0.5)
    x = tl.randn(6, 2, 3)
    assert not same(net(x)[0], net(x)[0])
    net.eval()
    assert same(net(x)[0], net(x)[0])
    tl.manual_seed(1)
    with pytest.warns(UserWarning, match=r"GRU: dropout=0.5 has no effect"):
        one = nn.GRU(3, 8, dropout=0.5)
    assert same(one(x)[0], one(x)[0])  # none behind the last layer


def test_zero_sizes() -> None:
    net = nn.LSTM(3, 4)
    out, (h, c) = net(tl.zeros(5, 0, 3))
    assert (out.shape, h.shape, c.shape) == ((5, 0, 4), (1, 0, 4), (1, 0, 4))
    outs, (h, _) = net([tl.zeros(0, 3), tl.zeros(0, 3)], (tl.ones(1, 2, 4), tl.zeros(1, 2, 4)))
    assert [o.shape for o in outs] == [(0, 4), (0, 4)]
    assert same(h, tl.ones(1, 2, 4))
    outs, (h, c) = net([])
    assert (outs, h.shape, c.shape) == ([], (1, 0, 4), (1, 0, 4))
    h, c = nn.LSTMCell(3, 4)(tl.zeros(0, 3))
    assert (h.shape, c.shape) == ((0, 4), (0, 4))


@pytest.mark.parametrize("projected", [0, 2])
def test_layers_run_on_another_device(projected: int) -> None:
    here = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=projected)
    there = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=projected, device="reference")
    there.load_state_dict({name: value.to("reference") for name, value in here.state_dict().items()})
    xs = [tl.randn(n, 3) for n in (2, 5, 0)]
    want, (h, c) = here(xs)
    got, (h_there, c_there) = there([x.to("reference") for x in xs])
    for a, b in zip((*want, h, c), (*got, h_there, c_there), strict=True):
        assert str(b.device) == "reference"
        assert tl.allclose(a, b.cpu(), atol=1e-6)
    h_there.sum().backward()
    assert str(there.weight_ih_l0.grad.device) == "reference"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: nn.LSTM(3, 4)(tl.zeros(5, 2, 2)), ValueError, r"LSTM: got float32 of shape \(5, 2, 2\), expected .* \(T, 3\) or \(T, B, 3\)"),
        (lambda: nn.LSTM(3, 4)(tl.zeros(5, 2, 3), (tl.zeros(1, 3, 4), tl.zeros(1, 2, 4))), ValueError, r"h_0 must be .*\(1, 2, 4\), got "),
        (lambda: nn.LSTM(3, 4)(tl.zeros(5, 2, 3), tl.zeros(1, 2, 4)), TypeError, r"a pair of tensors \(h_0, c_0\), got a Tensor"),
        (lambda: nn.LSTM(3, 4)(tl.zeros(5, 2, 3), (None, tl.zeros(1, 2, 4))), TypeError, "got a tuple of NoneType, Tensor"),
        (lambda: nn.GRU(3, 4)(tl.zeros(5, 2, 3), (tl.zeros(1, 2, 4),)), TypeError, "GRU: expected the initial states as a tensor h_0, got a tuple"),
        (lambda: nn.GRU(3, 4)(tl.zeros(5, 2, 3), tl.zeros(1, 2, 4).double()), TypeError, "h_0 must be float32"),
        (lambda: nn.GRU(3, 4)(tl.zeros(5, 2, 3, dtype=tl.float64)), TypeError, "got float64 of shape .* expected float32 of shape"),
        (lambda: nn.GRU(3, 4)(pack_sequence([tl.zeros(2, 5)])), RuntimeError, r"GRU: got rows, float32 of shape \(2, 5\), expected .* \(N, 3\)"),
        (lambda: nn.GRU(3, 4, batch_first=True)(tl.zeros(3)), RuntimeError, r"expected float32 of shape \(T, 3\) or \(B, T, 3\)"),
        (lambda: nn.GRU(3, 4)([tl.zeros(2, 4), tl.zeros(2, 3)]), RuntimeError, r"GRU: sequence 0 is float32 of shape \(2, 4\), expected .* \(L, 3\)"),
        (lambda: nn.GRU(3, 4)([tl.zeros(2, 3), tl.zeros(1, 3).double()]), TypeError, "GRU: sequence 1 is float64 of shape"),
        (lambda: nn.GRU(3, 4)([tl.zeros(2, 3), [1.0]]), TypeError, "GRU: sequence 1 is a list, expected float32 of shape"),
        (lambda: nn.GRU(3, 4)("no"), TypeError, "got a str"),
        (lambda: nn.GRU(3, 4)([tl.zeros(2, 3), tl.zeros(2, 4)]), ValueError, r"sequence 1 is float32 of shape \(2, 4\)"),
        (lambda: nn.GRU(3, 0), ValueError, "hidden_size must be"),
        (lambda: nn.GRU(3, 4, proj_size=2), ValueError, "proj_size is LSTM's"),
        (lambda: nn.LSTM(3, 4, dropout=1.5), ValueError, "dropout must be"),
        (lambda: nn.LSTM(3, 4, 2, dropout=True), ValueError, "dropout must be"),
        (lambda: nn.LSTM(-1, 4), ValueError, "input_size must be an integer of at least 0, got -1"),
        (lambda: nn.LSTMCell(3, 4.0), ValueError, "hidden_size must be an integer of at least 1, got 4.0"),
        (lambda: nn.RNN(3, 4, nonlinearity="gelu"), ValueError, "nonlinearity must be"),
        (lambda: nn.LSTMCell(3, 4)(tl.zeros(2, 4)), ValueError, r"input must be float32 of shape \(B, 3\) or \(3,\), got"),
        (lambda: nn.GRUCell(3, 4)(tl.zeros(2, 3), tl.zeros(3, 4)), ValueError, r"h must be float32 of shape \(2, 4\), got float32 of shape \(3, 4\)"),
        (lambda: nn.GRUCell(3, 4)(tl.zeros(2, 3), tl.zeros(2, 4).double()), TypeError, "h must be float32"),
        (lambda: nn.GRUCell(3, 4)(tl.zeros(2, 3), "h"), TypeError, "GRUCell: h is a str"),
        (lambda: nn.LSTMCell(3, 4)(tl.zeros(2, 3), (tl.zeros(2, 4),)), TypeError, r"expected a pair of tensors \(h, c\), got a tuple of Tensor"),
        (lambda: pack_sequence([]), RuntimeError, "pack_sequence: got no sequences"),
        (lambda: pack_sequence([tl.zeros(1), tl.zeros(2)]), RuntimeError, r"sequence 1 \(length 2\) is longer than sequence 0 \(length 1\)"),
        (lambda: pack_sequence([tl.zeros(1, 2), tl.zeros(1, 2).double()]), TypeError, "sequence 1 is float64 of shape"),
        (lambda: pack_padded_sequence(tl.zeros(5, 2, 3), 3), TypeError, "lengths is 3, expected one integer for each of the 2 sequences"),
        (lambda: pack_padded_sequence(tl.zeros(5, 2, 3), [1.5, 1]), RuntimeError, "sequence 0 has length 1.5"),
        (lambda: rnn.pad_packed_sequence(pack_sequence([tl.zeros(3)]), total_length=2), RuntimeError, "total_length is 2"),
        (lambda: rnn.pad_packed_sequence(tl.zeros(3)), TypeError, "got a Tensor, expected a PackedSequence"),
        (lambda: rnn.unpad_sequence([[1]], [1]), TypeError, "got a list, expected a tensor"),
        (lambda: PackedSequence(tl.zeros(3), [2, 1]), TypeError, "batch_sizes must be a tensor, got list"),
        (lambda: PackedSequence(tl.zeros(3), tl.tensor([2, 1]), tl.tensor([0])), ValueError, "sorted_indices must be a permutation of at least 2"),
        (lambda: pack_padded_sequence(tl.zeros(5, 2, 3), [2, 4]), ValueError, r"sequence 1 \(length 4\) is longer than sequence 0 \(length 2\)"),
        (lambda: pack_padded_sequence(tl.zeros(5, 2, 3), [6, 4]), ValueError, r"sequence 0 has length 6, expected an integer in \[0, 5\]"),
        (lambda: pack_padded_sequence(tl.zeros(5, 2, 3), [4, -1]), ValueError, "sequence 1 has length -1"),
        (lambda: pack_padded_sequence(tl.zeros(5, 2, 3), [4]), ValueError, "got 1 lengths for 2 sequences"),
        (lambda: PackedSequence(tl.zeros(5, 2), tl.tensor([2, 2])), ValueError, "add up to the 5 rows"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_layer_functions_name_what_does_not_fit() -> None:
    w, sizes = [tl.zeros(4, 2), tl.zeros(4, 1), None, None], tl.tensor([2, 1])
    with pytest.raises(ValueError, match=r"w_ih of direction 0 must be float32 of shape \(4, 3\)"):
        tl.fused.lstm_layer(tl.zeros(3, 3), sizes, w)
    with pytest.raises(ValueError, match="never rise"):
        tl.fused.lstm_layer(tl.zeros(3, 2), tl.tensor([1, 2]), w)
    with pytest.raises(ValueError, match="got 3 weights"):
        tl.fused.lstm_layer(tl.zeros(3, 2), sizes, w[:3])
    with pytest.raises(TypeError, match="batch_sizes must be an int64"):
        tl.fused.lstm_layer(tl.zeros(3, 2), tl.zeros(2), w)
    with pytest.raises(ValueError, match="h0 must be"):
        tl.fused.lstm_layer(tl.zeros(3, 2), sizes, w, h0=tl.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="the batch is of 1"):
        tl.fused.lstm_layer(tl.zeros(3, 2), sizes, w, batch=1)
