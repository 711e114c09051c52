"""scaled_dot_product_attention beside PyTorch's: values and gradients over masks, layouts, grouped heads and degenerate sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SHAPES = [
    ((3, 4), (5, 4), (5, 6)),
    ((2, 3, 70, 32), (2, 3, 70, 32), (2, 3, 70, 32)),
    ((2, 3, 40, 17), (2, 3, 130, 17), (2, 3, 130, 9)),
    ((1, 2, 130, 8), (1, 2, 40, 8), (1, 2, 40, 8)),
    ((2, 1, 5, 8), (1, 3, 7, 8), (2, 3, 7, 8)),
    ((2, 3, 4), (2, 0, 4), (2, 0, 6)),
    ((2, 0, 4), (2, 5, 4), (2, 5, 6)),
]
MASKS = [None, "bool", "added", "row", "hidden rows"]


def mask_of(kind: str | None, scores: tuple[int, ...], rng: np.random.Generator) -> Any:
    if kind is None:
        return None
    if kind == "added":
        return rng.standard_normal(scores).astype(np.float32)
    mask = rng.random(scores[-1:] if kind == "row" else scores[-2:]) < 0.6
    if kind == "row":
        return mask.reshape((1,) * (len(scores) - 1) + mask.shape)
    if kind == "hidden rows":
        mask[::2] = False
    return mask


def results(lib: Any, arrays: list[Any], mask: Any, **how: Any) -> list[Any]:
    q, k, v = (lib.tensor(a, requires_grad=True) for a in arrays)
    given = None if mask is None else lib.tensor(mask)
    out = lib.nn.functional.scaled_dot_product_attention(q, k, v, given, **how)
    (out * out).sum().backward()
    return [out.detach(), q.grad, k.grad, v.grad]


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == tuple(b.shape)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-5, atol=2e-5)


def assert_alike(arrays: list[Any], mask: Any, **how: Any) -> None:
    assert_same(results(tl, arrays, mask, **how), results(torch, arrays, mask, **how))


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_values(shapes: tuple[tuple[int, ...], ...], causal: bool, mask: str | None) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    scores = (*np.broadcast_shapes(*(s[:-2] for s in shapes)), shapes[0][-2], shapes[1][-2])
    given = mask_of(mask, scores, rng)
    if given is None or not causal:
        assert_alike(arrays, given, is_causal=causal)
        return
    hidden = False if given.dtype == bool else -np.inf  # PyTorch takes both only where it has a kernel for it
    together = np.where(np.tri(*scores[-2:], dtype=bool), given, np.asarray(hidden, given.dtype))
    assert_same(results(tl, arrays, given, is_causal=True), results(torch, arrays, together))


@pytest.mark.parametrize("kv_heads", [(2, 2), (1, 1), (4, 4), (2, 1)])
def test_grouped_heads(kv_heads: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, h, 20, 8)).astype(np.float32) for h in (4, *kv_heads)]
    assert_alike(arrays, None, enable_gqa=True, scale=0.2)


def test_heads_of_a_projection() -> None:
    """Gradients with respect to one (B, T, 3 H D) tensor, through split, view and transpose."""
    x = np.random.default_rng(0).standard_normal((2, 33, 3 * 4 * 8)).astype(np.float32)

    def run(lib: Any) -> list[Any]:
        leaf = lib.tensor(x, requires_grad=True)
        q, k, v = (part.view(2, 33, 4, 8).transpose(1, 2) for part in leaf.split(32, dim=2))
        out = lib.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        merged = out.transpose(1, 2).reshape(2, 33, 32)
        (merged * merged).sum().backward()
        return [merged.detach(), leaf.grad]

    assert_same(run(tl), run(torch))


def test_mask_gradient() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((2, 5, 4), (2, 7, 4), (2, 7, 4))]
    added = rng.standard_normal((5, 7)).astype(np.float32)

    def run(lib: Any) -> list[Any]:
        mask = lib.tensor(added, requires_grad=True)
        out = lib.nn.functional.scaled_dot_product_attention(*(lib.tensor(a) for a in arrays), mask)
        (out * out).sum().backward()
        return [mask.grad]

    assert_same(run(tl), run(torch))
