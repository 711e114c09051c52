"""Hooks of modules: around forward, on gradients, for all modules, at registration."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn.modules import module as everywhere


class Pair(nn.Module):
    """Two results of two arguments, of which any may be unused."""

    def forward(self, x: Any, y: Any = None) -> Any:
        return x * 2, x.detach() * 3 if y is None else y * 3


def fail(*_: Any) -> Any:
    raise ValueError("from forward")


@pytest.fixture(autouse=True)
def _no_hooks_are_left() -> Iterator[None]:
    yield
    assert nn.Module._hooks is None
    assert not any(everywhere.REGISTRATION.values())


def test_gradients_of_output_and_input() -> None:
    module, seen = Pair(), []
    module.register_full_backward_pre_hook(lambda m, go: seen.append(("output", m, go)))
    module.register_full_backward_hook(lambda m, gi, go: seen.append(("input", m, gi, go)))
    x, y = tl.ones(2, requires_grad=True), tl.ones(2, requires_grad=True)
    out = module(x, y)
    assert isinstance(out, tuple)
    (out[0] * 5).sum().backward()
    (_, m, go), (_, _, gi, go_again) = seen
    assert m is module and go[0].tolist() == [5.0, 5.0] and go[1] is None and go_again is go
    assert gi[0].tolist() == [10.0, 10.0] and gi[1].tolist() == [0.0, 0.0]
    assert x.grad.tolist() == [10.0, 10.0]


def test_gradients_are_replaced_in_turn() -> None:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.ones_(layer.weight)
    layer.register_full_backward_pre_hook(lambda m, go: go[0] * 2)
    layer.register_full_backward_pre_hook(lambda m, go: (go[0] + 1,), prepend=True)
    layer.register_full_backward_hook(lambda m, gi, go: (gi[0] * 10,))
    layer.register_full_backward_hook(lambda m, gi, go: (gi[0] + go[0].sum(),))
    x = tl.ones(2, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad.tolist() == [[4.0, 4.0]] and x.grad.tolist() == [44.0, 44.0]


def test_without_a_gradient_for_the_input_hooks_still_run() -> None:
    layer, seen = nn.Linear(2, 1), []
    handle = layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go[0].tolist())))
    layer(tl.ones(2)).sum().backward()
    assert seen == [((None,), [1.0])]
    handle.remove()
    layer.register_full_backward_hook(lambda m, gi, go: (go[0],))
    with pytest.raises(RuntimeError, match="Linear: a backward hook returned gradients, but no argument requires one"):
        layer(tl.ones(2)).sum().backward()


def test_the_number_of_gradients_is_checked() -> None:
    x = tl.ones(2, requires_grad=True)
    before, after = nn.Identity(), nn.Identity()
    before.register_full_backward_pre_hook(lambda m, go: (go[0], go[0]))
    after.register_full_backward_hook(lambda m, gi, go: ())
    with pytest.raises(RuntimeError, match="pre-hook returned 2 gradients, expected 1 as in grad_output"):
        before(x).sum().backward()
    with pytest.raises(RuntimeError, match="backward hook returned 0 gradients, expected 1 as in grad_input"):
        after(x).sum().backward()


def test_backward_hooks_need_tensors() -> None:
    class Lists(nn.Module):
        def forward(self, x: Any) -> Any:
            return [x]

    module = Lists()
    module.register_full_backward_hook(fail)
    with pytest.warns(UserWarning, match="Lists: backward hooks need an output that is a tensor or a tuple"):
        (out,) = module(tl.ones(1, requires_grad=True))
    with tl.no_grad():
        module(tl.ones(1))
    out.backward()


def test_backward_hooks_take_part_in_second_derivatives() -> None:
    square = nn.Sequential()
    square.forward = lambda x: x * x  # type: ignore[method-assign]
    square.register_full_backward_hook(lambda m, gi, go: (gi[0] * 3,))
    x = tl.tensor(2.0, requires_grad=True)
    (first,) = tl.autograd.grad(square(x), x, create_graph=True)
    (second,) = tl.autograd.grad(first, x)
    assert (first.item(), second.item()) == (12.0, 6.0)


def test_in_place_changes_around_a_module_with_backward_hooks() -> None:
    layer = nn.Identity()
    layer.register_full_backward_hook(lambda m, gi, go: None)
    x = tl.ones(2, requires_grad=True)
    out = layer(x * 1)
    out *= 4
    out.sum().backward()
    assert x.grad.tolist() == [4.0, 4.0]


def test_always_called_hooks_see_errors() -> None:
    class Broken(nn.Module):
        forward = fail

    module, seen = Broken(), []
    module.register_forward_hook(lambda m, args, out: seen.append("never"))
    module.register_forward_hook(lambda m, args, out: seen.append((args, out)), always_call=True)
    module.register_forward_hook(fail, always_call=True)
    with (
        pytest.warns(UserWarning, match="a hook with always_call failed after an error in forward"),
        pytest.raises(ValueError, match="from forward"),
    ):
        module(1)
    assert seen == [((1,), None)]


def test_an_always_called_hook_runs_once() -> None:
    module, seen = nn.Identity(), []
    module.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    module.register_forward_hook(fail)
    with pytest.raises(ValueError, match="from forward"):
        module(1)
    assert seen == [1]


def test_the_last_hook_removed_makes_calls_plain_again() -> None:
    module = nn.Identity()
    handle = module.register_forward_hook(lambda m, args, out: out + 1)
    assert module(1) == 2 and module._hooks is not None
    handle.remove()
    assert module(1) == 1 and module._hooks is None
    module.register_forward_hook(lambda m, args, out: out + 2)
    assert module(1) == 3


def test_hooks_for_all_modules_come_first() -> None:
    seen: list[Any] = []
    net = nn.Sequential(nn.Identity())
    net[0].register_forward_pre_hook(lambda m, args: seen.append("own"))
    handles = [
        everywhere.register_module_forward_pre_hook(lambda m, args: seen.append(type(m).__name__)),
        everywhere.register_module_forward_hook(lambda m, args, out: seen.append(out)),
        everywhere.register_module_full_backward_hook(lambda m, gi, go: seen.append(gi[0].item())),
        everywhere.register_module_full_backward_pre_hook(lambda m, go: seen.append("back")),
    ]
    x = tl.tensor(1.0, requires_grad=True)
    out = net(x)
    out.backward(tl.tensor(3.0))
    for handle in handles:
        handle.remove()
    net(x)
    assert seen[:2] == ["Sequential", "Identity"] and seen[2] == "own"
    assert seen[5:] == ["back", "back", 3.0, 3.0, "own"]


def test_hooks_at_registration() -> None:
    seen = []
    with (
        everywhere.register_module_parameter_registration_hook(lambda m, name, p: seen.append(name)),
        everywhere.register_module_buffer_registration_hook(lambda m, name, b: b + 1),
        everywhere.register_module_module_registration_hook(lambda m, name, c: seen.append(type(c).__name__)),
    ):
        net = nn.Sequential(nn.Linear(1, 1, bias=False))
        net.register_buffer("b", tl.zeros(1))
    assert seen == ["weight", "Linear"] and net.b.tolist() == [1.0]


def test_a_copy_has_its_own_hooks() -> None:
    module = nn.Identity()
    module.register_forward_hook(lambda m, args, out: out + 1)
    twin = copy.deepcopy(module)
    twin.register_forward_hook(lambda m, args, out: out * 10)
    assert module(1) == 2 and twin(1) == 20
