"""Reproducible mode: a batch is cut into shards whose gradients are added in one fixed tree, whatever the number of ranks.

Each rank computes a run of neighbouring shards, one after the other, as a program on one rank would, and adds up the subtrees that lie in its
run. What is left of each subtree then meets the others':

    shards    0   1   2   3   4   5   6   7        3 ranks
    ranks     0   0   1   1   1   2   2   2
    subtrees  (0+1)   (2+3)   4   5   (6+7)        5 runs of memory: (rank, slot)
    sum       ((0+1)+(2+3)) + ((4+5)+(6+7))

The gradient of a linear layer's weight is a product of two matrices with a row for each sample. Where a shard has few, they are kept, and one
pass over the gradient's memory multiplies and adds all shards of a rank, in the tree's order; larger ones are written to their slot by the
product. The rest is one pass over memory for each shard.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

import tensorlib as tl

from .calls import under_way
from .progress import Steps, Work, done, submit
from .shared import SharedBuffer
from .world import Group

__all__ = ["Shards"]


# ---- the tree ----
@dataclass(frozen=True)
class Turn:
    """One shard of a rank: its gradients come to `slot`, then slots low, ..., slot are added into low, from the last on."""

    shard: int
    slot: int
    low: int


def subtrees(turns: Iterable[Turn]) -> list[list[Turn]]:
    """The turns whose sum each slot holds after them."""
    slots: list[list[Turn]] = []
    for turn in turns:
        slots[turn.low :] = [[*itertools.chain(*slots[turn.low :]), turn]]
    return slots


@dataclass(frozen=True)
class Plan:
    turns: tuple[tuple[Turn, ...], ...]
    """Of each rank."""
    parts: tuple[tuple[int, int], ...]
    """(rank, slot) of every subtree that a rank adds up by itself, in the order of the shards."""
    pairs: tuple[tuple[int, int], ...]
    """How the parts are added."""


def run_of(rank: int, shards: int, ranks: int) -> range:
    """The shards of a rank."""
    return range(shards * rank // ranks, shards * (rank + 1) // ranks)


@functools.lru_cache(64)
def plan(there: tuple[bool, ...], ranks: int) -> Plan:
    """The work of all ranks; `there`: which shards have rows."""
    shards = len(there)
    runs = [run_of(rank, shards, ranks) for rank in range(ranks)]
    top = max(shards - 1, 0).bit_length()
    turns: list[list[Turn]] = [[] for _ in runs]
    parts: list[tuple[int, int]] = []
    pairs: list[tuple[int, int]] = []

    def own(rank: int, level: int, at: int, slot: int) -> bool:
        """Adds shards at, ..., at + 2^level - 1 into a slot. Returns whether there are any."""
        if at >= shards:
            return False
        if level == 0:
            if there[at]:
                turns[rank].append(Turn(at, slot, slot))
            return there[at]
        left = own(rank, level - 1, at, slot)
        right = own(rank, level - 1, at + (1 << (level - 1)), slot + left)
        if left and right:
            last = turns[rank][-1]
            turns[rank][-1] = Turn(last.shard, last.slot, slot)
        return left or right

    def whole(level: int, at: int) -> int | None:
        """The part in which the sum of those shards ends up."""
        end = min(at + (1 << level), shards)
        if at >= end:
            return None
        for rank, run in enumerate(runs):
            if at in run and end - 1 in run:
                slot = sum(owner == rank for owner, _ in parts)
                if not own(rank, level, at, slot):
                    return None
                parts.append((rank, slot))
                return len(parts) - 1
        left, right = whole(level - 1, at), whole(level - 1, at + (1 << (level - 1)))
        if left is not None and right is not None:
            pairs.append((left, right))
        return right if left is None else left

    whole(top, 0)
    return Plan(tuple(map(tuple, turns)), tuple(parts), tuple(pairs))


# ---- batches ----
_SAMPLES = (tl.Tensor, np.ndarray, list)


def _fields(batch: Any) -> list[Any]:
    if isinstance(batch, (tuple, list)):
        fields = list(batch)
    elif isinstance(batch, Mapping):
        fields = list(batch.values())
    else:
        fields = [batch]
    return fields


def count_rows(batch: Any) -> int:
    """The samples of a batch; all of its fields have as many."""
    counts = []
    for field in _fields(batch):
        if not isinstance(field, _SAMPLES) or (not isinstance(field, list) and not field.ndim):
            raise TypeError(
                f"shards: got a {type(field).__name__} in the batch, expected tensors, arrays or lists with one entry a sample, "
                "or a tuple, list or dict of them."
            )
        counts.append(len(field))
    if not counts or len(set(counts)) > 1:
        raise tl.errors.ShapeError(
            f"shards: the batch's fields have {counts} samples, expected one number in all.",
            hint="a list is taken for the fields of a batch; write (sentences,) for one field that is a list" if counts else None,
        )  # fmt: skip
    return counts[0]


def cut(batch: Any, begin: int, end: int) -> Any:
    """The same batch with some samples only."""
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(field[begin:end] for field in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(field[begin:end] for field in batch)
    if isinstance(batch, Mapping):
        return {name: field[begin:end] for name, field in batch.items()}
    return batch[begin:end]


# ---- memory ----
class _Pool:
    """Places for tensors of one dtype in every slot."""

    def __init__(self, group: Group, like: Sequence[tl.Tensor], slots: int) -> None:
        self.like = list(like)
        step = 64 // like[0].itemsize
        starts = np.cumsum([0, *(-(-t.numel() // step) * step for t in like)]).tolist()
        self.memory = SharedBuffer(group, starts[-1], like[0].dtype, slots)
        self.views = [
            [run[start : start + t.numel()].view(t.shape) for start, t in zip(starts, like, strict=False)]
            for run in self.memory.runs
        ]
        self._starts = starts
        self._leave_out(set())

    def _leave_out(self, without: AbstractSet[int]) -> None:
        """Some tensors that `add` is not about from now on."""
        self._left_out = frozenset(without)
        wanted = itertools.groupby(range(len(self.like)), lambda k: k not in without)
        bounds = [(self._starts[ks[0]], self._starts[ks[-1] + 1]) for ks in (list(ks) for there, ks in wanted if there)]
        self._stretches = [[run[begin:end] for run in self.memory.runs] for begin, end in bounds]

    def add(self, turn: Turn, factor: float) -> None:
        """What the turn's slot holds joins the subtree it belongs to."""
        for stretch in self._stretches:
            runs = stretch[turn.low : turn.slot + 1]
            if factor != 1:
                _sum([runs[-1]], [runs[-1]], [], factor)
            if len(runs) > 1:
                _sum(runs[:1], runs, [(i, i + 1) for i in reversed(range(len(runs) - 1))], 1.0)

    def join(self, planned: Plan, scale: float, step: int) -> Iterator[Work]:
        """The sum of all parts, in pieces of `step` bytes, comes to slot 0."""
        size = self.memory.dtype.itemsize
        each = max(1, step // size)
        for begin in range(0, self.memory.numel, each):
            end = min(begin + each, self.memory.numel)
            yield _start(self.memory.join(planned.parts, planned.pairs, scale, begin, end), self.memory.group)


_DEEPEST = 16  # sums under way that `sum_products_` has room for


class _Gradients(_Pool):
    """The pool of parameters' gradients."""

    def __init__(self, group: Group, like: Sequence[tl.Tensor], slots: int) -> None:
        # Those that may come as factors are the large matrices: they are last, so that the others are added in one stretch.
        super().__init__(group, sorted(like, key=lambda p: (p.ndim == 2, p.numel())), slots)
        self._addresses = [[view.data_ptr() for view in views] for views in self.views]
        self._kept: dict[int, list[tuple[Turn, float, tl.Tensor, tl.Tensor]]] = {}
        """Of parameters whose gradients came as factors in all turns of this step: those."""

    def begin(self) -> None:
        if self.memory.dtype in (tl.float32, tl.float64) and len(self.views) <= _DEEPEST:
            self._kept = {k: [] for k, p in enumerate(self.like) if p.ndim == 2 and p.device.type == "cpu"}

    def place(self, slot: int | None) -> None:
        """Where backward is to leave gradients. Those that came as factors so far have a place already, which takes them should they not."""
        if self.memory.dtype in (tl.float32, tl.float64):
            for k, p in enumerate(self.like):
                if p.device.type == "cpu" and (slot is None or not self._kept.get(k)):
                    memory = None if slot is None else self.views[slot][k]
                    tl.autograd.set_grad_place(p, memory, put_off=k in self._kept)

    def take(self, turn: Turn, factor: float) -> list[tl.Tensor]:
        """The gradients of a turn. Returns the parameters that have one."""
        found, otherwise = [], []
        for k, p in enumerate(self.like):
            if k in self._kept:
                factors = tl.autograd.take_grad_factors(p)
                if factors is not None:
                    self._kept[k].append((turn, factor, *factors))
                    found.append(p)
                    continue
                otherwise.append(k)
            view, g = self.views[turn.slot][k], p.grad
            if g is None:
                view.zero_()
                continue
            found.append(p)
            if g.device.type != "cpu" or g.data_ptr() != self._addresses[turn.slot][k]:
                view.copy_(g.to_dense())
            p.grad = None
        self.multiply(otherwise)
        if self._kept.keys() != self._left_out:
            self._leave_out(self._kept.keys())
        self.add(turn, factor)
        return found

    def multiply(self, places: Iterable[int] | None = None) -> None:
        """Factors kept for some parameters, or for all, become what the slots before this turn's would hold without them."""
        for k in list(self._kept) if places is None else places:
            kept = {turn: rest for turn, *rest in self._kept.pop(k)}
            for slot, turns in enumerate(subtrees(kept)):
                factors, g, x = zip(*(kept[turn] for turn in turns), strict=True)
                joins = [turn.slot - turn.low for turn in turns]
                if not tl.fused.sum_products_([self.views[slot][k]], g, x, joins, factors):
                    raise tl.errors.TensorlibError(
                        f"shards: gradients of a weight {tuple(self.like[k].shape)} can not be multiplied."
                    )


def _sum(outs: list[tl.Tensor], parts: list[tl.Tensor], pairs: list[tuple[int, int]], scale: float) -> None:
    if not tl.fused.sum_pairs_(outs, parts, pairs, scale):
        raise tl.errors.DTypeError(f"shards: {parts[0].dtype.name} gradients can not be summed.")


def _start(steps: Steps, group: Group) -> Work:
    return done(steps) if group.comm is None else submit(steps, group)


def _by_dtype(tensors: Sequence[tl.Tensor]) -> list[list[tl.Tensor]]:
    found: dict[str, list[tl.Tensor]] = {}
    for t in tensors:
        found.setdefault(t.dtype.name, []).append(t)
    return list(found.values())


# ---- a step ----
_DIGIT = 1 << 24  # float32 holds integers up to here
_FACTS = ("rows", "random numbers")
_WIDTH = 1 + 2 * len(_FACTS)  # numbers that each rank says of itself


class Shards:
    """The reproducible steps of one model, over the ranks of a group: see `DistributedDataParallel.shards`."""

    def __init__(self, module: tl.nn.Module, group: Group, count: int, cap: int) -> None:
        self.group, self.count, self._cap = group, count, cap
        self.open = False
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        buffers = list(module.buffers())
        turns = plan((True,) * count, group.size).turns
        slots = 1 + max((turn.slot for of_rank in turns for turn in of_rank), default=0)
        self._gradients = [_Gradients(group, like, slots) for like in _by_dtype(self._parameters)]
        self._floating = [
            _Pool(group, like, slots) for like in _by_dtype([b for b in buffers if b.is_floating_point()])
        ]
        self._counts = [b for b in buffers if not b.is_floating_point()]
        self._said = SharedBuffer(group, len(self._parameters) + group.size * _WIDTH, tl.float32)
        self._counted = SharedBuffer(group, sum(b.numel() for b in self._counts), tl.int64)
        self._used: set[int] = set()

    def run(self, batch: Any, average: bool) -> Iterator[Any]:
        """This rank's shards of the batch. Gradients are complete, on all ranks, when the loop over them ends."""
        if self.open:
            raise RuntimeError("shards: a loop over shards is under way already.")
        for p in self._parameters:
            if p.grad is not None:
                raise RuntimeError(
                    "shards: the model has gradients from before, and those of the shards take their place; call optimizer.zero_grad() first."
                )
        rows = count_rows(batch)
        bounds = [rows * i // self.count for i in range(self.count + 1)]
        sizes = [high - low for low, high in itertools.pairwise(bounds)]
        planned = plan(tuple(size > 0 for size in sizes), self.group.size)
        filled = sum(size > 0 for size in sizes)
        factors = [size * filled / rows if rows else 0.0 for size in sizes]  # 1 where all have as many rows
        stream = tl.default_generator().next(1)
        before = [b.detach().clone() for pool in self._floating for b in pool.like], [b.clone() for b in self._counts]
        self.open, finished = True, False
        self._used.clear()
        for pool in self._gradients:
            pool.begin()
        try:
            for turn in planned.turns[self.group.rank]:
                self._begin(turn, *before)
                with tl.random.fork_stream(*stream, turn.shard):
                    yield cut(batch, bounds[turn.shard], bounds[turn.shard + 1])
                self._end(turn, factors[turn.shard], average)
            finished = True
        finally:
            self.open = False
            self._place(None)
            with under_way("shards: gradients", self.group):
                self._agree(finished, rows, tl.random.mixed(*stream))
                if finished:
                    self._join(planned, 1 / filled if average and filled else 1.0, 1 / max(filled, 1))

    def _begin(self, turn: Turn, floating: list[tl.Tensor], counts: list[tl.Tensor]) -> None:
        """Every shard begins with the buffers that the step began with."""
        if floating or counts:
            with tl.no_grad():
                for b, value in zip([b for pool in self._floating for b in pool.like], floating, strict=True):
                    b.copy_(value)
                for b, value in zip(self._counts, counts, strict=True):
                    b.copy_(value)
        self._place(turn.slot)

    def _place(self, slot: int | None) -> None:
        for pool in self._gradients:
            pool.place(slot)

    def _end(self, turn: Turn, factor: float, average: bool) -> None:
        with tl.no_grad():
            for pool in self._gradients:
                self._used.update(map(id, pool.take(turn, factor if average else 1.0)))
            for held in self._floating:
                for b, view in zip(held.like, held.views[turn.slot], strict=True):
                    view.copy_(b)
                held.add(turn, factor)

    def _agree(self, finished: bool, rows: int, stream: int) -> None:
        """All ranks learn which parameters have gradients, and whether all are at the same step with the same batch."""
        if self.group.comm is None:
            return
        n, mine = len(self._parameters), self.group.rank
        said = self._said.tensor
        said.fill_(0.0)
        own = [float(not finished)]
        for fact in (rows, stream % _DIGIT**2):
            own += [float(fact // _DIGIT), float(fact % _DIGIT)]
        said[n + mine * _WIDTH : n + (mine + 1) * _WIDTH] = tl.tensor(own, device="cpu")
        for k, p in enumerate(self._parameters):
            if id(p) in self._used:
                said[k] = 1.0
        submit(self._said.all_reduce(), self.group).wait()
        if not finished:
            return
        told = said[n:].view(self.group.size, _WIDTH).tolist()
        if lost := [rank for rank, facts in enumerate(told) if facts[0]]:
            raise RuntimeError(f"shards: rank {lost[0]} left its loop over the shards before the end.")
        for i, name in enumerate(_FACTS):
            values = [facts[1 + 2 * i] * _DIGIT + facts[2 + 2 * i] for facts in told]
            if different := [rank for rank, value in enumerate(values) if value != values[0]]:
                raise RuntimeError(
                    f"shards: the {name} of rank {different[0]} ({values[different[0]]:.0f}) differ from those of rank 0 ({values[0]:.0f}); "
                    "every rank gives the whole batch, and draws the same numbers outside of the shards."
                )
        self._used = {id(p) for p, there in zip(self._parameters, said.tolist(), strict=False) if there}

    def _join(self, planned: Plan, scale: float, of_buffers: float) -> None:
        for pool in self._gradients:
            pool.multiply()
        works = [work for pool in self._gradients for work in pool.join(planned, scale, self._cap)]
        if planned.parts:
            works += [work for pool in self._floating for work in pool.join(planned, of_buffers, self._cap)]
        first = planned.parts[0][0] if planned.parts else 0
        values = [b.to(tl.int64).reshape(-1) for b in self._counts]
        if values:
            counted = tl.cat(values)
            self._counted.tensor.copy_(counted if first == self.group.rank else tl.zeros_like(counted))
            works.append(_start(self._counted.all_reduce(), self.group))
        for work in works:
            work.wait()
        for pool in self._gradients:
            for p, view in zip(pool.like, pool.views[0], strict=True):
                p.grad = view.to(p.device) if id(p) in self._used else None
        with tl.no_grad():
            if planned.parts:
                for held in self._floating:
                    for b, view in zip(held.like, held.views[0], strict=True):
                        b.copy_(view)
            at = 0
            for b in self._counts:
                b.copy_(self._counted.tensor[at : at + b.numel()].view(b.shape))
                at += b.numel()
