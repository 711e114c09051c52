"""Normalisation on a GPU: layer_norm and rms_norm, batch, group and instance norm, and their gradients (norms.cu)."""

from __future__ import annotations

import math
from typing import Any

from tensorlib.dtypes import float64
from tensorlib.gpu import gradient_lane, lane
from tensorlib.gpu.launch import Source, empty
from tensorlib.gpu.rows import BLOCK, COMPUTED, WARP, Rows, aligned, blocks, rows
from tensorlib.tensor import Tensor

__all__: list[str] = []

SOURCE = Source("norms.cu")
SLABS = 512  # partial sums of parameters' gradients, at most: blocks that share out the rows
Gradients = tuple[Tensor | None, ...]


def _same(x: Tensor, *others: Tensor | None) -> bool:
    return x.dtype in COMPUTED and all(t is None or t.dtype is x.dtype for t in others)


def _macros(x: Tensor, r: Rows) -> dict[str, Any]:
    return {"T": x.dtype, "WIDTH": r.width, "PACKS": r.packs}


def _ready(t: Tensor | None) -> Tensor | None:
    return None if t is None else aligned(t)


# ---- over the last dimensions ----


def _norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: int, eps: float, centred: bool) -> Tensor | None:
    if not _same(x, weight, bias):
        return None
    out = empty(x.shape, x.dtype, x.device)
    if x.numel():
        n = math.prod(x.shape[-dims:])
        count, r = x.numel() // n, rows(n, x.dtype)
        SOURCE("norm_rows", **_macros(x, r))(
            r.grid(count), r.block, out, aligned(x), _ready(weight), _ready(bias), count, n, centred, eps
        )
    return out


