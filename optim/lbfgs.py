"""The limited-memory BFGS method, with a strong Wolfe line search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.optim.optimizer import Hyper, Optimizer, State, nonnegative, require


class LBFGS(Optimizer):
    """Quasi-Newton steps from the last `history_size` changes of parameters and gradient, for deterministic losses. `step` needs a closure.

    One `step` takes up to `max_iter` steps and `max_eval` evaluations (5/4 of `max_iter` by default), fewer once no gradient element exceeds
    `tolerance_grad` or neither loss nor parameters change by `tolerance_change`. `line_search_fn` is None, for steps of `lr`, or "strong_wolfe".
    All parameters are one group.

    Reference: Nocedal and Wright 2006, chapters 3 and 7.

    >>> w = tl.nn.Parameter(tl.tensor([-1.0, 2.0]))
    >>> optimizer = tl.optim.LBFGS([w], line_search_fn="strong_wolfe")
    >>> def closure():  # Rosenbrock's valley, lowest at (1, 1)
    ...     optimizer.zero_grad()
    ...     loss = 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(4):
    ...     loss = optimizer.step(closure)
    >>> [round(x, 2) for x in w.tolist()]
    [1.0, 1.0]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        require(
            "LBFGS",
            lr=nonnegative(lr),
            history_size=(history_size, history_size > 0, "positive"),
            line_search_fn=(line_search_fn, line_search_fn in (None, "strong_wolfe"), 'None or "strong_wolfe"'),
        )
        super().__init__(params, {
            "lr": lr, "max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval, "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change, "history_size": history_size, "line_search_fn": line_search_fn,
        })  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one group."""
        if self.param_groups:
            raise ValueError("LBFGS: all parameters must be in one group.")
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Lower the loss that `closure` computes, with its gradients, each time it is called; returns the first one."""
        (group,) = self.param_groups
        state, h = self.state[group["params"][0]], Hyper(**{**group, "lr": float(group["lr"])})
        losses: list[Any] = []

        def evaluate() -> tuple[float, Tensor]:
            with tl.enable_grad():
                losses.append(closure())
            return float(losses[-1]), _flat(
                [tl.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in h.params]
            )

        with tl.no_grad():
            self._minimize(evaluate, state, h)
        state["func_evals"] = state.get("func_evals", 0) + len(losses)
        return losses[0]

    def _minimize(self, evaluate: Callable[[], tuple[float, Tensor]], state: State, h: Hyper) -> None:
        state.setdefault("n_iter", 0)
        loss, g = evaluate()
        evaluations, iteration = 1, 0
        while iteration < h.max_iter and _largest(g) > h.tolerance_grad:
            iteration += 1
            state["n_iter"] += 1
            d = state["d"] = _direction(state, g, h.history_size)
            state["prev_flat_grad"], state["prev_loss"] = g.clone(), loss
            t = state["t"] = h.lr * (min(1.0, 1 / g.abs().sum().item()) if state["n_iter"] == 1 else 1)
            before, slope = loss, g.dot(d).item()
            if slope > -h.tolerance_change:
                break
            if h.line_search_fn is not None:
                start = _flat(h.params)

                def at(t: float, start: Tensor = start, d: Tensor = d) -> _Point:
                    _place(h.params, start.add(d, alpha=t))
                    loss, g = evaluate()
                    return _Point(t, loss, g, g.dot(d).item())

                allowed = h.max_eval - evaluations
                found, used = _strong_wolfe(
                    at, t, _Point(0.0, loss, g, slope), _largest(d), h.tolerance_change, allowed
                )
                t, loss, g, _ = found
                state["t"] = t
                _place(h.params, start.add(d, alpha=t))
                evaluations += used
            else:
                _place(h.params, _flat(h.params).add_(d, alpha=t))
                if iteration == h.max_iter:
                    break
                loss, g = evaluate()
                evaluations += 1
            still = abs(t) * _largest(d) <= h.tolerance_change or abs(loss - before) < h.tolerance_change
            if still or evaluations >= h.max_eval:
                break

    def _fitted(self, number: int, p: Tensor, state: State) -> State:
        fitted = super()._fitted(number, p, state)
        total = sum(q.numel() for q in self.param_groups[0]["params"])
        for key in ("d", "prev_flat_grad"):
            if key in fitted and fitted[key].shape != (total,):
                raise ValueError(
                    f"LBFGS.load_state_dict: {key} has shape {fitted[key].shape}, expected {(total,)}; nothing was changed."
                )
        return fitted


