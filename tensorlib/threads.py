"""How the kernels' threads work: how many of them, and what they make of denormal numbers."""

from __future__ import annotations

from tensorlib.native import ffi, lib

__all__ = [
    "are_deterministic_algorithms_enabled",
    "get_cpu_capability",
    "get_num_threads",
    "set_flush_denormal",
    "set_num_threads",
]


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


def set_flush_denormal(mode: bool) -> bool:
    """Take denormal numbers, those closer to 0 than 1.2e-38 (float64: 2.2e-308), for 0. The CPU is slow at them: where gradients vanish, a
    backward pass may take several times as long as it should.

    Off by default. It holds for operations that this Python thread calls, whichever threads run them, and for its backward passes.

    Returns whether the CPU can; elsewhere nothing changes.

    >>> tl.set_flush_denormal(True), (tl.tensor(2e-38) / 10).item()
    (True, 0.0)
    >>> tl.set_flush_denormal(False), (tl.tensor(2e-38) / 10).item() > 0
    (True, True)
    """
    return bool(lib.tl_set_flush_denormal(bool(mode)))


def get_cpu_capability() -> str:
    """The instruction set of the kernels in use: "base", "avx2" or "avx512". Results have the same bits wherever it is the same.

    It is the best that the CPU has, or what TENSORLIB_ISA names.

    >>> tl.get_cpu_capability() in ("base", "avx2", "avx512")
    True
    """
    name: str = ffi.string(lib.tl_isa_name()).decode()
    return name


_deterministic = False


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Have GPU kernels that add by atomics, in an order that changes from run to run, replaced by ones that do not.

    On the CPU results have the same bits in every run and on any number of threads, with or without it. Nothing raises or warns: each operation
    has a kernel of fixed order.

    >>> tl.use_deterministic_algorithms(True)
    >>> tl.use_deterministic_algorithms(False)
    """
    global _deterministic
    _deterministic = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    """Whether `use_deterministic_algorithms` is on.

    >>> tl.use_deterministic_algorithms(False)
    >>> tl.are_deterministic_algorithms_enabled()
    False
    """
    return _deterministic
