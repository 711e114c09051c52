"""Connectionist temporal classification: the loss of labels whose places in time are not known.

A path gives each step a label or the blank; without its repetitions, and then without its blanks, it is the target. All such paths are summed up
together, over the states blank, label, blank, label ... blank: from one step to the next a path stays in its state, goes on by one, or by two
where that skips the blank between labels that differ. Two states before the first one, of which the nearer one is where paths begin, keep
empty targets and inputs from being cases of their own.

Dimension letters: T steps, B sequences, C classes, S labels of the longest target, K = 2S + 1 states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib.dtypes import bfloat16, float16, float32
from tensorlib.errors import DeviceError, DTypeError, IndexRangeError, ShapeError
from tensorlib.native import lib
from tensorlib.ops import (
    creation,
    elementwise,
    gather,
    joins,
    positions,
    rearrange,
    reductions,
    selection,
    transcendental,
)
from tensorlib.ops.declare import structured
from tensorlib.ops.fused import SLOW, caller
from tensorlib.ops.pairs import REDUCTION_NAMES, REDUCTIONS, check_reduction, floats_only, reduced
from tensorlib.ops.table import Draw, error, sample
from tensorlib.tensor import Tensor, wrap

__all__ = ["ctc_loss"]
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()

NEVER = -1e30  # the logarithm of no chance: finite, so that sums and gradients of such are numbers


# ---- what the definition is written in: an array module's functions, and the same of tensors ----
class _Arrays:
    def __init__(self, xp: Any) -> None:
        self.xp, self.cat, self.exp, self.where = xp, xp.concatenate, xp.exp, xp.where

    def arange(self, n: int, like: Any) -> Any:
        return self.xp.arange(n)

    def full(self, shape: tuple[int, ...], value: float, like: Any) -> Any:
        return self.xp.full(shape, value, like.dtype)

    def cast(self, x: Any, like: Any) -> Any:
        return x.astype(like.dtype)

    def at_least(self, x: Any, least: float) -> Any:
        return self.xp.maximum(x, least)

    def reverse(self, x: Any) -> Any:
        """The same from the end, along all dimensions but the last one, the batch's."""
        return self.xp.flip(x, tuple(range(x.ndim - 1)))

    def gather(self, x: Any, index: Any) -> Any:
        return self.xp.take_along_axis(x, index, 0)

    def columns(self, x: Any, index: Any) -> Any:
        return self.xp.take(x, index, 1)

    def log_sum(self, parts: Sequence[Any]) -> Any:
        """The logarithm of the sum of what these are the logarithms of."""
        most = parts[0]
        for x in parts[1:]:
            most = self.xp.maximum(most, x)
        total = self.exp(parts[0] - most)
        for x in parts[1:]:
            total += self.exp(x - most)
        return self.xp.log(total, out=total) + most

    def in_columns(self, values: Any, index: Any, n: int) -> Any:
        """n columns, each the sum of those to which `index` gives its number."""
        rows = values.shape[0]
        place = self.xp.arange(rows)[:, None] * n + index
        return self.xp.bincount(place.ravel(), values.ravel(), rows * n).reshape(rows, n).astype(values.dtype)


class _Tensors:
    cat, exp, where = staticmethod(joins.cat), staticmethod(transcendental.exp), staticmethod(elementwise.where)

    def arange(self, n: int, like: Tensor) -> Tensor:
        return creation.arange(n, device=like.device)

    def full(self, shape: tuple[int, ...], value: float, like: Tensor) -> Tensor:
        return creation.full(shape, value, dtype=like.dtype, device=like.device)

    def cast(self, x: Tensor, like: Tensor) -> Tensor:
        return x.to(like.dtype)

    def at_least(self, x: Tensor, least: float) -> Tensor:
        return selection.clamp_min(x, least)

    def reverse(self, x: Tensor) -> Tensor:
        return rearrange.flip(x, tuple(range(x.ndim - 1)))

    def gather(self, x: Tensor, index: Tensor) -> Tensor:
        return gather.gather(x, 0, index)

    def columns(self, x: Tensor, index: Tensor) -> Tensor:
        return positions.index_select(x, 1, index)

    def log_sum(self, parts: Sequence[Tensor]) -> Tensor:
        return reductions.logsumexp(joins.stack(parts), 0)

    def in_columns(self, values: Tensor, index: Tensor, n: int) -> Tensor:
        return gather.scatter_add(self.full((values.shape[0], n), 0.0, values), 1, index.expand(values.shape), values)


