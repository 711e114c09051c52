"""Tables: what csv writes is read back; what does not parse is named by row, line and column."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import data


def wrote(folder: Path, text: str) -> Path:
    (folder / "t.csv").write_bytes(text.encode())
    return folder / "t.csv"


def test_columns_are_what_numpy_reads(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(20, 3))
    path = tmp_path / "t.csv"
    np.savetxt(path, x, delimiter=",", header="a,b,c", comments="")
    table = data.read_csv(path, dtype=tl.float64)
    assert list(table) == ["a", "b", "c"]
    expected = np.genfromtxt(path, delimiter=",", names=True)
    for name, column in table.items():
        np.testing.assert_array_equal(column.numpy(), expected[name])
    np.testing.assert_array_equal(data.read_csv(path)["b"].numpy(), expected["b"].astype("f4"))


def test_kinds_are_inferred(tmp_path: Path) -> None:
    columns = {
        "int": ["1", "-2", " 3 "], "float": ["1", "2.5", "nan"], "bool": ["true", "False", "TRUE"], "text": ['a, "b"', "two\nlines", ""],
        "under": ["1_0", "2", "3"], "long": [str(1 << 63), "1", "2"],
    }  # fmt: skip
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    table = data.read_csv(tmp_path / "t.csv")
    assert table["int"].dtype is tl.int64 and table["int"].tolist() == [1, -2, 3]
    assert table["float"].dtype is tl.float32 and table["float"][:2].tolist() == [1, 2.5] and table["float"][2].isnan()
    assert table["bool"].dtype is tl.bool and table["bool"].tolist() == [True, False, True]
    assert all(table[name] == columns[name] for name in ("text", "under", "long"))


def test_columns_dtypes_and_delimiters_are_chosen(tmp_path: Path) -> None:
    path = wrote(tmp_path, "1;2;x\n3;4;y\n")
    table = data.read_csv(path, [2, 0], header=False, delimiter=";", dtype={0: tl.float64})
    assert list(table) == [2, 0] and table[2] == ["x", "y"] and table[0].dtype is tl.float64
    assert data.read_csv(path, [0], header=False, delimiter=";", dtype=str) == {0: ["1", "3"]}
    path = wrote(tmp_path, "\ufeffa,b\r\n1,0\r\n\r\n2,1\r\n")
    table = data.read_csv(path, ["b", 0], dtype={"b": bool, "a": np.uint8})
    assert table["b"].tolist() == [False, True] and table["a"].dtype is tl.uint8
    assert data.read_csv(wrote(tmp_path, "a,b\n"))["a"].shape == (0,)


def test_a_table_is_a_dataset(tmp_path: Path) -> None:
    path = wrote(tmp_path, "x,y,name\n0.5,1,a\n1.5,0,b\n")
    table = data.read_csv(path)
    assert data.StackDataset(**table)[1]["name"] == "b"
    ((x, y),) = data.DataLoader(data.TensorDataset(table["x"], table["y"]), 2)
    assert x.tolist() == [0.5, 1.5] and y.tolist() == [1, 0]


def test_missing_values(tmp_path: Path) -> None:
    path = wrote(tmp_path, "a,b\n1,x\n,\nNA,z\n")
    filled = data.read_csv(path, missing_values=("", "NA"), filling_values={"a": -1})
    assert filled == {"a": filled["a"], "b": ["x", "", "z"]} and filled["a"].tolist() == [1, -1, -1]
    real = data.read_csv(path, ["a"], missing_values=("", "NA"), filling_values=float("nan"))["a"]
    assert real.dtype is tl.float32 and real.isnan().tolist() == [False, True, True]
    with pytest.raises(tl.FileFormatError, match=r"t\.csv: row 1 \(line 3\), column 'a': there is no value.*for int64"):
        data.read_csv(path, missing_values=("", "NA"))
    assert data.read_csv(path)["a"] == ["1", "", "NA"]


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "value": ("a\n1\nx\n", {"dtype": tl.int64}, r"row 1 \(line 3\), column 'a': 'x' is no int64"),
    "range": ("a\n300\n", {"dtype": tl.uint8}, "column 'a': 300 does not fit into uint8"),
    "real": ("a,b\n1,1\n\n1,2_0\n", {"dtype": tl.float32}, r"row 1 \(line 4\), column 'b': '2_0' is no float32"),
    "truth": ("a\nyes\n", {"dtype": bool}, "'yes' is no bool"),
    "ragged": ("a,b\n1,2\n3\n", {}, "line 3: has 1 cells, the first row 2"),
    "quotes": ('a\n"x\n', {}, "line 2: unexpected end of data"),
    "twice": ("a,a\n1,2\n", {}, "the header has the name 'a' more than once"),
    "empty": ("", {}, "is empty; expected a header"),
    "no rows": ("", {"header": False}, "is empty; expected rows"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_tables(tmp_path: Path, what: str) -> None:
    text, arguments, words = WRONG[what]
    with pytest.raises(tl.FileFormatError, match=rf"read_csv: .*t\.csv: {words}|read_csv: .*t\.csv: .*{words}"):
        data.read_csv(wrote(tmp_path, text), **arguments)


def test_wrong_names_and_encodings(tmp_path: Path) -> None:
    path = wrote(tmp_path, "a,b\n1,2\n")
    for column in ("c", 2, -3):
        with pytest.raises(KeyError, match=f"has no column {column!r}; there are 'a', 'b'"):
            data.read_csv(path, [column])
    path.write_bytes(b"a\nb\xff\n")
    with pytest.raises(ValueError, match=r"t\.csv: line 2 is not utf-8-sig: 0xff"):
        data.read_csv(path)
    assert data.read_csv(path, encoding="latin-1") == {"a": ["bÿ"]}
