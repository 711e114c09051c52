"""Ready parametrizations: weight normalisation, spectral normalisation, orthogonal matrices. `remove_parametrizations` takes them away."""

from __future__ import annotations

from typing import Any

import numpy as np

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import conv, functional as F
from tensorlib.nn.module import Module
from tensorlib.nn.utils import parametrize
from tensorlib.nn.utils.matrices import (
    householder_product,
    householder_vectors,
    identity_like,
    matrix_exp,
    solve,
)

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

TRANSPOSED = (conv.ConvTranspose1d, conv.ConvTranspose2d, conv.ConvTranspose3d)


def _tensor_of(what: str, module: Module, name: str) -> Tensor:
    found = getattr(module, name, None)
    if not isinstance(found, Tensor):
        raise ValueError(f"{what}: {type(module).__name__} has no parameter or buffer `{name}`.")
    return found


# ---- weight normalisation ----
def norm_except(v: Tensor, dim: int | None) -> Tensor:
    """The norm of each slice along `dim`, in a shape that broadcasts with `v`; of all of `v`, as 0-d, where `dim` is None or -1."""
    if dim is None or dim == -1:
        return v.norm()
    others = tuple(d for d in range(v.ndim) if d != dim % v.ndim)
    return tl.norm(v, 2.0, dim=others, keepdim=True) if others else v.abs()


