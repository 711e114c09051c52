"""Autocast: dtypes of results and gradients, what is converted and when, and the state around it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.nn import functional as F

X, W = tl.linspace(-1, 1, 12).reshape(3, 4), tl.linspace(-0.7, 0.9, 20).reshape(5, 4)
LOWERED: dict[str, Callable[[], tl.Tensor]] = {
    "matmul": lambda: X @ W.mT,
    "linear": lambda: F.linear(X, W, tl.ones(5)),
    "mm": lambda: tl.mm(X, W.mT),
    "bmm": lambda: tl.bmm(X.unsqueeze(0), W.mT.unsqueeze(0)),
    "addmm": lambda: tl.addmm(tl.ones(5), X, W.mT),
    "baddbmm": lambda: tl.baddbmm(tl.ones(1, 3, 5), X.unsqueeze(0), W.mT.unsqueeze(0)),
    "einsum": lambda: tl.einsum("ij,kj->ik", X, W),
    "conv1d": lambda: F.conv1d(X.unsqueeze(0), tl.ones(2, 3, 2)),
    "attention": lambda: F.scaled_dot_product_attention(X, W, W, tl.zeros(3, 5)),
}


@pytest.mark.parametrize("name", LOWERED)
def test_runs_on_rounded_operands(name: str) -> None:
    want = LOWERED[name]()
    with tl.autocast("cpu", dtype=tl.bfloat16):
        got = LOWERED[name]()
    assert want.dtype is tl.float32 and got.dtype is tl.bfloat16 and got.shape == want.shape
    np.testing.assert_allclose(got.float().numpy(), want.numpy(), rtol=3e-2, atol=3e-2)


def test_sums_run_in_float32() -> None:
    with tl.autocast("cpu"):
        assert (tl.ones(1, 1000) @ tl.ones(1000, 1)).item() == 1000.0  # bfloat16 would stop counting at 256


def test_other_operations_keep_their_dtypes() -> None:
    with tl.autocast("cpu"):
        low = X @ W.mT
        assert (low + low).dtype is tl.bfloat16 and low.softmax(-1).dtype is tl.bfloat16
        assert (X + 1).dtype is tl.float32
        assert (X.double() @ W.mT.double()).dtype is tl.float64
        assert (X.to(tl.int64) @ W.mT.to(tl.int64)).dtype is tl.int64
        assert F.cross_entropy(low, tl.tensor([0, 1, 2])).dtype is tl.float32
        assert F.mse_loss(low, low).dtype is tl.float32


def test_gradients_arrive_in_float32() -> None:
    w, x = W.clone().requires_grad_(), X.clone().requires_grad_()
    with tl.autocast("cpu"):
        y = F.linear(x, w)
    y.float().square().sum().backward()
    assert w.grad is not None and x.grad is not None
    assert w.grad.dtype is x.grad.dtype is tl.float32
    exact = W.clone().requires_grad_()
    F.linear(X, exact).square().sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), exact.grad.numpy(), rtol=3e-2, atol=3e-2)  # type: ignore[union-attr]


def test_second_derivatives() -> None:
    w = W.clone().requires_grad_()
    with tl.autocast("cpu"):
        y = F.linear(X, w).float().pow(3).sum()
    (g,) = tl.autograd.grad(y, [w], create_graph=True)
    assert g is not None
    (h,) = tl.autograd.grad(g.sum(), [w])
    assert h is not None and h.dtype is tl.float32 and h.abs().sum().item() > 0


def test_a_parameter_is_converted_once() -> None:
    w = W.clone().requires_grad_()

    def casts(*outs: tl.Tensor) -> int:
        """How many different conversions of w lie behind the results."""
        return len({id_of_cast(out) for out in outs})

    def id_of_cast(out: tl.Tensor) -> Any:
        return out.grad_fn.next_functions[1][0]

    with tl.autocast("cpu"):
        first, second = F.linear(X, w), F.linear(X, w)
        assert casts(first, second) == 1
        with tl.no_grad():
            w.mul_(2.0)
        assert casts(first, F.linear(X, w)) == 2
        with tl.no_grad():
            frozen = F.linear(X, w)
        assert not frozen.requires_grad
    with tl.autocast("cpu", cache_enabled=False):
        assert casts(F.linear(X, w), F.linear(X, w)) == 2


def test_two_backward_passes_through_one_conversion() -> None:
    w = W.clone().requires_grad_()
    with tl.autocast("cpu"):
        first, second = F.linear(X, w).float().sum(), F.linear(2 * X, w).float().sum()
    first.backward()
    second.backward()
    np.testing.assert_allclose(w.grad.numpy(), 3 * X.sum(0).numpy() * np.ones((5, 1)), atol=2e-2)  # type: ignore[union-attr]


def test_nests_and_restores() -> None:
    assert not tl.is_autocast_enabled("cpu")
    with tl.autocast("cpu"):
        assert tl.is_autocast_enabled("cpu")
        with tl.autocast("cpu", enabled=False):
            assert not tl.is_autocast_enabled("cpu") and (X @ W.mT).dtype is tl.float32
            with tl.autocast("cpu", dtype=tl.float16):
                assert tl.get_autocast_dtype("cpu") is tl.float16 and (X @ W.mT).dtype is tl.float16
        assert tl.get_autocast_dtype("cpu") is tl.bfloat16 and (X @ W.mT).dtype is tl.bfloat16
        with pytest.raises(ValueError, match="inner dimensions"):
            X @ W
        assert tl.is_autocast_enabled("cpu")
    with pytest.raises(ZeroDivisionError), tl.autocast("cpu"):
        _ = 1 / 0
    assert not tl.is_autocast_enabled("cpu") and (X @ W.mT).dtype is tl.float32


def test_each_thread_has_its_own_state() -> None:
    seen = []
    with tl.autocast("cpu"):
        thread = threading.Thread(target=lambda: seen.append((tl.is_autocast_enabled("cpu"), (X @ W.mT).dtype)))
        thread.start()
        thread.join()
    assert seen == [(False, tl.float32)]


def test_decorator() -> None:
    @tl.autocast("cpu", dtype=tl.bfloat16)
    def product() -> tl.Tensor:
        """Documented."""
        return X @ W.mT

    assert product().dtype is tl.bfloat16 and product.__doc__ == "Documented."
    assert not tl.is_autocast_enabled("cpu")


def test_errors() -> None:
    with pytest.raises(ValueError, match="device_type must be"):
        tl.autocast("tpu")
    with pytest.raises(ValueError, match="dtype must be bfloat16 or float16, got float64"):
        tl.autocast("cpu", dtype=tl.float64)


def trained(autocast: bool) -> list[float]:
    """The losses of 60 steps of a small net."""
    tl.manual_seed(0)
    net = tl.nn.Sequential(tl.nn.Linear(8, 32), tl.nn.GELU(), tl.nn.LayerNorm(32), tl.nn.Linear(32, 4))
    optimizer = tl.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    x = tl.randn(64, 8)
    target = (x @ tl.randn(8, 4)).argmax(1)
    losses = []
    for _ in range(60):
        with tl.autocast("cpu", enabled=autocast):
            loss = F.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_learns_as_in_float32() -> None:
    low, full = trained(True), trained(False)
    assert full[-1] < 0.1 * full[0]
    assert max(abs(a - b) for a, b in zip(low, full, strict=True)) < 0.05
