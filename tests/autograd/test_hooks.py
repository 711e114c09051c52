"""Hooks: on leaves, interior tensors and complete gradients; order, replacement, removal, errors, and when they run."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

import tensorlib as tl


@pytest.fixture
def x() -> tl.Tensor:
    return tl.tensor([1.0, 2.0], requires_grad=True)


# ---- register_hook ----
def test_leaf_hook_sees_the_sum_of_all_uses_once(x: tl.Tensor) -> None:
    seen: list[Any] = []
    x.register_hook(lambda g: seen.append(g.tolist()))
    (x * 2 + x * 3).sum().backward()
    assert seen == [[5, 5]] and x.grad.tolist() == [5, 5]
    (x * 2).sum().backward()
    assert seen == [[5, 5], [2, 2]] and x.grad.tolist() == [7, 7]


def test_interior_hook_sees_the_complete_gradient_once(x: tl.Tensor) -> None:
    h, seen = x * 1, []
    h.register_hook(lambda g: seen.append(g.tolist()))
    (h * 2 + h.exp() * 0 + h * 3).sum().backward()
    assert seen == [[5, 5]]


def test_a_returned_tensor_takes_the_gradients_place(x: tl.Tensor) -> None:
    h = x * 2
    h.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    h.sum().backward()
    assert x.grad.tolist() == [21, 21]


def test_hooks_run_in_order_each_on_what_the_last_returned(x: tl.Tensor) -> None:
    order: list[Any] = []
    x.register_hook(lambda g: order.append(("a", g.tolist())))
    x.register_hook(lambda g: g * 2)
    x.register_hook(lambda g: order.append(("b", g.tolist())))
    x.sum().backward()
    assert order == [("a", [1, 1]), ("b", [2, 2])] and x.grad.tolist() == [2, 2]


@pytest.mark.parametrize("interior", [False, True])
def test_removal(x: tl.Tensor, interior: bool) -> None:
    y = x * 1
    handle = (y if interior else x).register_hook(lambda g: g * 0)
    y.sum().backward(retain_graph=True)
    assert x.grad.tolist() == [0, 0]
    handle.remove()
    handle.remove()  # twice is fine
    y.sum().backward(retain_graph=True)
    assert x.grad.tolist() == [1, 1]
    with (y if interior else x).register_hook(lambda g: g * 100):
        y.sum().backward(retain_graph=True)
    y.sum().backward()
    assert x.grad.tolist() == [102, 102]


def test_a_hook_may_remove_itself_and_others(x: tl.Tensor) -> None:
    handles: list[Any] = []
    handles.append(x.register_hook(lambda g: [h.remove() for h in handles] and None))
    handles.append(x.register_hook(lambda g: None))
    for _ in range(2):
        x.sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_each_output_has_its_own_hooks(x: tl.Tensor) -> None:
    values, positions = tl.sort(x.reshape(2, 1) @ tl.ones(1, 3), dim=0)
    low, high = tl.aminmax(x * 1, dim=0)
    high.register_hook(lambda g: g * 7)
    (low + high).backward()
    assert x.grad.tolist() == [1, 7]
    assert values.requires_grad and not positions.requires_grad


def test_hooks_of_grad_with_inputs(x: tl.Tensor) -> None:
    """Tensor hooks run for captured tensors, leaves and interior ones; accumulation hooks only where .grad is set."""
    h, seen = x * 2, []
    x.register_hook(lambda g: g * 10)
    h.register_hook(lambda g: g * 3)
    x.register_post_accumulate_grad_hook(lambda leaf: seen.append(leaf.grad.tolist()))
    gh, gx = tl.autograd.grad(h.sum(), [h, x], retain_graph=True)
    assert gh.tolist() == [3, 3] and gx.tolist() == [60, 60] and not seen and x.grad is None
    h.sum().backward(inputs=[x])
    assert seen == [[60, 60]]


def test_hook_on_the_root(x: tl.Tensor) -> None:
    y = x.sum()
    y.register_hook(lambda g: g * 4)
    y.backward()
    assert x.grad.tolist() == [4, 4]
    x.register_hook(lambda g: g * 4)
    x.backward(tl.ones(2))
    assert x.grad.tolist() == [8, 8]


def test_hooks_under_create_graph_are_recorded(x: tl.Tensor) -> None:
    x.register_hook(lambda g: g * x)
    (g,) = tl.autograd.grad((x**2).sum(), x, create_graph=True)
    assert g.tolist() == [2, 8]  # 2x * x
    (gg,) = tl.autograd.grad(g.sum(), x, create_graph=False)
    assert gg.tolist() == [4, 16]  # 4x, through the hook, times x by the hook


def test_a_hooks_result_is_checked(x: tl.Tensor) -> None:
    for bad, match in ((tl.ones(3), r"shape \(3,\)"), (1.0, "float"), (tl.ones(2, device="reference"), "reference")):
        with (
            x.register_hook(lambda g, bad=bad: bad),
            pytest.raises((TypeError, tl.DeviceError), match=f"hook: returned.*{match}"),
        ):
            x.sum().backward()
    with x.register_hook(lambda g: g.double() * 3):
        x.sum().backward()
    assert x.grad.dtype is tl.float32 and x.grad.tolist() == [3, 3]


def test_who_can_have_hooks(x: tl.Tensor) -> None:
    plain = tl.ones(2)
    with pytest.raises(tl.GradError, match="does not require"):
        plain.register_hook(lambda g: None)
    with pytest.raises(tl.GradError, match="does not require"):
        plain.retain_grad()
    with pytest.raises(tl.GradError, match="only leaves"):
        (x * 2).register_post_accumulate_grad_hook(lambda leaf: None)


def test_hooks_of_a_tensor_overwritten_in_place_belong_to_its_former_value(x: tl.Tensor) -> None:
    y, seen = x * 1, []
    y.register_hook(lambda g: seen.append(g.tolist()))
    y.mul_(5)
    y.sum().backward()
    assert seen == [[5, 5]]


# ---- after accumulation ----
def test_leaves_are_finished_in_the_middle_of_backward() -> None:
    """A layer's weight is complete before the layers in front of it have been run: that is what lets communication overlap."""
    weights = [tl.full((2, 2), 0.5, requires_grad=True) for _ in range(4)]
    log: list[Any] = []
    h = tl.ones(1, 2)
    for k, w in enumerate(weights):
        w.register_post_accumulate_grad_hook(lambda leaf, k=k: log.append(("weight", k)))
        h = h @ w
        h.register_hook(lambda g, k=k: log.append(("input", k)))
    h.sum().backward()
    assert log == [(what, k) for k in (3, 2, 1, 0) for what in ("input", "weight")]


