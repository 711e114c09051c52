"""Operations that move, repeat or mask elements without computing with them; those that merely change the view live in shape.py."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib import ops
from tensorlib.errors import DTypeError, IndexRangeError, ShapeError
from tensorlib.ops import joins, rules, shape
from tensorlib.ops.declare import composite, structured
from tensorlib.ops.shape import normalize_dim, normalize_dims
from tensorlib.ops.table import BATCH, Draw, Sample, error, sample
from tensorlib.tensor import Tensor

__all__ = [
    "atleast_1d", "atleast_2d", "atleast_3d", "block_diag", "cartesian_prod", "column_stack", "dstack", "flip", "fliplr",
    "flipud", "hstack", "meshgrid", "one_hot", "repeat", "repeat_interleave", "roll", "rot90", "row_stack", "tile", "vstack",
]  # fmt: skip
METHODS = ("flip", "fliplr", "flipud", "repeat", "repeat_interleave", "roll", "rot90", "tile")
INPLACE: tuple[str, ...] = ()


def _ints(first: Any, more: tuple[int, ...] = ()) -> tuple[int, ...]:
    """f(2, 3), f((2, 3)) and f(dims=(2, 3)) mean the same."""
    values = tuple(first) if isinstance(first, (tuple, list)) and not more else (first, *more)
    return tuple(operator.index(v) for v in values)


def _listed(tensors: tuple[Any, ...]) -> list[Tensor]:
    """f(a, b) and f([a, b]) mean the same."""
    return list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else list(tensors)


# ---- reversing and rotating ----


def flip(input: Tensor, dims: Any, *more: int) -> Tensor:
    """The elements in reverse order along `dims`; a copy, since views here have positive steps.

    Shapes:
        input: (...)  ->  out: as input

    >>> tl.flip(tl.tensor([[1, 2], [3, 4]]), 1).tolist()
    [[2, 1], [4, 3]]
    """
    return _flip(input, dims=normalize_dims("flip", _ints(dims, more), input.ndim))


_flip = structured(
    "flip",
    inputs=("x",),
    attrs=("dims",),
    dtype=rules.promoted,
    ref=lambda xp, x, *, dims: xp.flip(x, axis=dims).copy(),
    vjp=(lambda g, *, dims: _flip(g, dims=dims),),
    samples=[
        sample((5,), dims=(0,)),
        sample((2, 3, 4), dims=(0, 2)),
        sample((0, 3), dims=(1,)),
        sample((2, 2), dims=()),
    ],
    errors=[error((2, 3), dims=(2,), raises=IndexError, match="flip.*2")],
)


def fliplr(input: Tensor) -> Tensor:
    """The columns in reverse order: ``flip(input, 1)``.

    >>> tl.fliplr(tl.tensor([[1, 2], [3, 4]])).tolist()
    [[2, 1], [4, 3]]
    """
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """The rows in reverse order: ``flip(input, 0)``.

    >>> tl.flipud(tl.tensor([1, 2, 3])).tolist()
    [3, 2, 1]
    """
    return flip(input, 0)


def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """Elements moved forward by `shifts` along `dims`; what falls off the end comes in at the start. Without `dims`, input is rolled as if flat.

    Shapes:
        input: (...)  ->  out: as input

    >>> tl.roll(tl.tensor([1, 2, 3, 4]), 1).tolist()
    [4, 1, 2, 3]
    """
    by = _ints(shifts)
    if dims is None:
        if len(by) != 1:
            raise ShapeError(f"roll: {len(by)} shifts without dims; expected one shift, or one dim for each.")
        return _roll(input.reshape(-1), shifts=by, dims=(0,)).reshape(input.shape)
    along = tuple(normalize_dim("roll", d, input.ndim) for d in _ints(dims))
    if len(by) != len(along):
        raise ShapeError(f"roll: {len(by)} shifts but {len(along)} dims; expected one shift per dim.")
    return _roll(input, shifts=by, dims=along)


_roll = structured(
    "roll",
    inputs=("x",),
    attrs=("shifts", "dims"),
    dtype=rules.promoted,
    ref=lambda xp, x, *, shifts, dims: xp.roll(x, shifts, axis=dims),
    vjp=(lambda g, *, shifts, dims: _roll(g, shifts=tuple(-s for s in shifts), dims=dims),),
    samples=[
        sample((5,), shifts=(2,), dims=(0,)), sample((3, 4), shifts=(-1, 6), dims=(0, 1)), sample((2, 3), shifts=(1, 1), dims=(1, 1)),
        sample((0, 3), shifts=(1,), dims=(0,)),
    ],
    errors=[
        error((2, 3), shifts=(1, 2), dims=(0,), raises=ValueError, match="roll: 2 shifts but 1 dims"),
        error((2, 3), shifts=(1, 2), dims=None, raises=ValueError, match="roll: 2 shifts without dims"),
    ],
)  # fmt: skip


@composite(
    "rot90",
    inputs=("input",),
    attrs=("k", "dims"),
    ref=lambda xp, x, *, k, dims: xp.rot90(x, k, axes=dims),
    samples=[sample((2, 3, 4), k=k, dims=(0, 1)) for k in range(-1, 4)] + [sample((2, 3, 4), k=1, dims=(2, 0))],
    errors=[error((2, 3), k=1, dims=(0, 0), raises=ValueError, match="rot90: expected two different dims")],
)
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Rotate by 90 degrees, `k` times, from the first towards the second of `dims`.

    Shapes:
        input: (..., A, ..., B, ...)  ->  out: as input; A and B swapped where k is odd

    >>> tl.rot90(tl.tensor([[1, 2], [3, 4]])).tolist()
    [[2, 4], [1, 3]]
    """
    along = [normalize_dim("rot90", d, input.ndim) for d in dims]
    if len(along) != 2 or along[0] == along[1]:
        raise ShapeError(f"rot90: expected two different dims, got {tuple(dims)}.")
    a, b = along
    if k % 4 == 0:
        return shape.clone(input)
    if k % 4 == 2:
        return flip(input, a, b)
    return flip(input, b).transpose(a, b) if k % 4 == 1 else flip(input.transpose(a, b), b)


