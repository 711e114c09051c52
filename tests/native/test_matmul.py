"""The matrix engine: its sizes around tiles and blocks, every layout, the order of its sums, and the weights it keeps packed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.native import lib
from tensorlib.ops.table import TABLE

K_EDGES = (1, 7, 8, 255, 383, 384, 385, 392, 769, 1153)
SHAPES = [  # M, K, N: small, around a tile, narrow, and large enough for pieces
    (1, 300, 70), (2, 3, 4), (9, 64, 48), (10, 65, 49), (15, 784, 513), (63, 129, 97), (128, 128, 128), (130, 500, 10), (257, 260, 200),
    (700, 33, 11), (5, 40, 3000), (301, 400, 303),
]  # fmt: skip


@pytest.fixture
def threads() -> Iterator[None]:
    before = tl.get_num_threads()
    yield
    tl.set_num_threads(before)


def drawn(rng: np.random.Generator, rows: int, cols: int, turned: bool, dtype: tl.DType) -> tl.Tensor:
    x = tl.tensor(rng.standard_normal((cols, rows) if turned else (rows, cols)), dtype=dtype)
    return x.mT if turned else x


def close(out: tl.Tensor, a: tl.Tensor, b: tl.Tensor) -> None:
    wide = a.numpy().astype(np.float64) @ b.numpy().astype(np.float64)
    eps = 1.2e-7 if out.dtype is tl.float32 else 2.3e-16
    np.testing.assert_allclose(out.numpy(), wide, rtol=0, atol=16 * eps * a.shape[-1] ** 0.5 * (1 + np.abs(wide).max()))


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=lambda d: d.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_layout(shape: tuple[int, int, int], dtype: tl.DType, rng: np.random.Generator) -> None:
    m, k, n = shape
    for a_turned, b_turned in itertools.product((False, True), repeat=2):
        a, b = drawn(rng, m, k, a_turned, dtype), drawn(rng, k, n, b_turned, dtype)
        close(a @ b, a, b)
        close(a[::2] @ b[:, ::3], a[::2], b[:, ::3])


@pytest.mark.parametrize("k", K_EDGES)
def test_blocks_over_k(k: int, rng: np.random.Generator) -> None:
    a, b = drawn(rng, 70, k, False, tl.float32), drawn(rng, k, 100, False, tl.float32)
    close(a @ b, a, b)


def test_batches_broadcast(rng: np.random.Generator) -> None:
    a, b = tl.tensor(rng.standard_normal((3, 1, 40, 50))), tl.tensor(rng.standard_normal((2, 50, 60)))
    np.testing.assert_allclose((a @ b).numpy(), a.numpy() @ b.numpy(), atol=1e-12)
    wide = b[0].expand(5, 50, 60)
    np.testing.assert_allclose((a[:, 0][0].expand(5, 40, 50) @ wide).numpy(), a[0].numpy() @ wide.numpy(), atol=1e-12)


@pytest.mark.parametrize("shape", [(200, 500, 100), (130, 784, 130), (600, 40, 64)], ids=str)
def test_same_bits(shape: tuple[int, int, int], rng: np.random.Generator, threads: None) -> None:
    m, k, n = shape
    for turned in (False, True):
        a, b = drawn(rng, m, k, False, tl.float32), drawn(rng, k, n, turned, tl.float32)
        whole = (a @ b).numpy()
        for count in (1, 2, 3):
            tl.set_num_threads(count)
            np.testing.assert_array_equal((a @ b).numpy(), whole)
        for i, j in ((0, 1), (7, 8), (m - 1, m), (3, 30), (0, m // 2)):
            for _ in range(3):  # the second one packs the weight, the third finds it
                np.testing.assert_array_equal((a[i:j] @ b).numpy(), whole[i:j])
                np.testing.assert_array_equal((a[i] @ b).numpy(), whole[i])


def test_packed_weights_follow_writes(rng: np.random.Generator) -> None:
    x, w = tl.tensor(rng.standard_normal((2, 200))), tl.tensor(rng.standard_normal((150, 200)))
    first = x @ w.mT
    for factor in (2.0, 0.5, 4.0):
        w.mul_(factor)
        first.mul_(factor)
        for _ in range(3):
            assert tl.equal(x @ w.mT, first)


def test_packed_weights_follow_writes_from_outside(rng: np.random.Generator) -> None:
    x, w = tl.tensor(rng.standard_normal((2, 200))), tl.tensor(rng.standard_normal((150, 200)))
    for _ in range(3):
        first = x @ w.mT
    seen = w.numpy()
    seen *= 2
    assert tl.equal(x @ w.mT, first * 2)
    assert tl.equal(x @ w.mT, first * 2)


def test_packed_weights_by_view(rng: np.random.Generator) -> None:
    x, w = tl.tensor(rng.standard_normal((2, 150))), tl.tensor(rng.standard_normal((150, 150)))
    for _ in range(3):
        close(x @ w, x, w)
        close(x @ w.mT, x, w.mT)
        close(x[:, :140] @ w[10:], x[:, :140], w[10:])


def test_packed_weights_end_with_their_storage(rng: np.random.Generator) -> None:
    x = tl.tensor(rng.standard_normal((2, 200)))
    before = lib.tl_memory_figure(0)
    w = tl.tensor(rng.standard_normal((150, 200)))
    for _ in range(3):
        x @ w.mT
    del w
    assert lib.tl_memory_figure(0) == before


@pytest.mark.parametrize("dtype", [tl.bfloat16, tl.float16], ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(5, 600, 40), (130, 385, 97), (301, 400, 303), (60, 1153, 129)], ids=str)
def test_half_precision_sums_in_single(dtype: tl.DType, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    """The bits of a float32 product of the same values, rounded once: in every layout, batched, with and without weights met before."""
    m, k, n = shape
    for x_turned, w_turned in itertools.product((False, True), repeat=2):
        x, w = drawn(rng, m, k, x_turned, dtype), drawn(rng, n, k, w_turned, dtype)
        b = tl.tensor(rng.standard_normal(n), dtype=dtype)
        want = tl.linear(x.float(), w.float(), b.float()).to(dtype)
        assert tl.equal(tl.linear(x, w, b), want)
        for _ in range(3):
            assert tl.equal(tl.linear(x[:9], w, b), want[:9])
        assert tl.equal(x @ w.mT, (x.float() @ w.float().mT).to(dtype))
        thin, narrow = x[:, ::2], w[:, ::2]
        assert tl.equal(thin @ narrow.mT, (thin.float() @ narrow.float().mT).to(dtype))
        many = x.expand(2, 3, m, k) @ w.mT
        assert tl.equal(many[1, 2], x @ w.mT)


@pytest.mark.parametrize("dtype", [tl.bfloat16, tl.float16], ids=lambda d: d.name)
def test_half_precision_gradients(dtype: tl.DType, rng: np.random.Generator, threads: None) -> None:
    shapes = (7, 40, 150), (130, 150), (130,)
    operands = [tl.tensor(rng.standard_normal(s), dtype=dtype, requires_grad=True) for s in shapes]
    wide = [t.detach().float().requires_grad_() for t in operands]
    seed = tl.tensor(rng.standard_normal((7, 40, 130)), dtype=dtype)
    for count in (1, 3):
        tl.set_num_threads(count)
        got = tl.autograd.grad(tl.linear(*operands), operands, seed)
        want = tl.autograd.grad(tl.linear(*wide), wide, seed.float())
        for a, b in zip(got, want, strict=True):
            assert a is not None and b is not None and tl.equal(a, b.to(dtype))


@pytest.mark.parametrize("dtype", [tl.bfloat16, tl.float16], ids=lambda d: d.name)
def test_half_precision_at_the_ends(dtype: tl.DType) -> None:
    """Subnormals, the largest values, infinities and NaN are widened as they are cast."""
    bits = np.arange(0, 1 << 16, 13, dtype=np.uint16)[:5000]
    wide = bits.view(np.float16) if dtype is tl.float16 else (bits.astype(np.uint32) << 16).view(np.float32)
    x = tl.tensor(wide.reshape(50, 100), dtype=dtype)
    eye = tl.eye(100).to(dtype)[:, :96]
    big = tl.cat([x, x, x, x])
    got, want = (big @ eye).float().numpy(), (big.float() @ eye.float()).to(dtype).float().numpy()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "sigmoid", "silu", "tanh"])
@pytest.mark.parametrize("shape", [(1, 3, 4), (5, 300, 70), (40, 784, 513), (130, 500, 10), (64, 20, 1)], ids=str)
def test_an_activation_in_the_same_pass(activation: str, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    m, k, n = shape
    apart = TABLE[activation].call
    assert apart is not None
    for dtype in (tl.float32, tl.float64):
        drawn = [tl.tensor(rng.standard_normal(s), dtype=dtype, requires_grad=True) for s in ((m, k), (n, k), (n,))]
        for operands in (drawn, drawn[:2]):
            want, got = apart(tl.linear(*operands)), tl.fused.linear_act(*operands, activation=activation)
            assert tl.equal(got, want)
            with tl.no_grad():
                assert tl.equal(tl.fused.linear_act(*operands, activation=activation), want)
            seed = tl.tensor(rng.standard_normal((m, n)), dtype=dtype)
            for a, b in zip(tl.autograd.grad(got, operands, seed), tl.autograd.grad(want, operands, seed), strict=True):
                assert a is not None and b is not None and tl.equal(a, b)


def test_linear_act_words_its_errors() -> None:
    x, w = tl.ones(2, 3), tl.ones(4, 3)
    with pytest.raises(ValueError, match=r"linear_act: activation: expected one of gelu, .*, got 'elu'"):
        tl.fused.linear_act(x, w, activation="elu")
    with pytest.raises(ValueError, match=r"linear_act: input of shape \(2, 3\) does not fit weight of shape \(4, 5\)"):
        tl.fused.linear_act(x, tl.ones(4, 5))
    with pytest.raises(ValueError, match=r"linear_act: weight must have shape \(D_out, D_in\), got \(3,\)"):
        tl.fused.linear_act(x, tl.ones(3))
    with pytest.raises(ValueError, match=r"linear_act: bias has shape \(5,\), expected \(4,\)"):
        tl.fused.linear_act(x, w, tl.ones(5))
    with pytest.raises(TypeError, match="linear_act: weight is a list"):
        tl.fused.linear_act(x, [1.0])
