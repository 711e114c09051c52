"""References of the special functions over an array module: NumPy has none of them. Computed in float64, returned in the operand's dtype."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__: list[str] = []

_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)  # B_2, B_4, ...
_SHIFTED = 12  # recurrences lift x above this; the asymptotic series are then exact to float64


def _lgamma(x: float) -> float:
    try:
        return math.lgamma(x)
    except (ValueError, OverflowError):  # a pole, or a result beyond float64
        return math.inf


_ON_NUMPY: dict[str, Callable[..., Any]] = {
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "erfc": np.vectorize(math.erfc, otypes=[np.float64]),
    "gammaln": np.vectorize(_lgamma, otypes=[np.float64]),
}


def _evaluate(xp: Any, name: str, x: Any) -> Any:
    if xp is np:
        return xp.asarray(_ON_NUMPY[name](x)).astype(x.dtype)
    from cupyx.scipy import special

    return getattr(special, name)(x)


def erf(xp: Any, x: Any) -> Any:
    return _evaluate(xp, "erf", x)


def erfc(xp: Any, x: Any) -> Any:
    return _evaluate(xp, "erfc", x)


def lgamma(xp: Any, x: Any) -> Any:
    return _evaluate(xp, "gammaln", x)


def erfinv(xp: Any, x: Any) -> Any:
    """Inverse of erf: a rough start (Winitzki 2008), then Newton steps on erfc, which keeps its digits where erf nears 1."""
    a = xp.abs(x.astype(np.float64))
    inside = xp.where(a < 1, a, 0.0)
    log = xp.log1p(-inside * inside)
    b = 2 / (math.pi * 0.147) + log / 2
    y = xp.sqrt(xp.sqrt(b * b - log / 0.147) - b)
    for _ in range(4):
        error = xp.where(inside > 0.5, (1 - inside) - erfc(xp, y), erf(xp, y) - inside)
        slope = 2 / math.sqrt(math.pi) * xp.exp(-y * y)
        step = error / slope
        y = y - step / (1 + y * step)  # Halley: erf'' = -2 y erf'
    y = xp.where(a < 1, y, xp.where(a == 1, math.inf, math.nan))
    return xp.copysign(y, x.astype(np.float64)).astype(x.dtype)


def digamma(xp: Any, x: Any) -> Any:
    """Recurrence up to the asymptotic series; below 0 by reflection."""
    v = x.astype(np.float64)
    below = v < 0
    v = xp.where(below, 1 - v, v)
    total = xp.zeros_like(v)
    for _ in range(_SHIFTED):
        small = v < _SHIFTED
        total = total - xp.where(small, 1 / v, 0.0)
        v = xp.where(small, v + 1, v)
    series = sum(b / (2 * k) * v ** (-2.0 * k) for k, b in enumerate(_BERNOULLI, 1))
    total = total + xp.log(v) - 0.5 / v - series
    reflected = xp.where(x == xp.floor(x), math.nan, total - math.pi * _cotangent(xp, x))
    return xp.where(below, reflected, total).astype(x.dtype)


def polygamma(xp: Any, x: Any, n: int) -> Any:
    """The n-th derivative of digamma: (-1)^(n+1) n! zeta(n+1, x) by Euler-Maclaurin summation; below 0 by reflection."""
    if n == 0:
        return digamma(xp, x)
    v = x.astype(np.float64)
    below = v < 0
    value = (-1.0) ** (n + 1) * math.factorial(n) * _hurwitz(xp, n + 1, xp.where(below, 1 - v, v))
    reflected = (-1.0) ** n * value - math.pi * _cotangent_derivative(xp, x, n)
    return xp.where(below, reflected, value).astype(x.dtype)


def _hurwitz(xp: Any, s: int, x: Any) -> Any:
    power = -float(s)
    head = sum((x + k) ** power for k in range(_SHIFTED))
    v = x + _SHIFTED
    total = head + v ** (1 + power) / (s - 1) + v**power / 2
    factor = float(s)  # s (s+1) ... (s+2k-2) / (2k)!
    for k, b in enumerate(_BERNOULLI, 1):
        total = total + b * factor / math.factorial(2 * k) * v ** (power - 2 * k + 1)
        factor *= (s + 2 * k - 1) * (s + 2 * k)
    return total


def _cotangent(xp: Any, x: Any) -> Any:
    """cot(pi x), infinite at the integers."""
    v = x.astype(np.float64)
    return 1 / xp.tan(math.pi * (v - xp.floor(v)))


def _cotangent_derivative(xp: Any, x: Any, n: int) -> Any:
    """The n-th derivative of cot(pi x), a polynomial in the cotangent c, since dc/dx = -pi (1 + c^2)."""
    polynomial = np.polynomial.Polynomial([0.0, 1.0])
    for _ in range(n):
        polynomial = -math.pi * np.polynomial.Polynomial([1.0, 0.0, 1.0]) * polynomial.deriv()
    c = _cotangent(xp, x)
    return sum(float(a) * c**k for k, a in enumerate(polynomial.coef) if a)
