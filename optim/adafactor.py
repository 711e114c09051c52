"""Adafactor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, count_step, nonnegative, require, zeros

_EPS = {tl.float16: 2.0**-10, tl.bfloat16: 2.0**-7, tl.float32: 2.0**-23, tl.float64: 2.0**-52}


class Adafactor(Optimizer):
    """Adam's division by a root mean square, of which matrices keep only the means over rows and over columns: memory for R + C numbers
    instead of R x C. Steps are in proportion to the parameter's own size and limited in theirs. With ``b = t^beta2_decay`` at step t,

        v <- (1-b) v + b g^2;  u = g / max(sqrt(v), e1);  p <- p - max(e2, rms(p)) min(lr, 1/sqrt(t)) u / max(1, rms(u)/d)

    where for a matrix ``v[i, j] = row_var[i] col_var[j] / mean(row_var)``, over the last two dimensions. `eps` is (e1, e2); e1 None stands for
    the dtype's own. `weight_decay` first shrinks ``p`` by the factor ``1 - lr * weight_decay``.

    Reference: Shazeer and Stern 2018.

    >>> w = tl.nn.Parameter(tl.tensor([1.0]))
    >>> optimizer = tl.optim.Adafactor([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    arrays = ("variance",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        require(
            "Adafactor",
            lr=nonnegative(lr),
            beta2_decay=(beta2_decay, beta2_decay <= 0, "at most 0"),
            eps=(eps, len(eps) == 2 and (eps[0] is None or eps[0] >= 0) and eps[1] >= 0, "two numbers, at least 0"),
            d=(d, d >= 1, "at least 1"),
            weight_decay=nonnegative(weight_decay),
        )
        super().__init__(params, {
            "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
        })  # fmt: skip

    def update_one(self, p: Tensor, g: Tensor, state: State, h: Hyper) -> None:
        t = count_step(state)
        tiny = _EPS[p.dtype] if h.eps[0] is None else h.eps[0]
        fresh = t**h.beta2_decay
        size = max(h.eps[1], _rms(p)) * min(h.lr, 1 / math.sqrt(t))
        if h.weight_decay:
            p.mul_(1 - h.lr * h.weight_decay)
        if g.ndim > 1:
            if "row_var" not in state:
                state["row_var"], state["col_var"] = tl.zeros_like(g[..., :1]), tl.zeros_like(g[..., :1, :])
            row, column = state["row_var"], state["col_var"]
            row.lerp_((g * g).mean(-1, keepdim=True), fresh)
            column.lerp_((g * g).mean(-2, keepdim=True), fresh)
            v = row * column / row.mean(-2, keepdim=True).clamp_(min=tiny)
        else:
            (v,) = zeros(state, p, "variance")
            v = v.lerp_(g * g, fresh)
        u = v.clamp(min=tiny * tiny).rsqrt_().mul_(g)
        p.add_(u, alpha=-size / max(1.0, _rms(u) / h.d))


def _rms(x: Tensor) -> float:
    return x.norm().item() / math.sqrt(x.numel()) if x.numel() else 0.0
