"""Distances between the rows of two collections."""

from __future__ import annotations

from typing import Any

from tensorlib.dtypes import promote_types
from tensorlib.errors import ShapeError
from tensorlib.ops import elementwise
from tensorlib.ops.declare import composite
from tensorlib.ops.pairs import floats_only
from tensorlib.ops.table import Draw, error, sample
from tensorlib.tensor import Tensor

__all__ = ["cdist", "dist"]
METHODS = ("dist",)
INPLACE: tuple[str, ...] = ()

MODES = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
FEW = 25  # rows; with more on either side, Euclidean distances come from one product


def _ref(xp: Any, x1: Any, x2: Any, *, p: float) -> Any:
    apart = xp.abs(x1[..., :, None, :] - x2[..., None, :, :])
    if p == 0:
        return (apart != 0).sum(-1).astype(apart.dtype)
    if p == float("inf"):
        return apart.max(-1, initial=0)
    return (apart**p).sum(-1) ** (1 / p)


@composite(
    "cdist",
    inputs=("x1", "x2"),
    attrs=("p",),
    dtype=floats_only("cdist"),
    ref=_ref,
    samples=[
        *(sample((3, 4), (5, 4), p=p) for p in (0.0, 1.0, 2.0, 3.0, float("inf"))),
        sample(Draw((30, 4), 0.0, 1.0), Draw((3, 4), 5.0, 6.0), p=2.0), sample((2, 1, 3, 4), (5, 2, 4), p=2.0), sample((0, 4), (5, 4), p=2.0),
        sample((3, 4), (0, 4), p=1.0),
    ],
    errors=[
        error((3, 4), (5, 3), p=2.0, raises=ValueError, match="cdist: rows of 4 and 3 elements"),
        error((4,), (5, 4), p=2.0, raises=ValueError, match=r"cdist: expected \(\.\.\., P, D\) and \(\.\.\., R, D\)"),
        error((3, 4), (5, 4), p=-1.0, raises=ValueError, match="cdist: p must not be negative"),
    ],
)  # fmt: skip
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = MODES[0]) -> Tensor:
    """The p-norm distance of each row of `x1` to each row of `x2`.

    Euclidean distances come from one matrix product where there are more than 25 rows on either side (`compute_mode` says so or forbids it):
    much faster, but distances far smaller than the rows' norms are then inexact. The gradient at distance 0 is 0.

    Shapes:
        x1: (..., P, D), x2: (..., R, D)  ->  out: (..., P, R); what comes before P and R is broadcast

    >>> tl.cdist(tl.tensor([[0.0, 0.0], [3.0, 0.0]]), tl.tensor([[0.0, 4.0]])).tolist()
    [[4.0], [5.0]]
    """
    if x1.ndim < 2 or x2.ndim < 2:
        raise ShapeError(f"cdist: expected (..., P, D) and (..., R, D), got {x1.shape} and {x2.shape}.")
    if x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(
            f"cdist: rows of {x1.shape[-1]} and {x2.shape[-1]} elements, of shapes {x1.shape} and {x2.shape}."
        )
    floats_only("cdist")(promote_types(x1.dtype, x2.dtype))
    if p < 0:
        raise ShapeError(f"cdist: p must not be negative, got {p}.")
    if compute_mode not in MODES:
        raise ShapeError(f"cdist: compute_mode must be one of {', '.join(MODES)}, got {compute_mode!r}.")
    many = x1.shape[-2] > FEW or x2.shape[-2] > FEW
    if p == 2 and (compute_mode == MODES[1] or (compute_mode == MODES[0] and many)):
        return _by_product(x1, x2)
    apart = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    return apart.norm(p, -1) if x1.shape[-1] else apart.sum(-1)


def _by_product(x1: Tensor, x2: Tensor) -> Tensor:
    """From ``|a|^2 + |b|^2 - 2 a b``."""
    square = x1.square().sum(-1, keepdim=True) + x2.square().sum(-1).unsqueeze(-2) - 2 * (x1 @ x2.mT)
    apart = square > 0
    return elementwise.where(apart, elementwise.where(apart, square, 1).sqrt(), 0)


def dist(input: Tensor, other: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm of ``input - other``, over all elements.

    >>> tl.dist(tl.tensor([0.0, 0.0]), tl.tensor([3.0, 4.0])).item()
    5.0
    """
    return (input - other).norm(p)
