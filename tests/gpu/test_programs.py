"""The programs that the benchmarks time, small: their steps can be captured, and replays are eager steps, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest

import tensorlib as tl
from tensorlib import nn
from tests.benchmarks import gpt, gpu, nets

PROGRAMS = {
    "mlp": gpu.image_net(lambda lib: nets.mlp(lib, 12, 8, 10), 4, 3, 2, 2),
    "resnet": gpu.image_net(nets.resnet20, 2, 3, 8, 8),
    "gpt": gpu.language(gpt.Size(1, 8, 2, 6, 2, 11)),
    "lstm": gpu.packed_lstm(3, 4, 3, 7),
}


SLOW = {"resnet"}  # seconds where the CPU stands in


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PROGRAMS])
def test_captured_steps_are_eager_steps(name: str) -> None:
    eager, batch = PROGRAMS[name](tl, "cuda")
    expected = [eager(*batch).item() for _ in range(4)]
    step, batch = PROGRAMS[name](tl, "cuda")
    graph = tl.cuda.graph(step, *batch, warmup=1)
    assert [graph(*batch).item() for _ in range(4)] == expected and graph.captured
    assert expected[-1] < expected[0]


OPTIMIZERS = {
    "sgd": lambda p: tl.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: tl.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: tl.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: tl.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_schedules_dropout_and_optimizers_go_on_as_in_eager_steps(kind: str) -> None:
    def train(captured: bool) -> tuple[list[float], list[Any]]:
        tl.manual_seed(3)
        norm, out = nn.LayerNorm(8), nn.Linear(8, 3)
        model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.4), norm, nn.Dropout(0.1), out).to("cuda")
        optimizer = OPTIMIZERS[kind](model.parameters())
        schedule = tl.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=10)
        step: Any = nets.training(model, nn.CrossEntropyLoss(), optimizer)
        x, y = tl.randn(8, 6, device="cuda"), tl.randint(0, 3, (8,), device="cuda")
        if captured:
            step = tl.cuda.graph(step, x, y, warmup=2)
        losses = []
        for i in range(7):
            losses.append(step(x * (i + 1), y).item())
            schedule.step()
            if i == 4:
                tl.manual_seed(9)  # another stream than the one of the capture
            losses.append(tl.rand(1).item())  # between steps, from the stream that they draw from
        state = [s[k] for s in optimizer.state.values() for k in sorted(s)]
        return losses, [t.tolist() for t in (*model.parameters(), *state)]

    assert train(captured=True) == train(captured=False)


def test_definitions_of_optimizers_are_not_captured() -> None:
    w = nn.Parameter(tl.ones(2, device="cuda"))
    step = tl.cuda.graph(
        nets.training(lambda x: x * w, lambda a, b: (a - b).sum(), tl.optim.SGD([w], lr=0.1, fused=False)), w, w
    )
    for _ in range(3):
        step(tl.ones(2), tl.ones(2))
    with pytest.raises(tl.CaptureError, match=r"SGD.step: can not be captured .*\n  hint: SGD, Adam"):
        step(tl.ones(2), tl.ones(2))


@pytest.mark.parametrize("name", gpu.MEMORY)
def test_what_moves_memory_runs(name: str) -> None:
    run, nbytes = gpu.MEMORY[name](*((64, 16) if "Adam" not in name else (3, 16)))  # type: ignore[call-arg]
    run()
    assert nbytes > 0


def test_nothing_is_measured_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(gpu.workloads())) == 2 * len(gpu.PROGRAMS) + len(gpu.MEMORY) + 4
    monkeypatch.setattr(tl.cuda, "is_available", lambda: False)
    assert not list(gpu.workloads())
    assert capsys.readouterr().err == "gpu: no GPU here, nothing is measured\n"


def test_a_captured_step_with_scaled_losses_leaves_out_and_grows_as_eager_ones() -> None:
    def train(captured: bool) -> list[Any]:
        tl.manual_seed(0)
        model = nn.Linear(4, 2).to("cuda")
        optimizer = tl.optim.SGD(model.parameters(), lr=0.01)
        scaler = tl.amp.GradScaler("cuda", init_scale=4.0, growth_interval=2)

        def step(x: tl.Tensor) -> tl.Tensor:
            optimizer.zero_grad()
            with tl.autocast("cuda", dtype=tl.float16):
                loss = (model(x) ** 2).mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            return loss

        run: Any = tl.cuda.graph(step, tl.ones(3, 4), warmup=2) if captured else step
        told = []
        for i in range(8):
            x = tl.ones(3, 4, device="cuda") * (float("inf") if i == 5 else i + 1)
            told.append(repr((run(x).item(), scaler.get_scale(), model.weight.tolist())))  # NaN is itself there
        return told

    assert train(captured=True) == train(captured=False)
