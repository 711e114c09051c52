"""Reading and writing by position on a GPU: embedding, gather, scatter_add, index_select and what stands behind subscripts (indexing.cu).

Sums at places that repeat are added in an order that positions alone fix, without atomics, so the bits are the same every time; 16-bit floats are
added in float and rounded once. An index out of range is told where the host next waits (checks.py).
"""

from __future__ import annotations

import math

from tensorlib.dtypes import int32, int64
from tensorlib.errors import IndexRangeError
from tensorlib.gpu import checks, gradient_lane, lane
from tensorlib.gpu.launch import Source, empty
from tensorlib.gpu.rows import BLOCK, COMPUTED, aligned, blocks
from tensorlib.ops.creation import full, zeros
from tensorlib.ops.fused import BY_FREQUENCY, SPARSE
from tensorlib.ops.gather import range_error
from tensorlib.tensor import Tensor

__all__: list[str] = []

SOURCE = Source("indexing.cu")
TILE, DIGITS, BITS, PIECE = 1024, 256, 8, 64  # indexing.cu's
ADDED = {*COMPUTED, int32, int64}


def _range(value: int, name: str, dim: int, size: int, low: int) -> Exception:
    return range_error(name, value, dim, size, low)


def _no_row(value: int, rows: int) -> Exception:
    return IndexRangeError(f"embedding: index {value} is out of range; expected one in [0, {rows}).")


def _note(x: Tensor, words: object, *facts: object) -> tuple[int, int]:
    return checks.report(x.device), checks.site(words, *facts)  # type: ignore[arg-type]


def _positions(index: Tensor) -> Tensor:
    return index.to(int64).contiguous()


def _words(x: Tensor, q: int) -> tuple[int, int]:
    """The bytes of the largest word that `q` neighbouring elements are whole numbers of, and how many."""
    size = q * x.dtype.itemsize
    word = math.gcd(size, 16)
    return word, size // word


def _sizes(shape: tuple[int, ...], dim: int, ndims: int = 1) -> tuple[int, int, int]:
    return math.prod(shape[:dim]), math.prod(shape[dim : dim + ndims]), math.prod(shape[dim + ndims :])


# ---- reading ----


def _read(x: Tensor, index: Tensor, dim: int, ndims: int, low: bool, note: tuple[int, int]) -> Tensor | None:
    """x's slices at flat positions within `ndims` dimensions; `low`: negative ones count from the end."""
    p, length, q = _sizes(x.shape, dim, ndims)
    out = empty((*x.shape[:dim], *index.shape, *x.shape[dim + ndims :]), x.dtype, x.device)
    if out.numel():
        word, per = _words(x, q)
        n = p * index.numel() * per
        SOURCE("read_slices", W=word)(
            blocks(n), BLOCK, out, aligned(x), _positions(index), n, length, index.numel(), per, -length if low else 0, *note
        )  # fmt: skip
    return out


@lane("embedding")
def embedding(weight: Tensor, index: Tensor, *, padding_idx: int, how: int) -> Tensor | None:
    return _read(weight, index, 0, 1, False, _note(weight, _no_row, weight.shape[0]))


@lane("index_select")
def index_select(x: Tensor, index: Tensor, *, dim: int) -> Tensor | None:
    return _read(x, index, dim, 1, True, _note(x, _range, "index_select", dim, x.shape[dim], -x.shape[dim]))


@lane("index_read")
def index_read(x: Tensor, index: Tensor, *, dim: int, ndims: int) -> Tensor | None:
    size = _sizes(x.shape, dim, ndims)[1]
    return _read(x, index, dim, ndims, True, _note(x, _range, "indexing", dim, size, -size))


@lane("gather")
def gather(x: Tensor, index: Tensor, *, dim: int) -> Tensor | None:
    for d, n in enumerate(index.shape):
        if d != dim and n != x.shape[d]:
            x = x.narrow(d, 0, n)
    out = empty(index.shape, x.dtype, x.device)
    if out.numel():
        _, length, q = _sizes(x.shape, dim)
        SOURCE("read_elements", W=x.dtype.itemsize)(
            blocks(out.numel()), BLOCK, out, x.contiguous(), _positions(index), out.numel(), length, index.shape[dim], q,
            *_note(x, _range, "gather", dim, length, 0),
        )  # fmt: skip
    return out


# ---- writing ----


def _keys(index: Tensor, rows: int, low: int, note: tuple[int, int]) -> Tensor:
    """The place of each position, -1 where there is none."""
    keys = empty((index.numel(),), int64, index.device)
    SOURCE("slice_keys")(blocks(keys.numel()), BLOCK, keys, _positions(index), keys.numel(), rows, low, *note)
    return keys


