# %% [markdown]
# # A long short-term memory reads Python
#
# The text of `char_gpt.py` again, read by an LSTM from left to right. It keeps its states from one piece of text to the next, though gradients
# reach only to the start of each piece (truncated backpropagation). What it is measured by, bits per character, is measured of a trigram model
# too, on the same text: after two minutes on one core 2.0, where the trigrams need 2.8.
#
#     python examples/char_lstm.py [--out char_lstm.png] [--quick] [--device cpu]

# %%
from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from char_gpt import load, rate  # the example beside this one
from tqdm import tqdm

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn

# %% [markdown]
# ## What to compare with
# A trigram model: how often each character followed the two before it. Two that are rare say little, so this is mixed with how often it followed
# the one before it, with how common it is at all, and with all characters alike. Expectation maximisation finds the shares that make a tenth of
# the text, not counted, most likely.


# %%
def chances(counted: np.ndarray, asked: np.ndarray, kinds: int) -> np.ndarray:
    """(n - 2, 4): how probable each character of `asked` but the first two is, by itself (uniform, counted), after one, after two others."""
    found = [np.full(len(asked) - 2, 1 / kinds)]
    for order in (1, 2, 3):  # a character with its `order` - 1 predecessors is one number
        code = sum(counted[i : len(counted) - order + 1 + i] * kinds ** (order - 1 - i) for i in range(order))
        wanted = sum(asked[3 - order + i : len(asked) - order + 1 + i] * kinds ** (order - 1 - i) for i in range(order))
        times = np.bincount(code, minlength=kinds**order).reshape(-1, kinds)
        before = times.sum(1)[wanted // kinds]
        found.append(np.where(before > 0, times.ravel()[wanted] / np.maximum(before, 1), found[-1]))
    return np.stack(found, 1)


def trigram_bits(tokens: np.ndarray, held: np.ndarray, kinds: int) -> float:
    """Bits per character of the text held back."""
    cut = len(tokens) * 9 // 10
    shares, tuning = np.full(4, 0.25), chances(tokens[:cut], tokens[cut:], kinds)
    for _ in range(30):
        owed = tuning * shares
        shares = (owed / owed.sum(1, keepdims=True)).mean(0)
    return float(-np.log2(chances(tokens, held, kinds) @ shares).mean())


# %% [markdown]
# ## Model
# Letters: T steps, B pieces of text side by side.


# %%
States = tuple[tl.Tensor, tl.Tensor]


class Reader(nn.Module):
    """Scores of the next character at every place, and the states after the last one.

    Shapes:
        tokens: (T, B) int64  ->  out: (T, B, characters), states: two of (1, B, width)
    """

    def __init__(self, characters: int, width: int) -> None:
        super().__init__()
        self.token, self.lstm = nn.Embedding(characters, 64), nn.LSTM(64, width)
        self.head = nn.Linear(width, characters)

    def forward(self, tokens: tl.Tensor, states: States | None = None) -> tuple[tl.Tensor, States]:
        seen, states = self.lstm(self.token(tokens), states)
        return self.head(seen), states


def bits(scores: tl.Tensor, targets: tl.Tensor) -> tl.Tensor:
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten()) / np.log(2)


