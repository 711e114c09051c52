"""Python's operators: scalars, NumPy scalars and arrays on either side, foreign objects, and the conversions Python asks a number for."""

from __future__ import annotations

import inspect
import math
import operator as op
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

BINARY = [op.add, op.sub, op.mul, op.truediv, op.floordiv, op.mod, op.pow]
COMPARE = [op.lt, op.le, op.gt, op.ge, op.eq, op.ne]
BITS = [op.and_, op.or_, op.xor, op.lshift, op.rshift]
named = lambda fs: pytest.mark.parametrize("f", fs, ids=lambda f: f.__name__)

A = np.array([[1.5, -2.0, 3.0], [0.5, 4.0, -1.0]])
B = np.array([2.0, 3.0, 0.5])


def same(ours: Any, theirs: Any, rtol: float = 1e-12) -> None:
    assert type(ours) is tl.Tensor
    got = np.asarray(ours)
    assert got.shape == np.shape(theirs) and got.dtype == np.asarray(theirs).dtype
    np.testing.assert_allclose(got, theirs, rtol=rtol)


@named(BINARY + COMPARE)
def test_tensors_arrays_and_scalars(f: Callable[[Any, Any], Any]) -> None:
    a, b = tl.tensor(A), tl.tensor(B)
    with np.errstate(all="ignore"):
        same(f(a, b), f(A, B))
        same(f(a, B), f(A, B))
        same(f(A, b), f(A, B))
        for s in (2, 0.5, True, np.float64(1.5), np.int64(3)):
            same(f(a, s), f(A, s))
            same(f(s, a), f(s, A))
        for zero_d in (tl.tensor(2.0, dtype=tl.float64), np.array(2.0)):
            same(f(a, zero_d), f(A, 2.0))
            same(f(zero_d, a), f(2.0, A))


@named(BINARY + COMPARE + BITS)
def test_integers(f: Callable[[Any, Any], Any]) -> None:
    x, y = np.array([1, 5, 7, 100]), np.array([3, 2, 1, 4])
    same(f(tl.tensor(x), tl.tensor(y)), f(x, y)) if f is not op.truediv else None
    same(f(tl.tensor(x), 3), f(x, 3)) if f is not op.truediv else same(
        f(tl.tensor(x), 3), (x / 3).astype(np.float32), 1e-6
    )
    same(f(100, tl.tensor(y)), f(100, y)) if f is not op.truediv else None
    same(f(x, tl.tensor(y)), f(x, y)) if f is not op.truediv else None
    small = tl.tensor(x, dtype=tl.int8)
    assert f(small, 3).dtype in (tl.int8, tl.bool, tl.float32)


@named([op.add, op.sub, op.mul, op.pow, op.mod, op.floordiv])
@pytest.mark.parametrize("dtype", [tl.bool, tl.uint8, tl.int32, tl.int64], ids=str)
def test_a_float_beside_integers_makes_floats(f: Callable[[Any, Any], Any], dtype: tl.DType) -> None:
    """Also where the float is a whole number."""
    x = tl.ones(3, dtype=dtype)
    for s in (1.0, 2.0, 0.5, -3.0):
        assert f(x, s).dtype is f(s, x).dtype is tl.float32
        assert f(x, s).tolist() == [f(1.0, s)] * 3 and f(s, x).tolist() == [f(s, 1.0)] * 3
    if dtype is not tl.bool:
        with pytest.raises(tl.DTypeError, match="float32"):
            x.add_(1.0)
        assert x.tolist() == [1, 1, 1]


@named([op.and_, op.or_, op.xor])
def test_bools(f: Callable[[Any, Any], Any]) -> None:
    x, y = np.array([True, True, False, False]), np.array([True, False, True, False])
    same(f(tl.tensor(x), tl.tensor(y)), f(x, y))
    same(f(x, tl.tensor(y)), f(x, y))
    same(f(tl.tensor(x), True), f(x, True))


def test_unary() -> None:
    a = tl.tensor(A)
    same(-a, -A), same(+a, A), same(abs(a), abs(A)), same(~tl.tensor([1, 2]), ~np.array([1, 2]))
    same(~tl.tensor([True, False]), np.array([False, True]))


