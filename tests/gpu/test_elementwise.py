"""Elementwise kernels on the GPU: the bits of the CPU's AVX2 kernels, of which they are made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.gpu.elementwise import ROWS, element_type, merged
from tensorlib.native import lib
from tensorlib.ops.table import TABLE


def some(names: list[str], one_in: int = 4) -> list[Any]:
    """A part of them; the others are slow where no GPU is, as each is compiled."""
    return [
        n if i % one_in == 0 or tl.cuda.is_available() else pytest.param(n, marks=pytest.mark.slow)
        for i, n in enumerate(names)
    ]


FLOATS = [row.name for row in ROWS.values() if row.kind not in ("INTS", "BITS", "UNSIGNED")]
SMOOTH = [name for name in FLOATS if TABLE[name].differentiable]
INTEGERS = [row.name for row in ROWS.values() if row.kind != "FLOAT"]
HALVES = [row.name for row in ROWS.values() if row.kind in ("FLOAT", "WRAP", "SELECT")]
BINARY = next(row.name for row in ROWS.values() if row.inputs == 2 and row.kind == "WRAP")
TERNARY = next(row.name for row in ROWS.values() if row.inputs == 3 and row.kind == "WRAP")


@pytest.fixture(autouse=True)
def _avx2() -> Iterator[None]:
    chosen = lib.tl_isa_name()
    if lib.tl_isa_select(b"avx2"):
        pytest.skip("this processor has no AVX2, whose kernels have the GPU's bits")
    yield
    lib.tl_isa_select(chosen)


def everywhere(rng: np.random.Generator, dtype: str) -> np.ndarray:
    """Floats of all exponents, more of them where functions bend, and the special ones."""
    bits, info = np.dtype(f"u{np.dtype(dtype).itemsize}"), np.finfo(dtype)
    drawn = rng.integers(0, np.iinfo(bits).max, 1500, bits, endpoint=True).view(dtype)
    near = [rng.uniform(-r, r, 500).astype(dtype) for r in (1.5, 20, 110)]
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, 3, -3, info.max, info.tiny, info.smallest_subnormal]
    with np.errstate(over="ignore"):
        return rng.permutation(np.concatenate([drawn, *near, np.array(special * 3, dtype)]))


def operands(name: str, rng: np.random.Generator, dtype: str) -> list[np.ndarray]:
    drawn = [everywhere(rng, dtype) for _ in range(ROWS[name].inputs)]
    if name == "where":
        drawn[0] = rng.random(drawn[0].shape) < 0.5
    for x, y in itertools.pairwise(drawn):
        if x.dtype == y.dtype:
            y[:40] = x[:40]  # operands that are equal
    return drawn


def same_bits(got: tl.Tensor, want: tl.Tensor) -> bool:
    """All equal, signs of zeros too; one NaN is as good as another."""
    a, b = got.detach().cpu().numpy(), want.detach().numpy()
    if a.dtype.kind != "f":
        return a.dtype == b.dtype and np.array_equal(a, b)
    bits = f"u{a.itemsize}"
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and bool(((a.view(bits) == b.view(bits)) | (np.isnan(a) & np.isnan(b))).all())
    )


def check(name: str, inputs: list[tl.Tensor]) -> None:
    call = TABLE[name].call
    assert call is not None
    assert same_bits(call(*(x.to("cuda") if x.ndim else x for x in inputs)), call(*inputs))


@pytest.mark.parametrize("name", some(FLOATS))
def test_forward(name: str, rng: np.random.Generator) -> None:
    check(name, [tl.from_numpy(x) for x in operands(name, rng, "float32")])


@pytest.mark.parametrize("name", some(SMOOTH))
def test_gradients(name: str, rng: np.random.Generator) -> None:
    given, g, call = operands(name, rng, "float32"), rng.standard_normal(3039, dtype=np.float32), TABLE[name].call
    assert call is not None
    found = []
    for device in ("cpu", "cuda"):
        tracked = [text != "NOGRAD" for text in ROWS[name].gradients]
        inputs = [tl.tensor(x, device=device, requires_grad=r) for x, r in zip(given, tracked, strict=True)]
        wanted = [x for x in inputs if x.requires_grad]
        found.append(tl.autograd.grad(call(*inputs), wanted, tl.tensor(g, device=device), allow_unused=True))
    assert all(same_bits(other, one) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("name", some(INTEGERS, 16))
def test_integers(name: str, dtype: str, rng: np.random.Generator) -> None:
    n, info = ROWS[name].inputs, np.iinfo(np.uint8 if dtype == "bool" else dtype)
    drawn = [rng.integers(info.min, info.max, 1001, info.dtype, endpoint=True) for _ in range(n)]
    if len(drawn) > 1:
        drawn[-1][::3] %= 10  # amounts to shift by, and small numbers
        drawn[-2][::7] = drawn[-1][::7]
    inputs = [tl.from_numpy(x > info.max // 2 if dtype == "bool" else x) for x in drawn]
    if name == "where":
        inputs[0] = tl.from_numpy(rng.random(1001) < 0.5)
    if dtype != "bool" or element_type(ROWS[name], tl.bool_):  # others: not on the CPU either, or no row's
        check(name, inputs)


@pytest.mark.parametrize("name", some(HALVES, 16))
@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16], ids=["f16", "bf16"])
def test_halves(name: str, dtype: tl.DType, rng: np.random.Generator) -> None:
    """Computed in float32, rounded once."""
    inputs = [tl.from_numpy(x) for x in operands(name, rng, "float32")]
    halves = [x if x.dtype is tl.bool_ else x.to(dtype) for x in inputs]
    call = TABLE[name].call
    assert call is not None
    got = call(*(x.to("cuda") for x in halves))
    want = call(*(x if x.dtype is tl.bool_ else x.float() for x in halves))
    kept = want.dtype if ROWS[name].test else dtype
    assert got.dtype is kept and same_bits(got.cpu().float(), want.to(kept).float())


def layouts() -> dict[str, Callable[[Any], list[Any]]]:
    """Operands of a ternary operation, made on a device by `t(*shape)`."""
    return {
        "same": lambda t: [t(3, 70), t(3, 70), t(3, 70)],
        "odd": lambda t: [t(67), t(67), t(67)],
        "row": lambda t: [t(6, 8), t(8), t(6, 1)],
        "row-odd": lambda t: [t(6, 7), t(7), t(6, 1)],
        "middle": lambda t: [t(3, 1, 8), t(5, 1), t(3, 5, 8)],
        "outer": lambda t: [t(9, 1), t(1, 12), t(9, 12)],
        "transposed": lambda t: [t(8, 6).T, t(6, 8), t(6, 8)],
        "strided": lambda t: [t(12, 16)[::2, ::2], t(6, 8), t(8, 6).mT],
        "shifted": lambda t: [t(65)[1:], t(64), t(66)[2:]],
        "rows-apart": lambda t: [t(6, 12)[:, :8], t(6, 8), t(6, 10)[:, 2:]],
        "expanded": lambda t: [t(1).expand(3, 8), t(3, 1).expand(3, 8), t(3, 8)],
        "number": lambda t: [t(), t(3, 8), t(3, 8)],
        "one": lambda t: [t(1, 1), t(1), t(1)],
        "none": lambda t: [t(0, 4), t(4), t(1, 4)],
        "six-dims": lambda t: [t(2, 1, 2, 1, 2, 3), t(1, 2, 1, 2, 1, 3), t(1, 2, 1, 2, 1, 1)],
        "seven-dims": lambda t: [t(2, 1, 2, 1, 2, 1, 2), t(1, 2, 1, 2, 1, 2, 1), t(1, 2, 1, 2, 1, 2, 1)],
    }


@pytest.mark.parametrize("layout", layouts())
def test_layouts(layout: str, seed: int) -> None:
    found = []
    for device in ("cpu", "cuda"):
        rng, given = np.random.default_rng(seed), []

        def draw(*shape: int, rng: Any = rng, given: Any = given, device: str = device) -> tl.Tensor:
            given.append(tl.tensor(rng.standard_normal(shape), dtype=tl.float32, device=device, requires_grad=True))
            return given[-1]

        out = TABLE[TERNARY].call(*layouts()[layout](draw))  # type: ignore[misc]
        g = tl.tensor(np.arange(out.numel(), dtype=np.float32).reshape(out.shape), device=device)
        found.append([out, *tl.autograd.grad(out, given, g)])
    (out, *grads), (want, *wanted) = found[1], found[0]
    assert same_bits(out, want)
    for got, one in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(got.cpu().numpy(), one.numpy(), rtol=1e-5, atol=1e-4)


def test_numbers() -> None:
    """Python's numbers and CPU tensors without dimensions are read on the host."""
    x = np.array([-(2**40), 3, 2**62 + 1])
    call = TABLE[BINARY].call
    assert call is not None
    for number in (2, 2**53 + 1, -1):
        assert same_bits(call(tl.tensor(x, device="cuda"), number), call(tl.tensor(x), number))
    y = tl.tensor([0.1, -3.0], requires_grad=True, device="cuda")
    out = tl.tensor(0.3) * y
    (g,) = tl.autograd.grad(out, y, tl.ones_like(y))
    assert same_bits(out, tl.tensor(0.3) * y.detach().cpu()) and same_bits(g, tl.tensor([0.3, 0.3]))


def test_merged_dimensions() -> None:
    assert merged((2, 3, 4), [(12, 4, 1), (0, 4, 1)]) == ([2, 12], [[12, 1], [0, 1]])
    assert merged((2, 3, 4), [(12, 4, 1), (0, 0, 0)]) == ([24], [[1], [0]])
    assert merged((5, 1), [(1, 7)]) == ([5], [[1]])
    assert merged((), [()]) == merged((1, 1), [(3, 3)]) == ([1], [[0]])
