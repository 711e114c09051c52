"""Tensor: a thin shell that owns a C handle. Its operations are installed by `tensorlib.ops` from the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.backends import FOREIGN, backend_of, device_of, interchange, shape_of, strides_of
from tensorlib.dtypes import DType
from tensorlib.errors import DTypeError, GradError, ShapeError
from tensorlib.native import OBJECTS, drain, lib
from tensorlib.status import checked, raise_status

if TYPE_CHECKING:
    from tensorlib.device import Device
    from tensorlib.methods import Methods
else:
    Methods = object  # what operations install: methods.pyi tells type checkers

__all__ = ["Tensor", "wrap"]

_drop = lib.tl_drop
_new = object.__new__


class Tensor(Methods):
    """An array on a device that can record what is done to it. Made by `tl.tensor`, `tl.zeros` ... and by every operation.

    >>> x = tl.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """

    __slots__ = ("__weakref__", "_array", "_grad")
    __array_ufunc__ = None  # NumPy's operators leave mixed operands to ours
    is_sparse = False  # row-sparse: tensorlib/sparse.py
    __hash__ = object.__hash__
    _array: int

    def __init__(self, data: Any = (), *, dtype: DType | None = None, device: Device | str | None = None) -> None:
        from tensorlib.ops.creation import tensor

        # The new handle is shared with the temporary; owning it twice and dropping it once leaves it ours.
        made = tensor(data, dtype=dtype or dtypes.default_dtype(), device=device)
        lib.tl_own(made._array)
        self._array = made._array

    def __del__(self, _drop: Callable[[int], int] = _drop, _drain: Callable[[], None] = drain) -> None:
        try:
            if _drop(self._array):
                _drain()
        except AttributeError:  # a constructor raised before there was a handle
            pass

    # ---- what it is ----
    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions."""
        return shape_of(self._array)

    @property
    def ndim(self) -> int:
        """The number of dimensions, at most 16."""
        return int(lib.tl_ndim(self._array))

    @property
    def dtype(self) -> DType:
        """The element type."""
        return dtypes.ALL[lib.tl_dtype_of(self._array)]

    @property
    def device(self) -> Device:
        """Where the elements live."""
        return device_of(self._array)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.numel() * self.itemsize

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def dim(self) -> int:
        """The number of dimensions."""
        return self.ndim

    def numel(self) -> int:
        """The number of elements."""
        return int(lib.tl_numel(self._array))

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.itemsize

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        from tensorlib.ops.shape import normalize_dim

        return self.shape if dim is None else self.shape[normalize_dim("size", dim, self.ndim)]

    def stride(self, dim: int | None = None) -> Any:
        """Distances between neighbours along each dimension, in elements."""
        return strides_of(self._array) if dim is None else strides_of(self._array)[dim]

    def storage_offset(self) -> int:
        """Elements between the storage's beginning and this tensor's."""
        return int(lib.tl_offset(self._array))

    def data_ptr(self) -> int:
        """The address of the first element, in the memory of its device; 0 on "reference"."""
        return int(lib.tl_address(self._array)) if self.device.type != "reference" else 0

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return bool(lib.tl_is_contiguous(self._array))

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        return self.dtype.is_complex

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len: a 0-d tensor has no length.")
        return self.shape[0]

    # ---- its place in the graph ----
    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded."""
        return bool(lib.tl_requires_grad(self._array))

    @requires_grad.setter
    def requires_grad(self, on: bool) -> None:
        self.requires_grad_(on)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for (or stop) recording on this leaf, in place. Only floating tensors can; complex ones compute, but are not differentiated."""
        if requires_grad and not self.dtype.is_floating_point:
            raise DTypeError(f"requires_grad_: got a {self.dtype.name} tensor, expected a floating one.")
        if not requires_grad and not self.is_leaf:
            raise GradError("requires_grad_: only a leaf's flag can be switched off.", hint="use detach()")
        if requires_grad and lib.tl_is_inference(self._array) and not lib.tl_is_inference_mode():
            raise GradError(
                "requires_grad_: a tensor made under inference_mode can not require a gradient.",
                hint="clone() it outside",
            )
        if requires_grad and not self.requires_grad:
            lib.tl_set_requires_grad(self._array, True)
        elif not requires_grad:
            lib.tl_set_requires_grad(self._array, False)
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made this tensor."""
        return not lib.tl_node_of(self._array)

    @property
    def grad_fn(self) -> Any:
        """The node that made this tensor, or None for a leaf."""
        from tensorlib.autograd.node import node_of

        return node_of(self)

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward() accumulated in this leaf."""
        handle = lib.tl_grad_id(self._array)
        if not handle:
            return None
        try:
            held = self._grad
            if held is not None and held._array == handle:
                return held
        except AttributeError:
            pass
        self._grad: Tensor | None = wrap_gradient(lib.tl_grad_of(self._array))
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is None:
            self._grad = None
            lib.tl_set_grad(self._array, 0)
            return
        if not isinstance(value, Tensor):
            raise TypeError(f"grad: got a {type(value).__name__}, expected a Tensor or None.")
        if value.shape != self.shape or value.dtype is not self.dtype or value.device != self.device:
            raise ShapeError(
                f"grad: got {value.shape} {value.dtype.name} on {value.device}, expected {self.shape} {self.dtype.name} on {self.device}."
            )
        if value is self:
            raise GradError("grad: a tensor can not be its own gradient.")
        self._grad = value
        lib.tl_set_grad(self._array, value._array)

    @property
    def data(self) -> Tensor:
        """The same memory without history. Writing through it is not noticed by autograd's version checks of other libraries, but is here."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        """Take over another tensor's memory, which may differ in shape and dtype; flag and hooks stay, a gradient must fit or be gone."""
        if not isinstance(value, Tensor):
            raise TypeError(f"data: got a {type(value).__name__}, expected a Tensor.")
        if not self.is_leaf:
            raise GradError("data: only a leaf's memory can be replaced.", hint="use detach()")
        held = self.grad
        if held is not None and (held.shape != value.shape or held.dtype is not value.dtype):
            raise ShapeError(
                f"data: got {value.shape} {value.dtype.name}, but the gradient is {held.shape} {held.dtype.name}."
            )
        old, made = self._array, checked(lib.tl_detach(value._array), "data", value.shape)
        lib.tl_set_requires_grad(made, lib.tl_requires_grad(old))
        lib.tl_move_hooks(made, old)
        if held is not None:
            lib.tl_set_grad(made, held._array)
        self._array = made
        lib.tl_drop(old)

    @property
    def _version(self) -> int:
        return int(lib.tl_version(self._array))

    def to_dense(self) -> Tensor:
        """This tensor: a dense one. A row-sparse one gives the whole table."""
        return self

    def detach(self) -> Tensor:
        """A view of the same memory without history."""
        return wrap(checked(lib.tl_detach(self._array), "detach", ()))

    def detach_(self) -> Tensor:
        """Forget this tensor's history, in place."""
        if lib.tl_base(self._array):
            lib.tl_drop(lib.tl_base(self._array))
            lib.tl_drop(lib.tl_base(self._array))
            raise GradError("detach_: a view can not forget its history in place.", hint="use detach()")
        lib.tl_detach_inplace(self._array)
        return self

    def as_subclass(self, cls: type[Any]) -> Any:
        """A leaf of class `cls`, a subclass of Tensor, over the same memory and without history."""
        return cls._rebuild(self, False)

    # ---- leaving the library ----
    def numpy(self, *, force: bool = False) -> np.ndarray[Any, Any]:
        """A NumPy array over the same memory (bfloat16: a float32 copy).

        Raises:
            GradError: if the tensor requires a gradient: detach() it first, or `force`.
        """
        if self.requires_grad and not force:
            raise GradError(
                "numpy: the tensor requires a gradient, and NumPy can not record.", hint="use detach().numpy()"
            )
        array: np.ndarray[Any, Any] = backend_of(self._array).to_numpy(self._array, self.dtype)
        return array

    def _read(self) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = backend_of(self._array).to_numpy(self._array, self.dtype)
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self._read()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"__array__: {array.dtype} as {np.dtype(dtype)} needs a copy.")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        if not self.is_cuda:
            return self.numpy().__dlpack__(**options)
        self._require_no_grad("__dlpack__")
        return interchange.to_dlpack(self._array, self.dtype, options)

    def __dlpack_device__(self) -> tuple[int, int]:
        where = self.device
        return (1, 0) if where.type != "cuda" else (2, where.index or 0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if not self.is_cuda:
            raise AttributeError(f"__cuda_array_interface__: the tensor is on {self.device}, not on a GPU.")
        self._require_no_grad("__cuda_array_interface__")
        return interchange.array_interface(self._array, self.dtype)

    def _require_no_grad(self, name: str) -> None:
        if self.requires_grad:
            raise GradError(
                f"{name}: the tensor requires a gradient, and other libraries can not record.", hint="use detach()"
            )

    def item(self) -> Any:
        """The one element as a Python number.

        Raises:
            ShapeError: if there is not exactly one element.
        """
        handle = self._array
        if lib.tl_numel(handle) != 1:
            raise ShapeError(f"item: got a tensor of shape {self.shape}, expected exactly one element.")
        dtype = self.dtype
        if lib.tl_storage_kind(handle) != 2:
            if dtype is dtypes.float32 or dtype is dtypes.float64:
                return lib.tl_item(handle)
            if dtype.category == 1:
                return lib.tl_item_int(handle)
        return self._read().item()

    def tolist(self) -> Any:
        """Nested Python lists of numbers; a number for a 0-d tensor."""
        return self._read().tolist()

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise ShapeError(
                f"bool: a tensor of shape {self.shape} is neither true nor false.", hint="use any() or all()"
            )
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self.dtype.category > 1 or self.numel() != 1:
            raise TypeError(f"index: got a {self.dtype.name} tensor of shape {self.shape}, expected one integer.")
        return int(self.item())

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("iter: a 0-d tensor can not be iterated over.")
        return iter([self[i] for i in range(len(self))])

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __format__(self, spec: str) -> str:
        return (
            format(self.item(), spec)
            if spec and self.ndim == 0
            else format(repr(self) if spec == "" and self.ndim else str(self), spec)
        )

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        from tensorlib.display import text

        return text(self)

    def _repr_html_(self) -> str:
        from tensorlib.display import html

        return html(self)

    def __copy__(self) -> Tensor:
        """Another tensor over the same memory: a leaf of its own, or with the same history."""
        if not self.is_leaf:
            return self.reshape(self.shape)
        made: Tensor = type(self)._rebuild(self, self.requires_grad)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise GradError(
                "deepcopy: only leaf tensors can be copied with their state.", hint="use detach() or clone()"
            )
        made = memo.get(id(self))
        if made is None:
            made = type(self)._rebuild(self.detach().clone(), self.requires_grad)
            memo[id(self)] = made
            if self.grad is not None:
                made.grad = self.grad.detach().clone()
        return made

    @classmethod
    def _rebuild(cls, values: Tensor, requires_grad: bool) -> Any:
        """An instance of this class over the memory of `values`, as copying and unpickling need it."""
        made = _new(cls)
        made._array = lib.tl_detach(values._array)
        return made.requires_grad_(requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not self.is_leaf:
            raise GradError("pickle: a tensor with history can not be pickled.", hint="use detach()")
        values = np.ascontiguousarray(self._read()).reshape(self.shape)
        return _from_pickle, (type(self), values, self.dtype.name, str(self.device), self.requires_grad)


def _from_pickle(cls: Any, array: Any, dtype: str, where: str, requires_grad: bool) -> Any:
    from tensorlib.ops.creation import tensor

    return cls._rebuild(tensor(array, dtype=dtypes.BY_NAME[dtype], device=where), requires_grad)


def _no_grad() -> Any:
    from tensorlib.autograd.modes import no_grad

    return no_grad()


def wrap(handle: int) -> Tensor:
    """A Tensor that owns `handle` from now on."""
    t: Tensor = _new(Tensor)
    t._array = handle
    return t


def wrap_gradient(handle: int) -> Tensor:
    """The same for a gradient, which may be row-sparse."""
    kind = (
        getattr(OBJECTS[lib.tl_storage_token(handle)], "tensor_class", Tensor)
        if lib.tl_storage_kind(handle) == FOREIGN
        else Tensor
    )
    t: Tensor = _new(kind)
    t._array = handle
    return t


def wrap_checked(handle: int, name: str, *operands: Tensor) -> Tensor:
    """A Tensor over the handle an operation returned, or the exception that says why it returned none."""
    if not handle:
        raise_status(name, operands[0].shape if operands else None)
    return wrap(handle)
