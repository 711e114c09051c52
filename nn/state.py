"""A module's state by name: what `state_dict` gathers and `load_state_dict` puts back, all or nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.parameter import Parameter, is_lazy

if TYPE_CHECKING:
    from tensorlib.nn.module import Module

VERSION = "_version"  # PyTorch's name for the class attribute
EXTRA = "_extra_state"  # the last part of the name under which get_extra_state()'s result stands


class StateDictError(tl.TensorlibError, RuntimeError):
    """A state_dict that does not fit the module; the message lists every name that is missing, unexpected or misshapen."""


class IncompatibleKeys(NamedTuple):
    """What a `load_state_dict(strict=False)` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def own_state(module: Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers of this module alone."""
    for registry in (module._parameters, module._buffers):
        for name, value in registry.items():
            if value is not None and name not in module._non_persistent:
                yield name, value


def save(module: Module, destination: Any, prefix: str, keep_vars: bool) -> None:
    """Enter the module's state and that of all below it into `destination`."""
    hooks = module._state_hooks
    about = {"version": getattr(module, VERSION)}
    if hasattr(destination, "_metadata"):
        destination._metadata[prefix[:-1]] = about
    if hooks is not None:
        hooks.before_save(module, prefix, keep_vars)
    for name, value in own_state(module):
        destination[prefix + name] = value if keep_vars or is_lazy(value) else value.detach()
    if module._keeps_extra_state():
        destination[prefix + EXTRA] = module.get_extra_state()
    for name, child in module._modules.items():
        if child is not None:
            child.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
    if hooks is not None:
        hooks.after_save(module, destination, prefix, about)


class Loading:
    """One `load_state_dict`: first everything is compared, then everything is copied."""

    def __init__(self, module: Module, state: Mapping[str, Any], strict: bool, assign: bool) -> None:
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: expected a mapping of names to tensors, got {type(state).__name__}.")
        self.module, self.strict, self.assign = module, strict, assign
        self.state = OrderedDict(state)
        self.metadata = getattr(state, "_metadata", {})
        self.keys = IncompatibleKeys([], [])
        self.misshapen: list[str] = []
        self.errors: list[str] = []
        self.values: list[tuple[Module, str, Tensor]] = []
        self.extra: list[tuple[Module, Any]] = []
        self.visited: list[Module] = []

    def run(self) -> IncompatibleKeys:
        known = self._compare(self.module, "")
        self.keys.unexpected_keys.extend(name for name in self.state if name not in known)
        # A hook that runs after loading may still forgive a name, as in PyTorch; shapes no one can forgive.
        late = any(m._state_hooks is not None and m._state_hooks.after_load for m in self.visited)
        self._check("nothing was changed", names=not late)
        with tl.no_grad():
            for owner, name, value in self.values:
                self._put(owner, name, value)
        for owner, extra in self.extra:
            owner.set_extra_state(extra)
        for m in self.visited:
            if m._state_hooks is not None:
                m._state_hooks.after_load(m, self.keys)
        self._check("the rest was loaded", names=True)
        return self.keys

    def _compare(self, module: Module, prefix: str) -> set[str]:
        """Note what to copy and what does not fit; returns the names that belong to the module and those below it."""
        if module._state_hooks is not None:
            about = self.metadata.get(prefix[:-1], {})
            missing, unexpected = self.keys
            module._state_hooks.before_load(
                module, self.state, prefix, about, self.strict, missing, unexpected, self.errors
            )
        known = set()
        for name, target in own_state(module):
            known.add(prefix + name)
            if prefix + name in self.state:
                self._note(module, name, prefix + name, target)
            else:
                self.keys.missing_keys.append(prefix + name)
        if module._keeps_extra_state():
            known.add(prefix + EXTRA)
            if prefix + EXTRA in self.state:
                self.extra.append((module, self.state[prefix + EXTRA]))
            else:
                self.keys.missing_keys.append(prefix + EXTRA)
        for name, child in module._modules.items():
            if child is not None:
                known |= self._compare(child, f"{prefix}{name}.")
        self.visited.append(module)
        return known

    def _note(self, module: Module, name: str, full: str, target: Tensor) -> None:
        value = self.state[full]
        if not isinstance(value, Tensor):
            try:
                value = tl.as_tensor(value, device="cpu")
            except (TypeError, ValueError):
                self.errors.append(f"`{full}` must be a tensor or an array, got {type(value).__name__}")
                return
        if is_lazy(value):
            if not is_lazy(target):
                self.misshapen.append(f"{full}: got an uninitialized one, expected {target.shape}")
        elif is_lazy(target) or value.shape == target.shape:
            self.values.append((module, name, value))
        else:
            self.misshapen.append(f"{full}: got {value.shape}, expected {target.shape}")

    def _put(self, module: Module, name: str, value: Tensor) -> None:
        target: Any = getattr(module, name)
        if not self.assign:
            if is_lazy(target):
                target.materialize(value.shape)
            target.copy_(value)
        elif isinstance(target, Parameter):
            made = value if isinstance(value, Parameter) else Parameter(value, target.requires_grad)
            setattr(module, name, made.requires_grad_(target.requires_grad))
        else:
            setattr(module, name, value)

    def _check(self, outcome: str, names: bool) -> None:
        report = [("misshapen", self.misshapen), ("wrong", self.errors)]
        if names and self.strict:
            report = [("missing", self.keys.missing_keys), ("unexpected", self.keys.unexpected_keys), *report]
        if any(lines for _, lines in report):
            said = "".join(f"\n  {what}:\n    " + "\n    ".join(lines) for what, lines in report if lines)
            raise StateDictError(
                f"load_state_dict: the state does not fit {type(self.module).__name__}; {outcome}.{said}"
            )
