"""One AdamW step (forward, loss, backward, update) of a small GPT, written once for both libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tests.benchmarks.harness import Race, Run


@dataclass(frozen=True)
class Size:
    """Of a GPT, and of the batch of tokens that it learns from."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    time: int = 128
    batch: int = 8
    classes: int = 96


SMALL = Size()


def make_gpt(lib: Any, size: Size = SMALL) -> Any:
    """GPT-2's blocks: normalise, attend, add; normalise, widen to four times, add."""
    nn, F, width = lib.nn, lib.nn.functional, size.width

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            b, t, c = x.shape
            q, k, v = (
                part.view(b, t, size.heads, c // size.heads).transpose(1, 2)
                for part in self.qkv(self.norm1(x)).split(c, 2)
            )
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(seen.transpose(1, 2).reshape(b, t, c))
            return x + self.narrow(F.gelu(self.wide(self.norm2(x))))

    class GPT(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(size.classes, width), nn.Embedding(size.time, width)
            self.blocks = nn.Sequential(*[Block() for _ in range(size.layers)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, size.classes, bias=False)
            self.register_buffer("places", lib.arange(size.time), persistent=False)

        def forward(self, tokens: Any) -> Any:
            return self.head(self.norm(self.blocks(self.token(tokens) + self.place(self.places))))

    return GPT()


def program(lib: Any, size: Size = SMALL, device: str = "cpu") -> tuple[Any, Callable[..., Any], tuple[Any, Any]]:
    """The model, with weights that the library's seed 0 gives, a step, which takes tokens and returns the loss, and tokens."""
    lib.manual_seed(0)
    F, rng = lib.nn.functional, np.random.default_rng(0)
    model = make_gpt(lib, size).to(device)
    optimizer = lib.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    tokens = tuple(lib.from_numpy(rng.integers(0, size.classes, (size.batch, size.time))).to(device) for _ in range(2))

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        n = size.batch * size.time
        loss = F.cross_entropy(model(x).view(n, size.classes), y.view(n))
        loss.backward()
        optimizer.step()
        return loss

    return model, step, (tokens[0], tokens[1])


def build(lib: Any) -> tuple[Any, Run]:
    """The model, and one step at each call, which returns the loss."""
    model, step, tokens = program(lib)
    return model, partial(step, *tokens)


def step(lib: Any) -> Run:
    return build(lib)[1]


def workloads() -> Iterator[Race]:
    yield Race("GPT, 4 layers of 128, 8 x 128 tokens: AdamW step", step, target=0.55)
