"""Steps on a GPU: whole groups in two launches, with the CPU kernels' bits, the numbers of a step read anew when a graph is replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.backends.cuda import CudaBackend
from tensorlib.gpu import capture, launch

SHAPES = [(3,), (5, 7), (), (20000,), (16,)]

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (tl.optim.SGD, {"lr": 0.1}),
    "sgd-momentum": (tl.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "sgd-nesterov": (tl.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "sgd-dampened": (tl.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "adam": (tl.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adam-amsgrad": (tl.optim.Adam, {"lr": 0.01, "amsgrad": True, "maximize": True}),
    "adamw": (tl.optim.AdamW, {"lr": 0.01, "betas": (0.4, 0.8)}),
    "adamax": (tl.optim.Adamax, {"lr": 0.01}),
    "nadam": (tl.optim.NAdam, {"lr": 0.01}),
    "radam": (tl.optim.RAdam, {"lr": 0.01}),
    "rmsprop": (tl.optim.RMSprop, {"lr": 0.01}),
    "rmsprop-all": (tl.optim.RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    "adagrad": (tl.optim.Adagrad, {"lr": 0.01, "lr_decay": 0.1}),
    "adadelta": (tl.optim.Adadelta, {"lr": 0.5}),
    "lion": (tl.optim.Lion, {"lr": 0.01, "weight_decay": 0.1}),
}


def values(seed: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def trained(
    make: Any, settings: dict[str, Any], device: str, dtype: tl.DType = tl.float32, steps: int = 7
) -> tuple[list[tl.Tensor], Any]:
    params = [tl.nn.Parameter(tl.tensor(values(0, s), dtype=dtype, device=device)) for s in SHAPES]
    optimizer = make(params, **settings)
    for k in range(1, steps + 1):
        for i, (p, s) in enumerate(zip(params, SHAPES, strict=True)):
            p.grad = None if i == 1 and k == 2 else tl.tensor(values(k, s), dtype=dtype, device=device)
        optimizer.step()
    return params, optimizer


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels of optim.cu that ran."""
    ran: list[str] = []
    ask = launch.Source.__call__

    def call(self: launch.Source, kernel: str, **macros: Any) -> Any:
        if self.file == "optim.cu":
            ran.append(kernel)
        return ask(self, kernel, **macros)

    monkeypatch.setattr(launch.Source, "__call__", call)
    return ran


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bits_are_the_cpu_kernels(name: str, launches: list[str]) -> None:
    make, settings = OPTIMIZERS[name]
    for dtype in (tl.float32, tl.float64):
        (cpu, before), (gpu, after) = (trained(make, settings, device, dtype) for device in ("cpu", "cuda"))
        for a, b in zip(cpu, gpu, strict=True):
            # The CPU's first step is the definition's, whose operations may round otherwise than the kernel's.
            rounding = 4 * (2**-52 if dtype is tl.float64 else 2**-23)
            np.testing.assert_allclose(b.detach().cpu().numpy(), a.detach().numpy(), rtol=rounding, atol=rounding)
        assert "step" not in after.state[gpu[0]] or after.state[gpu[0]]["step"].item() == 7
        assert {k for s in before.state.values() for k in s} == {k for s in after.state.values() for k in s}
    assert len(launches) == 2 * (14 - 2 * (name == "sgd-dampened"))


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64], ids=str)
def test_one_step_has_the_cpu_kernels_bits(dtype: tl.DType) -> None:
    def stepped(device: str) -> list[bytes]:
        w, g, m, v, top, pg = (
            [
                tl.tensor(np.abs(values(k, s)) if k in (3, 4) else values(k, s), dtype=dtype, device=device)
                for s in SHAPES
            ]
            for k in range(6)
        )
        t = [tl.full((), 4.0, device=device) for _ in SHAPES]
        assert tl.fused.adam_(w, g, m, v, top, t, 0.01, 0.9, 0.99, 1e-8, 0.1)
        assert tl.fused.rms_(w, g, v, m, pg, t, 0.01, weight_decay=0.1, momentum=0.5, lr_decay=0.2)
        assert tl.fused.sgd_(w, g, m, 0.1, 0.9, 0.1, 0.01)
        assert tl.fused.lion_(w, g, m, 0.1, weight_decay=0.1)
        assert [x.item() for x in t] == [6.0] * len(t)
        return [x.cpu().numpy().tobytes() for several in (w, m, v, top, pg) for x in several]

    assert stepped("cpu") == stepped("cuda")


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16], ids=str)
def test_sixteen_bits_are_computed_in_thirty_two(dtype: tl.DType, launches: list[str]) -> None:
    fine, _ = trained(tl.optim.AdamW, {"lr": 0.01}, "cpu", tl.float32)
    coarse, _ = trained(tl.optim.AdamW, {"lr": 0.01}, "cuda", dtype)
    for a, b in zip(fine, coarse, strict=True):
        np.testing.assert_allclose(b.detach().float().cpu().numpy(), a.detach().numpy(), rtol=0.02, atol=0.02)
    assert len(launches) == 14


