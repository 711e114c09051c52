"""Cases from the table of operations: every sample of every entry, for a dtype and a layout, as arguments ready for a call.

Tests say what must hold; which operations there are, and with which arguments they are tried, the table says. Random values follow from
a case's id.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

import tensorlib as tl
from tensorlib.dtypes import ALL, BY_NAME, DType
from tensorlib.errors import DTypeError
from tensorlib.ops import rules
from tensorlib.ops.declare import common_dtype
from tensorlib.ops.table import (
    BATCH,
    NATIVE_NUMBERS,
    Draw,
    ErrorSample,
    Op,
    Sample,
    entries,
    errors_of,
    rowwise_of,
    samples_of,
)

# (relative, absolute against a largest element of 1) allowed between a result and the reference computed in float64
FORWARD = {
    tl.float64: (1e-12, 1e-13),
    tl.float32: (3e-6, 1e-6),
    tl.float16: (2e-3, 1e-3),
    tl.bfloat16: (1.6e-2, 8e-3),
    tl.complex64: (3e-6, 1e-6),
    tl.complex128: (1e-12, 1e-13),
}
KERNEL_AGAINST_RULE = {tl.float64: (1e-12, 1e-13), tl.float32: (1e-5, 2e-6)}  # the two ways to a gradient
ULPS_BETWEEN_ISAS = 8  # two kernels of at most 2 ulp, or sums in another order; against a largest element of 1
FINITE_DIFFERENCES = {"eps": 1e-6, "atol": 2e-5, "rtol": 2e-5}  # of first and second order, in float64

PLAIN, STRIDED, TRANSPOSED, EXPANDED, UNALIGNED = LAYOUTS = ("plain", "strided", "transposed", "expanded", "unaligned")
_SHORT = {
    d.name: re.sub(r"^(bfloat|uint|int|float|complex)", lambda m: {"bfloat": "bf"}.get(m[0], m[0][0]), d.name)
    for d in ALL
}


# ---- one operand ----
def _grown(shape: tuple[int, ...], factor: int) -> tuple[int, ...]:
    return tuple(n * factor if n > 1 else n for n in shape)


def _integers(d: Draw, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Integers in [low, high), as far as the dtype holds them."""
    low, high = math.ceil(d.low), math.ceil(d.high)
    if dtype.kind == "u":
        low, high = max(low, 0), max(high, 1)
    return rng.integers(low, max(high, low + 1), shape).astype(dtype)


