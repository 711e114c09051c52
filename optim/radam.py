"""RAdam."""

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


class RAdam(Optimizer):
    """Adam whose division by the root mean square sets in only once that has been seen often enough to be trusted, and then by degrees:

        m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;  p <- p - lr m/(1-b1^t) r_t / (sqrt(v) + eps) sqrt(1-b2^t)

    where ``r_t`` follows from ``n_t = n - 2 t b2^t / (1-b2^t)`` with ``n = 2/(1-b2) - 1``; while ``n_t <= 5``, ``p <- p - lr m/(1-b1^t)``.
    `weight_decay` adds its multiple of ``p`` to ``g``, or, `decoupled_weight_decay`, first shrinks ``p`` by the factor ``1 - lr * weight_decay``.

    Reference: Liu et al. 2020.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.RAdam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.8
    """

    arrays = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        require(
            "RAdam",
            lr=nonnegative(lr),
            eps=nonnegative(eps),
            betas=decay_rates(betas),
            weight_decay=nonnegative(weight_decay),
        )
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach,
            "capturable": capturable, "decoupled_weight_decay": decoupled_weight_decay, "differentiable": differentiable,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        t, (b1, b2) = count_step(state), h.betas
        m, v = moments(state, p, decayed(p, g, h), h.betas)
        step, correction = -h.lr / (1 - b1**t), 1 - b2**t
        most = 2 / (1 - b2) - 1
        seen = most - 2 * t * b2**t / correction
        if seen > 5:
            trust = math.sqrt((seen - 4) * (seen - 2) * most / ((most - 4) * (most - 2) * seen))
            p.addcdiv_(m, v.sqrt().add_(h.eps), value=step * trust * math.sqrt(correction))
        else:
            p.add_(m, alpha=step)

    def update_group(self, group: dict[str, Any]) -> bool:
        m, v, steps = self.kept(group, "exp_avg", "exp_avg_sq", "step")
        b1, b2 = group["betas"]
        return tl.fused.adam_(
            group["params"], None, m, v, None, steps, group["lr"], b1, b2, group["eps"], group["weight_decay"],
            group["decoupled_weight_decay"], group["maximize"], variant="radam",
        )  # fmt: skip
