"""The linear-chain conditional random field: tags of sequences, each with a score of its own and one for the tag it follows.

Dimension letters: B sequences, T steps of the longest one, L of one, K tags, N steps of all sequences together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, unpack_sequence

__all__ = ["CRF"]

_Batch = Tensor | PackedSequence | Sequence[Tensor]


class CRF(Module):
    """A linear-chain conditional random field over K tags, under the names of the package pytorch-crf.

    A sequence of tags scores ``start[y_1] + end[y_L] + sum_t emissions[t, y_t] + sum_t transitions[y_t-1, y_t]``, and its probability is the
    exponential of that among those of all sequences of tags. An empty sequence has one, with probability 1.

    Args:
        batch_first: tensors come as (B, T, K).

    Shapes:
        start_transitions, end_transitions: (K,); transitions: (K, K), from the row's tag to the column's

    A ragged batch costs what its real steps cost, and every sequence has the bits that it has alone.

    Reference: Lafferty et al. 2001; Viterbi 1967.

    >>> crf = tl.nn.CRF(3)
    >>> emissions, tags = [tl.randn(4, 3), tl.randn(2, 3)], [tl.tensor([0, 1, 1, 2]), tl.tensor([2, 0])]
    >>> loss = -crf(emissions, tags, reduction="mean")
    >>> loss.backward()
    >>> [len(best) for best in crf.decode(emissions)]
    [4, 2]
    """

    def __init__(self, num_tags: int, batch_first: bool = False, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if not isinstance(num_tags, int) or num_tags < 1:
            raise ValueError(f"CRF: num_tags must be a positive integer, got {num_tags!r}.")
        self.num_tags, self.batch_first = num_tags, batch_first
        self.start_transitions = Parameter(tl.empty(num_tags, device=device, dtype=dtype))
        self.end_transitions = Parameter(tl.empty(num_tags, device=device, dtype=dtype))
        self.transitions = Parameter(tl.empty(num_tags, num_tags, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh scores, uniform in +-0.1."""
        for p in self.parameters():
            init.uniform_(p, -0.1, 0.1)

    def forward(self, emissions: _Batch, tags: _Batch, mask: Tensor | None = None, reduction: str = "sum") -> Tensor:
        """The logarithm of the probability of `tags`: of one to be maximised.

        Args:
            reduction: "none", "sum", "mean" over the sequences, or "token_mean" over all their steps.

        Shapes:
            emissions: (T, B, K), or (B, T, K) with `batch_first`; a PackedSequence with rows of K; or a list of tensors (L, K)
            tags: integers in [0, K), in the same form without K
            mask: for tensors only, (T, B) or (B, T) bool, True for the L first steps of each sequence; None: for all
            returns: (), or (B,) for "none"

        Raises:
            ShapeError, ValueError, IndexError: where sizes, tags, or the steps of emissions and tags do not fit.
        """
        if reduction not in ("none", "sum", "mean", "token_mean"):
            raise ValueError(f"CRF: reduction must be 'none', 'sum', 'mean' or 'token_mean', got {reduction!r}.")
        packed = self._packed(emissions, mask)
        chosen = self._tags(tags, mask, emissions, packed)
        scores = packed.data.gather(1, chosen.unsqueeze(1)).squeeze(1)
        if len(chosen):
            scores = self._with_transitions(scores, chosen, packed)
        each = packed.with_data(scores).sum()
        if reduction == "none":
            return each
        return each.mean() if reduction == "mean" else each.sum() / (len(chosen) if reduction == "token_mean" else 1)

    def decode(self, emissions: _Batch, mask: Tensor | None = None) -> list[list[int]]:
        """The most probable tags of each sequence; arguments as in `forward`.

        >>> crf = tl.nn.CRF(2)
        >>> for p in crf.parameters():
        ...     _ = tl.nn.init.zeros_(p)
        >>> crf.decode([tl.tensor([[0.0, 1.0], [1.0, 0.0]]), tl.zeros(0, 2)])
        [[1, 0], []]
        """
        with tl.no_grad():
            packed = self._packed(emissions, mask)
            found = tl.tensor(self._best(packed), dtype=tl.int64, device="cpu")
        return [tags.tolist() for tags in unpack_sequence(packed.with_data(found))]

    # ---- over the rows of a packed batch: sequences by falling length, the empty ones left out ----

    def _with_transitions(self, scores: Tensor, tags: Tensor, packed: PackedSequence) -> Tensor:
        """(N,): what the rows add to the logarithm of their sequence's probability; its last one, also what all sequences of tags score."""
        sizes = packed.batch_sizes.numpy()
        first, rows = int(sizes[0]), np.arange(len(tags))
        before = tl.tensor(rows[first:] - np.repeat(sizes[:-1], sizes[1:]), device=tags.device)
        steps = tags.index_select(0, before) * self.num_tags + tags[first:]
        came = [
            self.start_transitions.index_select(0, tags[:first]),
            self.transitions.reshape(-1).index_select(0, steps),
        ]
        place = rows - np.repeat(np.cumsum(sizes) - sizes, sizes)
        last = rows[place >= np.repeat(np.append(sizes[1:], 0), sizes)]
        last = tl.tensor(last[np.argsort(place[last])], device=tags.device)
        ended = self.end_transitions.index_select(0, tags.index_select(0, last))
        return (scores + tl.cat(came)).index_add(0, last, ended - self._all(packed))

    def _all(self, packed: PackedSequence) -> Tensor:
        """(B,): the logarithm of the sum over all sequences of tags."""
        return tl.fused.crf_total(
            packed.data, packed.batch_sizes, self.start_transitions, self.end_transitions, self.transitions
        )

    def _best(self, packed: PackedSequence) -> np.ndarray[Any, Any]:
        """(N,): the tags of Viterbi's algorithm: forwards the scores of the best ways to each tag, then back along these ways."""
        sizes = packed.batch_sizes.tolist()
        found = np.zeros(packed.shape[0], np.int64)
        if not sizes:
            return found
        follows = self.transitions.T.contiguous()
        first, *steps = packed.data.split(sizes)
        scores, ended, came = first + self.start_transitions, [], []
        for emissions in steps:
            n = emissions.shape[0]
            ended.append(scores[n:])
            most, which = (scores[:n].unsqueeze(1) + follows).max(2)
            scores = most + emissions
            came.append(which.cpu().numpy())
        tags = (tl.cat([scores, *reversed(ended)]) + self.end_transitions).argmax(1).cpu().numpy()
        parts = np.split(found, np.cumsum(sizes)[:-1])
        for part, ways in zip(parts[:0:-1], reversed(came), strict=True):
            part[:] = tags[: len(part)]
            tags[: len(part)] = ways[np.arange(len(part)), part]
        parts[0][:] = tags
        return found

    # ---- what was given ----

    def _packed(self, emissions: Any, mask: Tensor | None) -> PackedSequence:
        packed = self._pack("emissions", emissions, mask, 3)
        like = self.transitions
        if packed.ndim != 2 or packed.shape[1] != self.num_tags or packed.dtype is not like.dtype:
            raise tl.ShapeError(
                f"CRF: emissions must be {like.dtype.name} with {self.num_tags} tags in the last dimension, "
                f"got {packed.dtype.name} of shape {(emissions[0] if isinstance(emissions, (list, tuple)) else emissions).shape}."
            )
        return packed

    def _tags(self, tags: Any, mask: Tensor | None, emissions: Any, like: PackedSequence) -> Tensor:
        """(N,): those of the rows of `like`, which the emissions became."""
        if isinstance(tags, Tensor) and isinstance(emissions, Tensor) and tags.shape != emissions.shape[:-1]:
            raise tl.ShapeError(f"CRF: tags of shape {tags.shape} do not fit emissions of shape {emissions.shape}.")
        packed = self._pack("tags", tags, mask, 2)
        here, there = packed.lengths.tolist(), like.lengths.tolist()
        if here != there:
            i = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), None)
            raise tl.ShapeError(
                f"CRF: got tags of {len(here)} sequences, but emissions of {len(there)}."
                if i is None
                else f"CRF: sequence {i} has {here[i]} tags, but emissions of {there[i]} steps."
            )
        if packed.ndim != 1 or packed.dtype.is_floating_point or packed.dtype is tl.bool:
            raise tl.DTypeError(
                f"CRF: tags must be integers, one a step, got {packed.dtype.name} with elements of shape {packed.shape[1:]}."
            )
        like.check_lengths(packed, "CRF: emissions and tags")
        values = packed.data.to(tl.int64)
        wrong = (values < 0) | (values >= self.num_tags)
        if wrong.any():
            i = int(packed.with_data(wrong).max().int().argmax())
            tag = int(values[wrong][0])
            raise tl.IndexRangeError(
                f"CRF: tag {tag} of sequence {i} is out of range; expected one in [0, {self.num_tags})."
            )
        return values

    def _pack(self, name: str, given: Any, mask: Tensor | None, ndim: int) -> PackedSequence:
        if isinstance(given, Tensor):
            if given.ndim != ndim:
                raise tl.ShapeError(f"CRF: {name} must have {ndim} dimensions, got shape {given.shape}.")
            return pack_padded_sequence(
                given, self._lengths(given, mask), self.batch_first, enforce_sorted=mask is None
            )
        if mask is not None:
            raise TypeError(f"CRF: a mask is for padded tensors; the {name} are a {type(given).__name__}.")
        if isinstance(given, PackedSequence):
            return given
        if not isinstance(given, (list, tuple)):
            raise TypeError(
                f"CRF: {name} are a {type(given).__name__}, expected a tensor, a PackedSequence or a list of tensors."
            )
        return pack_sequence(given, enforce_sorted=False)

    def _lengths(self, padded: Tensor, mask: Tensor | None) -> list[int]:
        steps, batch = padded.shape[:2][:: -1 if self.batch_first else 1]
        if mask is None:
            return [steps] * batch
        if not isinstance(mask, Tensor) or mask.shape != padded.shape[:2]:
            raise tl.ShapeError(
                f"CRF: mask must have shape {padded.shape[:2]}, got {getattr(mask, 'shape', type(mask).__name__)}."
            )
        seen = mask.cpu().numpy().astype(bool)
        seen = seen if self.batch_first else seen.T
        lengths = seen.sum(1)
        holes = np.flatnonzero((seen != (np.arange(steps) < lengths[:, None])).any(1))
        if len(holes):
            raise ValueError(
                f"CRF: the mask of sequence {holes[0]} has a hole; expected its first steps to be on, and then none."
            )
        return [int(n) for n in lengths]

    def extra_repr(self) -> str:
        return f"{self.num_tags}" + (", batch_first=True" if self.batch_first else "")
