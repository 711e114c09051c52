"""Training in 16 bits: `autocast`, and for float16, whose small gradients would become zero, `GradScaler`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

from tensorlib import fused
from tensorlib.autograd.modes import no_grad
from tensorlib.device import Device
from tensorlib.dtypes import float32, int64
from tensorlib.ops.comparison import eq, isfinite, logical_or
from tensorlib.ops.creation import full
from tensorlib.ops.elementwise import where
from tensorlib.ops.precision import autocast, get_autocast_dtype, is_autocast_enabled
from tensorlib.tensor import Tensor

__all__ = ["GradScaler", "autocast", "get_autocast_dtype", "is_autocast_enabled"]


class GradScaler:
    """Multiplies losses by a large factor before `backward` and divides gradients by it before the step; as `torch.amp.GradScaler`.

    A step whose gradients are not finite is left out and the factor multiplied by `backoff_factor`; after `growth_interval` steps in a row
    that were taken it is multiplied by `growth_factor`. bfloat16 has float32's range and needs none of this. On a GPU the factor stays
    there and nothing waits for it, so that it goes into captured steps too: the step's kernels themselves look whether to leave it out; only an
    optimizer that defines `step` itself waits.

    Reference: Micikevicius et al. 2018, Mixed Precision Training, section 3.2.

    >>> w = tl.nn.Parameter(tl.ones(2))
    >>> optimizer, scaler = tl.optim.SGD([w], lr=0.5), tl.amp.GradScaler("cpu", init_scale=1024.0)
    >>> scaler.scale((w * 3).sum()).backward()
    >>> w.grad.tolist()
    [3072.0, 3072.0]
    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> w.tolist()
    [-0.5, -0.5]
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if growth_factor <= 1 or not 0 < backoff_factor < 1:
            raise ValueError(
                f"GradScaler: expected growth_factor > 1 and 0 < backoff_factor < 1, got {growth_factor} and {backoff_factor}."
            )
        self.device, self._enabled = device, enabled
        self._scale: float | Tensor = float(init_scale)
        self._growth_factor, self._backoff_factor, self._growth_interval = (
            growth_factor,
            backoff_factor,
            growth_interval,
        )
        self._good_steps: int | Tensor = 0
        """Both are tensors on the GPU from the first loss there on, and change in place."""
        self._unscaled: dict[int, Tensor | None] = {}
        """By optimizer, since the last update: whether a gradient was not finite; None: there was no gradient."""
        self._stepped: dict[int, bool | Tensor] = {}
        """By optimizer, since the last update: whether its step was left out."""

    def scale(self, outputs: Any) -> Any:
        """A loss, or several in a list or tuple, times the factor."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            if outputs.is_cuda:
                self._move(outputs.device)
            scale = self._scale
            return outputs * (scale.to(outputs.device) if isinstance(scale, Tensor) else scale)
        if isinstance(outputs, Iterable):
            made = map(self.scale, outputs)
            return type(outputs)(made) if isinstance(outputs, (list, tuple)) else made
        raise TypeError(f"scale: got a {type(outputs).__name__}, expected a Tensor or an iterable of them.")

    @no_grad()
    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of an optimizer's parameters by the factor, for what looks at them before the step: clipping, say."""
        if not self._enabled:
            return
        if id(optimizer) in self._stepped:
            raise RuntimeError("unscale_: called after step() for this optimizer, expected before it.")
        if id(optimizer) in self._unscaled:
            raise RuntimeError("unscale_: called twice for this optimizer since the last update().")
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [g._values() if g.is_sparse else g for g in gradients]
        factor = 1 / self._scale
        bad = fused.unscale_(gradients, factor)
        for g in gradients if bad is None else ():
            g.mul_(factor.to(g.device) if isinstance(factor, Tensor) else factor)
            found = isfinite(g).all().logical_not()
            bad = found if bad is None else bad.logical_or(found.to(bad.device))
        self._unscaled[id(optimizer)] = bad

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step(...)`` on gradients divided by the factor, or nothing where one of them is not finite. Returns what that returns."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("step: an optimizer that takes a closure can not be scaled.")
        if id(optimizer) in self._stepped:
            raise RuntimeError("step: called twice for this optimizer since the last update().")
        if id(optimizer) not in self._unscaled:
            self.unscale_(optimizer)
        bad = self._unscaled[id(optimizer)]
        if bad is None:
            raise RuntimeError("step: none of the optimizer's parameters has a gradient.")
        if bad.is_cuda and getattr(optimizer, "_step_supports_amp_scaling", False):
            self._stepped[id(optimizer)] = bad
            with fused.unless(bad):
                return optimizer.step(*args, **kwargs)
        self._stepped[id(optimizer)] = left_out = bool(bad)
        return None if left_out else optimizer.step(*args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the factor to the steps since the last update, or set it."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._set(float(new_scale), self._good_steps)
        elif not self._stepped:
            raise RuntimeError("update: no step() was called since the last update().")
        else:
            self._adapt(list(self._stepped.values()))
        self._unscaled.clear()
        self._stepped.clear()

    @no_grad()
    def _adapt(self, left_out: list[bool | Tensor]) -> None:
        there = next((t.device for t in left_out if isinstance(t, Tensor)), None)
        if there is not None:
            self._move(there)
        scale, good = self._scale, self._good_steps + 1
        if not isinstance(scale, Tensor):
            backs, grows = any(left_out), good == self._growth_interval
            factor = self._backoff_factor if backs else self._growth_factor if grows else 1.0
            self._set(scale * factor, 0 if backs or grows else good)
            return
        flags = [t.to(scale.device) if isinstance(t, Tensor) else full((), t, device=scale.device) for t in left_out]
        bad, grown = reduce(logical_or, flags), eq(good, self._growth_interval)
        changed = where(bad, self._backoff_factor, where(grown, self._growth_factor, 1.0)) * scale
        self._set(changed, where(logical_or(bad, grown), 0, good))

    @no_grad()
    def _set(self, scale: float | Tensor, good_steps: int | Tensor) -> None:
        for name, value in (("_scale", scale), ("_good_steps", good_steps)):
            held = getattr(self, name)
            if not isinstance(held, Tensor):
                setattr(self, name, value)
            elif isinstance(value, Tensor):
                held.copy_(value)
            else:
                held.fill_(value)

    def _move(self, there: Device) -> None:
        """To a GPU, from where on nothing waits."""
        if not isinstance(self._scale, Tensor):
            self._scale = full((), self._scale, dtype=float32, device=there)
            self._good_steps = full((), int(self._good_steps), dtype=int64, device=there)

    def get_scale(self) -> float:
        """The factor; 1 where the scaler is not enabled. Waits for a GPU."""
        return float(self._scale) if self._enabled else 1.0

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": int(self._good_steps),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("load_state_dict: the state is empty, that of a scaler that was not enabled.")
        self._set(float(state_dict["scale"]), state_dict["_growth_tracker"])
        self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
