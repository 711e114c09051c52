# %% [markdown]
# # Handwritten digits
#
# 1,797 real images of 8x8 pixels (they ship inside scikit-learn), a multilayer perceptron, and a training loop written out: what tensorlib
# looks like in use. It takes a few seconds and reaches about 98% on images it has not seen.
#
#     python examples/digits.py [--out digits.png] [--quick] [--device cpu]

# %%
from __future__ import annotations

import argparse
import sys

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn

# %% [markdown]
# ## Data
# One image in four is held back, by a fixed shuffle. Pixels go from 0 to 16; a NumPy array becomes a tensor without a copy, or on
# the GPU with one.


# %%
def load(seed: int) -> tuple[tl.Tensor, tl.Tensor, tl.Tensor, tl.Tensor]:
    """Images (N, 64) in [0, 1] and labels (N,), for training and held back."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images = (digits.data[order] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    cut = len(order) * 3 // 4
    return tuple(tl.as_tensor(a) for a in (images[:cut], labels[:cut], images[cut:], labels[cut:]))


# %% [markdown]
# ## Model
# Dropout on the input acts as a mild augmentation: a few missing pixels do not change a digit.


# %%
def make_model(hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Dropout(0.1),
        nn.Linear(64, hidden),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )


def accuracy(model: nn.Module, images: tl.Tensor, labels: tl.Tensor) -> float:
    model.eval()
    with tl.no_grad():
        right = (model(images).argmax(1) == labels).float().mean().item()
    model.train()
    return right


# %% [markdown]
# ## Training
# Shuffle, cut into batches, forward, backward, step. The learning rate falls along a half cosine.


# %%
def train(
    model: nn.Module, data: tuple[tl.Tensor, ...], epochs: int, batch: int, lr: float
) -> list[tuple[float, float, float]]:
    """Per epoch: mean training loss, accuracy on the training images, accuracy on the held-back ones."""
    images, labels, held_images, held_labels = data
    optimizer = tl.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    history = []
    progress = tqdm(range(epochs), desc="digits", unit="epoch")
    for epoch in progress:
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        losses = []
        for rows in tl.randperm(len(labels)).split(batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(
            (float(np.mean(losses)), accuracy(model, images, labels), accuracy(model, held_images, held_labels))
        )
        progress.set_postfix(loss=f"{history[-1][0]:.4f}", held_back=f"{history[-1][2]:.1%}")
    return history


# %% [markdown]
# ## Picture
# The learning curve, and held-back images with what the model says: the wrong ones first, in red, with the right answer behind.


# %%
def draw(
    path: str, model: nn.Module, history: list[tuple[float, float, float]], images: tl.Tensor, labels: tl.Tensor
) -> None:
    import matplotlib.pyplot as plt

    model.eval()
    with tl.no_grad():
        said = model(images).argmax(1).cpu().numpy()
    truth = labels.cpu().numpy()
    shown = np.argsort(said == truth, kind="stable")[:40]

    figure = plt.figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    losses, seen, unseen = zip(*history, strict=True)
    axes = left.subplots()
    epochs = range(1, len(losses) + 1)
    axes.plot(epochs, losses, color="tab:gray", label="training loss")
    axes.set(xlabel="epoch", ylabel="cross-entropy", yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    percent = axes.twinx()
    percent.plot(epochs, seen, color="tab:blue", label="accuracy, training images")
    percent.plot(epochs, unseen, color="tab:orange", label=f"accuracy, held-back images ({unseen[-1]:.1%})")
    percent.set(ylabel="accuracy", ylim=(min(0.85, *seen, *unseen), 1.005))
    lines = axes.get_lines() + percent.get_lines()
    axes.legend(lines, [line.get_label() for line in lines], loc="center right")

    for cell, i in zip(right.subplots(5, 8).flat, shown, strict=False):
        cell.imshow(images[int(i)].cpu().numpy().reshape(8, 8), cmap="gray_r")
        wrong = said[i] != truth[i]
        cell.set_title(
            f"{said[i]}, is {truth[i]}" if wrong else str(said[i]), color="tab:red" if wrong else "black", fontsize=9
        )
        cell.set_axis_off()
    right.suptitle(f"{(said != truth).sum()} of {len(truth)} held-back images are read wrongly")
    figure.savefig(path, dpi=110)


# %%
def main() -> int:
    parser = argparse.ArgumentParser(description="Train a classifier of handwritten digits.")
    parser.add_argument("--out", default="digits.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="a few epochs only, without a demand on accuracy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if tl.cuda.is_available() else "cpu")
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)

    tl.manual_seed(options.seed)
    data = load(options.seed)
    model = make_model(hidden=128)
    print(model)
    history = train(model, data, epochs=3 if options.quick else 60, batch=64, lr=3e-3)
    draw(options.out, model, history, *data[2:])
    reached = history[-1][2]
    print(f"accuracy on {len(data[3])} held-back images: {reached:.2%}; picture in {options.out}")
    return 0 if options.quick or reached >= 0.97 else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
