"""Copies and casts: every pair of dtypes over awkward strides, floats that do not fit integers, rounding to half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import tensorlib as tl

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]
VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dense": lambda a: a,
    "transposed": lambda a: a.T,
    "reversed": lambda a: a[:, ::-1],
    "strided": lambda a: a[1::2, ::3],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
}


def numpys_cast(a: np.ndarray, name: str) -> np.ndarray:
    """As NumPy, but complex to real without its warning and floats to narrow integers through int32 on every system."""
    target = np.dtype(name)
    if a.dtype.kind == "c" and target.kind not in "cb":
        a = a.real
    if a.dtype.kind == "f" and target.kind in "iu" and target.itemsize < 4:
        a = a.astype(np.int32)
    return a.astype(target)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("source", DTYPES)
def test_every_pair(source: str, view: str, rng: np.random.Generator) -> None:
    for shape in [(3, 5), (70, 67), (1, 600), (600, 3)]:
        a = (
            rng.integers(-100, 100, shape)
            if source in ("int8", "int16", "int32", "int64")
            else rng.integers(0, 100, shape) / 4
        )
        a = VIEWS[view](a.astype(source))
        x = tl.from_numpy(a)
        for target in DTYPES:
            expected = numpys_cast(a, target)
            np.testing.assert_array_equal(
                x.to(getattr(tl, target)).numpy(), expected, err_msg=f"{source} -> {target} {shape}"
            )
            out = np.zeros(a.shape[::-1], target).T
            tl.from_numpy(out).copy_(x)
            np.testing.assert_array_equal(
                out, expected, err_msg=f"{source} -> {target} {shape}, into a transposed result"
            )


@pytest.mark.parametrize("source", ["float32", "float64"])
@pytest.mark.parametrize("target", ["int32", "int64"])
def test_what_does_not_fit_an_integer_becomes_the_smallest(source: str, target: str) -> None:
    smallest, largest = np.iinfo(target).min, np.iinfo(target).max
    a = np.array(
        [np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**31, -(2.0**31), 2.0**63, -(2.0**63), 2.5, -2.5, 0.0], source
    )
    expected = [int(v) if np.isfinite(v) and smallest <= int(v) <= largest else smallest for v in a]
    assert tl.from_numpy(a).to(getattr(tl, target)).tolist() == expected


@pytest.mark.parametrize("source", [np.float32, np.float64])
def test_float16_rounds_once(source: type, rng: np.random.Generator) -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    ties = (halves[1:] + halves[:-1]) / 2
    a = np.concatenate(
        [
            halves,
            ties,
            ties * (1 + 1e-12),
            ties * (1 - 1e-12),
            rng.standard_normal(10_000) * 1e-5,
            [65519, 65520, np.inf],
        ]
    )
    a = np.concatenate([a, -a]).astype(source)
    with np.errstate(over="ignore"):
        expected = a.astype(np.float16)
    assert tl.from_numpy(a).to(tl.float16).numpy().tobytes() == expected.tobytes()


def test_bfloat16_rounds_to_nearest_even() -> None:
    upper = np.arange(0x3F80, 0x4080, dtype=np.uint32) << 16
    for lower, up in [(0x7FFF, 0), (0x8001, 1), (0x8000, upper >> 16 & 1)]:
        x = tl.from_numpy((upper | lower).view(np.float32))
        expected = ((upper >> 16) + up << 16).astype(np.uint32).view(np.float32)
        np.testing.assert_array_equal(x.to(tl.bfloat16).to(tl.float32).numpy(), expected)
    assert np.isnan(tl.tensor([float("nan")]).to(tl.bfloat16).to(tl.float32).numpy()).all()


@pytest.mark.parametrize("n", [10, 3000, 400_000])
def test_a_copy_onto_itself_shifted_goes_through_a_temporary(n: int) -> None:
    a = np.arange(float(n))
    x = tl.from_numpy(a)
    x[1:].copy_(x[:-1])
    assert a.tolist() == [0.0, *range(n - 1)]


def test_large_copies_are_whole_at_any_alignment(rng: np.random.Generator) -> None:
    a = rng.standard_normal(3_000_100).astype(np.float32)
    for start, stop in [(0, 3_000_100), (1, 3_000_003), (7, 2_999_999)]:
        out = np.full(3_000_100, -1, np.float32)
        tl.from_numpy(out)[start:stop].copy_(tl.from_numpy(a)[start:stop])
        expected = np.full_like(out, -1)
        expected[start:stop] = a[start:stop]
        np.testing.assert_array_equal(out, expected)
