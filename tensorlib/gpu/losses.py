"""Losses on a GPU: cross_entropy and nll_loss over classes, and those that pair an input with a target (losses.cu, pairs.cu).

A target that is no class gives NaN there, and an IndexError where the host next waits for the GPU (checks.py).
"""

from __future__ import annotations

import math
from typing import Any

from tensorlib.dtypes import float64, int64
from tensorlib.errors import IndexRangeError
from tensorlib.gpu import checks, gradient_lane, lane
from tensorlib.gpu.launch import Source, empty
from tensorlib.gpu.rows import BLOCK, COMPUTED, Rows, aligned, blocks, rows
from tensorlib.tensor import Tensor

__all__: list[str] = []

SOURCE, PAIRS = Source("losses.cu"), Source("pairs.cu")
SUMMED = 8192  # numbers to a block: rows.cuh
Gradients = tuple[Tensor | None, ...]


def _no_class(value: int, name: str, classes: int, ignore_index: int) -> Exception:
    return IndexRangeError(
        f"{name}: target {value} is out of range; expected a class in [0, {classes}) or ignore_index {ignore_index}."
    )


class _Classes:
    """The operands of a loss over classes as kernels take them: scores (outer, n, inner), a number a position."""

    def __init__(self, name: str, x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int = -100) -> None:
        self.soft = target.dtype.is_floating_point
        axis = 1 if x.ndim > 1 else 0
        self.n, self.inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
        self.positions = x.numel() // self.n if self.n else 0
        self.shape = x.shape[:axis] + x.shape[axis + 1 :]
        self.x, self.dtype, self.device = aligned(x), x.dtype, x.device
        self.target = aligned(target) if self.soft else target.to(int64).contiguous()
        self.weight = None if weight is None else aligned(weight)
        self.ignore = ignore_index
        note = (0, 0)
        if not self.soft:
            note = checks.report(x.device), checks.site(_no_class, name, self.n, ignore_index)
        self.note = note

    def served(self) -> bool:
        given = (self.x, self.target) if self.soft else (self.x,)
        given = given if self.weight is None else (*given, self.weight)
        return self.positions > 0 and self.dtype in COMPUTED and all(t.dtype is self.dtype for t in given)

    @property
    def targets(self) -> tuple[Tensor | None, Tensor | None]:
        return (None, self.target) if self.soft else (self.target, None)

    def kernel(self, name: str, r: Rows | None = None) -> Any:
        width, packs = (r.width, r.packs) if r else (1, 1)
        return SOURCE(name, T=self.dtype, WIDTH=width, PACKS=packs, SOFT=int(self.soft))

    def each(self, kernel: str, smoothing: float, factors: bool) -> tuple[Tensor, Tensor | None]:
        """The loss of each position, and what it counts."""
        wide = COMPUTED[self.dtype]
        loss = empty((self.positions,), wide, self.device)
        counted = empty((self.positions,), wide, self.device) if factors else None
        given = loss, counted, self.x, *self.targets, self.weight, self.positions, self.n
        if kernel == "nll":
            self.kernel("nll")(
                blocks(self.positions), BLOCK, loss, counted, self.x, self.target, self.weight, self.positions, self.n, self.inner,
                self.ignore, *self.note,
            )  # fmt: skip
        elif self.inner == 1:
            r = rows(self.n, self.dtype)
            self.kernel("classes_rows", r)(r.grid(self.positions), r.block, *given, self.ignore, smoothing, *self.note)
        else:
            self.kernel("classes_columns")(
                blocks(self.positions), BLOCK, *given, self.inner, self.ignore, smoothing, *self.note
            )
        return loss, counted

    def summed(self, loss: Tensor | None, counted: Tensor | None, out: Tensor | None, divisor: float = 1.0) -> Tensor:
        """out, where given, becomes the sum of `loss` over that of `counted`, or over `divisor`; returns the sum of `counted`."""
        total, parts = empty((), float64, self.device), -(-self.positions // SUMMED)
        between = empty((parts, 2), float64, self.device)
        self.kernel("sum_parts")(parts, BLOCK, between, loss, counted, self.positions)
        self.kernel("sum_finish")(1, BLOCK, out, total, between, parts, counted is not None, divisor)
        return total

    def reduced(self, kernel: str, reduction: str, smoothing: float = 0.0) -> Tensor:
        by_weights = reduction == "mean" and not self.soft
        loss, counted = self.each(kernel, smoothing, by_weights)
        if reduction == "none":
            if COMPUTED[self.dtype] is self.dtype:
                return loss.reshape(self.shape)
            out = empty(self.shape, self.dtype, self.device)
            self.kernel("narrowed")(blocks(self.positions), BLOCK, out, loss, self.positions)
            return out
        out = empty((), self.dtype, self.device)
        self.summed(loss, counted, out, float(self.positions) if self.soft and reduction == "mean" else 1.0)
        return out

    def divisor(self, reduction: str) -> tuple[Tensor | None, float]:
        """Of a mean, for gradients: on the device where it depends on targets."""
        if reduction != "mean" or self.soft:
            return None, float(self.positions) if reduction == "mean" else 1.0
        counted = empty((self.positions,), COMPUTED[self.dtype], self.device)
        self.kernel("nll")(
            blocks(self.positions), BLOCK, None, counted, None, self.target, self.weight, self.positions, self.n, self.inner,
            self.ignore, *self.note,
        )  # fmt: skip
        return self.summed(None, counted, None), 1.0


def _cross_entropy_grad(c: _Classes, g: Tensor, reduction: str, smoothing: float) -> Tensor | None:
    if not c.served() or g.dtype is not c.dtype:
        return None
    dx = empty(c.x.shape, c.dtype, c.device)
    divisor, count = c.divisor(reduction)
    step = int(reduction == "none")
    given = dx, g.contiguous(), divisor, c.x, *c.targets, c.weight, c.positions, c.n
    more = c.ignore, step, count, smoothing, *c.note
    if c.inner == 1:
        r = rows(c.n, c.dtype)
        c.kernel("classes_grad_rows", r)(r.grid(c.positions), r.block, *given, *more)
    else:
        c.kernel("classes_grad_columns")(blocks(c.positions), BLOCK, *given, c.inner, *more)
    return dx


@lane("cross_entropy")
def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None, *, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor | None:
    c = _Classes("cross_entropy", x, target, weight, ignore_index)
    return c.reduced("classes", reduction, label_smoothing) if c.served() else None


@gradient_lane("cross_entropy")
def cross_entropy_grad(
    wanted: tuple[bool, ...], g: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int,
    reduction: str, label_smoothing: float,
) -> Gradients | None:  # fmt: skip
    dx = _cross_entropy_grad(_Classes("cross_entropy", x, target, weight, ignore_index), g, reduction, label_smoothing)
    return None if dx is None else (dx, None, None)


@lane("cross_entropy_soft")
def cross_entropy_soft(
    x: Tensor, target: Tensor, weight: Tensor | None, *, reduction: str, label_smoothing: float
) -> Tensor | None:
    c = _Classes("cross_entropy", x, target, weight)
    return c.reduced("classes", reduction, label_smoothing) if c.served() else None


@gradient_lane("cross_entropy_soft")
def cross_entropy_soft_grad(
    wanted: tuple[bool, ...], g: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> Gradients | None:  # fmt: skip
    if wanted[1] or wanted[2]:
        return None
    dx = _cross_entropy_grad(_Classes("cross_entropy", x, target, weight), g, reduction, label_smoothing)
    return None if dx is None else (dx, None, None)


@lane("nll_loss")
def nll_loss(x: Tensor, target: Tensor, weight: Tensor | None, *, ignore_index: int, reduction: str) -> Tensor | None:
    c = _Classes("nll_loss", x, target, weight, ignore_index)
    return c.reduced("nll", reduction) if c.served() else None


@gradient_lane("nll_loss")
def nll_loss_grad(
    wanted: tuple[bool, ...], g: Tensor, x_shape: tuple[int, ...], target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Gradients | None:  # fmt: skip
    dx = empty(x_shape, g.dtype, g.device)
    c = _Classes("nll_loss", dx, target, weight, ignore_index)
    if not c.served():
        return None
    divisor, _ = c.divisor(reduction)
    c.kernel("nll_grad")(
        blocks(dx.numel()), BLOCK, dx, g.contiguous(), divisor, c.target, c.weight, dx.numel(), c.n, c.inner, c.ignore,
        int(reduction == "none"), *c.note,
    )  # fmt: skip
    return dx, None, None


# ---- an input and a target, element by element ----

KINDS = (
    "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits",
)  # fmt: skip
KL = KINDS.index("kl_div")


def _spread(t: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    return None if t is None else aligned(t.expand(shape))


def _kernel(name: str, dtype: Any, n: int) -> Any:
    width = 16 // dtype.itemsize
    return PAIRS(name, T=dtype, WIDTH=1 if n % width else width, PACKS=1)


def _pair(kind: int) -> None:
    name = KINDS[kind]

    def serve(
        input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None = None, *, reduction: str, **param: float
    ) -> Tensor | None:  # fmt: skip
        given = [t for t in (input, target, weight, pos_weight) if t is not None]
        n, dtype, shape = input.numel(), input.dtype, input.shape
        if not n or dtype not in COMPUTED or any(t.dtype is not dtype for t in given) or target.shape != shape:
            return None
        operands = aligned(input), aligned(target), _spread(weight, shape), _spread(pos_weight, shape)
        value = float(next(iter(param.values()), 0.0))
        if reduction == "none":
            out = empty(shape, dtype, input.device)
            _kernel("pair_each", dtype, n)(blocks(n), BLOCK, out, *operands, n, kind, value)
            return out
        out, parts = empty((), dtype, input.device), -(-n // SUMMED)
        between = empty((parts, 2), float64, input.device)
        _kernel("pair_parts", dtype, n)(parts, BLOCK, between, *operands, n, kind, value)
        SOURCE("sum_finish", T=dtype, WIDTH=1, PACKS=1, SOFT=0)(
            1, BLOCK, out, None, between, parts, False, float(n) if reduction == "mean" else 1.0
        )
        return out

    def gradient(
        wanted: tuple[bool, ...], g: Tensor, input: Tensor | None, target: Tensor | None, weight: Tensor | None,
        pos_weight: Tensor | None, reduction: str, value: float,
    ) -> Gradients | None:  # fmt: skip
        if kind == KL and not wanted[1]:
            input = target  # the slope is the target's alone, and input was not kept
        if (
            any(wanted[2:])
            or input is None
            or target is None
            or input.dtype not in COMPUTED
            or g.dtype is not input.dtype
        ):
            return None
        shape, n, dtype = input.shape, input.numel(), input.dtype
        if not n or any(t is not None and t.dtype is not dtype for t in (target, weight, pos_weight)):
            return None
        dx, dt = (empty(shape, dtype, g.device) if w else None for w in wanted[:2])
        each = reduction == "none"
        operands = aligned(input), aligned(target), _spread(weight, shape), _spread(pos_weight, shape)
        _kernel("pair_grad", dtype, n)(
            blocks(n),
            BLOCK,
            dx,
            dt,
            aligned(g),
            int(each),
            1 / n if reduction == "mean" else 1.0,
            *operands,
            n,
            kind,
            value,
        )
        return (dx, dt, *(None for _ in wanted[2:]))

    lane(name)(serve)
    gradient_lane(name)(_gradients(name, gradient))


def _gradients(name: str, gradient: Any) -> Any:
    """The gradient lane of this entry: what it names it gets, so each kind of entry has its own names."""
    if name == "binary_cross_entropy_with_logits":
        return lambda wanted, g, input, target, weight, pos_weight, reduction: gradient(
            wanted, g, input, target, weight, pos_weight, reduction, 0.0
        )
    if name == "huber_loss":
        return lambda wanted, g, input, target, weight, reduction, delta: gradient(
            wanted, g, input, target, weight, None, reduction, delta
        )
    if name == "smooth_l1_loss":
        return lambda wanted, g, input, target, weight, reduction, beta: gradient(
            wanted, g, input, target, weight, None, reduction, beta
        )
    if name == "kl_div":
        return lambda wanted, g, input, target, weight, reduction, log_target: gradient(
            wanted, g, input, target, weight, None, reduction, float(log_target)
        )
    return lambda wanted, g, input, target, weight, reduction: gradient(
        wanted, g, input, target, weight, None, reduction, 0.0
    )


for _kind in range(len(KINDS)):
    _pair(_kind)