def _flat(tensors: list[Tensor]) -> Tensor:
    """All elements in one new vector."""
    return tl.cat([t.detach().reshape(-1) for t in tensors])


def _place(params: list[Tensor], x: Tensor) -> None:
    tl.nn.utils.vector_to_parameters(x, params)


def _largest(x: Tensor) -> float:
    return x.abs().max().item()


def _direction(state: State, g: Tensor, history_size: int) -> Tensor:
    """The quasi-Newton direction: first the change since the last step is remembered, in old_dirs (of gradients), old_stps and ro."""
    if state["n_iter"] == 1:
        state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
        return -g
    changes, steps, scales = state["old_dirs"], state["old_stps"], state["ro"]
    change, step = g - state["prev_flat_grad"], state["d"] * float(state["t"])
    curvature = change.dot(step).item()
    if curvature > 1e-10:
        if len(changes) == history_size:
            for remembered in (changes, steps, scales):
                del remembered[0]
        changes.append(change)
        steps.append(step)
        scales.append(1 / curvature)
        state["H_diag"] = curvature / change.dot(change).item()
    d = -g
    shares = []
    for y, s, scale in zip(reversed(changes), reversed(steps), reversed(scales), strict=True):
        shares.append(s.dot(d).item() * float(scale))
        d.add_(y, alpha=-shares[-1])
    d.mul_(float(state["H_diag"]))
    for y, s, scale, share in zip(changes, steps, scales, reversed(shares), strict=True):
        d.add_(s, alpha=share - y.dot(d).item() * float(scale))
    return d


class _Point(NamedTuple):
    """A place on the line: its distance in steps, the loss, the gradient, and the slope along the line."""

    t: float
    loss: float
    g: Tensor
    slope: float


def _strong_wolfe(
    at: Callable[[float], _Point], t: float, start: _Point, size: float, tolerance: float, allowed: int
) -> tuple[_Point, int]:  # fmt: skip
    """A point where the loss is lower in proportion to the way there and the slope much flatter than at the start; with the number of
    evaluations. Ends earlier after `allowed` tries, or once the interval, of `size` per step, is smaller than `tolerance`.
    """
    tries, previous, point = 0, start, at(t)

    def too_high(p: _Point) -> bool:
        return p.loss > start.loss + 1e-4 * p.t * start.slope

    def flat(p: _Point) -> bool:
        return abs(p.slope) <= -0.9 * start.slope

    # Go on until a minimum must lie between the last two points.
    while tries < allowed:
        if too_high(point) or (tries > 1 and point.loss >= previous.loss):
            break
        if flat(point):
            return point, tries + 1
        if point.slope >= 0:
            break
        next_t = _cubic_minimum(previous, point, point.t + 0.01 * (point.t - previous.t), 10 * point.t)
        previous, point = point, at(next_t)
        tries += 1
    else:
        previous = start
    # Narrow the interval, whose lower end fulfils the first condition.
    low, high = (previous, point) if previous.loss <= point.loss else (point, previous)
    stalled = False
    while tries < allowed and abs(high.t - low.t) * size >= tolerance:
        left, right = sorted((low.t, high.t))
        t, margin = _cubic_minimum(low, high, left, right), 0.1 * (right - left)
        near = min(right - t, t - left) < margin
        if near and (stalled or not left < t < right):  # little progress twice: away from the end
            t, near = (right - margin if right - t < t - left else left + margin), False
        stalled = near
        point = at(t)
        tries += 1
        if too_high(point) or point.loss >= low.loss:
            low, high = (low, point) if low.loss <= point.loss else (point, low)
            continue
        if flat(point):
            return point, tries + 1
        if point.slope * (high.t - low.t) >= 0:
            high = low
        low = point
    return low, tries + 1


def _cubic_minimum(a: _Point, b: _Point, least: float, most: float) -> float:
    """Where the cubic through two points with their slopes is lowest, within bounds; their middle where it has no minimum."""
    if a.t > b.t:
        a, b = b, a
    bend = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t) if a.t != b.t else math.nan
    square = bend * bend - a.slope * b.slope
    if not square >= 0:
        return (least + most) / 2
    root = math.sqrt(square)
    if b.slope - a.slope + 2 * root == 0:  # a falling line
        return most
    t = b.t - (b.t - a.t) * (b.slope + root - bend) / (b.slope - a.slope + 2 * root)
    return min(max(t, least), most)
