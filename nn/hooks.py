"""Hooks on modules: around forward, on the gradients of a module's input and output, around saving and loading.

`Module.__call__` comes here only where a hook is registered: on the module itself, or on all modules (`EVERYWHERE`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorlib as tl
from tensorlib import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

_keys = count()
Gradients = tuple[Tensor | None, ...]


class RemovableHandle:
    """Returned by ``register_*_hook``: `remove()` takes the hook away again; as a context manager it does so at the end."""

    def __init__(self, hooks: dict[int, Any], key: int) -> None:
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        self._hooks.pop(self._key, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class Hook(NamedTuple):
    """A function, and how it wants to be called."""

    function: Callable[..., Any]
    with_kwargs: bool = False
    always: bool = False  # after an error in forward, too


class HookList(dict[int, Hook]):
    """Hooks in the order they run."""

    def add(self, hook: Callable[..., Any], prepend: bool = False, **how: bool) -> RemovableHandle:
        key = next(_keys)
        others = list(self.items()) if prepend else []
        if prepend:
            self.clear()
        self[key] = Hook(hook, **how)
        self.update(others)
        return RemovableHandle(self, key)

    def __call__(self, *args: Any) -> None:
        """Run them all; what they return is of no use."""
        for hook in list(self.values()):
            hook.function(*args)


class Hooks:
    """The hooks of one module around its call."""

    def __init__(self) -> None:
        self.before, self.after = HookList(), HookList()
        self.grad_output, self.grad_input = HookList(), HookList()

    def __bool__(self) -> bool:
        return bool(self.before or self.after or self.grad_output or self.grad_input)

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """forward between the hooks of all modules and the module's own; each sees what those before it made of the arguments or the output."""
        if not (self or EVERYWHERE):
            module.__dict__.pop("_hooks", None)  # the last one was removed: from now on the call is a plain one
            return module.forward(*args, **kwargs)
        out, waiting = None, None
        try:
            for hook in _joined(EVERYWHERE.before, self.before):
                args, kwargs = _before(hook, module, args, kwargs)
            gates = None
            if self.grad_input or self.grad_output or EVERYWHERE.grad_input or EVERYWHERE.grad_output:
                gates = _Gates(module, self)
                args = gates.enter(args)
            out = module.forward(*args, **kwargs)
            waiting = iter(_joined(EVERYWHERE.after, self.after))
            for hook in waiting:
                out = _after(hook, module, args, kwargs, out)
            return out if gates is None else gates.leave(out)
        except Exception:
            for hook in _joined(EVERYWHERE.after, self.after) if waiting is None else waiting:
                if hook.always:
                    out = _after_error(hook, module, args, kwargs, out)
            raise


def _joined(everywhere: HookList, own: HookList) -> list[Hook]:
    return [*everywhere.values(), *own.values()] if everywhere and everywhere is not own else list(own.values())


