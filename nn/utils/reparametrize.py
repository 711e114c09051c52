"""`weight_norm` and `spectral_norm` in PyTorch's older form, whose names in a state differ from those of `parametrizations`: a hook computes
the weight before each forward pass."""

from __future__ import annotations

from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import functional as F
from tensorlib.nn.hooks import RemovableHandle
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.nn.utils.parametrizations import TRANSPOSED, as_matrix, norm_except

__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]


class _Recomputed:
    """A forward pre-hook that sets the attribute `name` from parameters of the module."""

    function: str
    handle: RemovableHandle

    def __init__(self, name: str) -> None:
        self.name = name

    def attach(self, module: Module) -> Parameter:
        """Take the parameter `name` out of the module, and compute the attribute from now on."""
        if self.find(module, self.name) is not None:
            raise RuntimeError(f"{self.function}: `{self.name}` of {type(module).__name__} has it already.")
        weight = module._parameters.get(self.name)
        if weight is None:
            raise ValueError(f"{self.function}: {type(module).__name__} has no parameter `{self.name}`.")
        delattr(module, self.name)
        self.handle = module.register_forward_pre_hook(self)
        return weight

    def compute(self, module: Module) -> Tensor:
        """The weight."""
        raise NotImplementedError

    def __call__(self, module: Module, args: Any) -> None:
        setattr(module, self.name, self.compute(module))

    @classmethod
    def remove(cls, module: Module, name: str, parts: tuple[str, ...]) -> Module:
        """Make the weight a parameter again, with its value now."""
        hook = cls.find(module, name)
        if hook is None:
            raise ValueError(f"remove_{cls.function}: `{name}` of {type(module).__name__} does not have it.")
        with tl.no_grad():
            weight = hook.compute(module).clone()
        hook.handle.remove()
        for attribute in (name, *(f"{name}_{part}" for part in parts)):
            delattr(module, attribute)
        module.register_parameter(name, Parameter(weight))
        return module

    @classmethod
    def find(cls, module: Module, name: str) -> _Recomputed | None:
        """The hook of this kind that computes `name`."""
        hooks: list[Any] = [h.function for h in module._hooks.before.values()] if module._hooks is not None else []
        return next((hook for hook in hooks if type(hook) is cls and hook.name == name), None)


class _WeightNorm(_Recomputed):
    function = "weight_norm"

    def __init__(self, name: str, dim: int | None) -> None:
        super().__init__(name)
        self.dim = dim

    def compute(self, module: Module) -> Tensor:
        g, v = getattr(module, self.name + "_g"), getattr(module, self.name + "_v")
        return v * (g / norm_except(v, self.dim))


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Parametrize a weight by the parameters `name`_g, its length for each slice along `dim` (None: of all), and `name`_v, its direction.

    `tl.nn.utils.parametrizations.weight_norm` is the newer form; modules that have it can be copied.

    Reference: Salimans and Kingma 2016.

    >>> list(tl.nn.utils.weight_norm(tl.nn.Linear(3, 2)).state_dict())
    ['bias', 'weight_g', 'weight_v']
    """
    hook = _WeightNorm(name, dim)
    weight = hook.attach(module)
    module.register_parameter(name + "_g", Parameter(norm_except(weight.detach(), dim)))
    module.register_parameter(name + "_v", Parameter(weight.detach()))
    hook(module, ())
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Undo `weight_norm`; the weight keeps its value."""
    return _WeightNorm.remove(module, name, ("g", "v"))


class _SpectralNorm(_Recomputed):
    function = "spectral_norm"

    def __init__(self, name: str, n_power_iterations: int, eps: float, dim: int) -> None:
        super().__init__(name)
        if n_power_iterations <= 0:
            raise ValueError(f"spectral_norm: n_power_iterations must be positive, got {n_power_iterations}.")
        self.n_power_iterations, self.eps, self.dim = n_power_iterations, eps, dim

    def compute(self, module: Module, iterate: bool = False) -> Tensor:
        weight, u, v = (getattr(module, f"{self.name}_{part}") for part in ("orig", "u", "v"))
        matrix = as_matrix(weight, self.dim)
        if iterate:
            with tl.no_grad():
                for _ in range(self.n_power_iterations):
                    v.copy_(F.normalize(matrix.mT @ u, dim=0, eps=self.eps))
                    u.copy_(F.normalize(matrix @ v, dim=0, eps=self.eps))
        return weight / (u.clone() * (matrix @ v.clone())).sum()

    def __call__(self, module: Module, args: Any) -> None:
        setattr(module, self.name, self.compute(module, module.training))


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divide a weight, kept as `name`_orig, by its largest singular value; the buffers `name`_u and `name`_v come closer to its vectors with each
    call in training.

    `tl.nn.utils.parametrizations.spectral_norm` is the newer form; modules that have it can be copied.

    Reference: Miyato et al. 2018.

    >>> list(tl.nn.utils.spectral_norm(tl.nn.Linear(3, 2)).state_dict())
    ['bias', 'weight_orig', 'weight_u', 'weight_v']
    """
    hook = _SpectralNorm(
        name, n_power_iterations, eps, (1 if isinstance(module, TRANSPOSED) else 0) if dim is None else dim
    )
    weight = hook.attach(module)
    matrix = as_matrix(weight.detach(), hook.dim)
    module.register_parameter(name + "_orig", weight)
    setattr(module, name, weight.detach())
    for part, n in (("_u", matrix.shape[0]), ("_v", matrix.shape[1])):
        start = tl.randn(n, dtype=weight.dtype, device=weight.device)
        module.register_buffer(name + part, F.normalize(start, dim=0, eps=eps))
    return module


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Undo `spectral_norm`; the weight keeps its value."""
    return _SpectralNorm.remove(module, name, ("orig", "u", "v"))
