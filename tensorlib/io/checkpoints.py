"""Checkpoints of a training run: generations of files, of which the newest intact one counts."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorlib.errors import CheckpointError
from tensorlib.io.files import read, save
from tensorlib.random import get_rng_state, set_rng_state

__all__ = ["Checkpoints"]

_NAME = re.compile(r"checkpoint-(\d{6,})-step-(\d+)\.safetensors")
_UNFINISHED = re.compile(r"\.checkpoint-\d{6,}-step-\d+\.safetensors\.[0-9a-f]{8}\.tmp")
_OWN = ("step", "rng_state")


class Checkpoints:
    """The checkpoints of a training run in a folder, of which the newest `keep` stay.

    Each is one safetensors file (`tl.save`), whole and on the disk before `save` returns, with a CRC-32 of every tensor and of the header; older
    ones are removed only then. So whenever the process, the system or the disk fails, there is one to go on from: loading takes the newest that is
    intact, and warns of broken ones, saying what is wrong. One process writes to a folder at a time.

    Args:
        folder: made when first needed.
        keep: how many to keep, at least 1; None: all.

    >>> import tempfile
    >>> model = tl.nn.Linear(2, 1)
    >>> optimizer = tl.optim.Adam(model.parameters())
    >>> checkpoints = tl.io.Checkpoints(tempfile.mkdtemp(), keep=2)
    >>> for step in range(3):
    ...     _ = checkpoints.save(step, model=model, optimizer=optimizer, best=0.5)
    >>> checkpoints.steps()
    [1, 2]
    >>> checkpoints.restore(model=model, optimizer=optimizer)  # in the next run
    {'step': 2, 'best': 0.5}
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int | None = 3) -> None:
        if keep is not None and (type(keep) is not int or keep < 1):
            raise ValueError(f"Checkpoints: keep must be an integer of at least 1, or None, got {keep!r}.")
        self.folder, self.keep = Path(folder), keep

    def __repr__(self) -> str:
        return f"Checkpoints({str(self.folder)!r}, keep={self.keep})"

    # ---- writing ----

    def save(self, step: int, **state: Any) -> Path:
        """Save the state of the run as the newest generation; returns its file.

        Of what has a `state_dict` (modules, optimizers, schedulers, loaders) that is saved, all else as `tl.save` takes it, and the state of the
        default random generator as ``rng_state``.

        Raises:
            TypeError, ValueError, OSError: as `tl.save`; no older checkpoint is touched then.
        """
        if type(step) is not int or step < 0:
            raise ValueError(f"Checkpoints.save: step must be an integer of at least 0, got {step!r}.")
        if taken := sorted(set(_OWN) & state.keys()):
            raise ValueError(f"Checkpoints.save: {taken} are saved anyway, choose other names.")
        content: dict[str, Any] = {"step": step, "rng_state": get_rng_state()}
        for name, value in state.items():
            content[name] = value.state_dict() if hasattr(value, "state_dict") else value
        self.folder.mkdir(parents=True, exist_ok=True)
        generation = max((number for number, _, _ in self._files()), default=0) + 1
        path = self.folder / f"checkpoint-{generation:06d}-step-{step}.safetensors"
        save(content, path, checksums=True)
        self._tidy()
        return path

    def _tidy(self) -> None:
        """Remove what is too old, and what interrupted saves left behind. What can not be removed is in nobody's way."""
        old = [path for _, _, path in self._files()][: -self.keep] if self.keep is not None else []
        old += [path for path in self.folder.iterdir() if _UNFINISHED.fullmatch(path.name)]
        for path in old:
            with suppress(OSError):
                path.unlink()

    # ---- reading ----

    def _files(self) -> list[tuple[int, int, Path]]:
        """(generation, step, file), oldest first."""
        if not self.folder.is_dir():
            return []
        found = [(match, path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return sorted((int(match[1]), int(match[2]), path) for match, path in found)

    def steps(self) -> list[int]:
        """The steps that are there, oldest first; whether the files are intact is not looked at."""
        return [step for _, step, _ in self._files()]

    def latest(self) -> Path | None:
        """The newest file, intact or not; None where there is none."""
        files = self._files()
        return files[-1][2] if files else None

    def load(self, step: int | None = None) -> dict[str, Any] | None:
        """The content of the newest intact checkpoint (of `step`, where given); None where there is none at all.

        Warns:
            UserWarning: of every newer file that is broken, with what is wrong.

        Raises:
            CheckpointError: where there are files, but none is intact.
            FileNotFoundError: where there is none of `step`.
        """
        files = [path for _, own, path in self._files() if step is None or own == step]
        if not files and step is not None:
            raise FileNotFoundError(
                f"Checkpoints.load: {self.folder} has no checkpoint of step {step}; it has {self.steps()}."
            )
        wrong: list[str] = []
        for path in reversed(files):
            try:
                content = _read(path)
            except (CheckpointError, OSError) as error:
                wrong.append(str(error))
                continue
            for words in wrong:
                warnings.warn(f"a broken checkpoint is passed over for {path.name}: {words}", UserWarning, stacklevel=2)
            return content
        if wrong:
            raise CheckpointError("Checkpoints.load: no checkpoint is intact:\n  " + "\n  ".join(wrong))
        return None

    def restore(self, step: int | None = None, **objects: Any) -> dict[str, Any] | None:
        """Load as `load` does, give each of `objects` its state by `load_state_dict`, and put the default random generator back.

        Returns:
            what else there is, the step first; None where there is no checkpoint yet.

        Raises:
            KeyError: where the checkpoint lacks one of the names; nothing is changed then.
            CheckpointError, FileNotFoundError: as `load`; what the objects' `load_state_dict` raise.
        """
        content = self.load(step)
        if content is None:
            return None
        if missing := [name for name in objects if name not in content]:
            raise KeyError(
                f"Checkpoints.restore: the checkpoint of step {content['step']} has no {missing}, it has {sorted(content)}."
            )
        for name, thing in objects.items():
            thing.load_state_dict(content.pop(name))
        set_rng_state(content.pop("rng_state"))
        return content


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb", buffering=0) as file:
        content = read(file, str(path), verified=True)
    if not isinstance(content, Mapping) or not all(name in content for name in _OWN):
        raise CheckpointError(f"load: {path}: no checkpoint of a training run.")
    return dict(content)
