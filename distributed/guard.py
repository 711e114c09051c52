"""No rank is left behind: when one is lost, all of them end, soon, with a status other than 0 and a message that says which and why.

`start` is called at the end of `init` wherever a launcher started the process; `init(guard=False)` or TENSORLIB_GUARD=0 leaves the protection out,
not the records. What ends all ranks:

- an uncaught exception in the main thread or in one of the library's own threads: status 1;
- ``sys.exit(n)`` or ``raise SystemExit(n)`` with n other than 0 and None: status n, 1 for a message instead of a number;
- ``os._exit(n)``: status n, 1 for 0;
- a rank of which rank 0 has heard nothing for TENSORLIB_HEARTBEAT_LIMIT seconds (10), or which has not heard rank 0, because it was stopped or cut
  off; one whose process is gone, within 2 s: status 1. C code that keeps the interpreter's lock for as long looks the same: then raise the limit;
- Ctrl-C that nobody catches: status 130. A rank that is blocked in MPI cannot raise KeyboardInterrupt, and is ended after a second;
- a rank whose script has ended, with status 0, while another waits for it in a collective that it has not begun: status 1;
- a launcher that dies: SIGKILL, by the kernel (Linux).

A rank whose script ends with status 0 waits, at its exit, for all others to end too, and then finalises MPI. They may go on computing.

The message is written to the standard error at once, by one rank where several have one, and is this line followed by the traceback where there is
one::

    tensorlib.distributed: rank 1 of 4 (host node-b, pid 4711): uncaught ValueError. All ranks are ended.

A collective that waits for longer than TENSORLIB_STALL_SECONDS (60) ends nothing: rank 0 writes, once, where every rank is (stalls.py).
In debug mode, ``init(debug=True)`` or TENSORLIB_DISTRIBUTED_DEBUG=1, the ranks compare every collective before it begins (agreement.py), and
ranks that wait for each other in collectives of different groups end all.

Each rank leaves two records (see records.py): "started" as it begins, and "finished" as it ends with status 0, after all ranks have come to their end
and MPI is finalised. A process without the second has failed, whatever the launcher's status says.
"""

from __future__ import annotations

import array
import ctypes
import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from . import records, stalls
from .agreement import Agreement
from .calls import CHECKS, UNDER_WAY, Call
from .heartbeat import Channel, Heart, Middle, Outer, Rank, addresses

if TYPE_CHECKING:
    from .world import Group

__all__ = ["end_all", "finish", "start", "wait_for_all"]

PREFIX = "tensorlib.distributed: "
_FUSE = 3.0  # seconds that ending may take before the process is ended without MPI
_INTERRUPTED = 128 + signal.SIGINT
_os_exit = os._exit
_PARENT = os.getppid()  # as of the import, before MPI is initialised, which takes a launcher that lives


class _Guard:
    """What this process knows about itself and its end."""

    def __init__(self, world: Group, enabled: bool) -> None:
        self.me = Rank(world.rank, world.size, socket.gethostname(), os.getpid())
        self.comm = world.comm.Dup() if enabled and world.comm is not None else None
        self.heart: Heart | None = None
        self.status = 0
        self.done = False
        self.ending = threading.Lock()
        self.nowhere = os.open(os.devnull, os.O_WRONLY)


class _Watch:
    """What the heartbeat's thread does for the guard. It ends the ranks from threads of their own, and goes on beating."""

    def __init__(self, guard: _Guard, leads: bool, stall: float) -> None:
        self.guard, self.leads, self.stall = guard, leads, stall
        self.ends = False
        self.shown: set[tuple[int, int, str]] = set()
        self.interrupt: tuple[float, Call] | None = None

    def report(self) -> dict[str, Any]:
        return stalls.report(self.guard.done)

    def at_end(self) -> bool:
        return self.guard.done

    def tick(self, now: float) -> None:
        if self.interrupt is not None and now - self.interrupt[0] > 0.9:
            if self.interrupt[1] in UNDER_WAY.values():
                self._end(f"{self.guard.me}: interrupted, at {stalls.where()}.", status=_INTERRUPTED)
            self.interrupt = None
        if self.guard.me.number == 0 and self.guard.heart is not None:
            reports = {0: self.report(), **self.guard.heart.reports()}
            vain = stalls.in_vain(reports, self.guard.me.of)
            if vain is not None:
                self._end(vain)
            if CHECKS and (crossed := stalls.crossed(reports, self.guard.me.of)) is not None:
                self._end(crossed)
            stalled = stalls.stalled(reports, self.stall)
            if stalled is not None and stalled not in self.shown:
                self.shown.add(stalled)
                say(f"{PREFIX}a call has waited for {self.stall:g} s:\n{stalls.table(reports, self.guard.me.of)}")

    def lost(self, rank: int, why: str) -> None:
        heart = self.guard.heart
        assert heart is not None
        # Where all of a node lose rank 0, its first rank says so.
        self._end(
            f"{self.guard.me}: {heart.ranks[rank]} is lost: {why}.", after=0.0 if self.leads else 1.0, claim=rank != 0
        )

    def ended(self, status: int) -> None:
        self._end(None, status=status, after=1.0, claim=False)  # whoever ends all is given the time to say why

    def interrupted(self) -> None:
        main = threading.main_thread().ident
        calls = [call for call in list(UNDER_WAY.values()) if call.thread == main]
        if calls and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.interrupt = time.monotonic(), calls[0]

    def _end(self, message: str | None, *, status: int = 1, after: float = 0.0, claim: bool = True) -> None:
        if not self.ends:
            self.ends = True

            def end() -> None:
                time.sleep(after)
                end_all(message, status, claim=claim)

            threading.Thread(target=end, name="tensorlib end", daemon=True).start()


