"""Hooks that hold for all modules, for debugging and profiling: each as the method of `Module` of that name, run before the modules' own.

>>> handle = tl.nn.modules.module.register_module_forward_hook(lambda module, args, out: print(type(module).__name__, out.shape))
>>> out = tl.nn.Sequential(tl.nn.Linear(2, 3), tl.nn.Tanh())(tl.zeros(5, 2))
Linear (5, 3)
Tanh (5, 3)
Sequential (5, 3)
>>> handle.remove()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib.nn.hooks import EVERYWHERE, REGISTRATION, HookList, RemovableHandle
from tensorlib.nn.module import Module

__all__ = [
    "Module", "register_module_backward_hook", "register_module_buffer_registration_hook", "register_module_forward_hook",
    "register_module_forward_pre_hook", "register_module_full_backward_hook", "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook", "register_module_parameter_registration_hook",
]  # fmt: skip


class _Handle(RemovableHandle):
    """Switches the hooks of all modules off with the last of them: calls cost nothing extra then."""

    def remove(self) -> None:
        super().remove()
        Module._hooks = EVERYWHERE or None


def _add(hooks: HookList, hook: Callable[..., Any], **how: bool) -> RemovableHandle:
    plain = hooks.add(hook, **how)
    Module._hooks = EVERYWHERE
    return _Handle(plain._hooks, plain._key)


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, args)`` before every forward; what it returns replaces the arguments."""
    return _add(EVERYWHERE.before, hook)


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call ``hook(module, args, output)`` after every forward; what it returns replaces the output."""
    return _add(EVERYWHERE.after, hook, with_kwargs=with_kwargs, always=always_call)


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_output)`` in backward for every module; what it returns replaces the gradients."""
    return _add(EVERYWHERE.grad_output, hook)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_input, grad_output)`` in backward for every module; what it returns replaces `grad_input`."""
    return _add(EVERYWHERE.grad_input, hook)


register_module_backward_hook = register_module_full_backward_hook


def register_module_parameter_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, parameter)`` whenever a module gets a parameter; what it returns takes its place."""
    return REGISTRATION["_parameters"].add(hook)


def register_module_buffer_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, buffer)`` whenever a module gets a buffer; what it returns takes its place."""
    return REGISTRATION["_buffers"].add(hook)


def register_module_module_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, submodule)`` whenever a module gets a submodule; what it returns takes its place."""
    return REGISTRATION["_modules"].add(hook)
