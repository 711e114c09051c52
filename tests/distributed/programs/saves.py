"""Checkpoints, one after another, until a rank kills itself: ``saves.py FOLDER RANK SECONDS``. Without the last two, what can be gone on with.

Rank 0 prints each step once its `save` returned. What is shared is full of the step, what each rank has of its own of the step and its rank.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from itertools import count
from typing import Any

import tensorlib as tl
import tensorlib.distributed as dist


def own(step: int, rank: int) -> tl.Tensor:
    return tl.full((20_000,), 100 * step + rank)


def save_without_end(checkpoints: dist.Checkpoints) -> None:
    if dist.rank() == int(sys.argv[2]):
        threading.Timer(float(sys.argv[3]), os.kill, (os.getpid(), signal.SIGKILL)).start()
    for step in count():
        checkpoints.save(step, all=tl.full((50_000,), step), per_rank={"own": own(step, dist.rank())})
        if dist.rank() == 0:
            print(f"saved {step}", flush=True)


def look(checkpoints: dist.Checkpoints) -> None:
    found: dict[str, Any] = checkpoints.load() or {"step": -1, "ranks": 0, "all": tl.tensor([-1])}
    step = found["step"]
    assert (found["all"] == step).all()
    if found["ranks"] == dist.size():
        assert (found["per_rank"]["own"] == own(step, dist.rank())).all()
    steps = dist.all_gather(tl.tensor(step))
    assert all(other.item() == step for other in steps)
    checkpoints.save(step + 1, all=tl.full((50_000,), step + 1), per_rank={"own": own(step + 1, dist.rank())})
    if dist.rank() == 0:
        print(f"found {step}", flush=True)


checkpoints = dist.Checkpoints(sys.argv[1])
save_without_end(checkpoints) if len(sys.argv) > 2 else look(checkpoints)
