"""Dtypes: PyTorch's promotion table written out, Python scalars and 0-d tensors as weak operands, conversions of values."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.dtypes import ALL

ORDER = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]
SHORT = dict(zip(["b", "u1", "i1", "i2", "i4", "i8", "f2", "bf", "f4", "f8", "c8", "c16"], ORDER, strict=True))
# torch.promote_types, row by column, in ORDER; the table is symmetric
TABLE = """
b   u1  i1  i2  i4  i8  f2  bf  f4  f8  c8  c16
u1  u1  i2  i2  i4  i8  f2  bf  f4  f8  c8  c16
i1  i2  i1  i2  i4  i8  f2  bf  f4  f8  c8  c16
i2  i2  i2  i2  i4  i8  f2  bf  f4  f8  c8  c16
i4  i4  i4  i4  i4  i8  f2  bf  f4  f8  c8  c16
i8  i8  i8  i8  i8  i8  f2  bf  f4  f8  c8  c16
f2  f2  f2  f2  f2  f2  f2  f4  f4  f8  c8  c16
bf  bf  bf  bf  bf  bf  f4  bf  f4  f8  c8  c16
f4  f4  f4  f4  f4  f4  f4  f4  f4  f8  c8  c16
f8  f8  f8  f8  f8  f8  f8  f8  f8  f8  c16 c16
c8  c8  c8  c8  c8  c8  c8  c8  c8  c16 c8  c16
c16 c16 c16 c16 c16 c16 c16 c16 c16 c16 c16 c16
"""
ROWS = [[SHORT[cell] for cell in line.split()] for line in TABLE.strip().splitlines()]
PAIRS = [(a, b, ROWS[i][j]) for i, a in enumerate(ORDER) for j, b in enumerate(ORDER)]
DTYPES = {name: getattr(tl, name if name != "bool" else "bool_") for name in ORDER}
each = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def some(dtype: tl.DType, shape: tuple[int, ...] = (2,)) -> tl.Tensor:
    return tl.ones(shape, dtype=dtype)


def test_the_order_is_the_kernels() -> None:
    assert [d.name for d in ALL] == ORDER and [d.number for d in ALL] == list(range(12))


@pytest.mark.parametrize(("a", "b", "expected"), PAIRS, ids=lambda v: v)
def test_promotion(a: str, b: str, expected: str) -> None:
    x, y = DTYPES[a], DTYPES[b]
    assert tl.promote_types(x, y).name == expected
    assert (some(x) + some(y, (2, 1))).dtype.name == expected
    assert (some(x, ()) + some(y, ())).dtype.name == expected
    assert tl.where(tl.tensor([True, False]), some(x), some(y)).dtype.name == expected
    assert (some(x) == some(y)).dtype is tl.bool and (some(x) == some(y)).all()


@pytest.mark.parametrize(("a", "b", "expected"), PAIRS, ids=lambda v: v)
def test_0d_tensors_only_raise_the_category(a: str, b: str, expected: str) -> None:
    x, y = DTYPES[a], DTYPES[b]
    full, zero = some(x), some(y, ())
    wanted = expected if y.category > x.category else a
    if y.is_complex and x.is_floating_point:
        wanted = "complex128" if x is tl.float64 else "complex64"
    assert (full + zero).dtype.name == (zero + full).dtype.name == wanted


@each
def test_python_scalars_only_raise_the_category(dtype: tl.DType) -> None:
    x = some(dtype)
    names = {
        0: ("bool", "int64", "float32", "complex64"),
        1: (None, None, "float32", "complex64"),
        2: (None, None, None, "complex64"),
    }
    wanted = [n or dtype.name for n in names.get(dtype.category, (None,) * 4)]
    if dtype is tl.float64:
        wanted[3] = "complex128"
    got = [(x + s).dtype.name for s in (True, 1, 1.0, 1j)]
    assert got == wanted == [(s + x).dtype.name for s in (True, 1, 1.0, 1j)]


def test_the_default_dtype_is_what_python_floats_become() -> None:
    tl.set_default_dtype(tl.float64)
    assert tl.tensor(1.0).dtype is tl.zeros(1).dtype is (some(tl.int32) + 0.5).dtype is tl.float64
    assert tl.tensor(1j).dtype is tl.complex128 and tl.arange(0, 1, 0.5).dtype is tl.float64
    assert (some(tl.float32) + 0.5).dtype is tl.float32
    for bad in (tl.int64, "float32", None):
        with pytest.raises(tl.DTypeError, match="set_default_dtype"):
            tl.set_default_dtype(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [tl.sin, tl.exp, tl.sigmoid, tl.sqrt, lambda x: x / 2, lambda x: x.mean() if x.is_floating_point() else x / x],
)
def test_integers_become_the_default_float(function: Any) -> None:
    for dtype in (tl.uint8, tl.int64, tl.bool):
        assert function(some(dtype)).dtype is tl.float32
    assert function(some(tl.float64)).dtype is tl.float64 and function(some(tl.float16)).dtype is tl.float16


def test_sums_of_small_integers_are_int64() -> None:
    for dtype in (tl.bool, tl.uint8, tl.int8, tl.int32):
        assert some(dtype).sum().dtype is some(dtype).prod().dtype is some(dtype).cumsum(0).dtype is tl.int64
    assert tl.full((1000,), 127, dtype=tl.int8).sum().item() == 127_000


# ---- conversions ----
def _values(dtype: tl.DType) -> np.ndarray:
    if dtype.category == 0:
        return np.array([True, False, True])
    if dtype.category == 1:
        return np.array([0, 1, 100], DTYPES[dtype.name].np)
    carried = np.float32 if dtype is tl.bfloat16 else dtype.np
    return np.array([0.0, 1.5, 96.5], carried) + (np.array(2j) if dtype.category == 3 else 0)


@pytest.mark.parametrize(("a", "b"), [(a, b) for a in ORDER for b in ORDER])
def test_conversions_agree_with_numpy(a: str, b: str) -> None:
    source, target = DTYPES[a], DTYPES[b]
    x = tl.tensor(_values(source), dtype=source)
    made = x.to(target)
    assert made.dtype is target and (made is x) == (a == b)
    array = np.asarray(x)
    if source.is_complex and not target.is_complex and target.category:
        array = array.real
    np.testing.assert_array_equal(
        np.asarray(made),
        array.astype(np.float32 if target is tl.bfloat16 else target.np).astype(np.asarray(made).dtype),
    )


def test_floats_to_integers_truncate_and_integers_wrap() -> None:
    assert tl.tensor([1.9, -1.9, 0.5]).to(tl.int32).tolist() == [1, -1, 0]
    assert tl.tensor([300, -1, 128]).to(tl.uint8).tolist() == [44, 255, 128]
    assert tl.tensor([300, -1, 128]).to(tl.int8).tolist() == [44, -1, -128]
    assert tl.tensor([0.0, 0.5, -0.0, math.nan]).to(tl.bool).tolist() == [False, True, False, True]
    assert tl.tensor([2**53 + 1]).to(tl.float64).item() == 2.0**53


def test_half_precision_rounds_to_nearest_even(rng: np.random.Generator) -> None:
    x = np.concatenate(
        [
            rng.standard_normal(1000) * 10.0 ** rng.integers(-10, 6, 1000),
            [0.0, -0.0, np.inf, -np.inf, 65504, 65520, 1e-8, 6e-8, 1e38],
        ]
    ).astype(np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.asarray(tl.tensor(x).half()), x.astype(np.float16))
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(np.asarray(tl.tensor(x).bfloat16()), rounded)
    assert math.isnan(tl.tensor(math.nan).bfloat16().item()) and math.isnan(tl.tensor(math.nan).half().item())


def test_named_conversions() -> None:
    x = tl.tensor([1.0])
    names = {
        "float": tl.float32, "double": tl.float64, "half": tl.float16, "bfloat16": tl.bfloat16, "int": tl.int32, "long": tl.int64,
        "short": tl.int16, "char": tl.int8, "byte": tl.uint8, "bool": tl.bool, "cfloat": tl.complex64, "cdouble": tl.complex128,
    }  # fmt: skip
    for name, dtype in names.items():
        assert getattr(x, name)().dtype is dtype
    assert x.type_as(tl.zeros(1, dtype=tl.int8)).dtype is tl.int8
    assert (
        tl.float is tl.float32
        and tl.double is tl.float64
        and tl.half is tl.float16
        and tl.long is tl.int64
        and tl.int is tl.int32
    )


def test_to() -> None:
    x = tl.ones(2)
    assert x.to() is x and x.to(tl.float32) is x and x.to("cpu") is x and x.to(copy=True) is not x
    assert x.to(tl.int8).dtype is tl.int8 and x.to(dtype=tl.int8).dtype is tl.int8 and x.to(np.int8).dtype is tl.int8
    y = x.to("reference", tl.float64)
    assert y.device == "reference" and y.dtype is tl.float64 and x.to(y).dtype is tl.float64
    assert y.to(tl.zeros(1, dtype=tl.int32)).device == "cpu"
    for bad in ("nowhere", 3.5, "cuda:x"):
        with pytest.raises((TypeError, tl.DeviceError)):
            x.to(bad)


def test_conversions_are_recorded() -> None:
    x = tl.ones(2, requires_grad=True)
    (x.double() * 3).half().float().sum().backward()
    assert x.grad.dtype is tl.float32 and x.grad.tolist() == [3, 3]
    assert not x.long().requires_grad


# ---- the objects ----
@each
def test_dtype_objects(dtype: tl.DType) -> None:
    assert repr(dtype) == f"tensorlib.{dtype.name}"
    assert pickle.loads(pickle.dumps(dtype)) is dtype
    assert some(dtype).dtype is dtype and some(dtype).itemsize == some(dtype).element_size() == dtype.itemsize
    assert some(dtype, (3, 5)).nbytes == 15 * dtype.itemsize
    assert (dtype.is_floating_point, dtype.is_complex) == (some(dtype).is_floating_point(), some(dtype).is_complex())
    assert dtype.is_signed == (dtype.name not in ("bool", "uint8"))
    if dtype.np is not None:
        assert tl.from_numpy(np.zeros(2, dtype.np)).dtype is dtype
        assert tl.zeros(1, dtype=dtype.np).dtype is dtype


def test_python_types_as_dtypes() -> None:
    import builtins

    assert tl.zeros(1, dtype=builtins.bool).dtype is tl.bool
    assert tl.zeros(1, dtype=builtins.int).dtype is tl.int64
    assert tl.zeros(1, dtype=builtins.float).dtype is tl.float32
    assert tl.zeros(1, dtype=complex).dtype is tl.complex64


@pytest.mark.parametrize("dtype", ["float128x", object, str, np.uint32, np.datetime64, 7, "S3"])
def test_foreign_dtypes(dtype: Any) -> None:
    with pytest.raises(tl.DTypeError, match=r"no counterpart|float128x"):
        tl.zeros(1, dtype=dtype)


# ---- float16, bfloat16 and complex through the reference ----
@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16], ids=str)
def test_half_arithmetic(dtype: tl.DType) -> None:
    x = tl.tensor([1.0, 2.0, 3.0], dtype=dtype, requires_grad=True)
    y = (x * x + 1).exp().log().sum()
    assert y.dtype is dtype and abs(y.item() - 17) < 0.1
    y.backward()
    assert x.grad.dtype is dtype and np.allclose(np.asarray(x.grad), [2, 4, 6], rtol=0.02)
    z = tl.zeros(3, dtype=dtype)
    z[1:] = x.detach()[1:]
    z += 1
    assert z.tolist() == [1, 3, 4] and z[2].item() == 4 and (z > 2).tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", [tl.complex64, tl.complex128], ids=str)
def test_complex_arithmetic(dtype: tl.DType) -> None:
    a = np.array([1 + 2j, -3j, 0.5], dtype.np)
    x = tl.tensor(a)
    assert x.dtype is dtype
    for ours, theirs in [
        (x * x, a * a),
        (x / (x + 1), a / (a + 1)),
        (x.abs(), np.abs(a)),
        (x.sum(), a.sum()),
        (x @ x, a @ a),
    ]:
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-6)
    assert complex(x[0]) == 1 + 2j and x.tolist() == a.tolist()
    for record in (lambda: x.requires_grad_(), lambda: tl.zeros(1, dtype=dtype, requires_grad=True)):
        with pytest.raises(tl.DTypeError, match=dtype.name):
            record()


@pytest.mark.parametrize(
    "dtype", [tl.float16, tl.float32, tl.float64, tl.uint8, tl.int8, tl.int64], ids=lambda d: d.name
)
def test_limits_are_numpys(dtype: tl.DType) -> None:
    ours, numpys = (
        (tl.finfo(dtype), np.finfo(dtype.np)) if dtype.is_floating_point else (tl.iinfo(dtype), np.iinfo(dtype.np))
    )
    for name in type(ours).__slots__:
        assert getattr(ours, name) == (dtype.name if name == "dtype" else getattr(numpys, name)), name
        assert f"{name}=" in repr(ours)


def test_limits_of_other_dtypes() -> None:
    half = tl.finfo(tl.bfloat16)
    assert (half.eps, half.resolution, half.tiny) == (2**-7, 1e-2, tl.finfo(tl.float32).tiny)
    assert tl.tensor(half.max, dtype=tl.bfloat16).item() == half.max
    assert tl.finfo().dtype == "float32" and tl.finfo(tl.complex128).eps == tl.finfo(tl.float64).eps
    with pytest.raises(TypeError, match="finfo: int64 is not a floating dtype"):
        tl.finfo(tl.int64)
    with pytest.raises(TypeError, match="iinfo: bool is not an integer dtype"):
        tl.iinfo(tl.bool)


def test_what_scripts_ask_of_dtypes() -> None:
    x = tl.zeros(2)
    assert (
        tl.is_floating_point(x)
        and not tl.is_complex(x)
        and isinstance(x.dtype, tl.dtype)
        and isinstance(x.shape, tl.Size)
    )
    assert x.type(tl.int64).dtype is tl.long and x.type() == "tensorlib.float32"
    assert tl.result_type(x.long(), 1.5) is tl.float32 and tl.result_type(x.double(), tl.tensor(1j)) is tl.complex128
    assert (
        tl.can_cast(tl.bool, tl.int8)
        and not tl.can_cast(tl.complex64, tl.float64)
        and not tl.can_cast(tl.int8, tl.bool)
    )
    assert x.where(tl.tensor([True, False]), tl.inf).tolist() == [0, math.inf] and x[tl.newaxis].shape == (1, 2)
    tl.use_deterministic_algorithms(True)
    assert tl.are_deterministic_algorithms_enabled()
    tl.use_deterministic_algorithms(False)
    tl.cuda.manual_seed_all(0)
    assert tl.cuda.is_available() == (tl.cuda.device_count() > 0)


@pytest.mark.parametrize("low", [tl.float16, tl.bfloat16], ids=lambda d: d.name)
def test_of_16_bit_floats_only_results_are_rounded(low: tl.DType, rng: np.random.Generator) -> None:
    x, y = (tl.tensor(rng.standard_normal((40, 300)) * 3, dtype=low) for _ in range(2))
    exact, other = x.double(), y.double()
    for p in (2, 1, 3, 0, math.inf):
        assert x.norm(p, dim=1).equal(exact.norm(p, dim=1).to(low)), p
    assert x.std(1).equal(exact.std(1).to(low))
    for got, expected in ((tl.add(x, y, alpha=0.3), exact + 0.3 * other), (tl.sub(x, y, alpha=3), exact - 3 * other)):
        assert (
            got.dtype is low and got.ne(expected.to(low)).sum() < 40
        )  # of 12,000: float32 lies close to the middle of two
    assert exact.clone().add_(y, alpha=0.3).equal(exact + 0.3 * other)
    assert tl.rsub(x.float(), y, alpha=0.3).allclose(y.float() - 0.3 * x.float())


def test_multiples_are_of_the_results_dtype() -> None:
    high = tl.tensor([100], dtype=tl.int8)
    assert tl.add(tl.tensor([1]), high, alpha=3).tolist() == [301]
    with tl.no_grad():
        assert tl.tensor([1.0], requires_grad=True).add_(high, alpha=0.5).tolist() == [51]


@pytest.mark.parametrize("high", [tl.float16, tl.bfloat16, tl.float32, tl.float64, tl.int64], ids=lambda d: d.name)
@pytest.mark.parametrize("low", [tl.float16, tl.bfloat16, tl.float32], ids=lambda d: d.name)
def test_casts_elsewhere(low: tl.DType, high: tl.DType) -> None:
    x = tl.tensor([1.25, -3.0], dtype=low)
    made = x.to("reference").to(high)
    assert made.dtype is high and made.cpu().equal(x.to(high))
