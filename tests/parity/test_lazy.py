"""Lazy layers beside PyTorch's: defaults, keys of states before and after the first call, the class and its outputs with PyTorch's weights."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")]

LAYERS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {"LazyLinear": ((5,), {})}
for _nd in (1, 2, 3):
    LAYERS |= {
        f"LazyConv{_nd}d": ((6, 3), {"groups": 2, "padding": 1}),
        f"LazyConvTranspose{_nd}d": ((6, 3), {"groups": 2, "stride": 2}),
        f"LazyBatchNorm{_nd}d": ((), {}),
        f"LazyInstanceNorm{_nd}d": ((), {}),
    }


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, rng: np.random.Generator) -> None:
    ours, theirs = getattr(tl.nn, name), getattr(torch.nn, name)
    defaults = [{p.name: p.default for p in inspect.signature(cls).parameters.values()} for cls in (ours, theirs)]
    assert defaults[0] == defaults[1]
    args, settings = LAYERS[name]
    a, b = ours(*args, **settings), theirs(*args, **settings)
    assert list(a.state_dict()) == list(b.state_dict())
    shape = (2, 4) if name == "LazyLinear" else (2, 4, *[5] * int(name[-2]))
    x = rng.standard_normal(shape).astype(np.float32)
    expected = b(torch.tensor(x))
    late = ours(*args, **settings)
    late.load_state_dict({key: value.numpy() for key, value in b.state_dict().items()})
    a(tl.tensor(x))
    a.load_state_dict({key: value.numpy() for key, value in b.state_dict().items()})
    for model in (a.eval(), late.eval()):
        got = model(tl.tensor(x))
        np.testing.assert_allclose(
            got.detach().numpy(), b.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5
        )
        assert type(model).__name__ == type(b).__name__ and got.shape == tuple(expected.shape)
        assert list(model.state_dict()) == list(b.state_dict())