class _WeightNorm(Module):
    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / norm_except(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Length and direction; the direction is the tensor itself."""
        return norm_except(weight, self.dim), weight

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Parametrize a weight by length and direction: ``g * v / |v|``, one g for each slice along `dim` (None: one for all).

    States with the names `weight_g` and `weight_v` of `tl.nn.utils.weight_norm` can be loaded.

    Reference: Salimans and Kingma 2016.

    >>> layer = tl.nn.utils.parametrizations.weight_norm(tl.nn.Linear(3, 2))
    >>> list(layer.state_dict()), layer.parametrizations.weight.original0.shape
    (['bias', 'parametrizations.weight.original0', 'parametrizations.weight.original1'], (2, 1))
    """
    _tensor_of("weight_norm", module, name)
    parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def rename(module: Module, state: Any, prefix: str, *rest: Any) -> None:
        old = [f"{prefix}{name}_g", f"{prefix}{name}_v"]
        if all(key in state for key in old):
            for i, key in enumerate(old):
                state[f"{prefix}parametrizations.{name}.original{i}"] = state.pop(key)

    module.register_load_state_dict_pre_hook(rename)
    return module


# ---- spectral normalisation ----
def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """`dim` first, all others joined behind it."""
    return weight.movedim(dim, 0).flatten(1) if weight.ndim > 1 else weight


class _SpectralNorm(Module):
    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise tl.IndexRangeError(
                f"spectral_norm: dim {dim} is out of range for a tensor of {weight.ndim} dimensions."
            )
        if n_power_iterations <= 0:
            raise ValueError(f"spectral_norm: n_power_iterations must be positive, got {n_power_iterations}.")
        self.dim, self.eps, self.n_power_iterations = dim % weight.ndim, eps, n_power_iterations
        if weight.ndim > 1:
            matrix = as_matrix(weight.detach(), self.dim)
            for name, n in (("_u", matrix.shape[0]), ("_v", matrix.shape[1])):
                start = tl.randn(n, dtype=weight.dtype, device=weight.device)
                self.register_buffer(name, F.normalize(start, dim=0, eps=eps))
            self._iterate(matrix, 15)

    def _iterate(self, matrix: Tensor, times: int) -> None:
        """Bring `_u` and `_v` closer to the first singular vectors."""
        with tl.no_grad():
            for _ in range(times):
                self._u.copy_(F.normalize(matrix @ self._v, dim=0, eps=self.eps))
                self._v.copy_(F.normalize(matrix.mT @ self._u, dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            self._iterate(matrix.detach(), self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()  # later iterations change them, and backward needs these
        return weight / (u * (matrix @ v)).sum()

    def right_inverse(self, value: Tensor) -> Tensor:
        """The tensor itself, which is not checked to be normalised."""
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divide a weight by its largest singular value, of which each call in training makes `n_power_iterations` better estimates.

    `dim` is the outputs' dimension: 1 for transposed convolutions, else 0, unless given.

    Reference: Miyato et al. 2018.

    >>> layer = tl.nn.utils.parametrizations.spectral_norm(tl.nn.Linear(20, 40))
    >>> list(layer.parametrizations.weight.state_dict()), round(tl.norm(layer.eval().weight @ tl.eye(20)).item()) > 0
    (['original', '0._u', '0._v'], True)
    """
    weight = _tensor_of("spectral_norm", module, name)
    dim = (1 if isinstance(module, TRANSPOSED) else 0) if dim is None else dim
    return parametrize.register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))


# ---- orthogonal ----
MAPS = ("matrix_exp", "cayley", "householder")


class _Orthogonal(Module):
    """Maps any matrix to one with orthonormal rows or columns: N x K, N >= K, after a wide matrix was transposed."""

    base: Tensor | None

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool) -> None:
        super().__init__()
        self.shape, self.orthogonal_map = weight.shape, orthogonal_map
        if use_trivialization:
            self.register_buffer("base", None)
        self.trivialized = use_trivialization

    def forward(self, weight: Tensor) -> Tensor:
        wide = weight.shape[-2] < weight.shape[-1]
        x = weight.mT if wide else weight
        n, k = x.shape[-2:]
        if self.orthogonal_map == "householder":
            v = x.tril(-1) + tl.eye(n, k, dtype=x.dtype, device=x.device)
            signs = x.detach().diagonal(dim1=-2, dim2=-1).trunc()  # 1 or -1, not trained
            q = householder_product(v) * signs.unsqueeze(-2)
        else:
            skew = self._skew(x.tril())
            if self.orthogonal_map == "matrix_exp":
                q = matrix_exp(skew)
            else:
                q = solve(identity_like(skew) - skew / 2, identity_like(skew) + skew / 2)
            q = q[..., :k]
        if self.trivialized and self.base is not None:
            q = self.base @ q
        return q.mT if wide else q

    @staticmethod
    def _skew(x: Tensor) -> Tensor:
        """x - x^T, after columns of zeros made `x` square."""
        n, k = x.shape[-2:]
        if n != k:
            x = tl.cat([x, tl.zeros((*x.shape[:-2], n, n - k), dtype=x.dtype, device=x.device)], dim=-1)
        return x - x.mT

    def right_inverse(self, q: Tensor) -> Tensor:
        """The matrix that the map takes to `q`, or to the orthogonal matrix of its QR decomposition where `q` is none."""
        if q.shape != self.shape:
            raise tl.ShapeError(f"orthogonal: got a matrix of shape {q.shape}, expected {self.shape}.")
        wide = q.shape[-2] < q.shape[-1]
        tall = q.mT if wide else q
        if self.trivialized:
            self.base = self._completed(tall)
            # On the diagonal stand the signs of the Householder map; the others take this to the identity just as well.
            return -tl.eye(q.shape[-2], q.shape[-1], dtype=q.dtype, device=q.device).expand(q.shape).clone()
        if self.orthogonal_map != "householder":
            raise NotImplementedError(
                f"orthogonal: {self.orthogonal_map} has no inverse, so nothing can be assigned without use_trivialization."
            )
        packed, signs = householder_vectors(tall)
        eye = tl.eye(*tall.shape[-2:], dtype=q.dtype, device=q.device)
        made = packed * (1 - eye) + signs.unsqueeze(-2) * eye
        return made.mT if wide else made

    def _completed(self, q: Tensor) -> Tensor:
        """(..., N, N): `q` itself where it is orthogonal, else the orthogonal matrix that begins as its QR decomposition does."""
        n, k = q.shape[-2:]
        if n == k and self._is_orthogonal(q):
            return q.clone()
        rest = tl.randn(*q.shape[:-2], n, n - k, dtype=q.dtype, device=q.device)
        packed, signs = householder_vectors(tl.cat([q, rest], dim=-1))
        return householder_product(packed.tril(-1) + identity_like(packed)) * signs.unsqueeze(-2)

    @staticmethod
    def _is_orthogonal(q: Tensor) -> bool:
        eps = 10 * q.shape[-1] * float(np.finfo(q.numpy().dtype).eps)
        return bool((q.mT @ q - identity_like(q)).abs().max().item() <= eps)


def orthogonal(
    module: Module, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> Module:
    """Make a matrix orthogonal: its columns orthonormal, or its rows where it has more columns than rows.

    Args:
        orthogonal_map: how it comes from the original one: "matrix_exp" or "cayley" of a skew-symmetric matrix, or "householder", a product of
            reflections. By default "matrix_exp" for square matrices and "householder" for others.
        use_trivialization: learn the difference from a fixed orthogonal matrix `base`, at first the one nearest by QR decomposition.

    Reference: Lezcano-Casado 2019.

    >>> layer = tl.nn.utils.parametrizations.orthogonal(tl.nn.Linear(3, 5))
    >>> tl.allclose(layer.weight.mT @ layer.weight, tl.eye(3), atol=1e-5)
    True
    """
    weight = _tensor_of("orthogonal", module, name)
    if weight.ndim < 2:
        raise ValueError(f"orthogonal: expected a matrix or a batch of matrices, `{name}` has shape {weight.shape}.")
    if orthogonal_map is None:
        orthogonal_map = "matrix_exp" if weight.shape[-2] == weight.shape[-1] else "householder"
    if orthogonal_map not in MAPS:
        raise ValueError(f"orthogonal: orthogonal_map must be one of {', '.join(MAPS)}, got {orthogonal_map!r}.")
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return parametrize.register_parametrization(module, name, made, unsafe=True)
