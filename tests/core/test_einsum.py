"""einsum and tensordot beside NumPy's: drawn equations in both formats, the order of several operands, what reaches the product without a copy."""

from __future__ import annotations

import math
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tensorlib as tl
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops.einsum import _plan

Shape = tuple[int, ...]


@st.composite
def contractions(draw: Any) -> tuple[list[list[int]], list[int] | None, list[Shape], bool]:
    """Subscripts of one to four operands and the result (None: implicit), shapes in which some sizes are 1, whether they lie permuted."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 3, 3, 4]), min_size=6, max_size=6))
    terms = draw(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=4))
    shapes = [
        tuple(1 if draw(st.integers(0, 7)) == 0 and term.count(x) == 1 else sizes[x] for x in term) for term in terms
    ]
    used = sorted({x for term in terms for x in term})
    result = draw(st.none() | st.permutations(used).flatmap(lambda p: st.integers(0, len(p)).map(lambda n: p[:n])))
    return terms, result, shapes, draw(st.booleans())


def spelt(term: list[int]) -> str:
    return "".join(string.ascii_letters[x] for x in term)


@settings(max_examples=300, deadline=None)
@given(case=contractions())
def test_as_numpy(case: tuple[list[list[int]], list[int] | None, list[Shape], bool]) -> None:
    terms, result, shapes, permuted = case
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-3, 4, shape).astype(np.float64) for shape in shapes]  # exact in any order
    tensors = [tl.tensor(a.T.copy()).permute(*reversed(range(a.ndim))) if permuted else tl.tensor(a) for a in arrays]
    equation = ",".join(map(spelt, terms)) + ("" if result is None else "->" + spelt(result))
    sizes = {x: max([n for t, s in zip(terms, shapes, strict=True) for y, n in zip(t, s, strict=True) if y == x and n != 1], default=1)
             for term in terms for x in term}  # fmt: skip
    whole = [np.broadcast_to(a, [sizes[x] for x in term]) for a, term in zip(arrays, terms, strict=True)]
    want = np.einsum(equation, *whole)
    got = tl.einsum(equation, *tensors)
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.numpy(), want)
    lists = [x for pair in zip(tensors, terms, strict=True) for x in pair] + ([] if result is None else [result])
    np.testing.assert_array_equal(tl.einsum(*lists).numpy(), want)


def test_lists_with_an_ellipsis(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 5))
    x, y = tl.tensor(a), tl.tensor(b)
    np.testing.assert_allclose(tl.einsum(x, [..., 7], y, [7, 9], [9, ...]).numpy(), np.einsum("...i,ij->j...", a, b))
    np.testing.assert_allclose(tl.einsum(x, [..., 7], y, (7, 9)).numpy(), a @ b)
    np.testing.assert_allclose(tl.einsum(x, [..., 0], []).numpy(), a.sum())
    np.testing.assert_allclose(tl.einsum("...i->", x).numpy(), a.sum())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), TypeError, "expected an equation and tensors"),
        (([0],), TypeError, "expected an equation and tensors"),
        ((tl.ones(2), "i"), TypeError, "the subscripts of operand 0 are a str, expected a list"),
        ((tl.ones(2), [0], tl.ones(2)), TypeError, "the subscripts of the result are a Tensor, expected a list"),
        ((tl.ones(2), [52]), ShapeError, "unexpected subscript 52 of operand 0; expected 0 to 51"),
        ((tl.ones(2), [-1]), ShapeError, "unexpected subscript -1 of operand 0"),
        ((tl.ones(2), [0], [True]), ShapeError, "unexpected subscript True of the result"),
        ((tl.ones(2), [0, 1]), ShapeError, r"\[0, 1\] has 2 labels for operand 0 of shape \(2,\)"),
        ((tl.ones(2), [0], tl.ones(3), [0], []), ShapeError, "label 0 has size 3 in operand 1 .* but size 2 in operand 0"),
        ((tl.ones(2), [0], [1]), ShapeError, r"the result's label 1 appears in no operand of \[0\] -> \[1\]"),
        ((tl.ones(2), [0], [..., ...]), ShapeError, r"the result has more than one '...' in \[0\] -> \[..., ...\]"),
        ((3.0, [], tl.ones(2), [0]), DTypeError, "operand 0 is a float, expected a Tensor"),
        (("i,i", tl.ones(2), np.ones(2)), DTypeError, "operand 1 is a ndarray, expected a Tensor"),
        (("i,i", tl.ones(2), tl.ones(2, dtype=tl.int64)), DTypeError, "dtypes differ: float32 and int64"),
    ],
)  # fmt: skip
def test_errors(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"einsum: {message}"):
        tl.einsum(*arguments)


def contiguous(shape: Shape) -> Shape:
    return tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))


@pytest.mark.parametrize(
    ("equation", "shapes", "first"),
    [
        ("ij,jk,kl->il", [(9, 9), (9, 9), (9, 1)], {1, 2}),
        ("ij,jk,kl->il", [(1, 9), (9, 9), (9, 9)], {0, 1}),
        ("ij,jk,kl->il", [(9, 9), (9, 9), (9, 9)], {0, 1}),  # no difference: from left to right
        ("i,j,ij->", [(9,), (9,), (9, 9)], {0, 2}),  # not the outer product
    ],
)
def test_takes_few_multiplications(equation: str, shapes: list[Shape], first: set[int]) -> None:
    step = _plan(equation, tuple(shapes), tuple(map(contiguous, shapes))).steps[0]
    assert {step.left, step.right + (step.right >= step.left)} == first


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bqhd,bkhd->bhqk", [(2, 5, 3, 4), (2, 6, 3, 4)]),
        ("bhts,bshd->bthd", [(2, 3, 5, 6), (2, 6, 3, 4)]),
        ("bthd,hdo->bto", [(2, 5, 3, 4), (3, 4, 7)]),
        ("ji,kj->ki", [(3, 4), (5, 3)]),
        ("ij,kj->ki", [(3, 4), (5, 4)]),
    ],
)
def test_operands_are_not_copied(equation: str, shapes: list[Shape]) -> None:
    operands = [tl.ones(shape) for shape in shapes]
    (step,) = _plan(equation, tuple(shapes), tuple(t.stride() for t in operands)).steps
    places = (step.left, 1 - step.left)
    for place, moves in zip(places, step.moves, strict=True):
        t = operands[place]
        for move, arguments in moves:
            t = move(t, *arguments)
        assert t.data_ptr() == operands[place].data_ptr()


@pytest.mark.parametrize(
    ("a", "b", "dims"),
    [
        ((2, 3, 4), (3, 4, 5), 2),
        ((2, 3), (4,), 0),
        ((2, 3, 4), (4, 5, 3), ([1, 2], [2, 0])),
        ((2, 3, 4), (4, 5, 3), ([-1, 1], [0, -1])),
        ((2, 3, 4), (3, 5), (1, 0)),
        ((2, 0), (0, 3), 1),
        ((0, 3), (3, 2), 1),
        ((), (), 0),
        ((2, 3), (2, 3), ([0, 1], [0, 1])),
    ],
)
def test_tensordot(a: Shape, b: Shape, dims: Any, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal(a), rng.standard_normal(b)
    want = np.tensordot(x, y, dims)
    for _ in range(2):  # the second time by the plan of the first
        got = tl.tensordot(tl.tensor(x), tl.tensor(y), dims)
        assert got.shape == want.shape
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-12, atol=1e-12)
    turned = tl.tensor(y.T.copy()).permute(*reversed(range(y.ndim)))
    np.testing.assert_allclose(tl.tensordot(tl.tensor(x), turned, dims).numpy(), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (3, "dims is 3, expected 0 to 2 for shapes"),
        (1, "the last 1 dimensions of .* differ from the first 1"),
        (([0], [0]), "dims .* do not fit; expected distinct dims of the same sizes"),
        (([1, 1], [0, 0]), "dims .* do not fit"),
    ],
)
def test_tensordot_errors(dims: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=f"tensordot: {message}"):
        tl.tensordot(tl.ones(2, 3), tl.ones(4, 5), dims)
