"""einsum beside PyTorch's: results, gradients, and errors from both, in both formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

Shape = tuple[int, ...]
GOOD: list[tuple[str, list[Shape]]] = [
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ij,jk->ki", [(2, 3), (1, 4)]),
    ("ij,jk->k", [(2, 1), (3, 4)]),
    ("ij,ij->i", [(2, 0), (2, 1)]),
    ("ij->", [(0, 3)]),
    ("...i->", [(2, 3)]),
    ("ij->i...", [(2, 3)]),
    ("...ij,...jk->...ki", [(4, 1, 2, 3), (5, 3, 2)]),
    ("b...i,...ij->b...j", [(2, 4, 3), (4, 3, 5)]),
    ("ii", [(3, 3)]),
    ("iij->ji", [(3, 3, 2)]),
    ("i j -> j i", [(2, 3)]),
    ("BA", [(2, 3)]),
    ("aB,Bc", [(2, 3), (3, 4)]),
    ("->", [()]),
    ("", [()]),
    (",i->i", [(), (3,)]),
    ("bhts,bshd->bthd", [(2, 3, 4, 5), (2, 5, 3, 4)]),
    ("bi,oij,bj->bo", [(2, 3), (4, 3, 5), (2, 5)]),
    ("ab,bc,cd,da->", [(2, 3), (3, 4), (4, 5), (5, 2)]),
    ("ij,jk,kl->il", [(2, 0), (0, 3), (3, 4)]),
    ("i,j,k->kij", [(2,), (3,), (4,)]),
]
BAD: list[tuple[str, list[Shape]]] = [
    ("ij,jk", [(2, 3), (4, 5)]),
    ("...,...", [(2, 3), (2, 4)]),
    ("ii->i", [(1, 3)]),
    ("ii", [(2, 3)]),
    ("ijk", [(2, 3)]),
    ("i", [(2, 3)]),
    ("...ijk", [(2, 3)]),
    ("i,j", [(2,)]),
    ("i", [(2,), (2,)]),
    ("i->j", [(2,)]),
    ("i->ii", [(2,)]),
    ("i$", [(2,)]),
    ("i.", [(2,)]),
    ("i......", [(2, 3)]),
    ("i->......", [(2,)]),
    ("i->i->i", [(2,)]),
]
LISTS: list[tuple[Any, ...]] = [
    ((2, 3), [0, 1], (3, 4), [1, 2], [2, 0]),
    ((2, 3), [0, 51], (3, 4), [51, 2]),
    ((2, 3), [..., 0], (3, 4), [0, 1], [1, ...]),
    ((2, 3), [...], (3,), [...]),
    ((2, 3), (0, 1), []),
    ((2, 3), [30, 2]),  # in the order of the numbers
]


def drawn(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.standard_normal(shape)


@pytest.mark.parametrize(("equation", "shapes"), GOOD, ids=[f"{e} {s}" for e, s in GOOD])
def test_result_and_gradients(equation: str, shapes: list[Shape], rng: np.random.Generator) -> None:
    arrays = [drawn(rng, s) for s in shapes]
    ours, theirs = (
        [tl.tensor(a, requires_grad=True) for a in arrays],
        [torch.tensor(a, requires_grad=True) for a in arrays],
    )
    y, z = tl.einsum(equation, *ours), torch.einsum(equation, *theirs)
    assert y.shape == tuple(z.shape)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-12, atol=1e-12)
    g = drawn(rng, y.shape)
    y.backward(tl.tensor(g))
    z.backward(torch.tensor(g))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("equation", "shapes"), BAD, ids=[f"{e} {s}" for e, s in BAD])
def test_both_raise(equation: str, shapes: list[Shape]) -> None:
    with pytest.raises(RuntimeError, match="einsum"):
        torch.einsum(equation, *(torch.ones(s) for s in shapes))
    with pytest.raises(ValueError, match="einsum: "):
        tl.einsum(equation, *(tl.ones(s) for s in shapes))


@pytest.mark.parametrize("given", LISTS, ids=str)
def test_lists(given: tuple[Any, ...], rng: np.random.Generator) -> None:
    shapes = given[: len(given) // 2 * 2 : 2]
    arrays = iter([drawn(rng, s) for s in shapes])
    arguments = [next(arrays) if i % 2 == 0 and i < 2 * len(shapes) else x for i, x in enumerate(given)]
    got, want = (
        lib.einsum(*(lib.tensor(x) if isinstance(x, np.ndarray) else x for x in arguments)) for lib in (tl, torch)
    )
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-12, atol=1e-12)
