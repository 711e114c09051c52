"""DistributedDataParallel: the same model on every rank, each with its own part of the batch, one averaged gradient."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

import tensorlib as tl
from tensorlib.nn.parameter import is_lazy

from .buckets import GradBucket, Reducer, ranks_in_words
from .calls import under_way
from .shards import Shards
from .world import Group, form, member

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["DistributedDataParallel", "global_mean"]

_MIB = 1 << 20
_LONGEST = 1 << 29  # bytes of one call of MPI's
OUT, FORWARD, BACKWARD, MEAN = range(4)  # what ranks of a join() are about to do


class DistributedDataParallel(tl.nn.Module):
    """A model whose gradients are averaged over ranks: forward as ever, and after ``backward()`` every rank has the same `.grad`.

    All ranks make it with the same model: names, shapes and dtypes are compared, and the values of rank 0 go to all. Each rank then
    computes its own part of the batch. The mean is over ranks: it is that over the whole batch where every part counts as much, else see
    `global_mean`. Gradients travel in buckets while backward goes on, and `.grad` is a view of its bucket. Parts of a graph that only some
    ranks use need no flag: a parameter unused on some ranks counts as zero there, and one that no rank uses keeps the gradient None. On
    one rank nothing is added to the module's own work.

    What counts for `no_sync` is where ``backward()`` is called. Gradients that come row-sparse are made dense.

    Args:
        module: the model, also found as `.module`. Parameters that require no gradient stay out; they must not require one later.
        broadcast_buffers: before a forward pass that follows one with a gradient, take rank 0's buffers (the statistics of batch
            normalisation). Evaluate on some ranks only with `.module`.
        process_group: the ranks, from `new_group`; None: all.
        bucket_cap_mb: size of a bucket in MiB. The first one is full at 1, so that communication begins early.
        init_sync: False: neither compare nor broadcast at the start.
        reproducible: the same bits on any number of ranks, of threads, and with any size of buckets, in loops over `shards`. Takes rank 0's
            random state; memory for gradients is needed several times. `no_sync`, `join` and communication hooks have no meaning there.
        shards: into how many parts a batch is cut in reproducible mode: at least as many as there may be ranks.
        device_ids, output_device, dim, find_unused_parameters, check_reduction, gradient_as_bucket_view, static_graph: taken for
            PyTorch's scripts, and without effect: the module stays where it is, and the rest is as described in any case.

    Raises:
        RuntimeError: if no parameter requires a gradient, or the models differ, which every rank is told with names and ranks.

    Reference: Li et al. 2020, PyTorch Distributed: Experiences on Accelerating Data Parallel Training.

    >>> model = tl.distributed.DistributedDataParallel(tl.nn.Linear(2, 1))
    >>> model(tl.ones(4, 2)).mean().backward()
    >>> model.module.weight.grad.tolist(), list(model.state_dict())
    ([[1.0, 1.0]], ['module.weight', 'module.bias'])
    """

    def __init__(
        self,
        module: tl.nn.Module,
        device_ids: Any = None,
        output_device: Any = None,
        dim: int = 0,
        broadcast_buffers: bool = True,
        init_sync: bool = True,
        process_group: Group | None = None,
        bucket_cap_mb: float | None = None,
        find_unused_parameters: bool = False,
        check_reduction: bool = False,
        gradient_as_bucket_view: bool = True,
        static_graph: bool = False,
        *,
        reproducible: bool = False,
        shards: int = 16,
    ) -> None:
        super().__init__()
        if not isinstance(module, tl.nn.Module):
            raise TypeError(f"DistributedDataParallel: got a {type(module).__name__}, expected a Module.")
        cap = 25.0 if bucket_cap_mb is None else bucket_cap_mb
        if not cap > 0:
            raise ValueError(f"DistributedDataParallel: bucket_cap_mb must be positive, got {bucket_cap_mb}.")
        if type(shards) is not int or shards < 1:
            raise ValueError(f"DistributedDataParallel: shards must be an integer of at least 1, got {shards!r}.")
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        for name, p in module.named_parameters():
            if is_lazy(p):
                raise RuntimeError(
                    f"DistributedDataParallel: parameter {name} has no shape yet; run the module once before wrapping it."
                )
        if not trained:
            raise RuntimeError("DistributedDataParallel: no parameter of the module requires a gradient.")
        self.module = module
        self.broadcast_buffers = broadcast_buffers
        self.process_group = member(process_group, "DistributedDataParallel")
        self._reducer: Reducer | None = None
        self._join: _Join | None = None
        self._shards: Shards | None = None
        group = self.process_group
        if group.size > 1:
            group, free = _private(group, _described(module) if init_sync else None)
            weakref.finalize(self, free).atexit = False
            if init_sync:
                _broadcast(group, [*module.parameters(), *module.buffers()], 0)
        if reproducible:
            _same_start(group)
            self._shards = Shards(module, group, shards, round(cap * _MIB))
            return
        if group.size == 1:
            return
        self._reducer = Reducer(
            list(trained.values()), list(trained), group, round(min(1.0, cap) * _MIB), round(cap * _MIB)
        )
        self._frozen = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
        self._buffers_behind = False

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        reducer = self._reducer
        if self._shards is not None and tl.is_grad_enabled() and not self._shards.open:
            raise RuntimeError(
                "DistributedDataParallel: in reproducible mode a step runs in `for shard in ddp.shards(batch):`; evaluate under no_grad()."
            )
        if reducer is None:
            return self.module(*inputs, **kwargs)
        recorded = tl.is_grad_enabled() and reducer.synced
        if recorded:
            for name, p in self._frozen:
                if p.requires_grad:
                    raise RuntimeError(
                        f"DistributedDataParallel: parameter {name} requires a gradient now, but did not when the module was wrapped; wrap it again."
                    )
        if self._buffers_behind:
            self._sync_buffers(reducer.group)
        self._buffers_behind = recorded and self.broadcast_buffers
        out = self.module(*inputs, **kwargs)
        if recorded:
            for t in _tensors(out):
                if t.requires_grad:
                    t.register_hook(lambda g: reducer.begin())
        return out

    def _sync_buffers(self, group: Group) -> None:
        buffers = list(self.module.buffers())
        if buffers:
            _broadcast(group, buffers, 0 if self._join is None else self._join.announce(FORWARD)[0])

    def shards(self, batch: Any, *, average: bool = True) -> Iterator[Any]:
        """The parts of a batch that this rank computes in reproducible mode: the step's gradients have the same bits on any number of ranks.

        Every rank gives the whole batch (or the whole batch's numbers in a dataset, and fetches what it is given). It is cut into as many
        shards as were asked for, each of neighbouring rows; a rank gets its run of them, one after the other, and calls ``backward()`` for
        each. When the loop ends, `.grad` is the shards' gradients added in a fixed tree, on all ranks. What each shard draws from the default
        random stream depends on the step and the shard alone. Buffers, such as the statistics of batch normalisation, begin every shard as
        they were before the step, and end it as the mean of what the shards made of them.

        Args:
            batch: a tensor, array, or a tuple, list or dict of such, or of lists, with one entry a sample.
            average: weigh gradients by their shard's part of the rows, for losses that are means over rows. False: add them up, for losses
                that each shard divides by a number of the whole batch, such as its tokens.

        Raises:
            RuntimeError: outside reproducible mode, where gradients are left from before, or where ranks are not at the same step.

        >>> model = tl.distributed.DistributedDataParallel(tl.nn.Linear(2, 1), reproducible=True, shards=4)
        >>> x, y = tl.ones(8, 2), tl.zeros(8, 1)
        >>> for rows, targets in model.shards((x, y)):
        ...     (model(rows) - targets).mean().backward()
        >>> model.module.weight.grad.tolist()
        [[1.0, 1.0]]
        """
        if self._shards is None:
            raise RuntimeError("shards: the model was not wrapped with reproducible=True.")
        return self._shards.run(batch, average)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Where backward leaves gradients to this rank: they add up, and the next backward outside averages the sums.

        >>> model = tl.distributed.DistributedDataParallel(tl.nn.Linear(2, 1))
        >>> with model.no_sync():
        ...     model(tl.ones(4, 2)).mean().backward()
        >>> model(tl.ones(4, 2)).mean().backward()
        >>> model.module.weight.grad.tolist()
        [[2.0, 2.0]]
        """
        if self._reducer is None:
            yield
            return
        before, self._reducer.synced = self._reducer.synced, False
        try:
            yield
        finally:
            self._reducer.synced = before

    def register_comm_hook(self, state: Any, hook: Callable[[Any, GradBucket], Any]) -> None:
        """Have each bucket averaged by ``hook(state, bucket)``, called on every rank in the same order as the buckets become complete.

        It returns the averaged buffer, or something whose ``wait()`` gives it (as collectives with ``async_op=True`` return), or the steps
        of a collective for the communication thread. `allreduce_hook`, `fp16_compress_hook` and `bf16_compress_hook` are such. On one
        rank it is not called.

        >>> model = tl.distributed.DistributedDataParallel(tl.nn.Linear(2, 1))
        >>> model.register_comm_hook(None, tl.distributed.bf16_compress_hook)
        """
        if not callable(hook):
            raise TypeError(f"register_comm_hook: hook must be callable, got a {type(hook).__name__}.")
        if self._reducer is not None:
            self._reducer.set_hook(state, hook)

    def global_mean(self, total: tl.Tensor, count: float | tl.Tensor) -> tl.Tensor:
        """`global_mean` over this model's ranks; inside `join` only those that still have data take part.

        >>> model = tl.distributed.DistributedDataParallel(tl.nn.Linear(2, 1))
        >>> model.global_mean(tl.tensor(6.0), 3)
        tensor(2.)
        """
        if self._reducer is None:
            return global_mean(total, count, self.process_group)
        if self._join is not None:
            self._join.announce(MEAN)
        return _global_mean(total, count, self._reducer.group, self._reducer.buckets[0].divisor)

    @contextmanager
    def join(
        self,
        divide_by_initial_world_size: bool = True,
        enable: bool = True,
        throw_on_early_termination: bool = False,
    ) -> Iterator[None]:
        """For loops of different lengths: a rank that leaves the block early answers for the others' collectives until all have left.

        It stands for gradients of zero. At the end all ranks get parameters and buffers of one that came last; an optimizer's state stays
        each rank's own.

        Args:
            divide_by_initial_world_size: divide sums of gradients by all ranks; False: by those that still have data.
            enable: False: do nothing.
            throw_on_early_termination: raise on all ranks as soon as one of them is out of data.

        >>> model = tl.distributed.DistributedDataParallel(tl.nn.Linear(2, 1))
        >>> with model.join():
        ...     for batch in [tl.ones(4, 2)] * 3:
        ...         model(batch).mean().backward()
        """
        reducer = self._reducer
        if reducer is None or not enable:
            yield
            return
        if self._join is not None:
            raise RuntimeError("join: this model is inside a join() already.")
        self._join = joined = _Join(reducer, divide_by_initial_world_size, throw_on_early_termination)
        reducer.before_backward = joined.backward
        try:
            yield
            self._shadow(joined, reducer)
        finally:
            self._join = reducer.before_backward = None
            for bucket in reducer.buckets:
                bucket.divisor = reducer.group.size

    def _shadow(self, joined: _Join, reducer: Reducer) -> None:
        while active := joined.announce(OUT):
            if joined.step == FORWARD:
                _broadcast(reducer.group, list(self.module.buffers()), active[0])
            elif joined.step == MEAN:
                _summed(reducer.group, 0.0, 0.0)
            else:
                reducer.shadow()
        _broadcast(reducer.group, [*self.module.parameters(), *self.module.buffers()], joined.last)


class _Join:
    """One `join()`: before each collective of the model, every rank says which one it is about to begin, or that it is out of data."""

    def __init__(self, reducer: Reducer, by_initial: bool, throws: bool) -> None:
        self.reducer, self.by_initial, self.throws = reducer, by_initial, throws
        self.last = 0
        """A rank that was active when last one was."""
        self.step = OUT
        """What those that are active are about to do."""

    def announce(self, step: int) -> list[int]:
        """Returns the ranks that are active."""
        group = self.reducer.group
        assert group.comm is not None
        said = np.empty(group.size, np.int8)
        with under_way("join", group):
            group.comm.Allgather(np.array([step], np.int8), said)
        active = [rank for rank, what in enumerate(said) if what != OUT]
        if len(active) < group.size and active and self.throws:
            out = [rank for rank in range(group.size) if rank not in active]
            raise RuntimeError(
                f"join: {ranks_in_words(out)} ran out of data, and throw_on_early_termination was asked for."
            )
        if len({int(said[rank]) for rank in active}) > 1:
            words = ["", "forward", "backward", "global_mean"]
            doing = ", ".join(f"rank {rank}: {words[said[rank]]}" for rank in active)
            raise RuntimeError(f"join: ranks are at different places ({doing}).")
        if active:
            self.last, self.step = active[0], int(said[active[0]])
            if not self.by_initial:
                for bucket in self.reducer.buckets:
                    bucket.divisor = len(active)
        return active

    def backward(self) -> None:
        self.announce(BACKWARD)


# ---- means over what all ranks have ----
def global_mean(total: tl.Tensor, count: float | tl.Tensor, group: Group | None = None) -> tl.Tensor:
    """The mean over all ranks' elements from each rank's sum and number of them: what a loss over batches of different lengths needs.

    The mean of the ranks' means would weigh a token more the fewer its rank has. The value, sum of totals / sum of counts, is the same on
    every rank; its gradient is such that DistributedDataParallel's mean over ranks is the gradient of that value. With several backwards
    before a step, give each the count of all of them: the values then add up to the mean.

    Shapes:
        total: () floating, count: a number, or a tensor of one element  ->  ()

    Raises:
        ValueError: if the counts of all ranks sum to zero or less.

    >>> tl.distributed.global_mean(tl.tensor(6.0), 3)
    tensor(2.)
    """
    return _global_mean(total, count, (here := member(group, "global_mean")), here.size)


def _global_mean(total: tl.Tensor, count: float | tl.Tensor, group: Group, divisor: float) -> tl.Tensor:
    if not isinstance(total, tl.Tensor) or total.numel() != 1 or not total.dtype.is_floating_point:
        got = f"{total.dtype.name} {total.shape}" if isinstance(total, tl.Tensor) else type(total).__name__
        raise TypeError(f"global_mean: total must be a floating tensor of one element, got {got}.")
    number = float(count.item() if isinstance(count, tl.Tensor) else count)
    if group.comm is None:
        whole, elements = total.item(), number
    else:
        whole, elements = _summed(group, total.item(), number)
    if not elements > 0:
        raise ValueError(f"global_mean: the counts of all ranks sum to {elements:g}, expected a positive number.")
    mine = total * (divisor / elements)
    return mine + (whole / elements - mine.detach())


def _summed(group: Group, *numbers: float) -> list[float]:
    """Each number summed over ranks in their order, so that all get the same bits."""
    assert group.comm is not None
    gathered = np.empty((group.size, len(numbers)))
    with under_way("global_mean", group):
        group.comm.Allgather(np.array(numbers), gathered)
    return [sum(column) for column in gathered.T.tolist()]


# ---- at the start ----
def _same_start(group: Group) -> None:
    """Reproducible mode: one instruction set and one random state for all ranks."""
    if group.comm is None:
        return
    kernels = _told(group.comm, tl.get_cpu_capability())
    if len(set(kernels)) > 1:
        weakest = min(kernels, key=["base", "avx2", "avx512"].index)
        words = ", ".join(
            f"{name} on {ranks_in_words([r for r, k in enumerate(kernels) if k == name])}"
            for name in sorted(set(kernels))
        )
        raise tl.errors.TensorlibError(
            f"DistributedDataParallel: ranks compute with different instruction sets ({words}), whose results differ in their last bits.",
            hint=f"set TENSORLIB_ISA={weakest} for all ranks",
        )
    state = tl.get_rng_state()
    _broadcast(group, [state], 0)
    tl.set_rng_state(state)


def _described(module: tl.nn.Module) -> dict[str, str]:
    """Everything that must be alike, in order."""

    def said(t: tl.Tensor) -> str:
        return f"{t.dtype.name} {t.shape}"

    parameters = {
        f"parameter {name}": said(p) + ("" if p.requires_grad else " without gradient")
        for name, p in module.named_parameters()
    }
    return parameters | {f"buffer {name}": said(b) for name, b in module.named_buffers()}


_spare: weakref.WeakKeyDictionary[Group, dict[int, Group]] = weakref.WeakKeyDictionary()
_made: weakref.WeakKeyDictionary[Group, int] = weakref.WeakKeyDictionary()


def _private(group: Group, described: dict[str, str] | None) -> tuple[Group, Callable[[], None]]:
    """The same ranks on communicators that no other model uses meanwhile, and what gives them back. Compares the models on the way."""
    assert group.comm is not None
    spare = _spare.setdefault(group, {})
    told = _told(group.comm, {"model": described, "spare": list(spare)})
    _compare([each["model"] for each in told])
    common = set.intersection(*(set(each["spare"]) for each in told))
    if common:
        number = min(common)
        private = spare.pop(number)
    else:
        number = _made[group] = _made.get(group, 0) + 1
        private = form(group.comm.Dup(), group.ranks)
    return private, lambda: spare.__setitem__(number, private)


def _told(comm: MPI.Comm, what: Any) -> list[Any]:
    """What every rank has to say."""
    mine = np.frombuffer(json.dumps(what).encode(), np.uint8)
    sizes = np.empty(comm.size, np.int64)
    comm.Allgather(np.array([len(mine)], np.int64), sizes)
    gathered = np.empty(sizes.sum(), np.uint8)
    comm.Allgatherv(mine, [gathered, sizes.tolist()])
    return [json.loads(part.tobytes()) for part in np.split(gathered, np.cumsum(sizes)[:-1])]


def _compare(models: Sequence[dict[str, str] | None]) -> None:
    described = [model or {} for model in models]
    if all(list(model.items()) == list(described[0].items()) for model in described):
        return
    differences = []
    for name in dict.fromkeys(name for model in described for name in model):
        by_value: dict[str, list[int]] = {}
        for rank, model in enumerate(described):
            by_value.setdefault(model.get(name, "not there"), []).append(rank)
        if len(by_value) > 1:
            words = ", ".join(f"{value} on {ranks_in_words(ranks)}" for value, ranks in by_value.items())
            differences.append(f"{name}: {words}")
    if not differences:
        differences = ["the same names come in another order"]
    shown = differences[:5] + ([f"and {len(differences) - 5} more"] if len(differences) > 5 else [])
    raise RuntimeError("DistributedDataParallel: the models differ: " + "; ".join(shown) + ".")


def _broadcast(group: Group, tensors: Iterable[tl.Tensor], source: int) -> None:
    """All ranks take the values of one; small tensors travel together."""
    from mpi4py import MPI

    comm = group.comm
    assert comm is not None
    with under_way("DistributedDataParallel: broadcast", group), tl.no_grad():
        for together in _together(tensors):
            packed = tl.cat([t.detach().reshape(-1) for t in together]).cpu()
            for start in range(0, packed.nbytes, _LONGEST):
                n = min(_LONGEST, packed.nbytes - start)
                comm.Bcast([MPI.buffer.fromaddress(packed.data_ptr() + start, n), MPI.BYTE], source)
            if group.rank != source:
                for t, part in zip(together, packed.split([t.numel() for t in together]), strict=True):
                    t.copy_(part.reshape(t.shape))


def _together(tensors: Iterable[tl.Tensor]) -> Iterator[list[tl.Tensor]]:
    """Tensors of one dtype and device, up to 16 MiB of them at a time."""
    alike: dict[tuple[str, str], list[tl.Tensor]] = {}
    nbytes: dict[tuple[str, str], int] = {}
    for t in tensors:
        key = t.dtype.name, str(t.device)
        alike.setdefault(key, []).append(t)
        nbytes[key] = nbytes.get(key, 0) + t.nbytes
        if nbytes[key] >= 16 * _MIB:
            yield alike.pop(key)
            del nbytes[key]
    yield from alike.values()


def _tensors(out: Any) -> Generator[tl.Tensor, None, None]:
    """The tensors in what a module returns."""
    if isinstance(out, tl.Tensor):
        yield out
    elif isinstance(out, dict):
        for value in out.values():
            yield from _tensors(value)
    elif isinstance(out, (list, tuple)):
        for value in out:
            yield from _tensors(value)
    elif hasattr(out, "__dict__"):  # dataclasses and the like
        yield from _tensors(vars(out))
