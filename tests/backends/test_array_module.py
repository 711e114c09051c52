"""The array-module backend, on NumPy: what a tensor does on a device whose memory C does not touch. CuPy runs the same code."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.dtypes import ALL
from tests.cases import Case, assert_close, cases, differentiable_cases, leaves, same_bits, typical

HERE, THERE = "cpu", "reference"


def there(values: object, **options: object) -> tl.Tensor:
    return tl.tensor(values, device=THERE, **options)


@pytest.mark.parametrize("case", typical(differentiable_cases(dtype=tl.float64, smooth=True), most=2), ids=str)
def test_gradients(case: Case) -> None:
    """Every rule gives there what kernels and rules give here."""
    found = []
    for device in (HERE, THERE):
        args = case.args(requires_grad=True, device=device)
        outs = [t for t in case.outputs(*args) if t.requires_grad]
        seeds = [tl.ones_like(t) for t in outs]
        grads = tl.autograd.grad(outs, leaves(args), seeds, allow_unused=True) if outs else ()
        assert all(g is None or g.device.type == device for g in grads)
        found.append(grads)
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(b.cpu(), a.numpy(), a.dtype)


@pytest.mark.parametrize("dtype", ALL, ids=lambda d: d.name)
def test_there_and_back(dtype: tl.DType) -> None:
    x = tl.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    y = x.to(THERE)
    assert (y.device.type, y.dtype, y.shape) == (THERE, dtype, (2, 3))
    assert same_bits(y.cpu(), x)
    assert same_bits(y.t().cpu(), x.t().contiguous())
    assert same_bits(y[1:, ::2].cpu(), x[1:, ::2].contiguous())


def test_moving_is_recorded() -> None:
    x = tl.tensor([1.0, 2.0], requires_grad=True)
    (x.to(THERE) * there([3.0, 4.0])).cpu().sum().backward()
    assert x.grad.tolist() == [3, 4] and x.grad.device.type == HERE


def test_views_share_memory() -> None:
    base = there([[1.0, 2.0], [3.0, 4.0]])
    row, column = base[1], base.t()[0]
    version = base._version
    row.mul_(10)
    assert base.tolist() == [[1, 2], [30, 40]] and column.tolist() == [1, 30]
    base[0, 0] = -1
    assert column.tolist() == [-1, 30] and base._version > version
    kept = base.clone()
    base.zero_()
    assert kept.tolist() == [[-1, 2], [30, 40]] and not row.any()


def test_writes_flow_into_gradients() -> None:
    x = there([1.0, 2.0, 3.0], requires_grad=True)
    w = there(5.0, requires_grad=True)
    h = x * 2
    h[1:].mul_(w)
    h[0] = w
    h.sum().backward()
    assert x.grad.tolist() == [0, 10, 10] and w.grad.item() == 4 + 6 + 1


def test_overwritten_values_are_noticed() -> None:
    x = there([1.0, 2.0], requires_grad=True)
    y = x * 1
    z = y.sin()
    y.add_(1)
    with pytest.raises(tl.GradError, match="overwritten in place"):
        z.sum().backward()


def test_devices_do_not_mix() -> None:
    a, b = tl.ones(2), there([1.0, 1.0])
    for mix in (lambda: a + b, lambda: tl.cat([a, b]), lambda: a.add_(b), lambda: tl.where(a > 0, a, b)):
        with pytest.raises(tl.DeviceError, match=r"cpu|reference"):
            mix()
    assert a.tolist() == b.tolist() == [1, 1]
    a.copy_(b * 2)  # copying is the way across
    assert a.tolist() == [2, 2]


def test_numbers_in_main_memory_join() -> None:
    """As Python's numbers do: a tensor without dimensions may stay where it is."""
    x, half = there([1.0, 2.0], requires_grad=True), tl.tensor(0.5)
    y = tl.where(x > half, half * x, x / half)
    assert y.device.type == THERE and y.tolist() == [0.5, 1]
    y.sum().backward()
    assert x.grad.tolist() == [0.5, 0.5]
    for mix in (lambda: x * half.requires_grad_(), lambda: tl.ones(2) * there(2.0)):
        with pytest.raises(tl.DeviceError, match=r"cpu.*reference|reference.*cpu"):
            mix()


def test_results_are_not_views_of_operands() -> None:
    """A reference may return its operand, or a view; the result is a tensor of its own all the same."""
    for device in (HERE, THERE):
        for case in typical(cases(dtype=tl.float32, smooth=True, where=lambda op: op.kind == "structured"), most=1):
            args = case.args(device=device)
            operands = [t for t in args if isinstance(t, tl.Tensor)]
            before = [t._read().copy() for t in operands]
            outs = case.outputs(*args)
            if any(o._version != t._version for o in outs for t in operands) or not outs:
                continue
            for o in outs:
                assert o.device.type == device
            for t, values in zip(operands, before, strict=True):
                np.testing.assert_array_equal(t._read(), values)


def test_sizes_of_nothing() -> None:
    for shape in ((0,), (2, 0, 3)):
        x = there(np.zeros(shape, np.float32))
        assert (x + 1).shape == shape and x.sum().item() == 0 and x.reshape(-1).shape == (0,)


def test_gradients_of_several_leaves_are_several() -> None:
    """One gradient that arrives at two leaves, expanded, or given by the user is each leaf's own afterwards."""
    a, b, g = (there([1.0, 2.0], requires_grad=True), there([3.0, 4.0], requires_grad=True), there([1.0, 1.0]))
    (a + b).backward(g)
    a.sum().backward()
    a.grad.mul_(10)
    assert (a.grad.tolist(), b.grad.tolist(), g.tolist()) == ([20, 20], [1, 1], [1, 1])
    c = there([1.0, 2.0], requires_grad=True)
    c.sum().backward()
    c.sum().backward()
    assert c.grad.tolist() == [2, 2]


@pytest.mark.parametrize("value", [300, -1, 2.5, True, 1e9], ids=str)
@pytest.mark.parametrize("dtype", ALL, ids=lambda d: d.name)
def test_filled_as_here(dtype: tl.DType, value: float) -> None:
    """A number becomes the dtype's in one way, wherever it goes."""
    for fill in (
        lambda d: tl.full((2,), value, dtype=dtype, device=d),
        lambda d: tl.zeros(2, dtype=dtype, device=d).fill_(value),
    ):
        assert same_bits(fill(THERE).cpu(), fill(HERE))
