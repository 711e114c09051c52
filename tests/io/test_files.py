"""tl.save and tl.load: what goes in comes out, however it is nested, and a save that fails leaves what was there."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.io import safetensors, structure
from tests.sources import ROOT

DTYPES = [
    tl.bool, tl.uint8, tl.int8, tl.int16, tl.int32, tl.int64, tl.float16, tl.bfloat16, tl.float32, tl.float64, tl.complex64, tl.complex128,
]  # fmt: skip
NUMPY = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip


def saved(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tl.save(obj, file, **options)
    return file.getvalue()


def again(obj: Any, **options: Any) -> Any:
    return tl.load(io.BytesIO(saved(obj, **options)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def header(content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return found


@pytest.fixture(params=[False, True], ids=["read", "mapped"])
def mapped(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4), (1,) * 16], ids=str)
def test_every_dtype_and_shape(
    dtype: tl.DType, shape: tuple[int, ...], mapped: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    if dtype is tl.complex128 and len(shape) == 16:
        with pytest.raises(ValueError, match="is complex128 of 16 dimensions, files hold it up to 15"):
            saved([tl.zeros(shape, dtype=dtype)])
        return
    x = tl.tensor(rng.integers(0, 2 if dtype is tl.bool else 100, shape)).to(dtype)
    x = x * 1j if dtype.is_complex else x
    tl.save({"x": x, "odd": tl.zeros(3, dtype=tl.int8)}, tmp_path / "f")
    found = tl.load(tmp_path / "f", mmap=mapped)["x"]
    assert (found.dtype, found.shape) == (x.dtype, shape)
    np.testing.assert_array_equal(found.numpy(), x.numpy())
    assert found.is_leaf and not found.requires_grad


PLAIN = [
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, -(2**5000), 0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf,
    "", 'é😀\x00\n"\\', "\ud800",
    [], (), {}, [[], ()], (1,), {"a": {"b": ({"c": [1, 2.0, "3"]},)}}, {1: "one", "1": "uno", 2.5: None, None: 0, False: 1}, {"tensor": "x"},
    {"dict": 1, "int": [2]}, {"__metadata__": {"": 1}}, [True, 1, 1.0],
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: ascii(v)[:40])
def test_plain_values_keep_value_and_type(value: Any) -> None:
    assert repr(again(value)) == repr(value)
    assert repr(again({"x": [value], "t": tl.ones(1)})["x"]) == repr([value])


def test_nan_is_nan() -> None:
    assert math.isnan(again([math.nan])[0])


def test_dicts_of_other_kinds() -> None:
    assert again(OrderedDict(b=1, a=2)) == {"b": 1, "a": 2} and list(again(OrderedDict(b=1, a=2))) == ["b", "a"]
    assert again(defaultdict(list, {0: [1]})) == {0: [1]}
    counter = again(Counter([3, 3, 5]))
    assert type(counter) is Counter and counter == {3: 2, 5: 1} and counter[4] == 0


@pytest.mark.parametrize("dtype", NUMPY)
def test_numpy_arrays_and_numbers_stay_numpys(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    found, turned, number, swapped = again([array, array.T, array[1, 2], array.astype(array.dtype.newbyteorder(">"))])
    for one in (found, turned.T, swapped):
        assert type(one) is np.ndarray and one.dtype == dtype
        np.testing.assert_array_equal(one, array)
    assert type(number) is type(array[1, 2]) and number == array[1, 2]


def test_tensors_in_any_layout() -> None:
    x = tl.arange(24).reshape(2, 3, 4)
    for y in (x.permute(2, 0, 1), x[:, ::2], x[1, 1:, 2], x.transpose(0, 1)[1:]):
        assert again([y])[0].tolist() == y.tolist()


def test_history_and_gradients_stay_behind() -> None:
    x = tl.ones(2, requires_grad=True)
    x.square().sum().backward()
    found = again({"leaf": x, "result": x * 3, "parameter": tl.nn.Parameter(tl.zeros(1))})
    assert found["result"].tolist() == [3.0, 3.0]
    assert all(type(t) is tl.Tensor and t.is_leaf and not t.requires_grad and t.grad is None for t in found.values())


def test_a_dict_of_tensors_needs_no_structure() -> None:
    content = saved({"b.é": tl.ones(2), "": tl.zeros(1, dtype=tl.bool), "a": tl.ones(1, dtype=tl.float64)})
    assert list(header(content)) == ["b.é", "", "a"]
    assert list(tl.load(io.BytesIO(content))) == ["b.é", "", "a"]


def test_names_are_places_and_never_clash() -> None:
    obj = {
        "a": {"b": tl.tensor(1)},
        "a.b": tl.tensor(2),
        "__metadata__": tl.tensor(3),
        "\ud800": tl.tensor(4),
        "l": [tl.tensor(5)],
    }
    content = saved(obj)
    assert {"a.b", "a.b.2", "__metadata__.2", "tensor", "l.0"} < header(content).keys()
    found = tl.load(io.BytesIO(content))
    assert repr(found) == repr(obj)


def test_the_first_byte_of_the_tensors_is_aligned_and_larger_elements_come_first() -> None:
    content = saved(
        {"a": tl.ones(3, dtype=tl.int8), "b": tl.ones(1, dtype=tl.float64), "c": tl.ones(1, dtype=tl.float16)}
    )
    assert (8 + int.from_bytes(content[:8], "little")) % 64 == 0
    assert {name: entry["data_offsets"] for name, entry in header(content).items()} == {
        "a": [10, 13],
        "b": [0, 8],
        "c": [8, 10],
    }


# ---- memory that is shared ----


def test_tied_tensors_stay_tied_and_take_their_bytes_once() -> None:
    model = tl.nn.Sequential(tl.nn.Embedding(50, 20), tl.nn.Linear(20, 50, bias=False))
    model[1].weight = model[0].weight
    content = saved(model.state_dict())
    assert len(content) < 4000 + 1000
    found = tl.load(io.BytesIO(content))
    found["0.weight"][3, 4] = 7.0
    assert found["1.weight"][3, 4].item() == 7.0


def test_views_stay_views_of_one_memory() -> None:
    base = tl.arange(100, dtype=tl.float32)
    found = again({"whole": base.reshape(10, 10), "column": base[3::10], "part": [base[40:60]], "apart": tl.zeros(2)})
    assert found["whole"].shape == (10, 10) and found["column"].tolist() == base[3::10].tolist()
    found["whole"][4, 3] = -1.0
    assert found["column"][4].item() == -1.0 and found["part"][0][3].item() == -1.0


def test_parts_that_do_not_overlap_are_not_kept_together() -> None:
    big = tl.zeros(1_000_000)
    assert len(saved([big[:10], big[10:20]])) < 2000


def test_expanded_tensors_take_the_bytes_they_have() -> None:
    x = tl.tensor([1.0, 2.0]).expand(100_000, 2)
    content = saved(x)
    assert len(content) < 2000
    assert tl.load(io.BytesIO(content))[99_999].tolist() == [1.0, 2.0]


def test_one_memory_as_two_dtypes_is_saved_as_two() -> None:
    array = np.arange(4, dtype=np.int32)
    found = again([tl.from_numpy(array), tl.from_numpy(array.view(np.float32))])
    assert found[0].tolist() == [0, 1, 2, 3] and found[1].dtype is tl.float32


def test_complex_views() -> None:
    x = tl.arange(4).to(tl.complex128) * (1 + 2j)
    found = again([x, x[1:3]])
    found[0][1] = 5j
    assert found[1].tolist() == [5j, 2 + 4j]


# ---- what is no business of a file ----


def looped() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("obj", "raises", "match"),
    [
        (object(), TypeError, r"save: the object is a object, expected a dict, list or tuple, a tensor"),
        ({"a": [1, {2, 3}]}, TypeError, r"save: the object\['a'\]\['1'\] is a set"),
        (tl.nn.Linear(1, 1), TypeError, r"is a Linear, .*; save its state_dict\(\)\."),
        ({(1, 2): 3}, TypeError, r"has the key \(1, 2\), expected a str, int, float, bool or None"),
        (np.array(["a"]), TypeError, r"is an array of <U1"),
        (np.array([None]), TypeError, r"is an array of object"),
        (tl.sparse_coo_tensor([[0]], [[1.0]], (2, 1)), TypeError, "is a SparseTensor"),
        (looped(), ValueError, r"nested deeper than 64 levels, or contains itself"),
        ([0] * 5000, ValueError, "too many plain values for a file's header: keep numbers in tensors"),
        ("x" * 20_000, ValueError, "a file's header has room for 20000: keep numbers in tensors"),
    ],
    ids=["object", "set", "module", "key", "strings", "objects", "sparse", "loop", "many", "long"],
)  # fmt: skip
def test_what_can_not_be_saved_is_named_and_changes_nothing(
    obj: Any, raises: type[Exception], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "MOST", 100_000)
    monkeypatch.setattr(safetensors, "LONGEST", 20_000)
    path = tmp_path / "f"
    tl.save([1], path)
    with pytest.raises(raises, match=match):
        tl.save(obj, path)
    assert tl.load(path) == [1] and names(tmp_path) == ["f"]


# ---- files ----


def test_a_path_is_replaced_whole_and_links_stay_links(tmp_path: Path) -> None:
    tl.save([1], str(tmp_path / "f"))
    (tmp_path / "link").symlink_to("f")
    tl.save([2], tmp_path / "link", sync=False)
    assert tl.load(tmp_path / "f") == [2] and (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["f", "link"]


def test_missing_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tl.load(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        tl.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"save: No such file or directory.*nowhere"):
        tl.save([1], tmp_path / "nowhere" / "f")
    with pytest.raises(ValueError, match="mmap needs a path"):
        tl.load(io.BytesIO(), mmap=True)


FULL = """
import resource, signal, sys
import tensorlib as tl
path = sys.argv[1]
tl.save({"x": tl.ones(1000)}, path)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    tl.save({"x": tl.zeros(1_000_000)}, path)
except OSError as error:
    print(error)
