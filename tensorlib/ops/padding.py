"""pad: borders around a tensor, or, where an amount is negative, less of it."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tensorlib import ops
from tensorlib.errors import ShapeError
from tensorlib.native import ffi, lib
from tensorlib.ops import rules
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.table import BATCH, Sample, error, sample
from tensorlib.tensor import Tensor

__all__ = ["pad"]

Pairs = tuple[tuple[int, int], ...]  # before and after, for every dimension
MODES = ("constant", "reflect", "replicate", "circular")


def _pairs(shape: tuple[int, ...], amounts: Any) -> Pairs:
    """PyTorch's list, which begins at the last dimension, as pairs for all dimensions from the first on."""
    try:
        listed = [operator.index(n) for n in amounts]
    except TypeError:
        raise TypeError(f"pad: pad is {amounts!r}, expected a sequence of integers.") from None
    if len(listed) % 2 or len(listed) > 2 * len(shape):
        raise ShapeError(
            f"pad: pad has {len(listed)} numbers for a tensor of shape {shape}; expected two for each dimension that is padded,"
            " beginning with the last."
        )
    named = tuple(zip(listed[-2::-2], listed[::-2], strict=True))
    return ((0, 0),) * (len(shape) - len(named)) + named


def _check(shape: tuple[int, ...], pairs: Pairs, mode: str) -> None:
    for dim, (n, (before, after)) in enumerate(zip(shape, pairs, strict=True)):
        if n + before + after < 0 or n + min(before, 0) + min(after, 0) < 0:
            raise ShapeError(f"pad: dimension {dim} has {n} elements, from which pad takes {before, after} away.")
        most = {"constant": None, "reflect": n - 1, "replicate": None if n else 0, "circular": n}[mode]
        if most is not None and (before, after) != (0, 0) and max(before, after) > most:
            raise ShapeError(
                f"pad: {mode} by {before, after} needs more than the {n} elements of dimension {dim}; expected {max(most, 0)} at most."
            )


# ---- a constant ----
def _constant_ref(xp: Any, x: Any, *, pad: Pairs, value: float) -> Any:
    out = xp.full([n + before + after for n, (before, after) in zip(x.shape, pad, strict=True)], value, dtype=x.dtype)
    inner = tuple(slice(max(before, 0), n - max(after, 0)) for n, (before, after) in zip(out.shape, pad, strict=True))
    out[inner] = x[
        tuple(slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(x.shape, pad, strict=True))
    ]
    return out


def _constant_kernel(x: Tensor, *, pad: Pairs, value: float) -> int:
    if value != 0 and not x.dtype.is_floating_point:  # it may not fit: NumPy has the words
        return 0
    return int(lib.tl_constant_pad(x._array, [n for pair in pad for n in pair], value))


_constant_pad = structured(
    "constant_pad",
    inputs=("x",),
    attrs=("pad", "value"),
    dtype=rules.promoted,
    ref=_constant_ref,
    kernel=_constant_kernel,
    vjp=(lambda g, pad: _constant_pad(g, pad=tuple((-before, -after) for before, after in pad), value=0),),
    samples=[
        sample((5,), pad=((2, 1),), value=0), sample((3, 4), pad=((0, 0), (-1, 3)), value=1.5),
        sample((2, 3, 4), pad=((1, 0), (-1, -1), (0, 2)), value=-1),
        sample((0, 3), pad=((1, 1), (0, 0)), value=2), sample((2, 3), pad=((-1, -1), (1, 1)), value=0),
        sample((), pad=(), value=0),
        sample((2, 67), pad=((0, 1), (3, 30)), value=0.5),
    ],
    private=True,
)  # fmt: skip


# ---- positions of the same tensor ----
@lru_cache(maxsize=256)
def _positions(mode: str, n: int, before: int, after: int) -> np.ndarray[Any, Any]:
    """Which elements of a dimension of size n the padded one takes."""
    i = np.arange(-before, n + after)
    if mode == "replicate":
        return i.clip(0, n - 1)
    if mode == "circular":  # what is cropped does not come back on the other side
        first, size = max(-before, 0), n + min(before, 0) + min(after, 0)
        return (i - first) % max(size, 1) + first
    return (n - 1) - np.abs((n - 1) - np.abs(i))


