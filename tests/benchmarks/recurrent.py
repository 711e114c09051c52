"""Recurrent networks: ragged batches as whole layers, cells in a Python loop, one graph per tree or sentence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import tensorlib as tl
from tests.benchmarks.harness import Figure, Race, Run

INPUT, HIDDEN, BATCH = 128, 256, 32


def lengths(low: int, high: int, count: int, seed: int = 1) -> list[int]:
    return [int(n) for n in np.random.default_rng(seed).integers(low, high + 1, count)]


def drawn(lib: Any, *shape: int, seed: int = 0) -> Any:
    return lib.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def layer(kind: str, sizes: list[int], **how: Any) -> Callable[[Any], Run]:
    """Forward and backward over a packed batch, or over a padded one where all lengths agree."""

    def make(lib: Any) -> Run:
        net = getattr(lib.nn, kind)(INPUT, HIDDEN, **how)
        if len(set(sizes)) == 1:
            x = drawn(lib, sizes[0], len(sizes), INPUT).requires_grad_()
        else:
            packed = lib.nn.utils.rnn.pack_sequence([drawn(lib, n, INPUT, seed=n) for n in sorted(sizes, reverse=True)])
            packed.data.requires_grad_()
            x = packed

        def run() -> None:
            out, _ = net(x)
            (out if len(set(sizes)) == 1 else out.data).sum().backward()
            net.zero_grad()

        return run

    return make


def cell_loop(lib: Any) -> Run:
    """50 steps of LSTMCell, batch 16, hidden 128: a training step without its optimizer's."""
    cell, xs = lib.nn.LSTMCell(128, 128), [drawn(lib, 16, 128, seed=t) for t in range(50)]

    def run() -> None:
        h = c = lib.zeros(16, 128)
        for x in xs:
            h, c = cell(x, (h, c))
        h.sum().backward()
        cell.zero_grad()

    return run


Tree = int | tuple[Any, Any]


def random_tree(leaves: int, rng: np.random.Generator) -> Tree:
    if leaves == 1:
        return int(rng.integers(1000))
    left = int(rng.integers(1, leaves))
    return random_tree(left, rng), random_tree(leaves - left, rng)


