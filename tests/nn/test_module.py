"""Module: registries and attributes in step, walking, state, hooks, copies, words."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import tensorlib as tl
from tensorlib import nn


class Block(nn.Module):
    """A parameter, buffers of both kinds, and a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = nn.Parameter(tl.ones(2))
        self.register_buffer("steps", tl.zeros(1))
        self.register_buffer("scratch", tl.zeros(4), persistent=False)

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return self.linear(x) * self.scale


def names(pairs: Any) -> list[str]:
    return [name for name, _ in pairs]


def test_attributes_enter_the_registries() -> None:
    block = Block()
    assert names(block.named_parameters()) == ["scale", "linear.weight", "linear.bias"]
    assert names(block.named_buffers()) == ["steps", "scratch"]
    assert names(block.named_children()) == ["linear"]
    assert names(block.named_modules()) == ["", "linear"]
    assert list(block.state_dict()) == ["scale", "steps", "linear.weight", "linear.bias"]


def test_a_parameter_is_an_ordinary_attribute() -> None:
    block = Block()
    assert block.__dict__["scale"] is block._parameters["scale"]
    assert "__getattr__" not in vars(nn.Module)


def test_a_forgotten_super_init_is_harmless() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            self.weight = nn.Parameter(tl.ones(1))

    assert names(Bare().named_parameters()) == ["weight"]


def test_assigning_moves_a_name_between_registries() -> None:
    block = Block()
    block.steps = nn.Parameter(tl.ones(1))
    assert "steps" in block._parameters and "steps" not in block._buffers
    block.scale = None
    assert block._parameters["scale"] is None and block.scale is None
    del block.linear
    assert not hasattr(block, "linear") and not block._modules


def test_only_parameters_replace_parameters() -> None:
    block = Block()
    with pytest.raises(TypeError, match="`scale` is a parameter, got Tensor; expected a Parameter or None"):
        block.scale = tl.ones(2)
    with pytest.raises(TypeError, match="`linear` is a module, got int"):
        block.linear = 3
    with pytest.raises(TypeError, match="`steps` is a buffer, got str"):
        block.steps = "no"
    assert isinstance(block.scale, nn.Parameter)


@pytest.mark.parametrize("name", ["", "a.b", 3])
def test_names_are_checked(name: Any) -> None:
    with pytest.raises(KeyError, match="non-empty string without dots"):
        nn.Module().register_parameter(name, None)


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(KeyError, match="already has an attribute `forward`"):
        nn.Module().register_buffer("forward", tl.ones(1))


def test_a_shared_parameter_counts_once_but_keeps_both_names_in_the_state() -> None:
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    assert len(list(tied.parameters())) == 3
    assert names(tied.named_parameters(remove_duplicate=False)) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert list(tied.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_lookup_by_path() -> None:
    block = Block()
    assert block.get_submodule("linear") is block.linear and block.get_submodule("") is block
    assert block.get_parameter("linear.bias") is block.linear.bias
    with pytest.raises(AttributeError, match="`missing` is not there"):
        block.get_submodule("linear.missing")
    with pytest.raises(AttributeError, match=r"no parameter `linear\.missing`"):
        block.get_parameter("linear.missing")


def test_state_round_trip() -> None:
    source, target = Block(), Block()
    result = target.load_state_dict(source.state_dict())
    assert result == ([], [])
    for name, value in target.state_dict().items():
        assert value.tolist() == source.state_dict()[name].tolist()
    assert target.linear.weight is not source.linear.weight


def test_the_state_shares_memory_and_has_no_history() -> None:
    block = Block()
    state = block.state_dict()
    with tl.no_grad():
        block.scale.fill_(5)
    assert state["scale"].tolist() == [5.0, 5.0] and not state["scale"].requires_grad
    assert block.state_dict(keep_vars=True)["scale"] is block.scale
    assert list(block.state_dict(prefix="net.")) == ["net.scale", "net.steps", "net.linear.weight", "net.linear.bias"]


def test_a_state_that_does_not_fit_is_reported_whole_and_changes_nothing() -> None:
    block = Block()
    before = {name: value.tolist() for name, value in block.state_dict().items()}
    bad = {"scale": tl.ones(3), "linear.weight": tl.zeros(2, 3), "extra": tl.ones(1), "more.extra": tl.ones(1)}
    with pytest.raises(nn.StateDictError) as raised:
        block.load_state_dict(bad)
    message = str(raised.value)
    for words in (
        "missing:",
        "steps",
        "linear.bias",
        "unexpected:",
        "extra",
        "more.extra",
        "misshapen:",
        "got (3,), expected (2,)",
    ):
        assert words in message
    assert isinstance(raised.value, RuntimeError)
    assert before == {name: value.tolist() for name, value in block.state_dict().items()}


def test_not_strict_passes_over_names_but_not_shapes() -> None:
    block = Block()
    result = block.load_state_dict({"scale": tl.full((2,), 7.0), "extra": tl.ones(1)}, strict=False)
    assert result.missing_keys == ["steps", "linear.weight", "linear.bias"] and result.unexpected_keys == ["extra"]
    assert block.scale.tolist() == [7.0, 7.0]
    with pytest.raises(nn.StateDictError, match="misshapen"):
        block.load_state_dict({"scale": tl.ones(3)}, strict=False)


def test_loading_takes_arrays_converts_dtypes_and_can_assign() -> None:
    import numpy as np

    block = Block()
    state = block.state_dict()
    block.load_state_dict({**state, "scale": np.array([1.5, 2.5])})
    assert block.scale.tolist() == [1.5, 2.5] and block.scale.dtype is tl.float32
    block.load_state_dict({**state, "scale": tl.full((2,), 3.0, dtype=tl.float64)}, assign=True)
    assert block.scale.dtype is tl.float64 and isinstance(block.scale, nn.Parameter)
    with pytest.raises(nn.StateDictError, match="`scale` must be a tensor or an array, got object"):
        block.load_state_dict({**state, "scale": object()})
    with pytest.raises(TypeError, match="expected a mapping"):
        block.load_state_dict([1])  # type: ignore[arg-type]


def test_modes() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout()))
    assert net.eval() is net and not any(module.training for module in net.modules())
    assert net.train().training and net[1][0].training


