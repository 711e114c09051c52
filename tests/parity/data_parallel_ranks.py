"""One rank of test_data_parallel.py's jobs, in either library: ``python data_parallel_ranks.py torch|tensorlib INITIAL STORE RANK``.

Rank 0 prints what the gradients and weights are after each of the things that DistributedDataParallel does.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

LIBRARY, INITIAL, STORE, RANK = sys.argv[1:]
if LIBRARY == "torch":
    import torch as lib
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{STORE}", rank=int(RANK), world_size=2)
else:
    import tensorlib as lib
    import tensorlib.distributed as dist

    dist.init_process_group("gloo")
nn: Any = lib.nn
lib.set_num_threads(1)
rank = dist.get_rank()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.third = (
            nn.Linear(4, 5),
            nn.BatchNorm1d(5),
            nn.Linear(5, 5),
            nn.Linear(5, 2),
        )

    def forward(self, x: Any, deep: bool = True) -> Any:
        x = self.norm(self.first(x)).tanh()
        return self.third(self.second(x).tanh() if deep else x)


def batch(step: int, rows: int = 6) -> Any:
    return lib.tensor(np.random.default_rng([step, rank]).standard_normal((rows, 4)))


module = Model().double()
with open(INITIAL) as file:  # noqa: PTH123
    module.load_state_dict({name: lib.tensor(np.array(value)) for name, value in json.load(file).items()})
model = nn.parallel.DistributedDataParallel(module, find_unused_parameters=True, bucket_cap_mb=1e-4)
optimizer = lib.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
seen: dict[str, Any] = {}


def note(what: str) -> None:
    for name, p in model.named_parameters():
        seen[f"{what}: {name}"] = p.detach().tolist()
        seen[f"{what}: {name}.grad"] = None if p.grad is None else p.grad.tolist()
    for name, b in model.named_buffers():
        seen[f"{what}: {name}"] = b.tolist()


def step(what: str, **options: Any) -> None:
    optimizer.zero_grad()
    model(batch(len(seen)), **options).square().mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    note(what)


step("one step")
step("another one")
step("unused on rank 1", deep=rank == 0)
step("unused everywhere", deep=False)
optimizer.zero_grad()
with model.no_sync():
    for i in range(2):
        model(batch(i)).square().mean().backward()
model(batch(3)).square().mean().backward()
note("accumulated")
for by_initial in (True, False):
    with model.join(divide_by_initial_world_size=by_initial):
        for i in range(2 + 2 * rank):
            optimizer.zero_grad()
            model(batch(i)).square().mean().backward()
            optimizer.step()
    seen.update({f"joined {by_initial}: {name}": p.detach().tolist() for name, p in model.named_parameters()})
if rank == 0:
    print("seen: " + json.dumps(seen), flush=True)
dist.destroy_process_group()
