# %% [markdown]
# # The language of names
#
# Programmers run words together: `getdefaultencoding`, `startswith`. Where does each word begin? Python's standard library teaches it, since most of
# its names do show it, by `_` or by capitals. With these taken away, an LSTM reads a name letter by letter, from both ends, and marks the
# beginnings. After a minute on one core it divides 84% of the names that it has not seen without a mistake, and is right about 98% of their
# letters. A logistic regression on the bag of letters around each place divides none (88%, as if no word ever began), one that knows
# which letter is at which place 29%.
#
#     python examples/language_of_names.py [--out language_of_names.png] [--quick] [--device cpu]

# %%
from __future__ import annotations

import argparse
import ast
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from char_gpt import rate  # the example beside this one
from tqdm import tqdm

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn
from tensorlib.nn.utils.rnn import PackedSequence, packed_collate, unpack_sequence

# %% [markdown]
# ## Data
# All names of two words or more in the `.py` files beside `os`: of variables, attributes, functions, classes, arguments. Written small and without
# `_`, each is there once, however it was spelt (`setUp`, `set_up`); one that was divided in two ways is left out. A fifth is held back: no name
# is known, though most of its words are. The names that Python itself writes as one word are asked for at the end, and never learnt from.

# %%
ASKED = (
    *(
        "getdefaultencoding",
        "startswith",
        "isinstance",
        "setattr",
        "readlines",
        "makedirs",
        "basename",
        "getrecursionlimit",
    ),
    *("removeprefix", "issubclass", "urlopen", "defaultdict", "namedtuple", "breakpoint", "splitlines", "memoryview"),
)
LETTERS = 26
Name = tuple[str, ...]  # its words
Example = tuple[Any, list[int]]  # what a model reads of each letter, and what to answer


def words_of(name: str) -> Name:
    """`HTTPServer_type`: http, server, type"""
    return tuple(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name))


