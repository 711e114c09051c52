# %% [markdown]
# # One task, four networks
#
# The same 1,797 handwritten digits, read by a multilayer perceptron, a convolutional network, an LSTM that runs over the rows of the picture,
# and a small vision Transformer. All four are trained by the same lines, with the same optimizer, schedule and shifts; the table at the end
# has their accuracy on images they have not seen, their parameters and their time. It takes about a minute.
#
#     python examples/mlp_to_transformer.py [--out mlp_to_transformer.png] [--quick] [--device cpu]

# %%
from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field

import numpy as np
from digits import accuracy, load  # the examples beside this one
from digits_cnn import make_model as convolutional, shifted
from tqdm import tqdm

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn

# %% [markdown]
# ## Four models
# Letters: N images, T steps or patches, D features. Each takes (N, 1, 8, 8) and gives the scores (N, 10).


# %%
def perceptron(hidden: int = 128) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )  # fmt: skip


class RowLSTM(nn.Module):
    """Reads the picture row by row, from above and from below; the two last states know all of it."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, 10)

    def forward(self, images: tl.Tensor) -> tl.Tensor:
        _, (last, _) = self.lstm(images.squeeze(1))  # (N, T=8, D=8) -> (2, N, hidden)
        return self.head(last.transpose(0, 1).flatten(1))


class VisionTransformer(nn.Module):
    """Sixteen patches of 2x2 pixels, each told where it lies, look at one another; their mean is read."""

    def __init__(self, width: int = 48, layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.position = nn.Parameter(tl.randn(1, 16, width) * 0.5)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, images: tl.Tensor) -> tl.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # (N, T=16, D)
        return self.head(self.encoder(tokens + self.position).mean(dim=1))


MODELS = {
    "perceptron": perceptron,
    "convolutions": lambda: convolutional(width=16),
    "LSTM over rows": RowLSTM,
    "vision Transformer": VisionTransformer,
}

# %% [markdown]
# ## One training loop
# AdamW under a one-cycle schedule; every batch moved by a pixel at most.


# %%
@dataclass
class Run:
    """What one model did."""

    parameters: int
    seconds: float = 0.0  # of training, without the evaluations
    losses: list[float] = field(default_factory=list)  # an epoch's mean
    held_back: list[float] = field(default_factory=list)  # accuracy after each epoch


def train(name: str, model: nn.Module, data: tuple[tl.Tensor, ...], epochs: int, rng: np.random.Generator) -> Run:
    images, labels, held_images, held_labels = data
    run = Run(sum(p.numel() for p in model.parameters()))
    batch = 32
    optimizer = tl.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = tl.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, epochs=epochs, steps_per_epoch=-(-len(labels) // batch)
    )
    progress = tqdm(range(epochs), desc=f"{name:18}", unit="epoch")
    for _ in progress:
        model.train()
        losses, start = [], time.perf_counter()
        for rows in tl.randperm(len(labels)).split(batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(shifted(images[rows], rng)), labels[rows], label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        run.seconds += time.perf_counter() - start
        run.losses.append(float(np.mean(losses)))
        run.held_back.append(accuracy(model, held_images, held_labels))
        progress.set_postfix(loss=f"{run.losses[-1]:.4f}", held_back=f"{run.held_back[-1]:.1%}")
    return run


# %% [markdown]
# ## Side by side


# %%
def table(runs: dict[str, Run]) -> str:
    lines = [f"{'':18}  {'held back':>9}  {'parameters':>10}  {'training':>9}"]
    lines += [f"{name:18}  {r.held_back[-1]:9.2%}  {r.parameters:10,}  {r.seconds:7.1f} s" for name, r in runs.items()]
    return "\n".join(lines)


def draw(path: str, runs: dict[str, Run]) -> None:
    import matplotlib.pyplot as plt

    figure, (curves, sizes) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, run in runs.items():
        epochs = range(1, len(run.held_back) + 1)
        (line,) = curves.plot(epochs, [100 * (1 - a) for a in run.held_back], label=name)
        sizes.scatter(run.seconds, 100 * run.held_back[-1], s=run.parameters / 200, color=line.get_color(), alpha=0.6)
        sizes.annotate(f"{name}\n{run.parameters:,} parameters", (run.seconds, 100 * run.held_back[-1]),
                       xytext=(0, 14), textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    curves.set(xlabel="epoch", ylabel="errors on held-back images, %", yscale="log")
    curves.legend()
    sizes.set(xlabel="seconds of training", ylabel="accuracy on held-back images, %")
    sizes.margins(0.25)
    figure.savefig(path, dpi=110)


# %%
def main() -> int:
    parser = argparse.ArgumentParser(description="Four networks read the same handwritten digits.")
    parser.add_argument("--out", default="mlp_to_transformer.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="two epochs only, without a demand on accuracy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if tl.cuda.is_available() else "cpu")
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    tl.set_default_device(options.device)

    images, labels, held_images, held_labels = load(options.seed)
    data = images.reshape(-1, 1, 8, 8), labels, held_images.reshape(-1, 1, 8, 8), held_labels
    runs = {}
    for name, make in MODELS.items():
        tl.manual_seed(options.seed)
        rng = np.random.default_rng(options.seed)
        runs[name] = train(name, make(), data, epochs=2 if options.quick else 40, rng=rng)
    print(table(runs))
    draw(options.out, runs)
    print(f"picture in {options.out}")
    return 0 if options.quick or min(run.held_back[-1] for run in runs.values()) >= 0.94 else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
