"""Hooks on tensors: on the gradient as it passes, after it was accumulated, and retain_grad."""

from __future__ import annotations

import weakref
from typing import Any

from tensorlib.errors import GradError
from tensorlib.tensor import Tensor
from tensorlib.native import lib

from .engine import note_leaf_hooks
from .node import Hook, RemovableHandle, hooks_of


def register_hook(self: Tensor, hook: Hook) -> RemovableHandle:
    """Call ``hook(grad)`` when this tensor's gradient is known; a returned tensor takes its place.

    >>> x = tl.ones(2, requires_grad=True)
    >>> handle = x.register_hook(lambda g: g * 10)
    >>> x.sum().backward()
    >>> x.grad
    tensor([10., 10.])
    """
    if not self.requires_grad:
        raise GradError("register_hook: the tensor does not require a gradient, so none will pass.")
    if self.is_leaf:
        note_leaf_hooks()
    from collections import OrderedDict

    return RemovableHandle(hooks_of(self).by_output.setdefault(0 if self.is_leaf else lib.tl_out_nr(self._array), OrderedDict()), hook)


def register_post_accumulate_grad_hook(self: Tensor, hook: Hook) -> RemovableHandle:
    """Call ``hook(leaf)`` once this leaf's gradient of a backward is complete and accumulated, in the middle of backward.

    >>> x = tl.ones(2, requires_grad=True)
    >>> handle = x.register_post_accumulate_grad_hook(lambda leaf: print(leaf.grad))
    >>> x.sum().backward()
    tensor([1., 1.])
    """
    if not self.requires_grad or not self.is_leaf:
        raise GradError("register_post_accumulate_grad_hook: only leaves that require a gradient accumulate one.")
    note_leaf_hooks()
    return RemovableHandle(hooks_of(self).accumulated, hook)


def retain_grad(self: Tensor) -> None:
    """Keep this interior tensor's gradient in `.grad` too.

    >>> x = tl.ones(2, requires_grad=True)
    >>> y = x * 3
    >>> y.retain_grad()
    >>> y.sum().backward()
    >>> y.grad
    tensor([1., 1.])
    """
    if not self.requires_grad:
        raise GradError("retain_grad: the tensor does not require a gradient.")
    if self.is_leaf or self.retains_grad:
        return
    target: Any = weakref.ref(self)

    def store(g: Tensor) -> None:
        t = target()
        if t is not None:
            t.grad = g if t.grad is None else t.grad + g

    register_hook(self, store)
    _retaining.add(self)


_retaining: weakref.WeakSet[Tensor] = weakref.WeakSet()


def retains_grad(self: Tensor) -> bool:
    """Whether this interior tensor keeps its gradient."""
    return not self.is_leaf and self in _retaining
