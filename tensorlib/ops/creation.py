"""Making tensors: from data, filled, counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.backends import NATIVE, adopt_numpy, backend
from tensorlib.backends.interchange import adopted, is_on_gpu
from tensorlib.device import CPU, Device, placed
from tensorlib.dtypes import DType, as_dtype
from tensorlib.errors import DTypeError, MemoryLimitError, ShapeError
from tensorlib.native import lib
from tensorlib.ops.shape import sizes
from tensorlib.status import checked
from tensorlib.tensor import Tensor, wrap

__all__ = [
    "arange", "as_tensor", "asarray", "empty", "empty_like", "eye", "from_dlpack", "from_numpy", "full", "full_like", "linspace", "logspace", "ones",
    "ones_like", "scalar_tensor", "tensor", "zeros", "zeros_like",
]  # fmt: skip
METHODS = ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")
INPLACE: tuple[str, ...] = ()


# ---- from data ----
def _array_of(data: Any, dtype: DType | None) -> np.ndarray[Any, Any]:
    """A NumPy array of the user's data; Python numbers take the default dtypes, everything else keeps its own."""
    if isinstance(data, (list, tuple)):
        data = _unwrapped(data)
    carried = None if dtype is None else (dtypes.float32 if dtype is dtypes.bfloat16 else dtype).np
    try:
        array = np.asarray(data)
        if array.dtype.kind not in "biufc":
            raise DTypeError(f"tensor: can not make a tensor from {_described(data)}.")
        if carried is not None and array.dtype != carried:
            _check_range(data, array, dtype)
            with np.errstate(invalid="raise", over="ignore"):
                array = array.astype(carried)
    except ValueError as error:  # NumPy's "inhomogeneous shape"
        raise ShapeError(f"tensor: the nested sequences do not form a rectangle ({error}).") from None
    except OverflowError as error:
        raise DTypeError(f"tensor: a value does not fit ({error}).") from None
    except FloatingPointError:
        raise DTypeError(f"tensor: a NaN or infinity can not become {dtype.name if dtype else ''}.") from None
    if dtype is None and not isinstance(data, (np.ndarray, np.generic)):
        if array.dtype == np.float64:
            array = array.astype(dtypes.default_dtype().np)
        elif array.dtype == np.complex128:
            array = array.astype(dtypes.as_dtype(complex).np)
    return array


def _check_range(data: Any, array: np.ndarray[Any, Any], dtype: DType | None) -> None:
    """Python integers must fit; arrays wrap around, as NumPy's and PyTorch's conversions do."""
    if (
        dtype is None
        or dtype.category != 1
        or array.dtype.kind not in "iu"
        or not array.size
        or isinstance(data, (np.ndarray, np.generic))
    ):
        return
    bounds, low, high = np.iinfo(dtype.np), int(array.min()), int(array.max())
    if low < bounds.min or high > bounds.max:
        raise DTypeError(f"tensor: {low if low < bounds.min else high} does not fit into {dtype.name}.")


def _described(data: Any) -> str:
    if isinstance(data, np.ndarray):
        return f"a NumPy array of dtype {data.dtype}"
    if isinstance(data, int):
        return "an integer beyond 64 bits"
    if not isinstance(data, (list, tuple)):
        return f"an object of type {type(data).__name__}"
    known = (bool, int, float, complex, np.generic)
    odd = next((type(x).__name__ for x in _leaves(data) if not isinstance(x, known)), None)
    return f"a sequence that holds a {odd}" if odd else "a sequence with integers beyond 64 bits"


def _leaves(data: Any) -> Any:
    for x in data:
        if isinstance(x, (list, tuple)):
            yield from _leaves(x)
        else:
            yield x


def _unwrapped(data: Any) -> Any:
    """Tensors inside nested sequences as NumPy arrays."""
    return [_unwrapped(x) if isinstance(x, (list, tuple)) else x._read() if isinstance(x, Tensor) else x for x in data]


def tensor(data: Any, *, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False) -> Tensor:
    """A new tensor from numbers, nested sequences, NumPy arrays or tensors. Always copies.

    Python floats become the default dtype, integers int64; arrays keep their dtype.

    >>> tl.tensor([[1, 2], [3, 4]]).dtype, tl.tensor(0.5)
    (tensorlib.int64, tensor(0.5000))
    """
    kind = None if dtype is None else as_dtype(dtype)
    if isinstance(data, Tensor):
        made = data.detach().clone().to(kind or data.dtype)
        made = made if device is None else made.to(device)
    elif is_on_gpu(data):
        made = as_tensor(data).clone().to(device=device, dtype=kind)
    else:
        made = _from_array(_array_of(data, kind), kind, placed(device), copy=True)
    return made.requires_grad_(True) if requires_grad else made


