"""Devices: where a tensor's elements live, and which backend computes there."""

from __future__ import annotations

import sys
from typing import Any

from tensorlib.errors import DeviceError

__all__ = ["Device", "device", "get_default_device", "set_default_device"]

_TYPES = ("cpu", "reference", "cuda")


class Device:
    """A device: "cpu" (our kernels), "reference" (NumPy throughout: the oracle, slow) or "cuda" (CuPy), with an index for the last.

    >>> tl.zeros(2).device
    device(type='cpu')
    """

    __slots__ = ("index", "type")

    def __init__(self, type: str, index: int | None = None) -> None:
        self.type, self.index = type, index

    def __repr__(self) -> str:
        return (
            f"device(type='{self.type}')" if self.index is None else f"device(type='{self.type}', index={self.index})"
        )

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            other = device(other)
        return isinstance(other, Device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (str(self),)


CPU = Device("cpu")
_known: dict[str, Device] = {"cpu": CPU}


def device(spec: str | Device) -> Device:
    """The device of a name: "cpu", "reference", "cuda:0", or "cuda", the GPU that is the current one now (`tl.cuda.set_device`).

    >>> tl.device("cpu")
    device(type='cpu')
    """
    if isinstance(spec, Device):
        return spec
    found = _known.get(spec) if isinstance(spec, str) else None
    if found is None:
        found = _parse(spec)
        if spec != "cuda":
            _known[spec] = found
    return found


_default = CPU


def placed(spec: str | Device | None) -> Device:
    """The device of a name, or for None the one where new tensors go."""
    return _default if spec is None else device(spec)


def get_default_device() -> Device:
    """Where tensors are made that are given no device: "cpu" unless `set_default_device` said otherwise.

    >>> tl.get_default_device()
    device(type='cpu')
    """
    return _default


def set_default_device(device: str | Device | None) -> None:
    """Have tensors that are given no device made on this one, as layers' parameters are; None: in main memory. What shares memory with a
    NumPy array stays where that is; `tl.data` and `tl.load` make tensors in main memory.

    >>> tl.set_default_device("cpu")
    """
    global _default
    _default = _device("cpu" if device is None else device)


def _parse(spec: Any) -> Device:
    kind, _, index = spec.partition(":") if isinstance(spec, str) else (None, None, "")
    if kind not in _TYPES or (index and not index.isdecimal()):
        raise DeviceError(f"device: got {spec!r}, expected one of 'cpu', 'reference', 'cuda' or 'cuda:<index>'.")
    if kind == "cuda" and not index:
        return device(f"cuda:{_current_gpu()}")
    return Device(kind, int(index) if kind == "cuda" else None)


def _current_gpu() -> int:
    """CUDA knows it, for each thread; without CuPy nobody can have chosen another than the first."""
    cupy = sys.modules.get("cupy")
    try:
        return int(cupy.cuda.runtime.getDevice()) if cupy is not None else 0
    except (AttributeError, RuntimeError):  # on its way in; no driver
        return 0


_device = device  # where a parameter has that name
