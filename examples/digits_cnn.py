# %% [markdown]
# # Handwritten digits, read by a convolutional network
#
# The 1,797 images of `digits.py` again, now seen as pictures: four convolutions with batch normalisation, a pooling between them, and images
# that are shifted by a pixel while it learns. It takes about a minute and reaches about 99% on images it has not seen.
#
#     python examples/digits_cnn.py [--out digits_cnn.png] [--quick] [--device cpu]

# %%
from __future__ import annotations

import argparse
import sys

import numpy as np
from digits import accuracy, draw, load  # the example beside this one
from tqdm import tqdm

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn

# %% [markdown]
# ## Model
# Letters: N images, C channels. Every convolution keeps the size (3x3, padding 1); the pooling halves it, from 8x8 to 4x4.


# %%
def make_model(width: int) -> nn.Module:
    """(N, 1, 8, 8) -> (N, 10)"""

    def convolution(c: int, k: int) -> list[nn.Module]:
        return [nn.Conv2d(c, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU()]

    return nn.Sequential(
        *convolution(1, width),
        *convolution(width, width),
        nn.MaxPool2d(2),
        *convolution(width, 2 * width),
        *convolution(2 * width, 2 * width),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(2 * width * 4 * 4, 10),
    )


# %% [markdown]
# ## Training
# A digit moved by a pixel is the same digit: each batch is cut out of a frame of zeros at a random place. The learning rate falls along
# a half cosine.


# %%
def shifted(images: tl.Tensor, rng: np.random.Generator) -> tl.Tensor:
    """The images, moved by -1, 0 or 1 pixels in each direction."""
    down, right = rng.integers(0, 3, 2)
    return F.pad(images, (1, 1, 1, 1))[:, :, down : down + images.shape[2], right : right + images.shape[3]]


def train(
    model: nn.Module, data: tuple[tl.Tensor, ...], epochs: int, batch: int, lr: float, rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Per epoch: mean training loss, accuracy on the training images, accuracy on the held-back ones."""
    images, labels, held_images, held_labels = data
    optimizer = tl.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = tl.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    history = []
    progress = tqdm(range(epochs), desc="digits", unit="epoch")
    for _ in progress:
        losses = []
        for rows in tl.randperm(len(labels)).split(batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(shifted(images[rows], rng)), labels[rows], label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        seen, unseen = accuracy(model, images, labels), accuracy(model, held_images, held_labels)
        history.append((float(np.mean(losses)), seen, unseen))
        progress.set_postfix(loss=f"{history[-1][0]:.4f}", held_back=f"{unseen:.1%}")
    return history


# %%
def main() -> int:
    parser = argparse.ArgumentParser(description="Train a convolutional classifier of handwritten digits.")
    parser.add_argument("--out", default="digits_cnn.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="two epochs only, without a demand on accuracy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if tl.cuda.is_available() else "cpu")
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)

    tl.manual_seed(options.seed)
    images, labels, held_images, held_labels = load(options.seed)
    data = images.reshape(-1, 1, 8, 8), labels, held_images.reshape(-1, 1, 8, 8), held_labels
    model = make_model(width=32)
    print(model)
    rng = np.random.default_rng(options.seed)
    history = train(model, data, epochs=2 if options.quick else 40, batch=64, lr=3e-3, rng=rng)
    draw(options.out, model, history, *data[2:])
    reached = history[-1][2]
    print(f"accuracy on {len(held_labels)} held-back images: {reached:.2%}; picture in {options.out}")
    return 0 if options.quick or reached >= 0.985 else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
