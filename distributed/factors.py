"""Gradients of weights between the ranks of one node, as the factors whose product they are.

The gradient of a linear layer's weight (M, N) is g^T x: g (K, M) and x (K, N) have a row for each row that the layer saw. Where these are few,
ranks show each other the rows and leave the products out: each makes its share of the weight's rows for all ranks, and writes it to all.

    rank 0   shows g0, x0   makes the upper half of   g0^T x0 + g1^T x1
    rank 1   shows g1, x1   makes the lower half

So a gradient is written once, where it is wanted, instead of being written, read, added and written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

import tensorlib as tl

from .shared import SharedBuffer

if TYPE_CHECKING:
    from .world import Group

__all__ = ["Factors"]

_FEWER, _LEAST = (
    4,
    1 << 14,
)  # as set_grad_place says: elements of a weight over those of its factors, and of a weight, at least
_LINE = 16  # elements: factors begin at a multiple
_DENSE, _NONE = -1, 0  # instead of a number of rows: the gradient is in its bucket; there is none


class Factors:
    """Those of a model's parameters, by number, whose gradients may come so, of one dtype; none where there is no room.

    A step calls `show`, lets the ranks meet, asks `found`, and calls `multiply`.
    """

    def __init__(self, group: Group, parameters: Sequence[tl.Tensor], places: Sequence[Sequence[tl.Tensor]]) -> None:
        """places: where each gradient is to be, on every rank."""
        self.group, self._places = group, places
        weights = {i: p for i, p in enumerate(parameters) if _served(p)}
        dtype = next((w.dtype for w in weights.values()), tl.float32)
        weights = {i: w for i, w in weights.items() if w.dtype is dtype}
        sizes = [len(weights), *(w.numel() // _FEWER for w in weights.values())]
        starts = np.cumsum([-(-size // _LINE) * _LINE for size in sizes]).tolist()
        self.memory = SharedBuffer(group, starts[-1], dtype, needed=False)
        self._weights = weights if self.memory.on_one_node else {}
        self._rooms = {
            i: self.memory.everywhere(start, start + w.numel() // _FEWER)
            for (i, w), start in zip(self._weights.items(), starts, strict=False)
        }
        """Of each weight, where every rank shows its factors, g before x."""
        self._rows: dict[int, list[int]] = {}
        """Of each weight, what every rank has: rows of factors, or one of the marks above."""
        self.aside: set[int] = set()
        """Parameters of which this rank's bucket has nothing in this step, as there are factors or no gradient."""
        for i, w in self._weights.items():
            tl.autograd.set_grad_place(w, places[i][group.rank], put_off=self._rooms[i][group.rank])

    def release(self) -> None:
        """From now on gradients are multiplied as they come."""
        for i, w in self._weights.items():
            if w.requires_grad:
                tl.autograd.set_grad_place(w, self._places[i][self.group.rank])

    def _factors(self, i: int, of: int, rows: int) -> tuple[tl.Tensor, tl.Tensor]:
        """What rank `of` shows: (K, M), (K, N)."""
        m, n = self._weights[i].shape
        room, middle = self._rooms[i][of], rows * m
        return room[:middle].view(rows, m), room[middle : middle + rows * n].view(rows, n)

    def show(self) -> set[int]:
        """Tell the others of this rank's gradients. Returns those that are there as factors, and nowhere else."""
        told = []
        for i, w in self._weights.items():
            found = tl.autograd.take_grad_factors(w)
            told.append(len(found[0]) if found is not None else _NONE if w.grad is None else _DENSE)
            if found is not None and found[0].data_ptr() != self._rooms[i][self.group.rank].data_ptr():
                # they lie with another model that has this weight and was made later
                for shown, factor in zip(self._factors(i, self.group.rank, told[-1]), found, strict=True):
                    shown.copy_(factor)
        if told:
            self.memory.tensor[: len(told)] = tl.tensor(told, dtype=self.memory.dtype, device="cpu")
        self.aside = {i for i, rows in zip(self._weights, told, strict=True) if rows != _DENSE}
        return {i for i, rows in zip(self._weights, told, strict=True) if rows > _NONE}

    def found(self) -> tuple[set[int], set[int]]:
        """Once all ranks have shown theirs: the weights that need no bucket, and those of which some ranks only have factors."""
        told = [rows.tolist() for rows in self.memory.everywhere(0, len(self._weights))]
        self._rows = {i: [int(rows) for rows in of_ranks] for i, *of_ranks in zip(self._weights, *told, strict=True)}
        alone = {i for i, rows in self._rows.items() if min(rows) != _DENSE}
        return alone, {i for i, rows in self._rows.items() if i not in alone and max(rows) != _DENSE}

    def multiply_own(self, weights: Iterable[int]) -> None:
        """This rank's gradients of these weights come to its own buckets."""
        for i in weights:
            place, rows = self._places[i][self.group.rank], self._rows[i][self.group.rank]
            if rows == _NONE:
                place.zero_()
            elif rows != _DENSE:
                _sum([place], [self._factors(i, self.group.rank, rows)], 1.0)

    def multiply(self, weights: Iterable[int], scale: float) -> None:
        """This rank's share of `scale` times the sums over ranks of these weights' gradients comes to everyone's buckets."""
        rank, ranks = self.group.rank, self.group.size
        for i in weights:
            m = self._weights[i].shape[0]
            low, high = m * rank // ranks, m * (rank + 1) // ranks
            found = [self._factors(i, of, rows) for of, rows in enumerate(self._rows[i]) if rows != _NONE]
            if found and low < high:
                _sum([place[low:high] for place in self._places[i]], [(g[:, low:high], x) for g, x in found], scale)


def _served(p: tl.Tensor) -> bool:
    return p.ndim == 2 and p.numel() >= _LEAST and p.device.type == "cpu" and p.dtype in (tl.float32, tl.float64)


def _sum(outs: list[tl.Tensor], factors: Sequence[tuple[tl.Tensor, tl.Tensor]], scale: float) -> None:
    g, x = zip(*factors, strict=True)
    if not tl.fused.sum_products_(outs, g, x, [0] + [1] * (len(g) - 1), [scale] * len(g)):
        raise tl.errors.TensorlibError(
            f"DistributedDataParallel: a gradient of {tuple(outs[0].shape)} can not be multiplied."
        )
