"""What scripts ask about GPUs before they use one: ``"cuda" if tl.cuda.is_available() else "cpu"``."""

from __future__ import annotations

__all__ = ["device_count", "is_available", "manual_seed", "manual_seed_all"]


def device_count() -> int:
    """The number of GPUs that CuPy sees; 0 without CuPy.

    >>> tl.cuda.device_count() >= 0
    True
    """
    try:
        import cupy  # type: ignore[import-not-found,unused-ignore]

        return int(cupy.cuda.runtime.getDeviceCount())
    except (ImportError, RuntimeError):  # not installed; no driver
        return 0


def is_available() -> bool:
    """Whether tensors can be moved to a GPU.

    >>> tl.cuda.is_available() == (tl.cuda.device_count() > 0)
    True
    """
    return device_count() > 0


def manual_seed(seed: int) -> None:
    """Accepted, and without effect: `tl.manual_seed` seeds the one stream that all devices draw from.

    >>> tl.cuda.manual_seed(0)
    """


manual_seed_all = manual_seed
