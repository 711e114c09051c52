"""Module: what layers and models are made of.

Parameters, buffers and submodules live twice: in the registries `_parameters`, `_buffers` and `_modules`, which give them their order
and their names, and in the instance's own dict, so that `self.weight` in a forward pass is an ordinary attribute and costs nothing
extra. `__setattr__` and `__delattr__` keep both in step; nothing else writes the registries.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import state, tree
from tensorlib.nn.hooks import REGISTRATION, Hooks, RemovableHandle, StateHooks
from tensorlib.nn.parameter import Buffer, Parameter, is_lazy

if TYPE_CHECKING:
    from typing_extensions import Self

REGISTRIES = ("_parameters", "_buffers", "_modules")


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
    _hooks: Hooks | None = (
        None  # an instance's own once a hook is registered; EVERYWHERE while there are hooks for all modules
    )
    _state_hooks: StateHooks | None = None
    _version: int = 1  # of the layout of the class's state: `load_state_dict` hooks get that of the saved one
    _collapses = False  # whether the repr shows neighbours that look alike as one
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
        elif isinstance(value, Buffer) and name not in self._parameters and name not in self._modules:
            self.register_buffer(name, value, value.persistent)
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
        if value is not None:
            for hook in list(REGISTRATION[registry].values()):
                replaced = hook.function(self, name, value)
                value = value if replaced is None else replaced
        self._place(registry, name, value)

    def _place(self, registry: str, name: str, value: Any) -> None:
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what was pickled or copied; a subclass that changed since may complete `state` first."""
        self.__dict__.update(state)

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

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules(remove_duplicate=remove_duplicate))

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

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path."""
        path, _, name = target.rpartition(".")
        buffer = self.get_submodule(path)._buffers.get(name)
        if buffer is None:
            raise AttributeError(f"get_buffer: no buffer `{target}` in {type(self).__name__}.")
        return buffer

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put a module at a dotted path, whose parent must be there; with `strict`, it must replace another one.

        >>> net = tl.nn.Sequential(tl.nn.Sequential(tl.nn.Tanh()))
        >>> net.set_submodule("0.0", tl.nn.ReLU())
        >>> net.get_submodule("0.0")
        ReLU()
        """
        if not target:
            raise ValueError("set_submodule: a module can not replace itself; expected a path, got an empty string.")
        if not isinstance(module, Module):
            raise ValueError(f"set_submodule: `{target}` must become a Module, got {type(module).__name__}.")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if name not in parent._modules and (strict or hasattr(parent, name)):
            raise AttributeError(f"set_submodule: no module `{target}` in {type(self).__name__}.")
        setattr(parent, name, module)

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

    def _convert(self, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Replace the data of every parameter, gradient and buffer; the Parameter objects stay, so optimizers keep working."""
        parameters = list(self.parameters(recurse))
        converted = [(p, convert(p.detach()), None if p.grad is None else convert(p.grad.detach())) for p in parameters]
        buffers = [
            (module, name, b, convert(b.detach()))
            for module in (self.modules() if recurse else [self])
            for name, b in module._buffers.items()
            if b is not None
        ]
        for p, data, grad in converted:  # only now is anything changed
            p.grad = None
            p.data = data
            p.grad = grad
        for module, name, b, data in buffers:
            if is_lazy(b):
                b.data = data
            else:
                module._place("_buffers", name, data)
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

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Replace parameters and buffers by ones on `device` whose elements are not set."""
        return self._convert(lambda t: tl.empty_like(t, device=device), recurse)

    def type(self, dst_type: Any) -> Self:
        """Convert all parameters and buffers, whatever their dtype, to this one."""
        return self._convert(lambda t: t.to(dtype=dst_type))

    def share_memory(self) -> Self:
        """Move parameters and buffers to memory that processes forked from now on share with this one (and no others: pickling still copies)."""
        return self._convert(_shared)

    # ---- state ----

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name. The tensors share the module's memory: clone them to keep a snapshot."""
        if destination is None:
            destination = OrderedDict()
            destination._metadata = {}  # type: ignore[attr-defined]  # PyTorch's place for the versions of the modules
        state.save(self, destination, prefix, keep_vars)
        return destination

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> state.IncompatibleKeys:
        """Copy values into parameters and buffers by name (`assign`: take the given tensors themselves instead of copying).

        Raises:
            StateDictError: with all missing, unexpected (`strict` only) and misshapen names in one message; nothing is changed then.
        """
        return state.Loading(self, state_dict, strict, assign).run()

    def get_extra_state(self) -> Any:
        """What else belongs to the module's state: a class that defines it finds it in `state_dict`, and gets it back by `set_extra_state`."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_extra_state().")

    def set_extra_state(self, state: Any) -> None:
        """Take back what `get_extra_state` gave."""
        raise NotImplementedError(
            f"{type(self).__name__} does not define set_extra_state(), so its state can not be loaded."
        )

    def _keeps_extra_state(self) -> bool:
        return type(self).get_extra_state is not Module.get_extra_state

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, prefix, keep_vars)`` before `state_dict` reads the module."""
        return self._own_state_hooks().before_save.add(hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, metadata)`` after `state_dict` has read the module; it may change the dict."""
        return self._own_state_hooks().after_save.add(hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, metadata, strict, missing, unexpected, errors)`` before `load_state_dict` looks at the names of
        this module: it may rename and convert in the dict (a copy of the given one), and add to the lists."""
        return self._own_state_hooks().before_load.add(hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, incompatible_keys)`` after loading. What it takes out of the two lists is forgiven; therefore missing and unexpected
        names raise only afterwards where there is such a hook, with all else loaded."""
        return self._own_state_hooks().after_load.add(hook)

    def _own_state_hooks(self) -> StateHooks:
        if self._state_hooks is None:
            self._state_hooks = StateHooks()
        return self._state_hooks

    # ---- hooks ----

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward (``hook(module, args, kwargs)`` with `with_kwargs`); what it returns replaces the arguments."""
        return self._own_hooks().before.add(hook, prepend, with_kwargs=with_kwargs)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward (kwargs come third with `with_kwargs`); what it returns replaces the output.

        With `always_call` it is called after an error in forward too, with the output None.
        """
        return self._own_hooks().after.add(hook, prepend, with_kwargs=with_kwargs, always=always_call)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` in backward when the gradients of the output are known; what it returns replaces them.

        `grad_output` is a tuple with a gradient or None for each output.
        """
        return self._own_hooks().grad_output.add(hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` in backward when the gradients of the positional arguments are known; what it returns
        replaces `grad_input`, a tuple with a gradient or None for each argument.

        >>> layer = tl.nn.Linear(2, 1)
        >>> handle = layer.register_full_backward_hook(lambda module, gi, go: (gi[0] * 0 + 1,))
        >>> x = tl.ones(2, requires_grad=True)
        >>> layer(x).backward()
        >>> x.grad.tolist(), layer.weight.grad.tolist()
        ([1.0, 1.0], [[1.0, 1.0]])
        """
        return self._own_hooks().grad_input.add(hook, prepend)

    register_backward_hook = register_full_backward_hook

    def _own_hooks(self) -> Hooks:
        own: Hooks | None = self.__dict__.get("_hooks")
        if own is None:
            own = self._hooks = Hooks()
        return own

    # ---- words ----

    def extra_repr(self) -> str:
        """The text between the parentheses of the repr: override it in layers."""
        return ""

    def __repr__(self) -> str:
        return tree.text(self)

    def _repr_html_(self) -> str:
        return tree.html(self)


def _shared(t: Tensor) -> Tensor:
    """A copy in anonymous memory that forked processes share."""
    if t.dtype is tl.bfloat16:
        raise tl.DTypeError("share_memory: NumPy has no bfloat16, so it can not be shared; use float32.")
    array = t.detach().cpu().numpy()
    shared = np.frombuffer(mmap.mmap(-1, max(array.nbytes, 1)), array.dtype, array.size).reshape(array.shape)
    shared[...] = array
    return tl.from_numpy(shared)


def modules_of(items: Iterable[Any], what: str) -> list[Module]:
    """The items as a list, each checked to be a Module: containers take nothing else."""
    checked = list(items)
    for i, item in enumerate(checked):
        if not isinstance(item, Module):
            raise TypeError(f"{what}: item {i} must be a Module, got {type(item).__name__}.")
    return checked
