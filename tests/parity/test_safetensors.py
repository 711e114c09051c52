"""Files go both ways between this library and the safetensors package, which is the format's reference."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tests.io.test_hostile import FORMAT, file

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("safetensors.torch")
numpys = pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.slow

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64"]
SHAPES = [(), (0,), (3,), (2, 3, 4), (2, 0, 3)]


def drawn(seed: int) -> dict[str, Any]:
    """Tensors of every dtype and shape, under odd names, as PyTorch's."""
    torch.manual_seed(seed)
    made = {}
    for dtype in DTYPES:
        for shape in SHAPES:
            x = torch.randn(shape, dtype=torch.float64) * 3
            made[f'{dtype} {shape} é"\\\n'] = (
                x.abs().to(getattr(torch, dtype)) if dtype == "uint8" else x.to(getattr(torch, dtype))
            )
    return made


def same(ours: Any, other: Any) -> None:
    assert ours.dtype.name == str(other.dtype).removeprefix("torch.") and ours.shape == tuple(other.shape)
    wide = ours.float() if ours.dtype is tl.bfloat16 else ours
    np.testing.assert_array_equal(wide.numpy(), (other.float() if other.dtype is torch.bfloat16 else other).numpy())


@pytest.mark.parametrize("mmap", [False, True])
def test_their_files_load_here(mmap: bool, tmp_path: Path, seed: int) -> None:
    tensors = drawn(seed)
    theirs.save_file(tensors, tmp_path / "f", metadata={"format": "pt", "é": "\n"})
    found = tl.load(tmp_path / "f", mmap=mmap)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        same(found[name], x)


def test_unsigned_integers_come_as_arrays(tmp_path: Path) -> None:
    arrays = {d: np.array([0, np.iinfo(d).max], d) for d in ("uint16", "uint32", "uint64")}
    numpys.save_file(arrays, tmp_path / "f")
    found = tl.load(tmp_path / "f")
    for name, array in arrays.items():
        assert found[name].dtype == name and found[name].tolist() == array.tolist()
    tl.save(arrays, tmp_path / "g")
    assert {k: v.tolist() for k, v in numpys.load_file(tmp_path / "g").items()} == {
        k: v.tolist() for k, v in arrays.items()
    }


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_our_files_load_there(nested: bool, checksums: bool, tmp_path: Path, seed: int) -> None:
    tensors = drawn(seed)
    ours = {
        name: tl.tensor(x.float().numpy()).to(tl.bfloat16) if x.dtype is torch.bfloat16 else tl.tensor(x.numpy())
        for name, x in tensors.items()
    }
    tl.save({"m": ours, "n": [1, None]} if nested else ours, tmp_path / "f", checksums=checksums)
    found = theirs.load_file(tmp_path / "f")
    assert found.keys() == {f"m.{name}" if nested else name for name in tensors}
    for name in tensors:
        same(ours[name], found[f"m.{name}" if nested else name])
        assert torch.equal(found[f"m.{name}" if nested else name], tensors[name])


def test_checkpoints_load_there(tmp_path: Path) -> None:
    model = tl.nn.Linear(3, 2)
    path = tl.io.Checkpoints(tmp_path).save(1, model=model, tied=[model.weight])
    found = theirs.load_file(path)
    assert found["model.weight"].tolist() == model.weight.tolist() and "tied.0" not in found


def test_a_plain_file_is_theirs_but_for_its_order(tmp_path: Path) -> None:
    """The same entries and bytes; only spaces at the header's end differ, and which of equally large elements come first."""
    ours = {"b": tl.arange(3), "a": tl.ones(2, dtype=tl.float16)}
    tl.save(ours, tmp_path / "ours")
    theirs.save_file({name: torch.tensor(x.numpy()) for name, x in ours.items()}, tmp_path / "theirs")
    contents = [(tmp_path / name).read_bytes() for name in ("ours", "theirs")]
    (head, data), (their_head, their_data) = (
        (json.loads(c[8 : 8 + (n := int.from_bytes(c[:8], "little"))]), c[8 + n :]) for c in contents
    )
    assert head == their_head and data == their_data


# Refused here alone: what tensors can not be, bytes that are no booleans, what the format forbids and their parser takes.
OURS_ALONE = {
    "dtype-unknown", "shape-17", "boolean-2", "field-too-many", "twice", "twice-escaped", "metadata-key-twice", "shape-product-zero", "space-first",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FORMAT.keys() - OURS_ALONE))
def test_what_is_refused_here_is_refused_there(name: str) -> None:
    with pytest.raises(Exception, match=r"."):
        theirs.load(FORMAT[name][0])


@pytest.mark.parametrize("name", sorted(OURS_ALONE - {"dtype-unknown"}))
def test_what_only_we_refuse(name: str) -> None:
    theirs.load(FORMAT[name][0])


def test_what_is_odd_but_valid_here_is_so_there() -> None:
    content = file(
        '{ "a" :{"data_offsets":[0,4],"shape":[ 1],\n"dtype":"F32"},"__metadata__":{"x":"y"}}  ', b"\x00\x00\x80\x3f"
    )
    assert theirs.load(content)["a"].tolist() == tl.load(io.BytesIO(content))["a"].tolist() == [1.0]
