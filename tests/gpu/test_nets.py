"""Products, convolutions, recurrent layers, pooling and attention on a GPU: results and gradients are those of the CPU, and lanes made them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import gpu
from tensorlib.gpu import attention, convolution, cudnn, matmul, pooling, recurrent
from tests.cases import FORWARD, PLAIN, TRANSPOSED, Case, assert_close, cases, flat, leaves, typical
from tests.gpu import standin
from tests.gpu.conftest import REAL

FAMILIES = (matmul, convolution, recurrent, attention, pooling)
FLOATS = (tl.float32, tl.float64)
HALVES = (tl.float16, tl.bfloat16)


def lanes_of(family: ModuleType, table: dict[str, Any]) -> list[str]:
    return [name for name, lane in table.items() if lane.__module__ == family.__name__]


class Watched:
    """A lane that notes that it served."""

    def __init__(self, name: str, lane: Callable[..., Any], done: list[str]) -> None:
        self.name, self.lane, self.done, self.__code__ = name, lane, done, lane.__code__

    def __call__(self, *given: Any, **named: Any) -> Any:
        made = self.lane(*given, **named)
        if made is not None:
            self.done.append(self.name)
        return made


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lanes that served, those of gradients as "grad NAME"."""
    done: list[str] = []
    for table, prefix in ((gpu.LANES, ""), (gpu.GRADIENT_LANES, "grad ")):
        for name, lane in table.items():
            monkeypatch.setitem(table, name, Watched(prefix + name, lane, done))
    return done


def both_ways(case: Case, **how: Any) -> tuple[list[Any], list[Any]]:
    """Results and gradients of sums of squares, on one device."""
    args = case.args(**how)
    outs = [t for t in case.outputs(*args) if t.dtype.is_floating_point]
    tracked = [t for t in outs if t.requires_grad]
    wanted = [t for t in leaves(args) if t.requires_grad]
    grads = tl.autograd.grad(tracked, wanted, [t.detach() + 1 for t in tracked], allow_unused=True) if tracked else ()
    return outs, list(grads)


