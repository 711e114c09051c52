"""How entries become functions: the fast path of one C call, and the slow path that promotes, runs the reference and words errors.

The closures made here are the library's hot path. Each reads the caller's line, makes one call with the operands' handles and wraps what
comes back; whatever is unusual (a scalar of another kind, an array of NumPy's, another dtype or device, a bad shape) ends in `run`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tensorlib import dtypes
from tensorlib.backends import FOREIGN, NATIVE, backend
from tensorlib.device import CPU, Device
from tensorlib.dtypes import PROMOTION, DType, result_category
from tensorlib.errors import DeviceError, DTypeError, ShapeError, TensorlibError
from tensorlib.lines import KNOWN, here
from tensorlib.native import OBJECTS, ffi, lib
from tensorlib.ops import rules
from tensorlib.ops.recording import record
from tensorlib.ops.rows import RowMethods, run_by_rows
from tensorlib.ops.table import NATIVE_NUMBERS, TABLE, Op, register
from tensorlib.status import DECLINE, INFERENCE, NOMEM, OK, checked, raise_status
from tensorlib.tensor import Tensor, wrap

_frame, _new, _line_of = sys._getframe, object.__new__, KNOWN.get
_unary, _binary, _scalar, _ternary = lib.tl_unary, lib.tl_binary, lib.tl_binary_scalar, lib.tl_ternary
Function = TypeVar("Function", bound=Callable[..., Any])
NULL = ffi.NULL
REAL = 2  # how a number stands beside a tensor, for C: as a float; 1: it comes first
EXACT = 2**53  # integers up to here are exact as the double that C takes


# ---- fast paths: one closure an arity, its parameters named as PyTorch's ----
def _fast_unary(op: Op) -> Callable[..., Any]:
    number = op.number

    def call(input: Any) -> Any:
        frame = _frame(1)
        line = _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)
        try:
            handle = _unary(number, input._array, line)
        except AttributeError:
            handle = 0
        if handle:
            t: Tensor = _new(Tensor)
            t._array = handle
            return t
        return run(op, (input,), {}, line)

    return call


def _fast_binary(op: Op) -> Callable[..., Any]:
    number = op.number

    def call(input: Any, other: Any) -> Any:
        frame = _frame(1)
        line = _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)
        kind = type(other)
        try:
            if kind is float:
                handle = _scalar(number, input._array, other, REAL, line)
            elif kind is int and -EXACT <= other <= EXACT:
                handle = _scalar(number, input._array, other, 0, line)
            else:
                handle = _binary(number, input._array, other._array, line)
        except AttributeError:
            handle = 0
        if handle:
            t: Tensor = _new(Tensor)
            t._array = handle
            return t
        return run(op, (input, other), {}, line)

    return call


def _fast_ternary(op: Op) -> Callable[..., Any]:
    number = op.number

    def call(input: Any, end: Any, weight: Any) -> Any:  # lerp's, the one that has no public function of its own
        frame = _frame(1)
        line = _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)
        try:
            handle = _ternary(number, input._array, end._array, weight._array, line)
        except AttributeError:
            handle = _ternary_scalars(number, (input, end, weight), line)
        return wrap(handle) if handle else run(op, (input, end, weight), {}, line)

    return call


def _ternary_scalars(number: int, operands: tuple[Any, ...], line: int) -> int:
    """The kernel on Python numbers beside float32 or float64 tensors, as in clamp(x, -1, 1) and where(m, g, 0). 0: not served."""
    last = next((x for x in reversed(operands) if isinstance(x, Tensor)), None)
    dtype = dtypes.ALL[lib.tl_dtype_of(last._array)] if last is not None else None
    if dtype is not dtypes.float32 and dtype is not dtypes.float64:
        return 0
    tensors = []
    for x in operands:
        if type(x) is float or (type(x) is int and -EXACT <= x <= EXACT):
            x = _number(x, dtype)
        elif not isinstance(x, Tensor):
            return 0
        tensors.append(x)
    a, b, c = tensors
    return int(_ternary(number, a._array, b._array, c._array, line))


def _number(x: float, dtype: DType) -> Tensor:
    """A real number that a double holds exactly, as an operand: in main memory, wherever the others are."""
    made = wrap(checked(lib.tl_new_filled(dtype.number, 0, NULL, x), "scalar", ()))
    lib.tl_mark_number(made._array)
    return made


_FAST = {1: _fast_unary, 2: _fast_binary, 3: _fast_ternary}


_SPARSE_TOO = ("add", "sub")  # with a row-sparse tensor behind a dense one: that tensor's own


def operator(op: Op, *, reverse: bool = False) -> Callable[[Tensor, Any], Any]:
    """The method behind a Python operator: as the function, but foreign operands get their own say (NotImplemented)."""
    fast, number, real = _FAST[2](op) if op.number in BINARY_NUMBERS else None, op.number, REAL | reverse

    def slow(a: Tensor, b: Any, line: int) -> Any:
        if not isinstance(b, OPERANDS) or (op.name in _SPARSE_TOO and getattr(b, "is_sparse", False)):
            return NotImplemented
        return run(op, (b, a) if reverse else (a, b), {}, line)

    def call(a: Tensor, b: Any) -> Any:
        frame = _frame(1)
        line = _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)
        kind = type(b)
        if kind is float:
            handle = _scalar(number, a._array, b, real, line)
        elif kind is int and -EXACT <= b <= EXACT:
            handle = _scalar(number, a._array, b, reverse, line)
        elif reverse:
            handle = 0
        else:
            try:
                handle = _binary(number, a._array, b._array, line)
            except AttributeError:
                handle = 0
        if handle:
            t: Tensor = _new(Tensor)
            t._array = handle
            return t
        return slow(a, b, line)

    def plain(a: Tensor, b: Any) -> Any:
        return slow(a, b, here(_frame(1)))

    return call if fast else plain


def inplace_operator(op: Op) -> Callable[[Tensor, Any], Tensor]:
    """``x.name_(other)`` and ``x op= other`` of an elementwise operation with a kernel."""
    number, into, scalar_into = op.number, lib.tl_binary_inplace, lib.tl_binary_scalar_inplace

    def call(x: Tensor, other: Any) -> Tensor:
        frame = _frame(1)
        line = _line_of((id(frame.f_code), frame.f_lasti)) or here(frame)
        kind = type(other)
        try:
            if kind is float:
                done = scalar_into(number, x._array, other, REAL, line)
            elif kind is int and -EXACT <= other <= EXACT:
                done = scalar_into(number, x._array, other, 0, line)
            else:
                done = into(number, x._array, other._array, line)
        except AttributeError:
            done = False
        if not done:
            assign_(x, run(op, (x, other), {}, line), op.name + "_", line)
        return x

    return call


# ---- writing in place ----
def assign_(x: Tensor, result: Tensor, name: str = "assign_", line: int = 0) -> Tensor:
    """x := result, values and history. The result must have x's shape; x keeps its dtype where that loses no category."""
    line = line or here(_frame(1))
    if result.shape != x.shape:
        raise ShapeError(f"{name}: the result has shape {result.shape}, which does not fit into {x.shape}.")
    if result.dtype is not x.dtype:
        if result.dtype.category > x.dtype.category:
            raise DTypeError(
                f"{name}: the result is {result.dtype.name}, which can not be stored in a {x.dtype.name} tensor."
            )
        result = to_dtype(result, x.dtype)
    if not lib.tl_assign(x._array, result._array, line):
        if lib.tl_status() != DECLINE or lib.tl_detail(0):
            raise_status(name, x.shape)
        _assign_elsewhere(x, result, name, line)
    return x