def test_matmul() -> None:
    a, b = tl.tensor(A), tl.tensor(B)
    same(a @ b, A @ B), same(a @ B, A @ B), same(A @ b, A @ B), same(a @ a.t(), A @ A.T)
    for bad in (2, 1.5, "x", None):
        with pytest.raises((TypeError, ValueError), match="matmul"):
            a @ bad
        with pytest.raises((TypeError, ValueError)):
            bad @ a


def test_augmented_assignment_writes_in_place() -> None:
    for f, expected in [
        (op.iadd, A + B),
        (op.isub, A - B),
        (op.imul, A * B),
        (op.itruediv, A / B),
        (op.ifloordiv, A // B),
        (op.imod, A % B),
        (op.ipow, A**2),
    ]:
        a = tl.tensor(A)
        out = f(a, 2 if f is op.ipow else B)
        assert out is a
        same(out, expected)
    for f, expected in [(op.iand, 1), (op.ior, 7), (op.ixor, 6), (op.ilshift, 40), (op.irshift, 0)]:
        x = tl.tensor([5])
        assert f(x, 3) is x and x.item() == expected


@named([*BINARY, op.and_, op.lshift, op.matmul, op.lt])
@pytest.mark.parametrize("foreign", ["text", None, [1, 2], {}, object()], ids=lambda v: type(v).__name__)
def test_foreign_objects(f: Callable[[Any, Any], Any], foreign: Any) -> None:
    x = tl.tensor([1, 2])
    with pytest.raises(TypeError, match=r"[Tt]ensor"):
        f(x, foreign)
    if not (isinstance(foreign, str) and f is op.mod):  # formats
        with pytest.raises(TypeError):
            f(foreign, x)
    assert (x == foreign) is False and (x != foreign) is True


def test_foreign_objects_get_their_own_say() -> None:
    class Loud:
        def __radd__(self, other: Any) -> str:
            return "radd"

        def __add__(self, other: Any) -> str:
            return "add"

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    assert tl.ones(2) + Loud() == "radd" and Loud() + tl.ones(2) == "add" and (tl.ones(2) == Loud()) is True


def test_gradients_reach_tensors_beside_arrays_and_scalars() -> None:
    x = tl.tensor(B, requires_grad=True)
    (A * x + x * A - 2 * x / 4 + 3 ** (x * 0)).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * A.sum(0) - 2 * 0.5)


def test_big_python_integers_are_exact() -> None:
    x = tl.tensor([2**53 + 1, 0])
    assert (x + (2**53 + 1)).tolist() == [2**54 + 2, 2**53 + 1]
    assert (x == 2**53 + 1).tolist() == [True, False] and (x - 2**53).tolist() == [1, -(2**53)]
    assert ((2**62) + tl.tensor([1])).item() == 2**62 + 1
    with pytest.raises((TypeError, OverflowError)):
        x + 2**64
    assert (tl.tensor([250], dtype=tl.uint8) + 10).item() == 4  # wraps, as NumPy's and PyTorch's


def test_shapes_that_do_not_broadcast() -> None:
    for f in BINARY + COMPARE:
        with pytest.raises(tl.ShapeError, match=r"shapes \(2, 3\) and \(2,\) do not broadcast"):
            f(tl.zeros(2, 3), tl.zeros(2))
    with pytest.raises(ValueError, match="broadcast"):
        np.zeros((2, 3)) + tl.zeros(2)


# ---- what Python asks of a number, a sequence, a truth value ----
def test_scalars_of_python() -> None:
    x = tl.tensor([[2.75]], requires_grad=True)
    assert float(x) == 2.75 and int(x) == 2 and complex(x) == 2.75 and bool(x) is True and x.item() == 2.75
    assert not tl.tensor(0.0) and not tl.tensor([False]) and tl.tensor(math.nan)
    assert [10, 20, 30][tl.tensor(1)] == 20 and range(tl.tensor(3)) == range(3) and hex(tl.tensor([255])) == "0xff"
    assert math.floor(tl.tensor(2.5)) == 2 and math.sqrt(tl.tensor(4.0)) == 2
    assert [type(tl.tensor(v).item()) for v in (True, 1, 1.5, 1j)] == [bool, int, float, complex]
    assert tl.tensor(2**62 + 1).item() == 2**62 + 1 and tl.tensor(1.5).bfloat16().item() == 1.5
    for bad in (lambda: int(tl.tensor(math.nan)), lambda: int(tl.tensor(math.inf))):
        with pytest.raises((ValueError, OverflowError)):
            bad()


