"""Gradients: backward and grad, modes, hooks, custom functions, checks against finite differences."""

from __future__ import annotations

from tensorlib.tensor import Tensor

from .engine import backward, backward_depth, grad, on_backward_end
from .function import Function, once_differentiable
from .hooks import (
    register_hook,
    register_post_accumulate_grad_hook,
    retain_grad,
    retains_grad,
    set_grad_place,
    take_grad_factors,
)
from .modes import enable_grad, inference_mode, is_grad_enabled, is_inference_mode_enabled, no_grad, set_grad_enabled
from .node import Node

__all__ = [
    "Function", "Node", "backward_depth", "enable_grad", "grad", "gradcheck", "gradgradcheck", "inference_mode", "is_grad_enabled",
    "is_inference_mode_enabled", "no_grad", "on_backward_end", "once_differentiable", "set_grad_enabled", "set_grad_place",
    "take_grad_factors",
]  # fmt: skip

for _function in (backward, register_hook, register_post_accumulate_grad_hook, retain_grad):
    setattr(Tensor, _function.__name__, _function)
Tensor.retains_grad = property(retains_grad)  # type: ignore[assignment, method-assign]


def __getattr__(name: str) -> object:
    if name in ("gradcheck", "gradgradcheck"):
        from tensorlib.autograd import check

        return getattr(check, name)
    raise AttributeError(f"module {__name__} has no attribute {name!r}")
