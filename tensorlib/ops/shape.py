"""Shapes change, elements stay: views, and the copies that go with them. What the tape records of them is in views.py."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib.device import CPU
from tensorlib.dtypes import DType
from tensorlib.errors import GradError, IndexRangeError, ShapeError
from tensorlib.lines import KNOWN, here
from tensorlib.native import lib
from tensorlib.ops import views
from tensorlib.ops.declare import assign_, fill_elsewhere, run
from tensorlib.ops.table import TABLE
from tensorlib.status import DECLINE, raise_status
from tensorlib.tensor import Tensor, wrap

__all__ = [
    "as_strided", "broadcast_tensors", "broadcast_to", "clone", "detach", "diagonal", "expand_as",
    "flatten", "moveaxis", "movedim", "narrow", "numel", "permute", "ravel", "reshape", "select", "squeeze", "swapaxes",
    "swapdims", "t", "transpose", "unflatten", "unsqueeze",
]  # fmt: skip
METHODS = (
    "as_strided", "broadcast_to", "clone", "contiguous", "copy_", "diagonal", "expand", "expand_as", "fill_", "flatten", "moveaxis",
    "movedim", "narrow", "permute", "ravel", "reshape", "reshape_as", "select", "squeeze", "swapaxes", "swapdims", "t",
    "transpose", "unflatten", "unsqueeze", "view", "view_as", "zero_",
    "squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_",
)  # fmt: skip
INPLACE: tuple[str, ...] = ()

_frame, _line_of = sys._getframe, KNOWN.get
END = 2**63 - 1


# ---- arguments ----
def normalize_dim(name: str, dim: Any, ndim: int) -> int:
    """`dim` counted from the front. Raises IndexRangeError where it is out of range; a 0-d tensor takes 0 and -1, as PyTorch's do."""
    if not isinstance(dim, int):
        try:
            dim = dim.__index__()
        except AttributeError:
            raise TypeError(f"{name}: dim is a {type(dim).__name__}, expected an integer.") from None
    n = max(ndim, 1)
    if not -n <= dim < n:
        raise IndexRangeError(f"{name}: dim {dim} is out of range for {ndim} dimensions; expected {-n} to {n - 1}.")
    return int(dim % n)


