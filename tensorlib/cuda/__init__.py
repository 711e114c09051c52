"""GPUs: which there are, what they are doing and hold, and steps captured as CUDA graphs. PyTorch's names.

Everything here may be called where there is no GPU; what needs one then says what is missing. CuPy is imported when first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .devices import (
    DeviceProperties,
    current_device,
    device,
    device_count,
    device_of,
    get_device_capability,
    get_device_name,
    get_device_properties,
    is_available,
    is_bf16_supported,
    is_initialized,
    manual_seed,
    manual_seed_all,
    set_device,
    synchronize,
)  # fmt: skip
from .memory import (
    empty_cache,
    max_memory_allocated,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    reset_peak_memory_stats,
    set_per_process_memory_fraction,
)  # fmt: skip
from .streams import Event, ExternalStream, Stream, current_stream, default_stream, set_stream, stream

if TYPE_CHECKING:
    from .graphs import Graph, graph, is_current_stream_capturing

__all__ = [
    "DeviceProperties", "Event", "ExternalStream", "Graph", "Stream", "current_device", "current_stream", "default_stream", "device",
    "device_count", "device_of", "empty_cache", "get_device_capability", "get_device_name", "get_device_properties", "graph",
    "is_available", "is_bf16_supported", "is_current_stream_capturing", "is_initialized", "manual_seed", "manual_seed_all",
    "max_memory_allocated", "max_memory_reserved", "mem_get_info", "memory_allocated", "memory_reserved", "memory_stats",
    "reset_peak_memory_stats", "set_device", "set_per_process_memory_fraction", "set_stream", "stream", "synchronize",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Graphs, and with them all kernels' launchers, are imported when asked for: whether there is a GPU is told without."""
    if name not in {"Graph", "graph", "is_current_stream_capturing"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import graphs

    made = globals()[name] = getattr(graphs, name)
    return made
