"""Hooks on tensors: on the gradient as it passes, after it was accumulated, and retain_grad."""

from __future__ import annotations

import weakref

from tensorlib.errors import GradError
from tensorlib.native import OBJECTS, lib
from tensorlib.tensor import Tensor

from .engine import note_leaf_hooks
from .node import Hook, RemovableHandle, hooks_of


def register_hook(self: Tensor, hook: Hook) -> RemovableHandle:
    """Call ``hook(grad)`` when this tensor's gradient is known; a returned tensor takes its place.

    Hooks of a leaf see the sum over all its uses, also where `autograd.grad` returns it. A hook lives until it is removed or its tensor goes: one
    that refers back to the tensor keeps both alive until it is removed.

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

    return RemovableHandle(
        hooks_of(self).by_output.setdefault(0 if self.is_leaf else lib.tl_out_nr(self._array), OrderedDict()), hook
    )


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
    if not self.is_leaf and not self.retains_grad:
        hooks_of(self).retaining.setdefault(lib.tl_out_nr(self._array), []).append(weakref.ref(self))


def retains_grad(self: Tensor) -> bool:
    """Whether this interior tensor keeps its gradient. Not after an in-place write, which makes it another value: ask again then."""
    node = lib.tl_node_of(self._array)
    token = lib.tl_node_hooks(node) if node else 0
    return bool(token) and any(ref() is self for ref in OBJECTS[token].retaining.get(lib.tl_out_nr(self._array), ()))
