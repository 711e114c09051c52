"""The table of operations: each is declared once, here described, in the sibling modules written.

An entry states an operation's facts: its reference over an array module, its gradient rules, its dtype rule, samples and error samples for the
generated tests, and its docstring. From it follow the public function, the method and in-place twin, the NumPy and CuPy backends and
the tests. A C kernel of the same name is picked up where native/elementwise.def or native/structured.def has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorlib.native import ffi, lib
from tensorlib.ops import rules

TABLE: dict[str, Op] = {}
BY_NUMBER: dict[int, Op] = {}
PYTHON_OPS = 1024  # numbers from here on are not C's
BATCH = -1  # the first size of an operand in a `rowwise` sample: any number of rows


@dataclass(slots=True, eq=False)
class Op:
    """One operation. `inputs` name its tensor operands, `attrs` everything else; rules ask for either by name.

    A gradient rule's parameter names say what it needs, and only that is kept alive until backward:
        an input's name       that operand (a Tensor; a Python scalar where the user gave one)
        `<input>_shape`       only the operand's shape;  `<input>_dtype` only its dtype
        an output's name      the result (`out`, or the names in `outputs`)
        `g`                   the gradient of the result; with several outputs `g_<output>` (zeros where none arrived)
        an attribute's name   its value
    Rules are written in differentiable operations and never modify anything, so gradients of gradients follow. A rule may return a
    gradient of the broadcast shape, the engine sums it to the operand's. None in place of a rule: no gradient flows to that operand.
    """

    name: str
    inputs: tuple[str, ...]
    ref: Callable[..., Any]  # ref(xp, *arrays, **attrs) -> array, or a tuple with several outputs
    attrs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("out",)
    variadic: bool = False  # the one input is a sequence of tensors; its rule gets and returns sequences
    dtype: rules.DTypeRule = rules.promoted
    vjp: tuple[Callable[..., Any] | None, ...] | None = None  # None: not differentiable
    samples: Any = ()  # a list of Sample or a function without arguments that makes it (lazy: costs no import time)
    errors: Any = ()
    private: bool = False
    kind: str = "structured"
    doc: str = ""
    native: Callable[..., Any] | None = (
        None  # fast lane: native(line, *inputs, **attrs) -> handle (several: a tuple; 0 declines); attributes as given
    )
    composite: Callable[..., Any] | None = None  # the same in plain operations: the oracle of a fused entry
    nondeterministic: bool = False  # draws random numbers: tests compare statistics instead of values
    rowwise: Any = ()  # as samples: row i is made from row i of the operands of BATCH rows, and has the bits that it has alone
    autocast: str = ""  # under tl.autocast: in its dtype, which the kernel reads ("half") or not ("lower"), or "float32"; else unchanged
    module: str = ""
    call: Callable[..., Any] | None = None  # call(*inputs, **attrs): the entry itself, as tests and tools reach it
    number: int = -1  # C's number where it has one, else one of our own from PYTHON_OPS on
    decode: Callable[[int], dict[str, Any]] | None = (
        None  # attributes of a node that C recorded, from the integers it holds
    )
    kernel: Callable[..., Any] | None = (
        None  # as `native`, but the node is Python's to make: kernel(*inputs, **attrs) -> handle (several: a tuple)
    )
    replays: bool = (
        False  # its gradients of every order are those of its composite, run again: tensorlib/autograd/engine.py
    )
    host: tuple[str, ...] = ()  # inputs that stay in main memory whatever device the others are on
    needs: tuple[tuple[str, ...], ...] = field(default=())  # parameter names of each rule
    masks: tuple[int, ...] = field(default=())  # the same as bits, for C

    @property
    def differentiable(self) -> bool:
        return self.vjp is not None and any(self.vjp)


@dataclass(frozen=True, slots=True)
class Sample:
    """Arguments of one call: shapes for tensor operands (or a Draw with range and dtype, or a plain value), then attributes."""

    args: tuple[Any, ...]
    attrs: Mapping[str, Any]
    smooth: bool = (
        True  # False: finite differences do not show the gradient, because by definition some of it is withheld
    )


@dataclass(frozen=True, slots=True)
class Draw:
    """How to draw one operand: uniform in [low, high); integers for an integer dtype; `special` values overwrite its first elements."""

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    dtype: str = "float"  # "float": whatever the test runs with (float32, float64); else a fixed dtype name
    special: tuple[float, ...] = ()
    values: Any = None  # exactly these values instead of random ones
    distinct: bool = (
        False  # all values at least 0.01 apart, so that sorting and maxima are stable under finite differences
    )


@dataclass(frozen=True, slots=True)
class ErrorSample:
    args: tuple[Any, ...]
    attrs: Mapping[str, Any]
    raises: type[Exception]
    match: str


def sample(*args: Any, smooth: Any = True, **attrs: Any) -> Sample:
    """A call's arguments: a tuple of integers draws a float tensor of that shape, a Draw anything else; keywords are attributes."""
    return Sample(tuple(Draw(a) if _is_shape(a) else a for a in args), attrs, smooth)


