"""PyTorch's zip files without PyTorch: programs written opcode by opcode, files that torch made, and whatever an attacker may think of."""

from __future__ import annotations

import io
import itertools
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tests.sources import ROOT

FILES = Path(__file__).parent / "files"


def archive(records: dict[str, bytes], **how: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **how) as made:
        for name, content in records.items():
            made.writestr(f"x/{name}", content)
    return file.getvalue()


def packed(program: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """A file of one program of protocol 2, which ends with STOP."""
    parts = {f"data/{key}": content for key, content in (storages or {}).items()}
    return archive({"data.pkl": b"\x80\x02" + program + b".", "byteorder": b"little", **parts, "version": b"3\n"})


def read(content: bytes) -> Any:
    return tl.io.read_torch_file(io.BytesIO(content))


def refused(content: bytes, words: str) -> None:
    with pytest.raises(tl.CheckpointError, match=words):
        read(content)


# ---- what programs say ----
def text(s: str) -> bytes:
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n) if abs(n) < 1 << 31 else b"\x8a\x08" + struct.pack("<q", n)


def sizes(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module: str, own: str) -> bytes:
    return f"c{module}\n{own}\n".encode()


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 6) -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cuda:0") + number(numel) + b"tQ"


NO_HOOKS = name("collections", "OrderedDict") + b")R"


def tensor(
    shape: bytes = sizes(2, 3), strides: bytes = sizes(3, 1), offset: int = 0, grad: bytes = b"\x89", of: bytes | None = None,
    hooks: bytes = NO_HOOKS, more: bytes = b"",
) -> bytes:  # fmt: skip
    given = (storage() if of is None else of) + number(offset) + shape + strides + grad + hooks + more
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + given + b"tR"


SIX = {"0": np.arange(6, dtype="<f4").tobytes()}
PLAIN = {
    "none": (b"N", None), "true": (b"\x88", True), "false": (b"\x89", False), "byte": (b"K\xff", 255), "short": (b"M\1\2", 513),
    "int": (b"J\xff\xff\xff\xff", -1), "long": (b"\x8a\x02\0\xff", -256), "no bytes": (b"\x8a\0", 0), "long4": (b"\x8b\1\0\0\0\x07", 7),
    "float": (b"G\x3f\xe0" + bytes(6), 0.5), "text": (text("é"), "é"), "text8": (b"\x8d\1" + bytes(7) + b"a", "a"),
    "short text": (b"\x8c\1a", "a"), "bytes": (b"C\1\xff", b"\xff"), "bytes4": (b"B\1\0\0\0\xff", b"\xff"),
    "bytes8": (b"\x8e\1" + bytes(7) + b"a", b"a"), "encoded": (name("_codecs", "encode") + text("é") + text("latin1") + b"\x86R", b"\xe9"),
    "tuples": (b"()\x85N)\x86NN)\x87t", (((),), (None, ()), (None, None, ()))), "list": (b"](K\1K\2eK\3a", [1, 2, 3]),
    "dict": (b"}(K\1NG" + bytes(8) + b"NNNu" + text("a") + b"Ns", {1: None, 0.0: None, None: None, "a": None}),
    "memo": (b"(]q\0(h\0j\0\0\0\0tr\x01\0\0\0h\1t", ([], ([], []), ([], []))), "memoize": (b"]\x94h\0\x86", ([], [])),
    "ordered": (NO_HOOKS + text("a") + b"K\1s", OrderedDict(a=1)), "size": (name("torch", "Size") + sizes(2, 3) + b"\x85R", (2, 3)),
    "counter": (name("collections", "Counter") + b"}(K\2K\1u\x85R", Counter({2: 1})), "dtype": (name("torch", "bfloat16"), tl.bfloat16),
    "stack name": (text("torch") + text("int8") + b"\x93", tl.int8), "frame": (b"\x95" + struct.pack("<Q", 2) + b"N", None),
}  # fmt: skip


@pytest.mark.parametrize("what", PLAIN)
def test_plain_values(what: str) -> None:
    program, expected = PLAIN[what]
    got = read(packed(program))
    assert got == expected and type(got) is type(expected)


