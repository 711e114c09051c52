"""Adam and its variant with decoupled weight decay."""

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
    zeros,
)


class Adam(Optimizer):
    """Step by running averages of gradient and squared gradient, both corrected for their start at zero:

        m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;  p <- p - lr m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps)

    `weight_decay` adds its multiple of ``p`` to ``g``, or, `decoupled_weight_decay`, first shrinks ``p`` by the factor ``1 - lr * weight_decay``;
    `amsgrad` divides by the largest ``v`` so far.

    Reference: Kingma and Ba 2015; Reddi et al. 2018 for amsgrad.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    arrays = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        require(
            type(self).__name__,
            lr=nonnegative(lr),
            eps=nonnegative(eps),
            betas=decay_rates(betas),
            weight_decay=nonnegative(weight_decay),
        )
        super().__init__(params, {
            "lr": lr, "betas": (float(betas[0]), float(betas[1])), "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "maximize": maximize, "foreach": foreach, "capturable": capturable, "differentiable": differentiable, "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        t, (b1, b2) = count_step(state), h.betas
        m, v = moments(state, p, decayed(p, g, h), h.betas)
        if h.amsgrad:
            (largest,) = zeros(state, p, "max_exp_avg_sq")
            v = largest.copy_(tl.maximum(largest, v))
        p.addcdiv_(m, (v.sqrt() / math.sqrt(1 - b2**t)).add_(h.eps), value=-h.lr / (1 - b1**t))

    def update_group(self, group: dict[str, Any]) -> bool:
        m, v, steps = self.kept(group, "exp_avg", "exp_avg_sq", "step")
        largest = self.kept(group, "max_exp_avg_sq")[0] if group["amsgrad"] else None
        b1, b2 = group["betas"]
        return tl.fused.adam_(
            group["params"], None, m, v, largest, steps, group["lr"], b1, b2, group["eps"], group["weight_decay"],
            group["decoupled_weight_decay"], group["maximize"],
        )  # fmt: skip


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p`` first shrinks by the factor ``1 - lr * weight_decay``.

    Reference: Loshchilov and Hutter 2019.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.AdamW([w], lr=0.1, weight_decay=0.5)
    >>> (w * 0).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.95
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=True,
        )  # fmt: skip
