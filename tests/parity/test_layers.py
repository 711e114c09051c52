"""Every layer of torch.nn beside ours: keys, weights both ways, outputs, gradients and buffers, in training and in evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tests.layers import CASES, IDS, LAYERS, Layer, drawn_inputs, run, same, state

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


def test_every_layer_is_here() -> None:
    """All that both libraries have, but for what layers are made of, and for those that have no weights before they are called."""
    classes = {
        n for n in tl.nn.__all__ if inspect.isclass(getattr(tl.nn, n)) and issubclass(getattr(tl.nn, n), tl.nn.Module)
    }
    shared = {n for n in classes if hasattr(torch.nn, n) and not n.startswith("Lazy")}
    assert shared - {"Module", "RNNBase", "RNNCellBase"} == set(LAYERS)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # theirs, of older names
@pytest.mark.parametrize(("name", "case"), CASES, ids=IDS)
def test_layer(name: str, case: Layer) -> None:
    torch.manual_seed(0)
    theirs, ours, again = case.make(torch.nn), case.make(tl.nn), case.make(torch.nn)
    ours.load_state_dict(state(theirs))
    again.load_state_dict({n: torch.from_numpy(v) for n, v in state(ours).items()})
    same(state(ours), state(theirs))
    same(state(again), state(theirs))
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]
    rng = np.random.default_rng(0)
    for training in (False,) if case.random else (True, True, False):
        theirs.train(training), ours.train(training)
        inputs = drawn_inputs(case, rng)
        same(run(tl, ours, case, inputs), run(torch, theirs, case, inputs), case.tolerance)
        same(state(ours), state(theirs), case.tolerance)


def drawn(lib: Any, make: Callable[[Any], Any], times: int) -> dict[str, np.ndarray[Any, Any]]:
    """The first values of each parameter and buffer, of so many layers."""
    lib.manual_seed(0)
    states = [state(make(lib.nn)) for _ in range(times)]
    return {name: np.concatenate([s[name].reshape(-1) for s in states]).astype(np.float64) for name in states[0]}


def has_weights(case: Layer) -> bool:
    return bool(state(case.make(tl.nn)))


WEIGHTED = {
    name: cases[0].make for name, cases in LAYERS.items() if has_weights(cases[0]) and not name.startswith("Parameter")
}


WEIGHTED |= {  # fewer of them, and wider
    "TransformerEncoder": lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(96, 2, 64, batch_first=True), 1),
    "TransformerDecoder": lambda nn: nn.TransformerDecoder(nn.TransformerDecoderLayer(96, 2, 64), 1),
    "TransformerEncoderLayer": lambda nn: nn.TransformerEncoderLayer(96, 2, 64),
    "TransformerDecoderLayer": lambda nn: nn.TransformerDecoderLayer(96, 2, 64),
    "Transformer": lambda nn: nn.Transformer(96, 2, 1, 1, 64, batch_first=True),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_initial_distributions(name: str) -> None:
    """Constants are the same; of random values the mean, the variance, the kurtosis (1.8 uniform, 3 normal) and the range."""
    smallest = min((v.size for v in state(WEIGHTED[name](tl.nn)).values() if v.size > 1 and v.std() > 0), default=3000)
    ours, theirs = (drawn(lib, WEIGHTED[name], 3000 // smallest + 1) for lib in (tl, torch))
    assert list(ours) == list(theirs)
    for parameter, want in theirs.items():
        got, spread = ours[parameter], want.std()
        if spread == 0:
            assert (got == want[0]).all(), parameter
            continue
        assert abs(got.mean() - want.mean()) < 0.1 * spread, parameter
        assert abs(got.std() / spread - 1) < 0.08, parameter
        assert abs(((got / got.std()) ** 4).mean() / ((want / spread) ** 4).mean() - 1) < 0.2, parameter
        assert abs(np.abs(got).max() / np.abs(want).max() - 1) < 0.35, parameter
