"""Parametrizations: a parameter that is computed from others whenever it is read.

    layer.weight  ->  parametrizations.weight(): map_n(... map_1(original))

`register_parametrization` moves the parameter to ``layer.parametrizations.weight.original`` and gives the layer a class of its own, derived from
its class, that computes ``layer.weight`` from there; an assignment runs the maps' `right_inverse`. All of it is PyTorch's, names in states too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.containers import ModuleDict, ModuleList
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter

__all__ = [
    "ParametrizationList", "cached", "is_parametrized", "register_parametrization", "remove_parametrizations",
    "transfer_parametrizations_and_params", "type_before_parametrizations",
]  # fmt: skip

HELD = "parametrizations"  # the submodule with the maps
_caching = 0  # how many `cached` blocks are open
_cache: dict[tuple[int, str], Tensor] = {}


@contextmanager
def cached() -> Iterator[None]:
    """Within this block, a parametrized tensor is computed once and kept until its end.

    >>> layer = tl.nn.utils.parametrizations.weight_norm(tl.nn.Linear(2, 2))
    >>> with tl.nn.utils.parametrize.cached():
    ...     layer.weight is layer.weight
    True
    """
    global _caching
    _caching += 1
    try:
        yield
    finally:
        _caching -= 1
        if not _caching:
            _cache.clear()


class ParametrizationList(ModuleList):
    """The maps of one tensor, in the order they apply, with what they start from: `original`, or `original0`, `original1` ... where the first
    map's `right_inverse` gives several tensors."""

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        if not modules:
            raise ValueError("ParametrizationList: expected one or more modules, got none.")
        super().__init__(modules)
        self.unsafe = unsafe
        shape, dtype, before = original.shape, original.dtype, original.detach().clone()
        made = self._inverse(original.detach(), strict=False)
        self.is_tensor = isinstance(made, Tensor)
        if self.is_tensor:
            _same(type(self[0]).__name__ + ".right_inverse", made, made.shape if unsafe else None, dtype)
            original.data = made.detach().clone() if made is original else made.detach()
            _place(self, "original", original)  # the same object: an optimizer that has it keeps it
        else:
            for i, value in enumerate(_several(made)):
                kept = Parameter(value, original.requires_grad) if isinstance(original, Parameter) else value.detach()
                _place(self, f"original{i}", kept)
        self.ntensors = 1 if self.is_tensor else len(made)
        if not unsafe:
            try:
                _same("the parametrized tensor", self(), shape, dtype)
            except Exception:
                original.data = before
                raise

    original: Tensor

    @property
    def originals(self) -> tuple[Tensor, ...]:
        """What the first map is applied to."""
        if self.is_tensor:
            return (self.original,)
        return tuple(getattr(self, f"original{i}") for i in range(self.ntensors))

    def _inverse(self, value: Tensor, strict: bool) -> Any:
        """What the maps have to start from to give `value`; a map without an inverse counts as the identity unless `strict`."""
        made: Any = value
        with tl.no_grad():
            for module in reversed(list(self)):
                inverse: Callable[[Any], Any] | None = getattr(module, "right_inverse", None)
                if inverse is None and strict:
                    raise RuntimeError(
                        f"{type(module).__name__}: it has no right_inverse, so the tensor can not be assigned."
                    )
                if inverse is not None:
                    made = _unless(strict, inverse, made)
        return made

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals such that the maps give `value`."""
        made = self._inverse(value, strict=True)
        given = (made,) if self.is_tensor else tuple(_several(made))
        if len(given) != self.ntensors:
            raise ValueError(
                f"{type(self[0]).__name__}.right_inverse gave {len(given)} tensors, expected {self.ntensors}."
            )
        for old, new in zip(self.originals, given, strict=True):
            _same("right_inverse", new, old.shape, old.dtype)
        with tl.no_grad():
            for old, new in zip(self.originals, given, strict=True):
                old.copy_(new)

    def forward(self) -> Tensor:
        first, *others = self
        made = first(*self.originals)
        for module in others:
            made = module(made)
        return made


def _unless(strict: bool, inverse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return inverse(value)
    except NotImplementedError:
        if strict:
            raise
        return value


def _several(made: Any) -> list[Tensor]:
    if not isinstance(made, (tuple, list)) or not all(isinstance(t, Tensor) for t in made):
        raise ValueError(f"right_inverse must give a tensor or a sequence of tensors, got {type(made).__name__}.")
    return list(made)


def _same(what: str, made: Any, shape: Sequence[int] | None, dtype: tl.DType) -> None:
    if not isinstance(made, Tensor):
        raise ValueError(f"register_parametrization: {what} must be a tensor, got {type(made).__name__}.")
    if made.dtype is not dtype or (shape is not None and made.shape != shape):
        expected = dtype.name if shape is None else f"{dtype.name} of shape {tuple(shape)}"
        raise ValueError(
            f"register_parametrization: {what} is {made.dtype.name} of shape {made.shape}, expected {expected}; `unsafe` allows another one."
        )


def _place(module: Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


# ---- the class of a parametrized module ----
def _maps(module: Any) -> dict[str, ParametrizationList]:
    """The maps of each parametrized tensor of the module, by its name."""
    held = module.__dict__.get(HELD)
    return held._modules if isinstance(held, ModuleDict) else {}  # type: ignore[return-value]


class _Parametrized:
    """Put before a module's class: reads and writes of parametrized names go through the maps. Such a name is in no registry and not in the
    instance's dict, so that reading it comes to `__getattr__`."""

    def __getattr__(self, name: str) -> Any:
        maps = _maps(self).get(name)
        if maps is None:
            above = getattr(super(), "__getattr__", None)
            if above is not None:
                return above(name)
            raise AttributeError(f"{type(self).__name__} has no attribute `{name}`.")
        if not _caching:
            return maps()
        key = (id(self), name)
        if key not in _cache:
            _cache[key] = maps()
        return _cache[key]

    def __setattr__(self, name: str, value: Any) -> None:
        maps = _maps(self).get(name)
        if maps is None:
            super().__setattr__(name, value)
        else:
            maps.right_inverse(value)
            _cache.pop((id(self), name), None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        made: Any = object.__reduce_ex__(self, 4)
        return _made_again, (self.__class__.__mro__[2],), *made[2:]


def _parametrized_class(base: type[Module]) -> Any:
    """The derived class, one for all parametrized modules of class `base`."""
    made = base.__dict__.get("_parametrized_class")
    if made is None:
        made = type(f"Parametrized{base.__name__}", (_Parametrized, base), {"__module__": base.__module__})
        base._parametrized_class = made  # type: ignore[attr-defined]
    return made


def _made_again(base: type[Module]) -> Module:
    cls = _parametrized_class(base)
    return cls.__new__(cls)


def _held(module: Module) -> ModuleDict:
    held: ModuleDict = module.__dict__[HELD]
    return held


# ---- what users call ----
def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether the module, or its tensor of that name, is parametrized."""
    return bool(_maps(module)) if tensor_name is None else tensor_name in _maps(module)


def type_before_parametrizations(module: Module) -> type[Module]:
    """The module's class without parametrizations."""
    cls = type(module)
    return cls.__mro__[2] if issubclass(cls, _Parametrized) else cls


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """From now on compute the parameter or buffer `tensor_name` by `parametrization`, a module whose forward takes the original tensor.

    Args:
        parametrization: may have a `right_inverse` (a tensor to the original one, or to several that its forward takes), which serves to start from
            the value that is there, and assignments. A second one is applied to the first one's result.
        unsafe: allow that shape or dtype change; nothing is tried out then.

    >>> class Symmetric(tl.nn.Module):
    ...     def forward(self, x):
    ...         return x.triu() + x.triu(1).mT
    >>> layer = tl.nn.Linear(3, 3)
    >>> layer = tl.nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    >>> bool((layer.weight == layer.weight.mT).all()), list(layer.state_dict())
    (True, ['bias', 'parametrizations.weight.original'])
    """
    parametrization.train(module.training)
    maps = _maps(module).get(tensor_name)
    if maps is not None:
        if not unsafe:
            _try_after(maps(), parametrization)
        maps.append(parametrization)
        maps.unsafe |= unsafe
        return module
    original: Tensor | None = {**module._buffers, **module._parameters}.get(tensor_name)
    if original is None:
        raise ValueError(
            f"register_parametrization: {type(module).__name__} has no parameter, buffer or parametrized tensor `{tensor_name}`."
        )
    maps = ParametrizationList([parametrization], original, unsafe=unsafe)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        module.__class__ = _parametrized_class(type(module))
        module.register_module(HELD, ModuleDict())
    _held(module)[tensor_name] = maps
    return module


def _try_after(now: Tensor, parametrization: Module) -> None:
    """Check that one more map keeps shape and dtype, and its inverse, too."""
    name = type(parametrization).__name__
    made = parametrization(now)
    _same(f"what {name} makes", made, now.shape, now.dtype)
    inverse = getattr(parametrization, "right_inverse", None)
    if inverse is not None:
        _same(f"{name}.right_inverse", _unless(False, inverse, made), now.shape, now.dtype)


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make `tensor_name` an ordinary parameter or buffer again: with the value that the maps give, or (`leave_parametrized=False`) the original one.

    >>> layer = tl.nn.utils.parametrizations.weight_norm(tl.nn.Linear(2, 2))
    >>> layer = tl.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    >>> layer, sorted(layer.state_dict())
    (Linear(2 -> 2), ['bias', 'weight'])
    """
    maps = _maps(module).get(tensor_name)
    if maps is None:
        raise ValueError(f"remove_parametrizations: `{tensor_name}` of {type(module).__name__} is not parametrized.")
    if not maps.is_tensor and not leave_parametrized:
        raise ValueError(
            f"remove_parametrizations: `{tensor_name}` is made from {maps.ntensors} tensors, so there is no original one to leave."
        )
    kept = maps.originals[0]
    if leave_parametrized:
        value = maps()
        if maps.is_tensor:
            kept.grad = kept.grad if value.shape == kept.shape else None
            kept.data = value.detach()
        else:
            kept = Parameter(value.detach()) if value.requires_grad else value
    del _held(module)[tensor_name]
    if not _maps(module):
        delattr(module, HELD)
        module.__class__ = type_before_parametrizations(module)
    _place(module, tensor_name, kept)
    return module


def transfer_parametrizations_and_params(
    from_module: Module, to_module: Module, tensor_name: str | None = None
) -> Module:
    """Parametrize `to_module` (all tensors, or one of them) by the maps of `from_module`, which both use afterwards, with equal originals."""
    names = list(_maps(from_module))
    if tensor_name is not None and tensor_name not in names:
        raise ValueError(
            f"transfer_parametrizations_and_params: `{tensor_name}` of {type(from_module).__name__} is not parametrized."
        )
    for name in names if tensor_name is None else [tensor_name]:
        source = _maps(from_module)[name]
        if not hasattr(to_module, name):
            _place(to_module, name, Parameter(source().detach().clone()))
        for one in source:
            register_parametrization(to_module, name, one)
        with tl.no_grad():
            for old, new in zip(_maps(to_module)[name].originals, source.originals, strict=True):
                old.copy_(new)
    return to_module
