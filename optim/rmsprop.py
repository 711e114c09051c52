"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, count_step, decayed, nonnegative, require, zeros


class RMSprop(Optimizer):
    """Scale each step by a running root mean square of the gradient:  v <- a v + (1-a) g^2;  p <- p - lr g / (sqrt(v) + eps).

    `centered` subtracts the square of a running mean of ``g`` from ``v``; with `momentum`,  b <- momentum b + g / (sqrt(v) + eps);  p <- p - lr b.

    Reference: Tieleman and Hinton 2012; Graves 2013 for the centered variant.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.RMSprop([w], lr=0.01)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    arrays = ("square_avg", "momentum_buffer", "grad_avg")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        require(
            "RMSprop",
            lr=nonnegative(lr),
            eps=nonnegative(eps),
            momentum=nonnegative(momentum),
            weight_decay=nonnegative(weight_decay),
            alpha=nonnegative(alpha),
        )
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered, "weight_decay": weight_decay,
            "capturable": capturable, "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        count_step(state)
        (v,) = zeros(state, p, "square_avg")
        g = decayed(p, g, h)
        v.mul_(h.alpha).addcmul_(g, g, value=1 - h.alpha)
        if h.momentum:
            (b,) = zeros(state, p, "momentum_buffer")
        if h.centered:
            (mean,) = zeros(state, p, "grad_avg")
            mean.lerp_(g, 1 - h.alpha)
            v = v.addcmul(mean, mean, value=-1)
        scale = v.sqrt().add_(h.eps)
        if h.momentum:
            p.add_(b.mul_(h.momentum).addcdiv_(g, scale), alpha=-h.lr)
        else:
            p.addcdiv_(g, scale, value=-h.lr)

    def update_group(self, group: dict[str, Any]) -> bool:
        v, steps = self.kept(group, "square_avg", "step")
        means = self.kept(group, "grad_avg")[0] if group["centered"] else None
        buffers = self.kept(group, "momentum_buffer")[0] if group["momentum"] else None
        return tl.fused.rms_(
            group["params"], None, v, means, buffers, steps, group["lr"],
            group["alpha"], 1 - group["alpha"], group["eps"], group["weight_decay"], group["momentum"], maximize=group["maximize"],
        )  # fmt: skip
