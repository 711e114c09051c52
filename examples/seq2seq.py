# %% [markdown]
# # Numbers in words
#
# One LSTM reads the digits of a number, another one writes the number in words, letter by letter, and looks back at the digits as it goes
# (attention). They see how some ten thousand numbers below a million are written, and are then asked for others. After two minutes on one core
# more than 99% of these are written without a single wrong letter.
#
#     python examples/seq2seq.py [--out seq2seq.png] [--quick] [--device cpu]

# %%
from __future__ import annotations

import argparse
import sys
import time
from typing import Any, TypeVar

import numpy as np
from char_gpt import rate  # the example beside this one
from tqdm import tqdm

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn
from tensorlib.nn.decoding import Hypothesis, beam_search, greedy_decode
from tensorlib.nn.utils.rnn import PackedSequence, pack_sequence, packed_collate

# %% [markdown]
# ## Data
# Numbers of one to six digits: all of those with up to three, four thousand of those with more. A fifth of them is held back.

# %%
SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ALPHABET = "\0 -abcdefghijklmnopqrstuvwxyz"  # "\0" begins and ends a text
PICTURED = 4721  # held back always


def in_words(n: int) -> str:
    """As the British write it: 4721 is four thousand seven hundred and twenty-one."""
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{SMALL[n % 10]}" if n % 10 else "")
    unit, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    rest = f"{' and' if n % unit < 100 else ''} {in_words(n % unit)}" if n % unit else ""
    return f"{in_words(n // unit)} {name}{rest}"