def _assign_elsewhere(x: Tensor, result: Tensor, name: str, line: int) -> None:
    """The same on a device of an array module."""
    if x.device != result.device:
        raise DeviceError(f"{name}: the tensor is on {x.device}, the value on {result.device}.")
    there = backend(x.device)
    # For a gradient that reads x as it was.
    before = wrap(there.adopt(there.view(x._array, x.dtype), x.dtype)) if result.requires_grad else result
    if not lib.tl_assigning(x._array, result._array, before._array):
        raise_status(name, x.shape)
    there.assign(x._array, result._array)
    lib.tl_written(x._array, line)
    lib.tl_rewrite_history(x._array, result._array, line)


def fill_elsewhere(x: Tensor, number: Tensor, line: int) -> None:
    """x := a number of its dtype in main memory, on a device of an array module."""
    if not lib.tl_assigning(x._array, 0, 0):
        raise_status("fill_", x.shape)
    backend(x.device).write(x._array, x.dtype, number._read()[()])
    lib.tl_written(x._array, line)
    lib.tl_rewrite_history(x._array, 0, line)


# ---- the slow path ----
NUMBERS = (bool, int, float, complex, np.generic)
OPERANDS = (Tensor, np.ndarray, *NUMBERS)
BINARY_NUMBERS: set[int] = set()
_WORDS = {"x": "input", "y": "other"}  # what users call an entry's operands


