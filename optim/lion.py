"""Lion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, decay_rates, nonnegative, require, zeros


class Lion(Optimizer):
    """Step by the sign of a momentum, with one array of state:

        p <- (1 - lr weight_decay) p - lr sign(b1 m + (1-b1) g);  m <- b2 m + (1-b2) g

    All steps have the same size: rates are three to ten times smaller than Adam's, weight decay larger by as much.

    Reference: Chen et al. 2023, "Symbolic discovery of optimization algorithms".

    >>> w = tl.nn.Parameter(tl.tensor([1.0, -3.0]))
    >>> optimizer = tl.optim.Lion([w], lr=0.25)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.tolist()
    [0.75, -2.75]
    """

    arrays = ("exp_avg",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        require("Lion", lr=nonnegative(lr), betas=decay_rates(betas), weight_decay=nonnegative(weight_decay))
        super().__init__(
            params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize}
        )

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        (m,), (b1, b2) = zeros(state, p, "exp_avg"), h.betas
        p.mul_(1 - h.lr * h.weight_decay).add_(m.lerp(g, 1 - b1).sign_(), alpha=-h.lr)
        m.lerp_(g, 1 - b2)

    def update_group(self, group: dict[str, Any]) -> bool:
        (m,) = self.kept(group, "exp_avg")
        b1, b2 = group["betas"]
        return tl.fused.lion_(group["params"], None, m, group["lr"], b1, b2, group["weight_decay"], group["maximize"])
