"""Parametrizations: registering, reading, assigning, removing, copying; the ready ones. tests/parity compares their values with PyTorch's."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn.utils import matrices, parametrizations, parametrize


class Double(nn.Module):
    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return 2 * x

    def right_inverse(self, x: tl.Tensor) -> tl.Tensor:
        return x / 2


class Shift(nn.Module):
    """Without an inverse."""

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return x + 1


class Parts(nn.Module):
    """A tensor from its halves."""

    def forward(self, a: tl.Tensor, b: tl.Tensor) -> tl.Tensor:
        return a + b

    def right_inverse(self, x: tl.Tensor) -> tuple[tl.Tensor, tl.Tensor]:
        return x / 2, x / 2


class Bad(nn.Module):
    """Makes what it is told to."""

    def __init__(self, made: Any, inverse: Any = None) -> None:
        super().__init__()
        self.made = made
        if inverse is not None:
            self.right_inverse = lambda x: inverse

    def forward(self, *x: tl.Tensor) -> Any:
        return self.made


def test_reading_and_assigning() -> None:
    layer, x = nn.Linear(2, 2), tl.ones(1, 2)
    before, weight = layer(x), layer.weight
    assert parametrize.register_parametrization(layer, "weight", Double()) is layer
    assert tl.equal(layer(x), before) and layer.parametrizations.weight.original is weight
    layer(x).sum().backward()
    assert weight.grad.tolist() == [[2.0, 2.0]] * 2
    layer.weight = tl.full((2, 2), 6.0)
    assert weight.tolist() == [[3.0, 3.0]] * 2 and layer.weight.tolist() == [[6.0, 6.0]] * 2
    layer.weight = nn.Parameter(tl.full((2, 2), 8.0))
    assert weight.tolist() == [[4.0, 4.0]] * 2 and "weight" not in dict(layer.named_parameters())
    with pytest.raises(
        ValueError, match=r"right_inverse is float32 of shape \(3,\), expected float32 of shape \(2, 2\)"
    ):
        layer.weight = tl.ones(3)
    with pytest.raises(AttributeError, match="ParametrizedLinear has no attribute `missing`"):
        _ = layer.missing


def test_several_maps() -> None:
    layer = nn.Linear(1, 1)
    layer.weight = nn.Parameter(tl.full((1, 1), 4.0))
    parametrize.register_parametrization(layer, "weight", Double())
    parametrize.register_parametrization(layer, "weight", Shift())
    assert layer.weight.item() == 5 and len(layer.parametrizations.weight) == 2
    with pytest.raises(RuntimeError, match="Shift: it has no right_inverse"):
        layer.weight = tl.ones(1, 1)
    parametrize.register_parametrization(layer, "bias", Double())
    assert type(layer).__name__ == "ParametrizedLinear" and list(layer.state_dict()) == [
        "parametrizations.weight.original",
        "parametrizations.bias.original",
    ]


def test_a_tensor_from_several() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(tl.full((1, 1), 4.0))
    parametrize.register_parametrization(layer, "weight", Parts())
    maps = layer.parametrizations.weight
    assert [p.item() for p in maps.originals] == [2.0, 2.0] and isinstance(maps.original0, nn.Parameter)
    layer.weight = tl.full((1, 1), 8.0)
    assert maps.original1.item() == 4.0 and len(list(layer.parameters())) == 2
    with pytest.raises(ValueError, match="made from 2 tensors, so there is no original one to leave"):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    parametrize.remove_parametrizations(layer, "weight")
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.item() == 8.0 and layer.weight.is_leaf


def test_a_buffer() -> None:
    module = nn.Module()
    module.register_buffer("b", tl.ones(2))
    parametrize.register_parametrization(module, "b", Double())
    assert [n for n, _ in module.named_buffers()] == ["parametrizations.b.original"] and module.b.tolist() == [1.0, 1.0]
    parametrize.remove_parametrizations(module, "b")
    assert [n for n, _ in module.named_buffers()] == ["b"] and module.b.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("leave", [True, False])
def test_removing(leave: bool) -> None:
    layer = nn.Linear(1, 1)
    weight = layer.weight
    value = weight.item()
    for name in ("weight", "bias"):
        parametrize.register_parametrization(layer, name, Double())
    assert parametrize.is_parametrized(layer) and parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(layer, "other")
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=leave)
    assert layer.weight is weight and layer.weight.item() == (value if leave else value / 2)
    assert type(layer) is not nn.Linear
    parametrize.remove_parametrizations(layer, "bias")
    assert type(layer) is nn.Linear and not parametrize.is_parametrized(layer)
    assert list(layer.state_dict()) == ["weight", "bias"] and not hasattr(layer, "parametrizations")
    with pytest.raises(ValueError, match="`weight` of Linear is not parametrized"):
        parametrize.remove_parametrizations(layer, "weight")


def test_a_copy_is_on_its_own() -> None:
    layer = nn.Linear(1, 1)
    parametrize.register_parametrization(layer, "weight", Double())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        parametrize.remove_parametrizations(twin, "weight")
        assert type(twin) is nn.Linear and twin.weight.item() == layer.weight.item()
        assert parametrize.is_parametrized(layer) and twin.weight is not layer.parametrizations.weight.original


def test_cached() -> None:
    layer = nn.Linear(1, 1)
    parametrize.register_parametrization(layer, "weight", Double())
    with parametrize.cached(), parametrize.cached():
        held = layer.weight
        assert layer.weight is held
        layer.weight = tl.full((1, 1), 8.0)
        assert layer.weight.item() == 8
    assert layer.weight is not layer.weight and not parametrize._cache


def test_transfer() -> None:
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    parametrizations.weight_norm(source)
    parametrize.register_parametrization(source, "bias", Double())
    parametrize.transfer_parametrizations_and_params(source, target)
    assert tl.equal(target.weight, source.weight) and tl.equal(target.bias, source.bias)
    other = parametrize.transfer_parametrizations_and_params(source, nn.Module(), "bias")
    assert tl.equal(other.bias, source.bias)
    with pytest.raises(ValueError, match="`x` of ParametrizedLinear is not parametrized"):
        parametrize.transfer_parametrizations_and_params(source, target, "x")


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (Bad(1), "the parametrized tensor must be a tensor, got int"),
        (Bad(tl.ones(3)), r"is float32 of shape \(3,\), expected float32 of shape \(1, 1\)"),
        (Bad(tl.ones(1, 1, dtype=tl.float64)), "is float64"),
        (Bad(tl.ones(1, 1), inverse=1), "right_inverse must give a tensor or a sequence of tensors, got int"),
        (Bad(tl.ones(1, 1), inverse=tl.ones(1, dtype=tl.float64)), r"Bad.right_inverse is float64"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_what_does_not_fit_changes_nothing(bad: nn.Module, match: str) -> None:
    layer = nn.Linear(1, 1)
    before = layer.weight.item()
    with pytest.raises(ValueError, match=match):
        parametrize.register_parametrization(layer, "weight", bad)
    assert type(layer) is nn.Linear and layer.weight.item() == before and list(layer.state_dict()) == ["weight", "bias"]
    parametrize.register_parametrization(layer, "weight", Double())
    with pytest.raises(ValueError, match="register_parametrization: "):
        parametrize.register_parametrization(layer, "weight", Bad(tl.ones(2)))


def test_other_errors() -> None:
    layer = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Linear has no parameter, buffer or parametrized tensor `x`"):
        parametrize.register_parametrization(layer, "x", Double())
    with pytest.raises(ValueError, match="expected one or more modules, got none"):
        parametrize.ParametrizationList([], layer.weight)
    for function in (parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal):
        with pytest.raises(ValueError, match="Linear has no parameter or buffer `x`"):
            function(layer, "x")
    with pytest.raises(ValueError, match="n_power_iterations must be positive, got 0"):
        parametrizations.spectral_norm(layer, n_power_iterations=0)
    with pytest.raises(IndexError, match="dim 2 is out of range"):
        parametrizations.spectral_norm(layer, dim=2)
    with pytest.raises(ValueError, match="one of matrix_exp, cayley, householder, got 'qr'"):
        parametrizations.orthogonal(layer, orthogonal_map="qr")
    with pytest.raises(ValueError, match=r"expected a matrix or a batch of matrices, `bias` has shape \(1,\)"):
        parametrizations.orthogonal(layer, "bias")
    parametrizations.orthogonal(layer, orthogonal_map="cayley", use_trivialization=False)
    with pytest.raises(NotImplementedError, match="cayley has no inverse"):
        layer.weight = tl.ones(1, 1)


def test_a_state_of_the_older_weight_norm() -> None:
    old, new = nn.utils.weight_norm(nn.Linear(3, 2)), parametrizations.weight_norm(nn.Linear(3, 2))
    new.load_state_dict(old.state_dict())
    assert tl.equal(new(tl.ones(3)), old(tl.ones(3)))


@pytest.mark.parametrize("older", [nn.utils.weight_norm, nn.utils.spectral_norm], ids=lambda f: f.__name__)
def test_older_form_is_removed(older: Any) -> None:
    remove = getattr(nn.utils, f"remove_{older.__name__}")
    layer, x = older(nn.Linear(3, 2).eval()), tl.ones(3)
    before = layer(x)
    with pytest.raises(RuntimeError, match="`weight` of Linear has it already"):
        older(layer)
    remove(layer)
    assert sorted(layer.state_dict()) == ["bias", "weight"] and tl.allclose(layer(x), before)
    assert isinstance(layer.weight, nn.Parameter) and layer._hooks is None
    with pytest.raises(ValueError, match=rf"remove_{older.__name__}: `weight` of Linear does not have it"):
        remove(layer)
    with pytest.raises(ValueError, match="Linear has no parameter `x`"):
        older(layer, "x")


@pytest.mark.parametrize("shape", [(4, 4), (6, 4), (4, 6), (2, 5, 3)], ids=str)
@pytest.mark.parametrize("name", parametrizations.MAPS)
@pytest.mark.parametrize("trivial", [True, False], ids=["trivialized", "plain"])
def test_orthogonal(shape: tuple[int, ...], name: str, trivial: bool, rng: np.random.Generator) -> None:
    module = nn.Module()
    module.w = nn.Parameter(tl.tensor(rng.standard_normal(shape)))
    parametrizations.orthogonal(module, "w", name, use_trivialization=trivial)

    def check() -> np.ndarray[Any, Any]:
        w = module.w.detach().numpy()
        tall = w if shape[-2] >= shape[-1] else np.swapaxes(w, -1, -2)
        np.testing.assert_allclose(
            np.swapaxes(tall, -1, -2) @ tall,
            np.broadcast_to(np.eye(tall.shape[-1]), (*shape[:-2], *[tall.shape[-1]] * 2)),
            atol=1e-12,
        )
        return w

    target = check().copy()
    for p in module.parameters():
        (module.w * tl.tensor(rng.standard_normal(shape))).sum().backward()
        with tl.no_grad():
            p.add_(p.grad)
    check()
    if trivial or name == "householder":
        module.w = tl.tensor(target)
        np.testing.assert_allclose(check(), target, atol=1e-12)


def test_matrix_functions(rng: np.random.Generator) -> None:
    a, b = (tl.tensor(rng.standard_normal((2, 4, 4)), requires_grad=True) for _ in range(2))
    tl.autograd.gradgradcheck(matrices.solve, (a, b))
    tl.autograd.gradcheck(lambda x: matrices.matrix_exp(x - x.mT), (a,))
    tl.autograd.gradcheck(lambda v: matrices.householder_product(v.tril(-1) + tl.eye(4, dtype=tl.float64)), (a,))
    np.testing.assert_allclose(
        matrices.solve(a, b).detach().numpy(), np.linalg.solve(a.detach().numpy(), b.detach().numpy())
    )
    for scale in (0.0, 1e-8, 1.0, 30.0):
        x = scale * (a - a.mT).detach().numpy()
        values, vectors = np.linalg.eig(x)
        expected = (
            (vectors * np.exp(values)[..., None, :] @ np.linalg.inv(vectors)).real
            if scale
            else np.broadcast_to(np.eye(4), x.shape)
        )
        np.testing.assert_allclose(matrices.matrix_exp(tl.tensor(x)).numpy(), expected, atol=1e-11)
