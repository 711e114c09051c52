"""In and out of the library: NumPy without copies, DLPack, copy, deepcopy and pickle."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.native import OBJECTS, drain


# ---- NumPy ----
def test_numpy_shares_memory_both_ways() -> None:
    x = tl.zeros(2, 3)
    a = x.numpy()
    a[0, 1] = 5
    x[1, 2] = 7
    assert x[0, 1].item() == 5 and a[1, 2] == 7 and a.ctypes.data == x.data_ptr()
    b = np.zeros((2, 3))
    y = tl.from_numpy(b)
    b[0, 0] = 3
    y.add_(1)
    assert y[0, 0].item() == 4 and b[1, 1] == 1 and y.data_ptr() == b.ctypes.data


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[::2],
        lambda a: a[:, 1],
        lambda a: a[1:, 2:],
        lambda a: a[0, 0],
        lambda a: np.broadcast_to(a[0], (3, 6)),
        lambda a: a.reshape(-1)[3:],
    ],
    ids=["transposed", "strided", "column", "corner", "0-d", "broadcast", "offset"],
)
def test_strided_arrays_are_adopted_as_they_are(view: Any) -> None:
    a = np.arange(24.0).reshape(4, 6)
    v = np.asarray(view(a))
    t = tl.from_numpy(v)
    if v.ndim:
        assert t.data_ptr() == v.ctypes.data and t.stride() == tuple(s // 8 for s in v.strides)
    np.testing.assert_array_equal(t.numpy(), v)
    np.testing.assert_array_equal((t * 2).numpy(), v * 2)


@pytest.mark.parametrize(
    "a",
    [
        np.arange(5.0)[::-1],
        np.arange(3, dtype=">f8"),
        np.frombuffer(b"\0" * 17, np.float64, 2, 1),
        np.zeros(2, "i4,f8")["f1"],
    ],
    ids=["negative strides", "big-endian", "unaligned", "inside a structure"],
)
def test_layouts_that_kernels_do_not_know_are_copied(a: np.ndarray) -> None:
    t = tl.from_numpy(a)
    np.testing.assert_array_equal(t.numpy(), a)
    assert (t + 1).tolist() == (a + 1).tolist()


def test_views_of_tensors_as_arrays() -> None:
    x = tl.arange(24).reshape(2, 3, 4)
    for t, a in [
        (x.permute(2, 0, 1), x.numpy().transpose(2, 0, 1)),
        (x[:, ::2, 1:], x.numpy()[:, ::2, 1:]),
        (x[1, 2, 3], x.numpy()[1, 2, 3]),
    ]:
        np.testing.assert_array_equal(t.numpy(), a)
        assert np.shares_memory(t.numpy(), x.numpy()) and t.numpy().strides == np.asarray(a).strides
    e = tl.ones(1).expand(3)
    assert e.numpy().strides == (0,) and e.numpy().tolist() == [1, 1, 1]


def test_read_only_stays_read_only() -> None:
    a = np.ones(3)
    a.flags.writeable = False
    t = tl.from_numpy(a)
    assert not t.numpy().flags.writeable and not t[1:].numpy().flags.writeable
    for write in (
        lambda: t.add_(1),
        lambda: t.__setitem__(0, 5),
        lambda: t[1:].zero_(),
        lambda: t.detach().exp_(),
        lambda: t.copy_(tl.zeros(3)),
    ):
        with pytest.raises(tl.ReadOnlyError, match="read-only"):
            write()
    assert a.tolist() == [1, 1, 1]
    assert t.clone().add_(1).tolist() == [2, 2, 2] and (t + 1).numpy().flags.writeable


def test_either_side_keeps_the_memory_alive() -> None:
    gc.disable()
    try:
        before = tl.memory.allocated()
        x = tl.full((1000,), 3.0)
        a = x.numpy()
        part = a[10:20]
        del x, a
        assert (part == 3).all() and tl.memory.allocated() > before
        del part
        assert tl.memory.allocated() == before

        b = np.full(1000, 3.0)
        alive = weakref.ref(b)
        t = tl.from_numpy(b)[5:]
        del b
        assert alive() is not None and (t == 3).all()
        del t
        drain()
        assert alive() is None
    finally:
        gc.enable()


def test_adopting_leaves_nothing_behind() -> None:
    gc.collect()
    drain()
    before = len(OBJECTS)
    for _ in range(100):
        t = tl.from_numpy(np.ones(3))
        _ = (t * np.ones(3)).numpy() + t.numpy()
    del t, _
    drain()
    assert len(OBJECTS) == before


def test_array_protocol() -> None:
    x = tl.tensor([1.5, 2.5], requires_grad=True)
    assert np.asarray(x).dtype == np.float32 and np.asarray(x, dtype=np.float64).tolist() == [1.5, 2.5]
    assert np.array(x, dtype=int).tolist() == [1, 2]
    copied = np.array(x)
    copied[0] = 9
    assert x[0].item() == 1.5 and x.detach().__array__(copy=True) is not None
    with pytest.raises(ValueError, match="copy"):
        x.__array__(np.float64, copy=False)
    assert np.asarray(tl.ones(2).bfloat16()).dtype == np.float32
    assert tl.ones(2, device="reference").numpy().tolist() == [1, 1]


# ---- DLPack ----
@pytest.mark.parametrize(
    "dtype",
    [
        tl.uint8,
        tl.int8,
        tl.int16,
        tl.int32,
        tl.int64,
        tl.float16,
        tl.float32,
        tl.float64,
        tl.complex64,
        tl.complex128,
        tl.bool,
    ],
    ids=str,
)
def test_dlpack_both_ways(dtype: tl.DType) -> None:
    x = tl.tensor(np.arange(6).reshape(2, 3).T % 2, dtype=dtype)
    assert x.__dlpack_device__() == (1, 0)
    a = np.from_dlpack(x)
    assert a.ctypes.data == x.data_ptr() and a.dtype == dtype.np
    np.testing.assert_array_equal(a, x.numpy())
    back = tl.from_dlpack(x.numpy())
    assert back.data_ptr() == x.data_ptr() and back.dtype is dtype
    assert tl.from_dlpack(x) is x


def test_dlpack_of_views_and_lifetimes() -> None:
    x = tl.arange(12).reshape(3, 4)[1:, ::2]
    a = np.from_dlpack(x)
    del x
    assert a.tolist() == [[4, 6], [8, 10]]
    with pytest.raises(tl.GradError, match="requires a gradient"):
        np.from_dlpack(tl.ones(2, requires_grad=True))


# ---- copies ----
def test_copy_shares_memory() -> None:
    x = tl.ones(2, requires_grad=True)
    c = copy.copy(x)
    assert c is not x and c.data_ptr() == x.data_ptr() and c.is_leaf and c.requires_grad and c.grad is None
    h = x * 2
    c = copy.copy(h)
    assert c is not h and c.data_ptr() == h.data_ptr()
    c.sum().backward()  # an interior tensor's copy leads back, too
    assert x.grad.tolist() == [2, 2]


def test_deepcopy() -> None:
    x = tl.ones(2, dtype=tl.float64, requires_grad=True)
    (x * 3).sum().backward()
    y = copy.deepcopy(x)
    y.grad.zero_()
    with tl.no_grad():
        y.zero_()
    assert (
        x.tolist() == [1, 1] and x.grad.tolist() == [3, 3] and y.requires_grad and y.is_leaf and y.dtype is tl.float64
    )
    a, b, c = copy.deepcopy([x, x, x.detach()])
    assert a is b and c is not a
    with pytest.raises(tl.GradError, match="only leaf"):
        copy.deepcopy(x * 2)


class Tagged(tl.Tensor):
    pass


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol: int) -> None:
    for x in (
        tl.arange(6).reshape(2, 3).t(), tl.tensor(3.0), tl.zeros(0, 3), tl.ones(2, requires_grad=True), tl.tensor([1.5, -2]).bfloat16(),
        tl.tensor([1.5]).half(), tl.tensor([1j]), tl.tensor([True]), tl.ones(2, device="reference"), Tagged([1.0, 2.0]),
    ):  # fmt: skip
        y = pickle.loads(pickle.dumps(x, protocol))
        assert (type(y), y.shape, y.dtype, y.device, y.requires_grad) == (
            type(x),
            x.shape,
            x.dtype,
            x.device,
            x.requires_grad,
        )
        assert y.tolist() == x.tolist()
    with pytest.raises(tl.GradError, match="history"):
        pickle.dumps(tl.ones(2, requires_grad=True) * 2)


def test_subclasses() -> None:
    t = tl.ones(2).as_subclass(Tagged)
    assert type(t) is Tagged and (t + 1).tolist() == [2, 2] and copy.deepcopy(t).tolist() == [1, 1]
    assert type(copy.deepcopy(t)) is Tagged
