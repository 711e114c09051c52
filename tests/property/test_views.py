"""Chains of views: the same elements as NumPy's, the same memory, and gradients that go back to where each element came from."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import tensorlib as tl
from tests.property.arrays import Pair, numbered, views

shapes = hnp.array_shapes(min_dims=0, max_dims=4, max_side=4, min_side=0)


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Pair]]:
    shape = draw(shapes)
    array, made = numbered(shape), []
    for _ in range(draw(st.integers(1, 6))):
        pair = draw(views(array))
        array = pair[2](array)
        if array.size > 2000:
            break
        made.append(pair)
    return shape, made


def along(x: tl.Tensor | np.ndarray, chain: list[Pair]) -> tl.Tensor | np.ndarray:
    for _, of_tensor, of_array in chain:
        x = of_tensor(x) if isinstance(x, tl.Tensor) else of_array(x)
    return x


@given(chains())
def test_elements_and_gradients(made: tuple[tuple[int, ...], list[Pair]]) -> None:
    shape, chain = made
    places = along(numbered(shape), chain)
    x = tl.tensor(numbered(shape).astype(np.float64), requires_grad=True)
    view = along(x, chain)
    np.testing.assert_array_equal(view.detach().numpy(), places)
    weights = np.arange(1.0, places.size + 1).reshape(places.shape)
    (view * tl.tensor(weights)).sum().backward()
    want = np.bincount(places.ravel(), weights.ravel(), minlength=x.numel()).reshape(shape)
    np.testing.assert_array_equal(x.grad.numpy(), want)


@given(chains())
def test_memory_is_shared(made: tuple[tuple[int, ...], list[Pair]]) -> None:
    """A write to the base shows in the view, one through the view in the base, and both count as a new version."""
    shape, chain = made
    array = numbered(shape)
    x = tl.tensor(array)
    view, places = along(x, chain), along(array, chain)
    x.add_(100)
    np.testing.assert_array_equal(view.numpy(), places + 100)
    if len(np.unique(places)) == places.size:
        version = x._version
        view.mul_(-1)
        want = array.ravel() + 100
        want[places.ravel()] *= -1
        np.testing.assert_array_equal(x.numpy().ravel(), want)
        assert x._version == view._version > version


@given(chains(), st.data())
def test_reshape(made: tuple[tuple[int, ...], list[Pair]], data: st.DataObject) -> None:
    """Any new shape: NumPy's elements; `view` where no copy is needed, and only there."""
    shape, chain = made
    places = along(numbered(shape), chain)
    x = tl.tensor(numbered(shape).astype(np.float64), requires_grad=True)
    view = along(x, chain)
    n = places.size
    sides = [d for d in range(1, n + 1) if n % d == 0][:6] or [0]
    side = data.draw(st.sampled_from(sides))
    new = data.draw(st.sampled_from([(side, -1), (-1, side), (n,), (1, n, 1)])) if side else (0, 3)
    got = view.reshape(new)
    np.testing.assert_array_equal(got.detach().numpy(), places.reshape(new))
    got.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy().ravel(), np.bincount(places.ravel(), minlength=x.numel()))
    try:
        same = view.detach().view(new)
    except tl.ShapeError:
        assert not view.is_contiguous() and got.data_ptr() != view.data_ptr()
    else:
        np.testing.assert_array_equal(same.numpy(), places.reshape(new))
        assert n == 0 or same.data_ptr() == view.data_ptr()
