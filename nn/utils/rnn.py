"""Sequences of different lengths as one batch, without padding.

A `PackedSequence` holds the elements of all sequences as the rows of one tensor, in order of time: the first element of each sequence, the longest
sequence first, then the second element of those that have one, and so on. Whatever treats each row by itself takes it as it takes a tensor:
``tl.tanh(packed)``, ``2 * packed``, ``nn.Linear(8, 4)(packed)``, ``nn.LayerNorm``, ``F.cross_entropy(packed, packed_targets)``.

Dimension letters: B sequences, T the longest one's length, L the length of one, N all lengths together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial, wraps
from operator import index as as_integer
from typing import Any, TypeVar, cast

import numpy as np

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.utils.states import detach_states, select_states

__all__ = [
    "PackedSequence", "by_rows", "detach_states", "invert_permutation", "pack_padded_sequence", "pack_sequence", "packed_collate",
    "pad_packed_sequence", "pad_sequence", "select_states", "unpack_sequence", "unpad_sequence",
]  # fmt: skip

_Array = np.ndarray[Any, Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Layout:
    """Where the rows of a packed batch come from, found out once and shared.

    `sizes` (T,): sequences with a step t; `starts` (T + 1,): the first row of each step; `lengths` (batch,): by falling length, maybe 0 at the end;
    `order` (batch,): which of the given sequences comes first, second ...; None: they were given so.
    """

    def __init__(self, sizes: _Array, batch: int, order: _Array | None) -> None:
        self.sizes, self.batch, self.order = sizes, batch, order
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.lengths = (sizes[None, :] > np.arange(batch)[:, None]).sum(1)
        self.steps, self.rows = len(sizes), int(self.starts[-1])

    def given(self, by_length: _Array) -> _Array:
        """(B, ...) by falling length, in the order in which the sequences were given."""
        return by_length if self.order is None else by_length[np.argsort(self.order)]

    def place_of_row(self) -> _Array:
        """(N,): the sequence of each row, as a place in the order by falling length."""
        return np.arange(self.rows) - np.repeat(self.starts[:-1], self.sizes)

    def sequence_of_row(self) -> _Array:
        """(N,): the sequence of each row, as they were given."""
        place = self.place_of_row()
        return place if self.order is None else self.order[place]

    def step_of_row(self) -> _Array:
        return np.repeat(np.arange(self.steps), self.sizes)

    def rows_by_sequence(self) -> _Array:
        """(N,): the rows of the longest sequence, then those of the next ..."""
        place = np.repeat(np.arange(self.batch), self.lengths)
        step = np.arange(len(place)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        return cast("_Array", self.starts[step] + place)


class PackedSequence(tl.RowMethods):
    """A batch of sequences of different lengths, as `pack_sequence` and `pack_padded_sequence` make it.

    Attributes:
        data: (N, ...) all elements, in order of time
        batch_sizes: (T,) int64 on the CPU, how many sequences have a step t
        sorted_indices: (B,) int64, which of the given sequences comes first, second ... by falling length; None where they were given so
        unsorted_indices: its inverse

    It has the methods and operators of a tensor that take each row by itself (`tl.RowMethods`). Sums, means and the like over each sequence are
    methods too; their results are tensors in the order in which the sequences were given.

    >>> packed = tl.nn.utils.rnn.pack_sequence([tl.tensor([1.0]), tl.tensor([2.0, 4.0])], enforce_sorted=False)
    >>> packed.data.tolist(), packed.batch_sizes.tolist()
    ([2.0, 1.0, 4.0], [2, 1])
    >>> (packed * 10).mean().tolist()
    [10.0, 30.0]
    """

    _FIELDS = ("data", "batch_sizes", "sorted_indices", "unsorted_indices")
    __slots__ = ("_layout", *_FIELDS)

    def __init__(
        self, data: Tensor, batch_sizes: Tensor | None = None, sorted_indices: Tensor | None = None, unsorted_indices: Tensor | None = None
    ) -> None:  # fmt: skip
        if not isinstance(batch_sizes, Tensor):
            raise TypeError(f"PackedSequence: batch_sizes must be a tensor, got {type(batch_sizes).__name__}.")
        if batch_sizes.device.type != "cpu" or batch_sizes.ndim != 1 or batch_sizes.dtype is not tl.int64:
            raise tl.ShapeError(
                f"PackedSequence: batch_sizes must be a 1-d int64 tensor on the CPU, got {batch_sizes.dtype.name} of shape {batch_sizes.shape}."
            )
        sizes = batch_sizes.numpy()
        if (sizes < 1).any() or (np.diff(sizes) > 0).any() or sizes.sum() != data.shape[0]:
            raise tl.ShapeError(
                f"PackedSequence: batch_sizes must be positive, never rise, and add up to the {data.shape[0]} rows of data, got {sizes.tolist()[:8]}."
            )
        order = None if sorted_indices is None else sorted_indices.cpu().numpy()
        batch = int(sizes[0]) if len(sizes) else 0
        if order is not None and (len(order) < batch or (np.sort(order) != np.arange(len(order))).any()):
            raise tl.ShapeError(
                f"PackedSequence: sorted_indices must be a permutation of at least {batch} sequences, got {order.tolist()[:8]}."
            )
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        layout = _Layout(sizes, batch if order is None else len(order), order)
        self._set(data, batch_sizes, sorted_indices, unsorted_indices, layout)

    def _set(
        self, data: Tensor, batch_sizes: Tensor, sorted_indices: Tensor | None, unsorted_indices: Tensor | None, layout: _Layout
    ) -> None:  # fmt: skip
        self.data, self.batch_sizes, self._layout = data, batch_sizes, layout
        self.sorted_indices, self.unsorted_indices = sorted_indices, unsorted_indices

    def with_data(self, data: Tensor) -> PackedSequence:
        """The same sequences with other elements, row for row."""
        if data.ndim == 0 or data.shape[0] != self.data.shape[0]:
            raise tl.ShapeError(
                f"PackedSequence: expected {self.data.shape[0]} rows, got a tensor of shape {data.shape}."
            )
        order, back = self.sorted_indices, self.unsorted_indices
        if order is not None and back is not None and order.device != data.device:
            order, back = order.to(data.device), back.to(data.device)
        made = PackedSequence.__new__(type(self))
        made._set(data, self.batch_sizes, order, back, self._layout)
        return made

    def with_padded(self, padded: Tensor) -> PackedSequence:
        """The same sequences with the elements of a padded batch, (B, T, ...)."""
        if padded.ndim < 2 or padded.shape[0] != self._layout.batch or padded.shape[1] < self._layout.steps:
            raise tl.ShapeError(
                f"PackedSequence: expected ({self._layout.batch}, {self._layout.steps}, ...) elements, got {padded.shape}."
            )
        return self.with_data(_packed_rows(padded, self._layout, batch_first=True))

    # ---- as a tensor of rows ----

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def device(self) -> Any:
        return self.data.device

    @property
    def requires_grad(self) -> bool:
        return self.data.requires_grad

    @property
    def is_cuda(self) -> bool:
        return bool(self.data.device.type == "cuda")

    @property
    def lengths(self) -> Tensor:
        """(B,) int64 on the CPU, in the order in which the sequences were given."""
        return tl.tensor(self._layout.given(self._layout.lengths), device="cpu")

    def numel(self) -> int:
        return self.data.numel()

    def detach(self) -> PackedSequence:
        return self.with_data(self.data.detach())

    def map_rows(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `function` makes of the rows: packed arguments go in as their data, results with as many rows come out packed.

        Raises:
            ShapeError: where sequences of two arguments differ in length.

        >>> packed = tl.nn.utils.rnn.pack_sequence([tl.ones(2, 3), tl.zeros(1, 3)])
        >>> packed.map_rows(lambda a, b: (a - b).square().sum(-1), packed, packed * 2).data.shape
        (3,)
        """
        made = function(*map(self._rows, args), **{k: self._rows(x) for k, x in kwargs.items()})
        return tuple(map(self._packed, made)) if isinstance(made, tuple) else self._packed(made)

    def _rows(self, x: Any) -> Any:
        if isinstance(x, PackedSequence):
            self.check_lengths(x)
            return x.data
        return [self._rows(part) for part in x] if isinstance(x, list) else x

    def _packed(self, made: Any) -> Any:
        fits = isinstance(made, Tensor) and made.ndim and made.shape[0] == self.data.shape[0]
        return self.with_data(made) if fits else made

    def check_lengths(self, other: PackedSequence, name: str = "PackedSequence") -> None:
        """Raise a ShapeError that begins with `name` unless the sequences of `other` are as long as these, one by one."""
        own, theirs = self._layout, other._layout
        if own is theirs:
            return
        here, there = own.given(own.lengths), theirs.given(theirs.lengths)
        if len(here) != len(there):
            raise tl.ShapeError(f"{name}: batches of {len(here)} and of {len(there)} sequences do not fit together.")
        for i in np.flatnonzero(here != there):
            raise tl.ShapeError(
                f"{name}: sequence {i} has length {here[i]} in one batch and {there[i]} in the other; they do not fit together."
            )
        if not np.array_equal(own.sequence_of_row(), theirs.sequence_of_row()):
            raise tl.ShapeError(f"{name}: the sequences lie in different orders; pack both batches in the same way.")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"PackedSequence has no attribute {name!r}; its elements are the rows of `.data`.")

    def __iter__(self) -> Iterator[Any]:
        """As PyTorch's named tuple unpacks."""
        return iter([getattr(self, name) for name in self._FIELDS])

    def _replace(self, **fields: Tensor) -> PackedSequence:
        """As PyTorch's named tuple is copied with other fields; `with_data` suffices where only the data are."""
        return PackedSequence(**{name: getattr(self, name) for name in PackedSequence._FIELDS} | fields)

    def __repr__(self) -> str:
        return (
            f"PackedSequence({self._layout.batch} sequences, lengths {self.lengths.tolist()[:8]}, data={self.data!r})"
        )

    def broadcast(self, values: Tensor) -> PackedSequence:
        """(B, ...) values, one for each of the sequences as they were given: each element gets its sequence's.

        >>> packed = tl.nn.utils.rnn.pack_sequence([tl.ones(1), tl.ones(2)], enforce_sorted=False)
        >>> [s.tolist() for s in tl.nn.utils.rnn.unpack_sequence(packed.broadcast(tl.tensor([5, 7])))]
        [[5], [7, 7]]
        """
        if values.ndim == 0 or values.shape[0] != self._layout.batch:
            raise tl.ShapeError(
                f"PackedSequence.broadcast: expected values of {self._layout.batch} sequences, got shape {values.shape}."
            )
        return self.with_data(_rows_of(values, self._layout.sequence_of_row()))

    # ---- over each sequence ----

    def sum(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Any:
        """(B, ...): the sum of each sequence; zeros of an empty one. With a `dim`, that of each element instead, packed.

        >>> packed = tl.nn.utils.rnn.pack_sequence([tl.ones(2, 3), tl.ones(1, 3)])
        >>> packed.sum().tolist(), packed.sum(-1).data.tolist()
        ([[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]], [3.0, 3.0, 3.0])
        """
        if dim is not None:
            return tl.sum(cast("Tensor", self), dim, keepdim)
        counts = not (self.dtype.is_floating_point or self.dtype.is_complex)
        data = self.data.to(tl.int64) if counts else self.data
        zeros = tl.zeros((self._layout.batch, *data.shape[1:]), dtype=data.dtype, device=data.device)
        return zeros.index_add(0, tl.tensor(self._layout.sequence_of_row(), device=data.device), data)

    def mean(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Any:
        """(B, ...): the mean of each sequence; NaN of an empty one. With a `dim`, that of each element instead, packed."""
        if dim is not None:
            return tl.mean(cast("Tensor", self), dim, keepdim)
        lengths = self.lengths.to(self.device, self.dtype if self.dtype.is_floating_point else None)
        return self.sum() / lengths.reshape(-1, *[1] * (self.ndim - 1))

    def max(self) -> Tensor:
        """(B, ...): the largest element of each sequence; of an empty one -inf, or the dtype's smallest integer."""
        return self._padded(largest=False).amax(1)

    def min(self) -> Tensor:
        """(B, ...): the smallest element of each sequence; of an empty one inf, or the dtype's largest integer."""
        return self._padded(largest=True).amin(1)

    def _padded(self, largest: bool) -> Tensor:
        """(B, T, ...), and at least one step, filled up with the dtype's largest or smallest value."""
        filling: float = np.inf if largest else -np.inf
        if self.dtype is tl.bool:
            filling = largest
        elif not self.dtype.is_floating_point:
            limits = np.iinfo(self.dtype.np)
            filling = limits.max if largest else limits.min
        return pad_packed_sequence(self, True, filling, max(self._layout.steps, 1))[0]

    def first(self) -> Tensor:
        """(B, ...): the first element of each sequence."""
        return self._ends("first", self._layout.lengths * 0)

    def last(self) -> Tensor:
        """(B, ...): the last element of each sequence."""
        return self._ends("last", self._layout.lengths - 1)

    def _ends(self, name: str, steps: _Array) -> Tensor:
        layout = self._layout
        if (layout.lengths == 0).any():
            raise tl.ShapeError(
                f"PackedSequence.{name}: sequence {layout.given(layout.lengths).argmin()} is empty, of {layout.batch}."
            )
        return _rows_of(self.data, layout.given(layout.starts[steps] + np.arange(layout.batch)))

    def softmax(self, dim: int | None = None) -> PackedSequence:
        """Each element's softmax among those of its sequence, at its place in the row. With a `dim`, that within each row instead."""
        if dim is not None:
            return cast("PackedSequence", tl.softmax(cast("Tensor", self), dim))
        e = self._below_max().exp()
        return cast("PackedSequence", e / self.broadcast(e.sum()))

    def log_softmax(self, dim: int | None = None) -> PackedSequence:
        """The logarithm of `softmax`."""
        if dim is not None:
            return cast("PackedSequence", tl.log_softmax(cast("Tensor", self), dim))
        below = self._below_max()
        return cast("PackedSequence", below - self.broadcast(below.exp().sum().log()))

    def _below_max(self) -> Any:
        return self - self.broadcast(self.detach().max())

    def attend(
        self, key: PackedSequence, value: PackedSequence, num_heads: int = 1, is_causal: bool = False, dropout_p: float = 0.0,
        scale: float | None = None,
    ) -> PackedSequence:  # fmt: skip
        """Attention within each sequence: this batch's elements are the queries, (N, heads * D); those of `key` and `value` alike. `key` and
        `value` may be other sequences than the queries, as many of them.

        >>> packed = tl.nn.utils.rnn.pack_sequence([tl.ones(3, 4), tl.zeros(1, 4)])
        >>> packed.attend(packed, packed, num_heads=2).data.shape
        (4, 4)
        """
        key.check_lengths(value, "PackedSequence.attend: key and value")
        if key._layout.batch != self._layout.batch:
            raise tl.ShapeError(
                f"PackedSequence.attend: got queries of {self._layout.batch} sequences, but keys of {key._layout.batch}."
            )
        for name, x in (("query", self), ("key", key), ("value", value)):
            if x.ndim != 2 or x.shape[1] % num_heads:
                raise tl.ShapeError(
                    f"PackedSequence.attend: expected rows of {num_heads} heads, got {name} of shape {x.shape}."
                )
        q, k, v = (
            pad_packed_sequence(x, batch_first=True)[0].unflatten(-1, (num_heads, -1)).transpose(1, 2)
            for x in (self, key, value)
        )
        seen = tl.arange(k.shape[2], device="cpu") < key.lengths.unsqueeze(-1)
        mask = seen[:, None, None, :].to(self.device)
        made = tl.scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal, scale)
        return self.with_padded(made.transpose(1, 2).flatten(2))


def by_rows(function: _Function) -> _Function:
    """The same function, which takes packed sequences for tensors whose rows it treats one by one; other results than these rows are plain.

    >>> @tl.nn.utils.rnn.by_rows
    ... def distance(a, b):
    ...     return (a - b).abs().amax(-1)
    >>> packed = tl.nn.utils.rnn.pack_sequence([tl.ones(2, 3), tl.zeros(1, 3)])
    >>> distance(packed, packed * 3).data.tolist()
    [2.0, 0.0, 2.0]
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for x in (*args, *kwargs.values()):
            if isinstance(x, PackedSequence):
                return x.map_rows(function, *args, **kwargs)
        return function(*args, **kwargs)

    return cast("_Function", call)


# ---- packing ----


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes this one; None of None.

    >>> tl.nn.utils.rnn.invert_permutation(tl.tensor([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    return None if permutation is None else tl.argsort(permutation)


def _rows_of(x: Tensor, rows: _Array) -> Tensor:
    return x.index_select(0, tl.tensor(rows, device=x.device))


def _checked_lengths(name: str, lengths: Any, count: int, longest: int) -> _Array:
    if isinstance(lengths, (int, str)):
        raise TypeError(f"{name}: lengths is {lengths!r}, expected one integer for each of the {count} sequences.")
    listed = lengths.tolist() if isinstance(lengths, (Tensor, np.ndarray)) else list(lengths)
    if len(listed) != count:
        raise tl.ShapeError(f"{name}: got {len(listed)} lengths for {count} sequences.")
    for i, n in enumerate(listed):
        if not hasattr(n, "__index__") or not 0 <= as_integer(n) <= longest:
            raise tl.ShapeError(f"{name}: sequence {i} has length {n}, expected an integer in [0, {longest}].")
    return np.asarray(listed, np.int64)


def _layout_of(name: str, lengths: _Array, enforce_sorted: bool) -> _Layout:
    order = None
    if not enforce_sorted:
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
    for i in np.flatnonzero(np.diff(lengths) > 0):
        raise tl.ShapeError(
            f"{name}: sequence {i + 1} (length {lengths[i + 1]}) is longer than sequence {i} (length {lengths[i]}), "
            "and enforce_sorted promises falling lengths; pass enforce_sorted=False."
        )
    if order is None and len(lengths) and lengths[-1] == 0:
        order = np.arange(len(lengths))  # the sizes do not tell that there are empty sequences
    longest = int(lengths[0]) if len(lengths) else 0
    sizes = (lengths[None, :] > np.arange(longest)[:, None]).sum(1).astype(np.int64)
    return _Layout(sizes, len(lengths), order)


def _made(data: Tensor, layout: _Layout) -> PackedSequence:
    order = back = None
    if layout.order is not None:
        order = tl.tensor(layout.order, device=data.device)
        back = tl.tensor(np.argsort(layout.order), device=data.device)
    made = PackedSequence.__new__(PackedSequence)
    made._set(data, tl.tensor(layout.sizes, device="cpu"), order, back, layout)
    return made


def _packed_rows(padded: Tensor, layout: _Layout, batch_first: bool) -> Tensor:
    """(B, T, ...) with `batch_first`, else (T, B, ...)  ->  (N, ...)"""
    outer, inner = layout.step_of_row(), layout.sequence_of_row()
    if batch_first:
        outer, inner = inner, outer
    flat = padded.reshape(padded.shape[0] * padded.shape[1], *padded.shape[2:])
    return _rows_of(flat, outer * padded.shape[1] + inner)


def pack_padded_sequence(
    input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch.

    Shapes:
        input: (T, B, ...), or (B, T, ...) with `batch_first`; lengths: B integers in [0, T], falling unless `enforce_sorted` is off

    Raises:
        ShapeError: where a length is out of range, or rises though `enforce_sorted` promised that none does, naming the sequence; or
            there are not as many lengths as sequences.

    >>> tl.nn.utils.rnn.pack_padded_sequence(tl.tensor([[1, 2, 3], [4, 0, 0]]), [3, 1], batch_first=True).data.tolist()
    [1, 4, 2, 3]
    """
    steps, batch = _padded_sizes("pack_padded_sequence", input, batch_first)
    known = _checked_lengths("pack_padded_sequence", lengths, batch, steps)
    layout = _layout_of("pack_padded_sequence", known, enforce_sorted)
    return _made(_packed_rows(input, layout, batch_first), layout)


def _padded_sizes(name: str, padded: Tensor, batch_first: bool) -> tuple[int, int]:
    """(T, B)"""
    if not isinstance(padded, Tensor):
        raise TypeError(f"{name}: got a {type(padded).__name__}, expected a tensor.")
    if padded.ndim < 2:
        raise tl.ShapeError(
            f"{name}: expected {'(B, T, ...)' if batch_first else '(T, B, ...)'}, got shape {padded.shape}."
        )
    steps, batch = padded.shape[:2]
    return (batch, steps) if batch_first else (steps, batch)


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack a list of tensors of shapes (L_i, ...), which may be empty.

    Raises:
        ShapeError, DTypeError: where a sequence does not fit the first one, naming it; where lengths rise though `enforce_sorted` promised
            that none does; where there is no sequence.

    >>> tl.nn.utils.rnn.pack_sequence([tl.tensor([1, 2, 3]), tl.tensor([4])]).batch_sizes.tolist()
    [2, 1, 1]
    """
    listed = _sequences("pack_sequence", sequences)
    layout = _layout_of("pack_sequence", np.asarray([len(s) for s in listed], np.int64), enforce_sorted)
    by_length = listed if layout.order is None else [listed[i] for i in layout.order.tolist()]
    if layout.batch == 1:
        return _made(by_length[0], layout)
    return _made(_rows_of(tl.cat(by_length), np.argsort(layout.rows_by_sequence())), layout)


def _sequences(name: str, sequences: Sequence[Tensor]) -> list[Tensor]:
    listed = list(sequences)
    if not listed:
        raise tl.ShapeError(f"{name}: got no sequences.")
    for i, s in enumerate(listed):
        if not isinstance(s, Tensor) or s.ndim == 0:
            error = tl.ShapeError if isinstance(s, Tensor) else TypeError
            raise error(
                f"{name}: sequence {i} is a {'0-d tensor' if isinstance(s, Tensor) else type(s).__name__}, expected a tensor of shape (L, ...)."
            )
        fits = s.shape[1:] == listed[0].shape[1:]
        if not fits or s.dtype is not listed[0].dtype:
            raise (tl.DTypeError if fits else tl.ShapeError)(
                f"{name}: sequence {i} is {s.dtype.name} of shape {s.shape}, sequence 0 {listed[0].dtype.name} of shape {listed[0].shape}; "
                "only the first sizes may differ."
            )
    return listed


def _packed(name: str, sequences: PackedSequence) -> tuple[_Layout, Tensor]:
    if not isinstance(sequences, PackedSequence):
        raise TypeError(f"{name}: got a {type(sequences).__name__}, expected a PackedSequence.")
    return sequences._layout, sequences.data


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """A packed batch with padding, and its lengths, in the order in which the sequences were given.

    Shapes:
        returns: (T, B, ...), or (B, T, ...) with `batch_first`, where T is `total_length` if that is given; lengths (B,) int64

    Raises:
        ShapeError: where a sequence is longer than `total_length`.

    >>> packed = tl.nn.utils.rnn.pack_sequence([tl.tensor([1, 2, 3]), tl.tensor([4])])
    >>> tl.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0].tolist()
    [[1, 2, 3], [4, 0, 0]]
    """
    layout, data = _packed("pad_packed_sequence", sequence)
    steps = layout.steps if total_length is None else total_length
    if steps < layout.steps:
        raise tl.ShapeError(
            f"pad_packed_sequence: total_length is {total_length}, but the longest sequence has length {layout.steps}."
        )
    row = np.full((steps, layout.batch), layout.rows)
    row[layout.step_of_row(), layout.sequence_of_row()] = np.arange(layout.rows)
    return _padded(data, [data], row.T if batch_first else row, padding_value), sequence.lengths


def _padded(like: Tensor, parts: Sequence[Tensor], rows: _Array, padding_value: float) -> Tensor:
    """The given rows of the joined parts, one beyond the last being padding."""
    filling = tl.full((1, *like.shape[1:]), padding_value, dtype=like.dtype, device=like.device)
    return _rows_of(tl.cat([*parts, filling]), rows.ravel()).reshape(*rows.shape, *like.shape[1:])


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The list of sequences that `pack_sequence` was given.

    >>> packed = tl.nn.utils.rnn.pack_sequence([tl.tensor([4]), tl.tensor([1, 2, 3])], enforce_sorted=False)
    >>> [s.tolist() for s in tl.nn.utils.rnn.unpack_sequence(packed)]
    [[4], [1, 2, 3]]
    """
    layout, data = _packed("unpack_sequence", packed_sequences)
    if layout.batch == 0:
        return []
    if layout.batch > 1:
        data = _rows_of(data, layout.rows_by_sequence())
    parts = data.split(layout.lengths.tolist())
    return [parts[i] for i in layout.given(np.arange(layout.batch)).tolist()]


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """A list of tensors of shapes (L_i, ...) as one, filled up with `padding_value` on the `padding_side`, "right" or "left".

    Shapes:
        returns: (T, B, ...), or (B, T, ...) with `batch_first`

    Raises:
        ShapeError, DTypeError: where a sequence does not fit the first one, naming it.

    >>> tl.nn.utils.rnn.pad_sequence([tl.tensor([1, 2]), tl.tensor([3])], batch_first=True).tolist()
    [[1, 2], [3, 0]]
    """
    listed = _sequences("pad_sequence", sequences)
    if padding_side not in ("left", "right"):
        raise ValueError(f"pad_sequence: padding_side must be 'left' or 'right', got {padding_side!r}.")
    lengths = np.asarray([len(s) for s in listed])
    step = np.arange(lengths.max()) - (0 if padding_side == "right" else (lengths.max() - lengths)[:, None])
    there = (step >= 0) & (step < lengths[:, None])
    row = np.where(there, step + (np.cumsum(lengths) - lengths)[:, None], lengths.sum())
    return _padded(listed[0], listed, row if batch_first else row.T, padding_value)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False
) -> list[Tensor]:
    """The list of sequences of a padded batch, as views of it; the opposite of `pad_sequence`.

    Shapes:
        padded_sequences: (T, B, ...), or (B, T, ...) with `batch_first`; lengths: B integers in [0, T]

    >>> [s.tolist() for s in tl.nn.utils.rnn.unpad_sequence(tl.tensor([[1, 2], [3, 0]]), [2, 1], batch_first=True)]
    [[1, 2], [3]]
    """
    steps, batch = _padded_sizes("unpad_sequence", padded_sequences, batch_first)
    known = _checked_lengths("unpad_sequence", lengths, batch, steps)
    by_sequence = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [by_sequence[i, :n] for i, n in enumerate(known.tolist())]


def packed_collate(examples: Sequence[Any], stack: Collection[int | str] = ()) -> Any:
    """`tl.data.ragged_collate` whose sequences come as PackedSequences; see there.

    >>> words, labels = tl.nn.utils.rnn.packed_collate([(tl.tensor([4]), 1), (tl.tensor([1, 2, 3]), 0)])
    >>> words.lengths.tolist(), labels.tolist()
    ([1, 3], [1, 0])
    """
    return tl.data.ragged_collate(examples, partial(pack_sequence, enforce_sorted=False), stack)
