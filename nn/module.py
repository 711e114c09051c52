"""Module: what layers and models are made of.

Parameters, buffers and submodules live twice: in the registries `_parameters`, `_buffers` and `_modules`, which give them their order
and their names, and in the instance's own dict, so that `self.weight` in a forward pass is an ordinary attribute and costs nothing
extra. `__setattr__` and `__delattr__` keep both in step; nothing else writes the registries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.hooks import Hooks, RemovableHandle
from tensorlib.nn.parameter import Parameter

if TYPE_CHECKING:
    from typing_extensions import Self

REGISTRIES = ("_parameters", "_buffers", "_modules")


class StateDictError(tl.TensorlibError, RuntimeError):
    """A state_dict that does not fit the module; the message lists every name that is missing, unexpected or misshapen."""


class IncompatibleKeys(NamedTuple):
    """What a `load_state_dict(strict=False)` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers and models: define `forward`, assign parameters and submodules as attributes.

    >>> class Scale(tl.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = tl.nn.Parameter(tl.ones(1))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> Scale()(tl.tensor([2.0])).tolist(), list(Scale().state_dict())
    ([2.0], ['factor'])
    """

    training: bool = True
    _hooks: Hooks | None = None  # an instance's own once a hook is registered
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent: set[str]

    def __new__(
        cls, *args: Any, **kwargs: Any
    ) -> Any:  # here and not in __init__, so that a forgotten super().__init__() is harmless
        self = object.__new__(cls)
        self.__dict__.update(_parameters={}, _buffers={}, _modules={}, _non_persistent=set())
        return self

    def __init__(self) -> None:
        """Nothing to set up: subclasses may assign parameters before or after calling it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define forward().")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        return self._hooks.call(self, args, kwargs)

    # ---- attributes ----

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._enter("_parameters", name, value)
        elif isinstance(value, Module):
            self._enter("_modules", name, value)
        elif name in self._parameters or name in self._modules:
            registry, kind = ("_parameters", "parameter") if name in self._parameters else ("_modules", "module")
            if value is not None:
                raise TypeError(
                    f"{type(self).__name__}: `{name}` is a {kind}, got {type(value).__name__}; expected a {kind.capitalize()} or None."
                )
            self._enter(registry, name, None)
        elif name in self._buffers:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"{type(self).__name__}: `{name}` is a buffer, got {type(value).__name__}; expected a Tensor or None."
                )
            self._enter("_buffers", name, value)
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        for registry in REGISTRIES:
            self.__dict__[registry].pop(name, None)
        self._non_persistent.discard(name)

    def _enter(self, registry: str, name: str, value: Any) -> None:
        for other in REGISTRIES:
            if other != registry:
                self.__dict__[other].pop(name, None)
        self.__dict__[registry][name] = value
        self.__dict__[name] = value

    def _check_name(self, what: str, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"{what}: a name must be a non-empty string without dots, got {name!r}.")
        if hasattr(self, name) and not any(name in self.__dict__[registry] for registry in REGISTRIES):
            raise KeyError(f"{what}: {type(self).__name__} already has an attribute `{name}`.")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Enter a parameter by name; None keeps the place (PyTorch's ``bias=None``)."""
        self._check_name("register_parameter", name)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"register_parameter: `{name}` must be a Parameter or None, got {type(param).__name__}.")
        self._enter("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Enter a tensor that belongs to the module's state but is not trained; `persistent` ones are part of `state_dict`."""
        self._check_name("register_buffer", name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: `{name}` must be a Tensor or None, got {type(tensor).__name__}.")
        self._enter("_buffers", name, tensor)
        self._non_persistent.discard(name)
        if not persistent:
            self._non_persistent.add(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Enter a submodule by name."""
        self._check_name("register_module", name)
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"register_module: `{name}` must be a Module or None, got {type(module).__name__}.")
        self._enter("_modules", name, module)

    add_module = register_module

    def __dir__(self) -> list[str]:
        return sorted(name for name in object.__dir__(self) if name.isidentifier())

    # ---- walking the tree ----

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Direct submodules with their names, each once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """Direct submodules."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, parents first, with dotted names."""
        memo = set() if memo is None else memo
        if remove_duplicate and self in memo:
            return
        memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _named_members(
        self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen = set()
        for path, module in (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        ):
            for name, value in getattr(module, registry).items():
                if value is not None and not (remove_duplicate and id(value) in seen):
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with dotted names; one that is shared comes once, under its first name."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Parameters of this module and those below it, each once: what an optimizer takes."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers with dotted names."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Buffers of this module and those below it."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; "" is this one.

        >>> tl.nn.Sequential(tl.nn.Tanh()).get_submodule("0")
        Tanh()
        """
        module: Any = self
        for name in target.split(".") if target else ():
            if module is None or name not in module._modules:
                raise AttributeError(
                    f"get_submodule: no module `{target}` in {type(self).__name__}: `{name}` is not there."
                )
            module = module._modules[name]
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path."""
        path, _, name = target.rpartition(".")
        parameter = self.get_submodule(path)._parameters.get(name)
        if parameter is None:
            raise AttributeError(f"get_parameter: no parameter `{target}` in {type(self).__name__}.")
        return parameter

    # ---- changing all of it ----

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` on every submodule, children first, then on this module."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout active) for this module and all below it."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Leave training mode: the same as ``train(False)``."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all parameters' gradients, or fill them with zeros."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else tl.zeros_like(parameter.grad)

    def _convert(self, convert: Callable[[Tensor], Tensor]) -> Self:
        """Replace the data of every parameter, gradient and buffer; the Parameter objects stay, so optimizers keep working."""
        parameters = {id(p): p for p in self.parameters()}.values()
        converted = [(p, convert(p.detach()), None if p.grad is None else convert(p.grad.detach())) for p in parameters]
        buffers = [
            (module, name, convert(b))
            for module in self.modules()
            for name, b in module._buffers.items()
            if b is not None
        ]
        for p, data, grad in converted:  # only now is anything changed
            p.grad = None
            p.data = data
            p.grad = grad
        for module, name, data in buffers:
            module._enter("_buffers", name, data)
        return self

    def to(self, device: Any = None, dtype: Any = None, non_blocking: bool = False) -> Self:
        """Move to a device and/or convert floating parameters and buffers to `dtype`, in place; also ``to(dtype)`` and ``to(tensor)``."""
        if isinstance(device, Tensor):
            device, dtype = device.device, device.dtype
        elif isinstance(device, tl.DType):
            device, dtype = None, device
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            raise tl.DTypeError(f"Module.to: parameters need a floating or complex dtype, got {dtype}.")

        def convert(t: Tensor) -> Tensor:
            floating = t.dtype.is_floating_point or t.dtype.is_complex
            return t.to(
                device=t.device if device is None else device,
                dtype=dtype if dtype is not None and floating else t.dtype,
            )

        return self._convert(convert)

    def half(self) -> Self:
        """Convert floating parameters and buffers to float16."""
        return self.to(dtype=tl.float16)

    def bfloat16(self) -> Self:
        """Convert floating parameters and buffers to bfloat16."""
        return self.to(dtype=tl.bfloat16)

    def float(self) -> Self:
        """Convert floating parameters and buffers to float32."""
        return self.to(dtype=tl.float32)

    def double(self) -> Self:
        """Convert floating parameters and buffers to float64."""
        return self.to(dtype=tl.float64)

    def cpu(self) -> Self:
        """Move parameters and buffers to the CPU."""
        return self.to(device="cpu")

    def cuda(self, device: Any = None) -> Self:
        """Move parameters and buffers to a GPU."""
        return self.to(device="cuda" if device is None else device if isinstance(device, str) else f"cuda:{device}")

    # ---- state ----

    def _persistent_state(self, prefix: str = "") -> Iterator[tuple[str, Tensor, Module, str]]:
        """(full name, tensor, its module, its own name) of everything in the state_dict; shared tensors come under every name."""
        for path, module in self.named_modules(prefix=prefix.removesuffix("."), remove_duplicate=False):
            for registry in (module._parameters, module._buffers):
                for name, value in registry.items():
                    if value is not None and name not in module._non_persistent:
                        yield f"{path}.{name}" if path else name, value, module, name

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name. The tensors share the module's memory: clone them to keep a snapshot."""
        destination = {} if destination is None else destination
        for name, value, _, _ in self._persistent_state(prefix):
            destination[name] = value if keep_vars else value.detach()
        return destination

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values into parameters and buffers by name (`assign`: take the given tensors themselves instead of copying).

        Raises:
            StateDictError: with all missing, unexpected (`strict` only) and misshapen names in one message; nothing is changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"load_state_dict: expected a mapping of names to tensors, got {type(state_dict).__name__}."
            )
        own = {name: (value, module, short) for name, value, module, short in self._persistent_state()}
        given = {
            name: v if isinstance(v, Tensor) else _as_tensor(name, v) for name, v in state_dict.items() if name in own
        }
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        misshapen = [
            f"{name}: got {tuple(v.shape)}, expected {tuple(own[name][0].shape)}"
            for name, v in given.items()
            if v.shape != own[name][0].shape
        ]
        report = [("misshapen", misshapen)]
        if strict:
            report = [("missing", missing), ("unexpected", unexpected), *report]
        if any(names for _, names in report):
            lines = "".join(f"\n  {what}:\n    " + "\n    ".join(names) for what, names in report if names)
            raise StateDictError(
                f"load_state_dict: the state does not fit {type(self).__name__}; nothing was changed.{lines}"
            )
        with tl.no_grad():
            for name, value in given.items():
                target, module, short = own[name]
                if not assign:
                    target.copy_(value)
                elif isinstance(target, Parameter):
                    setattr(module, short, Parameter(value, target.requires_grad))
                else:
                    setattr(module, short, value)
        return IncompatibleKeys(missing, unexpected)

    # ---- hooks ----

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward (``hook(module, args, kwargs)`` with `with_kwargs`); what it returns replaces the arguments."""
        return self._own_hooks().before.add(hook, prepend, with_kwargs)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward (kwargs come third with `with_kwargs`); what it returns replaces the output."""
        return self._own_hooks().after.add(hook, prepend, with_kwargs)

    def _own_hooks(self) -> Hooks:
        if self._hooks is None:
            self._hooks = Hooks()
        return self._hooks

    # ---- words ----

    def extra_repr(self) -> str:
        """The text between the parentheses of the repr: override it in layers."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        below = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        if not below:
            return f"{type(self).__name__}({extra})"
        return "\n  ".join([f"{type(self).__name__}(", *([extra] if extra else []), *below]) + "\n)"


def _as_tensor(name: str, value: Any) -> Tensor:
    try:
        return tl.as_tensor(value)
    except (TypeError, ValueError) as e:
        raise StateDictError(
            f"load_state_dict: `{name}` must be a tensor or an array, got {type(value).__name__}; nothing was changed."
        ) from e


def modules_of(items: Iterable[Any], what: str) -> list[Module]:
    """The items as a list, each checked to be a Module: containers take nothing else."""
    checked = list(items)
    for i, item in enumerate(checked):
        if not isinstance(item, Module):
            raise TypeError(f"{what}: item {i} must be a Module, got {type(item).__name__}.")
    return checked