# ---- the definition ----
def _labels(f: Any, targets: Any, target_lengths: Any, blank: int) -> Any:
    """(K, B): the label of each state, the blank for those behind the end."""
    batch, count = targets.shape
    targets = f.where(f.arange(count, targets) < target_lengths[:, None], targets, blank)
    blanks = f.full((count, 1, batch), blank, targets)
    return f.cat([f.cat([blanks, targets.T[:, None]], 1).reshape(2 * count, batch), f.full((1, batch), blank, targets)])


def _logs(f: Any, log_probs: Any, labels: Any) -> tuple[Any, Any]:
    """(T, K, B): the logarithms for the label of each state at each step; and (K * B,), which of the B * C columns they are."""
    steps, batch, classes = log_probs.shape
    place = (f.arange(batch, labels) * classes + labels).reshape(-1)
    logs = f.columns(f.at_least(log_probs, NEVER).reshape(steps, batch * classes), place)
    return logs.reshape(steps, *labels.shape), place


def _paths(f: Any, logs: Any, labels: Any, begin: Any, state: Any) -> Any:
    """(T + 1, 2 + K, B): the logarithm of the sum over all paths to each state, before the first step and after each.

    begin, state: (B,), the step and the state at which paths may begin, or one state later; logs are NEVER at states before
    """
    states, batch = labels.shape
    same = f.full((max(states - 2, 0), batch), 0.0, logs)
    skips = f.cat([f.full((min(states, 2), batch), 0.0, logs), f.where(labels[2:] == labels[:-2], NEVER, same)])
    before, zeros = f.full((2, batch), NEVER, logs), f.full((states + 2, batch), 0.0, logs)
    first = a = f.where(f.arange(states + 2, logs)[:, None] == state + 1, zeros, NEVER)
    latest = max(begin.tolist(), default=0)
    done = [a[None]]
    for t in range(logs.shape[0]):
        a = f.cat([before, f.log_sum([a[2:], a[1:-1], a[:-2] + skips]) + logs[t]])
        a = f.where(begin > t, first, a) if t < latest else a
        done.append(a[None])
    return f.cat(done)


def _ends(f: Any, paths: Any, input_lengths: Any, target_lengths: Any) -> tuple[Any, Any]:
    """(B,): the logarithm of the sum over all whole paths; and where there is none."""
    _, states, batch = paths.shape
    last = f.gather(paths, input_lengths + f.full((1, states, batch), 0, input_lengths))[0]
    ends = f.gather(last, 2 * target_lengths + f.arange(2, paths)[:, None] + 1)
    total = f.log_sum([ends[0], ends[1]])
    return total, total < NEVER / 2


def _counted(f: Any, target_lengths: Any, like: Any) -> Any:
    """(B,): what a mean divides the losses by."""
    return f.cast(f.at_least(target_lengths, 1), like)


def _losses(
    f: Any, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, *, blank: int, reduction: str, zero_infinity: bool
) -> Any:  # fmt: skip
    labels = _labels(f, targets, target_lengths, blank)
    logs, _ = _logs(f, log_probs, labels)
    paths = _paths(f, logs, labels, 0 * input_lengths, 0 * input_lengths)
    total, never = _ends(f, paths, input_lengths, target_lengths)
    losses = f.where(never, 0.0 if zero_infinity else math.inf, -total)
    return reduced(losses / _counted(f, target_lengths, losses) if reduction == "mean" else losses, reduction)


