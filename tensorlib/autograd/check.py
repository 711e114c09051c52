"""Gradients against finite differences: gradcheck and gradgradcheck."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import GradError
from tensorlib.tensor import Tensor

from .engine import grad
from .modes import enable_grad, no_grad

__all__ = ["gradcheck", "gradgradcheck"]

Array = np.ndarray[Any, Any]


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    fast_mode: bool = True,
) -> bool:
    """Compare the gradients of `func` with central differences, for each input that requires a gradient and each floating output.

    Args:
        func: takes `inputs` and returns a tensor or a sequence of tensors.
        inputs: tensors (float64 those that require a gradient, for the differences to mean something) and whatever else func takes.
        eps: the step; inputs are moved in place and put back.
        atol, rtol: how far a gradient may lie from the difference d: atol + rtol * abs(d).
        raise_exception: raise where they differ; otherwise return False.
        nondet_tol: how far two runs of backward may differ.
        fast_mode: one random direction for each pair of input and output, whatever their sizes; False: every entry of the Jacobian.

    Raises:
        GradError: naming input, output and both numbers.

    >>> x = tl.tensor([0.5, 1.0], dtype=tl.float64, requires_grad=True)
    >>> tl.autograd.gradcheck(lambda x: (x.sin() * x).sum(), (x,))
    True
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    try:
        check = _Check(func, args, _differentiable(args), eps, atol, rtol)
        check.repeatable(nondet_tol)
        for difference in check.along_one_direction() if fast_mode else check.entry_by_entry():
            check.judge(difference)
    except GradError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    fast_mode: bool = True,
) -> bool:
    """Compare second derivatives with central differences of the first: gradcheck of the gradient as a function of inputs and `grad_outputs`
    (random ones, where not given).

    >>> x = tl.tensor([0.5, 1.0], dtype=tl.float64, requires_grad=True)
    >>> tl.autograd.gradgradcheck(lambda x: x.sin() * x, (x,))
    True
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if grad_outputs is None:
        rng = np.random.default_rng(1)
        given = [_like(o, _direction(rng, o.shape)).requires_grad_() for o in _floating(func(*args)) if o.requires_grad]
    else:
        given = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)

    def gradients(*both: Any) -> tuple[Tensor, ...]:
        first = both[: len(args)]
        wanted = [first[i] for i in _differentiable(first)]
        outputs = [o for o in _floating(func(*first)) if o.requires_grad]
        if not outputs:
            raise GradError("gradgradcheck: no output requires a gradient.")
        return tuple(
            g for g in grad(outputs, wanted, both[len(args) :], create_graph=True, allow_unused=True) if g is not None
        )

    return gradcheck(
        gradients,
        (*args, *given),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        fast_mode=fast_mode,
    )


@dataclass(frozen=True, slots=True)
class _Difference:
    """One comparison: which input and output, where, what backward says and what the finite difference says."""

    i: int
    o: int
    where: str
    analytic: float
    numeric: float


@dataclass(slots=True)
class _Check:
    func: Callable[..., Any]
    args: tuple[Any, ...]
    wanted: list[int]  # places of the inputs to check
    eps: float
    atol: float
    rtol: float

    def outputs(self) -> list[Tensor]:
        with enable_grad():
            return _floating(self.func(*self.args))

    def analytic(self, output: Tensor, cotangent: Array) -> list[Array]:
        """cotangent . d output / d input, for each wanted input."""
        inputs = [self.args[i] for i in self.wanted]
        if not output.requires_grad:
            return [np.zeros(x.shape) for x in inputs]
        found = grad(output, inputs, _like(output, cotangent), retain_graph=True, allow_unused=True)
        for i, x, g in zip(self.wanted, inputs, found, strict=True):
            if g is not None and (g.shape != x.shape or g.dtype is not x.dtype):
                raise GradError(
                    f"gradcheck: input {i} is {x.shape} {x.dtype.name}, its gradient {g.shape} {g.dtype.name}."
                )
        return [np.zeros(x.shape) if g is None else _values(g) for x, g in zip(inputs, found, strict=True)]

    def numeric(self, i: int, direction: Array) -> list[Array]:
        """(func(x + eps d) - func(x - eps d)) / (2 eps), for each output."""
        x = self.args[i]
        before = _values(x).copy()
        try:
            ends = []
            for step in (self.eps, -self.eps):
                with no_grad():
                    x.copy_(_like(x, before + step * direction))
                ends.append([_values(o).copy() for o in self.outputs()])
        finally:
            with no_grad():
                x.copy_(_like(x, before))
        return [(a - b) / (2 * self.eps) for a, b in zip(*ends, strict=True)]

    def repeatable(self, tolerance: float) -> None:
        for o, output in enumerate(self.outputs()):
            ones = np.ones(output.shape)
            for i, a, b in zip(self.wanted, self.analytic(output, ones), self.analytic(output, ones), strict=True):
                if a.size and np.abs(a - b).max() > tolerance:
                    raise GradError(
                        f"gradcheck: input {i}, output {o}: two runs of backward differ by {np.abs(a - b).max():.6g}, allowed {tolerance:.6g}."
                    )

    def along_one_direction(self) -> Iterator[_Difference]:
        rng = np.random.default_rng(0)
        outputs = self.outputs()
        cotangents = [_direction(rng, o.shape) for o in outputs]
        gradients = [self.analytic(o, c) for o, c in zip(outputs, cotangents, strict=True)]
        for k, i in enumerate(self.wanted):
            direction = _direction(rng, self.args[i].shape)
            for o, (c, d) in enumerate(zip(cotangents, self.numeric(i, direction), strict=True)):
                yield _Difference(
                    i, o, "along a random direction", float((gradients[o][k] * direction).sum()), float((c * d).sum())
                )

    def entry_by_entry(self) -> Iterator[_Difference]:
        outputs = self.outputs()
        rows = [[self.analytic(o, unit) for unit in _units(o.shape)] for o in outputs]  # [output][entry of it][input]
        for k, i in enumerate(self.wanted):
            for at, direction in zip(np.ndindex(self.args[i].shape), _units(self.args[i].shape), strict=True):
                for o, column in enumerate(self.numeric(i, direction)):
                    for n, (to, d) in enumerate(zip(np.ndindex(column.shape), column.ravel(), strict=True)):
                        yield _Difference(i, o, f"d out{list(to)} / d in{list(at)}", float(rows[o][n][k][at]), float(d))

    def judge(self, d: _Difference) -> None:
        off, allowed = abs(d.analytic - d.numeric), self.atol + self.rtol * abs(d.numeric)
        if not off <= allowed:
            raise GradError(
                f"gradcheck: input {d.i} of shape {self.args[d.i].shape}, output {d.o}, {d.where}: backward gives {d.analytic:.6g}, finite"
                f" differences give {d.numeric:.6g}; they are {off:.3g} apart, allowed {allowed:.3g}."
            )


def _differentiable(args: Sequence[Any]) -> list[int]:
    wanted = [i for i, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad]
    if not wanted:
        raise ValueError("gradcheck: no input requires a gradient.")
    for i in wanted:
        if args[i].is_complex():
            raise ValueError(f"gradcheck: input {i} is {args[i].dtype.name}; only real inputs can be checked.")
        if args[i].dtype is not dtypes.float64:
            warnings.warn(
                f"gradcheck: input {i} is {args[i].dtype.name}; finite differences need float64.", stacklevel=3
            )
    return wanted


def _floating(outputs: Any) -> list[Tensor]:
    given = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return [o for o in given if isinstance(o, Tensor) and o.is_floating_point()]


def _values(x: Tensor) -> Array:
    return np.asarray(x, np.float64)


def _like(x: Tensor, values: Array) -> Tensor:
    from tensorlib.ops.creation import tensor

    return tensor(values, dtype=x.dtype, device=x.device)


def _direction(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Entries of size 0.5 to 1.5 and random sign: none is so small that it would hide an error."""
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)


def _units(shape: tuple[int, ...]) -> Iterator[Array]:
    for at in np.ndindex(shape):
        unit = np.zeros(shape)
        unit[at] = 1
        yield unit
