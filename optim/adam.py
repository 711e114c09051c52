"""Adam and its variant with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, require


class Adam(Optimizer):
    """Step by running averages of gradient and squared gradient, both corrected for their start at zero:

        m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;  p <- p - lr m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps)

    `weight_decay` adds its multiple of ``p`` to ``g``; `amsgrad` divides by the largest ``v`` so far. `fused=False` runs the definition in
    plain operations.

    Reference: Kingma and Ba 2015; Reddi et al. 2018 for amsgrad.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    decoupled = False  # whether weight decay shrinks p instead of entering g

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        fused: bool | None = None,
    ) -> None:
        require(
            type(self).__name__,
            lr=(lr, lr >= 0, "at least 0"),
            eps=(eps, eps >= 0, "at least 0"),
            betas=(betas, len(betas) == 2 and all(0 <= b < 1 for b in betas), "two numbers in [0, 1)"),
            weight_decay=(weight_decay, weight_decay >= 0, "at least 0"),
        )
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize, "fused": fused,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        if not state:
            state["step"] = tl.zeros((), dtype=tl.float32)
            state["exp_avg"], state["exp_avg_sq"] = tl.zeros_like(p), tl.zeros_like(p)
        if h.amsgrad and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = tl.zeros_like(p)
        state["step"] += 1
        t, (b1, b2) = float(state["step"]), h.betas
        if self.decoupled:
            p.mul_(1 - h.lr * h.weight_decay)
        elif h.weight_decay:
            g = g.add(p, alpha=h.weight_decay)
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m.lerp_(g, 1 - b1)
        v.mul_(b2).addcmul_(g, g, value=1 - b2)
        if h.amsgrad:
            v = state["max_exp_avg_sq"].copy_(tl.maximum(state["max_exp_avg_sq"], v))
        p.addcdiv_(m, (v.sqrt() / math.sqrt(1 - b2**t)).add_(h.eps), value=-h.lr / (1 - b1**t))

    def update_group(self, group: dict[str, Any]) -> bool:
        params, states = group["params"], [self.state[p] for p in group["params"]]
        if group["fused"] is False:
            return False
        b1, b2 = group["betas"]
        return tl.fused.adam_(
            params,
            None,
            [s.get("exp_avg") for s in states],
            [s.get("exp_avg_sq") for s in states],
            [s.get("max_exp_avg_sq") for s in states] if group["amsgrad"] else None,
            [s.get("step") for s in states],
            group["lr"], b1, b2, group["eps"], group["weight_decay"], self.decoupled, group["maximize"],
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

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, fused=fused)
