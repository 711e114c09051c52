"""What all optimizers share: parameter groups, state, hooks, and the step.

An optimizer states its rule twice: `update_one` in plain operations for one parameter, which is the definition, and, where it pays,
`update_group`, one native call for a whole group. The native call declines, having changed nothing, what it does not serve (another device
or dtype, a parameter that has no state yet); then the definition runs. Tests hold the two equal.

PyTorch's performance hints are taken by all: `foreach` and `capturable` change nothing here, but for one use: `fused=False`, or
`foreach=False` where an optimizer has no `fused`, asks for the definition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import wraps
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import numpy as np

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.hooks import HookList, RemovableHandle

__all__ = ["Optimizer", "register_optimizer_step_post_hook", "register_optimizer_step_pre_hook", "required"]

State = dict[str, Any]
Hyper = SimpleNamespace  # a group's settings as attributes: h.lr, h.momentum
required = type("required", (), {"__repr__": lambda self: "<required>"})()  # a default that each group must replace

_Step = TypeVar("_Step", bound=Callable[..., Any])
_before_all, _after_all = HookList(), HookList()  # the hooks of every optimizer


def register_optimizer_step_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Have ``hook(optimizer, args, kwargs)`` called before each step of every optimizer.

    >>> handle = tl.optim.optimizer.register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: print(type(optimizer).__name__))
    >>> tl.optim.SGD([tl.nn.Parameter(tl.ones(1))]).step()
    SGD
    >>> handle.remove()
    """
    return _before_all.add(hook)


