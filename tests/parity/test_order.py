"""Sorting, selecting, counting and scans beside PyTorch's: values, places and gradients, with ties, NaN, empty and 0-d tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SHAPES = [(), (0,), (1,), (7,), (3, 0), (0, 3), (3, 40), (2, 5, 4), (2, 300)]
INTEGERS = ["int64", "int32", "int16", "int8", "uint8"]
DTYPES = ["float32", "float64", *INTEGERS, "bool"]

# name -> (call, dtypes, whether ties make places arbitrary in PyTorch)
CALLS: dict[str, tuple[Callable[[Any, Any, int], Any], list[str], bool]] = {
    "sort": (lambda lib, x, d: lib.sort(x, dim=d, stable=True), DTYPES, False),
    "sort, descending": (lambda lib, x, d: lib.sort(x, dim=d, stable=True, descending=True), DTYPES, False),
    "argsort": (lambda lib, x, d: lib.argsort(x, dim=d, stable=True), DTYPES, False),
    "argsort, descending": (lambda lib, x, d: lib.argsort(x, dim=d, stable=True, descending=True), DTYPES, False),
    "topk": (lambda lib, x, d: lib.topk(x, min(3, x.shape[d]) if x.ndim else 1, d), DTYPES[:-1], True),
    "topk, smallest": (lambda lib, x, d: lib.topk(x, x.shape[d] if x.ndim else 1, d, largest=False), DTYPES[:-1], True),
    "kthvalue": (lambda lib, x, d: lib.kthvalue(x, 1, d), DTYPES[:-1], True),
    "cumsum": (lambda lib, x, d: lib.cumsum(x, d), DTYPES, False),
    "cumprod": (lambda lib, x, d: lib.cumprod(x, d), DTYPES, False),
    "cumsum in float64": (lambda lib, x, d: lib.cumsum(x, d, dtype=lib.float64), DTYPES, False),
    "median": (lambda lib, x, d: lib.median(x, d), DTYPES[:-1], True),
    "argmax": (lambda lib, x, d: lib.argmax(x, d), DTYPES[:-1], False),
    "argmin, kept": (lambda lib, x, d: lib.argmin(x, d, keepdim=True), DTYPES[:-1], False),
    "max": (lambda lib, x, d: lib.max(x, d), DTYPES, False),
}  # fmt: skip


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, kind: str) -> np.ndarray[Any, Any]:
    """`ties`: few values; `nan`: some of them NaN and infinities."""
    x = (
        rng.integers(0, 5, shape).astype(dtype)
        if kind != "distinct"
        else rng.permutation(math.prod(shape)).reshape(shape)
    )
    x = np.asarray(x.astype(dtype))
    if kind == "nan" and x.size:
        flat = x.reshape(-1)
        flat[::3], flat[1::7], flat[2::5] = np.nan, np.inf, -0.0
    return x


def results(call: Callable[..., Any], *args: Any) -> Any:
    """What a call gives, as a list; None where it raises."""
    try:
        made = call(*args)
    except (IndexError, ValueError, RuntimeError, TypeError, MemoryError):
        return None
    return list(made) if isinstance(made, tuple) else [made]


KINDS = (
    [("ties", d) for d in DTYPES]
    + [("distinct", d) for d in ("float32", "int64")]
    + [("nan", d) for d in ("float32", "float64")]
)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_along_a_dimension(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    call, dtypes, loose = CALLS[name]
    for dim in range(-1, max(len(shape), 1)):
        for kind, dtype in KINDS:
            if dtype not in dtypes:
                continue
            x = draw(rng, shape, dtype, kind)
            theirs, ours = (results(call, lib, lib.tensor(x), dim) for lib in (torch, tl))
            where = f"dim {dim}, {kind}, {dtype}"
            assert (theirs is None) == (ours is None), where
            for i, (a, b) in enumerate(zip(theirs or [], ours or [], strict=True)):
                assert str(a.dtype).split(".")[-1] == b.dtype.name and tuple(a.shape) == b.shape, where
                if i == 1 and loose and kind != "distinct":  # which of equal ones is not said, but it is one of them
                    values, places = (t.numpy() if t.ndim == x.ndim else np.expand_dims(t.numpy(), dim) for t in ours)
                    if x.ndim:
                        np.testing.assert_array_equal(np.take_along_axis(x, places, dim), values, where)
                else:
                    np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-6, err_msg=where)


@pytest.mark.parametrize("name", ["sort", "topk", "kthvalue", "cumsum", "cumprod", "max", "median"])
def test_gradients(name: str, rng: np.random.Generator) -> None:
    for shape in ((7,), (3, 40), (2, 5, 4)):
        x = rng.permutation(math.prod(shape)).reshape(shape) / 10 - 0.3
        x[..., 2] = 0.0 if name == "cumprod" else x[..., 2]
        grads = []
        for lib in (torch, tl):
            leaf = lib.tensor(x, requires_grad=True)
            made = CALLS[name][0](lib, leaf, -1)
            out = made[0] if isinstance(made, tuple) else made
            (out * lib.tensor(np.cos(np.arange(out.numel())).reshape(out.shape))).sum().backward()
            grads.append(leaf.grad.numpy())
        np.testing.assert_allclose(grads[1], grads[0], rtol=1e-10, atol=1e-10)


ORDERED = {
    "searchsorted": lambda lib, s, v: lib.searchsorted(s, v),
    "right": lambda lib, s, v: lib.searchsorted(s, v, right=True),
    "left by side": lambda lib, s, v: lib.searchsorted(s, v, side="left", out_int32=True),
    "bucketize": lambda lib, s, v: lib.bucketize(v, s[0] if s.ndim > 1 else s, right=True),
}


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
def test_places_in_a_sorted_sequence(name: str, dtype: str, rng: np.random.Generator) -> None:
    for shape, wanted in (
        ((9,), ()),
        ((9,), (4,)),
        ((9,), (2, 3)),
        ((0,), (4,)),
        ((9,), (0,)),
        ((2, 9), (2, 4)),
        ((2, 0), (2, 4)),
    ):
        s, v = np.sort(rng.integers(0, 6, shape)).astype(dtype), rng.integers(-1, 8, wanted).astype(dtype)
        if dtype[0] == "f" and v.ndim and v.size and s.ndim == 1:
            v[..., 0] = np.nan
        theirs, ours = (ORDERED[name](lib, lib.tensor(s), lib.tensor(v)) for lib in (torch, tl))
        assert str(theirs.dtype).split(".")[-1] == ours.dtype.name
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


COUNTED: dict[str, Callable[[Any, Any], Any]] = {
    "bincount": lambda lib, x: lib.bincount(x),
    "bincount with room": lambda lib, x: lib.bincount(x, minlength=9),
    # of nothing, PyTorch's are integers
    "bincount with weights": lambda lib, x: lib.bincount(x, lib.ones(x.shape[0]) * 0.5).to(lib.float64),
    "histc": lambda lib, x: lib.histc(x.to(lib.float32), 4, 0, 5),
    "unique": lambda lib, x: lib.unique(x, return_inverse=True, return_counts=True),
    "unique_consecutive": lambda lib, x: lib.unique_consecutive(x, return_inverse=True, return_counts=True),
    "isin": lambda lib, x: lib.isin(x, lib.tensor([1, 3])),
    "msort": lambda lib, x: lib.msort(x),
    "nonzero": lambda lib, x: lib.nonzero(x),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("n", [0, 1, 30])
def test_counting(name: str, n: int, rng: np.random.Generator) -> None:
    x = rng.integers(0, 6, n)
    theirs, ours = (results(COUNTED[name], lib, lib.tensor(x)) for lib in (torch, tl))
    assert (theirs is None) == (ours is None)
    for a, b in zip(theirs or [], ours or [], strict=True):
        assert str(a.dtype).split(".")[-1] == b.dtype.name
        np.testing.assert_array_equal(b.numpy(), a.numpy())


MADE: dict[str, Callable[[Any, Any], Any]] = {
    "nothing": lambda lib, make: make(),
    "nothing, unpacked": lambda lib, make: make(*()),
    "()": lambda lib, make: make(()),
    "[]": lambda lib, make: make([]),
    "0": lambda lib, make: make(0),
    "2, 3": lambda lib, make: make(2, 3),
    "(2, 3)": lambda lib, make: make((2, 3)),
    "a size": lambda lib, make: make(lib.tensor([[1, 2]]).shape),
    "-1": lambda lib, make: make(-1),
    "1.5": lambda lib, make: make(1.5),
    "2, (3,)": lambda lib, make: make(2, (3,)),
    "size=()": lambda lib, make: make(size=()),
    "size=(2,)": lambda lib, make: make(size=(2,)),
    "too many": lambda lib, make: make(2**62, 2**62),
    "float64": lambda lib, make: make(3, dtype=lib.float64),
}


@pytest.mark.parametrize("given", MADE)
@pytest.mark.parametrize("name", ["ones", "zeros", "empty", "rand", "randn", "new_ones", "new_zeros", "new_empty"])
def test_creation(name: str, given: str) -> None:
    theirs, ours = (
        results(MADE[given], lib, getattr(lib.ones(1) if name.startswith("new") else lib, name)) for lib in (torch, tl)
    )
    assert (theirs is None) == (ours is None)
    for a, b in zip(theirs or [], ours or [], strict=True):
        assert tuple(a.shape) == b.shape and str(a.dtype).split(".")[-1] == b.dtype.name
