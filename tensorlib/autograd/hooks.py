"""Hooks on tensors: on the gradient as it passes, after it was accumulated, and retain_grad."""

from __future__ import annotations

import weakref

from tensorlib.errors import GradError
from tensorlib.native import OBJECTS, ffi, lib
from tensorlib.status import DECLINE, raise_status
from tensorlib.tensor import Tensor, wrap

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
        lib.tl_show_grad(self._array)
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


def set_grad_place(leaf: Tensor, memory: Tensor | None, *, put_off: bool | Tensor = False) -> None:
    """From now on the gradient of `leaf` lies in `memory` whenever it is new, so that gradients of many leaves can lie side by side.

    Backward writes the product of a linear layer's weight there directly, and copies other gradients. `leaf.grad` is then a view of it. Only
    where the view of an earlier backward is still held elsewhere is the gradient memory of its own: ask `leaf.grad.data_ptr()`.

    Args:
        memory: contiguous, of the leaf's shape and dtype, float32 or float64, writable; None: anywhere again.
        put_off: a linear layer's weight of 16,384 elements or more may have its gradient as the two factors of the product, where these
            have a quarter of its elements at most: it is multiplied when somebody asks for `leaf.grad` or more is added to it, with the
            same bits, unless `take_grad_factors` came first. A tensor (n,) with room for as many elements, of the leaf's dtype, is where
            they come to lie, g before x.

    Raises:
        GradError: if `memory` can not hold the gradient, or `put_off` the factors, or `leaf` is none that has one.

    >>> w, buffer = tl.ones(2, requires_grad=True), tl.zeros(5)
    >>> tl.autograd.set_grad_place(w, buffer[1:3])
    >>> (w * 3).sum().backward()
    >>> buffer.tolist()
    [0.0, 3.0, 3.0, 0.0, 0.0]
    """
    if not leaf.is_leaf or (memory is not None and not leaf.requires_grad):
        raise GradError("set_grad_place: only leaves that require a gradient have one.")
    factors = put_off if isinstance(put_off, Tensor) else None
    handles = [0 if t is None else t._array for t in (memory, factors)]
    if not lib.tl_set_grad_place(leaf._array, handles[0], factors is not None or bool(put_off), handles[1]):
        if lib.tl_status() != DECLINE:
            raise_status("set_grad_place")
        of = f"{tuple(memory.shape)} of {memory.dtype}" if memory is not None else "None"
        if factors is not None:
            of += f" and {tuple(factors.shape)} of {factors.dtype} for {leaf.numel() // 4} elements of factors,"
        raise GradError(
            f"set_grad_place: got memory {of} for a leaf {tuple(leaf.shape)} of {leaf.dtype}; expected the same of both, float32 or float64, "
            "contiguous and writable, on the CPU."
        )


def take_grad_factors(leaf: Tensor) -> tuple[Tensor, Tensor] | None:
    """The factors (g, x) of a gradient ``g.mT @ x`` that `set_grad_place` had put off; `leaf.grad` is None then. None where there is no such.

    Shapes:
        leaf: (M, N)  ->  (K, M), (K, N), K the rows that the layer saw

    >>> w, x = tl.ones(128, 128, requires_grad=True), tl.full((2, 128), 3.0)
    >>> tl.autograd.set_grad_place(w, tl.zeros(128, 128), put_off=True)
    >>> tl.nn.functional.linear(x, w).sum().backward()
    >>> g, x = tl.autograd.take_grad_factors(w)
    >>> (g.mT @ x)[0, 0].item(), w.grad
    (6.0, None)
    """
    x = ffi.new("uintptr_t *")
    g = lib.tl_take_factors(leaf._array, x)
    return (wrap(g), wrap(x[0])) if g else None


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