def normalize_dims(name: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """One dim, several or None (all) as a sorted tuple of distinct dims counted from the front."""
    if dim is None:
        return tuple(range(ndim))
    given = [dim] if not isinstance(dim, (tuple, list)) else dim
    dims = sorted(normalize_dim(name, d, ndim) for d in given)
    if len(set(dims)) != len(dims):
        raise ShapeError(f"{name}: a dim appears twice in {tuple(given)}.")
    return tuple(dims) if ndim else ()


def sizes(name: str, shape: tuple[Any, ...]) -> list[int]:
    """A shape given as several integers or one sequence."""
    try:
        if len(shape) == 1 and not hasattr(shape[0], "__index__"):
            shape = tuple(shape[0])
        return [s if type(s) is int else s.__index__() for s in shape]
    except (AttributeError, TypeError):
        raise TypeError(f"{name}: got the shape {shape!r}, expected integers.") from None


def _made(handle: int, name: str, x: Tensor, message: str) -> Tensor:
    if handle:
        return wrap(handle)
    if lib.tl_status() != DECLINE:
        raise_status(name, x.shape)
    raise ShapeError(message)


# ---- views ----
def reshape(input: Tensor, *given: Any, shape: Any = ()) -> Tensor:
    """The same elements in row-major order under another shape; a view where strides allow, else a copy. One size may be -1.

    >>> tl.arange(6).reshape(2, -1).shape
    (2, 3)
    """
    frame = _frame(1)
    line = _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)
    wanted: Any = (given[0] if len(given) == 1 and type(given[0]) in (tuple, list) else given) or shape
    try:
        handle = lib.tl_reshape(input._array, len(wanted), wanted, True, line)
    except (AttributeError, TypeError, OverflowError):
        wanted = sizes("reshape", given or (shape,))
        handle = lib.tl_reshape(input._array, len(wanted), wanted, True, line)
    if handle:
        return wrap(handle)
    wanted = list(wanted)
    if lib.tl_status() == DECLINE and input.device.type != "cpu" and _fits(input, wanted):
        known = -int(np.prod(wanted)) if -1 in wanted else 1
        full = [input.numel() // max(known, 1) if n == -1 else n for n in wanted]
        return run(TABLE["reshape"], (input,), {"shape": tuple(full)}, here(frame))
    return _made(0, "reshape", input, _reshape_message("reshape", input, wanted))


def _fits(x: Tensor, shape: list[int]) -> bool:
    known = 1
    for n in shape:
        known *= n if n != -1 else 1
    return (
        shape.count(-1) <= 1
        and all(n >= -1 for n in shape)
        and (known != 0 and x.numel() % known == 0 if -1 in shape else known == x.numel())
    )


def _reshape_message(name: str, x: Tensor, shape: list[int]) -> str:
    return f"{name}: {x.numel()} elements of shape {x.shape} do not fit into {tuple(shape)}."


def view(self: Tensor, *shape: Any) -> Tensor:
    """As `reshape`, but never a copy; with a dtype of the same size: the same bytes read as that dtype.

    Raises:
        ShapeError: where the strides do not allow it.
    """
    if len(shape) == 1 and isinstance(shape[0], DType):
        return _reinterpret(self, shape[0])
    wanted = sizes("view", shape)
    handle = lib.tl_reshape(self._array, len(wanted), wanted, False, here(_frame(1)))
    if not handle and lib.tl_status() == DECLINE and _fits(self, wanted):
        raise ShapeError(
            f"view: a tensor of shape {self.shape} with strides {self.stride()} can not be seen as {tuple(wanted)} without a copy.",
            hint="use reshape()",
        )
    return _made(handle, "view", self, _reshape_message("view", self, wanted))


def _reinterpret(x: Tensor, dtype: DType) -> Tensor:
    handle = lib.tl_reinterpret(x._array, dtype.number)
    if not handle and lib.tl_status() == DECLINE and dtype.itemsize != x.itemsize:
        raise ShapeError(f"view: {x.dtype.name} as {dtype.name}: only dtypes of the same size can share bytes.")
    return _made(handle, "view", x, f"view: tensors on {x.device} can not be read as another dtype.")


def view_as(self: Tensor, other: Tensor) -> Tensor:
    """`view` with the shape of `other`."""
    return view(self, other.shape)


def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """`reshape` with the shape of `other`."""
    return reshape(self, other.shape)


def permute(input: Tensor, *given: Any, dims: Any = ()) -> Tensor:
    """Dimensions in another order.

    >>> tl.zeros(2, 3, 4).permute(2, 0, 1).shape
    (4, 2, 3)
    """
    order = sizes("permute", given or (dims,))
    handle = lib.tl_permute(input._array, len(order), order, here(_frame(1)))
    return _made(
        handle,
        "permute",
        input,
        f"permute: dims {tuple(order)} are not an order of the {input.ndim} dimensions of {input.shape}.",
    )


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions swapped.

    >>> tl.zeros(2, 3).transpose(0, 1).shape
    (3, 2)
    """
    frame = _frame(1)
    try:
        handle = lib.tl_transpose(input._array, dim0, dim1, _line_of((id(frame.f_code), frame.f_lasti)) or here(frame))
    except (TypeError, OverflowError):
        handle = 0
    if handle:
        return wrap(handle)
    if input.ndim == 0:
        normalize_dim("transpose", dim0, 0), normalize_dim("transpose", dim1, 0)
        return permute(input)
    return permute_swapped(
        input, normalize_dim("transpose", dim0, input.ndim), normalize_dim("transpose", dim1, input.ndim)
    )


def permute_swapped(x: Tensor, dim0: int, dim1: int) -> Tensor:
    order = list(range(x.ndim))
    order[dim0], order[dim1] = dim1, dim0
    return permute(x, order)


def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """`transpose` by NumPy's name.

    >>> tl.zeros(2, 3).swapaxes(0, 1).shape
    (3, 2)
    """
    return transpose(input, axis0, axis1)


swapdims = transpose


def t(input: Tensor) -> Tensor:
    """A matrix transposed; tensors with fewer dimensions as they are.

    >>> tl.zeros(2, 3).t().shape
    (3, 2)
    """
    if lib.tl_ndim(input._array) == 2:
        frame = _frame(1)
        return wrap(lib.tl_transpose(input._array, 0, 1, _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)))
    if input.ndim > 2:
        raise ShapeError(f"t: got {input.ndim} dimensions, expected at most 2.", hint="use mT or transpose()")
    return permute(input, *range(input.ndim))


def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Dimensions moved to new places, the others in their order.

    >>> tl.zeros(2, 3, 4).movedim(0, -1).shape
    (3, 4, 2)
    """
    origin = [normalize_dim("movedim", d, input.ndim) for d in ([source] if isinstance(source, int) else source)]
    target = [
        normalize_dim("movedim", d, input.ndim)
        for d in ([destination] if isinstance(destination, int) else destination)
    ]
    if len(set(origin)) != len(origin) or len(set(target)) != len(target) or len(origin) != len(target):
        raise ShapeError(
            f"movedim: source {source} and destination {destination} must be distinct dims, as many of each."
        )
    rest = iter([d for d in range(input.ndim) if d not in origin])
    placed = dict(zip(target, origin, strict=True))
    return permute(input, [placed[i] if i in placed else next(rest) for i in range(input.ndim)])


moveaxis = movedim


def expand(self: Tensor, *shape: Any) -> Tensor:
    """Dimensions of size 1 repeated without copying; -1 keeps a size.

    >>> tl.ones(3, 1).expand(-1, 4).shape
    (3, 4)
    """
    wanted = sizes("expand", shape)
    handle = lib.tl_expand(self._array, len(wanted), wanted, here(_frame(1)))
    return _made(handle, "expand", self, f"expand: shape {self.shape} does not broadcast to {tuple(wanted)}.")


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """`input` seen under a size it broadcasts to.

    >>> tl.broadcast_to(tl.ones(3), (2, 3)).shape
    (2, 3)
    """
    return expand(input, *sizes("broadcast_to", (size,)))


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`expand` to the shape of `other`.

    >>> tl.ones(3).expand_as(tl.zeros(2, 3)).shape
    (2, 3)
    """
    return expand(input, *other.shape)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All seen under their common broadcast shape.

    >>> [x.shape for x in tl.broadcast_tensors(tl.ones(3, 1), tl.ones(4))]
    [(3, 4), (3, 4)]
    """
    try:
        shape = np.broadcast_shapes(*(x.shape for x in tensors))
    except ValueError:
        raise ShapeError(
            f"broadcast_tensors: shapes {', '.join(str(x.shape) for x in tensors)} do not broadcast."
        ) from None
    return tuple(expand(x, *shape) for x in tensors)


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """A new dimension of size 1 at `dim`.

    >>> tl.zeros(3).unsqueeze(0).shape
    (1, 3)
    """
    place = normalize_dim("unsqueeze", dim, input.ndim + 1)
    return _made(
        lib.tl_unsqueeze(input._array, place, here(_frame(1))),
        "unsqueeze",
        input,
        f"unsqueeze: more than 16 dimensions from {input.shape}.",
    )


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without dimensions of size 1: all, or those named.

    >>> tl.zeros(1, 3, 1).squeeze().shape, tl.zeros(1, 3, 1).squeeze(0).shape
    ((3,), (3, 1))
    """
    mask = sum(1 << d for d in normalize_dims("squeeze", dim, input.ndim))
    return wrap(lib.tl_squeeze(input._array, mask, here(_frame(1))))


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim as one.

    >>> tl.zeros(2, 3, 4).flatten(1).shape
    (2, 12)
    """
    first, last = normalize_dim("flatten", start_dim, input.ndim), normalize_dim("flatten", end_dim, input.ndim)
    shape = input.shape
    if first > last:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}.")
    joined = 1
    for n in shape[first : last + 1]:
        joined *= n
    return reshape(input, *shape[:first], joined, *shape[last + 1 :])