# ---- repeating ----


@composite(
    "repeat",
    inputs=("input",),
    attrs=("repeats",),
    ref=lambda xp, x, *, repeats: xp.tile(x, repeats),
    samples=[
        sample((3,), repeats=(2,)), sample((2, 3), repeats=(4, 1, 2)), sample((2, 3), repeats=(0, 2)), sample((), repeats=(2, 2)),
        sample((2, 3), repeats=(1, 1)),
    ],
    errors=[
        error((2, 3), repeats=(2,), raises=ValueError, match="repeat: 1 repeats for 2 dimensions"),
        error((2, 3), repeats=(2, -1), raises=ValueError, match="repeat: repeats must not be negative"),
    ],
)  # fmt: skip
def repeat(input: Tensor, repeats: Any, *more: int) -> Tensor:
    """input laid side by side `repeats[i]` times along each dimension; more repeats than dimensions add dimensions in front.

    Shapes:
        input: (d1, ..., dn)  ->  out: (..., r1 * d1, ..., rn * dn)

    >>> tl.repeat(tl.tensor([1, 2]), 2, 2).tolist()
    [[1, 2, 1, 2], [1, 2, 1, 2]]
    """
    times = _ints(repeats, more)
    extra = len(times) - input.ndim
    if extra < 0:
        raise ShapeError(
            f"repeat: {len(times)} repeats for {input.ndim} dimensions (shape {input.shape}); expected at least one per dimension."
        )
    if any(n < 0 for n in times):
        raise ShapeError(f"repeat: repeats must not be negative, got {times}.")
    old = (1,) * extra + input.shape
    if all(n == 1 for n in times):
        return shape.clone(input).reshape(old)
    # (d1, d2) -> (1, d1, 1, d2) -> (r1, d1, r2, d2) without a copy; the last reshape makes the only one.
    apart = tuple(n for d in old for n in (1, d))
    spread = tuple(n for r, d in zip(times, old, strict=True) for n in (r, d))
    return input.reshape(apart).expand(spread).reshape(tuple(r * d for r, d in zip(times, old, strict=True)))


