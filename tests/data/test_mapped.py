"""Arrays and lines read on demand."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import data


@pytest.fixture
def table(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, Any]:
    x = rng.normal(size=(50, 3, 2)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy", x


def test_rows_of_a_npy_file(table: tuple[Path, Any]) -> None:
    path, x = table
    rows = data.MappedArray(path)
    assert (len(rows), rows.shape, rows.dtype) == (50, (50, 3, 2), tl.float32)
    np.testing.assert_array_equal(rows[-1].numpy(), x[-1])
    for indices in ([4, 49, 4, 0, -2], tl.tensor([7, 1]), np.array([3]), []):
        where = np.asarray(indices, dtype=int)
        np.testing.assert_array_equal(rows.batch(indices).numpy(), x[where])
        singly = rows.__getitems__(indices)
        assert len(singly) == len(where)
        for row, i in zip(singly, where, strict=True):
            np.testing.assert_array_equal(row.numpy(), x[i])
    rows[0].zero_()  # a copy
    np.testing.assert_array_equal(rows[0].numpy(), x[0])


@pytest.mark.parametrize("context", [None, "forkserver"], ids=["threads", "processes"])
def test_loaded(table: tuple[Path, Any], context: str | None) -> None:
    path, x = table
    loader = data.DataLoader(data.MappedArray(path), 8, shuffle=True, num_workers=2, multiprocessing_context=context)
    batches = [batch.numpy() for batch in loader]
    assert [len(b) for b in batches] == [8] * 6 + [2]
    got = np.concatenate(batches)
    np.testing.assert_array_equal(got[np.lexsort(got.reshape(50, -1).T)], x[np.lexsort(x.reshape(50, -1).T)])


def test_beside_labels(table: tuple[Path, Any]) -> None:
    path, x = table
    pairs = data.StackDataset(data.MappedArray(path), data.TensorDataset(tl.arange(50)))
    for rows, (labels,) in data.DataLoader(pairs, 16):
        np.testing.assert_array_equal(rows.numpy(), x[labels.numpy()])


@pytest.mark.parametrize("code", ["<f8", ">i4", "<u2", ">u4", "?", "u1"])
@pytest.mark.parametrize("offset", [0, 3], ids=["aligned", "unaligned"])
def test_raw_files(tmp_path: Path, rng: np.random.Generator, code: str, offset: int) -> None:
    x = rng.integers(0, 2, (6, 4)).astype(code)
    (tmp_path / "raw").write_bytes(b"?" * offset + x.tobytes())
    for shape in ((-1, 4), (6, 4)):
        rows = data.MappedArray(tmp_path / "raw", dtype=code, shape=shape, offset=offset)
        np.testing.assert_array_equal(rows.batch([5, 0, 2]).numpy(), x[[5, 0, 2]])
    assert data.MappedArray(tmp_path / "raw", dtype=code, offset=offset)[23].item() == x[5, 3]


def test_a_dtype_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(np.ones(3, "f2").tobytes())
    assert data.MappedArray(tmp_path / "raw", dtype=tl.float16)[2].tolist() == 1
    with pytest.raises(TypeError, match="dtype of numbers that NumPy has"):
        data.MappedArray(tmp_path / "raw", dtype=tl.bfloat16)


def test_a_file_far_larger_than_what_is_read(tmp_path: Path) -> None:
    with (tmp_path / "raw").open("wb") as file:  # sparse: 1 TB that takes no room
        file.truncate(1 << 40)
        file.seek((1 << 40) - 8)
        file.write(np.float64(7).tobytes())
    rows = data.MappedArray(tmp_path / "raw", dtype="f8", shape=(-1, 1024))
    assert rows.batch([len(rows) - 1, 0])[:, -1].tolist() == [7, 0]


def test_wrong_files_and_indices(table: tuple[Path, Any], tmp_path: Path) -> None:
    path, x = table
    rows = data.MappedArray(path)
    with pytest.raises(IndexError, match="MappedArray: index 50 is out of range for 50 examples"):
        rows.batch([0, 50])
    with pytest.raises(TypeError, match="indices must be integers, got float64"):
        rows.batch([0.5])  # type: ignore[list-item]
    pickled = pickle.dumps(rows)
    assert len(pickled) < 1000
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(tl.FileFormatError, match=r"x\.npy: has 1327 bytes, 1328 when it was opened first"):
        rows[0]
    for reopen in (lambda: data.MappedArray(path), lambda: pickle.loads(pickled)):
        with pytest.raises(
            tl.FileFormatError, match=r"has 1327 bytes; expected 1328 for float32 of shape \(50, 3, 2\)"
        ):
            reopen()
    np.save(path, np.asfortranarray(x[:, 0]))
    with pytest.raises(ValueError, match="Fortran's order, which scatters rows"):
        data.MappedArray(path)
    np.save(path, np.zeros(()))
    with pytest.raises(ValueError, match="holds a single number; expected rows"):
        data.MappedArray(path)
    np.save(path, np.zeros(2, "u8"))
    with pytest.raises(ValueError, match="uint64 has no counterpart"):
        data.MappedArray(path)
    (tmp_path / "raw").write_bytes(bytes(10))
    with pytest.raises(ValueError, match=r"raw: has 10 bytes after offset 0; expected 8 for int32 of shape \(2,\)"):
        data.MappedArray(tmp_path / "raw", dtype=np.int32)
    with pytest.raises(ValueError, match="only the first size may be -1"):
        data.MappedArray(tmp_path / "raw", dtype=np.int32, shape=(2, -1))
    with pytest.raises(ValueError, match="needs a dtype as well"):
        data.MappedArray(path, shape=(2,))


@pytest.mark.parametrize("rows", [0, 5])
def test_nothing_in_it(tmp_path: Path, rows: int) -> None:
    np.save(tmp_path / "x.npy", np.zeros((rows, 0)))
    empty = data.MappedArray(tmp_path / "x.npy")
    assert len(empty) == rows and empty.batch([0] * min(rows, 1)).shape == (min(rows, 1), 0)
    (tmp_path / "raw").write_bytes(b"")
    assert len(data.MappedArray(tmp_path / "raw", dtype=np.int8)) == 0


# ---- lines ----
TEXTS = {
    "plain": "one\ntwo\n", "no end": "one\ntwo", "empty": "", "blank": "\n\nx\n\n", "windows": "one\r\ntwo\r\n", "wide": "grün\n日本\n",
    "return": "a\rb\n",
}  # fmt: skip


@pytest.mark.parametrize("step", [1, 3, 1 << 22])
@pytest.mark.parametrize("name", TEXTS)
def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    monkeypatch.setattr(data.TextLines, "_STEP", step)
    path = tmp_path / "text"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + TEXTS[name].encode())
        expected = TEXTS[name].replace("\r\n", "\n").removesuffix("\n").split("\n") if TEXTS[name] else []
        lines = data.TextLines(path)
        assert [lines[i] for i in range(len(lines))] == expected
        again = pickle.loads(pickle.dumps(lines))
        order = list(range(len(expected)))[::-1]
        assert again.__getitems__(order) == expected[::-1]


@pytest.mark.parametrize("context", [None, "forkserver"], ids=["threads", "processes"])
def test_lines_loaded(tmp_path: Path, context: str | None) -> None:
    (tmp_path / "text").write_text("".join(f"{i}\n" for i in range(20)))
    loader = data.DataLoader(
        data.TextLines(tmp_path / "text"), 6, shuffle=True, num_workers=2, multiprocessing_context=context
    )
    assert sorted(int(line) for batch in loader for line in batch) == list(range(20))


def test_wrong_lines(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"good\nb\xe4d\n")
    lines = data.TextLines(path)
    assert lines[0] == "good" and data.TextLines(path, "latin-1")[1] == "bäd"
    with pytest.raises(tl.FileFormatError, match=r"text: line 1 \(from 0\) is not utf-8: byte 1, 0xe4"):
        lines[1]
    with pytest.raises(IndexError, match="TextLines: index 2 is out of range for 2"):
        lines[2]
    with pytest.raises(ValueError, match="in utf-16 a line feed is not the byte 10"):
        data.TextLines(path, "utf-16")
    os.truncate(path, 3)
    with pytest.raises(ValueError, match="has 3 bytes, 9 when it was opened first"):
        lines[0]
