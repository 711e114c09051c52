"""Mixed precision: inside `autocast`, matrix products, convolutions and attention run on bfloat16 operands, sums and parameters stay float32.

An entry of the table says what becomes of it (`Op.autocast`); everything else runs in the dtypes of its operands. C knows
a flag, by which its fast paths decline; the slow path in ops/declare.py then converts the operands by recorded casts, so that gradients
arrive in float32 at the parameters. matmul and linear read bfloat16 (half.inc.c), the other kernels float32 whose values were rounded to it:
products of two such are exact.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tensorlib import dtypes
from tensorlib.native import lib
from tensorlib.ops.declare import HALVES, retry, run, to_dtype
from tensorlib.ops.recording import record
from tensorlib.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tensorlib.dtypes import DType
    from tensorlib.ops.table import Op

__all__ = ["autocast", "get_autocast_dtype", "is_autocast_enabled"]
F = TypeVar("F", bound=Callable[..., Any])


_BITS = {"cpu": 0, "cuda": 8}  # where C's flag holds the dtype of operations on such a device


class _State(threading.local):
    """Of one thread: how many contexts it is in, and the parameters that were converted inside the outermost."""

    def __init__(self) -> None:
        self.depth = 0
        self.dtypes = {"cpu": dtypes.bfloat16, "cuda": dtypes.float16}
        self.caching = True
        self.converted: dict[tuple[int, str, str], tuple[Tensor, int, Tensor]] = {}


_STATE = _State()


def _rounded(x: Tensor, low: DType, kept: DType, line: int) -> Tensor:
    """x rounded to `low`, in the dtype `kept` (`low`, float32). A parameter is converted once for as long as it is not written to."""
    if x.dtype is not dtypes.float32:
        return to_dtype(x, kept, line)
    caches = _STATE.caching and _STATE.depth and x.is_leaf and x.requires_grad and lib.tl_is_grad_enabled()
    key = (x._array, low.name, kept.name)
    if caches and (found := _STATE.converted.get(key)) is not None and found[1] == x._version:
        return found[2]
    made = to_dtype(to_dtype(x, low, line), kept, line)
    if caches:
        _STATE.converted[key] = (x, x._version, made)
    return made


def _wanted(device_type: str) -> DType | None:
    """The dtype that operations on such a device are run in now; None: that of their operands."""
    number = lib.tl_autocast_dtype() >> _BITS[device_type] & 0xFF if device_type in _BITS else 0
    return dtypes.ALL[number] if number else None


def autocasted(op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any], line: int) -> Any:
    """The operation as tl.autocast has it, or None where its operands are not of the dtypes that it converts. Casts are recorded."""
    floats = [x for x in inputs if isinstance(x, Tensor) and x.dtype.is_floating_point]
    if not floats or any(x.dtype is dtypes.float64 for x in floats):
        return None
    where = floats[0].device.type
    low = _wanted(where)
    lowers = op.autocast != "float32"
    if low is None or (not lowers and all(x.dtype is dtypes.float32 for x in floats)):
        return None
    flags = lib.tl_set_autocast(0)
    try:
        kept = low if lowers and (op.autocast == "half" or where == "cuda") else dtypes.float32
        operands = tuple(
            x
            if not (isinstance(x, Tensor) and x.dtype.is_floating_point)
            else _rounded(x, low, kept, line)
            if lowers
            else to_dtype(x, kept, line)
            for x in inputs
        )
        handle = op.native(line, *operands, **attrs) if op.native is not None else 0
        out = wrap(handle) if handle else run(op, operands, attrs, line)
        return to_dtype(out, low, line) if lowers else out
    finally:
        lib.tl_set_autocast(flags)


def widened_kernel(
    op: Op, operands: Sequence[Any], attrs: dict[str, Any], result: DType | None, half: DType, line: int
) -> Any:
    """The float32 kernel on 16-bit floats, a float result rounded to `half`; None where there is none. One node is recorded."""
    if op.variadic or len(op.outputs) > 1:
        return None
    recording = lib.tl_set_grad_enabled(False)
    try:
        wide = [to_dtype(x, dtypes.float32, line) if x is not None and x.dtype in HALVES else x for x in operands]
        handle = retry(op, wide, line)
        if not handle and op.native is not None:
            handle = op.native(line, *wide, **attrs)
        if not handle:
            return None
        out = wrap(handle)
        kept = result if result is not None else half if out.dtype is dtypes.float32 else out.dtype
        out = to_dtype(out, kept, line)
    finally:
        lib.tl_set_grad_enabled(recording)
    record(op, operands, [out], attrs, line)
    return out


def _check_device(name: str, device_type: str) -> None:
    if device_type not in _BITS:
        raise ValueError(f"{name}: device_type must be 'cpu' or 'cuda', got {device_type!r}.")


class autocast:
    """Run matrix products, convolutions and attention in 16 bits inside a ``with`` block or a decorated function; as `torch.autocast`.

    `dtype` is bfloat16 on the CPU and float16 on "cuda" unless given. Operations on the other kind of device are not touched.

    In that dtype: matmul, linear, bmm, addmm, baddbmm, einsum, convolutions and scaled_dot_product_attention, on float32, bfloat16 and float16
    operands; sums run in float32, the result is rounded. In float32: losses. Everything else runs in the dtypes of its operands; float64 stays.
    Parameters stay float32 and so do their gradients. A parameter is converted once for the outermost block, unless it changes.

    Contexts nest, `enabled=False` turns the conversion off inside; the state is each thread's own. Call ``backward()`` outside.

    >>> w, x = tl.ones(2, 2, requires_grad=True), tl.ones(1, 2)
    >>> with tl.autocast("cpu", dtype=tl.bfloat16):
    ...     y = x @ w
    >>> y.dtype
    tensorlib.bfloat16
    >>> y.sum().backward()
    >>> w.grad.dtype
    tensorlib.float32
    """

    def __init__(
        self,
        device_type: str,
        dtype: DType | None = None,
        enabled: bool = True,
        cache_enabled: bool = True,
    ) -> None:
        _check_device("autocast", device_type)
        self.device, self.dtype = device_type, dtype or _STATE.dtypes[device_type]
        self.enabled, self.cache_enabled = bool(enabled), bool(cache_enabled)
        if self.dtype not in HALVES:
            raise ValueError(f"autocast: dtype must be bfloat16 or float16, got {self.dtype.name}.")
        self._before: list[tuple[int, DType, bool]] = []

    def __enter__(self) -> autocast:  # noqa: PYI034
        flags, bits = lib.tl_autocast_dtype(), _BITS[self.device]
        lib.tl_set_autocast((flags & ~(0xFF << bits)) | (self.dtype.number if self.enabled else 0) << bits)
        self._before.append((flags, _STATE.dtypes[self.device], _STATE.caching))
        _STATE.dtypes[self.device], _STATE.caching = self.dtype, self.cache_enabled
        _STATE.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        flags, _STATE.dtypes[self.device], _STATE.caching = self._before.pop()
        lib.tl_set_autocast(flags)
        _STATE.depth -= 1
        if _STATE.depth == 0:
            _STATE.converted.clear()

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with autocast(self.device, self.dtype, self.enabled, self.cache_enabled):
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether `autocast` is on in this thread.

    >>> with tl.autocast("cpu"):
    ...     tl.is_autocast_enabled("cpu")
    True
    """
    _check_device("is_autocast_enabled", device_type)
    return _wanted(device_type) is not None


def get_autocast_dtype(device_type: str = "cpu") -> DType:
    """The dtype that `autocast` converts to in this thread.

    >>> tl.get_autocast_dtype("cpu")
    tensorlib.bfloat16
    """
    _check_device("get_autocast_dtype", device_type)
    return _STATE.dtypes[device_type]
