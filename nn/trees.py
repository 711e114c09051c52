"""Long short-term memory over trees: cells that make a node's state from its children's.

A tree is walked by the program, children before their parent, one call per node; or per group of nodes that are ready together and have as many
children each. Dimension letters: B nodes, D features, H hidden units, N most children of a node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import functional as F, init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter

__all__ = ["ChildSumTreeLSTMCell", "NaryTreeLSTMCell"]

_State = tuple[Tensor, Tensor]


class _TreeLSTMCell(Module):
    """What both cells have in common. Children's states are not joined for one product: the join's gradient alone costs more than the products."""

    bias: Parameter | None
    _may_miss: bool  # whether a child can be None

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, children: Mapping[str, tuple[int, ...]], device: Any, dtype: Any
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(hidden_size, int) or hidden_size < 1:
            raise ValueError(
                f"{type(self).__name__}: hidden_size must be an integer of at least 1, got {hidden_size!r}."
            )
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = Parameter(tl.empty((4 * hidden_size, input_size), device=device, dtype=dtype))
        for name, shape in children.items():
            self.register_parameter(name, Parameter(tl.empty(shape, device=device, dtype=dtype)))
        self.register_parameter(
            "bias", Parameter(tl.empty((4 * hidden_size,), device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights, uniform in +-1/sqrt(H)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _from_input(self, input: Tensor | None) -> Tensor | None:
        """(..., 4H), the part of all gates that does not depend on children; (4H,) or None without an input."""
        return self.bias if input is None else F.linear(input, self.weight_ih, self.bias)

    def _check(self, input: Tensor | None, children: Sequence[_State | None]) -> None:
        """Raises where something does not fit, naming it."""
        name, dtype = type(self).__name__, self.weight_ih.dtype
        expected: tuple[int, ...] = ()  # shape of every state
        if input is not None:
            shape = input.shape if isinstance(input, Tensor) else ()
            if len(shape) not in (1, 2) or shape[-1] != self.input_size:
                raise tl.ShapeError(
                    f"{name}: input must have shape (B, {self.input_size}) or ({self.input_size},), got {_said(input)}."
                )
            if input.dtype is not dtype:
                raise tl.DTypeError(f"{name}: input is {input.dtype.name}, the weights are {dtype.name}.")
            expected = (*shape[:-1], self.hidden_size)
        for k, child in enumerate(children):
            if child is None and self._may_miss:
                continue
            if not isinstance(child, (tuple, list)) or len(child) != 2:
                raise TypeError(f"{name}: child {k} must be a pair (h, c), got {_said(child)}.")
            for part, state in zip("hc", child, strict=True):
                shape = state.shape if isinstance(state, Tensor) else ()
                expected = expected or (*(shape[:-1] if len(shape) == 2 else ()), self.hidden_size)
                if shape != expected or state.dtype is not dtype:
                    raise tl.ShapeError(
                        f"{name}: {part} of child {k} must be {dtype.name} of shape {expected}, got {_said(state)}."
                    )
        if not expected:
            raise ValueError(f"{name}: a node needs an input or a child, got neither.")

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is not None else ", bias=False")


def _said(x: Any) -> str:
    return f"{x.dtype.name} of shape {x.shape}" if isinstance(x, Tensor) else type(x).__name__


def _sum(parts: Sequence[Tensor | None]) -> Tensor:
    first, *others = (p for p in parts if p is not None)
    for p in others:
        first = first + p
    return first


def _node(i: Tensor, g: Tensor, o: Tensor, forget: Sequence[Tensor], cells: Sequence[Tensor]) -> _State:
    """State and cell of a node from its gates' sums, one of `forget` for each child's cell."""
    c = i.sigmoid() * g.tanh()
    for f, cell in zip(forget, cells, strict=True):
        c = tl.addcmul(c, f.sigmoid(), cell)
    return o.sigmoid() * c.tanh(), c


class ChildSumTreeLSTMCell(_TreeLSTMCell):
    """A node of a tree whose nodes have any number of children, in no order: the gates see the sum of their states, each child has a forget gate.

    ``h~ = sum_k h_k``;  ``i, o = sigmoid(W x + U h~ + b)``, ``g = tanh(W x + U h~ + b)``, ``f_k = sigmoid(W x + U h_k + b)``;
    ``c = i g + sum_k f_k c_k``, ``h = o tanh(c)``.

    Args:
        bias: whether there is a b.

    Shapes:
        input: (D,), or (B, D) for B nodes with as many children each; None: a node without a word of its own, W x is left out
        children: the pairs (h, c) of the children, (H,) or (B, H) each; none of them: a leaf
        returns: h, c of (H,) or (B, H)
        weight_ih: (4H, D), weight_hh: (4H, H), bias: (4H,), gates in the order i, f, g, o; so a node with one child is a step of `LSTMCell`

    Raises:
        ShapeError: where an input or a child does not fit, naming it.

    Reference: Tai et al. 2015, section 3.1.

    >>> cell = tl.nn.ChildSumTreeLSTMCell(3, 5)
    >>> leaves = [cell(tl.randn(3)) for _ in range(4)]
    >>> h, c = cell(tl.randn(3), leaves)
    >>> h.shape, c.shape
    ((5,), (5,))
    """

    weight_hh: Parameter
    _may_miss = False

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        shapes = {"weight_hh": (4 * hidden_size, hidden_size)}
        super().__init__(input_size, hidden_size, bias, shapes, device, dtype)

    def forward(self, input: Tensor | None, children: Sequence[_State] = ()) -> _State:
        self._check(input, children)
        own = self._from_input(input)
        parts = [F.linear(h, self.weight_hh) for h, _ in children]  # U h~ is the sum of the U h_k
        i, f, g, o = _sum([own, *parts]).chunk(4, -1)
        if len(parts) == 1:
            forget = [f]
        else:
            gate = slice(self.hidden_size, 2 * self.hidden_size)
            of_input = None if own is None or not parts else own[..., gate]
            forget = [_sum([of_input, part[..., gate]]) for part in parts]
        return _node(i, g, o, forget, [c for _, c in children])


class NaryTreeLSTMCell(_TreeLSTMCell):
    """A node of a tree whose nodes have at most `arity` children, each with its place: every place has weights of its own.

    ``i, o = sigmoid(W x + sum_l U_l h_l + b)``, ``g`` with tanh alike, ``f_k = sigmoid(W_f x + sum_l U_kl h_l + b_f)``;
    ``c = i g + sum_k f_k c_k``, ``h = o tanh(c)``. A missing child counts as zeros, and costs nothing.

    Args:
        arity: how many places there are.
        bias: whether there is a b.

    Shapes:
        input: (D,), or (B, D) for B nodes; None: a node without a word of its own, W x is left out
        children: `arity` pairs (h, c), (H,) or (B, H) each, None where there is no such child; none of them, or an empty list: a leaf
        returns: h, c of (H,) or (B, H)
        weight_ih: (4H, D), bias: (4H,), gates in the order i, f, g, o, the one f for the forget gates of all places
        weight_hh_k for each place k: ((3 + N)H, H), what child k adds to i, f_0, ... f_{N-1}, g, o; with one place a node is a step of `LSTMCell`

    Raises:
        ShapeError: where an input or a child does not fit, naming it.

    Reference: Tai et al. 2015, section 3.2.

    >>> cell = tl.nn.NaryTreeLSTMCell(3, 5, arity=2)
    >>> left = cell(tl.randn(3))
    >>> h, c = cell(None, [left, cell(tl.randn(3), [left, None])])
    >>> h.shape, c.shape
    ((5,), (5,))
    """

    _may_miss = True

    def __init__(
        self, input_size: int, hidden_size: int, arity: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:  # fmt: skip
        if not isinstance(arity, int) or arity < 1:
            raise ValueError(f"NaryTreeLSTMCell: arity must be an integer of at least 1, got {arity!r}.")
        self.arity = arity
        shapes = {f"weight_hh_{k}": ((3 + arity) * hidden_size, hidden_size) for k in range(arity)}
        super().__init__(input_size, hidden_size, bias, shapes, device, dtype)

    def forward(self, input: Tensor | None, children: Sequence[_State | None] = ()) -> _State:
        if len(children) not in (0, self.arity):
            raise tl.ShapeError(
                f"NaryTreeLSTMCell: got {len(children)} children, expected {self.arity}, None for each that is missing."
            )
        self._check(input, children)
        own = self._from_input(input)
        there = [(k, *child) for k, child in enumerate(children) if child is not None]
        if not there:
            i, _, g, o = _sum([own]).chunk(4, -1)
            return _node(i, g, o, [], [])
        parts = [F.linear(h, getattr(self, f"weight_hh_{k}")) for k, h, _ in there]
        i, *forget, g, o = _sum(parts).chunk(3 + self.arity, -1)
        forget = [forget[k] for k, *_ in there]
        if own is not None:
            own_i, own_f, own_g, own_o = own.chunk(4, -1)
            i, g, o, forget = own_i + i, own_g + g, own_o + o, [own_f + f for f in forget]
        return _node(i, g, o, forget, [c for *_, c in there])

    def extra_repr(self) -> str:
        return super().extra_repr() + f", arity={self.arity}"
