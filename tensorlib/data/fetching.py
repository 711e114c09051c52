"""One batch from its job: what the caller, a thread and a process all do alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from tensorlib.data.dataset import IterableDataset
from tensorlib.random import default_generator, fork_stream, switch_stream

__all__ = ["WorkerInfo", "get_worker_info", "sample_rng"]


class End(Enum):
    """What an exhausted IterableDataset gives in place of a batch; one object in every process."""

    END = 0


END = End.END


class Job(NamedTuple):
    """Make batch `number` of the pass `seed`: of the examples `what` (indices, or one index), or of the next ones."""

    number: int
    seed: int
    what: Any = None


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this is."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_here = threading.local()


def get_worker_info() -> WorkerInfo | None:
    """In a DataLoader's worker: its number, how many there are, its seed and its dataset; elsewhere None.

    >>> tl.data.get_worker_info() is None
    True
    """
    return getattr(_here, "info", None)


def sample_rng() -> np.random.Generator:
    """A NumPy generator that follows the default stream: inside a DataLoader it is named by the pass and the example, as `tl.rand` is.

    >>> with tl.fork_stream(0, 17):
    ...     crop = tl.data.sample_rng().integers(5)
    >>> with tl.fork_stream(0, 17):
    ...     bool(tl.data.sample_rng().integers(5) == crop)
    True
    """
    return np.random.Generator(np.random.Philox(key=np.array(default_generator().next(1, 2), np.uint64)))


@dataclass
class Source:
    """Makes batches of a dataset. A worker has its own, with its own iterator where the dataset is one."""

    dataset: Any
    collate: Callable[[Any], Any]
    batched: bool
    gathers: bool  # the dataset makes whole batches
    batch_size: int | None = None  # of an IterableDataset
    drop_last: bool = False
    worker: tuple[int, int] | None = None  # number, of how many

    def __post_init__(self) -> None:
        self._seed: int | None = None
        self._iterator: Iterator[Any] = iter(())

    def make(self, job: Job) -> Any:
        """The batch, or END."""
        if self.worker is not None:
            _here.info = WorkerInfo(*self.worker, job.seed + self.worker[0], self.dataset)
        if isinstance(self.dataset, IterableDataset):
            return self._next(job)
        if self.gathers:
            with fork_stream(job.seed, job.number):
                made = self.dataset.batch(job.what)
                return list(made) if isinstance(made, tuple) else made
        if not self.batched:
            with fork_stream(job.seed):
                return self.collate(self._one(job, 0, job.what))
        with fork_stream(job.seed, job.number):
            if hasattr(self.dataset, "__getitems__"):
                examples = self.dataset.__getitems__(job.what)
            else:
                examples = [self._one(job, place, index) for place, index in enumerate(job.what)]
            switch_stream(job.seed, job.number, len(examples))
            return self.collate(examples)

    def _one(self, job: Job, place: int, index: Any) -> Any:
        """An example, its randomness named by its index; where that is no number, by its place in the order."""
        if type(index) is int or isinstance(index, (int, np.integer)):
            switch_stream(job.seed, index)  # type: ignore[arg-type]
        else:
            switch_stream(job.seed, job.number, place)
        return self.dataset[index]

    def _next(self, job: Job) -> Any:
        with fork_stream(job.seed, job.number):
            if job.seed != self._seed:
                self._seed, self._iterator = job.seed, iter(self.dataset)
            if self.batch_size is None:
                example = next(self._iterator, END)
                return END if example is END else self.collate(example)
            examples = list(islice(self._iterator, self.batch_size))
            if not examples or (self.drop_last and len(examples) < self.batch_size):
                return END
            return self.collate(examples)
