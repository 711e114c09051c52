"""GPU memory shared with other libraries: the CUDA array interface and DLPack, in and out."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

DTYPES = (tl.float32, tl.float64, tl.float16, tl.int64, tl.int32, tl.uint8, tl.bool, tl.complex64)


class Interface:
    """An array of a library that has the interface alone."""

    def __init__(self, array: Any) -> None:
        self.__cuda_array_interface__ = array.__cuda_array_interface__
        self.array = array

    __cuda_array_interface__: Any = None


class Capsules:
    """An array of a library that has DLPack alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cupy_sees_the_same_memory(cupy: Any, dtype: Any) -> None:
    x = tl.arange(12).reshape(3, 4).to(dtype).to("cuda")
    for view in (x, x.mT, x[1:, ::2], x[1, 2], x[:, 1]):
        for seen in (cupy.asarray(view), cupy.from_dlpack(view)):
            assert seen.dtype == dtype.np and seen.shape == view.shape and seen.data.ptr == view.data_ptr()
            assert seen.get().tolist() == view.tolist()
    interface = x[1:, ::2].__cuda_array_interface__
    assert interface["version"] == 3 and interface["stream"] == 1 and interface["typestr"] == dtype.np.str
    assert (
        interface["strides"] == tuple(s * x.itemsize for s in (4, 2)) and x.__cuda_array_interface__["strides"] is None
    )
    side = tl.cuda.Stream()
    with side:
        assert x.__cuda_array_interface__["stream"] == side.cuda_stream


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_over_others_memory(cupy: Any, dtype: Any) -> None:
    a = cupy.asarray(np.arange(12).reshape(3, 4).astype(dtype.np))
    for given in (a, a.T, a[1:, ::2], a[1, 2:3], a[:, 1], a[1, 2].reshape(())):
        for made in (
            tl.as_tensor(given), tl.asarray(given), tl.asarray(given, copy=False), tl.from_dlpack(given),
            tl.as_tensor(Interface(given)), tl.from_dlpack(Capsules(given)), tl.as_tensor(Capsules(given)),
        ):  # fmt: skip
            assert made.dtype is dtype and made.device == "cuda:0" and made.shape == given.shape
            assert made.data_ptr() == given.data.ptr and made.tolist() == given.get().tolist()
        for apart in (tl.tensor(given), tl.asarray(given, copy=True)):
            assert apart.data_ptr() != given.data.ptr
        assert tl.tensor(given).tolist() == given.get().tolist() == tl.tensor(given, device="cpu").tolist()
    assert tl.as_tensor(a[:0]).shape == (0, 4) and tl.as_tensor(a[::-1]).tolist() == a.get()[::-1].tolist()
    assert tl.as_tensor(a, dtype=tl.float64, device="cpu").dtype is tl.float64
    tl.as_tensor(a)[0, 0] = 1
    assert a.get()[0, 0] == 1


def test_memory_lives_as_long_as_its_last_user(cupy: Any) -> None:
    gc.collect()
    tl.zeros(1)  # what died goes when the next tensor is freed
    before = tl.cuda.memory_allocated()
    a = cupy.ones(1000, np.float32)
    x = tl.as_tensor(a)[10:]
    b = cupy.asarray(x * 2)
    c = cupy.from_dlpack(x)
    del a, x
    gc.collect()
    tl.zeros(1)
    assert b.get()[0] == 2 and c.get()[0] == 1 and tl.cuda.memory_allocated() == before + 2 * 4096
    del b, c
    gc.collect()
    tl.zeros(1)
    assert tl.cuda.memory_allocated() == before


def test_what_is_shared_is_tensors_without_history() -> None:
    x = tl.ones(2, device="cuda", requires_grad=True)
    assert x.__dlpack_device__() == (2, 0) and not hasattr(tl.ones(2), "__cuda_array_interface__")
    for share in (lambda: x.__dlpack__(), lambda: x.__cuda_array_interface__):
        with pytest.raises(tl.GradError, match="requires a gradient, and other libraries can not record"):
            share()
    with pytest.raises(tl.DTypeError, match="the interface has no bfloat16"):
        _ = tl.ones(2, dtype=tl.bfloat16, device="cuda").__cuda_array_interface__


def test_bfloat16_needs_a_cupy_that_has_it(cupy: Any) -> None:
    x = tl.tensor([1.5, -2.0], dtype=tl.bfloat16, device="cuda")
    try:
        capsule = x.__dlpack__()
    except BufferError as error:
        assert "bfloat16 needs CuPy 14 and the package ml_dtypes" in str(error)  # noqa: PT017 (either is right, as is installed)
    else:
        assert capsule is not None
        assert tl.from_dlpack(Capsules(x)).tolist() == [1.5, -2.0]


def test_an_order_of_bytes_or_dtype_that_is_not_ours(cupy: Any) -> None:
    with pytest.raises(tl.DTypeError, match="uint64"):
        tl.as_tensor(cupy.zeros(2, np.uint64))


def test_pytorch_sees_the_same_memory() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch without CUDA")
    x = tl.arange(6.0, device="cuda").reshape(2, 3)
    t = torch.from_dlpack(x)
    t[0, 0] = 9
    assert t.data_ptr() == x.data_ptr() and x[0, 0].item() == 9
    back = tl.from_dlpack(t.mT)
    assert back.data_ptr() == x.data_ptr() and back.tolist() == t.mT.tolist()
    assert tl.as_tensor(torch.ones(2, device="cuda")).tolist() == [1.0, 1.0]
