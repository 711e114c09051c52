# %% [markdown]
# # Learning from few examples: a network that has seen other digits
#
# A convolutional network learns the digits 0 to 4 from all images there are of them. Its features are saved, loaded into a network with a new
# head, and used for the digits 5 to 9, of which only a few images have a label: with the features frozen, then trained on a little further. The
# same network from scratch, on the same few images, is what this must beat. With one or two images of each digit it does, by about five points
# of accuracy; with five, digits are easy enough that there is nothing to gain. It takes about two minutes.
#
#     python examples/finetune.py [--out finetune.png] [--quick] [--device cpu]

# %%
from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from digits import accuracy, load  # the examples beside this one
from digits_cnn import shifted

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn
from tensorlib.data import DataLoader, TensorDataset, progress

FEW = (1, 2, 3, 5, 10)  # labelled images of each new digit
WAYS = ("from scratch", "features frozen", "features trained further")


# %% [markdown]
# ## Model
# Letters: N images, C classes, D features. The features are what is saved. The head has one direction for each class, and a class scores by the
# cosine between an image's features and its direction: a good head can be made of a single image, where weights of any length would have to
# be learned.


# %%
class Network(nn.Module):
    """(N, 1, 8, 8) -> (N, C)"""

    def __init__(self, width: int, classes: int = 5) -> None:
        super().__init__()

        def convolution(c: int, k: int) -> list[nn.Module]:
            return [nn.Conv2d(c, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU()]

        self.features = nn.Sequential(
            *convolution(1, width),
            *convolution(width, width),
            nn.MaxPool2d(2),
            *convolution(width, 2 * width),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width * 2 * 2, classes, bias=False)

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return 10 * F.linear(F.normalize(self.features(x)), F.normalize(self.head.weight))


# %% [markdown]
# ## Training
# The same loop for all. Frozen features stay in eval mode: their batch normalisation keeps the statistics that it learned.


# %%
def train(model: Network, data: tuple[tl.Tensor, tl.Tensor], steps: int, lr: float, bar: str | None = None) -> None:
    loader = DataLoader(TensorDataset(*data), batch_size=64, shuffle=True)
    rng = np.random.default_rng(0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = tl.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    schedule = tl.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = (batch for _ in range(steps) for batch in loader)
    shown = progress(islice(batches, steps), bar, total=steps, disable=bar is None)
    for images, labels in shown:
        loss = F.cross_entropy(model(shifted(images, rng)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        shown.report(loss=loss)


def turned(images: tl.Tensor, labels: tl.Tensor) -> tuple[tl.Tensor, tl.Tensor]:
    """Every digit in its eight positions, turned and mirrored, as forty classes: features that tell those apart have seen more than five shapes."""
    positions = [tl.rot90(x, k, (2, 3)) for x in (images, images.flip(3)) for k in range(4)]
    return tl.cat(positions), tl.cat([labels + 5 * k for k in range(8)])


def from_scratch(width: int, few: tuple[tl.Tensor, tl.Tensor], steps: int) -> Network:
    model = Network(width)
    train(model, few, 2 * steps, lr=3e-3)
    return model


def with_features_of(saved: Path, width: int, few: tuple[tl.Tensor, tl.Tensor], steps: int) -> Network:
    """Frozen features under a new head, which begins with the mean features of each digit."""
    model = Network(width)
    model.features.load_state_dict(tl.load(saved)["features"])
    model.features.requires_grad_(False)
    model.features.eval()
    images, labels = few
    with tl.no_grad():
        found = F.normalize(model.features(images))
        model.head.weight.copy_(tl.stack([found[labels == k].mean(0) for k in range(5)]))
    train(model, few, steps, lr=1e-2)
    return model


def train_further(model: Network, few: tuple[tl.Tensor, tl.Tensor], steps: int) -> None:
    model.features.requires_grad_(True)
    model.train()
    train(model, few, steps, lr=1e-3)


# %% [markdown]
# ## Picture
# Accuracy over the number of labelled images: the mean of the trials and their range.


# %%
def draw(path: str, reached: dict[str, np.ndarray], few: tuple[int, ...], shown: tl.Tensor) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(2, 1), layout="constrained")
    for way, color in zip(WAYS, ("tab:gray", "tab:blue", "tab:orange"), strict=True):
        values = reached[way]
        left.plot(few, values.mean(1), "o-", color=color, label=way)
        left.fill_between(few, values.min(1), values.max(1), color=color, alpha=0.15, linewidth=0)
    left.set(
        xscale="log", xticks=few, xlabel="labelled images of each new digit", ylabel="accuracy on held-back images"
    )
    left.set_xticklabels([str(n) for n in few])
    left.minorticks_off()
    left.set_title("digits 5 to 9, after 0 to 4 were learned")
    left.grid(alpha=0.3)
    left.legend(loc="lower right")
    framed = F.pad(shown[:, 0], (1, 1, 1, 1)).cpu().numpy()
    right.imshow(np.block([[framed[5 * row + k] for k in range(5)] for row in range(5)]), cmap="gray_r")
    right.set_title("five images of each new digit")
    right.set_axis_off()
    figure.savefig(path, dpi=110)


# %%
def main() -> int:
    parser = argparse.ArgumentParser(description="Finetune a network on digits that it has not seen.")
    parser.add_argument("--out", default="finetune.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="a few steps only, without a demand on accuracy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if tl.cuda.is_available() else "cpu")
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)
    few, trials, steps, width = ((1, 5), 1, 10, 8) if options.quick else (FEW, 8, 100, 32)

    tl.manual_seed(options.seed)
    images, labels, held_images, held_labels = load(options.seed)
    images, held_images = images.reshape(-1, 1, 8, 8), held_images.reshape(-1, 1, 8, 8)
    old, new = labels < 5, labels >= 5
    held_old, held_new = held_labels < 5, held_labels >= 5

    model = Network(width, 40)
    train(model, turned(images[old], labels[old]), 10 * steps, lr=3e-3, bar="digits 0 to 4")
    reached_before = accuracy(model, *turned(held_images[held_old], held_labels[held_old]))
    print(f"digits 0 to 4 in eight positions, 40 classes: {reached_before:.1%} of held-back images")

    reached = {way: np.zeros((len(few), trials)) for way in WAYS}
    new_images, new_labels = images[new], labels[new] - 5
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "features.safetensors")
        tl.save({"features": model.features.state_dict(), "digits": [0, 1, 2, 3, 4]}, saved)
        for trial in progress(range(trials), "digits 5 to 9", unit="trial"):
            rng = np.random.default_rng(options.seed + trial)
            by_digit = [rng.permutation(np.flatnonzero(new_labels.cpu().numpy() == k)) for k in range(5)]
            for i, n in enumerate(few):
                rows = tl.as_tensor(np.concatenate([of_one[:n] for of_one in by_digit]))
                labelled = new_images[rows], new_labels[rows]
                asked = held_images[held_new], held_labels[held_new] - 5
                reached[WAYS[0]][i, trial] = accuracy(from_scratch(width, labelled, steps), *asked)
                model = with_features_of(saved, width, labelled, steps)
                reached[WAYS[1]][i, trial] = accuracy(model, *asked)
                train_further(model, labelled, steps)
                reached[WAYS[2]][i, trial] = accuracy(model, *asked)

    print(f"\ndigits 5 to 9, mean of {trials} trials (worst to best), by labelled images of each:")
    for way in WAYS:
        cells = [
            f"{n}: {v.mean():.1%} ({v.min():.0%} to {v.max():.0%})" for n, v in zip(few, reached[way], strict=True)
        ]
        print(f"{way:>24}   " + "   ".join(cells))
    shown = tl.as_tensor(np.stack([np.flatnonzero(new_labels.cpu().numpy() == k)[:5] for k in range(5)], 1).reshape(-1))
    draw(options.out, reached, few, new_images[shown])
    print(f"picture in {options.out}")
    scratch, frozen = (reached[way].mean(1)[:2] for way in WAYS[:2])
    return 0 if options.quick or (frozen > scratch).all() else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
