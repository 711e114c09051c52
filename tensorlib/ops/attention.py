"""Scaled dot-product attention: the kernel's fast lane, and its definition in plain operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tensorlib import ops
from tensorlib.dtypes import DType, bool_
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.native import lib
from tensorlib.ops.declare import structured
from tensorlib.ops.fused import SLOW, caller, handle, next_draw
from tensorlib.ops.table import BATCH, TABLE, Draw, error, sample
from tensorlib.tensor import wrap

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["scaled_dot_product_attention"]
METHODS: tuple[str, ...] = ()
INPLACE: tuple[str, ...] = ()


def _dtype_rule(common: DType) -> tuple[DType | None, DType | None]:
    """Floats only, and nothing converted: a mask may be bool."""
    if not common.is_floating_point:
        raise DTypeError(f"scaled_dot_product_attention: expected floating-point tensors, got {common.name}.")
    return None, common


_INPUTS = ("query", "key", "value", "attn_mask")
_ATTRS = ("dropout_p", "is_causal", "scale", "enable_gqa", "seed", "counter")

# ---- the definition ----
# `probabilities` are the softmax over keys; a query that sees no key has zeros. They meet dropout, then the values.


def _scale(scale: float | None, query: Any) -> float:
    return float(max(query.shape[-1], 1) ** -0.5 if scale is None else scale)


def _grouped(xp: Any, heads: Any, query: Any) -> Any:
    """Every head of keys (values) once for each query head that reads it; of arrays."""
    return xp.repeat(heads, query.shape[-3] // heads.shape[-3], axis=-3)


def _attention_ref(
    xp: Any,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    seed: int = 0,
    counter: int = 0,
) -> Any:
    if enable_gqa:
        key, value = _grouped(xp, key, query), _grouped(xp, value, query)
    scores = xp.matmul(query * query.dtype.type(_scale(scale, query)), key.swapaxes(-1, -2))
    if attn_mask is not None:
        seen = attn_mask if attn_mask.dtype == bool else None
        scores = scores + attn_mask if seen is None else xp.where(seen, scores, -xp.inf).astype(scores.dtype)
    if is_causal:
        scores = xp.where(xp.tri(*scores.shape[-2:], dtype=bool), scores, -xp.inf).astype(scores.dtype)
    if scores.size:
        most = scores.max(-1, keepdims=True)
        e = xp.exp(scores - xp.where(most == -xp.inf, 0, most).astype(scores.dtype))
        total = e.sum(-1, keepdims=True)
        scores = e / xp.where(total == 0, 1, total).astype(e.dtype)
    if dropout_p:
        scores = TABLE["dropout"].ref(xp, scores, p=dropout_p, key=seed, counter=counter)
    return xp.matmul(scores, value)


def _expanded(heads: Tensor, query: Tensor) -> Tensor:
    """`_grouped`, of tensors."""
    times = query.shape[-3] // heads.shape[-3]
    wide = heads.unsqueeze(-3).expand((*heads.shape[:-2], times, *heads.shape[-2:]))
    return wide.reshape((*heads.shape[:-3], query.shape[-3], *heads.shape[-2:]))


class _Steps:
    """What the definition and the gradient rules share, from the operands on."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        seed: int = 0,
        counter: int = 0,
    ) -> None:
        self.query, self.scale = query, _scale(scale, query)
        self.key, self.value = (_expanded(x, query) if enable_gqa else x for x in (key, value))
        self.heads = [x.shape[-3] if enable_gqa else 0 for x in (key, value)]
        self.dropout = {"p": dropout_p, "key": seed, "counter": counter}
        scores = (query * self.scale) @ self.key.mT
        if attn_mask is not None:
            if attn_mask.dtype is bool_:
                scores = scores.masked_fill(attn_mask.logical_not(), -math.inf)
            else:
                scores = scores + attn_mask
        if is_causal:
            scores = scores.masked_fill(_later(scores), -math.inf)
        self.probabilities = _probabilities(scores)

    def drop(self, x: Tensor) -> Tensor:
        """Linear in x, so of a gradient it is its own gradient."""
        if not self.dropout["p"]:
            return x
        assert TABLE["dropout"].call is not None
        return cast("Tensor", TABLE["dropout"].call(x, **self.dropout))

    def out(self) -> Tensor:
        return self.drop(self.probabilities) @ self.value

    def folded(self, g: Tensor, heads: int) -> Tensor:
        """The gradient of so many heads of keys or values from that of one for each query head."""
        if not heads:
            return g
        return g.reshape((*g.shape[:-3], heads, g.shape[-3] // heads, *g.shape[-2:])).sum(-3)

    def score_gradient(self, g: Tensor) -> Tensor:
        of_probabilities = self.drop(g @ self.value.mT)
        p = self.probabilities
        return p * (of_probabilities - (of_probabilities * p).sum(-1, keepdim=True))


def _later(scores: Tensor) -> Tensor:
    """Where the key comes after the query."""
    rows, cols = scores.shape[-2:]
    arange, device = ops.creation.arange, scores.device
    return arange(cols, device=device) > arange(rows, device=device).unsqueeze(-1)


def _probabilities(scores: Tensor) -> Tensor:
    if scores.numel() == 0:
        return scores
    most = scores.detach().amax(-1, keepdim=True)
    e = (scores - most.masked_fill(most == -math.inf, 0.0)).exp()
    total = e.sum(-1, keepdim=True)
    return e / total.masked_fill(total == 0, 1.0)


def definition(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, **how: Any) -> Tensor:
    """All of it in plain operations; takes the entry's operands and attributes."""
    return _Steps(query, key, value, attn_mask, **how).out()


def _rule(gradient: Callable[[_Steps, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A gradient rule, from what it makes of the definition's steps."""

    def rule(g: Tensor, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, **how: Any) -> Tensor:
        return gradient(_Steps(query, key, value, attn_mask, **how), g)

    rule.needs = ("g", *_INPUTS, *_ATTRS)  # type: ignore[attr-defined]
    return rule


# ---- the entry ----
def _samples() -> list[Any]:
    seen = [True, True, False, True, True, False, True]
    holes = Draw((3, 5), special=(-math.inf, 0.0, -math.inf, 1.0, -2.0))
    drop = {"scale": 0.1, "enable_gqa": False, "seed": 3, "counter": 5}
    return [
        sample((33, 2), (5, 2), (5, 2), None),
        sample((2, 3, 7, 5), (2, 3, 9, 5), (2, 3, 9, 6), None),
        sample((2, 3, 7, 5), (2, 3, 9, 5), (2, 3, 9, 6), (7, 9)),
        sample((2, 2, 6, 3), (2, 2, 6, 3), (2, 2, 6, 3), None, is_causal=True),
        sample((2, 5, 3), (2, 9, 3), (2, 9, 2), None, is_causal=True, scale=0.1),
        sample((2, 9, 3), (2, 4, 3), (2, 4, 2), None, is_causal=True, scale=-0.1),
        sample((2, 2, 3, 4), (1, 2, 5, 4), (2, 1, 5, 4), (2, 1, 1, 5)),
        sample((2, 4, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3), None, enable_gqa=True),
        sample((4, 3, 4), (2, 5, 4), (2, 5, 4), (4, 3, 5), enable_gqa=True, is_causal=True),
        sample((4, 3, 4), (2, 5, 4), (1, 5, 4), None, enable_gqa=True),
        sample((2, 70, 17), (2, 130, 17), (2, 130, 18), None),
        sample((1, 40, 20), (1, 150, 20), (1, 150, 33), None, is_causal=True),
        sample((2, 3, 4), (2, 7, 4), (2, 7, 4), Draw((3, 7), dtype="bool", values=3 * seen)),
        sample((2, 3, 4), (2, 7, 4), (2, 7, 4), Draw((2, 1, 7), dtype="bool", values=seen + 7 * [False])),
        sample((3, 4), (5, 4), (5, 4), holes, smooth=False),
        sample((0, 4), (5, 4), (5, 4), None),
        sample((2, 3, 4), (2, 0, 4), (2, 0, 3), None),
        sample((3, 0), (5, 0), (5, 2), None),
        sample((0, 3, 4), (0, 5, 4), (0, 5, 4), None),
        sample((2, 3, 2), (2, 5, 2), (2, 5, 300), None, smooth=False),
        sample((2, 5, 3), (2, 9, 3), (2, 9, 2), None, dropout_p=0.4, is_causal=False, **drop),
        sample((2, 40, 3), (2, 70, 3), (2, 70, 2), None, dropout_p=0.2, is_causal=True, **drop),
        sample((2, 2, 3), (2, 3, 3), (2, 3, 2), (2, 3), dropout_p=0.2, is_causal=True, **drop),
        sample((9, 2), (5, 2), (5, 2), None, dropout_p=1.0, is_causal=False, **drop),
    ]


_NAME = "scaled_dot_product_attention"

_attention = structured(
    _NAME,
    autocast="lower",
    inputs=_INPUTS,
    attrs=_ATTRS,
    dtype=_dtype_rule,
    ref=_attention_ref,
    vjp=(
        _rule(lambda s, g: s.score_gradient(g) @ s.key * s.scale),
        _rule(lambda s, g: s.folded(s.score_gradient(g).mT @ (s.query * s.scale), s.heads[0])),
        _rule(lambda s, g: s.folded(s.drop(s.probabilities).mT @ g, s.heads[1])),
        _rule(lambda s, g: s.score_gradient(g)),
    ),
    composite=definition,
    native=lambda line, query, key, value, attn_mask, dropout_p=0.0, is_causal=False, scale=1.0, enable_gqa=False, seed=0, counter=0: (
        lib.tl_attend(
            query._array, key._array, value._array, handle(attn_mask), scale, is_causal, enable_gqa, dropout_p, seed, counter, line
        )
    ),
    decode=lambda node: {
        "is_causal": bool(lib.tl_node_int(node, 0)),
        "enable_gqa": bool(lib.tl_node_int(node, 1)),
        "seed": lib.tl_node_int(node, 2) % 2**64,
        "counter": lib.tl_node_int(node, 3) % 2**64,
        "scale": lib.tl_node_real(node, 0),
        "dropout_p": lib.tl_node_real(node, 1),
    },
    samples=_samples,
    rowwise=lambda: [
        sample((BATCH, 4, 40, 32), (BATCH, 4, 40, 32), (BATCH, 4, 40, 32), None, is_causal=True),
        sample((BATCH, 70, 17), (BATCH, 130, 17), (BATCH, 130, 18), None),
        sample((BATCH, 2, 5, 8), (BATCH, 2, 9, 8), (BATCH, 2, 9, 8), (5, 9)),
        sample((BATCH, 2, 5, 8), (BATCH, 2, 9, 8), (BATCH, 2, 9, 8), (BATCH, 1, 5, 9)),
        sample((BATCH, 4, 33, 16), (BATCH, 2, 50, 16), (BATCH, 2, 50, 16), None, enable_gqa=True),
        sample((BATCH, 1, 600, 64), (BATCH, 1, 600, 64), (BATCH, 1, 600, 64), None, is_causal=True),
        sample((BATCH, 1, 64), (BATCH, 900, 64), (BATCH, 900, 64), None),
    ],
    errors=[
        error((4,), (4,), (4,), raises=ValueError, match=r"query must have shape \(..., L, D\), got \(4,\)"),
        error((3, 4), (5, 6), (5, 6), raises=ValueError, match=r"query of shape \(3, 4\) and key of shape \(5, 6\)"),
        error((3, 4), (5, 4), (6, 4), raises=ValueError, match=r"key of shape \(5, 4\) and value of shape \(6, 4\)"),
        error((2, 3, 4), (3, 5, 4), (3, 5, 4), raises=ValueError, match="leading dimensions"),
        error((3, 4), (5, 4), (5, 4), (3, 4), raises=ValueError, match=r"attn_mask of shape \(3, 4\) .* \(3, 5\)"),
        error((3, 4), (5, 4), (5, 4), (2, 3, 5), raises=ValueError, match=r"attn_mask of shape \(2, 3, 5\)"),
        error((3, 4), (5, 4), (5, 4), Draw((3, 5), dtype="int64"), raises=TypeError, match="attn_mask is int64"),
        error((3, 4), (5, 4), Draw((5, 4), dtype="int64"), raises=TypeError, match="value is int64"),
        error((3, 4), (5, 4), (5, 4), dropout_p=1.5, raises=ValueError, match="dropout_p must be a probability"),
        error((3, 3, 4), (2, 5, 4), (2, 5, 4), enable_gqa=True, raises=ValueError, match="2 heads of key do not divide"),
        error((3, 4), (5, 4), (5, 4), enable_gqa=True, raises=ValueError, match="enable_gqa needs"),
    ],
)  # fmt: skip


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(scale * query @ key.mT + attn_mask) @ value``: every query's mean of the values, weighted by how well their keys fit.

    Memory grows with L + S, not with L * S: the scores exist a block at a time, and backward computes them again. Operands may lie in memory
    as they like; heads from ``x.view(B, T, H, D).transpose(1, 2)`` are read in place, and the result then lies as `query` does.

    Args:
        attn_mask: bool, True where a query may see a key; or numbers that are added to the scores.
        dropout_p: the share of weights that is dropped, also in evaluation: pass 0.0 there.
        is_causal: query i sees keys 0 to i only (besides `attn_mask`).
        scale: of the products; default ``1 / sqrt(D)``.
        enable_gqa: key and value may have fewer heads (dimension -3), each read by as many query heads.

    Shapes:
        query: (..., H, L, D), key: (..., H, S, D), value: (..., H, S, Dv), attn_mask: broadcasts to (..., H, L, S)
        returns: (..., H, L, Dv). A query that may see no key gets zeros.

    Raises:
        ShapeError: where sizes differ that must agree.
        DTypeError: unless query, key and value are of one floating-point dtype, and attn_mask of that or bool.

    Reference: Vaswani et al. 2017; Dao et al. 2022 for the blocks.

    >>> q = tl.zeros(1, 2, 4)
    >>> tl.scaled_dot_product_attention(q, q, tl.tensor([[[1.0], [3.0]]]), is_causal=True).tolist()
    [[[1.0], [2.0]]]
    """
    try:
        scale = _scale(scale, query)
        if dropout_p == 0 and (
            made := lib.tl_attend(
                query._array,
                key._array,
                value._array,
                handle(attn_mask),
                scale,
                is_causal,
                enable_gqa,
                0.0,
                0,
                0,
                caller(),
            )
        ):
            return wrap(made)
    except SLOW:
        pass
    leading = _check(query, key, value, attn_mask, dropout_p, enable_gqa)
    seed = counter = 0
    if dropout_p:
        seed, counter = next_draw(math.prod(leading) * query.shape[-2] * key.shape[-2])
    return cast(
        "Tensor",
        _attention(
            query, key, value, attn_mask, dropout_p=float(dropout_p), is_causal=is_causal, scale=scale, enable_gqa=enable_gqa,
            seed=seed, counter=counter
        ),
    )  # fmt: skip


def _check(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float, enable_gqa: bool
) -> tuple[int, ...]:
    """The leading dimensions of the scores; raises where something does not fit."""
    for name, t in (("query", query), ("key", key), ("value", value)):
        if t.dtype is not query.dtype or not t.dtype.is_floating_point:
            raise DTypeError(f"{_NAME}: {name} is {t.dtype.name}, expected query's dtype, a floating-point one.")
        if t.ndim < 2:
            raise ShapeError(f"{_NAME}: {name} must have shape (..., L, D), got {t.shape}.")
    if query.shape[-1] != key.shape[-1]:
        raise ShapeError(
            f"{_NAME}: query of shape {query.shape} and key of shape {key.shape} differ in the last dimension."
        )
    if key.shape[-2] != value.shape[-2]:
        raise ShapeError(f"{_NAME}: key of shape {key.shape} and value of shape {value.shape} differ in dimension -2.")
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"{_NAME}: dropout_p must be a probability in [0, 1], got {dropout_p}.")
    leading = leading_dimensions(query, key, value, enable_gqa)
    if attn_mask is not None:
        if attn_mask.dtype is not bool_ and attn_mask.dtype is not query.dtype:
            raise DTypeError(f"{_NAME}: attn_mask is {attn_mask.dtype.name}, expected bool or {query.dtype.name}.")
        scores = (*leading, query.shape[-2], key.shape[-2])
        try:
            fits = np.broadcast_shapes(attn_mask.shape, scores) == scores
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(
                f"{_NAME}: attn_mask of shape {attn_mask.shape} does not broadcast to the scores' {scores}."
            )
    return leading


def leading_dimensions(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> tuple[int, ...]:
    """Of the scores; raises where they do not broadcast."""
    shapes = [t.shape[:-2] for t in (query, key, value)]
    if enable_gqa:
        if min(t.ndim for t in (query, key, value)) < 3:
            raise ShapeError(f"{_NAME}: enable_gqa needs heads, dimension -3 of query, key and value.")
        for name, shape in zip(("key", "value"), shapes[1:], strict=True):
            if shape[-1] == 0 or shapes[0][-1] % shape[-1]:
                raise ShapeError(f"{_NAME}: {shape[-1]} heads of {name} do not divide query's {shapes[0][-1]}.")
        shapes[1:] = [(*shape[:-1], shapes[0][-1]) for shape in shapes[1:]]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(
            f"{_NAME}: the leading dimensions of query {query.shape}, key {key.shape} and value {value.shape} do not broadcast."
        ) from None