def draw(d: Draw, dtype: DType, rng: np.random.Generator, factor: int = 1) -> np.ndarray[Any, Any]:
    """An array as `d` asks for; with a factor, one with every size above 1 multiplied by it."""
    shape = _grown(d.shape, factor)
    kind = (dtype if d.dtype == "float" else BY_NAME[d.dtype]).np or np.dtype(np.float32)
    if d.values is not None:
        return np.resize(np.asarray(d.values, kind), shape) if math.prod(shape) else np.zeros(shape, kind)
    if kind.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    if kind.kind in "iu":
        return np.asarray(_integers(d, shape, kind, rng))
    n = math.prod(shape)
    made = rng.uniform(d.low, d.high, n)
    if d.distinct:
        made = d.low + (d.high - d.low) * (rng.permutation(n) + 0.5) / max(n, 1)
    made[: len(d.special)] = d.special[:n]
    if dtype is tl.bfloat16:
        made = (made.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    if kind.kind == "c":
        made = made + 1j * rng.uniform(d.low, d.high, n)
    return np.asarray(made.reshape(shape).astype(kind))


def _is_smooth(d: Any) -> bool:
    return not isinstance(d, Draw) or (not d.special and (d.values is None or d.dtype != "float"))


def _can_expand(d: Any) -> bool:
    return (
        isinstance(d, Draw)
        and d.dtype == "float"
        and _is_smooth(d)
        and not d.distinct
        and any(n > 1 for n in d.shape)
        and 0 not in d.shape
    )


def _constant_along_one(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same with its first dimension's first element everywhere, as an array with stride 0 there."""
    dim = next(d for d, n in enumerate(array.shape) if n > 1)
    return np.broadcast_to(array[(slice(None),) * dim + (slice(0, 1),)], array.shape)


def rubbish(shape: tuple[int, ...], dtype: DType) -> tl.Tensor:
    """A tensor of values that would show in any result: NaN, or the largest integer."""
    worst = math.nan if dtype.category > 1 else True if dtype.category == 0 else int(np.iinfo(dtype.np).max)
    return tl.full(shape, worst, dtype=dtype)


def lay_out(array: np.ndarray[Any, Any], layout: str, dtype: DType) -> tl.Tensor:
    """A tensor of these values whose memory is as `layout` says; what lies between its elements is rubbish."""
    if layout == STRIDED and array.ndim:
        room = rubbish((*array.shape[:-1], 2 * array.shape[-1] + 1), dtype)
        view = room[..., 1::2]
    elif layout == UNALIGNED:
        view = rubbish((array.size + 2,), dtype)[1:-1].reshape(array.shape)
    elif layout == TRANSPOSED and array.ndim > 1:
        view = rubbish(array.shape[::-1], dtype).permute(tuple(reversed(range(array.ndim))))
    elif layout == EXPANDED and 0 in (s for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        smallest = array[tuple(slice(0, 1) if s == 0 else slice(None) for s in array.strides)]
        return tl.tensor(np.ascontiguousarray(smallest), dtype=dtype).expand(array.shape)
    else:
        return tl.tensor(np.array(array), dtype=dtype)
    view.copy_(tl.tensor(np.array(array), dtype=dtype))
    return view


# ---- one call ----
@dataclass(frozen=True)
class Case:
    """One sample of one entry, for a dtype and a layout. `factor` multiplies every size above 1."""

    op: Op
    sample: Sample
    dtype: DType
    layout: str = PLAIN
    factor: int = 1

    def __str__(self) -> str:
        shapes = "x".join(_describe(a, self.factor) for a in self.sample.args)
        attrs = "".join(f"-{name}={value}" for name, value in self.sample.attrs.items()).replace(" ", "")
        return f"{self.op.name}-{_SHORT[self.dtype.name]}-{shapes}{attrs}" + (
            f"-{self.layout}" if self.layout != PLAIN else ""
        )

    def arrays(self) -> list[Any]:
        """The operands as NumPy arrays (a list of them for a variadic operand); what is no operand to draw stays as it is."""
        rng = np.random.default_rng(zlib.crc32(f"{self.op.name}{self.sample}{self.factor}".encode()))
        return [self._array(a, rng) for a in self.sample.args]

    def _array(self, a: Any, rng: np.random.Generator) -> Any:
        if isinstance(a, list):
            return [self._array(_as_draw(d), rng) for d in a]
        if not isinstance(a, Draw):
            return a
        array = draw(a, self.dtype, rng, self.factor)
        return _constant_along_one(array) if self.layout == EXPANDED and _can_expand(a) else array

    def args(self, *, requires_grad: bool = False, layout: str | None = None, device: str | None = None) -> list[Any]:
        """Fresh operands for `call`: leaves in the case's layout, or another of the same values. Those that have a rule can require a gradient."""

        def tensor(a: Any, d: Any, rule: Any) -> Any:
            if isinstance(a, list):
                return [tensor(x, _as_draw(s), rule) for x, s in zip(a, d, strict=True)]
            if not isinstance(a, np.ndarray):
                return a
            t = lay_out(a, layout or self.layout, self.dtype if d.dtype == "float" else BY_NAME[d.dtype])
            if device is not None:
                t = t.to(device)
            return t.detach().requires_grad_() if requires_grad and rule and t.dtype.is_floating_point else t

        return [tensor(a, d, r) for a, d, r in zip(self.arrays(), self.sample.args, rules_of(self.op), strict=False)]

    def call(self, *args: Any) -> Any:
        return function_of(self.op, frozenset(self.sample.attrs))(*args, **self.sample.attrs)

    def outputs(self, *args: Any) -> list[tl.Tensor]:
        return flat(self.call(*args))

    def outputs_of(self, function: Callable[..., Any]) -> list[tl.Tensor]:
        """Another function's results for the same arguments."""
        return flat(function(*self.args(), **self.sample.attrs))

    def expected(self) -> tuple[list[np.ndarray[Any, Any]], list[DType]]:
        """What the reference makes of the operands in float64, and the dtypes that the results must have."""
        numbers = (int, float) if self.op.kind == "elementwise" else ()
        compute, result = self.op.dtype(
            common_dtype([t for t in flat(self.args()) if isinstance(t, (tl.Tensor, *numbers))])
        )
        wide = self._reference(lambda a: _widened(a, compute))
        narrow = self._reference(lambda a: a if compute is None or compute.np is None else a.astype(compute.np))
        known = [result or _result_dtype(a, self.dtype) for a in narrow]
        return [_narrowed(w, n, d) for w, n, d in zip(wide, narrow, known, strict=True)], known

    def _reference(self, convert: Callable[[Any], Any]) -> list[np.ndarray[Any, Any]]:
        def operand(a: Any, d: Any) -> Any:
            if isinstance(a, list):
                return [convert(x) for x in a]
            if isinstance(a, (int, float)) and self.op.kind == "elementwise":
                return convert(np.asarray(a))
            return convert(a) if isinstance(d, Draw) and d.dtype == "float" else a

        operands = [operand(a, d) for a, d in zip(self.arrays(), self.sample.args, strict=True)]
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, about means of nothing
            made = self.op.ref(np, *operands, **self.sample.attrs)
        return [np.asarray(a) for a in (made if isinstance(made, (tuple, list)) else (made,))]

    def nested(self, operands: Iterable[Any]) -> list[Any]:
        """The inverse of `flat(args)`."""
        rest = iter(operands)
        return [[next(rest) for _ in a] if isinstance(a, list) else next(rest) for a in self.sample.args]

    @property
    def is_smooth(self) -> bool:
        return self.sample.smooth and all(_is_smooth(d) for d in flat(list(self.sample.args)))


def _as_draw(d: Any) -> Any:
    return Draw(d) if isinstance(d, tuple) else d


def _describe(a: Any, factor: int) -> str:
    if isinstance(a, list):
        return "[" + ",".join(_describe(_as_draw(x), factor) for x in a) + "]"
    if not isinstance(a, Draw):
        return str(a)
    shape = str(_grown(a.shape, factor)).replace(" ", "")
    return shape + ("" if a.dtype == "float" else _SHORT[a.dtype]) + ("*" if a.special else "")


def _widened(a: np.ndarray[Any, Any], compute: DType | None) -> np.ndarray[Any, Any]:
    kind = a.dtype if compute is None or compute.np is None else compute.np
    kind = np.result_type(kind, a.dtype)
    if kind.kind in "fc" or (compute is not None and compute.category > 1):
        kind = np.dtype(np.complex128 if kind.kind == "c" else np.float64)
    return a.astype(kind)


def _narrowed(wide: np.ndarray[Any, Any], narrow: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """`wide` in the result's dtype; what only float64 can hold (its own largest number, say) from the reference in the dtype itself."""
    with np.errstate(all="ignore"):
        made = wide.astype(dtype.np or np.float32)
        return (
            np.where(np.isinf(made) & np.isfinite(narrow), narrow, made).astype(made.dtype)
            if dtype.category == 2
            else made
        )


def _result_dtype(a: np.ndarray[Any, Any], run: DType) -> DType:
    if run is tl.bfloat16 and a.dtype == np.float32:
        return run
    return tl.int64 if a.dtype == np.uint64 else next(d for d in ALL if d.np is not None and d.np == a.dtype)


def flat(values: Any) -> list[Any]:
    """The leaves of nested lists and tuples."""
    return [x for v in values for x in flat(v)] if isinstance(values, (list, tuple)) else [values]


@cache
def function_of(op: Op, attrs: frozenset[str]) -> Callable[..., Any]:
    """What a case calls: the public function by its argument names where it has the sample's, else the entry itself."""
    public = public_function(op)
    assert op.call is not None
    if op.kind != "structured" or public is None:
        return op.call
    names = operand_names(op, public)
    if not {*names, *attrs} <= {*inspect.signature(public).parameters}:
        return op.call
    return lambda *args, **attrs: public(**dict(zip(names, args, strict=True)), **attrs)


def operand_names(op: Op, function: Callable[..., Any]) -> tuple[str, ...]:
    """What a public function calls the entry's operands: as the entry does, else (`input` for its `x`) what stands in their place."""
    given = [n for n, p in inspect.signature(function).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    there = {n: place for n, place in zip(op.inputs, given, strict=False) if place not in (*op.inputs, *op.attrs)}
    return tuple(n if n in given else there.get(n, n) for n in op.inputs)


def public_function(op: Op) -> Callable[..., Any] | None:
    return None if op.private else getattr(sys.modules[op.module], op.name, None)


# ---- all calls ----
def cases(
    *,
    dtype: DType = tl.float64,
    layouts: Iterable[str] = (PLAIN,),
    where: Callable[[Op], bool] = lambda op: True,
    smooth: bool = False,
    factor: int = 1,
) -> list[Case]:
    """All samples of the entries that `where` picks, in each of the layouts that apply to them."""
    made = [
        Case(op, s, dtype, layout, factor)
        for op in entries()
        if where(op)
        for s in samples_of(op)
        for layout in layouts
        if layout_applies(s, layout) and "dtype" not in op.attrs
    ]
    return [c for c in made if c.is_smooth] if smooth else made


def layout_applies(s: Sample, layout: str) -> bool:
    draws = [_as_draw(d) for d in flat_draws(s.args)]
    if layout == EXPANDED:
        return any(_can_expand(d) for d in draws)
    rank = {PLAIN: 0, STRIDED: 1, TRANSPOSED: 2, UNALIGNED: 1}[layout]
    return rank == 0 or any(len(d.shape) >= rank and 0 not in d.shape for d in draws)


def flat_draws(args: Iterable[Any]) -> Iterator[Draw]:
    for a in args:
        if isinstance(a, list):
            yield from (_as_draw(d) for d in a)
        elif isinstance(a, Draw):
            yield a


# One below, at and above the number of lanes of every instruction set and element size, and four vectors and a tail.
EDGE_SIZES = tuple(
    sorted({0, 1} | {n + d for n in (2, 4, 8, 16, 32, 64) for d in (-1, 0, 1)} | {4 * n + 3 for n in (2, 4, 8, 16, 64)})
)


def edge_cases(op: Op, dtype: DType) -> list[Case]:
    """An elementwise entry's operands as vectors of each of the edge sizes, at addresses that are no multiple of a vector's size.
    None where the entry does not take the dtype."""
    like = next(s for s in samples_of(op) if s.smooth and all(_is_smooth(d) for d in s.args))

    def of(n: int) -> Case:
        args = tuple(replace(d, shape=(n,)) if isinstance(d, Draw) else d for d in like.args)
        return Case(op, Sample(args, like.attrs), dtype, UNALIGNED)

    return [of(n) for n in EDGE_SIZES] if takes(of(2)) else []


def rowwise_samples(op: Op) -> list[Sample]:
    """What an entry declares; of an elementwise one with a kernel, rows of several vectors and a tail beside as many, or beside one for all."""
    if op.kind != "elementwise":
        return rowwise_of(op)
    if not has_kernel(op):
        return []
    like = next(s for s in samples_of(op) if s.smooth and all(_is_smooth(d) for d in s.args))
    rows = [replace(d, shape=(BATCH, 67)) if isinstance(d, Draw) else d for d in like.args]
    one = [rows[0], *(replace(d, shape=(67,)) if isinstance(d, Draw) else d for d in rows[1:])]
    return [Sample(tuple(args), like.attrs) for args in ([rows, one] if len(rows) > 1 else [rows])]


def has_batch(d: Any) -> bool:
    """Whether an operand of a `rowwise` sample has a row for each of the result's."""
    return isinstance(d, Draw) and d.shape[:1] == (BATCH,)


def of_rows(case: Case, n: int) -> Case:
    """A case of a `rowwise` sample, with n rows."""
    args = tuple(replace(d, shape=(n, *d.shape[1:])) if has_batch(d) else d for d in case.sample.args)
    return replace(case, sample=replace(case.sample, args=args))


def magnified(case: Case, elements: int) -> Case:
    """The same with every size above 1 multiplied, so that the largest operand or result has at least so many elements."""
    shapes = [d.shape for d in flat_draws(case.sample.args)] + [a.shape for a in case.expected()[0]]
    largest = max(shapes, key=math.prod)
    growing = sum(n > 1 for n in largest)
    return (
        replace(case, factor=math.ceil((elements / math.prod(largest)) ** (1 / growing)))
        if growing and 0 not in largest
        else case
    )


def states_sizes(op: Op) -> bool:
    """Whether sizes are among the attributes, so that the samples can not be magnified."""
    # A convolution's weight has the channels of one group, and a grid one coordinate for each of an image's dimensions: they do not grow
    # as the image does. tests/ops/test_convolution.py and `rowwise` samples see to them.
    convolves = {"groups", "stride"} <= set(op.attrs)
    return (
        convolves
        or "grid" in op.inputs
        or "edges" in op.inputs  # which say where bags of positions are cut
        or bool({"batch", "repeats", "runs", "shape", "size", "weights"} & set(op.attrs))
    )


def error_cases() -> list[tuple[Op, ErrorSample]]:
    return [(op, e) for op in entries() for e in errors_of(op)]


def has_kernel(op: Op) -> bool:
    return op.name in NATIVE_NUMBERS or op.kernel is not None


def rules_of(op: Op) -> tuple[Any, ...]:
    """For each operand its gradient rule, or anything true where the operations that a composite is written in have theirs."""
    return op.vjp or (op.kind == "composite",) * len(op.inputs)


def leaves(args: Iterable[Any]) -> list[tl.Tensor]:
    """The operands that a gradient can be asked for."""
    return [t for t in flat(list(args)) if isinstance(t, tl.Tensor) and t.requires_grad]


def differentiable_cases(**which: Any) -> list[Case]:
    """Cases with a floating operand whose entry has a rule for it, or is written in operations that have."""

    def has_leaf(case: Case) -> bool:
        return any(
            rule and any(d.dtype == "float" for d in flat_draws([a]))
            for rule, a in zip(rules_of(case.op), case.sample.args, strict=True)
        )

    return [c for c in cases(where=lambda op: op.differentiable or op.kind == "composite", **which) if has_leaf(c)]


def typical(found: list[Case], most: int = 2) -> list[Case]:
    """At most so many cases for each entry, dtype and layout: those with the most elements."""
    groups: dict[Any, list[Case]] = {}
    for c in found:
        groups.setdefault((c.op.name, c.dtype, c.layout), []).append(c)
    return [c for g in groups.values() for c in sorted(g, key=_elements)[-most:]]


def _elements(case: Case) -> int:
    return sum(math.prod(_grown(d.shape, case.factor)) for d in flat_draws(case.sample.args))


def takes(case: Case) -> bool | None:
    """Whether the entry's dtype rule and its reference take the case's dtype; None where the table does not say: that a number among the
    arguments fits, or what becomes of integers in a composite of floating-point operations."""
    try:
        _, dtypes = case.expected()
    except OverflowError:
        return None
    except (DTypeError, TypeError):  # TypeError: NumPy's word for the same
        return None if case.op.kind == "composite" else False
    unsaid = case.op.kind == "composite" and case.op.dtype is rules.as_is and case.dtype.category < 2
    return None if unsaid and (case.dtype is tl.bool_ or any(d.category > 1 for d in dtypes)) else True


# ---- comparing ----
def assert_close(
    got: tl.Tensor, want: np.ndarray[Any, Any], dtype: DType, tolerance: tuple[float, float] | None = None
) -> None:
    """Shape, dtype and values; floats within the table's tolerance for their dtype, everything else exactly."""
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    assert got.dtype is dtype, f"dtype {got.dtype.name}, expected {dtype.name}"
    values = got.detach().numpy()
    if dtype.category < 2:
        np.testing.assert_array_equal(values, want)
        return
    rtol, atol = tolerance or FORWARD[dtype]
    finite = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
    np.testing.assert_allclose(values, want, rtol=rtol, atol=atol * min(max(1.0, finite), 1e6), equal_nan=True)


def same_bits(a: tl.Tensor, b: tl.Tensor) -> bool:
    return (
        a.shape == b.shape
        and a.dtype is b.dtype
        and bytes(a.detach().contiguous().numpy().data) == bytes(b.detach().contiguous().numpy().data)
    )
