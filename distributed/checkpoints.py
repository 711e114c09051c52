"""Checkpoints of a run on several ranks: complete on all of them, or not there."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tensorlib as tl

from . import world
from .objects import all_gather_object, broadcast_object_list

__all__ = ["Checkpoints"]

_NAME = re.compile(r"checkpoint-(\d{6,})-step-(\d+)")
_SHARED, _MANIFEST = "shared.safetensors", "manifest.safetensors"
_TAKEN = {"step", "ranks", "rng_state", "per_rank"}


class Checkpoints:
    """The checkpoints of a run on any number of ranks, of which the newest `keep` stay.

    Each is a folder: what all ranks share is written by rank 0, what each has of its own by itself, and when all have done so, rank 0 adds a
    manifest. Without one it does not count, so that a run never goes on from what some rank did not finish. Every file has checksums, and is whole
    and on the disk before the next step is taken (`tl.save`). `folder` may be on a disk that all nodes share, or on one of each node: rank 0 reads
    what is shared, and sends it to the others.

    All ranks of the group call every method alike. What is wrong on one of them is an error on all.

    Args:
        folder: made when first needed.
        keep: how many to keep, at least 1; None: all.
        group: whose ranks; None: all.

    >>> import tempfile
    >>> model = tl.nn.Linear(2, 1)
    >>> loader = tl.data.DataLoader(range(6), batch_size=2)
    >>> checkpoints = tl.distributed.Checkpoints(tempfile.mkdtemp())
    >>> _ = checkpoints.save(100, model=model, best=0.5, per_rank={"loader": loader})
    >>> checkpoints.restore(model=model, per_rank={"loader": loader})  # in the next run
    {'step': 100, 'ranks': 1, 'best': 0.5}
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int | None = 3, group: world.Group | None = None) -> None:
        if keep is not None and (type(keep) is not int or keep < 1):
            raise ValueError(f"Checkpoints: keep must be an integer of at least 1, or None, got {keep!r}.")
        self.folder, self.keep, self._group = Path(folder), keep, world.member(group, "Checkpoints")

    def __repr__(self) -> str:
        return f"Checkpoints({str(self.folder)!r}, keep={self.keep})"

    # ---- writing ----

    def save(self, step: int, *, per_rank: Mapping[str, Any] | None = None, **state: Any) -> Path:
        """Save the state of the run as the newest checkpoint; returns its folder.

        Of what has a `state_dict` that is saved, all else as `tl.save` takes it.

        Args:
            step: the same on all ranks.
            per_rank: what each rank has of its own, such as its loader. The state of its default random generator is saved anyway.
            state: what all ranks share, taken from rank 0.

        Raises:
            TypeError, ValueError, OSError: as `tl.save`, on the rank where that happens; RuntimeError, naming it, on the others. No older checkpoint
                is touched then.
        """
        stand = self._together("save", lambda: [self._newest(), _checked(step, state)])
        if len({own for _, own in stand}) > 1:
            raise ValueError(f"Checkpoints.save: the ranks save different steps, {[own for _, own in stand]}.")
        number = max(newest for newest, _ in stand) + 1
        path = self.folder / f"checkpoint-{number:06d}-step-{step}"
        self._together("save", lambda: self._write(path, step, state, per_rank or {}))
        kept = self._together("save", lambda: self._complete(path, step))[0]
        with suppress(OSError):
            self._tidy(number, set(kept))
        return path

    def _newest(self) -> int:
        return max((number for number, _, _ in self._folders()), default=0)

    def _write(self, path: Path, step: int, state: Mapping[str, Any], per_rank: Mapping[str, Any]) -> None:
        shared, own = ({name: _state(value) for name, value in some.items()} for some in (state, per_rank))
        path.mkdir(parents=True, exist_ok=True)
        if self._group.rank == 0:
            tl.save({"step": step, "state": shared}, path / _SHARED, checksums=True)
        tl.save({"rng_state": tl.get_rng_state(), "per_rank": own}, self._own(path), checksums=True)

    def _complete(self, path: Path, step: int) -> list[str]:
        """Make the new checkpoint count; which ones are to be kept, as rank 0 says."""
        if self._group.rank != 0:
            return []
        tl.save({"step": step, "ranks": self._group.size}, path / _MANIFEST, checksums=True)
        names = [path.name for _, _, path in self._counting()]
        return names if self.keep is None else names[-self.keep :]

    def _own(self, path: Path) -> Path:
        return path / f"rank-{self._group.rank}.safetensors"

    def _tidy(self, newest: int, kept: set[str]) -> None:
        """Remove what is too old, and what was left incomplete. What can not be removed is in nobody's way."""
        for number, _, path in self._folders():
            if number < newest and path.name not in kept:
                with suppress(OSError):
                    (path / _MANIFEST).unlink()  # first: what is half removed does not count
                shutil.rmtree(path, ignore_errors=True)

    # ---- reading ----

    def _folders(self) -> list[tuple[int, int, Path]]:
        """(generation, step, folder), oldest first, complete or not, as this rank sees them."""
        if not self.folder.is_dir():
            return []
        found = [(match, path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return sorted((int(match[1]), int(match[2]), path) for match, path in found)

    def _counting(self) -> list[tuple[int, int, Path]]:
        """Those with a manifest, which is where rank 0 sees it."""
        return [entry for entry in self._folders() if (entry[2] / _MANIFEST).exists()]

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first; whether their files are intact is not looked at."""
        return [step for step, _ in self._known("steps")]

    def _known(self, operation: str) -> list[tuple[int, str]]:
        """(step, name of the folder) of the complete ones, as rank 0 sees them."""
        return self._together(operation, lambda: [(step, path.name) for _, step, path in self._counting()])[0]

    def load(self, step: int | None = None) -> dict[str, Any] | None:
        """The content of the newest checkpoint (of `step`, where given) that is complete, and intact for every rank; None where there is none at all.

        Returns:
            ``"step"``; ``"ranks"``, the number of ranks that saved it; what was saved as `state`; and where that number is this group's,
            ``"per_rank"`` and ``"rng_state"``, this rank's.

        Warns:
            UserWarning: of every newer one that is broken, with what is wrong.

        Raises:
            CheckpointError: where there are some, but none is intact.
            FileNotFoundError: where there is none of `step`.
        """
        known = self._known("load")
        names = [name for own, name in known if step is None or own == step]
        if not names and step is not None:
            raise FileNotFoundError(
                f"Checkpoints.load: {self.folder} has no checkpoint of step {step}; it has {[own for own, _ in known]}."
            )
        wrong: list[str] = []
        for name in reversed(names):
            content = self._content(self.folder / name, wrong)
            if content is not None:
                for words in wrong:
                    warnings.warn(f"a broken checkpoint is passed over for {name}: {words}", UserWarning, stacklevel=2)
                return content
        if wrong:
            raise tl.CheckpointError("Checkpoints.load: no checkpoint is intact:\n  " + "\n  ".join(wrong))
        return None

    def _content(self, path: Path, wrong: list[str]) -> dict[str, Any] | None:
        """What was saved; where it is not intact for some rank None, and what is wrong is added to `wrong`."""
        shared: dict[str, Any] = {}
        own: dict[str, Any] = {}

        def read_shared() -> int:
            """Rank 0; the number of ranks that saved it."""
            if self._group.rank != 0:
                return 0
            shared.update(_loaded(path / _SHARED, "step", "state"))
            return int(_loaded(path / _MANIFEST, "ranks")["ranks"])

        def read_own() -> None:
            if ranks == self._group.size:
                own.update(_loaded(self._own(path), "per_rank", "rng_state"))

        told, failed, _ = self._try(read_shared)
        ranks = told[0]
        if not failed:
            _, failed, _ = self._try(read_own)
        if failed:
            wrong.append("; ".join(failed.values()))
            return None
        if self._group.size > 1:
            (shared,) = broadcast_object_list([shared], group=self._group)
        return {"step": shared["step"], "ranks": ranks, **shared["state"], **own}

    def restore(
        self, step: int | None = None, *, per_rank: Mapping[str, Any] | None = None, **objects: Any
    ) -> dict[str, Any] | None:
        """Load as `load` does, give each object its state by `load_state_dict`, and put the default random generator of each rank back.

        A checkpoint that another number of ranks saved has nothing for these ranks alone: objects `per_rank` stay as they are (a loader begins its
        pass), and each rank starts a random stream that the step, the number of ranks and the rank decide. A warning says so.

        Args:
            per_rank: objects that were saved `per_rank`.
            objects: those that all ranks share.

        Returns:
            what else there is, with ``"step"`` and ``"ranks"``; None where there is no checkpoint yet.

        Raises:
            KeyError: where the checkpoint lacks one of the names; nothing is changed then.
            CheckpointError, FileNotFoundError: as `load`; what the objects' `load_state_dict` raise, and RuntimeError on the other ranks.
        """
        content = self.load(step)
        if content is None:
            return None
        own, rng_state = content.pop("per_rank", None), content.pop("rng_state", None)
        pairs = [(name, thing, content) for name, thing in objects.items()]
        if own is not None:
            pairs += [(name, thing, own) for name, thing in (per_rank or {}).items()]

        def check() -> None:
            if missing := [name for name, _, where in pairs if name not in where]:
                raise KeyError(
                    f"Checkpoints.restore: the checkpoint of step {content['step']} has no {missing}, it has {sorted({**content, **(own or {})})}."
                )

        def put_back() -> None:
            for name, thing, where in pairs:
                thing.load_state_dict(where.pop(name))
            if own is not None:
                tl.set_rng_state(rng_state)

        self._together("restore", check)
        self._together("restore", put_back)
        if own is None:
            self._begin_anew(content, list(per_rank or ()))
        elif own:
            content["per_rank"] = own
        return content

    def _begin_anew(self, content: Mapping[str, Any], names: list[str]) -> None:
        """What is this rank's own, after another number of ranks."""
        with tl.fork_stream(content["step"], self._group.size, self._group.rank):
            key = tl.initial_seed()
        tl.manual_seed(key)
        warnings.warn(
            f"Checkpoints.restore: {content['ranks']} ranks saved step {content['step']}, here are {self._group.size}: what was each rank's own "
            f"({', '.join([*names, 'random streams'])}) begins anew.",
            UserWarning,
            stacklevel=3,
        )

    # ---- together ----

    def _try(self, what: Callable[[], Any]) -> tuple[list[Any], dict[int, str], Exception | None]:
        """Do it on every rank: (everybody's results, which are plain values; the words of what was raised, by place in the group; what was raised
        here)."""
        value, raised = None, None
        try:
            value = what()
        except Exception as error:  # noqa: BLE001  (all ranks hear of it)
            raised = error
        words = f"{type(raised).__name__}: {raised}" if raised else ""
        stand = all_gather_object((words, value), group=self._group)
        return [own for _, own in stand], {place: words for place, (words, _) in enumerate(stand) if words}, raised

    def _together(self, operation: str, what: Callable[[], Any]) -> list[Any]:
        """Everybody's results. What one rank raises is raised there, and on the others an error that tells of it."""
        results, failed, raised = self._try(what)
        if raised is not None:
            raise raised
        for place, words in failed.items():
            raise RuntimeError(f"Checkpoints.{operation}: rank {self._group.ranks[place]} failed: {words}")
        return results


def _checked(step: int, state: Mapping[str, Any]) -> int:
    if type(step) is not int or step < 0:
        raise ValueError(f"Checkpoints.save: step must be an integer of at least 0, got {step!r}.")
    if taken := sorted(_TAKEN & state.keys()):
        raise ValueError(f"Checkpoints.save: {taken} are saved anyway, choose other names.")
    return step


def _state(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _loaded(path: Path, *names: str) -> dict[str, Any]:
    content = tl.load(path)
    if not isinstance(content, Mapping) or not all(name in content for name in names):
        raise tl.CheckpointError(f"load: {path}: not of a checkpoint of several ranks.")
    return dict(content)
