"""Random numbers on GPUs: the bits that the CPU's AVX2 kernels draw from the same key and counter. Dropout.

Under capture a draw adds what `Capture.random_base` holds to its key and counter, so that each replay draws other numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.device import Device
from tensorlib.dtypes import DType
from tensorlib.tensor import Tensor

from . import capture, lane
from .launch import Source, empty

__all__ = ["draw"]

RANDOM = Source("random.cu")
BLOCK = 256
KERNELS = ("uniform", "normal", "randint", "bernoulli")  # by the numbers of tensorlib/random.py


def _signed(word: int) -> int:
    """The 64-bit integer of the same bits."""
    return (word & 2**64 - 1 ^ 1 << 63) - (1 << 63)


def _base() -> Tensor | None:
    under_way = capture.current()
    return None if under_way is None else under_way.random_base


def _run(kernel: str, out: Tensor, each: int, *arguments: Any) -> Tensor:
    if n := out.numel():
        RANDOM(kernel, T=out.dtype)(-(-n // (BLOCK * each)), BLOCK, out, *arguments)
    return out


def draw(
    kind: int, shape: tuple[int, ...], key: int, counter: int, dtype: DType, where: Device, a: float, b: float
) -> Tensor:
    """Numbers as `tensorlib.random` draws them, by its kinds and in its terms."""
    out, kernel = empty(shape, dtype, where), KERNELS[kind]
    stream = (out.numel(), _signed(key), _signed(counter), _base())
    each = 2 if kernel == "randint" or (dtype is dtypes.float64 and kernel != "bernoulli") else 4
    if kernel == "uniform":
        number = np.float64 if dtype is dtypes.float64 else np.float32
        top = np.nextafter(number(b), number(-math.inf))
        return _run(kernel, out, each, *stream, float(a), float(b) - float(a), float(top if top >= number(a) else b))
    if kernel == "normal":
        return _run(kernel, out, each, *stream, float(a), float(b))
    if kernel == "randint":
        return _run(kernel, out, each, *stream, int(a), _signed(int(b) - int(a)))
    return _run(kernel, out, each, *stream, float(a))


@lane("dropout")
def dropout(x: Tensor, *, p: float, key: int, counter: int) -> Tensor | None:
    if not x.dtype.is_floating_point:
        return None
    x, out = x.contiguous(), empty(x.shape, x.dtype, x.device)
    aligned = x.data_ptr() % (4 * x.dtype.itemsize) == 0
    scale = 1 / (1 - p) if p < 1 else 0.0
    return _run("dropout", out, 4, x, x.numel(), int(aligned), _signed(key), _signed(counter), _base(), float(p), scale)