def _from_array(array: np.ndarray[Any, Any], dtype: DType | None, where: Device, *, copy: bool) -> Tensor:
    if where.type != "cpu":
        return wrap(backend(where).from_numpy(array, dtype))
    if dtype is dtypes.bfloat16:
        return wrap(NATIVE.adopt(array, dtype))
    handle = adopt_numpy(array)
    if not copy:
        return wrap(handle)
    try:
        return wrap(checked(lib.tl_clone(handle, 0), "tensor", array.shape))
    finally:
        lib.tl_drop(handle)


def as_tensor(data: Any, dtype: Any = None, device: Device | str | None = None) -> Tensor:
    """The data as a tensor, sharing memory with a tensor, a NumPy array, or an array of another library on a GPU where dtype and device allow.

    >>> a = np.zeros(2, np.float32)
    >>> tl.as_tensor(a).add_(1) is not None and a.tolist()
    [1.0, 1.0]
    """
    kind = None if dtype is None else as_dtype(dtype)
    if isinstance(data, Tensor):
        moved = data if device is None else data.to(device)
        return moved if kind is None else moved.to(kind)
    if is_on_gpu(data):
        return wrap(adopted(data)).to(device=device, dtype=kind)
    return _from_array(_array_of(data, kind), kind, placed(device), copy=not isinstance(data, np.ndarray))


