"""What all optimizers share: parameter groups, state, and the step.

An optimizer states its rule twice: `update_one` in plain operations for one parameter, which is the definition, and `update_group`, one
native call for a whole group. The native call declines, having changed nothing, what it does not serve (another device or dtype, a
parameter that has no state yet); then the definition runs. Tests hold the two equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import tensorlib as tl
from tensorlib import Tensor

State = dict[str, Any]
Hyper = SimpleNamespace  # a group's settings as attributes: h.lr, h.momentum


class Optimizer:
    """Base of all optimizers: give `defaults` to the constructor and define `update_one`.

    `param_groups` is a list of dicts, each with "params" and its own settings, free to be changed between steps; `state` maps a
    parameter to what the rule remembers of it.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                f"{type(self).__name__}: params must be an iterable of tensors or of dicts, got a single tensor: put it in a list."
            )
        self.defaults = defaults
        self.state: defaultdict[Tensor, State] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError(f"{type(self).__name__}: got no parameters.")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; what the dict leaves out comes from the defaults."""
        name = type(self).__name__
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(
                f'{name}: a parameter group must be a dict with "params", got {type(param_group).__name__}.'
            )
        given = param_group["params"]
        params = [p[1] if isinstance(p, tuple) else p for p in ([given] if isinstance(given, Tensor) else given)]
        for i, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(f"{name}: parameter {i} must be a Tensor, got {type(p).__name__}.")
            if not p.is_leaf:
                raise ValueError(
                    f"{name}: parameter {i} of shape {p.shape} is a result, not a leaf; only leaf tensors can be optimized."
                )
        known = {id(p) for group in self.param_groups for p in group["params"]}
        if len({id(p) for p in params}) < len(params) or any(id(p) in known for p in params):
            raise ValueError(f"{name}: a parameter appears more than once.")
        self.param_groups.append({**self.defaults, **param_group, "params": params})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients (the default), or fill them with zeros."""
        for group in self.param_groups:
            tl.fused.zero_grad_(group["params"], set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; `closure`, where given, computes the loss first, which is returned."""
        loss = None
        if closure is not None:
            with tl.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if not self.update_group(group):
                self._update_each(group)
        return loss

    def update_group(self, group: dict[str, Any]) -> bool:
        """One native call for the whole group; False, with nothing changed, where there is none that serves it."""
        return False

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        """Update `p` in place by its gradient `g`: the definition. Runs under no_grad."""
        raise NotImplementedError(f"{type(self).__name__} does not define update_one().")

    def _update_each(self, group: dict[str, Any]) -> None:
        h = Hyper(**group)
        with tl.no_grad():
            for p in group["params"]:
                if (g := p.grad) is not None:
                    g = g.detach()
                    self.update_one(p, -g if group.get("maximize") else g, self.state[p], h)

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """State and settings, parameters replaced by their number in order; tensors are shared, not copied."""
        numbers = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = [{**group, "params": [numbers[id(p)] for p in group["params"]]} for group in self.param_groups]
        groups = [{**{k: v for k, v in group.items() if k != "params"}, "params": group["params"]} for group in groups]
        return {
            "state": {numbers[id(p)]: dict(s) for p, s in self.state.items() if s and id(p) in numbers},
            "param_groups": groups,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or in PyTorch (its tensors as ours); nothing is changed if it does not fit."""
        name = type(self).__name__
        try:
            groups, states = list(state_dict["param_groups"]), dict(state_dict["state"])
        except (KeyError, TypeError):
            raise ValueError(f'{name}.load_state_dict: expected a dict with "state" and "param_groups".') from None
        sizes, own = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"{name}.load_state_dict: groups of {sizes} parameters do not fit groups of {own}.")
        numbers = [i for g in groups for i in g["params"]]
        by_number = dict(zip(numbers, (p for g in self.param_groups for p in g["params"]), strict=True))
        loaded = {by_number[i]: self._fitted(name, i, by_number[i], s) for i, s in states.items() if i in by_number}
        self.state = defaultdict(dict, loaded)
        self.param_groups = [
            {**self.defaults, **deepcopy({k: v for k, v in new.items() if k != "params"}), "params": old["params"]}
            for new, old in zip(groups, self.param_groups, strict=True)
        ]

    def _fitted(self, name: str, number: int, p: Tensor, state: State) -> State:
        """A parameter's state with its tensors copied to the parameter's dtype and device; "step" stays as it is."""
        fitted: State = {}
        for key, value in state.items():
            if not isinstance(value, Tensor):
                fitted[key] = deepcopy(value)
            elif key == "step":
                fitted[key] = value.detach().clone()
            elif value.shape not in (p.shape, ()):
                raise ValueError(
                    f"{name}.load_state_dict: {key} of parameter {number} has shape {value.shape}, expected {p.shape}; nothing was changed."
                )
            else:
                fitted[key] = value.detach().to(
                    device=p.device, dtype=p.dtype if p.dtype.is_floating_point else value.dtype, copy=True
                )
        return fitted

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __repr__(self) -> str:
        groups = [
            f"group {i}: " + ", ".join(f"{k}={v}" for k, v in g.items() if k != "params")
            for i, g in enumerate(self.param_groups)
        ]
        return f"{type(self).__name__}(\n  " + "\n  ".join(groups) + "\n)"


def require(name: str, **ranges: tuple[Any, bool, str]) -> None:
    """Raise for the first setting whose check failed: `lr=(lr, lr >= 0, "at least 0")`."""
    for key, (value, fine, expected) in ranges.items():
        if not fine:
            raise ValueError(f"{name}: {key} must be {expected}, got {value}.")