def compare(case: Case, slack: float = 1.0) -> None:
    here, there = (both_ways(case, requires_grad=True, device=d) for d in ("cpu", "cuda"))
    rtol, atol = (slack * t for t in FORWARD[case.dtype])
    for got, want in zip(flat(there), flat(here), strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            assert got.is_cuda
            assert_close(got.cpu(), want.detach().numpy(), want.dtype, (rtol, atol))


def _has_kernels(case: Case) -> bool:
    """An activation is elementwise.cu's to compute."""
    return case.sample.attrs.get("activation") != "gelu" or "gelu" in gpu.LANES


def cases_of(families: Sequence[ModuleType], dtypes: Sequence[tl.DType], **which: Any) -> list[Case]:
    names = {name for family in families for name in lanes_of(family, gpu.LANES)}
    return [c for d in dtypes for c in cases(where=lambda op: op.name in names, dtype=d, **which) if _has_kernels(c)]


ALL = [
    pytest.param(c, marks=() if c.dtype is tl.float32 and c.layout == PLAIN else pytest.mark.slow)
    for c in cases_of(FAMILIES, FLOATS, layouts=(PLAIN, TRANSPOSED))
]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_as_on_the_cpu(case: Case, served: list[str]) -> None:
    compare(case, 8.0)
    name = case.op.name
    assert name in served
    if name in gpu.GRADIENT_LANES and not _declined(case):
        assert f"grad {name}" in served


def _declined(case: Case) -> bool:
    """The gradients of attention that are left to the rules: with dropout, a mask's, of large depths; of results that are zeros."""
    if not case.op.name.startswith("scaled_dot"):
        return False
    query, key, value, mask = (getattr(a, "shape", None) for a in case.sample.args)
    floating = mask is not None and case.sample.args[3].dtype == "float"
    nothing = 0 in query or 0 in key or 0 in value
    return case.sample.attrs.get("dropout_p", 0) > 0 or value[-1] > 128 or floating or nothing


@pytest.mark.parametrize("case", typical(cases_of(FAMILIES, HALVES), most=1), ids=str)
def test_halves(case: Case) -> None:
    """Sums of 16-bit floats run in float32, so results are the float32 ones, rounded once or twice."""
    args = case.args(device="cuda")
    wide = [x.float() if isinstance(x, tl.Tensor) and x.dtype in HALVES else x for x in args]
    for got, want in zip(case.outputs(*args), case.outputs(*wide), strict=True):
        assert got.dtype is (case.dtype if want.dtype is tl.float32 else want.dtype)
        tolerance = tuple(4 * t for t in FORWARD[case.dtype])
        assert_close(got.to(want.dtype).cpu(), want.cpu().numpy(), want.dtype, tolerance)


def test_tf32_is_asked_for() -> None:
    a, b = (tl.randn(5, 7, device="cuda") for _ in range(2))
    full = (a @ b.mT).cpu()
    tl.set_float32_matmul_precision("high")
    try:
        fast = (a @ b.mT).cpu()
    finally:
        tl.set_float32_matmul_precision("highest")
    assert 1e-6 < (fast - full).abs().max().item() < 1e-1
    with pytest.raises(ValueError, match="expected one of highest, high, medium, got 'low'"):
        tl.set_float32_matmul_precision("low")


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_overwritten_results_are_not_used(activation: str) -> None:
    def gradient(device: str, overwrite: bool) -> tl.Tensor:
        tl.manual_seed(0)
        x, w = tl.randn(3, 4).to(device), tl.randn(5, 4).to(device).requires_grad_()
        y = tl.fused.linear_act(x, w, None, activation)
        loss = (y * 2).sum()
        if overwrite:
            with tl.no_grad():
                y.zero_()
        loss.backward()
        return w.grad.cpu()

    np.testing.assert_allclose(gradient("cuda", True).numpy(), gradient("cpu", False).numpy(), rtol=1e-5)


@pytest.mark.skipif(REAL, reason="counts the stand-in's memory")
def test_nothing_stays_alive() -> None:
    """What lanes keep for gradients is gone with the graph, or after backward."""
    from tests.gpu.standin import memory

    lstm = tl.nn.LSTM(3, 4).cuda()
    x, w = tl.randn(3, 4).cuda(), tl.randn(5, 4).cuda().requires_grad_()

    def run() -> int:
        made = tl.fused.linear_act(x, w, None, "relu"), lstm(tl.randn(6, 2, 3).cuda())
        del made
        gc.collect()
        return memory.used[0]

    assert run() == run()
    out = lstm(tl.randn(6, 2, 3).cuda())
    held = memory.used[0]
    out[0].sum().backward()
    lstm.zero_grad(set_to_none=True)
    assert memory.used[0] < held


class Everything(tl.nn.Module):
    """A step in which each family of lanes takes part."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.lstm = tl.nn.Conv1d(2, 4, 3, padding=1), tl.nn.LSTM(4, 6, bidirectional=True)
        self.head = tl.nn.Linear(12, 3)

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        x = tl.nn.functional.max_pool1d(self.convolution(x), 2).permute(2, 0, 1)
        x, _ = self.lstm(x)
        x = tl.scaled_dot_product_attention(x, x, x, is_causal=True)
        return self.head(tl.scaled_dot_product_attention(x, x, x, dropout_p=1e-9))  # as good as none, but drawn


def test_captured() -> None:
    """All of it in a CUDA graph: nothing waits for the device, and replays are what eager steps are."""
    tl.manual_seed(0)
    model = Everything().cuda()
    x = tl.randn(3, 2, 8).cuda()

    def step(x: tl.Tensor) -> tuple[tl.Tensor, ...]:
        model.zero_grad(set_to_none=True)
        loss = (model(x) ** 2).mean()
        loss.backward()
        return loss, *(p.grad for p in model.parameters())

    graph = tl.cuda.graph(step, x)
    for k in range(4):
        want = [t.tolist() for t in step(x * k)]
        assert [t.tolist() for t in graph(x * k)] == want
    assert graph.captured


# ---- cuDNN ----
@pytest.fixture
def with_cudnn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """cuDNN's frontend: the real one on a GPU where it is installed, else its stand-in."""
    if REAL:
        return pytest.importorskip("cudnn")
    monkeypatch.setattr(cudnn, "frontend", lambda: standin.cudnn)
    monkeypatch.setattr(cudnn, "_own", cudnn._Own())
    monkeypatch.setattr(standin.cudnn, "PLANNED", [])
    return standin.cudnn


CONVOLUTIONS = [c for d in (tl.float32, tl.float16) for c in cases(where=lambda op: op.name == "convolution", dtype=d)]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions_by_cudnn(case: Case, with_cudnn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tl.backends.cudnn, "allow_tf32", False)
    if case.dtype is tl.float32:
        compare(case, 8.0)
    else:
        test_halves(case)
    if not REAL:
        x, weight = case.args()[:2]
        done = {graph.kind for graph in with_cudnn.PLANNED}
        assert ("conv_fprop" in done) == (
            0 not in (*x.shape, *weight.shape) and case.outputs(*case.args())[0].numel() > 0
        )


def test_what_cudnn_has_no_plan_for_runs_without_it(with_cudnn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = tl.randn(2, 3, 8, 8, device="cuda"), tl.randn(4, 3, 3, 3, device="cuda")
    want = tl.nn.functional.conv2d(x, w)
    if not REAL:
        assert len(with_cudnn.PLANNED) == 1
        tl.nn.functional.conv2d(x + 1, w)
        assert len(with_cudnn.PLANNED) == 1, "planned once for its shapes"
        monkeypatch.setattr(cudnn, "_own", cudnn._Own())
        monkeypatch.setattr(with_cudnn, "DECLINED", {"conv_fprop"})
    else:
        monkeypatch.setattr(tl.backends.cudnn, "enabled", False)
    got = tl.nn.functional.conv2d(x, w)
    assert (got - want).abs().max().item() < 1e-1


def test_rounding_to_tf32_is_asked_of_cudnn(with_cudnn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = tl.randn(2, 30, 8, 8), tl.randn(4, 30, 3, 3)
    want = tl.nn.functional.conv2d(x, w)
    errors = []
    for allowed in (False, True):
        monkeypatch.setattr(tl.backends.cudnn, "allow_tf32", allowed)
        errors.append((tl.nn.functional.conv2d(x.cuda(), w.cuda()).cpu() - want).abs().max().item())
    assert errors[0] < 1e-4 < errors[1] < 1e-1


def test_another_frontend_than_expected_is_told_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "frontend", lambda: standin.cudnn)
    monkeypatch.setattr(cudnn, "_own", cudnn._Own())
    monkeypatch.delattr(standin.cudnn.pygraph, "deselect_numeric_notes")
    x, w = tl.randn(2, 3, 8, device="cuda"), tl.randn(4, 3, 3, device="cuda")
    with pytest.warns(UserWarning, match=r"cuDNN could not plan a convolution \(AttributeError.*enabled = False"):
        got = tl.nn.functional.conv1d(x, w)
    assert (got.cpu() - tl.nn.functional.conv1d(x.cpu(), w.cpu())).abs().max().item() < 1e-1
