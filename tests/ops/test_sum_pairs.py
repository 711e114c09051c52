"""fused.sum_pairs_: sums in a fixed order, against NumPy's additions in that order."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as tl

SIZES = [0, 1, 63, 64, 65, 5000, 70_001]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8"])
def test_one_after_the_other(dtype: str, n: int, rng: np.random.Generator, isa: str) -> None:
    parts = [(100 * rng.standard_normal(n)).astype(dtype) for _ in range(5)]
    expected = parts[0].copy()
    for part in parts[1:]:
        expected += part
    outs = [tl.zeros(n, dtype=getattr(tl, dtype)) for _ in range(2)]
    assert tl.fused.sum_pairs_(outs, [tl.tensor(p) for p in parts])
    for out in outs:
        np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize("n", SIZES)
def test_in_a_tree_and_scaled_in_place(n: int, rng: np.random.Generator) -> None:
    a, b, c, d = ((100 * rng.standard_normal(n)).astype(np.float32) for _ in range(4))
    parts = [tl.tensor(p) for p in (a, b, c, d)]
    assert tl.fused.sum_pairs_(parts[1:2], parts, [(2, 3), (0, 1), (0, 2)], scale=0.25)
    np.testing.assert_array_equal(parts[1].numpy(), ((a + b) + (c + d)) * np.float32(0.25))
    np.testing.assert_array_equal(parts[0].numpy(), a)


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16], ids=str)
def test_half_precision_is_rounded_once(dtype: tl.DType, rng: np.random.Generator) -> None:
    parts = [tl.tensor(rng.standard_normal(1000).astype(np.float32)).to(dtype) for _ in range(3)]
    expected = ((parts[0].float() + parts[1].float() + parts[2].float()) * 0.5).to(dtype)
    out = tl.zeros(1000, dtype=dtype)
    assert tl.fused.sum_pairs_([out], parts, scale=0.5)
    assert out.equal(expected)


def test_it_counts_as_an_in_place_write() -> None:
    x, y = tl.ones(3, requires_grad=True), tl.ones(3)
    loss = (x * y).sum()
    assert tl.fused.sum_pairs_([y], [y, y])
    with pytest.raises(tl.GradError, match="overwritten in place"):
        loss.backward()


@pytest.mark.parametrize(
    ("outs", "parts", "pairs"),
    [
        ([tl.zeros(3)], [tl.zeros(3), tl.zeros(2)], None),
        ([tl.zeros(3)], [tl.zeros(3), tl.zeros(3, dtype=tl.float64)], None),
        ([tl.zeros(6)[::2]], [tl.zeros(3)], None),
        ([tl.zeros(3)], [tl.zeros(3), tl.zeros(3)], [(0, 2)]),
        ([tl.zeros(3)], [tl.zeros(3), tl.zeros(3)], [(-1, 1)]),
        ([], [tl.zeros(3)], None),
        ([tl.zeros(3)], [], None),
    ],
    ids=["numel", "dtype", "strided", "beyond", "negative", "no outs", "no parts"],
)
def test_what_it_does_not_serve_it_leaves_alone(
    outs: list[tl.Tensor], parts: list[tl.Tensor], pairs: list[tuple[int, int]] | None
) -> None:
    assert not tl.fused.sum_pairs_(outs, parts, pairs)
    assert not tl.fused.sum_pairs_([tl.ones(2, dtype=tl.int32)], [tl.ones(2, dtype=tl.int32)], scale=0.5)
