"""Nested dicts, lists and tuples, as JSON that refers to tensors by name; and back, from JSON that nobody vouches for.

None, booleans, strings, integers of 64 bits, finite floats and lists stand for themselves. Everything else is an object with one tag:

    {"dict": {"key": ...}}   {"dict": [[key, ...], ...]} where not all keys are strings   {"counter": [[key, ...], ...]}   {"tuple": [...]}
    {"int": "0x..."}   {"float": "nan" | "inf" | "-inf"}
    {"tensor": name}   {"array": name}   {"scalar": name}   (array, scalar: NumPy's)

with, beside "tensor", ``"view": [shape, strides, offset]`` where tensors share elements, and beside any of the three ``"dtype": "complex128"``,
which files do not know: the real parts and the imaginary ones lie in a last dimension.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.backends import view_bytes
from tensorlib.device import Device
from tensorlib.errors import CheckpointError
from tensorlib.io import safetensors
from tensorlib.native import lib
from tensorlib.ops.creation import from_numpy
from tensorlib.ops.shape import as_strided
from tensorlib.tensor import Tensor

VERSION = 1
DEEPEST = 64
MOST = 128 << 20  # bytes that the objects of a structure may take, roughly
_PLAIN = (type(None), bool, str)
_KEYS = (*_PLAIN, int, float)
_ARRAYS = {*safetensors.TO_FILE, "complex128"} - {"bfloat16"}
_ALLOWED = "a dict, list or tuple, a tensor, a NumPy array or number, None, bool, int, float or str"


@dataclass
class Stored:
    """One tensor of a file to be."""

    dtype: str
    shape: tuple[int, ...]
    content: Callable[[], np.ndarray[Any, Any]]  # its bytes


@dataclass
class _Leaf:
    number: int
    node: dict[str, Any]
    value: Any
    path: tuple[str, ...]
    where: tuple[int, int, int] = (0, 0, 0)  # space of addresses, first byte, past the last

    def geometry(self) -> tuple[Any, ...]:
        return self.where, self.value.dtype, self.value.shape, self.value.stride()


@dataclass
class Flat:
    """What `flatten` made: the tensors by name, and the structure. `plain`: it is a dict of these names and tensors, and need not be said."""

    structure: Any
    tensors: dict[str, Stored] = field(default_factory=dict)
    plain: bool = False


def flatten(value: Any) -> Flat:
    """Take apart what shall be saved.

    Raises:
        TypeError: for what is neither a container, a tensor nor a plain value, naming its place.
        ValueError: where it is nested too deeply, or contains itself.
    """
    leaves: list[_Leaf] = []
    structure = _encode(value, (), leaves)
    flat = Flat(structure)
    for group in sorted(_sharing(leaves), key=lambda group: group[0].number):
        _store_group(flat, group)
    named = structure["dict"] if type(value) in (dict, OrderedDict) else None
    flat.plain = type(named) is dict and all(node == {"tensor": key} for key, node in named.items())
    return flat


# ---- taking apart ----


def _encode(value: Any, path: tuple[str, ...], leaves: list[_Leaf]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if len(path) > DEEPEST:
        raise ValueError(f"save: {_place(path[:4])}... is nested deeper than {DEEPEST} levels, or contains itself.")
    if kind in (list, tuple):
        items = [_encode(item, (*path, str(i)), leaves) for i, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind in (dict, OrderedDict, defaultdict, Counter):
        return _encode_dict(value, path, leaves)
    if isinstance(value, Tensor) and not value.is_sparse:
        tag = "tensor"
    elif isinstance(value, np.generic | np.ndarray) and value.dtype.name in _ARRAYS:
        tag = "array" if isinstance(value, np.ndarray) else "scalar"
    else:
        what = f"an array of {value.dtype}" if isinstance(value, np.generic | np.ndarray) else f"a {kind.__name__}"
        hint = "save its state_dict()" if hasattr(value, "state_dict") else None
        error = TypeError(f"save: {_place(path)} is {what}, expected {_ALLOWED}" + (f"; {hint}." if hint else "."))
        raise error
    node: dict[str, Any] = {tag: ""}
    leaves.append(_Leaf(len(leaves), node, value, path))
    return node


def _encode_dict(value: Mapping[Any, Any], path: tuple[str, ...], leaves: list[_Leaf]) -> Any:
    for key in value:
        if type(key) not in _KEYS:
            raise TypeError(f"save: {_place(path)} has the key {key!r}, expected a str, int, float, bool or None.")
    pairs = [(key, _encode(item, (*path, str(key)), leaves)) for key, item in value.items()]
    if type(value) is Counter:
        return {"counter": [list(pair) for pair in pairs]}
    if all(type(key) is str for key in value):
        return {"dict": dict(pairs)}
    return {"dict": [[_encode(key, path, leaves), item] for key, item in pairs]}


def _place(path: tuple[str, ...]) -> str:
    return "the object" + "".join(f"[{part!r}]" for part in path)


def _sharing(leaves: list[_Leaf]) -> Iterator[list[_Leaf]]:
    """Groups of tensors whose memory overlaps, each in its order; every other leaf by itself."""
    tensors = []
    for leaf in leaves:
        t = leaf.value
        if not isinstance(t, Tensor) or not t.numel():
            yield [leaf]
            continue
        here = t.device.type == "cpu"
        low = lib.tl_peek(t._array) if here else t.storage_offset() * t.itemsize
        extent = (sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) + 1) * t.itemsize
        leaf.where = (0 if here else lib.tl_storage_token(t._array), low, low + extent)
        tensors.append(leaf)
    group: list[_Leaf] = []
    reached = (0, 0)
    for leaf in sorted(tensors, key=lambda leaf: leaf.where):
        space, low, high = leaf.where
        if group and (space, low) >= reached:
            yield sorted(group, key=lambda leaf: leaf.number)
            group = []
        reached = max(reached, (space, high)) if group else (space, high)
        group.append(leaf)
    if group:
        yield sorted(group, key=lambda leaf: leaf.number)


def _store_group(flat: Flat, group: list[_Leaf]) -> None:
    """One tensor in the file for all of them: they, where they are the same, else the memory that they are views of."""
    first = group[0]
    t = first.value
    (space, low, _), high = min(leaf.where for leaf in group), max(leaf.where[2] for leaf in group)
    if (
        isinstance(t, np.generic | np.ndarray)
        or not t.numel()
        or (all(leaf.geometry() == first.geometry() for leaf in group) and t.nbytes <= high - low)
    ):
        _store_whole(flat, group)
    elif space or any(leaf.value.dtype is not t.dtype or (leaf.where[1] - low) % t.itemsize for leaf in group):
        for leaf in group:  # seen as several dtypes, or on a device: each on its own
            _store_whole(flat, [leaf])
    else:
        content = partial(view_bytes, t._array, low, high - low)
        _store(flat, group, t.dtype.name, ((high - low) // t.itemsize,), content)
        for leaf in group:
            leaf.node["view"] = [list(leaf.value.shape), list(leaf.value.stride()), (leaf.where[1] - low) // t.itemsize]


def _store_whole(flat: Flat, group: list[_Leaf]) -> None:
    value = group[0].value
    _store(flat, group, value.dtype.name, value.shape, partial(_bytes_of, value))


def _store(flat: Flat, group: list[_Leaf], dtype: str, shape: tuple[int, ...], content: Callable[[], Any]) -> None:
    """Enter a tensor under a name made of its place, and tell its leaves."""
    name = base = ".".join(group[0].path) if group[0].path else "tensor"
    try:
        name.encode()
    except UnicodeEncodeError:
        name = base = "tensor"
    number = 1
    while name in flat.tensors or name == safetensors.METADATA:
        number += 1
        name = f"{base}.{number}"
    for leaf in group:
        (tag,) = leaf.node
        leaf.node[tag] = name
        if dtype == "complex128":
            leaf.node["dtype"] = dtype
    if dtype == "complex128":
        dtype, shape = "float64", (*shape, 2)
        if len(shape) > 16:
            raise ValueError(f"save: {_place(group[0].path)} is complex128 of 16 dimensions, files hold it up to 15.")
    flat.tensors[name] = Stored(safetensors.TO_FILE[dtype], tuple(shape), content)


def _bytes_of(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, Tensor):
        t = value.detach().cpu().contiguous()
        return view_bytes(t._array, lib.tl_peek(t._array), t.nbytes)
    return np.ascontiguousarray(value, value.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


# ---- putting together ----


def dump(structure: Any) -> str:
    """As JSON, of ASCII alone."""
    text = json.dumps({"version": VERSION, "content": structure}, separators=(",", ":"), allow_nan=False)
    if _cost(text) > MOST:
        raise ValueError("save: too many plain values for a file's header: keep numbers in tensors.")
    return text


def _cost(text: str) -> int:
    """About as many bytes as the objects of a JSON text may take."""
    return len(text) + 64 * (text.count("[") + text.count("{")) + 32 * text.count(",")


def load(text: str, tensors: Mapping[str, Any], device: Device | str | None = None) -> Any:
    """What `dump` wrote, with the tensors in their places, moved to the device.

    Raises:
        CheckpointError: where it says anything that `flatten` does not make.
    """
    if _cost(text) > MOST:
        raise CheckpointError("the structure is too large: not written by this library.")
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
        if type(document) is not dict or document.keys() != {"version", "content"}:
            raise _wrong("a head", document)
        if document["version"] != VERSION:
            raise CheckpointError(f"the structure has version {document['version']!r}, this library reads {VERSION}.")
        return _Decoder(tensors, device).value(document["content"], 0)
    except RecursionError:
        raise CheckpointError("the structure is nested too deeply.") from None
    except CheckpointError:
        raise
    except ValueError as error:  # of JSON, or of an integer with more digits than Python reads
        raise CheckpointError(f"the structure is no valid JSON: {error}.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CheckpointError("the structure has a key twice.")
    return found


def _no_constant(name: str) -> None:
    raise CheckpointError(f"the structure is no valid JSON: it has {name}.")


def _wrong(what: str, node: Any) -> CheckpointError:
    return CheckpointError(f"the structure has {what} {str(node)[:100]!r}, which this library does not write.")


class _Decoder:
    """Builds what a structure describes; every part of it is checked before it is used."""

    def __init__(self, tensors: Mapping[str, Any], device: Device | str | None) -> None:
        self.tensors, self.device = tensors, device
        self.moved: dict[tuple[str, bool], Tensor] = {}  # once, so that views of one memory stay such

    def value(self, node: Any, depth: int) -> Any:
        kind = type(node)
        if kind in _PLAIN:
            return node
        if (kind is int and -(2**63) <= node < 2**63) or (kind is float and math.isfinite(node)):
            return node
        if kind not in (list, dict) or depth > DEEPEST:
            raise _wrong("a number or a depth", node)
        if kind is list:
            return [self.value(item, depth + 1) for item in node]
        tag = next(iter(node), None)
        make = getattr(self, f"_{tag}", None) if tag in _TAGS else None
        if make is None or (len(node) > 1 and tag not in _LEAVES):
            raise _wrong("an object", node)
        return make(node[tag], node, depth)

    def _dict(self, content: Any, node: Any, depth: int) -> dict[Any, Any]:
        if type(content) is dict:
            return {key: self.value(item, depth + 1) for key, item in content.items()}
        if type(content) is not list or not all(type(pair) is list and len(pair) == 2 for pair in content):
            raise _wrong("a dict", node)
        found = {}
        for key, item in content:
            own = self.value(key, DEEPEST)
            if type(own) not in _KEYS or own in found:
                raise _wrong("a key", key)
            found[own] = self.value(item, depth + 1)
        return found

    def _counter(self, content: Any, node: Any, depth: int) -> Counter[Any]:
        return Counter(self._dict(content, node, depth))

    def _tuple(self, content: Any, node: Any, depth: int) -> tuple[Any, ...]:
        if type(content) is not list:
            raise _wrong("a tuple", node)
        return tuple(self.value(item, depth + 1) for item in content)

    def _int(self, content: Any, node: Any, depth: int) -> int:
        if type(content) is not str or not re.fullmatch("-?0x[0-9a-f]+", content):
            raise _wrong("an integer", node)
        return int(content, 16)

    def _float(self, content: Any, node: Any, depth: int) -> float:
        if content not in ("nan", "inf", "-inf"):
            raise _wrong("a float", node)
        return float(content)

    def _leaf(self, name: Any, node: dict[str, Any]) -> Any:
        if type(name) is not str or name not in self.tensors or not node.keys() <= {next(iter(node)), "view", "dtype"}:
            raise _wrong("a tensor", node)
        return self.tensors[name]

    def _tensor(self, name: Any, node: dict[str, Any], depth: int) -> Any:
        found = self._leaf(name, node)
        if not isinstance(found, Tensor):
            raise _wrong("a tensor", node)
        if "dtype" in node:
            found = from_numpy(_as_complex(found.numpy(), node))
        if self.device is not None:
            key = name, "dtype" in node
            if key not in self.moved:
                self.moved[key] = found.to(self.device)
            found = self.moved[key]
        return found if "view" not in node else _view(found, node)

    def _array(self, name: Any, node: dict[str, Any], depth: int) -> Any:
        found = self._leaf(name, node)
        if "view" in node or (isinstance(found, Tensor) and found.dtype is dtypes.bfloat16):
            raise _wrong("an array", node)
        found = found.numpy() if isinstance(found, Tensor) else found
        return _as_complex(found, node) if "dtype" in node else found

    def _scalar(self, name: Any, node: dict[str, Any], depth: int) -> Any:
        found = self._array(name, node, depth)
        if found.shape != ():
            raise _wrong("a number", node)
        return found[()]


_LEAVES = ("tensor", "array", "scalar")
_TAGS = ("dict", "counter", "tuple", "int", "float", *_LEAVES)


def _as_complex(array: np.ndarray[Any, Any], node: dict[str, Any]) -> np.ndarray[Any, Any]:
    if node["dtype"] != "complex128" or array.dtype != np.float64 or array.shape[-1:] != (2,):
        raise _wrong("a tensor", node)
    return array.view(np.complex128).reshape(array.shape[:-1])


def _view(base: Tensor, node: dict[str, Any]) -> Tensor:
    view = node["view"]
    if type(view) is not list or [type(part) for part in view] != [list, list, int]:
        raise _wrong("a view", node)
    shape, strides, offset = view
    if (
        not all(type(n) is int and 0 <= n < 2**63 for n in (*shape, *strides, offset))
        or not len(shape) == len(strides) <= 16
    ):
        raise _wrong("a view", node)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if (
        base.ndim != 1
        or math.prod(n or 1 for n in shape) * base.itemsize >= 2**63
        or (0 not in shape and last >= base.numel())
        or offset > base.numel()
    ):
        raise _wrong("a view", node)
    return as_strided(base, shape, strides, offset).detach()
