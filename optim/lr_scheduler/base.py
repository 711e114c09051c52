"""What all schedulers share."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from tensorlib import Tensor
from tensorlib.optim.optimizer import Optimizer, require


class LRScheduler:
    """Base of all schedulers: define `get_lr`, which returns the rate of each group for `last_epoch`, the number of steps so far.

    `get_lr` finds the rates of the step before in ``self.optimizer.param_groups``, those at the start in `base_lrs`.

    >>> class Halving(tl.optim.lr_scheduler.LRScheduler):
    ...     def get_lr(self):
    ...         return [lr * 0.5**self.last_epoch for lr in self.base_lrs]
    >>> optimizer = tl.optim.SGD([tl.nn.Parameter(tl.ones(1))], lr=1.0)
    >>> scheduler = Halving(optimizer)
    >>> for _ in range(3):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr(), optimizer.param_groups[0]["lr"]
    ([0.125], 0.125)
    """

    _get_lr_called_within_step = False
    _is_initial = False  # the step that the constructor makes

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = checked_optimizer(self, optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", copied(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"{type(self).__name__}: group {i} has no initial_lr: to go on at last_epoch={last_epoch}, load the optimizer's state first."
                )
        self.base_lrs = values(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer, as in PyTorch."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or in PyTorch."""
        self.__dict__.update(state_dict)

    def get_last_lr(self) -> list[Any]:
        """The rate of each group, as last set."""
        return self._last_lr

    def get_lr(self) -> list[Any]:
        """The rate of each group for `last_epoch`."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr().")

    def step(self, epoch: int | None = None) -> None:
        """Set the rates of the next step; those of step `epoch`, where given, by a closed formula if there is one."""
        if self._step_count == 1 and not self.optimizer._opt_called:
            warnings.warn(
                "scheduler.step() was called before optimizer.step(): the first rate of the schedule is skipped. Call them the other way round.",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        if epoch is not None:
            warnings.warn(
                "scheduler.step(epoch) is deprecated: call step() without a number.", UserWarning, stacklevel=2
            )
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        closed = getattr(self, "_get_closed_form_lr", None) if epoch is not None else None
        self._set(closed or self.get_lr)

    def _set(self, rates: Callable[[], list[Any]]) -> None:
        """Set what `rates` gives."""
        self._get_lr_called_within_step = True
        try:
            found = rates()
        finally:
            self._get_lr_called_within_step = False
        for group, rate in zip(self.optimizer.param_groups, found, strict=True):
            assign(group, "lr", rate)
        self._last_lr = values(self.optimizer, "lr")


def checked_optimizer(scheduler: object, optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(scheduler).__name__}: optimizer must be an Optimizer, got {type(optimizer).__name__}.")
    return optimizer


def copied(value: Any) -> Any:
    """A rate may be a tensor, which schedulers write into."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def values(optimizer: Optimizer, key: str) -> list[Any]:
    """A setting of each group."""
    return [copied(group[key]) for group in optimizer.param_groups]


def assign(group: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(group[key], Tensor):
        group[key].fill_(float(value))
    else:
        group[key] = value


def per_group(scheduler: object, optimizer: Optimizer, name: str, value: Any) -> list[Any]:
    """One value for each group, from one for all or from a list."""
    n = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [copied(value) for _ in range(n)]
    if len(value) != n:
        raise ValueError(
            f"{type(scheduler).__name__}: {name} has {len(value)} values, expected one for each of {n} groups."
        )
    return [copied(v) for v in value]


def check(scheduler: object, **ranges: tuple[Any, bool, str]) -> None:
    """As `require`."""
    require(type(scheduler).__name__, **ranges)


def function_state(function: Callable[..., Any] | None) -> dict[str, Any] | None:
    """What of a user's callable belongs in a state: the attributes of an object; of a function, nothing."""
    return None if function is None or isinstance(function, types.FunctionType) else dict(vars(function))