class Runs:
    """How a tensor of `shape` and the padded one of shape `padded` share elements: for each dimension, runs (place in the padded one, place,
    length)."""

    def __init__(self, shape: tuple[int, ...], pairs: Pairs, mode: str) -> None:
        self.shape, self.padded = (
            shape,
            tuple(n + before + after for n, (before, after) in zip(shape, pairs, strict=True)),
        )
        self.runs = [self._of(n, *pair, mode) for n, pair in zip(shape, pairs, strict=True)]
        self.count = math.prod(len(runs) for runs in self.runs)
        flat = [v for runs in self.runs for v in (len(runs), *(v for run in runs for v in run))]
        self.table = ffi.new("int64_t[]", flat)

    @staticmethod
    def _of(n: int, before: int, after: int, mode: str) -> list[tuple[int, int, int]]:
        if before == after == 0:
            return [(0, 0, n)] if n else []
        index = _positions(mode, n, before, after)
        if not len(index):
            return []
        first = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist()]
        return [(a, int(index[a]), b - a) for a, b in zip(first, [*first[1:], len(index)], strict=True)]

    def __repr__(self) -> str:
        return f"{self.shape}to{self.padded}"


_runs = lru_cache(maxsize=256)(Runs)
MOST_RUNS = 400  # combinations of runs: beyond them, dimensions go one by one


def _places(run: tuple[tuple[int, int, int], ...], which: int) -> tuple[slice, ...]:
    return tuple(slice(r[which], r[which] + r[2]) for r in run)


def _border_ref(xp: Any, x: Any, *, runs: Runs) -> Any:
    out = xp.empty(runs.padded, x.dtype)
    for run in itertools.product(*runs.runs):
        out[_places(run, 0)] = x[_places(run, 1)]
    return out


def _fold_ref(xp: Any, x: Any, *, runs: Runs) -> Any:
    out = xp.zeros(runs.shape, x.dtype)
    for run in itertools.product(*runs.runs):
        out[_places(run, 1)] += x[_places(run, 0)]
    return out


def _border_samples(*, back: bool) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], Pairs, str]] = [
        ((2, 5, 6), ((0, 0), (1, 2), (2, 1)), "reflect"), ((2, 5, 6), ((0, 0), (1, 2), (2, 1)), "replicate"),
        ((2, 5, 6), ((0, 0), (3, 2), (0, 5)), "circular"), ((3, 7), ((0, 0), (-2, 3)), "circular"), ((3, 7), ((1, 1), (-1, -2)), "reflect"),
        ((0, 4), ((0, 0), (1, 1)), "replicate"), ((4,), ((-2, -2),), "replicate"),
    ]  # fmt: skip
    made = [_runs(*case) for case in cases]
    return [sample(r.padded if back else r.shape, runs=r) for r in made]


_border_pad = structured(
    "border_pad",
    inputs=("x",),
    attrs=("runs",),
    dtype=rules.promoted,
    ref=_border_ref,
    kernel=lambda x, *, runs: int(lib.tl_border_pad(x._array, runs.padded, runs.table, False)),
    vjp=(lambda g, runs: _border_fold(g, runs=runs),),
    samples=lambda: _border_samples(back=False),
    private=True,
)
_border_fold = structured(
    "border_fold",
    inputs=("x",),
    attrs=("runs",),
    dtype=rules.promoted,
    ref=_fold_ref,
    kernel=lambda x, *, runs: int(lib.tl_border_pad(x._array, runs.shape, runs.table, True)),
    vjp=(lambda g, runs: _border_pad(g, runs=runs),),
    samples=lambda: _border_samples(back=True),
    private=True,
)


def _pad_ref(xp: Any, x: Any, *, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    pairs = _pairs(x.shape, pad)
    if mode == "constant":
        return _constant_ref(xp, x, pad=pairs, value=value or 0)
    for dim, (before, after) in enumerate(pairs):
        if mode == "circular":
            n = x.shape[dim]
            x = x[(slice(None),) * dim + (slice(max(-before, 0), n - max(-after, 0)),)]
            before, after = max(before, 0), max(after, 0)
        width = [(0, 0)] * x.ndim
        width[dim] = (max(before, 0), max(after, 0))
        x = xp.pad(x, width, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])
        n = x.shape[dim]
        x = x[(slice(None),) * dim + (slice(max(-before, 0), n - max(-after, 0)),)]
    return x


