"""Sums and other combinations over ranks: by MPI where it has the type and the operation, otherwise by exchanging parts and combining them here."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import tensorlib as tl

from . import moves
from .moves import Port
from .progress import Steps

__all__ = ["ReduceOp", "all_reduce", "check_op", "combine", "is_known_to_mpi"]


class ReduceOp(str, Enum):
    """How values of several ranks become one. The operations' names do as well: ``"sum"``, ``"mean"`` ...

    >>> x = tl.tensor([1.0, 2.0])
    >>> tl.distributed.all_reduce(x, tl.distributed.ReduceOp.MAX)
    tensor([1., 2.])
    """

    SUM = "sum"
    AVG = "mean"
    PRODUCT = "prod"
    MIN = "min"
    MAX = "max"
    BAND = "band"
    BOR = "bor"
    BXOR = "bxor"


_OTHER_NAMES = {"avg": "mean", "product": "prod"}
_NAMES = tuple(op.value for op in ReduceOp)
_COMBINED = {
    "sum": tl.Tensor.add_, "mean": tl.Tensor.add_, "prod": tl.Tensor.mul_, "min": tl.minimum, "max": tl.maximum,
    "band": tl.bitwise_and, "bor": tl.bitwise_or, "bxor": tl.bitwise_xor,
}  # fmt: skip
_MPI_OPS = {
    "sum": "SUM", "mean": "SUM", "prod": "PROD", "min": "MIN", "max": "MAX", "band": "BAND", "bor": "BOR", "bxor": "BXOR"
}  # fmt: skip
_BOOL_OPS = {"sum": "BOR", "prod": "BAND", "min": "BAND", "max": "BOR", "band": "BAND", "bor": "BOR", "bxor": "BXOR"}
_MPI_TYPES = {
    "bool": "BYTE", "uint8": "UINT8_T", "int8": "INT8_T", "int16": "INT16_T", "int32": "INT32_T", "int64": "INT64_T",
    "float32": "FLOAT", "float64": "DOUBLE", "complex64": "C_FLOAT_COMPLEX", "complex128": "C_DOUBLE_COMPLEX",
}  # fmt: skip
_BLOCK = 1 << 15  # elements combined at a time, which stay in the cache
_HALVES = (tl.float16, tl.bfloat16)


def check_op(operation: str, op: Any, dtype: tl.DType) -> str:
    """The operation's name, where it is defined for the dtype."""
    name = op.value if isinstance(op, ReduceOp) else op.lower() if isinstance(op, str) else op
    name = _OTHER_NAMES.get(name, name)
    if name not in _NAMES:
        raise ValueError(f"{operation}: op must be one of {', '.join(_NAMES)}, or a ReduceOp, got {op!r}.")
    continuous = dtype.is_floating_point or dtype.is_complex
    if name == "mean" and not continuous:
        raise tl.DTypeError(f"{operation}: the mean of {dtype.name} is no {dtype.name}; expected a floating dtype.")
    if name in ("min", "max") and dtype.is_complex:
        raise tl.DTypeError(f"{operation}: complex numbers have no order, so no {name}.")
    if name in ("band", "bor", "bxor") and continuous:
        raise tl.DTypeError(f"{operation}: {name} needs integers or bool, got {dtype.name}.")
    return str(name)


def combine(op: str, parts: Sequence[tl.Tensor], out: tl.Tensor) -> None:
    """All parts, in their order, in `out`, which may be one of them. 16-bit floats are combined in float32 and rounded once."""
    halves = out.dtype in _HALVES
    if (op == "sum" or (op == "mean" and not halves)) and tl.fused.sum_pairs_([out], parts):
        if op == "mean":
            out.div_(len(parts))
        return
    for start in range(0, out.numel(), _BLOCK):
        block = slice(start, start + _BLOCK)
        total = parts[0][block].float() if halves else parts[0][block].clone()
        for part in parts[1:]:
            total = _COMBINED[op](total, part[block])
        out[block].copy_(total.div_(len(parts)) if op == "mean" else total)


def is_known_to_mpi(dtype: tl.DType) -> bool:
    """Whether MPI can combine it, so that nothing has to be combined here."""
    return dtype not in _HALVES


def all_reduce(port: Port, flat: tl.Tensor, op: str, ordered: bool = False) -> Steps:
    """Combine the ranks' `flat`, in place. `ordered`, and where MPI does not know the dtype: in the order of the ranks.

    So are minima and maxima of floats, because MPI's are not the same on all ranks where one of the values is NaN.
    """
    size = port.group.size
    if size == 1:
        return
    if is_known_to_mpi(flat.dtype) and not (
        (flat.dtype.is_floating_point and op in ("min", "max")) or (ordered and op in ("sum", "mean", "prod"))
    ):
        yield from _by_mpi(port, "Allreduce", flat, op)
        if op == "mean":
            flat.div_(size)
    elif flat.nbytes * size <= moves.SMALL:
        all_parts = tl.empty(flat.numel() * size, dtype=flat.dtype, device="cpu")
        yield from moves.all_gather(port, flat, all_parts, [flat.numel()] * size)
        combine(op, moves.shares(all_parts, size), flat)
    else:
        parts = moves.shares(flat, size)
        yield from reduce_scatter(port, parts, parts[port.group.rank], op)
        yield from moves.all_gather(port, parts[port.group.rank], flat, [part.numel() for part in parts])


def reduce_scatter(port: Port, parts: Sequence[tl.Tensor], out: tl.Tensor, op: str) -> Steps:
    """Combine what each rank has for this one, in the order of the ranks, in `out`. Rank r gets `parts[r]` of every rank."""
    me, size = port.group.rank, port.group.size
    received = moves.shares(tl.empty(out.numel() * size, dtype=out.dtype, device="cpu"), size)
    received[me] = parts[me]
    yield from moves.exchange(port, parts, received)
    combine(op, received, out)


def reduce(port: Port, flat: tl.Tensor, op: str, root: int) -> Steps:
    """Combine the ranks' `flat` in the one of `root`."""
    if port.group.rank == root or port.group.size == 1:
        yield from all_reduce(port, flat, op)
    else:
        yield from all_reduce(port, flat.clone(), op)


def _by_mpi(port: Port, name: str, flat: tl.Tensor, op: str) -> Steps:
    api = moves.mpi()
    boolean = flat.dtype is tl.bool
    how = getattr(api, (_BOOL_OPS if boolean else _MPI_OPS)[op])
    kind = getattr(api, _MPI_TYPES[flat.dtype.name])
    for piece in moves.pieces(flat):
        yield port.call(name, api.IN_PLACE, [moves.memory(piece), piece.numel(), kind], how)