def test_a_tensor() -> None:
    got = read(packed(tensor(), SIX))
    assert got.dtype is tl.float32 and got.tolist() == [[0, 1, 2], [3, 4, 5]] and not got.requires_grad
    assert read(packed(tensor(sizes(2), sizes(3), 2, b"\x88"), SIX)).requires_grad
    assert not read(
        packed(tensor(sizes(3), sizes(1), 0, b"\x88", storage("ComplexFloatStorage", numel=3)), SIX)
    ).requires_grad
    assert read(packed(tensor(sizes(2), sizes(3), 2), SIX)).tolist() == [2, 5]
    assert read(packed(tensor(sizes(), sizes(), 5), SIX)).item() == 5
    assert read(packed(tensor(sizes(4, 2), sizes(0, 1)), SIX)).tolist() == [[0, 1]] * 4
    assert read(packed(tensor(sizes(0, 3), sizes(3, 1), 6, hooks=b"N", more=b"N"), SIX)).shape == (0, 3)


def test_shared_memory_is_shared() -> None:
    a, b = read(packed(b"(" + tensor() + tensor(sizes(3), sizes(2), 1) + b"t", SIX))
    a[0, 1] = 9.0
    assert b.tolist() == [9, 3, 5]
    one, same = read(packed(b"(" + tensor() + b"q\0h\0t", SIX))
    assert one is same


def test_versions_of_modules_are_kept() -> None:
    about = b"}(" + text("_metadata") + NO_HOOKS + text("0") + b"}" + text("version") + b"K\2ssub"
    assert read(packed(NO_HOOKS + about))._metadata == {"0": {"version": 2}}


# ---- files that torch made ----
@pytest.mark.parametrize("file", ["values.pt", "values4.pt"])
def test_values_that_torch_wrote(file: str) -> None:
    got = tl.io.read_torch_file(FILES / file)
    assert list(got) == ["dtypes", "views", "tied", "parameter", "leaf", "plain", 3]
    for dtype, x in got["dtypes"].items():
        assert getattr(x.dtype, "name", x.dtype) == dtype
        assert x.tolist() == ([False, True, True] if dtype == "bool" else [0, 1, 2])
    table = np.arange(12.0).reshape(4, 3)
    views = [table, table.T, table[1:, ::2], table[2], table[:0], table[0, 0], np.broadcast_to(table[0], (2, 3))]
    for x, expected in zip(got["views"], views, strict=True):
        np.testing.assert_array_equal(x.numpy(), expected)
    got["tied"][0][3, 2] = -1.0
    assert got["tied"][1][3, 2] == got["views"][1][2, 3] == -1
    assert got["parameter"].requires_grad and got["leaf"].requires_grad and got["leaf"].tolist() == [0, 1]
    assert got["plain"] == [
        None, True, False, -1, 300, 70000, 1 << 40, -(1 << 70), 0.5, "é\n", b"\0\xff", (2, 3), tl.bfloat16
    ]  # fmt: skip
    assert got[3]["empty"][:3] == [(), [], {}] and got[3]["empty"][3].shape == (0,)


def test_training_goes_on_from_what_torch_wrote() -> None:
    got = tl.io.read_torch_file(FILES / "training.pt")
    model = tl.nn.Sequential(tl.nn.Linear(3, 2), tl.nn.BatchNorm1d(2))
    model.load_state_dict(got["model"])
    optimizer = tl.optim.AdamW(model.parameters(), lr=1, amsgrad=True)
    optimizer.load_state_dict(got["optimizer"])
    schedule = tl.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    schedule.load_state_dict(got["schedule"])
    assert optimizer.param_groups[0]["lr"] == 0.25 and schedule.milestones == Counter([2, 4]) and got["step"] == 1
    assert model[1].num_batches_tracked.item() == 1 and got["model"]._metadata["1"] == {"version": 2}
    np.testing.assert_array_equal(model[0].weight.detach().numpy(), got["model"]["0.weight"].numpy())


