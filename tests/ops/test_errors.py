"""Errors: each that the table lists is raised, worded as stated, and leaves everything as it was."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import DeviceError, ShapeError
from tensorlib.ops.table import Draw, ErrorSample, Op, Sample, entries, samples_of
from tests.cases import Case, cases, error_cases, flat, operand_names, public_function, typical


def call(op: Op, case: Case, args: list[object]) -> object:
    """As a user calls it: the public function where there is one, operands by name where it has their names."""
    public = public_function(op)
    attrs = case.sample.attrs
    if op.kind != "structured" or public is None:
        return case.call(*args)
    names = operand_names(op, public)
    named = {*names} <= {*inspect.signature(public).parameters}
    return public(**dict(zip(names, args, strict=False)), **attrs) if named else public(*args, **attrs)


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=lambda d: d.name)
@pytest.mark.parametrize(
    ("op", "error"), error_cases(), ids=lambda v: v.name if isinstance(v, Op) else re.sub(r"[^\w]+", " ", v.match)
)
def test_is_raised(op: Op, error: ErrorSample, dtype: tl.DType) -> None:
    case = Case(op, Sample(error.args, error.attrs), dtype)
    args = case.args()
    tensors = [t for t in flat(args) if isinstance(t, tl.Tensor)]
    before = [(t.numpy().copy(), t._version) for t in tensors]
    with pytest.raises(error.raises, match=error.match) as caught:
        call(op, case, args)
    assert op.name.split("_")[0] in str(caught.value), f"does not name {op.name}"
    for t, (values, version) in zip(tensors, before, strict=True):
        np.testing.assert_array_equal(t.numpy(), values)
        assert t._version == version


PUBLIC = typical(cases(dtype=tl.float32, where=lambda op: not op.private), most=1)


@pytest.mark.parametrize("case", PUBLIC, ids=str)
def test_foreign_operand(case: Case) -> None:
    """An object that is no tensor is refused by type, in the place of any operand."""
    for place, given in enumerate(case.sample.args):
        if isinstance(given, (Draw, list)):
            args = case.args()
            args[place] = [*args[place][1:], object()] if isinstance(given, list) else object()
            with pytest.raises((TypeError, AttributeError), match="object"):
                case.call(*args)


@pytest.mark.parametrize("case", [c for c in PUBLIC if sum(isinstance(a, Draw) for a in c.sample.args) > 1], ids=str)
def test_operands_on_two_devices(case: Case) -> None:
    here, there = case.args(), case.args(device="reference")
    with pytest.raises(DeviceError, match="reference"):
        case.call(here[0], *there[1:])


@pytest.mark.parametrize(
    "op", [op for op in entries() if op.kind == "elementwise" and len(op.inputs) > 1], ids=lambda op: op.name
)
def test_shapes_that_do_not_broadcast(op: Op) -> None:
    like = samples_of(op)[0]
    shapes = [(2, 3)] * (len(op.inputs) - 1) + [(2, 4)]
    draws = tuple(Draw(s, dtype=getattr(d, "dtype", "float")) for s, d in zip(shapes, like.args, strict=True))
    case = Case(op, Sample(draws, like.attrs), tl.float32)
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(2, 4\)"):
        case.call(*case.args())
