"""Gradient clipping, and parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable

import tensorlib as tl
from tensorlib import Tensor

__all__ = [
    "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "parameters_to_vector", "vector_to_parameters",
]  # fmt: skip


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """What there is of gradients: of row-sparse ones the rows, added up."""
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return _rows_of_sparse([g for p in listed if (g := p.grad) is not None])


def _rows_of_sparse(tensors: list[Tensor]) -> list[Tensor]:
    return [t.coalesce().values() if isinstance(t, tl.SparseTensor) else t for t in tensors]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Norm of all elements of several tensors together; `norm_type` may be ``float("inf")``. `foreach`, PyTorch's hint, changes nothing.

    On a GPU the norm stays there, and only `error_if_nonfinite` waits for it.

    >>> tl.nn.utils.get_total_norm([tl.tensor([3.0]), tl.tensor([4.0])]).item()
    5.0
    """
    listed = _rows_of_sparse([tensors] if isinstance(tensors, Tensor) else list(tensors))
    squares = tl.fused.sum_of_squares(listed) if norm_type == 2 else None
    if isinstance(squares, Tensor):
        total = squares.sqrt().to(listed[0].dtype)
    elif squares is not None:
        total = tl.tensor(math.sqrt(squares), dtype=listed[0].dtype if listed else None)
    else:
        total = _norm_of_norms(listed, norm_type)
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(f"get_total_norm: the norm of order {norm_type} is {total.item()}, expected a finite one.")
    return total


def _norm_of_norms(tensors: list[Tensor], order: float) -> Tensor:
    if not tensors:
        return tl.tensor(0.0)
    with tl.no_grad():
        norms = tl.stack([t.norm(order) for t in tensors])
        return norms.max() if order == math.inf else norms.norm(order)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients by one factor so that their joint norm is at most `max_norm`; returns the norm before that.

    >>> w = tl.nn.Parameter(tl.zeros(2))
    >>> (w * tl.tensor([3.0, 4.0])).sum().backward()
    >>> round(tl.nn.utils.clip_grad_norm_([w], 1.0).item(), 4), [round(v, 4) for v in w.grad.tolist()]
    (5.0, [0.6, 0.8])
    """
    gradients = _gradients(parameters)
    total = get_total_norm(gradients, norm_type, error_if_nonfinite)
    _scale_down(gradients, max_norm, total)
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale all gradients, whose joint norm is known to be `total_norm`, so that it is at most `max_norm`.

    >>> w = tl.nn.Parameter(tl.zeros(2))
    >>> (w * tl.tensor([3.0, 4.0])).sum().backward()
    >>> tl.nn.utils.clip_grads_with_norm_([w], 1.0, tl.nn.utils.get_total_norm([w.grad]))
    >>> [round(v, 4) for v in w.grad.tolist()]
    [0.6, 0.8]
    """
    _scale_down(_gradients(parameters), max_norm, total_norm)


def _scale_down(gradients: list[Tensor], max_norm: float, total: Tensor) -> None:
    if total.is_cuda:
        with tl.no_grad():
            limit = max_norm / (total.to(tl.float64) + 1e-6)
            if not tl.fused.scale_(gradients, limit, most=1.0):
                for g in gradients:
                    g.mul_(limit.clamp(max=1.0).to(device=g.device, dtype=g.dtype))
        return
    factor = max_norm / (total.item() + 1e-6)
    if not factor >= 1 and not tl.fused.scale_(gradients, factor):  # a NaN reaches the gradients
        with tl.no_grad():
            for g in gradients:
                g.mul_(factor)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Limit every gradient element to [-clip_value, clip_value].

    >>> w = tl.nn.Parameter(tl.zeros(2))
    >>> (w * tl.tensor([3.0, -0.5])).sum().backward()
    >>> tl.nn.utils.clip_grad_value_([w], 1.0)
    >>> w.grad.tolist()
    [1.0, -0.5]
    """
    with tl.no_grad():
        for g in _gradients(parameters):
            g.clamp_(-float(clip_value), float(clip_value))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters joined into one vector.

    >>> tl.nn.utils.parameters_to_vector(tl.nn.Linear(3, 2).parameters()).shape
    (8,)
    """
    return tl.cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy consecutive parts of a vector into the parameters: the opposite of `parameters_to_vector`.

    >>> layer = tl.nn.Linear(1, 1)
    >>> tl.nn.utils.vector_to_parameters(tl.tensor([3.0, 4.0]), layer.parameters())
    >>> layer(tl.ones(1)).item()
    7.0
    """
    listed = list(parameters)
    expected = sum(p.numel() for p in listed)
    if vec.ndim != 1 or vec.numel() != expected:
        raise tl.ShapeError(f"vector_to_parameters: expected a vector of {expected} elements, got shape {vec.shape}.")
    with tl.no_grad():
        start = 0
        for p in listed:
            p.copy_(vec[start : start + p.numel()].reshape(p.shape))
            start += p.numel()