print(tl.load(path)["x"].sum().item())
"""


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "f"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "save: File too large; what was there before is unchanged" in done.stdout and "1000.0" in done.stdout
    assert names(tmp_path) == ["f"]


class Failing(io.RawIOBase):
    """A disk that takes a few bytes at a time, and so many in all."""

    def __init__(self, room: int) -> None:
        self.room, self.content = room, b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if len(self.content) >= self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = bytes(data[: min(7, self.room - len(self.content))])
        self.content += taken
        return len(taken)


def test_files_that_take_a_part_are_given_the_rest() -> None:
    obj = {"x": tl.arange(10), "y": [1]}
    slow = Failing(10**6)
    tl.save(obj, slow)
    assert slow.content == saved(obj)


@pytest.mark.parametrize("room", [0, 5, 100, 300])
def test_a_full_disk_leaves_the_old_file(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    tl.save([1], path)
    before = path.read_bytes()
    real = Path.open

    class Full(Failing):
        def fileno(self) -> int:
            raise AssertionError("made durable though it is not whole")

    def opened(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode != "xb":
            return real(self, mode, *args, **options)
        real(self, mode, *args, **options).close()
        return Full(room)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match=r"save: No space left on device; what was there before is unchanged.*f'") as info:
        tl.save({"x": tl.ones(1000)}, path)
    assert info.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert path.read_bytes() == before and names(tmp_path) == ["f"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tl.save([1], tmp_path / "f")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tl.save([2], tmp_path / "f")
    assert tl.load(tmp_path / "f") == [1] and names(tmp_path) == ["f"]


def test_the_file_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the new file, then the new name, then fsync of the folder."""
    seen: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (seen.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink()}"), fsync(fd))
    )
    monkeypatch.setattr(Path, "replace", lambda self, to: (seen.append("rename"), replace(self, to)))
    tl.save([1], tmp_path / "f")
    assert [line.split("/")[0] for line in seen] == ["fsync ", "rename", "fsync "]
    assert seen[0].endswith(".tmp") and seen[2] == f"fsync {tmp_path}"


