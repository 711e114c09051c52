# %% [markdown]
# # A small GPT that writes Python
#
# A transformer of four blocks reads the source text of Python's own standard library, character by character, and learns to go on where
# a text breaks off. The data are there wherever Python is. It takes about five minutes on two cores; after one of them the samples have
# indented blocks, docstrings and `self.`, though they mean nothing.
#
#     python examples/char_gpt.py [--out char_gpt.png] [--quick] [--device cpu]

# %%
from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn

# %% [markdown]
# ## Data
# The `.py` files beside `os`, in the order of their names, as one long text. Only the commonest characters have a number of their own; all
# others share the last one. The last tenth of the text is held back.

# %%
CHARACTERS = 96


def load() -> tuple[np.ndarray, np.ndarray, str]:
    """Character numbers for training and held back, and the alphabet they count in."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    found, counts = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_counts=True)
    kept = np.sort(found[np.argsort(-counts, kind="stable")[: CHARACTERS - 1]])
    alphabet = "".join(map(chr, kept)) + "\N{REPLACEMENT CHARACTER}"
    tokens = np.searchsorted(kept, codes := np.frombuffer(text.encode("utf-32-le"), np.uint32))
    tokens[~np.isin(codes, kept)] = len(kept)
    cut = len(tokens) * 9 // 10
    return tokens[:cut].astype(np.int64), tokens[cut:].astype(np.int64), alphabet


def batch(tokens: np.ndarray, size: int, length: int, rng: np.random.Generator) -> tuple[tl.Tensor, tl.Tensor]:
    """Random pieces (B, T), and the same one character later: what to predict."""
    starts = rng.integers(0, len(tokens) - length - 1, size)
    rows = starts[:, None] + np.arange(length)
    return tl.as_tensor(tokens[rows]), tl.as_tensor(tokens[rows + 1])


# %% [markdown]
# ## Model
# GPT-2's layout: every block normalises, attends to what came before, adds; normalises, widens to four times, adds. Heads are views of one
# projection, and attention reads them where they lie.


# %%
class Block(nn.Module):
    """Causal self-attention and a two-layer perceptron, each added to its input.

    Shapes:
        x: (B, T, C)  ->  out: (B, T, C)
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(c, 2))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        x = x + self.dropout(self.out(seen))
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.norm2(x)))))


class GPT(nn.Module):
    """Scores of the next character at every place.

    Shapes:
        tokens: (B, T) int64, T <= length  ->  out: (B, T, characters)
    """

    def __init__(self, characters: int, length: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.length = length
        self.token, self.place = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, heads, dropout) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters, bias=False)
        with tl.no_grad():
            for name, p in self.named_parameters():
                if p.ndim == 2:
                    p.normal_(
                        0.0, 0.02 / (2 * layers) ** 0.5 if name.endswith(("out.weight", "narrow.weight")) else 0.02
                    )

    def forward(self, tokens: tl.Tensor) -> tl.Tensor:
        places = self.place(tl.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(self.token(tokens) + places)))


# %% [markdown]
# ## Writing
# One character at a time, each drawn from what the model expects, `temperature` below 1 being more cautious.


# %%
@tl.no_grad()
def write(model: GPT, start: str, alphabet: str, n: int, temperature: float, rng: np.random.Generator) -> str:
    model.eval()
    tokens = [alphabet.find(c) % len(alphabet) for c in start]
    for _ in range(n):
        scores = model(tl.tensor([tokens[-model.length :]]))[0, -1] / temperature
        weights = F.softmax(scores, 0).cpu().numpy().astype(np.float64)
        tokens.append(int(rng.choice(len(weights), p=weights / weights.sum())))
    model.train()
    return "".join(alphabet[i] for i in tokens)


# %% [markdown]
# ## Training
# AdamW; the learning rate rises for the first steps, then falls along a half cosine to a tenth; gradients are clipped to norm 1. Weights of
# two dimensions decay, biases and norms do not.


# %%
def rate(step: int, steps: int, warmup: int, most: float) -> float:
    if step < warmup:
        return most * (step + 1) / warmup
    return most * (0.55 + 0.45 * np.cos(np.pi * (step - warmup) / max(1, steps - warmup)))


@tl.no_grad()
def held_back_loss(model: GPT, tokens: np.ndarray, batches: int, size: int) -> float:
    model.eval()
    rng, losses = np.random.default_rng(1), []
    for _ in range(batches):
        x, y = batch(tokens, size, model.length, rng)
        losses.append(F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item())
    model.train()
    return float(np.mean(losses))


def train(
    model: GPT,
    data: tuple[np.ndarray, np.ndarray, str],
    steps: int,
    size: int,
    lr: float,
    every: int,
    rng: np.random.Generator,
) -> tuple[list[float], list[tuple[int, float]]]:
    """The loss of every step, and now and then (step, held-back loss)."""
    tokens, held, alphabet = data
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = tl.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))
    losses: list[float] = []
    checks: list[tuple[int, float]] = []
    began = time.perf_counter()
    progress = tqdm(range(steps), desc="char_gpt", unit="step")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, warmup=min(100, steps // 4), most=lr)
        x, y = batch(tokens, size, model.length, rng)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        speed = (step + 1) * x.numel() / (time.perf_counter() - began)
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", tokens_per_s=f"{speed:.0f}")
        if (step + 1) % every == 0 or step + 1 == steps:
            checks.append((step + 1, held_back_loss(model, held, batches=8, size=size)))
            sample = write(model, "\ndef ", alphabet, 120, 0.8, np.random.default_rng(0))
            progress.write(f"--- step {step + 1}: held-back loss {checks[-1][1]:.3f}; the model writes\n{sample}\n")
    return losses, checks


# %% [markdown]
# ## Picture


# %%
def draw(path: str, losses: list[float], checks: list[tuple[int, float]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    window = max(2, len(losses) // 100)
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    axes.plot(losses, color="tab:gray", alpha=0.5, linewidth=0.7, label="training loss, each step")
    axes.plot(np.arange(len(smooth)) + window - 1, smooth, color="tab:blue", label=f"mean of {window}")
    axes.plot(*zip(*checks, strict=True), "o-", color="tab:orange", label=f"held back ({checks[-1][1]:.3f} at the end)")
    axes.set(
        xlabel="step", ylabel="cross-entropy per character (nats)", title="A small GPT reads Python's standard library"
    )
    axes.legend()
    figure.savefig(path, dpi=110)


# %%
def main() -> int:
    parser = argparse.ArgumentParser(description="Train a small GPT on the source text of Python's standard library.")
    parser.add_argument("--out", default="char_gpt.png", help="where the loss curve goes")
    parser.add_argument("--quick", action="store_true", help="a few steps only, without a demand on the loss")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if tl.cuda.is_available() else "cpu")
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)

    tl.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    data = load()
    model = GPT(len(data[2]), length=128, width=128, layers=4, heads=4, dropout=0.0)
    print(
        f"{len(data[0]):,} characters to learn from, {len(data[2])} kinds; {sum(p.numel() for p in model.parameters()):,} parameters"
    )
    steps = 30 if options.quick else options.steps
    losses, checks = train(model, data, steps, size=8, lr=2e-3, every=30 if options.quick else 400, rng=rng)
    draw(options.out, losses, checks)
    reached = checks[-1][1]
    print(f"held-back loss {reached:.3f} nats per character; loss curve in {options.out}")
    return 0 if options.quick or reached < 1.9 else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
