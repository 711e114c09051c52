"""The stand-in's ndarray, ufuncs and functions: NumPy's, on arrays that are not NumPy's, and no more than CuPy has (names.txt)."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from . import memory
from .memory import MemoryPointer, UnownedMemory
from .names import read
from .streams import capturing, current_device_id, host_copy, perform, refuse

__all__ = ["NAMES", "Ufunc", "array", "fill_module", "ndarray", "wrap"]

NAMES = read()
KINDS = "?bBhHiIlLqQefdFD"
NOT_IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)
WRITES = {
    "copyto",
    "put",
    "place",
    "putmask",
    "fill_diagonal",
    "put_along_axis",
    "ndarray.sort",
    "ndarray.partition",
}  # and return nothing
FROM_HOST = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"}  # take what lies in main memory
TO_HOST = {"allclose", "array_equal", "array_equiv"}  # NumPy gives Python's bool, CuPy an array
SIZE_DEPENDS_ON_VALUES = {
    "argwhere", "bincount", "compress", "delete", "extract", "flatnonzero", "histogram", "histogram2d", "histogramdd", "intersect1d",
    "nonzero", "setdiff1d", "setxor1d", "trim_zeros", "union1d", "unique",
}  # fmt: skip
AT = {
    "add": "eifdILQFD",
    "subtract": "eifdILQFD",
    "maximum": "ifdILQ",
    "minimum": "ifdILQ",
}  # ufuncs with `at`, and for which types


# ---- between the two kinds of array ----
def inner(x: Any, *, host: bool = False) -> Any:
    """NumPy's side of what a function was given. What lies in main memory is not taken."""
    if isinstance(x, ndarray):
        if x.data.device_id != current_device_id() and x.size:
            raise ValueError(
                f"Array device must be same as the current device: array device = {x.data.device_id} while current = {current_device_id()}"
            )
        return x._np
    if isinstance(x, np.ndarray) and not host:
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, (list, tuple)) and any(isinstance(y, (ndarray, np.ndarray, list, tuple, slice)) for y in x):
        return type(x)(inner(y, host=host) for y in x)
    if isinstance(x, slice) and any(isinstance(y, ndarray) for y in (x.start, x.stop, x.step)):
        return slice(*(y if y is None else operator.index(y) for y in (x.start, x.stop, x.step)))
    return x


def wrap(a: np.ndarray[Any, Any]) -> ndarray:
    """An array over memory of a device, or a copy there of one that lies in main memory."""
    if a.dtype.char not in KINDS:
        raise ValueError(f"Unsupported dtype {a.dtype}")
    there = memory.find(a.ctypes.data) if a.size else None
    made = ndarray.__new__(ndarray)
    if there is not None and there.device_id >= 0:
        made._np, made.data = a, MemoryPointer(there, a.ctypes.data - there.ptr)
        made._owns = False
        return made
    order = "F" if a.ndim > 1 and a.flags.f_contiguous and not a.flags.c_contiguous else "C"
    ndarray.__init__(made, a.shape, a.dtype, order=order)
    made._np[...] = a
    return made


