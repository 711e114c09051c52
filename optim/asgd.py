"""Averaged stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, count_step, decayed, nonnegative, require, zeros


class ASGD(Optimizer):
    """Gradient descent with a falling rate, which keeps the average of all iterates from step `t0` on as "ax" in the state:

        p <- (1 - lambd eta) p - eta g;  eta <- lr / (1 + lambd lr t)^alpha

    Reference: Polyak and Juditsky 1992, in Bottou's variant.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.ASGD([w], lr=0.1, t0=0)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    >>> round(w.item(), 3), round(optimizer.state[w]["ax"].item(), 3)
    (0.64, 0.64)
    """

    arrays = ("ax",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        require("ASGD", lr=nonnegative(lr), weight_decay=nonnegative(weight_decay))
        super().__init__(params, {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "capturable": capturable,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        t = count_step(state)
        if "eta" not in state:
            state["eta"] = tl.tensor(h.lr, dtype=tl.float32, device="cpu")
            state["mu"] = tl.ones((), dtype=tl.float32, device="cpu")
        (average,) = zeros(state, p, "ax")
        eta, mu = float(state["eta"]), float(state["mu"])
        g = decayed(p, g, h)
        p.mul_(1 - h.lambd * eta).add_(g, alpha=-eta)
        if mu == 1:
            average.copy_(p)
        else:
            average.lerp_(p, mu)
        state["eta"].fill_(h.lr / (1 + h.lambd * h.lr * t) ** h.alpha)
        state["mu"].fill_(1 / max(1, t - h.t0))
