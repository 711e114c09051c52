"""Reproducible mode: the same bits as on one rank, whatever the number of ranks and threads and the size of buckets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib import nn
from tensorlib.distributed import shards
from tensorlib.nn import functional as F

STEPS, ROWS = 50, 32
Step = Callable[[nn.Module, Any], tl.Tensor]


# ---- the tree ----
def added(planned: shards.Plan, ranks: int) -> Any:
    """The sum that a plan makes, as nested pairs of shards."""
    slots: list[dict[int, Any]] = [{} for _ in range(ranks)]
    for rank, turns in enumerate(planned.turns):
        for turn in turns:
            slots[rank][turn.slot] = turn.shard
            for i in reversed(range(turn.low, turn.slot)):
                slots[rank][i] = (slots[rank][i], slots[rank][i + 1])
    parts = [slots[rank][slot] for rank, slot in planned.parts]
    for a, b in planned.pairs:
        parts[a] = (parts[a], parts[b])
    return parts[0] if parts else None


@pytest.mark.parametrize("count", [1, 2, 5, 8, 16])
def test_the_tree_is_the_same_on_any_number_of_ranks(count: int, rng: np.random.Generator) -> None:
    everywhere = [(True,) * count, (False,) * count, *(tuple(rng.random(count) < 0.6) for _ in range(20))]
    for there in everywhere:
        there = tuple(map(bool, there))
        alone = shards.plan(there, 1)
        whole = added(alone, 1)
        assert sorted(turn.shard for turn in alone.turns[0]) == [i for i in range(count) if there[i]]
        for ranks in range(2, count + 3):
            assert added(shards.plan(there, ranks), ranks) == whole


def test_a_full_tree_of_sixteen_is_binary() -> None:
    def tree(a: int, n: int) -> Any:
        return a if n == 1 else (tree(a, n // 2), tree(a + n // 2, n // 2))

    assert added(shards.plan((True,) * 16, 3), 3) == tree(0, 16)


# ---- training ----
def mlp() -> tuple[nn.Module, Step]:
    def step(model: nn.Module, batch: Any) -> tl.Tensor:
        x, labels = batch
        return F.cross_entropy(model(x.flatten(1)[:, :20]), labels)

    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)), step


def wide() -> tuple[nn.Module, Step]:
    """Weights much larger than the rows of a shard."""

    def step(model: nn.Module, batch: Any) -> tl.Tensor:
        x, labels = batch
        return F.cross_entropy(model(x.flatten(1)), labels)

    return nn.Sequential(nn.Linear(36, 500), nn.ReLU(), nn.Linear(500, 90), nn.Tanh(), nn.Linear(90, 4)), step


def conv() -> tuple[nn.Module, Step]:
    def step(model: nn.Module, batch: Any) -> tl.Tensor:
        x, labels = batch
        return F.cross_entropy(model(x), labels)

    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 4)]
    return nn.Sequential(*layers), step


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, dropout=0.3)
        self.out = nn.Linear(8, 4)

    def forward(self, rows: tl.Tensor) -> tl.Tensor:
        sentences = [row[: 2 + i % 5] for i, row in enumerate(rows)]  # of different lengths
        _, (h, _) = self.lstm(sentences)
        return self.out(F.dropout(h[-1], 0.3, self.training))


def lstm() -> tuple[nn.Module, Step]:
    def step(model: nn.Module, batch: Any) -> tl.Tensor:
        x, labels = batch
        return F.cross_entropy(model(x[:, 0]), labels)

    return Reader(), step


MODELS = pytest.mark.parametrize("make", [mlp, wide, conv, lstm], ids=lambda make: make.__name__)


def batches(rows: int, steps: int) -> Iterator[tuple[tl.Tensor, tl.Tensor]]:
    """The same on every rank."""
    rng = np.random.default_rng(7)
    for _ in range(steps):
        yield tl.tensor(rng.standard_normal((rows, 1, 6, 6)).astype(np.float32)), tl.tensor(rng.integers(0, 4, rows))


def alone() -> dist.Group:
    groups = [dist.new_group([rank]) for rank in range(dist.size())]
    return groups[dist.rank()]


def trained(
    make: Any, group: dist.Group | None, *, rows: int = ROWS, steps: int = STEPS, cap: float | None = None
) -> str:
    """SHA-256 of everything in the trained model."""
    tl.manual_seed(3)
    model, step = make()
    ddp = dist.DistributedDataParallel(model, process_group=group, bucket_cap_mb=cap, reproducible=True)
    optimizer = tl.optim.Adam(model.parameters(), lr=0.01)
    for batch in batches(rows, steps):
        optimizer.zero_grad()
        for shard in ddp.shards(batch):
            step(ddp, shard).backward()
        optimizer.step()
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@MODELS
def test_weights_are_those_of_one_rank(make: Any) -> None:
    steps = 10 if make is wide else STEPS
    expected = trained(make, alone(), steps=steps)
    threads = tl.get_num_threads()
    assert trained(make, None, steps=steps) == expected
    tl.set_num_threads(3 - threads if threads < 3 else 1)
    assert trained(make, None, steps=steps, cap=0.001) == expected


@pytest.mark.parametrize("rows", [1, 5, 16, 50])
@pytest.mark.parametrize("make", [mlp, wide], ids=lambda make: make.__name__)
def test_batches_that_do_not_fill_the_shards(make: Any, rows: int) -> None:
    assert trained(make, None, rows=rows, steps=3) == trained(make, alone(), rows=rows, steps=3)


@pytest.mark.parametrize("make", [mlp, conv], ids=lambda make: make.__name__)
def test_parameters_on_another_device(make: Any) -> None:
    tl.set_default_device("reference")
    assert trained(make, None, steps=3) == trained(make, alone(), steps=3)


# ---- gradients that are kept as factors ----
def untouched(model: nn.Module, shard: int, backward: Callable[[], None]) -> None:
    backward()


def looked_at(model: nn.Module, shard: int, backward: Callable[[], None]) -> None:
    backward()
    if shard % 5 == 3:
        assert model[2].weight.grad.isfinite().all()


def clipped(model: nn.Module, shard: int, backward: Callable[[], None]) -> None:
    backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def used_again(model: nn.Module, shard: int, backward: Callable[[], None]) -> None:
    backward()
    if shard > 8:
        model[2].weight.square().sum().backward()


def lost(model: nn.Module, shard: int, backward: Callable[[], None]) -> None:
    backward()
    if shard in (0, 6, 7):
        model[0].weight.grad = None


def hooked(model: nn.Module, shard: int, backward: Callable[[], None]) -> None:
    handle = model[2].weight.register_hook(lambda g: g * (2.0 if shard in (5, 6, 11) else 1.0))
    if shard not in (5, 6, 11):
        handle.remove()
    backward()
    handle.remove()


@pytest.mark.parametrize("rows", [32, 50])
@pytest.mark.parametrize(
    "touch", [untouched, looked_at, clipped, used_again, lost, hooked], ids=lambda touch: touch.__name__
)
def test_factors_make_the_bits_of_gradients(touch: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (batch,) = batches(rows, 1)
    counts = {"factors": 0}
    take, place = tl.autograd.take_grad_factors, tl.autograd.set_grad_place

    def taken(p: tl.Tensor) -> Any:
        factors = take(p)
        counts["factors"] += factors is not None
        return factors

    monkeypatch.setattr(tl.autograd, "take_grad_factors", taken)

    def gradients(group: dist.Group | None) -> list[np.ndarray]:
        tl.manual_seed(3)
        model, step = wide()
        ddp = dist.DistributedDataParallel(model, process_group=group, reproducible=True)
        run = shards.run_of(ddp.process_group.rank, 16, ddp.process_group.size)
        for shard, number in zip(ddp.shards(batch), run, strict=True):
            touch(model, number, step(ddp, shard).backward)
        return [p.grad.numpy().copy() for p in model.parameters()]

    found = gradients(None), gradients(alone())
    assert counts["factors"] > 0 or touch is clipped
    monkeypatch.setattr(tl.autograd, "set_grad_place", lambda p, memory, put_off: place(p, memory))
    for these in (*found, gradients(None)):
        for a, b in zip(these, gradients(alone()), strict=True):
            np.testing.assert_array_equal(a, b)


def test_gradients_are_those_of_the_whole_batch() -> None:
    (batch,) = batches(50, 1)
    model, step = mlp()
    model = model.to(tl.float64)
    batch = (batch[0].double(), batch[1])
    ddp = dist.DistributedDataParallel(model, reproducible=True, shards=7)
    for shard in ddp.shards(batch):
        step(ddp, shard).backward()
    found = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    step(model, batch).backward()
    for g, p in zip(found, model.parameters(), strict=True):
        np.testing.assert_allclose(g, p.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_sums_of_losses_that_are_divided_by_the_whole_batch() -> None:
    w = nn.Linear(3, 1, bias=False, dtype=tl.float64)
    ddp = dist.DistributedDataParallel(w, reproducible=True, shards=4)
    sentences = [tl.full((n, 3), float(n), dtype=tl.float64) for n in (1, 4, 2, 7, 3)]
    tokens = sum(len(s) for s in sentences)
    for (part,) in ddp.shards((sentences,), average=False):
        (ddp(tl.cat(part)).sum() / tokens).backward()
    np.testing.assert_allclose(w.weight.grad.numpy(), np.full((1, 3), (1 + 16 + 4 + 49 + 9) / 17), rtol=1e-14)


def test_buffers_are_the_mean_of_the_shards() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, dtype=tl.float64), nn.Linear(2, 1, dtype=tl.float64))
    ddp = dist.DistributedDataParallel(model, reproducible=True, shards=4)
    x = tl.tensor(np.random.default_rng(0).standard_normal((12, 2)))
    for shard in ddp.shards(x):
        ddp(shard).sum().backward()
    means = x.numpy().reshape(4, 3, 2).mean(1)
    np.testing.assert_allclose(model[0].running_mean.numpy(), 0.1 * means.mean(0), rtol=1e-13)
    assert model[0].num_batches_tracked.item() == 1


def test_parameters_that_no_shard_uses_have_no_gradient() -> None:
    model = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1)])
    ddp = dist.DistributedDataParallel(model, reproducible=True, shards=4)
    ddp.forward = lambda i, x: model[i](x)
    for shard in ddp.shards(tl.arange(4.0)):
        ddp.forward(int(shard.item() == 3.0), tl.ones(1, 2)).sum().backward()
    assert model[0].weight.grad.tolist() == [[0.75, 0.75]]
    assert model[1].weight.grad.tolist() == [[0.25, 0.25]]
    assert model[2].weight.grad is None


def test_what_is_refused() -> None:
    model = nn.Linear(2, 1)
    ddp = dist.DistributedDataParallel(model, reproducible=True, shards=2)
    with pytest.raises(RuntimeError, match="in reproducible mode a step runs in"):
        ddp(tl.ones(1, 2))
    with tl.no_grad():
        assert ddp(tl.ones(1, 2)).shape == (1, 1)
    with pytest.raises(tl.errors.ShapeError, match=r"fields have \[2, 3\] samples"):
        next(ddp.shards((tl.ones(2), tl.ones(3))))
    with pytest.raises(TypeError, match="got a str in the batch"):
        next(ddp.shards(("ab", tl.ones(2))))
    model.weight.grad = tl.ones(1, 2)
    with pytest.raises(RuntimeError, match="gradients from before"):
        next(ddp.shards(tl.ones(2, 2)))
    with pytest.raises(RuntimeError, match="not wrapped with reproducible=True"):
        dist.DistributedDataParallel(nn.Linear(2, 1)).shards(tl.ones(2, 2))
    with pytest.raises(ValueError, match="shards must be an integer"):
        dist.DistributedDataParallel(nn.Linear(2, 1), reproducible=True, shards=0)


def test_a_rank_that_leaves_early_is_named() -> None:
    ddp = dist.DistributedDataParallel(nn.Linear(2, 1), reproducible=True, shards=2 * dist.size())
    last = dist.size() - 1

    def loop() -> None:
        for shard in ddp.shards(tl.ones(2 * dist.size(), 2)):
            ddp(shard).sum().backward()
            if dist.rank() == last:
                break

    if dist.rank() == last:
        loop()
    else:
        with pytest.raises(RuntimeError, match=f"rank {last} left its loop"):
            loop()


def test_batches_that_differ_are_named() -> None:
    ddp = dist.DistributedDataParallel(nn.Linear(2, 1), reproducible=True, shards=4)

    def loop() -> None:
        for shard in ddp.shards(tl.ones(4 + dist.rank(), 2)):
            ddp(shard).sum().backward()

    if dist.size() == 1:
        loop()
    else:
        with pytest.raises(RuntimeError, match=r"the rows of rank 1 \(5\) differ from those of rank 0 \(4\)"):
            loop()


def test_instruction_sets_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tl, "get_cpu_capability", lambda: "avx2" if dist.rank() == 0 else "base")
    if dist.size() == 1:
        dist.DistributedDataParallel(nn.Linear(2, 1), reproducible=True)
    else:
        with pytest.raises(tl.errors.TensorlibError, match="set TENSORLIB_ISA=base for all ranks"):
            dist.DistributedDataParallel(nn.Linear(2, 1), reproducible=True)
