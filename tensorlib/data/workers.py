"""Those who make batches ahead: threads, or processes.

A crew takes jobs for its workers and puts what becomes of them on one queue, `done`: a Done for each job, and one with `dead` set where a
process ended before its time. Workers hold no reference to the loader or the pass: a pass that is dropped in the middle can close its crew.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, NamedTuple

from tensorlib.data.fetching import Job, Source
from tensorlib.threads import set_num_threads

_Init = Any  # a function of the worker's number, or None


class Done(NamedTuple):
    """What became of a job."""

    worker: int
    job: Job | None
    batch: Any = None
    error: BaseException | None = None
    dead: bool = False


class Crew:
    """`number` workers, each with a copy of `source`."""

    def __init__(self, number: int) -> None:
        self.number, self.closed = number, False
        self.done: SimpleQueue[Done] = SimpleQueue()

    def submit(self, worker: int, job: Job) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Workers end after the job they are at; none is waited for."""
        raise NotImplementedError


# ---- threads ----


def _thread(worker: int, source: Source, jobs: SimpleQueue[Job | None], done: SimpleQueue[Done], init: _Init) -> None:
    failed: BaseException | None = None
    try:
        if init is not None:
            init(worker)
    except BaseException as e:  # noqa: BLE001  # it is raised where the batch is asked for
        failed = e
    while (job := jobs.get()) is not None:
        done.put(_made(worker, source, job) if failed is None else Done(worker, job, error=failed))


def _made(worker: int, source: Source, job: Job) -> Done:
    try:
        return Done(worker, job, source.make(job))
    except BaseException as e:  # noqa: BLE001  # it is raised where the batch is asked for
        return Done(worker, job, error=e)


class ThreadCrew(Crew):
    """Threads of this process."""

    def __init__(self, sources: list[Source], init: _Init) -> None:
        super().__init__(len(sources))
        self._jobs: list[SimpleQueue[Job | None]] = [SimpleQueue() for _ in sources]
        for worker, (source, jobs) in enumerate(zip(sources, self._jobs, strict=True)):
            threading.Thread(
                target=_thread, args=(worker, source, jobs, self.done, init), name=f"tensorlib loader {worker}", daemon=True
            ).start()  # fmt: skip

    def submit(self, worker: int, job: Job) -> None:
        self._jobs[worker].put(job)

    def close(self) -> None:
        self.closed = True
        for jobs in self._jobs:
            jobs.put(None)


# ---- processes ----


class WorkerTraceback(Exception):
    """The cause of an exception that a worker process raised: where it did."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


def _send(connection: Connection, value: Any) -> None:
    """Arrays go beside the pickle, each in one piece."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raws = [b.raw() for b in buffers]
    connection.send_bytes(pickle.dumps((head, [r.nbytes for r in raws])))
    for raw in raws:
        if raw.nbytes:
            connection.send_bytes(raw)


def _receive(connection: Connection) -> Any:
    head, sizes = pickle.loads(connection.recv_bytes())  # from a child of this process
    buffers = [bytearray(n) for n in sizes]
    for buffer in buffers:
        if buffer:
            connection.recv_bytes_into(buffer)
    return pickle.loads(head, buffers=buffers)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _process(worker: int, source: Source, connection: Connection, init: _Init) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, which then closes its end
    set_num_threads(1)
    failed: BaseException | None = None
    try:
        if init is not None:
            init(worker)
    except BaseException as e:  # noqa: BLE001
        failed = e
    try:
        while (job := _receive(connection)) is not None:
            made = _made(worker, source, job) if failed is None else Done(worker, job, error=failed)
            if made.error is not None:
                made = made._replace(error=_portable(made.error))
            try:
                _send(connection, made)
            except (pickle.PicklingError, TypeError, AttributeError) as e:
                _send(connection, Done(worker, job, error=_portable(e)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone or has closed its crew


def _portable(error: BaseException) -> BaseException:
    """An exception that survives the way: with its traceback as its cause's words."""
    words = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        carried: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # whatever its class does
        carried = RuntimeError(f"{type(error).__name__}: {error}")
    carried.tensorlib_worker_traceback = words  # type: ignore[attr-defined]
    return carried


class ProcessCrew(Crew):
    """Processes of their own; a thread of this one takes in what they send."""

    def __init__(self, sources: list[Source], init: _Init, context: Any) -> None:
        super().__init__(len(sources))
        context = multiprocessing.get_context(context) if isinstance(context, str) else context
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["__main__", __name__])  # each process begins with the library imported
        self._connections: list[Connection] = []
        self._processes = []
        for worker, source in enumerate(sources):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_process, args=(worker, source, theirs, init), name=f"tensorlib loader {worker}", daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        threading.Thread(
            target=self._take_in, args=(self._connections, self._processes, self.done), daemon=True
        ).start()

    @staticmethod
    def _take_in(connections: list[Connection], processes: list[Any], done: SimpleQueue[Done]) -> None:
        open_ = dict(zip(connections, range(len(connections)), strict=True))
        while open_:
            for ready in wait(list(open_)):
                worker = open_[ready]  # type: ignore[index]
                try:
                    done.put(_receive(ready))  # type: ignore[arg-type]
                except (EOFError, OSError):
                    del open_[ready]  # type: ignore[arg-type]
                    processes[worker].join(1)
                    done.put(
                        Done(worker, None, error=RuntimeError(_how_it_ended(worker, processes[worker])), dead=True)
                    )

    def submit(self, worker: int, job: Job) -> None:
        with contextlib.suppress(OSError):  # where it is dead, `done` tells
            _send(self._connections[worker], job)

    def close(self) -> None:
        self.closed = True
        for worker in range(self.number):
            self.submit(worker, None)  # type: ignore[arg-type]


def _how_it_ended(worker: int, process: Any) -> str:
    code = process.exitcode
    how = (
        "is gone"
        if code is None
        else f"was killed by {signal.Signals(-code).name}"
        if code < 0
        else f"exited with status {code}"
    )
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"DataLoader: worker {worker} (process {process.pid}) {how}{hint} while it had batches to make."