def _slopes(
    f: Any, g: Any, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, *,
    blank: int, reduction: str, zero_infinity: bool,
) -> Any:  # fmt: skip
    """(T, B, C): minus the chance that a path has the class at the step, times g."""
    labels = _labels(f, targets, target_lengths, blank)
    logs, place = _logs(f, log_probs, labels)
    steps, states, batch = logs.shape
    inside = (f.arange(states, logs)[:, None] <= 2 * target_lengths) & (
        f.arange(steps, logs)[:, None, None] < input_lengths
    )
    logs = f.where(inside, logs, NEVER)
    # Beside the paths from the begin, those to the end: from it, with steps and states in reverse order.
    both = f.cat([logs, f.reverse(logs)], 2)
    begin, state = (f.cat([0 * last, last]) for last in (steps - input_lengths, states - 1 - 2 * target_lengths))
    paths = _paths(f, both, f.cat([labels, f.reverse(labels)], 1), begin, state)
    total, never = _ends(f, paths[:, :, :batch], input_lengths, target_lengths)
    through = paths[1:, 2:, :batch] + f.reverse(paths[1:, 2:, batch:]) - logs
    total = f.where(never, -NEVER if zero_infinity else math.nan, total)
    chances = f.exp(f.where(inside, through - total, NEVER))
    scale = g / (batch * _counted(f, target_lengths, g)) if reduction == "mean" else g
    slopes = f.in_columns((-chances * scale).reshape(steps, states * batch), place, batch * log_probs.shape[2])
    return slopes.reshape(log_probs.shape)


# ---- the entries ----
def _samples() -> list[Any]:
    def one(
        steps: int, classes: int, targets: list[list[int]], inputs: list[int], blank: int = 0, reduction: str = "mean",
        zero_infinity: bool = False, smooth: bool = True, special: tuple[float, ...] = (),
    ) -> Any:  # fmt: skip
        longest, filler = max(len(t) for t in targets), (blank + 1) % classes
        padded = [x for t in targets for x in t + [filler] * (longest - len(t))]
        lengths = [Draw((len(n),), dtype="int64", values=n) for n in (inputs, [len(t) for t in targets])]
        return sample(
            Draw((steps, len(targets), classes), -3.0, 0.0, special=special), Draw((len(targets), longest), dtype="int64", values=padded), *lengths,
            blank=blank, reduction=reduction, zero_infinity=zero_infinity, smooth=smooth,
        )  # fmt: skip

    ragged = [[1, 2, 1], [3], [], [2, 2]]
    made = [one(6, 4, ragged, [6, 4, 2, 5], reduction=r) for r in ("mean", "sum", "none")]
    made.append(one(5, 3, [[0, 1], [1, 1]], [5, 3], blank=2))
    made.append(one(3, 3, [[], []], [3, 1], reduction="none"))
    made.append(one(3, 3, [[1, 2], [], []], [3, 0, 2], reduction="sum"))
    made.append(one(4, 3, [[1, 1, 1], [1], [2]], [4, 4, 0], reduction="none", zero_infinity=True))
    made.append(one(4, 3, [[1, 1, 1], [1], [2]], [4, 4, 0], reduction="none", smooth=False))
    made.append(one(5, 3, [[1, 2], [2]], [5, 4], special=(-math.inf, -1.0, -1e9)))
    long = [1 + k % 4 for k in range(17)]  # where vectors end
    made.append(one(24, 5, [long, long[1:9], [2, 2, 2, 3, 3, 1, 1], long[:16]], [24, 20, 11, 23]))
    return made


def _gradient(
    g: Tensor, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int, reduction: str, zero_infinity: bool
) -> Any:  # fmt: skip
    how = {"blank": blank, "reduction": reduction, "zero_infinity": zero_infinity}
    return _ctc_slopes(g, log_probs, targets, input_lengths, target_lengths, **how)


_INPUTS = ("log_probs", "targets", "input_lengths", "target_lengths")
_ATTRS = ("blank", "reduction", "zero_infinity")


def _ints(*values: int) -> Draw:
    return Draw((len(values),), dtype="int64", values=values)


