"""Elementwise operations on GPUs: the rows of native/elementwise.def, forward and gradient, each compiled when first asked for.

Expressions and elementary functions are the CPU's own text (elementwise.cu, vec.cuh), so results have the bits of its AVX2 kernels; what CUDA
has to compute otherwise, vec.cuh says. 16-bit floats are computed in float32 and rounded once.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorlib import dtypes
from tensorlib.dtypes import DType
from tensorlib.ops.table import TABLE
from tensorlib.tensor import Tensor

from . import GRADIENT_LANES, LANES
from .launch import C_TYPES, Source, empty, layout_of, text

__all__ = ["ROWS", "merged", "widest"]

ELEMENTWISE = Source("elementwise.cu")
BLOCK = 256
MAX_DIMS = 6  # after merging; of a kernel's parameters
_BITS = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}
# By the dtypes column: of integers, which kernels read them as they are, and which as bits.
_AS_IS, _AS_BITS = ("ORDERED", "INTS"), ("WRAP", "BITS", "UNSIGNED", "ANY", "SELECT")


class Row(NamedTuple):
    """One row of native/elementwise.def."""

    name: str
    inputs: int  # how many
    kind: str  # the dtypes column, without _TEST
    test: bool  # results are bool
    gradients: tuple[str, ...]  # expressions; "g" and "NOGRAD" need no kernel
    reads: tuple[int, ...]  # what each of them reads besides g, as bits: the inputs, then the result


def columns(listed: str) -> list[str]:
    """A list's parts, split at its commas outside of parentheses."""
    parts, depth = [""], 0
    for c in listed:
        depth += (c == "(") - (c == ")")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts]


def _parsed(inputs: int, listed: str) -> Row:
    name, kind, _, *rest, _ = columns(listed)
    saves = columns(rest[-1][5:-1]) if rest[-1].startswith("EACH") else rest[-1:] * inputs
    reads = tuple(
        sum(1 << int(i) for i in re.findall(r"IN\((\d)\)", s)) | ("OUT(0)" in s) << inputs | 2 << inputs for s in saves
    )
    return Row(name, inputs, kind.removesuffix("_TEST"), kind.endswith("_TEST"), tuple(rest[:-1]), reads)


_LINES = re.findall(r"^EW(\d)\((.*)\)$", text("elementwise.def"), re.MULTILINE)
ROWS = {row.name: row for row in (_parsed(int(n), listed) for n, listed in _LINES)}


def element_type(row: Row, dtype: DType) -> str | None:
    """How a row's kernels read elements of a dtype; None: they do not."""
    if row.kind == "SELECT" and not dtype.is_floating_point:
        return _BITS.get(dtype.itemsize)
    if dtype.is_complex:
        return None
    if dtype.is_floating_point:
        return None if row.kind in ("INTS", "BITS", "UNSIGNED") else C_TYPES[dtype.name]
    if dtype is dtypes.bool_:
        return "u8" if row.kind in ("BITS", "ANY") or (row.test and row.kind == "ORDERED") else None
    return C_TYPES[dtype.name] if row.kind in _AS_IS else _BITS[dtype.itemsize] if row.kind in _AS_BITS else None