def load(rng: np.random.Generator) -> tuple[list[Name], list[Name]]:
    """Names to learn from and names held back."""
    divided: dict[str, set[Name]] = defaultdict(set)
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            for field in ("id", "attr", "name", "arg"):
                name = getattr(node, field, None)
                if isinstance(name, str) and re.fullmatch("[A-Za-z_]+", name) and len(words := words_of(name)) > 1:
                    divided["".join(words)].add(words)
    names = [min(ways) for joined, ways in sorted(divided.items()) if len(ways) == 1 and joined not in ASKED]
    order = rng.permutation(len(names))
    return [names[i] for i in order[len(names) // 5 :]], [names[i] for i in order[: len(names) // 5]]


def letters_of(name: Name) -> list[int]:
    return [ord(letter) - ord("a") for word in name for letter in word]


def beginnings(name: Name) -> list[int]:
    """1 for each letter that begins a word. Of the first one this is no question: `cross_entropy` leaves -100 out."""
    return [-100, *[int(place == 0) for word in name for place in range(len(word))][1:]]


# %% [markdown]
# ## Model
# Names of all lengths go in together, as one `PackedSequence`, and scores for all their letters come out as one: nothing is padded or masked.


# %%
class Reader(nn.Module):
    """Scores of each letter, whether it goes on with a word or begins one.

    Shapes:
        letters: packed names of L letters  ->  out: packed, (L, 2) for each
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(LETTERS, 48)
        self.lstm = nn.LSTM(48, width, num_layers=2, dropout=0.2, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * width, 2))

    def forward(self, letters: PackedSequence) -> PackedSequence:
        return self.head(self.lstm(self.letters(letters))[0])


# %% [markdown]
# ## What to compare with
# A logistic regression at each place, which knows how often each letter stands among the five before it, and among the five from there on. Another
# one knows at which of these ten places each letter stands. `nn.Linear` is the model: it takes a packed batch as it takes a tensor.


# %%
SPAN = 5


def places_around(name: Name) -> np.ndarray:
    """(L, 2 * SPAN * 27): for each letter of a name, a one for what stands at each place around it; beyond the ends that is a kind of its own."""
    letters, beyond = letters_of(name), [LETTERS] * SPAN
    around = np.lib.stride_tricks.sliding_window_view(beyond + letters + beyond, 2 * SPAN)[: len(letters)]
    return np.eye(LETTERS + 1, dtype=np.float32)[around].reshape(len(letters), -1)


def bags_around(name: Name) -> np.ndarray:
    """(L, 2 * 27): the same, counted over the places before and from the letter on."""
    return places_around(name).reshape(-1, 2, SPAN, LETTERS + 1).sum(2).reshape(-1, 2 * (LETTERS + 1))


# %% [markdown]
# ## Training
# All learn alike: AdamW on batches of names of about one length (`BucketBatchSampler`), other ones in each pass. The learning rate rises and falls as
# in `char_gpt.py`. What counts is how many names are taken apart without a mistake.


# %%
def batch(examples: list[Example]) -> tuple[PackedSequence, PackedSequence]:
    """Batches are put together in main memory."""
    read, begins = packed_collate(examples)
    return read.to(tl.get_default_device()), begins.to(tl.get_default_device())


@tl.no_grad()
def answers(model: nn.Module, examples: list[Example]) -> list[np.ndarray]:
    """For each name, how probable it is of each letter that it begins a word."""
    model.eval()
    said: list[np.ndarray] = []
    for i in range(0, len(examples), 256):
        read, _ = batch(examples[i : i + 256])
        said += [probable[:, 1].cpu().numpy() for probable in unpack_sequence(tl.softmax(model(read), 1))]
    model.train()
    return said


def accuracy(said: list[np.ndarray], examples: list[Example]) -> tuple[float, float]:
    """Over names, and over their letters."""
    right = [(own[1:] > 0.5) == np.asarray(begins[1:]) for own, (_, begins) in zip(said, examples, strict=True)]
    return float(np.mean([own.all() for own in right])), float(np.concatenate(right).mean())


def train(
    name: str, model: nn.Module, examples: list[Example], held: list[Example], epochs: int, lr: float
) -> list[float]:
    """The accuracy over the names held back, after each pass through the others."""
    sampler = tl.data.BucketBatchSampler([len(begins) for _, begins in examples], batch_size=32)
    optimizer = tl.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02)
    reached: list[float] = []
    steps = epochs * len(sampler)
    progress = tqdm((rows for _ in range(epochs) for rows in sampler), name, steps, unit="step")
    for step, rows in enumerate(progress, 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, warmup=steps // 20, most=lr)
        read, begins = batch([examples[i] for i in rows])
        optimizer.zero_grad()
        F.cross_entropy(model(read), begins).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % len(sampler) == 0:
            reached.append(accuracy(answers(model, held), held)[0])
            progress.set_postfix(held_back=f"{reached[-1]:.1%}")
    return reached


def divided(name: str, probable: np.ndarray) -> str:
    """The name, a blank before each word that begins in it."""
    return "".join(f" {letter}" if p > 0.5 else letter for letter, p in zip(name, probable, strict=True)).lstrip()


# %% [markdown]
# ## Picture
# The way there, and where the LSTM sees words begin in names that nobody has divided.


# %%
def draw(path: str, curves: dict[str, list[float]], asked: list[np.ndarray]) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for name, curve in curves.items():
        left.plot(range(1, len(curve) + 1), curve, "o-", markersize=4, label=f"{name}: {curve[-1]:.1%}")
    left.set(xlabel="pass", ylabel="names divided without a mistake", ylim=(0, 1), title="Names held back")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend()

    probable = np.zeros((len(ASKED), max(map(len, ASKED))))
    for row, (name, own) in enumerate(zip(ASKED, asked, strict=True)):
        probable[row, 1 : len(own)] = own[1:]
        for column, letter in enumerate(name):
            color = "white" if probable[row, column] > 0.5 else "black"
            right.text(column, row, letter, ha="center", va="center", family="monospace", color=color)
    figure.colorbar(right.imshow(probable, cmap="Blues", vmin=0, vmax=1, aspect="auto"), label="probability")
    right.set(xticks=[], yticks=[], title="Where the LSTM sees words begin")
    figure.savefig(path, dpi=110)


# %%
def main() -> int:
    parser = argparse.ArgumentParser(description="Train an LSTM to divide names into words.")
    parser.add_argument("--out", default="language_of_names.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="a few names only, without a demand on accuracy")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if tl.cuda.is_available() else "cpu")
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)

    tl.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    names, held = load(rng)
    if options.quick:
        names, held = names[:400], held[:100]
    epochs = 2 if options.quick else options.epochs
    sizes = [sum(map(len, name)) for name in names]
    print(f"{len(names):,} names of {min(sizes)} to {max(sizes)} letters; {len(held):,} held back")

    reader = Reader(width=96)
    models: tuple[tuple[str, nn.Module, Callable[[Name], Any], float], ...] = (
        ("LSTM", reader, letters_of, 4e-3),
        ("letters at their places", nn.Linear(2 * SPAN * (LETTERS + 1), 2), places_around, 0.02),
        ("bag of letters", nn.Linear(2 * (LETTERS + 1), 2), bags_around, 0.02),
    )
    curves: dict[str, list[float]] = {}
    said: dict[str, list[np.ndarray]] = {"never a beginning": [np.zeros(sum(map(len, name))) for name in held]}
    truth = [(letters_of(name), beginnings(name)) for name in held]
    for kind, model, read, lr in models:
        learnt, tested = ([(read(name), beginnings(name)) for name in part] for part in (names, held))
        curves[kind] = train(kind, model, learnt, tested, epochs, lr)
        said[kind] = answers(model, tested)
    asked = answers(reader, [(letters_of((name,)), []) for name in ASKED])
    draw(options.out, curves, asked)

    for i in rng.permutation(len(held))[:12]:
        print(f"{' '.join(held[i]):>30} | {divided(''.join(held[i]), said['LSTM'][i])}")
    print("\nnames that nobody has divided:", ", ".join(map(divided, ASKED, asked)))
    known = {word for name in names for word in name}
    strange = [i for i, name in enumerate(held) if not known.issuperset(name)]
    of_strange, _ = accuracy([said["LSTM"][i] for i in strange], [truth[i] for i in strange])
    print(f"{len(strange)} names have a word that was never met before; the LSTM divides {of_strange:.1%} of them")
    for kind, answer in said.items():
        of_names, of_letters = accuracy(answer, truth)
        print(f"{kind:>25}: {of_names:.1%} of the names held back, {of_letters:.1%} of their letters")
    print(f"picture in {options.out}")
    return 0 if options.quick or curves["LSTM"][-1] > max(curves["letters at their places"][-1] + 0.3, 0.75) else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
