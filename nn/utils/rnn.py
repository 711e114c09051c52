"""Sequences of different lengths as one batch, without padding.

A `PackedSequence` holds the elements of all sequences as the rows of one tensor, in order of time: the first element of each sequence, the longest
sequence first, then the second element of those that have one, and so on. Whatever treats each row by itself takes it as it takes a tensor:
``tl.tanh(packed)``, ``2 * packed``, ``nn.Linear(8, 4)(packed)``, ``nn.LayerNorm``, ``F.cross_entropy(packed, packed_targets)``.

Dimension letters: B sequences, T the longest one's length, L the length of one, N all lengths together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import tensorlib as tl
from tensorlib import Tensor

__all__ = [
    "PackedSequence", "detach_states", "invert_permutation", "pack_padded_sequence", "pack_sequence", "packed_collate", "pad_packed_sequence",
    "pad_sequence", "select_states", "unpack_sequence", "unpad_sequence",
]  # fmt: skip

_ELEMENTWISE = frozenset((
    "abs", "bool", "clamp", "double", "erf", "exp", "expm1", "float", "half", "log", "log1p", "log_softmax", "long", "neg", "pow", "reciprocal",
    "relu", "round", "rsqrt", "sigmoid", "sign", "sqrt", "square", "tanh", "type_as",
))  # fmt: skip


class _Layout:
    """Where the rows of a packed batch come from: sequences by falling length (0 at the end, maybe), found out once and shared."""

    def __init__(self, batch_sizes: np.ndarray[Any, Any], batch: int) -> None:
        self.sizes, self.batch = batch_sizes, batch
        self.starts = np.concatenate([[0], np.cumsum(batch_sizes)])
        self.lengths = (batch_sizes[None, :] > np.arange(batch)[:, None]).sum(1)
        self.steps = len(batch_sizes)

    def sequence_of_row(self) -> np.ndarray[Any, Any]:
        return np.arange(self.starts[-1]) - np.repeat(self.starts[:-1], self.sizes)

    def rows_by_sequence(self) -> np.ndarray[Any, Any]:
        """The rows of the longest sequence, then those of the next ..."""
        sequence = np.repeat(np.arange(self.batch), self.lengths)
        step = np.arange(len(sequence)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        return np.asarray(self.starts[step] + sequence)


class PackedSequence:
    """A batch of sequences of different lengths, as `pack_sequence` and `pack_padded_sequence` make it.

    Attributes:
        data: (N, ...) all elements, in order of time
        batch_sizes: (T,) int64, how many sequences have a step t
        sorted_indices: (B,) int64, which of the given sequences comes first, second ... by falling length; None where they were given so
        unsorted_indices: its inverse

    Sums, means and the like over each sequence are methods, and come in the order in which the sequences were given.

    >>> packed = tl.nn.utils.rnn.pack_sequence([tl.tensor([1.0]), tl.tensor([2.0, 4.0])], enforce_sorted=False)
    >>> packed.data.tolist(), packed.batch_sizes.tolist()
    ([2.0, 1.0, 4.0], [2, 1])
    >>> (packed * 10).mean().tolist()
    [10.0, 30.0]
    """

    __slots__ = ("_layout", "batch_sizes", "data", "sorted_indices", "unsorted_indices")

    def __init__(
        self, data: Tensor, batch_sizes: Tensor | None = None, sorted_indices: Tensor | None = None, unsorted_indices: Tensor | None = None
    ) -> None:  # fmt: skip
        if batch_sizes is None:
            raise ValueError("PackedSequence: batch_sizes is missing.")
        if batch_sizes.device.type != "cpu" or batch_sizes.ndim != 1 or batch_sizes.dtype is not tl.int64:
            raise tl.ShapeError(
                f"PackedSequence: batch_sizes must be a 1-d int64 tensor on the CPU, got {batch_sizes.dtype.name} of shape {batch_sizes.shape}."
            )
        if unsorted_indices is None and sorted_indices is not None:
            unsorted_indices = invert_permutation(sorted_indices)
        sizes = batch_sizes.numpy()
        if (sizes < 1).any() or (np.diff(sizes) > 0).any() or sizes.sum() != data.shape[0]:
            raise tl.ShapeError(
                f"PackedSequence: batch_sizes must be positive, never rise, and add up to the {data.shape[0]} rows of data, got {sizes.tolist()[:8]}."
            )
        batch = int(sizes[0]) if len(sizes) else 0
        self._set(
            data,
            batch_sizes,
            sorted_indices,
            unsorted_indices,
            _Layout(sizes, batch if sorted_indices is None else len(sorted_indices)),
        )

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
        made = PackedSequence.__new__(type(self))
        made._set(data, self.batch_sizes, self.sorted_indices, self.unsorted_indices, self._layout)
        return made

    def with_padded(self, padded: Tensor) -> PackedSequence:
        """The same sequences with the elements of a padded batch, (B, T, ...)."""
        if padded.ndim < 2 or padded.shape[0] != self._layout.batch or padded.shape[1] < self._layout.steps:
            raise tl.ShapeError(
                f"PackedSequence: expected ({self._layout.batch}, {self._layout.steps}, ...) elements, got {padded.shape}."
            )
        return self.with_data(_packed_rows(padded.index_select(0, self._sorted()), self._layout))

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
        """(B,) int64, in the order in which the sequences were given."""
        return self._given(tl.tensor(self._layout.lengths))

    def map_rows(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `function` makes of the rows: packed arguments go in as their data, results with as many rows come out packed."""
        for x in (*args, *kwargs.values()):
            if (
                isinstance(x, PackedSequence)
                and x._layout is not self._layout
                and not np.array_equal(x._layout.sizes, self._layout.sizes)
            ):
                raise tl.ShapeError(
                    f"PackedSequence: sequences of lengths {self.lengths.tolist()[:8]} and {x.lengths.tolist()[:8]} do not fit together."
                )
        rows = [x.data if isinstance(x, PackedSequence) else x for x in args]
        made = function(*rows, **{k: x.data if isinstance(x, PackedSequence) else x for k, x in kwargs.items()})
        return tuple(self._packed(t) for t in made) if isinstance(made, tuple) else self._packed(made)

    def _packed(self, made: Any) -> Any:
        fits = isinstance(made, Tensor) and made.ndim and made.shape[0] == self.data.shape[0]
        return self.with_data(made) if fits else made

    def __getattr__(self, name: str) -> Any:
        if name in _ELEMENTWISE:
            return lambda *args, **kwargs: self.map_rows(getattr(Tensor, name), self, *args, **kwargs)
        raise AttributeError(f"PackedSequence has no attribute {name!r}; its elements are the rows of `.data`.")

    def __iter__(self) -> Iterator[Any]:
        """As PyTorch's named tuple unpacks."""
        return iter((self.data, self.batch_sizes, self.sorted_indices, self.unsorted_indices))

    def __repr__(self) -> str:
        return (
            f"PackedSequence({self._layout.batch} sequences, lengths {self.lengths.tolist()[:8]}, data={self.data!r})"
        )

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        return self.with_data(self.data.to(*args, **kwargs))

    def cpu(self) -> PackedSequence:
        return self.to("cpu")

    def detach(self) -> PackedSequence:
        return self.with_data(self.data.detach())

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
        of_row = self._layout.sequence_of_row()
        given = of_row if self.sorted_indices is None else self.sorted_indices.numpy()[of_row]
        return self.with_data(values.index_select(0, tl.tensor(given)))

    # ---- over each sequence ----

    def _given(self, by_length: Tensor) -> Tensor:
        """(B, ...) by falling length, in the order in which the sequences were given."""
        return by_length if self.unsorted_indices is None else by_length.index_select(0, self.unsorted_indices)

    def _sequence(self) -> Tensor:
        return tl.tensor(self._layout.sequence_of_row())

    def _sums(self, data: Tensor) -> Tensor:
        zeros = tl.zeros((self._layout.batch, *data.shape[1:]), dtype=data.dtype)
        return zeros.index_add(0, self._sequence(), data)

    def _per_sequence(self, values: np.ndarray[Any, Any]) -> Tensor:
        return tl.tensor(values, dtype=self.data.dtype).reshape(-1, *[1] * (self.data.ndim - 1))

    def sum(self) -> Tensor:
        """(B, ...): the sum of each sequence; zeros of an empty one."""
        return self._given(self._sums(self.data))

    def mean(self) -> Tensor:
        """(B, ...): the mean of each sequence; NaN of an empty one."""
        return self._given(self._sums(self.data) / self._per_sequence(self._layout.lengths))

    def _extreme(self, worst: float, take: Callable[[Tensor], Tensor]) -> Tensor:
        return take(pad_packed_sequence(self, batch_first=True, padding_value=worst)[0])

    def max(self) -> Tensor:
        """(B, ...): the largest element of each sequence; -inf of an empty one."""
        return self._extreme(-np.inf, lambda padded: padded.amax(1))

    def min(self) -> Tensor:
        """(B, ...): the smallest element of each sequence; inf of an empty one."""
        return self._extreme(np.inf, lambda padded: padded.amin(1))

    def _ends(self, steps: np.ndarray[Any, Any], name: str) -> Tensor:
        if (self._layout.lengths == 0).any():
            raise tl.ShapeError(f"PackedSequence.{name}: sequence {int(self.lengths.argmin())} is empty.")
        return self._given(
            self.data.index_select(0, tl.tensor(self._layout.starts[steps] + np.arange(self._layout.batch)))
        )

    def first(self) -> Tensor:
        """(B, ...): the first element of each sequence."""
        return self._ends(self._layout.lengths * 0, "first")

    def last(self) -> Tensor:
        """(B, ...): the last element of each sequence."""
        return self._ends(self._layout.lengths - 1, "last")

    def softmax(self) -> PackedSequence:
        """Each element's softmax among those of its sequence, at its place in the row."""
        e = self.with_data((self.data - self.broadcast(self.detach().max()).data).exp())
        return e.with_data(e.data / self.broadcast(e.sum()).data)

    def _sorted(self) -> Tensor:
        return tl.arange(self._layout.batch) if self.sorted_indices is None else self.sorted_indices

    def attend(
        self, key: PackedSequence, value: PackedSequence, num_heads: int = 1, is_causal: bool = False
    ) -> PackedSequence:
        """Attention within each sequence: this batch's elements are the queries, (N, heads * D); those of `key` and `value` alike.

        >>> packed = tl.nn.utils.rnn.pack_sequence([tl.ones(3, 4), tl.zeros(1, 4)])
        >>> packed.attend(packed, packed, num_heads=2).data.shape
        (4, 4)
        """
        padded = [
            pad_packed_sequence(x, batch_first=True)[0].unflatten(-1, (num_heads, -1)).transpose(1, 2)
            for x in (self, key, value)
        ]
        seen = tl.arange(key._layout.steps) < key.lengths.unsqueeze(-1)
        q, k, v = padded
        made = tl.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :], is_causal=is_causal)
        return self.with_padded(made.transpose(1, 2).flatten(2))


