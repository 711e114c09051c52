"""NCCL of the stand-in: the ranks of a node speak over sockets of this machine, each with the first one.

As with NCCL, a call that not all ranks make, or make in another order, does not end; here it does after a minute. Each rank must have a GPU
of its own, which NCCL checks too.
"""

from __future__ import annotations

import socket
import struct
from types import ModuleType
from typing import Any

import numpy as np

from . import memory, streams

__all__ = ["make"]

_BYTES = 128  # of a unique id
_LIMIT = 60.0  # seconds
_TYPES = {0: "i1", 1: "u1", 2: "i4", 3: "u4", 4: "i8", 5: "u8", 6: "f2", 7: "f4", 8: "f8", 9: "bfloat16"}
_listening: dict[int, socket.socket] = {}


class NcclError(RuntimeError):
    pass


def get_unique_id() -> bytes:
    made = socket.create_server(("127.0.0.1", 0))
    made.settimeout(_LIMIT)
    port = made.getsockname()[1]
    _listening[port] = made
    return struct.pack("<I", port).ljust(_BYTES, b"\0")


class NcclCommunicator:
    def __init__(self, ndev: int, commId: Any, rank: int) -> None:
        assert len(commId) == _BYTES
        (port,) = struct.unpack_from("<I", bytes(b & 255 for b in commId))
        self._size, self._rank, self._device = ndev, rank, streams.current_device_id()
        self._lines: list[socket.socket] = []  # rank 0: of ranks 1, 2 ...; else of rank 0
        if rank:
            self._lines = [socket.create_connection(("127.0.0.1", port), _LIMIT)]
            self._lines[0].sendall(struct.pack("<II", rank, self._device))
        else:
            found = {}
            with _listening.pop(port) as server:
                for _ in range(ndev - 1):
                    line, _ = server.accept()
                    line.settimeout(_LIMIT)
                    other, device = struct.unpack("<II", _receive(line, 8))
                    found[other] = line, device
            self._lines = [found[other][0] for other in range(1, ndev)]
            devices = [self._device, *(found[other][1] for other in range(1, ndev))]
            if len(set(devices)) < ndev:
                raise NcclError("NCCL_ERROR_INVALID_USAGE: Duplicate GPU detected")

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        assert op == 0
        self._perform("allReduce", sendbuf, count, recvbuf, datatype, _sum)

    def reduceScatter(self, sendbuf: int, recvbuf: int, recvcount: int, datatype: int, op: int, stream: int) -> None:
        assert op == 0
        here = slice(self._rank * recvcount, (self._rank + 1) * recvcount)
        self._perform("reduceScatter", sendbuf, recvcount * self._size, recvbuf, datatype, _sum, here)

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:
        self._perform("allGather", sendbuf, count, recvbuf, datatype, np.concatenate)

    def abort(self) -> None:
        for line in self._lines:
            line.close()
        self._lines = []

    def destroy(self) -> None:
        raise AssertionError("destroy waits for the other ranks: abort once all are done")

    def _perform(
        self, name: str, source: int, count: int, to: int, kind: int, how: Any, part: Any = slice(None)
    ) -> None:
        """All ranks' `count` elements go to rank 0, what becomes of them comes back."""
        dtype = _TYPES[kind]
        width = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
        for address in (source, to):
            there = memory.find(address)
            if there is None or there.device_id != self._device:
                raise NcclError("NCCL_ERROR_INVALID_ARGUMENT: not memory of this rank's GPU")

        def effect() -> None:
            mine = memory.at(source, count * width).tobytes()
            said = f"{name} {count} {dtype}".encode().ljust(64)
            if self._rank:
                self._lines[0].sendall(said + mine)
                result = _receive(self._lines[0], struct.unpack("<Q", _receive(self._lines[0], 8))[0])
            else:
                parts = [mine]
                for line in self._lines:
                    other = _receive(line, 64)
                    assert other == said, f"{other.decode()} meets {said.decode()}"
                    parts.append(_receive(line, len(mine)))
                result = _narrow(how([_wide(p, dtype) for p in parts]), dtype)
                for line in self._lines:
                    line.sendall(struct.pack("<Q", len(result)) + result)
            taken = np.frombuffer(result, np.uint8).reshape(-1, width)[part]
            memory.at(to, taken.size)[:] = taken.reshape(-1)

        streams.perform(effect)


def _sum(parts: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def _wide(raw: bytes, dtype: str) -> np.ndarray[Any, Any]:
    if dtype == "bfloat16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, dtype)


def _narrow(values: np.ndarray[Any, Any], dtype: str) -> bytes:
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()
    return values.astype(dtype).tobytes()


def _receive(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = line.recv(min(size - len(found), 1 << 20))
        if not more:
            raise NcclError("NCCL_ERROR_SYSTEM_ERROR: the other rank is gone")
        found += more
    return found


def make() -> ModuleType:
    made = ModuleType("cupy.cuda.nccl")
    vars(made).update(
        available=True, get_unique_id=get_unique_id, NcclCommunicator=NcclCommunicator, NcclError=NcclError
    )
    return made
