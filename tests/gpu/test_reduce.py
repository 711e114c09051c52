"""Reductions on the GPU: what NumPy finds in float64, of all sizes that are laid out differently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.gpu import LANES
from tensorlib.gpu.reduce import CHUNK, CHUNK_ROWS, OPS, merged

SHAPES: dict[str, tuple[tuple[int, ...], Any]] = {
    "row": ((7,), None),
    "rows": ((5, 67), 1),
    "aligned-rows": ((5, 64), 1),
    "long-row": ((2 * CHUNK + 5,), None),
    "long-rows": ((2, CHUNK + 4), 1),
    "columns": ((70, 33), 0),
    "aligned-columns": ((70, 64), 0),
    "few-columns": ((CHUNK_ROWS * 256 + 3, 1, 2), 0),
    "many-chunks": ((9 * CHUNK_ROWS * 8, 128), 0),
    "middle": ((3, 5, 8), 1),
    "outer-and-inner": ((3, 5, 8), (0, 2)),
    "none": ((0, 3), 0),
    "nothing": ((3, 0), 0),
    "no-dims": ((), None),
    "four-dims": ((2, 3, 2, 3), (1, 3)),
    "nine-dims": ((2, 1, 2) * 3, (0, 3, 5, 8)),
}
EXACT = ("amax", "amin", "all", "any", "count_nonzero", "argmax", "argmin")


def oracle(name: str, x: np.ndarray, dim: Any, keepdim: bool) -> np.ndarray:
    function = {"amax": "max", "amin": "min"}.get(name, name)
    wide = x.astype(np.float64) if x.dtype.kind == "f" else x
    with np.errstate(all="ignore"):
        if name.startswith("arg"):
            return np.asarray(getattr(np, name)(wide, axis=dim, keepdims=keepdim))
        return np.asarray(getattr(np, function)(wide, axis=dim, keepdims=keepdim))


def check(name: str, x: tl.Tensor, dim: Any, keepdim: bool = False) -> None:
    got = (
        getattr(tl, name)(x.to("cuda"), dim)
        if name == "count_nonzero"
        else getattr(tl, name)(x.to("cuda"), dim, keepdim)
    )
    want = oracle(name, x.numpy(), dim, keepdim and name != "count_nonzero")
    assert got.device.type == "cuda" and got.shape == want.shape
    if name in EXACT or x.dtype is tl.int64:
        np.testing.assert_array_equal(got.cpu().numpy(), want)
    else:
        np.testing.assert_allclose(got.cpu().numpy(), want, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("name", ["sum", "argmin", "var"])
def test_shapes(name: str, case: str, rng: np.random.Generator) -> None:
    shape, dim = SHAPES[case]
    if name == "argmin" and (0 in shape or isinstance(dim, tuple)):
        pytest.skip("nothing to choose from, or one place in several dimensions")
    if name == "var" and (0 in shape or not shape):
        pytest.skip("nothing to divide by: the reference's")
    x = tl.tensor((rng.integers(0, 3, shape) + rng.random(shape)).astype(np.float32))
    if name != "var":
        check(name, x, dim, keepdim=len(shape) % 2 == 1)
        return
    got = LANES["var"](x.to("cuda"), dim=dim, correction=0, keepdim=False)
    np.testing.assert_allclose(got.cpu().numpy(), np.var(x.numpy().astype(np.float64), axis=dim), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPS)
def test_special_values(name: str, rng: np.random.Generator) -> None:
    x = rng.integers(-2, 3, (40, 33)).astype(np.float32)
    x[3, 5:7] = x[17, 2] = np.nan
    x[5, 1], x[6, 1], x[8] = np.inf, -np.inf, -np.inf
    check(name, tl.from_numpy(x), 0)
    check(name, tl.from_numpy(x), 1, keepdim=True)
    check(name, tl.from_numpy(x), None)


@pytest.mark.parametrize(
    "dtype", ["bool", *(pytest.param(d, marks=pytest.mark.slow) for d in ("uint8", "int32", "int64"))]
)
@pytest.mark.parametrize("name", [n for n in OPS if n not in ("mean", "prod")])
def test_integers(name: str, dtype: str, rng: np.random.Generator) -> None:
    drawn = rng.integers(0 if dtype in ("bool", "uint8") else -100, 100, (21, 16)) * rng.integers(0, 2, (21, 16))
    x = tl.from_numpy(drawn.astype(dtype))
    check(name, x, 0)


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16, tl.float64], ids=["f16", "bf16", "f64"])
@pytest.mark.parametrize("name", ["sum", "mean", "argmax"])
def test_floats(name: str, dtype: tl.DType, rng: np.random.Generator) -> None:
    """16-bit floats are joined in float32."""
    x = tl.from_numpy(rng.uniform(0.5, 1.5, (24, 40))).to(dtype)
    for dim in (0, 1):
        got = getattr(tl, name)(x.to("cuda"), dim)
        want = tl.from_numpy(oracle(name, x.double().numpy(), dim, False))
        assert got.dtype is (tl.int64 if name == "argmax" else dtype)
        rtol = {tl.float16: 2e-3, tl.bfloat16: 1.6e-2}.get(dtype, 1e-14)
        np.testing.assert_allclose(got.cpu().double().numpy(), want.double().numpy(), rtol=rtol)


def test_layouts(rng: np.random.Generator) -> None:
    x = tl.from_numpy(rng.standard_normal((12, 10, 8)).astype(np.float32))
    for view in (x.permute(2, 0, 1), x[::2, 1:, ::3], x[:, :1].expand(12, 10, 8), x[1:, 1:, 1:]):
        there = view.numpy().copy()
        on_gpu = tl.from_numpy(np.ascontiguousarray(x.numpy())).to("cuda")
        for dim in (0, 1, 2, (0, 2), None):
            np.testing.assert_allclose(
                tl.sum(_same_view(x, view, on_gpu), dim).cpu().numpy(), there.sum(axis=dim), rtol=1e-4, atol=1e-4
            )


def _same_view(x: tl.Tensor, view: tl.Tensor, other: tl.Tensor) -> tl.Tensor:
    return tl.as_strided(other, view.shape, view.stride(), view.storage_offset())


@pytest.mark.parametrize(("shape", "dim"), [((5, CHUNK + 100), 1), ((7, 40), 1)], ids=["long", "short"])
def test_a_row_is_summed_as_alone(shape: tuple[int, ...], dim: int, rng: np.random.Generator) -> None:
    x = tl.from_numpy(rng.standard_normal(shape).astype(np.float32)).to("cuda")
    alone = [x[i : i + 1].sum(dim).item() for i in range(shape[0])]
    assert x.sum(dim).tolist() == alone


def test_broadcast_gradients_are_summed(rng: np.random.Generator) -> None:
    x = tl.from_numpy(rng.standard_normal((64, 20)).astype(np.float32))
    found = []
    for device in ("cpu", "cuda"):
        b = tl.ones(20, device=device, requires_grad=True)
        (g,) = tl.autograd.grad((x.to(device) * b).sum(), b)
        found.append(g.cpu().numpy())
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)


def test_merged_dimensions() -> None:
    assert merged([(2, 12), (3, 4), (4, 1)]) == [(24, 1)]
    assert merged([(2, 24), (1, 7), (3, 4), (4, 1)]) == [(2, 24), (12, 1)]
    assert merged([(1, 5)]) == []