_guard: _Guard | None = None


def _here() -> _Guard | None:
    """The guard of this process; None in one that it forked."""
    return _guard if _guard is not None and _guard.me.pid == os.getpid() else None


def start(
    world: Group,
    guard: bool | None = None,
    heartbeat_limit: float | None = None,
    stall_limit: float | None = None,
    debug: bool | None = None,
) -> None:
    """Watch over this process as one of `world`'s. Collective, once per process; later calls change nothing."""
    global _guard
    if _guard is not None:
        return
    if guard is None:
        guard = os.environ.get("TENSORLIB_GUARD", "1") != "0"
    _guard = _Guard(world, guard)
    records.say("started", world.rank)
    _watch_exit_status()
    sys.excepthook = _Excepthook(sys.excepthook)
    if debug is None:
        debug = os.environ.get("TENSORLIB_DISTRIBUTED_DEBUG", "0") != "0"
    if debug and world.comm is not None:
        CHECKS.append(Agreement(world.comm.Dup()))
    if _guard.comm is None:
        return
    threading.excepthook = _ThreadExcepthook(threading.excepthook)
    os._exit = _exit_at_once
    _die_with_parent()
    limit = _seconds("heartbeat_limit", heartbeat_limit, "TENSORLIB_HEARTBEAT_LIMIT", 10.0)
    stall = _seconds("stall_limit", stall_limit, "TENSORLIB_STALL_SECONDS", 60.0)
    assert world.node is not None
    _join(_guard, limit, _Watch(_guard, world.node.rank == 0, stall), world.node.bcast(world.rank) == 0)
    assert _guard.heart is not None
    if threading.current_thread() is threading.main_thread():
        before = signal.set_wakeup_fd(_guard.heart.waker.fileno(), warn_on_full_buffer=False)
        if before != -1:  # an event loop's: then Ctrl-C does without
            signal.set_wakeup_fd(before)


def _seconds(argument: str, given: float | None, variable: str, default: float) -> float:
    if given is None:
        text = os.environ.get(variable, str(default))
        try:
            given, argument = float(text), variable
        except ValueError:
            raise ValueError(f"init: {variable} must be a number of seconds, got {text!r}.") from None
    if not given > 0:
        raise ValueError(f"init: {argument} must be above 0 s, got {given}.")
    return given


def _join(guard: _Guard, limit: float, watch: _Watch, beside_first: bool) -> None:
    """Begin the heartbeat. Rank 0 draws the token, and tells it and its addresses through MPI; each rank waits until they have met."""
    comm, me = guard.comm, guard.me
    assert comm is not None
    ranks = [Rank(*said) for said in comm.allgather((me.number, me.of, me.host, me.pid))]
    channel = Channel(me.number, comm.bcast(os.urandom(32)))
    if me.number == 0:
        guard.heart = middle = Middle(ranks, channel, limit, watch)
        comm.bcast((addresses(), middle.port))
        middle.start()
    else:
        offered, port = comm.bcast(None)
        ways = [(address, port) for address in offered if beside_first or not address.startswith("127.")]
        guard.heart = outer = Outer(ranks, channel, limit, watch, ways)
        outer.start()
        if not outer.met(wait=3.0):
            tried = ", ".join(f"{address}:{port}" for address, port in ways)
            say(
                f"{PREFIX}{me}: no answer by UDP from rank 0 at {tried}; a rank that stops or is cut off goes unnoticed.\n"
            )
    comm.Barrier()  # nobody stops before it is watched


def end_all(message: str | None, status: int = 1, details: str = "", *, claim: bool = True) -> NoReturn:
    """Write the message, end all ranks with this status. Never returns, and never takes longer than a few seconds, whatever MPI does.

    claim: write it only if no other rank has one.
    """
    here = _here()
    assert here is not None
    # Ends the process without needing the interpreter: MPI's Abort may hang, and holds the GIL while it does.
    faulthandler.dump_traceback_later(_FUSE, exit=True, file=here.nowhere)
    if not here.ending.acquire(blocking=False):
        time.sleep(2 * _FUSE)  # another thread is at it
    if claim and here.heart is not None and not here.heart.claim():
        time.sleep(_FUSE / 2)  # the other rank's message is on its way, and this one's end with it
        message = None
    if message is not None:
        say(f"{PREFIX}{message} All ranks are ended.\n{details}")
        _let_launcher_read()
    if here.heart is not None:
        here.heart.tell_end(status)
    if here.me.of > 1:
        from mpi4py import MPI

        MPI.COMM_WORLD.Abort(status)
    _os_exit(status)