def outcome(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return wrap(value)
    if isinstance(value, np.generic):
        return wrap(np.asarray(value))
    if isinstance(value, (tuple, list)) and any(isinstance(v, (np.ndarray, np.generic)) for v in value):
        made = [outcome(v) for v in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return value


def _quiet(compute: Callable[[], Any]) -> Any:
    with np.errstate(all="ignore"):
        return compute()


def run(compute: Callable[[], Any], out: Any = None) -> Any:
    """The result of a computation on devices. On a stream that captures: memory for it, filled when the graph is launched."""
    if out is not None:
        perform(lambda: _quiet(compute))
        return out
    value = _quiet(compute)
    made = outcome(value)
    graph = capturing()
    if graph is not None and value is not None:
        pairs = list(zip(value, made, strict=True)) if isinstance(value, (tuple, list)) else [(value, made)]
        fresh = [isinstance(m, ndarray) and m._owns for _, m in pairs]
        for (_, m), f in zip(pairs, fresh, strict=True):
            if f:
                m._np.reshape(-1).view(np.uint8)[:] = 0xFF if m.flags.c_contiguous else 0
        if any(fresh):

            def again() -> None:
                values = _quiet(compute)
                values = values if isinstance(values, (tuple, list)) else (values,)
                for v, (_, m), f in zip(values, pairs, fresh, strict=True):
                    if f:
                        m._np[...] = v

            perform(again)
    return made


# ---- arguments ----
def _parameters(name: str) -> list[str] | None:
    what = NAMES.get(name, ": value")
    return what.strip("()").split() if what.startswith("(") else None


def checked(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    known = _parameters(name)
    if known is None:
        return
    unknown = [k for k in kwargs if k not in known]
    if unknown:
        raise TypeError(f"{name}() got an unexpected keyword argument {unknown[0]!r}")
    if not any(k.startswith("*") for k in known) and len(args) > len(known):
        raise TypeError(f"{name}() takes {len(known)} positional arguments but {len(args)} were given")


# What CuPy's own refusal keeps out of captures; tensorlib/gpu/cublas.py is how products get in.
BY_CUBLAS = {f"cupy.{name}" for name in ("dot", "einsum", "inner", "matmul", "tensordot", "vdot")}


def _floating(args: tuple[Any, ...]) -> bool:
    return any(isinstance(a, ndarray) and a.dtype.kind in "fc" for a in args)


def call(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """NumPy's function under CuPy's name."""
    if capturing() is not None and name in BY_CUBLAS and _floating(args):
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    checked(name, args[name.startswith("cupy.ndarray.") :], kwargs)
    short = name.rpartition(".")[2]
    if short in SIZE_DEPENDS_ON_VALUES or (short == "where" and len(args) == 1):
        refuse(f"{short}: the size of the result depends on values")
    if short == "repeat" and any(isinstance(a, ndarray) for a in (*args[1:2], kwargs.get("repeats"))):
        raise ValueError("cupy.repeat does not take an array of repeats")
    kwargs = {k: v for k, v in kwargs.items() if k not in ("blocking", "stream")}
    out = kwargs.get("out")
    given = [inner(a, host=isinstance(a, np.ndarray) and not a.ndim and short == "full") for a in args]
    named = {k: inner(v) for k, v in kwargs.items()}
    if short in WRITES or name.removeprefix("cupy.") in WRITES:
        run(lambda: function(*given, **named), out=True)
        return None
    made = run(lambda: function(*given, **named), out)
    return wrap(np.asarray(made)) if short in TO_HOST else made


class _Function:
    """A function of a module."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.__name__, self._full, self._function = name.rpartition(".")[2], name, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call(self._full, self._function, args, kwargs)

    def __repr__(self) -> str:
        return f"<stand-in for {self._full}>"


class Ufunc:
    """A ufunc: CuPy's loops decide which types are served and what comes out."""

    def __init__(self, name: str, words: str, function: np.ufunc | Callable[..., Any]) -> None:
        nin, nout, *types = words.split()
        self.__name__ = self.name = "cupy_" + name
        self._short, self._function = name, function
        self.nin, self.nout, self.types = int(nin), int(nout), types

    def _loop(self, given: list[Any]) -> tuple[str, str]:
        arrays = [a.dtype for a in given if isinstance(a, np.ndarray)]
        for loop in self.types:
            ins, _, outs = loop.partition("->")
            if all(np.can_cast(a, c, "safe") for a, c in zip(arrays, _of_arrays(ins, given), strict=True)) and all(
                _fits(x, c) for x, c in zip(given, ins, strict=True)
            ):
                return ins, outs
        raise TypeError(
            f"Wrong type ({', '.join(str(getattr(a, 'dtype', type(a))) for a in given)}) of arguments for {self.name}"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        known = {"out", "dtype", "casting", "where"}
        unknown = [k for k in kwargs if k not in known]
        if unknown:
            raise TypeError(f"Wrong arguments {kwargs}")
        if len(args) > self.nin:
            kwargs["out"] = args[self.nin] if self.nout == 1 else args[self.nin :]
            args = args[: self.nin]
        given = [inner(a) for a in args]
        named = {k: inner(v) for k, v in kwargs.items() if v is not None}
        if "dtype" in named:
            return run(lambda: self._function(*given, **named), kwargs.get("out"))
        _, outs = self._loop(given)
        if "out" in named:
            return run(lambda: self._function(*given, **named), kwargs["out"])

        def compute() -> Any:
            made = self._function(*given, **named)
            several = made if isinstance(made, tuple) else (made,)
            fixed = tuple(m if self._keeps(m, c) else np.asarray(m, c) for m, c in zip(several, outs, strict=True))
            return fixed if isinstance(made, tuple) else fixed[0]

        return run(compute)

    def _keeps(self, made: Any, loop: str) -> bool:
        return bool(np.dtype(loop).kind == made.dtype.kind or made.dtype.kind == "b")

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self._short not in AT:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        if np.dtype(a.dtype).char.replace("l", "q") not in AT[self._short]:
            raise TypeError(f"{self.name}.at does not serve {a.dtype}")
        key, value = wrapped_key(a, indices), inner(b)
        value = value.astype(a.dtype) if isinstance(value, np.ndarray) else value
        perform(lambda: _quiet(lambda: self._function.at(inner(a), key, value)))  # type: ignore[union-attr]

    def _of_add_and_multiply(self, names: dict[str, str], *args: Any, **kwargs: Any) -> Any:
        name = names.get(self._short)
        if name is None:
            raise NotImplementedError(f"this method of {self.name} is not supported yet")
        array, *rest = args
        kwargs.setdefault("axis", rest.pop(0) if rest else 0)
        return getattr(array, name)(*rest, **kwargs)

    def reduce(self, *args: Any, **kwargs: Any) -> Any:
        return self._of_add_and_multiply({"add": "sum", "multiply": "prod"}, *args, **kwargs)

    def accumulate(self, *args: Any, **kwargs: Any) -> Any:
        return self._of_add_and_multiply({"add": "cumsum", "multiply": "cumprod"}, *args, **kwargs)

    def outer(self, a: Any, b: Any, **kwargs: Any) -> Any:
        return self(a[(..., *(None,) * b.ndim)], b, **kwargs)


def _of_arrays(ins: str, given: list[Any]) -> list[str]:
    return [c for c, a in zip(ins, given, strict=True) if isinstance(a, np.ndarray)]


def _fits(x: Any, loop: str) -> bool:
    """A scalar only needs a loop of its kind or a higher one."""
    if isinstance(x, np.ndarray):
        return True
    if isinstance(x, np.generic):
        return bool(np.can_cast(x.dtype, loop, "same_kind"))
    order = "?iufc"
    kind = {bool: "?", int: "i", float: "f", complex: "c"}.get(type(x))
    if kind is None:
        raise TypeError(f"Unsupported type {type(x)}")
    there = np.dtype(loop).kind.replace("b", "?").replace("u", "i")
    return order.index(there) >= order.index(kind)


# ---- indexing ----
def wrapped_key(a: ndarray, key: Any) -> Any:
    """NumPy's key for CuPy's: integer arrays wrap around at an axis' end; whoever indexes by a mask waits for the device."""
    keys = [*key] if isinstance(key, tuple) else [key]
    for i, k in enumerate(keys):
        if isinstance(k, (list, np.ndarray)):
            refuse("an index from main memory")
            keys[i] = np.asarray(k, np.int64 if not np.size(k) else None)
        elif isinstance(k, (slice, ndarray)):
            keys[i] = inner(k)
            if isinstance(k, ndarray) and k.dtype == bool:
                refuse("an index by a mask: the size of the result depends on values")
    used = sum(
        k.ndim if isinstance(k, np.ndarray) and k.dtype == bool else k is not None and k is not Ellipsis for k in keys
    )
    axis, made = 0, []
    for k in keys:
        if k is None:
            made.append(k)
            continue
        if k is Ellipsis:
            made.append(k)
            axis += a.ndim - used
            continue
        if isinstance(k, np.ndarray) and k.dtype.kind in "iu" and axis < a.ndim:
            made.append(_Wrapping(k, a.shape[axis]) if capturing() is not None else k % max(a.shape[axis], 1))
        else:
            made.append(k)
        axis += k.ndim if isinstance(k, np.ndarray) and k.dtype == bool else 1
    return tuple(made) if isinstance(key, tuple) else made[0]


class _Wrapping:
    """An index array whose values count when the graph is launched."""

    def __init__(self, values: np.ndarray[Any, Any], size: int) -> None:
        self.values, self.size = values, max(size, 1)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.values % self.size)


class _Flags(SimpleNamespace):
    def __getitem__(self, name: str) -> bool:
        return bool(
            getattr(self, {"C_CONTIGUOUS": "c_contiguous", "F_CONTIGUOUS": "f_contiguous", "OWNDATA": "owndata"}[name])
        )


class ndarray:
    """An array on a device. `_np` is NumPy's view of the same memory, for the stand-in alone."""

    __array_ufunc__ = None  # NumPy's functions and operators do not take it
    __array_priority__ = 100
    _np: np.ndarray[Any, Any]
    _owns: bool
    data: MemoryPointer
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"
    ) -> None:
        kind = np.dtype(dtype)
        if kind.char not in KINDS:
            raise ValueError(f"Unsupported dtype {kind}")
        shape = (
            (operator.index(shape),) if np.ndim(shape) == 0 and not isinstance(shape, (tuple, list)) else tuple(shape)
        )
        self._owns = memptr is None
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        self.data = memory.alloc(nbytes) if memptr is None else memptr
        strides = None if strides is None else tuple(strides)
        if not nbytes:
            self._np = np.empty(shape, kind, order="F" if order == "F" else "C")
        else:
            room = self.data.mem.bytes
            self._np = np.ndarray(
                shape, kind, room, self.data.ptr - self.data.mem.ptr, strides, order="F" if order == "F" else "C"
            )

    # -- what it is --
    def _told(name: str) -> Any:  # type: ignore[misc]
        return property(lambda self: getattr(self._np, name))

    shape, dtype, size, ndim, itemsize, nbytes = map(_told, ("shape", "dtype", "size", "ndim", "itemsize", "nbytes"))
    strides = _told("strides")

    @shape.setter
    def shape(self, shape: Any) -> None:
        self._np = self._np.reshape(shape)

    @property
    def base(self) -> Any:
        return None if self._owns else self.data.mem

    @property
    def flags(self) -> _Flags:
        f = self._np.flags
        return _Flags(
            c_contiguous=f.c_contiguous, f_contiguous=f.f_contiguous, owndata=self._owns, fnc=f.fnc, forc=f.forc
        )

    @property
    def device(self) -> Any:
        return self.data.device

    @property
    def flat(self) -> Any:
        return self.ravel()

    @property
    def T(self) -> ndarray:
        return self.transpose()

    @property
    def real(self) -> ndarray:
        return wrap(self._np.real) if self.dtype.kind == "c" else self

    @real.setter
    def real(self, value: Any) -> None:
        self.real[...] = value

    @property
    def imag(self) -> ndarray:
        return wrap(self._np.imag)

    @imag.setter
    def imag(self, value: Any) -> None:
        self.imag[...] = value

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        from .streams import get_current_stream

        strides = None if self._np.flags.c_contiguous else self.strides
        ptr = get_current_stream().ptr
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.data.ptr, False), "strides": strides, "version": 3,
            "stream": ptr or 1, "descr": self.dtype.descr,
        }  # fmt: skip

    # -- towards the host --
    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        if blocking:
            refuse("a copy to the host")
        if out is not None:
            host_copy(out, self._np, stream)
            return out
        refuse("a copy to pageable memory")
        return self._np.copy(order="C" if order == "A" else order)  # type: ignore[arg-type]

    def set(self, arr: np.ndarray[Any, Any], stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError(
                f"{arr.dtype} array of shape {arr.shape} cannot be set to {self.dtype} array of shape {self.shape}"
            )
        host_copy(self._np, arr, stream)

    def _read(self, what: str) -> np.ndarray[Any, Any]:
        refuse(what)
        return self._np

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(NOT_IMPLICIT)

    def __array_function__(self, *args: Any) -> Any:
        raise TypeError("the stand-in takes no NumPy function on a device's array")

    def __bool__(self) -> bool:
        return bool(self._read("bool"))

    def __int__(self) -> int:
        return int(self._read("int"))

    def __float__(self) -> float:
        return float(self._read("float"))

    def __complex__(self) -> complex:
        return complex(self._read("complex"))

    def __index__(self) -> int:
        return operator.index(self._read("index")[()])

    def __repr__(self) -> str:
        return repr(self._read("repr"))

    def item(self) -> Any:
        return self._read("item").item()

    def tolist(self) -> Any:
        return self._read("tolist").tolist()

    def tobytes(self, order: Any = "C") -> bytes:
        return self._read("tobytes").tobytes(order)

    def __contains__(self, x: object) -> bool:
        return bool((self == x).any())

    # -- indexing --
    def __len__(self) -> int:
        return len(self._np)

    def __iter__(self) -> Iterator[ndarray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        inner(self)
        key = wrapped_key(self, key)
        if capturing() is None:
            return run(lambda: self._np[key])
        return run(lambda: self._np[_now(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        inner(self)
        key = wrapped_key(self, key)
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        given = inner(value, host=True)
        if isinstance(given, (list, tuple)):
            raise TypeError("a sequence can not be assigned to a device's array")
        perform(lambda: _quiet(lambda: self._np.__setitem__(_now(key), given)))

    # -- copies and views --
    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        return wrap(self._np.view() if dtype is None else self._np.view(dtype))

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        kind = np.dtype(dtype)
        if kind.char not in KINDS:
            raise ValueError(f"Unsupported dtype {kind}")
        if not copy and kind == self.dtype:
            return self
        given = inner(self)
        made: ndarray = run(lambda: given.astype(kind, order))
        return made

    def copy(self, order: str = "C") -> ndarray:
        given = inner(self)
        made: ndarray = run(lambda: given.copy(order))
        return made

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def __reduce__(self) -> Any:
        return array, (self.get(),)

    def reduced_view(self, dtype: Any = None) -> ndarray:
        return self.reshape(-1) if self.flags.c_contiguous else self

    def fill(self, value: Any) -> None:
        self[...] = value

    def scatter_add(self, slices: Any, value: Any) -> None:
        UFUNCS["add"].at(self, slices, value)

    def scatter_max(self, slices: Any, value: Any) -> None:
        UFUNCS["maximum"].at(self, slices, value)

    def scatter_min(self, slices: Any, value: Any) -> None:
        UFUNCS["minimum"].at(self, slices, value)

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        return Capsule(self.copy() if copy else self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.data.device_id


class Capsule:
    """In place of DLPack's: taken once."""

    def __init__(self, array: ndarray) -> None:
        self.array: ndarray | None = array


def from_dlpack(array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    capsule = array.__dlpack__(stream=1, max_version=(1, 0))
    taken, capsule.array = capsule.array, None
    return taken.view()


def _now(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(np.asarray(k) if isinstance(k, _Wrapping) else k for k in key)
    return np.asarray(key) if isinstance(key, _Wrapping) else key


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        if name == "copy":
            return ndarray.copy(self, *args)
        return call("cupy.ndarray." + name, lambda *a, **k: function(*a, **k), (self, *args), kwargs)

    method.__name__ = name
    return method


def array(
    obj: Any,
    dtype: Any = None,
    copy: bool = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    """The object on the current device."""
    if isinstance(obj, ndarray):
        given = inner(obj)
        if not copy and (dtype is None or np.dtype(dtype) == obj.dtype) and ndmin <= obj.ndim:
            return obj
        made: ndarray = run(lambda: np.array(given, dtype, ndmin=ndmin, order=order))  # type: ignore[call-overload]
        return made
    if isinstance(obj, (list, tuple)) and any(isinstance(x, ndarray) for x in obj):
        parts = [array(x, dtype) for x in obj]
        stacked: ndarray = run(lambda: np.stack([p._np for p in parts]))
        return stacked
    interface = getattr(obj, "__cuda_array_interface__", None)
    if interface is not None:
        shape, kind = interface["shape"], np.dtype(interface["typestr"])
        mem = UnownedMemory(
            interface["data"][0], 1 << 30 if interface.get("strides") else int(np.prod(shape)) * kind.itemsize, obj
        )
        return array(ndarray(shape, kind, MemoryPointer(mem, 0), interface.get("strides")), dtype, copy)
    values = np.array(obj, dtype, ndmin=ndmin)
    if values.dtype.char not in KINDS:
        raise ValueError(f"Unsupported dtype {values.dtype}")
    fresh = ndarray(values.shape, values.dtype)
    if values.size:
        host_copy(
            fresh._np,
            values if not isinstance(obj, np.ndarray) else np.asarray(obj, values.dtype).reshape(values.shape),
        )
    return fresh


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    return array(a, dtype, copy=bool(copy))


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    made = asarray(a, dtype)
    made = made if made.flags.c_contiguous else made.copy()
    return made if made.ndim else made.reshape(1)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return ndarray(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def get_array_module(*args: Any) -> Any:
    import sys

    return sys.modules["cupy"] if any(isinstance(a, ndarray) for a in args) else np


UFUNCS: dict[str, Ufunc] = {}
OWN = {
    f.__name__: f
    for f in (array, asarray, ascontiguousarray, asnumpy, empty, empty_like, from_dlpack, get_array_module)
}
OWN["asanyarray"] = asarray


def fill_module(module: ModuleType | SimpleNamespace, name: str, source: Any) -> None:
    """Enter into a module what CuPy's module of that name has, as NumPy has it."""
    for full, what in NAMES.items():
        place, _, short = full.rpartition(".")
        if place != name or hasattr(module, short):
            continue
        found = getattr(source, short, None)
        if name == "cupy" and short in OWN:
            found = OWN[short]
        elif what.startswith(": ufunc"):
            if found is None:
                continue
            found = UFUNCS[short] = Ufunc(short, what.removeprefix(": ufunc"), found)
        elif what.startswith("(") and callable(found):
            found = _Function(full, found)
        elif found is None and short != "newaxis":
            continue
        setattr(module, short, found)


def _give_methods() -> None:
    for full, what in NAMES.items():
        place, _, short = full.rpartition(".")
        if (
            place == "cupy.ndarray"
            and what.startswith("(")
            and short not in ndarray.__dict__
            and hasattr(np.ndarray, short)
        ):
            setattr(ndarray, short, _method(short))


_BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide", "mod": "remainder",
    "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift",
    "matmul": "matmul", "divmod": "divmod",
}  # fmt: skip
_COMPARED = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
_UNARY = {"neg": "negative", "invert": "invert", "abs": "absolute"}


def give_operators(module: Any) -> None:
    def binary(name: str, reverse: bool = False, into: bool = False) -> Callable[..., Any]:
        def method(self: ndarray, other: Any) -> Any:
            if other is None or isinstance(other, (str, list, tuple)):
                return NotImplemented
            function = getattr(module, name)
            if into:
                function(self, other, out=self)
                return self
            return function(other, self) if reverse else function(self, other)

        return method

    for short, name in {**_BINARY, **_COMPARED}.items():
        setattr(ndarray, f"__{short}__", binary(name))
        if short in _BINARY:
            setattr(ndarray, f"__r{short}__", binary(name, reverse=True))
            setattr(ndarray, f"__i{short}__", binary(name, into=True))
    for short, name in _UNARY.items():
        setattr(ndarray, f"__{short}__", functools.partialmethod(lambda self, n: getattr(module, n)(self), name))
    ndarray.__pos__ = ndarray.copy  # type: ignore[attr-defined]


_give_methods()
