"""Reductions over dimensions. The largest and the smallest are in extremes.py.

Inside, `dim` is None (all dimensions) or a tuple of non-negative ones; the public functions normalise what users give.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tensorlib import ops
from tensorlib.dtypes import default_dtype
from tensorlib.native import lib
from tensorlib.ops import rules
from tensorlib.ops.comparison import eq, isfinite, isnan, ne
from tensorlib.ops.declare import HALVES, composite, structured
from tensorlib.ops.elementwise import abs, square, where
from tensorlib.ops.shape import normalize_dim, normalize_dims
from tensorlib.ops.table import BATCH, NATIVE_NUMBERS, Draw, Sample, error, sample
from tensorlib.ops.transcendental import exp, log, pow, sqrt

if TYPE_CHECKING:
    from tensorlib.dtypes import DType
    from tensorlib.tensor import Tensor

Dims = int | Sequence[int] | None

__all__ = [
    "all", "any", "count_nonzero", "logsumexp", "mean", "nanmean", "nansum", "norm", "prod", "std", "std_mean", "sum", "var", "var_mean",
]  # fmt: skip
METHODS = tuple(name for name in __all__ if name not in ("std_mean", "var_mean"))
INPLACE: tuple[str, ...] = ()

_ALL_DIMS = 0xFFFF  # C's mask for "all dimensions"

# ---- shared pieces ----


def dims_or_all(name: str, dim: Dims, x: Tensor) -> tuple[int, ...] | None:
    return None if dim is None else normalize_dims(name, dim, x.ndim)


def kept(shape: Sequence[int], dim: tuple[int, ...] | None) -> tuple[int, ...]:
    """`shape` with the reduced dimensions kept as 1."""
    return tuple(1 if dim is None or i in dim else n for i, n in enumerate(shape))


def _size(shape: Sequence[int], dim: tuple[int, ...] | None) -> int:
    """How many elements one result is made of."""
    return math.prod(n for i, n in enumerate(shape) if dim is None or i in dim)


def spread(t: Tensor, shape: tuple[int, ...], dim: tuple[int, ...] | None, keepdim: bool) -> Tensor:
    """A reduction's result, or its gradient, broadcast back over the operand's shape."""
    return (t if keepdim else t.reshape(kept(shape, dim))).expand(shape)


def lane(name: str) -> Callable[..., int]:
    """The kernel of a reduction, for `structured`."""
    number, reduce = NATIVE_NUMBERS[name], lib.tl_reduce

    def call(line: int, x: Tensor, *, dim: tuple[int, ...] | None, keepdim: bool) -> int:
        mask = _ALL_DIMS if dim is None else builtins.sum(1 << i for i in dim)
        return int(reduce(number, x._array, mask, keepdim, line))

    return call


def decode(node: int) -> dict[str, Any]:
    """The attributes of a node that the kernel's lane recorded."""
    mask = lib.tl_node_int(node, 0)
    dim = None if mask == _ALL_DIMS else tuple(i for i in range(16) if mask >> i & 1)
    return {"dim": dim, "keepdim": bool(lib.tl_node_int(node, 1))}


def samples_over_dims(low: float = -2.0, high: float = 2.0, empty: bool = True, **attrs: Any) -> Any:
    """One operand of several shapes, over all dimensions, one, and several, dimensions kept or not."""

    def make() -> list[Sample]:
        cases: list[tuple[tuple[int, ...], Any]] = [
            ((), None), ((5,), None), ((5,), 0), ((3, 4), None), ((3, 4), 0), ((3, 4), -1), ((2, 3, 4), 1), ((2, 3, 4), (0, 2)), ((2, 70), 1),
            ((0, 3), 1), ((70, 33), 0),
        ]  # fmt: skip
        if empty:
            cases += [((0, 3), 0), ((0,), None)]
        draws = [(Draw(shape, low, high, distinct=True), dim) for shape, dim in cases]
        return [Sample((d,), {"dim": dim, "keepdim": k, **attrs}) for d, dim in draws for k in (False, True)]

    return make