def say(text: str) -> None:
    """Write it to the standard error at once, whatever Python's buffers do, after what they hold."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # no such stream, or closed
            stream.flush()
    data = text.encode(errors="backslashreplace")
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        return


def _let_launcher_read() -> None:
    """MPICH's launcher drops what it has not read and passed on when it ends the job: under load one message in thirty."""
    import fcntl
    import termios

    unread = array.array("i", [0])
    for stream in (1, 2):
        for _ in range(50):
            with suppress(OSError):  # no pipe
                fcntl.ioctl(stream, termios.FIONREAD, unread)
            if unread[0] == 0:
                break
            time.sleep(0.01)
    time.sleep(0.15)


class _Excepthook:
    """In front of the hook that was there."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        here = _here()
        if here is None or here.comm is None:
            if here is not None:
                here.status = 1
            self.before(kind, error, where)
        elif issubclass(kind, KeyboardInterrupt):
            end_all(f"{here.me}: interrupted, at {stalls.where_raised(where)}.", _INTERRUPTED)
        elif self.before is sys.__excepthook__:
            details = "".join(traceback.format_exception(kind, error, where))
            end_all(f"{here.me}: uncaught {kind.__name__}.", details=details)
        else:
            self.before(kind, error, where)
            end_all(f"{here.me}: uncaught {kind.__name__}.")


class _ThreadExcepthook:
    """The same for exceptions that end a thread of the library: whatever waits for it would wait for ever."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        here = _here()
        name = args.thread.name if args.thread is not None else ""
        if here is None or not name.startswith("tensorlib ") or args.exc_value is None:
            self.before(args)
            return
        details = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        end_all(f"{here.me}: uncaught {args.exc_type.__name__} in the thread {name!r}.", details=details)


class _ExitCode:
    """In place of SystemExit's own `code`. The interpreter reads it when it ends the process, with no frame of Python below; before atexit, nothing
    else tells the status that the process will end with, and after it all ranks may already wait for this one."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __get__(self, instance: SystemExit | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        code = self.original.__get__(instance, owner)
        try:
            sys._getframe(1)
        except ValueError:
            here = _here()
            if here is not None:
                number = 0 if code is None else code if isinstance(code, int) else 1
                here.status = number & 0xFF or int(number != 0)
        return code

    def __set__(self, instance: SystemExit, code: Any) -> None:
        self.original.__set__(instance, code)


def _watch_exit_status() -> None:
    names = gc.get_referents(SystemExit.__dict__)[0]  # behind the read-only view of a built-in class
    if not isinstance(names["code"], _ExitCode):
        names["code"] = _ExitCode(names["code"])
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(SystemExit))
        if sys.version_info < (
            3,
            12,
        ):  # where sys.exit raises the number, which becomes a SystemExit only if it is caught
            sys.exit = _exit


def _exit(status: Any = None, /) -> NoReturn:
    """Raise SystemExit, as sys.exit does."""
    raise SystemExit(status)


def _exit_at_once(status: int) -> NoReturn:
    """End the process without any of Python's clearing up, as os._exit does, and all ranks with it."""
    here = _here()
    if here is not None:
        end_all(f"{here.me}: os._exit({status}).", status or 1)
    _os_exit(status)


def _die_with_parent() -> None:
    """SIGKILL when the launcher's process on this node is gone. Linux only."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != _PARENT:
            os.kill(os.getpid(), signal.SIGKILL)


def wait_for_all() -> None:
    """At the end of the script: end all ranks if it failed, or wait until every rank has come to its end."""
    here = _here()
    if here is None:
        return
    if here.status == 0 and not hasattr(sys, "ps1") and getattr(sys, "last_value", None) is not None:
        here.status = 1  # an exception that a later hook than ours has shown
    here.done = True
    if here.comm is None:
        return
    try:
        if here.status:
            end_all(f"{here.me}: exit with status {here.status}.", here.status)
        arrived = here.comm.Ibarrier()
        pause = 20e-6
        while not arrived.Test():
            time.sleep(pause)
            pause = min(2 * pause, 5e-3)
    except KeyboardInterrupt:
        end_all(f"{here.me}: interrupted, at the end of the script.", _INTERRUPTED)


def finish() -> None:
    """The last act, after `wait_for_all` and with no communicator of the library left: finalise MPI, and write down that all went well."""
    here = _here()
    if here is None:
        return
    if here.heart is not None:
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        here.heart.stop()
    if here.comm is not None:
        import mpi4py
        from mpi4py import MPI

        here.comm.Free()
        if mpi4py.rc.finalize is not False:  # otherwise its user does it
            faulthandler.dump_traceback_later(5 * _FUSE, exit=True, file=here.nowhere)
            MPI.Finalize()
            faulthandler.cancel_dump_traceback_later()
    if here.status == 0:
        records.say("finished", here.me.number)