def packs(weight: tl.Tensor) -> bool:
    """Whether products keep a packed copy of it, which they do only where nobody was given its address."""
    x, before = tl.ones(1, 512), tl.memory.allocated()
    for _ in range(3):
        x @ weight.T
    return tl.memory.allocated() - before > 1_000_000


def test_neither_saving_nor_loading_gives_addresses_away() -> None:
    weight = tl.randn(512, 512)
    found = again([weight], checksums=True)[0]
    assert packs(found) and packs(weight)
    other = tl.randn(512, 512)
    other.numpy()
    assert not packs(other)


# ---- mapped ----


def test_a_mapped_file_is_not_changed_by_writing_to_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "f"
    tl.save({"x": tl.ones(5000), "y": tl.ones(3, dtype=tl.bool)}, path)
    before = path.read_bytes()
    found = tl.load(path, mmap=True)
    found["x"].mul_(3)
    found["x"].requires_grad_().square().sum().backward()
    assert found["x"].sum().item() == 15000.0 and found["x"].grad.sum().item() == 30000.0
    path.unlink()
    tl.save([1], path)
    assert found["y"].tolist() == [True] * 3  # of the file that was mapped
    assert len(before) > 20000
    tl.save({"x": tl.ones(5000), "y": tl.ones(3, dtype=tl.bool)}, path)
    assert path.read_bytes() == before


def test_mapped_tensors_at_odd_addresses(tmp_path: Path) -> None:
    entries = {"a": ("U8", [1], [0, 1]), "b": ("F32", [2], [1, 9])}
    head = json.dumps(
        {k: dict(zip(("dtype", "shape", "data_offsets"), v, strict=True)) for k, v in entries.items()}
    ).encode()
    data = b"\x05" + np.array([1.5, 2.5], "<f4").tobytes()
    (tmp_path / "f").write_bytes(len(head).to_bytes(8, "little") + head + data)
    assert tl.load(tmp_path / "f", mmap=True)["b"].tolist() == tl.load(tmp_path / "f")["b"].tolist() == [1.5, 2.5]


def test_other_devices() -> None:
    x = tl.arange(3, device="reference")
    content = saved({"x": x, "same": x, "part": x[1:], "wide": tl.ones(2, device="reference").expand(3, 2)})
    found = tl.load(io.BytesIO(content))
    assert found["x"].device.type == "cpu" and found["part"].tolist() == [1, 2] and found["wide"].shape == (3, 2)
    there = tl.load(io.BytesIO(content), map_location="reference")
    assert there["x"].device.type == "reference" and there["part"].tolist() == [1, 2]


def test_memory_stays_below_twice_the_files_size(tmp_path: Path) -> None:
    """In a process of its own: address space may grow by 1.5 times the file while it loads."""
    tl.save({"x": tl.zeros(25_000_000), "y": [tl.ones(1), 1]}, tmp_path / "f", sync=False)
    code = """
import resource, sys
import tensorlib as tl
tl.io
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
tl.load(sys.argv[1])
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "f"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(done.stdout) < 1.2 * 100_000_000