def _pad_samples() -> list[Sample]:
    samples = [sample((2, 3), pad=()), sample((2, 3), pad=(1, 2, 0, -1), value=0.5), sample((0, 3), pad=(1, 1))]
    for mode in MODES[1:]:
        samples += [
            sample((2, 5), pad=(2, 3), mode=mode), sample((1, 2, 4, 5), pad=(1, 2, 0, 3), mode=mode),
            sample((2, 3, 4, 2), pad=(1, 0, 2, 1, 0, 2), mode=mode),
            sample((1, 25, 26), pad=(11, 12, 10, 9), mode=mode),
            sample((2, 6), pad=(-1, 2), mode=mode), sample((2, 6), pad=(2, -3), mode=mode), sample((0, 4), pad=(1, 1), mode=mode),
        ]  # fmt: skip
    return samples


@composite(
    "pad",
    inputs=("input",),
    attrs=("pad", "mode", "value"),
    ref=_pad_ref,
    samples=_pad_samples,
    rowwise=[sample((BATCH, 3, 9, 35), pad=(2, 3, 1, 0), mode=mode) for mode in MODES],
    errors=[
        error((2, 3), pad=(1,), raises=ValueError, match="pad has 1 numbers for a tensor of shape \\(2, 3\\)"),
        error((3,), pad=(1, 1, 1, 1), raises=ValueError, match="pad has 4 numbers"),
        error((3,), pad=(0.5, 1), raises=TypeError, match="expected a sequence of integers"),
        error((2, 3), pad=(-2, -2), raises=ValueError, match="dimension 1 has 3 elements, from which pad takes"),
        error((2, 3), pad=(3, 0), mode="reflect", raises=ValueError, match="reflect by \\(3, 0\\) needs more than the 3 elements of dimension 1"),
        error((2, 3), pad=(0, 4), mode="circular", raises=ValueError, match="circular by .*expected 3 at most"),
        error((2, 0), pad=(0, 4), mode="replicate", raises=ValueError, match="replicate by .*expected 0 at most"),
        error((2, 3), pad=(2**62, 2**62), raises=MemoryError, match="pad"),
        error((2, 3), pad=(2**62, 2**62), mode="replicate", raises=MemoryError, match="pad"),
        error((2, 3), pad=(2**40, 0), mode="replicate", raises=MemoryError, match="pad"),
        error((2, 3), pad=(1, 1), mode="mirror", raises=ValueError, match="pad: mode is 'mirror', expected one of constant"),
        error((2, 3), pad=(1, 1), mode="reflect", value=1.0, raises=ValueError, match="value 1.0 has no meaning with mode 'reflect'"),
    ],
)  # fmt: skip
def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Borders around a tensor. `pad` lists two numbers for each dimension, what comes before and what comes after, from the last dimension on;
    negative ones take away.

    Shapes:
        input: (..., H, W), pad: (left, right, top, bottom, ...)  ->  out: (..., top + H + bottom, left + W + right)

    `mode` says what the border holds: "constant" `value` (0), "reflect" the tensor mirrored at its first and last element, "replicate"
    the element next to it, "circular" the other end.

    >>> x = tl.tensor([1, 2, 3])
    >>> tl.pad(x, (1, 2)).tolist(), tl.pad(x, (1, 2), mode="reflect").tolist(), tl.pad(x, (0, -1)).tolist()
    ([0, 1, 2, 3, 0, 0], [2, 1, 2, 3, 2, 1], [1, 2])
    """
    if mode not in MODES:
        raise ValueError(f"pad: mode is {mode!r}, expected one of {', '.join(MODES)}.")
    pairs = _pairs(input.shape, pad)
    _check(input.shape, pairs, mode)
    dims = [n + before + after for n, (before, after) in zip(input.shape, pairs, strict=True)]
    ops.creation.check_room("pad", dims, input.dtype)
    if mode == "constant":
        return _constant_pad(input, pad=pairs, value=0 if value is None else value)
    if value is not None:
        raise ValueError(f"pad: value {value} has no meaning with mode {mode!r}.")
    runs = _runs(input.shape, pairs, mode)
    if runs.count <= MOST_RUNS:
        return _border_pad(input, runs=runs)
    for dim, (before, after) in enumerate(pairs):
        if before or after:
            index = ops.creation.tensor(_positions(mode, input.shape[dim], before, after), device=input.device)
            input = ops.positions.index_select(input, dim, index)
    return input
