"""Custom differentiable functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tensorlib.errors import GradError, ShapeError
from tensorlib.lines import describe, here
from tensorlib.native import OBJECTS, drain, lib
from tensorlib.ops.recording import record_node
from tensorlib.status import checked, raise_status
from tensorlib.tensor import Tensor, wrap

from .node import FUNCTION

INPUT, OUTPUT = 1, 2


class Context:
    """What forward leaves for backward. Saved tensors live in the node's own slots, as data without history of their own: whatever becomes of
    them later, they close no cycle."""

    def __init__(self, recording: bool) -> None:
        self.needs_input_grad: tuple[bool, ...] = ()
        self._recording = recording
        self._to_save: tuple[Tensor | None, ...] = ()
        self._slots: list[tuple[int, int] | Tensor | None] = []
        self._not_differentiable: tuple[int, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._materialize = True
        self._node = self._token = 0  # the node is there while the token is entered
        self._inputs: list[tuple[int, ...] | None] = []  # shapes of the tensors among the arguments
        self._outputs: list[tuple[Any, Any, Any]] = []  # shape, dtype, device
        self._versions: list[tuple[Tensor, int]] = []

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for backward: inputs, outputs or anything computed on the way."""
        odd = next((t for t in tensors if t is not None and not isinstance(t, Tensor)), None)
        if odd is not None:
            raise TypeError(f"save_for_backward: got a {type(odd).__name__}, expected tensors and None.")
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What save_for_backward kept, in its order.

        Raises:
            GradError: if the graph was used up, or a tensor was overwritten in place since.
        """
        drain()  # a node that is gone has let go of this object, too
        there = OBJECTS.get(self._token) is self
        for t, version in self._versions:
            if t._version != version:
                where = describe(lib.tl_write_line(t._array))
                raise GradError(
                    f"{self._called}: a saved tensor of shape {t.shape} was overwritten in place at {where}."
                )
        found: list[Tensor | None] = []
        for slot in self._slots:
            if isinstance(slot, tuple):
                handle = lib.tl_node_saved(self._node, *slot) if there else 0
                if not handle:
                    raise GradError(
                        f"{self._called}: the saved tensors went with the graph.",
                        hint="the first time, pass retain_graph=True",
                    )
                slot = wrap(handle)
            found.append(slot)
        return tuple(found)

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """These outputs have no gradient."""
        self._not_differentiable = tuple(id(t) for t in tensors)

    def mark_dirty(self, *tensors: Tensor) -> None:
        """These inputs are changed in place by forward, which returns them. Called before the change, it leaves a forbidden one undone.

        Raises:
            GradError: for a leaf that requires a gradient, as for any in-place write.
        """
        if self._recording:
            for t in tensors:
                lib.tl_set_grad_enabled(True)
                writable = lib.tl_writable(t._array)
                lib.tl_set_grad_enabled(False)
                checked(writable, self._name, t.shape)
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros instead of None for outputs without a gradient (default: it does)."""
        self._materialize = value

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def _called(self) -> str:
        """Name and line, for messages."""
        return (
            f"{self._name} ({describe(lib.tl_node_line(self._node))})"
            if OBJECTS.get(self._token) is self
            else self._name
        )

    def run_backward(self, grads: list[Tensor | None]) -> list[Tensor | None]:
        from tensorlib.ops.creation import zeros

        given = [
            zeros(shape, dtype=dtype, device=where) if g is None and self._materialize else g
            for g, (shape, dtype, where) in zip(grads, self._outputs, strict=True)
        ]
        made = self._function.backward(self, *given)  # type: ignore[attr-defined]
        results = list(made) if isinstance(made, (tuple, list)) else [made]
        while len(results) > len(self._inputs) and results[-1] is None:
            results.pop()
        if len(results) != len(self._inputs):
            raise GradError(
                f"{self._called}: backward returned {len(results)} gradients for {len(self._inputs)} inputs."
            )
        kept: list[Tensor | None] = []
        for i, (g, shape) in enumerate(zip(results, self._inputs, strict=True)):
            self._check(i, g, shape)
            if shape is not None:
                kept.append(g if self.needs_input_grad[i] else None)
        return kept

    def _check(self, i: int, g: Any, shape: tuple[int, ...] | None) -> None:
        if g is None:
            return
        if not isinstance(g, Tensor):
            raise TypeError(f"{self._called}: gradient {i} is a {type(g).__name__}, expected a Tensor or None.")
        if shape is None:
            raise GradError(
                f"{self._called}: argument {i} is no tensor, but backward returned a gradient of shape {g.shape} for it; expected None."
            )
        have = g.shape[max(g.ndim - len(shape), 0) :]
        if len(have) != len(shape) or any(n not in (1, m) for n, m in zip(shape, have, strict=True)):
            raise ShapeError(f"{self._called}: gradient {i} has shape {g.shape}, expected the argument's, {shape}.")


