"""Debug mode: before every collective the members of its group compare what they are about to do."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

from .calls import Call
from .stalls import where

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["Agreement"]

_BYTES = 4096  # of a message, padded: room for two lines of code in any alphabet
_TAGS = 32768  # that every MPI has


class Agreement:
    """Called with a collective before it begins; a RuntimeError on all members unless operation, number, shape and dtype are the same on all.

    comm: of the whole world, for this alone. Lines are told, not compared: ranks may well reach a collective on different ones.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm

    def __call__(self, call: Call) -> None:
        group, tag = call.group, call.group.number % _TAGS
        shape = None if call.shape is None else list(call.shape)
        mine = [call.operation, call.number, shape, call.dtype, where(threading.get_ident())[:400]]
        first, others = group.ranks[0], group.ranks[1:]
        if group.rank != 0:
            self._finish(self.comm.Isend(self._packed(mine), first, tag))
            said = bytearray(_BYTES)
            self._finish(self.comm.Irecv(said, first, tag))
            verdict = self._unpacked(said)
        else:
            verdict = self._verdict(group.ranks, mine, tag)
            packed = self._packed(verdict)
            for request in [self.comm.Isend(packed, rank, tag) for rank in others]:
                self._finish(request)
        if verdict is not None:
            raise RuntimeError(verdict)

    def _verdict(self, ranks: tuple[int, ...], mine: list[Any], tag: int) -> str | None:
        buffers = [bytearray(_BYTES) for _ in ranks[1:]]
        requests = [self.comm.Irecv(buffer, rank, tag) for buffer, rank in zip(buffers, ranks[1:], strict=True)]
        for request in requests:
            self._finish(request)
        for rank, buffer in zip(ranks[1:], buffers, strict=True):
            theirs = self._unpacked(buffer)
            if theirs[:4] != mine[:4]:
                return f"ranks differ in what they call:\n  rank {ranks[0]}: {_words(mine)}\n  rank {rank}: {_words(theirs)}"
        return None

    @staticmethod
    def _finish(request: MPI.Request) -> None:
        """Wait for it without blocking in MPI, where Ctrl-C is not seen."""
        pause = 5e-6
        while not request.Test():
            time.sleep(pause)
            pause = min(2 * pause, 1e-3)

    @staticmethod
    def _packed(what: Any) -> bytes:
        return json.dumps(what, ensure_ascii=False).encode(errors="replace").ljust(_BYTES)

    @staticmethod
    def _unpacked(packed: bytearray) -> Any:
        return json.loads(packed)


def _words(said: list[Any]) -> str:
    operation, number, shape, dtype, place = said
    what = f" {dtype or ''}{'' if shape is None else shape}".rstrip()
    return f"{operation}{what}, number {number}, at {place}"