def samples_over_one_dim(empty: bool = True, **attrs: Any) -> list[Sample]:
    return [s for s in samples_over_dims(empty=empty, **attrs)() if not isinstance(s.attrs["dim"], tuple)]


def rows_over_dims(low: float = -2.0, high: float = 2.0) -> Any:
    """Rows reduced within themselves: whole, in lines and in columns."""

    def make() -> list[Sample]:
        cases: list[tuple[tuple[int, ...], int | tuple[int, ...]]] = [
            ((67,), 1), ((5000,), 1), ((40, 50), 1), ((40, 50), 2), ((40, 50), (1, 2)), ((7, 3, 90), (1, 3)),
        ]  # fmt: skip
        return [sample(Draw((BATCH, *shape), low, high, distinct=True), dim=dim, keepdim=False) for shape, dim in cases]

    return make


def rows_over_one_dim() -> list[Sample]:
    return [s for s in rows_over_dims()() if not isinstance(s.attrs["dim"], tuple)]


OUT_OF_RANGE = (error((2, 3), dim=2, raises=IndexError, match="dim 2 is out of range"),)

# ---- sum, mean, prod ----

_sum = structured(
    "sum",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    dtype=rules.accumulator,
    ref=lambda xp, x, *, dim, keepdim: xp.sum(x, axis=dim, keepdims=keepdim),
    vjp=(lambda g, x_shape, dim, keepdim: spread(g, x_shape, dim, keepdim),),
    samples=samples_over_dims(),
    rowwise=rows_over_dims(),
    errors=OUT_OF_RANGE,
    native=lane("sum"),
    decode=decode,
)


def _mean_ref(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    if x.size:
        return xp.mean(x, axis=dim, keepdims=keepdim)
    return xp.sum(x, axis=dim, keepdims=keepdim) / x.dtype.type(0)  # NumPy would warn


_mean = structured(
    "mean",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    dtype=rules.floating,
    ref=_mean_ref,
    vjp=(lambda g, x_shape, dim, keepdim: spread(g / _size(x_shape, dim), x_shape, dim, keepdim),),
    samples=samples_over_dims(),
    rowwise=rows_over_dims(),
    errors=OUT_OF_RANGE,
    native=lane("mean"),
    decode=decode,
)


def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The sum over all dimensions, one, or several; integers and bool sum in int64.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...), or (..., 1, ...) with `keepdim`; input is first converted to `dtype` where given

    >>> tl.sum(tl.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=0).tolist()
    [4.0, 6.0]
    """
    return _sum(input if dtype is None else input.to(dtype), dim=dims_or_all("sum", dim, input), keepdim=keepdim)


def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The arithmetic mean over all dimensions, one, or several; NaN of nothing.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...), or (..., 1, ...) with `keepdim`; input is first converted to `dtype` where given

    >>> tl.mean(tl.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=1).tolist()
    [1.5, 3.5]
    """
    return _mean(input if dtype is None else input.to(dtype), dim=dims_or_all("mean", dim, input), keepdim=keepdim)


def nansum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """`sum` that counts NaN as 0.

    >>> tl.nansum(tl.tensor([1.0, float("nan"), 2.0])).item()
    3.0
    """
    return sum(where(isnan(input), 0, input), dim, keepdim, dtype=dtype)


def nanmean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """`mean` of what is not NaN.

    >>> tl.nanmean(tl.tensor([1.0, float("nan"), 2.0])).item()
    1.5
    """
    return nansum(input, dim, keepdim, dtype=dtype) / sum(eq(input, input), dim, keepdim)


def _others(x: Tensor) -> Tensor:
    """For each row of `x` the product of all other rows: halving pairwise, so zeros need no division and every derivative holds."""
    n = x.shape[0]
    if n < 2:
        return ops.creation.ones_like(x)
    half = n // 2
    low, high = x[:half], x[half : 2 * half]
    rest = x[2 * half :]
    outside = _others(ops.joins.cat([low * high, rest]))
    pairs = outside[:half]
    return ops.joins.cat([pairs * high, pairs * low, outside[half:]])


