"""Collectives that are recorded: functions of tensors, differentiable to any order. `tensorlib.distributed`'s own work in place and are not.

The value that is differentiated is the sum of what the ranks call backward on. So a gradient flows back to each rank that contributed, and every rank
must run backward through what it got here: a rank that does not leaves the others waiting. Where one rank's tensors require a gradient, all ranks'
results do. Backward runs the collectives of a program in the reverse of their order, which is the same on all ranks.

>>> x = tl.tensor([1.0, 2.0], requires_grad=True)
>>> tl.distributed.functional.all_reduce(x).square().sum().backward()
>>> x.grad  # on one rank
tensor([2., 4.])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorlib as tl

from . import collectives, moves, reductions
from .collectives import place
from .moves import Port, carry_out
from .progress import Steps
from .reductions import check_op
from .tensors import Source, check, check_list
from .world import Group, member

__all__ = ["all_gather", "all_reduce", "all_to_all", "broadcast", "gather", "reduce", "reduce_scatter", "scatter"]


class _Collective(tl.autograd.Function):
    """A linear map between what the ranks hold, one of the classes below; backward is its adjoint. The second output has no elements: by it the
    gradient of a rank whose loss is linear stays tied to this node, which the other ranks' second derivatives pass through."""

    @staticmethod
    def forward(ctx: Any, x: tl.Tensor, run: _Map) -> tuple[tl.Tensor, tl.Tensor]:
        knot = tl.empty(0, dtype=x.dtype, device=x.device)
        ctx.adjoint = run.adjoint()
        ctx.save_for_backward(knot)
        return run(x.detach()), knot

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor, _: tl.Tensor) -> Any:
        return _apply(ctx.adjoint, g, *ctx.saved_tensors), None


class _Tie(tl.autograd.Function):
    """`x`, as if it depended on `knot`."""

    @staticmethod
    def forward(ctx: Any, x: tl.Tensor, knot: tl.Tensor) -> tl.Tensor:
        ctx.save_for_backward(knot)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: tl.Tensor) -> Any:
        return g, tl.zeros_like(*ctx.saved_tensors)


def _apply(run: _Map, x: tl.Tensor, knot: tl.Tensor | None = None) -> tl.Tensor:
    """Where any rank's `x` requires a gradient, every rank's result does, so that all take part in backward."""
    if run.here.size > 1 and tl.is_grad_enabled():
        agreed = collectives.all_reduce(tl.tensor(x.requires_grad, device="cpu"), "max", run.here).item()
        if agreed and not x.requires_grad:
            x = x.detach().requires_grad_() if knot is None else _Tie.apply(x, knot)
    result: tl.Tensor = _Collective.apply(x, run)[0]
    return result


@dataclass(frozen=True)
class _Map:
    here: Group

    def __call__(self, x: tl.Tensor) -> tl.Tensor:
        raise NotImplementedError

    def adjoint(self) -> _Map:
        raise NotImplementedError

    def carry_out(self, operation: str, out: tl.Tensor, steps: Callable[[Port], Steps], x: tl.Tensor) -> tl.Tensor:
        carry_out(operation, self.here, steps, async_op=False)
        return out.to(x.device)


class _Sum(_Map):
    """The sum over ranks, on all of them."""

    def __call__(self, x: tl.Tensor) -> tl.Tensor:
        total: tl.Tensor = collectives.all_reduce(x.clone(), "sum", self.here)
        return total

    def adjoint(self) -> _Map:
        return self


@dataclass(frozen=True)
class _SumToOne(_Map):
    """The sum over ranks on `root`, zeros elsewhere."""

    root: int

    def __call__(self, x: tl.Tensor) -> tl.Tensor:
        total: tl.Tensor = collectives.reduce(x.clone(), None, "sum", self.here, group_dst=self.root)
        return total if self.here.rank == self.root else tl.zeros_like(x)

    def adjoint(self) -> _Map:
        return _Copy(self.here, self.root)


@dataclass(frozen=True)
class _Copy(_Map):
    """One rank's tensor, on all."""

    root: int

    def __call__(self, x: tl.Tensor) -> tl.Tensor:
        copy: tl.Tensor = collectives.broadcast(x.clone(), None, self.here, group_src=self.root)
        return copy

    def adjoint(self) -> _Map:
        return _SumToOne(self.here, self.root)


