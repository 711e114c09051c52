"""The stand-in is as strict as CuPy. With a real GPU the same holds of CuPy itself, except where a test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tests.gpu import standin
from tests.gpu.conftest import REAL

only_standin = pytest.mark.skipif(REAL, reason="of the stand-in alone")


@pytest.mark.parametrize(
    "mix",
    [
        lambda cp: np.asarray(cp.ones(2)),
        lambda cp: cp.ones(2) + np.ones(2),
        lambda cp: np.ones(2) * cp.ones(2),
        lambda cp: cp.concatenate([cp.ones(2), np.ones(2)]),
        lambda cp: cp.where(cp.ones(2) > 0, np.ones(2), 0.0),
        lambda cp: cp.sum(cp.ones(2), where=True),
        lambda cp: cp.ones(2, "O"),
    ],
    ids=["asarray", "add", "reflected", "concatenate", "where", "keyword", "dtype"],
)
def test_what_cupy_refuses(cupy: Any, mix: Callable[[Any], object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        mix(cupy)


def test_arrays(cupy: Any) -> None:
    x = cupy.arange(6.0).reshape(2, 3)
    assert isinstance(x.sum(), cupy.ndarray) and x.sum().shape == ()
    x[0, cupy.asarray([1, 4])] = 7  # indices wrap around
    assert x.get().tolist() == [[0, 7, 2], [3, 4, 5]]
    x += np.float32(1)
    assert (x.T[1] * 2).get().tolist() == [16, 10] and x.T.data.ptr == x.data.ptr
    part = cupy.ndarray((3,), x.dtype, x.data + 24)
    part[...] = 0
    assert x[1].get().tolist() == [0, 0, 0] and bool((x[0] > 0).all())


def test_capture(cupy: Any) -> None:
    x = cupy.ones(3)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        y = x * 2
        stream.begin_capture()
        y[...] = x * 3
        total = y.sum()
        x += 1
        graph = stream.end_capture()
        assert x.get().tolist() == [1, 1, 1] and y.get().tolist() == [2, 2, 2]
        for want in (9, 18):
            graph.launch()
            stream.synchronize()
            assert total.get() == want
        assert x.get().tolist() == [3, 3, 3]


@only_standin
@pytest.mark.parametrize(
    "waits",
    [lambda x: x.get(), lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.all()), lambda x: x.nonzero()],
    ids=["get", "item", "mask", "bool", "nonzero"],
)
def test_what_can_not_be_captured(cupy: Any, waits: Callable[[Any], object]) -> None:
    x, stream = cupy.ones(3), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            waits(x)
        with pytest.raises(RuntimeError, match="previous error during capture"):
            stream.end_capture()


@only_standin
def test_devices_do_not_mix(cupy: Any) -> None:
    x = cupy.ones(3)
    with cupy.cuda.Device(1):
        y = cupy.ones(3)
        with pytest.raises(ValueError, match="Array device must be same"):
            x + y
        kernel = cupy.RawModule(code='extern "C" __global__ void f(double *x) { x[threadIdx.x] += 1; }').get_function(
            "f"
        )
        kernel((1,), (3,), (y,))
        with pytest.raises(RuntimeError, match="memory of device 0"):
            kernel((1,), (3,), (x,))
        with pytest.raises(RuntimeError, match="address of main memory"):
            kernel((1,), (3,), (np.ones(3).ctypes.data,))
    assert y.get().tolist() == [2, 2, 2]


@only_standin
def test_writes_beside_an_allocation_are_noticed(cupy: Any) -> None:
    x = cupy.ones(3)
    cupy.RawModule(code='extern "C" __global__ void f(double *x) { x[3] = 1; }').get_function("f")(
        (1,), (1,), (x.data.ptr,)
    )
    del x
    assert standin.memory.FAULTS == ["memory beside an allocation of 24 bytes was written"]
    standin.memory.FAULTS.clear()


@only_standin
def test_new_memory_is_no_number(cupy: Any) -> None:
    assert np.isnan(cupy.empty(3).get()).all()


def test_tensors_live_there() -> None:
    x = tl.ones(3, 4, device="cuda", requires_grad=True)
    (x.exp() * 2).sum().backward()
    assert x.grad is not None and x.grad.device == "cuda:0"
    np.testing.assert_allclose(x.grad.cpu().numpy(), 2 * np.exp(np.ones((3, 4))), rtol=1e-6)


@only_standin
def test_products_of_cupy_are_not_captured(cupy: Any) -> None:
    x, stream = cupy.ones((2, 2)), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="cuBLAS API during stream capture"):
            cupy.matmul(x, x)
        stream.end_capture()
