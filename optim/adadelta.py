"""Adadelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, count_step, decayed, nonnegative, require, zeros


class Adadelta(Optimizer):
    """Steps in the parameter's own units: the ratio of two running root mean squares, that of the steps over that of the gradients:

        v <- rho v + (1-rho) g^2;  d = g sqrt(u + eps) / sqrt(v + eps);  u <- rho u + (1-rho) d^2;  p <- p - lr d

    Reference: Zeiler 2012.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.Adadelta([w])
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9968
    """

    arrays = ("square_avg", "acc_delta")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        require(
            "Adadelta",
            lr=nonnegative(lr),
            rho=(rho, 0 <= rho <= 1, "in [0, 1]"),
            eps=nonnegative(eps),
            weight_decay=nonnegative(weight_decay),
        )
        super().__init__(params, {
            "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize, "capturable": capturable,
            "foreach": foreach, "differentiable": differentiable,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        count_step(state)
        v, u = zeros(state, p, "square_avg", "acc_delta")
        g = decayed(p, g, h)
        v.mul_(h.rho).addcmul_(g, g, value=1 - h.rho)
        d = u.add(h.eps).sqrt_().div_(v.add(h.eps).sqrt_()).mul_(g)
        u.mul_(h.rho).addcmul_(d, d, value=1 - h.rho)
        p.add_(d, alpha=-h.lr)

    def update_group(self, group: dict[str, Any]) -> bool:
        v, steps, u = self.kept(group, "square_avg", "step", "acc_delta")
        return tl.fused.rms_(
            group["params"], None, v, None, None, steps, group["lr"], group["rho"], 1 - group["rho"], group["eps"], group["weight_decay"],
            maximize=group["maximize"], deltas=u,
        )  # fmt: skip
