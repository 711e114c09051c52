"""Custom differentiable functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tensorlib.errors import GradError
from tensorlib.lines import here
from tensorlib.native import keep, lib
from tensorlib.status import checked
from tensorlib.tensor import Tensor, wrap

from .node import FUNCTION

INPUT, OUTPUT = 1, 2


class Context:
    """What forward leaves for backward. Saved inputs and outputs live in the node's own slots, so they close no cycle."""

    def __init__(self) -> None:
        self.needs_input_grad: tuple[bool, ...] = ()
        self._to_save: tuple[Tensor | None, ...] = ()
        self._slots: list[tuple[int, int] | Tensor | None] = []
        self._not_differentiable: tuple[int, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._materialize = True
        self._node = 0
        self._shapes: list[Any] = []
        self._tensor_inputs: list[bool] = []
        self._versions: list[tuple[Tensor, int]] = []

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for backward: inputs, outputs or anything computed on the way."""
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What save_for_backward kept, in its order.

        Raises:
            GradError: if one was overwritten in place since.
        """
        for t, version in self._versions:
            if t._version != version:
                raise GradError(f"{type(self).__name__}: a saved tensor of shape {t.shape} was overwritten in place.", hint="clone() it first")
        found: list[Tensor | None] = []
        for slot in self._slots:
            found.append(wrap(checked(lib.tl_node_saved(self._node, *slot), "saved_tensors", ())) if isinstance(slot, tuple) else slot)
        return tuple(found)

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """These outputs have no gradient."""
        self._not_differentiable = tuple(id(t) for t in tensors)

    def mark_dirty(self, *tensors: Tensor) -> None:
        """These inputs were changed in place by forward."""
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros instead of None for outputs without a gradient (default: it does)."""
        self._materialize = value

    def run_backward(self, grads: list[Tensor | None]) -> list[Tensor | None]:
        from tensorlib.ops.creation import zeros

        given = [
            zeros(shape, dtype=dtype, device=where) if g is None and self._materialize else g
            for g, (shape, dtype, where) in zip(grads, self._shapes, strict=True)
        ]
        name = type(self).__name__
        made = self._function.backward(self, *given)  # type: ignore[attr-defined]
        results = list(made) if isinstance(made, (tuple, list)) else [made]
        while len(results) > len(self.needs_input_grad) and results[-1] is None:
            results.pop()
        if len(results) != len(self.needs_input_grad):
            raise GradError(f"{name}: backward returned {len(results)} gradients for {len(self.needs_input_grad)} inputs.")
        kept: list[Tensor | None] = []
        for i, (g, is_tensor) in enumerate(zip(results, self._tensor_inputs, strict=True)):
            if g is not None and not isinstance(g, Tensor):
                raise TypeError(f"{name}: gradient {i} is a {type(g).__name__}, expected a Tensor or None.")
            if is_tensor:
                kept.append(g if self.needs_input_grad[i] else None)
        return kept


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
        ctx = cls._context()
        line = here()
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        recording = lib.tl_set_grad_enabled(False)
        try:
            result = cls.forward(ctx, *args, **kwargs)
        finally:
            lib.tl_set_grad_enabled(recording)
        if not recording or not any(ctx.needs_input_grad):
            return result
        many = isinstance(result, (tuple, list))
        outs = list(result) if many else [result]
        finished = _attach(ctx, args, outs, line)
        return type(result)(finished) if many else finished[0]


def _attach(ctx: Context, args: tuple[Any, ...], outs: list[Any], line: int) -> list[Any]:
    tensors = [a for a in args if isinstance(a, Tensor)]
    ctx._tensor_inputs = [isinstance(a, Tensor) for a in args]
    made = [o for o in outs if isinstance(o, Tensor)]
    # Fresh shells: what forward itself holds (an attribute of ctx, say) stays outside the graph, so nothing leads from the node to its outputs.
    fresh = [o if any(o is d for d in ctx._dirty) else o.detach() for o in made]
    ctx._shapes = [(o.shape, o.dtype, o.device) for o in made]
    needs = _slots(ctx, tensors, made)
    handles = [f._array for f in fresh]
    node = lib.tl_record_python(FUNCTION, len(tensors), [t._array for t in tensors], len(handles), handles, needs, keep(ctx), line)
    ctx._node = node
    for f, o in zip(fresh, made, strict=True):
        if id(o) in ctx._not_differentiable:
            lib.tl_detach_inplace(f._array)
    shells = iter(fresh)
    return [next(shells) if isinstance(o, Tensor) else o for o in outs]


def _slots(ctx: Context, tensors: list[Tensor], made: list[Tensor]) -> int:
    needs = 0
    for t in ctx._to_save:
        slot: tuple[int, int] | Tensor | None = t
        for kind, group, first, limit in ((INPUT, tensors, 0, 24), (OUTPUT, made, 24, 8)):
            index = next((i for i, other in enumerate(group) if other is t), limit)
            if t is not None and index < limit:
                slot, needs = (kind, index), needs | 1 << first + index
                break
        else:
            if t is not None:
                ctx._versions.append((t, t._version))
        ctx._slots.append(slot)
    ctx._to_save = ()
    return needs


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
        marked = [_Once.apply(m, *grads) if isinstance(m, Tensor) else m for m in (made if several else [made])]
        return tuple(marked) if several else marked[0]

    return wrapped


class _Once(Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, *_: Tensor) -> Tensor:
        return x.detach()

    @staticmethod
    def backward(ctx: Context, *_: Tensor) -> Any:
        raise GradError("backward: a Function marked once_differentiable can not be differentiated twice.")
