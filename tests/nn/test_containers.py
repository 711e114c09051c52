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


def test_parameter_list() -> None:
    held = nn.ParameterList([tl.ones(2), "text", nn.Parameter(tl.zeros(1))])
    held.append(tl.ones(3)).extend([None])
    held += (tl.ones(4),)
    assert len(held) == 6 and [n for n, _ in held.named_parameters()] == ["0", "2", "3", "5"]
    assert held[1] == "text" and held[4] is None and held[-1].shape == (4,) and isinstance(held[0], nn.Parameter)
    held[0] = tl.zeros(5)
    assert next(iter(held)).shape == (5,) and held[1:3][1] is held[2] and type(held[:2]) is nn.ParameterList
    assert repr(held) == "ParameterList(6 values)"
    with pytest.raises(IndexError, match="index 6 is out of range for 6 parameters"):
        held[6]
    with pytest.raises(TypeError, match="expected a list of values, got Tensor"):
        held.extend(tl.ones(2))


def test_parameter_dict() -> None:
    held = nn.ParameterDict({"a": tl.ones(2), "b": 5})
    assert held.setdefault("c", tl.ones(3)) is held["c"] and held.setdefault("b") == 5 and held.get("d", 1) == 1
    assert list(held) == ["a", "b", "c"] and list(reversed(held)) == ["c", "b", "a"] and len(held) == 3
    assert [n for n, _ in held.named_parameters()] == ["a", "c"] and dict(held.items())["a"] is held.a
    both = held | {"b": 6, "e": tl.ones(1)}
    assert list(both) == ["a", "b", "c", "e"] and both["a"] is held["a"] and held["b"] == 5
    assert list({"z": 1} | held) == ["z", "a", "b", "c"]
    held |= [("f", 1)]
    assert held.popitem() == ("f", 1) and held.pop("b") == 5 and "b" not in held
    assert list(held.fromkeys(["x", "y"], 0).values()) == [0, 0] and repr(held) == "ParameterDict(a, c)"
    held.clear()
    assert not len(held) and not list(held.parameters())
    for missing in (lambda: held["a"], lambda: held.pop("a"), held.popitem):
        with pytest.raises(KeyError):
            missing()
    with pytest.raises(TypeError, match="a key must be a string, got int"):
        held[1] = tl.ones(1)
    with pytest.raises(KeyError, match="already has an attribute `values`"):
        held["values"] = tl.ones(1)


def test_sums_and_repetitions_of_sequentials() -> None:
    tanh, relu = nn.Tanh(), nn.ReLU()
    net = nn.Sequential(tanh) + nn.Sequential(relu)
    assert list(net * 2) == [tanh, relu] * 2 == list(2 * net)
    net *= 2
    assert net.pop(-1) is relu and len(net) == 3
    net += nn.Sequential(tanh)
    assert len(net) == 4 and nn.ModuleList([tanh]).pop(0) is tanh
    with pytest.raises(ValueError, match="a positive number of times, got 0"):
        net * 0
    with pytest.raises(ValueError, match="only another Sequential can be added, got Tanh"):
        net + tanh
