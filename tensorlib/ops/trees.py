"""Long short-term memory over trees: one call makes a node's state and cell, or those of several nodes alike, from its children's.

Dimension letters: B nodes, D features, H hidden units, N places for children.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

from tensorlib.dtypes import DType
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.native import ffi, lib
from tensorlib.ops.declare import structured
from tensorlib.ops.fused import SLOW, caller
from tensorlib.ops.recurrent import Plain, dtype_rule, said
from tensorlib.ops.table import BATCH, Draw, sample
from tensorlib.tensor import Tensor, wrap

__all__ = ["tree_lstm"]
MOST = 4  # places that the kernel serves: TL_TREE_MOST in native/kernels.h


# ---- the definition ----
def _node(
    f: Plain, x: Any, w_ih: Any, bias: Any, weights: Sequence[Any], shared: Any, children: Sequence[Any]
) -> tuple[Any, Any]:  # fmt: skip
    """State and cell. The children's weights: of each place, or `shared` by all."""
    there = [(k, *child) for k, child in enumerate(children) if child is not None]
    own = bias if x is None else x @ w_ih.T if bias is None else x @ w_ih.T + bias
    if shared is not None:
        parts = [h @ shared.T for _, h, _ in there]
    else:
        parts = [reduce(add, [h @ weights[k].T for k, h, _ in there])] if there else []
    width = there[0][2].shape[-1] if there else own.shape[-1] // 4
    last = parts[0].shape[-1] // width if parts else 4

    def gate(of_input: int, of_parts: int, parts: Sequence[Any] = parts) -> Any:
        sums = [] if own is None else [own[..., of_input * width : (of_input + 1) * width]]
        return reduce(add, [*sums, *(part[..., of_parts * width : (of_parts + 1) * width] for part in parts)])

    c = f.sigmoid(gate(0, 0)) * f.tanh(gate(2, last - 2))
    for n, (k, _, cell) in enumerate(there):
        forget = gate(1, 1 + k) if shared is None else gate(1, 1, parts[n : n + 1])
        c = c + f.sigmoid(forget) * cell
    return f.sigmoid(gate(3, last - 1)) * f.tanh(c), c


# ---- the entry: its operands are x, w_ih and bias, then weights, state and cell of each place ----
_INPUTS = ("x", "w_ih", "bias", *(f"{part}_{k}" for k in range(MOST) for part in "whc"))
_NO_PLACES = [0] * (3 * MOST)


def _of_operands(f: Plain, x: Any, w_ih: Any, bias: Any, *places: Any, shared: bool) -> tuple[Any, Any]:
    weights, children = [], []
    for w, h, c in zip(places[::3], places[1::3], places[2::3], strict=True):
        weights.append(w)
        children.append(None if h is None else (h, c))
    return _node(f, x, w_ih, bias, weights, weights[0] if shared else None, children)


def _native(line: int, handles: list[int], shared: bool) -> Any:
    outs = ffi.new("uintptr_t[2]")
    return (outs[0], outs[1]) if lib.tl_tree_lstm(handles, shared, line, outs) else 0


def _samples() -> list[Any]:
    made = []
    for lead, d, h, forms in [
        ((), 3, 4, ["1", "-1", "111"]), ((2,), 3, 4, ["11", "1-1-", "s", "ss"]), ((), 2, 17, ["", "11", "s", "sss"]), ((3,), 2, 3, ["", "-1"]),
        ((2, ), None, 5, ["1", "11", "ss", "s"]), ((0,), 2, 3, ["", "11", "ss"]), ((2,), 5, 16, ["1111", "ssss"]),
    ]:  # fmt: skip
        for form in forms:
            shared, n = "s" in form, len(form)
            bound = h**-0.5
            rows = 4 * h if shared else (3 + n) * h
            places: list[Any] = []
            for k, child in enumerate(form):
                w = None if child == "-" or (shared and k) else Draw((rows, h), -bound, bound)
                places += [w, *[None if child == "-" else Draw((*lead, h), -1.0, 1.0)] * 2]
            x = [(*lead, d), Draw((4 * h, d), -bound, bound)] if d else [None, None]
            bias = None if n == 1 else (4 * h,)
            made.append(sample(*x, bias, *places, *[None] * (3 * MOST - len(places)), shared=shared))
    return made


def _rowwise() -> list[Any]:
    rows, rest = (BATCH, 67), [None] * (3 * MOST - 6)
    return [
        sample((BATCH, 33), (268, 33), (268,), (335, 67), rows, rows, (335, 67), rows, rows, *rest, shared=False),
        sample(None, None, (268,), (268, 67), rows, rows, None, rows, rows, *rest, shared=True),
    ]


_tree_lstm = structured(
    "tree_lstm",
    inputs=_INPUTS,
    attrs=("shared",),
    outputs=("h", "c"),
    dtype=dtype_rule,
    ref=lambda xp, *operands, shared: _of_operands(Plain(xp), *operands, shared=shared),
    composite=lambda *operands, shared: _of_operands(Plain(None), *operands, shared=shared),
    replays=True,
    native=lambda line, *operands, shared: _native(line, [0 if x is None else x._array for x in operands], shared),
    decode=lambda node: {"shared": bool(lib.tl_node_int(node, 0))},
    samples=_samples,
    rowwise=_rowwise,
    private=True,
)


# ---- the function ----
_State = tuple[Tensor, Tensor]