@tl.no_grad()
def held_back_bits(model: Reader, held: np.ndarray, streams: int, length: int = 250) -> float:
    """Per character, the text cut into `streams` pieces, each of which begins without knowing what was before."""
    columns = tl.as_tensor(held[: len(held) // streams * streams].reshape(streams, -1)).transpose(0, 1)
    states, total, n = None, 0.0, len(columns) - 1
    for t in range(0, n, length):
        end = min(t + length, n)
        scores, states = model(columns[t:end], states)
        total += bits(scores, columns[t + 1 : end + 1]).item() * (end - t)
    return total / n


@tl.no_grad()
def write(model: Reader, start: str, alphabet: str, n: int, temperature: float, rng: np.random.Generator) -> str:
    """`start` and `n` characters more, each drawn from what the model expects."""
    tokens = [alphabet.find(c) % len(alphabet) for c in start]
    scores, states = model(tl.tensor(tokens).unsqueeze(1))
    for _ in range(n):
        weights = F.softmax(scores[-1, 0] / temperature, 0).cpu().numpy().astype(np.float64)
        tokens.append(int(rng.choice(len(weights), p=weights / weights.sum())))
        scores, states = model(tl.tensor([[tokens[-1]]]), states)
    return "".join(alphabet[i] for i in tokens)


# %% [markdown]
# ## Training
# The text is cut into as many streams as the batch has columns, and read from the start, a piece of each at a time. The states that a piece ends
# with begin the next one; `detach` ends the graph there, so that it does not grow without end.


# %%
def train(
    model: Reader,
    data: tuple[np.ndarray, np.ndarray, str],
    steps: int,
    streams: int,
    length: int,
    lr: float,
    every: int,
) -> tuple[list[float], list[tuple[int, float]]]:
    """Bits per character of every step, and now and then (step, the same of text held back)."""
    tokens, held, alphabet = data
    columns = tl.as_tensor(tokens[: len(tokens) // streams * streams].reshape(streams, -1)).transpose(0, 1)
    optimizer = tl.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    spent: list[float] = []
    checks: list[tuple[int, float]] = []
    states, at, began = None, 0, time.perf_counter()
    progress = tqdm(range(steps), desc="char_lstm", unit="step")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, warmup=min(50, steps // 4), most=lr)
        if at + length >= len(columns):
            states, at = None, 0
        optimizer.zero_grad()
        scores, (h, c) = model(columns[at : at + length], states)
        loss = bits(scores, columns[at + 1 : at + length + 1])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        states, at = (h.detach(), c.detach()), at + length
        spent.append(loss.item())
        speed = (step + 1) * streams * length / (time.perf_counter() - began)
        progress.set_postfix(bits=f"{np.mean(spent[-50:]):.3f}", characters_per_s=f"{speed:.0f}")
        if (step + 1) % every == 0 or step + 1 == steps:
            checks.append((step + 1, held_back_bits(model, held[:40_000], streams)))
            sample = write(model, "\ndef ", alphabet, 160, 0.7, np.random.default_rng(0))
            progress.write(f"--- step {step + 1}: {checks[-1][1]:.3f} bits held back; the model writes\n{sample}\n")
    return spent, checks


# %% [markdown]
# ## Picture


# %%
def draw(path: str, spent: list[float], checks: list[tuple[int, float]], trigram: float) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(range(1, len(spent) + 1), spent, color="tab:gray", alpha=0.6, linewidth=0.7, label="text to learn from")
    axes.plot(*zip(*checks, strict=True), "o-", color="tab:orange", label="part of the text held back")
    axes.axhline(trigram, color="tab:blue", linestyle="--", label=f"trigram model, text held back ({trigram:.2f})")
    axes.set(xlabel="step", ylabel="bits per character", title="An LSTM reads Python's standard library")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    figure.savefig(path, dpi=110)


# %%
def main() -> int:
    parser = argparse.ArgumentParser(description="Train an LSTM on the source text of Python's standard library.")
    parser.add_argument("--out", default="char_lstm.png", help="where the curve goes")
    parser.add_argument("--quick", action="store_true", help="a few steps only, without a demand on the bits")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if tl.cuda.is_available() else "cpu")
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)

    tl.manual_seed(options.seed)
    tokens, held, alphabet = load()
    held = held[: 20_000 if options.quick else 200_000]
    trigram = trigram_bits(tokens, held, len(alphabet))
    print(f"{len(tokens):,} characters to learn from, {len(alphabet)} kinds; trigrams: {trigram:.3f} bits")
    model = Reader(len(alphabet), width=256)
    steps = 30 if options.quick else options.steps
    every = 15 if options.quick else 100
    spent, checks = train(model, (tokens, held, alphabet), steps, streams=64, length=64, lr=4e-3, every=every)
    draw(options.out, spent, checks, trigram)
    reached = held_back_bits(model, held, streams=32)
    print(f"bits per character held back: {reached:.3f}, trigrams {trigram:.3f}; curve in {options.out}")
    return 0 if options.quick or reached < trigram else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
