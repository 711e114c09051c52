"""What each rank of a test holds: every rank knows it, so each computes what a collective of all must give."""

from __future__ import annotations

from typing import Any

import numpy as np

import tensorlib as tl
import tensorlib.distributed as dist

RANK, SIZE = dist.rank(), dist.size()
DTYPES = [
    tl.bool, tl.uint8, tl.int8, tl.int16, tl.int32, tl.int64, tl.float16, tl.bfloat16, tl.float32, tl.float64, tl.complex64, tl.complex128,
]  # fmt: skip


def drawn(seed: int, rank: int, shape: tuple[int, ...], dtype: tl.DType = tl.float32) -> tl.Tensor:
    rng = np.random.default_rng([seed, rank])
    if dtype.is_floating_point or dtype.is_complex:
        values = rng.standard_normal(shape)
        return tl.tensor(values + 1j * rng.standard_normal(shape) if dtype.is_complex else values).to(dtype)
    return tl.tensor(rng.integers(0, 2 if dtype is tl.bool else 6, shape)).to(dtype)


def drawn_by_all(seed: int, shape: tuple[int, ...], dtype: tl.DType = tl.float32) -> list[tl.Tensor]:
    return [drawn(seed, r, shape, dtype) for r in range(SIZE)]


def close(got: tl.Tensor, want: np.ndarray[Any, Any]) -> None:
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "complex64": 1e-5}.get(got.dtype.name, 1e-13)
    if not (got.dtype.is_floating_point or got.dtype.is_complex):
        tolerance = 0
    np.testing.assert_allclose(np.asarray(got), want, rtol=tolerance, atol=tolerance)


def same(got: tl.Tensor, want: tl.Tensor) -> None:
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