def common_dtype(operands: Sequence[Any]) -> DType:
    """Promotion of tensors and Python scalars: a 0-d tensor, and more so a scalar, only raises the category of what has dimensions."""
    full: DType | None = None
    zero: DType | None = None
    scalar = -1
    for x in operands:
        if isinstance(x, Tensor):
            if x.ndim:
                full = x.dtype if full is None else PROMOTION[full, x.dtype]
            else:
                zero = x.dtype if zero is None else PROMOTION[zero, x.dtype]
        else:
            scalar = max(scalar, result_category(x))
    found = full
    if zero is not None and (found is None or zero.category > found.category):
        if found is not None and found.is_floating_point:  # a complex number of the width that x has
            zero = dtypes.complex64
        found = zero if found is None else PROMOTION[found, zero]
    if found is None or scalar > found.category:
        natural = (dtypes.bool_, dtypes.int64, dtypes.default_dtype(), dtypes.complex64)[max(scalar, 0)]
        if scalar == 3 and found is dtypes.float64:
            natural = dtypes.complex128
        return natural
    return found


def to_dtype(x: Tensor, dtype: DType, line: int = 0) -> Tensor:
    """x converted, recorded; x itself where it has the dtype already."""
    if x.dtype is dtype:
        return x
    handle = lib.tl_cast(x._array, dtype.number, line or here(_frame(1)))
    if handle:
        return wrap(handle)
    return run(TABLE["cast"], (x,), {"dtype": dtype}, line or here(_frame(1)))


def _operand(op: Op, name: str, x: Any) -> Any:
    """A Tensor, or a weak Python scalar, from what the user gave."""
    if isinstance(x, Tensor) or type(x) in (bool, int, float, complex):
        return x
    if isinstance(x, np.ndarray):
        from tensorlib.ops.creation import as_tensor

        return as_tensor(x)
    if isinstance(x, np.generic):
        return x.item()
    raise DTypeError(
        f"{op.name}: {_WORDS.get(name, name)} is a {type(x).__name__}, expected a Tensor{'' if op.kind == 'structured' else ' or a number'}."
    )


def _one_device(op: Op, tensors: Sequence[Tensor]) -> Device:
    """Where it runs. A number in a tensor of no dimensions may stay in main memory, as a Python number does."""
    where = next((t.device for t in tensors if t.ndim or t.device != CPU), CPU)
    for t in tensors:
        if t.is_sparse:
            raise DTypeError(
                f"{op.name}: got a row-sparse tensor of shape {t.shape}, expected a dense one.", hint="to_dense() it"
            )
        if t.device != where and (t.ndim or t.device != CPU or t.requires_grad):
            raise DeviceError(f"{op.name}: operands are on {where} and {t.device}.", hint="move one with .to(device)")
    return where


def _placed(op: Op, operands: Sequence[Any]) -> list[Tensor]:
    """Those of the operands that say where it runs."""
    return [x for name, x in zip(op.inputs, operands, strict=True) if isinstance(x, Tensor) and name not in op.host]


def run(op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any], line: int = 0) -> Any:
    """Any operation on any operands: promote, try the kernel again, else the reference; record."""
    line = line or here(_frame(1))
    if lib.tl_status() not in (OK, DECLINE):
        _raise_if_final(op, inputs)
    if op.kind == "elementwise" and (made := _on_one_gpu(op, inputs, attrs, line)) is not None:
        return made
    ragged = next((x for x in inputs if isinstance(x, RowMethods)), None)
    if ragged is not None:
        return run_by_rows(op, ragged, inputs, attrs)
    if op.autocast and lib.tl_autocast_dtype():
        from tensorlib.ops.precision import autocasted

        made = autocasted(op, inputs, attrs, line)
        if made is not None:
            return made
    given = list(inputs[0]) if op.variadic else list(inputs)
    names = op.inputs * len(given) if op.variadic else op.inputs
    operands = [
        None if x is None and op.kind != "elementwise" else _operand(op, name, x)
        for name, x in zip(names, given, strict=True)
    ]
    tensors = [x for x in operands if isinstance(x, Tensor)]
    if not tensors:
        from tensorlib.ops.creation import tensor

        tensors = [tensor(x) for x in operands if x is not None]
        operands = [*tensors]
    where = _one_device(op, tensors if not op.host else _placed(op, operands))
    common = common_dtype([x for x in operands if x is not None])
    compute, result = op.dtype(common)
    if op.kind == "elementwise":
        _check_broadcast(op, tensors)
    operands = [
        _converted(
            x,
            dtypes.bool_ if name == "condition" else compute or common,
            keep_dtype=compute is None,
            line=line,
        )
        for name, x in zip(names, operands, strict=False)
    ]
    if where != CPU:
        if op.kind != "elementwise":  # whose lanes take numbers as they are
            operands = [
                x if x is None or x.device == where or name in op.host else x.to(where)
                for name, x in zip(names, operands, strict=False)
            ]
    elif handle := retry(op, operands, line):
        return wrap(handle)
    return _reference(op, operands, attrs, result, where, line)