def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension.

    >>> tl.zeros(2, 3).ravel().shape
    (6,)
    """
    return reshape(input, input.numel())


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` split into `sizes`, of which one may be -1.

    >>> tl.zeros(2, 12).unflatten(1, (3, -1)).shape
    (2, 3, 4)
    """
    place = normalize_dim("unflatten", dim, input.ndim)
    shape, parts, n = input.shape, list(sizes), input.shape[place]
    known = 1
    for s in parts:
        known *= 1 if s == -1 else s
    if parts.count(-1) == 1 and known and n % known == 0:
        parts[parts.index(-1)] = n // known
    elif known != n or -1 in parts:
        raise ShapeError(f"unflatten: size {n} of dim {dim} does not split into {tuple(sizes)}.")
    return reshape(input, *shape[:place], *parts, *shape[place + 1 :])


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """One position along a dimension, which goes.

    >>> tl.arange(6).reshape(2, 3).select(1, 2)
    tensor([2, 5])
    """
    if input.ndim == 0:
        raise IndexRangeError("select: a 0-d tensor has no dimension to select from.")
    place = normalize_dim("select", dim, input.ndim)
    index = index.__index__()
    n = input.shape[place]
    if not -n <= index < n:
        raise IndexRangeError(f"select: index {index} is out of range for dim {dim} of size {n}, shape {input.shape}.")
    return wrap(lib.tl_select(input._array, place, index, here(_frame(1))))


