"""What users see of a node: its name, its line, its parents, hooks."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from tensorlib.errors import DeviceError
from tensorlib.lines import describe
from tensorlib.native import OBJECTS, keep, lib
from tensorlib.ops.table import BY_NUMBER, NATIVE_NUMBERS
from tensorlib.tensor import Tensor

_NAMES = {number: name for name, number in NATIVE_NUMBERS.items()}
Hook = Callable[..., Any]


class Node:
    """A recorded operation. `name` says which, `where` the user's line; `next_functions` leads to what it consumed."""

    __slots__ = ("__weakref__", "_handle")

    def __init__(self, handle: int) -> None:
        lib.tl_node_own(handle)
        self._handle = handle

    def __del__(self, _free: Callable[[int], None] = lib.tl_node_free) -> None:
        _free(self._handle)

    @property
    def name(self) -> str:
        number = lib.tl_node_op(self._handle)
        if number == FUNCTION:
            return type(OBJECTS[lib.tl_node_token(self._handle)]).__name__
        return BY_NUMBER[number].name if number in BY_NUMBER else _NAMES.get(number, "?")

    @property
    def where(self) -> str:
        return describe(lib.tl_node_line(self._handle))

    @property
    def next_functions(self) -> tuple[tuple[Node | Tensor | None, int], ...]:
        found: list[tuple[Node | Tensor | None, int]] = []
        for i in range(lib.tl_node_inputs(self._handle)):
            parent = lib.tl_node_parent(self._handle, i)
            if parent:
                found.append((Node(parent), lib.tl_node_parent_nr(self._handle, i)))
            else:
                leaf = lib.tl_node_leaf(self._handle, i)
                found.append((_wrap(leaf) if leaf else None, 0))
        return tuple(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other._handle == self._handle

    def __hash__(self) -> int:
        return hash(self._handle)

    def __repr__(self) -> str:
        return f"<{self.name} at {self.where}>"


FUNCTION = 1023  # the number of custom Functions' nodes


def _wrap(handle: int) -> Tensor:
    from tensorlib.tensor import wrap

    return wrap(handle)


def node_of(t: Tensor) -> Node | None:
    handle = lib.tl_node_of(t._array)
    return Node(handle) if handle else None


# ---- hooks ----
class Hooks:
    """The hooks of one leaf, or of one node by output number; kept by C through a token."""

    __slots__ = ("accumulated", "by_output", "retaining")

    def __init__(self) -> None:
        self.by_output: dict[int, OrderedDict[int, Hook]] = {}
        self.retaining: dict[
            int, list[weakref.ref[Tensor]]
        ] = {}  # who wants to see the gradient that all hooks agreed on
        self.accumulated: OrderedDict[int, Hook] = OrderedDict()

    def run(self, output: int, g: Tensor) -> Tensor:
        for hook in list(self.by_output.get(output, {}).values()):
            made = hook(g)
            if made is not None:
                if not isinstance(made, Tensor) or made.shape != g.shape:
                    got = f"shape {made.shape}" if isinstance(made, Tensor) else type(made).__name__
                    raise TypeError(f"hook: returned {got}, expected None or a tensor of shape {g.shape}.")
                if made.device != g.device:
                    raise DeviceError(f"hook: returned a tensor on {made.device}, expected one on {g.device}.")
                g = made if made.dtype is g.dtype else made.to(g.dtype)
        for ref in self.retaining.get(output, ()):
            t = ref()
            if (
                t is not None and hooks_of(t) is self
            ):  # else it was overwritten in place, and this was its former value's
                t.grad = g if t.grad is None else t.grad + g
        return g


class RemovableHandle:
    """What registering a hook returns: `remove()` takes it out again, also at the end of a ``with`` block."""

    _next = 0

    def __init__(self, hooks: OrderedDict[int, Hook], hook: Hook) -> None:
        RemovableHandle._next += 1
        self.id, self._hooks = RemovableHandle._next, hooks
        hooks[self.id] = hook

    def remove(self) -> None:
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:  # noqa: PYI034 (typing has no Self in Python 3.10)
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def hooks_of(t: Tensor) -> Hooks:
    """The hooks behind a tensor that requires a gradient, made on first use."""
    node = lib.tl_node_of(t._array)
    token = lib.tl_node_hooks(node) if node else lib.tl_hooks(t._array)
    if not token:
        token = keep(Hooks())
        if node:
            lib.tl_node_set_hooks(node, token)
        else:
            lib.tl_set_hooks(t._array, token)
    found: Hooks = OBJECTS[token]
    return found