def test_slices_that_begin_anywhere_and_parameters_of_several_dtypes() -> None:
    def stepped(device: str) -> list[list[float]]:
        whole = tl.tensor(values(0, (101,)), dtype=tl.float32, device=device)
        params = [whole[1:], tl.tensor(values(1, (9,)), dtype=tl.float64, device=device)]
        grads = [tl.ones(100, device=device), tl.ones(9, dtype=tl.float64, device=device)]
        assert tl.fused.sgd_(params, grads, None, 0.1)
        return [whole.tolist(), params[1].tolist()]

    assert stepped("cpu") == stepped("cuda")


def test_a_step_with_what_does_not_fit_declines_and_changes_nothing() -> None:
    w, g = tl.ones(3, device="cuda"), tl.ones(3, device="cuda")
    for m in (tl.zeros(3), tl.zeros(2, device="cuda"), tl.zeros(3, dtype=tl.float64, device="cuda"), None):
        assert not tl.fused.lion_([w, w], [g, g], [tl.zeros(3, device="cuda"), m], 0.1)
    assert w.tolist() == [1.0, 1.0, 1.0]
    assert w._version == 0
    assert tl.fused.lion_([w], [g], [tl.zeros(3, device="cuda")], 0.1)
    assert w._version == 1


def test_a_learning_rate_may_be_a_tensor_there() -> None:
    w, lr = tl.ones(3, device="cuda"), tl.tensor(0.5, device="cuda")
    assert tl.fused.sgd_([w], [tl.ones(3, device="cuda")], None, lr)
    assert w.tolist() == [0.5, 0.5, 0.5]


def test_steps_are_left_out_where_the_gpu_finds_out() -> None:
    p = tl.nn.Parameter(tl.ones(3, device="cuda"))
    for make in (tl.optim.AdamW, lambda params: tl.optim.AdamW(params, fused=False)):
        optimizer = make([p])
        p.grad = tl.ones(3, device="cuda")
        with tl.fused.unless(tl.tensor(True, device="cuda")):
            optimizer.step()
        assert p.tolist() == [1.0, 1.0, 1.0]
        assert all(s.get("step", tl.tensor(0.0)).item() == 0 for s in optimizer.state.values())
    with tl.fused.unless(tl.tensor(False, device="cuda")):
        tl.optim.SGD([p], lr=0.5).step()
    assert p.tolist() == [0.5, 0.5, 0.5]


def test_a_captured_step_reads_its_numbers_at_every_replay() -> None:
    p = tl.nn.Parameter(tl.ones(3, device="cuda"))
    optimizer = tl.optim.SGD([p], lr=0.5)
    capturing = capture.Capture(p.device)
    p.grad = tl.ones(3, device="cuda")
    with capturing:
        optimizer.step()  # here, where nothing is captured but by name, it runs: with what memory holds by now
    held = (
        capturing.kept[-1]
        if isinstance(capturing.kept[-1], tl.Tensor)
        else next(t for t in capturing.kept if isinstance(t, tl.Tensor))
    )
    assert held.shape == (6,)
    for lr in (0.25, 0.125):
        optimizer.param_groups[0]["lr"] = lr
        for callback in capturing.callbacks:
            callback()
        assert held.tolist()[0] == lr


def test_clipping_leaves_the_norm_on_the_gpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        params = [tl.nn.Parameter(tl.zeros(s, device=device)) for s in SHAPES]
        for p, s in zip(params, SHAPES, strict=True):
            p.grad = tl.tensor(values(1, s), dtype=tl.float32, device=device)
        total = tl.nn.utils.clip_grad_norm_(params, 3.0)
        assert total.device == device
        tl.nn.utils.clip_grad_norm_(params, 1e9)
        found.append([total.cpu(), *(p.grad.cpu() for p in params)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-6)


def test_unscaling_tells_what_is_not_finite() -> None:
    g = [tl.tensor([2.0, 4.0], device="cuda"), tl.tensor([8.0], device="cuda")]
    found = tl.fused.unscale_(g, tl.tensor(0.5, device="cuda"))
    assert [t.tolist() for t in g] == [[1.0, 2.0], [4.0]]
    assert found is not None
    assert not found.item()
    g[0][1] = float("inf")
    assert tl.fused.unscale_(g, 0.5).item()


def test_a_scaler_keeps_its_factor_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for device in ("cpu", "cuda"):
        p = tl.nn.Parameter(tl.ones(3, device=device))
        optimizer = tl.optim.AdamW([p], lr=0.1)
        scaler = tl.amp.GradScaler(device, init_scale=16.0, growth_interval=2)
        with monkeypatch.context() as patched:
            if device == "cuda":  # nothing waits
                patched.setattr(CudaBackend, "to_numpy", lambda self, *of: pytest.fail("the host waits"))
            for factor in (1.0, 2.0, float("inf"), 3.0, 4.0, 5.0):
                optimizer.zero_grad()
                scaler.scale((p * factor).sum()).backward()
                scaler.step(optimizer)
                scaler.update()
        state = scaler.state_dict()
        again = tl.amp.GradScaler(device)
        again.load_state_dict(state)
        found.append([p.tolist(), state, again.get_scale(), optimizer.state[p]["step"].item()])
    np.testing.assert_allclose(found[1].pop(0), found[0].pop(0), rtol=1e-6)
    assert found[0] == found[1]
    assert found[0][1] == 32.0
