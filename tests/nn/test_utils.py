"""Modules as functions of their parameters, fused normalisations, layers without initial values."""

from __future__ import annotations

from typing import Any

import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn import utils
from tensorlib.nn.utils.stateless import functional_call


def test_functional_call_leaves_the_module_alone() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1, momentum=1.0))
    own = dict(net.state_dict(keep_vars=True))
    x, w = tl.randn(4, 2), tl.randn(1, 2, requires_grad=True)
    running = tl.zeros(1)
    functional_call(net, ({"0.weight": w}, {"1.running_mean": running}), x).square().sum().backward()
    assert w.grad is not None and net[0].weight.grad is None and net[0].bias.grad is not None
    assert all(a is b for a, b in zip(net.state_dict(keep_vars=True).values(), own.values(), strict=True))
    assert running.item() != 0 and net[1].running_mean.item() == 0
    with pytest.raises(tl.ShapeError):
        functional_call(net, {"0.weight": tl.ones(5, 5)}, x)
    assert net[0].weight is own["0.weight"]


def test_functional_call_takes_arguments_of_all_kinds() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = nn.Buffer(tl.zeros(1))

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.seen = self.seen + 1
            return args, kwargs

    counter, given = Counter(), {"seen": tl.ones(1)}
    assert functional_call(counter, given, (1, 2), {"x": 3}) == ((1, 2), {"x": 3})
    assert functional_call(counter, {}, 1) == ((1,), {}) and functional_call(counter, {}) == ((), {})
    assert given["seen"].item() == 2 and counter.seen.item() == 2


def test_functional_call_with_shared_parameters() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    net[1].weight = net[0].weight
    x, w, two = tl.ones(1, 1), tl.full((1, 1), 3.0), tl.full((1, 1), 2.0)
    assert functional_call(net, {"0.weight": w}, x).item() == 9
    assert functional_call(net, {"1.weight": w, "0.weight": two}, x, tie_weights=False).item() == 6
    with pytest.raises(ValueError, match="are one tensor, but got different values"):
        functional_call(net, {"1.weight": w, "0.weight": two}, x)


def test_functional_call_checks_names() -> None:
    layer = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match=r"the names do not fit Linear, missing \['bias'\], unexpected \['x'\]"):
        functional_call(layer, {"x": 1, "weight": tl.ones(1, 1)}, tl.ones(1), strict=True)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="a name stands in several of the dicts"):
        functional_call(layer, ({"bias": tl.ones(1)}, {"bias": tl.ones(1)}), tl.ones(1))


FUSED = [
    ("Conv1d", (4, 6, 3), {"groups": 2}, (2, 4, 9)),
    ("Conv2d", (4, 6, 3), {"bias": False}, (2, 4, 9, 9)),
    ("ConvTranspose2d", (4, 6, 3), {}, (2, 4, 5, 5)),
    ("Linear", (4, 6), {}, (2, 4)),
]


@pytest.mark.parametrize(("name", "args", "settings", "shape"), FUSED, ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_fusing(name: str, args: Any, settings: Any, shape: Any, affine: bool) -> None:
    layer = getattr(nn, name)(*args, **settings)
    dims = max(len(shape) - 2, 1)
    norm = getattr(nn, f"BatchNorm{dims}d")(6, affine=affine)
    if affine:
        nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
    for _ in range(3):
        norm(layer(tl.randn(*shape) + 1))
    x = tl.randn(*shape)
    layer.eval(), norm.eval()
    if name == "Linear":
        fused = utils.fuse_linear_bn_eval(layer, norm)
    else:
        fused = utils.fuse_conv_bn_eval(layer, norm, transpose="Transpose" in name)
    assert tl.allclose(fused(x), norm(layer(x)), atol=1e-5) and type(fused) is type(layer) and fused is not layer


def test_fusing_weights() -> None:
    w, b = utils.fuse_conv_bn_weights(tl.ones(1, 1, 1), None, tl.ones(1), tl.full((1,), 4.0), 0.0, None, None)
    assert w.item() == 0.5 and b.item() == -0.5
    w, b = utils.fuse_linear_bn_weights(tl.ones(1, 1), tl.ones(1), tl.ones(1), tl.ones(1), 0.0, None, tl.ones(1))
    assert w.item() == 1 and b.item() == 1


def test_what_can_not_be_fused() -> None:
    conv, norm = nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2)
    with pytest.raises(RuntimeError, match="only layers in evaluation can be fused"):
        utils.fuse_conv_bn_eval(conv, norm)
    with pytest.raises(RuntimeError, match="BatchNorm1d has no running statistics"):
        utils.fuse_conv_bn_eval(conv.eval(), nn.BatchNorm1d(2, track_running_stats=False).eval())
    with pytest.raises(ValueError, match="3 features can not be folded into 2 outputs"):
        utils.fuse_linear_bn_eval(nn.Linear(1, 2).eval(), nn.BatchNorm1d(3).eval())
    with pytest.raises(ValueError, match="of 2 groups can not be fused"):
        utils.fuse_conv_bn_eval(nn.ConvTranspose1d(2, 2, 1, groups=2).eval(), norm.eval(), transpose=True)


def test_skipping_initial_values() -> None:
    state = tl.get_rng_state()
    layer = utils.skip_init(nn.Conv2d, 1, 2, kernel_size=3)
    assert type(layer) is nn.Conv2d and layer.weight.shape == (2, 1, 3, 3) and tl.equal(tl.get_rng_state(), state)
    layer.reset_parameters()
    assert not tl.equal(tl.get_rng_state(), state)
    with pytest.raises(RuntimeError, match="expected a subclass of Module, got 3"):
        utils.skip_init(3)  # type: ignore[arg-type]
