"""Adamax."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import (
    Hyper,
    Optimizer,
    State,
    count_step,
    decay_rates,
    decayed,
    nonnegative,
    require,
    zeros,
)


class Adamax(Optimizer):
    """Adam with the largest gradient so far, slowly forgotten, in place of the root mean square:

        m <- b1 m + (1-b1) g;  u <- max(b2 u, |g| + eps);  p <- p - lr m/(1-b1^t) / u

    Reference: Kingma and Ba 2015, section 7.1.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.Adamax([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    arrays = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        require(
            "Adamax",
            lr=nonnegative(lr),
            eps=nonnegative(eps),
            betas=decay_rates(betas),
            weight_decay=nonnegative(weight_decay),
        )
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "capturable": capturable,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        t, (b1, b2) = count_step(state), h.betas
        m, u = zeros(state, p, "exp_avg", "exp_inf")
        g = decayed(p, g, h)
        m.lerp_(g, 1 - b1)
        u.copy_(tl.maximum(u.mul_(b2), g.abs().add_(h.eps)))
        p.addcdiv_(m, u, value=-h.lr / (1 - b1**t))

    def update_group(self, group: dict[str, Any]) -> bool:
        m, u, steps = self.kept(group, "exp_avg", "exp_inf", "step")
        b1, b2 = group["betas"]
        return tl.fused.adam_(
            group["params"], None, m, u, None, steps, group["lr"], b1, b2, group["eps"], group["weight_decay"],
            maximize=group["maximize"], variant="adamax",
        )  # fmt: skip
