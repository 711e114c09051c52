"""Parametrizations beside PyTorch's: keys of states in order, and with PyTorch's state, values and gradients in training and evaluation."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]


CASES = {
    "weight_norm": lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),
    "weight_norm, dim 1": lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4), dim=1),
    "weight_norm, dim None": lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4), dim=None),
    "weight_norm of a bias": lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4), "bias"),
    "weight_norm twice": lambda nn: nn.utils.parametrizations.weight_norm(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), "bias"
    ),
    "spectral_norm": lambda nn: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)),
    "spectral_norm, 3 iterations": lambda nn: nn.utils.parametrizations.spectral_norm(
        nn.Linear(6, 4), n_power_iterations=3, dim=1
    ),
    "spectral_norm of a bias": lambda nn: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4), "bias"),
    "spectral_norm of weight_norm": lambda nn: nn.utils.parametrizations.spectral_norm(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    ),
    "orthogonal of a convolution's matrices": lambda nn: nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.utils.parametrizations.orthogonal(nn.Conv1d(1, 3, 1))
    ),
    "old weight_norm": lambda nn: nn.utils.weight_norm(nn.Linear(6, 4)),
    "old weight_norm, dim None": lambda nn: nn.utils.weight_norm(nn.Linear(6, 4), dim=None),
    "old spectral_norm": lambda nn: nn.utils.spectral_norm(nn.Linear(6, 4), n_power_iterations=2),
    "spectral_norm of a transposed convolution": lambda nn: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.utils.parametrizations.spectral_norm(nn.ConvTranspose1d(2, 3, 2))
    ),
    "old spectral_norm of a transposed convolution": lambda nn: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.utils.spectral_norm(nn.ConvTranspose1d(2, 3, 2))
    ),
}
for _outputs in (4, 6, 8):
    for _map in (None, "matrix_exp", "cayley", "householder"):
        for _trivial in (True, False):
            CASES[f"orthogonal 6 -> {_outputs}, {_map}, {_trivial}"] = (
                lambda nn, outputs=_outputs, name=_map, trivial=_trivial: nn.utils.parametrizations.orthogonal(
                    nn.Linear(6, outputs), orthogonal_map=name, use_trivialization=trivial
                )
            )


@pytest.mark.parametrize("name", CASES)
def test_layers(name: str, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    theirs, ours = CASES[name](torch.nn).double(), CASES[name](tl.nn).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    if "orthogonal" in name:  # away from where they start, where derivatives are simple
        with torch.no_grad():
            for key, p in theirs.named_parameters():
                if key.endswith("original"):
                    p += 0.3 * torch.randn_like(p).tril(-1)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    for training in (True, False, True):
        x = rng.standard_normal((3, 6))
        outs = []
        for model, lib in ((theirs.train(training), torch), (ours.train(training), tl)):
            out = model(lib.tensor(x))
            (out * out + out).sum().backward()
            outs.append(out.detach().numpy())
        np.testing.assert_allclose(outs[1], outs[0], rtol=1e-9, atol=1e-10)
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-7, atol=1e-9, err_msg=key)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key].numpy(), value.numpy(), rtol=1e-9, atol=1e-10, err_msg=key)
    theirs.load_state_dict({key: torch.tensor(value.numpy()) for key, value in ours.state_dict().items()})
