"""Autocast beside PyTorch's: the dtypes of results, and values within bfloat16's precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
A, B, IMAGE, KERNEL = (RNG.standard_normal(s).astype(np.float32) for s in ((6, 8), (8, 4), (2, 3, 7, 7), (4, 3, 3, 3)))
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "matmul": lambda lib, t: t(A) @ t(B),
    "bmm": lambda lib, t: lib.bmm(t(A)[None], t(B)[None]),
    "addmm": lambda lib, t: lib.addmm(t(B)[0], t(A), t(B)),
    "baddbmm": lambda lib, t: lib.baddbmm(t(B)[:1, None], t(A)[None], t(B)[None], beta=0.5, alpha=2.0),
    "einsum": lambda lib, t: lib.einsum("ij,jk->ik", t(A), t(B)),
    "linear": lambda lib, t: lib.nn.functional.linear(t(A), t(B).mT, t(B)[0]),
    "conv2d": lambda lib, t: lib.nn.functional.conv2d(t(IMAGE), t(KERNEL), padding=1),
    "attention": lambda lib, t: lib.nn.functional.scaled_dot_product_attention(t(A), t(A), t(A)),
    "linear of float64": lambda lib, t: lib.nn.functional.linear(t(A).double(), t(B).mT.double()),
    "add": lambda lib, t: t(A) @ t(B) + 1.0,
    "add float32": lambda lib, t: t(A) @ t(B) + t(A)[:, :4],
    "softmax": lambda lib, t: lib.softmax(t(A) @ t(B), -1),
    "log_softmax": lambda lib, t: lib.log_softmax(t(A) @ t(B), -1),
    "softmax of float32": lambda lib, t: lib.softmax(t(A), -1),
    "sum": lambda lib, t: (t(A) @ t(B)).sum(),
    "relu": lambda lib, t: lib.relu(t(A) @ t(B)),
    "mse_loss": lambda lib, t: lib.nn.functional.mse_loss(t(A) @ t(B), t(A)[:, :4]),
    "l1_loss": lambda lib, t: lib.nn.functional.l1_loss(t(A) @ t(B), t(A) @ t(B)),
    "huber_loss": lambda lib, t: lib.nn.functional.huber_loss(t(A) @ t(B), t(A)[:, :4]),
    "smooth_l1_loss": lambda lib, t: lib.nn.functional.smooth_l1_loss(t(A) @ t(B), t(A)[:, :4]),
    "bce_with_logits": lambda lib, t: lib.nn.functional.binary_cross_entropy_with_logits(
        t(A) @ t(B), lib.sigmoid(t(A)[:, :4])
    ),
    "cross_entropy": lambda lib, t: lib.nn.functional.cross_entropy(t(A) @ t(B), lib.tensor([0, 1, 2, 3, 0, 1])),
    "nll_loss": lambda lib, t: lib.nn.functional.nll_loss(
        lib.log_softmax(t(A) @ t(B), -1), lib.tensor([0, 1, 2, 3, 0, 1])
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_dtypes_and_values(name: str) -> None:
    results = []
    for lib in (tl, torch):
        with lib.autocast("cpu", dtype=lib.bfloat16):
            out = CALLS[name](lib, lib.tensor)
        results.append((str(out.dtype).split(".")[-1], np.asarray(out.float())))
    (ours, values), (theirs, expected) = results
    assert ours == theirs
    np.testing.assert_allclose(values, expected, rtol=3e-2, atol=3e-2)


def trained_scaled(lib: Any, bad_steps: set[int]) -> tuple[list[float], list[float]]:
    """Weights and factors of a few scaled steps, of which some have infinite gradients."""
    w = lib.nn.Parameter(lib.ones(3))
    optimizer = lib.optim.SGD([w], lr=0.25, momentum=0.5)
    scaler, factors = lib.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2), []
    for step in range(8):
        optimizer.zero_grad()
        x = lib.tensor([1.0, 2.0, float("inf") if step in bad_steps else 3.0])
        scaler.scale((w * x).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        factors.append(scaler.get_scale())
    return w.tolist(), factors


@pytest.mark.parametrize("bad_steps", [set(), {0}, {3, 4}, {7}], ids=str)
def test_grad_scaler(bad_steps: set[int]) -> None:
    assert trained_scaled(tl, bad_steps) == trained_scaled(torch, bad_steps)
