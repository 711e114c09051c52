"""backward() and grad(): arguments, accumulation, which graph is used up, gradients of gradients, and the words of the errors."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.autograd import grad, gradcheck, gradgradcheck


def leaf(*values: float, dtype: tl.DType = tl.float64) -> tl.Tensor:
    return tl.tensor(list(values), dtype=dtype, requires_grad=True)


# ---- backward ----
def test_gradients_accumulate_in_place() -> None:
    x = leaf(1, 2)
    (x * x).sum().backward()
    first = x.grad
    assert first is not None and first.tolist() == [2, 4]
    (3 * x).sum().backward()
    assert x.grad is first and first.tolist() == [5, 7]
    assert not first.requires_grad and first.grad_fn is None
    x.grad = None
    assert x.grad is None
    (3 * x).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_given_gradient() -> None:
    x = leaf(1, 2, 3)
    (x * x).backward(tl.tensor([1.0, 10.0, 100.0], dtype=tl.float64))
    assert x.grad.tolist() == [2, 40, 600]
    x.grad = None
    (x * x).backward(gradient=tl.ones(3))  # float32: converted
    assert x.grad.dtype is tl.float64 and x.grad.tolist() == [2, 4, 6]
    one = leaf(5.0).reshape(1, 1)
    one.backward()  # one element needs no gradient, whatever its shape
    tl.ones((), requires_grad=True).backward()


def test_the_given_gradient_is_not_taken_over() -> None:
    """A leaf's .grad never shares memory with what the caller passed, nor with another leaf's."""
    x, y, g = leaf(1, 2), leaf(3, 4), tl.ones(2, dtype=tl.float64)
    (x + y).backward(g)
    x.grad.add_(5)
    assert y.grad.tolist() == [1, 1] and g.tolist() == [1, 1]
    z = leaf(1, 2)
    z.backward(g)
    z.grad.add_(5)
    assert g.tolist() == [1, 1]


def test_retain_graph() -> None:
    x = leaf(2.0)
    y = (x * x * x).sum()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    assert x.grad.tolist() == [24]
    y.backward()
    with pytest.raises(tl.GradError, match="already used"):
        y.backward()
    assert x.grad.tolist() == [36]


def test_the_error_for_a_used_graph_names_operation_and_line() -> None:
    y = leaf(1, 2).exp().sum()
    y.backward()
    with pytest.raises(RuntimeError, match=rf"`exp` \({re.escape(__file__)}:\d+ in test_the_error_for.*already used"):
        y.backward()


def test_what_keeps_no_tensors_is_never_used_up() -> None:
    """As in PyTorch: a transposed or scaled weight can be made once and used in every step."""
    w = leaf(1, 2)
    scaled = (w * 3 + 1).reshape(2, 1).t()
    for _ in range(3):
        (scaled * scaled.detach()).sum().backward()
    assert w.grad.tolist() == [36, 63]


def test_two_losses_share_a_part() -> None:
    x = leaf(1, 2)
    h = (x * 2).exp()
    h.sum().backward(retain_graph=True)
    (h * h).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp([2.0, 4]) + 4 * np.exp([4.0, 8]))


def test_inputs() -> None:
    x, w, b = leaf(1, 2), leaf(3, 4), leaf(0, 0)
    h = x * w
    loss = (h + b).sum()
    loss.backward(inputs=[w], retain_graph=True)
    assert w.grad.tolist() == [1, 2] and x.grad is None and b.grad is None
    loss.backward(inputs=w, retain_graph=True)
    assert w.grad.tolist() == [2, 4]
    loss.backward(inputs=[h, b])  # an interior tensor gets a .grad too
    assert h.grad.tolist() == [1, 1] and b.grad.tolist() == [1, 1] and x.grad is None
    unused = leaf(1)
    (x * 2).sum().backward(inputs=[unused])
    assert unused.grad is None and x.grad is None


def test_inputs_leave_the_rest_of_the_graph_usable() -> None:
    x, w = leaf(2.0), leaf(3.0)
    hidden = x.exp()
    out = (hidden * w).sum()
    out.backward(inputs=[w])
    hidden.sum().backward()  # its part was not run, so not used up
    np.testing.assert_allclose(x.grad.numpy(), np.exp([2.0]))


def test_create_graph_makes_differentiable_gradients() -> None:
    x = leaf(2.0)
    (x**3).sum().backward(create_graph=True)
    first = x.grad
    assert first.requires_grad and first.tolist() == [12]
    x.grad = None
    first.sum().backward()
    assert x.grad.tolist() == [12]


def test_broadcast_and_cast_gradients_reach_the_operands_shape_and_dtype() -> None:
    a, b, s = (
        tl.ones(2, 1, requires_grad=True),
        tl.ones(3, dtype=tl.float64, requires_grad=True),
        tl.tensor(2.0, requires_grad=True),
    )
    (a * b * s).sum().backward()
    assert (a.grad.shape, a.grad.dtype, a.grad.tolist()) == ((2, 1), tl.float32, [[6], [6]])
    assert (b.grad.shape, b.grad.dtype, b.grad.tolist()) == ((3,), tl.float64, [4, 4, 4])
    assert (s.grad.shape, s.grad.dtype, s.grad.item()) == ((), tl.float32, 6)


def test_a_tensor_used_many_times() -> None:
    x = leaf(3.0)
    y = x
    for _ in range(20):
        y = y + x
    y.sum().backward()
    assert x.grad.tolist() == [21]


def test_diamonds_run_each_node_once(rng: np.random.Generator) -> None:
    """2^40 paths, 80 nodes."""
    x = leaf(1.0)
    y = x
    for _ in range(40):
        y = y + y
    y.sum().backward()
    assert x.grad.item() == 2.0**40


def test_dead_ends_and_constants() -> None:
    x, c = leaf(1, 2), tl.ones(2, dtype=tl.float64)
    _unused = (x * 5).exp()
    (x * c + c.sum()).sum().backward()
    assert x.grad.tolist() == [1, 1] and c.grad is None and not (c * 2).requires_grad


def test_integer_and_bool_results_carry_no_gradient() -> None:
    x = leaf(1.5, 2.5)
    assert not (x > 2).requires_grad and not x.to(tl.int64).requires_grad and not x.argmax().requires_grad
    with pytest.raises(tl.GradError, match="does not require a gradient"):
        (x > 2).sum().backward()


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_every_device_has_the_same_engine(device: str, rng: np.random.Generator) -> None:
    values = rng.standard_normal((3, 4))
    x = tl.tensor(values, device=device, requires_grad=True)
    w = tl.tensor(values.T, device=device, requires_grad=True)
    y = tl.tanh(x @ w).sum()
    y.backward(retain_graph=True)
    y.backward()
    slope = 1 - np.tanh(values @ values.T) ** 2
    np.testing.assert_allclose(x.grad.to("cpu").numpy(), 2 * slope @ values)
    np.testing.assert_allclose(w.grad.to("cpu").numpy(), 2 * values.T @ slope)
    assert gradcheck(lambda x, w: tl.tanh(x @ w), (x, w)) and gradgradcheck(lambda x, w: tl.tanh(x @ w), (x, w))


def test_gradients_cross_devices() -> None:
    x = leaf(1, 2)
    (x.to("reference") * 3).to("cpu").sum().backward()
    assert x.grad.tolist() == [3, 3] and x.grad.device == "cpu"


# ---- grad ----
def test_grad_returns_and_leaves_grad_alone() -> None:
    x, w = leaf(1, 2), leaf(3, 4)
    gx, gw = grad((x * x * w).sum(), [x, w])
    assert gx.tolist() == [6, 16] and gw.tolist() == [1, 4] and x.grad is None and w.grad is None


def test_grad_of_several_outputs() -> None:
    x = leaf(1, 2)
    a, b = x * 2, x * x
    (g,) = grad([a, b], x, [tl.ones(2, dtype=tl.float64), tl.tensor([1.0, 10.0], dtype=tl.float64)])
    assert g.tolist() == [4, 42]
    (g,) = grad([(x * 2).sum(), (x * x).sum()], [x], [None, None])
    assert g.tolist() == [4, 6]
    (g,) = grad([a.sum(), a.sum()], x)
    assert g.tolist() == [4, 4]


def test_grad_of_interior_tensors() -> None:
    x = leaf(1, 2)
    h = x * 3
    out = (h * h).sum()
    gh, gx = grad(out, [h, x])
    assert gh.tolist() == [6, 12] and gx.tolist() == [18, 36]
    (same,) = grad(h, h, tl.ones(2, dtype=tl.float64))
    assert same.tolist() == [1, 1]
    first, second = grad((x * x).sum(), [x, x])
    assert first.tolist() == second.tolist() == [2, 4]


def test_grad_through_views_of_an_input() -> None:
    x = tl.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    v = x[1]
    gv, gx = grad((v * v).sum(), [v, x])
    assert gv.tolist() == [6, 8, 10] and gx.tolist() == [[0, 0, 0], [6, 8, 10]]


def test_unused_inputs() -> None:
    x, other = leaf(1, 2), leaf(1, 2, 3)
    with pytest.raises(tl.GradError, match=r"input 1 of shape \(3,\) was not used"):
        grad((x * 2).sum(), [x, other])
    assert grad((x * 2).sum(), [x, other], allow_unused=True)[1] is None
    made = grad((x * 2).sum(), [x, other], materialize_grads=True)[1]
    assert made.tolist() == [0, 0, 0] and made.dtype is tl.float64
    with pytest.raises(tl.GradError, match="was not used"):
        grad((x * 2).sum(), [x, other], materialize_grads=True, allow_unused=False)


def test_grad_stops_at_its_inputs(rng: np.random.Generator) -> None:
    x, deep = leaf(1.0), leaf(2.0)
    h = deep.exp()
    h_before = h.sum()
    (g,) = grad((h * x).sum(), x)
    assert math.isclose(g.item(), math.exp(2))
    h_before.backward()
    assert math.isclose(deep.grad.item(), math.exp(2))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_gradients_of_gradients(order: int) -> None:
    """The derivatives of sin(2x) x^3, against Leibniz."""
    values = np.array([0.3, -1.1, 2.0])
    x = tl.tensor(values, requires_grad=True)
    y = (2 * x).sin() * x**3
    for _ in range(order):
        (y,) = grad(y.sum(), x, create_graph=True)
    powers = [values**3, 3 * values**2, 6 * values, np.full(3, 6.0), np.zeros(3)]
    expected = sum(
        math.comb(order, k) * 2 ** (order - k) * np.sin(2 * values + (order - k) * np.pi / 2) * powers[k]
        for k in range(order + 1)
    )
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-10)


def test_mixed_orders_through_matrix_products(rng: np.random.Generator) -> None:
    def f(x: tl.Tensor, w: tl.Tensor, b: tl.Tensor) -> tl.Tensor:
        h = tl.tanh(x @ w + b)
        return (h.softmax(-1) * h[:, [0, 0, 1]]).sum(0)

    args = [tl.tensor(rng.standard_normal(s), requires_grad=True) for s in [(2, 4), (4, 3), (3,)]]
    assert gradcheck(f, args, fast_mode=False) and gradgradcheck(f, args)

    def second(x: tl.Tensor, w: tl.Tensor, b: tl.Tensor) -> tl.Tensor:
        gx, gw = grad(f(x, w, b).sum(), [x, w], create_graph=True)
        return (gx * gx).sum() + (gw**3).sum()

    assert gradcheck(second, args) and gradgradcheck(second, args)


def test_hessian_vector_product(rng: np.random.Generator) -> None:
    a = rng.standard_normal((4, 4))
    x, v = tl.tensor(rng.standard_normal(4), requires_grad=True), tl.tensor(rng.standard_normal(4))
    m = tl.tensor(a)
    (g,) = grad(x @ m @ x, x, create_graph=True)
    (hv,) = grad(g @ v, x)
    np.testing.assert_allclose(hv.numpy(), (a + a.T) @ v.numpy())


# ---- errors ----
def test_errors_name_what_and_where() -> None:
    x = leaf(1, 2)
    with pytest.raises(RuntimeError, match=r"shape \(2,\) does not require a gradient"):
        tl.ones(2).backward()
    with pytest.raises(tl.GradError, match=r"shape \(2,\), so its gradient must be given"):
        (x * 2).backward()
    with pytest.raises(tl.ShapeError, match=r"gradient has shape \(3,\), expected the tensor's, \(2,\)"):
        (x * 2).backward(tl.ones(3))
    with pytest.raises(TypeError, match="gradient is a float"):
        (x * 2).sum().backward(1.0)  # type: ignore[arg-type]
    with pytest.raises(tl.GradError, match="gradient is on reference"):
        (x * 2).backward(tl.ones(2, device="reference"))
    with pytest.raises(tl.GradError, match="empty"):
        (x * 2).sum().backward(inputs=[])
    with pytest.raises(tl.GradError, match=r"input 1 of shape \(1,\) does not require"):
        (x * 2).sum().backward(inputs=[x, tl.ones(1)])
    with pytest.raises(TypeError, match="input 0 is a int"):
        grad((x * 2).sum(), [3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="got a float"):
        grad(3.0, x)  # type: ignore[arg-type]
    with pytest.raises(tl.ShapeError, match="2 grad_outputs for 1 outputs"):
        grad(x * 2, x, [None, None])
    with pytest.raises(tl.GradError, match="does not require a gradient"):
        grad((x * 2).sum(), tl.ones(2))
    assert x.grad is None


def test_an_overwritten_saved_value_names_both_lines() -> None:
    x = leaf(1, 2)
    y = x.exp()
    z = (y * y).sum()
    y.add_(1)
    with pytest.raises(tl.GradError) as caught:
        z.backward()
    first = test_an_overwritten_saved_value_names_both_lines.__code__.co_firstlineno
    assert f"`mul` ({__file__}:{first + 3} in test_an_overwritten" in str(caught.value)
    assert f"overwritten in place at {__file__}:{first + 4} in test_an_overwritten" in str(caught.value)
    assert "clone()" in str(caught.value) and x.grad is None


def test_after_an_error_everything_still_works() -> None:
    x = leaf(1, 2)
    y = x.exp()
    bad = (y * y).sum()
    good = (x * x).sum()
    y.add_(1)
    for _ in range(2):
        with pytest.raises(tl.GradError, match="overwritten in place"):
            bad.backward()
    good.backward()
    assert x.grad.tolist() == [2, 4]


def test_numpy_of_a_recorded_tensor() -> None:
    with pytest.raises(tl.GradError, match="requires a gradient"):
        leaf(1).numpy()
    assert leaf(1).detach().numpy().tolist() == [1]


# ---- flags and links ----
def test_requires_grad() -> None:
    x = tl.ones(2)
    assert x.is_leaf and not x.requires_grad and x.grad_fn is None
    assert x.requires_grad_() is x and x.requires_grad
    y = x * 2
    assert not y.is_leaf and y.requires_grad and y.grad_fn.name == "mul"
    with pytest.raises(tl.GradError, match="only a leaf"):
        y.requires_grad_(False)
    assert y.requires_grad_().requires_grad
    x.requires_grad = False
    assert not x.requires_grad and not (x * 2).requires_grad
    for dtype in (tl.int64, tl.bool, tl.uint8, tl.complex64):
        with pytest.raises(tl.DTypeError, match=dtype.name):
            tl.zeros(2, dtype=dtype).requires_grad_()


def test_complex_results_are_not_recorded() -> None:
    x = leaf(1, 2)
    with pytest.raises(tl.GradError, match="cast: a complex result can not be recorded"):
        x.to(tl.complex64)
    assert x.detach().to(tl.complex64).tolist() == [1, 2]


def test_detach() -> None:
    x = leaf(1, 2)
    y = x * 2
    d = y.detach()
    assert not d.requires_grad and d.is_leaf and d.data_ptr() == y.data_ptr()
    (d * x).sum().backward()
    assert x.grad.tolist() == [2, 4]
    assert y.detach_() is y and y.is_leaf and not y.requires_grad


def test_detach_in_place_refuses_views() -> None:
    y = leaf(1, 2) * 2
    with pytest.raises(tl.GradError, match="view"):
        y[0].detach_()


def test_writing_to_a_detached_tensor_is_seen_by_version_checks() -> None:
    x = leaf(1, 2)
    y = x.exp()
    z = (y * y).sum()
    y.detach().zero_()
    with pytest.raises(tl.GradError, match="overwritten in place"):
        z.backward()


def test_grad_fn_links() -> None:
    x = leaf(1, 2)
    y = (x * 2).exp()
    node = y.grad_fn
    assert node.name == "exp" and y.grad_fn == node and len({node, y.grad_fn}) == 1
    ((parent, nr), *_) = node.next_functions
    assert parent.name == "mul" and nr == 0
    assert parent.next_functions[0][0] is not None and parent.next_functions[0][0].shape == x.shape
    assert f"{__file__}:" in node.where and "test_grad_fn_links" in repr(node)


@pytest.mark.parametrize("interior", [False, True])
@pytest.mark.parametrize("size", [6, 120])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_parts_of_one_tensor(size: int, order: int, interior: bool, rng: np.random.Generator) -> None:
    """Slices, selections and diagonals that overlap, and the whole: each one's gradient lands in its place, whichever comes first."""
    x = tl.tensor(rng.standard_normal((size, size)), requires_grad=True)
    parts = [
        (slice(None),), (slice(0, size - 1),), (slice(None), slice(2, None)), (slice(None), 3), (4,), (slice(1, None, 2), slice(0, 5)),
    ]  # fmt: skip
    parts = parts[order:] + parts[:order]
    weights = [rng.standard_normal(np.empty((size, size))[i].shape) for i in parts]
    diagonal = rng.standard_normal(size)
    y = x * 2 if interior else x
    total = (y.diagonal() * tl.tensor(diagonal)).sum()
    for part, w in zip(parts, weights, strict=True):
        total = total + (y[part] * tl.tensor(w)).sum()
    want = np.diag(diagonal)
    for part, w in zip(parts, weights, strict=True):
        want[part] += w
    wanted = [y, x] if interior else [x]
    for got in (
        grad(total, wanted, retain_graph=True),
        grad(total, wanted, retain_graph=True),
        grad(total, wanted, create_graph=True),
    ):
        for g, factor in zip(reversed(got), (2 if interior else 1, 1), strict=False):
            np.testing.assert_allclose(g.detach().numpy(), factor * want, rtol=1e-12, atol=1e-12)
    total.backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), (2 if interior else 1) * want, rtol=1e-12, atol=1e-12)


def test_assigning_grad() -> None:
    x = leaf(1, 2)
    with pytest.raises(TypeError, match="got a list"):
        x.grad = [1, 2]  # type: ignore[assignment]
    with pytest.raises(tl.ShapeError, match=r"expected \(2,\) float64"):
        x.grad = tl.ones(3, dtype=tl.float64)
    with pytest.raises(tl.ShapeError, match="float32"):
        x.grad = tl.ones(2)
    with pytest.raises(tl.GradError, match="own gradient"):
        x.grad = x
    x.grad = g = tl.ones(2, dtype=tl.float64)
    (x * 3).sum().backward()
    assert x.grad is g and g.tolist() == [4, 4]
