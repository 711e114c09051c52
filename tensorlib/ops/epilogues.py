"""Matrix products that something else is done to while their result lies in the cache: `tl.fused.linear_act`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib.native import lib
from tensorlib.ops import fused, rules
from tensorlib.ops.declare import structured
from tensorlib.ops.table import BATCH, BY_NUMBER, TABLE, Draw, Sample, sample
from tensorlib.tensor import Tensor, wrap

__all__: list[str] = []  # public as tl.fused

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "sigmoid", "silu", "tanh")
_NUMBERS = {name: TABLE[name].number for name in ACTIVATIONS}


def _activated(name: str, x: Tensor) -> Tensor:
    call = TABLE[name].call
    assert call is not None
    return call(x)


def _linear_act_ref(xp: Any, x: Any, weight: Any, bias: Any, *, activation: str) -> Any:
    return TABLE[activation].ref(xp, TABLE["linear"].ref(xp, x, weight, bias))


def _linear_act_plain(x: Tensor, weight: Tensor, bias: Tensor | None, *, activation: str) -> Tensor:
    return _activated(activation, fused.linear(x, weight, bias))


def _rule(of_linear: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A rule of linear's, fed with the activation's gradient. Where Python runs it, what that reads is computed again."""

    def rule(g: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        inner = fused.linear(x, weight, bias)
        op = TABLE[activation]
        assert op.vjp is not None and op.vjp[0] is not None
        values = {"g": g, "x": inner, "out": _activated(activation, inner)}
        return of_linear(op.vjp[0](**{name: values[name] for name in op.needs[0]}), x, weight)

    return rule


def _draws(x: tuple[int, ...], out: int, bias: bool, activation: str) -> Sample:
    weight = Draw((out, x[-1]), low=-0.1, high=0.1)  # sums stay small, so that bounded activations hide no error
    return sample(x, weight, (out,) if bias else None, activation=activation)


def _samples() -> list[Sample]:
    return [
        *(_draws((4, 5), 3, True, name) for name in ACTIVATIONS),
        *(_draws((2, 3, 7), 37, True, name) for name in ("relu", "gelu")),
        _draws((33, 17), 16, False, "silu"),
        _draws((5,), 1, True, "tanh"),
        _draws((6, 5), 1, True, "gelu_tanh"),
        _draws((2, 0, 5), 3, True, "sigmoid"),
        _draws((4, 0), 3, True, "tanh"),
    ]


_linear_act = structured(
    "linear_act",
    autocast="lower",
    inputs=("x", "weight", "bias"),
    attrs=("activation",),
    dtype=rules.promoted,
    ref=_linear_act_ref,
    vjp=(
        _rule(lambda g, x, weight: g @ weight),
        _rule(lambda g, x, weight: fused.as_rows(g).mT @ fused.as_rows(x)),
        _rule(lambda g, x, weight: g),
    ),
    composite=_linear_act_plain,
    native=lambda line, x, weight, bias, activation: lib.tl_linear_act(
        _NUMBERS[activation], x._array, weight._array, fused.handle(bias), line
    ),
    decode=lambda node: {"activation": BY_NUMBER[lib.tl_node_int(node, 0)].name},
    samples=_samples,
    rowwise=lambda: [
        *(_draws((BATCH, 784), 300, True, name) for name in ACTIVATIONS),
        _draws((BATCH, 7, 33), 40, True, "gelu"),
        _draws((BATCH, 300), 1, True, "relu"),
    ],
    private=True,
)


def linear_act(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "relu") -> Tensor:
    """``activation(x @ weight.T + bias)``: the same bits as `linear` and the activation, without a pass over memory between them.

    `activation` is "relu", "gelu", "gelu_tanh", "silu", "tanh" or "sigmoid". Until backward the result is kept, or for gelu and silu what the
    activation was taken of.

    Shapes:
        x: (..., D_in), weight: (D_out, D_in), bias: (D_out,)  ->  out: (..., D_out)

    >>> tl.fused.linear_act(tl.ones(1, 2), tl.tensor([[1.0, 2.0], [-1.0, 0.0]]), tl.tensor([0.5, 0.5]), "relu").tolist()
    [[3.5, 0.0]]
    """
    try:
        if made := lib.tl_linear_act(
            _NUMBERS[activation], x._array, weight._array, 0 if bias is None else bias._array, fused.caller()
        ):
            return wrap(made)
    except fused.SLOW:
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"linear_act: activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}."
            ) from None
    if all(t is None or isinstance(t, Tensor) for t in (x, weight, bias)):
        fused.check_linear("linear_act", x, weight, bias)
    return _linear_act(x, weight, bias, activation=activation)
