"""What modules do beside PyTorch's: the same small programs in both libraries, whose logs must be equal."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing")]


def plain(value: Any) -> Any:
    """Tensors as rounded lists."""
    if isinstance(value, (tl.Tensor, torch.Tensor)):
        return plain(value.detach().tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def two(lib: Any) -> Any:
    class Two(lib.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any, y: Any, scale: Any = 1) -> Any:
            return x * y * scale, y.sum(), 5

    return Two()


def gradients(lib: Any, log: Any) -> None:
    module = two(lib)
    module.register_full_backward_pre_hook(lambda m, go: log("pre", go))
    module.register_full_backward_pre_hook(lambda m, go: (go[0] * 2, go[1], None))
    module.register_full_backward_pre_hook(lambda m, go: log("first", go), prepend=True)
    module.register_full_backward_hook(lambda m, gi, go: log("full", gi, go))
    module.register_full_backward_hook(lambda m, gi, go: tuple(None if g is None else g * 3 for g in gi))
    x, y = (lib.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    out = module(x, y, 2)
    (out[0].sum() + out[1]).backward()
    log(x.grad, y.grad)
    module(x, y.detach(), scale=2)[0].sum().backward()
    log(x.grad, y.grad)


def unused(lib: Any, log: Any) -> None:
    module = two(lib)
    module.register_full_backward_hook(lambda m, gi, go: log(gi, go))
    x = lib.tensor([1.0, 2.0], requires_grad=True)
    module(x, lib.tensor([3.0, 4.0]))[0].sum().backward()
    module(lib.tensor([3.0, 4.0]), x)[1].backward()
    layer = lib.nn.Linear(1, 1, bias=False)
    layer.register_full_backward_hook(lambda m, gi, go: log("no input", gi, go))
    layer(lib.ones(1)).sum().backward()


def order(lib: Any, log: Any) -> None:
    everywhere = lib.nn.modules.module
    net = lib.nn.Sequential(lib.nn.Identity(), lib.nn.Tanh())
    net[0].register_forward_pre_hook(lambda m, args: log("own pre"))
    net[0].register_forward_hook(lambda m, args, out: log("own post"))
    net[1].register_full_backward_hook(lambda m, gi, go: log("own back"))
    handles = [
        everywhere.register_module_forward_pre_hook(lambda m, args: log("pre", type(m).__name__)),
        everywhere.register_module_forward_hook(lambda m, args, out: log("post", type(m).__name__)),
        everywhere.register_module_full_backward_pre_hook(lambda m, go: log("back pre", type(m).__name__, go)),
        everywhere.register_module_full_backward_hook(lambda m, gi, go: log("back", type(m).__name__, gi)),
    ]
    net(lib.tensor([0.5], requires_grad=True)).sum().backward()
    for handle in handles:
        handle.remove()
    net(lib.ones(1))


def second_order(lib: Any, log: Any) -> None:
    net = lib.nn.Tanh()
    net.register_full_backward_hook(lambda m, gi, go: (gi[0] * 3,))
    x = lib.tensor([0.5, 0.25], requires_grad=True)
    (first,) = lib.autograd.grad(net(x).sum(), x, create_graph=True)
    log(first, lib.autograd.grad(first.sum(), x))


def errors(lib: Any, log: Any) -> None:
    class Broken(lib.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            raise ValueError("x")

    module = Broken()
    module.register_forward_hook(lambda m, args, out: log("plain"))
    module.register_forward_hook(lambda m, args, out: log("always", args, out), always_call=True)
    with pytest.raises(ValueError, match="x"):
        module(1)


def state_hooks(lib: Any, log: Any) -> None:
    net = lib.nn.Sequential(lib.nn.Linear(1, 1, bias=False), lib.nn.Sequential(lib.nn.BatchNorm1d(1)))
    for name, m in net.named_modules():
        m.register_state_dict_pre_hook(lambda m, prefix, keep, name=name: log("saving", name, prefix, keep))
        m.register_state_dict_post_hook(lambda m, s, prefix, meta, name=name: log("saved", name, prefix, list(s)))
        m.register_load_state_dict_pre_hook(lambda m, s, prefix, *rest, name=name: log("loading", name, prefix))
    net.load_state_dict(net.state_dict())
    after: list[str] = []  # ours loads nothing before all is compared, so these come after all of those
    for name, m in net.named_modules():
        m.register_load_state_dict_post_hook(lambda m, keys, name=name: after.append(name))
    net.load_state_dict(net.state_dict())
    log(after)
    copy.deepcopy(net).state_dict(keep_vars=True)


def lists(lib: Any, log: Any) -> None:
    nn = lib.nn
    a, b = nn.Sequential(nn.Tanh(), nn.ReLU()), nn.Sequential(nn.Sigmoid())
    for net in (a + b, a * 2, 2 * a, a[1:], nn.ModuleList([*a]) + nn.ModuleList([*b])):
        log([(name, type(m).__name__) for name, m in net.named_children()])
    a += b
    b *= 2
    log(len(a), len(b), type(a.pop(0)).__name__, [name for name, _ in a.named_children()])
    listed = nn.ModuleList([nn.Tanh(), nn.ReLU(), nn.Sigmoid()])
    log(type(listed.pop(1)).__name__, [name for name, _ in listed.named_children()])


PROGRAMS = [gradients, unused, order, second_order, errors, state_hooks, lists]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_programs(program: Any) -> None:
    logs: list[list[Any]] = []
    for lib in (torch, tl):
        log: list[Any] = []
        program(lib, lambda *said, log=log: log.append(plain(said)))
        logs.append(log)
    assert logs[1] == logs[0]