def _prod_grad(g: Tensor, x: Tensor, dim: tuple[int, ...] | None, keepdim: bool) -> Tensor:
    if dim is None:
        return g.reshape(()) * _others(x.reshape(-1)).reshape(x.shape)
    if x.ndim == 0:
        return g
    return spread(g, x.shape, dim, keepdim) * _others(x.movedim(dim[0], 0)).movedim(0, dim[0])


_prod = structured(
    "prod",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    dtype=rules.accumulator,
    ref=lambda xp, x, *, dim, keepdim: xp.prod(x, axis=dim, keepdims=keepdim),
    vjp=(_prod_grad,),
    rowwise=rows_over_one_dim,
    samples=lambda: [
        *samples_over_one_dim(),
        sample(Draw((5,), values=[1.5, 0.0, -2.0, 0.5, 3.0]), dim=0, keepdim=False),
    ],
    errors=OUT_OF_RANGE,
    native=lane("prod"),
    decode=decode,
)


def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The product over all dimensions or one; integers and bool multiply in int64.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...), or (..., 1, ...) with `keepdim`; input is first converted to `dtype` where given

    >>> tl.prod(tl.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=1).tolist()
    [2.0, 12.0]
    """
    along = None if dim is None else normalize_dims("prod", normalize_dim("prod", dim, input.ndim), input.ndim)
    return _prod(input if dtype is None else input.to(dtype), dim=along, keepdim=keepdim)


# ---- spread ----


def _var_ref(xp: Any, x: Any, *, dim: Any, correction: float, keepdim: bool) -> Any:
    axes = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else dim
    count = math.prod(x.shape[i] for i in axes) if x.ndim else 1
    deviation = x - xp.sum(x, axis=axes, keepdims=True) / x.dtype.type(count or 1)
    total = xp.sum(deviation * deviation, axis=axes, keepdims=keepdim)
    return total / xp.asarray(builtins.max(count - correction, 0.0), dtype=x.dtype)


def _var_grad(g: Tensor, x: Tensor, dim: Any, correction: float, keepdim: bool) -> Tensor:
    count = builtins.max(_size(x.shape, dim) - correction, 0.0)
    return spread(g * (2 / count if count else math.nan), x.shape, dim, keepdim) * (x - _mean(x, dim=dim, keepdim=True))


_var = structured(
    "var",
    inputs=("x",),
    attrs=("dim", "correction", "keepdim"),
    dtype=rules.floating,
    ref=_var_ref,
    vjp=(_var_grad,),
    samples=lambda: [s for c in (1, 0) for s in samples_over_dims(correction=c)() if s.args[0].shape != ()],
    errors=OUT_OF_RANGE,
)


def var(
    input: Tensor, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: float = 1
) -> Tensor:
    """The variance over all dimensions, one, or several: the sum of squared deviations over ``L - correction``.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...), or (..., 1, ...) with `keepdim`

    `unbiased` is the older spelling: True for correction 1, False for 0.

    >>> tl.var(tl.tensor([1.0, 2.0, 3.0])).item(), tl.var(tl.tensor([1.0, 3.0]), correction=0).item()
    (1.0, 1.0)
    """
    if isinstance(dim, bool):  # PyTorch's var(x, unbiased)
        dim, unbiased = None, dim
    if unbiased is not None:
        correction = int(unbiased)
    return _var(input, dim=dims_or_all("var", dim, input), correction=correction, keepdim=keepdim)


def _safe_root(x: Tensor) -> Tensor:
    """The square root with gradient 0 at 0, where that of a norm or a deviation has no direction."""
    return sqrt(where(eq(x, 0), 0, x))


def std(
    input: Tensor, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: float = 1
) -> Tensor:
    """The standard deviation, ``sqrt(var(input))``; its gradient is 0 where it is 0.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...), or (..., 1, ...) with `keepdim`

    >>> tl.std(tl.tensor([1.0, 2.0, 3.0])).item()
    1.0
    """
    if input.dtype in HALVES:  # so that only the result is rounded
        return std(input.float(), dim, unbiased, keepdim, correction=correction).to(input.dtype)
    return _safe_root(var(input, dim, unbiased, keepdim, correction=correction))


def var_mean(
    input: Tensor, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: float = 1
) -> tuple[Tensor, Tensor]:
    """`var` and `mean` at once.

    >>> [t.item() for t in tl.var_mean(tl.tensor([1.0, 2.0, 3.0]))]
    [1.0, 2.0]
    """
    return var(input, dim, unbiased, keepdim, correction=correction), mean(
        input, None if isinstance(dim, bool) else dim, keepdim
    )


def std_mean(
    input: Tensor, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: float = 1
) -> tuple[Tensor, Tensor]:
    """`std` and `mean` at once.

    >>> [t.item() for t in tl.std_mean(tl.tensor([1.0, 2.0, 3.0]))]
    [1.0, 2.0]
    """
    return std(input, dim, unbiased, keepdim, correction=correction), mean(
        input, None if isinstance(dim, bool) else dim, keepdim
    )


# ---- questions ----

_all = structured(
    "all",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    dtype=rules.boolean,
    ref=lambda xp, x, *, dim, keepdim: xp.all(x, axis=dim, keepdims=keepdim),
    samples=lambda: [*samples_over_dims()(), *_mask_samples()],
    errors=OUT_OF_RANGE,
    native=lane("all"),
    decode=decode,
)
_any = structured(
    "any",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    dtype=rules.boolean,
    ref=lambda xp, x, *, dim, keepdim: xp.any(x, axis=dim, keepdims=keepdim),
    samples=lambda: [*samples_over_dims()(), *_mask_samples()],
    errors=OUT_OF_RANGE,
    native=lane("any"),
    decode=decode,
)


def _count_ref(xp: Any, x: Any, *, dim: Any, keepdim: bool = False) -> Any:
    return xp.sum(x != 0, axis=dim, keepdims=keepdim, dtype="int64")


_count_nonzero = structured(
    "count_nonzero",
    inputs=("x",),
    attrs=("dim", "keepdim"),
    dtype=rules.index,
    ref=_count_ref,
    samples=lambda: [
        Sample(s.args, {"dim": s.attrs["dim"]})
        for s in (*samples_over_dims()(), *_mask_samples())
        if not s.attrs["keepdim"]
    ],
    errors=OUT_OF_RANGE,
    native=lane("count_nonzero"),
    decode=decode,
)


def _mask_samples() -> list[Sample]:
    return [sample(Draw((3, 4), dtype="bool"), dim=d, keepdim=False) for d in (None, 1)]


def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are nonzero, over all dimensions, one, or several; True of nothing.

    >>> tl.all(tl.tensor([[True, False], [True, True]]), dim=1).tolist()
    [False, True]
    """
    return _all(input, dim=dims_or_all("all", dim, input), keepdim=keepdim)


