"""set_grad_place: gradients of many leaves side by side in one buffer, with the same bits as anywhere else."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn

Model = Callable[[], tuple[nn.Module, tl.Tensor]]


def mlp() -> tuple[nn.Module, tl.Tensor]:
    return nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3)), tl.randn(128, 30)


def shared_weight() -> tuple[nn.Module, tl.Tensor]:
    layer = nn.Linear(30, 30)
    return nn.Sequential(layer, nn.Tanh(), layer), tl.randn(128, 30)


def conv() -> tuple[nn.Module, tl.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)), tl.randn(
        2, 3, 8, 8
    )


def double() -> tuple[nn.Module, tl.Tensor]:
    return nn.Linear(30, 3).to(tl.float64), tl.randn(128, 30, dtype=tl.float64)


MODELS = pytest.mark.parametrize("make", [mlp, shared_weight, conv, double], ids=lambda make: make.__name__)


def placed(model: nn.Module) -> tl.Tensor:
    parameters = list(model.parameters())
    buffer = tl.full((sum(p.numel() for p in parameters) + 2,), tl.nan, dtype=parameters[0].dtype)
    at = 1
    for p in parameters:
        tl.autograd.set_grad_place(p, buffer[at : at + p.numel()].view(p.shape))
        at += p.numel()
    return buffer


def gradients(model: nn.Module, x: tl.Tensor) -> list[np.ndarray]:
    model(x).square().sum().backward()
    return [p.grad.numpy().copy() for p in model.parameters()]


@MODELS
@pytest.mark.parametrize("hooked", [False, True], ids=["", "hooked"])
def test_the_same_bits_in_the_buffer(make: Model, hooked: bool) -> None:
    model, x = make()
    expected = gradients(model, x)
    model.zero_grad()
    buffer = placed(model)
    seen: list[int] = []
    if hooked:
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.numel()))
    for _ in range(2):
        found = gradients(model, x)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        np.testing.assert_array_equal(buffer[1:-1].numpy(), np.concatenate([g.ravel() for g in expected]))
        assert buffer[:1].isnan().all() and buffer[-1:].isnan().all(), "the buffer's ends are nobody's place"
        model.zero_grad()
    assert len(seen) == (2 * len(expected) if hooked else 0)


@MODELS
def test_a_second_backward_adds_there(make: Model) -> None:
    model, x = make()
    expected = [2 * g for g in gradients(model, x)]
    model.zero_grad()
    buffer = placed(model)
    gradients(model, x)
    gradients(model, x)
    np.testing.assert_array_equal(buffer[1:-1].numpy(), np.concatenate([g.ravel() for g in expected]))


def test_a_gradient_that_is_held_is_not_overwritten() -> None:
    model, x = mlp()
    buffer = placed(model)
    gradients(model, x)
    held = model[0].weight.grad
    before = held.clone()
    model.zero_grad()
    gradients(model, 2 * x)
    assert held.equal(before)
    assert model[0].weight.grad.data_ptr() != held.data_ptr()
    assert model[2].weight.grad.data_ptr() > buffer.data_ptr(), "the others lie in their places"


def test_gradients_that_are_returned_lie_elsewhere() -> None:
    model, x = mlp()
    buffer = placed(model)
    (g,) = tl.autograd.grad(model(x).square().sum(), model[0].weight)
    assert buffer.isnan().all()
    (first,) = tl.autograd.grad(model(x).square().sum(), model[0].weight, create_graph=True)
    assert first.detach().equal(g)
    assert buffer.isnan().all()


def test_the_place_can_be_taken_back() -> None:
    w, memory = tl.ones(2, requires_grad=True), tl.zeros(2)
    tl.autograd.set_grad_place(w, memory)
    tl.autograd.set_grad_place(w, None)
    (w * 3).sum().backward()
    assert memory.tolist() == [0, 0]
    assert w.grad.tolist() == [3, 3]


@pytest.mark.parametrize(
    "memory", [tl.zeros(3), tl.zeros(2, dtype=tl.float64), tl.zeros(4)[::2], tl.zeros(1).expand(2)], ids=["shape", "dtype", "strided", "expanded"]
)  # fmt: skip
def test_memory_that_can_not_hold_the_gradient(memory: tl.Tensor) -> None:
    w = tl.ones(2, requires_grad=True)
    with pytest.raises(tl.GradError, match=r"set_grad_place: got memory .* for a leaf"):
        tl.autograd.set_grad_place(w, memory)
    with pytest.raises(tl.GradError, match="only leaves"):
        tl.autograd.set_grad_place(w * 2, tl.zeros(2))


# ---- gradients that are put off ----
class Twice(nn.Module):
    """A weight with several uses, of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(tl.randn(200, 200))

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        once = nn.functional.linear(x, self.w).tanh()
        return (
            nn.functional.linear(once, self.w) + nn.functional.linear(once[:2].sum(0), self.w) + self.w.square().sum(0)
        )