@pytest.mark.parametrize(
    "f", [bool, int, float, complex, lambda x: x.item()], ids=["bool", "int", "float", "complex", "item"]
)
@pytest.mark.parametrize("shape", [(2,), (0,), (1, 2)], ids=str)
def test_only_one_element_is_a_scalar(f: Callable[[tl.Tensor], Any], shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, RuntimeError), match=rf"shape \({shape[0]},"):
        f(tl.zeros(shape))


def test_only_integers_are_indices() -> None:
    for bad in (tl.tensor(1.0), tl.tensor([1, 2])):
        with pytest.raises(TypeError, match="index: got"):
            [1, 2, 3][bad]


def test_sequences() -> None:
    x = tl.tensor(A, requires_grad=True)
    assert len(x) == 2 and [row.tolist() for row in x] == A.tolist()
    first, second = x
    (first * second).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), A[::-1])
    assert 4.0 in x and 5.0 not in x and list(reversed(tl.arange(3))) == [2, 1, 0]
    for f in (len, iter):
        with pytest.raises(TypeError, match="0-d"):
            f(tl.tensor(1.0))
    assert {x: 1}[x] == 1  # by identity


def test_format() -> None:
    assert (
        f"{tl.tensor(3.14159):.2f}|{tl.tensor(7):>4d}|{tl.tensor(0.5, requires_grad=True):.1e}|{tl.tensor(True)}"
        == "3.14|   7|5.0e-01|tensor(True)"
    )
    x = tl.tensor([1.0])
    assert f"{x}" == str(x) == repr(x) == "tensor([1.])"
    with pytest.raises((TypeError, ValueError)):
        f"{tl.ones(2):.2f}"


def test_numpy_functions_on_tensors_say_that_they_do_not_apply() -> None:
    with pytest.raises(TypeError, match="__array_ufunc__"):
        np.sin(tl.ones(2))
    assert np.asarray(tl.ones(2)).tolist() == [1, 1] and np.concatenate([tl.ones(1), tl.zeros(1)]).tolist() == [1, 0]


def test_arguments_by_their_names() -> None:
    """As PyTorch's scripts write them; tests/parity compares all signatures."""
    x, ids = tl.tensor([[1.0, -2.0]]), tl.tensor([[1]])
    assert tl.add(input=x, other=x, alpha=2).tolist() == x.clone().add_(other=2 * x).tolist() == [[3, -6]]
    assert tl.relu(input=x).tolist() == tl.clamp(input=x, min=0).tolist() == tl.max(x, other=0 * x).tolist() == [[1, 0]]
    assert tl.lerp(input=x, end=0 * x, weight=0.5).tolist() == [[0.5, -1]]
    assert (
        tl.reshape(input=x, shape=(2, 1)).tolist()
        == x.permute(dims=(1, 0)).tolist()
        == x.swapaxes(axis0=0, axis1=1).tolist()
    )
    assert tl.scatter(x, 1, ids, value=5).tolist() == x.clone().scatter_(dim=1, index=ids, value=5).tolist() == [[1, 5]]
    assert x.clone().pow_(exponent=2).tolist() == tl.pow(x, exponent=2).tolist() == [[1, 4]]
    assert tl.repeat_interleave(x, 2, output_size=4).tolist() == [1, 1, -2, -2]
    assert x.requires_grad_().numpy(force=True).tolist() == [[1, -2]]
    with pytest.raises(TypeError, match="scatter: got neither src nor value"):
        tl.scatter(x, 1, ids)
    with pytest.raises(TypeError, match="add: other is a NoneType"):
        x.detach().add_()


@pytest.mark.parametrize("space", [tl, tl.nn.functional], ids=lambda m: m.__name__)
def test_functions_can_be_pickled(space: Any) -> None:
    """As what layers hold, such as the activation of a TransformerEncoderLayer."""
    for name in space.__all__:
        function = getattr(space, name)
        if inspect.isfunction(function):
            assert pickle.loads(pickle.dumps(function)) is function, name
