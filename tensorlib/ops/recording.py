"""Nodes that Python puts on the tape, for what ran without a kernel that records itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib.errors import GradError
from tensorlib.native import OBJECTS, keep, lib
from tensorlib.ops.table import Op
from tensorlib.status import OK, raise_status
from tensorlib.tensor import Tensor


class Recorded:
    """What a Python-recorded node keeps beside tensors: its attributes, and what a lane wants back for the gradient (tensorlib/gpu)."""

    __slots__ = ("attrs", "kept")

    def __init__(self, attrs: dict[str, Any], kept: Any) -> None:
        self.attrs, self.kept = attrs, kept


def record(
    op: Op, operands: Sequence[Any], outs: Sequence[Tensor], attrs: dict[str, Any], line: int, kept: Any = None
) -> None:
    """Put a node on the tape where one is due; its rule is the entry's."""
    if op.vjp is None or not lib.tl_is_grad_enabled():
        return
    tracked = [x is not None and x.requires_grad for x in operands]
    if not any(tracked):
        return
    if any(t.dtype.is_complex for t in outs):
        raise GradError(
            f"{op.name}: a complex result can not be recorded; gradients go through real tensors only.",
            hint="detach() the operands",
        )
    needs = 0
    if op.variadic:
        needs = sum(1 << i for i in range(len(operands))) if op.inputs[0] in op.needs[0] else 0
        needs |= op.masks[0] & ~0xFFFFFF
    else:
        for i, mask in enumerate(op.masks):
            if tracked[i]:
                needs |= mask
    record_node(
        op.name, op.number, operands, outs, needs, Recorded(attrs, kept) if attrs or kept is not None else None, line
    )


def record_node(
    name: str,
    number: int,
    operands: Sequence[Tensor | None],
    outs: Sequence[Tensor],
    needs: int,
    extra: object,
    line: int,
) -> int:
    """The node that makes `outs` of `operands` and holds `extra`; 0 where no output can carry a gradient."""
    handles = [0 if x is None else x._array for x in operands]
    token = 0 if extra is None else keep(extra)
    lib.tl_clear_status()
    node = int(
        lib.tl_record_python(number, len(handles), handles, len(outs), [t._array for t in outs], needs, token, line)
    )
    if not node:
        OBJECTS.pop(token, None)
        if lib.tl_status() != OK:
            raise_status(name)
    return node


def require_grad_mode_off(x: Tensor, name: str) -> None:
    """For writes that can not be recorded."""
    if lib.tl_is_grad_enabled() and x.requires_grad:
        raise GradError(
            f"{name}: the tensor requires a gradient and this write can not be recorded.",
            hint="do it under tl.no_grad()",
        )
