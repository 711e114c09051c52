"""The library's exceptions. Each also derives from the built-in one that a user would catch."""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "CheckpointError",
    "DTypeError",
    "DeviceError",
    "FileFormatError",
    "GradError",
    "IndexRangeError",
    "MemoryLimitError",
    "ReadOnlyError",
    "ShapeError",
    "TensorlibError",
]


class TensorlibError(Exception):
    """Base of all of the library's exceptions; `hint`, where there is one, names a way out that is certain to help."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\n  hint: {hint}")
        self.hint = hint


class ShapeError(TensorlibError, ValueError, RuntimeError):
    """Shapes that do not fit the operation. Also a RuntimeError, which PyTorch's users catch."""


class DTypeError(TensorlibError, TypeError, RuntimeError):
    """A dtype the operation does not take."""


class DeviceError(TensorlibError, RuntimeError):
    """Operands on different devices, or a device that is not there."""


class FileFormatError(TensorlibError, ValueError):
    """A data file that is not what its format says: another magic, a wrong size, a value that does not parse."""


class GradError(TensorlibError, RuntimeError):
    """A gradient that can not be computed: a freed graph, an overwritten value, nothing to differentiate."""


class IndexRangeError(TensorlibError, IndexError):
    """An index or a dimension out of range."""


class ReadOnlyError(TensorlibError, ValueError, RuntimeError):
    """A write to memory that its owner made read-only, such as a NumPy array's."""


class CaptureError(TensorlibError, RuntimeError):
    """What can not be part of a CUDA graph, or a replay with other inputs than those it was captured for."""


class CheckpointError(TensorlibError, ValueError, RuntimeError):
    """A file that is no checkpoint, is damaged, or holds what is not read. Also a RuntimeError, which PyTorch's users catch."""


class MemoryLimitError(TensorlibError, MemoryError):
    """An allocation that failed, passed the cap of `tl.memory`, or has a size beyond 63 bits."""
