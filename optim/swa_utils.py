"""Averages of a model over its training: stochastic weight averaging and exponential moving averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import tensorlib as tl
from tensorlib import Tensor, nn
from tensorlib.optim.lr_scheduler.base import LRScheduler, check, per_group
from tensorlib.optim.optimizer import Optimizer

__all__ = [
    "SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_swa_multi_avg_fn", "update_bn",
]  # fmt: skip

Average = Callable[[Tensor, Tensor, Any], Tensor]  # (average, newest, how many are in the average) -> new average
AverageAll = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]  # the same for many, in place

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _check_decay(decay: float) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}.")


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """An exponential moving average, for `AveragedModel`'s `avg_fn`:  a <- decay a + (1 - decay) p."""
    _check_decay(decay)
    return lambda average, newest, _: decay * average + (1 - decay) * newest


def get_swa_avg_fn() -> Average:
    """The mean of all, for `AveragedModel`'s `avg_fn`:  a <- a + (p - a) / (n + 1)."""
    return lambda average, newest, n: average + (newest - average) / (n + 1)


def get_ema_multi_avg_fn(decay: float = 0.999) -> AverageAll:
    """An exponential moving average, for `AveragedModel`'s `multi_avg_fn`."""
    _check_decay(decay)
    return lambda averages, newest, _: _approach(averages, newest, 1 - decay)


def get_swa_multi_avg_fn() -> AverageAll:
    """The mean of all, for `AveragedModel`'s `multi_avg_fn`."""
    return lambda averages, newest, n: _approach(averages, newest, 1 / (float(n) + 1))


def _approach(averages: Sequence[Tensor], newest: Sequence[Tensor], weight: float) -> None:
    """a <- a + weight (p - a), in place."""
    with tl.no_grad():
        for a, p in zip(averages, newest, strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(p, weight)
            else:
                a.copy_(a * (1 - weight) + p * weight)


class AveragedModel(nn.Module):
    """A copy of a model, as `module`, whose parameters are an average of the model's over the calls of `update_parameters`.

    The mean of all, or what `avg_fn` makes of each pair of tensors, or `multi_avg_fn` of lists of them; see `get_ema_multi_avg_fn`. Buffers are the
    model's last ones, or, `use_buffers`, averaged as well.

    Reference: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization".

    >>> model = tl.nn.Linear(1, 1, bias=False)
    >>> averaged = tl.optim.swa_utils.AveragedModel(model)
    >>> for value in (1.0, 2.0, 6.0):
    ...     tl.nn.init.constant_(model.weight, value).sum().item()
    ...     averaged.update_parameters(model)
    1.0
    2.0
    6.0
    >>> averaged.module.weight.item(), averaged(tl.ones(1)).item(), averaged.n_averaged.item()
    (3.0, 3.0, 3)
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: nn.Module,
        device: Any = None,
        avg_fn: Average | None = None,
        multi_avg_fn: AverageAll | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("AveragedModel: give avg_fn or multi_avg_fn, not both.")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", tl.tensor(0, dtype=tl.int64, device=device))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: nn.Module) -> None:
        """Take the model as it is now into the average."""

        def tensors(m: nn.Module) -> Iterable[Tensor]:
            return chain(m.parameters(), m.buffers()) if self.use_buffers else m.parameters()

        with tl.no_grad():
            pairs = [
                (a.detach(), p.detach().to(a.device)) for a, p in zip(tensors(self.module), tensors(model), strict=True)
            ]
            if self.n_averaged == 0:
                for a, p in pairs:
                    a.copy_(p)
            elif self.multi_avg_fn is not None:
                for kind in dict.fromkeys((a.device, a.dtype) for a, _ in pairs):
                    alike = [(a, p) for a, p in pairs if (a.device, a.dtype) == kind]
                    self.multi_avg_fn([a for a, _ in alike], [p for _, p in alike], self.n_averaged.to(kind[0]))
            else:
                average = self.avg_fn or get_swa_avg_fn()
                for a, p in pairs:
                    a.copy_(average(a, p, self.n_averaged.to(a.device)))
            if not self.use_buffers:
                for b, newest in zip(self.module.buffers(), model.buffers(), strict=True):
                    b.detach().copy_(newest.detach())
            self.n_averaged += 1


def update_bn(loader: Iterable[Any], model: nn.Module, device: Any = None) -> None:
    """Set the running statistics of all batch norms anew, to the mean over the batches of `loader`: those of an averaged model fit no one.

    Of a batch that is a list or tuple, the first is the input.

    >>> model = tl.nn.BatchNorm1d(1)
    >>> tl.optim.swa_utils.update_bn([tl.tensor([[0.0], [2.0]]), tl.tensor([[4.0], [6.0]])], model)
    >>> model.running_mean.item()
    3.0
    """
    norms = {module: module.momentum for module in model.modules() if isinstance(module, _NORMS)}
    if not norms:
        return
    was_training = model.training
    model.train()
    for module in norms:
        module.reset_running_stats()
        module.momentum = None
    try:
        with tl.no_grad():
            for batch in loader:
                x = batch[0] if isinstance(batch, (list, tuple)) else batch
                model(x if device is None else x.to(device))
    finally:
        for module, momentum in norms.items():
            module.momentum = momentum
        model.train(was_training)


class SWALR(LRScheduler):
    """From the rate at hand to `swa_lr`, one for all groups or a list, in `anneal_epochs` steps; `anneal_strategy` is "cos" or "linear".

    >>> optimizer = tl.optim.SGD([tl.nn.Parameter(tl.ones(1))], lr=1.0)
    >>> scheduler = tl.optim.swa_utils.SWALR(optimizer, swa_lr=0.5, anneal_epochs=2, anneal_strategy="linear")
    >>> rates = []
    >>> for _ in range(4):
    ...     rates += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> rates
    [1.0, 0.75, 0.5, 0.5]
    """

    def __init__(
        self, optimizer: Optimizer, swa_lr: float, anneal_epochs: int = 10, anneal_strategy: str = "cos", last_epoch: int = -1
    ) -> None:  # fmt: skip
        check(
            self,
            anneal_strategy=(anneal_strategy, anneal_strategy in ("cos", "linear"), '"cos" or "linear"'),
            anneal_epochs=(
                anneal_epochs,
                isinstance(anneal_epochs, int) and anneal_epochs >= 0,
                "an integer, at least 0",
            ),
        )
        for group, rate in zip(optimizer.param_groups, per_group(self, optimizer, "swa_lr", swa_lr), strict=True):
            group["swa_lr"] = rate
        self._anneal_strategy, self.anneal_epochs = anneal_strategy, anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _done(self, step: int) -> float:
        """The part of the way that lies behind."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def get_lr(self) -> list[Any]:
        step = self._step_count - 1 if self.anneal_epochs else max(1, self._step_count - 1)
        before, now = self._done(step - 1), self._done(step)
        rates = []
        for group in self.optimizer.param_groups:
            lr, end = group["lr"], group["swa_lr"]
            start = end if before == 1 else (lr - before * end) / (1 - before)
            rates.append(end * now + start * (1 - now))
        return rates