def _on_one_gpu(op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any], line: int) -> Any:
    """An elementwise operation on floats of one dtype and GPU, and Python's numbers: nothing is to be promoted. None: not that."""
    where, dtype = None, -1
    for x in inputs:
        if isinstance(x, Tensor):
            handle = x._array
            if lib.tl_storage_kind(handle) != FOREIGN:
                return None
            found = OBJECTS[lib.tl_storage_token(handle)][0]
            if where is None:
                where, dtype = found, lib.tl_dtype_of(handle)
            elif where is not found or dtype != lib.tl_dtype_of(handle):
                return None
        elif type(x) is not float and (type(x) is not int or not -EXACT <= x <= EXACT):
            return None
    if where is None or where.type != "cuda" or not dtypes.ALL[dtype].is_floating_point or backend(where).away():
        return None
    operands = [x if isinstance(x, Tensor) else _number(x, dtypes.ALL[dtype]) for x in inputs]
    try:
        return _lane(op, operands, attrs, line)
    except ValueError:  # shapes that do not broadcast: `run` words it
        return None


def _raise_if_final(op: Op, inputs: tuple[Any, ...]) -> None:
    """C's last word was an error that no other path can mend (memory, a forbidden write)."""
    first = next((x for x in inputs if isinstance(x, Tensor)), None)
    if lib.tl_status() in (NOMEM, INFERENCE):
        raise_status(op.name, first.shape if first is not None else None)
    lib.tl_clear_status()


def _check_broadcast(op: Op, tensors: Sequence[Tensor]) -> None:
    shapes = [t.shape for t in tensors]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(str(s) for s in shapes)
        raise ShapeError(
            f"{op.name}: shapes {listed} do not broadcast; expected sizes that are equal or 1, compared from the last."
        ) from None


def _converted(x: Any, dtype: DType, *, keep_dtype: bool, line: int) -> Any:
    if x is None:
        return None
    if isinstance(x, Tensor):
        return x if keep_dtype or x.dtype is dtype else to_dtype(x, dtype, line)
    from tensorlib.ops.creation import full

    made = full((), x, dtype=dtype, device=CPU)
    lib.tl_mark_number(made._array)
    return made


def retry(op: Op, operands: Sequence[Any], line: int) -> int:
    """The elementwise kernel, now that dtypes agree."""
    if op.kind != "elementwise" or op.number not in NATIVE_NUMBERS_SET or op.attrs:
        return 0
    handles = [x._array for x in operands]
    if len(handles) == 1:
        return int(_unary(op.number, handles[0], line))
    if len(handles) == 2:
        return int(_binary(op.number, handles[0], handles[1], line))
    return int(_ternary(op.number, handles[0], handles[1], handles[2], line))