def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether any element is nonzero, over all dimensions, one, or several; False of nothing.

    >>> tl.any(tl.tensor([[False, False], [True, False]]), dim=1).tolist()
    [False, True]
    """
    return _any(input, dim=dims_or_all("any", dim, input), keepdim=keepdim)


def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """How many elements are nonzero, over all dimensions, one, or several.

    >>> tl.count_nonzero(tl.tensor([[0, 1], [2, 3]]), dim=0).tolist()
    [1, 2]
    """
    return _count_nonzero(input, dim=dims_or_all("count_nonzero", dim, input), keepdim=False)


# ---- norms ----


def _norm_ref(xp: Any, x: Any, *, p: float | str, dim: tuple[int, ...] | None, keepdim: bool) -> Any:
    a = xp.abs(x)
    if p in ("fro", 2):
        return xp.sqrt(xp.sum(a * a, axis=dim, keepdims=keepdim))
    if p == math.inf:
        return xp.max(a, axis=dim, keepdims=keepdim)
    if p == -math.inf:
        return xp.min(a, axis=dim, keepdims=keepdim)
    if p == 0:
        return xp.sum(a != 0, axis=dim, keepdims=keepdim).astype(x.dtype)
    return xp.power(xp.sum(xp.power(a, p), axis=dim, keepdims=keepdim), 1 / float(p))


@composite(
    "norm",
    inputs=("input",),
    attrs=("p", "dim", "keepdim"),
    ref=_norm_ref,
    dtype=rules.magnitude,
    rowwise=rows_over_dims(0.1),
    samples=lambda: [
        *(s for p in ("fro", 1, 3, math.inf) for s in samples_over_dims(0.1, empty=False, p=p)()),
        sample(Draw((3, 4), -1, 2, "int64"), p=0, dim=1, keepdim=False),
    ],
    errors=[
        error((2, 3), p=2, dim=2, raises=IndexError, match="dim 2 is out of range"),
        error((2,), p="nuc", raises=ValueError, match="norm: p"),
    ],
)
def norm(
    input: Tensor, p: float | str | None = "fro", dim: Dims = None, keepdim: bool = False, dtype: DType | None = None
) -> Tensor:
    """The `p`-norm of the elements, over all dimensions, one, or several: ``sum(|input|^p)^(1/p)``, the largest magnitude for infinite `p`,
    the number of nonzero elements for 0. "fro" is 2. The gradient of a norm that is 0 is 0.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...), or (..., 1, ...) with `keepdim`

    >>> tl.norm(tl.tensor([3.0, -4.0])).item(), tl.norm(tl.tensor([3.0, -4.0]), p=1).item()
    (5.0, 7.0)
    """
    if isinstance(p, str) and p != "fro":
        raise ValueError(f'norm: p: expected a number or "fro", got {p!r}.')
    dim = dims_or_all("norm", dim, input)
    input = input if dtype is None and input.dtype.category > 1 else input.to(dtype or default_dtype())
    if input.dtype in HALVES:
        return norm(input.float(), p, dim, keepdim).to(input.dtype)
    power = 2.0 if p is None or p == "fro" else float(p)
    if power == 2:
        return _safe_root(sum(square(input), dim, keepdim))
    if power == 1:
        return sum(abs(input), dim, keepdim)
    if power == 0:
        return sum(ne(input, 0), dim, keepdim).to(input.dtype)
    if math.isinf(power):
        return ops.extremes.amax(abs(input), dim, keepdim) if power > 0 else ops.extremes.amin(abs(input), dim, keepdim)
    total = sum(pow(abs(input), power), dim, keepdim)
    return pow(where(eq(total, 0), 0, total), 1 / power)


def _logsumexp_ref(xp: Any, x: Any, *, dim: tuple[int, ...], keepdim: bool) -> Any:
    if x.size == 0:
        return xp.log(xp.sum(xp.exp(x), axis=dim, keepdims=keepdim))
    top = xp.max(x, axis=dim, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    total = xp.log(xp.sum(xp.exp(x - top), axis=dim, keepdims=True)) + top
    return total if keepdim else total.reshape(xp.sum(x, axis=dim).shape)


@composite(
    "logsumexp",
    inputs=("input",),
    attrs=("dim", "keepdim"),
    ref=_logsumexp_ref,
    dtype=rules.floating,
    rowwise=rows_over_dims(),
    samples=lambda: [
        *(s for s in samples_over_dims()() if s.attrs["dim"] is not None),
        sample(
            Draw((2, 3), special=(-math.inf, -math.inf, -math.inf, 1000.0, 1000.0, -math.inf)), dim=1, keepdim=False
        ),
    ],
    errors=OUT_OF_RANGE,
)
def logsumexp(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """``log(sum(exp(input)))`` over one dimension or several, without overflow.

    Shapes:
        input: (..., L, ...)  ->  out: (..., ...), or (..., 1, ...) with `keepdim`

    >>> round(tl.logsumexp(tl.zeros(4), dim=0).item(), 4)  # log(4)
    1.3863
    """
    along = dims_or_all("logsumexp", dim, input)
    input = input if input.dtype.category > 1 else input.to(default_dtype())
    if input.numel() == 0:
        return log(_sum(exp(input), dim=along, keepdim=keepdim))
    top = ops.extremes.amax(input.detach(), along, True)
    top = where(isfinite(top), top, 0)
    total = _sum(exp(input - top), dim=along, keepdim=True)
    out = log(where(eq(total, 0), 0, total)) + top  # the gradient of log(0) would be inf * 0
    return (
        out
        if keepdim
        else out.reshape(tuple(n for i, n in enumerate(input.shape) if along is not None and i not in along))
    )
