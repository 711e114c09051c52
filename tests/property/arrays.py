"""Views at random: each is a pair of functions, one of a tensor and one of an array, and where elements come from is known by their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import tensorlib as tl

Pair = tuple[str, Callable[[tl.Tensor], tl.Tensor], Callable[[np.ndarray], np.ndarray]]


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """Each element's place in memory. Whatever is done to this array alike tells which elements a view has."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape)


@st.composite
def views(draw: st.DrawFn, array: np.ndarray) -> Pair:
    """One view of an array of this shape."""
    makers = [_expand, _unsqueeze, _permute, _squeeze]
    if array.ndim:
        makers += [_slice, _slice, _select, _transpose, _movedim, _unfold]
    if array.ndim > 1:
        makers += [_diagonal]
    return draw(st.sampled_from(makers))(draw, array)


def _slice(draw: st.DrawFn, a: np.ndarray) -> Pair:
    parts = tuple(
        draw(st.slices(n).filter(lambda s: (s.step or 1) > 0)) for n in a.shape[: draw(st.integers(1, a.ndim))]
    )
    return f"[{parts}]", lambda t: t[parts], lambda x: x[parts]


def _select(draw: st.DrawFn, a: np.ndarray) -> Pair:
    dim = draw(st.integers(0, a.ndim - 1))
    if not a.shape[dim]:
        return _unsqueeze(draw, a)
    i = draw(st.integers(-a.shape[dim], a.shape[dim] - 1))
    return f"select({dim}, {i})", lambda t: t.select(dim, i), lambda x: x[(slice(None),) * dim + (i, ...)]


def _transpose(draw: st.DrawFn, a: np.ndarray) -> Pair:
    i, j = draw(st.integers(-a.ndim, a.ndim - 1)), draw(st.integers(-a.ndim, a.ndim - 1))
    return f"transpose({i}, {j})", lambda t: t.transpose(i, j), lambda x: np.swapaxes(x, i, j)


def _movedim(draw: st.DrawFn, a: np.ndarray) -> Pair:
    i, j = draw(st.integers(-a.ndim, a.ndim - 1)), draw(st.integers(-a.ndim, a.ndim - 1))
    return f"movedim({i}, {j})", lambda t: t.movedim(i, j), lambda x: np.moveaxis(x, i, j)


def _permute(draw: st.DrawFn, a: np.ndarray) -> Pair:
    dims = draw(st.permutations(range(a.ndim)))
    return f"permute({dims})", lambda t: t.permute(dims), lambda x: np.transpose(x, dims)


def _unsqueeze(draw: st.DrawFn, a: np.ndarray) -> Pair:
    dim = draw(st.integers(-a.ndim - 1, a.ndim))
    if a.ndim > 6:
        return "[...]", lambda t: t[...], lambda x: x[...]
    return f"unsqueeze({dim})", lambda t: t.unsqueeze(dim), lambda x: np.expand_dims(x, dim)


def _squeeze(draw: st.DrawFn, a: np.ndarray) -> Pair:
    return "squeeze()", lambda t: t.squeeze(), np.squeeze


def _expand(draw: st.DrawFn, a: np.ndarray) -> Pair:
    if a.ndim > 6:
        return "[...]", lambda t: t[...], lambda x: x[...]
    lead = draw(st.lists(st.integers(1, 3), max_size=1))
    shape = (*lead, *(draw(st.integers(0, 3)) if n == 1 else n for n in a.shape))
    return f"expand{shape}", lambda t: t.expand(shape), lambda x: np.broadcast_to(x, shape)


def _diagonal(draw: st.DrawFn, a: np.ndarray) -> Pair:
    i, j = draw(st.permutations(range(a.ndim)))[:2]
    offset = draw(st.integers(-4, 4))
    return f"diagonal({offset}, {i}, {j})", lambda t: t.diagonal(offset, i, j), lambda x: np.diagonal(x, offset, i, j)


def _unfold(draw: st.DrawFn, a: np.ndarray) -> Pair:
    """Split one dimension into two."""
    dim = draw(st.integers(0, a.ndim - 1))
    n = a.shape[dim]
    if a.ndim > 6 or not n:
        return "[...]", lambda t: t[...], lambda x: x[...]
    k = draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
    shape = (*a.shape[:dim], k, n // k, *a.shape[dim + 1 :])
    return f"unflatten({dim}, {k})", lambda t: t.unflatten(dim, (k, n // k)), lambda x: _as_view(x, shape, dim, k)


def _as_view(x: np.ndarray, shape: tuple[int, ...], dim: int, k: int) -> np.ndarray:
    inner = x.strides[dim]
    strides = (*x.strides[:dim], inner * (x.shape[dim] // k), inner, *x.strides[dim + 1 :])
    return np.lib.stride_tricks.as_strided(x, shape, strides)


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...], arrays: bool = True) -> tuple[Any, ...]:
    """A subscript as NumPy defines them, for an array of this shape; integer arrays among it broadcast together."""
    left, made = list(shape), []
    common = draw(st.sampled_from([(3,), (2, 1), (1,), (2, 3), (0,), ()]))
    while len(made) < 6:
        kinds = (
            ["none", "end", "ellipsis"]
            + ["int", "slice", "slice"] * bool(left)
            + ["array", "mask"] * (arrays and bool(left))
        )
        kind = draw(st.sampled_from(kinds))
        if kind == "end":
            break
        if kind == "ellipsis":
            return (*made, ..., *_last(draw, left))
        if kind == "none":
            made.append(None)
        elif kind == "slice":
            made.append(draw(st.slices(left.pop(0))))
        elif kind == "int":
            n = left.pop(0)
            made.append(draw(st.integers(-n, n - 1)) if n else slice(None))
        elif kind == "mask":
            made.append(_mask(draw, left, common))
        else:
            made.append(_positions(draw, left.pop(0), common))
    return tuple(made)


def _last(draw: st.DrawFn, left: list[int]) -> list[Any]:
    """What follows an ellipsis: subscripts of the last few dimensions."""
    sizes = left[len(left) - draw(st.integers(0, len(left))) :]
    return [draw(st.one_of(st.slices(n), st.integers(-n, n - 1), st.none())) if n else slice(None) for n in sizes]


def _positions(draw: st.DrawFn, n: int, common: tuple[int, ...]) -> Any:
    if not n:
        return np.zeros((0,), np.int64) if 0 in common else slice(None)
    flat = draw(st.lists(st.integers(-n, n - 1), min_size=int(np.prod(common)), max_size=int(np.prod(common))))
    return np.array(flat, np.int64).reshape(common)


def _mask(draw: st.DrawFn, left: list[int], common: tuple[int, ...]) -> Any:
    """A mask over one dimension or two, with as many True as the other arrays can broadcast with."""
    ndim = draw(st.integers(1, min(2, len(left))))
    dims = tuple(left.pop(0) for _ in range(ndim))
    size, wanted = int(np.prod(dims)), common[-1] if common else 1
    mask = np.zeros(size, bool)
    mask[draw(st.permutations(range(size)))[: min(wanted, size)] if size else []] = True
    return mask.reshape(dims)
