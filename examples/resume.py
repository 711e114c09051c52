# %% [markdown]
# # Killed at any step, the same weights to the bit
#
# A convolutional network learns handwritten digits with everything that makes a run hard to repeat: images moved at random by two loader
# threads, dropout, batch normalisation, Adam, a learning rate that changes with every step. Once it runs undisturbed. Then the same run is
# killed (SIGKILL: no last words) at steps drawn at random, and started again each time: it goes on from its newest checkpoint, in the middle of
# a pass over the data. Both end with the same weights, which SHA-256 tells.
#
#     python examples/resume.py [--out resume.png] [--quick] [--device cpu]

# %%
from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from digits import accuracy, load  # the examples beside this one
from digits_cnn import make_model

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn
from tensorlib.data import DataLoader, Dataset, progress

SCRIPT = globals().get("__file__", "resume.py")  # a notebook lies beside it


# %% [markdown]
# ## Data
# An example moves by -1, 0 or 1 pixels in each direction, by random numbers of its own: they are the same whichever thread fetches it.


# %%
class Shifted(Dataset):
    """Images (1, 8, 8), padded and cut out again at a random place, and their labels."""

    def __init__(self, images: tl.Tensor, labels: tl.Tensor) -> None:
        self.images, self.labels = F.pad(images.reshape(-1, 1, 8, 8), (1, 1, 1, 1)), labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[tl.Tensor, tl.Tensor]:
        down, right = tl.randint(0, 3, (2,)).tolist()
        return self.images[index, :, down : down + 8, right : right + 8], self.labels[index]


# %% [markdown]
# ## The run
# It looks for a checkpoint first. A checkpoint has the model, the optimizer, the schedule, the place in the data, the state of the random
# generator, and the losses so far, for the picture.


# %%
def run(folder: Path, device: str, steps: int, every: int, width: int) -> None:
    """Train to the end, with a checkpoint after each `every` steps; says each step on standard output."""
    tl.manual_seed(0)
    tl.use_deterministic_algorithms(True)  # on a GPU; the CPU has no others
    images, labels, held_images, held_labels = load(0)
    model = make_model(width).to(device)
    optimizer = tl.optim.Adam(model.parameters(), lr=3e-3)
    schedule = tl.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    loader = DataLoader(Shifted(images, labels), batch_size=64, shuffle=True, num_workers=2)
    checkpoints = tl.io.Checkpoints(folder)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "loader": loader}
    found = checkpoints.restore(**parts) or {"step": 0, "losses": []}
    step, losses = found["step"], found["losses"]
    while step < steps:
        for x, y in loader:
            loss = F.cross_entropy(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            losses.append(loss.item())
            if step % every == 0 or step == steps:
                checkpoints.save(step, **parts, losses=losses)
            print(step, flush=True)
            if step == steps:
                break
    reached = accuracy(model, held_images.reshape(-1, 1, 8, 8).to(device), held_labels.to(device))
    tl.save({"losses": losses, "weights": fingerprint(model), "accuracy": reached}, folder / "result.safetensors")


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names and bytes of all weights and statistics."""
    sha = hashlib.sha256()
    for name, value in model.state_dict().items():
        sha.update(name.encode() + value.cpu().numpy().tobytes())
    return sha.hexdigest()


# %% [markdown]
# ## Kills
# Each run is a process of its own, as on a cluster whose jobs end when they please.


# %%
def start(folder: Path, settings: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, SCRIPT, "--folder", str(folder), *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(SCRIPT).resolve().parent)


def until(process: subprocess.Popen[str], last: int, bar: object) -> int:
    """Follow a run up to a step, and kill it there, or to its end. Returns the last step that it said."""
    step = 0
    for line in process.stdout or ():
        step = int(line)
        bar.n = step
        bar.refresh()
        if step == last:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the run ended with status {process.returncode}")
    return step


def both(folder: Path, steps: int, kills: list[int], settings: list[str]) -> tuple[dict, dict, list[tuple[int, int]]]:
    """The results of the undisturbed run and of the killed one; where it was killed, and from where it went on."""
    bar = progress((), "undisturbed", total=steps, unit="step")
    until(start(folder / "a", settings), -1, bar)
    bar.close()
    jumps = []
    bar = progress((), f"killed {len(kills)} times", total=steps, unit="step")
    for kill in kills:
        until(start(folder / "b", settings), kill, bar)
        jumps.append((kill, max(tl.io.Checkpoints(folder / "b").steps(), default=0)))
    until(start(folder / "b", settings), -1, bar)
    bar.close()
    results = [tl.load(folder / name / "result.safetensors") for name in "ab"]
    return results[0], results[1], jumps


# %% [markdown]
# ## Picture
# Both loss curves, one upon the other, and where the second run was killed.


# %%
def draw(path: str, whole: dict, killed: dict, jumps: list[tuple[int, int]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    steps = np.arange(1, len(whole["losses"]) + 1)
    axes.plot(steps, whole["losses"], color="tab:gray", alpha=0.5, linewidth=4, label="undisturbed")
    axes.plot(steps, killed["losses"], color="tab:blue", linewidth=1, label="killed and resumed")
    top = max(whole["losses"])
    for i, (kill, resumed) in enumerate(jumps):
        axes.axvline(kill, color="tab:red", linewidth=1, label=None if i else "killed here")
        axes.annotate("", (resumed, top * 0.7), (kill, top * 0.7), arrowprops={"arrowstyle": "->", "color": "tab:red"})
    axes.set(xlabel="step", ylabel="training loss")
    axes.set_title(f"weights of both: SHA-256 {whole['weights'][:12]} and {killed['weights'][:12]}")
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=110)


# %%
def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a training run, resume it, compare the weights.")
    parser.add_argument("--out", default="resume.png", help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="a small network, few steps, one kill")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the steps at which the run is killed; none: other ones each time"
    )
    parser.add_argument("--folder", type=Path, help="be the run itself, with its checkpoints in this folder")
    parser.add_argument("--device", default="cuda" if tl.cuda.is_available() else "cpu")
    options, _ = parser.parse_known_args()  # a notebook's kernel brings arguments of its own
    steps, every, width, kills = (30, 7, 4, 1) if options.quick else (300, 25, 16, 4)
    if options.folder:
        run(options.folder, options.device, steps, every, width)
        return 0

    places = sorted((np.random.default_rng(options.seed).choice(steps - 2, kills, replace=False) + 1).tolist())
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--device", options.device, *(["--quick"] if options.quick else [])]
        whole, killed, jumps = both(Path(folder), steps, places, settings)
    for kill, resumed in jumps:
        print(
            f"killed after step {kill}, went on from {f'the checkpoint of step {resumed}' if resumed else 'the beginning'}"
        )
    print(f"undisturbed: {whole['accuracy']:.2%} of held-back digits, weights {whole['weights']}")
    print(f"killed     : {killed['accuracy']:.2%} of held-back digits, weights {killed['weights']}")
    draw(options.out, whole, killed, jumps)
    same = whole["weights"] == killed["weights"] and whole["losses"] == killed["losses"]
    print(f"{'the same' if same else 'NOT the same'} weights and losses; picture in {options.out}")
    return 0 if same else 1


if __name__ == "__main__" and main() != 0:
    sys.exit(1)  # a notebook takes every exit for an error