def layers(dtype: tl.DType = tl.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 200)).to(dtype)


PUT_OFF = {
    "layers": (layers, (5, 200)),
    "double": (lambda: layers(tl.float64), (5, 200)),
    "sequences": (layers, (2, 5, 200)),
    "one": (layers, (200,)),
    "uses": (Twice, (5, 200)),
    "recurrent": (lambda: nn.LSTMCell(200, 64), (5, 200)),
}


def put_off(model: nn.Module) -> list[tl.Tensor]:
    memory = [tl.full(p.shape, tl.nan, dtype=p.dtype) for p in model.parameters()]
    for p, place in zip(model.parameters(), memory, strict=True):
        tl.autograd.set_grad_place(p, place, put_off=True)
    return memory


def run(model: nn.Module, x: tl.Tensor) -> None:
    out = model(x)
    (out if isinstance(out, tl.Tensor) else out[0]).square().sum().backward()


@pytest.fixture(params=PUT_OFF)
def postponed(request: pytest.FixtureRequest) -> tuple[nn.Module, tl.Tensor]:
    make, shape = PUT_OFF[request.param]
    model = make()
    return model, tl.randn(*shape, dtype=next(model.parameters()).dtype)


@pytest.mark.parametrize("runs", [1, 2])
def test_asked_for_it_has_the_same_bits(postponed: tuple[nn.Module, tl.Tensor], runs: int) -> None:
    model, x = postponed
    for _ in range(runs):
        run(model, x)
    expected = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    memory = put_off(model)
    for _ in range(runs):
        run(model, x)
    for p, g, place in zip(model.parameters(), expected, memory, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), g)
        assert p.grad.data_ptr() == place.data_ptr()


def test_factors_are_those_of_the_gradient() -> None:
    model, x = layers(), tl.randn(4, 5, 200)
    run(model, x)
    expected = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    memory = put_off(model)
    run(model, x)
    x.zero_()  # what was kept is nobody else's
    for p, g, place in zip(model.parameters(), expected, memory, strict=True):
        factors = tl.autograd.take_grad_factors(p)
        if p.ndim == 1:
            assert factors is None
            assert p.grad.numpy().tobytes() == g.tobytes()
            continue
        assert factors[0].shape == (20, p.shape[0])
        assert factors[1].shape == (20, p.shape[1])
        np.testing.assert_array_equal((factors[0].mT @ factors[1]).numpy(), g)
        assert p.grad is None
        assert tl.autograd.take_grad_factors(p) is None
        assert place.isnan().all(), "nothing was multiplied"


def one_layer(rows: int = 5) -> tuple[tl.Tensor, tl.Tensor, np.ndarray]:
    """A weight whose gradient is put off, its place, and the gradient."""
    w, x = tl.randn(200, 200, requires_grad=True), tl.randn(rows, 200)
    nn.functional.linear(x, w).square().sum().backward()
    expected = w.grad.numpy().copy()
    w.grad = None
    place = tl.full(w.shape, tl.nan)
    tl.autograd.set_grad_place(w, place, put_off=True)
    nn.functional.linear(x, w).square().sum().backward()
    assert place.isnan().all() == (rows <= 25), "kept where factors have a quarter of the elements"
    return w, place, expected


