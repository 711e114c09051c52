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
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter

__all__ = ["ChildSumTreeLSTMCell", "NaryTreeLSTMCell"]

_State = tuple[Tensor, Tensor]


class _TreeLSTMCell(Module):
    """What both cells have in common."""

    bias: Parameter | None

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

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is not None else ", bias=False")


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

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        shapes = {"weight_hh": (4 * hidden_size, hidden_size)}
        super().__init__(input_size, hidden_size, bias, shapes, device, dtype)

    def forward(self, input: Tensor | None, children: Sequence[_State] = ()) -> _State:
        return tl.fused.tree_lstm(input, self.weight_ih, self.bias, self.weight_hh, children)


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

    def __init__(
        self, input_size: int, hidden_size: int, arity: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:  # fmt: skip
        if not isinstance(arity, int) or arity < 1:
            raise ValueError(f"NaryTreeLSTMCell: arity must be an integer of at least 1, got {arity!r}.")
        self.arity = arity
        self._names = [f"weight_hh_{k}" for k in range(arity)]
        shapes = dict.fromkeys(self._names, ((3 + arity) * hidden_size, hidden_size))
        super().__init__(input_size, hidden_size, bias, shapes, device, dtype)

    def forward(self, input: Tensor | None, children: Sequence[_State | None] = ()) -> _State:
        if len(children) not in (0, self.arity):
            raise tl.ShapeError(
                f"NaryTreeLSTMCell: got {len(children)} children, expected {self.arity}, None for each that is missing."
            )
        held = vars(self)
        return tl.fused.tree_lstm(input, self.weight_ih, self.bias, [held[name] for name in self._names], children)

    def extra_repr(self) -> str:
        return super().extra_repr() + f", arity={self.arity}"
