"""From C's status codes to the library's exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from tensorlib.errors import GradError, MemoryLimitError, ReadOnlyError, TensorlibError
from tensorlib.lines import describe
from tensorlib.native import ffi, lib

OK, DECLINE, NOMEM, SPENT, STALE, LEAF, RANGE, INFERENCE = range(8)
READONLY, OVERLAPPING, STRIDED_BASE = 1, 2, 3  # detail of a declined write


def checked(handle: int, name: str, shape: Sequence[int]) -> int:
    """`handle`, or the exception that says why there is none."""
    if not handle:
        raise_status(name, shape)
    return handle


def raise_status(name: str, shape: Sequence[int] | None = None) -> NoReturn:
    """Word what C reported for operation `name`."""
    code = lib.tl_status()
    lib.tl_clear_status()  # worded here: a later call that never reaches C must not find it again
    about = "" if shape is None else f" {tuple(shape)}"
    if code == NOMEM:
        cap, allocated = lib.tl_memory_figure(3), lib.tl_memory_figure(0)
        limit = f" under a cap of {cap:,}" if cap > 0 else ""
        raise MemoryLimitError(f"{name}: could not allocate a result{about}: {allocated:,} bytes are in use{limit}.")
    if code == LEAF:
        what = "a view of a leaf tensor" if lib.tl_detail(0) else "a leaf tensor"
        raise GradError(
            f"{name}: {what} that requires a gradient can not be written in place.",
            hint="do it under tl.no_grad(), or on a clone()",
        )
    if code == INFERENCE and lib.tl_detail(0):
        raise GradError(
            f"{name}: a tensor made under inference_mode can not be written in place outside of it.",
            hint="clone() it outside",
        )
    if code == INFERENCE:
        raise GradError(
            f"{name}: a tensor made under inference_mode can not take part in a recorded operation.",
            hint="clone() it outside",
        )
    if code == DECLINE and lib.tl_detail(0) == READONLY:
        raise ReadOnlyError(f"{name}: the tensor's memory is read-only.", hint="clone() it")
    if code == DECLINE and lib.tl_detail(0) == OVERLAPPING:
        raise GradError(
            f"{name}: several elements of this expanded tensor{about} are one place in memory.",
            hint="clone() it before writing",
        )
    if code == DECLINE and lib.tl_detail(0) == STRIDED_BASE:
        what = "the written view's base is not contiguous or does not hold all of it, so its gradient has no place."
        raise GradError(f"{name}: {what}", hint="write to a clone()")
    raise TensorlibError(f"{name}: failed{about} (status {code}).")


def raise_run_error(function: str | None = None) -> NoReturn:
    """Word why backward stopped; `function` names the custom Function it stopped at, if it was one."""
    code = lib.tl_status()
    line, op = lib.tl_detail(0), lib.tl_detail(1)
    name = function or ffi.string(lib.tl_op_name(op)).decode() or _python_name(op)
    where = f"`{name}` ({describe(line)})"
    if code == SPENT:
        raise GradError(
            f"backward: the graph at {where} was already used and its saved values freed.",
            hint="the first time, pass retain_graph=True",
        )
    if code == STALE:
        written = lib.tl_detail(2)
        raise GradError(
            f"backward: a value saved by {where} was overwritten in place at {describe(written)}.",
            hint="do the in-place update after backward(), or clone() the tensor first",
        )
    raise_status("backward")


def _python_name(op: int) -> str:
    from tensorlib.ops.table import BY_NUMBER

    return BY_NUMBER[op].name if op in BY_NUMBER else "?"