def _sorted(keys: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """The keys in order, and where each stood."""
    n, tiles = keys.numel(), -(-keys.numel() // TILE)
    positions: Tensor | None = None
    for shift in range(
        0, max((places - 1).bit_length(), 1) + 1, BITS
    ):  # one bit more than places have: -1 is behind them
        counts, after, moved = (empty((m,), int64, keys.device) for m in (DIGITS * tiles, n, n))
        SOURCE("digits")(tiles, DIGITS, counts, keys, n, shift)
        SOURCE("offsets")(1, 1024, counts, DIGITS * tiles)
        SOURCE("reorder")(tiles, DIGITS, after, moved, keys, positions, counts, n, shift)
        keys, positions = after, moved
    assert positions is not None
    return keys, positions


def _add(
    out: Tensor, value: Tensor, keys: Tensor, p: int, places: int, q: int, skipped: int = -1, mean: bool = False
) -> Tensor:
    """out (P, places, Q), in place, with value (P, n, Q) added at the keys (n): in the order of positions, 64 of them at a time."""
    ordered, positions = _sorted(keys, places)
    across = min(1 << max(q - 1, 0).bit_length(), 128)
    together = BLOCK // across
    n, value = keys.numel(), value.contiguous()
    pieces = -(-n // PIECE)
    parts = empty((p, pieces, q), COMPUTED.get(out.dtype, out.dtype), out.device)
    block = across, together
    SOURCE("run_parts", T=out.dtype)(-(-pieces // together), block, parts, value, ordered, positions, p, n, q)
    SOURCE("add_runs", T=out.dtype)(
        -(-n // together), block, out, value, parts, ordered, positions, p, n, places, q, skipped, mean
    )
    return out


def _write(out: Tensor, value: Tensor, keys: Tensor, p: int, places: int, q: int) -> Tensor:
    """The same with the last value written."""
    word, per = _words(out, q)
    n, last = keys.numel(), full((places,), -1, dtype=int64, device=out.device)
    SOURCE("find_last", W=word)(blocks(n), BLOCK, last, keys, n)
    SOURCE("write_last", W=word)(
        blocks(p * n * per), BLOCK, out, aligned(value), last, keys, p * n * per, n, places, per
    )
    return out


@gradient_lane("embedding")
def embedding_grad(
    wanted: tuple[bool, ...], g: Tensor, weight_shape: tuple[int, ...], index: Tensor, padding_idx: int, how: int
) -> tuple[Tensor | None, ...] | None:
    if how == SPARSE or g.dtype not in COMPUTED:
        return None
    made = zeros(weight_shape, dtype=g.dtype, device=g.device)
    if g.numel():
        keys = _keys(index, weight_shape[0], 0, _note(g, _no_row, weight_shape[0]))
        _add(made, g, keys, 1, weight_shape[0], weight_shape[1], padding_idx, how == BY_FREQUENCY)
    return made, None


@lane("index_write")
def index_write(x: Tensor, index: Tensor, value: Tensor, *, dim: int, ndims: int, accumulate: bool) -> Tensor | None:
    if value.dtype is not x.dtype or (accumulate and x.dtype not in ADDED):
        return None
    p, places, q = _sizes(x.shape, dim, ndims)
    out = x.clone() if x.is_contiguous() else x.contiguous()
    if value.numel():
        keys = _keys(index, places, -places, _note(x, _range, "indexing", dim, places, -places))
        value = value.expand((*x.shape[:dim], *index.shape, *x.shape[dim + ndims :]))
        (_add if accumulate else _write)(out, value, keys, p, places, q)
    return out


def _scattered(name: str, x: Tensor, index: Tensor, src: Tensor, dim: int, accumulate: bool) -> Tensor | None:
    if src.dtype is not x.dtype or any(d != dim and n != x.shape[d] for d, n in enumerate(index.shape)):
        return None
    if accumulate and x.dtype not in ADDED:
        return None
    out = x.clone() if x.is_contiguous() else x.contiguous()
    if index.numel():
        _, length, q = _sizes(x.shape, dim)
        keys = empty((index.numel(),), int64, x.device)
        SOURCE("element_keys")(
            blocks(keys.numel()), BLOCK, keys, _positions(index), keys.numel(), length, index.shape[dim], q,
            *_note(x, _range, name, dim, length, 0),
        )  # fmt: skip
        (_add if accumulate else _write)(out, src, keys, 1, x.numel(), 1)
    return out


@lane("scatter_add")
def scatter_add(x: Tensor, index: Tensor, src: Tensor, *, dim: int) -> Tensor | None:
    return _scattered("scatter_add", x, index, src, dim, True)


@lane("scatter")
def scatter(x: Tensor, index: Tensor, src: Tensor, *, dim: int) -> Tensor | None:
    return _scattered("scatter", x, index, src, dim, False)
