"""A small training run that can be struck at a step: ``train.py FOLDER [STEPS]``.

It goes on from FOLDER's newest checkpoint, and writes the SHA-256 of its last weights to FOLDER/digest. FAULT, JSON such as
{"what": "kill", "rank": 1, "step": 7, "delay": 0.01}, says what happens on that rank in that step, so many seconds after it begins;
the time at which it does goes to FOLDER/fault.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib import nn

FOLDER = Path(sys.argv[1])
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 30
EVERY = 4  # steps from one checkpoint to the next


def strike(what: str) -> None:
    (FOLDER / "fault").write_text(str(time.time()))
    match what:  # anything else happens outside
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "launcher":  # what has started the ranks of this node
            os.kill(os.getppid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exception":
            raise ValueError("struck")
        case "exit":
            sys.exit(5)
        case "exit at once":
            os._exit(0)


def main() -> None:
    rank = dist.rank()
    fault = json.loads(os.environ.get("FAULT", '{"rank": -1}'))
    tl.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Dropout(0.2), nn.Linear(64, 3))
    optimizer = tl.optim.Adam(model.parameters(), lr=0.01)
    checkpoints = dist.Checkpoints(FOLDER / "checkpoints")
    dist.manual_seed(0)  # for the batches and for dropout, restored with the rest
    restored = checkpoints.restore(model=model, optimizer=optimizer)
    begin = 0 if restored is None else restored["step"]
    ddp = dist.DistributedDataParallel(model)
    for step in range(begin, STEPS):
        if fault["rank"] == rank and fault["step"] == step:
            if fault["what"] in {"kill", "stop", "crash", "launcher"}:  # at any instruction
                threading.Timer(fault["delay"], strike, [fault["what"]]).start()
            else:
                strike(fault["what"])
        x = tl.randn(16, 20)
        loss = nn.functional.cross_entropy(ddp(x), tl.argmax(x[:, :3], 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0.005)
        if (step + 1) % EVERY == 0:
            checkpoints.save(step + 1, model=model, optimizer=optimizer)
        print(f"step {step}: {loss.item():.6f}")
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    if rank == 0:
        (FOLDER / "digest").write_text(f"{begin} {digest}")


main()