def slice_dim(x: Tensor, dim: int, start: int | None, stop: int | None, step: int = 1) -> Tensor:
    """A Python slice (step >= 1) along one dimension: bounds count from the end if negative, and stop at the ends."""
    low = 0 if start is None else builtins.max(builtins.min(start, END), -END)
    high = END if stop is None else builtins.max(builtins.min(stop, END), -END)
    return wrap(lib.tl_slice(x._array, dim, low, high, builtins.min(step, END), here(_frame(1))))


def narrow(input: Tensor, dim: int, start: int | Tensor, length: int) -> Tensor:
    """`length` positions from `start` along a dimension.

    >>> tl.arange(5).narrow(0, 1, 3)
    tensor([1, 2, 3])
    """
    place = normalize_dim("narrow", dim, input.ndim)
    n, first = (input.shape[place] if input.ndim else 0), start.__index__()
    if input.ndim == 0 or not -n <= first <= n or length < 0 or (first % n if n and first < 0 else first) + length > n:
        raise IndexRangeError(
            f"narrow: start {first} and length {length} leave dim {dim} of size {n}, shape {input.shape}."
        )
    first = first + n if first < 0 else first
    return slice_dim(input, place, first, first + length)


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dimensions, as a view with it in the last one.

    >>> tl.arange(9).reshape(3, 3).diagonal(1)
    tensor([1, 5])
    """
    d1, d2 = normalize_dim("diagonal", dim1, input.ndim), normalize_dim("diagonal", dim2, input.ndim)
    handle = lib.tl_diagonal(input._array, offset, d1, d2, here(_frame(1)))
    return _made(
        handle,
        "diagonal",
        input,
        f"diagonal: dim1 and dim2 must be two dimensions of {input.shape}, got {dim1} and {dim2}.",
    )


def as_strided(input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """A view of any shape and strides (>= 0, in elements) over the tensor's storage.

    >>> tl.as_strided(tl.arange(5), (3, 2), (1, 1)).tolist()
    [[0, 1], [1, 2], [2, 3]]
    """
    shape, strides = sizes("as_strided", (size,)), sizes("as_strided", (stride,))
    if len(shape) != len(strides):
        raise ShapeError(f"as_strided: {len(shape)} sizes but {len(strides)} strides.")
    offset = input.storage_offset() if storage_offset is None else storage_offset
    handle = lib.tl_as_strided(input._array, len(shape), shape, strides, offset, here(_frame(1)))
    if not handle and lib.tl_status() == DECLINE and input.requires_grad and not input.is_contiguous():
        raise ShapeError(
            f"as_strided: the tensor of shape {input.shape} requires a gradient but is not contiguous.",
            hint="call contiguous() first",
        )
    return _made(
        handle,
        "as_strided",
        input,
        f"as_strided: size {tuple(shape)}, strides {tuple(strides)}, offset {offset} leave the storage.",
    )


def detach(input: Tensor) -> Tensor:
    """A view of the same memory without history.

    >>> tl.detach(tl.ones(2, requires_grad=True)).requires_grad
    False
    """
    return input.detach()


def numel(input: Tensor) -> int:
    """The number of elements.

    >>> tl.numel(tl.zeros(2, 3))
    6
    """
    return input.numel()


# ---- copies ----
def clone(input: Tensor) -> Tensor:
    """A copy in memory of its own, recorded.

    >>> tl.ones(2).clone()
    tensor([1., 1.])
    """
    return views.clone(input)


def contiguous(self: Tensor) -> Tensor:
    """The tensor itself if its elements lie in row-major order, else a copy."""
    return self if self.is_contiguous() else clone(self)


def to(x: Tensor, dtype: DType) -> Tensor:
    from tensorlib.ops.declare import to_dtype

    return to_dtype(x, dtype)


def copy_(self: Tensor, other: Any, non_blocking: bool = False) -> Tensor:
    """Overwrite with the elements of `other`, broadcast and converted. Recorded."""
    from tensorlib.ops.creation import as_tensor

    other = other if isinstance(other, Tensor) else as_tensor(other, dtype=self.dtype)
    line = here(_frame(1))
    if lib.tl_copy(self._array, other._array, line):
        return self
    if lib.tl_status() != DECLINE or lib.tl_detail(0):
        raise_status("copy_", self.shape)
    try:
        fits = np.broadcast_shapes(self.shape, other.shape) == self.shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"copy_: shape {other.shape} does not broadcast to {self.shape}.")
    if other.device == self.device:
        value = other
    else:
        from tensorlib.ops.conversion import copied_across

        if copied_across(self, other, non_blocking, line):
            return self
        value = other.to(self.device)
    return assign_(self, expand(to(value, self.dtype), *self.shape), "copy_", line)


def fill_(self: Tensor, value: Any) -> Tensor:
    """Overwrite every element with one value."""
    from tensorlib.ops.creation import full

    line = here(_frame(1))
    if isinstance(value, Tensor):
        if value.ndim:
            raise ShapeError(f"fill_: the value has shape {value.shape}, expected a number or a 0-d tensor.")
        return copy_(self, value)
    if isinstance(value, complex) or (isinstance(value, int) and abs(value) > 2**53):
        return copy_(self, np.asarray(value))
    if self.device.type != "cpu":
        fill_elsewhere(self, full((), value, dtype=self.dtype, device=CPU), line)
    elif not lib.tl_fill(self._array, value, line):
        raise_status("fill_", self.shape)
    return self


def zero_(self: Tensor) -> Tensor:
    """Overwrite with zeros."""
    return fill_(self, 0)


# ---- in place: the tensor takes on another shape over the same memory ----
def _reseen(self: Tensor, name: str, seen: Tensor) -> Tensor:
    if self.requires_grad and self.is_leaf:
        raise GradError(
            f"{name}: a leaf tensor that requires a gradient can not change its shape in place.",
            hint="use the version without _",
        )
    self._array, seen._array = seen._array, self._array
    return self


def transpose_(self: Tensor, dim0: int, dim1: int) -> Tensor:
    """In-place version of `transpose`."""
    return _reseen(self, "transpose_", transpose(self, dim0, dim1))


def t_(self: Tensor) -> Tensor:
    """In-place version of `t`."""
    return _reseen(self, "t_", t(self))


def squeeze_(self: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """In-place version of `squeeze`."""
    return _reseen(self, "squeeze_", squeeze(self, dim))


def unsqueeze_(self: Tensor, dim: int) -> Tensor:
    """In-place version of `unsqueeze`."""
    return _reseen(self, "unsqueeze_", unsqueeze(self, dim))


def swapaxes_(self: Tensor, axis0: int, axis1: int) -> Tensor:
    """In-place version of `swapaxes`."""
    return transpose_(self, axis0, axis1)


swapdims_ = transpose_


def _property_T(self: Tensor) -> Tensor:
    """All dimensions in reverse order."""
    return permute(self, *range(self.ndim - 1, -1, -1))


def _property_mT(self: Tensor) -> Tensor:
    """The last two dimensions swapped."""
    if self.ndim < 2:
        raise ShapeError(f"mT: got {self.ndim} dimensions, expected at least 2.")
    return transpose(self, -1, -2)


Tensor.T = property(_property_T)  # type: ignore[assignment, method-assign]
Tensor.mT = property(_property_mT)  # type: ignore[assignment, method-assign]
