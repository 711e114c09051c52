"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, decayed, nonnegative, require


class SGD(Optimizer):
    """Step against the gradient, with momentum if wanted:  v <- momentum v + (1 - dampening) g;  p <- p - lr v.

    `nesterov` steps along ``g + momentum v`` instead of ``v``; the first ``v`` is ``g``. `weight_decay` adds its multiple of ``p`` to ``g``.
    Of a row-sparse gradient, only the rows it holds are stepped; a momentum of it holds the rows met so far.

    Reference: Sutskever et al. 2013, in PyTorch's variant.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.8
    """

    arrays = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        require(
            "SGD",
            lr=nonnegative(lr),
            momentum=nonnegative(momentum),
            weight_decay=nonnegative(weight_decay),
            nesterov=(
                nesterov,
                not nesterov or (momentum > 0 and dampening == 0),
                "False without momentum or with dampening",
            ),
        )
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov, "maximize": maximize,
            "foreach": foreach, "differentiable": differentiable, "fused": fused,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        g = decayed(p, g, h)
        if h.momentum:
            v = state.get("momentum_buffer")
            if v is None:
                v = state["momentum_buffer"] = g.clone()
            else:
                v.mul_(h.momentum).add_(g, alpha=1 - h.dampening)
            g = g.add(v, alpha=h.momentum) if h.nesterov else v
        p.add_(g, alpha=-h.lr)

    def update_sparse(self, p: Tensor, g: tl.SparseTensor, state: State, h: Hyper) -> None:
        if h.weight_decay:
            raise RuntimeError("SGD: weight_decay does not go with sparse gradients: it moves every row.")
        if h.momentum:
            v = state.get("momentum_buffer")
            if v is None:
                v = state["momentum_buffer"] = g.clone()
            else:
                v.mul_(h.momentum).add_(g, alpha=1 - h.dampening).coalesce()
            g = g.add(v, alpha=h.momentum) if h.nesterov else v
        if h.fused is False or not tl.fused.sgd_rows_(p, g, h.lr):
            g = g.coalesce()
            p.index_add_(0, g.indices()[0], g.values(), alpha=-h.lr)

    def update_group(self, group: dict[str, Any]) -> bool:
        params, momentum, state, buffers = group["params"], group["momentum"], self.state, None
        if momentum and not group["dampening"]:  # from a buffer of zeros as from none
            (buffers,) = self.kept(group, "momentum_buffer")
        elif momentum:
            buffers = [state[p].get("momentum_buffer") for p in params]
        return tl.fused.sgd_(
            params, None, buffers, group["lr"], momentum, group["dampening"], group["weight_decay"], group["nesterov"], group["maximize"]
        )  # fmt: skip
