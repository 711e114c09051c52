"""Layers and losses beside PyTorch's: names, keys, initial distributions, values and gradients."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

MODELS = {
    "mlp": lambda nn: nn.Sequential(
        nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 4, bias=False), nn.GELU()
    ),
    "activations": lambda nn: nn.Sequential(
        nn.Linear(6, 4),
        nn.ReLU(),
        nn.SiLU(),
        nn.ELU(0.5),
        nn.LeakyReLU(0.1),
        nn.Softplus(),
        nn.Sigmoid(),
        nn.LogSoftmax(1),
    ),
    "reshaping": lambda nn: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Linear(3, 3), nn.Flatten(), nn.Identity(), nn.Softmax(-1)
    ),
}


def copied(model: Any, source: Any) -> Any:
    model.load_state_dict({name: value.numpy() for name, value in source.state_dict().items()})
    return model


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    theirs = MODELS[name](torch.nn)
    ours = copied(MODELS[name](tl.nn), theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)
    tx, ox = torch.tensor(x, requires_grad=True), tl.tensor(x, requires_grad=True)
    expected, got = theirs(tx), ours(ox)
    np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    expected.square().sum().backward()
    got.square().sum().backward()
    pairs = [(ox, tx), *zip(ours.parameters(), theirs.parameters(), strict=True)]
    for a, b in pairs:
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-5)


LOSSES = [
    ("cross_entropy", {}),
    ("cross_entropy", {"reduction": "sum", "label_smoothing": 0.3}),
    ("cross_entropy", {"weight": True, "label_smoothing": 0.1, "ignore_index": 2}),
    ("cross_entropy", {"weight": True, "reduction": "none"}),
    ("nll_loss", {"weight": True, "ignore_index": 1}),
]


@pytest.mark.parametrize(("name", "settings"), LOSSES, ids=str)
def test_classification(name: str, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    for shape in ((6, 4), (2, 4, 3), (4,)):
        x, target = rng.standard_normal(shape), rng.integers(0, 4, shape[:1] + shape[2:] if len(shape) > 1 else ())
        results = []
        for lib, functional in ((torch, torch.nn.functional), (tl, tl.nn.functional)):
            given = {
                **settings,
                **({"weight": lib.tensor([0.5, 1.0, 2.0, 0.1], dtype=lib.float64)} if "weight" in settings else {}),
            }
            leaf = lib.tensor(x, requires_grad=True)
            out = getattr(functional, name)(leaf, lib.tensor(target), **given)
            (out * out).sum().backward()
            results.append((out.detach().numpy(), leaf.grad.numpy()))
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"])
def test_other_losses(name: str, reduction: str) -> None:
    rng = np.random.default_rng(0)
    x, target = rng.uniform(0.05, 0.95, (3, 4)), rng.uniform(0, 1, (3, 4))
    results = []
    for lib, functional in ((torch, torch.nn.functional), (tl, tl.nn.functional)):
        leaf = lib.tensor(x, requires_grad=True)
        out = getattr(functional, name)(leaf, lib.tensor(target), reduction=reduction)
        (out * out).sum().backward()
        results.append((out.detach().numpy(), leaf.grad.numpy()))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_cross_entropy_of_probabilities() -> None:
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((5, 4)), rng.dirichlet(np.ones(4), 5)
    for given in ({}, {"label_smoothing": 0.2}, {"reduction": "sum"}):
        expected = torch.nn.functional.cross_entropy(torch.tensor(x), torch.tensor(target), **given).item()
        assert np.isclose(tl.nn.functional.cross_entropy(tl.tensor(x), tl.tensor(target), **given).item(), expected)


def test_embedding() -> None:
    theirs = torch.nn.Embedding(7, 3, padding_idx=2)
    ours = copied(tl.nn.Embedding(7, 3, padding_idx=2), theirs)
    index = np.array([[1, 2, 6], [1, 0, 2]])
    theirs(torch.tensor(index)).square().sum().backward()
    ours(tl.tensor(index)).square().sum().backward()
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("given", ["rows", "offsets", "last", "weights"])
def test_embedding_bag(given: str, mode: str) -> None:
    if given == "weights" and mode != "sum":
        return  # there is no such thing
    settings = {"mode": mode, "padding_idx": 2, "include_last_offset": given == "last"}
    theirs = torch.nn.EmbeddingBag(7, 3, **settings)
    ours = copied(tl.nn.EmbeddingBag(7, 3, **settings), theirs)
    index = np.array([1, 2, 6, 1, 0, 2, 5, 4])
    arguments: tuple[Any, ...] = {
        "rows": (index.reshape(2, 4),),
        "offsets": (index, np.array([0, 3, 3])),
        "last": (index, np.array([0, 3, 3, 8])),
        "weights": (index, np.array([0, 3]), np.linspace(0.5, 2, 8, dtype=np.float32)),
    }[given]
    a, b = ours(*map(tl.tensor, arguments)), theirs(*map(torch.tensor, arguments))
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-6)
    a.square().sum().backward()
    b.square().sum().backward()
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda nn: nn.Linear(300, 400), lambda nn: nn.Embedding(200, 300)], ids=["Linear", "Embedding"]
)
def test_initial_distributions(make: Any) -> None:
    for a, b in zip(make(tl.nn).parameters(), make(torch.nn).parameters(), strict=True):
        ours, theirs = a.detach().numpy(), b.detach().numpy()
        assert abs(ours.std() / theirs.std() - 1) < 0.1
        assert abs(np.abs(ours).max() / np.abs(theirs).max() - 1) < 0.3


CLASSES = [getattr(tl.nn, name) for name in tl.nn.__all__ if hasattr(torch.nn, name)]
OURS = [c for c in CLASSES if inspect.isclass(c) and issubclass(c, tl.nn.Module)]
SKIPPED = {
    "size_average",
    "reduce",
    "min_value",
    "max_value",
    "_weight",
    "_freeze",
    "self",
    "args",
    "kwargs",
}  # deprecated there, or internal


@pytest.mark.parametrize("ours", OURS, ids=lambda c: c.__name__)
def test_constructors_take_the_same_arguments(ours: Any) -> None:
    theirs = getattr(torch.nn, ours.__name__)
    if ours.__name__ in ("Module", "Identity", "Sequential", "Parameter", "Softmax", "LogSoftmax", "Softmin"):
        return  # without fixed arguments, or (the softmaxes) with a default where PyTorch warns
    skipped = {*SKIPPED, "nonlinearity"} if ours is tl.nn.RNN else SKIPPED
    if ours in (tl.nn.RNN, tl.nn.GRU, tl.nn.LSTM):  # which hand on what they are given, there
        theirs, skipped = torch.nn.RNNBase, {*skipped, "mode"}
    got, expected = ({n: v for n, v in defaults(c.__init__).items() if n not in skipped} for c in (ours, theirs))
    assert list(got) == list(expected) and got == expected


def defaults(function: Any) -> dict[str, Any]:
    """Parameters with their defaults; of a function only its name."""
    found = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    return {n: v.__name__ if inspect.isfunction(v) else v for n, v in found.items()}


def test_module_has_the_same_methods() -> None:
    later = {
        "buffers", "compile", "extra_repr", "get_buffer", "get_extra_state", "ipu", "mtia", "register_backward_hook",
        "register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook", "register_state_dict_post_hook", "register_state_dict_pre_hook", "set_extra_state",
        "set_submodule", "share_memory", "to_empty", "type", "xpu", "call_super_init", "dump_patches", "T_destination",
    }  # fmt: skip
    public = {n for n in dir(torch.nn.Module) if not n.startswith("_")} - later
    assert not public - set(dir(tl.nn.Module))
