"""Schedules that go up and down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tensorlib.optim.lr_scheduler.base import LRScheduler, assign, check, checked_optimizer, function_state, per_group
from tensorlib.optim.optimizer import Optimizer


class _WithMomentum(LRScheduler):
    """Schedules that move the momentum, or Adam's first beta, against the rate."""

    cycle_momentum: bool

    def _start_momentum(self, base_momentum: Any, max_momentum: Any, last_epoch: int) -> tuple[list[Any], list[Any]]:
        """The lower and upper bound for each group, where momentum is to move."""
        optimizer, defaults = self.optimizer, self.optimizer.defaults
        if "momentum" not in defaults and "betas" not in defaults:
            raise ValueError(
                f"{type(self).__name__}: cycle_momentum must be False for {type(optimizer).__name__}, which has no momentum."
            )
        self.use_beta1 = "betas" in defaults
        low = per_group(self, optimizer, "base_momentum", base_momentum)
        high = per_group(self, optimizer, "max_momentum", max_momentum)
        if last_epoch == -1:
            for group, least, most in zip(optimizer.param_groups, low, high, strict=True):
                self._set_momentum(group, most)
                group["max_momentum"], group["base_momentum"] = most, least
        return low, high

    def _set_momentum(self, group: dict[str, Any], value: float) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value