def test_apply_visits_children_first() -> None:
    seen: list[str] = []
    Block().apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Linear", "Block"]


def test_freezing_and_gradients() -> None:
    block = Block()
    block(tl.ones(4, 3)).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    block.zero_grad(set_to_none=False)
    assert block.scale.grad is not None and block.scale.grad.tolist() == [0.0, 0.0]
    block.zero_grad()
    assert all(p.grad is None for p in block.parameters())
    block.requires_grad_(False)
    assert not any(p.requires_grad for p in block.parameters())


def test_conversion_keeps_the_parameter_objects() -> None:
    block = Block()
    block(tl.ones(1, 3)).sum().backward()
    weight = block.linear.weight
    assert block.double() is block
    assert block.linear.weight is weight and weight.dtype is tl.float64 and weight.requires_grad and weight.is_leaf
    assert weight.grad is not None and weight.grad.dtype is tl.float64
    assert block.steps.dtype is tl.float64 and block._buffers["steps"] is block.steps
    block.to(tl.float32)(tl.ones(1, 3)).sum().backward()
    assert block.half().scale.dtype is tl.float16 and block.float().scale.dtype is tl.float32
    assert block.to(tl.zeros(1, dtype=tl.float64)).scale.dtype is tl.float64
    with pytest.raises(TypeError, match="floating or complex dtype"):
        block.to(tl.int64)


def test_hooks_see_and_replace() -> None:
    linear = nn.Linear(2, 2)
    seen: list[str] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
        seen.append("before")
        return (args[0] * 0,)

    def after(module: nn.Module, args: tuple[Any, ...], out: tl.Tensor) -> Any:
        seen.append("after")
        assert args[0].tolist() == [[0.0, 0.0]]
        return out - out

    handles = [linear.register_forward_pre_hook(before), linear.register_forward_hook(after)]
    assert linear(tl.ones(1, 2)).tolist() == [[0.0, 0.0]] and seen == ["before", "after"]
    for handle in handles:
        handle.remove()
        handle.remove()
    linear(tl.ones(1, 2))
    assert seen == ["before", "after"]


def test_hooks_with_keyword_arguments_and_order() -> None:
    class Add(nn.Module):
        def forward(self, x: int, *, y: int) -> int:
            return x + y

    module, seen = Add(), []
    module.register_forward_pre_hook(lambda m, args, kwargs: (args, {"y": kwargs["y"] * 10}), with_kwargs=True)
    module.register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs["y"]), with_kwargs=True)
    with module.register_forward_hook(lambda m, args, out: seen.append("first"), prepend=True):
        assert module(1, y=2) == 21
    assert module(1, y=2) == 21 and seen == ["first", 20, 20]
    module.register_forward_pre_hook(lambda m, args, kwargs: 3, with_kwargs=True)
    with pytest.raises(TypeError, match="a pair"):
        module(1, y=2)


def test_a_deep_copy_is_independent_and_whole() -> None:
    block = Block()
    block.linear.register_forward_hook(lambda m, args, out: out * 0)
    twin = copy.deepcopy(block)
    assert twin.scale is twin._parameters["scale"] and twin.scale is not block.scale
    assert isinstance(twin.scale, nn.Parameter) and twin.scale.requires_grad
    with tl.no_grad():
        twin.scale.fill_(9)
    assert block.scale.tolist() == [1.0, 1.0]
    assert twin(tl.ones(1, 3)).tolist() == [[0.0, 0.0]]
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    copied = copy.deepcopy(tied)
    assert copied[1].weight is copied[0].weight


def test_pickle() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU())
    twin = pickle.loads(pickle.dumps(net))
    x = tl.ones(4, 2)
    assert twin(x).tolist() == net(x).tolist()
    assert twin[0].weight is twin[0]._parameters["weight"] and isinstance(twin[0].weight, nn.Parameter)


def test_repr_is_a_tree() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Tanh(), nn.Dropout(0.25)), nn.Linear(3, 1, bias=False))
    assert (
        repr(net)
        == """Sequential(  # 12 parameters
  (0): Linear(2 -> 3)  # 9: weight (3, 2), bias (3,)
  (1): Sequential(
    (0): Tanh()
    (1): Dropout(p=0.25)
  )
  (2): Linear(3 -> 1, no bias)  # 3: weight (1, 3)
)"""
    )


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"ModuleList does not define forward\(\)"):
        nn.ModuleList()(1)


def test_parameter() -> None:
    data = tl.zeros(2)
    parameter = nn.Parameter(data)
    with tl.no_grad():
        parameter.fill_(1)
    assert data.tolist() == [1.0, 1.0] and parameter.is_leaf and parameter.requires_grad
    assert type(parameter * 2) is tl.Tensor and isinstance(parameter, tl.Tensor)
    assert repr(parameter).startswith("Parameter containing:")
    assert not nn.Parameter(tl.zeros(2), requires_grad=False).requires_grad
    with pytest.raises(TypeError, match="expected a floating one"):
        nn.Parameter(tl.zeros(2, dtype=tl.int64))
