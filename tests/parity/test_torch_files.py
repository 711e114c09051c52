"""What torch.save writes, read without torch: the same bits, layout and sharing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch", reason="the parity suite needs torch (extra: parity)")
pytestmark = pytest.mark.slow

DTYPES = [
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64", "complex128",
    "uint16", "uint32", "uint64",
]  # fmt: skip


def bits(x: Any) -> Any:
    """The bytes of a tensor of either library, in logical order."""
    if x.dtype in (tl.bfloat16, torch.bfloat16):
        x = x.float()  # exact, and there are no NumPy numbers of 16 bits
    if isinstance(x, tl.Tensor):
        return x.detach().numpy().tobytes()
    if isinstance(x, np.ndarray):
        return x.tobytes()
    x = x.detach().contiguous().flatten()
    return x.view(torch.uint8).numpy().tobytes() if x.numel() else b""


def same(got: Any, expected: Any, where: str = "") -> None:
    """Equal in structure, kinds and bits."""
    if isinstance(expected, torch.Tensor):
        assert str(got.dtype).split(".")[-1] == str(expected.dtype).split(".")[-1], where
        assert tuple(got.shape) == tuple(expected.shape) and bits(got) == bits(expected), where
        if isinstance(got, tl.Tensor):
            assert got.stride() == expected.stride() and got.requires_grad == expected.requires_grad, where
    elif isinstance(expected, torch.Size):
        assert got == tuple(expected), where
    elif isinstance(expected, Mapping):
        assert type(got) is type(expected) and list(got) == list(expected), where
        assert getattr(got, "_metadata", None) == getattr(expected, "_metadata", None), where
        for key in expected:
            same(got[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert type(got) is type(expected) and len(got) == len(expected), where
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            same(a, b, f"{where}[{i}]")
    else:
        assert type(got) is type(expected) and got == expected, where


MODELS: dict[str, Callable[[], Any]] = {
    "convolutions": lambda: torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(4)
    ),
    "transformer": lambda: torch.nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
    "lstm": lambda: torch.nn.LSTM(5, 7, 2, bidirectional=True, proj_size=3),
    "embeddings": lambda: torch.nn.ModuleDict({"e": torch.nn.Embedding(9, 4), "p": torch.nn.ParameterList([torch.ones(2)])}),
    "bfloat16": lambda: torch.nn.Linear(5, 3).bfloat16(), "half": lambda: torch.nn.Linear(5, 3).half(),
    "weight norm": lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5], ids="protocol {}".format)
@pytest.mark.parametrize("name", MODELS)
def test_state_dicts_of_modules(tmp_path: Path, name: str, protocol: int) -> None:
    model = MODELS[name]()
    if name == "convolutions":
        model(torch.randn(2, 3, 5, 5))
    torch.save(model.state_dict(), tmp_path / "x.pt", pickle_protocol=protocol)
    same(tl.io.read_torch_file(tmp_path / "x.pt"), model.state_dict())


OPTIMIZERS = {
    "SGD": {"momentum": 0.9, "nesterov": True}, "Adam": {"amsgrad": True}, "AdamW": {}, "NAdam": {}, "RAdam": {}, "Adamax": {}, "Adagrad": {},
    "Adadelta": {}, "RMSprop": {"centered": True, "momentum": 0.5}, "Rprop": {}, "ASGD": {}, "LBFGS": {}, "Adafactor": {},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training(tmp_path: Path, name: str) -> None:
    model = torch.nn.Linear(4, 3)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, **OPTIMIZERS[name])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    def loss() -> Any:
        optimizer.zero_grad()
        value = model(torch.ones(2, 4)).square().sum()
        value.backward()
        return value

    for _ in range(2):
        optimizer.step(loss)
        schedule.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
    }
    torch.save(state, tmp_path / "x.pt")
    got = tl.io.read_torch_file(tmp_path / "x.pt")
    same(got, state)
    if name != "LBFGS":
        ours = tl.nn.Linear(4, 3)
        getattr(tl.optim, name)(ours.parameters(), lr=1).load_state_dict(got["optimizer"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_dtype_and_layout(tmp_path: Path, dtype: str) -> None:
    x = torch.randint(0, 2**31, (6, 5, 4)).to(getattr(torch, dtype))
    if dtype in ("float32", "bfloat16"):
        x[0, 0, 0], x[0, 0, 1], x[0, 0, 2] = float("nan"), -float("inf"), -0.0
    views = [
        x,
        x.transpose(0, 2),
        x[1:, ::2],
        x[3, 4, 3],
        x[:0],
        x[1].expand(3, 5, 4),
        x[2].contiguous(),
        x.permute(1, 2, 0)[..., 1:],
    ]
    torch.save(views, tmp_path / "x.pt")
    got = tl.io.read_torch_file(tmp_path / "x.pt")
    same(got, views)
    if isinstance(got[0], tl.Tensor):
        got[0][2, 0, 0] = 1
        assert got[1][0, 0, 2].item() == 1  # one storage


def test_tied_weights(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    torch.save(model.state_dict(), tmp_path / "x.pt")
    got = tl.io.read_torch_file(tmp_path / "x.pt")
    got["0.weight"][1, 1] = 7.0
    assert got["1.weight"][1, 1].item() == 7


def test_many_tensors_and_values(tmp_path: Path) -> None:
    state = {f"layer {i}": torch.full((i % 7,), float(i)) for i in range(2000)} | {
        "values": [i / 7 for i in range(100_000)]
    }
    torch.save(state, tmp_path / "x.pt")
    same(tl.io.read_torch_file(tmp_path / "x.pt"), state)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "module": (lambda: torch.nn.Linear(2, 2), r"asks for torch\.nn\.modules\.linear\.Linear"),
    "sparse": (lambda: torch.eye(2).to_sparse(), "asks for torch._utils._rebuild_sparse_tensor"),
    "float8": (lambda: torch.ones(2).to(torch.float8_e4m3fn), "asks for torch.float8_e4m3fn"),
    "conjugated": (lambda: torch.ones(2, dtype=torch.complex64).conj(), "hint: save resolve_conj"),
    "numpy": (lambda: {"x": np.float64(1)}, r"asks for numpy\."),
    "set": (lambda: {1, 2}, "asks for __builtin__.set"),
    "storage": (lambda: torch.ones(2).storage(), "holds a _Storage by itself|asks for"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    make, words = REFUSED[name]
    torch.save(make(), tmp_path / "x.pt")
    with pytest.raises(tl.CheckpointError, match=words):
        tl.io.read_torch_file(tmp_path / "x.pt")