def test_a_shared_leaf_is_finished_after_its_last_use() -> None:
    w, log = tl.ones(2, requires_grad=True), []
    w.register_post_accumulate_grad_hook(lambda leaf: log.append(leaf.grad.tolist()))
    h = tl.ones(2)
    for _ in range(5):
        h = h * w
    (h + w * 10).sum().backward()
    assert log == [[15, 15]]


def test_the_hook_may_free_the_gradient(x: tl.Tensor) -> None:
    seen: list[Any] = []

    def step(leaf: tl.Tensor) -> None:
        with tl.no_grad():
            leaf.sub_(leaf.grad)
        seen.append(leaf.grad.tolist())
        leaf.grad = None

    handle = x.register_post_accumulate_grad_hook(step)
    for _ in range(2):
        (x * 2).sum().backward()
    assert seen == [[2, 2], [2, 2]] and x.tolist() == [-3, -2] and x.grad is None
    handle.remove()
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2, 2]


@pytest.mark.parametrize("kind", ["before", "after"])
def test_hooks_stay_when_memory_is_replaced(x: tl.Tensor, kind: str) -> None:
    seen: list[object] = []
    if kind == "before":
        x.register_hook(lambda g: (seen.append(g.tolist()), g * 10)[1])
    else:
        x.register_post_accumulate_grad_hook(lambda leaf: seen.append(leaf.grad.tolist()))
    x.data = tl.zeros(2)
    (x * 3).sum().backward()
    assert seen == [[3, 3]]
    assert x.grad.tolist() == ([30, 30] if kind == "before" else [3, 3])


