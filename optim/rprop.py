"""Resilient backpropagation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, count_step, nonnegative, require, zeros


class Rprop(Optimizer):
    """Step by the gradient's sign alone, each element by a size of its own, which grows while the sign lasts and shrinks when it turns.

    `etas` are the factors to shrink and to grow by, `step_sizes` the smallest and the largest size. After a turn an element rests for one
    step. Meant for gradients of the whole data, not of batches.

    Reference: Riedmiller and Braun 1993.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.Rprop([w], lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    >>> round(w.item(), 4)  # 1 - 0.1 - 0.12
    0.78
    """

    arrays = ("prev", "step_size")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        require(
            "Rprop",
            lr=nonnegative(lr),
            etas=(etas, len(etas) == 2 and 0 < etas[0] < 1 < etas[1], "a factor in (0, 1) and one above 1"),
            step_sizes=(step_sizes, len(step_sizes) == 2 and step_sizes[0] <= step_sizes[1], "the smallest and the largest size"),
        )  # fmt: skip
        super().__init__(params, {
            "lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
            "capturable": capturable,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        count_step(state)
        (before,) = zeros(state, p, "prev")
        if "step_size" not in state:
            state["step_size"] = tl.full_like(p, h.lr)
        shrink, grow = h.etas
        agreement = g * before
        factor = tl.ones_like(g).masked_fill_(agreement > 0, grow).masked_fill_(agreement < 0, shrink)
        size = state["step_size"].mul_(factor).clamp_(*h.step_sizes)
        g = g.masked_fill(agreement < 0, 0)
        p.addcmul_(g.sign(), size, value=-1)
        before.copy_(g)
