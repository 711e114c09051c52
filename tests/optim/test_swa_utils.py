"""Averages of a model over its training."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.optim.swa_utils import (
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)


def states(model: nn.Module, averaged: AveragedModel, n: int, rng: Any) -> list[dict[str, Any]]:
    """What the model was at each of n updates."""
    seen = []
    for _ in range(n):
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype.is_floating_point:
                tensor.data.copy_(tl.tensor(rng.standard_normal(tensor.shape)))
            else:
                tensor += 2
        averaged.update_parameters(model)
        seen.append({k: v.numpy().copy() for k, v in model.state_dict().items()})
    return seen


@pytest.mark.parametrize("fns", [
    {}, {"avg_fn": get_swa_avg_fn()}, {"multi_avg_fn": get_swa_multi_avg_fn()},
    {"avg_fn": get_ema_avg_fn(0.75)}, {"multi_avg_fn": get_ema_multi_avg_fn(0.75)},
], ids=["default", "swa", "swa-multi", "ema", "ema-multi"])  # fmt: skip
@pytest.mark.parametrize("use_buffers", [False, True], ids=["parameters", "buffers"])
def test_averages(fns: Any, use_buffers: bool, rng: Any, request: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    averaged = AveragedModel(model, **fns, use_buffers=use_buffers)
    seen = states(model, averaged, 5, rng)
    weights = [0.75**4, *(0.25 * 0.75 ** (3 - i) for i in range(4))] if "ema" in request.node.callspec.id else [0.2] * 5
    buffers = {name for name, _ in model.named_buffers()}
    for name, got in averaged.module.state_dict().items():
        expected = (
            seen[-1][name]
            if name in buffers and not use_buffers
            else sum(w * s[name] for w, s in zip(weights, seen, strict=True))
        )
        if got.dtype.is_floating_point:
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)
        else:
            assert abs(got.item() - expected) <= (2 if use_buffers else 0)  # whole numbers are cut off
    assert averaged.n_averaged.item() == 5 and next(iter(averaged.state_dict())) == "n_averaged"
    assert all(p.requires_grad for p in averaged.parameters())


def test_an_average_goes_on_where_it_was_saved(rng: Any) -> None:
    model = nn.Linear(3, 2)
    first = AveragedModel(model)
    states(model, first, 3, rng)
    second = AveragedModel(nn.Linear(3, 2))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    states(model, second, 2, np.random.default_rng(5))
    states(model, first, 2, np.random.default_rng(5))
    assert second.module.weight.tolist() == first.module.weight.tolist() and second.n_averaged.item() == 5
    x = tl.ones(1, 3)
    assert first(x).tolist() == first.module(x).tolist()


def test_update_bn(rng: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).eval()
    batches = [(tl.tensor(rng.standard_normal((8, 3)), dtype=tl.float32), None) for _ in range(5)]
    update_bn(batches, model)
    seen = np.stack([model[0](x).detach().numpy() for x, _ in batches])
    np.testing.assert_allclose(model[1].running_mean.numpy(), seen.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model[1].running_var.numpy(), seen.var(1, ddof=1).mean(0), rtol=1e-4)
    assert model[1].momentum == 0.1 and not model.training and not model[1].training
    update_bn([1 / 0 for _ in ()], nn.Linear(1, 1))  # nothing to do


def test_update_bn_leaves_no_trace_of_an_error() -> None:
    model = nn.BatchNorm1d(4).eval()
    with pytest.raises(ValueError, match="4"):
        update_bn([tl.ones(2, 3)], model)
    assert model.momentum == 0.1 and not model.training


def test_errors() -> None:
    for make in (get_ema_avg_fn, get_ema_multi_avg_fn):
        with pytest.raises(ValueError, match=r"decay must be in \[0, 1\], got 1.5"):
            make(1.5)
    with pytest.raises(ValueError, match="give avg_fn or multi_avg_fn, not both"):
        AveragedModel(nn.Linear(1, 1), avg_fn=get_swa_avg_fn(), multi_avg_fn=get_swa_multi_avg_fn())