def tree_lstm(
    x: Tensor | None, weight_ih: Tensor, bias: Tensor | None, weight_hh: Tensor | Sequence[Tensor],
    children: Sequence[_State | None] = (),
) -> _State:  # fmt: skip
    """State and cell of a tree's node: what `nn.NaryTreeLSTMCell` and, with weights that all children share, `nn.ChildSumTreeLSTMCell` compute.

    ``i, o = sigmoid(...)``, ``g = tanh(...)``, ``f_k = sigmoid(...)`` of sums of what the input and the children add to each gate;
    ``c = i g + sum_k f_k c_k``, ``h = o tanh(c)``.

    Args:
        x: the node's own input; None: without one, ``W x`` is left out.
        weight_hh: of each place for a child; or one tensor that all children share, each for its own forget gate.
        children: a pair (h, c) for each place, None where there is no child (not with shared weights); none of them: a leaf.

    Shapes:
        x: (B, D) or (D,), weight_ih: (4H, D), bias: (4H,) or None, gates in the order i, f, g, o, the one f for all forget gates
        weight_hh: N tensors of ((3 + N)H, H), to i, f_0, ... f_{N-1}, g, o; shared: (4H, H), to i, f, g, o
        children: (B, H) or (H,) each  ->  h, c: the same

    Raises:
        ShapeError, DTypeError, TypeError, ValueError: where something does not fit, naming it.

    Reference: Tai et al. 2015.

    >>> w = tl.zeros(4, 1)
    >>> h, c = tl.fused.tree_lstm(None, w, tl.zeros(4), w, [(tl.ones(1), tl.ones(1)), (tl.ones(1), tl.ones(1))])
    >>> c.item()
    1.0
    """
    line, places = caller(), len(children)
    common, each = (weight_hh, ()) if isinstance(weight_hh, Tensor) else (None, weight_hh)
    try:
        handles = [0, 0] if x is None else [x._array, weight_ih._array]
        handles.append(0 if bias is None else bias._array)
        for k, child in enumerate(children):
            if child is None:
                handles += (0, 0, 0)
                continue
            h, c = child
            w = each[k] if common is None else None if k else common
            handles += (0 if w is None else w._array, h._array, c._array)
        handles += _NO_PLACES[3 * places :]
        if places <= MOST and (made := _native(line, handles, common is not None)):
            return wrap(made[0]), wrap(made[1])
    except (*SLOW, IndexError, ValueError):
        pass
    _check(x, weight_ih, bias, weight_hh, children)
    if places > MOST:
        return _node(Plain(None), x, weight_ih, bias, each, common, children)
    operands: list[Tensor | None] = [x, None if x is None else weight_ih, bias]
    for k, child in enumerate(children):
        w = None if child is None else each[k] if common is None else None if k else common
        operands += [w, *(child or (None, None))]
    operands += [None] * (len(_INPUTS) - len(operands))
    state: _State = _tree_lstm(*operands, shared=common is not None)
    return state


def _check(x: Any, weight_ih: Any, bias: Any, weight_hh: Any, children: Sequence[Any]) -> None:
    """Raises where something does not fit, naming it."""
    if not isinstance(weight_ih, Tensor) or weight_ih.ndim != 2 or not weight_ih.dtype.is_floating_point:
        raise ShapeError(f"tree_lstm: weight_ih must be a floating tensor of shape (4H, D), got {said(weight_ih)}.")
    (rows, features), dtype, shared = weight_ih.shape, weight_ih.dtype, isinstance(weight_hh, Tensor)
    width = rows // 4
    if not shared and len(children) not in (0, len(weight_hh)):
        raise ShapeError(f"tree_lstm: got {len(children)} children, but weights of {len(weight_hh)} places.")
    each = [weight_hh] if shared else list(weight_hh)
    gates = 4 if shared else 3 + len(each)
    wanted = [
        ("weight_ih", weight_ih, (4 * width, features)),
        *([] if bias is None else [("bias", bias, (4 * width,))]),
    ]
    wanted += [("weight_hh" if shared else f"weight_hh[{k}]", w, (gates * width, width)) for k, w in enumerate(each)]
    for name, w, shape in wanted:
        if not isinstance(w, Tensor) or w.shape != shape or w.dtype is not dtype:
            raise ShapeError(f"tree_lstm: {name} must be {dtype.name} of shape {shape}, got {said(w)}.")
    lead = None
    if x is not None:
        shape = x.shape if isinstance(x, Tensor) else ()
        if len(shape) not in (1, 2) or shape[-1] != features:
            raise ShapeError(f"tree_lstm: input must have shape (B, {features}) or ({features},), got {said(x)}.")
        if x.dtype is not dtype:
            raise DTypeError(f"tree_lstm: input is {x.dtype.name}, the weights are {dtype.name}.")
        lead = shape[:-1]
    _check_children(lead, width, dtype, shared, children)


def _check_children(lead: Any, width: int, dtype: DType, shared: bool, children: Sequence[Any]) -> None:
    for k, child in enumerate(children):
        if child is None and not shared:
            continue
        if not isinstance(child, (tuple, list)) or len(child) != 2:
            raise TypeError(f"tree_lstm: child {k} must be a pair (h, c), got {said(child)}.")
        for part, state in zip("hc", child, strict=True):
            shape = state.shape if isinstance(state, Tensor) else ()
            if lead is None:
                lead = shape[:-1] if len(shape) == 2 else ()
            if shape != (*lead, width) or state.dtype is not dtype:
                raise ShapeError(
                    f"tree_lstm: {part} of child {k} must be {dtype.name} of shape {(*lead, width)}, got {said(state)}."
                )
    if lead is None:
        raise ValueError("tree_lstm: a node needs an input or a child, got neither.")
