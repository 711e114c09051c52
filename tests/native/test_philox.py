"""Random numbers: the generator's published answers, the kernels against the reference bit for bit, and their distribution."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.ops import philox

SIZES = [0, 1, 2, 3, 4, 5, 127, 128, 129, 511, 512, 513, 8193, 20_000]


def test_known_answer() -> None:
    """From Random123's list for philox4x32-10: the one whose counter's upper half is zero."""
    assert philox.words(np, 4, key=0, counter=0).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_a_draw_is_a_window_of_one_stream() -> None:
    """Moving the counter by a block moves the words by four, also across 2^32 blocks."""
    stream = philox.words(np, 400, key=123456789, counter=2**32 - 50)
    assert (philox.words(np, 100, key=123456789, counter=2**32 - 25) == stream[100:200]).all()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=str)
def test_kernels_give_the_references_bits(n: int, dtype: tl.DType, seed: int) -> None:
    generator = tl.Generator().manual_seed(seed)
    numpy_dtype = np.float32 if dtype is tl.float32 else np.float64
    words_each = 1 if dtype is tl.float32 else 2
    assert (tl.rand(n, dtype=dtype, generator=generator).numpy() == philox.uniform(np, n, seed, 0, numpy_dtype)).all()
    at = philox.blocks(n, words_each)
    z, expected = tl.randn(n, dtype=dtype, generator=generator).numpy(), philox.normal(np, n, seed, at, numpy_dtype)
    np.testing.assert_allclose(z, expected, rtol=0, atol=8 * float(np.finfo(numpy_dtype).eps))


@pytest.mark.parametrize(("low", "high"), [(0, 10), (-5, 2**40), (3, 4), (-(2**53), 2**53)])
def test_randint(low: int, high: int, seed: int) -> None:
    drawn = tl.randint(low, high, (1001,), generator=tl.Generator().manual_seed(seed)).numpy()
    assert (drawn == philox.randint(np, 1001, seed, 0, low, high)).all()
    assert (drawn >= low).all()
    assert (drawn < high).all()


@pytest.mark.parametrize("shape", [(), (7,), (0, 3), (60, 500)], ids=str)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_dropout_keeps_what_the_reference_keeps(shape: tuple[int, ...], p: float, seed: int) -> None:
    x = tl.ones(shape, requires_grad=True)
    tl.manual_seed(seed)
    y = tl.nn.functional.dropout(x, p)
    n = int(np.prod(shape))
    expected = np.where(
        philox.uniform(np, n, seed, 0) >= np.float32(p), np.float32(1 / (1 - p)), np.float32(0)
    ).reshape(shape)
    assert (y.detach().numpy() == expected).all()
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad.numpy() == expected).all()


def test_moments() -> None:
    generator = tl.Generator().manual_seed(1)
    z = tl.randn(1_000_000, generator=generator).numpy().astype(np.float64)
    assert abs(z.mean()) < 0.005
    assert abs(z.std() - 1) < 0.005
    assert abs((z**4).mean() - 3) < 0.05
    assert abs((z[::2] * z[1::2]).mean()) < 0.006  # the two of a pair
    u = tl.rand(1_000_000, generator=generator).numpy()
    assert 0 <= u.min() < 1e-5
    assert 1 - 1e-5 < u.max() < 1
    assert np.abs(np.histogram(u, 50, (0, 1))[0] / 20_000 - 1).max() < 0.05


def test_a_uniform_number_never_reaches_the_upper_bound() -> None:
    """1 + (1 - 2^-24) rounds to 2 in float32."""
    assert (philox.uniform(np, 100_000, 3, 0, np.float32, 1.0, np.nextafter(np.float32(1), np.float32(2))) == 1).all()
    assert (philox.uniform(np, 1_000, 3, 0, np.float32, 2.0, 2.0) == 2).all()