def test_what_is_called_afterwards_is_called_where_nothing_is_seen_before(x: tl.Tensor) -> None:
    """The first gradient, one that is added to it, and one that somebody else holds."""
    seen: list[list[float]] = []
    x.register_post_accumulate_grad_hook(lambda leaf: seen.append(leaf.grad.tolist()))
    for _ in range(2):
        (x * tl.ones(3, 1)).sum().backward()
    g = tl.ones(2)
    x.grad = None
    x.backward(g)
    assert seen == [[3, 3], [6, 6], [1, 1]]
    g.zero_()
    assert x.grad.tolist() == [1, 1], "it is nobody else's"


@pytest.mark.parametrize("kind", ["none", "before", "after"])
def test_gradients_require_none_themselves(x: tl.Tensor, kind: str) -> None:
    class Gives(tl.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
            return tl.ones(2, requires_grad=True)

    if kind == "before":
        x.register_hook(lambda g: None)
    elif kind == "after":
        x.register_post_accumulate_grad_hook(lambda leaf: None)
    Gives.apply(x).sum().backward()
    assert x.grad.tolist() == [1, 1]
    assert not x.grad.requires_grad


def test_unused_leaves_have_no_hooks_run(x: tl.Tensor) -> None:
    other, log = tl.ones(1, requires_grad=True), []
    other.register_post_accumulate_grad_hook(lambda leaf: log.append(leaf))
    other.register_hook(log.append)
    x.sum().backward()
    assert not log


def test_a_leaf_reached_only_without_gradient() -> None:
    """A rule may give no gradient for an input: the leaf still counts as served, and others get theirs."""

    class Stop(tl.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: tl.Tensor, b: tl.Tensor) -> tl.Tensor:
            return a + b

        @staticmethod
        def backward(ctx: Any, g: tl.Tensor) -> Any:
            return g, None

    a, b, log = tl.ones(2, requires_grad=True), tl.ones(2, requires_grad=True), []
    for t in (a, b):
        t.register_post_accumulate_grad_hook(lambda leaf: log.append(leaf.grad.tolist()))
    (Stop.apply(a, b) + b * 2).sum().backward()
    assert sorted(log) == [[1, 1], [2, 2]]


# ---- retain_grad ----
def test_retain_grad(x: tl.Tensor) -> None:
    y = x * 3
    assert not y.retains_grad
    y.retain_grad()
    y.retain_grad()
    assert y.retains_grad and not x.retains_grad
    x.retain_grad()  # a leaf keeps its gradient anyway
    (y * y).sum().backward(retain_graph=True)
    assert y.grad.tolist() == [6, 12] and x.grad.tolist() == [18, 36]
    (y * y).sum().backward()
    assert y.grad.tolist() == [12, 24]


def test_a_retained_gradient_is_the_one_after_all_hooks(x: tl.Tensor) -> None:
    y = x * 3
    y.retain_grad()
    y.register_hook(lambda g: g * 2)
    y.sum().backward()
    assert y.grad.tolist() == [2, 2] and x.grad.tolist() == [6, 6]


def test_retaining_does_not_keep_the_tensor_alive(x: tl.Tensor) -> None:
    y = x * 3
    y.retain_grad()
    z, ref = y.sum(), weakref.ref(y)
    gc.disable()
    try:
        del y
        assert ref() is None
    finally:
        gc.enable()
    z.backward()
    assert x.grad.tolist() == [3, 3]


def test_retained_gradients_of_overwritten_tensors_are_dropped(x: tl.Tensor) -> None:
    y = x * 3
    y.retain_grad()
    y.mul_(2)
    assert not y.retains_grad
    y.sum().backward()
    assert y.grad is None


# ---- errors and nesting ----
@pytest.mark.parametrize("where", ["leaf", "interior", "accumulated"])
def test_exceptions_in_hooks_leave_things_usable(x: tl.Tensor, where: str) -> None:
    y = x * 2

    def bad(_: tl.Tensor) -> None:
        raise KeyError("from the hook")

    handle = {
        "leaf": x.register_hook,
        "interior": y.register_hook,
        "accumulated": x.register_post_accumulate_grad_hook,
    }[where](bad)
    with pytest.raises(KeyError, match="from the hook"):
        (y * y).sum().backward()
    assert tl.is_grad_enabled()
    handle.remove()
    x.grad = None
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_backward_inside_hooks(x: tl.Tensor) -> None:
    other = tl.ones(2, requires_grad=True)

    def nested(g: tl.Tensor) -> None:
        assert not tl.is_grad_enabled()
        with tl.enable_grad():
            (other * g * 2).sum().backward()

    y = x * 3
    y.register_hook(nested)
    x.register_hook(nested)
    (y * y).sum().backward()
    assert x.grad.tolist() == [18, 36]
    assert other.grad.tolist() == [2 * (6 + 18), 2 * (12 + 36)]


def test_backward_into_the_same_leaf_from_its_own_hook(x: tl.Tensor) -> None:
    depth = [0]

    def again(g: tl.Tensor) -> None:
        if depth[0] < 3:
            depth[0] += 1
            with tl.enable_grad():
                (x * 10).sum().backward()

    x.register_hook(again)
    x.sum().backward()
    assert x.grad.tolist() == [31, 31]


# ---- when backward ends ----
def test_callbacks_are_called_once_when_all_gradients_are_there() -> None:
    x, w = tl.ones(2, requires_grad=True), tl.ones(2, requires_grad=True)
    log: list[Any] = []
    y = x * w
    y.register_hook(lambda g: tl.autograd.on_backward_end(lambda error: log.append((error, x.grad, w.grad))))
    y.sum().backward(retain_graph=True)
    assert len(log) == 1
    error, *grads = log[0]
    assert error is None and [g.tolist() for g in grads] == [[1, 1]] * 2
    handle = y.register_hook(lambda g: tl.autograd.on_backward_end(lambda error: log.append("second")))
    handle.remove()
    y.sum().backward()
    assert len(log) == 2


def test_callbacks_follow_gradients_of_chosen_inputs_too() -> None:
    x, log = tl.ones(2, requires_grad=True), []
    x.register_post_accumulate_grad_hook(
        lambda leaf: tl.autograd.on_backward_end(lambda error: log.append(leaf.grad.tolist()))
    )
    (x * 2).sum().backward(inputs=[x])
    assert log == [[2, 2]]


def test_callbacks_are_told_what_ended_backward() -> None:
    x, log = tl.ones(2, requires_grad=True), []

    def fail(g: tl.Tensor) -> None:
        tl.autograd.on_backward_end(log.append)
        raise ArithmeticError("no")

    x.register_hook(fail)
    with pytest.raises(ArithmeticError) as raised:
        (x * 2).sum().backward()
    assert log == [raised.value]
    assert tl.autograd.backward_depth() == 0


def test_what_a_callback_raises_backward_raises_after_the_others() -> None:
    x, log = tl.ones(2, requires_grad=True), []

    def fail(error: BaseException | None) -> None:
        raise ArithmeticError("no")

    def queue(g: tl.Tensor) -> None:
        tl.autograd.on_backward_end(fail)
        tl.autograd.on_backward_end(log.append)

    handle = x.register_hook(queue)
    with pytest.raises(ArithmeticError, match="no"):
        (x * 2).sum().backward()
    assert log == [None]
    handle.remove()
    (x * 2).sum().backward()


def test_of_backwards_in_each_other_the_outermost_counts() -> None:
    w, log = tl.ones(2, requires_grad=True), []

    def finished(leaf: tl.Tensor) -> None:
        depth = tl.autograd.backward_depth()
        tl.autograd.on_backward_end(lambda error: log.append((depth, leaf.grad.tolist())))

    w.register_post_accumulate_grad_hook(finished)

    class Inner(tl.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
            with tl.enable_grad():
                (w * 5).sum().backward()
            assert log == []
            return g

    (Inner.apply(tl.ones(2, requires_grad=True) * 1) + w).sum().backward()
    assert sorted(depth for depth, _ in log) == [1, 2]
    assert [g for _, g in log] == [[6, 6]] * 2


def test_there_is_no_end_without_a_backward() -> None:
    with pytest.raises(tl.GradError, match="no backward is under way in this thread"):
        tl.autograd.on_backward_end(lambda error: None)
    x = tl.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: tl.autograd.on_backward_end(lambda error: None))
    with pytest.raises(tl.GradError, match="no backward is under way in this thread"):
        tl.autograd.grad(y.sum(), x)
