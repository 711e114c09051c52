"""Every creation function against NumPy's, their dtypes and flags, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

F4, F8, I8 = np.float32, np.float64, np.int64
CASES: dict[str, tuple[Callable[[], tl.Tensor], np.ndarray]] = {
    "zeros": (lambda: tl.zeros(2, 3), np.zeros((2, 3), F4)),
    "zeros of a tuple": (lambda: tl.zeros((2, 3)), np.zeros((2, 3), F4)),
    "zeros of a list": (lambda: tl.zeros([2, 3], dtype=tl.int8), np.zeros((2, 3), np.int8)),
    "zeros 0-d": (lambda: tl.zeros(()), np.zeros((), F4)),
    "zeros by name": (lambda: tl.zeros(size=(2, 3)), np.zeros((2, 3), F4)),
    "ones by name": (lambda: tl.ones(size=()), np.ones((), F4)),
    "zeros empty": (lambda: tl.zeros(3, 0), np.zeros((3, 0), F4)),
    "zeros of numpy sizes": (lambda: tl.zeros(np.int64(2), np.int8(3)), np.zeros((2, 3), F4)),
    "zeros of a shape": (lambda: tl.zeros(tl.ones(2, 3).shape), np.zeros((2, 3), F4)),
    "ones": (lambda: tl.ones(3, dtype=tl.complex64), np.ones(3, np.complex64)),
    "ones bool": (lambda: tl.ones(3, dtype=tl.bool), np.ones(3, bool)),
    "full": (lambda: tl.full((2,), 7), np.full(2, 7)),
    "full float": (lambda: tl.full((2, 2), 0.5), np.full((2, 2), 0.5, F4)),
    "full bool": (lambda: tl.full((2,), True), np.full(2, True)),
    "full complex": (lambda: tl.full((2,), 1j), np.full(2, 1j, np.complex64)),
    "full big": (lambda: tl.full((2,), 2**62 + 1), np.full(2, 2**62 + 1)),
    "full least": (lambda: tl.full((2,), -(2**63)), np.full(2, -(2**63))),
    "full to int": (lambda: tl.full((2,), 2.7, dtype=tl.int64), np.full(2, 2)),
    "full of a tensor": (lambda: tl.full((2,), tl.tensor(3.0)), np.full(2, 3, F4)),
    "full inf": (lambda: tl.full((2,), float("-inf")), np.full(2, -np.inf, F4)),
    "eye": (lambda: tl.eye(3), np.eye(3, dtype=F4)),
    "eye wide": (lambda: tl.eye(2, 4, dtype=tl.int64), np.eye(2, 4, dtype=I8)),
    "eye empty": (lambda: tl.eye(0), np.eye(0, dtype=F4)),
    "arange": (lambda: tl.arange(5), np.arange(5)),
    "arange start": (lambda: tl.arange(2, 8, 3), np.arange(2, 8, 3)),
    "arange down": (lambda: tl.arange(5, 0, -2), np.arange(5, 0, -2)),
    "arange none": (lambda: tl.arange(3, 3), np.arange(0)),
    "arange float": (lambda: tl.arange(0.5, 3), np.arange(0.5, 3, dtype=F4)),
    "arange float step": (lambda: tl.arange(1, 2, 0.25, dtype=tl.float64), np.arange(1, 2, 0.25)),
    "arange float64 in float32": (lambda: tl.arange(0, 1, 0.1), np.arange(0, 1, 0.1).astype(F4)),
    "arange int8": (lambda: tl.arange(3, dtype=tl.int8), np.arange(3, dtype=np.int8)),
    "arange keyword": (lambda: tl.arange(start=1, end=4), np.arange(1, 4)),
    "linspace": (lambda: tl.linspace(-1, 1, 5), np.linspace(-1, 1, 5, dtype=F4)),
    "linspace float64": (lambda: tl.linspace(0, 1, 11, dtype=tl.float64), np.linspace(0, 1, 11)),
    "linspace one": (lambda: tl.linspace(3, 9, 1), np.array([3], F4)),
    "linspace none": (lambda: tl.linspace(3, 9, 0), np.zeros(0, F4)),
    "logspace": (lambda: tl.logspace(0, 3, 4, dtype=tl.float64), np.logspace(0, 3, 4)),
    "tensor": (lambda: tl.tensor([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]])),
    "tensor floats": (lambda: tl.tensor([1.5, 2]), np.array([1.5, 2], F4)),
    "tensor bools": (lambda: tl.tensor([True, False]), np.array([True, False])),
    "tensor complex": (lambda: tl.tensor([1j, 2]), np.array([1j, 2], np.complex64)),
    "tensor scalar": (lambda: tl.tensor(3), np.array(3)),
    "tensor empty": (lambda: tl.tensor([]), np.zeros(0, F4)),
    "tensor of empties": (lambda: tl.tensor([[], []]), np.zeros((2, 0), F4)),
    "tensor of an array": (lambda: tl.tensor(np.arange(3.0)), np.arange(3.0)),
    "tensor of a numpy scalar": (lambda: tl.tensor(np.float64(3)), np.array(3.0)),
    "tensor of arrays": (lambda: tl.tensor([np.arange(2), np.arange(2)]), np.array([[0, 1], [0, 1]])),
    "tensor of tensors": (lambda: tl.tensor([tl.ones(2), tl.zeros(2)]), np.array([[1, 1], [0, 0]], F4)),
    "tensor of a range": (lambda: tl.tensor(range(3)), np.arange(3)),
    "tensor converted": (lambda: tl.tensor([1, 2], dtype=tl.float64), np.array([1.0, 2])),
    "tensor big": (lambda: tl.tensor([2**63 - 1, -(2**63)]), np.array([2**63 - 1, -(2**63)])),
    "tensor transposed": (lambda: tl.tensor(np.arange(6).reshape(2, 3).T), np.arange(6).reshape(2, 3).T),
    "tensor reversed": (lambda: tl.tensor(np.arange(6)[::-2]), np.arange(6)[::-2]),
    "tensor strided": (lambda: tl.tensor(np.arange(6)[1::2]), np.arange(6)[1::2]),
    "tensor big-endian": (lambda: tl.tensor(np.arange(3, dtype=">i4")), np.arange(3, dtype=np.int32)),
    "tensor broadcast": (lambda: tl.tensor(np.broadcast_to(np.arange(3), (2, 3))), np.broadcast_to(np.arange(3), (2, 3))),
    "as_tensor": (lambda: tl.as_tensor([1, 2]), np.array([1, 2])),
    "asarray": (lambda: tl.asarray([1.5]), np.array([1.5], F4)),
    "scalar_tensor": (lambda: tl.scalar_tensor(2), np.array(2, F4)),
    "zeros_like": (lambda: tl.zeros_like(tl.ones(2, 3, dtype=tl.int8)), np.zeros((2, 3), np.int8)),
    "ones_like": (lambda: tl.ones_like(tl.zeros(2), dtype=tl.int64), np.ones(2, I8)),
    "full_like": (lambda: tl.full_like(tl.zeros(2), 3), np.full(2, 3, F4)),
    "like a transposed one": (lambda: tl.ones_like(tl.zeros(2, 3).t()), np.ones((3, 2), F4)),
    "new_zeros": (lambda: tl.ones(1, dtype=tl.float64).new_zeros(2, 3), np.zeros((2, 3))),
    "new_ones": (lambda: tl.ones(1, dtype=tl.int8).new_ones((2,)), np.ones(2, np.int8)),
    "new_full": (lambda: tl.ones(1, dtype=tl.float64).new_full((2,), 3), np.full(2, 3.0)),
    "new_tensor": (lambda: tl.ones(1, dtype=tl.float64).new_tensor([1, 2]), np.array([1.0, 2])),
    "Tensor": (lambda: tl.Tensor([1, 2]), np.array([1, 2], F4)),
}  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
def test_against_numpy(make: Callable[[], tl.Tensor], expected: np.ndarray) -> None:
    made = make()
    got = made.numpy()
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(got, expected)
    assert made.is_leaf and not made.requires_grad and made.device == "cpu" and made.is_contiguous()


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    for made in (tl.empty(shape), tl.empty(size=shape), tl.empty_like(tl.zeros(shape)), tl.zeros(1).new_empty(shape)):
        assert made.shape == shape and made.dtype is tl.float32
        assert made.fill_(2).sum().item() == 2 * np.prod(shape)


MAKERS: dict[str, Callable[..., tl.Tensor]] = {
    "zeros": lambda **k: tl.zeros(2, **k), "ones": lambda **k: tl.ones(2, **k), "empty": lambda **k: tl.empty(2, **k),
    "full": lambda **k: tl.full((2,), 1.0, **k), "arange": lambda **k: tl.arange(2.0, **k), "linspace": lambda **k: tl.linspace(0, 1, 2, **k),
    "eye": lambda **k: tl.eye(2, **k), "tensor": lambda **k: tl.tensor([1.0, 2.0], **k), "rand": lambda **k: tl.rand(2, **k),
    "randn": lambda **k: tl.randn(2, **k), "zeros_like": lambda **k: tl.zeros_like(tl.ones(2), **k),
    "ones_like": lambda **k: tl.ones_like(tl.ones(2), **k), "full_like": lambda **k: tl.full_like(tl.ones(2), 2, **k),
    "empty_like": lambda **k: tl.empty_like(tl.ones(2), **k), "rand_like": lambda **k: tl.rand_like(tl.ones(2), **k),
    "randn_like": lambda **k: tl.randn_like(tl.ones(2), **k), "new_zeros": lambda **k: tl.ones(2).new_zeros(2, **k),
    "new_ones": lambda **k: tl.ones(2).new_ones(2, **k), "new_full": lambda **k: tl.ones(2).new_full((2,), 1, **k),
    "new_empty": lambda **k: tl.ones(2).new_empty(2, **k), "new_tensor": lambda **k: tl.ones(2).new_tensor([1.0], **k),
}  # fmt: skip


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_keywords(make: Callable[..., tl.Tensor]) -> None:
    leaf = make(dtype=tl.float64, device="reference", requires_grad=True)
    assert leaf.dtype is tl.float64 and leaf.device == "reference" and leaf.requires_grad and leaf.is_leaf
    assert make(dtype=tl.bfloat16).dtype is tl.bfloat16
    assert not make().requires_grad


# ---- sharing memory, or not ----
def test_tensor_copies() -> None:
    a = np.zeros(3)
    t = tl.tensor(a)
    u = tl.tensor(t)
    a += 1
    t.add_(5)
    assert t.tolist() == [5, 5, 5] and u.tolist() == [0, 0, 0] and a.tolist() == [1, 1, 1]
    x = tl.ones(2, requires_grad=True)
    assert tl.tensor(x).is_leaf and not tl.tensor(x).requires_grad


def test_as_tensor_shares_where_it_can() -> None:
    a = np.zeros(3, F4)
    t = tl.as_tensor(a)
    a += 1
    assert t.tolist() == [1, 1, 1]
    assert tl.as_tensor(t) is t and tl.as_tensor(t, dtype=tl.float32) is t
    other = tl.as_tensor(a, dtype=tl.float64)
    a += 1
    assert other.tolist() == [1, 1, 1]
    x = tl.ones(2, requires_grad=True)
    assert tl.as_tensor(x, dtype=tl.float64).requires_grad
    numbers = [1.0, 2.0]
    shared = tl.as_tensor(numbers)
    shared.add_(1)
    assert numbers == [1.0, 2.0]


# ---- what is refused ----
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no size": (lambda: tl.ones(), TypeError, "ones: got no size"),
    "no size, unpacked": (lambda: tl.rand(*()), TypeError, "rand: got no size"),
    "no size of a method": (lambda: tl.ones(2).new_zeros(), TypeError, "zeros: got no size"),
    "two sizes": (lambda: tl.randn(2, size=(2,)), TypeError, "randn: got the sizes .* expected one of the two"),
    "ragged": (lambda: tl.tensor([[1], [1, 2]]), tl.ShapeError, "rectangle"),
    "none": (lambda: tl.tensor(None), TypeError, "NoneType"),
    "object": (lambda: tl.tensor(object()), TypeError, "object of type object"),
    "set": (lambda: tl.tensor({1, 2}), TypeError, "type set"),
    "dict": (lambda: tl.tensor({"a": 1}), TypeError, "type dict"),
    "string": (lambda: tl.tensor("abc"), TypeError, "type str"),
    "strings": (lambda: tl.tensor(["a", "b"]), TypeError, "holds a str"),
    "a none among numbers": (lambda: tl.tensor([1, None]), TypeError, "holds a NoneType"),
    "object array": (lambda: tl.tensor(np.array([1, None])), TypeError, "NumPy array of dtype object"),
    "dates": (lambda: tl.tensor(np.array(["2020-01-01"], "M8[D]")), TypeError, "datetime64"),
    "uint32": (lambda: tl.tensor(np.zeros(1, np.uint32)), TypeError, "uint32 has no counterpart"),
    "structured": (lambda: tl.tensor(np.zeros(1, "i4,f4")), TypeError, "dtype"),
    "beyond 64 bits": (lambda: tl.tensor(2**64), TypeError, "beyond 64 bits"),
    "beyond 64 bits in a list": (lambda: tl.tensor([1, 2**80]), TypeError, "beyond 64 bits"),
    "too large for the dtype": (lambda: tl.tensor([300], dtype=tl.uint8), TypeError, "300 does not fit into uint8"),
    "negative for the dtype": (lambda: tl.tensor([-1], dtype=tl.uint8), TypeError, "-1 does not fit into uint8"),
    "nan as an integer": (lambda: tl.tensor([float("nan")], dtype=tl.int32), TypeError, "NaN or infinity"),
    "full too large": (lambda: tl.full((1,), 2**64), TypeError, "does not fit"),
    "integers requiring a gradient": (lambda: tl.tensor([1], requires_grad=True), tl.DTypeError, "int64"),
    "negative size": (lambda: tl.zeros(2, -1), tl.ShapeError, r"negative size -1 in \(2, -1\)"),
    "float size": (lambda: tl.ones(2.0), TypeError, r"ones: got the shape \(2.0,\)"),
    "string size": (lambda: tl.empty("23"), TypeError, "empty: got the shape"),
    "none size": (lambda: tl.zeros(None), TypeError, "zeros: got the shape"),
    "17 dimensions": (lambda: tl.zeros([1] * 17), tl.ShapeError, "at most 16"),
    "17 dimensions of numpy": (lambda: tl.tensor(np.zeros([1] * 17)), tl.ShapeError, "at most 16"),
    "arange of nothing": (lambda: tl.arange(0, 3, 0), tl.ShapeError, "step is 0"),
    "arange the wrong way": (lambda: tl.arange(0, 3, -1), tl.ShapeError, "other side"),
    "arange to infinity": (lambda: tl.arange(float("inf")), tl.ShapeError, "finite"),
    "arange of a string": (lambda: tl.arange("3"), TypeError, "got a str"),
    "linspace backwards": (lambda: tl.linspace(0, 1, -1), tl.ShapeError, "-1 steps"),
    "eye negative": (lambda: tl.eye(-1), tl.ShapeError, "negative"),
    "unknown device": (lambda: tl.zeros(1, device="tpu"), tl.DeviceError, "'tpu'"),
    "from_numpy of a list": (lambda: tl.from_numpy([1]), TypeError, "got a list"),
    "from_dlpack of a number": (lambda: tl.from_dlpack(3), TypeError, "got a int"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_refuses(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


HUGE = 10**15
ABSURD: dict[str, Callable[[], Any]] = {
    "zeros": lambda: tl.zeros(HUGE),
    "product past 63 bits": lambda: tl.zeros(2**40, 2**40),
    "a size past 63 bits": lambda: tl.ones(2**70),
    "bytes past 63 bits": lambda: tl.empty(2**61, dtype=tl.complex128),
    "past 63 bits but for a zero": lambda: tl.zeros(2**40, 2**40, 0),
    "full": lambda: tl.full((HUGE,), 3),
    "full complex": lambda: tl.full((HUGE,), 3j),
    "on reference": lambda: tl.zeros(HUGE, device="reference"),
    "eye": lambda: tl.eye(10**9),
    "arange": lambda: tl.arange(HUGE),
    "arange float": lambda: tl.arange(1e30),
    "linspace": lambda: tl.linspace(0, 1, HUGE),
    "rand": lambda: tl.rand(HUGE),
    "randperm": lambda: tl.randperm(HUGE),
    "expanded, then copied": lambda: tl.ones(1).expand(HUGE).clone(),
    "expanded, then added": lambda: tl.ones(1).expand(HUGE) + 1,
    "expanded past 63 bits": lambda: tl.ones(1).expand(2**40, 2**40),
    "outer": lambda: tl.ones(1).expand(10**9)[:, None] * tl.ones(1).expand(10**9),
    "outer product": lambda: tl.outer(tl.ones(1).expand(10**9), tl.ones(1).expand(10**9)),
    "repeat": lambda: tl.ones(10).repeat(HUGE),
    "cat": lambda: tl.cat([tl.ones(1).expand(HUGE)] * 2),
    "one_hot": lambda: tl.one_hot(tl.tensor([1]), HUGE),
    "index": lambda: tl.ones(1)[tl.zeros(1, dtype=tl.int64).expand(HUGE)],
    "cast": lambda: tl.ones(1, dtype=tl.int8).expand(HUGE).to(tl.float64),
    "sum over another dimension": lambda: tl.ones(1, 1).expand(HUGE, 1).sum(1),
    "matmul": lambda: tl.ones(1, 1).expand(10**8, 1) @ tl.ones(1, 1).expand(1, 10**8),
}


@pytest.mark.parametrize("make", ABSURD.values(), ids=ABSURD)
def test_absurd_sizes_are_memory_errors(make: Callable[[], Any]) -> None:
    before = tl.memory.allocated()
    with pytest.raises(tl.MemoryLimitError) as caught:
        make()
    assert isinstance(caught.value, MemoryError)
    del caught
    assert tl.memory.allocated() == before
    assert (tl.ones(2) + tl.ones(2)).tolist() == [2, 2]  # and no error is left behind


# ---- geometry ----
def test_sixteen_dimensions(rng: np.random.Generator) -> None:
    a = rng.standard_normal([2, 1] * 8)
    x = tl.tensor(a, requires_grad=True)
    assert x.ndim == x.dim() == 16 and x.numel() == x.nelement() == 256 and x.size(-2) == 2
    y = x.permute(*reversed(range(16))) * x
    np.testing.assert_array_equal(y.detach().numpy(), a.transpose() * a)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.broadcast_to(2 * a.sum(), a.shape))
    assert x.sum((0, 3, 15)).shape == a.sum((0, 3, 15)).shape
    with pytest.raises(tl.ShapeError, match="16"):
        x.unsqueeze(0)


def test_zero_size_tensors_take_part_everywhere() -> None:
    x = tl.zeros(0, 3, requires_grad=True)
    y = ((x + 1).exp() @ tl.ones(3, 2)).sum() + tl.cat([x, tl.ones(2, 3)]).sum() + x.reshape(3, 0).t().softmax(1).sum()
    y.backward()
    assert x.grad.shape == (0, 3) and y.item() == 6
    assert x.numel() == 0 and x.tolist() == [] and len(x) == 0 and list(x) == []
    assert (x.detach() @ tl.ones(3, 2)).shape == (0, 2) and (tl.ones(2, 0) @ tl.ones(0, 3)).tolist() == [[0] * 3] * 2
    assert tl.zeros(0).sum().item() == 0 and tl.zeros(0).prod().item() == 1 and np.isnan(tl.zeros(0).mean().item())
    assert tl.zeros(3, 0).sum(1).tolist() == [0, 0, 0] and tl.zeros(0, 3).sum(0).tolist() == [0, 0, 0]
    assert tl.cat([tl.zeros(0, 3), tl.ones(1, 3)]).shape == (1, 3)
    assert tl.zeros(0, 3)[:, 1].shape == (0,) and tl.zeros(0, 3).numpy().shape == (0, 3)


def test_attributes() -> None:
    x = tl.zeros(2, 3, 4)
    assert x.shape == x.size() == (2, 3, 4) and isinstance(x.shape, tuple)
    assert x.stride() == (12, 4, 1) and x.stride(1) == 4 and x[1, 1:].storage_offset() == 16
    assert x.permute(2, 0, 1).stride() == (1, 12, 4) and not x.permute(2, 0, 1).is_contiguous() and x[1].is_contiguous()
    assert x[1].data_ptr() == x.data_ptr() + 12 * 4 and x.data_ptr() % 64 == 0
    assert tl.is_tensor(x) and not tl.is_tensor([]) and not x.is_cuda and len(x) == 2
    with pytest.raises(tl.IndexRangeError, match="dim 3"):
        x.size(3)
    with pytest.raises(AttributeError):
        x.shape = (3,)  # type: ignore[misc]


def test_asarray_copies_as_told() -> None:
    array, x = np.zeros(2, np.float32), tl.zeros(2)
    assert np.shares_memory(tl.asarray(array).numpy(), array) and tl.asarray(x) is x
    assert not np.shares_memory(tl.asarray(array, copy=True).numpy(), array)
    assert tl.asarray(x, copy=True).data_ptr() != x.data_ptr()
    assert tl.asarray(array, copy=False, requires_grad=True).requires_grad
    for obj, dtype in (([1.0], None), (array, tl.float64), (x, tl.int64)):
        with pytest.raises(ValueError, match=r"asarray: this .* can not become such a tensor without a copy"):
            tl.asarray(obj, dtype=dtype, copy=False)


def test_ends_by_name() -> None:
    assert tl.arange(end=3).tolist() == tl.arange(0, end=3).tolist() == [0, 1, 2]
    assert tl.randint(high=1, size=(2,)).tolist() == tl.randint_like(tl.zeros(2), high=1).tolist() == [0, 0]
    assert (
        tl.normal(0, 1, (2,), requires_grad=True).requires_grad
        and tl.logspace(0, 1, 2, requires_grad=True).requires_grad
    )
    assert tl.zeros(3).uniform_(2, to=2.5).min() >= 2 and tl.zeros(3).random_(to=1).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("shape", "wrap"),
    [((3, 3), False), ((2, 5), True), ((9, 3), True), ((9, 3), False), ((4, 4, 4), False), ((0, 3), True)],
)
def test_fill_diagonal(shape: tuple[int, ...], wrap: bool) -> None:
    expected, x = np.zeros(shape), tl.zeros(shape).double()
    if expected.size:
        np.fill_diagonal(expected, 2, wrap)
    assert x.fill_diagonal_(2, wrap).tolist() == expected.tolist()
    assert x.mT.fill_diagonal_(3).diagonal(dim1=-2, dim2=-1).eq(3).sum() >= min(shape)


def test_fill_diagonal_refuses() -> None:
    for shape in ((3,), (2, 3, 2)):
        with pytest.raises(ValueError, match="fill_diagonal_: expected a matrix, or dimensions of one size"):
            tl.zeros(shape).fill_diagonal_(1)


def test_default_device() -> None:
    """What is given no device goes there; what shares memory stays, and a device given counts."""
    tl.set_default_device("reference")
    try:
        assert tl.get_default_device() == "reference"
        made = [tl.zeros(2), tl.rand(2), tl.arange(2), tl.tensor([1]), tl.nn.Linear(2, 2).weight, tl.full((2,), 3)]
        assert {t.device.type for t in made} == {"reference"}
        assert tl.zeros(2, device="cpu").device.type == tl.from_numpy(np.zeros(2)).device.type == "cpu"
    finally:
        tl.set_default_device(None)
    assert tl.zeros(2).device.type == "cpu"