def tree_lstm(lib: Any, *, plain: bool = False) -> Run:
    """25 random binary trees of 10 to 40 leaves, hidden 100, one graph per tree, walked node by node; a loss at each root, one step of Adam.

    Where a library has a cell for such nodes it is used, unless `plain`.
    """
    rng = np.random.default_rng(0)
    trees = [random_tree(n, rng) for n in lengths(10, 40, 25)]
    nn, width = lib.nn, 100

    class Plain(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.leaf = nn.Linear(width, 3 * width)
            self.node = nn.Linear(2 * width, 5 * width)

        def forward(self, word: Any, children: Any = ()) -> Any:
            if not children:
                i, o, u = self.leaf(word).chunk(3)
                c = i.sigmoid() * u.tanh()
                return o.sigmoid() * c.tanh(), c
            (h_left, c_left), (h_right, c_right) = children
            i, f_left, f_right, o, u = self.node(lib.cat([h_left, h_right])).chunk(5)
            c = i.sigmoid() * u.tanh() + f_left.sigmoid() * c_left + f_right.sigmoid() * c_right
            return o.sigmoid() * c.tanh(), c

    words, top = nn.Embedding(1000, width), nn.Linear(width, 5)
    cell = Plain() if plain or not hasattr(nn, "NaryTreeLSTMCell") else nn.NaryTreeLSTMCell(width, width, arity=2)

    def state(tree: Tree) -> Any:
        return cell(words(ids[tree])) if isinstance(tree, int) else cell(None, (state(tree[0]), state(tree[1])))

    ids = [lib.tensor(i) for i in range(1000)]
    optimizer = lib.optim.Adam([*words.parameters(), *cell.parameters(), *top.parameters()])
    labels = [lib.tensor(int(rng.integers(5))) for _ in trees]

    def run() -> None:
        optimizer.zero_grad()
        loss = sum(
            lib.nn.functional.cross_entropy(top(state(tree)[0]), y) for tree, y in zip(trees, labels, strict=True)
        )
        loss.backward()
        optimizer.step()

    return run


def tagger(lib: Any) -> Run:
    """A BiLSTM tagger: embedding 64, hidden 2 x 50, MLP 32, 20 tags; 10 sentences of 5 to 40 words a step, each a batch of one."""
    nn, rng = lib.nn, np.random.default_rng(0)
    words, lstm = nn.Embedding(1000, 64), nn.LSTM(64, 50, bidirectional=True)
    top = nn.Sequential(nn.Linear(100, 32), nn.Tanh(), nn.Linear(32, 20))
    parameters = [*words.parameters(), *lstm.parameters(), *top.parameters()]
    optimizer = lib.optim.Adam(parameters)
    sizes = lengths(5, 40, 10)
    sentences = [lib.from_numpy(rng.integers(0, 1000, n)) for n in sizes]
    tags = [lib.from_numpy(rng.integers(0, 20, n)) for n in sizes]

    def run() -> None:
        optimizer.zero_grad()
        loss = sum(
            lib.nn.functional.cross_entropy(top(lstm(words(s))[0]), t) for s, t in zip(sentences, tags, strict=True)
        )
        loss.backward()
        optimizer.step()

    return run


def crf_loop(torch: Any, emissions: Any, tags: Any, mask: Any, start: Any, end: Any, transitions: Any) -> Any:
    """The log-likelihood as it is usually written where there is no such layer."""
    rows, last = torch.arange(tags.shape[1]), mask.sum(0) - 1
    score, sums = start[tags[0]] + emissions[0, rows, tags[0]], start + emissions[0]
    for x, y, before, here in zip(emissions[1:], tags[1:], tags, mask[1:], strict=False):
        score = score + (transitions[before, y] + x[rows, y]) * here
        joined = torch.logsumexp(sums.unsqueeze(2) + transitions, 1) + x
        sums = torch.where(here.unsqueeze(1), joined, sums)
    return (score + end[tags[last, rows]] - torch.logsumexp(sums + end, 1)).sum()


def crf(lib: Any) -> Run:
    """The log-likelihood of 32 sequences of 10 to 50 steps, 20 tags, and its gradients; in PyTorch, which has no such layer, a loop over steps."""
    sizes, tags = np.array([50, *lengths(10, 50, 31)]), 20
    emissions = drawn(lib, 50, 32, tags).requires_grad_()
    chosen = lib.from_numpy(np.random.default_rng(0).integers(0, tags, (50, 32)))
    mask = lib.from_numpy(np.arange(50)[:, None] < sizes)
    if lib is tl:
        field = tl.nn.CRF(tags)
        parameters = list(field.parameters())
    else:
        parameters = [lib.nn.Parameter(drawn(lib, *shape)) for shape in ((tags,), (tags,), (tags, tags))]

    def run() -> None:
        total = field(emissions, chosen, mask) if lib is tl else crf_loop(lib, emissions, chosen, mask, *parameters)
        total.backward()
        for t in (emissions, *parameters):
            t.grad = None

    return run


def long_beside_short(rounds: int) -> float:
    """Time of lengths {4000, 1, ... 1}, 32 sequences, over that of the long one alone."""
    runs = [layer("LSTM", sizes)(tl) for sizes in ([4000, *[1] * 31], [4000])]
    seen: list[list[float]] = [[], []]
    for _ in range(rounds):
        for run, times in zip(runs, seen, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return median(seen[0]) / median(seen[1])


def workloads() -> Iterator[Race | Figure]:
    ragged = lengths(5, 100, BATCH)
    for kind in ("LSTM", "GRU"):
        yield Race(f"{kind}, packed, 5 to 100 steps", layer(kind, ragged), target=0.35)
        yield Race(
            f"{kind}, packed, 2 layers, bidirectional",
            layer(kind, ragged, num_layers=2, bidirectional=True),
            target=0.35,
        )
        yield Race(f"{kind}, 32 of 50 steps", layer(kind, [50] * BATCH), target=1.05)
    yield Figure("LSTM, 4000 steps beside 31 sequences of 1: over the long one alone", long_beside_short, at_most=1.3)
    yield Race("LSTMCell in a loop of 50 steps", cell_loop, target=0.45)
    yield Race("TreeLSTM, 25 trees", tree_lstm, target=0.15)
    yield Race("TreeLSTM, 25 trees, plain operations", partial(tree_lstm, plain=True))
    yield Race("BiLSTM tagger, 10 sentences", tagger, target=0.4)
    yield Race("CRF, 32 sequences of 10 to 50 steps, 20 tags", crf, target=0.3)