def asarray(
    obj: Any,
    *,
    dtype: Any = None,
    device: Device | str | None = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """The object as a tensor: of its own memory with ``copy=True``, in any case of the object's with ``copy=False``, else as `as_tensor`.

    >>> a = np.zeros(2, np.float32)
    >>> tl.asarray(a, copy=True).add_(1) is not None and a.tolist()
    [0.0, 0.0]
    """
    made = as_tensor(obj, dtype, device)
    if isinstance(obj, np.ndarray):
        held = np.may_share_memory(made._read(), obj)
    else:
        held = made is obj or (is_on_gpu(obj) and made.data_ptr() == as_tensor(obj).data_ptr())
    if copy is False and not held:
        raise ShapeError(f"asarray: this {type(obj).__name__} can not become such a tensor without a copy.")
    if copy and held:
        made = made.clone()
    return made.detach().requires_grad_() if requires_grad else made


def from_numpy(ndarray: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over the memory of a NumPy ndarray, which it keeps alive. A read-only ndarray gives a tensor that can not be written.

    >>> tl.from_numpy(np.arange(3))
    tensor([0, 1, 2])
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"from_numpy: got a {type(ndarray).__name__}, expected a NumPy array.")
    return wrap(adopt_numpy(ndarray))


def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor over the memory of any object with `__dlpack__`.

    >>> tl.from_dlpack(np.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    """
    if isinstance(ext_tensor, Tensor):
        return ext_tensor
    if hasattr(ext_tensor, "__dlpack__") and is_on_gpu(ext_tensor):
        return wrap(adopted(ext_tensor))
    if not hasattr(ext_tensor, "__dlpack__"):
        raise TypeError(f"from_dlpack: got a {type(ext_tensor).__name__}, expected an object with __dlpack__.")
    return wrap(adopt_numpy(np.from_dlpack(ext_tensor)))


def scalar_tensor(s: complex, *, dtype: Any = None, device: Device | str | None = None) -> Tensor:
    """A 0-d tensor; by default of the default float dtype.

    >>> tl.scalar_tensor(2)
    tensor(2.)
    """
    return full((), s, dtype=dtype or dtypes.default_dtype(), device=device)


# ---- filled ----
def given_shape(name: str, shape: tuple[Any, ...], size: Any = None) -> list[int]:
    """Sizes from integers or one sequence by position, or from a sequence by name."""
    if not shape and size is None:
        raise TypeError(f"{name}: got no size; () makes a tensor without dimensions.")
    if shape and size is not None:
        raise TypeError(f"{name}: got the sizes {shape} and size={size}, expected one of the two.")
    dims = sizes(name, shape or (size,))
    if any(n < 0 for n in dims):
        raise ShapeError(f"{name}: got the negative size {min(dims)} in {tuple(dims)}.")
    if len(dims) > 16:
        raise ShapeError(f"{name}: got {len(dims)} dimensions, at most 16 are possible.")
    if any(n > 2**63 - 1 for n in dims):
        raise MemoryLimitError(f"{name}: shape {tuple(dims)} has a size beyond 63 bits.")
    return dims


def check_room(name: str, dims: Sequence[int], dtype: DType) -> None:
    """Raise where a result is too large for this machine, for those who make tables of its size first."""
    if math.prod(dims) >> 31 or any(n >> 31 for n in dims):
        dims = given_shape(name, (dims,))
        wrap(checked(lib.tl_new(dtype.number, len(dims), dims), name, dims))


@contextmanager
def _room_for(name: str, dims: list[int]) -> Iterator[None]:
    try:
        yield
    except (MemoryError, ValueError):  # the latter is NumPy's
        raise MemoryLimitError(f"{name}: shape {tuple(dims)} can not be allocated.") from None


def _filled(
    name: str, dims: list[int], value: Any, dtype: Any, where: Device | str | None, requires_grad: bool
) -> Tensor:
    kind = dtypes.default_dtype() if dtype is None else as_dtype(dtype)
    place = placed(where)
    if place.type != "cpu":
        number = _filled(name, [], value, kind, CPU, False)
        with _room_for(name, dims):
            made = wrap(backend(place).filled(tuple(dims), number._read()[()], kind))
    elif kind.is_complex or (isinstance(value, int) and not -(2**53) <= value <= 2**53):
        try:
            with _room_for(name, dims):
                made = _from_array(np.full(dims, value, kind.np or np.float32), kind, place, copy=True)
        except OverflowError:
            raise DTypeError(f"{name}: {value} does not fit into {kind.name}.") from None
    else:
        made = wrap(checked(lib.tl_new_filled(kind.number, len(dims), dims, value), name, dims))
    return made.requires_grad_(True) if requires_grad else made


def zeros(
    *shape: Any, size: Any = None, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False
) -> Tensor:
    """Zeros.

    >>> tl.zeros(2, 3).shape
    (2, 3)
    """
    return _filled("zeros", given_shape("zeros", shape, size), 0, dtype, device, requires_grad)


def ones(
    *shape: Any, size: Any = None, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones.

    >>> tl.ones(2)
    tensor([1., 1.])
    """
    return _filled("ones", given_shape("ones", shape, size), 1, dtype, device, requires_grad)


def empty(
    *shape: Any, size: Any = None, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False
) -> Tensor:
    """Memory as it comes: contents are arbitrary until written.

    >>> tl.empty(2, 3).shape
    (2, 3)
    """
    dims = given_shape("empty", shape, size)
    kind = dtypes.default_dtype() if dtype is None else as_dtype(dtype)
    place = placed(device)
    if place.type == "cpu":
        made = wrap(checked(lib.tl_new(kind.number, len(dims), dims), "empty", dims))
    else:
        with _room_for("empty", dims):
            made = wrap(backend(place).empty(tuple(dims), kind))
    return made.requires_grad_(True) if requires_grad else made


def full(
    size: Any, fill_value: Any, *, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False
) -> Tensor:
    """One value everywhere; its kind decides the dtype where none is given.

    >>> tl.full((2,), 7)
    tensor([7, 7])
    """
    if isinstance(fill_value, (Tensor, np.generic)):
        fill_value = fill_value.item()
    if dtype is None:
        dtype = (dtypes.bool_, dtypes.int64, dtypes.default_dtype(), dtypes.as_dtype(complex))[
            dtypes.result_category(fill_value)
        ]
    kind = as_dtype(dtype)
    if kind.category < 2 and isinstance(fill_value, (float, complex)) and kind.category > 0:
        fill_value = int(fill_value.real)
    return _filled("full", given_shape("full", (size,)), fill_value, kind, device, requires_grad)


def _like(x: Tensor, dtype: Any, where: Any) -> dict[str, Any]:
    return {"dtype": x.dtype if dtype is None else dtype, "device": x.device if where is None else where}


def zeros_like(
    input: Tensor, *, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of a tensor's shape, dtype and device.

    >>> tl.zeros_like(tl.ones(2))
    tensor([0., 0.])
    """
    return zeros(input.shape, **_like(input, dtype, device), requires_grad=requires_grad)


def ones_like(
    input: Tensor, *, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones of a tensor's shape, dtype and device.

    >>> tl.ones_like(tl.zeros(2))
    tensor([1., 1.])
    """
    return ones(input.shape, **_like(input, dtype, device), requires_grad=requires_grad)


def empty_like(
    input: Tensor, *, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False
) -> Tensor:
    """Unset memory of a tensor's shape, dtype and device.

    >>> tl.empty_like(tl.zeros(2)).shape
    (2,)
    """
    return empty(input.shape, **_like(input, dtype, device), requires_grad=requires_grad)


def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """One value everywhere, in a tensor's shape, dtype and device.

    >>> tl.full_like(tl.zeros(2), 3)
    tensor([3., 3.])
    """
    return full(input.shape, fill_value, **_like(input, dtype, device), requires_grad=requires_grad)


def new_zeros(
    self: Tensor, *shape: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Zeros with this tensor's dtype and device."""
    return zeros(*shape, size=size, **_like(self, dtype, device), requires_grad=requires_grad)


def new_ones(
    self: Tensor, *shape: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Ones with this tensor's dtype and device."""
    return ones(*shape, size=size, **_like(self, dtype, device), requires_grad=requires_grad)


def new_empty(
    self: Tensor, *shape: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Unset memory with this tensor's dtype and device."""
    return empty(*shape, size=size, **_like(self, dtype, device), requires_grad=requires_grad)


def new_full(
    self: Tensor, size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One value everywhere, with this tensor's dtype and device."""
    return full(size, fill_value, **_like(self, dtype, device), requires_grad=requires_grad)


def new_tensor(
    self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor from data, with this tensor's dtype and device."""
    return tensor(data, **_like(self, dtype, device), requires_grad=requires_grad)


# ---- counted ----
def _number(name: str, value: Any) -> Any:
    value = value.item() if isinstance(value, (Tensor, np.generic)) else value
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name}: got a {type(value).__name__}, expected a number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ShapeError(f"{name}: got {value}, expected a finite number.")
    return value


def arange(
    start: Any = 0,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from `start` (default 0) to `end`, which is not included.

    >>> tl.arange(3), tl.arange(1, 2, 0.5)
    (tensor([0, 1, 2]), tensor([1.0000, 1.5000]))
    """
    first, last = (0, start) if end is None else (start, end)
    first, last, step = _number("arange", first), _number("arange", last), _number("arange", step)
    if step == 0:
        raise ShapeError("arange: step is 0.")
    n = math.ceil((last - first) / step)
    if n < 0:
        raise ShapeError(f"arange: end {last} lies on the other side of start {first} for step {step}.")
    whole = all(isinstance(v, int) for v in (first, last, step))
    kind = as_dtype(dtype) if dtype is not None else dtypes.int64 if whole else dtypes.default_dtype()
    if n * kind.itemsize > 2**62:
        raise MemoryLimitError(f"arange: {n} elements can not be allocated.")
    carried = dtypes.float32 if kind is dtypes.bfloat16 else kind
    try:
        values = first + step * np.arange(n, dtype=np.int64 if whole else np.float64)
        made = _from_array(values.astype(carried.np), kind, placed(device), copy=False)
    except MemoryError:
        raise MemoryLimitError(f"arange: {n} elements can not be allocated.") from None
    except OverflowError:
        raise DTypeError(f"arange: {first} or {step} does not fit into 64 bits.") from None
    return made.requires_grad_(True) if requires_grad else made


def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    dtype: Any = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` numbers at equal distances, both ends included.

    >>> tl.linspace(0, 1, 3)
    tensor([0.0000, 0.5000, 1.0000])
    """
    if steps < 0:
        raise ShapeError(f"linspace: got {steps} steps.")
    kind = dtypes.default_dtype() if dtype is None else as_dtype(dtype)
    try:
        values = np.linspace(_number("linspace", start), _number("linspace", end), steps)
    except (MemoryError, OverflowError):
        raise MemoryLimitError(f"linspace: {steps} elements can not be allocated.") from None
    carried = dtypes.float32 if kind is dtypes.bfloat16 else kind
    made = _from_array(values.astype(carried.np), kind, placed(device), copy=False)
    return made.requires_grad_(True) if requires_grad else made


def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Powers of `base` at equal distances of the exponent.

    >>> tl.logspace(0, 2, 3)
    tensor([  1.,  10., 100.])
    """
    kind = dtypes.default_dtype() if dtype is None else as_dtype(dtype)
    powers = base ** np.linspace(_number("logspace", start), _number("logspace", end), steps)
    return tensor(powers, dtype=kind, device=device, requires_grad=requires_grad)


def eye(
    n: int, m: int | None = None, *, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones on the diagonal, zeros elsewhere.

    >>> tl.eye(2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    dims = given_shape("eye", (n, n if m is None else m))
    made = zeros(dims, dtype=dtype, device=device)
    if made.numel():
        made.diagonal().fill_(1)
    return made.requires_grad_(True) if requires_grad else made
