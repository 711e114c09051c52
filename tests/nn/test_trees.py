"""TreeLSTM cells: the paper's equations, gradients of any order, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn

D, H = 3, 4
Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]


# ---- the equations of Tai et al. 2015, gate by gate ----
def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gates(matrix: Array, names: str) -> dict[str, Array]:
    return dict(zip(names, np.split(matrix, len(names)), strict=True))


def own_part(p: dict[str, Array], x: Array | None, names: str) -> dict[str, Array]:
    """W x + b of each gate; zeros where there is neither."""
    bias = p.get("bias", np.zeros(4 * H))
    return gates(bias if x is None else p["weight_ih"] @ x + bias, names)


def child_sum(p: dict[str, Array], x: Array | None, children: Sequence[Pair]) -> Pair:
    own, u = own_part(p, x, "ifgo"), gates(p["weight_hh"], "ifgo")
    h = sum((h for h, _ in children), np.zeros(H))
    i, o = (sigmoid(own[name] + u[name] @ h) for name in "io")
    c = i * np.tanh(own["g"] + u["g"] @ h)
    c = c + sum(sigmoid(own["f"] + u["f"] @ h_k) * c_k for h_k, c_k in children)
    return o * np.tanh(c), c


def nary(p: dict[str, Array], x: Array | None, children: Sequence[Pair | None]) -> Pair:
    n = sum(name.startswith("weight_hh") for name in p)
    forget = "0123456789"[:n]
    own, u = own_part(p, x, "ifgo"), [gates(p[f"weight_hh_{k}"], f"i{forget}go") for k in range(n)]
    full = [(np.zeros(H), np.zeros(H)) if child is None else child for child in children or [None] * n]
    total = {name: sum(u[k][name] @ full[k][0] for k in range(n)) for name in u[0]}
    i, o = (sigmoid(own[name] + total[name]) for name in "io")
    c = i * np.tanh(own["g"] + total["g"])
    c = c + sum(sigmoid(own["f"] + total[forget[k]]) * full[k][1] for k in range(n))
    return o * np.tanh(c), c


CELLS: dict[str, tuple[Callable[..., Any], Callable[..., Pair], list[str]]] = {
    # a node's children: "h" for one, "-" for one that is missing
    "child-sum": (nn.ChildSumTreeLSTMCell, child_sum, ["", "h", "hh", "hhhhh"]),
    "unary": (lambda *a, **k: nn.NaryTreeLSTMCell(*a, arity=1, **k), nary, ["", "h", "-"]),
    "ternary": (lambda *a, **k: nn.NaryTreeLSTMCell(*a, arity=3, **k), nary, ["", "hhh", "h-h", "---", "--h"]),
}
CASES = [
    pytest.param(name, children, with_input, id=f"{name}-{children or 'leaf'}{'' if with_input else '-no-input'}")
    for name, (_, _, forms) in CELLS.items()
    for children in forms
    for with_input in (True, False)
    if with_input or "h" in children
]


def drawn(children: str, *lead: int) -> list[tuple[tl.Tensor, tl.Tensor] | None]:
    def state() -> tl.Tensor:
        return tl.randn(*lead, H, dtype=tl.float64)

    return [(state(), state()) if child == "h" else None for child in children]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("name", "children", "with_input"), CASES)
def test_the_papers_equations(name: str, children: str, with_input: bool, bias: bool) -> None:
    make, equations, _ = CELLS[name]
    cell = make(D, H, bias=bias, dtype=tl.float64)
    weights = {key: value.numpy() for key, value in cell.state_dict().items()}
    x = tl.randn(2, D, dtype=tl.float64) if with_input else None
    given = drawn(children, 2)
    together = cell(x, given)
    for b in range(2):
        of_b = [None if child is None else (child[0][b], child[1][b]) for child in given]
        alone = cell(None if x is None else x[b], of_b)
        expected = equations(
            weights,
            None if x is None else x[b].numpy(),
            [None if child is None else (child[0].numpy(), child[1].numpy()) for child in of_b],
        )
        for got, batched, wanted in zip(alone, together, expected, strict=True):
            assert got.shape == (H,)
            np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)
            assert (batched[b] == got).all()  # the bits that it has alone


@pytest.mark.parametrize(("name", "children", "with_input"), CASES)
def test_gradients_of_gradients(name: str, children: str, with_input: bool) -> None:
    cell = CELLS[name][0](D, H, dtype=tl.float64)
    names = [key for key, _ in cell.named_parameters()]
    weights = [p.detach().clone().requires_grad_() for p in cell.parameters()]
    states = [s.requires_grad_() for child in drawn(children) if child is not None for s in child]
    x = [tl.randn(D, dtype=tl.float64, requires_grad=True)] if with_input else []

    def call(*inputs: tl.Tensor) -> Any:
        left = iter(inputs)
        vars(cell).update(zip(names, left, strict=False))  # the weights, as a forward pass reads them
        input = next(left) if with_input else None
        return cell(input, [(next(left), next(left)) if child == "h" else None for child in children])

    assert tl.autograd.gradcheck(call, [*weights, *x, *states])
    assert tl.autograd.gradgradcheck(call, [*weights, *x, *states])


@pytest.mark.parametrize("name", ["child-sum", "unary"])
def test_one_child_is_a_step_of_lstm(name: str) -> None:
    cell, lstm = CELLS[name][0](D, H, dtype=tl.float64), nn.LSTMCell(D, H, dtype=tl.float64)
    weight_ih, weight_hh, bias = cell.parameters()
    with tl.no_grad():
        for p, value in zip(lstm.parameters(), (weight_ih, weight_hh, bias, tl.zeros_like(bias)), strict=True):
            p.copy_(value)
    x, child = tl.randn(5, D, dtype=tl.float64), drawn("h", 5)[0]
    for a, b in zip(cell(x, [child]), lstm(x, child), strict=True):
        assert tl.allclose(a, b, rtol=1e-12)


def test_the_order_of_children() -> None:
    cell, children = nn.ChildSumTreeLSTMCell(D, H, dtype=tl.float64), drawn("hhh")
    for a, b in zip(cell(None, children), cell(None, children[::-1]), strict=True):
        assert tl.allclose(a, b, rtol=1e-12)
    places = nn.NaryTreeLSTMCell(D, H, 3, dtype=tl.float64)
    assert not tl.allclose(places(None, children)[0], places(None, children[::-1])[0])


def test_names_and_sizes() -> None:
    shapes = {key: value.shape for key, value in nn.ChildSumTreeLSTMCell(D, H).state_dict().items()}
    assert shapes == {"weight_ih": (16, 3), "weight_hh": (16, 4), "bias": (16,)}
    shapes = {key: value.shape for key, value in nn.NaryTreeLSTMCell(D, H, 2, bias=False).state_dict().items()}
    assert shapes == {"weight_ih": (16, 3), "weight_hh_0": (20, 4), "weight_hh_1": (20, 4)}
    assert repr(nn.ChildSumTreeLSTMCell(D, H, bias=False)) == "ChildSumTreeLSTMCell(3, 4, bias=False)"
    assert repr(nn.NaryTreeLSTMCell(D, H, 2)) == "NaryTreeLSTMCell(3, 4, arity=2)"
    assert [s.shape for s in nn.NaryTreeLSTMCell(D, H, 2)(tl.zeros(0, D))] == [(0, H), (0, H)]


ChildSum, Nary = nn.ChildSumTreeLSTMCell, nn.NaryTreeLSTMCell
PAIR = (tl.zeros(H), tl.zeros(H))


def tree(**changed: Any) -> Any:
    fitting = {"weight_ih": tl.zeros(16, D), "bias": None, "weight_hh": tl.zeros(16, H), "children": [PAIR, PAIR]}
    return tl.fused.tree_lstm(None, **(fitting | changed))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ChildSum(D, 0), ValueError, "hidden_size must be an integer of at least 1, got 0"),
        (lambda: Nary(D, H, 0), ValueError, "arity must be an integer of at least 1, got 0"),
        (lambda: ChildSum(D, H)(None, []), ValueError, "needs an input or a child, got neither"),
        (lambda: Nary(D, H, 2)(None, [None, None]), ValueError, "needs an input or a child, got neither"),
        (lambda: ChildSum(D, H)(tl.zeros(2)), ValueError, r"input must have shape \(B, 3\) or \(3,\), got float32 of shape \(2,\)"),
        (lambda: ChildSum(D, H)(tl.zeros(D, dtype=tl.float64)), TypeError, "input is float64, the weights are float32"),
        (lambda: ChildSum(D, H)(tl.zeros(D), [PAIR, (PAIR[0], tl.zeros(5))]), ValueError, r"c of child 1 must be float32 of .*\(4,\), got .*\(5,\)"),
        (lambda: ChildSum(D, H)(tl.zeros(2, D), [PAIR]), ValueError, r"h of child 0 must be float32 of shape \(2, 4\)"),
        (lambda: ChildSum(D, H)(None, [PAIR, (tl.zeros(2, H), tl.zeros(2, H))]), ValueError, r"h of child 1 must be float32 of shape \(4,\)"),
        (lambda: ChildSum(D, H)(None, [tl.zeros(H)]), TypeError, r"child 0 must be a pair \(h, c\), got float32 of shape \(4,\)"),
        (lambda: ChildSum(D, H)(None, [None]), TypeError, r"child 0 must be a pair \(h, c\), got NoneType"),
        (lambda: ChildSum(D, H)(None, [(PAIR[0], PAIR[1].double())]), ValueError, "c of child 0 must be float32 of shape .* got float64"),
        (lambda: Nary(D, H, 2)(None, [PAIR]), ValueError, "got 1 children, expected 2, None for each that is missing"),
        (lambda: Nary(D, H, 2)(None, [None, PAIR[:1]]), TypeError, "child 1 must be a pair"),
        (lambda: tree(weight_hh=[tl.zeros(20, H)]), ValueError, "got 2 children, but weights of 1 places"),
        (lambda: tree(weight_hh=[tl.zeros(20, H)] * 3, children=[PAIR] * 3), ValueError, r"weight_hh\[0\] must be .*\(24, 4\), got .*\(20, 4\)"),
        (lambda: tree(weight_hh=tl.zeros(16, H, dtype=tl.float64)), ValueError, r"weight_hh must be float32 of shape \(16, 4\), got float64"),
        (lambda: tree(bias=tl.zeros(4)), ValueError, r"bias must be float32 of shape \(16,\), got .*\(4,\)"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
