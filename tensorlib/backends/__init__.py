"""Where elements live and how arrays become tensors: main memory (host.py), NumPy throughout (array_module.py), GPUs (cuda.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.device import CPU, Device
from tensorlib.native import lib

from . import cuda
from .array_module import ArrayBackend
from .host import ADOPTED, FOREIGN, NativeBackend, adopt_numpy, device_of, shape_of, strides_of, view_bytes, view_numpy
from .tf32 import convolutions as cudnn

__all__ = [
    "ADOPTED", "FOREIGN", "NATIVE", "adopt_numpy", "backend", "backend_of", "cuda", "cudnn", "device_of", "shape_of", "strides_of",
    "view_bytes", "view_numpy",
]  # fmt: skip

NATIVE = NativeBackend()
_backends: dict[Device, Any] = {CPU: NATIVE}


def backend(where: Device) -> Any:
    """The backend of a device, made on first use."""
    found = _backends.get(where)
    if found is None:
        found = _backends[where] = _made(where)
    return found


def _made(where: Device) -> ArrayBackend:
    if where.type == "reference":
        return ArrayBackend(where, np)
    return cuda.CudaBackend(where)


def backend_of(handle: int) -> Any:
    """The backend of a tensor's device."""
    return NATIVE if lib.tl_storage_kind(handle) != FOREIGN else backend(device_of(handle))
