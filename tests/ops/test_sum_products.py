"""fused.sum_products_: products added in a tree, bit for bit those of a product and a sum at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import tensorlib as tl

SIZES = [(1, 2), (3, 1), (7, 15), (8, 16), (9, 48), (10, 49), (16, 33), (29, 191), (130, 200)]
TREES = {
    "one": [0],
    "pair": [0, 1],
    "full": [0, 1, 0, 2, 0, 1, 0, 3],
    "odd": [0, 1, 0, 2, 0, 1, 2],
    "chain": [0, 1, 1, 1],
    "deep": [0] * 5 + [5],
}


def composed(
    g: Sequence[tl.Tensor], x: Sequence[tl.Tensor], joins: Sequence[int], scales: Sequence[float]
) -> np.ndarray:
    sums: list[tl.Tensor] = []
    for one, other, count, scale in zip(g, x, joins, scales, strict=True):
        sums.append(one.mT @ other if scale == 1 else (one.mT @ other) * scale)
        for _ in range(count):
            top = sums.pop()
            sums[-1] = sums[-1] + top
    (total,) = sums
    return total.numpy()


def drawn(rng: np.random.Generator, rows: Sequence[int], width: int, dtype: tl.DType) -> list[tl.Tensor]:
    return [tl.tensor(rng.standard_normal((n, width)), dtype=dtype) for n in rows]


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=lambda d: d.name)
def test_the_bits_of_products_and_sums(dtype: tl.DType, tree: str, rng: np.random.Generator, isa: str) -> None:
    joins = TREES[tree]
    for m, n in SIZES:
        for scaled in (False, True):
            rows = rng.integers(1, 40, len(joins)).tolist()
            g, x = drawn(rng, rows, m, dtype), drawn(rng, rows, n, dtype)
            scales = [1.0, 0.75, 3.7][: 1 + 2 * scaled] * len(joins)
            memory = tl.full((m * n + 32,), tl.nan, dtype=dtype)
            out, other = memory[16 : 16 + m * n].view(m, n), tl.empty(m, n, dtype=dtype)
            assert tl.fused.sum_products_([out, other], g, x, joins, scales[: len(joins)])
            for each in (out, other):
                np.testing.assert_array_equal(each.numpy(), composed(g, x, joins, scales[: len(joins)]))
            assert memory.isnan().sum().item() == 32, "nothing is written beyond the ends"


def test_columns_of_a_wider_matrix(rng: np.random.Generator, isa: str) -> None:
    whole, x = drawn(rng, [5, 17], 60, tl.float32), drawn(rng, [5, 17], 70, tl.float32)
    out, g = tl.empty(23, 70), [one[:, 30:53] for one in whole]
    assert tl.fused.sum_products_([out], g, x, [0, 1])
    np.testing.assert_array_equal(out.numpy(), composed(g, x, [0, 1], [1.0, 1.0]))


@pytest.mark.parametrize("rows", [[384, 1, 100], [383, 384]], ids=str)
def test_the_longest_segments(rows: list[int], rng: np.random.Generator, isa: str) -> None:
    g, x = drawn(rng, rows, 40, tl.float32), drawn(rng, rows, 70, tl.float32)
    out, joins = tl.empty(40, 70), [0, *[1] * (len(rows) - 1)]
    assert tl.fused.sum_products_([out], g, x, joins)
    np.testing.assert_array_equal(out.numpy(), composed(g, x, joins, [1.0] * len(rows)))


def test_any_number_of_threads(rng: np.random.Generator) -> None:
    g, x = drawn(rng, [32] * 8, 100, tl.float32), drawn(rng, [32] * 8, 500, tl.float32)
    before, outs = tl.get_num_threads(), []
    for threads in (1, 2, 3):
        tl.set_num_threads(threads)
        outs.append(tl.empty(100, 500))
        assert tl.fused.sum_products_([outs[-1]], g, x, TREES["full"])
    tl.set_num_threads(before)
    np.testing.assert_array_equal(outs[0].numpy(), composed(g, x, TREES["full"], [1.0] * 8))
    assert all(out.equal(outs[0]) for out in outs)


def test_it_counts_as_an_in_place_write() -> None:
    x, y = tl.ones(3, 3, requires_grad=True), tl.ones(3, 3)
    loss = (x * y).sum()
    assert tl.fused.sum_products_([y], [tl.ones(1, 3)], [tl.ones(1, 3)], [0])
    with pytest.raises(tl.GradError, match="overwritten in place"):
        loss.backward()


@pytest.mark.parametrize(
    ("out", "g", "x", "joins"),
    [
        ((3, 4), [(2, 3)], [(2, 5)], [0]),
        ((3, 4), [(2, 3)], [(1, 4)], [0]),
        ((3, 4), [(385, 3)], [(385, 4)], [0]),
        ((3, 4), [(0, 3)], [(0, 4)], [0]),
        ((3, 4), [], [], []),
        ((12,), [(2, 3)], [(2, 4)], [0]),
        ((3, 4), [(2, 3)], [(2, 4)], [1]),
        ((3, 4), [(2, 3)] * 2, [(2, 4)] * 2, [0, 0]),
        ((3, 4), [(2, 3)] * 2, [(2, 4)] * 2, [0, -1]),
        ((3, 4), [(1, 3)] * 18, [(1, 4)] * 18, [0] * 17 + [17]),
    ],
    ids=["width", "rows", "long", "empty", "none", "1-d", "no partner", "two left", "negative", "deep"],
)
def test_what_it_does_not_serve_it_leaves_alone(
    out: tuple[int, ...], g: list[tuple[int, int]], x: list[tuple[int, int]], joins: list[int]
) -> None:
    target = tl.full(out, 7.0)
    assert not tl.fused.sum_products_([target], [tl.ones(*s) for s in g], [tl.ones(*s) for s in x], joins)
    assert target.equal(tl.full(out, 7.0))


def test_other_kinds_of_memory_are_left_alone() -> None:
    g, x = tl.ones(2, 3), tl.ones(2, 4)
    assert not tl.fused.sum_products_([tl.zeros(4, 3).mT], [g], [x], [0])
    assert not tl.fused.sum_products_([tl.zeros(3, 4)], [g.double()], [x], [0])
    assert not tl.fused.sum_products_([tl.zeros(3, 4, dtype=tl.int64)], [g.long()], [x.long()], [0])
    assert not tl.fused.sum_products_([tl.zeros(3, 4)], [tl.ones(3, 2).mT], [x], [0])
    assert not tl.fused.sum_products_([tl.zeros(3, 4), tl.zeros(4, 3)], [g], [x], [0])
    assert not tl.fused.sum_products_([], [g], [x], [0])
    with pytest.raises(ValueError, match="got 2 joins and 1 scales for 1 products"):
        tl.fused.sum_products_([tl.zeros(3, 4)], [g], [x], [0, 0])
    with pytest.raises(TypeError, match="got 2, expected a list of 1 tensors"):
        tl.fused.sum_products_([tl.zeros(3, 4)], [g], [x, x], [0])
