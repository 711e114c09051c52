"""Steps captured as CUDA graphs: what a replay does is what the step would have done."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.gpu import capture

F = nn.functional
X, Y = tl.arange(12.0).reshape(4, 3) / 7, tl.arange(8.0).reshape(4, 2) / 5


class Training:
    """A model, and its step with momentum, written out."""

    def __init__(self) -> None:
        tl.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to("cuda")
        self.velocity = [tl.zeros_like(p) for p in self.model.parameters()]

    def step(self, x: tl.Tensor, y: tl.Tensor) -> tl.Tensor:
        for p in self.model.parameters():
            p.grad = None
        loss = ((self.model(x) - y) ** 2).mean()
        loss.backward()
        with tl.no_grad():
            for p, v in zip(self.model.parameters(), self.velocity, strict=True):
                v.mul_(0.5).add_(p.grad)
                p.sub_(v * 0.1)
        return loss

    def state(self) -> list[Any]:
        return [
            t.tolist() for t in (*self.model.parameters(), *self.velocity, *(p.grad for p in self.model.parameters()))
        ]


def batches(n: int) -> list[tuple[tl.Tensor, tl.Tensor]]:
    """On the GPU, in main memory, and there pinned."""
    made = [(X * (i + 1) / n, Y - i) for i in range(n)]
    placed = ((lambda t: t.to("cuda")), (lambda t: t), (lambda t: t.pin_memory()), (lambda t: t.mT.contiguous().mT))
    return [(placed[i % 4](x), placed[i % 3](y)) for i, (x, y) in enumerate(made)]


@pytest.mark.parametrize("warmup", [1, 3])
def test_calls_are_steps_bit_for_bit(warmup: int) -> None:
    eager, graphed = Training(), Training()
    step = tl.cuda.graph(graphed.step, X, Y.to("cuda"), warmup=warmup)
    for i, (x, y) in enumerate(batches(8)):
        expected = eager.step(x.to("cuda"), y.to("cuda")).item()
        assert step(x, y).item() == expected and step.captured == (i >= warmup)
        assert graphed.state() == eager.state()


def test_results_are_the_same_tensors_and_carry_no_history() -> None:
    class Pair(NamedTuple):
        twice: tl.Tensor
        rest: Any

    w = tl.ones(3, device="cuda", requires_grad=True)
    step = tl.cuda.graph(lambda x: Pair(x * w * 2, [{"a": (x + 1, None, "word")}]), tl.ones(3), warmup=1)
    step(tl.ones(3))
    first = step(tl.ones(3))
    kept = first.twice.clone()
    second = step(tl.zeros(3))
    assert second is first and type(second) is Pair and not first.twice.requires_grad
    assert second.twice.tolist() == [0.0] * 3 and kept.tolist() == [2.0] * 3
    assert second.rest[0]["a"][0].tolist() == [1.0] * 3 and second.rest[0]["a"][1:] == (None, "word")


def test_a_step_without_inputs() -> None:
    n = tl.zeros((), device="cuda")
    step = tl.cuda.graph(lambda: n.add_(1))
    assert [step().item() for _ in range(6)] == [1, 2, 3, 4, 5, 6]


def test_gradients_stay_in_place_and_can_be_read() -> None:
    training = Training()
    step = tl.cuda.graph(training.step, X, Y, warmup=1)
    for _ in range(2):
        step(X, Y)
    grads = [p.grad for p in training.model.parameters()]
    step(X * 2, Y)
    assert all(p.grad is g for p, g in zip(training.model.parameters(), grads, strict=True))
    eager = Training()
    for x in (X, X, X * 2):
        eager.step(x.to("cuda"), Y.to("cuda"))
    assert training.state() == eager.state()


def test_a_replay_counts_as_its_writes() -> None:
    written, read = tl.ones(3, device="cuda"), tl.ones(3, device="cuda")
    step = tl.cuda.graph(lambda x: written.add_(read) * x, tl.ones(3), warmup=1)
    for _ in range(2):
        out = step(tl.ones(3))
    w = tl.ones(3, device="cuda", requires_grad=True)
    for saved in (written, out, read):
        product = w * saved
        versions = [t._version for t in (written, out, read)]
        step(tl.ones(3))
        after = [t._version for t in (written, out, read)]
        assert after == [versions[0] + 1, versions[1] + 1, versions[2]]
        if saved is read:
            product.sum().backward()
            continue
        with pytest.raises(tl.GradError, match="overwritten in place"):
            product.sum().backward()


def test_memory_of_a_graph_is_given_to_nobody_else() -> None:
    w = tl.ones(64, device="cuda")
    step = tl.cuda.graph(lambda x: ((x * 3).exp() + w).sum() * 0 + (x + w), tl.ones(64), warmup=1)
    for _ in range(2):
        out = step(tl.ones(64))
    w = tl.full((64,), 9.0, device="cuda")  # the graph reads the former one
    others = [tl.full((64,), float(i), device="cuda") for i in range(50)]
    tl.cuda.empty_cache()
    assert step(tl.full((64,), 4.0)).tolist() == [5.0] * 64
    assert all(t.tolist() == [float(i)] * 64 for i, t in enumerate(others))
    del step
    assert out.tolist() == [5.0] * 64  # outlives the graph


def test_numbers_of_the_host_are_read_anew() -> None:
    told: list[str] = []
    rates = iter(np.arange(1.0, 100.0).tolist())

    def step(x: tl.Tensor) -> tl.Tensor:
        under_way = capture.current()
        if under_way is None:
            return x * next(rates)
        under_way.on_replay(lambda: told.append("before"))
        rate = under_way.numbers(lambda: [next(rates), *range(9)], 10)
        under_way.on_replay(lambda: told.append("after"))
        assert under_way.device == "cuda:0" and tl.cuda.is_current_stream_capturing()
        return x * rate[0] + 0 * rate[9]

    run = tl.cuda.graph(step, tl.ones(1, dtype=tl.float64), warmup=2)
    assert [run(tl.ones(1, dtype=tl.float64)).item() for _ in range(5)] == [1, 2, 3, 4, 5]
    assert told == ["before", "after"] * 3


def test_random_base_is_where_the_draws_of_each_replay_begin() -> None:
    tl.manual_seed(5)
    generator = tl.default_generator()
    began = generator.where()[1]

    def step(x: tl.Tensor) -> tl.Tensor:
        under_way = capture.current()
        base = tl.zeros(2, dtype=tl.int64, device="cuda") if under_way is None else under_way.random_base * 1
        generator.next(40)  # ten blocks
        return base + x

    run = tl.cuda.graph(step, tl.zeros(2, dtype=tl.int64), warmup=1)
    zero = tl.zeros(2, dtype=tl.int64)
    assert run(zero).tolist() == [0, 0] and run(zero).tolist() == [0, 0] and run(zero).tolist() == [10, 0]
    generator.next(4)
    assert run(zero).tolist() == [21, 0] and generator.where() == (5, began + 41)
    tl.manual_seed(3)
    assert run(zero).tolist() == [-10, -2] and generator.where() == (3, 10)


def test_pinned_memory_that_a_capture_took_stays_as_long_as_the_graph(cupy: Any) -> None:
    taken: list[weakref.ref[Any]] = []

    def step(x: tl.Tensor) -> tl.Tensor:
        staged = cupy.cuda.alloc_pinned_memory(4)
        taken.append(weakref.ref(staged.mem))
        return x + tl.tensor([1.0, 2.0], device="cuda")  # a constant, uploaded by every replay

    graph = tl.cuda.graph(step, tl.ones(2), warmup=1)
    assert [graph(tl.ones(2)).tolist() for _ in range(3)] == [[2.0, 3.0]] * 3
    assert [ref() is None for ref in taken] == [True, False]
    del graph
    gc.collect()
    assert taken[1]() is None
    assert cupy.cuda.alloc_pinned_memory(4) is not None


# ---- what is refused ----
HOST, OWN = tl.ones(2), tl.Generator()
REFUSED: dict[str, tuple[Callable[[tl.Tensor], Any], str]] = {
    "item": (lambda x: x.sum().item(), "reading a tensor's values"),
    "print": (lambda x: str(x), "reading a tensor's values"),
    "numpy": (lambda x: x.numpy(), "reading a tensor's values"),
    "bool": (lambda x: 1 if x.sum() > 0 else 2, "reading a tensor's values"),
    "cpu": (lambda x: x.cpu(), "a copy to main memory"),
    "host-read": (lambda x: x + HOST.to("cuda"), "a copy to a GPU"),
    "host-write": (lambda x: (HOST.add_(1), x)[1], "the step writes a tensor in main memory"),
    "shapes": (lambda x: x.nonzero(), ""),
    "generator": (lambda x: (tl.rand(2, generator=OWN), x)[1], "a draw from a generator of its own"),
    "host-draws": (lambda x: x + tl.rand(2).to("cuda"), "a draw in main memory"),
    "other-draws": (
        lambda x: (tl.default_generator().next(4), x)[1],
        "draws random numbers by an operation that can not",
    ),
    "synchronize": (lambda x: (tl.cuda.synchronize(), x)[1], "synchronize"),
    "graph": (lambda x: tl.cuda.graph(lambda y: y, x, warmup=1)(x), "a replay"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_captured_is_refused_with_its_line(name: str) -> None:
    refused, words = REFUSED[name]
    count = tl.zeros(2, device="cuda")

    def step(x: tl.Tensor) -> Any:
        if count is not None:
            count.add_(1)
        return refused(x) if tl.cuda.is_current_stream_capturing() else x

    graphed = tl.cuda.graph(step, tl.ones(2), warmup=1)
    graphed(tl.ones(2))
    before = tl.default_generator().where()
    for _ in range(2):
        with pytest.raises(tl.CaptureError, match=f"(?s){words}.*") as raised:
            graphed(tl.ones(2))
        if name != "other-draws":
            assert "test_graphs.py:" in str(raised.value)
        assert not graphed.captured and not tl.cuda.is_current_stream_capturing()
    assert tl.default_generator().where() == before and count.tolist() == [1.0, 1.0]
    other = tl.cuda.graph(lambda x: x + 1, tl.ones(2), warmup=1)
    assert [other(tl.ones(2)).tolist() for _ in range(3)] == [[2.0, 2.0]] * 3


def test_an_error_of_the_step_is_its_own() -> None:
    def step(x: tl.Tensor) -> tl.Tensor:
        if tl.cuda.is_current_stream_capturing():
            raise KeyError("mine")
        return x

    graphed = tl.cuda.graph(step, tl.ones(2), warmup=1)
    graphed(tl.ones(2))
    with pytest.raises(KeyError, match="mine"):
        graphed(tl.ones(2))


def test_inputs_must_be_those_of_the_example() -> None:
    step = tl.cuda.graph(lambda x, y: x + y, tl.ones(2), tl.ones(2), warmup=1)
    for _ in range(3):  # before, at and after the capture
        with pytest.raises(TypeError, match="got 1 inputs, expected 2"):
            step(tl.ones(2))
        with pytest.raises(tl.ShapeError, match=r"input 1 has shape \(3,\), but the step is for \(2,\)"):
            step(tl.ones(2), tl.ones(3))
        with pytest.raises(tl.DTypeError, match="input 0 is float64, but the step is for float32"):
            step(tl.ones(2, dtype=tl.float64), tl.ones(2))
        with pytest.raises(TypeError, match="input 1 is a float, expected a Tensor"):
            step(tl.ones(2), 1.0)
        assert step(tl.ones(2), tl.ones(2)).tolist() == [2.0, 2.0]


def test_what_a_graph_is_made_of() -> None:
    with pytest.raises(TypeError, match="the step is a int, expected a function"):
        tl.cuda.graph(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="example input 0 is a list"):
        tl.cuda.graph(abs, [1])  # type: ignore[arg-type]
    for bad in (0, True, 1.5):
        with pytest.raises(ValueError, match="warmup must be an integer of at least 1"):
            tl.cuda.graph(abs, warmup=bad)  # type: ignore[arg-type]
    with pytest.raises(tl.DeviceError, match="inputs are on reference, expected a GPU"):
        tl.cuda.graph(abs, tl.ones(1, device="reference"))
    with (
        pytest.raises(tl.CaptureError, match="a step that is captured can not capture another"),
        capture.Capture(tl.device("cuda")),
    ):
        capture.Capture(tl.device("cuda")).__enter__()


def test_another_thread_goes_on_while_a_step_is_captured() -> None:
    seen: list[float] = []

    def step(x: tl.Tensor) -> tl.Tensor:
        if tl.cuda.is_current_stream_capturing():
            other = threading.Thread(target=lambda: seen.append(HOST.sum().item()))
            other.start()
            other.join()
        return x * 2

    graphed = tl.cuda.graph(step, tl.ones(2), warmup=1)
    assert [graphed(tl.ones(2)).tolist() for _ in range(3)] == [[2.0, 2.0]] * 3 and len(seen) == 1
