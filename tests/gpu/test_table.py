"""The table of operations on the GPU: results and gradients are the CPU's.

The quick run takes each entry once in float32, and of the elementwise entries every eighth; what other entries are made of runs as its
references there, because most of such a run would be spent compiling elementwise kernels for the CPU. The slow run takes all dtypes and layouts.
"""

from __future__ import annotations

import zlib

import pytest

import tensorlib as tl
from tensorlib.gpu import GRADIENT_LANES, LANES
from tests.cases import Case, assert_close, cases, differentiable_cases, leaves, takes, typical
from tests.gpu import render
from tests.gpu.conftest import REAL

OTHERS = (tl.bool_, tl.uint8, tl.int8, tl.int16, tl.int32, tl.int64, tl.float16, tl.bfloat16, tl.float64, tl.complex64)
SECOND_ORDER = [
    c
    for c in typical(differentiable_cases(dtype=tl.float64, smooth=True), most=1)
    if zlib.crc32(c.op.name.encode()) % 4 == 1
]


def in_quick_run(case: Case) -> bool:
    return case.op.kind != "elementwise" or zlib.crc32(case.op.name.encode()) % 8 == 0


@pytest.fixture(autouse=True)
def _own_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    case = request.node.callspec.params["case"]
    if REAL or case.op.kind == "elementwise" or request.node.get_closest_marker("slow"):
        return
    for lanes in (LANES, GRADIENT_LANES):
        for name in [n for n, serve in lanes.items() if serve.__module__ == "tensorlib.gpu.elementwise"]:
            monkeypatch.delitem(lanes, name)


def split(found: list[Case]) -> list[Case]:
    """The cases as parameters, those marked slow that the quick run leaves out."""
    return [pytest.param(c, marks=() if in_quick_run(c) else pytest.mark.slow) for c in found]  # type: ignore[misc]


def check(case: Case) -> None:
    want, dtypes = case.expected()
    got = case.outputs(*case.args(device="cuda"))
    assert all(t.device.type == "cuda" for t in got)
    for one, values, dtype in zip(got, want, dtypes, strict=True):
        assert_close(one.cpu(), values, dtype)


@pytest.mark.parametrize("case", split(typical(cases(dtype=tl.float32, smooth=True), most=1)), ids=str)
def test_float32(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [c for d in OTHERS for c in typical(cases(dtype=d, smooth=True), most=1) if in_quick_run(c)], ids=str
)
def test_other_dtypes(case: Case) -> None:
    if takes(case):
        check(case)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    typical(cases(dtype=tl.float32, layouts=("strided", "transposed", "expanded"), smooth=True), most=1),
    ids=str,
)
def test_layouts(case: Case) -> None:
    check(case)


def gradients(case: Case, device: str, order: int) -> list[tl.Tensor | None]:
    args = case.args(requires_grad=True, device=device)
    outs = [t for t in case.outputs(*args) if t.requires_grad]
    if not outs:
        return []
    found = tl.autograd.grad(
        outs, leaves(args), [tl.ones_like(t) for t in outs], allow_unused=True, create_graph=order > 1
    )
    if order > 1:
        outs = [(g * g).sum() for g in found if g is not None and g.requires_grad]
        found = tl.autograd.grad(outs, leaves(args), allow_unused=True) if outs else ()
    return list(found)


def check_gradients(case: Case, order: int) -> None:
    here, there = gradients(case, "cpu", order), gradients(case, "cuda", order)
    for a, b in zip(here, there, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert b.device.type == "cuda"
            assert_close(b.cpu(), a.numpy(), a.dtype)


@pytest.mark.parametrize("case", split(typical(differentiable_cases(dtype=tl.float32, smooth=True), most=1)), ids=str)
def test_gradients(case: Case) -> None:
    check_gradients(case, 1)


@pytest.mark.slow
@pytest.mark.skipif(REAL, reason="a GPU has its own order")
@pytest.mark.parametrize("order", [1, 2], ids=["descending", "drawn"])
@pytest.mark.parametrize(
    "case",
    [c for c in typical(differentiable_cases(dtype=tl.float32, smooth=True)) if c.op.kind != "elementwise"],
    ids=str,
)
def test_the_order_of_threads_does_not_show(case: Case, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a barrier is missing, it does."""
    monkeypatch.setattr(render.Kernel, "order", order)
    check_gradients(case, 1)


@pytest.mark.slow
@pytest.mark.parametrize("case", typical(differentiable_cases(dtype=tl.float64, smooth=True), most=1), ids=str)
def test_gradients_in_float64(case: Case) -> None:
    check_gradients(case, 1)


@pytest.mark.parametrize("case", split(SECOND_ORDER), ids=str)
def test_second_order(case: Case) -> None:
    check_gradients(case, 2)
