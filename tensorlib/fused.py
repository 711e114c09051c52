"""Kernels that do the work of many operations in one call, for library code and for users who write their own layers and optimizers.

Each that works in place declines what it does not serve by returning False, and has then changed nothing: run the plain operations instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

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
    "adagrad_rows_", "adam_", "adam_rows_", "crf_total", "gru_layer", "linear_act", "lion_", "lstm_layer", "rms_", "rnn_layer", "scale_", "sgd_",
    "sgd_rows_", "sum_of_squares", "tree_lstm", "zero_grad_",
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


def sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    momentum_buffers: Sequence[Tensor | None] | None,
    lr: float,
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
    n = _count("sgd_", params)
    served = lib.tl_sgd(
        n, _handles("sgd_", params, n), _handles("sgd_", grads, n), _handles("sgd_", momentum_buffers, n),
        lr, momentum, dampening, weight_decay, nesterov, maximize, lines.here(sys._getframe(1)),
    )  # fmt: skip
    return _done("sgd_", served)


def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    exp_avgs: Sequence[Tensor | None],
    exp_avg_sqs: Sequence[Tensor | None],
    max_exp_avg_sqs: Sequence[Tensor | None] | None,
    steps: Sequence[Tensor | None],
    lr: float,
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
    served = lib.tl_adam(
        n, *(_handles("adam_", t, n) for t in (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, mu_products)),
        _VARIANTS[variant], lr, beta1, beta2, eps, weight_decay, momentum_decay, decoupled, maximize, lines.here(sys._getframe(1)),
    )  # fmt: skip
    return _done("adam_", served)


def rms_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    squares: Sequence[Tensor | None],
    means: Sequence[Tensor | None] | None,
    momentum_buffers: Sequence[Tensor | None] | None,
    steps: Sequence[Tensor | None] | None,
    lr: float,
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
    seconds = means if deltas is None else deltas
    served = lib.tl_rms(
        n, *(_handles("rms_", t, n) for t in (params, grads, squares, seconds, momentum_buffers, steps)),
        lr, keep, fresh, eps, weight_decay, momentum, lr_decay, deltas is not None, maximize, lines.here(sys._getframe(1)),
    )  # fmt: skip
    return _done("rms_", served)


def lion_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    exp_avgs: Sequence[Tensor | None],
    lr: float,
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
    served = lib.tl_lion(
        n, *(_handles("lion_", t, n) for t in (params, grads, exp_avgs)),
        lr, beta1, beta2, weight_decay, maximize, lines.here(sys._getframe(1)),
    )  # fmt: skip
    return _done("lion_", served)


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
    lr: float,
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


def sum_of_squares(tensors: Sequence[Tensor]) -> float | None:
    """The sum of the squares of all elements of several tensors, added in float64; None where the kernel does not serve.

    >>> tl.fused.sum_of_squares([tl.tensor([3.0]), tl.tensor([4.0])])
    25.0
    """
    n, out = _count("sum_of_squares", tensors), ffi.new("double *")
    return (
        out[0]
        if _done("sum_of_squares", lib.tl_sum_of_squares(n, _handles("sum_of_squares", tensors, n), out))
        else None
    )


def scale_(tensors: Sequence[Tensor], factor: float) -> bool:
    """Multiply several tensors by one factor.

    >>> w = tl.tensor([3.0])
    >>> tl.fused.scale_([w], 2.0), w.item()
    (True, 6.0)
    """
    n = _count("scale_", tensors)
    return _done("scale_", lib.tl_scale(n, _handles("scale_", tensors, n), factor, lines.here(sys._getframe(1))))
