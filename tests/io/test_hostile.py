"""Files that nobody vouches for: whatever is wrong with them is a CheckpointError that says what, and nothing else happens."""

from __future__ import annotations

import io
import json
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.io import structure


def file(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header (JSON, or text as it is), whatever they say."""
    text = (
        header
        if isinstance(header, bytes)
        else header.encode()
        if isinstance(header, str)
        else json.dumps(header).encode()
    )
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def told(content: Any, tensors: dict[str, Any] | None = None, data: bytes = b"", version: Any = 1) -> bytes:
    """A file with this structure."""
    document = content if isinstance(content, str) else json.dumps({"version": version, "content": content})
    return file({"__metadata__": {"tensorlib": document}, **(tensors or {})}, data)


FOUR = {"x": entry("F32", [4], [0, 16])}
BYTES = np.arange(4, dtype="<f4").tobytes()
A = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

FORMAT = {
    "empty": (b"", "0 bytes, expected at least 8"),
    "seven-bytes": (b"\x00" * 7, "7 bytes, expected at least 8"),
    "no-header": (b"\x00" * 8, "does not begin with '{'"),
    "length-beyond-limit": (file(b"{}", length=10**8 + 1), "its header would have 100000001 bytes, at most 100000000"),
    "length-of-all-bits": (b"\xff" * 100, "at most 100000000 are allowed"),
    "length-beyond-file": (file(b"{}", length=3), "the file is cut off: its header has 3 bytes, 2 are there"),
    "space-first": (file(b" {}"), "does not begin with '{'"),
    "list": (file(b"[]"), "does not begin with '{'"),
    "not-closed": (file(b"{"), "expected a string at byte 1"),
    "trailing-comma": (file("{" + A + ",}", b"abcd"), "expected a string"),
    "no-comma": (file("{" + A + A + "}", b"abcd"), "expected ',' at byte"),
    "after-the-end": (file("{" + A + "} {}", b"abcd"), "goes on after its end"),
    "zero-padding": (file(b"{}\x00"), "goes on after its end"),
    "twice": (file("{" + A + "," + A + "}", b"abcd"), "the header has 'a' twice"),
    "twice-escaped": (file("{" + A + "," + A.replace('"a"', '"\\u0061"') + "}", b"abcd"), "the header has 'a' twice"),
    "metadata-twice": (file('{"__metadata__":{},"__metadata__":{}}'), '"__metadata__" twice'),
    "metadata-key-twice": (file('{"__metadata__":{"a":"","a":""}}'), "the header has 'a' twice"),
    "metadata-no-string": (file('{"__metadata__":{"a":1}}'), "expected a string"),
    "metadata-nested": (file('{"__metadata__":{"a":{}}}'), "expected a string"),
    "metadata-list": (file('{"__metadata__":[]}'), "expected '{'"),
    "field-twice": (file('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"abcd"), "something else than dtype"),
    "field-missing": (file({"a": {"dtype": "F32", "shape": [1]}}, b"abcd"), "something else than dtype"),
    "field-too-many": (file({"a": {**entry(), "x": 1}}, b"abcd"), "something else than dtype"),
    "no-object": (file('{"a":1}'), "no valid JSON where it describes 'a'"),
    "string-not-closed": (file('{"a'), "expected a string"),
    "string-control": (file('{"a\n":1}'), "invalid string"),
    "string-escape": (file(r'{"\x61":1}'), "invalid string"),
    "string-utf8": (file(b'{"\xff":1}'), "invalid string"),
    "string-surrogate-utf8": (file(b'{"\xed\xa0\x80":1}'), "invalid string"),
    "deep": (file('{"a":' + "[" * 100_000), "no valid JSON"),
    "deep-objects": (file('{"a":' * 100_000), "no valid JSON"),
    "deep-closed": (file('{"a":' + "[" * 900 + "}"), "no valid JSON"),
    "dtype-unknown": (file({"a": entry("F8_E4M3")}, b"abcd"), "has dtype 'F8_E4M3', which has no counterpart here"),
    "dtype-number": (file({"a": entry(7)}, b"abcd"), "has dtype 7"),
    "dtype-list": (file({"a": entry(["F32"])}, b"abcd"), "has dtype"),
    "dtype-case": (file({"a": entry("f32")}, b"abcd"), "has dtype 'f32'"),
    "shape-bool": (file({"a": entry(shape=[True])}, b"abcd"), "shape .True., expected a list of integers from 0 on"),
    "shape-float": (file({"a": entry(shape=[1.0])}, b"abcd"), "expected a list of integers"),
    "shape-negative": (file({"a": entry(shape=[-1])}, b"abcd"), "expected a list of integers from 0"),
    "shape-string": (file({"a": entry(shape="1")}, b"abcd"), "expected a list of integers"),
    "shape-null": (file({"a": entry(shape=None)}, b"abcd"), "expected a list of integers"),
    "shape-huge": (file({"a": entry(shape=[2**63])}, b"abcd"), "expected a list of integers"),
    "shape-digits": (file('{"a":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,4]}}', b"abcd"), "no valid JSON where"),
    "shape-product": (file({"a": entry(shape=[2**40, 2**40])}, b"abcd"), "beyond 63 bits"),
    "shape-product-zero": (file({"a": entry(shape=[2**40, 0, 2**40], offsets=[0, 0])}), "beyond 63 bits"),
    "shape-17": (file({"a": entry(shape=[1] * 17)}, b"abcd"), "17 dimensions, at most 16"),
    "offsets-nan": (file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,NaN]}}', b"abcd"), "data_offsets .0, nan., expected a list"),
    "offsets-infinite": (file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}}', b"abcd"), "expected a list of integers"),
    "offsets-bool": (file({"a": entry("U8", [1], [False, True])}, b"a"), "expected a list of integers"),
    "offsets-negative": (file({"a": entry(offsets=[-4, 0])}, b"abcd"), "expected a list of integers from 0"),
    "offsets-one": (file({"a": entry(offsets=[0])}, b"abcd"), "has 1 data_offsets, expected 2"),
    "offsets-three": (file({"a": entry(offsets=[0, 4, 8])}, b"abcd"), "has 3 data_offsets, expected 2"),
    "offsets-reversed": (file({"a": entry(offsets=[4, 0])}, b"abcd"), "has -4 bytes, its shape"),
    "offsets-beyond": (file({"a": entry(offsets=[0, 4])}, b"abc"), "the file is cut off: its tensors have 4 bytes, 3 follow"),
    "offsets-far-beyond": (file({"a": entry("U8", [2**62], [0, 2**62])}, b"abc"), "the file is cut off"),
    "size": (file({"a": entry(shape=[2])}, b"abcd"), r"'a' has 4 bytes, its shape \(2,\) of F32 needs 8"),
    "size-scalar": (file({"a": entry(shape=[], offsets=[0, 0])}), "has 0 bytes, its shape .. of F32 needs 4"),
    "size-empty": (file({"a": entry(shape=[0])}, b"abcd"), "needs 0"),
    "hole-first": (file({"a": entry(offsets=[4, 8])}, b"abcdabcd"), "begins at byte 4, not 0: it leaves a hole after the beginning"),
    "hole": (file({"a": entry(), "b": entry(offsets=[8, 12])}, b"abcd" * 3), "'b' begins at byte 8, not 4: it leaves a hole after 'a'"),
    "hole-empty": (file({"a": entry(), "b": entry(shape=[0], offsets=[5, 5])}, b"abcd"), "leaves a hole"),
    "overlap": (file({"a": entry(), "b": entry(offsets=[2, 6])}, b"abcdab"), "'b' begins at byte 2, not 4: it overlaps 'a'"),
    "same-bytes": (file({"a": entry(), "b": entry()}, b"abcd"), "it overlaps"),
    "empty-inside": (file({"a": entry(), "b": entry(shape=[0], offsets=[2, 2])}, b"abcd"), "it overlaps"),
    "data-left": (file({"a": entry()}, b"abcde"), "goes on after its last tensor: its tensors have 4 bytes, 5 follow"),
    "data-of-nothing": (file({}, b"a"), "goes on after its last tensor"),
    "boolean-2": (file({"a": entry("BOOL", [2], [0, 2])}, b"\x01\x02"), "'a' has bytes that are neither true nor false"),
    "pickle": (b"\x80\x02}q\x00." + b" " * 50, "not a safetensors file"),
}  # fmt: skip

STRUCTURES = {
    "not-json": (told("{"), "structure is no valid JSON"),
    "nan": (told('{"version":1,"content":NaN}'), "structure is no valid JSON: it has NaN"),
    "infinite": (told('{"version":1,"content":1e999}'), "a number or a depth 'inf'"),
    "long-integer": (told('{"version":1,"content":9223372036854775808}'), "a number"),
    "longer-integer": (told('{"version":1,"content":' + "9" * 5000 + "}"), "structure"),
    "hex": (told({"int": "0xg"}), "an integer"),
    "hex-number": (told({"int": 1}), "an integer"),
    "twice": (told('{"version":1,"content":{"dict":{"a":1,"a":2}}}'), "the structure has a key twice"),
    "deep": (told('{"version":1,"content":' + "[" * 100_000 + "]" * 100_000 + "}"), "structure is nested too deeply"),
    "a-bit-deep": (told('{"version":1,"content":' + "[" * 70 + "]" * 70 + "}"), "a number or a depth"),
    "no-head": (told("[]"), "a head"),
    "version": (told(1, version=2), "version 2, this library reads 1"),
    "version-missing": (told('{"content":1}'), "a head"),
    "no-tag": (told({}), "an object '{}'"),
    "unknown-tag": (told({"__class__": "os.system"}), "an object"),
    "method-as-tag": (told({"leaf": "x"}, FOUR, BYTES), "an object"),
    "two-tags": (told({"dict": {}, "tuple": []}), "an object"),
    "dict-of-number": (told({"dict": 1}), "a dict"),
    "pair-of-three": (told({"dict": [[1, 2, 3]]}), "a dict"),
    "list-as-key": (told({"dict": [[[], 1]]}), "a (key|number)"),
    "tensor-as-key": (told({"dict": [[{"tensor": "x"}, 1]]}, FOUR, BYTES), "a key"),
    "key-twice": (told({"dict": [[1, 2], [1, 3]]}), "a key"),
    "tuple-of-number": (told({"tuple": 1}), "a tuple"),
    "float-of-code": (told({"float": "1"}), "a float"),
    "float-of-list": (told({"float": []}), "a float"),
    "counter": (told({"counter": 3}), "a dict"),
    "no-such-tensor": (told({"tensor": "y"}, FOUR, BYTES), "a tensor"),
    "tensor-of-number": (told({"tensor": 1}, FOUR, BYTES), "a tensor"),
    "tensor-extra": (told({"tensor": "x", "device": "cuda"}, FOUR, BYTES), "a tensor"),
    "complex-of-floats": (told({"tensor": "x", "dtype": "complex128"}, FOUR, BYTES), "a tensor"),
    "dtype": (told({"tensor": "x", "dtype": "object"}, FOUR, BYTES), "a tensor"),
    "tensor-of-unsigned": (told({"tensor": "x"}, {"x": entry("U32")}, b"abcd"), "a tensor"),
    "array-of-bfloat16": (told({"array": "x"}, {"x": entry("BF16", [2])}, b"abcd"), "an array"),
    "number-of-array": (told({"scalar": "x"}, FOUR, BYTES), "a number"),
    "array-view": (told({"array": "x", "view": [[1], [1], 0]}, FOUR, BYTES), "an array"),
    "view-list": (told({"tensor": "x", "view": 3}, FOUR, BYTES), "a view"),
    "view-short": (told({"tensor": "x", "view": [[1], [1]]}, FOUR, BYTES), "a view"),
    "view-ranks": (told({"tensor": "x", "view": [[1, 1], [1], 0]}, FOUR, BYTES), "a view"),
    "view-17": (told({"tensor": "x", "view": [[1] * 17, [1] * 17, 0]}, FOUR, BYTES), "a view"),
    "view-beyond": (told({"tensor": "x", "view": [[5], [1], 0]}, FOUR, BYTES), "a view"),
    "view-offset": (told({"tensor": "x", "view": [[1], [1], 4]}, FOUR, BYTES), "a view"),
    "view-empty-offset": (told({"tensor": "x", "view": [[0], [1], 5]}, FOUR, BYTES), "a view"),
    "view-negative": (told({"tensor": "x", "view": [[2], [-1], 3]}, FOUR, BYTES), "a view"),
    "view-negative-offset": (told({"tensor": "x", "view": [[1], [1], -1]}, FOUR, BYTES), "a view"),
    "view-bool": (told({"tensor": "x", "view": [[True], [1], 0]}, FOUR, BYTES), "a view"),
    "view-huge-stride": (told({"tensor": "x", "view": [[2], [2**62], 0]}, FOUR, BYTES), "a view"),
    "view-overflow": (told({"tensor": "x", "view": [[2**40, 2**40], [0, 0], 0]}, FOUR, BYTES), "a view"),
    "view-empty-overflow": (told({"tensor": "x", "view": [[2**40, 0, 2**40], [0, 0, 0], 0]}, FOUR, BYTES), "a view"),
    "view-of-matrix": (told({"tensor": "x", "view": [[1], [1], 0]}, {"x": entry("F32", [2, 2], [0, 16])}, BYTES), "a view"),
    "sums-not-hex": (file({"__metadata__": {"crc32": "xy"}}), "checksums are no numbers"),
    "sums-odd": (file({"__metadata__": {"crc32": "0000"}}), "checksums are no numbers"),
    "sums-none": (file({"__metadata__": {"crc32": ""}}), "checksums are no numbers"),
    "sums-too-many": (file({"__metadata__": {"crc32": "0" * 16}}), "not those that this library writes"),
    "sums-elsewhere": (file({"__metadata__": {"a": "", "crc32": "0" * 8}}), "not those that this library writes"),
    "sum-of-the-header": (file('{"__metadata__":{"crc32":"00000000"}}'), "the header does not have its checksum"),
}  # fmt: skip
HOSTILE = {**FORMAT, **STRUCTURES}


@pytest.mark.parametrize(("content", "match"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_wrong_is_said(content: bytes, match: str, tmp_path: Path) -> None:
    with pytest.raises(tl.CheckpointError, match=match):
        tl.load(io.BytesIO(content))
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(tl.CheckpointError, match=f"load: .*{tmp_path.name}/f: .*{match}"):
        tl.load(tmp_path / "f", mmap=True)


def test_the_error_is_one_that_users_catch() -> None:
    assert issubclass(tl.CheckpointError, ValueError) and issubclass(tl.CheckpointError, RuntimeError)


def test_odd_but_valid_files_load() -> None:
    odd = (
        '{\t"\\u0061\\"\\\\" : { "shape":[ 1 ],"data_offsets" :[0 ,4],\r"dtype":"F32"} , "__metadata__":{"":"","format":"pt"}, '
        '"":{"dtype":"I8","shape":[0,5],"data_offsets":[4,4]}}  \n'
    )
    found = tl.load(io.BytesIO(file(odd, BYTES[4:8])))
    assert found['a"\\'].tolist() == [1.0] and found[""].shape == (0, 5)
    assert tl.load(io.BytesIO(file(b"{}"))) == {}
    surrogate = tl.load(io.BytesIO(file(r'{"\ud800":{"dtype":"I8","shape":[],"data_offsets":[0,1]}}', b"\x05")))
    assert surrogate["\ud800"].item() == 5


def test_dtypes_that_only_numpy_has_come_as_its_arrays() -> None:
    found = tl.load(io.BytesIO(file({"a": entry("U64", [1], [0, 8])}, b"\xff" * 8)))
    assert found["a"].dtype == np.uint64 and found["a"].tolist() == [2**64 - 1]


def sample() -> dict[str, Any]:
    """A small file of everything there is."""
    x = tl.arange(6, dtype=tl.float32)
    return {
        "m": {"w": x.reshape(2, 3), "tied": x[:4], "half": tl.ones(2, dtype=tl.bfloat16), "ok": tl.tensor([True, False])},
        "o": [{0: (1, 2.5, None, "s"), "c": tl.tensor(1 + 2j, dtype=tl.complex128)}, np.uint32(7), np.arange(2)],
        "big": 2**70, "inf": float("inf"), "none": tl.zeros(0, 2), 'é"': True,
    }  # fmt: skip


def bytes_of(obj: Any, **options: Any) -> bytes:
    made = io.BytesIO()
    tl.save(obj, made, **options)
    return made.getvalue()


@pytest.mark.parametrize("checksums", [False, True])
def test_every_truncation_is_found(checksums: bool) -> None:
    content = bytes_of(sample(), checksums=checksums)
    for n in range(len(content)):
        with pytest.raises(tl.CheckpointError):
            tl.load(io.BytesIO(content[:n]))
    with pytest.raises(tl.CheckpointError):
        tl.load(io.BytesIO(content + b"\x00"))


def test_every_flipped_bit_of_the_tensors_is_found_by_its_checksum() -> None:
    content = bytearray(bytes_of(sample(), checksums=True))
    begin = 8 + int.from_bytes(content[:8], "little")
    assert len(content) - begin > 50
    for bit in range(8 * begin, 8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(tl.CheckpointError, match="does not have its checksum: it is damaged"):
            tl.load(io.BytesIO(bytes(content)))
        content[bit // 8] ^= 1 << bit % 8
    tl.load(io.BytesIO(bytes(content)))


def test_a_file_that_shrinks_while_it_is_read() -> None:
    class Shrinking(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(buffer) if self.tell() < 300 else 0

    with pytest.raises(tl.CheckpointError, match="the file is cut off: 0 of 400 bytes of 'x' are there"):
        tl.load(Shrinking(bytes_of({"x": tl.ones(100), "names": "n" * 300})))


# ---- mutations ----

TOKENS = [
    b"0", b"-1", b"1", b"true", b"null", b"NaN", b"1e9", b"[", b"]", b"{", b"}", b'"', b"\\",
    b",", b":", b"\x00", b"\xff", b"9" * 19, b"F64", b"BOOL",
    b"U8", b"tensor", b"view",
]  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    made = bytearray(content)
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(header if rng.random() < 0.8 else len(made))
        kind = rng.randrange(6)
        if kind == 0:
            made[at % len(made)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            made[at % len(made)] = rng.randrange(256)
        elif kind == 2:
            made[at:at] = rng.choice(TOKENS)
        elif kind == 3:
            del made[at : at + rng.choice((1, 2, 10, 100))]
        elif kind == 4:
            other = rng.randrange(header)
            made[at : at + 8] = made[other : other + 8]
        else:
            token = rng.choice(TOKENS)
            made[at : at + len(token)] = token
    if rng.random() < 0.5:  # so that the length of the header does not give it away
        made[:8] = max(0, len(made) - (len(content) - header) - 8).to_bytes(8, "little")
    return bytes(made)


def check_value(value: Any) -> None:
    """What came out of a damaged file can be read to its last element."""
    if isinstance(value, tl.Tensor):
        if 0 < value.numel() < 10_000:
            value.tolist()
        elif value.numel():  # expanded: its last element is as far as it goes
            value[tuple(n - 1 for n in value.shape)].item()
    elif isinstance(value, dict):
        for item in value.values():
            check_value(item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_value(item)


def survive(number: int, seed: int) -> int:
    """Load so many mutated files; how many of them loaded."""
    rng = random.Random(seed)
    plain = bytes_of({"weight": tl.ones(3, 4), "bias": tl.zeros(4, dtype=tl.bool), "é": tl.ones((), dtype=tl.float16)})
    samples = [plain, bytes_of(sample()), bytes_of(sample(), checksums=True)]
    loaded = 0
    for i in range(number):
        content = mutated(samples[i % 3], rng)
        try:
            found = tl.load(io.BytesIO(content))
        except tl.CheckpointError:
            continue
        check_value(found)
        loaded += 1
    return loaded


def test_mutated_files_load_or_are_refused(seed: int) -> None:
    assert 0 < survive(2000, seed) < 1000


@pytest.mark.slow
def test_many_mutated_files_load_or_are_refused(seed: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert survive(200_000, seed) > 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@pytest.mark.slow
@pytest.mark.parametrize("filler", [b"{},", b"[],", b"0,", b'"",', b"{", b"[", b'"', b"\\", b'{"dtype":'], ids=ascii)
def test_headers_that_are_all_one_thing_cost_no_memory(filler: bytes) -> None:
    """30 MB of it: as the header, as an entry, as metadata and as the structure."""
    much = filler * (30_000_000 // len(filler))
    escaped = json.dumps(much.decode())
    for text in (
        b"{" + much,
        b'{"a":' + much,
        b'{"__metadata__":{' + much,
        f'{{"__metadata__":{{"tensorlib":{escaped}}}}}'.encode(),
    ):
        content = io.BytesIO(file(text))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(tl.CheckpointError):
            tl.load(content)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 * len(text) / 1000


def test_a_structure_of_many_containers_is_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "MOST", 10_000)
    with pytest.raises(tl.CheckpointError, match="the structure is too large"):
        tl.load(io.BytesIO(told([[]] * 200)))
