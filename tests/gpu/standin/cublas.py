"""cuBLAS as tensorlib/gpu/cublas.py finds it: two matrix products over NumPy, in columns as the real ones count. Every operand is checked against its
allocation, and a stream that captures needs a workspace that was there before.

Sums of float16 and bfloat16 run in float32, TF32 is rounded as tensor cores round it, so a test sees which of them was asked for.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from . import memory, streams

__all__ = ["Library"]

TYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 2: np.dtype(np.float16), 14: np.dtype(np.uint16)}
BFLOAT16, FLOAT, TF32, DOUBLE = 14, 68, 77, 70


class Matrices:
    """`batch` matrices of one operand, in columns: (batch, rows, columns) over device memory."""

    def __init__(self, address: int, kind: int, rows: int, columns: int, lead: int, step: int, batch: int) -> None:
        assert rows > 0 and columns > 0 and batch > 0, "no size is 0"
        assert rows <= lead < 2**31, f"a leading dimension of {lead} for {rows} rows"
        self.kind, dtype = kind, TYPES[kind]
        last = (batch - 1) * step + (columns - 1) * lead + rows
        there = memory.find(address)
        if there is None or there.device_id != streams.current_device_id():
            raise streams.CUDARuntimeError("cudaErrorIllegalAddress: cuBLAS got the address of other memory", 700)
        assert address + last * dtype.itemsize <= there.ptr + there.size, "cuBLAS: beyond an allocation"
        assert address % dtype.itemsize == 0
        self.held = there
        flat = memory.at(address, last * dtype.itemsize).view(dtype)
        strides = [s * dtype.itemsize for s in (step, 1, lead)]
        self.array = np.lib.stride_tricks.as_strided(flat, (batch, rows, columns), strides)

    def wide(self, compute: int) -> np.ndarray:
        if self.kind == BFLOAT16:
            return (self.array.astype(np.uint32) << 16).view(np.float32)
        if compute != TF32:
            return self.array.astype(np.float32 if self.array.dtype == np.float16 else self.array.dtype)
        bits = np.ascontiguousarray(self.array).view(np.uint32)
        return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)

    def write(self, values: np.ndarray) -> None:
        if self.kind == BFLOAT16:
            bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
            made = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            values = np.where(np.isnan(values), (bits >> 16) | 0x40, made).astype(np.uint16)
        self.array[...] = values


class Library:
    """The functions that ctypes would have, which give back a status."""

    def __init__(self) -> None:
        self.streams: dict[int, int] = {}
        self.devices: dict[int, int] = {}
        self.workspaces: dict[int, int] = {}

    def cublasCreate_v2(self, place: Any) -> int:
        handle = place._obj.value = 4096 + len(self.devices)
        self.devices[handle] = streams.current_device_id()
        return 0

    def cublasDestroy_v2(self, handle: int) -> int:
        return 0

    def cublasSetStream_v2(self, handle: int, stream: int) -> int:
        self.streams[handle] = stream
        self.workspaces.pop(handle, None)
        return 0

    def cublasSetWorkspace_v2(self, handle: int, workspace: int, size: int) -> int:
        there = memory.find(workspace)
        assert there is not None and workspace + size <= there.ptr + there.size
        self.workspaces[handle] = workspace
        return 0

    def _ready(self, handle: int) -> None:
        assert self.devices[handle] == streams.current_device_id(), "the handle is another device's"
        assert self.streams[handle] == streams.get_current_stream().ptr, "the handle is set to another stream"
        assert handle in self.workspaces

    def cublasGemmStridedBatchedEx(
        self, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int, strideA: int,
        B: int, Btype: int, ldb: int, strideB: int, beta: int, C: int, Ctype: int, ldc: int, strideC: int, batchCount: int,
        computeType: int, algo: int,
    ) -> int:  # fmt: skip
        self._ready(handle)
        assert (
            Atype == Btype == Ctype and (computeType == DOUBLE) == (Atype == 1) and computeType in (FLOAT, TF32, DOUBLE)
        )
        assert computeType != TF32 or Atype == 0
        assert batchCount == 1 or strideC, "several products into one place"
        real = ctypes.c_double if computeType == DOUBLE else ctypes.c_float
        plus, times = (real.from_address(p).value for p in (alpha, beta))
        a = Matrices(A, Atype, *((k, m) if transa else (m, k)), lda, strideA, batchCount)
        b = Matrices(B, Btype, *((n, k) if transb else (k, n)), ldb, strideB, batchCount)
        c = Matrices(C, Ctype, m, n, ldc, strideC, batchCount)

        def run() -> None:
            x, y = a.wide(computeType), b.wide(computeType)
            x, y = x.swapaxes(1, 2) if transa else x, y.swapaxes(1, 2) if transb else y
            with np.errstate(all="ignore"):
                made = x.dtype.type(plus) * np.matmul(x, y)
                c.write(made if times == 0 else made + made.dtype.type(times) * c.wide(FLOAT))

        streams.perform(run)
        return 0

    def cublasGemmEx(
        self, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int, B: int, Btype: int,
        ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
    ) -> int:  # fmt: skip
        return self.cublasGemmStridedBatchedEx(
            handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B, Btype, ldb, 0, beta, C, Ctype, ldc, 0, 1, computeType, algo
        )  # fmt: skip
