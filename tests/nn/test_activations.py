"""Activations against their definitions: layers, functions in place, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn

ACTIVATIONS: list[tuple[nn.Module, Callable[[np.ndarray[Any, Any]], Any]]] = [
    (nn.CELU(0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x / 0.5))),
    (nn.GLU(0), lambda x: x[:2] / (1 + np.exp(-x[2:]))),
    (nn.Hardshrink(0.7), lambda x: np.where(np.abs(x) > 0.7, x, 0)),
    (nn.Hardsigmoid(), lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    (nn.Hardswish(), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    (nn.Hardtanh(-0.5, 2.0), lambda x: np.clip(x, -0.5, 2)),
    (nn.LogSigmoid(), lambda x: -np.log1p(np.exp(-x))),
    (nn.Mish(), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    (nn.ReLU6(), lambda x: np.clip(x, 0, 6)),
    (nn.RReLU(0.1, 0.5).eval(), lambda x: np.where(x > 0, x, 0.3 * x)),
    (nn.SELU(), lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))),
    (nn.Softmin(1), lambda x: np.exp(-x) / np.exp(-x).sum(1, keepdims=True)),
    (nn.Softshrink(0.7), lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.7, 0)),
    (nn.Softsign(), lambda x: x / (1 + np.abs(x))),
    (nn.Tanhshrink(), lambda x: x - np.tanh(x)),
    (nn.Threshold(0.1, 20.0), lambda x: np.where(x > 0.1, x, 20)),
    (nn.PReLU(3, 0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
]


@pytest.mark.parametrize(("module", "expected"), ACTIVATIONS, ids=lambda v: repr(v) if isinstance(v, nn.Module) else "")
def test_values(module: nn.Module, expected: Callable[[Any], Any]) -> None:
    x = np.linspace(-4, 7, 12).reshape(4, 3)
    out = module(tl.tensor(x)).detach().numpy()
    np.testing.assert_allclose(out, expected(x), rtol=1e-6, atol=1e-6)


IN_PLACE: list[tuple[Callable[..., tl.Tensor], Callable[..., tl.Tensor], tuple[float, ...]]] = [
    (F.relu_, F.relu, ()),
    (F.selu_, F.selu, ()),
    (F.elu_, F.elu, (0.5,)),
    (F.celu_, F.celu, (0.5,)),
    (F.hardtanh_, F.hardtanh, (-0.5, 0.7)),
    (F.leaky_relu_, F.leaky_relu, (0.2,)),
    (F.threshold_, F.threshold, (0.1, 3.0)),
    (F.rrelu_, F.rrelu, (0.1, 0.5)),
    *(
        (lambda x, f=f: f(x, inplace=True), f, ())
        for f in (F.relu6, F.silu, F.mish, F.hardsigmoid, F.hardswish)
    ),
]  # fmt: skip


@pytest.mark.parametrize(("twin", "function", "settings"), IN_PLACE, ids=lambda v: getattr(v, "__name__", ""))
def test_in_place(twin: Any, function: Any, settings: tuple[float, ...]) -> None:
    """It writes into its operand, and gradients are those of the function, also where these need what was overwritten."""
    x = tl.linspace(-2, 2, 9, requires_grad=True)
    function(x * 2, *settings).sum().backward()
    wanted, x.grad = x.grad, None
    inner = x * 2
    assert twin(inner, *settings) is inner
    assert inner.tolist() == function(x * 2, *settings).tolist()
    inner.sum().backward()
    assert x.grad is not None and wanted is not None and x.grad.tolist() == wanted.tolist()


def test_prelu_by_channel() -> None:
    layer = nn.PReLU(2, 0.5)
    x = -tl.ones(3, 2, 4)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.tolist() == [-12.0, -12.0]
    assert list(layer.state_dict()) == ["weight"] and layer.weight.tolist() == [0.5, 0.5]
    assert F.prelu(tl.tensor(-2.0), tl.tensor([0.25])).item() == -0.5


def test_rrelu_draws_slopes() -> None:
    tl.manual_seed(0)
    out = nn.RReLU(0.2, 0.4)(tl.ones(1000) * -1)
    assert bool(((out >= -0.4) & (out <= -0.2)).all()) and abs(out.mean().item() + 0.3) < 0.01
    assert out.std().item() == pytest.approx(0.2 / math.sqrt(12), rel=0.1)
    assert nn.RReLU()(tl.ones(3)).tolist() == [1.0, 1.0, 1.0]


def test_gumbel_softmax() -> None:
    tl.manual_seed(0)
    logits = tl.tensor([0.1, 0.6, 0.3]).log().expand(4000, 3).clone().requires_grad_()
    hard = F.gumbel_softmax(logits, tau=0.5, hard=True)
    assert bool((hard.sum(-1) - 1).abs().max() < 1e-6) and bool(((hard - hard.round()).abs() < 1e-6).all())
    np.testing.assert_allclose(hard.detach().mean(0).numpy(), [0.1, 0.6, 0.3], atol=0.03)
    (hard * tl.arange(3.0)).sum().backward()
    assert logits.grad is not None and bool(logits.grad.any())
    soft = F.gumbel_softmax(logits, tau=2.0, dim=0)
    np.testing.assert_allclose(soft.detach().sum(0).numpy(), 1.0, rtol=1e-4)


REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("hardtanh: min_val 1.0 is above max_val -1.0", lambda: tl.hardtanh(tl.zeros(3), 1.0, -1.0)),
    (r"Hardtanh: max_val 1.0 must be above min_val 1.0", lambda: nn.Hardtanh(1.0, 1.0)),
    ("softshrink: lambd must not be negative, got -0.5", lambda: tl.softshrink(tl.zeros(3), -0.5)),
    ("rrelu: lower 0.5 is above upper 0.1", lambda: tl.rrelu(tl.zeros(3), 0.5, 0.1)),
    (
        r"prelu: weight of shape \(2,\) does not fit input of shape \(2, 3\)",
        lambda: tl.prelu(tl.zeros(2, 3), tl.zeros(2)),
    ),
    (r"prelu: weight must be one number or have shape \(C,\)", lambda: tl.prelu(tl.zeros(2, 3), tl.zeros(1, 3))),
    (r"glu: dimension 1 must have an even size, got shape \(2, 3\)", lambda: F.glu(tl.zeros(2, 3), 1)),
    (r"Softmax2d: expected .* got shape \(2, 3\)", lambda: nn.Softmax2d()(tl.zeros(2, 3))),
]


@pytest.mark.parametrize(("message", "call"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
