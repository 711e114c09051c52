"""The few matrix functions that orthogonal parametrizations need, differentiable to any order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import tensorlib as tl
from tensorlib import Tensor


class _Solve(tl.autograd.Function):
    """``inverse(a) @ b`` for square `a`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        x = np.linalg.solve(a.detach().cpu().numpy(), b.detach().cpu().numpy())
        out = tl.tensor(x, dtype=b.dtype, device=b.device)
        ctx.save_for_backward(a, b)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        toward_b = solve(a.mT, g)
        return -toward_b @ solve(a, b).mT, toward_b


def solve(a: Tensor, b: Tensor) -> Tensor:
    """The x of ``a @ x = b``; a: (..., N, N), b: (..., N, K)."""
    return _Solve.apply(a, b)


def identity_like(a: Tensor) -> Tensor:
    """The identity matrix of the size of `a`: (..., N, N)."""
    return tl.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand(a.shape)


# Coefficients of the diagonal Pade approximant of order 13 to exp, from x^0 on; it is exact in float64 up to a 1-norm of 5.37: Higham 2005,
# "The scaling and squaring method for the matrix exponential revisited".
_PADE = [math.factorial(26 - i) // (math.factorial(13 - i) * math.factorial(i)) for i in range(14)]
_NORM = 5.37


def matrix_exp(a: Tensor) -> Tensor:
    """The matrix exponential of (..., N, N)."""
    norm = float(a.detach().abs().sum(-2).max().item()) if a.numel() else 0.0
    squarings = max(0, math.ceil(math.log2(norm / _NORM))) if norm > 0 and math.isfinite(norm) else 0
    x = a / 2**squarings
    square, power = x @ x, identity_like(x)
    even, odd = tl.zeros_like(x), tl.zeros_like(x)
    for i in range(0, 14, 2):
        even, odd = even + _PADE[i] / _PADE[0] * power, odd + _PADE[i + 1] / _PADE[0] * power
        power = power @ square
    odd = x @ odd
    made = solve(even - odd, even + odd)
    for _ in range(squarings):
        made = made @ made
    return made


def householder_product(v: Tensor) -> Tensor:
    """The first K columns of the product of reflections along the columns of `v`: (..., N, K), N >= K, each with a 1 on the diagonal.

    All at once, as I - V inverse(T) V^T with T the upper triangle of V^T V, its diagonal halved: Schreiber and Van Loan 1989.
    """
    n, k = v.shape[-2:]
    inner = v.mT @ v
    triangle = inner.triu(1) + (inner * tl.eye(k, dtype=v.dtype, device=v.device)) / 2
    eye = tl.eye(n, k, dtype=v.dtype, device=v.device)
    return eye - v @ solve(triangle, v[..., :k, :].mT)


def householder_vectors(q: Tensor) -> tuple[Tensor, Tensor]:
    """(packed, signs) of a QR decomposition of `q`, (..., N, K): the reflections' vectors below the diagonal, and the factors of the columns of their
    product with which R has a positive diagonal."""
    matrices = q.detach().cpu().numpy().reshape(-1, *q.shape[-2:])
    raw = [np.linalg.qr(m, mode="raw") for m in matrices]
    packed = np.stack([h.T for h, _ in raw]).reshape(q.shape)
    tau = np.stack([t for _, t in raw]).reshape(*q.shape[:-2], -1)
    # Where nothing is left to reflect, LAPACK does not (tau is 0), but the product above does.
    signs = np.sign(np.diagonal(packed, axis1=-2, axis2=-1)) * np.where(tau == 0, -1, 1)
    return tl.tensor(packed, dtype=q.dtype, device=q.device), tl.tensor(signs, dtype=q.dtype, device=q.device)
