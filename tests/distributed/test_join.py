"""Loops of different lengths, and means over tokens."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib import nn
from tensorlib.distributed import DistributedDataParallel as DDP, buckets
from tests.distributed.models import (
    FREE_CORES,
    assert_close,
    assert_same_everywhere,
    batch_of,
    gradients,
    mlp,
    reference,
    rows,
)

several = pytest.mark.skipif(dist.size() == 1, reason="one rank waits for nobody")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    tl.manual_seed(7)


@pytest.fixture(autouse=True, params=FREE_CORES)
def _free_cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "cores_are_free", FREE_CORES[request.param])


def batches(rank: int) -> int:
    """How many rank `rank` has: the highest has most."""
    return 2 + 2 * rank


# ---- join ----
@pytest.mark.parametrize("by_initial", [True, False], ids=["by all ranks", "by those that are active"])
@pytest.mark.parametrize("cap", [1e-4, 25], ids=["a bucket each", "one bucket"])
def test_ranks_that_are_out_of_data_count_as_zero(by_initial: bool, cap: float) -> None:
    module = mlp()
    alone = copy.deepcopy(module)
    model = DDP(module, bucket_cap_mb=cap)
    optimizer = tl.optim.SGD(module.parameters(), lr=0.1)
    with model.join(divide_by_initial_world_size=by_initial):
        for step in range(batches(dist.rank())):
            optimizer.zero_grad()
            model(batch_of(dist.rank(), step)).square().mean().backward()
            optimizer.step()
    optimizer = tl.optim.SGD(alone.parameters(), lr=0.1)
    for step in range(batches(dist.size() - 1)):
        active = [rank for rank in range(dist.size()) if step < batches(rank)]
        optimizer.zero_grad()
        for rank in active:
            loss = alone(batch_of(rank, step)).square().mean()
            (loss / (dist.size() if by_initial else len(active))).backward()
        optimizer.step()
    assert_close(
        {name: p.detach().numpy() for name, p in module.named_parameters()},
        {name: p.detach().numpy() for name, p in alone.named_parameters()},
        rtol=1e-9,
    )
    assert_same_everywhere(module)


def test_join_with_buffers_no_sync_and_token_means() -> None:
    """Everything that communicates inside the block, on ranks that leave it one after the other."""
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
    model = DDP(module)
    with model.join():
        for step in range(batches(dist.rank())):
            with model.no_sync():
                model(batch_of(dist.rank(), step)).square().mean().backward()
            total = model(batch_of(dist.rank(), step)).square().sum()
            model.global_mean(total, 8).backward()
            model.zero_grad()
    assert_same_everywhere(module)
    model(batch_of(dist.rank())).square().mean().backward()  # and everything is as before
    assert_same_everywhere(nn.ParameterList([nn.Parameter(p.grad) for p in model.parameters()]))  # type: ignore[arg-type]


def test_join_of_a_rank_without_any_data() -> None:
    module = mlp()
    model = DDP(module)
    with model.join():
        for step in range(dist.rank()):
            model(batch_of(dist.rank(), step)).square().mean().backward()
    assert_same_everywhere(module)


@several
def test_an_early_end_can_be_an_error() -> None:
    model = DDP(mlp())

    def train() -> None:
        with model.join(throw_on_early_termination=True):
            for step in range(1 if dist.rank() == 0 else 3):
                model(batch_of(dist.rank(), step)).square().mean().backward()

    with pytest.raises(RuntimeError, match="rank 0 ran out of data, and throw_on_early_termination was asked for"):
        train()
    with model.join(enable=False):
        model(batch_of(dist.rank())).square().mean().backward()


@several
def test_ranks_at_different_places_of_a_join_are_told() -> None:
    model = DDP(mlp())
    total = model(batch_of(dist.rank())).square().sum()

    def step() -> None:
        with model.join():
            total.backward() if dist.rank() else model.global_mean(total, 1)

    with pytest.raises(RuntimeError, match=r"different places \(rank 0: global_mean, rank 1: backward"):
        step()


@several
def test_a_join_inside_itself() -> None:
    model = DDP(mlp())
    with model.join(), pytest.raises(RuntimeError, match="inside a join"), model.join():
        pass


# ---- global_mean ----
def tokens(rank: int) -> int:
    return 1 + 3 * rank


def token_losses(m: Any, rank: int) -> tl.Tensor:
    x = tl.tensor(np.random.default_rng(rank).standard_normal((tokens(rank), 6)))
    return m(x).square().sum(1)


@pytest.mark.parametrize("of_model", [False, True], ids=["function", "method"])
@pytest.mark.parametrize("as_tensor", [False, True], ids=["int", "tensor"])
def test_every_token_counts_the_same(of_model: bool, as_tensor: bool) -> None:
    module = mlp()
    alone = copy.deepcopy(module)
    everything = tl.cat([token_losses(alone, rank) for rank in range(dist.size())]).mean()
    everything.backward()
    model = DDP(module, bucket_cap_mb=1e-4)
    mean = model.global_mean if of_model else dist.global_mean
    count = tokens(dist.rank())
    loss = mean(token_losses(model, dist.rank()).sum(), tl.tensor(count) if as_tensor else count)
    assert loss.item() == pytest.approx(everything.item(), rel=1e-12)
    loss.backward()
    assert_close(gradients(module), gradients(alone))


def test_parts_of_a_step_add_up() -> None:
    module = mlp()
    alone = copy.deepcopy(module)
    everything = tl.cat([token_losses(alone, rank) for rank in range(dist.size())]).mean()
    everything.backward()
    model = DDP(module)
    losses = token_losses(model, dist.rank())
    count, values = tokens(dist.rank()), []
    with model.no_sync():
        values.append(dist.global_mean(losses[:1].sum(), count))
        values[-1].backward(retain_graph=True)
    values.append(dist.global_mean(losses[1:].sum(), count))
    values[-1].backward()
    assert sum(value.item() for value in values) == pytest.approx(everything.item(), rel=1e-12)
    assert_close(gradients(module), gradients(alone))


def test_a_rank_without_tokens() -> None:
    counts = [0 if rank == 0 and dist.size() > 1 else 2 for rank in range(dist.size())]
    x = tl.ones(2, requires_grad=True)
    value = dist.global_mean((x * counts[dist.rank()]).sum(), counts[dist.rank()])
    assert value.item() == 2
    value.backward()
    assert x.grad.tolist() == pytest.approx([counts[dist.rank()] * dist.size() / sum(counts)] * 2)


def test_global_means_of_what_has_none() -> None:
    with pytest.raises(ValueError, match="the counts of all ranks sum to 0, expected a positive number"):
        dist.global_mean(tl.tensor(1.0), 0)
    with pytest.raises(TypeError, match=r"total must be a floating tensor of one element, got float32 \(2,\)"):
        dist.global_mean(tl.ones(2), 1)
    with pytest.raises(TypeError, match="got int"):
        dist.global_mean(1, 1)


# ---- buffers ----
def test_buffers_are_rank_0s() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).double()
    first = copy.deepcopy(module)
    model = DDP(module)
    for step in range(3):
        model(batch_of(dist.rank(), step)).mean().backward()
        first(batch_of(0, step))
    with tl.no_grad():
        model.eval()(batch_of(dist.rank()))
    assert_close(
        {name: b.numpy() for name, b in module.named_buffers()}, {name: b.numpy() for name, b in first.named_buffers()}
    )


@several
def test_buffers_can_be_each_ranks_own() -> None:
    model = DDP(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).double(), broadcast_buffers=False)
    for _ in range(2):
        model(batch_of(dist.rank())).mean().backward()
    with pytest.raises(AssertionError):
        assert_same_everywhere(nn.ModuleList([model.module[1]]))


def test_evaluation_on_one_rank_waits_for_nobody() -> None:
    model = DDP(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).double())
    model(batch_of(dist.rank())).mean().backward()
    if dist.rank() == 0:
        model.module.eval()(rows(6))
        model.module.train()
    model(batch_of(dist.rank())).mean().backward()
    assert reference(model.module, lambda m, rank: []).keys() == gradients(model.module).keys()
