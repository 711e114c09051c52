"""Gradients of weights that many small products of one run share: they are made together, and are those that are made one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F

WIDTH, OUT = 40, 50
Shape = tuple[int, ...]


def parameters() -> tuple[tl.Tensor, tl.Tensor]:
    return tl.randn(OUT, WIDTH, dtype=tl.float64, requires_grad=True), tl.randn(
        OUT, dtype=tl.float64, requires_grad=True
    )


def plain(x: tl.Tensor, w: tl.Tensor, b: tl.Tensor) -> tl.Tensor:
    return F.linear(x, w, b)


def activated(x: tl.Tensor, w: tl.Tensor, b: tl.Tensor) -> tl.Tensor:
    return tl.fused.linear_act(x, w, b, "tanh")


MANY: dict[str, list[Shape]] = {
    "vectors": [(WIDTH,)] * 7,
    "rows": [(1, WIDTH), (3, WIDTH), (64, WIDTH), (2, 5, WIDTH), (WIDTH,)],
    "more rows than are kept": [(60, WIDTH)] * 80,
    "large ones among them": [(3, WIDTH), (200, WIDTH), (2, WIDTH), (0, WIDTH), (5, WIDTH)],
    "one": [(4, WIDTH)],
}


def summed(gradients: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return sum(g for g, _ in gradients), sum(g for _, g in gradients)  # type: ignore[return-value]


@pytest.mark.parametrize("shapes", MANY.values(), ids=list(MANY))
@pytest.mark.parametrize("layer", [plain, activated])
def test_as_one_by_one(layer: Callable[..., tl.Tensor], shapes: list[Shape]) -> None:
    w, b = parameters()
    xs = [tl.randn(*s, dtype=tl.float64) for s in shapes]
    seeds = [tl.randn(*s[:-1], OUT, dtype=tl.float64) for s in shapes]
    alone = []
    for x, g in zip(xs, seeds, strict=True):
        alone.append(tuple(t.numpy() for t in tl.autograd.grad((layer(x, w, b) * g).sum(), [w, b])))
    total = sum((layer(x, w, b) * g).sum() for x, g in zip(xs, seeds, strict=True))
    for times in (1, 2):  # the second time into what is there
        total.backward(retain_graph=True)
        for p, want in zip((w, b), summed(alone), strict=True):
            assert p.grad is not None
            np.testing.assert_allclose(p.grad.numpy(), times * want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_a_table(tied: bool, padding: int | None) -> None:
    """Words looked up one by one, some of them again, and a use that is larger than the table; tied: the table is the last layer's weight as well."""
    table = tl.randn(OUT, WIDTH, dtype=tl.float64, requires_grad=True)
    indices = [tl.tensor(i) for i in (4, 0, OUT - 1, 4, 3)] + [tl.tensor([[3, 4, 4]]), tl.arange(OUT), tl.tensor([7])]
    want = np.zeros((OUT, WIDTH))
    total = tl.zeros((), dtype=tl.float64)
    for index in indices:
        rows = F.embedding(index, table, padding_idx=padding)
        seed = tl.randn(*rows.shape, dtype=tl.float64)
        total = total + (rows * seed).sum()
        kept = index.numpy().reshape(-1) != (-1 if padding is None else padding)
        np.add.at(want, index.numpy().reshape(-1)[kept], seed.numpy().reshape(-1, WIDTH)[kept])
        if tied:
            x = tl.randn(2, WIDTH, dtype=tl.float64)
            total = total + F.linear(x, table).sum()
            want += x.numpy().sum(0)
    total.backward()
    np.testing.assert_allclose(table.grad.numpy(), want, rtol=1e-12, atol=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize(("width", "out"), [(0, 3), (3, 0), (0, 0)])
def test_without_elements(width: int, out: int) -> None:
    w, b = tl.zeros(out, width, requires_grad=True), tl.zeros(out, requires_grad=True)
    sum(plain(tl.zeros(2, width), w, b).sum() for _ in range(3)).backward()
    assert w.grad is not None
    assert b.grad is not None
    assert (w.grad.shape, b.grad.tolist()) == ((out, width), [6.0] * out)


def test_hooks_see_the_whole_gradient() -> None:
    w, b = parameters()
    seen: list[np.ndarray] = []
    w.register_hook(lambda g: seen.append(g.numpy().copy()))
    xs = [tl.randn(2, WIDTH, dtype=tl.float64) for _ in range(5)]
    sum(plain(x, w, b).sum() for x in xs).backward()
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], w.grad.numpy(), rtol=0, atol=0)  # type: ignore[union-attr]
    np.testing.assert_allclose(seen[0], np.ones((OUT, 1)) * sum(x.numpy().sum(0) for x in xs), rtol=1e-12)


def test_a_step_that_reads_its_own_product() -> None:
    """A chain: each use's operand depends on the weight through the uses before it."""
    w = (tl.randn(WIDTH, WIDTH, dtype=tl.float64) * 0.1).requires_grad_()
    x = tl.randn(3, WIDTH, dtype=tl.float64)

    def chain() -> tl.Tensor:
        h = x
        for _ in range(6):
            h = F.linear(h, w).tanh()
        return (h * h).sum()

    (want,) = tl.autograd.grad(chain(), w, create_graph=True)
    chain().backward()
    np.testing.assert_allclose(w.grad.numpy(), want.detach().numpy(), rtol=1e-11, atol=1e-13)  # type: ignore[union-attr]


def test_the_same_bits_on_any_number_of_threads() -> None:
    w = tl.randn(300, 200, requires_grad=True)
    xs = [tl.randn(1 + i % 5, 200) for i in range(400)]
    found = []
    for threads in (1, 2, 3):
        tl.set_num_threads(threads)
        w.grad = None
        sum(F.linear(x, w).sum() * (i + 1) for i, x in enumerate(xs)).backward()
        found.append(w.grad.numpy().tobytes())  # type: ignore[union-attr]
    assert found[0] == found[1] == found[2]


def test_an_operand_that_was_overwritten_meanwhile() -> None:
    """A rule of Python's that runs in between writes into what was kept: an error, or the gradient as it was; never a wrong one."""
    w = tl.randn(OUT, WIDTH, requires_grad=True)
    kept = [tl.randn(2, WIDTH) for _ in range(3)]

    class Spoils(tl.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: tl.Tensor) -> tl.Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: object, g: tl.Tensor) -> tl.Tensor:
            kept[1].add_(1)
            return g

    first = Spoils.apply(tl.ones((), requires_grad=True))
    total = sum((F.linear(x, w).sum() for x in kept), first)
    want = np.ones((OUT, 1)) * sum(x.numpy().sum(0) for x in kept)
    try:
        total.backward()
    except tl.GradError:  # where no leaf of the process has hooks, products wait for the end of the run
        pass
    else:
        np.testing.assert_allclose(w.grad.numpy(), want, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]
