"""Adam on the rows that a gradient holds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, require


class SparseAdam(Optimizer):
    """Adam for row-sparse gradients: of tables with ``sparse=True``, only the rows of a batch move, and only their averages decay:

        m <- m + (1-b1) (g - m);  v <- v + (1-b2) (g^2 - v);  p <- p - lr sqrt(1-b2^t)/(1-b1^t) m / (sqrt(v) + eps)

    ``t`` counts the steps of the whole table.

    >>> table = tl.nn.Embedding(3, 1, sparse=True)
    >>> optimizer, before = tl.optim.SparseAdam(table.parameters(), lr=0.5), table.weight.detach().clone()
    >>> table(tl.tensor([2])).sum().backward()
    >>> optimizer.step()
    >>> [round(x, 4) for [x] in (before - table.weight.detach()).tolist()]
    [0.0, 0.0, 0.5]
    """

    arrays = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        require(
            "SparseAdam",
            lr=(lr, lr > 0, "above 0"),
            eps=(eps, eps > 0, "above 0"),
            betas=(betas, len(betas) == 2 and all(0 <= b < 1 for b in betas), "two numbers in [0, 1)"),
        )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})

    def update_group(self, group: dict[str, Any]) -> bool:
        if any((g := p.grad) is not None and not g.is_sparse for p in group["params"]):
            raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead.")
        return False

    def update_sparse(self, p: Tensor, g: tl.SparseTensor, state: State, h: Hyper) -> None:
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = tl.zeros_like(p), tl.zeros_like(p)
        state["step"] += 1
        t, (b1, b2), m, v = state["step"], h.betas, state["exp_avg"], state["exp_avg_sq"]
        if tl.fused.adam_rows_(p, g, m, v, t, h.lr, b1, b2, h.eps):
            return
        g = g.coalesce()
        rows, values = g.indices()[0], g.values()
        m_rows, v_rows = m[rows].lerp(values, 1 - b1), v[rows].lerp(values * values, 1 - b2)
        m[rows], v[rows] = m_rows, v_rows
        p.index_add_(0, rows, m_rows / (v_rows.sqrt() + h.eps), alpha=-h.lr * math.sqrt(1 - b2**t) / (1 - b1**t))
