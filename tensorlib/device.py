"""Devices: where a tensor's elements live, and which backend computes there."""

from __future__ import annotations

from typing import Any

from tensorlib.errors import DeviceError

__all__ = ["Device", "device"]

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
    """The device of a name: "cpu", "reference", "cuda" or "cuda:0".

    >>> tl.device("cpu")
    device(type='cpu')
    """
    if isinstance(spec, Device):
        return spec
    found = _known.get(spec) if isinstance(spec, str) else None
    if found is None:
        found = _known[spec] = _parse(spec)
    return found


def _parse(spec: Any) -> Device:
    kind, _, index = spec.partition(":") if isinstance(spec, str) else (None, None, "")
    if kind not in _TYPES or (index and not index.isdecimal()):
        raise DeviceError(f"device: got {spec!r}, expected one of 'cpu', 'reference', 'cuda' or 'cuda:<index>'.")
    return Device(kind, (int(index) if index else 0) if kind == "cuda" else None)
