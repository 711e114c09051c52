"""Ranks that tell each other, twice a second, that they are there: a thread of each, UDP, a star with rank 0 in its middle.

A packet is a keyed BLAKE2b digest and then JSON, ``[sender, receiver, counter, {...}]``. The key is the job's token, which rank 0 draws and MPI
carries, so packets of others are ignored; so is one whose counter is not above all that came before it from there, a packet played again.

MPI says nothing of a rank that has stopped or is cut off: everyone waits. Here rank 0 notices that it has not heard a rank for `limit` seconds, and
the rank that it has not heard rank 0. A process that is gone answers with an ICMP message, which takes a second instead.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Channel", "Heart", "Rank", "addresses"]

BEAT = 0.5  # seconds between two
_GONE = 0.3  # seconds for which a process must have been gone, in at least two messages of its machine
_DIGEST = 16  # bytes
_IP_RECVERR, _MSG_ERRQUEUE = 11, getattr(socket, "MSG_ERRQUEUE", 0)  # Linux


@dataclass(frozen=True)
class Rank:
    """Who a rank is, as messages name it."""

    number: int
    of: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.number} of {self.of} (host {self.host}, pid {self.pid})"


class Channel:
    """Packets that only the ranks of one job can write."""

    def __init__(self, rank: int, token: bytes) -> None:
        self.rank, self._token = rank, token
        self._sent = 0
        self._newest: dict[int, int] = {}
        self._lock = threading.Lock()

    def _digest(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, key=self._token, digest_size=_DIGEST).digest()

    def seal(self, receiver: int, body: dict[str, Any]) -> bytes:
        with self._lock:
            self._sent += 1
            text = json.dumps([self.rank, receiver, self._sent, body]).encode()
        return self._digest(text) + text

    def open(self, packet: bytes) -> tuple[int, dict[str, Any]] | None:
        """(sender, body); None for what is forged, for another rank, or not newer than what came from there before."""
        digest, text = packet[:_DIGEST], packet[_DIGEST:]
        if not hmac.compare_digest(digest, self._digest(text)):
            return None
        sender, receiver, counter, body = json.loads(text)
        if receiver != self.rank or counter <= self._newest.get(sender, 0):
            return None
        self._newest[sender] = counter
        return sender, body


def addresses() -> list[str]:
    """This machine's IPv4 addresses, one of each interface, the loopback's first. No name is looked up."""
    if sys.platform != "linux":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the way out
            return ["127.0.0.1", probe.getsockname()[0]]
        return ["127.0.0.1"]
    import fcntl

    found = []
    get_address = 0x8915
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                said = fcntl.ioctl(any_socket, get_address, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(said[20:24]))
    return sorted(found, key=lambda address: not address.startswith("127."))


@dataclass
class _Peer:
    """What one rank knows of another that it beats with."""

    address: tuple[str, int] | None = None
    heard: float | None = None
    said: dict[str, Any] = field(default_factory=dict)
    refused: list[float] = field(default_factory=list)
    """When its machine said that nobody is at its address, since it was heard."""

    def hear(self, said: dict[str, Any]) -> None:
        self.heard, self.said = time.monotonic(), said
        self.refused.clear()


class Events(Protocol):
    """What the thread that beats asks of the rest, and tells it."""

    def report(self) -> dict[str, Any]:
        """What to tell rank 0 about this rank."""

    def tick(self, now: float) -> None:
        """Twice a second."""

    def lost(self, rank: int, why: str) -> None:
        """A rank is gone. On rank 0 any other, on the others rank 0."""

    def ended(self, status: int) -> None:
        """Another rank is ending all of them."""

    def interrupted(self) -> None:
        """SIGINT came."""

    def at_end(self) -> bool:
        """Whether this rank's script has ended."""