def register_optimizer_step_post_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Have ``hook(optimizer, args, kwargs)`` called after each step of every optimizer."""
    return _after_all.add(hook)


def _with_hooks(step: _Step) -> _Step:
    """`step` between its hooks. Of steps that call each other through super(), the outermost runs them."""

    @wraps(step)
    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._opt_called = True
        if self._stepping or not (_before_all or _after_all or self._before or self._after):
            return step(self, *args, **kwargs)
        self._stepping = True
        try:
            for hook, *_ in [*_before_all.values(), *self._before.values()]:
                replaced = hook(self, args, kwargs)
                if replaced is not None:
                    if not (isinstance(replaced, tuple) and len(replaced) == 2):
                        raise RuntimeError(
                            f"{type(self).__name__}: a step pre-hook must return None or a pair (args, kwargs), got {replaced!r}."
                        )
                    args, kwargs = replaced
            out = step(self, *args, **kwargs)
            for hook, *_ in [*self._after.values(), *_after_all.values()]:
                hook(self, args, kwargs)
            return out
        finally:
            self._stepping = False

    return stepped  # type: ignore[return-value]


class Optimizer:
    """Base of all optimizers: give `defaults` to the constructor and define `update_one`, or `step` as in PyTorch.

    `param_groups` is a list of dicts, each with "params" and its own settings, free to be changed between steps; `state` maps a
    parameter to what the rule remembers of it.

    >>> class Sign(tl.optim.Optimizer):
    ...     def update_one(self, p, g, state, h):
    ...         p.add_(g.sign(), alpha=-h.lr)
    >>> w = tl.nn.Parameter(tl.tensor([1.0, -1.0]))
    >>> optimizer = Sign([w], {"lr": 0.5})
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.tolist()
    [0.5, -0.5]
    """

    arrays: ClassVar[
        tuple[str, ...]
    ] = ()  # what the state holds in the parameter's own shape: checked when a state is loaded

    # For GradScaler, as in PyTorch: `step` may be called whatever the gradients are, and leaves itself out (`tl.fused.unless`).
    _step_supports_amp_scaling: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls._step_supports_amp_scaling = cls.__dict__.get("_step_supports_amp_scaling", False)
            cls.step = _with_hooks(cls.__dict__["step"])  # type: ignore[method-assign]

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        name = type(self).__name__
        if isinstance(params, Tensor):
            raise TypeError(
                f"{name}: params must be an iterable of tensors or of dicts, got a single tensor: put it in a list."
            )
        if defaults.get("fused") and defaults.get("foreach"):
            raise RuntimeError(f"{name}: fused and foreach can not both be True.")
        self._without_hooks()
        self.defaults = defaults
        self.state: defaultdict[Any, State] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError(f"{name}: got no parameters.")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    # ---- parameters ----

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; what the dict leaves out comes from the defaults.

        Parameters may be given as pairs (name, parameter), all or none; the names are kept as "param_names".
        """
        name = type(self).__name__
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(
                f'{name}: a parameter group must be a dict with "params", got {type(param_group).__name__}.'
            )
        given = param_group["params"]
        if isinstance(given, set):
            raise TypeError(f"{name}: parameters must be in an order that lasts, got a set: give a list.")
        listed = [given] if isinstance(given, Tensor) else list(given)
        params = [p[1] if isinstance(p, tuple) else p for p in listed]
        names = [p[0] for p in listed if isinstance(p, tuple)]
        for i, p in enumerate(params):
            self.check_parameter(i, p)
        known = {id(p) for group in self.param_groups for p in group["params"]}
        if len({id(p) for p in params}) < len(params) or any(id(p) in known for p in params):
            raise ValueError(f"{name}: a parameter appears more than once.")
        group = {**self.defaults, **param_group, "params": params, **({"param_names": names} if names else {})}
        named = "param_names" in group
        if len(names) not in (0, len(params)) or any(named != ("param_names" in other) for other in self.param_groups):
            raise ValueError(f"{name}: either all parameters have names, as pairs (name, parameter), or none has.")
        missing = [key for key, value in group.items() if value is required]
        if missing:
            raise ValueError(f"{name}: a parameter group must set {', '.join(missing)}.")
        if group.get("differentiable"):
            raise NotImplementedError(
                f"{name}: differentiable=True is not supported: a step changes its parameters in place, unrecorded."
            )
        self.param_groups.append(group)

    def check_parameter(self, i: int, p: Any) -> None:
        """Raise if the i-th parameter of a group is none that this optimizer can step."""
        name = type(self).__name__
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}: parameter {i} must be a Tensor, got {type(p).__name__}.")
        if not (p.is_leaf or p.retains_grad):
            raise ValueError(
                f"{name}: parameter {i} of shape {p.shape} is a result, not a leaf; only leaf tensors can be optimized."
            )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients (the default), or fill them with zeros."""
        for group in self.param_groups:
            tl.fused.zero_grad_(group["params"], set_to_none)

    # ---- the step ----

    @_with_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; `closure`, where given, computes the loss first, which is returned."""
        loss = None
        if closure is not None:
            with tl.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if not self._updated(group):
                self._update_each(group)
        return loss

    def _updated(self, group: dict[str, Any]) -> bool:
        if group.get("fused", group.get("foreach")) is False:
            return False
        if not (group["params"] and group["params"][0].is_cuda):
            return self.update_group(group)
        self._starts = True
        try:
            return tl.fused.renewed(lambda: self.update_group(group))
        finally:
            self._starts = False

    def update_group(self, group: dict[str, Any]) -> bool:
        """One native call for the whole group; False, with nothing changed, where there is none that serves it."""
        return False

    def kept(self, group: dict[str, Any], *names: str) -> list[list[Any]]:
        """What the state holds under each of these names, for every parameter of the group; None where it is not there yet.

        On a GPU it is there from now on: so that from the first step on everything is counted on the device, and none waits for it.
        """
        states = [self.state[p] for p in group["params"]]
        if self._starts:
            for p, s in zip(group["params"], states, strict=True):
                if p.grad is not None:
                    _started(s, p, names)
        return [[s.get(name) for s in states] for name in names]

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        """Update `p` in place by its gradient `g`: the definition. Runs under no_grad."""
        raise NotImplementedError(f"{type(self).__name__} does not define update_one().")

    def update_sparse(self, p: Tensor, g: tl.SparseTensor, state: State, h: Hyper) -> None:
        """The same by a row-sparse gradient, for optimizers that take one: rows that it does not hold stay as they are."""
        raise NotImplementedError(f"{type(self).__name__} does not define update_sparse().")

    def _update_each(self, group: dict[str, Any]) -> None:
        if group["params"] and group["params"][0].is_cuda:
            if tl.cuda.is_current_stream_capturing():
                raise tl.CaptureError(
                    f"{type(self).__name__}.step: can not be captured in a CUDA graph: its definition, which runs here, takes learning rates and "
                    "counts as they are now, and replays would keep them.",
                    hint="SGD, Adam, AdamW, RMSprop ... have kernels that read them anew",
                )
            if tl.fused.left_out():
                return
        h = Hyper(**{key: value.item() if isinstance(value, Tensor) else value for key, value in group.items()})
        params = group["params"]
        sparse = [p for p in params if (g := p.grad) is not None and g.is_sparse]
        if sparse and type(self).update_sparse is Optimizer.update_sparse:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients, please consider SparseAdam instead."
            )
        if sparse and self._updated({**group, "params": [p for p in params if all(p is not s for s in sparse)]}):
            params = sparse
        with tl.no_grad():
            for p in params:
                if (g := p.grad) is not None:
                    g = -g.detach() if group.get("maximize") else g.detach()
                    (self.update_sparse if g.is_sparse else self.update_one)(p, g, self.state[p], h)

    # ---- hooks ----

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Have ``hook(optimizer, args, kwargs)`` called before each step; it may return other (args, kwargs) for it."""
        return self._before.add(hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Have ``hook(optimizer, args, kwargs)`` called after each step."""
        return self._after.add(hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Have ``hook(optimizer)`` called before `state_dict` reads anything."""
        return self._before_saving.add(hook, prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Have ``hook(optimizer, state_dict)`` called on the result of `state_dict`; it may change it, or return another."""
        return self._after_saving.add(hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Have ``hook(optimizer, state_dict)`` called before a state is loaded; it may change its copy of the dict, or return another."""
        return self._before_loading.add(hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Have ``hook(optimizer)`` called after a state was loaded."""
        return self._after_loading.add(hook, prepend)

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """State and settings, parameters replaced by their number in order; tensors are shared, not copied."""
        for hook, *_ in list(self._before_saving.values()):
            hook(self)
        numbers = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = [
            {**{k: v for k, v in group.items() if k != "params"}, "params": [numbers[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]
        out = {
            "state": {numbers[id(p)]: dict(s) for p, s in self.state.items() if s and id(p) in numbers},
            "param_groups": groups,
        }
        for hook, *_ in list(self._after_saving.values()):
            changed = hook(self, out)
            out = out if changed is None else changed
        return out

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or in PyTorch (tensors as ours or as arrays); nothing is changed if it does not fit."""
        name = type(self).__name__
        for hook, *_ in list(self._before_loading.values()):
            changed = hook(self, state_dict := dict(state_dict))
            state_dict = state_dict if changed is None else changed
        try:
            groups, states = list(state_dict["param_groups"]), dict(state_dict["state"])
        except (KeyError, TypeError):
            raise ValueError(f'{name}.load_state_dict: expected a dict with "state" and "param_groups".') from None
        sizes, own = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"{name}.load_state_dict: groups of {sizes} parameters do not fit groups of {own}.")
        numbers = [i for g in groups for i in g["params"]]
        by_number = dict(zip(numbers, (p for g in self.param_groups for p in g["params"]), strict=True))
        loaded = {by_number[i]: self._fitted(i, by_number[i], s) for i, s in states.items() if i in by_number}
        self.__setstate__({
            "state": defaultdict(dict, loaded),
            "param_groups": [
                {
                    **self.defaults,
                    **{k: old[k] for k in ("param_names",) if k in old},
                    **deepcopy({k: v for k, v in new.items() if k != "params"}),
                    "params": old["params"],
                }
                for new, old in zip(groups, self.param_groups, strict=True)
            ],
        })  # fmt: skip
        for hook, *_ in list(self._after_loading.values()):
            hook(self)

    def _fitted(self, number: int, p: Tensor, state: State) -> State:
        """A parameter's state with copies of its tensors, in the parameter's dtype and on its device."""
        fitted = {key: _copied(value, p, key not in self.arrays) for key, value in state.items()}
        for key in self.arrays:
            if key in fitted and fitted[key].shape != p.shape:
                raise ValueError(
                    f"{type(self).__name__}.load_state_dict: {key} of parameter {number} has shape {fitted[key].shape}, "
                    f"expected {p.shape}; nothing was changed."
                )
        return fitted

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_before" not in self.__dict__:  # a copy
            self._without_hooks()
        self.__dict__.update(state)

    def _without_hooks(self) -> None:
        self._stepping = self._opt_called = self._starts = False
        self._before, self._after = HookList(), HookList()
        self._before_saving, self._after_saving = HookList(), HookList()
        self._before_loading, self._after_loading = HookList(), HookList()

    def __repr__(self) -> str:
        groups = [
            f"group {i}: " + ", ".join(f"{k}={v}" for k, v in g.items() if k != "params")
            for i, g in enumerate(self.param_groups)
        ]
        return f"{type(self).__name__}(\n  " + "\n  ".join(groups) + "\n)"


def _copied(value: Any, p: Tensor, may_count: bool = False) -> Any:
    """A value of a loaded state for the parameter p. A number that counts keeps its dtype, and is in main memory
    until a step on the device asks for it."""
    if isinstance(value, np.ndarray):
        value = tl.tensor(value, device="cpu")
    if isinstance(value, Tensor):
        counts = may_count and value.ndim == 0
        dtype = value.dtype if counts or not p.dtype.is_floating_point else p.dtype
        return value.detach().to(device="cpu" if counts else p.device, dtype=dtype, copy=True)
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(v, p) for v in value)
    if isinstance(value, dict):
        return {k: _copied(v, p) for k, v in value.items()}
    return deepcopy(value)


_COUNTS = {"step": 0.0, "mu_product": 1.0}  # numbers in the state, and what they are before the first step


def _started(state: State, p: Tensor, names: Iterable[str]) -> None:
    """A state as it is before the first step, on p's device."""
    for name in names:
        if name not in state:
            count = _COUNTS.get(name)
            state[name] = (
                tl.zeros_like(p.detach()) if count is None else tl.full((), count, dtype=tl.float32, device=p.device)
            )
        elif name in _COUNTS and state[name].device != p.device:
            state[name] = state[name].to(p.device)


# ---- what definitions share ----


def nonnegative(value: Any) -> tuple[Any, bool, str]:
    """For `require`."""
    return value, value >= 0, "at least 0"


def decay_rates(betas: Any) -> tuple[Any, bool, str]:
    """For `require`."""
    return betas, len(betas) == 2 and all(0 <= b < 1 for b in betas), "two numbers in [0, 1)"


def require(name: str, **ranges: tuple[Any, bool, str]) -> None:
    """Raise for the first setting whose check failed: `lr=(lr, lr >= 0, "at least 0")`."""
    for key, (value, fine, expected) in ranges.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{name}: {key} must have one element, got shape {value.shape}.")
        if not fine:
            raise ValueError(f"{name}: {key} must be {expected}, got {value}.")


def count_step(state: State) -> float:
    """Which step this is, from 1; "step" is a float32 tensor in the state, in main memory, as in PyTorch."""
    if "step" not in state:
        state["step"] = tl.zeros((), dtype=tl.float32, device="cpu")
    state["step"] += 1
    return float(state["step"])


def zeros(state: State, p: Tensor, *names: str) -> list[Tensor]:
    """The arrays of these names in the state, new ones full of zeros."""
    for name in names:
        if name not in state:
            state[name] = tl.zeros_like(p)
    return [state[name] for name in names]


def decayed(p: Tensor, g: Tensor, h: Hyper) -> Tensor:
    """The gradient with weight decay in it; or as it is, decay that is decoupled having shrunk `p`."""
    if not h.weight_decay:
        return g
    if getattr(h, "decoupled_weight_decay", False):
        p.mul_(1 - h.lr * h.weight_decay)
        return g
    return g.add(p, alpha=h.weight_decay)


def moments(state: State, p: Tensor, g: Tensor, betas: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Running averages of gradient and squared gradient, not corrected for their start at zero."""
    m, v = zeros(state, p, "exp_avg", "exp_avg_sq")
    m.lerp_(g, 1 - betas[0])
    v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
    return m, v