@dataclass(frozen=True)
class _Exchange(_Map):
    """Runs of one flat tensor to each rank, and theirs here, one after the other."""

    sent: Sequence[int]
    received: Sequence[int]

    def __call__(self, x: tl.Tensor) -> tl.Tensor:
        source, out = Source("all_to_all", x).flat, tl.empty(sum(self.received), dtype=x.dtype, device="cpu")
        parts = source.split(list(self.sent)), out.split(list(self.received))
        return self.carry_out("all_to_all", out, lambda port: moves.exchange(port, *parts), x)

    def adjoint(self) -> _Map:
        return _Exchange(self.here, self.received, self.sent)


@dataclass(frozen=True)
class _Gather(_Map):
    """All ranks' flat tensors, one after the other, on all."""

    counts: Sequence[int]

    def __call__(self, x: tl.Tensor) -> tl.Tensor:
        source, out = Source("all_gather", x).flat, tl.empty(sum(self.counts), dtype=x.dtype, device="cpu")
        return self.carry_out("all_gather", out, lambda port: moves.all_gather(port, source, out, self.counts), x)

    def adjoint(self) -> _Map:
        return _SumParts(self.here, self.counts)


@dataclass(frozen=True)
class _SumParts(_Map):
    """The sum of all ranks' runs for this one, of a flat tensor with one for each rank."""

    counts: Sequence[int]

    def __call__(self, x: tl.Tensor) -> tl.Tensor:
        parts = Source("reduce_scatter", x).flat.split(list(self.counts))
        out = tl.empty(self.counts[self.here.rank], dtype=x.dtype, device="cpu")
        return self.carry_out("reduce_scatter", out, lambda port: reductions.reduce_scatter(port, parts, out, "sum"), x)

    def adjoint(self) -> _Map:
        return _Gather(self.here, self.counts)


def all_reduce(tensor: tl.Tensor, op: str = "sum", group: Group | None = None) -> tl.Tensor:
    """The ranks' tensors combined, on all of them. Arguments as for `tensorlib.distributed.all_reduce`.

    The gradient of a minimum or maximum goes to the rank that has it, in equal parts to several.

    >>> tl.distributed.functional.all_reduce(tl.tensor([1.0, 2.0]), "mean")
    tensor([1., 2.])
    """
    here, how = _checked("all_reduce", tensor, op, group)
    if how in ("sum", "mean"):
        return _scaled(_apply(_Sum(here), tensor), how, here)
    combined: Any = {"prod": tl.prod, "min": tl.amin, "max": tl.amax}.get(how)
    if combined is None:  # bits have no gradient
        result: tl.Tensor = collectives.all_reduce(tensor.clone(), op, here)
    else:
        result = combined(tl.stack(all_gather(tensor, here)), 0)
    return result


def _checked(operation: str, tensor: tl.Tensor, op: str, group: Group | None) -> tuple[Group, str]:
    here = member(group, operation)
    check(operation, tensor, "tensor")
    return here, check_op(operation, op, tensor.dtype)


def _sums(operation: str, tensor: tl.Tensor, op: str, group: Group | None) -> tuple[Group, str]:
    here, how = _checked(operation, tensor, op, group)
    if how not in ("sum", "mean"):
        raise ValueError(f"{operation}: op is {how}, expected sum or mean; all_reduce has others.")
    return here, how


def _scaled(total: tl.Tensor, op: str, here: Group) -> tl.Tensor:
    return total / here.size if op == "mean" else total


