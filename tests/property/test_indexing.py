"""Subscripts at random, reading and writing, with NumPy beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import tensorlib as tl
from tests.property.arrays import indices, numbered

shapes = hnp.array_shapes(min_dims=0, max_dims=4, max_side=4, min_side=0)


def given_to(index: tuple[Any, ...], kind: str) -> Any:
    """The subscript with its arrays as NumPy arrays, lists or tensors."""
    convert = {"numpy": lambda a: a, "list": lambda a: a.tolist(), "tensor": lambda a: tl.tensor(a)}[kind]
    made = tuple(convert(i) if isinstance(i, np.ndarray) and i.size else i for i in index)  # an empty list has no dtype
    return made[0] if len(made) == 1 and not isinstance(made[0], list) else made


def read(array: np.ndarray, index: Any) -> np.ndarray | None:
    try:
        return np.asarray(array[index])
    except IndexError:
        return None


def gradient(t: tl.Tensor) -> np.ndarray:
    """None where nothing of t was left in the result."""
    return np.zeros(t.shape) if t.grad is None else t.grad.numpy()


@given(shapes, st.data(), st.sampled_from(["numpy", "list", "tensor"]))
def test_reading(shape: tuple[int, ...], data: st.DataObject, kind: str) -> None:
    index = data.draw(indices(shape))
    places = read(numbered(shape), index)
    x = tl.tensor(numbered(shape).astype(np.float64), requires_grad=True)
    subscript = given_to(index, kind)
    if places is None:
        with pytest.raises((IndexError, ValueError)):
            x[subscript]
        return
    got = x[subscript]
    np.testing.assert_array_equal(got.detach().numpy(), places)
    assert got.shape == places.shape
    weights = np.arange(1.0, places.size + 1).reshape(places.shape)
    (got * tl.tensor(weights)).sum().backward()
    np.testing.assert_array_equal(
        x.grad.numpy().ravel(), np.bincount(places.ravel(), weights.ravel(), minlength=x.numel())
    )


@given(shapes, st.data(), st.sampled_from(["numpy", "list", "tensor"]), st.booleans())
def test_writing(shape: tuple[int, ...], data: st.DataObject, kind: str, recorded: bool) -> None:
    """``x[index] = value``: the elements, and both gradients, also where a place is written twice."""
    index = data.draw(indices(shape))
    array = numbered(shape).astype(np.float64)
    places = read(numbered(shape), index)
    if places is None:
        return
    spread = [1 if data.draw(st.booleans()) else n for n in places.shape]
    value = np.asarray(-1.0 - numbered(tuple(spread)))
    x, v = tl.tensor(array, requires_grad=recorded), tl.tensor(value, requires_grad=recorded)
    inner = x * 1
    inner[given_to(index, kind)] = v
    want = array.copy()
    want[index] = value
    np.testing.assert_array_equal(inner.detach().numpy(), want)
    if not recorded:
        return
    weights = np.arange(1.0, x.numel() + 1).reshape(shape)
    (inner * tl.tensor(weights)).sum().backward()
    kept = np.where(want < 0, 0, weights)
    np.testing.assert_array_equal(gradient(x), kept)
    source = np.full(shape, -1)
    source[index] = np.arange(value.size).reshape(spread)  # which element of `value` each place holds
    found = np.bincount(source[source >= 0], weights[source >= 0], minlength=value.size).reshape(spread)
    np.testing.assert_array_equal(gradient(v), found)


@given(shapes, st.data())
def test_adding_into(shape: tuple[int, ...], data: st.DataObject) -> None:
    """``x[index] += 1`` adds once where a place is named twice, as in NumPy."""
    index = data.draw(indices(shape))
    array = numbered(shape)
    if read(array, index) is None:
        return
    x = tl.tensor(array)
    x[given_to(index, "numpy")] += 1
    array[index] += 1
    np.testing.assert_array_equal(x.numpy(), array)


@given(shapes.filter(lambda s: 0 not in s), st.data())
def test_values_that_do_not_fit(shape: tuple[int, ...], data: st.DataObject) -> None:
    """A value that does not broadcast, or an index out of range, changes nothing."""
    index = data.draw(indices(shape))
    array = numbered(shape)
    places = read(array, index)
    x = tl.tensor(array)
    if places is not None:
        with pytest.raises(tl.ShapeError):
            x[given_to(index, "numpy")] = tl.zeros((7,) * (places.ndim + 1), dtype=tl.int64)
    with pytest.raises(IndexError):
        x[(99,) * max(len(shape), 1)] = 0
    np.testing.assert_array_equal(x.numpy(), array)
