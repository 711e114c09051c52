"""Several schedules for one optimizer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from tensorlib.optim.lr_scheduler.base import LRScheduler, assign, values
from tensorlib.optim.lr_scheduler.plateau import ReduceLROnPlateau
from tensorlib.optim.optimizer import Optimizer


class _Combined(LRScheduler):
    _schedulers: Sequence[LRScheduler]

    def _check_parts(self, optimizer: Optimizer | None) -> Optimizer:
        """The one optimizer of all."""
        name = type(self).__name__
        if len(self._schedulers) < 1:
            raise ValueError(f"{name}: got no schedulers.")
        for i, part in enumerate(self._schedulers):
            kind = type(part).__name__
            if not hasattr(part, "optimizer"):
                raise TypeError(f"{name}: scheduler {i} must have an optimizer, got {kind}.")
            if isinstance(part, ReduceLROnPlateau):
                raise ValueError(
                    f"{name}: scheduler {i} is a ReduceLROnPlateau, whose step wants a measure: step it by itself."
                )
            optimizer = optimizer or part.optimizer
            if part.optimizer is not optimizer:
                raise ValueError(f"{name}: scheduler {i}, {kind}, belongs to another optimizer.")
        assert optimizer is not None
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer, with the states of the schedulers."""
        return {**super().state_dict(), "_schedulers": [part.state_dict() for part in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or in PyTorch."""
        states = state_dict["_schedulers"]
        if len(states) != len(self._schedulers):
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: {len(states)} schedulers do not fit {len(self._schedulers)}."
            )
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "_schedulers"})
        for part, state in zip(self._schedulers, states, strict=True):
            part.load_state_dict(state)


class SequentialLR(_Combined):
    """One schedule after the other: the next one begins at each of the `milestones`.

    >>> optimizer = tl.optim.SGD([tl.nn.Parameter(tl.ones(1))], lr=1.0)
    >>> warm_up = tl.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> decay = tl.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler = tl.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], milestones=[2])
    >>> rates = []
    >>> for _ in range(4):
    ...     rates += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> rates
    [0.5, 0.75, 1.0, 0.5]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        self._schedulers, self._milestones = schedulers, milestones
        self._check_parts(optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: got {len(milestones)} milestones, expected {len(schedulers) - 1} for {len(schedulers)} schedulers."
            )
        for i, part in enumerate(schedulers[1:], 1):
            if isinstance(part, _Combined):
                raise ValueError(f"SequentialLR: scheduler {i} is a {type(part).__name__}, which can only come first.")
        self.last_epoch = last_epoch + 1
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            assign(group, "lr", group["initial_lr"])
        for part in schedulers:
            _undo(part)
        first = schedulers[bisect_right(milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:  # type: ignore[override]
        """Set the rates of the next step."""
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        part = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            part._update_lr(0)
        else:
            part.step()
        self._last_lr = part.get_last_lr()


def _undo(scheduler: LRScheduler) -> None:
    """Take back the step that the constructor made, of all inside."""
    if isinstance(scheduler, _Combined):
        for part in scheduler._schedulers:
            _undo(part)
    else:
        scheduler.last_epoch -= 1


class ChainedScheduler(_Combined):
    """Several schedules at once, each on the rate that the one before it left.

    >>> optimizer = tl.optim.SGD([tl.nn.Parameter(tl.ones(1))], lr=1.0)
    >>> parts = [tl.optim.lr_scheduler.ExponentialLR(optimizer, 0.5), tl.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)]
    >>> scheduler = tl.optim.lr_scheduler.ChainedScheduler(parts)
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> [round(lr, 4) for lr in scheduler.get_last_lr()]
    [0.025]
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        self._schedulers = schedulers
        self.optimizer = self._check_parts(optimizer)
        self._last_lr = values(self.optimizer, "lr")

    def step(self) -> None:  # type: ignore[override]
        """Let every scheduler set the rates of the next step."""
        for part in self._schedulers:
            part.step()
        self._last_lr = values(self.optimizer, "lr")