def reduce(
    tensor: tl.Tensor,
    dst: int | None = None,
    op: str = "sum",
    group: Group | None = None,
    *,
    group_dst: int | None = None,
) -> tl.Tensor:
    """The sum or mean of the ranks' tensors on one of them, zeros on the others.

    >>> tl.distributed.functional.reduce(tl.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    here, how = _sums("reduce", tensor, op, group)
    return _scaled(_apply(_SumToOne(here, place("reduce", here, dst, "dst", group_dst)), tensor), how, here)


def broadcast(
    tensor: tl.Tensor, src: int | None = None, group: Group | None = None, *, group_src: int | None = None
) -> tl.Tensor:
    """One rank's tensor, on all. Elsewhere `tensor` says its shape and dtype, and has a gradient of zeros.

    >>> tl.distributed.functional.broadcast(tl.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    here = member(group, "broadcast")
    check("broadcast", tensor, "tensor")
    return _apply(_Copy(here, place("broadcast", here, src, "src", group_src)), tensor)


def all_gather(tensor: tl.Tensor, group: Group | None = None) -> list[tl.Tensor]:
    """Every rank's tensor, of whatever shape, on every rank.

    >>> tl.distributed.functional.all_gather(tl.tensor([1.0, 2.0]))
    [tensor([1., 2.])]
    """
    here = member(group, "all_gather")
    check("all_gather", tensor, "tensor")
    shapes = _shapes_of_all(here, tensor)
    counts = [math.prod(shape) for shape in shapes]
    return _cut(_apply(_Gather(here, counts), tensor.reshape(-1)), shapes)


def _shapes_of_all(here: Group, tensor: tl.Tensor) -> list[tuple[int, ...]]:
    """What tensor each rank has; a dtype that differs is an error on all of them."""
    if here.size == 1:
        return [tuple(tensor.shape)]
    told = collectives.all_gather(tl.tensor(collectives.described(tensor), device="cpu"), group=here)
    return collectives.shapes_told("all_gather", here, [row.tolist() for row in told])[1]


def _cut(flat: tl.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[tl.Tensor]:
    parts = flat.split([math.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def gather(
    tensor: tl.Tensor, dst: int | None = None, group: Group | None = None, *, group_dst: int | None = None
) -> list[tl.Tensor]:
    """Every rank's tensor on one of them; on the others as many without elements, through which they take part in backward.

    Shapes:
        tensor: the same on all ranks
        returns: on `dst` as many as there are ranks, of that shape; elsewhere (0,) each

    >>> tl.distributed.functional.gather(tl.tensor([1.0, 2.0]))
    [tensor([1., 2.])]
    """
    here = member(group, "gather")
    check("gather", tensor, "tensor")
    root = place("gather", here, dst, "dst", group_dst)
    n, there = tensor.numel(), here.rank == root
    sent = [n if r == root else 0 for r in range(here.size)]
    flat = _apply(_Exchange(here, sent, [n if there else 0] * here.size), tensor.reshape(-1))
    return _cut(flat, [tuple(tensor.shape) if there else (0,)] * here.size)


def scatter(
    tensors: Sequence[tl.Tensor], src: int | None = None, group: Group | None = None, *, group_src: int | None = None
) -> tl.Tensor:
    """One rank's tensors, one to each rank.

    Args:
        tensors: for each rank one, all of one shape and dtype. Elsewhere than on `src` they say these, and have gradients of zeros.

    >>> tl.distributed.functional.scatter([tl.tensor([1.0, 2.0])])
    tensor([1., 2.])
    """
    here = member(group, "scatter")
    inputs = check_list("scatter", tensors, "tensors", here.size)
    root = place("scatter", here, src, "src", group_src)
    n, there = inputs[0].numel(), here.rank == root
    flat = tl.stack(list(inputs)).reshape(-1)[: None if there else 0]
    received = [n if r == root else 0 for r in range(here.size)]
    return _apply(_Exchange(here, [n if there else 0] * here.size, received), flat).reshape(inputs[0].shape)


def reduce_scatter(input_list: Sequence[tl.Tensor], op: str = "sum", group: Group | None = None) -> tl.Tensor:
    """The sum or mean of what the ranks have for this one: of every rank's ``input_list[rank()]``.

    >>> tl.distributed.functional.reduce_scatter([tl.tensor([1.0, 2.0])])
    tensor([1., 2.])
    """
    here = member(group, "reduce_scatter")
    inputs = check_list("reduce_scatter", input_list, "input_list", here.size)
    _, how = _sums("reduce_scatter", inputs[0], op, here)
    flat = tl.cat([x.reshape(-1) for x in inputs])
    own = _apply(_SumParts(here, [x.numel() for x in inputs]), flat)
    return _scaled(own.reshape(inputs[here.rank].shape), how, here)


def all_to_all(input_tensor_list: Sequence[tl.Tensor], group: Group | None = None) -> list[tl.Tensor]:
    """A tensor from each rank to each rank, of whatever shapes: rank r's ``outputs[q]`` is rank q's ``inputs[r]``.

    >>> tl.distributed.functional.all_to_all([tl.tensor([1.0, 2.0])])
    [tensor([1., 2.])]
    """
    here = member(group, "all_to_all")
    inputs = check_list("all_to_all", input_tensor_list, "input_tensor_list", here.size)
    told = collectives.all_to_all([tl.tensor(collectives.described(x), device="cpu") for x in inputs], group=here)
    shapes = [collectives.description(row.tolist())[1] for row in told]
    flat = tl.cat([x.reshape(-1) for x in inputs])
    counts = [math.prod(shape) for shape in shapes]
    return _cut(_apply(_Exchange(here, [x.numel() for x in inputs], counts), flat), shapes)