def _before(hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    if not hook.with_kwargs:
        replaced = hook.function(module, args)
        if replaced is not None:
            args = replaced if isinstance(replaced, tuple) else (replaced,)
        return args, kwargs
    replaced = hook.function(module, args, kwargs)
    if replaced is None:
        return args, kwargs
    if not (isinstance(replaced, tuple) and len(replaced) == 2):
        raise TypeError(
            f"forward pre-hook with kwargs: expected None or a pair (args, kwargs), got {type(replaced).__name__}."
        )
    return replaced


def _after(hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    if hook.with_kwargs:
        replaced = hook.function(module, args, kwargs, out)
    else:
        replaced = hook.function(module, args, out)
    return out if replaced is None else replaced


def _after_error(hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    try:
        return _after(hook, module, args, kwargs, out)
    except Exception as error:  # noqa: BLE001 (the error on its way out is the one to see)
        name = type(module).__name__
        warnings.warn(f"{name}: a hook with always_call failed after an error in forward: {error}", stacklevel=2)
        return out


class StateHooks:
    """The hooks of one module around saving and loading."""

    def __init__(self) -> None:
        self.before_save, self.after_save, self.before_load, self.after_load = (HookList() for _ in range(4))


EVERYWHERE = Hooks()  # those of `nn.modules.module.register_module_*_hook`
REGISTRATION = {"_parameters": HookList(), "_buffers": HookList(), "_modules": HookList()}


class _Gates:
    """The two ends of one call's part of the graph, through which the gradients of its output and its input pass.

        arguments -> [entrance] -> forward -> [exit] -> output

    Both are identities. In backward the exit shows and maybe replaces the output's gradient and keeps it; the entrance has both.
    """

    def __init__(self, module: Any, hooks: Hooks) -> None:
        self.module = module
        self.output_hooks = [hook.function for hook in _joined(EVERYWHERE.grad_output, hooks.grad_output)]
        self.input_hooks = [hook.function for hook in _joined(EVERYWHERE.grad_input, hooks.grad_input)]
        self.arguments = 0
        self.entered = False
        self.grad_output: Gradients | None = None

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.arguments = len(args)
        if not (self.input_hooks and tl.is_grad_enabled()):
            return args
        passed = _pass(self._at_entrance, args, zeros=True)
        self.entered = passed is not args
        return tuple(passed)

    def leave(self, out: Any) -> Any:
        if not tl.is_grad_enabled():
            return out
        if isinstance(out, Tensor):
            return _pass(self._at_exit, (out,), zeros=False)[0]
        if not isinstance(out, tuple):
            warnings.warn(
                f"{type(self.module).__name__}: backward hooks need an output that is a tensor or a tuple of tensors, "
                f"got {type(out).__name__}; they will not be called.",
                stacklevel=2,
            )
            return out
        passed = _pass(self._at_exit, out, zeros=False)
        return out if passed is out else type(out)(*passed) if hasattr(out, "_fields") else tuple(passed)

    def _at_exit(self, given: Gradients) -> Gradients:
        for hook in self.output_hooks:
            given = self._replaced("backward pre-hook", "grad_output", given, hook(self.module, given))
        self.grad_output = given
        if not self.entered:  # no argument requires a gradient: there is nothing to wait for
            self._at_entrance((None,) * self.arguments)
        return given

    def _at_entrance(self, given: Gradients) -> Gradients:
        if self.grad_output is None:  # this gradient did not come through the output
            return given
        for hook in self.input_hooks:
            given = self._replaced("backward hook", "grad_input", given, hook(self.module, given, self.grad_output))
        if not self.entered and any(g is not None for g in given):
            raise RuntimeError(
                f"{type(self.module).__name__}: a backward hook returned gradients, but no argument requires one; expected None."
            )
        self.grad_output = None
        return given

    def _replaced(self, what: str, which: str, given: Gradients, returned: Any) -> Gradients:
        if returned is None:
            return given
        made = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
        if len(made) != len(given):
            raise RuntimeError(
                f"{type(self.module).__name__}: a {what} returned {len(made)} gradients, expected {len(given)} as in {which}."
            )
        return made


def _pass(action: Callable[[Gradients], Gradients], values: tuple[Any, ...], zeros: bool) -> Any:
    """The values behind a gate that shows `action` their gradients; the same object where none requires one. As in PyTorch, a tensor without a
    gradient shows None or, with `zeros`, zeros."""
    places = [i for i, v in enumerate(values) if isinstance(v, Tensor) and (zeros or v.requires_grad)]
    if not any(values[i].requires_grad for i in places):
        return values

    def at_gate(gradients: Gradients) -> Gradients:
        shown: list[Tensor | None] = [None] * len(values)
        for i, g in zip(places, gradients, strict=True):
            shown[i] = g
        made = action(tuple(shown))
        return tuple(made[i] for i in places)

    behind = list(values)
    for i, v in zip(places, _Gate.apply(at_gate, zeros, *(values[i] for i in places)), strict=True):
        behind[i] = v
    return behind


class _Gate(tl.autograd.Function):
    """Identity of several tensors; `action` sees and returns their gradients."""

    @staticmethod
    def forward(ctx: Any, action: Callable[[Gradients], Gradients], zeros: bool, *tensors: Tensor) -> Any:
        ctx.action = action
        ctx.set_materialize_grads(zeros)
        ctx.mark_non_differentiable(*(t for t in tensors if not t.requires_grad))
        return tensors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.action(gradients))