def tile(input: Tensor, dims: Any, *more: int) -> Tensor:
    """As `repeat`, but fewer repeats than dimensions are filled up with ones in front.

    >>> tl.tile(tl.tensor([[1, 2]]), 2).tolist()
    [[1, 2, 1, 2]]
    """
    times = _ints(dims, more)
    return repeat(input, (1,) * (input.ndim - len(times)) + times)


def _repeat_interleave_ref(xp: Any, x: Any, *, repeats: Any, dim: int | None) -> Any:
    return xp.repeat(x, repeats, axis=dim)


@composite(
    "repeat_interleave",
    inputs=("input",),
    attrs=("repeats", "dim"),
    ref=_repeat_interleave_ref,
    samples=[
        sample((3,), repeats=2, dim=None), sample((2, 3), repeats=3, dim=1), sample((2, 3), repeats=2, dim=None), sample((2, 3), repeats=0, dim=0),
        sample((2, 3), repeats=[1, 0, 2], dim=1), sample((2, 2), repeats=[1, 0, 2, 1], dim=None), sample((2, 3), repeats=[2], dim=1),
    ],
    errors=[
        error((2, 3), repeats=[1, 2], dim=1, raises=ValueError, match="repeat_interleave: 2 repeats for dimension 1 of size 3"),
        error((2, 3), repeats=-1, dim=1, raises=ValueError, match="repeat_interleave: repeats must not be negative"),
        error((2, 3), repeats=2, dim=1, output_size=5, raises=ValueError, match="repeat_interleave: output_size is 5, but the repeats make 6"),
    ],
)  # fmt: skip
def repeat_interleave(
    input: Tensor, repeats: int | Sequence[int] | Tensor, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element `repeats` times in a row, along `dim` or, without it, of the flat input. `repeats` is one number or one for each element;
    `output_size` may say how many elements that makes along `dim`.

    Shapes:
        input: (..., L, ...), repeats: () or (L,)  ->  out: (..., sum of repeats, ...)

    >>> tl.repeat_interleave(tl.tensor([1, 2, 3]), 2).tolist()
    [1, 1, 2, 2, 3, 3]
    >>> tl.repeat_interleave(tl.tensor([1, 2, 3]), [2, 0, 1]).tolist()
    [1, 1, 3]
    """
    if dim is None:
        input, dim = input.reshape(-1), 0
    dim = normalize_dim("repeat_interleave", dim, input.ndim)
    size = input.shape[dim]
    counts = np.asarray(repeats.tolist() if isinstance(repeats, Tensor) else repeats, dtype=np.int64)
    if counts.size and counts.min() < 0:
        raise ShapeError(f"repeat_interleave: repeats must not be negative, got {int(counts.min())}.")
    made = int(counts.sum()) * (size if counts.size == 1 else 1)
    if output_size not in (None, made):
        raise ShapeError(f"repeat_interleave: output_size is {output_size}, but the repeats make {made}.")
    if counts.size == 1:
        times = int(counts.reshape(-1)[0])
        before, after = input.shape[:dim], input.shape[dim + 1 :]
        return input.unsqueeze(dim + 1).expand((*before, size, times, *after)).reshape((*before, size * times, *after))
    if counts.shape != (size,):
        raise ShapeError(
            f"repeat_interleave: {counts.size} repeats for dimension {dim} of size {size}; expected one, or one per element."
        )
    places = np.repeat(np.arange(size), counts)
    return ops.positions.index_select(input, dim, ops.creation.tensor(places, device=input.device))


# ---- joining ----


def _at_least(x: Tensor, ndim: int) -> Tensor:
    """x with dimensions of size 1 added as NumPy's atleast_*d do: () -> (1, ...); (N,) -> (1, N) or (1, N, 1); (M, N) -> (M, N, 1)."""
    if x.ndim >= ndim:
        return x
    if x.ndim == 0:
        return x.reshape((1,) * ndim)
    if x.ndim == 1:
        x = x.unsqueeze(0)
    return x if ndim == 2 else x.unsqueeze(2)


def _each(tensors: tuple[Any, ...], ndim: int) -> Any:
    made = tuple(_at_least(x, ndim) for x in _listed(tensors))
    alone = len(tensors) == 1 and not isinstance(tensors[0], (tuple, list))
    return made[0] if alone else made


def atleast_1d(*tensors: Any) -> Any:
    """A 0-dimensional tensor becomes one of shape (1,), others stay; several tensors give a tuple.

    >>> tl.atleast_1d(tl.tensor(5)).shape
    (1,)
    """
    return _each(tensors, 1)


def atleast_2d(*tensors: Any) -> Any:
    """Dimensions of size 1 added in front until there are two; several tensors give a tuple.

    >>> tl.atleast_2d(tl.tensor([1, 2, 3])).shape
    (1, 3)
    """
    return _each(tensors, 2)


def atleast_3d(*tensors: Any) -> Any:
    """As `atleast_2d`, then one behind: (N,) becomes (1, N, 1) and (M, N) becomes (M, N, 1); several tensors give a tuple.

    >>> tl.atleast_3d(tl.tensor([1, 2, 3])).shape
    (1, 3, 1)
    """
    return _each(tensors, 3)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined side by side: along dimension 1, or 0 for 1-dimensional tensors.

    >>> tl.hstack([tl.tensor([1, 2]), tl.tensor([3])]).tolist()
    [1, 2, 3]
    """
    parts = [_at_least(x, 1) for x in tensors]
    return joins.cat(parts, 0 if parts and parts[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined below each other, along dimension 0; a 1-dimensional tensor is a row.

    >>> tl.vstack([tl.tensor([1, 2]), tl.tensor([3, 4])]).tolist()
    [[1, 2], [3, 4]]
    """
    return joins.cat([_at_least(x, 2) for x in tensors], 0)


row_stack = vstack


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 2, after `atleast_3d`.

    >>> tl.dstack([tl.tensor([1, 2]), tl.tensor([3, 4])]).tolist()
    [[[1, 3], [2, 4]]]
    """
    return joins.cat([_at_least(x, 3) for x in tensors], 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 1; a 0- or 1-dimensional tensor is a column.

    >>> tl.column_stack([tl.tensor([1, 2]), tl.tensor([3, 4])]).tolist()
    [[1, 3], [2, 4]]
    """
    return joins.cat([x.reshape(-1, 1) if x.ndim < 2 else x for x in tensors], 1)


def block_diag(*tensors: Tensor) -> Tensor:
    """The matrices along the diagonal of one big matrix, zeros elsewhere; fewer than 2 dimensions count as a row.

    Shapes:
        tensors: (M_i, N_i)  ->  out: (sum of M_i, sum of N_i)

    >>> tl.block_diag(tl.tensor([[1, 2]]), tl.tensor([[3]])).tolist()
    [[1, 2, 0], [0, 0, 3]]
    """
    blocks = [_at_least(x, 2) for x in _listed(tensors)]
    for i, x in enumerate(blocks):
        if x.ndim != 2:
            raise ShapeError(f"block_diag: tensor {i} has {x.ndim} dimensions (shape {x.shape}); expected at most 2.")
    width, left, rows = sum(x.shape[1] for x in blocks), 0, []
    for x in blocks:
        height, own = x.shape
        gaps = [ops.creation.zeros((height, n), dtype=x.dtype, device=x.device) for n in (left, width - left - own)]
        rows.append(joins.cat([gaps[0], x, gaps[1]], 1))
        left += own
    return joins.cat(rows, 0)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """The coordinates of a grid: one tensor for each given axis, all of the grid's shape, as views.

    Shapes:
        tensors: (N_i,) or ()  ->  each: (N_1, N_2, ...); with indexing="xy" the first two are swapped, (N_2, N_1, ...)

    >>> [m.tolist() for m in tl.meshgrid(tl.tensor([1, 2]), tl.tensor([3, 4]))]
    [[[1, 1], [2, 2]], [[3, 4], [3, 4]]]
    """
    if indexing not in ("ij", "xy"):
        raise ShapeError(f'meshgrid: indexing must be "ij" or "xy", got {indexing!r}.')
    axes = _listed(tensors)
    for i, x in enumerate(axes):
        if x.ndim > 1:
            raise ShapeError(f"meshgrid: tensor {i} has shape {x.shape}; expected at most 1 dimension.")
    grid = tuple(1 if x.ndim == 0 else x.shape[0] for x in axes)
    made = [x.reshape((1,) * i + (grid[i],) + (1,) * (len(grid) - i - 1)).expand(grid) for i, x in enumerate(axes)]
    return tuple(m.transpose(0, 1) for m in made) if indexing == "xy" and len(grid) > 1 else tuple(made)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of one element from each 1-dimensional tensor, in reading order.

    Shapes:
        tensors: (N_i,)  ->  out: (N_1 * N_2 * ..., number of tensors); (N_1,) for a single tensor

    >>> tl.cartesian_prod(tl.tensor([1, 2]), tl.tensor([3, 4])).tolist()
    [[1, 3], [1, 4], [2, 3], [2, 4]]
    """
    if len(tensors) == 1:
        return tensors[0]
    return joins.stack([m.reshape(-1) for m in meshgrid(*tensors)], 1)


# ---- one_hot ----


def one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """Class numbers as rows with a single 1; `num_classes` defaults to one more than the greatest.

    Shapes:
        input: (...) integer in [0, num_classes)  ->  out: (..., num_classes), int64

    >>> tl.one_hot(tl.tensor([0, 2])).tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    if input.dtype.category != 1:
        raise DTypeError(f"one_hot: expected integer class numbers, got {input.dtype.name}.")
    if num_classes == -1:
        if input.numel() == 0:
            raise ShapeError("one_hot: num_classes can not be told from an empty tensor; expected it to be given.")
        num_classes = int(input.amax().item()) + 1
    return _one_hot(input, num_classes=num_classes)


def _one_hot_ref(xp: Any, x: Any, *, num_classes: int) -> Any:
    if x.size and (x.min() < 0 or x.max() >= num_classes):
        bad = int(x.min()) if x.min() < 0 else int(x.max())
        raise IndexRangeError(
            f"one_hot: class {bad} is out of range for num_classes {num_classes}; expected 0 <= class < num_classes."
        )
    return (x[..., None] == xp.arange(num_classes)).astype(xp.int64)


def _one_hot_samples() -> list[Sample]:
    shapes: list[tuple[int, ...]] = [(), (5,), (2, 3), (0, 2)]
    return [sample(Draw(s, 0, 4, dtype="int64"), num_classes=n) for s in shapes for n in (4, 6)]


_one_hot = structured(
    "one_hot",
    inputs=("x",),
    attrs=("num_classes",),
    dtype=rules.index,
    ref=_one_hot_ref,
    samples=_one_hot_samples,
    rowwise=lambda: [sample(Draw((BATCH,), 0, 5, dtype="int64"), num_classes=5)],
    errors=[
        error(
            Draw((3,), dtype="int64", values=[0, 4, 1]),
            num_classes=3,
            raises=IndexError,
            match="one_hot: class 4 is out of range",
        ),
        error((3,), num_classes=3, raises=TypeError, match="one_hot: expected integer class numbers"),
    ],
)