def load(most: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Numbers to learn from and held back, at most so many of each length."""
    numbers: tuple[list[int], list[int]] = [], [PICTURED]
    for length in range(1, 7):
        first, end = 10 ** (length - 1) if length > 1 else 0, 10**length
        for i, offset in enumerate(rng.permutation(end - first)[:most]):
            if (n := first + int(offset)) != PICTURED:
                numbers[i % 5 == 0].append(n)
    return numbers


def digits_of(n: int) -> list[int]:
    return [int(digit) for digit in str(n)]


def letters_of(text: str) -> list[int]:
    return [ALPHABET.index(letter) for letter in text]


# %% [markdown]
# ## Model
# The reader goes over the digits in both directions; where it ends is where the writer starts. At every letter the writer's state asks which
# digits matter now, and the next letter is scored from the state and the mean of these digits' states. While it learns, the writer is told the right
# letters so far, so that all the numbers of a batch go through in one call each, whatever their lengths.


# %%
States = tuple[tl.Tensor, tl.Tensor]
Seen = TypeVar("Seen", tl.Tensor, PackedSequence)


class Writer(nn.Module):
    """Scores of each next letter.

    Shapes:
        digits: packed digits of B numbers; given: packed letters, what stands before each of those to score
        out: as `given`, (T, letters) for each number
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.digits, self.letters = nn.Embedding(10, 32), nn.Embedding(len(ALPHABET), 32)
        self.reader, self.writer = nn.LSTM(32, width // 2, bidirectional=True), nn.LSTM(32, width)
        self.attention = nn.DotAttention(width, width)
        self.own, self.looked_up = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, len(ALPHABET))

    def read(self, digits: PackedSequence) -> tuple[States, nn.AttentionMemory]:
        """Where the writer starts, and what it can look up."""
        memory, (h, c) = self.reader(self.digits(digits))
        return (tl.cat([*h], 1).unsqueeze(0), tl.cat([*c], 1).unsqueeze(0)), self.attention.prepare(memory)

    def score(self, written: Seen, memory: nn.AttentionMemory) -> tuple[Seen, tl.Tensor]:
        """The scores, and how much of each digit's state went into them."""
        context, weights = self.attention(written, memory)
        return self.head(tl.tanh(self.own(written) + self.looked_up(context))), weights

    def forward(self, digits: PackedSequence, given: PackedSequence) -> PackedSequence:
        start, memory = self.read(digits)
        return self.score(self.writer(self.letters(given), start)[0], memory)[0]

    def step(self, letters: tl.Tensor, state: tuple[States, nn.AttentionMemory]) -> tuple[tl.Tensor, Any]:
        """One letter of each number at work, as `tl.nn.decoding` asks for it."""
        before, memory = state
        written, after = self.writer(self.letters(letters).unsqueeze(0), before)
        return F.log_softmax(self.score(written.squeeze(0), memory)[0], -1), (after, memory)


# %% [markdown]
# ## Writing
# `greedy_decode` takes the likeliest letter each time, `beam_search` keeps several beginnings going. What is written to its end leaves the batch.
# The state has the numbers in its second dimension for the LSTM's part, in its first for the digits to look up: `state_dim` says so.

# %%
DECODING: dict[str, Any] = {"end": 0, "max_length": 100, "state_dim": (1, 0)}


def packed_digits(numbers: list[int]) -> PackedSequence:
    return pack_sequence([tl.tensor(digits_of(n)) for n in numbers], enforce_sorted=False)


def text_of(found: Hypothesis) -> str:
    return "".join(ALPHABET[letter] for letter in found.tokens)


@tl.no_grad()
def write(model: Writer, numbers: list[int]) -> list[str]:
    made: list[str] = []
    for i in range(0, len(numbers), 256):
        some = numbers[i : i + 256]
        made += map(text_of, greedy_decode(model.step, model.read(packed_digits(some)), [0] * len(some), **DECODING))
    return made


@tl.no_grad()
def alternatives(model: Writer, number: int) -> list[tuple[str, float]]:
    """The three texts that are likeliest, and how likely they are."""
    (found,) = beam_search(model.step, model.read(packed_digits([number])), [0], beam_size=3, **DECODING)
    return [(text_of(one), float(np.exp(one.score))) for one in found]


@tl.no_grad()
def looked_at(model: Writer, number: int, text: str) -> np.ndarray:
    """(letters, digits): which digits each letter of the text was chosen by."""
    start, memory = model.read(packed_digits([number]))
    given = tl.tensor([0, *letters_of(text[:-1])]).unsqueeze(1)
    written, _ = model.writer(model.letters(given), start)
    return model.score(written.transpose(0, 1), memory)[1][0].cpu().numpy()


def mistakes(model: Writer, numbers: list[int]) -> list[tuple[int, str]]:
    """What is not written letter by letter as it should be."""
    return [(n, text) for n, text in zip(numbers, write(model, numbers), strict=True) if text != in_words(n)]


# %% [markdown]
# ## Training
# AdamW on numbers whose texts are about equally long. The learning rate rises and falls as in `char_gpt.py`; gradients are clipped to norm 1.


# %%
def train(
    model: Writer, numbers: list[int], held: list[int], epochs: int, lr: float, every: int
) -> tuple[list[float], list[tuple[int, float]]]:
    """The loss of every step, and now and then (step, exact match on some of the numbers held back)."""
    texts = [letters_of(in_words(n)) for n in numbers]
    examples = [(digits_of(n), [0, *text], [*text, 0]) for n, text in zip(numbers, texts, strict=True)]
    sampler = tl.data.BucketBatchSampler([len(text) for text in texts], batch_size=64)
    optimizer = tl.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    losses: list[float] = []
    checks: list[tuple[int, float]] = []
    steps, seen, spent = epochs * len(sampler), 0, 0.0
    progress = tqdm((rows for _ in range(epochs) for rows in sampler), "seq2seq", steps, unit="step")
    for step, rows in enumerate(progress, 1):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, warmup=min(100, steps // 4), most=lr)
        batch = packed_collate([examples[i] for i in rows])  # in main memory
        digits, given, wanted = (part.to(tl.get_default_device()) for part in batch)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(digits, given), wanted)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seen, spent = seen + len(wanted.data), spent + time.perf_counter() - began
        if step % every == 0 or step == steps:
            checks.append((step, 1 - len(mistakes(model, held)) / len(held)))
        progress.set_postfix(
            loss=f"{losses[-1]:.4f}",
            letters_per_s=f"{seen / spent:.0f}",
            held_back=f"{checks[-1][1]:.1%}" if checks else "",
        )
    return losses, checks


# %% [markdown]
# ## Picture
# The way there, and at which digits the writer looks for each letter.


# %%
def draw(
    path: str, losses: list[float], checks: list[tuple[int, float]], number: int, text: str, weights: np.ndarray
) -> None:
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, figsize=(10, 6.5), height_ratios=(3, 1), layout="constrained")
    window = max(2, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    above.semilogy(np.arange(len(smooth)) + window, smooth, color="tab:gray", label=f"training loss, mean of {window}")
    above.set(xlabel="step", ylabel="cross-entropy per letter (nats)", title="Numbers in words")
    above.xaxis.get_major_locator().set_params(integer=True)
    share = above.twinx()
    share.plot(
        *zip(*checks, strict=True), "o-", color="tab:orange", label="written without a mistake, numbers held back"
    )
    share.set(ylabel="exact match", ylim=(0, 1.02))
    lines = above.get_lines() + share.get_lines()
    above.legend(lines, [line.get_label() for line in lines], loc="center right")

    shown = below.imshow(weights.T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    below.set_xticks(range(len(text)), text, family="monospace")
    below.set_yticks(range(len(str(number))), str(number), family="monospace")
    below.set(title="The digits that it looks at as it writes each letter")
    figure.colorbar(shown, label="weight")
    figure.savefig(path, dpi=110)


# %%
def main() -> int:
    parser = argparse.ArgumentParser(description="Train two LSTMs to write numbers in words.")
    parser.add_argument("--out", default="seq2seq.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="a few numbers only, without a demand on the match")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if tl.cuda.is_available() else "cpu")
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)

    tl.manual_seed(options.seed)
    numbers, held = load(most=300 if options.quick else 4000, rng=np.random.default_rng(options.seed))
    lengths = [len(in_words(n)) for n in numbers]
    print(f"{len(numbers):,} numbers of {min(lengths)} to {max(lengths)} letters; {len(held):,} held back")
    model = Writer(width=128)
    epochs, every = (1, 10) if options.quick else (options.epochs, 100)
    losses, checks = train(model, numbers, held[:: max(1, len(held) // 400)], epochs, lr=4e-3, every=every)

    ((text, _), *_) = likeliest = alternatives(model, PICTURED)
    print(f"what {PICTURED} could be: " + "; ".join(f"{text!r} {chance:.2g}" for text, chance in likeliest))
    draw(options.out, losses, checks, PICTURED, text, looked_at(model, PICTURED, text))
    wrong = mistakes(model, held)
    for n, written in wrong[:8]:
        print(f"mistaken: {n:,} is not {written!r}")
    reached = 1 - len(wrong) / len(held)
    print(f"written without a mistake: {reached:.2%} of {len(held):,} numbers held back; picture in {options.out}")
    return 0 if options.quick or reached > 0.97 else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
