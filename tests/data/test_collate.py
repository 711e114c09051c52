"""ragged_collate: what each kind of field becomes, whatever the lengths are; and what is refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.data import ragged_collate
from tensorlib.nn.utils.rnn import PackedSequence, packed_collate


class Pair(NamedTuple):
    words: Any
    tag: int


EXAMPLES = [
    {"x": tl.ones(3, 2), "pair": Pair([7, 8], 1), "name": "a", "box": tl.zeros(4), "weight": 0.5, "array": np.arange(2), "scalar": tl.tensor(1)},
    {"x": tl.ones(0, 2), "pair": Pair([], 2), "name": "b", "box": tl.zeros(4), "weight": 2, "array": np.arange(0), "scalar": tl.tensor(2)},
]  # fmt: skip


def test_each_kind_of_field() -> None:
    made = ragged_collate(EXAMPLES, stack=["box"])
    assert list(made) == list(EXAMPLES[0])
    assert [s.shape for s in made["x"]] == [(3, 2), (0, 2)]
    assert isinstance(made["pair"], Pair)
    assert [(s.tolist(), s.dtype) for s in made["pair"].words] == [([7, 8], tl.int64), ([], tl.int64)]
    assert (made["pair"].tag.tolist(), made["pair"].tag.dtype) == ([1, 2], tl.int64)
    assert made["name"] == ["a", "b"]
    assert made["box"].shape == (2, 4)
    assert made["weight"].tolist() == [0.5, 2.0]
    assert [s.tolist() for s in made["array"]] == [[0, 1], []]
    assert made["scalar"].tolist() == [1, 2]


def test_sequences_of_equal_length_are_sequences_still() -> None:
    assert [s.tolist() for s in ragged_collate([tl.ones(2), tl.zeros(2)])] == [[1, 1], [0, 0]]
    assert [s.shape for s in ragged_collate([[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]])] == [(1, 2), (2, 2)]


def test_lists_of_other_things_stay() -> None:
    assert ragged_collate([(["a", "b"], None), ([], None)]) == ([["a", "b"], []], [None, None])


def test_packed() -> None:
    made = packed_collate(EXAMPLES, stack=["box"])
    assert isinstance(made["x"], PackedSequence) and isinstance(made["pair"].words, PackedSequence)
    assert made["x"].lengths.tolist() == [3, 0]
    assert made["box"].shape == (2, 4)
    (only,) = packed_collate([(tl.ones(1),), (tl.ones(2),)])
    assert tl.nn.LSTM(1, 3)(packed_collate([tl.ones(2, 1), tl.ones(4, 1)]))[0].lengths.tolist() == [2, 4]
    assert only.lengths.tolist() == [1, 2]


def test_a_field_of_one_size_by_its_position() -> None:
    words, boxes = ragged_collate([(tl.ones(2), (tl.zeros(3), 1)), (tl.ones(1), (tl.zeros(3), 2))], stack=[1])
    assert len(words) == 2
    assert [t.shape for t in boxes] == [(2, 3), (2,)]


@pytest.mark.parametrize(
    ("examples", "how", "error", "match"),
    [
        ([], {}, ValueError, "got no examples"),
        ([tl.ones(2), 3], {}, TypeError, "example 1 has a int, example 0 a Tensor"),
        ([{"x": (1, 2.0)}, {"x": (1, "a")}], {}, TypeError, r"example 1 has a str in field x\.1, example 0 a float"),
        ([(1, 2), (1,)], {}, ValueError, r"example 1 has the fields \[0\], example 0 \[0, 1\]"),
        ([{"x": {"a": 1}}, {"x": {"b": 1}}], {}, ValueError, r"has the fields \['b'\] in field x, example 0 \['a'\]"),
        ([(tl.ones(2, 3),), (tl.ones(2, 4),)], {}, ValueError, r"float32 of shape \(2, 4\) in field 0, example 0 .* only the first sizes may differ"),
        ([(tl.ones(3),), (tl.ones(2),)], {"stack": [0]}, ValueError, r"float32 of shape \(2,\) in field 0, example 0 float32 of shape \(3,\)\."),
        ([tl.ones(2), tl.ones(2).double()], {}, ValueError, "example 1 has float64"),
        ([tl.ones(2), tl.tensor(1.0)], {}, ValueError, r"example 1 has float32 of shape \(\)"),
    ],
)  # fmt: skip
def test_what_is_refused(examples: list[Any], how: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        ragged_collate(examples, **how)
