"""LARS and LAMB: a rate for each parameter in proportion to its norm, for large batches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tensorlib import Tensor
from tensorlib.optim.optimizer import (
    Hyper,
    Optimizer,
    State,
    count_step,
    decay_rates,
    moments,
    nonnegative,
    require,
    zeros,
)


class LARS(Optimizer):
    """SGD with momentum at a rate for each parameter, in proportion to its norm over that of its gradient:

        rate = lr trust |p| / (|g| + weight_decay |p| + eps);  b <- momentum b + rate (g + weight_decay p);  p <- p - b

    with ``trust = trust_coefficient``. Where ``|p|`` or ``|g|`` is 0, ``rate = lr``; likewise in groups with ``"adapt": False``, as is usual, with
    weight decay 0, for biases and the weights of norms.

    Reference: You, Gitman and Ginsburg 2017, "Large batch training of convolutional networks".

    >>> w = tl.nn.Parameter(tl.tensor([3.0, 4.0]))
    >>> optimizer = tl.optim.LARS([w], lr=1.0, trust_coefficient=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> [round(x, 4) for x in w.tolist()]  # a tenth of the norm
    [2.7, 3.6]
    """

    arrays = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        nesterov: bool = False,
        adapt: bool = True,
        *,
        maximize: bool = False,
    ) -> None:
        require(
            "LARS",
            lr=nonnegative(lr),
            momentum=nonnegative(momentum),
            weight_decay=nonnegative(weight_decay),
            trust_coefficient=nonnegative(trust_coefficient),
            eps=nonnegative(eps),
            nesterov=(nesterov, not nesterov or momentum > 0, "False without momentum"),
        )
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient, "eps": eps,
            "nesterov": nesterov, "adapt": adapt, "maximize": maximize,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        rate = h.lr
        if h.adapt:
            size, slope = p.norm().item(), g.norm().item()
            if size > 0 and slope > 0:
                rate *= h.trust_coefficient * size / (slope + h.weight_decay * size + h.eps)
        step = g.add(p, alpha=h.weight_decay).mul_(rate)
        if h.momentum:
            (b,) = zeros(state, p, "momentum_buffer")
            b.mul_(h.momentum).add_(step)
            step = step.add_(b, alpha=h.momentum) if h.nesterov else b
        p.sub_(step)


class LAMB(Optimizer):
    """AdamW at a rate for each parameter, in proportion to its norm over that of its step:

        m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2
        r = m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps) + weight_decay p;  p <- p - lr |p|/|r| r

    Where ``|p|`` or ``|r|`` is 0, the factor between them is 1; likewise in groups with ``"adapt": False``, as is usual, with weight decay 0,
    for biases and the weights of norms.

    Reference: You et al. 2020, "Large batch optimization for deep learning".

    >>> w = tl.nn.Parameter(tl.tensor([3.0, 4.0]))
    >>> optimizer = tl.optim.LAMB([w], lr=0.1, weight_decay=0)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> [round(x, 4) for x in w.tolist()]  # both by 0.1 |p| / sqrt(2)
    [2.6464, 3.6464]
    """

    arrays = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        adapt: bool = True,
        *,
        maximize: bool = False,
    ) -> None:
        require(
            "LAMB",
            lr=nonnegative(lr),
            betas=decay_rates(betas),
            eps=nonnegative(eps),
            weight_decay=nonnegative(weight_decay),
        )
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": adapt, "maximize": maximize,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        t, (b1, b2) = count_step(state), h.betas
        m, v = moments(state, p, g, h.betas)
        step = (m / (1 - b1**t)).div_((v.sqrt() / math.sqrt(1 - b2**t)).add_(h.eps)).add_(p, alpha=h.weight_decay)
        rate = h.lr
        if h.adapt:
            size, length = p.norm().item(), step.norm().item()
            rate *= size / length if size > 0 and length > 0 else 1
        p.add_(step, alpha=-rate)
