"""How tensors show themselves: a short text, and a card with figures and a histogram in Jupyter."""

from __future__ import annotations

import html as _html
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes, memory

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

EDGE, THRESHOLD, PRECISION, WIDTH = 3, 1000, 4, 80
_BINS, _BAR, _HEIGHT = 24, 6, 28


# ---- text ----
def text(t: Tensor) -> str:
    """PyTorch's form: values to four digits, then what is not the default: dtype, device, grad_fn or requires_grad.

    >>> tl.tensor([1.0, 0.25])
    tensor([1.0000, 0.2500])
    """
    name = "Parameter" if type(t).__name__ == "Parameter" else "tensor"
    lead = f"{name}(" if name == "tensor" else "Parameter containing:\ntensor("
    parts = [_values(t, len("tensor("))]
    if t.numel() == 0 and t.shape != (0,):
        parts.append(f"size={t.shape}")
    if t.dtype not in (dtypes.default_dtype(), dtypes.int64, dtypes.bool_) or (
        t.numel() == 0 and t.dtype is not dtypes.default_dtype()
    ):
        parts.append(f"dtype={t.dtype!r}")
    if t.device.type != "cpu":
        parts.append(f"device='{t.device}'")
    if not t.is_leaf:
        parts.append(f"grad_fn=<{t.grad_fn.name}>")
    elif t.requires_grad:
        parts.append("requires_grad=True")
    return lead + ", ".join(parts) + ")"


def _values(t: Tensor, indent: int) -> str:
    array = _shown(t)
    if array.size == 0:
        return "[]"
    formatter = _formatter(array)
    if array.ndim == 0:
        return formatter(array[()]).strip()
    return np.array2string(
        array, separator=", ", threshold=THRESHOLD, edgeitems=EDGE, max_line_width=WIDTH, prefix=" " * indent,
        formatter={"all": formatter},
    )  # fmt: skip


def _shown(t: Tensor) -> np.ndarray[Any, Any]:
    """The values; of a big tensor on another device only the corners would be needed, but reading it whole is simple and rare."""
    return t._read()


def _formatter(array: np.ndarray[Any, Any]) -> Any:
    kind = array.dtype.kind
    if kind == "b":
        width = 5 if not array.all() else 4
        return lambda v: str(bool(v)).rjust(width if array.ndim else 0)
    sample = _corners(array)
    if kind in "iu":
        width = max(len(str(v)) for v in (sample.min(), sample.max()))
        return lambda v: str(int(v)).rjust(width)
    if kind == "c":
        return lambda v: f"{v.real:.4f}{v.imag:+.4f}j"
    sample = sample.astype(np.float64)
    finite = np.abs(sample[np.isfinite(sample)])
    nonzero = finite[finite > 0]
    scientific = nonzero.size > 0 and (
        nonzero.max() >= 1e8 or nonzero.min() < 1e-4 or (nonzero.max() / nonzero.min() > 1e3 and nonzero.min() < 1e-3)
    )
    whole = not scientific and bool((finite == np.floor(finite)).all())

    def one(v: Any) -> str:
        if not np.isfinite(v):
            return str(float(v))
        return f"{v:.{PRECISION}e}" if scientific else f"{v:.0f}." if whole else f"{v:.{PRECISION}f}"

    width = max(len(one(v)) for v in sample.ravel())
    return lambda v: one(float(v)).rjust(width)


def _corners(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The elements that will be printed."""
    if array.size <= THRESHOLD:
        return array
    for axis in range(array.ndim):
        if array.shape[axis] > 2 * EDGE:
            before = (slice(None),) * axis  # slices: take() would copy all of an expanded tensor
            low, high = (*before, slice(EDGE)), (*before, slice(-EDGE, None))
            array = np.concatenate([array[low], array[high]], axis)
    return array


# ---- Jupyter ----
def html(t: Tensor) -> str:
    """A card: shape, dtype, memory, range, how many values are not finite, and a histogram as inline SVG."""
    rows = [
        ("shape", str(t.shape)),
        ("dtype", t.dtype.name),
        ("device", str(t.device)),
        ("memory", memory.text(t.nbytes)),
    ]
    picture = ""
    if t.numel() and not t.is_complex():
        array = _shown(t).ravel()
        figures = array.astype(np.float64)
        finite = figures[np.isfinite(figures)]
        if finite.size:
            rows += [("min", f"{finite.min():.4g}"), ("mean", f"{finite.mean():.4g}"), ("max", f"{finite.max():.4g}")]
            picture = _histogram(finite)
        rows += [("NaN", str(int(np.isnan(figures).sum()))), ("inf", str(int(np.isinf(figures).sum())))]
    if t.requires_grad:
        rows.append(("grad_fn", "leaf, requires grad" if t.is_leaf else f"{t.grad_fn.name} ({t.grad_fn.where})"))
    cells = "".join(
        f'<tr><th style="text-align:left">{k}</th><td style="text-align:left">{_html.escape(v)}</td></tr>'
        for k, v in rows
    )
    body = f"<pre>{_html.escape(text(t))}</pre>" if t.numel() <= 64 else ""
    return f'<div><table style="display:inline-table">{cells}</table>{picture}{body}</div>'


def _histogram(values: np.ndarray[Any, Any]) -> str:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low) or low == high:
        return ""
    counts, _ = np.histogram(values, bins=_BINS)
    bars = "".join(
        f'<rect x="{i * _BAR}" y="{_HEIGHT - h:.1f}" width="{_BAR - 1}" height="{h:.1f}"/>'
        for i, h in enumerate(_HEIGHT * counts / counts.max())
        if h
    )
    return f'<svg width="{_BINS * _BAR}" height="{_HEIGHT}" role="img" aria-label="histogram" style="fill:currentColor;margin-left:1em">{bars}</svg>'
