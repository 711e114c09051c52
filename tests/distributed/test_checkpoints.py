"""Checkpoints over ranks: all of one, or none of it, on every rank alike."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tensorlib as tl
import tensorlib.distributed as dist

RANK, LAST = dist.rank(), dist.size() - 1


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that all ranks share, in memory where the system has such a place: what the disk has to do is not what is tested."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = dist.all_gather_object(tempfile.mkdtemp(dir=memory) if RANK == 0 else "")[0]
    yield Path(path)
    dist.barrier()
    shutil.rmtree(path, ignore_errors=True)


class Counter:
    """A state of one number."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


def saved(folder: Path, steps: int = 3, **options: Any) -> dist.Checkpoints:
    checkpoints = dist.Checkpoints(folder, **options)
    for step in range(steps):
        checkpoints.save(step, all=Counter(10 * step), per_rank={"own": Counter(100 * step + RANK)})
    return checkpoints


def test_what_is_shared_and_what_is_each_ranks_own(folder: Path) -> None:
    dist.manual_seed(3)
    path = dist.Checkpoints(folder).save(7, model=tl.nn.Linear(2, 1), best=RANK + 0.5, per_rank={"own": Counter(RANK)})
    expected = tl.rand(3)
    assert path == folder / "checkpoint-000001-step-7"
    tl.manual_seed(99)
    model, own = tl.nn.Linear(2, 1), Counter(-1)
    found = dist.Checkpoints(folder).restore(model=model, per_rank={"own": own})
    assert found == {"step": 7, "ranks": dist.size(), "best": 0.5}, "what is shared is rank 0's"
    assert own.value == RANK
    assert tl.rand(3).tolist() == expected.tolist(), "each rank's stream goes on"
    weights = dist.all_gather_object(model.weight.tolist())
    assert all(row == weights[0] for row in weights)


def test_nothing_yet(folder: Path) -> None:
    checkpoints = dist.Checkpoints(folder / "new")
    assert (checkpoints.steps(), checkpoints.load(), checkpoints.restore(model=Counter())) == ([], None, None)


@pytest.mark.parametrize(("keep", "left"), [(1, [3]), (2, [2, 3]), (None, [0, 1, 2, 3])], ids=str)
def test_the_newest_stay(folder: Path, keep: int | None, left: list[int]) -> None:
    checkpoints = saved(folder, 4, keep=keep)
    assert checkpoints.steps() == left
    dist.barrier()
    assert len(list(folder.iterdir())) == len(left)
    assert checkpoints.restore(left[0], all=(shared := Counter())) is not None
    assert shared.value == 10 * left[0]


@pytest.mark.parametrize("missing", ["manifest.safetensors", "shared.safetensors", f"rank-{LAST}.safetensors"])
@pytest.mark.parametrize("how", ["absent", "cut short", "changed"])
def test_what_one_rank_lacks_is_chosen_by_none(folder: Path, missing: str, how: str) -> None:
    checkpoints = saved(folder)
    dist.barrier()
    if RANK == 0:
        file = folder / "checkpoint-000003-step-2" / missing
        if how == "absent":
            file.unlink()
        elif how == "cut short":
            os.truncate(file, file.stat().st_size - 3)
        else:
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
    dist.barrier()
    shared, own = Counter(), Counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = checkpoints.restore(all=shared, per_rank={"own": own})
    assert found is not None
    assert (found["step"], shared.value, own.value) == (1, 10, 100 + RANK)
    words = [str(w.message) for w in said]
    assert dist.all_gather_object(words) == [words] * dist.size()
    if (missing, how) == ("manifest.safetensors", "absent"):
        assert not words, "an interrupted save is nothing to warn of"
    else:
        assert len(words) == 1 and "passed over for checkpoint-000002-step-1" in words[0] and missing in words[0]
    checkpoints.save(3, all=shared)
    dist.barrier()
    assert checkpoints.steps()[-2:] == [1, 3] if how == "absent" and "manifest" in missing else [2, 3]


def test_none_is_intact(folder: Path) -> None:
    checkpoints = saved(folder, 1)
    dist.barrier()
    if RANK == LAST:
        (folder / "checkpoint-000001-step-0" / f"rank-{LAST}.safetensors").write_bytes(b"not this")
    dist.barrier()
    with pytest.raises(tl.CheckpointError, match=f"no checkpoint is intact:\n  .*rank-{LAST}"):
        checkpoints.load()


