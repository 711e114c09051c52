"""Layers that learn their input's size: the same layers afterwards, with the same weights, however they got their size."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import tensorlib as tl
from tensorlib import nn

SHAPES = {1: (2, 4, 6), 2: (2, 4, 6, 5), 3: (2, 4, 6, 5, 5)}
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [("Linear", (5,), {}, (2, 3))]
for _nd, _shape in SHAPES.items():
    CASES += [
        (f"Conv{_nd}d", (6, 3), {"groups": 2, "padding": "same"}, _shape),
        (f"Conv{_nd}d", (6, 3), {"bias": False}, _shape[1:]),
        (f"ConvTranspose{_nd}d", (6, 3), {"groups": 2, "stride": 2}, _shape),
        (f"BatchNorm{_nd}d", (), {}, _shape),
        (f"BatchNorm{_nd}d", (), {"affine": False, "track_running_stats": False}, _shape),
        (f"InstanceNorm{_nd}d", (), {"affine": True, "track_running_stats": True}, _shape),
        (f"InstanceNorm{_nd}d", (), {"affine": False, "track_running_stats": False}, _shape[1:]),
    ]


def channels(name: str, shape: tuple[int, ...]) -> int:
    return shape[-1] if name == "Linear" else shape[-int(name[-2]) - 1]


@pytest.mark.parametrize(("name", "args", "settings", "shape"), CASES, ids=str)
def test_after_the_first_call(name: str, args: Any, settings: Any, shape: Any, seed: int) -> None:
    x = tl.randn(*shape)
    tl.manual_seed(seed)
    plain = getattr(nn, name)(channels(name, shape), *args, **settings)
    tl.manual_seed(seed)
    lazy = getattr(nn, f"Lazy{name}")(*args, **settings)
    kept = list(lazy.parameters())
    assert list(lazy.state_dict()) == list(plain.state_dict())
    out = lazy(x)
    assert tl.equal(out, plain(x)) and type(lazy) is type(plain) and lazy._hooks is None
    assert repr(lazy) == repr(plain)
    for (key, value), expected in zip(lazy.state_dict().items(), plain.state_dict().values(), strict=True):
        assert tl.equal(value, expected) and value.dtype is expected.dtype, key
    assert all(a is b and type(a) is nn.Parameter for a, b in zip(lazy.parameters(), kept, strict=True))


def test_a_state_gives_shapes() -> None:
    source = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    source(tl.randn(4, 3))
    for assign in (False, True):
        lazy = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())
        lazy.load_state_dict(source.state_dict(), assign=assign)
        assert not any(m.has_uninitialized_params() for m in lazy)
        x = tl.randn(4, 3)
        assert tl.equal(lazy.eval()(x), source.eval()(x)) and lazy[0].in_features == 3
        assert [type(m) for m in lazy] == [nn.Linear, nn.BatchNorm1d]


def test_states_without_shapes() -> None:
    lazy = nn.LazyLinear(2)
    assert nn.LazyLinear(2).load_state_dict(lazy.state_dict()) == ([], [])
    with pytest.raises(nn.StateDictError, match=r"weight: got an uninitialized one, expected \(2, 3\)"):
        nn.Linear(3, 2).load_state_dict(lazy.state_dict())


def test_before_the_first_call() -> None:
    lazy = nn.LazyLinear(2)
    with pytest.raises(RuntimeError, match="UninitializedParameter: it has no shape yet"):
        _ = lazy.weight.shape
    assert lazy.has_uninitialized_params() and repr(lazy.weight) == "<UninitializedParameter>"
    net = nn.Sequential(lazy, nn.LazyBatchNorm1d(), nn.Linear(2, 1))
    assert "(0): LazyLinear(0 -> 2)  # 0: weight (?), bias (?)" in repr(net)
    assert repr(net).startswith("Sequential(  # 3 parameters, more after the first call\n")
    net.double()
    assert net(tl.ones(2, 5, dtype=tl.float64)).dtype is tl.float64
    assert all(p.dtype is tl.float64 for p in net.parameters())


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(how: str) -> None:
    net = nn.Sequential(nn.LazyLinear(2).requires_grad_(False), nn.LazyBatchNorm1d(dtype=tl.float64).float())
    twin = copy.deepcopy(net) if how == "deepcopy" else pickle.loads(pickle.dumps(net))
    assert twin(tl.ones(3, 4)).shape == (3, 2) and net[0].has_uninitialized_params()
    assert not twin[0].weight.requires_grad and twin[1].weight.requires_grad


def test_buffers_register_themselves() -> None:
    module = nn.Module()
    module.kept, module.scratch = nn.UninitializedBuffer(), nn.UninitializedBuffer(persistent=False)
    assert list(module._buffers) == ["kept", "scratch"] and list(module.state_dict()) == ["kept"]
    module.double()
    module.kept.materialize((3,))
    assert module.kept.shape == (3,) and module.kept.dtype is tl.float64 and type(module.kept) is nn.Buffer


def test_errors() -> None:
    with pytest.raises(ValueError, match="groups 2 must divide the 3 channels of x"):
        nn.LazyConv1d(4, 1, groups=2)(tl.ones(1, 3, 5))
    with pytest.raises(tl.ShapeError, match="expected 3 or 4 dimensions"):
        nn.LazyConv2d(4, 1)(tl.ones(3))
    with pytest.raises(ValueError, match="groups 3 must divide"):
        nn.LazyConv1d(4, 1, groups=3)

    class Forgetful(nn.LazyModuleMixin, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.UninitializedParameter()

        def initialize_parameters(self, *args: Any) -> None:
            pass

    with pytest.raises(RuntimeError, match=r"initialize_parameters\(\) left parameters or buffers uninitialized"):
        Forgetful()(1)
    del Forgetful.initialize_parameters
    with pytest.raises(NotImplementedError, match="does not define initialize_parameters"):
        Forgetful()(1)


def test_an_optimizer_made_before() -> None:
    lazy = nn.LazyLinear(1)
    optimizer = tl.optim.SGD(lazy.parameters(), lr=1.0)
    lazy(tl.ones(2)).sum().backward()
    before = lazy.weight.detach().clone()
    optimizer.step()
    assert tl.equal(lazy.weight.detach(), before - 1)