OTHERS = {
    "module.pt": r"asks for torch\.nn\.modules\.linear\.Linear.*\n  hint: save state_dict\(\) of modules",
    "legacy.pt": r"format of PyTorch before 1\.6.*\n  hint: load it in PyTorch and save it again",
    "script.pt": r"is a TorchScript archive, which holds a program.*\n  hint: save state_dict\(\) of the module",
    "make_torch_files.py": 'begins with b\'"""Wrote\'; expected the zip archive',
}


@pytest.mark.parametrize("file", OTHERS)
def test_what_else_torch_writes(file: str) -> None:
    with pytest.raises(tl.CheckpointError, match=rf"read_torch_file: .*{re.escape(file)}: .*{OTHERS[file]}"):
        tl.io.read_torch_file(FILES / file)


# ---- hostile programs ----
BIG, RAW = 1 << 62, storage("UntypedStorage", numel=24)
HOSTILE = {
    "system": (name("os", "system") + text("true") + b"\x85R", r"asks for os\.system, which is not among"),
    "eval": (text("builtins") + text("eval") + b"\x93" + text("1") + b"\x85R", r"asks for builtins\.eval"),
    "nested name": (text("torch") + text("_utils.os.system") + b"\x93", r"asks for torch\._utils\.os\.system"),
    "Linear": (name("torch.nn.modules.linear", "Linear") + b")\x81", r"asks for torch\.nn\.modules\.linear\.Linear"),
    "sparse": (name("torch._utils", "_rebuild_sparse_tensor"), "asks for torch._utils._rebuild_sparse_tensor"),
    "name no string": (b"K\1" + text("x") + b"\x93", "a name is no string"), "name without end": (b"c" + b"a" * 1100, "a name does not end"),
    "NEWOBJ": (name("collections", "OrderedDict") + b")\x81", r"opcode 0x81 \(NEWOBJ\) is not read"),
    "INST": (b"(ios\nsystem\n", r"\(INST\) is not read"), "OBJ": (b"(" + name("collections", "OrderedDict") + b"o", r"\(OBJ\) is not read"),
    "EXT1": (b"\x82\1", r"\(EXT1\) is not read"), "DUP": (b"]2", r"\(DUP\) is not read"), "PERSID": (b"P0\n", r"\(PERSID\) is not read"),
    "old int": (b"I1\n", r"opcode 0x49 \(unknown\)"), "unknown": (b"\xff", r"opcode 0xff \(unknown\)"),
    "BUILD on a list": (b"]}b", "attributes are set on a list, expected a OrderedDict"),
    "BUILD on a dict": (b"}}b", "attributes are set on a dict, expected a OrderedDict"),
    "BUILD on a tensor": (tensor() + b"}b", "attributes are set on a Tensor"),
    "BUILD others": (NO_HOOKS + b"}" + text("keys") + b"Nsb", "expected the _metadata of a state_dict alone"),
    "BUILD numbers": (NO_HOOKS + b"}" + text("_metadata") + b"K\1sb", "expected the _metadata of a state_dict alone"),
    "REDUCE a list": (b"])R", "a list is called"), "REDUCE a dtype": (name("torch", "int8") + b")R", "a DType is called"),
    "REDUCE no tuple": (name("collections", "OrderedDict") + b"]R", "a Maker is called"), "underflow": (b"a", "empty stack"),
    "underflow 2": (b"K\1(\x86", "empty stack"), "underflow 3": (b"", "empty stack"), "no mark": (b"]e", "no mark"),
    "odd items": (b"}(K\1u", "a key has no value"), "append to a dict": (b"}K\1a", "values are appended to a dict, expected a list"),
    "set in a list": (b"]K\1K\1s", "items are set in a list, expected a dict"), "unhashable": (b"}]Ns", "a key of a dict is a list"),
    "tuple key": (b"})Ns", "a key of a dict is a tuple"), "long key": (b"}\x8a\x0a" + b"\1" * 10 + b"Ns", "number up to 64 bits"),
    "get": (b"h\0", "value 0 is asked for, 0 are remembered"),
    "put far": (b"Nr\xff\xff\xff\xff", "value 4294967295 is remembered as the next after 0"), "put nothing": (b"q\0", "empty stack"),
    "long text": (b"X\xff\xff\xff\xff", r"cut off: 4294967295 bytes expected, \d+ are left"), "text8": (b"\x8d" + b"\xff" * 8, "cut off"),
    "not UTF-8": (b"X\1\0\0\0\xff", "a string is not UTF-8"),
    "long integer": (b"\x8b\xff\xff\xff\x7f", "an integer of 2147483647 bytes is not read"),
    "negative long": (b"\x8b\xff\xff\xff\xff", "is not read"), "frame": (b"\x95" + b"\xff" * 8, "a frame is longer"),
    "two protocols": (b"\x80\x02N", "once, got protocol 2"), "two values": (b"NN", "there are further values"),
    "open mark": (b"(N", "empty stack|further values"), "behind": (b"N.N", "further values or bytes"),
    "itself": (b"]q\0h\0a", "a container contains itself"), "in a dict": (b"}q\0K\1](h\0es", "a container contains itself"),
    "around": (b"]q\0(]h\0ae", "a container contains itself"), "a maker": (name("collections", "OrderedDict"), "holds a Maker by itself"),
    "a storage": (b"]" + storage() + b"a", "holds a _Storage by itself"), "a kind": (name("torch", "FloatStorage"), "holds a _Kind by itself"),
    "deep lists": (b"]" * 70 + b"a" * 69, "nested deeper than 64"), "deep tuples": (b")" + b"\x85" * 70, "nested deeper than 64"),
    "deep shared": (b"]" + b"q\0h\0\x86" * 70, "nested deeper than 64"),
    "counter": (name("collections", "Counter") + b"}" + text("a") + b"]s\x85R", "a Counter is not made of a dict of integers"),
    "ordered": (name("collections", "OrderedDict") + b"]\x85R", "an OrderedDict is not made as"),
    "size": (name("torch", "Size") + b"K\1\x85R", "a torch.Size"),
    "encoding": (name("_codecs", "encode") + text("a") + text("rot13") + b"\x86R", "bytes are not described"),
    "not latin": (name("_codecs", "encode") + text("日") + text("latin1") + b"\x86R", "bytes are not described"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_programs(what: str) -> None:
    refused(packed(HOSTILE[what][0], SIX), HOSTILE[what][1])


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    harmful = pickle.dumps({"x": [Harm(tmp_path / "harm")]}, protocol)
    pickle.loads(harmful)
    (tmp_path / "harm").unlink()
    refused(
        archive({"data.pkl": harmful}),
        r"asks for pathlib\.Path|asks for builtins.getattr|asks for __builtin__|expected a pickle of protocol 2 to 5",
    )
    assert not list(tmp_path.iterdir())


TENSORS = {
    "past the end": (tensor(sizes(2, 4), sizes(3, 1)), "passes the end of its storage of 6 elements"),
    "offset": (tensor(sizes(1), sizes(1), 6), "passes the end"), "empty past the end": (tensor(sizes(0), sizes(1), 7), "passes the end"),
    "negative offset": (tensor(offset=-1), "sizes, strides and offset are not"),
    "negative stride": (tensor(strides=sizes(3, -1)), "strides and offset"), "negative size": (tensor(sizes(-1, 3)), "strides and offset"),
    "huge": (tensor(sizes(BIG, BIG), sizes(0, 0)), "beyond 63 bits"), "overflow": (tensor(sizes(2, 2), sizes(BIG, BIG)), "passes the end"),
    "ranks differ": (tensor(sizes(2)), "strides and offset"), "rank": (tensor(sizes(*[1] * 17), sizes(*[1] * 17)), "strides and offset"),
    "sizes no tuple": (tensor(b"]"), "strides and offset"), "true as size": (tensor(b"\x88\x85", sizes(1)), "strides and offset"),
    "no storage": (tensor(of=b"N"), "a tensor is not described"),
    "too few": (name("torch._utils", "_rebuild_tensor_v2") + b")R", "a tensor is not described"),
    "hooks": (tensor(hooks=b"]"), "is not described"), "tensor as hooks": (tensor(hooks=tensor()), "is not described"),
    "too many": (tensor(more=b"NN"), "is not described"),
    "conjugated": (tensor(more=b"}" + text("conj") + b"\x88s"), r"conjugated or negated view.\n  hint: save resolve_conj"),
    "grad": (tensor(grad=b"K\1"), "no float is said to require"), "class": (tensor(of=storage("QInt8Storage")), "asks for torch.QInt8Storage"),
    "grad of integers": (tensor(of=storage("IntStorage"), grad=b"\x88"), "no float is said to require a gradient"),
    "numel": (tensor(of=storage(numel=5)), "record 'data/0' has 24 bytes, expected 20"),
    "numel < 0": (tensor(of=storage(numel=-6)), "a storage is not"),
    "dtype": (tensor(of=storage("DoubleStorage")), "record 'data/0' has 24 bytes, expected 48"),
    "no record": (tensor(of=storage(key="1")), "is not in the archive"),
    "path": (tensor(of=storage(key="../../etc/passwd")), "record 'data/../../etc/passwd' is not in the archive"),
    "two dtypes": (b"(" + tensor() + tensor(of=storage("IntStorage")) + b"t", "storage 'data/0' is described in two ways"),
    "bool": (tensor(of=storage("BoolStorage", numel=24)), "neither true nor false"),
    "untyped": (tensor(of=RAW), "its storage's dtype"),
    "v3 typed": (tensor(more=name("torch", "uint16")).replace(b"_v2", b"_v3"), "its storage's dtype"),
    "v3 float": (tensor(of=RAW, more=name("torch", "float32")).replace(b"_v2", b"_v3"), "its storage's dtype"),
    "v3 past": (tensor(sizes(4), sizes(4), of=RAW, more=name("torch", "uint16")).replace(b"_v2", b"_v3"), "passes the end"),
    "id": (b"K\1Q", "a storage is not described"), "id of lists": (b"(" + b"]" * 5 + b"tQ", "a storage is not described"),
    "parameter": (name("torch._utils", "_rebuild_parameter") + b"(]\x88" + NO_HOOKS + b"tR", "a parameter is not described"),
}  # fmt: skip


@pytest.mark.parametrize("what", TENSORS)
def test_wrong_tensors(what: str) -> None:
    program, words = TENSORS[what]
    refused(packed(program, SIX), f"data.pkl, byte [0-9]+: .*{words}")


BOMBS = {
    "lists": b"(" + b"]" * 1_000_000 + b"t", "marks": b"(" * 3_000_000,
    "bytes": b"]" + name("_codecs", "encode") + b"q\0" + text("a" * 100_000) + text("latin1") + b"\x86q\1" + b"h\0h\1R" * 1_000,
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_objects_are_bounded_by_the_size_of_the_file(what: str) -> None:
    refused(packed(BOMBS[what]), "makes more and larger objects than a file of this size needs")


def test_sharing_is_no_bomb() -> None:
    """2^50 leaves, but only 50 lists: each is looked at once."""
    value = read(packed(b"(]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(50)) + b"t"))
    assert len(value) == 51 and all(pair[0] is pair[1] is below for below, pair in itertools.pairwise(value))


# ---- damaged and hostile archives ----
WHOLE = packed(tensor(), SIX)


def test_every_truncation_and_addition_is_named() -> None:
    for n in range(len(WHOLE)):
        refused(WHOLE[:n], "cut off|begins with|has a d")
    refused(WHOLE + b"\0", "does not end as a zip archive")
    refused(b"\0" + WHOLE, "begins with")


def test_every_flipped_bit_of_the_data_is_found() -> None:
    for content in (SIX["0"], b"little", b"\x80\x02c"):
        begin = WHOLE.index(content)
        for bit in range(8 * len(content)):
            changed = bytearray(WHOLE)
            changed[begin + bit // 8] ^= 1 << bit % 8
            refused(bytes(changed), "does not have its checksum: it is damaged")


def test_every_changed_byte_is_refused_or_harmless() -> None:
    for at in range(len(WHOLE)):
        for value in (0, 255, WHOLE[at] ^ 1):
            try:
                got = read(WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :])
            except tl.CheckpointError:
                continue
            assert got.tolist() == [[0, 1, 2], [3, 4, 5]]  # a date or a flag that says nothing


def test_hostile_archives() -> None:
    program = {"data.pkl": b"\x80\x02N."}
    refused(
        archive(program, compression=zipfile.ZIP_DEFLATED),
        "record 'data.pkl' is compressed.*\n  hint: load it in PyTorch",
    )
    refused(archive({"other": b""}), "a zip archive without data.pkl")
    refused(archive({**program, "byteorder": b"big"}), "not written on a little-endian machine")
    refused(archive({**program, "version": b"x"}), "no number as its version")
    refused(b"PK\5\6" + bytes(18), "begins with")
    refused(b"\x80\x02N.", "is a bare pickle")
    refused(b"", "begins with b''")
    refused(bytes(257) + b"ustar", r"format of PyTorch before 1\.6")
    for odd in ("../../x", "data\\0", "é", "\n"):
        refused(archive({**program, odd: b""}), "has a name that PyTorch gives to none")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("x/data.pkl", b"\x80\x02N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("x/data.pkl", b"\x80\x02N.")
    refused(file.getvalue(), "record 'data.pkl' is there twice")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("x/data.pkl", b"\x80\x02N.")
        made.writestr("y/data", b"")
    refused(file.getvalue(), "record b'y/data' has a name")


def directory(*entries: tuple[str, int, int], before: bytes) -> bytes:
    """An archive whose directory says (name, offset, size) of records, whatever is there."""
    made = b"".join(
        struct.pack("<4s12xIIIH12xI", b"PK\1\2", 0, size, size, len(own), offset) + own.encode()
        for own, offset, size in entries
    )
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(entries), len(entries), len(made), len(before), 0)
    return before + made + end


def test_records_that_overlap_or_are_elsewhere() -> None:
    one = archive({"data.pkl": b"\x80\x02N."})
    before = one[: one.index(b"PK\1\2")]
    refused(directory(("x/data.pkl", 0, 4), ("x/data/0", 0, 4), before=before), "overlaps the next one")
    refused(directory(("x/data.pkl", 0, 4000), before=before), "overlaps the next one, or the file is cut off")
    refused(directory(("x/data.pkl", 0, 0xFFFFFFFF), before=before), "overlaps")
    refused(
        directory(("x/data.pkl", 1, 3), before=before), "record 'data.pkl' is not where the directory says|overlaps"
    )
    refused(directory(("x/data.pk1", 0, 4), before=before), "without data.pkl")
    refused(
        directory(("x/data.pkl", 0, 4), before=before.replace(b"x/data", b"y/data")), "has another name where it lies"
    )
    whole = bytearray(directory(("x/data.pkl", 0, 4), before=before))
    whole[-12:-10] = b"\xff\xff"
    refused(bytes(whole), "of one part")


def test_large_archives_have_a_second_ending() -> None:
    at = WHOLE.index(b"PK\1\2")
    end = len(WHOLE) - 22
    count, length = struct.unpack_from("<HI", WHOLE, end + 10)
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, at)
    wide += struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert read(WHOLE[:end] + wide + last).shape == (2, 3)
    refused(WHOLE[:end] + wide.replace(b"PK\6\6", b"PK\6\5") + last, "has a damaged ending")


def test_files_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(WHOLE)
    for where in (path, str(path), path.open("rb")):
        assert tl.io.read_torch_file(where, "cpu").shape == (2, 3)
        if hasattr(where, "close"):
            where.close()
    with pytest.raises(FileNotFoundError, match="absent"):
        tl.io.read_torch_file(tmp_path / "absent")
    path.write_bytes(WHOLE[:-1])
    with pytest.raises(RuntimeError, match=r"read_torch_file: .*x\.pt: does not end"):
        tl.io.read_torch_file(path)
    with path.open("rb") as file, pytest.raises(ValueError, match=r"read_torch_file: .*x\.pt: does not end"):
        tl.io.read_torch_file(file)


def test_neither_pickle_nor_zipfile_is_loaded() -> None:
    code = (
        "import sys, tensorlib as tl\nbefore = set(sys.modules)\n"
        f"tl.io.read_torch_file({str(FILES / 'values.pt')!r})\nnew = set(sys.modules) - before\n"
        "assert not new & {'pickle', '_pickle', 'pickletools', 'shelve', 'dill'}, new\nprint('fine')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "fine\n"
    for source in ("opcodes.py", "torch_files.py"):
        assert not re.search(
            r"import.*pickle|eval\(|exec\(|getattr\((?!f,)|__import__", (ROOT / "tensorlib" / "io" / source).read_text()
        )


@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
def test_load_knows_these_files(mapped: bool, tmp_path: Path) -> None:
    got = tl.load(FILES / "values.pt", mmap=mapped)
    assert got["dtypes"]["bfloat16"].tolist() == [0, 1, 2] and got["dtypes"]["uint16"].tolist() == [0, 1, 2]
    got["views"][0][0, 1] = 7.0
    assert got["tied"][1][0, 1] == 7 and tl.load(FILES / "values.pt")["tied"][1][0, 1] == 1
    with pytest.raises(tl.CheckpointError, match=r"load: .*legacy\.pt: has the format of PyTorch before 1\.6"):
        tl.load(FILES / "legacy.pt", mmap=mapped)
    (tmp_path / "x").write_bytes(b"before" + WHOLE)
    with (tmp_path / "x").open("rb") as file:
        file.seek(6)
        assert tl.load(file).shape == (2, 3)


# ---- mutations ----
def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: bytes and bits changed, parts cut, doubled or moved, words of the format put in."""
    words = [
        b".",
        b"R",
        b"(",
        b"t",
        b"b",
        b"Q",
        b"h\0",
        b"q\0",
        b"\x81",
        b"cos\nsystem\n",
        b"PK\1\2",
        b"PK\3\4",
        bytes(8),
        b"\xff" * 8,
        b"\x7f\xff",
    ]
    made = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, n, kind = int(rng.integers(len(made) + 1)), int(rng.integers(1, 17)), rng.integers(6)
        if kind == 0:
            made[at : at + 1] = bytes([rng.integers(256)])
        elif kind == 1 and at < len(made):
            made[at] ^= 1 << rng.integers(8)
        elif kind == 2:
            del made[at : at + n]
        elif kind == 3:
            made[at:at] = made[at : at + n]
        elif kind == 4:
            word = words[rng.integers(len(words))]
            made[at : at + len(word)] = word
        else:
            made[at : at + n] = rng.integers(0, 256, n, np.uint8).tobytes()
    return bytes(made)


def mended(content: bytes, program: bytes) -> bytes:
    """The file with another program under a right checksum: what a forger would write, not what decay makes."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        records = {n.split("/", 1)[1]: old.read(n) for n in old.namelist()}
    return archive({**records, "data.pkl": program})


def program_of(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        return old.read(next(n for n in old.namelist() if n.endswith("data.pkl")))


def survive(number: int, seed: int) -> int:
    """Reads mutated files; how many were read all the same."""
    rng = np.random.default_rng(seed)
    wholes = [WHOLE, *((FILES / file).read_bytes() for file in ("values.pt", "values4.pt", "training.pt"))]
    programs = [program_of(whole) for whole in wholes]
    fine = 0
    for i in range(number):
        k = i // 2 % len(wholes)
        made = mended(wholes[k], mutated(programs[k], rng)) if i % 2 else mutated(wholes[k], rng)
        try:
            tl.io.read_torch_file(io.BytesIO(made))
            fine += 1
        except tl.CheckpointError:
            pass
    return fine


def test_mutated_files_are_read_or_refused(seed: int) -> None:
    assert 0 < survive(1000, seed) < 500


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_mutated_files_are_read_or_refused(part: int, seed: int) -> None:
    assert 0 < survive(10_000, seed) < 5000
