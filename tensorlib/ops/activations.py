"""Smooth activations, and relu; those with other kinks are in piecewise.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tensorlib.ops import rules, special
from tensorlib.ops.comparison import gt, le
from tensorlib.ops.declare import composite, elementwise
from tensorlib.ops.elementwise import abs, numeric, square, where
from tensorlib.ops.selection import clamp
from tensorlib.ops.table import BATCH, Sample, sample, unary
from tensorlib.ops.transcendental import erf, exp, log, log1p, tanh

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["gelu", "logit", "logsigmoid", "mish", "relu", "sigmoid", "silu", "softplus", "softsign"]
METHODS = ("logit", "relu", "sigmoid")
INPLACE = METHODS

_INF, _NAN = math.inf, math.nan
_SPECIAL = (0.0, -0.0, 1.0, _INF, -_INF, _NAN)
_WIDE = unary(-5.0, 5.0, special=(*_SPECIAL, 30.0, -30.0, 100.0, -100.0))


def _with(samples: Any, *choices: dict[str, Any]) -> Any:
    """The samples once per choice of attributes."""
    return lambda: [Sample(s.args, choice) for choice in choices for s in samples()]


def _activation(name: str, ref: Any, partial: Any, doc: str = "", samples: Any = _WIDE, private: bool = False) -> Any:
    return elementwise(
        name, dtype=rules.floating, ref=ref, partials=(partial,), samples=samples, doc=doc, private=private
    )


def _logistic(xp: Any, x: Any) -> Any:
    return 1 / (1 + xp.exp(-x))


def _log1pexp(xp: Any, x: Any) -> Any:
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


# ---- smooth ----

sigmoid = _activation(
    "sigmoid",
    _logistic,
    lambda out, g: g * (out * (1 - out)),
    """The logistic function ``1 / (1 + exp(-x))``.

    >>> tl.sigmoid(tl.tensor([0.0])).tolist()
    [0.5]
    """,
)
logsigmoid = _activation(
    "logsigmoid",
    lambda xp, x: -_log1pexp(xp, -x),
    lambda x, g: g * sigmoid(-x),
    """``log(sigmoid(x))`` without underflow.

    >>> round(tl.logsigmoid(tl.tensor(0.0)).item(), 4)  # -log(2)
    -0.6931
    """,
)
silu = _activation(
    "silu",
    lambda xp, x: x * _logistic(xp, x),
    lambda x, g: g * _silu_slope(x),
    """``x * sigmoid(x)``, also known as swish.

    >>> tl.silu(tl.tensor([0.0])).tolist()
    [0.0]
    """,
)
softsign = _activation(
    "softsign",
    lambda xp, x: x / (1 + xp.abs(x)),
    lambda x, g: g / square(1 + abs(x)),  # as its kernel: (1 - |out|)^2 would spare x, and cancel in the tails
    """``x / (1 + |x|)``: a bounded activation with slow tails.

    >>> tl.softsign(tl.tensor([-1.0, 0.0, 3.0])).tolist()
    [-0.5, 0.0, 0.75]
    """,
    unary(-4.0, 4.0, special=(0.0, -0.0, 1e30)),
)
mish = _activation(
    "mish",
    lambda xp, x: x * xp.tanh(_log1pexp(xp, x)),
    lambda x, g: g * _mish_slope(x),
    """``x * tanh(softplus(x))``.

    Reference: Misra 2019.

    >>> tl.mish(tl.tensor([0.0])).tolist()
    [0.0]
    """,
    unary(-5.0, 5.0, special=(0.0, 30.0, -30.0, 100.0, -100.0, _INF, _NAN)),
)
_softplus = _activation("softplus", _log1pexp, lambda x: sigmoid(x))
_gelu = _activation(
    "gelu",
    lambda xp, x: x * 0.5 * special.erfc(xp, x * -math.sqrt(0.5)),
    lambda x: (erf(x * math.sqrt(0.5)) + 1) * 0.5 + x * exp(square(x) * -0.5) * (1 / math.sqrt(2 * math.pi)),
    samples=unary(-5.0, 5.0, special=(0.0, -0.0, 1.0, 30.0, -30.0, _NAN)),
)
_GELU_SCALE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715
_gelu_tanh = _activation(
    "gelu_tanh",
    lambda xp, x: 0.5 * x * (1 + xp.tanh(_GELU_SCALE * (x + _GELU_CUBE * x * x * x))),
    lambda x: _gelu_tanh_slope(x),
    samples=unary(-5.0, 5.0, special=(0.0, -0.0, 1.0, 30.0, -30.0, _NAN)),
    private=True,
)


def _silu_slope(x: Tensor) -> Tensor:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def _mish_slope(x: Tensor) -> Tensor:
    t = tanh(_softplus(x))
    return t + x * sigmoid(x) * (1 - square(t))


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    squared = square(x)
    t = tanh(_GELU_SCALE * x * (1 + _GELU_CUBE * squared))
    return 0.5 * (1 + t) + 0.5 * x * (1 - square(t)) * (_GELU_SCALE * (1 + 3 * _GELU_CUBE * squared))


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta * input)) / beta``: a smooth relu; the identity where ``beta * input`` exceeds `threshold`.

    >>> round(tl.softplus(tl.tensor(0.0)).item(), 4)  # log(2)
    0.6931
    """
    out = _softplus(input) if beta == 1 else _softplus(input * beta) / beta
    return out if threshold >= 20 else where(gt(input * beta, threshold), input, out)  # past 20 the two agree to 1e-10


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``input`` times the normal distribution's cumulative function at `input`, or with ``approximate="tanh"`` a close form without erf.

    Reference: Hendrycks and Gimpel 2016.

    >>> tl.gelu(tl.tensor([0.0])).tolist()
    [0.0]
    """
    if approximate == "none":
        return _gelu(input)
    if approximate == "tanh":
        return _gelu_tanh(input)
    raise ValueError(f'gelu: approximate: expected "none" or "tanh", got {approximate!r}.')


@composite(
    "logit",
    inputs=("input",),
    attrs=("eps",),
    ref=lambda xp, x, *, eps: _logit_ref(xp, x if eps is None else xp.clip(x, eps, 1 - eps)),
    samples=_with(unary(0.1, 0.9, special=(0.0, 1.0, 0.5, -0.1, 1.1, _NAN)), {"eps": None}, {"eps": 0.05}),
    rowwise=[sample((BATCH, 67), eps=None)],
)
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """The inverse of `sigmoid`, ``log(input / (1 - input))``; `input` is first clamped to [eps, 1 - eps] where `eps` is given.

    >>> tl.logit(tl.tensor([0.5])).tolist()
    [0.0]
    """
    if eps is not None:
        input = clamp(input, eps, 1 - eps)
    return log(input) - log1p(-input)


def _logit_ref(xp: Any, x: Any) -> Any:
    return xp.log(x / (1 - x))


# ---- and one with a kink ----

relu = elementwise(
    "relu",
    dtype=numeric("relu", "use the mask as it is"),
    ref=lambda xp, x: xp.maximum(x, 0).astype(x.dtype),
    partials=(lambda out, g: where(le(out, 0), 0, g),),
    samples=unary(special=_SPECIAL),
    doc="""`x` where it is positive, else 0. The gradient at 0 is 0.

    >>> tl.relu(tl.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """,
)
