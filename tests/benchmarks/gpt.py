"""One AdamW step (forward, loss, backward, update) of a small GPT, written once for both libraries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.benchmarks.harness import Race, Run

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


def build(lib: Any) -> tuple[Any, Run]:
    """The model, with weights that the library's seed 0 gives, and one step at each call, which returns the loss."""
    lib.manual_seed(0)
    F, rng = lib.nn.functional, np.random.default_rng(0)
    model = make_gpt(lib)
    optimizer = lib.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    x, y = (lib.from_numpy(rng.integers(0, CLASSES, (BATCH, TIME))) for _ in range(2))

    def run() -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).view(BATCH * TIME, CLASSES), y.view(BATCH * TIME))
        loss.backward()
        optimizer.step()
        return loss

    return model, run


def step(lib: Any) -> Run:
    return build(lib)[1]


def workloads() -> Iterator[Race]:
    yield Race("GPT, 4 layers of 128, 8 x 128 tokens: AdamW step", step, target=0.55)
