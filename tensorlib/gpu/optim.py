"""The steps of `tl.fused` on a GPU: two launches for a whole group of parameters, none of which waits for the host (optim.cu).

Kernels find a group by a table of addresses, which is uploaded once for as long as they stay the same. The numbers of a step (a learning rate)
are arguments of a launch; while a CUDA graph is captured they are read from memory, which `renewed` has rewritten before each replay. Steps and
what follows from them are counted on the GPU.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tensorlib.backends import backend
from tensorlib.device import Device
from tensorlib.dtypes import ALL, DType, bool_, float32, float64, int64
from tensorlib.gpu import capture
from tensorlib.gpu.launch import Source, empty
from tensorlib.gpu.rows import COMPUTED
from tensorlib.native import ffi, lib
from tensorlib.tensor import Tensor

__all__ = ["left_out", "renewed", "scale", "step", "sum_of_squares", "unless", "unscale"]

SOURCE, SUMS = Source("optim.cu"), Source("losses.cu")
KINDS = {"sgd": 0, "adam": 1, "adamax": 2, "nadam": 3, "radam": 4, "rms": 5, "lion": 6}  # optim.cu's
CHUNK, THREADS, STATES, WORDS, RULE = 16384, 512, 3, 8, 12
KEPT = 32  # tables; what is uploaded from pinned memory is older than that many when the memory is given back
Listed = Sequence[Tensor | None] | None


class _Own(threading.local):
    update: Callable[[], bool] | None = None  # the one that `renewed` runs
    asked: list[tuple[float, ...]] | None = None  # not None: only the numbers of steps are wanted
    count = 0  # of steps since the update began
    found: Tensor | None = None  # `unless`


_own = _Own()


# ---- tables ----


class _Table:
    """Parameters of one dtype on one GPU, for kernels. Their addresses and no more: it keeps no tensor alive."""

    def __init__(self, entries: Any, device: Device) -> None:
        self.n, sizes = len(entries), entries[:, WORDS - 1]
        pieces = [(i, at) for i, size in enumerate(sizes.tolist()) for at in range(0, size, CHUNK)]
        words = np.concatenate([entries.reshape(-1), np.asarray(pieces, np.int64).reshape(-1)])
        self.blocks = len(pieces)
        there = backend(device)
        self.pinned = there.xp.cuda.alloc_pinned_memory(words.nbytes)
        np.frombuffer(self.pinned, np.int64, words.size)[:] = words
        self.memory = empty((words.size,), int64, device)
        with there.handle:
            there.place(self.memory._array).data.copy_from_host_async(self.pinned.ptr, words.nbytes)
        self.entries, self.chunks = self.memory, int(lib.tl_address(self.memory._array)) + 8 * entries.size


_tables: OrderedDict[bytes, Any] = OrderedDict()  # what `_grouped` has given


def _described(tensors: Listed, n: int, grads: bool = False) -> Any:
    """Address, size and dtype of each (native/optim.c); zeros where there is none."""
    out = np.zeros((n, 3), np.int64)
    if tensors is not None:
        handles = [0 if t is None else t._array for t in tensors]
        lib.tl_describe(n, handles, grads, ffi.cast("int64_t *", out.ctypes.data))
    return out


def _grouped(params: Sequence[Tensor], grads: Listed, others: Sequence[Listed], needs: Sequence[bool]) -> Any:
    """The tables of parameters that have a gradient, one for each dtype and GPU; None where there is one that kernels do not serve.

    `grads` None: the parameters' own. `others`: three states, steps and products; `needs` says whether gradients and which of them must be there.
    """
    n = len(params)
    found = [_described(params, n), _described(params if grads is None else grads, n, grads is None)]
    found += [_described(t, n) for t in others]
    capturing = capture.current()
    key = b"".join([bytes(needs), *(part.tobytes() for part in found)])
    if key not in _tables:
        made = _made(params, found, others, needs)
        if capturing is not None:  # its upload is the graph's, and so its memory
            return capturing.keep(made)
        _tables[key] = made
        while len(_tables) > KEPT:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    return _tables[key] if capturing is None else capturing.keep(_tables[key])


def _made(params: Sequence[Tensor], found: list[Any], others: Sequence[Listed], needs: Sequence[bool]) -> Any:
    entries: dict[tuple[DType, Device], list[list[int]]] = {}
    for i in np.flatnonzero(found[1][:, 0]).tolist():
        address, size, kind = found[0][i].tolist()
        device = params[i].device
        beside = [t[i] for t in others if t is not None]
        if kind < 0 or ALL[kind] not in COMPUTED or any(t is not None and t.device != device for t in beside):
            return None
        row = [address]
        for j, part in enumerate(found[1:]):
            where, length, dtype = part[i].tolist()
            expected = (float32.number, 1) if j > STATES else (kind, size)
            if (where and (dtype, length) != expected) or (needs[j] and not where):
                return None
            row.append(where)
        if size:
            entries.setdefault((ALL[kind], device), []).append([*row, size])
    return [(_Table(np.asarray(rows, np.int64), device), dtype, device) for (dtype, device), rows in entries.items()]


# ---- numbers ----


def renewed(update: Callable[[], bool]) -> bool:
    """``update()``; while a CUDA graph is captured, what it steps with is asked anew by calling it before each replay."""
    _own.update, _own.count = update, 0
    try:
        return update()
    finally:
        _own.update = None


def _asked(update: Callable[[], bool], i: int) -> tuple[float, ...]:
    before, _own.asked = _own.asked, []
    try:
        update()
        return _own.asked[i]
    finally:
        _own.asked = before


def _numbers(values: tuple[float, ...], device: Device) -> Tensor | None:
    """Where kernels read them; None: they are arguments."""
    capturing = capture.current()
    if capturing is None:
        return None
    ask = (lambda: values) if _own.update is None else partial(_asked, _own.update, _own.count)
    _own.count += 1
    return capturing.numbers(ask, len(values))


@contextmanager
def unless(found: Tensor) -> Iterator[None]:
    """Steps within are left out where `found`, a bool on the GPU, turns out to be true: kernels look, the host does not."""
    before, _own.found = _own.found, found
    try:
        yield
    finally:
        _own.found = before


def left_out() -> bool:
    """Whether steps are to be left out (`unless`). Waits for the GPU."""
    return _own.found is not None and bool(_own.found.item())


# ---- steps ----


def step(
    kind: str, params: Sequence[Tensor], grads: Listed, states: Sequence[Listed], steps: Listed, products: Listed,
    numbers: Sequence[float | Tensor], line: int, *, needs: Sequence[bool], ratio: bool = False,
) -> bool:  # fmt: skip
    """One step of a kind of `KINDS`; `numbers`, the learning rate first, are those that optim.cu's `prepare` names. False: not served.

    `needs`: whether gradients, the three states, steps and products must be there.
    """
    values = tuple(0.0 if isinstance(x, Tensor) else float(x) for x in numbers)
    if _own.asked is not None:
        _own.asked.append(values)
        return True
    states = [*states, *[None] * (STATES - len(states))]
    tables = _grouped(params, grads, [*states, steps, products], needs)
    if tables is None:
        return False
    lr = numbers[0] if isinstance(numbers[0], Tensor) else None
    for table, dtype, device in tables:
        with backend(device).handle:
            rules = empty((table.n, RULE), float64, device)
            given = [*values, *[0.0] * (8 - len(values))]
            SOURCE("prepare", T=dtype)(
                -(-table.n // 128), 128, rules, table.entries, table.n, KINDS[kind], _numbers(values, device),
                None if lr is None else lr.to(device=device, dtype=float64), _own.found, *given,
            )  # fmt: skip
            name = kind if kind in ("sgd", "rms", "lion") else "adam"
            SOURCE(name, T=dtype)(
                table.blocks, THREADS, rules, table.entries, table.chunks, *([ratio] if name == "rms" else [])
            )
    for listed in (params, *states, steps, products):
        _written(listed, line)
    return True


def _written(tensors: Listed, line: int) -> None:
    handles = [t._array for t in tensors or () if t is not None]
    lib.tl_all_written(len(handles), handles, line)


# ---- clipping ----


def _tables_of(tensors: Sequence[Tensor]) -> Any:
    return _grouped(tensors, tensors, [None] * (STATES + 2), [False] * (STATES + 3))


def sum_of_squares(tensors: Sequence[Tensor]) -> Tensor | None:
    """As a float64 tensor on the GPU; None: not served."""
    tables = _tables_of(tensors)
    if not tables or len({device for *_, device in tables}) > 1:
        return None
    device = tables[0][2]
    blocks = sum(table.blocks for table, *_ in tables)
    parts, out, at = empty((blocks, 2), float64, device), empty((), float64, device), 0
    with backend(device).handle:
        for table, dtype, _ in tables:
            SOURCE("squares", T=dtype)(table.blocks, THREADS, parts[at:], table.entries, table.chunks)
            at += table.blocks
        SUMS("sum_finish", T=float64, WIDTH=1, PACKS=1, SOFT=0)(1, 256, out, None, parts, blocks, False, 1.0)
    return out


def scale(tensors: Sequence[Tensor], factor: float | Tensor, line: int, most: float = float("inf")) -> bool:
    """Multiply all by one factor, or by `most` where that is less. False: not served."""
    return _scaled(tensors, factor, line, most, None)


def unscale(tensors: Sequence[Tensor], factor: float | Tensor, line: int) -> Tensor | None:
    """Multiply all by one factor; a bool that tells whether a product is not finite. None: not served."""
    from tensorlib.ops.creation import zeros

    device = tensors[0].device
    found = zeros((), dtype=bool_, device=device)
    return found if _scaled(tensors, factor, line, float("inf"), found) else None


def _scaled(tensors: Sequence[Tensor], factor: float | Tensor, line: int, most: float, found: Tensor | None) -> bool:
    tables = _tables_of(tensors)
    if tables is None or (found is not None and len({device for *_, device in tables}) > 1):
        return False
    for table, dtype, device in tables:
        at = factor.detach().to(device=device, dtype=float64) if isinstance(factor, Tensor) else None
        with backend(device).handle:
            SOURCE("scale", T=dtype)(
                table.blocks, THREADS, table.entries, table.chunks, at, 0.0 if at is not None else float(factor), most, found
            )  # fmt: skip
    _written(tensors, line)
    return True