def _reference(
    op: Op, operands: Sequence[Any], attrs: dict[str, Any], result: DType | None, where: Device, line: int
) -> Any:
    result = attrs.get("dtype", result)  # a cast's own
    if where.type == "cuda":
        if (there := backend(where)).away():
            with there.visit():
                return _reference(op, operands, attrs, result, where, line)
        made = _lane(op, operands, attrs, line)
        if made is not None:
            return made
    half = next((x.dtype for x in operands if x is not None and x.dtype in HALVES), None)
    if half is not None and where.type == "cpu":
        from tensorlib.ops.precision import widened_kernel

        made = widened_kernel(op, operands, attrs, result, half, line)
        if made is not None:
            return made
    there = backend(where)
    arrays = [None if x is None else _widened(_array_on(where, there, x)) for x in operands]
    try:
        with np.errstate(all="ignore"):
            made = op.ref(there.xp, arrays, **attrs) if op.variadic else op.ref(there.xp, *arrays, **attrs)
    except MemoryError as error:
        from tensorlib.errors import MemoryLimitError

        raise MemoryLimitError(f"{op.name}: could not allocate ({error}).") from None
    except TensorlibError:
        raise
    except TypeError as error:
        found = ", ".join(x.dtype.name for x in operands if x is not None)
        raise DTypeError(f"{op.name}: operands of dtypes {found} are not served: {error}.") from error
    except ValueError as error:
        shapes = ", ".join(str(x.shape) for x in operands if x is not None)
        raise ShapeError(f"{op.name}: operands of shapes {shapes} do not fit: {error}.") from None
    several = len(op.outputs) > 1 or isinstance(made, (tuple, list))
    with np.errstate(all="ignore"):
        outs = [wrap(there.adopt(a, _result_dtype(a, result, half))) for a in (made if several else (made,))]
    record(op, operands, outs, attrs, line)
    return tuple(outs) if several else outs[0]


def _lane(op: Op, operands: Sequence[Any], attrs: dict[str, Any], line: int) -> Any:
    """On a GPU, where it serves: tensorlib/gpu."""
    from tensorlib.gpu import CALL, LANES, Kept

    serve = LANES.get(op.name)
    if serve is None:
        return None
    recording = lib.tl_set_grad_enabled(False)
    outer, CALL.recorded = CALL.recorded, recording and any(isinstance(x, Tensor) and x.requires_grad for x in operands)
    try:
        made = serve(operands, **attrs) if op.variadic else serve(*operands, **attrs)
    finally:
        CALL.recorded = outer
        lib.tl_set_grad_enabled(recording)
    kept = None
    if isinstance(made, Kept):
        made, kept = made.outs, made.kept
    if made is not None:
        record(op, operands, made if isinstance(made, tuple) else (made,), attrs, line, kept)
    return made


def _array_on(where: Device, there: Any, x: Tensor) -> Any:
    if x.device == where:
        return there.view(x._array, x.dtype)
    here = NATIVE.view(x._array, x.dtype)
    return (
        here if x.ndim else there.xp.full((), here[()])
    )  # a `host` input; a number, which becomes an argument of a launch


HALVES = (dtypes.float16, dtypes.bfloat16)


def _widened(array: Any) -> Any:
    """References compute 16-bit floats in float32, so that their sums and steps are as exact as their results can be."""
    return array.astype("float32") if array.dtype == "float16" else array


def _result_dtype(array: Any, result: DType | None, half: DType | None) -> DType | None:
    if result is not None:
        return result
    return half if array.dtype == np.float32 else None


NATIVE_NUMBERS_SET = set(NATIVE_NUMBERS.values())


# ---- declaring ----
def elementwise(
    name: str,
    *,
    inputs: tuple[str, ...] = ("x",),
    ref: Callable[..., Any],
    dtype: rules.DTypeRule = rules.floating,
    partials: tuple[Callable[..., Any] | None, ...] | None = None,
    attrs: tuple[str, ...] = (),
    samples: Any = (),
    errors: Any = (),
    doc: str = "",
    private: bool = False,
) -> Callable[..., Tensor]:
    """Declare an elementwise operation and get its public function. `partials`: d out / d input, or with a parameter `g` the whole gradient."""
    vjp = (
        None
        if partials is None or not any(partials)
        else tuple(None if p is None else _from_partial(p) for p in partials)
    )
    facts: dict[str, Any] = {"samples": samples, "errors": errors, "private": private, "doc": doc}
    op = register(Op(name, inputs, ref, attrs, dtype=dtype, vjp=vjp, kind="elementwise", **facts))
    if op.number in NATIVE_NUMBERS_SET and not attrs:
        if len(inputs) == 2:
            BINARY_NUMBERS.add(op.number)
        call = _FAST[len(inputs)](op)
    else:
        call = _slow(op)
    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    call.__module__ = _frame(1).f_globals["__name__"]
    call.op = op  # type: ignore[attr-defined]
    op.module, op.call = call.__module__, call
    return call


