"""How far vectors are from each other, and products of two of them.

`tl.nn.functional` offers them under PyTorch's names. Dimension letters: N batch, D features.
"""

from __future__ import annotations

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.utils.rnn import by_rows

__all__ = ["bilinear", "cosine_similarity", "normalize", "pairwise_distance", "pdist"]


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """`input` divided by its norm along `dim`, which counts as at least `eps`.

    >>> [round(v, 4) for v in tl.nn.functional.normalize(tl.tensor([3.0, 4.0]), dim=0).tolist()]
    [0.6, 0.8]
    """
    return input / input.norm(p, dim, keepdim=True).clamp_min(eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between `x1` and `x2` along `dim`; each norm counts as at least `eps`.

    >>> tl.nn.functional.cosine_similarity(tl.tensor([[1.0, 0.0]]), tl.tensor([[0.0, 2.0]])).item()
    0.0
    """
    unit1, unit2 = (x / x.norm(2, dim, keepdim=True).clamp_min(eps) for x in (x1, x2))
    return (unit1 * unit2).sum(dim)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of ``x1 - x2 + eps`` over the last dimension.

    Shapes:
        x1: (..., D), x2: (..., D)  ->  out: (...), or (..., 1) with keepdim

    >>> round(tl.nn.functional.pairwise_distance(tl.tensor([[0.0, 0.0]]), tl.tensor([[3.0, 4.0]])).item(), 4)
    5.0
    """
    return (x1 - x2 + eps).norm(p, -1, keepdim=keepdim)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distances between all pairs of rows: those of row 0 with 1, 2, ..., then those of row 1 with 2, 3, ...

    Shapes:
        input: (N, D)  ->  out: (N (N - 1) / 2,)

    >>> tl.nn.functional.pdist(tl.tensor([[0.0], [1.0], [5.0]]), 1.0).tolist()
    [1.0, 5.0, 4.0]
    """
    if input.ndim != 2:
        raise tl.ShapeError(f"pdist: expected (N, D), got shape {input.shape}.")
    if p < 0:
        raise ValueError(f"pdist: p must not be negative, got {p}.")
    one, other = tl.triu_indices(input.shape[0], input.shape[0], 1, device=input.device)
    return (input[one] - input[other]).norm(p, -1)


@by_rows
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input1 @ weight[k] @ input2 + bias[k]`` for each k.

    Shapes:
        input1: (..., D1), input2: (..., D2), weight: (D_out, D1, D2), bias: (D_out,)  ->  out: (..., D_out)

    >>> tl.nn.functional.bilinear(tl.ones(1, 2), tl.ones(1, 3), tl.ones(1, 2, 3)).tolist()
    [[6.0]]
    """
    if weight.ndim != 3:
        raise tl.ShapeError(f"bilinear: weight must have shape (D_out, D1, D2), got {weight.shape}.")
    out, one, other = weight.shape
    if input1.shape != (*input1.shape[:-1], one) or input2.shape != (*input1.shape[:-1], other):
        raise tl.ShapeError(
            f"bilinear: expected inputs (..., {one}) and (..., {other}) for weight {weight.shape}, got {input1.shape} and {input2.shape}."
        )
    if bias is not None and bias.shape != (out,):
        raise tl.ShapeError(f"bilinear: bias has shape {bias.shape}, expected {(out,)}.")
    rows = input1.reshape(-1, one) @ weight.transpose(0, 1).reshape(one, out * other)
    made = rows.reshape(-1, out, other) @ input2.reshape(-1, other, 1)
    made = made.reshape(*input1.shape[:-1], out)
    return made if bias is None else made + bias