class CyclicLR(_WithMomentum):
    """Between `base_lr` and `max_lr`, up in `step_size_up` steps, down in `step_size_down`; momentum goes the other way.

    `mode` "triangular2" halves the height from cycle to cycle, "exp_range" multiplies it by `gamma` each step; `scale_fn` is any function of
    the cycle's number, from 1, or of the step's, as `scale_mode` "cycle" or "iterations" says.

    Reference: Smith 2017.

    >>> optimizer = tl.optim.SGD([tl.nn.Parameter(tl.ones(1))], momentum=0.9)
    >>> scheduler = tl.optim.lr_scheduler.CyclicLR(optimizer, base_lr=1.0, max_lr=3.0, step_size_up=4)
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr(), round(optimizer.param_groups[0]["momentum"], 4)
    ([2.0], 0.85)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = checked_optimizer(self, optimizer)
        modes = ("triangular", "triangular2", "exp_range")
        check(
            self,
            mode=(mode, mode in modes or scale_fn is not None, f"one of {', '.join(modes)}, or scale_fn given"),
            step_size_up=(step_size_up, step_size_up > 0, "positive"),
        )
        base_lrs = per_group(self, optimizer, "base_lr", base_lr)
        self.max_lrs = per_group(self, optimizer, "max_lr", max_lr)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                assign(group, "lr", lr)
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size = float(step_size_up + down)
        self.step_ratio = step_size_up / self.total_size
        self.mode, self.gamma = mode, gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.base_momentums, self.max_momentums = self._start_momentum(base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """The height of a cycle."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        return {"triangular": 1.0, "triangular2": 0.5 ** (x - 1), "exp_range": self.gamma**x}[self.mode]

    def get_lr(self) -> list[Any]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1 + self.last_epoch / self.total_size - cycle
        rise = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            for group, low, high in zip(
                self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True
            ):
                self._set_momentum(group, high - (high - low) * rise * scale)
        return [low + (high - low) * rise * scale for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer; of `scale_fn`, the attributes of an object, nothing of a function."""
        return {**super().state_dict(), "_scale_fn_custom": function_state(self._scale_fn_custom)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or in PyTorch."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "_scale_fn_custom"})
        if state_dict["_scale_fn_custom"] is not None:
            vars(self._scale_fn_custom).update(state_dict["_scale_fn_custom"])


class OneCycleLR(_WithMomentum):
    """One cycle over the whole training: from ``max_lr / div_factor`` up to `max_lr` in the fraction `pct_start` of `total_steps`, then down to
    the start's ``1 / final_div_factor``; momentum goes the other way. `three_phase` comes down to the start first, as slowly as it went up.

    `total_steps` may be given as `epochs` times `steps_per_epoch`. `anneal_strategy` is "cos" or "linear".

    Reference: Smith and Topin 2019.

    >>> optimizer = tl.optim.SGD([tl.nn.Parameter(tl.ones(1))], momentum=0.9)
    >>> scheduler = tl.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    >>> rates = []
    >>> for _ in range(10):
    ...     rates += [round(lr, 3) for lr in scheduler.get_last_lr()]
    ...     optimizer.step()
    ...     scheduler.step()
    >>> rates
    [0.04, 0.52, 1.0, 0.95, 0.812, 0.611, 0.389, 0.188, 0.05, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = checked_optimizer(self, optimizer)
        if total_steps is None and (epochs is None or steps_per_epoch is None):
            raise ValueError("OneCycleLR: give total_steps, or both epochs and steps_per_epoch.")
        counts = (
            {"total_steps": total_steps}
            if total_steps is not None
            else {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
        )
        check(
            self,
            **{name: (n, isinstance(n, int) and n > 0, "a positive integer") for name, n in counts.items()},
            pct_start=(pct_start, 0 <= pct_start <= 1, "in [0, 1]"),
            anneal_strategy=(anneal_strategy, anneal_strategy in ("cos", "linear"), '"cos" or "linear"'),
        )
        self.total_steps = math.prod(counts.values())  # type: ignore[arg-type]
        peak, end = float(pct_start * self.total_steps) - 1, self.total_steps - 1
        up = _phase(peak, "initial_lr", "max_lr", "max_momentum", "base_momentum")
        if three_phase:
            down = _phase(
                float(2 * pct_start * self.total_steps) - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum"
            )
            self._schedule_phases = [up, down, _phase(end, "initial_lr", "min_lr", "max_momentum", "max_momentum")]
        else:
            self._schedule_phases = [up, _phase(end, "max_lr", "min_lr", "base_momentum", "max_momentum")]
        self._anneal_func_type = anneal_strategy
        max_lrs = per_group(self, optimizer, "max_lr", max_lr)
        if last_epoch == -1:
            for group, most in zip(optimizer.param_groups, max_lrs, strict=True):
                group["initial_lr"], group["max_lr"] = most / div_factor, most
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._start_momentum(base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} of a schedule of total_steps={self.total_steps}.")
        start = 0.0
        for phase in self._schedule_phases[:-1]:
            if t <= phase["end_step"]:
                break
            start = phase["end_step"]
        else:
            phase = self._schedule_phases[-1]
        done = (t - start) / (phase["end_step"] - start) if phase["end_step"] != start else 1.0
        if self.cycle_momentum:
            for group in self.optimizer.param_groups:
                self._set_momentum(
                    group, self._between(group[phase["start_momentum"]], group[phase["end_momentum"]], done)
                )
        return [
            self._between(group[phase["start_lr"]], group[phase["end_lr"]], done)
            for group in self.optimizer.param_groups
        ]

    def _between(self, start: Any, end: Any, done: float) -> Any:
        if self._anneal_func_type == "linear":
            return (end - start) * done + start
        return end + (start - end) / 2 * (math.cos(math.pi * done) + 1)


def _phase(end: float, start_lr: str, end_lr: str, start_momentum: str, end_momentum: str) -> dict[str, Any]:
    """A stretch up to step `end`, between settings of the group."""
    return {
        "end_step": end, "start_lr": start_lr, "end_lr": end_lr, "start_momentum": start_momentum, "end_momentum": end_momentum,
    }  # fmt: skip


class CosineAnnealingWarmRestarts(LRScheduler):
    """From ``lr_0`` down to `eta_min` along half a wave of a cosine, in `T_0` steps, then again from the start, each time in `T_mult` times as many.

    `step` takes any time as `epoch`, fractions too: ``scheduler.step(epoch + i / batches)``.

    Reference: Loshchilov and Hutter 2017.

    >>> optimizer = tl.optim.SGD([tl.nn.Parameter(tl.ones(1))], lr=1.0)
    >>> scheduler = tl.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2)
    >>> rates = []
    >>> for _ in range(5):
    ...     rates += [round(lr, 4) for lr in scheduler.get_last_lr()]
    ...     scheduler.step()
    >>> rates
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        check(
            self,
            T_0=(T_0, isinstance(T_0, int) and T_0 > 0, "a positive integer"),
            T_mult=(T_mult, isinstance(T_mult, int) and T_mult >= 1, "a positive integer"),
            eta_min=(eta_min, isinstance(eta_min, (int, float)), "a number"),
        )
        self.T_0 = self.T_i = T_0
        self.T_mult, self.eta_min = T_mult, eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Set the rates of the next step, or of any time `epoch` from 0."""
        if epoch is None and self.last_epoch >= 0:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        else:
            epoch = epoch or 0
            check(self, epoch=(epoch, epoch >= 0, "at least 0"))
            self._place(epoch)
        self.last_epoch = math.floor(epoch)
        self._set(self.get_lr)

    def _place(self, epoch: float) -> None:
        """Find the cycle that a time lies in."""
        if epoch < self.T_0 or self.T_mult == 1:
            self.T_i, self.T_cur = self.T_0, epoch % self.T_0
            return
        n = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
        self.T_cur = epoch - self.T_0 * (self.T_mult**n - 1) / (self.T_mult - 1)
        self.T_i = self.T_0 * self.T_mult**n
