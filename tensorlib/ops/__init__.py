"""The operations: importing this package fills the table and installs Tensor's methods, operators and in-place twins from it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tensorlib.lines import here
from tensorlib.native import lib
from tensorlib.ops import (
    activations,
    attention,
    bags,
    channel_norms,
    comparison,
    conv,
    convolution,
    creation,
    crf,
    ctc,
    diagonals,
    distances,
    einsum,
    elementwise,
    epilogues,
    extremes,
    fused,
    gather,
    indexing,
    joins,
    linalg,
    losses,
    norms,
    padding,
    pairs,
    patches,
    piecewise,
    pooling,
    positions,
    rearrange,
    recurrent,
    reductions,
    resample,
    rows,
    sampling,
    scaled,
    scans,
    selection,
    shape,
    sorting,
    special,
    transcendental,
    trees,
    unpooling,
    views,
)
from tensorlib.ops.declare import BINARY_NUMBERS, OPERANDS, assign_, inplace_operator, operator
from tensorlib.ops.table import NATIVE_NUMBERS, TABLE
from tensorlib.tensor import Tensor

MODULES: tuple[ModuleType, ...] = (
    activations, attention, bags, channel_norms, comparison, conv, convolution, creation, crf, ctc, diagonals, distances, einsum, elementwise,
    epilogues, extremes, fused, gather, indexing, joins, linalg, losses, norms, padding, pairs, patches, piecewise, pooling, positions, rearrange,
    recurrent, reductions, resample, rows, sampling, scaled, scans, selection, shape, sorting, special, transcendental, trees, unpooling, views,
)  # fmt: skip


def _twin(name: str, function: Callable[..., Any]) -> Callable[..., Tensor]:
    """``name_``: the operation, its result assigned back into the first operand.

    Assigning saves the overwritten values for the node of the result (rescue_saved in C). Where an operation is made of several, their
    inner nodes may have kept the operand too: they work on a copy.
    """
    one_node = name[:-1] in TABLE and TABLE[name[:-1]].kind != "composite"

    def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        recorded = not one_node and lib.tl_is_grad_enabled() and not self.is_leaf
        return assign_(
            self, function(self.clone() if recorded else self, *args, **kwargs), name, here(sys._getframe(1))
        )

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"In-place version of `{name[:-1]}`."
    call.__wrapped__ = function  # type: ignore[attr-defined] # whose signature it has
    return call


def _inplace(name: str, function: Callable[..., Any]) -> Callable[..., Tensor]:
    number = NATIVE_NUMBERS.get(name, -1)
    twin = _twin(name + "_", function)
    if number not in BINARY_NUMBERS:
        return twin
    fast = inplace_operator(TABLE[name])

    def call(self: Tensor, other: Any = None, **kwargs: Any) -> Tensor:
        if kwargs:
            return twin(self, **kwargs) if other is None else twin(self, other, **kwargs)
        return fast(self, other)

    call.__name__ = call.__qualname__ = name + "_"
    call.__doc__ = twin.__doc__
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


def _install() -> None:
    for module in MODULES:
        for name in getattr(module, "METHODS", ()):
            setattr(Tensor, name, getattr(module, name))
            rows.give(name, getattr(module, name))
        for name in getattr(module, "INPLACE", ()):
            function = getattr(module, name)
            setattr(Tensor, name + "_", _inplace(name, function))
            if rows.is_elementwise(function):
                rows.give_mapped(name + "_", getattr(Tensor, name + "_"), in_place=True)
    rows.give_mapped("copy_", Tensor.copy_, in_place=True)


_OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "mod": "remainder", "floordiv": "floor_divide", "pow": "pow", "and": "bitwise_and",
    "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "bitwise_left_shift", "rshift": "bitwise_right_shift",
}  # fmt: skip
_COMPARISONS = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}


def _rmatmul(self: Tensor, other: Any) -> Any:
    if not isinstance(other, OPERANDS):
        return NotImplemented
    return linalg.matmul(creation.as_tensor(other), self)


def _install_operators() -> None:
    for python, name in _OPERATORS.items():
        setattr(Tensor, f"__{python}__", operator(TABLE[name]))
        setattr(Tensor, f"__r{python}__", operator(TABLE[name], reverse=True))
        setattr(Tensor, f"__i{python}__", inplace_operator(TABLE[name]))
    for python, name in _COMPARISONS.items():
        setattr(Tensor, f"__{python}__", operator(TABLE[name]))
    Tensor.__neg__ = elementwise.neg  # type: ignore[method-assign]
    Tensor.__pos__ = elementwise.positive  # type: ignore[assignment, method-assign]
    Tensor.__abs__ = elementwise.abs  # type: ignore[method-assign]
    Tensor.__invert__ = comparison.bitwise_not  # type: ignore[method-assign]
    Tensor.__matmul__ = linalg.matmul  # type: ignore[assignment, method-assign]
    Tensor.__rmatmul__ = _rmatmul  # type: ignore[assignment, method-assign]
    Tensor.__getitem__ = indexing.getitem  # type: ignore[assignment, method-assign]
    Tensor.__setitem__ = indexing.setitem  # type: ignore[assignment, method-assign]


def _install_operators_of_rows() -> None:
    sides = [f"{side}{python}" for side in ("", "r") for python in _OPERATORS]
    for name in (*sides, *_COMPARISONS, "neg", "pos", "abs", "invert"):
        rows.give_mapped(f"__{name}__", getattr(Tensor, f"__{name}__"))
    for python in _OPERATORS:
        rows.give_mapped(f"__i{python}__", getattr(Tensor, f"__i{python}__"), in_place=True)
    rows.give("__matmul__", linalg.matmul)


_install()
_install_operators()
_install_operators_of_rows()
from tensorlib.ops import conversion  # noqa: E402, F401  methods that need all of the above
