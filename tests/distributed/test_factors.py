"""Gradients of large weights between the ranks of a node: shown as factors, they are the mean of the products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib import nn
from tensorlib.distributed import DistributedDataParallel as DDP, buckets, shared
from tests.distributed.models import assert_close, everywhere, gradients, reference

WIDTH = 160


class Model(nn.Module):
    """Two weights whose gradients may come as factors, of up to 20 rows; one that is too small, and a table."""

    def __init__(self, dtype: tl.DType = tl.float32) -> None:
        super().__init__()
        self.table = nn.Embedding(200, WIDTH, dtype=dtype)
        self.first = nn.Linear(WIDTH, WIDTH, dtype=dtype)
        self.second = nn.Linear(WIDTH, WIDTH, bias=False, dtype=dtype)
        self.last = nn.Linear(WIDTH, 3, dtype=dtype)

    def forward(self, ids: tl.Tensor, first: int = 1, second: int = 1) -> tl.Tensor:
        """With both layers so many times."""
        x = self.table(ids)
        for layer, times in ((self.first, first), (self.second, second)):
            for _ in range(times):
                x = layer(x).tanh()
        return self.last(x).square().sum()


@pytest.fixture(autouse=True)
def _no_free_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients wait for the end of backward."""
    monkeypatch.setattr(buckets, "cores_are_free", lambda group: False)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each product of factors that this rank makes: of how many ranks they are, and to how many it goes."""
    made, sum_products = [], tl.fused.sum_products_

    def noted(outs: list[tl.Tensor], g: list[tl.Tensor], *rest: object) -> bool:
        made.append((len(g), len(outs)))
        return sum_products(outs, g, *rest)

    monkeypatch.setattr(tl.fused, "sum_products_", noted)
    return made


Loss = Callable[[nn.Module, int], tl.Tensor | None]


def ids_of(rank: int, rows: int = 5) -> tl.Tensor:
    return tl.tensor(np.random.default_rng(rank).integers(0, 200, rows))


LOSSES: dict[str, tuple[Loss, Callable[[int], list[tuple[int, int]]]]] = {
    "factors of all": (lambda model, rank: model(ids_of(rank)), lambda n: [(n, n)] * 2),
    "rows that differ": (lambda model, rank: model(ids_of(rank, 1 + 4 * rank)), lambda n: [(n, n)] * 2),
    "sequences": (lambda model, rank: model(ids_of(rank, 6).view(2, 3)), lambda n: [(n, n)] * 2),
    "more rows than pay on rank 0": (
        lambda model, rank: model(ids_of(rank, 5 if rank else 21)),
        lambda n: [(1, 1)] * 2 * (dist.rank() > 0),
    ),
    "one layer unused on rank 0": (
        lambda model, rank: model(ids_of(rank), second=rank > 0),
        lambda n: [(n, n), (n - 1, n)],
    ),
    "one layer unused": (lambda model, rank: model(ids_of(rank), second=0), lambda n: [(n, n)]),
    "one layer twice on rank 0": (
        lambda model, rank: model(ids_of(rank), first=2 - (rank > 0)),
        lambda n: [(1, 1)] * (dist.rank() > 0) + [(n, n)],
    ),
    "one layer twice on rank 0, not on the last": (
        lambda model, rank: model(ids_of(rank), first=0 if rank == dist.size() - 1 else 2 if rank == 0 else 1),
        lambda n: [(1, 1)] * (0 < dist.rank() < n - 1) + [(n, n)],
    ),
}


def close(found: nn.Module, means: dict[str, np.ndarray | None]) -> None:
    rtol, atol = (1e-4, 1e-5) if found.first.weight.dtype is tl.float32 else (1e-11, 1e-13)
    assert_close(gradients(found), means, rtol, atol)
    for p in found.parameters():
        if p.grad is not None:
            assert len({g.tobytes() for g in everywhere(p.grad.numpy())}) == 1


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=lambda d: d.name)
@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_over_ranks(name: str, dtype: tl.DType, products: list[tuple[int, int]]) -> None:
    loss, made = LOSSES[name]
    module = Model(dtype)
    means = reference(module, lambda alone, rank: [loss(alone, rank)])
    model = DDP(module)
    for _ in range(3):  # later steps find what the first one left
        module.zero_grad()
        products.clear()
        loss(model, dist.rank()).backward()
        close(module, means)
        if dist.size() > 1:
            assert sorted(products) == sorted(made(dist.size()))


def test_factors_meet_gradients_that_are_there() -> None:
    """Of a backward that was not synced: one on odd ranks, two on the others."""
    odd, rank = dist.rank() % 2, dist.rank()
    module = Model()
    means = reference(module, lambda alone, rank: [alone(ids_of(rank + shift)) for shift in (0, 7, 9)])
    model = DDP(module)
    with model.no_sync():
        model(ids_of(rank)).backward()
        if not odd:
            model(ids_of(rank + 7)).backward()
    loss = model(ids_of(rank + 9))
    (loss + model(ids_of(rank + 7)) if odd else loss).backward()
    close(module, means)


def test_hooks_see_gradients(products: list[tuple[int, int]]) -> None:
    """Those that may change them before, those that are called after, and gradients that were asked for in between."""
    module, seen = Model(), []
    means = reference(module, lambda alone, rank: [alone(ids_of(rank)) * (1 + (rank == 0))])
    model = DDP(module)
    if dist.rank() == 0:
        for p in module.parameters():
            p.register_hook(lambda g: g * 2)
    module.second.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.numpy().copy()))
    model(ids_of(dist.rank())).backward()
    close(module, means)
    if dist.size() > 1:
        mean = sum(everywhere(seen[0])) / dist.size()
        np.testing.assert_allclose(module.second.weight.grad.numpy(), mean, rtol=1e-4, atol=1e-5)
        assert products == [(1, 1)] * (dist.rank() > 0), "of the weight that nobody looked at, but where a hook was"


def test_models_that_share_a_weight() -> None:
    """The later one's memory is where factors come to lie, also those of the earlier one."""
    layer, rank = nn.Linear(WIDTH, WIDTH), dist.rank()
    first, second = DDP(nn.Sequential(layer, nn.Linear(WIDTH, 3))), DDP(nn.Sequential(nn.Tanh(), layer))
    for model in (first, second, first):
        model.zero_grad()
        x = tl.tensor(np.random.default_rng(rank).standard_normal((5, WIDTH)), dtype=tl.float32)
        means = reference(model.module, lambda alone, _, x=x: [alone(x).sum()])
        model(x).sum().backward()
        expected = sum(everywhere(means[next(name for name in means if name.endswith("weight"))])) / dist.size()
        np.testing.assert_allclose(layer.weight.grad.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_ranks_that_are_out_of_data(products: list[tuple[int, int]]) -> None:
    module = Model()
    steps = [
        reference(module, lambda alone, rank, step=step: [alone(ids_of(rank))] * (rank >= step))
        for step in range(dist.size())
    ]
    model, n = DDP(module), dist.size()
    with model.join():
        for step in range(dist.rank() + 1):
            module.zero_grad()
            model(ids_of(dist.rank())).backward()
            for name in ("first.weight", "second.weight"):
                np.testing.assert_allclose(
                    module.get_parameter(name).grad.numpy(), steps[step][name], rtol=1e-4, atol=1e-5
                )
    if n > 1:
        assert products == [(n - step, n) for step in range(n) for _ in range(2)]


def test_a_hook_for_communication_gets_products(products: list[tuple[int, int]]) -> None:
    module = Model()
    means = reference(module, lambda alone, rank: [alone(ids_of(rank))])
    model = DDP(module)
    model(ids_of(dist.rank())).backward()
    module.zero_grad()
    products.clear()
    model.register_comm_hook(None, dist.allreduce_hook)
    model(ids_of(dist.rank())).backward()
    close(module, means)
    assert not products


def test_a_backward_that_fails_leaves_nothing(products: list[tuple[int, int]]) -> None:
    module = Model()
    means = reference(module, lambda alone, rank: [alone(ids_of(rank))])
    model = DDP(module)
    out = model(ids_of(dist.rank()))
    if dist.rank() == 0:
        handle = module.table.weight.register_hook(lambda g: 1 / 0)
    with pytest.raises((ZeroDivisionError, RuntimeError), match=r"division by zero|failed on rank 0"):
        out.backward()
    if dist.rank() == 0:
        handle.remove()
    if dist.size() > 1:
        module.zero_grad()
        model(ids_of(dist.rank())).backward()
        close(module, means)
        assert products[-2:] == [(dist.size(), dist.size())] * 2


def test_without_room_there_are_products(
    products: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    room = shared._room
    monkeypatch.setattr(shared, "_room", lambda nbytes, needed: needed and room(nbytes, needed))
    module = Model()
    means = reference(module, lambda alone, rank: [alone(ids_of(rank))])
    DDP(module)(ids_of(dist.rank())).backward()
    close(module, means)
    assert not products
    assert not recwarn.list
