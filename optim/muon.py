"""Muon."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, nonnegative, require, zeros

_RATES: dict[str | None, Callable[[int, int], float]] = {  # of an (A, B) matrix, beside lr
    None: lambda a, b: math.sqrt(max(1, a / b)),
    "original": lambda a, b: math.sqrt(max(1, a / b)),
    "match_rms_adamw": lambda a, b: 0.2 * math.sqrt(max(a, b)),
}


class Muon(Optimizer):
    """Momentum whose step is the nearest orthogonal matrix: all its singular values are brought near 1. For the matrices of hidden layers;
    embeddings, heads and vectors want another optimizer.

        b <- momentum b + (1-momentum) g;  p <- (1 - lr weight_decay) p - rate orthogonal((1-momentum) g + momentum b)

    `nesterov=False` steps along ``b``. ``orthogonal`` is `ns_steps` rounds of a Newton-Schulz iteration with the polynomial `ns_coefficients`, in
    bfloat16 from the start divided by its norm, at least `eps`. For an (A, B) matrix, `adjust_lr_fn` "original", or None, has
    ``rate = lr sqrt(max(1, A/B))``, "match_rms_adamw" has ``0.2 lr sqrt(max(A, B))``.

    Reference: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025 for the second rate.

    >>> w = tl.nn.Parameter(tl.eye(2))
    >>> optimizer = tl.optim.Muon([w], lr=0.1, weight_decay=0)
    >>> (w * tl.tensor([[3.0, 0.0], [0.0, 0.5]])).sum().backward()
    >>> optimizer.step()
    >>> [[round(x, 1) for x in row] for row in w.tolist()]
    [[0.9, 0.0], [0.0, 0.9]]
    """

    arrays = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        require(
            "Muon",
            lr=nonnegative(lr),
            momentum=nonnegative(momentum),
            weight_decay=nonnegative(weight_decay),
            ns_coefficients=(ns_coefficients, len(ns_coefficients) == 3, "three numbers"),
            ns_steps=(ns_steps, 0 <= ns_steps < 100, "in [0, 100)"),
            adjust_lr_fn=(adjust_lr_fn, adjust_lr_fn in _RATES, 'None, "original" or "match_rms_adamw"'),
        )
        super().__init__(params, {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov, "ns_coefficients": ns_coefficients,
            "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn,
        })  # fmt: skip

    def check_parameter(self, i: int, p: Any) -> None:
        super().check_parameter(i, p)
        if p.ndim != 2:
            raise ValueError(
                f"Muon: parameter {i} must be a matrix, got shape {p.shape}: give the others to another optimizer."
            )

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        (b,) = zeros(state, p, "momentum_buffer")
        b.lerp_(g, 1 - h.momentum)
        step = _orthogonal(g.lerp(b, h.momentum) if h.nesterov else b, h).to(p.dtype)
        p.mul_(1 - h.lr * h.weight_decay)
        p.add_(step, alpha=-h.lr * _RATES[h.adjust_lr_fn](*p.shape))


def _orthogonal(x: Tensor, h: Hyper) -> Tensor:
    a, b, c = h.ns_coefficients
    tall = x.shape[0] > x.shape[1]
    x = (x.mT if tall else x).to(tl.bfloat16)
    x = x / x.float().norm().to(tl.bfloat16).clamp(min=h.eps)
    for _ in range(h.ns_steps):
        gram = x @ x.mT
        x = tl.addmm(x, tl.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