def _slow(op: Op) -> Callable[..., Any]:
    """Without a kernel. Those with attributes stand behind a public function."""

    def call(input: Any) -> Any:
        return run(op, (input,), {}, here(_frame(1)))

    def binary(input: Any, other: Any) -> Any:
        return run(op, (input, other), {}, here(_frame(1)))

    def general(*args: Any, **attrs: Any) -> Any:
        n = len(op.inputs)
        return run(op, args[:n], dict(zip(op.attrs, args[n:], strict=False)) | attrs, here(_frame(1)))

    return general if op.attrs or len(op.inputs) > 2 else binary if len(op.inputs) == 2 else call


def _from_partial(partial: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient rule of a partial derivative: g times it. Keeps the partial's parameter names, which say what it needs."""
    names = partial.__code__.co_varnames[: partial.__code__.co_argcount + partial.__code__.co_kwonlyargcount]
    if "g" in names:
        return partial

    def rule(**values: Any) -> Any:
        g = values.pop("g")
        return g * partial(**values)

    rule.needs = ("g", *names)  # type: ignore[attr-defined]
    return rule


class Structured:
    """A declared operation with structure: called with tensors by position and attributes by name."""

    __slots__ = ("__name__", "_kernel", "_native", "op")

    def __init__(self, op: Op) -> None:
        self.op, self._native, self._kernel, self.__name__ = op, op.native, op.kernel, op.name

    def __call__(self, *inputs: Any, **attrs: Any) -> Any:
        line = here(_frame(1))
        if self._native is not None:
            try:
                handle = self._native(line, *inputs, **attrs)
            except AttributeError:
                handle = 0
            if handle:
                return wrap(handle) if type(handle) is int else tuple(wrap(h) for h in handle)
        if self._kernel is not None:
            try:
                handle = self._kernel(*inputs, **attrs)
            except AttributeError:
                handle = 0
            if handle:
                outs = tuple(wrap(h) for h in (handle if type(handle) is tuple else (handle,)))
                record(self.op, inputs, outs, attrs, line)
                return outs if len(outs) > 1 else outs[0]
        return run(self.op, inputs, attrs, line)


def structured(
    name: str,
    *,
    inputs: tuple[str, ...],
    ref: Callable[..., Any],
    attrs: tuple[str, ...] = (),
    vjp: tuple[Callable[..., Any] | None, ...] | None = None,
    dtype: rules.DTypeRule = rules.promoted,
    outputs: tuple[str, ...] = ("out",),
    variadic: bool = False,
    samples: Any = (),
    errors: Any = (),
    native: Callable[..., Any] | None = None,
    kernel: Callable[..., Any] | None = None,
    composite: Callable[..., Any] | None = None,
    decode: Callable[[int], dict[str, Any]] | None = None,
    doc: str = "",
    private: bool = False,
    nondeterministic: bool = False,
    autocast: str = "",
    rowwise: Any = (),
    replays: bool = False,
    host: tuple[str, ...] = (),
) -> Structured:
    """Declare a structured operation; the public wrapper beside it owns the signature, the docstring and the errors.

    `replays`: it has no rules of its own, its gradients are those of its composite. `host`: inputs that stay in main memory.
    """
    if replays:
        vjp = (composite,) * len(inputs)
    op = Op(name, inputs, ref, attrs, outputs, variadic, dtype, vjp, samples, errors, private, "structured", doc)
    op.native, op.kernel, op.composite, op.decode = native, kernel, composite, decode
    op.nondeterministic, op.autocast, op.rowwise, op.replays = nondeterministic, autocast, rowwise, replays
    op.host = host
    op.module = _frame(1).f_globals["__name__"]
    op.call = made = Structured(register(op))
    return made


def composite(
    name: str,
    *,
    inputs: tuple[str, ...],
    ref: Callable[..., Any],
    attrs: tuple[str, ...] = (),
    samples: Any = (),
    errors: Any = (),
    dtype: rules.DTypeRule = rules.as_is,
    outputs: tuple[str, ...] = ("out",),
    variadic: bool = False,
    private: bool = False,
    rowwise: Any = (),
) -> Callable[[Function], Function]:
    """Enter a public function that is written in other operations, so that the generated tests walk it too."""
    module = _frame(1).f_globals["__name__"]

    def enter(function: Function) -> Function:
        doc = function.__doc__ or ""
        op = Op(name, inputs, ref, attrs, outputs, variadic, dtype, None, samples, errors, private, "composite", doc)
        op.composite, op.module, op.rowwise = function, module, rowwise
        op.call = lambda *given, **attrs: function(**dict(zip(inputs, given, strict=True)), **attrs)
        register(op)
        return function

    return enter
