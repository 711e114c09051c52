"""Kernels that do the work of many operations in one call, for library code and for users who write their own layers and optimizers.

Each that works in place declines what it does not serve by returning False, and has then changed nothing: run the plain operations instead.
On a GPU the steps serve all floats, count on the device, and take a learning rate that is a tensor there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from tensorlib import lines
from tensorlib.native import ffi, lib
from tensorlib.ops.crf import crf_total
from tensorlib.ops.epilogues import linear_act
from tensorlib.ops.recurrent import gru_layer, lstm_layer, rnn_layer
from tensorlib.ops.trees import tree_lstm
from tensorlib.sparse import SparseTensor
from tensorlib.status import DECLINE, raise_status
from tensorlib.tensor import Tensor

__all__ = [
    "adagrad_rows_", "adam_", "adam_rows_", "crf_total", "gru_layer", "left_out", "linear_act", "lion_", "lstm_layer", "renewed", "rms_", "rnn_layer",
    "scale_", "sgd_", "sgd_rows_", "sum_of_squares", "sum_pairs_", "sum_products_", "tree_lstm", "unless", "unscale_", "zero_grad_",
]  # fmt: skip

_NULL = ffi.NULL
_VARIANTS = {"adam": 0, "adamax": 1, "nadam": 2, "radam": 3}  # as optim.c numbers them


def _handles(name: str, tensors: Sequence[Tensor | None] | None, n: int) -> object:
    """What C reads as an array of n handles; an entry None becomes 0, None in all NULL. Of a list or tuple, which keeps the tensors alive."""
    if tensors is None:
        return _NULL
    if not isinstance(tensors, (list, tuple)) or len(tensors) != n:
        got = f"{len(tensors)}" if isinstance(tensors, (list, tuple)) else type(tensors).__name__
        raise TypeError(f"{name}: got {got}, expected a list of {n} tensors.")
    try:
        return [t._array for t in tensors]
    except AttributeError:
        pass
    for t in tensors:
        if t is not None and not isinstance(t, Tensor):
            raise TypeError(f"{name}: got a {type(t).__name__} among the tensors.")
    return [0 if t is None else t._array for t in tensors]


def _count(name: str, tensors: Sequence[Tensor]) -> int:
    """How many there are; each is a Tensor."""
    if not isinstance(tensors, (list, tuple)) or not all(isinstance(t, Tensor) for t in tensors):
        raise TypeError(f"{name}: got {type(tensors).__name__}, expected a list of tensors.")
    return len(tensors)


def _done(name: str, served: bool) -> bool:
    if not served and lib.tl_status() != DECLINE:
        raise_status(name)
    return bool(served)


# ---- on GPUs: tensorlib/gpu/optim.py ----


def _gpu(tensors: Sequence[Tensor]) -> Any:
    """What serves there, where they are on one; else None."""
    if not tensors or not tensors[0].is_cuda:
        return None
    from tensorlib.gpu import optim

    return optim


def _at_gpu(x: float | Tensor) -> bool:
    return isinstance(x, Tensor) and x.is_cuda


def renewed(update: Callable[[], bool]) -> bool:
    """``update()``, which makes steps by functions of this module.

    Within a step that is captured (`tl.cuda.graph`), `update` is called again before each replay, for its numbers alone: so a learning rate that
    a scheduler changes reaches the graph.

    >>> w, g, lr = tl.ones(1), tl.ones(1), [0.5]
    >>> tl.fused.renewed(lambda: tl.fused.sgd_([w], [g], None, lr=lr[0])), w.item()
    (True, 0.5)
    """
    from tensorlib.gpu import optim

    return optim.renewed(update)


def unless(found: Tensor) -> AbstractContextManager[None]:
    """Within, steps on a GPU are left out where `found`, a bool there, turns out to be true: kernels look, the host does not wait.

    >>> with tl.fused.unless(tl.tensor(True)):
    ...     tl.fused.left_out()
    True
    """
    from tensorlib.gpu import optim

    return optim.unless(found)


def left_out() -> bool:
    """Whether steps are to be left out (`unless`), for what has no kernel that looks: the host waits for the answer.

    >>> tl.fused.left_out()
    False
    """
    from tensorlib.gpu import optim

    return optim.left_out()


# ---- optimizers ----


def sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    momentum_buffers: Sequence[Tensor | None] | None,
    lr: float | Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> bool:
    """One step of stochastic gradient descent on all `params`, as `tl.optim.SGD` defines it.

    `grads` None: each parameter's own gradient, and parameters without one are passed over. `momentum_buffers` None: no momentum. Declines
    where a buffer is missing (its first value is the definition's business), and dtypes other than float32 and float64.

    >>> w, g = tl.tensor([1.0, 2.0]), tl.tensor([1.0, 1.0])
    >>> tl.fused.sgd_([w], [g], None, lr=0.5), w.tolist()
    (True, [0.5, 1.5])
    """
    n, line = _count("sgd_", params), lines.here(sys._getframe(1))
    handles = [_handles("sgd_", t, n) for t in (params, grads, momentum_buffers)]
    if not _at_gpu(lr) and _done(
        "sgd_", lib.tl_sgd(n, *handles, lr, momentum, dampening, weight_decay, nesterov, maximize, line)
    ):
        return True
    there, numbers = _gpu(params), (lr, momentum, dampening, weight_decay, nesterov, maximize)
    buffered = momentum_buffers is not None
    return there is not None and there.step(
        "sgd", params, grads, [momentum_buffers], None, None, numbers, line, needs=(True, buffered, False, False, False, False)
    )  # fmt: skip


def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    exp_avgs: Sequence[Tensor | None],
    exp_avg_sqs: Sequence[Tensor | None],
    max_exp_avg_sqs: Sequence[Tensor | None] | None,
    steps: Sequence[Tensor | None],
    lr: float | Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    *,
    variant: str = "adam",
    momentum_decay: float = 0.0,
    mu_products: Sequence[Tensor | None] | None = None,
) -> bool:
    """One step of Adam on all `params`, as `tl.optim.Adam` defines it, `decoupled` as `tl.optim.AdamW`.

    `grads` as in `sgd_`. `steps` are 0-d float32 tensors that count each parameter's steps. `max_exp_avg_sqs` None: no amsgrad.
    `variant` "adamax" (the maxima in place of `exp_avg_sqs`), "nadam" (with `momentum_decay` and `mu_products`) or "radam": as those define it.

    >>> w, g, m, v, t = tl.ones(1), tl.ones(1), tl.zeros(1), tl.zeros(1), tl.tensor(0.0)
    >>> tl.fused.adam_([w], [g], [m], [v], None, [t], lr=0.25), round(w.item(), 4), t.item()
    (True, 0.75, 1.0)
    """
    n = _count("adam_", params)
    if steps is None:
        raise TypeError("adam_: got no steps, expected a list of tensors.")
    if variant not in _VARIANTS:
        raise ValueError(f"adam_: variant must be one of {', '.join(_VARIANTS)}, got {variant!r}.")
    line = lines.here(sys._getframe(1))
    handles = [
        _handles("adam_", t, n) for t in (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, mu_products)
    ]
    numbers = (lr, beta1, beta2, eps, weight_decay, momentum_decay, decoupled, maximize)
    if not _at_gpu(lr) and _done("adam_", lib.tl_adam(n, *handles, _VARIANTS[variant], *numbers, line)):
        return True
    there, states = _gpu(params), [exp_avgs, exp_avg_sqs, max_exp_avg_sqs]
    needs = (True, True, True, max_exp_avg_sqs is not None, True, variant == "nadam")
    return there is not None and there.step(
        variant, params, grads, states, steps, mu_products, numbers, line, needs=needs
    )


def rms_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    squares: Sequence[Tensor | None],
    means: Sequence[Tensor | None] | None,
    momentum_buffers: Sequence[Tensor | None] | None,
    steps: Sequence[Tensor | None] | None,
    lr: float | Tensor,
    keep: float = 0.99,
    fresh: float = 0.01,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    lr_decay: float = 0.0,
    maximize: bool = False,
    *,
    deltas: Sequence[Tensor | None] | None = None,
) -> bool:
    """One step on all `params` of the optimizers that divide by the root of ``squares <- keep squares + fresh g^2``.

    With ``fresh = 1 - keep`` that is `tl.optim.RMSprop`, centered by its `means`; with 1 and 1 `tl.optim.Adagrad`, at the rate
    ``lr / (1 + (t-1) lr_decay)``; with its squared steps as `deltas`, `tl.optim.Adadelta`. `grads` and `steps` as in `adam_`; None: not counted.

    >>> w, g, v = tl.ones(1), tl.ones(1), tl.zeros(1)
    >>> tl.fused.rms_([w], [g], [v], None, None, None, lr=0.25, keep=1.0, fresh=1.0), w.item(), v.item()
    (True, 0.75, 1.0)
    """
    n = _count("rms_", params)
    seconds, line, ratio = means if deltas is None else deltas, lines.here(sys._getframe(1)), deltas is not None
    handles = [_handles("rms_", t, n) for t in (params, grads, squares, seconds, momentum_buffers, steps)]
    numbers = (lr, keep, fresh, eps, weight_decay, momentum, lr_decay)
    if not _at_gpu(lr) and _done("rms_", lib.tl_rms(n, *handles, *numbers, ratio, maximize, line)):
        return True
    there, states = _gpu(params), [squares, seconds, momentum_buffers]
    needs = (True, True, seconds is not None, momentum_buffers is not None, steps is not None, False)
    return there is not None and there.step(
        "rms", params, grads, states, steps, None, (*numbers, maximize), line, needs=needs, ratio=ratio
    )


def lion_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    exp_avgs: Sequence[Tensor | None],
    lr: float | Tensor,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> bool:
    """One step of Lion on all `params`, as `tl.optim.Lion` defines it; `grads` as in `sgd_`.

    >>> w, g, m = tl.ones(1), tl.ones(1), tl.zeros(1)
    >>> tl.fused.lion_([w], [g], [m], lr=0.25), w.item(), round(m.item(), 4)
    (True, 0.75, 0.01)
    """
    n = _count("lion_", params)
    line, numbers = lines.here(sys._getframe(1)), (lr, beta1, beta2, weight_decay, maximize)
    handles = [_handles("lion_", t, n) for t in (params, grads, exp_avgs)]
    if not _at_gpu(lr) and _done("lion_", lib.tl_lion(n, *handles, *numbers, line)):
        return True
    there, needs = _gpu(params), (True, True, False, False, False, False)
    return there is not None and there.step("lion", params, grads, [exp_avgs], None, None, numbers, line, needs=needs)


def _rows(name: str, grad: SparseTensor) -> tuple[Tensor, Tensor]:
    """Row numbers and values as the kernels read them."""
    if not isinstance(grad, SparseTensor):
        raise TypeError(f"{name}: got a {type(grad).__name__}, expected a row-sparse gradient.")
    return grad._indices().reshape(-1).contiguous(), grad._values().contiguous()


def sgd_rows_(param: Tensor, grad: SparseTensor, lr: float) -> bool:
    """One step of plain stochastic gradient descent on the rows that `grad` holds: to the bit what `sgd_` does to them.

    >>> w, g = tl.ones(3, 1), tl.sparse_coo_tensor(tl.tensor([[2, 2]]), tl.ones(2, 1), (3, 1))
    >>> tl.fused.sgd_rows_(w, g, lr=0.25), w.tolist()
    (True, [[1.0], [1.0], [0.5]])
    """
    index, values = _rows("sgd_rows_", grad)
    return _done(
        "sgd_rows_", lib.tl_sgd_rows(param._array, index._array, values._array, lr, lines.here(sys._getframe(1)))
    )


def adagrad_rows_(param: Tensor, grad: SparseTensor, sums: Tensor, lr: float, eps: float = 1e-10) -> bool:
    """One step of Adagrad on the rows that `grad` holds, as `tl.optim.Adagrad` defines it; `sums` are those of squared gradients.

    >>> w, g = tl.ones(2, 1), tl.sparse_coo_tensor(tl.tensor([[1]]), tl.ones(1, 1), (2, 1))
    >>> tl.fused.adagrad_rows_(w, g, tl.zeros(2, 1), lr=0.25), w.tolist()
    (True, [[1.0], [0.75]])
    """
    index, values = _rows("adagrad_rows_", grad)
    served = lib.tl_adagrad_rows(
        param._array, index._array, values._array, sums._array, lr, eps, lines.here(sys._getframe(1))
    )
    return _done("adagrad_rows_", served)


def adam_rows_(
    param: Tensor,
    grad: SparseTensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: float,
    lr: float | Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> bool:
    """One step, the `step`-th, of Adam on the rows that `grad` holds, as `tl.optim.SparseAdam` defines it.

    >>> w, g = tl.ones(2, 1), tl.sparse_coo_tensor(tl.tensor([[1]]), tl.ones(1, 1), (2, 1))
    >>> tl.fused.adam_rows_(w, g, tl.zeros(2, 1), tl.zeros(2, 1), step=1, lr=0.25), [round(x, 4) for [x] in w.tolist()]
    (True, [1.0, 0.75])
    """
    index, values = _rows("adam_rows_", grad)
    served = lib.tl_adam_rows(
        param._array, index._array, values._array, exp_avg._array, exp_avg_sq._array, step, lr, beta1, beta2, eps, lines.here(sys._getframe(1))
    )  # fmt: skip
    return _done("adam_rows_", served)


def zero_grad_(params: Sequence[Tensor], set_to_none: bool = True) -> None:
    """Forget the gradients of all `params`, or fill them with zeros.

    >>> w = tl.ones(1, requires_grad=True)
    >>> w.sum().backward()
    >>> tl.fused.zero_grad_([w])
    >>> w.grad is None
    True
    """
    n = _count("zero_grad_", params)
    if set_to_none:
        lib.tl_clear_grads(n, _handles("zero_grad_", params, n))
        return
    for p in params:
        if p.grad is not None:
            p.grad = p.grad.detach().mul(0) if p.grad.requires_grad else p.grad.zero_()


def sum_of_squares(tensors: Sequence[Tensor]) -> float | Tensor | None:
    """The sum of the squares of all elements of several tensors, added in float64; of tensors on a GPU a tensor there. None: not served.

    >>> tl.fused.sum_of_squares([tl.tensor([3.0]), tl.tensor([4.0])])
    25.0
    """
    n, out = _count("sum_of_squares", tensors), ffi.new("double *")
    if _done("sum_of_squares", lib.tl_sum_of_squares(n, _handles("sum_of_squares", tensors, n), out)):
        return float(out[0])
    there = _gpu(tensors)
    return None if there is None else there.sum_of_squares(tensors)


def sum_pairs_(
    outs: Sequence[Tensor], parts: Sequence[Tensor], pairs: Sequence[tuple[int, int]] | None = None, scale: float = 1.0
) -> bool:
    """Every one of `outs` becomes `scale` times the sum of `parts`, added in a fixed order, in one pass over memory.

    The order is that of `pairs`: for each (a, b), copies of the parts do ``parts[a] += parts[b]``; the result is then ``parts[0]``. None: one after
    the other, from the first. Half precision is added in float32 and rounded once. `outs` may be among the parts.

    Shapes:
        outs, parts: contiguous, of one dtype and one number of elements; `scale` other than 1 for floats only

    >>> a, b, c = tl.tensor([1.0, 2.0]), tl.tensor([3.0, 4.0]), tl.tensor([5.0, 6.0])
    >>> tl.fused.sum_pairs_([a], [a, b, c], [(1, 2), (0, 1)], scale=0.5), a.tolist()
    (True, [4.5, 6.0])
    """
    n, n_outs = _count("sum_pairs_", parts), _count("sum_pairs_", outs)
    order = [(0, i) for i in range(1, n)] if pairs is None else pairs
    flat = ffi.new("int32_t[]", [i for pair in order for i in pair])
    handles = _handles("sum_pairs_", parts, n), _handles("sum_pairs_", outs, n_outs)
    line = lines.here(sys._getframe(1))
    return _done("sum_pairs_", lib.tl_sum_pairs(n, handles[0], len(order), flat, n_outs, handles[1], scale, line))


def sum_products_(
    outs: Sequence[Tensor],
    g: Sequence[Tensor],
    x: Sequence[Tensor],
    joins: Sequence[int],
    scales: Sequence[float] | None = None,
) -> bool:
    """Every one of `outs` becomes the sum of the products ``g[i].mT @ x[i]``, each times ``scales[i]``, added in a fixed order, in one
    pass over memory.

    The order is that of a stack: a product is put on top, then ``joins[i]`` times the topmost sum is added to the one below it. The bits are
    those of products and sums made one by one.

    Shapes:
        g: (K, M), whose rows may lie apart, x: (K, N)  ->  outs: (M, N); else contiguous, float32 or float64, K of 1 to 384 for each pair;
            none in memory of `outs`

    >>> one, two, out = tl.ones(1, 2), tl.full((1, 2), 2.0), tl.empty(2, 2)
    >>> tl.fused.sum_products_([out], [one, one, two], [one, two, two], joins=[0, 1, 1]), out.tolist()
    (True, [[7.0, 7.0], [7.0, 7.0]])
    """
    n, n_outs = _count("sum_products_", g), _count("sum_products_", outs)
    handles = _handles("sum_products_", g, n), _handles("sum_products_", x, n)
    factors = [1.0] * n if scales is None else list(scales)
    if len(joins) != n or len(factors) != n:
        raise ValueError(f"sum_products_: got {len(joins)} joins and {len(factors)} scales for {n} products.")
    line = lines.here(sys._getframe(1))
    return _done(
        "sum_products_",
        lib.tl_sum_products(n_outs, _handles("sum_products_", outs, n_outs), n, *handles, list(joins), factors, line),
    )


def scale_(tensors: Sequence[Tensor], factor: float | Tensor, most: float = math.inf) -> bool:
    """Multiply several tensors by one factor, or by `most` where that is less. On a GPU the factor may be a tensor there.

    >>> w = tl.tensor([3.0])
    >>> tl.fused.scale_([w], 2.0), w.item()
    (True, 6.0)
    """
    n, line = _count("scale_", tensors), lines.here(sys._getframe(1))
    if not _at_gpu(factor):
        factor = most if factor > most else float(factor)
        if _done("scale_", lib.tl_scale(n, _handles("scale_", tensors, n), factor, line)):
            return True
    there = _gpu(tensors)
    return there is not None and there.scale(tensors, factor, line, most)


def unscale_(tensors: Sequence[Tensor], factor: float | Tensor) -> Tensor | None:
    """Multiply several tensors on a GPU by one factor; gives a bool there that tells whether a product is not finite. None: not served.

    >>> tl.fused.unscale_([tl.ones(2)], 0.5) is None  # on the CPU
    True
    """
    there = _gpu(tensors)
    return None if there is None else there.unscale(tensors, factor, lines.here(sys._getframe(1)))
