"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, count_step, decayed, nonnegative, require


class Adagrad(Optimizer):
    """Divide each element's step by the root of the sum of all its squared gradients:

        s <- s + g^2;  p <- p - lr/(1 + (t-1) lr_decay) g / (sqrt(s) + eps)

    Of a row-sparse gradient, only the rows it holds are stepped.

    Reference: Duchi, Hazan and Singer 2011.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.Adagrad([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    arrays = ("sum",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        require(
            "Adagrad",
            lr=nonnegative(lr),
            lr_decay=nonnegative(lr_decay),
            weight_decay=nonnegative(weight_decay),
            initial_accumulator_value=nonnegative(initial_accumulator_value),
            eps=nonnegative(eps),
        )
        super().__init__(params, {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay, "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach, "maximize": maximize, "differentiable": differentiable, "fused": fused,
        })  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:  # state from the start, as in PyTorch
            state = self.state[p]
            state["step"] = tl.zeros((), dtype=tl.float32, device="cpu")
            state["sum"] = tl.full_like(p, group["initial_accumulator_value"])

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        t, s = count_step(state), state["sum"]
        g = decayed(p, g, h)
        s.addcmul_(g, g)
        p.addcdiv_(g, s.sqrt().add_(h.eps), value=-h.lr / (1 + (t - 1) * h.lr_decay))

    def update_group(self, group: dict[str, Any]) -> bool:
        sums, steps = self.kept(group, "sum", "step")
        return tl.fused.rms_(
            group["params"], None, sums, None, None, steps, group["lr"], 1.0, 1.0, group["eps"], group["weight_decay"],
            lr_decay=group["lr_decay"], maximize=group["maximize"],
        )  # fmt: skip

    def update_sparse(self, p: Tensor, g: tl.SparseTensor, state: State, h: Hyper) -> None:
        if h.weight_decay:
            raise RuntimeError("Adagrad: weight_decay does not go with sparse gradients: it moves every row.")
        t, s = count_step(state), state["sum"]
        lr = h.lr / (1 + (t - 1) * h.lr_decay)
        if h.fused is not False and tl.fused.adagrad_rows_(p, g, s, lr, h.eps):
            return
        g = g.coalesce()
        rows, values = g.indices()[0], g.values()
        sums = s[rows] + values * values
        s[rows] = sums
        p.index_add_(0, rows, values / (sums.sqrt() + h.eps), alpha=-lr)
