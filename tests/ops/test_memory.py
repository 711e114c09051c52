"""Whatever an operation allocates is given back, by reference counting alone."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import pytest

import tensorlib as tl
from tensorlib.native import OBJECTS
from tensorlib.ops.table import ErrorSample, Op, Sample
from tests.cases import Case, cases, error_cases, flat, leaves, typical


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def left_by(run: Callable[[], None]) -> tuple[int, int]:
    """(bytes, registered objects) that are more after running than before; a first run fills caches."""
    run()
    before = tl.memory.allocated(), len(OBJECTS)
    run()
    run()
    return tl.memory.allocated() - before[0], len(OBJECTS) - before[1]


def once(case: Case, device: str | None = None) -> None:
    """Forward, backward by the kernels, and backward by the rules, recorded and dropped."""
    for create_graph in (False, True):
        args = case.args(requires_grad=True, device=device)
        outs = [t for t in case.outputs(*args) if t.requires_grad]
        if outs:
            seeds = [tl.ones_like(t) for t in outs]
            tl.autograd.grad(outs, leaves(flat(args)), seeds, create_graph=create_graph, allow_unused=True)


@pytest.mark.parametrize(
    "case", [c for d in (tl.float32, tl.float64) for c in typical(cases(dtype=d, smooth=True), most=3)], ids=str
)
def test_nothing_is_left(case: Case) -> None:
    assert left_by(lambda: once(case)) == (0, 0)


@pytest.mark.parametrize("case", typical(cases(dtype=tl.float32, smooth=True), most=1), ids=str)
def test_nothing_is_left_on_another_device(case: Case) -> None:
    assert left_by(lambda: once(case, "reference")) == (0, 0)


@pytest.mark.parametrize(("op", "error"), error_cases(), ids=lambda v: v.name if isinstance(v, Op) else "error")
def test_nothing_is_left_by_an_error(op: Op, error: ErrorSample) -> None:
    def run() -> None:
        case = Case(op, Sample(error.args, error.attrs), tl.float32)
        with contextlib.suppress(Exception):
            case.call(*case.args(requires_grad=True))

    assert left_by(run) == (0, 0)
