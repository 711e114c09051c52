"""SyncBatchNorm over parts of a batch is BatchNorm over the whole batch."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib import nn

SHAPES = [(13, 3), (9, 2, 5), (8, 4, 3, 3), (7, 2, 2, 2, 2)]


def own_rows(n: int, uneven: bool) -> slice:
    """This rank's rows: the last rank has most of them, and the first of several none, where they are uneven."""
    if not uneven:
        return slice(dist.rank() * n // dist.size(), (dist.rank() + 1) * n // dist.size())
    cuts = [0, *range(dist.size() - 1), n]
    return slice(cuts[dist.rank()], cuts[dist.rank() + 1])


def layer_like(whole: nn.Module) -> nn.SyncBatchNorm:
    made: nn.SyncBatchNorm = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(whole))
    return made


def batch_norm(shape: tuple[int, ...], rng: np.random.Generator, **options: bool) -> nn.Module:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    layer = kind(shape[1], dtype=tl.float64, **options)
    for p in layer.parameters():
        p.data.copy_(tl.from_numpy(rng.normal(size=p.shape)))
    return layer


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)  # the same on all ranks


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_of_the_whole_batch(
    shape: tuple[int, ...], uneven: bool, rng: np.random.Generator
) -> None:
    whole, rows = batch_norm(shape, rng), own_rows(shape[0], uneven)
    layer = layer_like(whole)
    values, weights = rng.normal(100, 3, size=shape), rng.normal(size=shape)
    x = tl.tensor(values, requires_grad=True)
    part = tl.tensor(values[rows], requires_grad=True)
    expected, found = whole(x), layer(part)
    (expected * tl.from_numpy(weights)).square().sum().backward()
    (found * tl.from_numpy(weights[rows])).square().sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy()[rows], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(part.grad.numpy(), x.grad.numpy()[rows], rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(layer.parameters(), whole.parameters(), strict=True):
        dist.all_reduce(ours.grad)
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-9)
    for name, buffer in whole.named_buffers():
        np.testing.assert_allclose(layer.get_buffer(name).numpy(), buffer.numpy(), rtol=1e-12, err_msg=name)


