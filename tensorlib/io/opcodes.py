"""An interpreter of the opcodes that describe tensors, containers and plain values in PyTorch's files, and of no others.

A file of PyTorch holds a program for a stack machine. The machine that Python has for such programs imports and calls whatever they name; this one
knows a closed list of names, calls nothing else, and sets no attributes. What it makes is bounded by a budget, and checked as a whole at the end.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from tensorlib.dtypes import DType
from tensorlib.errors import CheckpointError
from tensorlib.tensor import Tensor

__all__ = ["Maker", "run"]

DEEPEST = 64  # levels of containers in containers
_LONGEST_INTEGER = 1024  # bytes
_WAY_OUT = "save state_dict() of modules and optimizers, tensors and plain values, instead of objects"
_REFUSED = {
    0x69: "INST", 0x6F: "OBJ", 0x81: "NEWOBJ", 0x92: "NEWOBJ_EX", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x50: "PERSID", 0x8F: "EMPTY_SET",
    0x90: "ADDITEMS", 0x91: "FROZENSET", 0x96: "BYTEARRAY8", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER", 0x32: "DUP", 0x30: "POP",
    0x31: "POP_MARK",
}  # fmt: skip


class Maker:
    """What a program may call, by a name that it knows it by: `make` checks the arguments, raising CheckpointError."""

    def __init__(self, make: Callable[[tuple[Any, ...]], Any], cost: int = 0, each: int = 0) -> None:
        self.make, self.cost, self.each = make, cost, each  # bytes; `each`: for an element of the first argument


def run(program: bytearray, names: Mapping[tuple[str, str], Any], load: Callable[[Any], Any], budget: int) -> Any:
    """The value that `program` describes.

    Args:
        names: what it may refer to, by module and name: a `Maker`, or a value.
        load: the object of a persistent id, which is any value.
        budget: bytes that the objects may take, about; tensors' data are not among them.

    Raises:
        CheckpointError: for everything else, with the byte it stands at.
    """
    machine = _Machine(program, names, load, budget)
    try:
        value = machine.run()
    except CheckpointError as error:
        raise CheckpointError(f"data.pkl, byte {machine.begun}: {error}") from None
    _check(value)
    return value


class _Machine:
    def __init__(
        self, text: bytearray, names: Mapping[tuple[str, str], Any], load: Callable[[Any], Any], budget: int
    ) -> None:
        self.text, self.names, self.load, self.budget = text, names, load, budget
        self.at = self.begun = 0  # the next byte, and the first one of the step under way
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def run(self) -> Any:
        if self.text[:1] != b"\x80":
            self.fail("expected a pickle of protocol 2 to 5.")
        while True:
            self.begun = self.at
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                break
            step = _STEPS.get(code)
            if step is None:
                self.fail(f"opcode 0x{code:02x} ({_REFUSED.get(code, 'unknown')}) is not read.")
            step(self)
        value = self.pop()
        if self.stack or self.marks or self.at != len(self.text):
            self.fail("the program ends, but there are further values or bytes.")
        return value

    def fail(self, words: str, hint: str | None = None) -> NoReturn:
        raise CheckpointError(words, hint=hint)

    def spend(self, n: int) -> None:
        self.budget -= n
        if self.budget < 0:
            self.fail("the program makes more and larger objects than a file of this size needs.")

    # ---- the program ----

    def take(self, n: int) -> bytearray:
        if n > len(self.text) - self.at:
            self.fail(f"the program is cut off: {n} bytes expected, {len(self.text) - self.at} are left.")
        self.at += n
        return self.text[self.at - n : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.text.find(b"\n", self.at, self.at + 1000)
        if end < 0:
            self.fail("a name does not end.")
        return self.decoded(self.take(end + 1 - self.at)[:-1])

    def decoded(self, text: bytearray) -> str:
        try:
            return text.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self.fail("a string is not UTF-8.")

    # ---- the stack ----

    def push(self, value: Any, cost: int = 8) -> None:
        self.spend(cost)
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.fail("a value is taken from an empty stack.")
        return self.stack.pop()

    def top(self, kind: type, what: str) -> Any:
        """The value that is changed in place."""
        value = self.pop()
        if not isinstance(value, kind):
            self.fail(f"{what} a {type(value).__name__}, expected a {kind.__name__}.")
        self.stack.append(value)
        return value

    def above_mark(self) -> list[Any]:
        if not self.marks:
            self.fail("there is no mark on the stack.")
        begin = self.marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values


# ---- the steps ----
_Step = Callable[[_Machine], None]
_STEPS: dict[int, _Step] = {}


def _opcode(code: bytes) -> Callable[[_Step], _Step]:
    def add(step: _Step) -> _Step:
        _STEPS[code[0]] = step
        return step

    return add


def _constants(code: bytes, value: Any) -> None:
    _STEPS[code[0]] = lambda m: m.push(value)


def _numbers(code: bytes, form: str) -> None:
    _STEPS[code[0]] = lambda m: m.push(m.number(form), 40)


def _strings(code: bytes, form: str, text: bool) -> None:
    def step(m: _Machine) -> None:
        value = m.take(m.number(form))
        m.spend(60 + (4 if text else 1) * len(value))
        m.push(m.decoded(value) if text else bytes(value))

    _STEPS[code[0]] = step


for _code, _value in ((b"N", None), (b"\x88", True), (b"\x89", False), (b")", ())):
    _constants(_code, _value)
for _code, _form in ((b"J", "<i"), (b"K", "<B"), (b"M", "<H"), (b"G", ">d")):
    _numbers(_code, _form)
for _code, _form in ((b"X", "<I"), (b"\x8c", "<B"), (b"\x8d", "<Q")):
    _strings(_code, _form, text=True)
for _code, _form in ((b"B", "<I"), (b"C", "<B"), (b"\x8e", "<Q")):
    _strings(_code, _form, text=False)


@_opcode(b"\x80")
def _proto(m: _Machine) -> None:
    version = m.take(1)[0]
    if m.begun or not 2 <= version <= 5:
        m.fail(f"expected a pickle of protocol 2 to 5, once, got protocol {version}.")


@_opcode(b"\x95")
def _frame(m: _Machine) -> None:
    if m.number("<Q") > len(m.text) - m.at:
        m.fail("a frame is longer than the program.")


def _long(code: bytes, form: str) -> None:
    def step(m: _Machine) -> None:
        n = m.number(form)
        if n > _LONGEST_INTEGER:
            m.fail(f"an integer of {n} bytes is not read, at most {_LONGEST_INTEGER}.")
        m.push(int.from_bytes(m.take(n), "little", signed=True), 40 + 2 * n)

    _STEPS[code[0]] = step


_long(b"\x8a", "<B")
_long(b"\x8b", "<I")


@_opcode(b"(")
def _mark(m: _Machine) -> None:
    m.spend(48)
    m.marks.append(len(m.stack))


@_opcode(b"]")
def _empty_list(m: _Machine) -> None:
    m.push([], 200)


@_opcode(b"}")
def _empty_dict(m: _Machine) -> None:
    m.push({}, 200)


@_opcode(b"t")
def _tuple(m: _Machine) -> None:
    values = m.above_mark()
    m.push(tuple(values), 192 + 8 * len(values))


def _short_tuple(code: bytes, n: int) -> None:
    def step(m: _Machine) -> None:
        values = [m.pop() for _ in range(n)]
        m.push(tuple(values[::-1]), 192 + 8 * n)

    _STEPS[code[0]] = step


for _n, _code in enumerate((b"\x85", b"\x86", b"\x87"), 1):
    _short_tuple(_code, _n)


def _extend(m: _Machine, values: list[Any]) -> None:
    m.spend(16 * len(values))
    m.top(list, "values are appended to").extend(values)


@_opcode(b"a")
def _append(m: _Machine) -> None:
    _extend(m, [m.pop()])


@_opcode(b"e")
def _appends(m: _Machine) -> None:
    _extend(m, m.above_mark())


def _set_items(m: _Machine, values: list[Any]) -> None:
    if len(values) % 2:
        m.fail("a key has no value.")
    items = m.top(dict, "items are set in")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, (str, int, float, type(None))) or (isinstance(key, int) and key.bit_length() > 64):
            m.fail(f"a key of a dict is a {type(key).__name__}, expected a string, a number up to 64 bits or None.")
        m.spend(512 if not items else 256 if isinstance(items, OrderedDict) else 128)
        items[key] = value


@_opcode(b"s")
def _setitem(m: _Machine) -> None:
    value = m.pop()
    _set_items(m, [m.pop(), value])


@_opcode(b"u")
def _setitems(m: _Machine) -> None:
    _set_items(m, m.above_mark())


def _get(code: bytes, form: str) -> None:
    def step(m: _Machine) -> None:
        i = m.number(form)
        if i >= len(m.memo):
            m.fail(f"value {i} is asked for, {len(m.memo)} are remembered.")
        m.push(m.memo[i])

    _STEPS[code[0]] = step


def _remember(m: _Machine, i: int) -> None:
    value = m.pop()
    m.stack.append(value)
    if i > len(m.memo):
        m.fail(f"value {i} is remembered as the next after {len(m.memo)}.")
    m.spend(16)
    m.memo[i : i + 1] = [value]


def _put(code: bytes, form: str) -> None:
    _STEPS[code[0]] = lambda m: _remember(m, m.number(form))


for _code, _form in ((b"h", "<B"), (b"j", "<I")):
    _get(_code, _form)
for _code, _form in ((b"q", "<B"), (b"r", "<I")):
    _put(_code, _form)


@_opcode(b"\x94")
def _memoize(m: _Machine) -> None:
    _remember(m, len(m.memo))


@_opcode(b"c")
def _global(m: _Machine) -> None:
    module = m.line()
    _push_name(m, module, m.line())


@_opcode(b"\x93")
def _stack_global(m: _Machine) -> None:
    name, module = m.pop(), m.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        m.fail("a name is no string.")
    _push_name(m, module, name)


def _push_name(m: _Machine, module: str, name: str) -> None:
    known = m.names.get((module, name))
    if known is None:
        m.fail(
            f"the file asks for {f'{module}.{name}'[:200]}, which is not among what is read: dense tensors, containers and plain values. "
            "Nothing of it was run.",
            hint=_WAY_OUT,
        )
    m.push(known)


@_opcode(b"R")
def _reduce(m: _Machine) -> None:
    arguments, maker = m.pop(), m.pop()
    if not isinstance(maker, Maker) or not isinstance(arguments, tuple):
        m.fail(f"a {type(maker).__name__} is called.")
    m.spend(maker.cost + (maker.each * len(arguments[0]) if arguments and hasattr(arguments[0], "__len__") else 0))
    m.push(maker.make(arguments))


@_opcode(b"Q")
def _persistent(m: _Machine) -> None:
    m.push(m.load(m.pop()), 128)


@_opcode(b"b")
def _build(m: _Machine) -> None:
    """Only what state_dict() hangs on its dict: the versions of the modules."""
    state = m.pop()
    target = m.top(OrderedDict, "attributes are set on")
    about = state.get("_metadata") if type(state) is dict and len(state) == 1 else None
    if not isinstance(about, dict) or not all(isinstance(k, str) and isinstance(v, dict) for k, v in about.items()):
        m.fail("attributes are set on a dict, expected the _metadata of a state_dict alone.")
    target._metadata = about


# ---- the result ----
_PLAIN = (bool, int, float, str, bytes, type(None), Tensor, np.ndarray, DType)
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple)


def _children(value: Any) -> list[Any]:
    """Of a container; raises where `value` is neither one nor plain."""
    if type(value) in (list, tuple):
        return list(value)
    if type(value) in _CONTAINERS:
        return [*value.values(), *([value._metadata] if hasattr(value, "_metadata") else [])]
    if not isinstance(value, _PLAIN):
        raise CheckpointError(
            f"holds a {type(value).__name__} by itself; expected tensors, containers and plain values."
        )
    return []


def _check(value: Any) -> None:
    """No containers beyond DEEPEST levels, none within itself, nothing of the machine's own. Each is visited once, however often it is used."""
    heights: dict[int, int] = {}  # of finished containers; 0 while under way
    path = [(value, iter(_children(value)))]
    heights[id(value)] = 0
    tallest = [0]
    while path:
        owner, rest = path[-1]
        for child in rest:
            known = heights.get(id(child))
            if known is None and type(child) in _CONTAINERS:
                heights[id(child)] = 0
                path.append((child, iter(_children(child))))
                tallest.append(0)
                break
            if known == 0:
                raise CheckpointError("a container contains itself.")
            if known is None:
                _children(child)
            tallest[-1] = max(tallest[-1], known or 0)
        else:
            path.pop()
            heights[id(owner)] = height = tallest.pop() + 1
            if tallest:
                tallest[-1] = max(tallest[-1], height)
            if height > DEEPEST or len(path) > DEEPEST:
                raise CheckpointError(f"is nested deeper than {DEEPEST} levels.")
