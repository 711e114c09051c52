# %% [markdown]
# # Handwritten digits, on any number of processes
#
# The network and the images of `digits.py`, trained by as many processes as there are, each with its part of every batch: as one process, as
# several on this machine, or on several machines. Nothing in the script says how many. Compare it with `digits.py`: a dozen lines know of ranks.
#
#     python examples/digits_distributed.py [--out digits_distributed.png] [--quick] [--checkpoints FOLDER] [--device cpu]
#     mpirun -n 2 python examples/digits_distributed.py
#     mpirun -n 8 -f hosts python examples/digits_distributed.py          (MPICH; --hostfile with Open MPI)

# %%
from __future__ import annotations

import argparse
import sys

from digits import draw, load, make_model  # the example beside this one
from tqdm import tqdm

import tensorlib as tl
import tensorlib.distributed as dist
import tensorlib.nn.functional as F
from tensorlib import nn

# %% [markdown]
# ## Accuracy
# Each rank answers its part of the images, and `Metrics` adds up what they found: exact, since `even=False` gives every image to one rank alone.
# (To train, all ranks need as many batches, and the sampler repeats an image or two.)


# %%
def accuracy(model: nn.Module, images: tl.Tensor, labels: tl.Tensor) -> float:
    model.eval()
    metrics = dist.Metrics("right")
    mine = tl.tensor(list(dist.DistributedSampler(images, shuffle=False, even=False)), dtype=tl.int64)
    with tl.no_grad():
        metrics.update(len(mine), right=(model(images[mine]).argmax(1) == labels[mine]).float().mean())
    model.train()
    return metrics.compute()["right"]


# %% [markdown]
# ## Training
# `DistributedDataParallel` sees to it that all ranks begin with the same weights and step with the same gradients, the mean of what each found in
# its part. `batch` is what all ranks take together, so the number of ranks changes the speed, not the course of things. With checkpoints, a run that
# was ended goes on after the last epoch that all ranks had saved.


# %%
def train(
    model: nn.Module, data: tuple[tl.Tensor, ...], epochs: int, batch: int, lr: float, folder: str | None
) -> tuple[list[tuple[float, float, float]], float]:
    """Per epoch: mean training loss, accuracy on the training images, accuracy on the held-back ones. And images per second, of all ranks."""
    images, labels, held_images, held_labels = data
    parallel = dist.DistributedDataParallel(model)
    sampler = dist.DistributedSampler(images)
    loader = tl.data.DataLoader(
        tl.data.TensorDataset(images, labels), max(1, batch // dist.size()), sampler=sampler, drop_last=True
    )
    optimizer = tl.optim.AdamW(parallel.parameters(), lr=lr, weight_decay=0.01)
    schedule = tl.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    metrics, history, speeds = dist.Metrics("loss"), [], [0.0]
    checkpoints = None if folder is None else dist.Checkpoints(folder)
    state, own = {"model": model, "optimizer": optimizer, "schedule": schedule}, {"loader": loader}
    if checkpoints is not None and (found := checkpoints.restore(**state, per_rank=own)) is not None:
        history = found["history"]
    first = len(history)
    progress = tqdm(range(first, epochs), "digits", epochs, initial=first, unit="epoch", disable=dist.rank() != 0)
    for epoch in progress:
        sampler.set_epoch(epoch)
        metrics.reset()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(parallel(x), y)
            loss.backward()
            optimizer.step()
            metrics.update(len(y), loss=loss)
            metrics.count(len(y))
        schedule.step()
        found = metrics.compute()
        history.append((found["loss"], accuracy(model, images, labels), accuracy(model, held_images, held_labels)))
        speeds.append(found["samples_per_second"])
        progress.set_postfix(
            loss=f"{found['loss']:.4f}", held_back=f"{history[-1][2]:.1%}", images_per_s=f"{speeds[-1]:.0f}"
        )
        if checkpoints is not None:
            checkpoints.save(epoch + 1, **state, history=history, per_rank=own)
    return history, max(speeds)


# %%
@dist.rank_zero_only
def report(
    path: str, model: nn.Module, history: list[tuple[float, float, float]], speed: float, held: tuple[tl.Tensor, ...]
) -> None:
    draw(path, model, history, *held)
    where = f"{dist.size()} rank(s) on {dist.node_count()} node(s)"
    print(
        f"{where}, {speed:.0f} images/s: accuracy on {len(held[1])} held-back images: {history[-1][2]:.2%}; picture in {path}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a classifier of handwritten digits on any number of processes.")
    parser.add_argument("--out", default="digits_distributed.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="a few epochs only, without a demand on accuracy")
    parser.add_argument(
        "--checkpoints", metavar="FOLDER", help="save here after each epoch, and go on from what is there"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=str(dist.local_device()))
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)

    dist.manual_seed(options.seed)  # another stream on each rank: they drop different pixels
    data = load(options.seed)
    model = make_model(hidden=128)
    epochs = 3 if options.quick else 60
    history, speed = train(model, data, epochs, batch=64, lr=3e-3, folder=options.checkpoints)
    report(options.out, model, history, speed, data[2:])
    return 0 if options.quick or history[-1][2] >= 0.97 else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