class Function:
    """A differentiable function of your own: static `forward(ctx, ...)` and `backward(ctx, *gradients)`, called through `apply`.

    >>> class Cube(tl.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return 3 * x * x * g
    >>> x = tl.tensor(2.0, requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    tensor(12.)
    """

    _context: type[Context] = Context

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._context = type(cls.__name__, (Context,), {"_function": cls})

    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("Function: a subclass must define forward.")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("Function: a subclass must define backward.")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward without recording, and put one node with this class's backward on the tape."""
        line = here()
        recording = lib.tl_set_grad_enabled(False)
        try:
            ctx = cls._context(recording)
            ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
            result = cls.forward(ctx, *args, **kwargs)
        finally:
            lib.tl_set_grad_enabled(recording)
        if not recording or not any(ctx.needs_input_grad):
            return result
        if not isinstance(result, (tuple, list)):
            return _attach(ctx, args, [result], line)[0]
        finished = _attach(ctx, args, list(result), line)
        return type(result)(*finished) if hasattr(result, "_fields") else type(result)(finished)


def _attach(ctx: Context, args: tuple[Any, ...], outs: list[Any], line: int) -> list[Any]:
    tensors = [a for a in args if isinstance(a, Tensor)]
    made = [o for o in outs if isinstance(o, Tensor)]
    # Fresh shells: what forward itself holds (an attribute of ctx, say) stays outside the graph, so nothing leads from the node to its outputs.
    fresh = [o.detach() for o in made]
    ctx._inputs = [a.shape if isinstance(a, Tensor) else None for a in args]
    ctx._outputs = [(o.shape, o.dtype, o.device) for o in made]
    needs, extras = _slots(ctx, tensors, made)
    ctx._node = record_node(ctx._name, FUNCTION, [*tensors, *extras], fresh, needs, ctx, line)
    ctx._token = lib.tl_node_token(ctx._node) if ctx._node else 0
    for f, o in zip(fresh, made, strict=True):
        if id(o) in ctx._not_differentiable:
            lib.tl_detach_inplace(f._array)
    changed, ctx._dirty = ctx._dirty, ()
    shells = iter(fresh)
    return [_rewritten(ctx, o, next(shells), changed, line) if isinstance(o, Tensor) else o for o in outs]


def _rewritten(ctx: Context, given: Tensor, made: Tensor, changed: tuple[Tensor, ...], line: int) -> Tensor:
    """The output that the caller gets: an input that forward changed takes the output's place in the graph, and its base with it."""
    if not any(given is x for x in changed):
        return made
    if not lib.tl_rewrite_history(given._array, made._array, line):
        raise_status(ctx._name, given.shape)
    return given


MOST_INPUTS, MOST_OUTPUTS = 24, 8  # as many can be saved in a node's slots


def _slots(ctx: Context, tensors: list[Tensor], made: list[Tensor]) -> tuple[int, list[Tensor]]:
    """Where each saved tensor goes, as the node's mask, and those that are neither inputs nor outputs: these become further inputs, detached."""
    needs = 0
    extras: list[Tensor] = []
    for t in ctx._to_save:
        slot: tuple[int, int] | Tensor | None = t
        if t is not None:
            i = next((i for i, other in enumerate(tensors) if other is t), MOST_INPUTS)
            j = next((j for j, other in enumerate(made) if other is t), MOST_OUTPUTS)
            if j < MOST_OUTPUTS:  # an input that forward changed counts as the output it is now
                slot, needs = (OUTPUT, j), needs | 1 << MOST_INPUTS + j
            elif i < MOST_INPUTS:
                slot, needs = (INPUT, i), needs | 1 << i
            elif len(tensors) + len(extras) < MOST_INPUTS:
                slot, needs = (INPUT, len(tensors) + len(extras)), needs | 1 << len(tensors) + len(extras)
                extras.append(t.detach())
            else:
                ctx._versions.append((t, t._version))
        ctx._slots.append(slot)
    ctx._to_save = ()
    return needs, extras


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a `backward` that is not made of differentiable operations: a second derivative through it raises."""

    @functools.wraps(backward)
    def wrapped(ctx: Context, *grads: Tensor) -> Any:
        recording = lib.tl_set_grad_enabled(False)
        try:
            made = backward(ctx, *grads)
        finally:
            lib.tl_set_grad_enabled(recording)
        if not recording or not any(isinstance(g, Tensor) and g.requires_grad for g in grads):
            return made
        several = isinstance(made, (tuple, list))
        marked = [
            _Once.apply(ctx._called, m, *grads) if isinstance(m, Tensor) else m for m in (made if several else [made])
        ]
        return tuple(marked) if several else marked[0]

    return wrapped


class _Once(Function):
    @staticmethod
    def forward(ctx: Any, name: str, x: Tensor, *_: Tensor) -> Tensor:
        ctx.name = name
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise GradError(
            f"{ctx.name}: its backward is marked once_differentiable, so it can not be differentiated twice."
        )
