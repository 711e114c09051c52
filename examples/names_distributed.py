# %% [markdown]
# # The language of names, on any number of processes
#
# The LSTM of `language_of_names.py`, which marks where words begin in `getdefaultencoding`, trained by as many processes as there are. Names have
# different lengths, so the ranks' batches have different numbers of letters, and the mean of the ranks' mean losses would be wrong: a letter would
# count for less in the batch that has more of them. `global_mean` takes each rank's sum and count instead.
#
#     python examples/names_distributed.py [--out names_distributed.png] [--quick] [--device cpu]
#     mpirun -n 2 python examples/names_distributed.py

# %%
from __future__ import annotations

import argparse
import sys

import numpy as np
from char_gpt import rate
from language_of_names import ASKED, Example, Reader, accuracy, answers, beginnings, divided, draw, letters_of, load
from tqdm import tqdm

import tensorlib as tl
import tensorlib.distributed as dist
import tensorlib.nn.functional as F
from tensorlib import nn
from tensorlib.nn.utils.rnn import packed_collate

# %% [markdown]
# ## Names held back
# Each rank divides its part of them.


# %%
def accuracy_of_all(model: nn.Module, held: list[Example]) -> float:
    """Names divided without a mistake."""
    mine = [held[i] for i in dist.DistributedSampler(held, shuffle=False, even=False)]
    metrics = dist.Metrics("right")
    if mine:
        metrics.update(len(mine), right=accuracy(answers(model, mine), mine)[0])
    return metrics.compute()["right"]


# %% [markdown]
# ## Training
# The batches of names of about one length are drawn alike on all ranks, and dealt out: a batch to each in turn.


# %%
def train(model: Reader, examples: list[Example], held: list[Example], epochs: int, lr: float) -> list[float]:
    """The accuracy over the names held back, after each pass through the others."""
    parallel = dist.DistributedDataParallel(model)
    batches = tl.data.BucketBatchSampler(
        [len(begins) for _, begins in examples], batch_size=max(1, 32 // dist.size()), seed=0
    )
    loader = tl.data.DataLoader(
        examples, batch_sampler=dist.DistributedBatchSampler(batches), collate_fn=packed_collate
    )
    optimizer = tl.optim.AdamW(parallel.parameters(), lr=lr, weight_decay=0.02)
    reached: list[float] = []
    step, steps = 0, epochs * len(loader)
    metrics = dist.Metrics("loss")
    progress = tqdm(total=steps, desc="names", unit="step", disable=dist.rank() != 0)
    for _ in range(epochs):
        metrics.reset()
        for read, begins in loader:
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps, warmup=steps // 20, most=lr)
            optimizer.zero_grad()
            read, begins = read.to(tl.get_default_device()), begins.to(tl.get_default_device())
            total = F.cross_entropy(parallel(read), begins, reduction="sum")
            asked = (begins.data != -100).sum()
            loss = parallel.global_mean(total, asked)
            loss.backward()
            nn.utils.clip_grad_norm_(parallel.parameters(), 1.0)
            optimizer.step()
            metrics.update(asked, loss=total / asked)
            metrics.count(len(begins.data))
            progress.update()
        found = metrics.compute()
        reached.append(accuracy_of_all(model, held))
        progress.set_postfix(
            loss=f"{found['loss']:.4f}",
            held_back=f"{reached[-1]:.1%}",
            letters_per_s=f"{found['samples_per_second']:.0f}",
        )
    progress.close()
    return reached


# %%
@dist.rank_zero_only
def report(path: str, model: Reader, reached: list[float]) -> None:
    asked = answers(model, [(letters_of((name,)), []) for name in ASKED])
    draw(path, {f"LSTM, {dist.size()} rank(s)": reached}, asked)
    print("names that nobody has divided:", ", ".join(map(divided, ASKED, asked)))
    print(f"{reached[-1]:.1%} of the names held back are divided without a mistake; picture in {path}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Train an LSTM to divide names into words, on any number of processes."
    )
    parser.add_argument("--out", default="names_distributed.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="a few names only, without a demand on accuracy")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=str(dist.local_device()))
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)

    dist.manual_seed(options.seed)
    names, held = load(np.random.default_rng(options.seed))
    if options.quick:
        names, held = names[:400], held[:100]
    learnt, tested = ([(letters_of(name), beginnings(name)) for name in part] for part in (names, held))
    model = Reader(width=96)
    reached = train(model, learnt, tested, epochs=2 if options.quick else options.epochs, lr=4e-3)
    report(options.out, model, reached)
    return 0 if options.quick or reached[-1] > 0.75 else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