def _errors() -> list[Any]:
    def wrong(match: str, raises: type[Exception] = ValueError, **changed: Any) -> Any:
        given = {"log_probs": (4, 2, 3), "targets": Draw((2, 2), dtype="int64", values=[1, 2, 1, 1])}
        given |= {"input_lengths": _ints(4, 3), "target_lengths": _ints(2, 1)} | changed
        attrs = {name: given.pop(name) for name in _ATTRS if name in given}
        return error(*(given[name] for name in _INPUTS), raises=raises, match=f"ctc_loss: {match}", **attrs)

    return [
        wrong(r"log_probs must have shape \(T, B, C\) or \(T, C\), got \(4,\)", log_probs=(4,)),
        wrong("targets must be integers", TypeError, targets=(2, 2)),
        wrong(r"targets must have shape \(2, S\) or \(3,\), .* got \(3, 2\)", targets=Draw((3, 2), dtype="int64", values=[1])),
        wrong(r"targets must have shape .* got \(4,\)", targets=_ints(1, 2, 1, 1)),
        wrong(r"target 1 of sequence 0 is 3, expected a class in \[0, 3\)", IndexError, targets=Draw((2, 2), dtype="int64", values=[1, 3, 1, 1])),
        wrong("target 0 of sequence 1 is 0, the blank", targets=Draw((2, 2), dtype="int64", values=[1, 2, 0, 1])),
        wrong("input_lengths has 3 lengths for 2 sequences", input_lengths=_ints(4, 3, 1)),
        wrong(r"input_lengths\[1\] is 5, expected an integer in \[0, 4\]", input_lengths=_ints(4, 5)),
        wrong(r"target_lengths\[0\] is -1, expected an integer in \[0, 2\]", target_lengths=_ints(-1, 1)),
        wrong(r"target_lengths must be integers", TypeError, target_lengths=Draw((2,))),
        wrong(r"blank must be a class in \[0, 3\), got 3", blank=3),
        wrong("reduction must be", reduction="avg"),
    ]  # fmt: skip


def _native(line: int, *operands: Tensor, blank: int, reduction: str, zero_infinity: bool) -> Any:
    handles = (x._array for x in operands)
    return lib.tl_ctc_loss(*handles, blank, REDUCTIONS[reduction], zero_infinity, line)


_ctc_loss = structured(
    "ctc_loss",
    autocast="float32",
    inputs=_INPUTS,
    attrs=_ATTRS,
    dtype=floats_only("ctc_loss"),
    ref=lambda xp, *operands, **how: _losses(_Arrays(xp), *operands, **how),
    composite=lambda *operands, **how: _losses(_Tensors(), *operands, **how),
    vjp=(_gradient, None, None, None),
    native=_native,
    decode=lambda node: {
        "blank": lib.tl_node_int(node, 0),
        "reduction": REDUCTION_NAMES[lib.tl_node_int(node, 1)],
        "zero_infinity": bool(lib.tl_node_int(node, 2)),
    },
    samples=_samples,
    errors=_errors,
)

_ctc_slopes = structured(
    "ctc_slopes",
    inputs=("grad", *_INPUTS),
    attrs=_ATTRS,
    dtype=floats_only("ctc_loss"),
    ref=lambda xp, *operands, **how: _slopes(_Arrays(xp), *operands, **how),
    composite=lambda *operands, **how: _slopes(_Tensors(), *operands, **how),
    replays=True,
    private=True,
)


