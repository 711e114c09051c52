"""How many threads the kernels use."""

from __future__ import annotations

from tensorlib.native import lib

__all__ = ["get_num_threads", "set_num_threads"]


def get_num_threads() -> int:
    """The number of threads that large kernels use. Results do not depend on it.

    >>> tl.get_num_threads() >= 1
    True
    """
    return int(lib.tl_get_num_threads())


def set_num_threads(num_threads: int) -> None:
    """Use so many threads from now on. The default is TENSORLIB_NUM_THREADS, or the cores this process may use, shared with its neighbours
    under a launcher.

    >>> tl.set_num_threads(tl.get_num_threads())
    """
    if not isinstance(num_threads, int) or not 1 <= num_threads <= 1024:
        raise ValueError(f"set_num_threads: got {num_threads!r}, expected 1 to 1024.")
    lib.tl_set_num_threads(num_threads)
