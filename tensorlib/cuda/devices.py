"""Which GPUs there are, and which one is meant where none is named."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tensorlib.backends import backend
from tensorlib.backends.cuda import NOT_FOUND, import_cupy
from tensorlib.device import device as as_device
from tensorlib.errors import DeviceError
from tensorlib.tensor import Tensor

__all__ = [
    "DeviceProperties", "current_device", "device", "device_count", "device_of", "get_device_capability", "get_device_name",
    "get_device_properties", "is_available", "is_bf16_supported", "is_initialized", "manual_seed", "manual_seed_all", "set_device", "synchronize",
]  # fmt: skip


def device_count() -> int:
    """The number of GPUs that CuPy sees; 0 without CuPy or a driver. Where there is no driver, CuPy is not imported to find that out.

    >>> tl.cuda.device_count() >= 0
    True
    """
    if "cupy" not in sys.modules and not _has_driver():
        return 0
    try:
        import cupy  # type: ignore[import-not-found,unused-ignore]

        return int(cupy.cuda.runtime.getDeviceCount())
    except (ImportError, RuntimeError, OSError):  # not installed; no driver; a library of CUDA's that does not load
        return 0


@functools.cache
def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def is_available() -> bool:
    """Whether tensors can be moved to a GPU. Never raises.

    >>> tl.cuda.is_available() == (tl.cuda.device_count() > 0)
    True
    """
    return device_count() > 0


def is_initialized() -> bool:
    """Whether CuPy has been imported, by whomever.

    >>> isinstance(tl.cuda.is_initialized(), bool)
    True
    """
    return "cupy" in sys.modules


def index_of(device: Any, name: str) -> int:
    """The number of the GPU that an argument `device` means: None the current one, else a number, a name or a Device.

    Raises:
        DeviceError: if there is no such GPU, or none at all.
    """
    cupy = import_cupy()
    if device is None:
        return int(cupy.cuda.runtime.getDevice())
    if isinstance(device, int) and not isinstance(device, bool):
        index = device
    else:
        found = as_device(device)
        if found.type != "cuda":
            raise DeviceError(f"{name}: got the device {found}, expected a GPU: 'cuda', 'cuda:0' or its number.")
        index = int(found.index or 0)
    count = cupy.cuda.runtime.getDeviceCount()
    if not 0 <= index < count:
        known = f"expected 0 to {count - 1}" if count else f"there are none{NOT_FOUND}"
        raise DeviceError(f"{name}: there is no GPU {index}; {known}.")
    return index


def current_device() -> int:
    """The number of the GPU that "cuda" means in this thread: 0, unless `set_device` or `device` said otherwise.

    Raises:
        DeviceError: without CuPy or a driver.
    """
    return index_of(None, "current_device")


def set_device(device: Any) -> None:
    """Have "cuda" mean this GPU, in this thread. A negative number changes nothing.

    Raises:
        DeviceError: if there is no such GPU.
    """
    if isinstance(device, int) and device < 0:
        return
    import_cupy().cuda.Device(index_of(device, "set_device")).use()


class device:
    """Context manager: within, "cuda" means this GPU. None or a negative number change nothing.

    >>> with tl.cuda.device(None):
    ...     pass
    """

    def __init__(self, device: Any) -> None:
        self._given = None if isinstance(device, int) and device < 0 else device
        self._entered: Any = None

    def __enter__(self) -> None:
        if self._given is not None:
            self._entered = import_cupy().cuda.Device(index_of(self._given, "device"))
            self._entered.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered is not None:
            self._entered.__exit__(kind, error, trace)
            self._entered = None


class device_of(device):
    """Context manager: within, "cuda" means the GPU of a tensor. One in main memory changes nothing.

    >>> with tl.cuda.device_of(tl.zeros(1)):
    ...     pass
    """

    def __init__(self, obj: Tensor) -> None:
        super().__init__(obj.device if obj.is_cuda else None)


@dataclass(frozen=True)
class DeviceProperties:
    """What a GPU is. Sizes are in bytes."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    warp_size: int
    max_threads_per_block: int
    max_threads_per_multi_processor: int
    regs_per_multiprocessor: int
    shared_memory_per_block: int
    shared_memory_per_multiprocessor: int
    L2_cache_size: int
    is_integrated: bool
    pci_domain_id: int
    pci_bus_id: int
    pci_device_id: int


def get_device_properties(device: Any = None) -> DeviceProperties:
    """What the current GPU, or this one, is.

    Raises:
        DeviceError: if there is no such GPU.
    """
    index = index_of(device, "get_device_properties")
    found = import_cupy().cuda.runtime.getDeviceProperties(index)
    name = found["name"]
    return DeviceProperties(
        name.decode() if isinstance(name, bytes) else str(name), found["major"], found["minor"], found["totalGlobalMem"],
        found["multiProcessorCount"], found["warpSize"], found["maxThreadsPerBlock"], found["maxThreadsPerMultiProcessor"],
        found["regsPerMultiprocessor"], found["sharedMemPerBlock"], found["sharedMemPerMultiprocessor"], found["l2CacheSize"],
        bool(found["integrated"]), found["pciDomainID"], found["pciBusID"], found["pciDeviceID"],
    )  # fmt: skip


def get_device_name(device: Any = None) -> str:
    """The name of the current GPU, or of this one."""
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability of the current GPU, or of this one: (9, 0) for an H100."""
    found = get_device_properties(device)
    return found.major, found.minor


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the current GPU computes with bfloat16: itself from compute capability 8.0 on, by conversions any does.

    >>> tl.cuda.is_bf16_supported() == tl.cuda.is_available()
    True
    """
    return is_available() and (including_emulation or get_device_capability() >= (8, 0))


def synchronize(device: Any = None) -> None:
    """Wait until the current GPU, or this one, has done all that it was given.

    Raises:
        DeviceError: if there is no such GPU.
        IndexRangeError: or another error that a kernel met since the last wait.
    """
    from tensorlib.gpu import capture

    index = index_of(device, "synchronize")
    capture.refuse("synchronize", "while a step is captured there is nothing to wait for")
    import_cupy().cuda.Device(index).synchronize()
    waited(index)


def waited(index: int) -> None:
    """Raise what kernels of a GPU have noted, now that somebody waited for them."""
    told = backend(as_device(f"cuda:{index}")).waited
    if told is not None:
        told()


def manual_seed(seed: int) -> None:
    """Accepted, and without effect: `tl.manual_seed` seeds the one stream that all devices draw from.

    >>> tl.cuda.manual_seed(0)
    """


manual_seed_all = manual_seed
