"""Error classes and where they are caught, what messages hold, and devices."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import tensorlib as tl
from tensorlib import errors

BUILT_IN = {
    "ShapeError": (ValueError, RuntimeError),
    "DTypeError": (TypeError, RuntimeError),
    "DeviceError": (RuntimeError,),
    "CaptureError": (RuntimeError,),
    "CheckpointError": (ValueError, RuntimeError),
    "FileFormatError": (ValueError,),
    "GradError": (RuntimeError,),
    "IndexRangeError": (IndexError,),
    "MemoryLimitError": (MemoryError,),
    "ReadOnlyError": (ValueError, RuntimeError),
}


def test_the_hierarchy() -> None:
    classes = {n: c for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, Exception)}
    assert set(classes) == {*BUILT_IN, "TensorlibError"} == set(errors.__all__)
    for name, bases in BUILT_IN.items():
        assert issubclass(classes[name], (tl.TensorlibError, *bases)) and all(
            issubclass(classes[name], b) for b in bases
        )
        assert getattr(tl, name) is classes[name]


def test_hints() -> None:
    error = tl.ShapeError("what happened.", hint="the way out")
    assert str(error) == "what happened.\n  hint: the way out" and error.hint == "the way out"
    assert str(tl.ShapeError("only this.")) == "only this."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


SAMPLES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "shapes": (lambda: tl.ones(2, 3) + tl.ones(4), tl.ShapeError, r"add: shapes \(2, 3\) and \(4,\) do not broadcast"),
    "inner dimensions": (lambda: tl.ones(2, 3) @ tl.ones(2, 3), tl.ShapeError, r"matmul: inner dimensions differ: \(2, 3\) @ \(2, 3\)(.|\n)*hint"),
    "reshape": (lambda: tl.ones(6).reshape(4, -1), tl.ShapeError, r"reshape: 6 elements of shape \(6,\)"),
    "view": (lambda: tl.ones(2, 3).t().view(6), tl.ShapeError, "without a copy"),
    "dim": (lambda: tl.ones(2).sum(1), tl.IndexRangeError, r"sum: dim 1 is out of range for 1 dim"),
    "index": (lambda: tl.ones(2, 3)[1, 3], tl.IndexRangeError, r"index 3 is out of range for dimension 1 of size 3 \(shape \(2, 3\)\)"),
    "index array": (lambda: tl.ones(3)[tl.tensor([0, -4])], tl.IndexRangeError, "index -4 is out of range"),
    "too many indices": (lambda: tl.ones(3)[0, 0], tl.IndexRangeError, "2 indices for a tensor of 1 dim"),
    "dtype": (lambda: tl.ones(2) & tl.ones(2), tl.DTypeError, "bitwise_and"),
    "device": (lambda: tl.ones(2) * tl.ones(2, device="reference"), tl.DeviceError, "mul: operands are on cpu and reference(.|\n)*hint"),
    "no gpu": (lambda: tl.zeros(1, device="cuda"), tl.DeviceError, "cuda"),
    "item": (lambda: tl.ones(2).item(), tl.ShapeError, r"item: got a tensor of shape \(2,\)"),
    "cat": (lambda: tl.cat([tl.ones(2, 3), tl.ones(2, 4)]), tl.ShapeError, r"cat: tensor 1 has shape \(2, 4\), the first \(2, 3\)"),
    "foreign": (lambda: tl.add(tl.ones(2), "x"), TypeError, "add: other is a str, expected a Tensor or a number"),
    "dtypes of a product": (lambda: tl.ones(2) @ tl.ones(2).double(), tl.DTypeError, "float32 and float64"),
    "empty maximum": (lambda: tl.zeros(0).max(), tl.ShapeError, "empty"),
    "no gradient": (lambda: tl.ones(1).backward(), tl.GradError, r"shape \(1,\) does not require a gradient"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "match"), SAMPLES.values(), ids=SAMPLES)
def test_messages_name_operation_and_shapes(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    if match == "cuda" and _has_cupy():
        pytest.skip("CuPy is installed: the device may exist")
    with pytest.raises(error, match=match):
        call()
    assert (tl.ones(2) + 1).tolist() == [2, 2]


def _has_cupy() -> bool:
    import importlib.util

    return importlib.util.find_spec("cupy") is not None


def test_one_failure_is_not_reported_twice() -> None:
    """What C reports is consumed by the error: a later call that never reaches C does not find it again."""
    with pytest.raises(MemoryError):
        tl.ones(1).expand(10**15).clone()
    assert tl.erfinv(tl.zeros(2)).tolist() == [0, 0]
    assert (tl.ones(2, dtype=tl.int64) + 0.5).tolist() == [1.5, 1.5]
    x = tl.ones(2, requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(tl.GradError):
        y.backward()
    assert tl.erfinv(tl.zeros(2, requires_grad=True)).requires_grad


def test_the_cap_is_named() -> None:
    tl.memory.empty_cache()
    tl.memory.set_cap(tl.memory.allocated() + 3_000_000)
    try:
        with pytest.raises(
            tl.MemoryLimitError,
            match=r"add: could not allocate a result \(1000, 1000\): [\d,]+ bytes are in use under a cap of [\d,]+",
        ):
            tl.ones(1, 1).expand(1000, 1000) + 1
        x = tl.ones(200, 200, requires_grad=True)
        loss = ((x * 1) * (x * 1)).sum()
        tl.memory.set_cap(tl.memory.allocated() + 200_000)  # one more of x's size
        with pytest.raises(MemoryError):
            loss.backward()
        assert x.grad is None
    finally:
        tl.memory.set_cap(None)
    (x * 2).sum().backward()
    assert x.grad is not None
    for bad in (-1, 1.5, "1"):
        with pytest.raises(ValueError, match="set_cap"):
            tl.memory.set_cap(bad)  # type: ignore[arg-type]


def test_tracebacks_end_in_one_error() -> None:
    """No chain of inner exceptions, which only confuses."""
    for call in (
        lambda: tl.ones(2) + tl.ones(3),
        lambda: tl.tensor([[1], [1, 2]]),
        lambda: tl.ones(3)[7],
        lambda: tl.ones(2).reshape(3),
    ):
        with pytest.raises(tl.TensorlibError) as caught:
            call()
        assert caught.value.__cause__ is None and (
            caught.value.__context__ is None or caught.value.__suppress_context__
        )


# ---- devices ----
def test_devices() -> None:
    d = tl.device("cpu")
    assert d == "cpu" and d == tl.Device("cpu") and d is tl.device(d) and d.type == "cpu" and d.index is None
    assert tl.device("cuda") == tl.device("cuda:0") != tl.device("cuda:1") and str(tl.device("cuda:1")) == "cuda:1"
    assert (
        repr(tl.device("cuda:1")) == "device(type='cuda', index=1)"
        and len({d, tl.device("cpu"), tl.device("reference")}) == 2
    )
    assert pickle.loads(pickle.dumps(tl.device("cuda:3"))) == "cuda:3"
    for bad in ("gpu", "cuda:x", "cpu:1x", "", 3, None):
        with pytest.raises(tl.DeviceError, match="expected one of"):
            tl.device(bad)  # type: ignore[arg-type]
    assert d != 3 and (d == 3) is False


def test_moving_between_devices() -> None:
    x = tl.tensor([[1.0, 2.0], [3.0, 4.0]])
    r = x.t().to("reference")
    assert r.device == "reference" and r.tolist() == [[1, 3], [2, 4]] and r.data_ptr() == 0
    r[0] = 9
    assert x.tolist() == [[1, 2], [3, 4]] and r.cpu().tolist() == [[9, 9], [2, 4]]
    assert (r * 2 + r.sum(0)).device == "reference" and r.cpu().device == "cpu" and x.cpu() is x


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, tensorlib as tl; tl.ones(2).sum(); print({'cupy', 'mpi4py', 'matplotlib', 'scipy', 'torch', 'tqdm'} & {*sys.modules})"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        == "set()"
    )
