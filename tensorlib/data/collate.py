"""Examples put together to a batch: in main memory, whatever the default device, unless they are tensors that live elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from tensorlib.device import CPU
from tensorlib.dtypes import float64, from_numpy_dtype
from tensorlib.errors import ShapeError
from tensorlib.ops.creation import as_tensor, empty, tensor
from tensorlib.ops.joins import split, stack as stack_tensors, stacked
from tensorlib.tensor import Tensor

__all__ = ["default_collate", "default_convert", "ragged_collate"]

_NUMBERS, _LISTS, _ARRAYS = (bool, int, float, np.number, np.bool_), (list,), (Tensor, np.ndarray)
_RECORDS = ((tuple,), (Mapping,))
_KINDS: tuple[tuple[type, ...], ...] = (*_RECORDS, _NUMBERS, _LISTS, _ARRAYS)
_Path = tuple[Any, ...]  # the fields that lead to the values
_Pack = Callable[[list[Tensor]], Any]


def default_collate(batch: Sequence[Any]) -> Any:
    """A batch of examples of one shape: a new first dimension of B examples, field by field.

    ==========================================  =================================================================
    what an example holds                       what the batch holds
    ==========================================  =================================================================
    a tensor or NumPy array (...)               a tensor (B, ...)
    a number                                    a tensor (B,): int64, float64 or bool
    a string or bytes                           the list of them
    a dict, a named tuple, a tuple or list      the same of the batches of its fields (a list for tuples and lists)
    ==========================================  =================================================================

    Raises:
        ShapeError: where shapes or sizes differ, naming the example; `ragged_collate` takes such.
        TypeError: for anything else.

    >>> tl.data.default_collate([(tl.tensor([1.0, 2.0]), 0), (tl.tensor([3.0, 4.0]), 1)])
    [tensor([[1., 2.],
            [3., 4.]]), tensor([0, 1])]
    """
    examples = list(batch)
    if not examples:
        raise ValueError("default_collate: got no examples.")
    return _stacked(examples, ())


def _stacked(values: list[Any], path: _Path) -> Any:
    first = values[0]
    if isinstance(first, _ARRAYS):
        return _stacked_arrays(values, path)
    if isinstance(first, _NUMBERS):
        known = np.array(values)
        weak = isinstance(first, int) and known.dtype.kind not in "biu"  # such as [1, 0.5]: of the default dtype
        return tensor(values if weak else known, dtype=float64 if isinstance(first, float) else None, device=CPU)
    if isinstance(first, (str, bytes)):
        return values
    if isinstance(first, Mapping):
        return {name: _stacked([v[name] for v in values], (*path, name)) for name in first}
    if isinstance(first, (tuple, list)):
        for i, v in enumerate(values):
            if len(v) != len(first):
                raise ShapeError(
                    f"default_collate: example {i} has {len(v)} fields{_at(path)}, example 0 {len(first)}."
                )
        fields = [_stacked([v[k] for v in values], (*path, k)) for k in range(len(first))]
        return type(first)(*fields) if hasattr(first, "_fields") else fields
    raise TypeError(f"default_collate: no batch can be made of {type(first).__name__}{_at(path)}: give a collate_fn.")


def _stacked_arrays(values: list[Any], path: _Path) -> Tensor:
    first = values[0]
    if isinstance(first, Tensor):
        made = stacked(values)
    else:
        made = _joined(values, first.shape, first.dtype)
    if made is None:
        tensors = [as_tensor(v, device=None if isinstance(v, Tensor) else CPU) for v in values]
        _check_shapes(tensors, 0, path, "default_collate")
        made = stack_tensors(tensors)
    return made


def _joined(arrays: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor | None:
    """NumPy arrays of one shape and dtype, copied into a tensor by one call; None of others."""
    if not shape or dtype.kind not in "biufc":
        return None
    for a in arrays:
        if type(a) is not np.ndarray or a.shape != shape or a.dtype != dtype:
            return None
    made = empty(len(arrays), *shape, dtype=from_numpy_dtype(dtype), device=CPU)
    np.concatenate(arrays, out=made.numpy().reshape(-1, *shape[1:]))
    return made


def default_convert(data: Any) -> Any:
    """NumPy arrays and scalars as tensors, at any depth; all else as it is.

    >>> tl.data.default_convert({"x": np.arange(2), "name": "a"})
    {'x': tensor([0, 1]), 'name': 'a'}
    """
    if isinstance(data, (np.ndarray, np.generic)):
        return as_tensor(data, device=CPU)
    if isinstance(data, Mapping):
        return {name: default_convert(v) for name, v in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(default_convert, data))
    return [default_convert(v) for v in data] if isinstance(data, (tuple, list)) else data


def pinned(data: Any) -> Any:
    """The same with every tensor in pinned memory; what has a method `pin_memory` does it itself."""
    if hasattr(data, "pin_memory"):
        return data.pin_memory()
    if isinstance(data, Mapping):
        return type(data)({key: pinned(value) for key, value in data.items()})  # type: ignore[call-arg]
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(pinned(value) for value in data))
    return type(data)(pinned(value) for value in data) if isinstance(data, (list, tuple)) else data


def ragged_collate(examples: Sequence[Any], pack: _Pack | None = None, stack: Collection[int | str] = ()) -> Any:
    """A batch of examples whose sequences differ in length: tuples and dicts stay such, field by field.

    ==========================================  ==========================================================================
    what an example's field holds               what the batch holds
    ==========================================  ==========================================================================
    a number, or a 0-d tensor                   a tensor (B,)
    a tensor or NumPy array of shape (L, ...)   the list of the B sequences, or what `pack` makes of it, whatever the L are
    a list of numbers, or of equal lists        likewise
    anything else (a string, None)              the list of the B values
    ==========================================  ==========================================================================

    Args:
        examples: at least one; all of one structure.
        pack: takes a list of tensors of shapes (L_i, ...). `tl.nn.utils.rnn.packed_collate` is this function with one that makes PackedSequences;
            layers for sequences take the plain list too.
        stack: keys (of dicts) or positions (in tuples) of the outermost fields that are of one size in all examples, and become one tensor (B, ...).

    Raises:
        ShapeError, TypeError: where an example does not fit the first one, naming both and the field.

    >>> words, labels = tl.data.ragged_collate([(tl.tensor([1, 2, 3]), 0), (tl.tensor([4]), 1)])
    >>> [w.tolist() for w in words], labels
    ([[1, 2, 3], [4]], tensor([0, 1]))
    >>> tl.data.ragged_collate([{"x": [1, 2], "box": [0.0, 1.0]}, {"x": [3], "box": [2.0, 3.0]}], stack=["box"])["box"].shape
    (2, 2)
    """
    listed = list(examples)
    if not listed:
        raise ValueError("ragged_collate: got no examples.")
    return _together(listed, (), pack, frozenset(stack))


def _together(values: list[Any], path: _Path, pack: _Pack | None, stacked: frozenset[Any]) -> Any:
    first = values[0]
    kind = next((kind for kind in _KINDS if isinstance(first, kind)), (object,))
    for i, v in enumerate(values):
        if not isinstance(v, kind):
            raise TypeError(
                f"ragged_collate: example {i} has a {type(v).__name__}{_at(path)}, example 0 a {type(first).__name__}."
            )
    if kind in _RECORDS:
        return _fields(values, path, pack, stacked)
    if kind is _NUMBERS:
        return tensor(values, device=CPU)
    if kind is _ARRAYS:
        made = [v if isinstance(v, Tensor) else tensor(v, device=CPU) for v in values]
    elif kind is _LISTS and _hold_numbers(values):
        made = list(split(tensor(list(chain.from_iterable(values)), device=CPU), [len(v) for v in values]))
    else:
        return values
    whole = made[0].ndim == 0 or (bool(path) and path[0] in stacked)
    _check_shapes(made, 0 if whole else 1, path)
    if whole:
        return stack_tensors(made)
    return made if pack is None else pack(made)


def _fields(values: list[Any], path: _Path, pack: _Pack | None, stacked: frozenset[Any]) -> Any:
    """Tuples, named or not, and dicts, each field by itself."""
    first = values[0]
    names = [list(v) if isinstance(v, Mapping) else list(range(len(v))) for v in values]
    for i, own in enumerate(names):
        if set(own) != set(names[0]):
            raise ShapeError(f"ragged_collate: example {i} has the fields {own}{_at(path)}, example 0 {names[0]}.")
    made = {name: _together([v[name] for v in values], (*path, name), pack, stacked) for name in names[0]}
    if isinstance(first, Mapping):
        return made
    return type(first)(*made.values()) if hasattr(first, "_fields") else tuple(made.values())


def _hold_numbers(lists: list[list[Any]]) -> bool:
    return all(isinstance(x, (*_NUMBERS, list)) for x in chain.from_iterable(lists))


def _check_shapes(tensors: list[Tensor], own: int, path: _Path, what: str = "ragged_collate") -> None:
    """Dtypes and sizes, but for the first `own` ones, are those of example 0."""
    first = tensors[0]
    for i, t in enumerate(tensors):
        if t.ndim != first.ndim or t.shape[own:] != first.shape[own:] or t.dtype is not first.dtype:
            raise ShapeError(
                f"{what}: example {i} has {t.dtype.name} of shape {t.shape}{_at(path)}, example 0 "
                f"{first.dtype.name} of shape {first.shape}{'; only the first sizes may differ' if own else ''}."
            )


def _at(path: _Path) -> str:
    return f" in field {'.'.join(map(str, path))}" if path else ""