# ---- the function ----
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int] | int,
    target_lengths: Tensor | Sequence[int] | int,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Negative log-likelihood of label sequences whose places in time are not known: of all paths that are the target once repetitions, and then
    blanks, are taken out.

    Args:
        blank: the class that stands for no label.
        reduction: "none"; "sum"; or "mean", of each loss divided by its target's length (by 1 where that is 0).
        zero_infinity: losses of inputs that are too short for their targets are 0, and their gradients, instead of infinite (and NaN).

    Shapes:
        log_probs: (T, B, C) float, logarithms of probabilities; or (T, C)
        targets: (B, S) integer, filled up with anything; or all targets one after the other, (sum of target_lengths,); for (T, C): (S,)
        input_lengths, target_lengths: B integers, at most T and S; for (T, C) one
        returns: () for "mean" and "sum", (B,) for "none" (for (T, C): ())

    The gradient is that of the sum over paths: minus the chance of each class at each step. PyTorch's adds the probabilities themselves,
    which makes no difference once it has passed through log_softmax.

    Raises:
        ShapeError, ValueError, IndexError: where sizes, lengths or labels do not fit.

    Reference: Graves et al. 2006.

    >>> even = tl.log_softmax(tl.zeros(2, 1, 2), -1)
    >>> round(tl.ctc_loss(even, tl.tensor([[1]]), [2], [1]).exp().item(), 4)  # 3 of 4 paths: 11, 1_, _1
    1.3333
    """
    given: tuple[Any, ...] = (log_probs, targets, input_lengths, target_lengths)
    try:
        handles = (x._array for x in given)
        made = lib.tl_ctc_loss(*handles, blank, REDUCTIONS[reduction], bool(zero_infinity), caller())
        if made:
            return wrap(made)
    except SLOW:
        pass
    check_reduction("ctc_loss", reduction)
    if log_probs.ndim not in (2, 3):
        raise ShapeError(f"ctc_loss: log_probs must have shape (T, B, C) or (T, C), got {log_probs.shape}.")
    floats_only("ctc_loss")(log_probs.dtype)
    if targets.device != log_probs.device:
        raise DeviceError(f"ctc_loss: log_probs are on {log_probs.device} and targets on {targets.device}.")
    steps, *sizes, classes = log_probs.shape
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank must be a class in [0, {classes}), got {blank}.")
    batch = sizes[0] if sizes else 1
    inputs = _lengths("input_lengths", input_lengths, batch, steps)
    counts = _lengths("target_lengths", target_lengths, batch, targets.shape[-1] if targets.ndim else 0)
    padded = _padded(targets if sizes or targets.ndim != 1 else targets.unsqueeze(0), counts, classes, blank)
    batched = log_probs if sizes else log_probs.unsqueeze(1)
    half = log_probs.dtype in (float16, bfloat16)
    integers = [creation.tensor(x, device=log_probs.device) for x in (padded, inputs, counts)]
    how = {"blank": int(blank), "reduction": reduction, "zero_infinity": bool(zero_infinity)}
    loss: Tensor = _ctc_loss(batched.to(float32) if half else batched, *integers, **how)
    loss = loss.to(log_probs.dtype) if half else loss
    return loss if sizes or reduction != "none" else loss.squeeze(0)


def _lengths(name: str, given: Any, batch: int, most: int) -> np.ndarray[Any, Any]:
    listed = given if isinstance(given, (int, list, tuple)) else given.tolist()
    listed = [listed] if isinstance(listed, (int, float)) else list(listed)
    if len(listed) != batch:
        raise ShapeError(f"ctc_loss: {name} has {len(listed)} lengths for {batch} sequences.")
    for i, n in enumerate(listed):
        if isinstance(n, bool) or not isinstance(n, int):
            raise DTypeError(f"ctc_loss: {name} must be integers, got {n!r} for sequence {i}.")
        if not 0 <= n <= most:
            raise ValueError(f"ctc_loss: {name}[{i}] is {n}, expected an integer in [0, {most}].")
    return np.asarray(listed, np.int64)


def _padded(targets: Tensor, counts: np.ndarray[Any, Any], classes: int, blank: int) -> np.ndarray[Any, Any]:
    """(B, S): the targets, filled up with blanks, whichever way they came."""
    if targets.dtype.category != 1:
        raise DTypeError(f"ctc_loss: targets must be integers, got {targets.dtype.name}.")
    batch, total = len(counts), int(counts.sum())
    if not (targets.shape == (total,) or (targets.ndim == 2 and targets.shape[0] == batch)):
        raise ShapeError(
            f"ctc_loss: targets must have shape ({batch}, S) or ({total},), the sum of target_lengths, got {targets.shape}."
        )
    width = int(counts.max(initial=0))
    inside = np.arange(width) < counts[:, None]
    values = targets.detach().cpu().numpy().astype(np.int64)
    padded = np.full((batch, width), blank, np.int64)
    padded[inside] = values if values.ndim == 1 else values[:, :width][inside]
    wrong = inside & ((padded < 0) | (padded >= classes) | (padded == blank))
    if wrong.any():
        b, s = (int(x[0]) for x in np.nonzero(wrong))
        if padded[b, s] == blank:
            raise ValueError(f"ctc_loss: target {s} of sequence {b} is {blank}, the blank.")
        raise IndexRangeError(
            f"ctc_loss: target {s} of sequence {b} is {padded[b, s]}, expected a class in [0, {classes})."
        )
    return padded
