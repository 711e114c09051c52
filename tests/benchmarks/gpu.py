"""What issue 8 measures on a GPU: training steps, eager and as CUDA graphs, beside PyTorch's eager ones on the same GPU; kernels that move memory
beside a plain copy; matrix products beside cuBLAS's through PyTorch. Nothing without a GPU, but a line that says so.

    python -m tests.benchmarks gpu --against torch [--quick]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import tensorlib as tl
from tests.benchmarks import gpt, nets
from tests.benchmarks.harness import Figure, Race, Run

Step = Callable[..., Any]
STEPS = 10  # between two waits for the GPU
WARM = 5  # calls that capture a step, and more


@dataclass(frozen=True)
class Program:
    """`build(library, device)`: a training step, and the batch it takes."""

    name: str
    build: Callable[[Any, str], tuple[Step, tuple[Any, ...]]]


def image_net(model: Callable[[Any], Any], *images: int) -> Callable[[Any, str], tuple[Step, tuple[Any, ...]]]:
    """SGD with momentum on images in ten classes."""

    def build(lib: Any, device: str) -> tuple[Step, tuple[Any, ...]]:
        lib.manual_seed(0)
        rng = np.random.default_rng(0)
        net = model(lib).to(device)
        optimizer = lib.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        batch = rng.standard_normal(images, dtype=np.float32), rng.integers(0, 10, images[0])
        return nets.training(net, lib.nn.CrossEntropyLoss(), optimizer), on(lib, device, *batch)

    return build


def packed_lstm(
    inputs: int, hidden: int, batch: int, longest: int
) -> Callable[[Any, str], tuple[Step, tuple[Any, ...]]]:
    """Adam on a layer over sequences of 5 to `longest` steps."""

    def build(lib: Any, device: str) -> tuple[Step, tuple[Any, ...]]:
        lib.manual_seed(0)
        rng = np.random.default_rng(0)
        lengths = sorted(rng.integers(5, longest + 1, batch).tolist(), reverse=True)
        rnn = lib.nn.utils.rnn
        drawn = [lib.from_numpy(rng.standard_normal((n, inputs), dtype=np.float32)) for n in lengths]
        packed = rnn.pack_sequence(drawn)
        net = lib.nn.LSTM(inputs, hidden).to(device)
        optimizer = lib.optim.Adam(net.parameters(), lr=1e-3)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            out, _ = net(rnn.PackedSequence(x, packed.batch_sizes))
            loss = (out.data**2).mean()
            loss.backward()
            optimizer.step()
            return loss

        return step, (packed.data.to(device),)

    return build


def language(size: gpt.Size) -> Callable[[Any, str], tuple[Step, tuple[Any, ...]]]:
    return lambda lib, device: gpt.program(lib, size, device)[1:]


def on(lib: Any, device: str, *arrays: Any) -> tuple[Any, ...]:
    return tuple(lib.from_numpy(a).to(device) for a in arrays)


PROGRAMS = [
    Program("MLP 784-512-256-10, batch 128", image_net(lambda lib: nets.mlp(lib, 784, 512, 256, 10), 128, 1, 28, 28)),
    Program("ResNet-20, batch 128", image_net(nets.resnet20, 128, 3, 32, 32)),
    Program("LSTM packed, hidden 512", packed_lstm(128, 512, 64, 100)),
    Program("GPT 6 x 512, 16 x 256 tokens", language(gpt.Size(6, 512, 8, 256, 16, 256))),
]


def started(program: Program, graph: bool, lib: Any) -> Run:
    """`STEPS` steps, and the wait for them. A graph for our side; the other library's steps are eager."""
    step, batch = program.build(lib, "cuda")
    if graph and lib is tl:
        step = tl.cuda.graph(step, *batch)
    for _ in range(WARM):
        step(*batch)

    def run() -> None:
        for _ in range(STEPS):
            step(*batch)
        lib.cuda.synchronize()

    return run


# ---- memory's speed ----
def gpu_seconds(run: Run, rounds: int) -> float:
    """Of one run, by events on the GPU: the median."""
    times = []
    for _ in range(rounds + 2):
        start, end = tl.cuda.Event(enable_timing=True), tl.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(STEPS):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / STEPS)
    return median(times[2:])


def share_of_copy(make: Callable[[], tuple[Run, int]], rounds: int) -> float:
    """A run's bytes a second, of those of a copy that moves about as many."""
    run, nbytes = make()
    source, target = (tl.zeros(max(nbytes // 8, 1), device="cuda") for _ in range(2))
    copied = 2 * source.nbytes / gpu_seconds(lambda: target.copy_(source), rounds)
    with tl.no_grad():
        return nbytes / gpu_seconds(run, rounds) / copied


def rows(n: int, columns: int) -> tl.Tensor:
    return tl.randn(n, columns, device="cuda")


def softmax(n: int = 16384, columns: int = 4096) -> tuple[Run, int]:
    x = rows(n, columns)
    return lambda: tl.softmax(x, -1), 2 * x.nbytes


def layer_norm(n: int = 16384, columns: int = 4096) -> tuple[Run, int]:
    x, norm = rows(n, columns), tl.nn.LayerNorm(columns).to("cuda")
    return lambda: norm(x), 2 * x.nbytes


def cross_entropy(n: int = 8192, columns: int = 32768) -> tuple[Run, int]:
    x, target = rows(n, columns), tl.zeros(n, dtype=tl.int64, device="cuda")
    return lambda: tl.nn.functional.cross_entropy(x, target), x.nbytes


def fused_adam(n: int = 64, each: int = 1 << 20) -> tuple[Run, int]:
    params = [tl.nn.Parameter(tl.randn(each, device="cuda")) for _ in range(n)]
    for p in params:
        p.grad = tl.randn(each, device="cuda")
    optimizer = tl.optim.Adam(params)
    optimizer.step()  # makes its state
    return optimizer.step, 28 * n * each


MEMORY: dict[str, Callable[[], tuple[Run, int]]] = {
    "softmax, 16384 x 4096": softmax, "layer_norm, 16384 x 4096": layer_norm, "cross_entropy, 8192 x 32768": cross_entropy,
    "fused Adam, 64 x 1M": fused_adam,
}  # fmt: skip


# ---- products ----
def product(dtype: str, n: int, lib: Any) -> Run:
    a, b = (lib.randn(n, n, device="cuda").to(getattr(lib, dtype)) for _ in range(2))

    def run() -> None:
        for _ in range(STEPS):
            a @ b
        lib.cuda.synchronize()

    return run


def workloads() -> Iterator[Race | Figure]:
    if not tl.cuda.is_available():
        print("gpu: no GPU here, nothing is measured", file=sys.stderr)
        return
    for program in PROGRAMS:
        yield Race(f"{program.name}: tl.cuda.graph", partial(started, program, True), STEPS, target=0.8)
        yield Race(f"{program.name}: eager", partial(started, program, False), STEPS, target=1.5)
    for name, make in MEMORY.items():
        yield Figure(f"{name}: of a copy's speed", partial(share_of_copy, make), at_least=0.8, once=True)
    for dtype in ("float32", "bfloat16"):
        for n in (1024, 4096):
            yield Race(f"matmul {dtype}, {n}^3", partial(product, dtype, n), STEPS, target=1 / 0.95)