class Heart(threading.Thread):
    """The thread that beats. `Middle` runs on rank 0, `Outer` on the others."""

    def __init__(self, ranks: list[Rank], channel: Channel, limit: float, on: Events) -> None:
        super().__init__(name="tensorlib heartbeat", daemon=True)
        self.ranks, self.channel, self.limit, self.on = ranks, channel, limit, on
        self.me = ranks[channel.rank]
        self.speaker: int | None = None
        """The first rank that had something to say about the end of all: the one whose message is shown."""
        self._peers: dict[int, _Peer] = {}
        self._stopped = False
        self._wakes, self.waker = socket.socketpair()
        for end in (self._wakes, self.waker):
            end.setblocking(False)
        os.register_at_fork(
            after_in_child=self._close
        )  # a child that lives on would keep the sockets open after this process is gone

    def run(self) -> None:
        due = looked = time.monotonic()
        while not self._stopped:
            now = time.monotonic()
            if now - looked > 4 * BEAT:  # the thread itself stood still: what it did not hear meanwhile says nothing
                for peer in self._peers.values():
                    peer.heard = peer.heard and now
            looked = now
            if now >= due:
                due = now + BEAT
                self.beat()
                self.judge(now)
                self.on.tick(now)
            sockets = [self._wakes, *self._sockets()]
            for ready in select.select(sockets, [], [], max(0.0, due - time.monotonic()))[0]:
                if ready is self._wakes:
                    with suppress(BlockingIOError):
                        self._woken(self._wakes.recv(4096))
                else:
                    self._hear(ready)

    def stop(self) -> None:
        self._stopped = True
        self._wake()
        self.join(self.limit)
        self._close()

    def claim(self) -> bool:
        """Whether this rank is the one to say why all ranks end. From any thread but this one."""
        raise NotImplementedError

    def tell_end(self, status: int) -> None:
        """Let the other ranks know that this one ends all. From any thread."""
        raise NotImplementedError

    def beat(self) -> None:
        raise NotImplementedError

    def reports(self) -> dict[int, dict[str, Any]]:
        """What the ranks said last, and how long ago ("silent", in seconds), on rank 0."""
        now = time.monotonic()
        return {n: {**peer.said, "silent": now - peer.heard} for n, peer in self._peers.items() if peer.heard}

    def judge(self, now: float) -> None:
        for number, peer in self._peers.items():
            if peer.heard is None:
                continue
            silent = now - peer.heard
            patience = (
                _GONE if not self.on.at_end() else _GONE + 2.0
            )  # at the end of all, others may be gone a moment earlier
            gone = len(peer.refused) > 1 and now - peer.refused[0] > patience
            if gone or silent > self.limit:
                why = (
                    "its process is gone"
                    if gone
                    else f"nothing was heard of it for {silent:.1f} s, the limit is {self.limit:g} s"
                )
                self.on.lost(number, why)

    def _sockets(self) -> list[socket.socket]:
        raise NotImplementedError

    def _hear(self, ready: socket.socket) -> None:
        raise NotImplementedError

    def _woken(self, signals: bytes) -> None:
        for number in signals:
            if number == signal.SIGINT:
                self.on.interrupted()

    def _wake(self) -> None:
        with suppress(OSError):
            self.waker.send(b"\0")

    def _close(self) -> None:
        for each in (self._wakes, self.waker, *self._sockets()):
            each.close()

    def _packets(self, ready: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
        """What has come in on a socket."""
        while True:
            try:
                packet = ready.recvfrom(65536, socket.MSG_DONTWAIT)
            except ConnectionRefusedError:
                self._refused(ready)
                continue
            except OSError:  # nothing more, or a broken way: then silence will tell
                return
            yield packet

    def _refused(self, ready: socket.socket) -> None:
        raise NotImplementedError


class Middle(Heart):
    """Rank 0's: hears all and answers each."""

    def __init__(self, ranks: list[Rank], channel: Channel, limit: float, on: Events) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("", 0))
        self._claims = threading.Lock()
        if sys.platform == "linux":
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        super().__init__(ranks, channel, limit, on)
        self._peers = {number: _Peer() for number in range(1, len(ranks))}

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def claim(self, rank: int = 0) -> bool:
        with self._claims:
            if self.speaker is None:
                self.speaker = rank
        return self.speaker == rank

    def tell_end(self, status: int, by: int = 0) -> None:
        for number in self._peers:
            self._send(number, {"ends": status, "by": by})

    def beat(self) -> None:
        for number in self._peers:
            self._send(number, {})

    def _send(self, number: int, body: dict[str, Any]) -> None:
        address = self._peers[number].address
        if address is not None:
            for _ in range(2):  # the first may bring the news that an earlier one reached nobody
                with suppress(OSError):
                    self._socket.sendto(self.channel.seal(number, body), address)
                    return

    def _sockets(self) -> list[socket.socket]:
        return [self._socket]

    def _hear(self, ready: socket.socket) -> None:
        for packet, address in self._packets(ready):
            opened = self.channel.open(packet)
            if opened is None:
                continue
            sender, said = opened
            peer = self._peers[sender]
            first, peer.address = peer.heard is None, address
            if "ends" in said:
                self.claim(sender)
                self.tell_end(said["ends"], sender)
                self.on.ended(said["ends"])
                continue
            peer.hear(said)
            if said.get("claims"):
                self.claim(sender)
                self._send(sender, {"speaker": self.speaker})
            elif first:
                self._send(sender, {})
        self._refused(ready)

    def _refused(self, ready: socket.socket) -> None:
        """Which of the ranks' machines said that nobody is there: Linux keeps it in a queue of its own."""
        while _MSG_ERRQUEUE:
            try:
                _, _, _, address = ready.recvmsg(1, 512, _MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except OSError:
                return
            for peer in self._peers.values():
                if peer.address == address:
                    peer.refused.append(time.monotonic())


class Outer(Heart):
    """Any other rank's: it beats with rank 0, over the first of its addresses that answers."""

    def __init__(
        self, ranks: list[Rank], channel: Channel, limit: float, on: Events, offered: list[tuple[str, int]]
    ) -> None:
        self._ways = []
        for address in offered:
            way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with suppress(OSError):  # no way there
                way.connect(address)
                self._ways.append(way)
        super().__init__(ranks, channel, limit, on)
        self._peers = {0: _Peer()}
        self._answered = threading.Event()
        self._claiming = False
        self._met = threading.Event()

    def claim(self) -> bool:
        if self.speaker is None:
            self._claiming = True
            self.beat()
            self._answered.wait(1.0)
        return self.speaker is None or self.speaker == self.me.number  # no answer: better twice than never

    def tell_end(self, status: int) -> None:
        self._send({"ends": status})

    def beat(self) -> None:
        self._send({**self.on.report(), "claims": self._claiming})

    def _send(self, body: dict[str, Any]) -> None:
        for way in list(self._ways):
            for _ in range(2):  # as in Middle
                try:
                    way.send(self.channel.seal(0, body))
                    break
                except ConnectionRefusedError:
                    self._refused(way)
                except OSError:
                    break

    def met(self, wait: float) -> bool:
        """Whether rank 0 answers."""
        return self._met.wait(wait)

    def _sockets(self) -> list[socket.socket]:
        return self._ways

    def _hear(self, ready: socket.socket) -> None:
        for packet, _ in self._packets(ready):
            opened = self.channel.open(packet)
            if opened is None:
                continue
            _, said = opened
            self._peers[0].hear(said)
            if not self._met.is_set():
                for way in self._ways:
                    if way is not ready:
                        way.close()
                self._ways = [ready]
                self.beat()  # so that rank 0 answers there from now on
                self._met.set()
            if "ends" in said:
                self.speaker = said["by"]
                self.on.ended(said["ends"])
            elif "speaker" in said:
                self.speaker = said["speaker"]
                self._answered.set()

    def _refused(self, ready: socket.socket) -> None:
        self._peers[0].refused.append(time.monotonic())
