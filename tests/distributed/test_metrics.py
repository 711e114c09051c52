"""Means over all ranks are those of all samples, however they are divided."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist


def own_part(values: np.ndarray) -> list[np.ndarray]:
    """Batches of this rank: the ranks have different numbers of them, some of none, and of different sizes."""
    cuts = np.array_split(values, 2 * dist.size() + 1)
    return [cut for i, cut in enumerate(cuts) if i % (dist.size() + 1) == dist.rank()]


def test_means_of_everything() -> None:
    losses, right = np.random.default_rng(0).random((2, 37))
    metrics = dist.Metrics("loss", "accuracy")
    for batch in own_part(losses):
        metrics.update(len(batch), loss=batch.mean())
    for batch in own_part(right > 0.5):
        metrics.update(tl.tensor(len(batch)), accuracy=tl.from_numpy(batch.astype(np.float64)).mean())
    seen = [i for i in range(2 * dist.size() + 1) if i % (dist.size() + 1) < dist.size()]
    expected = [
        np.concatenate([np.array_split(v, 2 * dist.size() + 1)[i] for i in seen]) for v in (losses, right > 0.5)
    ]
    found = metrics.compute()
    assert list(found) == ["loss", "accuracy"]
    np.testing.assert_allclose(list(found.values()), [e.mean() for e in expected], rtol=1e-14)
    assert metrics.compute() == found
    metrics.reset()
    assert all(math.isnan(value) for value in metrics.compute().values())


def test_tokens_and_not_means_of_means() -> None:
    metrics = dist.Metrics("loss")
    metrics.update(dist.rank() + 1, loss=float(dist.rank()))
    n = dist.size()
    assert metrics.compute()["loss"] == pytest.approx(sum(r * (r + 1) for r in range(n)) / sum(range(1, n + 1)))


@pytest.mark.parametrize("weight", [0, 0.0, tl.tensor(0)], ids=["int", "float", "tensor"])
def test_a_mean_of_nothing_counts_nothing(weight: float | tl.Tensor) -> None:
    metrics = dist.Metrics("loss")
    metrics.update(3, loss=2.0)
    metrics.update(weight, loss=tl.zeros(0).mean())
    assert metrics.compute() == {"loss": 2.0}


def test_ranks_without_samples() -> None:
    metrics = dist.Metrics("loss")
    if dist.rank() == dist.size() - 1:
        metrics.update(2, loss=1.5)
    assert metrics.compute() == {"loss": 1.5}


def test_small_things_are_not_lost_in_single_precision() -> None:
    metrics = dist.Metrics("loss")
    for _ in range(3):
        metrics.update(2**24, loss=tl.tensor(1.0))
        metrics.update(1, loss=tl.tensor(2.0))
    assert metrics.compute()["loss"] == (2**24 + 2) / (2**24 + 1)


def test_samples_per_second_are_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0 + 2 * dist.rank()])  # the last rank takes longest
    monkeypatch.setattr("tensorlib.distributed.metrics.time.perf_counter", lambda: next(clock))
    metrics = dist.Metrics()
    metrics.count(64)
    metrics.count(tl.tensor(36))
    assert metrics.compute() == {"samples_per_second": 100 * dist.size() / (2 * dist.size())}


def test_in_a_group() -> None:
    evens = dist.new_group(range(0, dist.size(), 2))
    if dist.rank() % 2 == 0:
        metrics = dist.Metrics("rank", group=evens)
        metrics.update(rank=dist.rank())
        assert metrics.compute() == {"rank": np.mean(evens.ranks)}
    else:
        with pytest.raises(ValueError, match=f"Metrics: rank {dist.rank()} is not in the group"):
            dist.Metrics("rank", group=evens)
    dist.destroy_process_group(evens)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="Metrics: expected different names, got"):
        dist.Metrics("loss", "loss")
    metrics = dist.Metrics("loss")
    with pytest.raises(KeyError, match=r"Metrics.update: \['accuracy'\] are not among \['loss'\]"):
        metrics.update(loss=1.0, accuracy=1.0)
    with pytest.raises(ValueError, match=r"Metrics: loss has shape \(2,\), expected one number"):
        metrics.update(loss=tl.ones(2))
    metrics.update(loss=4.0)
    assert metrics.compute() == {"loss": 4.0}, "what was refused is not counted"