def _binary(name: str) -> Callable[..., PackedSequence]:
    def call(self: PackedSequence, *other: Any) -> Any:
        return self.map_rows(getattr(Tensor, name), self, *other)

    call.__name__ = call.__qualname__ = name
    return call


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(PackedSequence, f"__{_name}__", _binary(f"__{_name}__"))
    setattr(PackedSequence, f"__r{_name}__", _binary(f"__r{_name}__"))
for _name in ("neg", "abs", "matmul", "lt", "le", "gt", "ge"):
    setattr(PackedSequence, f"__{_name}__", _binary(f"__{_name}__"))


# ---- packing ----
def invert_permutation(permutation: Tensor) -> Tensor:
    """The permutation that undoes this one.

    >>> tl.nn.utils.rnn.invert_permutation(tl.tensor([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    return tl.tensor(np.argsort(permutation.numpy(), kind="stable"))


def _checked_lengths(name: str, lengths: Any, count: int, longest: int | None) -> np.ndarray[Any, Any]:
    listed = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
    if len(listed) != count:
        raise tl.ShapeError(f"{name}: got {len(listed)} lengths for {count} sequences.")
    for i, n in enumerate(listed):
        if not isinstance(n, int) or n < 0 or (longest is not None and n > longest):
            raise ValueError(
                f"{name}: sequence {i} has length {n}, expected an integer in [0, {'...' if longest is None else longest}]."
            )
    return np.asarray(listed, np.int64)


def _order(
    name: str, lengths: np.ndarray[Any, Any], enforce_sorted: bool
) -> tuple[np.ndarray[Any, Any] | None, _Layout]:
    """The sequences by falling length (None: as they are), and their layout."""
    order = None
    if enforce_sorted:
        rising = np.flatnonzero(np.diff(lengths) > 0)
        if len(rising):
            i = int(rising[0])
            raise ValueError(
                f"{name}: sequence {i + 1} (length {lengths[i + 1]}) is longer than sequence {i} (length {lengths[i]}), "
                "and enforce_sorted promises falling lengths; pass enforce_sorted=False."
            )
    else:
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
    longest = int(lengths[0]) if len(lengths) else 0
    sizes = (lengths[None, :] > np.arange(longest)[:, None]).sum(1).astype(np.int64)
    if order is None and len(lengths) and lengths[-1] == 0:
        order = np.arange(len(lengths))  # the sizes do not tell that there are empty sequences
    return order, _Layout(sizes, len(lengths))


def _made(data: Tensor, order: np.ndarray[Any, Any] | None, layout: _Layout) -> PackedSequence:
    made = PackedSequence.__new__(PackedSequence)
    given = None if order is None else tl.tensor(order)
    made._set(data, tl.tensor(layout.sizes), given, None if order is None else tl.tensor(np.argsort(order)), layout)
    return made


def _packed_rows(padded: Tensor, layout: _Layout) -> Tensor:
    """(B, T, ...), sequences by falling length -> (N, ...)"""
    step = np.repeat(np.arange(layout.steps), layout.sizes)
    flat = padded.reshape(padded.shape[0] * padded.shape[1], *padded.shape[2:])
    return flat.index_select(0, tl.tensor(layout.sequence_of_row() * padded.shape[1] + step))


def pack_padded_sequence(
    input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch.

    Shapes:
        input: (T, B, ...), or (B, T, ...) with `batch_first`; lengths: B integers in [0, T], falling unless `enforce_sorted` is off

    Raises:
        ValueError: where a length is out of range, or rises though `enforce_sorted` promised that none does.

    >>> tl.nn.utils.rnn.pack_padded_sequence(tl.tensor([[1, 2, 3], [4, 0, 0]]), [3, 1], batch_first=True).data.tolist()
    [1, 4, 2, 3]
    """
    if input.ndim < 2:
        raise tl.ShapeError(f"pack_padded_sequence: expected (T, B, ...), got shape {input.shape}.")
    padded = input if batch_first else input.transpose(0, 1)
    known = _checked_lengths("pack_padded_sequence", lengths, padded.shape[0], padded.shape[1])
    order, layout = _order("pack_padded_sequence", known, enforce_sorted)
    if order is not None:
        padded = padded.index_select(0, tl.tensor(order))
    return _made(_packed_rows(padded, layout), order, layout)


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack a list of tensors of shapes (L_i, ...), which may be empty.

    >>> tl.nn.utils.rnn.pack_sequence([tl.tensor([1, 2, 3]), tl.tensor([4])]).batch_sizes.tolist()
    [2, 1, 1]
    """
    listed = _sequences("pack_sequence", sequences)
    order, layout = _order("pack_sequence", np.asarray([len(s) for s in listed], np.int64), enforce_sorted)
    by_length = listed if order is None else [listed[i] for i in order.tolist()]
    joined = by_length[0] if len(by_length) == 1 else tl.cat(by_length)
    if layout.batch > 1:
        joined = joined.index_select(0, tl.tensor(np.argsort(layout.rows_by_sequence())))
    return _made(joined, order, layout)


def _sequences(name: str, sequences: Sequence[Tensor]) -> list[Tensor]:
    listed = list(sequences)
    if not listed:
        raise ValueError(f"{name}: got no sequences.")
    for i, s in enumerate(listed):
        if not isinstance(s, Tensor) or s.ndim == 0:
            raise tl.ShapeError(
                f"{name}: sequence {i} is {'0-d' if isinstance(s, Tensor) else type(s).__name__}, expected a tensor of shape (L, ...)."
            )
        if s.shape[1:] != listed[0].shape[1:] or s.dtype is not listed[0].dtype:
            raise tl.ShapeError(
                f"{name}: sequence {i} is {s.dtype.name} of shape {s.shape}, sequence 0 {listed[0].dtype.name} of shape {listed[0].shape}; "
                "only the first sizes may differ."
            )
    return listed


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """A packed batch with padding, and its lengths, in the order in which the sequences were given.

    Shapes:
        returns: (T, B, ...), or (B, T, ...) with `batch_first`, T at least `total_length`; lengths (B,) int64

    >>> packed = tl.nn.utils.rnn.pack_sequence([tl.tensor([1, 2, 3]), tl.tensor([4])])
    >>> tl.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0].tolist()
    [[1, 2, 3], [4, 0, 0]]
    """
    layout, data = sequence._layout, sequence.data
    steps = layout.steps if total_length is None else total_length
    if steps < layout.steps:
        raise ValueError(
            f"pad_packed_sequence: total_length is {total_length}, but the longest sequence has length {layout.steps}."
        )
    row = np.full((steps, layout.batch), data.shape[0])
    step = np.repeat(np.arange(layout.steps), layout.sizes)
    row[step, layout.sequence_of_row()] = np.arange(data.shape[0])
    if sequence.unsorted_indices is not None:
        row = row[:, sequence.unsorted_indices.numpy()]
    row = row.T if batch_first else row
    filling = tl.full((1, *data.shape[1:]), padding_value, dtype=data.dtype, device=data.device)
    made = tl.cat([data, filling]).index_select(0, tl.tensor(row.ravel()))
    return made.reshape(*row.shape, *data.shape[1:]), sequence.lengths


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The list of sequences that `pack_sequence` was given.

    >>> packed = tl.nn.utils.rnn.pack_sequence([tl.tensor([4]), tl.tensor([1, 2, 3])], enforce_sorted=False)
    >>> [s.tolist() for s in tl.nn.utils.rnn.unpack_sequence(packed)]
    [[4], [1, 2, 3]]
    """
    layout, data = packed_sequences._layout, packed_sequences.data
    if layout.batch != 1:
        data = data.index_select(0, tl.tensor(layout.rows_by_sequence()))
    parts = list(data.split(layout.lengths.tolist())) if layout.batch else []
    order = packed_sequences.unsorted_indices
    return parts if order is None else [parts[i] for i in order.tolist()]


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """A list of tensors of shapes (L_i, ...) as one, filled up with `padding_value`.

    Shapes:
        returns: (T, B, ...), or (B, T, ...) with `batch_first`

    >>> tl.nn.utils.rnn.pad_sequence([tl.tensor([1, 2]), tl.tensor([3])], batch_first=True).tolist()
    [[1, 2], [3, 0]]
    """
    listed = _sequences("pad_sequence", sequences)
    if padding_side not in ("left", "right"):
        raise ValueError(f"pad_sequence: padding_side must be 'left' or 'right', got {padding_side!r}.")
    lengths = np.asarray([len(s) for s in listed])
    longest = int(lengths.max())
    step = np.arange(longest)[None, :] - (0 if padding_side == "right" else (longest - lengths)[:, None])
    row = np.where(
        (step >= 0) & (step < lengths[:, None]), step + (np.cumsum(lengths) - lengths)[:, None], lengths.sum()
    )
    row = row if batch_first else row.T
    filling = tl.full((1, *listed[0].shape[1:]), padding_value, dtype=listed[0].dtype, device=listed[0].device)
    return tl.cat([*listed, filling]).index_select(0, tl.tensor(row.ravel())).reshape(*row.shape, *listed[0].shape[1:])


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False
) -> list[Tensor]:
    """The list of sequences of a padded batch.

    >>> [s.tolist() for s in tl.nn.utils.rnn.unpad_sequence(tl.tensor([[1, 2], [3, 0]]), [2, 1], batch_first=True)]
    [[1, 2], [3]]
    """
    padded = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    known = _checked_lengths("unpad_sequence", lengths, padded.shape[0], padded.shape[1])
    return [padded[i, :n] for i, n in enumerate(known.tolist())]


