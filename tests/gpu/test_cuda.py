"""tl.cuda: which GPUs there are, their memory, streams and events, and copies between devices."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import backends
from tests.gpu.conftest import REAL

two = pytest.mark.skipif(REAL and tl.cuda.device_count() < 2, reason="needs two GPUs")
DTYPES = (tl.float32, tl.float64, tl.float16, tl.bfloat16, tl.int64, tl.uint8, tl.bool, tl.complex64)


# ---- devices ----
def test_what_there_is() -> None:
    assert tl.cuda.is_available() and tl.cuda.device_count() >= 1 and tl.cuda.is_initialized()
    assert tl.cuda.current_device() == 0 and tl.device("cuda") == tl.device("cuda:0") == "cuda"
    p = tl.cuda.get_device_properties()
    assert tl.cuda.get_device_capability() == (p.major, p.minor) >= (7, 5)
    assert tl.cuda.get_device_name("cuda:0") == p.name and p.total_memory > 0 and p.warp_size == 32
    assert tl.cuda.get_device_properties(0) == tl.cuda.get_device_properties(tl.device("cuda")) == p
    tl.cuda.synchronize()
    tl.cuda.synchronize("cuda:0")


@two
def test_cuda_means_the_current_gpu() -> None:
    before = tl.zeros(1, device="cuda")
    with tl.cuda.device(1):
        assert tl.device("cuda") == tl.device("cuda:1") and tl.cuda.current_device() == 1
        assert tl.zeros(1, device="cuda").device == "cuda:1"
        with tl.cuda.device_of(before):
            assert tl.cuda.current_device() == 0
        with tl.cuda.device_of(tl.zeros(1)), tl.cuda.device(None), tl.cuda.device(-1):
            assert tl.cuda.current_device() == 1
    assert tl.cuda.current_device() == 0 and before.device == "cuda:0"
    tl.cuda.set_device("cuda:1")
    try:
        assert tl.ones(2).cuda().device == "cuda:1" and hash(tl.device("cuda")) == hash(tl.device("cuda:1"))
    finally:
        tl.cuda.set_device(0)
    tl.cuda.set_device(-1)
    assert tl.cuda.current_device() == 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: tl.cuda.set_device(99), r"set_device: there is no GPU 99; expected 0 to \d"),
        (lambda: tl.cuda.get_device_name("cpu"), "get_device_properties: got the device cpu, expected a GPU"),
        (lambda: tl.cuda.device(99).__enter__(), "device: there is no GPU 99"),
        (lambda: tl.zeros(1, device="cuda:99"), r"device cuda:99: there are \d GPUs"),
        (
            lambda: tl.ones(2, device="cuda") + tl.ones(2),
            r"add: operands are on cuda:0 and cpu\.\n  hint: move one with",
        ),
        (lambda: tl.ones(2, device="cuda").pin_memory(), "pin_memory: the tensor is on cuda:0, expected one in main"),
        (lambda: tl.ones(2).record_stream(tl.cuda.current_stream()), "record_stream: the tensor is on cpu, expected"),
    ],
    ids=["set_device", "name-of-cpu", "device", "tensor", "mixed", "pin", "record_stream"],
)
def test_devices_that_are_not_there(call: Callable[[], Any], match: str) -> None:
    with pytest.raises(tl.DeviceError, match=match):
        call()


def test_without_cupy_or_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_backends", dict.fromkeys(()))
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not tl.cuda.is_available() and tl.cuda.device_count() == 0 and tl.device("cuda") == "cuda:0"
    assert not tl.cuda.is_bf16_supported()
    tl.cuda.empty_cache()
    for ask in (tl.cuda.current_device, tl.cuda.synchronize, tl.cuda.Stream, tl.ones(1).pin_memory):
        with pytest.raises(
            tl.DeviceError, match=r"CuPy can not be imported .*; CPU tensors work\.\n  hint: pip install"
        ):
            ask()


def test_without_a_driver(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", no_driver)
    assert not tl.cuda.is_available()
    with pytest.raises(tl.DeviceError, match=r"CUDA driver not found: cudaErrorInsufficientDriver.*; CPU tensors work"):
        tl.cuda.get_device_name()


# ---- memory ----
def test_figures_of_memory() -> None:
    tl.cuda.reset_peak_memory_stats()
    before = tl.cuda.memory_allocated()
    x = tl.zeros(1000, 1000, device="cuda")
    assert 4_000_000 <= tl.cuda.memory_allocated() - before < 4_010_000
    assert tl.cuda.memory_reserved() >= tl.cuda.memory_allocated()
    y = x + 1
    del x, y
    assert tl.cuda.memory_allocated() == before
    assert tl.cuda.max_memory_allocated() - before >= 8_000_000
    stats = tl.cuda.memory_stats()
    assert stats["allocated_bytes.all.peak"] == tl.cuda.max_memory_allocated()
    assert stats["reserved_bytes.all.peak"] == tl.cuda.max_memory_reserved() >= tl.cuda.memory_reserved()
    tl.cuda.reset_peak_memory_stats()
    assert tl.cuda.max_memory_allocated() == before
    free, total = tl.cuda.mem_get_info()
    assert 0 < free <= total
    tl.cuda.empty_cache()


def test_a_limit_of_memory() -> None:
    _, total = tl.cuda.mem_get_info()
    tl.cuda.empty_cache()
    tl.cuda.set_per_process_memory_fraction(0.0001)
    try:
        with pytest.raises(MemoryError):
            tl.zeros(total // 4000, device="cuda")
    finally:
        tl.cuda.set_per_process_memory_fraction(0.0)
    for bad in (-0.1, 1.1, "a"):
        with pytest.raises(ValueError, match="expected a number from 0 to 1"):
            tl.cuda.set_per_process_memory_fraction(bad)  # type: ignore[arg-type]


# ---- streams ----
def test_streams_and_events() -> None:
    side, start, end = tl.cuda.Stream(), tl.cuda.Event(enable_timing=True), tl.cuda.Event(enable_timing=True)
    assert tl.cuda.current_stream() == tl.cuda.default_stream() != side and side.device == "cuda:0"
    assert start.query()  # not recorded: nothing to wait for
    start.record()
    x = tl.ones(10, device="cuda")
    side.wait_stream(tl.cuda.current_stream())
    with tl.cuda.stream(side):
        assert tl.cuda.current_stream() == side == tl.cuda.ExternalStream(side.cuda_stream)
        y = x * 2
        with tl.cuda.stream(tl.cuda.default_stream()), side:
            assert tl.cuda.current_stream() == side
    x.record_stream(side)
    done = side.record_event()
    tl.cuda.current_stream().wait_event(done)
    y.record_stream(tl.cuda.current_stream())
    end.record()
    end.synchronize()
    side.synchronize()
    assert done.query() and side.query() and start.elapsed_time(end) >= 0 and y.tolist() == [2.0] * 10
    assert len({side, tl.cuda.ExternalStream(side.cuda_stream)}) == 1 and side.__cuda_stream__() == (
        0,
        side.cuda_stream,
    )
    tl.cuda.set_stream(side)
    try:
        assert tl.cuda.current_stream() == side
    finally:
        tl.cuda.set_stream(tl.cuda.default_stream())
    with pytest.raises(ValueError, match="the second event was made without enable_timing=True"):
        start.elapsed_time(tl.cuda.Event())
    with pytest.raises(ValueError, match="the second event was not recorded"):
        start.elapsed_time(tl.cuda.Event(enable_timing=True))


@two
def test_an_event_belongs_to_one_gpu() -> None:
    event = tl.cuda.current_stream().record_event()
    with pytest.raises(tl.DeviceError, match="the event belongs to cuda:0, the stream to cuda:1"):
        event.record(tl.cuda.Stream("cuda:1"))


def test_memory_stays_until_a_stream_that_was_noted_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorlib.backends import copies

    class Pending:
        done = False

        def record(self, stream: object) -> None:
            self.stream = stream

    copies._held.clear()
    side = tl.cuda.Stream()
    before = tl.cuda.memory_allocated()
    x = tl.ones(1 << 20, device="cuda")
    x.record_stream(side)
    monkeypatch.setattr(backends.backend(x.device).xp.cuda, "Event", lambda **options: Pending())
    del x
    tl.zeros(1)  # what died goes when the next tensor is freed
    event = copies._held[0][0]
    assert len(copies._held) == 1 and event.stream is side._raw and tl.cuda.memory_allocated() > before
    event.done = True
    monkeypatch.undo()
    tl.ones(4).pin_memory().to("cuda", non_blocking=True)
    tl.cuda.synchronize()
    copies._held.clear()
    assert tl.cuda.memory_allocated() == before


# ---- copies ----
def _values(dtype: Any) -> tl.Tensor:
    return tl.tensor([[0.0, 1.5, -2.25], [3.0, 100.0, 7.0]]).abs().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_keep_every_bit(dtype: Any) -> None:
    x = _values(dtype)
    for source in (x, x.mT, x[:, 1:], x[:0], x[1, 2], x.pin_memory()):
        for there in ("cuda", "cuda:1") if tl.cuda.device_count() > 1 else ("cuda",):
            up = source.to(there, non_blocking=True)
            assert up.device == there and up.dtype is dtype and up.shape == source.shape
            across = up.to("cuda:0")
            for back in (up.cpu(), across.cpu(), up.to("cpu", non_blocking=True)):
                tl.cuda.synchronize()
                assert back.device == "cpu" and back.dtype is dtype and back.tolist() == source.tolist()


def test_copies_are_recorded() -> None:
    x = tl.tensor([1.0, 2.0], requires_grad=True)
    (x.to("cuda") * x.cuda()).to("cpu").sum().backward()
    assert x.grad is not None and x.grad.device == "cpu" and x.grad.tolist() == [2.0, 4.0]


def test_pinned_memory() -> None:
    x = tl.arange(6).reshape(2, 3)
    pinned = x.pin_memory()
    assert pinned.is_pinned() and pinned[1:].is_pinned() and not x.is_pinned() and pinned.pin_memory() is pinned
    assert pinned.tolist() == x.tolist() and pinned.dtype is tl.int64
    there = pinned.to("cuda", non_blocking=True)
    back = there.to("cpu", non_blocking=True)
    tl.cuda.current_stream().synchronize()
    assert back.is_pinned() and back.tolist() == x.tolist() and not there.is_pinned()
    assert not there.cpu().is_pinned() and tl.zeros(0).pin_memory().shape == (0,)
    assert tl.ones(3, dtype=tl.bfloat16).pin_memory().tolist() == [1.0] * 3
    y = tl.ones(2, requires_grad=True).pin_memory()
    assert y.is_pinned() and not y.requires_grad


@pytest.mark.parametrize("pin", [False, True], ids=["plain", "pinned"])
@pytest.mark.parametrize(
    ("here", "there"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda:1"), ("cpu", "reference")]
)
def test_copy_between_devices(here: str, there: str, pin: bool) -> None:
    if there == "cuda:1" and tl.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = tl.arange(6.0).reshape(2, 3)
    source = (x.pin_memory() if pin and here == "cpu" else x).to(here)
    for target in (tl.zeros(2, 3, device=there), tl.zeros(3, 2, device=there).mT, tl.zeros(4, 2, 3, device=there)[1]):
        before = target._version
        assert target.copy_(source, non_blocking=pin) is target
        tl.cuda.synchronize()
        assert target.tolist() == x.tolist() and target._version > before
    assert tl.zeros(2, 3, device=there, dtype=tl.float64).copy_(source).tolist() == x.tolist()
    assert tl.zeros(2, 3, device=there).copy_(source[0]).tolist() == [[0.0, 1.0, 2.0]] * 2


def test_copies_into_place_are_checked_and_recorded() -> None:
    leaf = tl.zeros(2, device="cuda", requires_grad=True)
    with pytest.raises(tl.GradError, match="a leaf tensor that requires a gradient can not be written in place"):
        leaf.copy_(tl.ones(2))
    fixed = np.zeros(2, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(tl.ReadOnlyError, match="read-only"):
        tl.from_numpy(fixed).copy_(tl.ones(2, device="cuda"))
    w = tl.ones(2, requires_grad=True)
    y = leaf * 1
    y.copy_(w)
    (y * 3).sum().backward()
    assert w.grad is not None and w.grad.tolist() == [3.0, 3.0]
    x = tl.ones(2, device="cuda", requires_grad=True)
    saved = tl.ones(2, device="cuda")
    product = x * saved
    saved.copy_(tl.zeros(2))
    with pytest.raises(tl.GradError, match="overwritten in place"):
        product.sum().backward()


def test_a_plain_upload_does_not_see_later_writes() -> None:
    for n in (10, 3 << 20):
        x = tl.ones(n)
        there = x.to("cuda", non_blocking=True)
        x.zero_()
        assert there.sum().item() == n


def test_a_loader_hands_out_pinned_batches() -> None:
    data = tl.data.TensorDataset(tl.arange(6), tl.arange(12.0).reshape(6, 2))
    for workers in (0, 2):
        batches = list(tl.data.DataLoader(data, batch_size=4, pin_memory=True, num_workers=workers))
        assert [x.tolist() for x, _ in batches] == [[0, 1, 2, 3], [4, 5]]
        assert all(t.is_pinned() for batch in batches for t in batch)
    nested = tl.data.DataLoader([{"a": i, "b": (float(i), "word")} for i in range(2)], batch_size=2, pin_memory=True)
    [batch] = nested
    assert batch["a"].is_pinned() and batch["b"][0].is_pinned() and list(batch["b"][1]) == ["word", "word"]
    assert not next(iter(tl.data.DataLoader(data, batch_size=4)))[0].is_pinned()
