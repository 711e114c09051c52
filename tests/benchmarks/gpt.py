"""One AdamW step (forward, loss, backward, update) of a small GPT, written once for both libraries; and what memory it takes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.harness import Figure, Race, Run

LAYERS, WIDTH, HEADS, TIME, BATCH, CLASSES = 4, 128, 4, 128, 8, 96


def make_gpt(lib: Any) -> Any:
    """GPT-2's blocks: normalise, attend, add; normalise, widen to four times, add."""
    nn, F = lib.nn, lib.nn.functional

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            b, t, c = x.shape
            q, k, v = (
                part.view(b, t, HEADS, c // HEADS).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(c, 2)
            )
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(seen.transpose(1, 2).reshape(b, t, c))
            return x + self.narrow(F.gelu(self.wide(self.norm2(x))))

    class GPT(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(CLASSES, WIDTH), nn.Embedding(TIME, WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES, bias=False)
            self.places = lib.arange(TIME)

        def forward(self, tokens: Any) -> Any:
            return self.head(self.norm(self.blocks(self.token(tokens) + self.place(self.places))))

    return GPT()


def step(lib: Any) -> Run:
    F, rng = lib.nn.functional, np.random.default_rng(0)
    model = make_gpt(lib)
    optimizer = lib.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    x, y = (lib.from_numpy(rng.integers(0, CLASSES, (BATCH, TIME))) for _ in range(2))

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x).view(BATCH * TIME, CLASSES), y.view(BATCH * TIME)).backward()
        optimizer.step()

    return run


PROGRAM = """
import importlib, sys
sys.path.insert(0, {root!r})
from tests.benchmarks.gpt import peak, step
lib = importlib.import_module({library!r})
lib.set_num_threads(1)
run = step(lib)
for _ in range(3):
    run()
print(peak())
"""


def peak() -> float:
    """The most memory that this process has had resident, in MiB. (Not getrusage's, which a child inherits.)"""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def peak_with(library: str) -> float:
    """Of a fresh process: the library, model, optimizer and three steps."""
    program = PROGRAM.format(root=str(Path(__file__).parents[2]), library=library)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


def workloads() -> Iterator[Race | Figure]:
    yield Race("GPT, 4 layers of 128, 8 x 128 tokens: AdamW step", step, target=0.55)
    if importlib.util.find_spec("torch") and Path("/proc/self/status").exists():
        ratio = "GPT: peak resident memory over PyTorch's"
        yield Figure(ratio, lambda rounds: peak_with("tensorlib") / peak_with("torch"), at_most=1.0, once=True)