def test_second_derivatives(rng: np.random.Generator) -> None:
    whole, rows = batch_norm((7, 2), rng), own_rows(7, True)
    layer = layer_like(whole)
    values, weights, along = rng.normal(size=(3, 7, 2))
    found = []
    for norm, of in ((whole, slice(None)), (layer, rows)):
        x = tl.tensor(values[of], requires_grad=True)
        (first,) = tl.autograd.grad((norm(x) * tl.from_numpy(weights[of])).square().sum(), x, create_graph=True)
        (second,) = tl.autograd.grad((first * tl.from_numpy(along[of])).sum(), x)
        found.append(second.numpy()[rows if of != rows else slice(None)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
@pytest.mark.parametrize("dtype", [tl.float32, tl.float16, tl.bfloat16], ids=lambda dtype: dtype.name)
def test_other_precisions(dtype: tl.DType, affine: bool, rng: np.random.Generator) -> None:
    values = tl.from_numpy(rng.normal(3, 1, size=(16, 5))).to(dtype)
    layer = nn.SyncBatchNorm(5, affine=affine)
    part = values[own_rows(16, True)].requires_grad_(True)
    out = layer(part)
    out.float().sum().backward()
    assert out.dtype is nn.BatchNorm1d(5, affine=affine)(values).dtype
    assert part.grad.dtype is dtype
    assert layer.running_mean.dtype is tl.float32
    expected = nn.BatchNorm1d(5, dtype=tl.float64)(values.double())[own_rows(16, True)]
    tolerance = {tl.float32: 1e-5, tl.float16: 2e-3, tl.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(out.detach().double().numpy(), expected.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {"bias": False}], ids=str)
def test_options(options: dict[str, bool], rng: np.random.Generator) -> None:
    whole = batch_norm((10, 3), rng, **options)
    layer, rows = layer_like(whole), own_rows(10, False)
    x = tl.from_numpy(rng.normal(size=(10, 3)))
    np.testing.assert_allclose(layer(x[rows]).detach().numpy(), whole(x).detach().numpy()[rows], rtol=1e-9, atol=1e-12)
    assert list(layer.state_dict()) == list(whole.state_dict())


def test_average_of_all_batches(rng: np.random.Generator) -> None:
    whole = nn.BatchNorm1d(3, momentum=None, dtype=tl.float64)
    layer = layer_like(whole)
    for _ in range(3):
        x = tl.from_numpy(rng.normal(size=(10, 3)))
        whole(x), layer(x[own_rows(10, False)])
    np.testing.assert_allclose(layer.running_var.numpy(), whole.running_var.numpy(), rtol=1e-12)
    assert layer.num_batches_tracked.item() == 3


def test_evaluation_asks_nobody(rng: np.random.Generator) -> None:
    whole = batch_norm((6, 3), rng).eval()
    layer = layer_like(whole)
    assert not layer.training
    x = tl.from_numpy(rng.normal(size=(6, 3)))
    if dist.rank() == 0:  # the others would have to take part otherwise
        assert layer(x).tolist() == whole(x).tolist()


def test_in_a_group(rng: np.random.Generator) -> None:
    evens = dist.new_group(range(0, dist.size(), 2))
    if dist.rank() % 2 == 0:
        layer = nn.SyncBatchNorm(2, process_group=evens, dtype=tl.float64)
        values = tl.from_numpy(rng.normal(size=(evens.size, 3, 2)))
        layer(values[dist.rank(evens)])
        np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * values.mean((0, 1)).numpy(), rtol=1e-9)
    dist.destroy_process_group(evens)


def test_a_step_of_data_parallel_training_is_that_of_the_whole_batch(rng: np.random.Generator) -> None:
    whole = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 1)).double()
    for p in whole.parameters():
        p.data.copy_(tl.from_numpy(rng.normal(size=p.shape)))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(whole))
    parallel = dist.DistributedDataParallel(model)
    optimizers = [tl.optim.SGD(some.parameters(), lr=0.1, momentum=0.9) for some in (whole, parallel)]
    rows = own_rows(12, False)
    for _ in range(3):
        x, y = tl.from_numpy(rng.normal(size=(12, 4))), tl.from_numpy(rng.normal(size=(12, 1)))
        for net, part, optimizer in ((whole, slice(None), optimizers[0]), (parallel, rows, optimizers[1])):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x[part]), y[part]).backward()
            optimizer.step()
    for (name, expected), found in zip(whole.state_dict().items(), model.state_dict().values(), strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-9, err_msg=name)


def test_conversion_keeps_what_is_there() -> None:
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), shared, nn.Sequential(shared, nn.BatchNorm1d(2)), nn.GroupNorm(2, 4))
    parameters, state = list(model.parameters()), model.state_dict()
    assert nn.SyncBatchNorm.convert_sync_batchnorm(model) is model
    assert [type(layer).__name__ for layer in model.modules()] == [
        "Sequential", "Conv2d", "SyncBatchNorm", "Sequential", "SyncBatchNorm", "GroupNorm",
    ]  # fmt: skip
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(state)
    nn.BatchNorm1d(3).load_state_dict(nn.SyncBatchNorm(3).state_dict())


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SyncBatchNorm: input has shape \(4, 3\), expected \(N, 2, ...\)"):
        nn.SyncBatchNorm(2)(tl.zeros(4, 3))
    with pytest.raises(ValueError, match="SyncBatchNorm: LazyBatchNorm1d"):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.LazyBatchNorm1d()))
    layer, rows = nn.SyncBatchNorm(2), int(dist.rank() == dist.size() - 1)
    with pytest.raises(ValueError, match="expected more than one value a channel"):
        layer(tl.zeros(rows, 2))
    assert layer.running_mean.tolist() == [0, 0]
    assert layer.num_batches_tracked.item() == 0