# ---- geometry ----
def merged(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The fewest dimensions that visit elements in the same order: sizes, and strides by operand."""
    sizes: list[int] = []
    kept: list[tuple[int, ...]] = []
    for size, *now in zip(shape, *strides, strict=True):
        if size == 1:
            continue
        if sizes and all(before == s * size for before, s in zip(kept[-1], now, strict=True)):
            sizes[-1] *= size
            kept[-1] = tuple(now)
        else:
            sizes.append(size)
            kept.append(tuple(now))
    return sizes or [1], [list(s) for s in zip(*kept, strict=True)] if sizes else [[0] for _ in strides]


def spread_strides(x: Tensor | None, ndim: int) -> tuple[int, ...]:
    """Strides of an operand that is broadcast to so many dimensions; a number's are 0."""
    if x is None or not x.is_cuda:
        return (0,) * ndim
    return (0,) * (ndim - x.ndim) + tuple(0 if n == 1 else s for n, s in zip(x.shape, x.stride(), strict=True))


def widest(itemsize: int, sizes: list[int], steps: list[list[int]], tensors: Sequence[Tensor]) -> int:
    """How many elements a thread takes at a time: as many as 16 bytes hold where all accesses can be so wide, else 1."""
    per = 16 // itemsize
    if len(sizes) > 1 and (sizes[-1] % per or any(row[-1] == 1 and any(s % per for s in row[:-1]) for row in steps)):
        return 1
    return per if all(t.data_ptr() % (per * t.dtype.itemsize) == 0 for t in tensors) else 1


class Plan(NamedTuple):
    """What follows from a row and what its operands look like."""

    shape: tuple[int, ...]  # of the results
    kernel: Callable[..., None] | None  # None: there is nothing to compute
    grid: int
    numbers: tuple[int, ...]  # which operands are numbers in main memory
    tail: tuple[int, ...]  # the kernel's parameters after the operands

    def run(self, outs: Sequence[Tensor], operands: Sequence[Tensor | None]) -> None:
        if self.kernel is not None:
            given: list[Any] = list(operands)
            for k in self.numbers:
                x = given[k]
                given[k] = float(x.item()) if x.dtype.is_floating_point else int(x.item())
            self.kernel(self.grid, BLOCK, *outs, *given, *self.tail)


_plans: dict[Any, Plan | None] = {}
_MOST_PLANS = 1 << 16  # where shapes are ever new


def planned(row: Row, operands: Sequence[Tensor | None], wanted: int = 0) -> Plan | None:
    """How a row's kernel (of the `wanted` gradients, as bits) is run on operands that broadcast; None is not read. None: it is not."""
    key = row.name, wanted, layout_of(operands)
    try:
        return _plans[key]
    except KeyError:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        made = _plans[key] = _planned(row, operands, wanted)
        return made


def _planned(row: Row, operands: Sequence[Tensor | None], wanted: int) -> Plan | None:
    tensors = [x for x in operands if x is not None]
    dtype = tensors[-1].dtype  # where's first is a mask
    numbers = tuple(k for k, x in enumerate(operands) if x is not None and not x.is_cuda)
    elements = element_type(row, dtype)
    if elements is None or (dtype.is_complex and numbers):
        return None
    shape = tuple(np.broadcast_shapes(*(x.shape for x in tensors)))
    n = math.prod(shape)
    if not n:
        return Plan(shape, None, 0, numbers, ())
    if not numbers and all(x.shape == shape and x.is_contiguous() for x in tensors):
        sizes, steps = [n], [[1] for _ in operands]
    else:
        sizes, steps = merged(shape, [spread_strides(x, len(shape)) for x in operands])
        while len(sizes) in (3, 5):  # so that fewer kernels are compiled
            sizes, steps = [1, *sizes], [[0, *row] for row in steps]
    if len(sizes) > MAX_DIMS:
        return None
    per = widest(dtype.itemsize, sizes, steps, [x for x in tensors if x.is_cuda])
    groups = -(-n // per)
    if len(sizes) > 1:
        sizes[-1] //= per
    together = "".join(f"OP({other.name}, {reads_of(other, wanted)})" for other in together_with(row, dtype, wanted))
    kernel = ELEMENTWISE(
        f"elementwise_{row.name}", OPS=together, SELECT=int(row.kind == "SELECT"), IS_TEST=int(row.test), T=elements,
        FORWARD=int(not wanted), WANTED=wanted, N_IN=len(operands), N_OUT=wanted.bit_count() or 1, ND=len(sizes), PER=per,
        NUMBERS=sum(1 << k for k in numbers), INDEX="u32" if groups < 2**32 else "u64",
    )  # fmt: skip
    return Plan(shape, kernel, -(-groups // BLOCK), numbers, (n, *sizes, *(s for step in steps for s in step)))


def reads_of(row: Row, wanted: int) -> int:
    """The operands that a kernel reads, as bits."""
    if not wanted:
        return (1 << row.inputs) - 1
    return functools.reduce(operator.or_, (row.reads[i] for i in range(row.inputs) if wanted >> i & 1))


def together_with(row: Row, dtype: DType, wanted: int) -> Iterable[Row]:
    """The rows that are compiled with one. Tests on the CPU take all that can be: there it is starting the compiler that takes time."""
    return (row,)


# ---- lanes ----
def _forward(row: Row) -> Callable[..., Tensor | None]:
    def serve(*operands: Tensor) -> Tensor | None:
        plan = planned(row, operands)
        if plan is None:
            return None
        found = operands[0] if 0 not in plan.numbers else next(x for x in operands if x.is_cuda)
        out = empty(plan.shape, dtypes.bool_ if row.test else operands[-1].dtype, found.device)
        plan.run([out], operands)
        return out

    return serve


def _backward(row: Row) -> Callable[..., tuple[Tensor | None, ...] | None]:
    names = (*TABLE[row.name].inputs, "out", "g")

    def serve(wanted: tuple[bool, ...], values: Mapping[str, Any]) -> tuple[Tensor | None, ...] | None:
        g = values["g"]
        if not g.dtype.is_floating_point:
            return None
        made = [g if asked and text == "g" else None for asked, text in zip(wanted, row.gradients, strict=True)]
        ask = [i for i, asked in enumerate(wanted) if asked and row.gradients[i] not in ("g", "NOGRAD")]
        if not ask:
            return tuple(made)
        bits = sum(1 << i for i in ask)
        reads = reads_of(row, bits)
        operands = [values[name] if reads >> k & 1 else None for k, name in enumerate(names)]
        if any(x is None and reads >> k & 1 for k, x in enumerate(operands)):
            return None
        plan = planned(row, operands, bits)
        if plan is None:
            return None
        outs = [empty(plan.shape, g.dtype, g.device) for _ in ask]
        plan.run(outs, operands)
        for i, out in zip(ask, outs, strict=True):
            made[i] = out
        return tuple(made)

    return serve


for _row in ROWS.values():
    LANES[_row.name] = _forward(_row)
    if TABLE[_row.name].differentiable:
        GRADIENT_LANES[_row.name] = _backward(_row)
