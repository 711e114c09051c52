"""Copies and conversions on the GPU: the CPU's values, whatever the layout."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.gpu.copy import copy

DTYPES = (tl.bool_, tl.uint8, tl.int8, tl.int16, tl.int32, tl.int64, tl.float16, tl.bfloat16, tl.float32, tl.float64)
QUICK = {(tl.float32, tl.float16), (tl.bfloat16, tl.float32), (tl.float64, tl.bfloat16), (tl.float32, tl.uint8), (tl.int64, tl.float16),
         (tl.float64, tl.int64), (tl.bool_, tl.float32), (tl.float16, tl.bool_), (tl.int32, tl.int8)}  # fmt: skip
PAIRS = [
    pytest.param(a, b, marks=() if (a, b) in QUICK else pytest.mark.slow, id=f"{a.name}-{b.name}")
    for a in DTYPES
    for b in DTYPES
    if a is not b
]


def values(rng: np.random.Generator) -> np.ndarray:
    limits = [sign * (2.0**k - below) for k in (8, 16, 31, 63) for sign in (1, -1) for below in (0, 1)]
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, 1.5, -1.5, 255.5, 1e300, 65519.9, 65520, 1 + 2.0**-11 + 2.0**-40]
    drawn = [rng.standard_normal(30) * scale for scale in (1e2, 1e-6, 1e10)]
    return np.concatenate([limits, special, *drawn])


@pytest.mark.parametrize(("given", "made"), PAIRS)
def test_conversions(given: tl.DType, made: tl.DType, rng: np.random.Generator) -> None:
    x = tl.tensor(values(rng)).to(given)
    got, want = x.to("cuda").to(made), x.to(made)
    assert got.dtype is made and got.device.type == "cuda"
    wide = tl.float64 if made.is_floating_point else made
    np.testing.assert_array_equal(got.cpu().to(wide).numpy(), want.to(wide).numpy())


@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16, tl.bool_], ids=["f32", "bf16", "bool"])
def test_layouts(dtype: tl.DType, rng: np.random.Generator) -> None:
    x = (tl.tensor(rng.integers(0, 2, (6, 10, 16))) * tl.tensor(rng.integers(1, 9, (6, 10, 16)))).to(dtype)
    there = x.to("cuda")
    for index in (np.s_[:], np.s_[::2], np.s_[1:, :, 3:], np.s_[:, 4:5, ::5], np.s_[:, :, 8:]):
        assert there[index].clone().cpu().tolist() == x[index].tolist()
        assert there[index].permute(2, 0, 1).contiguous().cpu().tolist() == x[index].permute(2, 0, 1).tolist()
    to = tl.zeros(6, 10, 16, dtype=dtype, device="cuda")
    assert copy(to[1:, ::2, 8:], there[0, 0, 8:])  # into a part, broadcast
    want = x * 0
    want[1:, ::2, 8:] = x[0, 0, 8:]
    assert to.cpu().tolist() == want.tolist()
    assert copy(to.permute(2, 1, 0), there[1, 1, :1].reshape(1, 1, 1)) and set(to.cpu().reshape(-1).tolist()) == {
        x[1, 1, 0].item()
    }


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cat(dim: int, rng: np.random.Generator) -> None:
    parts = []
    for n in (3, 4, 0, 1):
        shape = [4, 6, 8]
        shape[dim] = n
        parts.append(tl.tensor(rng.standard_normal(shape)).float())
    parts[1] = parts[1].transpose(0, 1).contiguous().transpose(0, 1)
    assert tl.cat([p.to("cuda") for p in parts], dim).cpu().tolist() == tl.cat(parts, dim).tolist()