def error(*args: Any, raises: type[Exception], match: str, **attrs: Any) -> ErrorSample:
    """A call that must raise `raises` with a message that `match` (a regular expression) is found in."""
    return ErrorSample(tuple(Draw(a) if _is_shape(a) else a for a in args), attrs, raises, match)


def _is_shape(a: Any) -> bool:
    return isinstance(a, tuple) and all(isinstance(n, int) for n in a)


def unary(
    low: float = -2.0, high: float = 2.0, special: Sequence[float] = (), dtype: str = "float"
) -> Callable[[], list[Sample]]:
    """Samples for an elementwise operation of one operand. `special` values are visited by forward tests only (they have no finite differences)."""

    def make() -> list[Sample]:
        shapes: list[tuple[int, ...]] = [(), (0,), (1,), (5,), (3, 4), (2, 1, 67)]
        draws = [Draw(shape, low, high, dtype) for shape in shapes]
        if special:
            draws.append(Draw((len(special) + 2,), low, high, dtype, tuple(special)))
        return [Sample((d,), {}) for d in draws]

    return make


def binary(
    low: Any = -2.0, high: Any = 2.0, special: Sequence[Any] = (), dtype: str = "float"
) -> Callable[[], list[Sample]]:
    """Samples for an elementwise operation of two operands, broadcasting among them; `low` and `high` may be pairs, one value per operand."""
    lows = low if isinstance(low, tuple) else (low, low)
    highs = high if isinstance(high, tuple) else (high, high)

    def make() -> list[Sample]:
        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
            ((), ()), ((5,), ()), ((0, 3), (1, 3)), ((3, 4), (3, 4)), ((3, 1), (1, 4)), ((2, 1, 67), (67,)), ((4,), (2, 3, 1))
        ]  # fmt: skip
        made = [Sample((Draw(a, lows[0], highs[0], dtype), Draw(b, lows[1], highs[1], dtype)), {}) for a, b in shapes]
        if special:
            pairs = [(a, b) for a in special for b in special]
            values = [
                Draw((len(pairs),), dtype=dtype, values=[p[i] for p in pairs], special=tuple(special)) for i in (0, 1)
            ]
            made.append(Sample(tuple(values), {}))
        return made

    return make


def samples_of(op: Op) -> list[Sample]:
    return op.samples() if callable(op.samples) else list(op.samples)


def errors_of(op: Op) -> list[ErrorSample]:
    return op.errors() if callable(op.errors) else list(op.errors)


def rowwise_of(op: Op) -> list[Sample]:
    return op.rowwise() if callable(op.rowwise) else list(op.rowwise)


def entries() -> Iterator[Op]:
    return iter(TABLE.values())


def _native_numbers() -> dict[str, int]:
    numbers: dict[str, int] = {}
    while name := ffi.string(lib.tl_op_name(len(numbers))).decode():
        numbers[name] = len(numbers)
    return numbers


NATIVE_NUMBERS = _native_numbers()  # C's operations by name


def _parameter_names(function: Callable[..., Any] | None) -> tuple[str, ...]:
    if function is None:
        return ()
    if hasattr(function, "needs"):
        return tuple(function.needs)
    code = function.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _mask(op: Op, needed: tuple[str, ...]) -> int:
    """The bits of native/tl.h: bit i input i, bit 24 + j output j, bit 32 + i the shape of input i."""
    mask = 0
    for name in needed:
        if name in op.inputs:
            mask |= 1 << op.inputs.index(name)
        elif name in op.outputs:
            mask |= 1 << 24 + op.outputs.index(name)
        elif name.endswith(("_shape", "_dtype")) and name[:-6] in op.inputs:
            mask |= 1 << 32 + op.inputs.index(name[:-6])
        elif name != "g" and name not in op.attrs and name.removeprefix("g_") not in op.outputs:
            raise ValueError(
                f"operation {op.name}: a gradient rule asks for {name!r}, which is no input, output or attribute"
            )
    return mask


def register(op: Op) -> Op:
    """Enter an operation: name, numbers and rules are checked here once, so that a slip in an entry shows at import."""
    if op.name in TABLE:
        raise ValueError(f"operation {op.name} is declared twice")
    if op.vjp is not None and len(op.vjp) != len(op.inputs):
        raise ValueError(f"operation {op.name}: {len(op.inputs)} inputs but {len(op.vjp)} gradient rules")
    if op.replays and "g" in op.inputs:
        raise ValueError(f"operation {op.name}: an input named g can not be told from the gradient")
    op.needs = tuple(op.inputs if op.replays else _parameter_names(rule) for rule in op.vjp or ())
    op.masks = tuple(_mask(op, needed) for needed in op.needs)
    number = NATIVE_NUMBERS.get(op.name, -1)
    op.number = number if number >= 0 else PYTHON_OPS + len(TABLE)
    for i, mask in enumerate(op.masks):
        if number >= 0:
            lib.tl_register_rule(number, i, mask)
    TABLE[op.name] = op
    BY_NUMBER[op.number] = op
    return op
