"""CUDA sources and how they are run: compiled by NVRTC through CuPy when first asked for, once for each set of macros and each GPU.

Sources lie beside this file. A kernel is ``extern "C" __global__``, its parameters are pointers, ``long long`` and ``double`` and nothing else, so
that Python's numbers fit them as they are. ``T`` and other types are macros, defined in lines before it. ``#include "common.cuh"`` is put in
place by `text`, so that no compiler needs a path.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from tensorlib.backends import backend
from tensorlib.device import Device
from tensorlib.dtypes import DType
from tensorlib.native import ffi, lib
from tensorlib.tensor import Tensor, wrap

__all__ = ["OPTIONS", "Source", "empty", "layout_of", "text"]

OPTIONS = ("-std=c++17", "--fmad=false")  # an explicit fma() is the only fused multiply-add, as in the CPU's kernels
C_TYPES = {
    "bool": "bool", "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long",
    "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "float16": "half_t", "bfloat16": "bfloat_t", "float32": "float", "float64": "double",
}  # fmt: skip
_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)


@functools.cache
def text(file: str) -> str:
    """A source with its includes in place."""
    here = resources.files(__package__).joinpath(file)
    found = (
        here if here.is_file() else resources.files("tensorlib.native").joinpath(file)
    )  # shared with the CPU's kernels
    return _INCLUDE.sub(lambda line: text(line[1]), found.read_text("utf-8"))


def empty(shape: tuple[int, ...], dtype: DType, device: Device) -> Tensor:
    """A tensor on a GPU, of arbitrary contents."""
    return wrap(backend(device).empty(shape, dtype))


class _Room(threading.local):
    """Where C writes layouts for this thread, and the same as bytes."""

    def __init__(self) -> None:
        self.numbers = ffi.new("int64_t[]", _NUMBERS)
        self.bytes = ffi.buffer(self.numbers)


_NUMBERS = 192  # room for five tensors of 16 dimensions
_room = _Room()


def layout_of(tensors: Sequence[Tensor | None]) -> bytes:
    """What plans are kept by: dtypes, shapes, strides, kinds of memory, and addresses modulo 16."""
    room = _room
    n = lib.tl_layout(len(tensors), [0 if x is None else x._array for x in tensors], room.numbers, _NUMBERS)
    return room.bytes[: 8 * n]


class Source:
    """A file of kernels. ``source("name", T=dtype, WIDTH=4)`` is a kernel: call it with grid, block and arguments.

    A tensor stands for its first element's address, None for a null pointer; `shared` is the block's dynamic memory in bytes.
    """

    def __init__(self, file: str, *options: str) -> None:
        self.file, self.options = file, (*OPTIONS, *options)
        self._made: dict[Any, Callable[..., None]] = {}

    def __call__(self, kernel: str, **macros: DType | int | str) -> Callable[..., None]:
        key = kernel, *macros.items()
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._kernel(kernel, macros)
        return found

    def _kernel(self, kernel: str, macros: dict[str, Any]) -> Callable[..., None]:
        import cupy  # type: ignore[import-not-found,unused-ignore]

        function = _module(cupy, self.file, self.options, defines(macros)).get_function(kernel)

        def launch(grid: int | tuple[int, ...], block: int | tuple[int, ...], *arguments: Any, shared: int = 0) -> None:
            function(
                grid if isinstance(grid, tuple) else (grid,),
                block if isinstance(block, tuple) else (block,),
                tuple(_plain(a) for a in arguments),
                shared_mem=shared,
            )

        return launch


def defines(macros: dict[str, DType | int | str]) -> str:
    """The lines that a source with these macros begins with; a dtype stands for the type of its elements. No options of the compiler: those
    would reach its own headers too, where ``template <typename T>`` stands."""
    return "".join(
        f"#define {name} {C_TYPES[value.name] if isinstance(value, DType) else value}\n"
        for name, value in macros.items()
    )


@functools.cache
def _module(cupy: Any, file: str, options: tuple[str, ...], head: str) -> Any:
    return cupy.RawModule(code=head + text(file), options=options, backend="nvrtc")


def _plain(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return int(lib.tl_address(argument._array))
    if isinstance(argument, float):
        return argument
    return 0 if argument is None else int(argument)  # a bool too: a byte would be too few
