"""Tensor.to and its kin: another dtype, another device."""

from __future__ import annotations

from typing import Any

from tensorlib import dtypes
from tensorlib.backends import backend, backend_of, copies
from tensorlib.backends.cuda import import_cupy
from tensorlib.device import Device, device as as_device
from tensorlib.dtypes import DType, as_dtype
from tensorlib.errors import DeviceError
from tensorlib.lines import here
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.creation import _from_array
from tensorlib.ops.declare import common_dtype, structured, to_dtype
from tensorlib.ops.elementwise import where as choose
from tensorlib.ops.recording import record
from tensorlib.ops.rows import give_mapped
from tensorlib.ops.table import TABLE
from tensorlib.status import checked, raise_status
from tensorlib.tensor import Tensor, wrap

structured(
    "transfer", inputs=("x",), attrs=("source", "target"), ref=lambda xp, x, *, source, target: x, dtype=rules.as_is, private=True,
    vjp=(lambda g, source: g.to(source),),
)  # fmt: skip


def to(
    self: Tensor,
    *args: Any,
    dtype: Any = None,
    device: Device | str | None = None,
    non_blocking: bool = False,
    copy: bool = False,
) -> Tensor:
    """This tensor with another dtype, device, or those of another tensor; itself where nothing changes. Recorded.

    `non_blocking`: from pinned memory (`pin_memory`) to a GPU, the host does not wait for the copy, nor must the pinned tensor be changed before
    it is done; from a GPU to main memory, the result is in pinned memory, and must not be read before the GPU's stream was synchronised.

    >>> tl.ones(2).to(tl.int64)
    tensor([1, 1])
    """
    for a in args:
        if isinstance(a, Tensor):
            dtype, device = a.dtype, a.device
        elif isinstance(a, (str, Device)):
            device = a
        elif isinstance(a, bool):
            copy = copy or a
        else:
            dtype = a
    kind = self.dtype if dtype is None else as_dtype(dtype)
    moved = self if device is None else _transfer(self, as_device(device), non_blocking)
    made = to_dtype(moved, kind, here())
    return made.clone() if copy and made is self else made


def _transfer(x: Tensor, where: Device, non_blocking: bool = False) -> Tensor:
    source = x.device
    if source == where:
        return x
    if "reference" in (source.type, where.type):
        array = backend_of(x._array).to_numpy(x._array, x.dtype)
        made = _from_array(array, x.dtype, where, copy=True)
    else:
        made = _moved(x.detach().contiguous(), where, non_blocking)
    record(TABLE["transfer"], [x], [made], {"source": source, "target": where}, here())
    return made


def _moved(x: Tensor, where: Device, non_blocking: bool) -> Tensor:
    """A contiguous tensor's copy on another device."""
    if where.type == "cuda":
        handle = backend(where).empty(x.shape, x.dtype)
    elif non_blocking:
        handle = copies.pinned(backend_of(x._array).xp, x.shape, x.dtype)
    else:
        handle = checked(lib.tl_new(x.dtype.number, x.ndim, x.shape), "to", x.shape)
    made = wrap(handle)
    copies.transfer(x._array, handle, non_blocking)
    return made


def copied_across(x: Tensor, other: Tensor, non_blocking: bool, line: int) -> bool:
    """`x.copy_(other)` between devices, byte for byte; False, with nothing changed, where that is not what is asked for."""
    fits = x.shape == other.shape and x.dtype is other.dtype and x.is_contiguous() and not other.requires_grad
    if not fits or "reference" in (x.device.type, other.device.type):
        return False
    if not lib.tl_assigning(x._array, other._array, other._array):
        raise_status("copy_", x.shape)
    dense = other.contiguous()
    copies.transfer(dense._array, x._array, non_blocking)
    lib.tl_written(x._array, line)
    lib.tl_rewrite_history(x._array, other._array, line)
    return True


def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """A copy in pinned memory, which GPUs read and write by themselves; itself where it is there.

    Raises:
        DeviceError: without a GPU, or for a tensor that is on one.
    """
    if self.device.type != "cpu":
        raise DeviceError(f"pin_memory: the tensor is on {self.device}, expected one in main memory.")
    if copies.is_pinned(self._array):
        return self
    made = wrap(copies.pinned(import_cupy(), self.shape, self.dtype))
    return made.copy_(self.detach())


def is_pinned(self: Tensor, device: Any = None) -> bool:
    """Whether the memory is pinned: made by `pin_memory`, or by a copy from a GPU that did not block."""
    return copies.is_pinned(self._array)


def record_stream(self: Tensor, s: Any) -> None:
    """Keep the memory, once this tensor is gone, until the stream `s` has done what it was given by then.

    For tensors that a stream uses beside the one that was current when they were made, which alone gets their memory next.
    """
    if not self.is_cuda:
        raise DeviceError(f"record_stream: the tensor is on {self.device}, expected one on a GPU.")
    copies.record_stream(self._array, s._raw)


def type_(self: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """`to` another dtype; without one, the name of this tensor's.

    >>> tl.zeros(1).type(), tl.zeros(1).type(tl.int64)
    ('tensorlib.float32', tensor([0]))
    """
    return str(self.dtype) if dtype is None else to(self, dtype)


def where(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """This tensor where `condition` holds, else `other`."""
    made: Tensor = choose(condition, self, other)
    return made


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """`to` the dtype of `other`."""
    return to(self, other.dtype)


def cpu(self: Tensor) -> Tensor:
    """`to` main memory."""
    return to(self, "cpu")


def cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """`to` a GPU: the current one, or by its number or name."""
    where = "cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device
    return to(self, device=where, non_blocking=non_blocking)


def _named(name: str, dtype: DType) -> Any:
    def convert(self: Tensor) -> Tensor:
        return to_dtype(self, dtype, here())

    convert.__name__ = convert.__qualname__ = name
    convert.__doc__ = f"`to` {dtype.name}."
    return convert


def is_floating_point(input: Tensor) -> bool:
    """Whether a tensor's dtype is one of floats.

    >>> tl.is_floating_point(tl.zeros(1)), tl.is_floating_point(tl.arange(1))
    (True, False)
    """
    return input.is_floating_point()


def is_complex(input: Tensor) -> bool:
    """Whether a tensor's dtype is complex.

    >>> tl.is_complex(tl.zeros(1))
    False
    """
    return input.is_complex()


def result_type(tensor: Any, other: Any) -> DType:
    """The dtype that an operation on two tensors or numbers computes in.

    >>> tl.result_type(tl.arange(2), 1.0), tl.result_type(tl.zeros(2), tl.zeros(2).double())
    (tensorlib.float32, tensorlib.float64)
    """
    return common_dtype((tensor, other))


_NAMED = {
    "float": dtypes.float32, "double": dtypes.float64, "half": dtypes.float16, "bfloat16": dtypes.bfloat16, "int": dtypes.int32,
    "long": dtypes.int64, "short": dtypes.int16, "char": dtypes.int8, "byte": dtypes.uint8, "bool": dtypes.bool_,
    "cfloat": dtypes.complex64, "cdouble": dtypes.complex128,
}  # fmt: skip
for _method in (pin_memory, is_pinned, record_stream):
    setattr(Tensor, _method.__name__, _method)
for _method in (*(_named(name, dtype) for name, dtype in _NAMED.items()), to, type_as, cpu, cuda):
    setattr(Tensor, _method.__name__, _method)
    give_mapped(_method.__name__, _method)
for _name, _function in (("type", type_), ("where", where)):
    setattr(Tensor, _name, _function)