def test_factors_that_are_not_small_are_multiplied() -> None:
    w, _, expected = one_layer(rows=26)
    assert tl.autograd.take_grad_factors(w) is None
    np.testing.assert_array_equal(w.grad.numpy(), expected)


def test_a_new_place_leaves_the_gradient_in_the_old_one() -> None:
    w, place, expected = one_layer()
    tl.autograd.set_grad_place(w, None)
    np.testing.assert_array_equal(place.numpy(), expected)
    np.testing.assert_array_equal(w.grad.numpy(), expected)


def test_forgotten_it_is_never_multiplied() -> None:
    for forget in (lambda w: setattr(w, "grad", None), lambda w: tl.fused.zero_grad_([w])):
        w, place, _ = one_layer()
        forget(w)
        assert w.grad is None
        assert place.isnan().all()


def test_an_optimizer_sees_it() -> None:
    w, _, expected = one_layer()
    before = w.detach().clone()
    tl.optim.SGD([w], lr=1.0).step()
    np.testing.assert_array_equal(w.detach().numpy(), before.numpy() - expected)


def test_a_gradient_set_by_hand_takes_its_place() -> None:
    w, place, _ = one_layer()
    w.grad = tl.ones(200, 200)
    assert w.grad.equal(tl.ones(200, 200))
    assert tl.autograd.take_grad_factors(w) is None
    assert place.isnan().all()


@pytest.mark.parametrize("kind", ["hook", "after", "elsewhere"])
def test_hooks_see_gradients_in_the_middle_of_backward(kind: str) -> None:
    w, x, seen = tl.randn(200, 200, requires_grad=True), tl.randn(5, 200), []
    other = tl.ones(3, requires_grad=True)
    tl.autograd.set_grad_place(w, tl.zeros(200, 200), put_off=True)
    if kind == "hook":
        handle = w.register_hook(lambda g: seen.append(g.clone()))
    else:
        handle = (w if kind == "after" else other).register_post_accumulate_grad_hook(
            lambda p: seen.append(p.grad.clone())
        )
    (nn.functional.linear(x, w).square().sum() + other.sum()).backward()
    handle.remove()
    assert len(seen) == 1
    assert seen[0].equal(w.grad if kind != "elsewhere" else tl.ones(3))
    g = 2 * nn.functional.linear(x, w).detach()
    assert w.grad.equal(g.mT @ x)


def test_who_is_called_afterwards_need_not_look() -> None:
    w, x, called = tl.randn(200, 200, requires_grad=True), tl.randn(5, 200), []
    place = tl.full(w.shape, tl.nan)
    tl.autograd.set_grad_place(w, place, put_off=True)
    w.register_post_accumulate_grad_hook(lambda p: called.append(p.shape))
    nn.functional.linear(x, w).square().sum().backward()
    assert called == [w.shape]
    assert place.isnan().all(), "nothing was multiplied"
    g, same = tl.autograd.take_grad_factors(w)
    np.testing.assert_array_equal(g.numpy(), 2 * nn.functional.linear(x, w).detach().numpy())
    assert same.equal(x)


def test_gradients_of_gradients_are_added_to_it() -> None:
    w, _, expected = one_layer()
    (first,) = tl.autograd.grad((w**3).sum(), w, create_graph=True)
    first.sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), expected + (6 * w).detach().numpy())


def test_many_threads_ask_for_it(postponed: tuple[nn.Module, tl.Tensor]) -> None:
    model, x = postponed
    run(model, x)
    expected = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    put_off(model)
    run(model, x)
    with ThreadPoolExecutor(8) as pool:
        for p, g in zip(model.parameters(), expected, strict=True):
            for found in pool.map(lambda _, p=p: p.grad.numpy().copy(), range(8)):
                np.testing.assert_array_equal(found, g)


