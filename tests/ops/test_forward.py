"""Results: of every operation, in every dtype it takes, against its reference computed in float64."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.errors import DTypeError
from tensorlib.ops.table import Op, entries
from tests.cases import LAYOUTS, Case, assert_close, cases, public_function, takes, typical

OTHER_DTYPES = (tl.bool_, tl.uint8, tl.int8, tl.int16, tl.int32, tl.int64, tl.float16, tl.bfloat16, tl.complex64)


def check(case: Case, device: str | None = None) -> None:
    want, dtypes = case.expected()
    got = case.outputs(*case.args(device=device))
    assert len(got) == len(want)
    for one, values, dtype in zip(got, want, dtypes, strict=True):
        assert_close(one, values, dtype)


@pytest.mark.parametrize("case", cases(dtype=tl.float64), ids=str)
def test_float64(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", cases(dtype=tl.float32, layouts=LAYOUTS), ids=str)
def test_float32(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [c for d in OTHER_DTYPES for c in typical(cases(dtype=d, smooth=True))], ids=str)
def test_other_dtypes(case: Case) -> None:
    taken = takes(case)
    if taken:
        check(case)
    elif taken is False:
        with pytest.raises(DTypeError):
            case.call(*case.args())


@pytest.mark.parametrize("case", typical(cases(dtype=tl.float32), most=4), ids=str)
def test_reference_device(case: Case) -> None:
    """The same on the device of an array module, which shares nothing with the kernels but the entries."""
    check(case, device="reference")
    assert all(t.device.type == "reference" for t in case.outputs(*case.args(device="reference")))


@pytest.mark.parametrize("case", cases(where=lambda op: op.kind != "composite" and op.composite is not None), ids=str)
def test_definition_in_plain_operations(case: Case) -> None:
    """A fused entry's composite gives what its kernel gives."""
    assert case.op.composite is not None
    for got, want in zip(case.outputs(*case.args()), case.outputs_of(case.op.composite), strict=True):
        assert_close(got, want.numpy(), want.dtype)


@pytest.mark.parametrize("op", [op for op in entries() if not op.private], ids=lambda op: op.name)
def test_is_public(op: Op) -> None:
    """What is not private is a function of the package, explained by a docstring with an example."""
    function = getattr(tl, op.name, None) or getattr(tl.Tensor, op.name, None)
    assert function is not None, f"neither tl.{op.name} nor Tensor.{op.name}"
    assert ">>>" in (function.__doc__ or "")
    if public_function(op) is not None and op.name in tl.Tensor.__dict__:
        x = np.ones((2, 2), np.float32)
        assert callable(getattr(tl.tensor(x), op.name))
