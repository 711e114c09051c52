"""state_dict and load_state_dict beyond values: hooks, extra state, buffers of all kinds, copies, and where modules move to."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any

import pytest

import tensorlib as tl
from tensorlib import nn


class Counted(nn.Module):
    """Keeps a number beside its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(tl.zeros(1))
        self.steps = 0

    def get_extra_state(self) -> Any:
        return {"steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        self.steps = state["steps"]


def test_extra_state() -> None:
    source, target = nn.Sequential(Counted()), nn.Sequential(Counted())
    source[0].steps = 7
    assert list(source.state_dict()) == ["0.weight", "0._extra_state"]
    assert target.load_state_dict(source.state_dict()) == ([], [])
    assert target[0].steps == 7
    with pytest.raises(nn.StateDictError, match=r"missing:\s+0\._extra_state"):
        target.load_state_dict({"0.weight": tl.zeros(1)})
    with pytest.raises(nn.StateDictError, match=r"unexpected:\s+_extra_state"):
        nn.Linear(1, 1).load_state_dict({**nn.Linear(1, 1).state_dict(), "_extra_state": 1})


def test_extra_state_needs_both_methods() -> None:
    class Half(nn.Module):
        def get_extra_state(self) -> Any:
            return 1

    with pytest.raises(NotImplementedError, match="does not define set_extra_state"):
        Half().load_state_dict(Half().state_dict())


def test_saving_hooks() -> None:
    net, seen = nn.Sequential(nn.Linear(1, 1)), []
    net[0].register_state_dict_pre_hook(lambda m, prefix, keep_vars: seen.append((prefix, keep_vars)))

    def rename(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        state[prefix + "w"] = state.pop(prefix + "weight")

    with net[0].register_state_dict_post_hook(rename):
        assert list(net.state_dict()) == ["0.bias", "0.w"]
    assert list(net.state_dict(keep_vars=True)) == ["0.weight", "0.bias"]
    assert seen == [("0.", False), ("0.", True)]


def test_loading_hooks_rename_and_forgive() -> None:
    net, given = nn.Sequential(nn.Linear(1, 1)), {"0.w": tl.ones(1, 1), "0.bias": tl.ones(1)}

    def rename(module: nn.Module, state: Any, prefix: str, *rest: Any) -> None:
        state[prefix + "weight"] = state.pop(prefix + "w")

    with net[0].register_load_state_dict_pre_hook(rename):
        net.load_state_dict(given)
    assert net[0].weight.item() == 1 and "0.w" in given
    with net.register_load_state_dict_post_hook(
        lambda m, keys: (keys.missing_keys.clear(), keys.unexpected_keys.clear())
    ):
        assert net.load_state_dict({"0.weight": tl.full((1, 1), 5.0), "more": tl.ones(1)}) == ([], [])
    assert net[0].weight.item() == 5


def test_loading_hooks_say_what_is_wrong() -> None:
    layer = nn.Linear(1, 1)
    handle = layer.register_load_state_dict_pre_hook(lambda *given: given[-1].append("too old"))
    with pytest.raises(nn.StateDictError, match=r"nothing was changed.\s+wrong:\s+too old"):
        layer.load_state_dict(layer.state_dict())
    handle.remove()
    layer.register_load_state_dict_post_hook(lambda m, keys: None)
    with pytest.raises(nn.StateDictError, match=r"the rest was loaded.\s+missing:\s+weight"):
        layer.load_state_dict({"bias": tl.full((1,), 3.0)})
    assert layer.bias.item() == 3


def test_hooks_get_the_version_that_was_saved() -> None:
    class Versioned(nn.Linear):
        _version = 3

    seen = []
    state = nn.Sequential(Versioned(1, 1)).state_dict()
    net = nn.Sequential(Versioned(1, 1))
    net[0].register_load_state_dict_pre_hook(lambda m, state, prefix, metadata, *rest: seen.append(metadata))
    net.load_state_dict(state)
    net.load_state_dict(dict(state))
    assert seen == [{"version": 3}, {}]


def test_assigning_keeps_the_flag_of_the_parameter() -> None:
    layer = nn.Linear(1, 1, bias=False).requires_grad_(False)
    given = nn.Parameter(tl.ones(1, 1))
    layer.load_state_dict({"weight": given}, assign=True)
    assert layer.weight is given and not given.requires_grad


def test_buffers() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = nn.Buffer(tl.ones(2))
            self.scratch = nn.Buffer(tl.zeros(2), persistent=False)

    module = Module()
    assert list(module.state_dict()) == ["kept"] and [n for n, _ in module.named_buffers()] == ["kept", "scratch"]
    module.scratch = tl.ones(3)
    assert module.get_buffer("scratch") is module.scratch and list(module.state_dict()) == ["kept"]
    module.scratch = nn.Buffer(tl.ones(3))
    assert list(module.state_dict()) == ["kept", "scratch"]
    assert type(module.kept + 1) is tl.Tensor and nn.Buffer().shape == (0,)
    with pytest.raises(AttributeError, match="no buffer `weight` in Linear"):
        nn.Linear(1, 1).get_buffer("weight")
    with pytest.raises(TypeError, match="`weight` is a parameter, got Buffer"):
        nn.Linear(1, 1).weight = nn.Buffer(tl.ones(1, 1))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_are_whole(how: str) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[1].weight = net[0].weight
    net[0].register_buffer("scratch", tl.ones(1), persistent=False)
    net[0].note = nn.Buffer(tl.ones(1))
    net[2].eval()
    net[1].weight.requires_grad_(False)
    twin = copy.deepcopy(net) if how == "deepcopy" else pickle.loads(pickle.dumps(net))
    assert list(twin.state_dict()) == list(net.state_dict())
    assert twin[1].weight is twin[0].weight and twin[0]._parameters["weight"] is twin[0].weight
    assert twin[0].weight is not net[0].weight and not twin[0].weight.requires_grad
    assert twin[0].scratch is twin[0]._buffers["scratch"] and type(twin[0].note) is nn.Buffer
    assert not twin[2].training and twin.training


def test_set_state() -> None:
    old = nn.Linear(2, 3).__dict__
    layer = nn.Linear.__new__(nn.Linear)
    layer.__setstate__(old)
    assert layer(tl.ones(2)).shape == (3,)


def test_set_submodule() -> None:
    net = nn.Sequential(nn.Sequential(nn.Tanh()))
    net.set_submodule("0.0", nn.ReLU(), strict=True)
    net.set_submodule("0.more", nn.Tanh())
    assert [type(m).__name__ for m in net[0].children()] == ["ReLU", "Tanh"]
    with pytest.raises(ValueError, match="can not replace itself"):
        net.set_submodule("", nn.ReLU())
    with pytest.raises(ValueError, match="`0` must become a Module, got int"):
        net.set_submodule("0", 1)  # type: ignore[arg-type]
    for target, strict in (("0.x", True), ("1.x", False), ("0.forward", False)):
        with pytest.raises(AttributeError, match="no module"):
            net.set_submodule(target, nn.ReLU(), strict)


def test_other_memory() -> None:
    norm = nn.BatchNorm1d(3)
    assert norm.to_empty(device="cpu").running_mean.shape == (3,)
    assert norm.type(tl.float64).num_batches_tracked.dtype is tl.float64
    layer = nn.Sequential(nn.Linear(2, 2, bias=False))
    layer.to_empty(device="cpu", recurse=False)
    with pytest.raises(tl.DTypeError, match="bfloat16"):
        nn.Linear(1, 1).bfloat16().share_memory()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="shared memory is for forked processes")
def test_shared_memory() -> None:
    layer = nn.Linear(2, 1).share_memory()
    weight = layer.weight
    child = os.fork()
    if child == 0:
        with tl.no_grad():
            layer.weight.fill_(7)
        os._exit(0)
    os.waitpid(child, 0)
    assert weight.tolist() == [[7.0, 7.0]] and layer.weight is weight and weight.requires_grad