def _norm_grad(
    wanted: tuple[bool, ...], g: Tensor, x: Tensor | None, weight: Tensor | None, dims: int, eps: float, centred: bool
) -> Gradients | None:
    if x is None:  # only the bias asks, and the rule of that does not keep x
        return None
    n = math.prod(x.shape[-dims:])
    if not x.numel() or not _same(x, g, weight) or (r := rows(n, x.dtype, 2)).chunks > 1:
        return None
    count = x.numel() // n
    grid = min(-(-count // r.together), SLABS)
    parts = [empty((grid, n), COMPUTED[x.dtype], x.device) if w else None for w in (*wanted[1:], False)[:2]]
    dx = empty(x.shape, x.dtype, x.device) if wanted[0] else None
    SOURCE("norm_grad_rows", **_macros(x, r))(
        grid, r.block, dx, *parts, aligned(g), aligned(x), _ready(weight), count, n, centred, eps,
        shared=n * COMPUTED[x.dtype].itemsize if r.together > 1 else 0,
    )  # fmt: skip
    made: list[Tensor | None] = [dx]
    for part in parts[: len(wanted) - 1]:
        out = None if part is None else empty(x.shape[-dims:], x.dtype, x.device)
        if part is not None:
            SOURCE("column_sums", T=x.dtype, WIDTH=1, PACKS=1)(-(-n // WARP), (WARP, 8), out, part, grid, n)
        made.append(out)
    return tuple(made)


@lane("layer_norm")
def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, dims: int, eps: float) -> Tensor | None:
    return _norm(x, weight, bias, dims, eps, True)


@lane("rms_norm")
def rms_norm(x: Tensor, weight: Tensor | None, *, dims: int, eps: float) -> Tensor | None:
    return _norm(x, weight, None, dims, eps, False)


@gradient_lane("layer_norm")
def layer_norm_grad(
    wanted: tuple[bool, ...], g: Tensor, x: Tensor | None, weight: Tensor | None, dims: int, eps: float
) -> Gradients | None:
    return _norm_grad(wanted, g, x, weight, dims, eps, True)


@gradient_lane("rms_norm")
def rms_norm_grad(
    wanted: tuple[bool, ...], g: Tensor, x: Tensor | None, weight: Tensor | None, dims: int, eps: float
) -> Gradients | None:
    return _norm_grad(wanted, g, x, weight, dims, eps, False)


# ---- over channels ----


class _Cells:
    """What shares statistics in an input (N, C, ...): with groups, groups of channels of one example, else each channel of all of them."""

    def __init__(self, x: Tensor, groups: int) -> None:
        self.batch, self.channels, self.groups = x.shape[0], x.shape[1], groups
        self.runs, self.span = self.batch * self.channels, math.prod(x.shape[2:])
        self.count = self.batch * groups if groups else self.channels
        self.per = self.runs // self.count
        self.rows = rows(self.span, x.dtype, 2)
        self.macros = _macros(x, self.rows)

    def statistics(
        self, x: Tensor, g: Tensor | None, weight: Tensor | None, eps: float,
        running: tuple[Tensor | None, Tensor | None] = (None, None), momentum: float = 0.0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Of the runs and of the cells, as norms.cu has them; running statistics are moved."""
        of_runs, of_cells = (empty((4 if g is not None else 2, n), float64, x.device) for n in (self.runs, self.count))
        SOURCE("runs", **self.macros)(self.rows.grid(self.runs), self.rows.block, of_runs, x, g, self.runs, self.span)
        across = 1 if self.groups else WARP
        SOURCE("cells", T=x.dtype, WIDTH=1, PACKS=1)(
            -(-self.count // across), (across, min(BLOCK // across, 1 << (self.per - 1).bit_length())),
            of_cells, of_runs, weight, *running, self.count, self.per, 1 if self.groups else self.channels, self.span, self.channels,
            self.runs, g is not None, eps, momentum,
        )  # fmt: skip
        return of_runs, of_cells

    def elements(self, kernel: str, out: Tensor, *tensors: Tensor | None, eps: float) -> Tensor:
        """One pass over all elements."""
        n = self.runs * self.span // self.rows.width
        sizes = self.runs, self.span, self.channels, self.groups, self.count
        SOURCE(kernel, T=out.dtype, WIDTH=self.rows.width, PACKS=1)(blocks(n), BLOCK, out, *tensors, *sizes, eps)
        return out


def _channel_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float,
    running: tuple[Tensor | None, Tensor | None] = (None, None), momentum: float = 0.0,
) -> Tensor | None:  # fmt: skip
    if not _same(x, weight, bias, *running) or not all(t is None or t.is_contiguous() for t in running):
        return None
    out = empty(x.shape, x.dtype, x.device)
    if not x.numel():
        return out
    cells, x, weight, bias = _Cells(x, groups), aligned(x), _ready(weight), _ready(bias)
    _, of_cells = cells.statistics(x, None, weight, eps, running, momentum)
    return cells.elements("channel_norm", out, x, of_cells, None, None, weight, bias, eps=eps)


@lane("channel_norm")
def channel_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, *, groups: int, eps: float
) -> Tensor | None:
    return _channel_norm(input, weight, bias, groups, eps)


def batch_norm(
    input: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor | None, bias: Tensor | None, momentum: float, eps: float
) -> Tensor | None:  # fmt: skip
    """channel_norm by batch, which moves the running statistics; None, with nothing changed, where it does not serve."""
    return _channel_norm(input, weight, bias, 0, eps, (mean, variance), momentum)


@gradient_lane("channel_norm")
def channel_norm_grad(
    wanted: tuple[bool, ...], g: Tensor, input: Tensor | None, weight: Tensor | None, groups: int, eps: float
) -> Gradients | None:
    if input is None or not input.numel() or not _same(input, g, weight):
        return None
    cells, g, x, weight = _Cells(input, groups), aligned(g), aligned(input), _ready(weight)
    of_runs, of_cells = cells.statistics(x, g, weight, eps)
    dx = None
    if wanted[0]:
        dx = cells.elements(
            "channel_norm_grad", empty(x.shape, x.dtype, x.device), g, x, of_cells, None, weight, eps=eps
        )
    return dx, *_parameters(cells, of_runs, of_cells, x, wanted[1:])


def _parameters(
    cells: _Cells, of_runs: Tensor, of_cells: Tensor, x: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    made = [empty((cells.channels,), x.dtype, x.device) if w else None for w in wanted]
    if any(wanted):
        SOURCE("channels_grad", T=x.dtype, WIDTH=1, PACKS=1)(
            -(-cells.channels // WARP), (WARP, 8), *made, of_runs, of_cells, cells.batch, cells.channels, cells.groups, cells.count
        )  # fmt: skip
    return made


@lane("fixed_norm")
def fixed_norm(
    input: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float
) -> Tensor | None:
    if not _same(input, mean, variance, weight, bias):
        return None
    out = empty(input.shape, input.dtype, input.device)
    if not input.numel():
        return out
    given = (_ready(t) for t in (mean, variance, weight, bias))
    return _Cells(input, 0).elements("channel_norm", out, aligned(input), None, *given, eps=eps)


@gradient_lane("fixed_norm")
def fixed_norm_grad(
    wanted: tuple[bool, ...], g: Tensor, variance: Tensor, weight: Tensor | None, eps: float
) -> Gradients | None:
    if any(wanted[1:]) or not g.numel() or not _same(g, variance, weight):
        return None  # parameters behind fixed statistics are trained seldom: the rules serve
    dx = empty(g.shape, g.dtype, g.device)
    made = _Cells(g, 0).elements(
        "channel_norm_grad", dx, aligned(g), None, None, _ready(variance), _ready(weight), eps=eps
    )
    return made, None, None, None, None
