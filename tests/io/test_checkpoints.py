"""Checkpoints of a run: going on gives the same bits, the newest intact one counts, and neither damage nor a killed process loses more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tensorlib as tl
from tests.sources import ROOT


class Run:
    """A training run of everything that has a state: dropout, batch statistics, Adam, a schedule, a shuffling loader left in mid-epoch."""

    def __init__(self, seed: int) -> None:
        tl.manual_seed(seed)
        x = tl.linspace(-1, 1, 40).reshape(20, 2)
        self.model = tl.nn.Sequential(tl.nn.Linear(2, 8), tl.nn.BatchNorm1d(8), tl.nn.Dropout(0.5), tl.nn.Linear(8, 1))
        self.optimizer = tl.optim.Adam(self.model.parameters(), lr=0.05)
        self.scheduler = tl.optim.lr_scheduler.MultiStepLR(self.optimizer, [4, 9], gamma=0.5)
        self.loader = tl.data.DataLoader(tl.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size=3, shuffle=True)
        self.batches = iter(self.loader)
        self.step = 0

    def states(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "loader": self.loader}

    def train(self, until: int) -> None:
        while self.step < until:
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                continue
            x, y = batch
            loss = tl.nn.functional.mse_loss(self.model(x + 0.1 * tl.randn(x.shape)), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.step += 1

    def bits(self) -> str:
        return repr({name: t.numpy().tobytes() for name, t in self.model.state_dict().items()})


@pytest.mark.parametrize("step", [1, 5, 7, 8, 12])
def test_going_on_gives_the_same_bits(step: int, tmp_path: Path) -> None:
    whole = Run(seed=0)
    whole.train(20)
    first = Run(seed=0)
    first.train(step)
    tl.io.Checkpoints(tmp_path).save(step, **first.states(), note="half", losses=[0.5])
    second = Run(seed=1)
    second.train(3)
    rest = tl.io.Checkpoints(tmp_path).restore(**second.states())
    assert rest == {"step": step, "note": "half", "losses": [0.5]}
    second.step, second.batches = step, iter(second.loader)
    second.train(20)
    assert second.bits() == whole.bits() and second.bits() != first.bits()
    assert second.scheduler.get_last_lr() == whole.scheduler.get_last_lr()


def test_the_newest_stay_and_the_rest_goes(tmp_path: Path) -> None:
    checkpoints = tl.io.Checkpoints(tmp_path / "new" / "folder", keep=2)
    assert checkpoints.load() is None and checkpoints.restore() is None
    assert checkpoints.steps() == [] and checkpoints.latest() is None
    (tmp_path / "new" / "folder").mkdir(parents=True)
    (tmp_path / "new" / "folder" / "notes.txt").write_text("not ours")
    for step in (10, 20, 30):
        path = checkpoints.save(step, x=step)
        assert checkpoints.latest() == path
    assert checkpoints.steps() == [20, 30]
    found = checkpoints.load()
    assert found is not None and found["x"] == 30
    assert checkpoints.load(step=20)["x"] == 20  # type: ignore[index]
    assert (checkpoints.folder / "notes.txt").exists()
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 10; it has \[20, 30\]"):
        checkpoints.load(step=10)
    # A run that went back goes on from where it went back to: the newest is what was saved last, not the highest step.
    checkpoints.save(21, x="again")
    assert checkpoints.load()["x"] == "again"  # type: ignore[index]
    assert checkpoints.steps() == [30, 21]
    every = tl.io.Checkpoints(tmp_path / "new" / "folder", keep=None)
    every.save(22)
    assert every.steps() == [30, 21, 22]


def test_wrong_arguments(tmp_path: Path) -> None:
    for keep in (0, True, 1.5):
        with pytest.raises(ValueError, match="keep must be an integer of at least 1, or None"):
            tl.io.Checkpoints(tmp_path, keep=keep)  # type: ignore[arg-type]
    checkpoints = tl.io.Checkpoints(tmp_path)
    for step in (-1, 1.0, True):
        with pytest.raises(ValueError, match="step must be an integer of at least 0"):
            checkpoints.save(step)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\['rng_state'\] are saved anyway"):
        checkpoints.save(1, rng_state=0)
    with pytest.raises(TypeError, match=r"the object\['x'\] is a set"):
        checkpoints.save(1, x={1})
    assert checkpoints.steps() == []


def test_a_missing_part_is_named_and_changes_nothing(tmp_path: Path) -> None:
    checkpoints = tl.io.Checkpoints(tmp_path)
    checkpoints.save(1, model=tl.nn.Linear(1, 1))
    model, state = tl.nn.Linear(1, 1), tl.get_rng_state()
    weight = model.weight.item()
    with pytest.raises(
        KeyError, match=r"the checkpoint of step 1 has no \['optimizer'\], it has \['model', 'rng_state', 'step'\]"
    ):
        checkpoints.restore(model=model, optimizer=tl.optim.SGD(model.parameters()))
    assert model.weight.item() == weight and bool((state == tl.get_rng_state()).all())


DAMAGE = {
    "cut": (lambda content: content[:-7], "cut off"),
    "empty": (lambda content: b"", "0 bytes"),
    "bit": (lambda content: content[:-3] + bytes([content[-3] ^ 4]) + content[-2:], "does not have its checksum"),
    "zeroed": (lambda content: bytes(len(content)), "does not begin with '{'"),
    "unsummed": (lambda content: content.replace(b"crc32", b"crc23"), "it has no checksums"),
    "setting": (lambda content: content.replace(b"12345", b"12346"), "the header does not have its checksum"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_broken_one_is_passed_over_with_a_warning(damage: Any, words: str, tmp_path: Path) -> None:
    checkpoints = tl.io.Checkpoints(tmp_path)
    checkpoints.save(1, x=tl.ones(3), lr=12345)
    newest = checkpoints.save(2, x=tl.zeros(3), lr=12345)
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(
        UserWarning, match=f"broken checkpoint is passed over for checkpoint-000001-step-1.*{newest.name}.*{words}"
    ):
        assert checkpoints.load()["step"] == 1  # type: ignore[index]
    older = tmp_path / "checkpoint-000001-step-1.safetensors"
    older.write_bytes(b"")
    with pytest.raises(tl.CheckpointError, match=rf"(?s)no checkpoint is intact:.*{words}.*0 bytes"):
        checkpoints.load()
    assert checkpoints.save(3).name == "checkpoint-000003-step-3.safetensors"
    assert checkpoints.load()["step"] == 3  # type: ignore[index]


def test_files_of_others_under_such_a_name_are_not_taken(tmp_path: Path) -> None:
    tl.save({"x": 1}, tmp_path / "checkpoint-000001-step-1.safetensors", checksums=True)
    with pytest.raises(tl.CheckpointError, match="no checkpoint of a training run"):
        tl.io.Checkpoints(tmp_path).load()


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    """Of the whole file: names, shapes and plain values have the header's checksum."""
    checkpoints = tl.io.Checkpoints(tmp_path)
    path = checkpoints.save(3, w=tl.arange(3, dtype=tl.float32), lr=0.1)
    content = bytearray(path.read_bytes())
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(content)):
            file.seek(bit // 8)
            file.write(bytes([content[bit // 8] ^ 1 << bit % 8]))
            with pytest.raises(tl.CheckpointError, match="no checkpoint is intact"):
                checkpoints.load()
            file.seek(bit // 8)
            file.write(content[bit // 8 : bit // 8 + 1])
    assert checkpoints.load()["lr"] == 0.1  # type: ignore[index]


# ---- killed while it saves ----

# One process forks another that saves without end and reports each step; it kills it at a random moment, and looks at what is there.
KILLING = """
import os, random, signal, sys, time
import tensorlib as tl

folder, times, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
checkpoints = tl.io.Checkpoints(folder, keep=2)
rng, step, unfinished = random.Random(seed), 0, 0

def save_without_end(step, report):
    while True:
        step += 1
        checkpoints.save(step, x=tl.full((50_000,), float(step)), y=[tl.full((step % 7 + 1,), step)])
        os.write(report, b"%d\\n" % step)

for turn in range(times):
    reports, report = os.pipe()
    child = os.fork()
    if child == 0:
        save_without_end(step, report)
    os.close(report)
    with open(reports) as lines:
        done = int(lines.readline()) if turn % 2 == 0 else step
        time.sleep(rng.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done = max(map(int, lines), default=done)
    unfinished += any(name.startswith(".") for name in os.listdir(folder))
    found = checkpoints.load()
    step = found["step"] if found else 0
    assert step in (done, done + 1), (step, done)
    assert found is None or bool((found["x"] == step).all()) and found["y"][0].tolist() == [step] * (step % 7 + 1)
print(step, unfinished)
"""


def kill_while_saving(folder: Path, times: int, seed: int) -> tuple[int, int]:
    """The last step, and how many of the kills left an unfinished file behind."""
    command = [sys.executable, "-W", "error", "-c", KILLING, folder, str(times), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    step, unfinished = map(int, done.stdout.split())
    return step, unfinished


def test_killed_while_saving(tmp_path: Path, seed: int) -> None:
    step, _ = kill_while_saving(tmp_path, 10, seed)
    assert step >= 5  # every second round waits for a report


@pytest.mark.slow
def test_killed_at_200_moments(tmp_path: Path, seed: int) -> None:
    step, unfinished = kill_while_saving(tmp_path, 200, seed)
    assert step >= 100 and unfinished > 10
    tl.io.Checkpoints(tmp_path).save(step + 1)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