def test_many_threads_give_it_gradients() -> None:
    """Of one leaf: the first is put off, the others are added to it. Copying factors releases the GIL."""
    n, rows, threads = 1024, 128, 4
    w = tl.zeros(n, n, requires_grad=True)
    tl.autograd.set_grad_place(w, tl.zeros(n, n), put_off=True)
    inputs = [tl.full((rows, n), float(i + 1)) for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(10):
            w.grad = None
            begin = threading.Barrier(threads)
            losses = [nn.functional.linear(x, w).sum() for x in inputs]
            list(pool.map(lambda loss, begin=begin: (begin.wait(20), loss.backward()), losses))
            assert w.grad.equal(tl.full((n, n), float(rows * sum(range(threads + 1)))))


def test_factors_come_to_lie_where_asked() -> None:
    w, x = tl.randn(200, 200, requires_grad=True), tl.randn(2, 3, 200)
    memory, place = tl.full((10_005,), tl.nan), tl.full((200, 200), tl.nan)
    tl.autograd.set_grad_place(w, place, put_off=memory[5:])
    nn.functional.linear(x, w).sum().backward()
    g, same = tl.autograd.take_grad_factors(w)
    assert (g.data_ptr(), same.data_ptr()) == (memory[5:].data_ptr(), memory[1205:].data_ptr())
    assert g.equal(tl.ones(6, 200))
    assert same.equal(x.view(6, 200))
    assert memory.isnan().sum().item() == 10_005 - 2400


def test_memory_for_factors_is_checked() -> None:
    w, place = tl.randn(200, 200, requires_grad=True), tl.zeros(200, 200)
    for memory in (
        tl.zeros(9_999),
        tl.zeros(10_000).double(),
        tl.zeros(100, 100),
        tl.zeros(20_000)[::2],
        tl.zeros(1).expand(10_000),
    ):
        with pytest.raises(tl.GradError, match="for 10000 elements of factors"):
            tl.autograd.set_grad_place(w, place, put_off=memory)
    nn.functional.linear(tl.randn(6, 200), w).sum().backward()
    assert tl.autograd.take_grad_factors(w) is None, "nothing was changed"


@pytest.mark.parametrize("how", ["written", "copied", "put off", "put off there"])
def test_memory_that_is_written_again_is_read_again(how: str) -> None:
    """Products keep a packed copy of what does not change."""
    w, v = tl.zeros(32, 4096, requires_grad=True), tl.ones(1, 32)
    put_off = {"put off": True, "put off there": tl.zeros(32 * 1024)}.get(how, False)
    tl.autograd.set_grad_place(w, tl.zeros(32, 4096), put_off=put_off)
    for step in range(5):
        w.grad = None
        if how == "copied":
            (w * float(step)).sum().backward()
        else:
            nn.functional.linear(tl.full((1, 7, 4096), float(step)), w).sum().backward()
        each = step * (1 if how == "copied" else 7)
        assert (v @ w.grad).equal(tl.full((1, 4096), 32.0 * each))


def test_a_new_place_while_a_thread_puts_off() -> None:
    n, rows = 1024, 128
    w, x, done = tl.zeros(n, n, requires_grad=True), tl.ones(rows, n), threading.Event()
    places = [tl.zeros(n, n) for _ in range(2)]

    def give(loss: tl.Tensor) -> None:
        try:
            loss.backward()
        finally:
            done.set()

    for _ in range(10):
        w.grad = None
        done.clear()
        thread = threading.Thread(target=give, args=(nn.functional.linear(x, w).sum(),))
        thread.start()
        for place in itertools.cycle(places):
            tl.autograd.set_grad_place(w, place, put_off=True)
            if done.is_set():
                break
        thread.join(20)
        assert w.grad.equal(tl.full((n, n), float(rows)))
