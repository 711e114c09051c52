"""IDX, CIFAR's binary version, .npy and .npz: what NumPy writes is read back, what is damaged is named."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import data

IDX_CODES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx(array: Any, code: str) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, IDX_CODES[code], array.ndim, *array.shape)
    return head + array.astype(code).tobytes()


@pytest.mark.parametrize("code", IDX_CODES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_idx(tmp_path: Path, rng: np.random.Generator, code: str, packed: bool) -> None:
    x = rng.integers(0, 100, (5, 3, 2)).astype(code)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(x, code)) if packed else idx(x, code))
    got = data.read_idx(path).numpy()
    assert got.dtype == np.dtype(code).newbyteorder("=")
    np.testing.assert_array_equal(got, x)


WRONG_IDX = {
    "empty": (b"", "the magic number should take 4 bytes, at most 0 are left"),
    "magic": (b"\0\1\x08\1", "begins with b'.*'; expected two zeros"),
    "type": (b"\0\0\x07\1\0\0\0\0", "expected two zeros, a type of"),
    "sizes": (b"\0\0\x08\3\0\0\0\1", "the sizes should take 12 bytes, at most 4 are left"),
    "short": (b"\0\0\x08\1\0\0\0\4abc", r"elements of shape \(4,\) should take 4 bytes, at most 3 are left"),
    "long": (b"\0\0\x08\1\0\0\0\2abc", "further bytes behind its end"),
    "huge": (b"\0\0\x08\2" + b"\xff" * 8, r"should take 18446744065119617025 bytes, at most 0"),
}


@pytest.mark.parametrize("what", WRONG_IDX)
def test_damaged_idx(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x-idx"
    path.write_bytes(WRONG_IDX[what][0])
    with pytest.raises(tl.FileFormatError, match=f"read_idx: .*x-idx: .*{WRONG_IDX[what][1]}"):
        data.read_idx(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(idx(np.arange(100), "u1"))
    path = tmp_path / "x.gz"
    for bad in (whole[:-9], whole[:30] + b"\xff\xff" + whole[32:], whole[:-8] + b"1234" + whole[-4:], b"\x1f\x8bxx"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"x\.gz: "):
            data.read_idx(path)
    path.write_bytes(gzip.compress(b"\0\0\x08\1\xff\xff\xff\xff"))
    with pytest.raises(ValueError, match="should take 4294967295 bytes"):
        data.read_idx(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        data.read_idx(tmp_path / "absent")


@pytest.mark.parametrize("kinds", [1, 2], ids=["cifar10", "cifar100"])
def test_cifar(tmp_path: Path, rng: np.random.Generator, kinds: int) -> None:
    read: Any = data.read_cifar10 if kinds == 1 else data.read_cifar100
    pixels = rng.integers(0, 256, (5, 3, 32, 32)).astype(np.uint8)
    labels = rng.integers(0, 10 if kinds == 1 else 20, (5, kinds)).astype(np.uint8)
    records = np.concatenate([labels, pixels.reshape(5, -1)], axis=1)
    paths = [tmp_path / "a.bin", tmp_path / "b.bin"]
    paths[0].write_bytes(records[:3].tobytes())
    paths[1].write_bytes(records[3:].tobytes())
    images, *found = read(paths)
    np.testing.assert_array_equal(images.numpy(), pixels)
    for got, column in zip(found, labels.T[::-1], strict=True):
        assert got.dtype is tl.int64
        np.testing.assert_array_equal(got.numpy(), column)
    dataset = data.TensorDataset(*read(str(paths[1])))
    assert len(dataset) == 2
    paths[1].write_bytes(records[3:].tobytes()[:-1])
    with pytest.raises(ValueError, match=rf"b\.bin: has {2 * (3072 + kinds) - 1} bytes; expected one or more records"):
        read(paths)
    records[1, kinds - 1] = 200
    paths[1].write_bytes(records.tobytes())
    with pytest.raises(ValueError, match=r"b\.bin: record 1 has label 200; expected labels below"):
        read(paths)
    with pytest.raises(ValueError, match="got no paths"):
        read([])


ARRAYS = {
    "f4": np.arange(6, dtype="f4").reshape(2, 3), "bool": np.array([True, False]), "c8": np.array([1 + 2j], "c8"), "0-d": np.array(3.0),
    "none": np.zeros((2, 0, 3), "i2"), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "big-endian": np.arange(4, dtype=">i8"),
    "f2": np.ones(3, "f2"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_npy(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "x.npy", ARRAYS[name])
    got = data.read_npy(tmp_path / "x.npy").numpy()
    assert got.dtype == ARRAYS[name].dtype.newbyteorder("=")
    np.testing.assert_array_equal(got, ARRAYS[name])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_npy_of_each_version_and_unsigned(tmp_path: Path, version: tuple[int, int]) -> None:
    for code, dtype in (("u2", tl.int32), ("u4", tl.int64), (">u4", tl.int64)):
        x = np.array([0, 7, np.iinfo(code).max], code)
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array(file, x, version=version)
        got = data.read_npy(tmp_path / "x.npy")
        assert got.dtype is dtype
        np.testing.assert_array_equal(got.numpy(), x)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


PLAIN = npy(np.arange(3.0))
WRONG_NPY = {
    "objects": (npy(np.array([{}, 1], object)), "holds Python objects, which only pickle could read"),
    "records": (npy(np.zeros(2, "i4,f4")), "holds a structured array.*\n.*save each of its fields"),
    "strings": (npy(np.array(["a"])), "has no counterpart here"),
    "u8": (npy(np.zeros(1, "u8")), "uint64 has no counterpart here"),
    "magic": (b"\x93NUMPX" + PLAIN[6:], "expected the magic of .npy files"),
    "version": (PLAIN[:6] + b"\x09" + PLAIN[7:], "of version 1 to 3"),
    "zip": (b"PK\3\4" + PLAIN, "hint: read_npz reads archives"),
    "cut": (PLAIN[:-1], r"elements of shape \(3,\) should take 24 bytes, at most 23"),
    "cut header": (PLAIN[:40], "the header should take"),
    "trailing": (PLAIN + b"\0", "further bytes behind its end"),
    "keys": (PLAIN.replace(b"descr", b"descx"), "expected descr, fortran_order and shape"),
    "negative": (PLAIN.replace(b"(3,)", b"(-3)"), "expected descr, fortran_order and shape"),
    "rank": (PLAIN.replace(b"(3,), }" + b" " * 40, b"(" + b"1," * 17 + b"), }" + b" " * 9), "expected up to 16 sizes"),
    "huge": (PLAIN.replace(b"(3,), }" + b" " * 13, b"(8888888888888,), }" + b" "), "should take 71111111111104 bytes"),
    "unknown": (PLAIN.replace(b"<f8", b"<f7"), "unknown dtype '<f7'"),
}


@pytest.mark.parametrize("what", WRONG_NPY)
def test_damaged_npy(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(WRONG_NPY[what][0])
    with pytest.raises(tl.FileFormatError, match=rf"(?s)read_npy: .*x\.npy: .*{WRONG_NPY[what][1]}"):
        data.read_npy(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_npz(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "x.npz", **ARRAYS)
    got = data.read_npz(tmp_path / "x.npz")
    assert list(got) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(got[name].numpy(), array)


def archive(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def test_damaged_npz(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", [("a.npy", PLAIN), ("b.npy", WRONG_NPY["objects"][0])])
    with pytest.raises(tl.FileFormatError, match=r"read_npz: .*x\.npz, array 'b': holds Python objects"):
        data.read_npz(path)
    whole = archive(path, [("a.npy", PLAIN)]).read_bytes()
    for at in range(len(whole)):  # no byte of a file makes it anything but read or refused in words
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            got = data.read_npz(path)
        except tl.FileFormatError:
            continue
        assert all(array.tolist() == [0, 1, 2] for array in got.values())
    path.write_bytes(whole.replace(np.float64(2).tobytes(), np.float64(4).tobytes()))
    with pytest.raises(ValueError, match=r"its compressed data are damaged \(Bad CRC"):
        data.read_npz(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"x\.npz: expected a zip archive of \.npy files: File is not a zip file"):
        data.read_npz(path)
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(path, [("a.npy", PLAIN), ("a.npy", PLAIN)])
    with pytest.raises(ValueError, match="array 'a' is there twice"):
        data.read_npz(path)
