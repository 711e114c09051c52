"""What the tests of data parallelism share: a batch over all ranks, and what one process alone computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib import nn

ROWS = 4  # of each rank
FREE_CORES: dict[str, Callable[[dist.Group], bool]] = {  # by which buckets may travel while backward goes on
    "free cores": lambda group: True,
    "no free core": lambda group: False,
    "a free core on rank 0": lambda group: group.rank == 0,
}


def rows(n: int, seed: int = 0) -> tl.Tensor:
    """The whole batch (size * ROWS, n), the same on every rank."""
    return tl.tensor(np.random.default_rng(seed).standard_normal((dist.size() * ROWS, n)))


def mine(x: tl.Tensor) -> tl.Tensor:
    """This rank's rows."""
    return x[dist.rank() * ROWS : (dist.rank() + 1) * ROWS]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2)).double()


def gradients(module: nn.Module) -> dict[str, np.ndarray | None]:
    return {name: None if p.grad is None else p.grad.cpu().numpy().copy() for name, p in module.named_parameters()}


def assert_close(found: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-11, atol: float = 1e-13) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] is not None, name
            np.testing.assert_allclose(found[name], value, rtol, atol, err_msg=name)


def everywhere(array: np.ndarray) -> list[np.ndarray]:
    """The arrays of all ranks."""
    comm = dist.init().comm
    if comm is None:
        return [array]
    gathered = np.empty((comm.size, *array.shape), array.dtype)
    comm.Allgather(np.ascontiguousarray(array), gathered)
    return list(gathered)


def assert_same_everywhere(module: nn.Module) -> None:
    for name, value in module.state_dict().items():
        first, *others = everywhere(value.cpu().numpy())
        assert all(np.array_equal(first, other) for other in others), name


def reference(module: nn.Module, losses: Callable[[nn.Module, int], list[tl.Tensor]]) -> dict[str, Any]:
    """The mean over ranks of what each rank's losses give, computed by this process alone."""
    copies = []
    for rank in range(dist.size()):
        alone = copy.deepcopy(module)
        for loss in losses(alone, rank):
            loss.backward()
        copies.append(gradients(alone))
    means: dict[str, Any] = {}
    for name in copies[0]:
        there = [g[name] for g in copies if g[name] is not None]
        means[name] = sum(there) / dist.size() if there else None
    return means


def batch_of(rank: int, step: int = 0) -> tl.Tensor:
    return rows(6, step)[rank * ROWS : (rank + 1) * ROWS]