def test_fewer_ranks(folder: Path) -> None:
    saved(folder, 2)
    alone = dist.new_group([0])
    if RANK == 0 and dist.size() > 1:
        shared, own = Counter(), Counter(-1)
        with pytest.warns(UserWarning, match=rf"{dist.size()} ranks saved step 1, here are 1: "):
            found = dist.Checkpoints(folder, group=alone).restore(all=shared, per_rank={"own": own})
        assert found == {"step": 1, "ranks": dist.size()}
        assert (shared.value, own.value) == (10, -1)
    dist.destroy_process_group(alone)


def test_more_ranks(folder: Path) -> None:
    alone = dist.new_group([0])
    if RANK == 0:
        dist.Checkpoints(folder, group=alone).save(5, all=Counter(50), per_rank={"own": Counter(1)})
    dist.barrier()
    shared, own = Counter(), Counter(-1)
    streams = []
    for _ in range(2):
        if dist.size() == 1:
            found = dist.Checkpoints(folder).restore(all=shared, per_rank={"own": own})
        else:
            with pytest.warns(
                UserWarning, match=r"1 ranks saved step 5, here are \d: .* \(own, random streams\) begins anew"
            ):
                found = dist.Checkpoints(folder).restore(all=shared, per_rank={"own": own})
        streams.append(tl.initial_seed())
    assert found == {"step": 5, "ranks": 1}
    assert (shared.value, own.value) == (50, 1 if dist.size() == 1 else -1)
    assert streams[0] == streams[1]
    assert len(set(dist.all_gather_object(str(streams[0])))) == dist.size()
    dist.destroy_process_group(alone)


class Refused(Exception):
    pass


class Stubborn(Counter):
    """Fails on the last rank."""

    def state_dict(self) -> dict[str, int]:
        if RANK == LAST:
            raise Refused("not now")
        return super().state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        if RANK == LAST:
            raise Refused("not now")
        super().load_state_dict(state)


def expecting(operation: str) -> Any:
    """The error of the last rank, there; one that tells of it on the others."""
    if RANK == LAST:
        return pytest.raises(Refused, match="not now")
    return pytest.raises(RuntimeError, match=f"Checkpoints.{operation}: rank {LAST} failed: Refused: not now")


def test_an_error_on_one_rank_is_one_on_all(folder: Path) -> None:
    checkpoints = saved(folder, 2)
    with expecting("save"):
        checkpoints.save(2, all=Counter(), per_rank={"own": Stubborn()})
    assert checkpoints.steps() == [0, 1], "what was not finished does not count"
    with expecting("restore"):
        checkpoints.restore(per_rank={"own": Stubborn()})
    checkpoints.save(2, all=Counter(7))
    dist.barrier()
    assert checkpoints.steps() == [0, 1, 2]
    assert len(list(folder.iterdir())) == 3, "what was left of the failure is gone"


def test_a_name_that_is_missing_changes_nothing(folder: Path) -> None:
    checkpoints, shared = saved(folder, 1), Counter(-1)
    with pytest.raises(
        KeyError, match=r"the checkpoint of step 0 has no \['other'\], it has \['all', 'own', 'ranks', 'step'\]"
    ):
        checkpoints.restore(all=shared, per_rank={"other": Counter()})
    assert shared.value == -1


def test_a_disk_of_each_node(folder: Path) -> None:
    """Ranks that do not see each other's files."""
    own_folder = folder / f"node-{RANK}"
    saved(own_folder, 4)
    shared, own = Counter(), Counter()
    dist.Checkpoints(own_folder).restore(all=shared, per_rank={"own": own})
    assert (shared.value, own.value) == (30, 300 + RANK)
    assert len(list(own_folder.iterdir())) == 3


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="keep must be an integer of at least 1, or None, got 0"):
        dist.Checkpoints(folder, keep=0)
    checkpoints = dist.Checkpoints(folder)
    with pytest.raises(ValueError, match=r"\['per_rank', 'step'\]|step must be an integer of at least 0, got -1"):
        checkpoints.save(-1, all=1)
    with pytest.raises(ValueError, match=r"\['rng_state'\] are saved anyway, choose other names"):
        checkpoints.save(1, rng_state=1)
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 4; it has \[\]"):
        checkpoints.load(4)
    if dist.size() > 1:
        with pytest.raises(ValueError, match=r"the ranks save different steps, \[0, 1"):
            checkpoints.save(RANK)
    assert list(folder.iterdir()) == []