def packed_collate(examples: Sequence[Any], stack: Collection[int | str] = ()) -> Any:
    """`tl.data.ragged_collate` whose sequences come as PackedSequences; see there.

    >>> words, labels = tl.nn.utils.rnn.packed_collate([(tl.tensor([4]), 1), (tl.tensor([1, 2, 3]), 0)])
    >>> words.lengths.tolist(), labels.tolist()
    ([1, 3], [1, 0])
    """
    return tl.data.ragged_collate(examples, partial(pack_sequence, enforce_sorted=False), stack)


# ---- states: nested tuples, named or not, lists and dicts of tensors ----


def _map_states(function: Callable[[Any, Any], Any], states: Any, along: Any = None) -> Any:
    """The same nest, with what `function` makes of each tensor and its part of `along`, a nest of the same form or one value for all."""
    if isinstance(states, (Tensor, PackedSequence)):
        return function(states, along)
    if not isinstance(states, (tuple, list, Mapping)):
        return states
    keys = list(states) if isinstance(states, Mapping) else list(range(len(states)))
    each = isinstance(along, (tuple, list, Mapping))
    made = {k: _map_states(function, states[k], along[k] if each else along) for k in keys}
    if isinstance(states, Mapping):
        return made
    return type(states)(*made.values()) if hasattr(states, "_fields") else type(states)(made.values())


