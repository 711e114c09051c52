"""Tensors and autograd beside PyTorch: promotion, DLPack without copies, in-place semantics, hooks, what is used up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.dtypes import ALL

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

NAMES = [d.name for d in ALL]
Program = Callable[[Any], Any]


def theirs(name: str) -> Any:
    return getattr(torch, name)


def ours(name: str) -> tl.DType:
    return tl.bool_ if name == "bool" else getattr(tl, name)


# ---- dtypes ----
def test_promotion() -> None:
    for a in NAMES:
        for b in NAMES:
            assert tl.promote_types(ours(a), ours(b)).name == str(torch.promote_types(theirs(a), theirs(b)))[6:], (a, b)


@pytest.mark.parametrize("a", NAMES)
def test_result_dtypes(a: str) -> None:
    """Tensors of one and no dimension, and Python numbers, on either side of an operator."""
    no_half_complex = lambda *names: not ("float16" in names and any(n.startswith("complex") for n in names))
    for shape in ((2,), ()):
        t, x = torch.ones(shape, dtype=theirs(a)), tl.ones(shape, dtype=ours(a))
        for s in (True, 1, 1.0, 0.5, 1j) if a != "float16" else (True, 1, 1.0):
            assert (x * s).dtype.name == str((t * s).dtype)[6:], (a, shape, s)
            assert (s + x).dtype.name == str((s + t).dtype)[6:], (a, shape, s)
        for b in filter(lambda b: no_half_complex(a, b), NAMES):  # we have no complex32
            for other in ((2,), ()):
                u, y = torch.ones(other, dtype=theirs(b)), tl.ones(other, dtype=ours(b))
                assert (x + y).dtype.name == str((t + u).dtype)[6:], (a, shape, b, other)
                if "bfloat16" not in (a, b):
                    assert (x / y).dtype.name == str((t / u).dtype)[6:], (a, shape, b, other)


# ---- DLPack ----
@pytest.mark.parametrize("name", [n for n in NAMES if n != "bfloat16"])
def test_dlpack_both_ways(name: str) -> None:
    t = torch.arange(6).reshape(2, 3).t().to(theirs(name))
    x = tl.from_dlpack(t)
    assert x.data_ptr() == t.data_ptr() and x.dtype.name == name and x.stride() == t.stride()
    assert x.tolist() == t.tolist()
    back = torch.from_dlpack(tl.tensor(np.arange(6).reshape(2, 3).T, dtype=ours(name)))
    assert back.tolist() == t.tolist() and back.dtype == t.dtype
    if name.startswith("float"):
        x[0, 0] = 7
        assert t[0, 0].item() == 7


# ---- programs, run by both libraries ----
def _views(m: Any) -> Any:
    x = m.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = x * 1
    v, w = y[0], y.t()[1]
    v.mul_(3)
    y.add_(w.clone())
    w.copy_(v * 2)
    (y * y + v.sum() * w).sum().backward()
    return x.grad


def _former_values(m: Any) -> Any:
    x = m.tensor([0.3, 0.6], requires_grad=True)
    y = x * 2
    y.mul_(x).sin_().pow_(2)
    y.sum().backward()
    return x.grad


def _leaf_write(m: Any) -> Any:
    m.ones(2, requires_grad=True).mul_(2)


def _leaf_view_write(m: Any) -> Any:
    m.ones(2, requires_grad=True)[0].mul_(2)


def _stale(m: Any) -> Any:
    y = m.ones(2, requires_grad=True).exp()
    z = (y * y).sum()
    y.add_(1)
    z.backward()


def _twice(m: Any) -> Any:
    y = m.ones(2, requires_grad=True).exp().sum()
    y.backward()
    y.backward()


def _twice_where_nothing_is_kept(m: Any) -> Any:
    x = m.ones(2, requires_grad=True)
    y = (x + 1).reshape(2, 1).t().sum()
    y.backward()
    y.backward()
    return x.grad


def _hooks(m: Any) -> Any:
    x = m.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 3)
    x.register_hook(lambda g: g + 1)
    (y * y).sum().backward()
    return m.cat([x.grad, y.grad])


def _captured_hooks(m: Any) -> Any:
    x = m.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    x.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: g * 3)
    return m.cat([*m.autograd.grad(y.sum(), [x], retain_graph=True), *m.autograd.grad(y.sum(), [y])])


def _accumulated(m: Any) -> Any:
    x, log = m.tensor([1.0, 2.0], requires_grad=True), []
    x.register_post_accumulate_grad_hook(lambda leaf: log.append(leaf.grad.tolist()))
    y = (x * 2).sum() + (x * x).sum()
    y.backward(retain_graph=True)
    y.backward(inputs=[x], retain_graph=True)
    m.autograd.grad(y, x)
    return m.tensor(log)


def _created(m: Any) -> Any:
    x = m.tensor([1.0, 2.0], requires_grad=True)
    (g,) = m.autograd.grad((x**3).sum(), x, create_graph=True)
    (g * g).sum().backward()
    return x.grad


def _inference_then_recorded(m: Any) -> Any:
    with m.inference_mode():
        a = m.ones(2) * 2
    return m.ones(2, requires_grad=True) * a


def _inference_write(m: Any) -> Any:
    with m.inference_mode():
        a = m.ones(2) * 2
    a.add_(1)


def _unused(m: Any) -> Any:
    x, y = m.ones(2, requires_grad=True), m.ones(2, requires_grad=True)
    m.autograd.grad(x.sum(), [x, y])


def _function(m: Any) -> Any:
    class Twice(m.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            ctx.mark_dirty(y)
            y.mul_(2)
            ctx.save_for_backward(x)
            return x * y, y

        @staticmethod
        def backward(ctx: Any, g: Any, h: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * x + h, g * 5 + h * 2

    x = m.tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    view = y[:1]
    z, same = Twice.apply(x, y)
    assert same is y
    (z * y + view).sum().backward()
    return x.grad


PROGRAMS = {
    n[1:]: f for n, f in list(globals().items()) if n.startswith("_") and getattr(f, "__module__", "") == __name__
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_programs(program: Program) -> None:
    """The same gradients; or both refuse."""
    try:
        expected = program(torch)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            program(tl)
        return
    np.testing.assert_allclose(program(tl).detach().numpy(), expected.detach().numpy(), rtol=1e-5)
