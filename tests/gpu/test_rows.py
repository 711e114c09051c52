"""Kernels over rows: softmax, norms and losses on a GPU are the CPU's, in every layout that they choose between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.gpu import GRADIENT_LANES, LANES, rows as plans
from tests.cases import assert_close

F = tl.nn.functional
INF = float("inf")


def on(device: str, *arrays: Any, dtype: tl.DType = tl.float32, grad: bool = True) -> list[tl.Tensor]:
    made = []
    for a in arrays:
        kind = dtype if np.asarray(a).dtype.kind == "f" else tl.int64
        t = tl.tensor(a, dtype=kind, device=device)
        made.append(t.requires_grad_() if grad and kind is dtype else t)
    return made


def same(
    function: Callable[..., tl.Tensor],
    *arrays: Any,
    dtype: tl.DType = tl.float32,
    leaves: int | None = None,
    **settings: Any,
) -> list[tl.Tensor]:
    """`function` and the gradients of the first `leaves` arrays on both devices, where an arbitrary gradient arrives; gives what the GPU has."""
    found = []
    for device in ("cpu", "cuda"):
        args = on(device, *arrays, dtype=dtype)
        for t in args[len(args) if leaves is None else leaves :]:
            t.requires_grad_(False)
        out = function(*args, **settings)
        seed = np.random.default_rng(3).normal(size=out.shape)
        wanted = [t for t in args if t.requires_grad]
        found.append([out, *tl.autograd.grad(out, wanted, tl.tensor(seed, dtype=out.dtype, device=device))])
    for cpu, gpu in zip(*found, strict=True):
        assert gpu.device == "cuda"
        assert_close(
            gpu.cpu(), cpu.detach().float().numpy() if cpu.dtype is tl.bfloat16 else cpu.detach().numpy(), cpu.dtype
        )
    return found[1]


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).normal(size=shape)


class Spy:
    """A lane that tells who served; the engine reads a gradient lane's parameters off its code."""

    def __init__(self, name: str, serve: Any, served: set[str]) -> None:
        self.name, self.serve, self.served, self.__code__ = name, serve, served, serve.__code__

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        made = self.serve(*args, **attrs)
        self.served.add(self.name if made is not None else f"{self.name} declined")
        return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The lanes that served, and those that declined."""
    served: set[str] = set()
    for name in ("softmax", "log_softmax", "layer_norm", "rms_norm", "channel_norm", "cross_entropy"):
        monkeypatch.setitem(LANES, name, Spy(name, LANES[name], served))
        monkeypatch.setitem(GRADIENT_LANES, name, Spy(f"{name}'s gradient", GRADIENT_LANES[name], served))
    return served


LENGTHS = [1, 4, 17, 64, 1000, 1001, 20000]  # a part of a warp, a warp, several; one chunk, and three


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_rows(name: str, n: int, asked: set[str]) -> None:
    same(lambda x: getattr(tl, name)(x, -1), normal(3, n))
    assert asked == {name, f"{name}'s gradient"}


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 3, 100), (2, 600, 33), (300, 2, 2)], ids=str)
def test_softmax_of_columns(shape: tuple[int, ...]) -> None:
    for name in ("softmax", "log_softmax"):
        same(lambda x, name=name: getattr(tl, name)(x, 1), normal(*shape))


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16, tl.float64], ids=str)
def test_softmax_of_other_floats(dtype: tl.DType) -> None:
    for n in (7, 64):
        same(lambda x: tl.softmax(x, -1), normal(5, n), dtype=dtype)


def test_masked_scores_count_nothing_and_rows_of_nothing_else_are_nan() -> None:
    x = np.zeros((4, 20000), np.float32)
    x[0, :15000] = -INF
    x[1, :] = -INF
    x[2, 7] = np.nan
    x[3, 7] = INF
    for n in (20000, 40):
        for dim in (1, 0):
            part = np.ascontiguousarray(x[:, 20000 - n :] if n > 40 else x[:, :n])
            given = part if dim else np.ascontiguousarray(part.T)
            cpu, gpu = (tl.softmax(tl.tensor(given, device=d), dim).cpu().numpy() for d in ("cpu", "cuda"))
            np.testing.assert_allclose(gpu, cpu, rtol=1e-6)


def test_a_row_has_the_bits_it_has_alone_however_many_blocks_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(3, 40000).astype(np.float32)
    split = tl.log_softmax(tl.tensor(x, device="cuda"), 1).cpu().numpy()
    monkeypatch.setattr(plans, "FEW", 0)
    alone = tl.log_softmax(tl.tensor(x[1:2], device="cuda"), 1).cpu().numpy()
    assert np.array_equal(split[1:2], alone)


def test_slices_that_begin_anywhere_are_read_as_they_are() -> None:
    x = tl.tensor(normal(1, 65), dtype=tl.float32, device="cuda").reshape(-1)[1:].reshape(4, 16)
    np.testing.assert_allclose(tl.softmax(x, 1).cpu().numpy(), tl.softmax(x.cpu(), 1).numpy(), rtol=1e-6)


@pytest.mark.parametrize("n", [3, 64, 1001, 5000, 20000])
def test_norms_of_rows(n: int, asked: set[str]) -> None:
    x, w, b = normal(5, n) * 3 + 7, normal(n), normal(1, n)[0]
    same(lambda x, w, b: tl.layer_norm(x, (n,), w, b), x, w, b)
    same(lambda x, w: tl.rms_norm(x, (n,), w), x, w)
    same(lambda x: tl.layer_norm(x, (n,)), x)
    long = " declined" if n > 8192 else ""  # gradients of rows that are longer than a block's registers are the rules'
    assert asked == {"layer_norm", "rms_norm", f"layer_norm's gradient{long}", f"rms_norm's gradient{long}"}


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16, tl.float64], ids=str)
def test_norms_of_other_floats(dtype: tl.DType) -> None:
    same(lambda x, w, b: tl.layer_norm(x, (64,), w, b), normal(9, 64), normal(64), normal(1, 64)[0], dtype=dtype)


def test_rows_of_many_blocks_add_up_to_the_parameters_gradients() -> None:
    same(
        lambda x, w, b: tl.layer_norm(x, (16,), w, b), normal(9000, 16), normal(16), normal(1, 16)[0], dtype=tl.float64
    )


@pytest.mark.parametrize(
    "shape", [(7, 3), (4, 6, 5), (3, 6, 2, 9), (2, 6, 5000)], ids=str
)  # fmt: skip
def test_norms_over_channels(shape: tuple[int, ...]) -> None:
    x, w, b = normal(*shape) + 5, normal(shape[1]), normal(1, shape[1])[0]
    same(lambda x, w, b: tl.batch_norm(x, None, None, w, b, training=True), x, w, b)
    same(lambda x, w, b: tl.group_norm(x, 3 if shape[1] % 2 == 0 else 1, w, b), x, w, b)
    mean, var = np.abs(w) + 1, np.abs(b) + 1
    same(lambda x, m, v, w, b: tl.batch_norm(x, m, v, w, b), x, mean, var, w, b, leaves=1)


def test_batch_norm_moves_its_running_statistics() -> None:
    x, found = normal(6, 4, 5), []
    for device in ("cpu", "cuda"):
        layer = tl.nn.BatchNorm1d(4).to(device)
        y = layer(tl.tensor(x, dtype=tl.float32, device=device))
        y.square().sum().backward()
        found.append([layer.running_mean, layer.running_var, y.detach(), layer.weight.grad])
        assert layer.running_mean._version > 0
    for cpu, gpu in zip(*found, strict=True):
        np.testing.assert_allclose(gpu.cpu().numpy(), cpu.numpy(), rtol=1e-5, atol=1e-5)


# ---- losses ----


def classes(shape: tuple[int, ...], n: int, ignored: bool = True) -> np.ndarray[Any, Any]:
    y = np.random.default_rng(n).integers(0, n, shape)
    if ignored and y.size > 2:
        y.reshape(-1)[1] = -100
    return y


@pytest.mark.parametrize("shape", [(5,), (6, 4), (5, 67), (3, 20000), (2, 5, 3), (2, 30, 3, 11)], ids=str)
def test_cross_entropy(shape: tuple[int, ...], asked: set[str]) -> None:
    axis = 1 if len(shape) > 1 else 0
    y, w = classes(shape[:axis] + shape[axis + 1 :], shape[axis]), np.abs(normal(shape[axis])) + 0.5
    for reduction in ("mean", "sum", "none"):
        same(F.cross_entropy, normal(*shape), y, reduction=reduction)
        same(F.cross_entropy, normal(*shape), y, w, reduction=reduction, label_smoothing=0.2, leaves=1)
    assert asked == {"cross_entropy", "cross_entropy's gradient"}


@pytest.mark.parametrize("shape", [(6, 4), (3, 20000), (2, 30, 3)], ids=str)
def test_cross_entropy_with_probabilities(shape: tuple[int, ...]) -> None:
    t, w = np.abs(normal(*shape)), np.abs(normal(shape[1])) + 0.5
    for reduction in ("mean", "none"):
        same(F.cross_entropy, normal(*shape) * 2, t, w, reduction=reduction, label_smoothing=0.1, leaves=1)


def test_masked_classes_cost_nothing() -> None:
    x = normal(3, 20000).astype(np.float32)
    x[:, 5:] = -INF
    for n in (20000, 30):
        cpu, gpu = (
            F.cross_entropy(*on(d, x[:, :n], np.array([0, 3, 4])), reduction="none").detach() for d in ("cpu", "cuda")
        )
        np.testing.assert_allclose(gpu.cpu().numpy(), cpu.numpy(), rtol=1e-6)


def test_sums_of_many_losses() -> None:
    same(lambda x, y: F.cross_entropy(x, y), normal(20000, 2), classes((20000,), 2), dtype=tl.float64)
    same(lambda x, y: tl.mse_loss(x, y), normal(20000), normal(2, 10000).reshape(-1), dtype=tl.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_loss(reduction: str) -> None:
    for shape, n in (((6,), 4), ((2, 3), 5)):
        x = normal(shape[0], n, *shape[1:])
        same(tl.nll_loss, x, classes(shape, n), np.abs(normal(n)), reduction=reduction, leaves=1)


def test_a_target_that_is_no_class_is_an_error_where_the_host_waits() -> None:
    x, y = on("cuda", normal(4, 3), np.array([0, 3, 1, 2]))
    loss = F.cross_entropy(x, y)
    with pytest.raises(
        IndexError, match=r"cross_entropy: target 3 is out of range; expected a class in \[0, 3\).*test_rows.py:\d+"
    ):
        loss.item()
    assert np.isnan(loss.item())  # told once
    assert F.cross_entropy(*on("cuda", normal(2, 3), np.array([0, -100]))).item() > 0


PAIRS = {
    "mse_loss": {}, "l1_loss": {}, "huber_loss": {"delta": 0.7}, "smooth_l1_loss": {"beta": 0.5},
    "binary_cross_entropy": {}, "binary_cross_entropy_with_logits": {}, "kl_div": {"log_target": True},
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_losses_of_pairs(name: str) -> None:
    x, t = (1 / (1 + np.exp(normal(*s).reshape(6, 20))) for s in ((6, 20), (20, 6)))
    for reduction in ("mean", "none"):
        same(getattr(F, name), x, t, reduction=reduction, **PAIRS[name])
        same(getattr(F, name), x, t, reduction=reduction, **PAIRS[name], leaves=1)
