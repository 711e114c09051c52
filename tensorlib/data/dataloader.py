"""DataLoader: batches from a dataset, fetched ahead by threads or processes, the same ones on any number of them, and resumed in mid-epoch.

A pass is a list of jobs, each with a number: the indices of a batch. Whoever runs a job (the caller itself, a thread, a process), its batch
is the same, because all that is random in it comes from streams named by the pass and the example; and it is handed out in the order of the
numbers.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from queue import Empty
from typing import Any

from tensorlib.data.collate import default_collate, default_convert, pinned
from tensorlib.data.dataset import IterableDataset
from tensorlib.data.fetching import END, Job, Source
from tensorlib.data.sampler import BatchSampler, RandomSampler, SequentialSampler
from tensorlib.data.workers import Crew, Done, ProcessCrew, ThreadCrew, WorkerTraceback
from tensorlib.random import Generator, default_generator, mixed

__all__ = ["DataLoader"]


class DataLoader:
    """Batches of a dataset's examples, one pass for each `iter()`.

    Args:
        dataset: anything with ``__getitem__`` and ``__len__``, or an `IterableDataset`.
        batch_size: examples of a batch; None: no batches, examples as they come.
        shuffle: a new random order in each pass; not with `sampler`, `batch_sampler` or an IterableDataset.
        sampler: an order of indices; batch_sampler: an order of lists of indices (in place of batch_size, shuffle, sampler and drop_last).
        num_workers: who fetches ahead; 0: nobody, batches are made as they are asked for.
        collate_fn: makes a batch of a list of examples; None: `default_collate`, or the dataset's own ``batch`` where it has one.
        drop_last: leave out an incomplete last batch.
        timeout: seconds to wait for a worker's batch; 0: for ever.
        worker_init_fn: called with the worker's number when it starts.
        multiprocessing_context: "forkserver" or "spawn" (or such a context): workers are processes. None: threads, which serve as well where
            the work is NumPy, files, images or kernels of this library, all of which let other threads run; pure Python needs processes.
        generator: where the orders and all other randomness come from; None: one seeded by the default generator.
        prefetch_factor: batches fetched ahead for each worker, 2 where None.
        persistent_workers: keep workers from pass to pass.
        pin_memory: batches are handed out in pinned memory, from which ``.to("cuda", non_blocking=True)`` does not wait. Without a GPU: as they are.
        pin_memory_device, in_order: taken as PyTorch takes them; batches come in order in any case.

    **Randomness.** While an example is fetched, the thread's default generator is one named by the pass and the example's index, so `tl.rand`
    in a dataset or transform gives an example the same augmentation with any number of workers. `tl.data.sample_rng()` is a NumPy generator
    for the same use.

    **Resuming.** `state_dict()` in mid-pass, and `load_state_dict()` in a new process, go on with the next batch and the same randomness, if the
    sampler's order depends on its generator alone (a BucketBatchSampler's on its epoch). Nothing that was handed out is fetched again.

    Raises:
        ValueError: where the settings do not fit together.
        RuntimeError: from a pass, where a worker process died, naming it; what a dataset raises comes as it is.

    >>> loader = tl.data.DataLoader(tl.data.TensorDataset(tl.arange(5)), batch_size=2)
    >>> [batch.tolist() for (batch,) in loader]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None, sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Sequence[Any]] | None = None, num_workers: int = 0, collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False, drop_last: bool = False, timeout: float = 0, worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None, generator: Generator | None = None, *, prefetch_factor: int | None = None,
        persistent_workers: bool = False, pin_memory_device: str = "", in_order: bool = True,
    ) -> None:  # fmt: skip
        _check_count("num_workers", num_workers, 0)
        if timeout < 0:
            raise ValueError(f"DataLoader: timeout must be at least 0, got {timeout}.")
        if prefetch_factor is not None:
            _check_count("prefetch_factor", prefetch_factor, 1)
        if num_workers == 0 and (prefetch_factor is not None or persistent_workers):
            raise ValueError("DataLoader: prefetch_factor and persistent_workers need num_workers of at least 1.")
        self.dataset, self.num_workers, self.timeout, self.worker_init_fn = (
            dataset,
            num_workers,
            timeout,
            worker_init_fn,
        )
        self.pin_memory, self.pin_memory_device, self.in_order = pin_memory, pin_memory_device, in_order
        self.multiprocessing_context, self.persistent_workers = multiprocessing_context, persistent_workers
        self.prefetch_factor = 2 if prefetch_factor is None and num_workers else prefetch_factor
        self.generator = generator or Generator().manual_seed(mixed(*default_generator().next(1, 2)))
        self._set_order(batch_size, shuffle, sampler, batch_sampler, drop_last)
        self.collate_fn = collate_fn or (
            default_convert if self.batch_size is None and self.batch_sampler is None else default_collate
        )
        self._gathers = collate_fn is None and self.batch_sampler is not None and hasattr(dataset, "batch")
        self._crew: Crew | None = None
        self._progress: _Progress | None = None
        self._resumed: dict[str, Any] | None = None

    def _set_order(
        self, batch_size: int | None, shuffle: bool | None, sampler: Iterable[Any] | None, batch_sampler: Any, drop_last: bool
    ) -> None:  # fmt: skip
        iterable = isinstance(self.dataset, IterableDataset)
        if iterable and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError(
                "DataLoader: an IterableDataset comes in its own order: no shuffle, sampler or batch_sampler."
            )
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler and shuffle=True exclude each other.")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "DataLoader: batch_sampler stands in place of batch_size, shuffle, sampler and drop_last."
                )
            batch_size = None
        elif batch_size is None:
            if drop_last:
                raise ValueError("DataLoader: drop_last needs a batch_size.")
        else:
            _check_count("batch_size", batch_size, 1)
        if not iterable and sampler is None and batch_sampler is None:
            sampler = (
                RandomSampler(self.dataset, generator=self.generator) if shuffle else SequentialSampler(self.dataset)
            )
        if not iterable and batch_size is not None and sampler is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size, self.drop_last, self.sampler, self.batch_sampler = (
            batch_size,
            drop_last,
            sampler,
            batch_sampler,
        )

    def __len__(self) -> int:
        """Batches of a pass."""
        order: Any = self.batch_sampler if self.batch_sampler is not None else self.sampler
        if order is not None:
            return len(order)
        n = len(self.dataset)
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        state, self._resumed = self._resumed, None
        begun = _Pass(self, state)
        self._progress = begun.progress
        return begun

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        """Where the newest pass stands: plain values and small tensors, for `load_state_dict` and for `tl.save`."""
        if self._resumed is not None:
            return dict(self._resumed)
        if self._progress is None or self._progress.finished:
            return {"batches": 0, "of": self._total(), "order": self._order_state()}
        return {"batches": self._progress.delivered, "of": self._total(), "order": self._progress.order}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The next pass goes on where `state_dict` was taken.

        Raises:
            ValueError: where it is not what `state_dict` gave, or was taken from passes of another length.
        """
        if set(state_dict) != {"batches", "of", "order"}:
            raise ValueError(
                f'DataLoader.load_state_dict: expected "batches", "of" and "order", got {sorted(map(str, state_dict))}.'
            )
        if state_dict["of"] != self._total():
            raise ValueError(
                f"DataLoader.load_state_dict: the state is of passes of {state_dict['of']} batches, this loader's have {self._total()}: "
                "the data, batch_size, drop_last or the sampler differ."
            )
        self._resumed = dict(state_dict)

    def _total(self) -> int | None:
        """Batches of every pass, where that is known before; a sampler that counts epochs may have others in each."""
        try:
            return None if hasattr(self.batch_sampler or self.sampler, "epoch") else len(self)
        except TypeError:
            return None

    def _randomness(self) -> dict[str, Any]:
        """Whatever decides the order, by name: generators and samplers that count epochs."""
        known: dict[str, Any] = {"generator": self.generator}
        for name, of in (("sampler", self.sampler), ("batch_sampler", self.batch_sampler)):
            for own in ("generator", "epoch"):
                if getattr(of, own, None) is not None:
                    known[f"{name}.{own}"] = of if own == "epoch" else getattr(of, own)
        return known

    def _order_state(self) -> dict[str, Any]:
        return {
            name: of.get_state() if isinstance(of, Generator) else of.epoch for name, of in self._randomness().items()
        }

    def _set_order_state(self, state: Mapping[str, Any]) -> None:
        known = self._randomness()
        if set(known) != set(state):
            raise ValueError(
                f"DataLoader.load_state_dict: the state is of {sorted(state)}, this loader's order of {sorted(known)}."
            )
        for name, of in known.items():
            if isinstance(of, Generator):
                of.set_state(state[name])
            else:
                of.epoch = state[name]

    # ---- what a pass needs ----

    def _indices(self) -> Iterator[Any] | None:
        """What to fetch, in order; None: whatever the iterable dataset has."""
        if self._gathers and isinstance(self.batch_sampler, BatchSampler):
            return self.batch_sampler.rows()
        order: Any = self.batch_sampler if self.batch_sampler is not None else self.sampler
        return None if order is None else iter(order)

    def _sources(self) -> list[Source]:
        """One for each worker, or one for the caller."""
        batched = self.batch_size is not None or self.batch_sampler is not None
        workers: list[Any] = [(i, self.num_workers) for i in range(self.num_workers)]
        return [
            Source(self.dataset, self.collate_fn, batched, self._gathers, self.batch_size, self.drop_last, worker)
            for worker in workers or [None]
        ]

    def _crew_for_a_pass(self) -> Crew | None:
        """The workers: those that persist, or new ones."""
        if not self.num_workers:
            return None
        if self._crew is not None and not self._crew.closed:
            return self._crew
        made: Crew
        if self.multiprocessing_context is None:
            made = ThreadCrew(self._sources(), self.worker_init_fn)
        else:
            made = ProcessCrew(self._sources(), self.worker_init_fn, self.multiprocessing_context)
        if self.persistent_workers:
            self._crew = made
            weakref.finalize(self, made.close)
        return made


@dataclass
class _Progress:
    """How far the newest pass has come; the loader keeps it when the pass is left."""

    order: dict[str, Any]  # what decided the order, as the pass began
    delivered: int = 0
    finished: bool = False


class _Pass:
    """One pass: an iterator of batches that knows how many it gave."""

    _crew: Crew | None = None  # until there is one, for `close`
    _persistent = _closed = False

    def __init__(self, loader: DataLoader, state: Mapping[str, Any] | None) -> None:
        if state is not None:
            loader._set_order_state(state["order"])
        self.progress = _Progress(loader._order_state())
        self._loader = loader  # its workers live as long as it does
        self._pins = loader.pin_memory and _has_gpu()
        skipped = 0 if state is None else int(state["batches"])
        self._crew, self._persistent = loader._crew_for_a_pass(), loader.persistent_workers
        self._source = loader._sources()[0]
        self._timeout = loader.timeout or None
        self._seed = mixed(*loader.generator.next(1, 2))
        self._indices = loader._indices()
        self._numbers = count()
        self._waiting: deque[int] = deque()  # numbers of jobs given to workers, in order
        self._ready: dict[int, Done] = {}
        self._turn = cycle(range(loader.num_workers)) if loader.num_workers else None
        self._exhausted: set[int] = set()  # workers whose part of an iterable dataset has ended
        self._ahead = loader.num_workers * (loader.prefetch_factor or 0)
        if self._indices is None:
            for _ in range(skipped):  # an iterable dataset runs again up to there
                next(self, None)
        else:
            for _ in range(skipped):
                self._job()
        self.progress.delivered = skipped

    def __iter__(self) -> _Pass:
        return self

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        try:
            made = self._alone() if self._crew is None else self._from_workers()
        except BaseException as error:
            self.close()
            if isinstance(error, StopIteration):  # would end the pass as if it were complete
                raise RuntimeError("DataLoader: StopIteration was raised while a batch was made.") from error
            raise
        if made is END:
            self.progress.finished = True
            self.close()
            raise StopIteration
        self.progress.delivered += 1
        return pinned(made) if self._pins else made

    def _job(self) -> Job | None:
        """The next job; None where the order has ended."""
        if self._indices is None:
            return Job(next(self._numbers), self._seed)
        what = next(self._indices, END)
        return None if what is END else Job(next(self._numbers), self._seed, what)

    def _alone(self) -> Any:
        job = self._job()
        return END if job is None else self._source.make(job)

    def _from_workers(self) -> Any:
        while True:
            self._hand_out()
            if not self._waiting:
                return END
            done = self._await(self._waiting.popleft())
            if done.error is not None:
                raise _with_cause(done.error)
            if done.batch is not END:
                return done.batch

    def _hand_out(self) -> None:
        """Jobs to the workers in turn, so that each has its share ahead."""
        assert self._crew is not None and self._turn is not None
        while len(self._waiting) < self._ahead and len(self._exhausted) < self._crew.number:
            worker = next(w for w in self._turn if w not in self._exhausted)
            job = self._job()
            if job is None:
                return
            self._crew.submit(worker, job)
            self._waiting.append(job.number)

    def _await(self, number: int) -> Done:
        assert self._crew is not None
        while number not in self._ready:
            try:
                done = self._crew.done.get(timeout=self._timeout)
            except Empty:
                raise RuntimeError(
                    f"DataLoader: no worker had batch {number} ready within the timeout of {self._timeout} s."
                ) from None
            if done.dead and done.error is not None:
                raise done.error
            if done.job is not None and done.job.seed == self._seed:  # else of a pass that was left
                self._ready[done.job.number] = done
                if done.batch is END:
                    self._exhausted.add(done.worker)
        return self._ready.pop(number)

    def close(self) -> None:
        """The pass is over; workers that do not persist, too."""
        self._closed = True
        if self._crew is not None and not self._persistent:
            self._crew.close()

    __del__ = close


def _has_gpu() -> bool:
    from tensorlib.cuda import is_available

    return is_available()


def _with_cause(error: BaseException) -> BaseException:
    """An exception from a process, with what its traceback was there."""
    words = getattr(error, "tensorlib_worker_traceback", None)
    if words is not None:
        error.__cause__ = WorkerTraceback(words)
    return error


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"DataLoader: {name} must be an integer of at least {least}, got {value!r}.")
