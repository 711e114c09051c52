"""NAdam."""

from __future__ import annotations

import math
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
    moments,
    nonnegative,
    require,
)


class NAdam(Optimizer):
    """Adam with Nesterov's look ahead. With the momenta ``u_t = b1 (1 - 0.96^(t momentum_decay) / 2)`` and their product ``U_t`` so far,

        m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2
        p <- p - lr ((1-u_t)/(1-U_t) g + u_(t+1)/(1-U_(t+1)) m) / (sqrt(v/(1-b2^t)) + eps)

    `weight_decay` adds its multiple of ``p`` to ``g``, or, `decoupled_weight_decay`, first shrinks ``p`` by the factor ``1 - lr * weight_decay``.

    Reference: Dozat 2016.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.NAdam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.8944
    """

    arrays = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        require(
            "NAdam",
            lr=nonnegative(lr),
            eps=nonnegative(eps),
            betas=decay_rates(betas),
            weight_decay=nonnegative(weight_decay),
            momentum_decay=nonnegative(momentum_decay),
        )
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize, "foreach": foreach, "capturable": capturable,
            "differentiable": differentiable,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        t, (b1, b2) = count_step(state), h.betas
        if "mu_product" not in state:
            state["mu_product"] = tl.ones((), dtype=tl.float32, device="cpu")
        g = decayed(p, g, h)
        now, ahead = (b1 * (1 - 0.5 * 0.96 ** (s * h.momentum_decay)) for s in (t, t + 1))
        state["mu_product"] *= now
        product = float(state["mu_product"])
        m, v = moments(state, p, g, h.betas)
        scale = (v.sqrt() / math.sqrt(1 - b2**t)).add_(h.eps)
        p.addcdiv_(g, scale, value=-h.lr * (1 - now) / (1 - product))
        p.addcdiv_(m, scale, value=-h.lr * ahead / (1 - product * ahead))

    def update_group(self, group: dict[str, Any]) -> bool:
        m, v, steps, products = self.kept(group, "exp_avg", "exp_avg_sq", "step", "mu_product")
        b1, b2 = group["betas"]
        return tl.fused.adam_(
            group["params"], None, m, v, None, steps, group["lr"], b1, b2, group["eps"], group["weight_decay"],
            group["decoupled_weight_decay"], group["maximize"], variant="nadam", momentum_decay=group["momentum_decay"], mu_products=products,
        )  # fmt: skip
