"""Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

import pytest

import tensorlib as tl
from tensorlib import nn


def test_sequential_is_a_list_that_runs() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = tl.ones(5, 2)
    assert net(x).tolist() == net[2](net[1](net[0](x))).tolist()
    assert len(net) == 3 and net[-1] is net[2] and [type(m).__name__ for m in net] == ["Linear", "ReLU", "Linear"]


def test_sequential_by_names() -> None:
    net = nn.Sequential({"in": nn.Linear(2, 2), "act": nn.Tanh()})
    assert list(net.state_dict()) == ["in.weight", "in.bias"]
    assert isinstance(net[1:], nn.Sequential) and list(net[1:]._modules) == ["act"]


def test_editing_a_list_renumbers() -> None:
    layers = nn.ModuleList([nn.Identity(), nn.Tanh()])
    layers.append(nn.ReLU()).insert(0, nn.Sigmoid()).extend([nn.SiLU()])
    assert [type(m).__name__ for m in layers] == ["Sigmoid", "Identity", "Tanh", "ReLU", "SiLU"]
    del layers[1:3]
    assert list(layers._modules) == ["0", "1", "2"] and [type(m).__name__ for m in layers] == [
        "Sigmoid",
        "ReLU",
        "SiLU",
    ]
    layers[1] = nn.Identity()
    assert isinstance(layers[-2], nn.Identity)
    assert len(layers + [nn.Tanh()]) == 4 and len(layers) == 3  # noqa: RUF005
    assert isinstance(layers[:2], nn.ModuleList) and len(layers[:2]) == 2


def test_a_list_takes_modules_only() -> None:
    with pytest.raises(TypeError, match="item 1 must be a Module, got int"):
        nn.ModuleList([nn.Tanh(), 3])  # type: ignore[list-item]
    with pytest.raises(IndexError, match="index 2 is out of range for 1 modules"):
        nn.ModuleList([nn.Tanh()])[2]


def test_module_dict() -> None:
    heads = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 2)})
    assert "a" in heads and list(heads.keys()) == ["a", "b"] and len(heads) == 2
    heads["a"] = nn.Identity()
    removed = heads.pop("b")
    assert isinstance(removed, nn.Linear) and list(heads.items()) == [("a", heads["a"])]
    heads.update({"c": nn.Tanh()})
    assert list(heads) == ["a", "c"] and [type(m).__name__ for m in heads.values()] == ["Identity", "Tanh"]
    heads.clear()
    assert len(heads) == 0
    with pytest.raises(KeyError):
        del heads["a"]