def detach_states(states: Any) -> Any:
    """The states without their past, for truncated backpropagation: each part of a long sequence starts where the one before it ended, and
    gradients stop there.

    Args:
        states: a tensor or PackedSequence, or nested tuples, lists and dicts of them; anything else in there stays as it is.

    >>> lstm, x, states = tl.nn.LSTM(3, 5), tl.randn(100, 2, 3), None
    >>> for part in x.split(25):
    ...     out, states = lstm(part, tl.nn.utils.rnn.detach_states(states))
    ...     out.square().mean().backward()
    """
    return _map_states(lambda t, _: t.detach(), states)


def select_states(states: Any, index: Tensor, dim: Any = 0) -> Any:
    """The states of some sequences of a batch, in any order and number, as a beam search needs them.

    Args:
        states: a tensor, or nested tuples, lists and dicts of tensors; anything else in there stays as it is.
        index: (n,) integer, the sequences to take.
        dim: where the batch lies: one number, or a nest of them in the form of `states` or of its outer part: ``(1, 0)`` for ``((h, c), memory)``.

    >>> h, memory = tl.nn.utils.rnn.select_states((tl.zeros(1, 2, 5), tl.zeros(2, 7)), tl.tensor([0, 0, 1]), dim=(1, 0))
    >>> h.shape, memory.shape
    ((1, 3, 5), (3, 7))
    """

    def select(t: Any, dim: int) -> Any:
        if isinstance(t, PackedSequence):
            raise TypeError(
                "select_states: a PackedSequence has no dimension of sequences; keep a padded tensor and its lengths instead."
            )
        return t.index_select(dim, index)

    return _map_states(select, states, dim)
