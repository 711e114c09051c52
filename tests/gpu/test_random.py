"""Random numbers on the GPU are the CPU's: the AVX2 kernels' to the bit, the others' but for the normals' last places."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.gpu import capture
from tensorlib.native import lib

DRAWS: dict[str, Callable[[str], tl.Tensor]] = {
    "rand": lambda d: tl.rand(5, 13, device=d),
    "rand-f64": lambda d: tl.rand(67, dtype=tl.float64, device=d),
    "uniform_": lambda d: tl.empty(1001, device=d).uniform_(-3, 1e-3),
    "randn": lambda d: tl.randn(1001, device=d),
    "randn-even": lambda d: tl.randn(3, 256, device=d),
    "randn-f64": lambda d: tl.randn(1001, dtype=tl.float64, device=d),
    "normal_": lambda d: tl.empty(63, device=d).normal_(5, 0.25),
    "randint": lambda d: tl.randint(-7, 100, (1001,), device=d),
    "randint-wide": lambda d: tl.randint(-(2**53), 2**53, (63,), device=d),
    "random_": lambda d: tl.empty(63, dtype=tl.int32, device=d).random_(5),
    "bernoulli": lambda d: tl.bernoulli(tl.zeros(1001, device=d), 0.25),
    "randperm": lambda d: tl.randperm(100, device=d),
    "rand-f16": lambda d: tl.rand(67, dtype=tl.float16, device=d),
    "randn-bf16": lambda d: tl.randn(67, dtype=tl.bfloat16, device=d),
    "dropout": lambda d: tl.dropout(tl.linspace(-1, 1, 1001, device=d), 0.3),
    "dropout-f64": lambda d: tl.dropout(tl.linspace(-1, 1, 64, dtype=tl.float64, device=d), 0.3),
    "dropout-f16": lambda d: tl.dropout(tl.linspace(-1, 1, 67, device=d).half(), 0.3),
    "dropout-all": lambda d: tl.dropout(tl.ones(9, device=d), 1.0),
    "dropout-shifted": lambda d: tl.dropout(tl.linspace(-1, 1, 68, device=d)[1:], 0.3),
    "dropout-transposed": lambda d: tl.dropout(tl.linspace(-1, 1, 60, device=d).reshape(6, 10).T, 0.3),
    "none": lambda d: tl.rand(0, 3, device=d),
}


@pytest.fixture(autouse=True)
def _avx2() -> Iterator[None]:
    chosen = lib.tl_isa_name()
    if lib.tl_isa_select(b"avx2"):
        pytest.skip("this processor has no AVX2, whose kernels have the GPU's bits")
    yield
    lib.tl_isa_select(chosen)


@pytest.mark.parametrize("draw", DRAWS)
def test_the_cpus_bits(draw: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        tl.manual_seed(2**63 + 12345)
        tl.rand(2**10 + 3)  # from another counter on
        found.append((DRAWS[draw](device), tl.rand(1).item()))
    (want, after), (got, moved) = found
    assert got.device.type == "cuda" and got.dtype is want.dtype and after == moved
    np.testing.assert_array_equal(
        got.cpu().float().numpy() if got.dtype is tl.bfloat16 else got.cpu().numpy(), want.numpy()
    )


def test_dropouts_gradient_is_the_mask() -> None:
    x = tl.ones(101, device="cuda", requires_grad=True)
    out = tl.dropout(x, 0.5)
    (g,) = tl.autograd.grad(out, x, tl.ones_like(out))
    assert set(out.tolist()) == {0.0, 2.0} and g.tolist() == out.tolist()


def test_replays_draw_on() -> None:
    """Kernels add to key and counter what a capture's base holds."""
    under_way = capture.Capture(tl.device("cuda:0"))
    tl.manual_seed(3)
    with under_way:
        capture.put("words", under_way.random_base, (5, 9))
        got = tl.rand(63, device="cuda"), tl.dropout(tl.ones(63, device="cuda"), 0.5)
    generator = tl.Generator().manual_seed(3 + 9)
    tl.rand(4 * 5, generator=generator)
    want = tl.rand(63, generator=generator), (tl.rand(64, generator=generator)[:63] >= 0.5).float() * 2
    assert all(a.tolist() == b.tolist() for a, b in zip(got, want, strict=True))
