"""Broadcasting: any shapes that NumPy lets meet, any that it does not, and the gradients' way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import tensorlib as tl
from tensorlib.ops.table import entries
from tests.cases import has_kernel

meeting = hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=5, max_side=4, min_side=0)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, max_side=3, min_side=0)
BINARY = [op for op in entries() if op.kind == "elementwise" and len(op.inputs) == 2 and has_kernel(op)]


def counting(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Small integers, exact in every dtype: sums and products of them in any order have the same bits."""
    return (np.arange(np.prod(shape, dtype=int)) % 5 + 1).reshape(shape).astype(dtype)


@given(meeting, st.sampled_from(["float32", "float64", "int64", "uint8", "bool"]), st.data())
def test_shapes_that_meet(found: hnp.BroadcastableShapes, dtype: str, data: st.DataObject) -> None:
    op = data.draw(st.sampled_from(BINARY), label="operation")
    a, b, _ = (counting(s, dtype) for s in found.input_shapes)
    try:
        want = op.ref(np, a, b)
        got = op.call(tl.tensor(a), tl.tensor(b))
    except TypeError:  # NumPy's, or ours which is one too: not for this dtype
        return
    assert got.shape == np.broadcast_shapes(a.shape, b.shape)
    np.testing.assert_allclose(got.numpy(), want.astype(got.numpy().dtype), rtol=1e-5)


@given(meeting)
def test_gradients_sum_over_what_was_spread(found: hnp.BroadcastableShapes) -> None:
    a, b, c = (counting(s, "float64") for s in found.input_shapes)
    ta, tb, tc = (tl.tensor(x, requires_grad=True) for x in (a, b, c))
    (ta * tb + tc).sum().backward()
    whole = np.zeros(found.result_shape)
    for t, slope in ((ta, whole + b), (tb, whole + a), (tc, whole + 1)):
        lead = whole.ndim - t.ndim
        dims = tuple(i for i, n in enumerate(whole.shape) if i < lead or t.shape[i - lead] == 1)
        want = slope.sum(dims, keepdims=True).reshape(t.shape)
        np.testing.assert_array_equal(np.zeros(t.shape) if t.grad is None else t.grad.numpy(), want)


@given(shapes, shapes)
def test_agrees_with_numpy_on_what_meets(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        want = np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(tl.ShapeError, match="broadcast"):
            tl.ones(a) + tl.ones(b)
        with pytest.raises(tl.ShapeError):
            tl.broadcast_tensors(tl.ones(a), tl.ones(b))
        return
    assert (tl.ones(a) + tl.ones(b)).shape == want
    assert [t.shape for t in tl.broadcast_tensors(tl.ones(a), tl.ones(b))] == [want, want]
