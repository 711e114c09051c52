"""Gradients in buckets: `.grad` of each parameter is a view of its bucket, and full buckets travel while backward goes on.

A backward that is to be averaged over ranks runs like this on each of them:

    begin       the first hook of any parameter, or of the model's output, asks to be called when backward ends
    finished    a parameter's last use is done: its gradient moves into the bucket. The buckets are sent in one fixed order, each as soon
                as it and those before it are complete, so ranks agree although their graphs differ. Where all ranks are on one node nothing
                travels, and summing is work like backward's own: then it begins at the end, unless a core is free for it, and gradients
                of large weights need not be there as such (factors.py)
    end         what is missing is completed by zeros and sent; then everything is waited for

Behind the last bucket travel flags: which parameters have a gradient at all (one that has none anywhere keeps none), and where backward
failed, so that a rank that catches its own error leaves no other one waiting.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator, Sequence, Set as AbstractSet
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import tensorlib as tl

from .calls import under_way
from .factors import Factors
from .gpus import Exchange, link
from .progress import Steps, submit
from .shared import SharedBuffer, meet
from .staging import Staged

if TYPE_CHECKING:
    from .world import Group

__all__ = ["GradBucket", "Reducer", "in_buckets"]

_LINE = 64  # bytes: every gradient begins at a multiple, as the kernels' memory does elsewhere

Hook = Callable[[Any, "GradBucket"], Any]


def in_buckets(parameters: Sequence[tl.Tensor], first: int, cap: int) -> list[list[int]]:
    """Numbers of the parameters by bucket, in the order in which backward completes them if it meets the parameters last to first.

    A bucket holds one dtype on one device and is full from `cap` bytes on; the first one from `first` on, so that communication begins early.
    """
    full: list[list[int]] = []
    filling: dict[tuple[str, str], list[int]] = {}
    nbytes: dict[tuple[str, str], int] = {}
    for i in reversed(range(len(parameters))):
        key = parameters[i].dtype.name, str(parameters[i].device)
        filling.setdefault(key, []).append(i)
        nbytes[key] = nbytes.get(key, 0) + parameters[i].nbytes
        if nbytes[key] >= (cap if full else first):
            full.append(filling.pop(key))
            del nbytes[key]
    return full + sorted(filling.values(), key=lambda bucket: -bucket[-1])


class GradBucket:
    """Gradients that travel together, as communication hooks get them."""

    def __init__(self, reducer: Reducer, index: int, numbers: list[int], last: bool, extra: int) -> None:
        self.group = reducer.group
        """For the communication thread: the ranks, on communicators of the model's own."""
        self.divisor: float = reducer.group.size
        """By what the sum over ranks is divided."""
        self.numbers, self._index, self._last = numbers, index, last
        self._parameters = [reducer.parameters[i] for i in numbers]
        dtype, device = self._parameters[0].dtype, self._parameters[0].device
        between = link(reducer.group, device)
        self._places, end = [], 0
        for p in self._parameters:
            self._places.append(end)
            end += -(-p.numel() * p.itemsize // _LINE) * (_LINE // p.itemsize)
        in_memory = end
        if between is not None:
            end, in_memory = -(-end // between.ranks_here) * between.ranks_here, 0
        self.memory = SharedBuffer(reducer.group, in_memory + extra, dtype)
        self._sent, self.flags = self.memory.tensor[:in_memory], self.memory.tensor[in_memory:]
        self._here = device.type == "cpu"
        self._buffer = self._sent if self._here else tl.zeros(end, dtype=dtype, device=device)
        self._stage: Staged | Exchange = Staged(self._buffer) if between is None else Exchange(between, self._buffer)
        self.views = [
            self._buffer[start : start + p.numel()].view(p.shape)
            for start, p in zip(self._places, self._parameters, strict=True)
        ]
        for p, view in zip(self._parameters, self.views, strict=True):
            if self._here and p.dtype in (tl.float32, tl.float64):
                tl.autograd.set_grad_place(p, view)
        self.waiting = 0
        """How many gradients are still to come in this backward."""

    @property
    def needs_core(self) -> bool:
        """Whether summing it is work for a core of this node, like backward's own."""
        return self.memory.on_one_node and isinstance(self._stage, Staged)

    @property
    def in_memory(self) -> bool:
        """Whether it lies where all ranks see it, so that nothing has to be moved."""
        return self._here and self.memory.on_one_node

    def index(self) -> int:
        """Its place in the order of the buckets."""
        return self._index

    def buffer(self) -> tl.Tensor:
        """All gradients one behind the other, with zeros in the gaps: (n,)."""
        return self._buffer

    def gradients(self) -> list[tl.Tensor]:
        """The gradients: views of the buffer."""
        return list(self.views)

    def parameters(self) -> list[tl.Tensor]:
        """Whose gradients they are."""
        return list(self._parameters)

    def is_last(self) -> bool:
        """Whether it is the last one of a backward."""
        return self._last

    def set_buffer(self, tensor: tl.Tensor) -> None:
        """Replace the gradients."""
        self._buffer.copy_(tensor)

    def all_reduce(self) -> Steps:
        """The mean over ranks."""
        scale = 1 / self.divisor
        if isinstance(self._stage, Exchange):
            return self._exchanged(self._stage.all_reduce(scale), scale)
        self._stage.down()
        return self._staged(self._stage, scale)

    def _exchanged(self, gradients: Steps, scale: float) -> Steps:
        yield from gradients
        if self.flags.numel():
            yield from self.memory.all_reduce(scale)

    def _staged(self, stage: Staged, scale: float) -> Steps:
        yield from stage.arrived()
        if not self._here:
            self._sent.copy_(stage.here)
        yield from self.memory.all_reduce(scale)
        if not self._here:
            stage.here.copy_(self._sent)
            stage.up()
            stage.landed()

    def follow(self) -> None:
        """The gradients come from this thread's current stream."""
        self._stage.follow()

    def ordered(self) -> AbstractContextManager[None]:
        """For hooks that go on in the communication thread: what they give a GPU within comes behind what backward gave it."""
        return self._stage.ordered()

    def place(self, k: int) -> bool:
        """Move the k-th parameter's gradient into the bucket, if it has one and is not there. Returns whether it has one."""
        p, view = self._parameters[k], self.views[k]
        g = p.grad
        if g is not None and g is not view:
            if not self._here or g.data_ptr() != view.data_ptr():
                with tl.no_grad():
                    view.copy_(g.to_dense())
            p.grad = (
                view  # also where backward wrote it there: its own handle to the place must be free for the next one
            )
        return g is not None

    def complete(self, without: AbstractSet[int] = frozenset()) -> None:
        """Parameters without a gradient stand for zeros. Some are left alone."""
        for k, (i, view) in enumerate(zip(self.numbers, self.views, strict=True)):
            if i not in without and not self.place(k):
                view.zero_()

    def everywhere(self, k: int) -> list[tl.Tensor]:
        """The k-th parameter's gradient on every rank, where it is `in_memory`."""
        start, p = self._places[k], self._parameters[k]
        return [memory.view(p.shape) for memory in self.memory.everywhere(start, start + p.numel())]

    def sum_share(self, without: AbstractSet[int]) -> None:
        """This rank's part of the mean over ranks, where it is `in_memory`, between two meetings of the ranks. Some parameters are left alone."""
        begin = 0
        for i, start, p in zip(self.numbers, self._places, self._parameters, strict=True):
            if i in without:
                self.memory.sum_share(1 / self.divisor, begin, start)
                begin = start + p.numel()
        self.memory.sum_share(1 / self.divisor, begin, self.memory.numel)


class Reducer:
    """Averages the gradients of some parameters over a group of at least two ranks, at the end of every backward while `synced`."""

    def __init__(
        self, parameters: Sequence[tl.Tensor], names: Sequence[str], group: Group, first: int, cap: int
    ) -> None:
        self.parameters, self.names, self.group = list(parameters), list(names), group
        numbers = in_buckets(parameters, first, cap)
        extra = len(self.parameters) + group.size
        self.buckets = [
            GradBucket(self, i, chosen, last, extra if last else 0)
            for i, chosen in enumerate(numbers)
            for last in [i == len(numbers) - 1]
        ]
        self.flags = self.buckets[-1].flags
        self._place = {i: (bucket, k) for bucket in self.buckets for k, i in enumerate(bucket.numbers)}
        self.synced = True
        self.before_backward: Callable[[], None] | None = None
        """Called as a backward begins that will be averaged."""
        self._hook: tuple[Any, Hook] | None = None
        self._flag_memory: SharedBuffer | None = None  # with a hook, which takes the last bucket's place
        self._open = False
        self._beside, together = self._agreed()
        self._factors: Factors | None = None
        """Where there are any, nothing is sent before backward ends, and all is summed in the memory that ranks share."""
        if together and not self._beside:
            places = [bucket.everywhere(k) for _, (bucket, k) in sorted(self._place.items())]
            self._factors = Factors(group, self.parameters, places)
        self._complete = 0
        """How many buckets, from the first on, have all their gradients of this backward."""
        self._finished: set[int] = set()
        self._sent: list[Any] = []
        mine = weakref.ref(self)
        handles = [p.register_post_accumulate_grad_hook(_finished(mine, i)) for i, p in enumerate(self.parameters)]
        weakref.finalize(self, _release, self.parameters, handles).atexit = False

    def set_hook(self, state: Any, hook: Hook) -> None:
        """Have buckets averaged by ``hook(state, bucket)``. Collective."""
        self._hook = (state, hook)
        if self._factors is not None:
            self._factors.release()
            self._factors = None
        self._flag_memory = SharedBuffer(self.group, self.flags.numel(), tl.float32)
        self.flags = self._flag_memory.tensor

    def _agreed(self) -> tuple[bool, bool]:
        """Whether buckets travel while backward goes on, and otherwise, whether they are summed together. As how many collectives they
        are carried out follows, so all ranks must say the same, whatever their cores, threads and graphs."""
        assert self.group.comm is not None
        free = cores_are_free(self.group) or not all(bucket.needs_core for bucket in self.buckets)
        own = free, all(bucket.in_memory for bucket in self.buckets)
        beside, together = zip(*self.group.comm.allgather(own), strict=True)
        return all(beside), all(together)

    @property
    def _early(self) -> bool:
        return self._beside or self._hook is not None

    # ---- one backward ----
    def begin(self) -> None:
        """A backward is under way that reaches the parameters."""
        if self._open or not self.synced or not tl.autograd.backward_depth():
            return
        if self.before_backward is not None:
            self.before_backward()
        tl.autograd.on_backward_end(self._end)
        self._open = True
        self._finished.clear()
        self._sent.clear()
        self._complete = 0
        for bucket in self.buckets:
            bucket.waiting = sum(p.requires_grad for p in bucket._parameters)

    def finished(self, i: int) -> None:
        """Parameter i's gradient of this backward is complete."""
        self.begin()
        if not self._open:
            return
        bucket, _ = self._place[i]
        if bucket.index() < self._complete:
            raise RuntimeError(
                f"DistributedDataParallel: parameter {self.names[i]} got another gradient, from a backward inside this one, after its bucket "
                "was sent."
            )
        if i in self._finished or tl.autograd.backward_depth() > 1:
            return  # from inside a rule, which other rules may repeat: sent at the end
        self._finished.add(i)
        bucket.waiting -= 1
        last = len(self.buckets) - 1  # it carries the flags, which are known at the end
        while self._complete < last and not self.buckets[self._complete].waiting:
            if self._early:
                self._send(self.buckets[self._complete])
            self._complete += 1

    def _send(self, bucket: GradBucket) -> None:
        bucket.follow()
        bucket.complete()
        if self._hook is None:
            self._sent.append(submit(bucket.all_reduce(), self.group))
            return
        state, hook = self._hook
        made = hook(state, bucket)
        self._sent.append(submit(made, self.group) if isinstance(made, Generator) else made)

    def _end(self, error: BaseException | None) -> None:
        self._open = False
        if error is not None and not isinstance(error, Exception):
            return  # the program is ending
        n = len(self.parameters)
        shown = set() if self._factors is None else self._factors.show()
        missing = [i for i, p in enumerate(self.parameters) if i not in shown and p.grad is None]
        self.flags[:n] = 1
        self.flags[n:] = 0
        for i in missing:
            self.flags[i] = 0
        if error is not None:
            self.flags[n + self.group.rank] = 1
        with under_way("DistributedDataParallel: gradients", self.group):
            try:
                self._send_rest(shown)
            except Exception:
                if error is None:
                    raise
        if error is None:
            self._agree(missing)

    def _send_rest(self, shown: set[int]) -> None:
        if self._factors is not None:
            for bucket in self.buckets:
                bucket.complete(self._factors.aside)
            self._sent = [submit(self._sum_together(self._factors), self.group)] * len(self.buckets)
        for bucket in self.buckets[len(self._sent) :]:
            self._send(bucket)
        flags = None if self._flag_memory is None else submit(self._flag_memory.all_reduce(1), self.group)
        for bucket, sent in zip(self.buckets, self._sent, strict=True):
            _take(bucket, sent)
        if flags is not None:
            flags.wait()
        for i in shown:
            bucket, k = self._place[i]
            self.parameters[i].grad = bucket.views[k]

    def _sum_together(self, factors: Factors) -> Steps:
        memories = [factors.memory, *(bucket.memory for bucket in self.buckets)]
        yield from meet(memories)
        alone, mixed = factors.found()
        if mixed:
            factors.multiply_own(mixed)
            yield from meet(memories)
        for bucket in self.buckets:
            bucket.sum_share(alone)
        factors.multiply(alone, 1 / self.buckets[0].divisor)
        yield from meet(memories)

    def shadow(self) -> None:
        """Take part in the others' backward with gradients of zero."""
        for p in self.parameters:
            p.grad = None
        self._sent.clear()
        self._end(None)

    def _agree(self, missing: list[int]) -> None:
        """What the flags of all ranks say."""
        n = len(self.parameters)
        failed = [rank for rank, flag in enumerate(self.flags[n:].tolist()) if flag]
        if failed:
            raise RuntimeError(
                f"DistributedDataParallel: backward failed on {ranks_in_words(failed)}, so gradients are not complete on any rank."
            )
        if missing:
            there = self.flags[:n].tolist()
            for i in missing:
                if there[i]:
                    bucket, k = self._place[i]
                    self.parameters[i].grad = bucket.views[k]


def cores_are_free(group: Group) -> bool:
    """Whether this node has more cores, among those that this process may use, than its ranks have threads that compute."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > group.size * tl.get_num_threads()


def _finished(reducer: weakref.ref[Reducer], i: int) -> Callable[[tl.Tensor], None]:
    def hook(leaf: tl.Tensor) -> None:
        found = reducer()
        if found is not None:
            found.finished(i)

    return hook


def _release(parameters: Sequence[tl.Tensor], handles: Sequence[Any]) -> None:
    """The parameters as they were before there were buckets."""
    for p, handle in zip(parameters, handles, strict=True):
        handle.remove()
        if p.requires_grad:
            tl.autograd.set_grad_place(p, None)


def _take(bucket: GradBucket, sent: Any) -> None:
    """Wait for a bucket; what a hook returns instead of filling the bucket becomes its gradients."""
    result = sent.wait() if hasattr(sent, "wait") else sent
    if isinstance(result, list) and len(result) == 1:  # as PyTorch's futures hold them
        result = result[0]
    if result is None or result is bucket.buffer():
        return
    if not isinstance(result, tl.Tensor) or result.shape != bucket.buffer().shape:
        got = f"shape {result.shape}" if isinstance(result, tl.Tensor) else type(result).__name__
        raise TypeError(
            f"DistributedDataParallel: the communication hook gave {got}, expected a tensor of the buffer's shape {bucket.buffer().shape}."
        )
    bucket.set_buffer(result)


def ranks_in_words(ranks: Sequence[int]) -> str:
    """ "rank 1", "ranks 0 and 2" ..."""
    names = [str(rank) for rank in ranks]
    return f"rank {names[0]}" if len(names) == 1 else f"ranks {', '.join(names[:-1])} and {names[-1]}"
