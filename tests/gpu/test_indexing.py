"""Reading and writing by position on a GPU: the CPU's results, sums in a fixed order, errors where the host waits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.gpu import GRADIENT_LANES, LANES
from tests.cases import assert_close
from tests.gpu.test_rows import Spy, normal, same


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The lanes that served, and those that declined."""
    served: set[str] = set()
    for name in ("embedding", "index_select", "index_read", "index_write", "gather", "scatter", "scatter_add"):
        monkeypatch.setitem(LANES, name, Spy(name, LANES[name], served))
    monkeypatch.setitem(GRADIENT_LANES, "embedding", Spy("embedding's gradient", GRADIENT_LANES["embedding"], served))
    return served


def index(n: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(n).integers(0, n, shape)


@pytest.mark.parametrize(("rows", "width", "count"), [(7, 3, 5), (300, 16, 2500), (3, 1, 1000), (70000, 2, 300)])
@pytest.mark.parametrize("settings", [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}], ids=str)
def test_embedding(rows: int, width: int, count: int, settings: dict[str, Any], asked: set[str]) -> None:
    def look(weight: tl.Tensor, where: tl.Tensor) -> tl.Tensor:
        return tl.embedding(where, weight, **settings)

    same(look, normal(rows, width), index(rows, count), dtype=tl.float64)
    assert asked == {"embedding", "embedding's gradient"}


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16], ids=str)
def test_sixteen_bits_are_added_in_thirty_two(dtype: tl.DType) -> None:
    weight = tl.zeros(2, 3, dtype=dtype, device="cuda", requires_grad=True)
    tl.embedding(tl.tensor([1] * 3000, device="cuda"), weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0] * 3, [tl.tensor(3000.0).to(dtype).item()] * 3]


def test_sums_have_the_same_bits_every_time() -> None:
    x, where, src = normal(50, 5), index(50, 400), normal(400, 5)
    found = []
    for device in ("cpu", "cuda", "cuda"):
        start, source = (tl.tensor(a, dtype=tl.float32, device=device) for a in (x, src))
        found.append(tl.index_add(start, 0, tl.tensor(where, device=device), source).cpu().numpy())
    cpu, gpu, again = found
    assert gpu.tobytes() == again.tobytes()
    np.testing.assert_allclose(gpu, cpu, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "dim"), [((9,), 0), ((4, 6), 1), ((3, 5, 2), 1), ((3, 5, 16), 0)], ids=str)
def test_slices(shape: tuple[int, ...], dim: int, asked: set[str]) -> None:
    where = index(2 * shape[dim], 11) - shape[dim]  # from the end, too
    same(lambda x, i: tl.index_select(x, dim, i), normal(*shape), where)
    assert asked == {"index_select", "index_write"}
    source = normal(*shape[:dim], 11, *shape[dim + 1 :])
    same(lambda x, s, i: tl.index_add(x, dim, i, s, alpha=2), normal(*shape), source, where)
    same(lambda x, s, i: tl.index_copy(x, dim, i, s), normal(*shape), source, where)


def test_subscripts(asked: set[str]) -> None:
    same(lambda x, i, j: x[i, j], normal(5, 6, 2), index(5, 7), index(6, 7))
    same(lambda x, i: x[:, i], normal(5, 6), index(6, 3, 2))
    assert "index_read" in asked
    x = tl.arange(12, device="cuda").reshape(3, 4)
    x[tl.tensor([0, 2, 0], device="cuda")] = tl.tensor([[1], [2], [3]], device="cuda")
    assert x.tolist() == [[3] * 4, [4, 5, 6, 7], [2] * 4]


@pytest.mark.parametrize(
    "dtype", [tl.bool_, tl.uint8, tl.int16, tl.int64, tl.float16, tl.float32, tl.complex64], ids=str
)
def test_all_dtypes_are_read_and_written(dtype: tl.DType) -> None:
    found = []
    for device in ("cpu", "cuda"):
        x = tl.arange(24, device=device).to(dtype).reshape(2, 12)
        i = tl.tensor([3, 0, 3], device=device)
        found.append([
            tl.index_select(x, 1, i), tl.gather(x, 1, i.reshape(1, 3)), tl.index_copy(x, 1, i, x[:, :3]),
            tl.scatter(x, 1, i.expand(2, 3), x[:, 4:7]),
        ])  # fmt: skip
    for cpu, gpu in zip(*found, strict=True):
        assert cpu.tolist() == gpu.tolist()


@pytest.mark.parametrize(
    ("shape", "picked", "dim"),
    [((5,), (9,), 0), ((4, 6), (4, 3), 1), ((3, 5, 2), (3, 70, 2), 1), ((4, 6), (2, 3), 1)],
    ids=str,
)
def test_elements(shape: tuple[int, ...], picked: tuple[int, ...], dim: int, asked: set[str]) -> None:
    where = index(shape[dim], *picked)
    same(lambda x, i: tl.gather(x, dim, i), normal(*shape), where)
    same(lambda x, s, i: tl.scatter_add(x, dim, i, s), normal(*shape), normal(*picked), where)
    same(lambda x, s, i: tl.scatter(x, dim, i, s), normal(*shape), normal(*picked), where)
    assert "gather" in asked


def test_a_position_out_of_range_is_an_error_where_the_host_waits() -> None:
    x, where = tl.ones(3, 4, device="cuda"), tl.tensor([0, 3], device="cuda")
    for call, words in (
        (lambda: tl.embedding(where, x), r"embedding: index 3 is out of range; expected one in \[0, 3\)"),
        (lambda: tl.index_select(x, 0, where), "index_select: index 3 is out of range for dimension 0 of size 3"),
        (lambda: tl.gather(x, 0, where.reshape(1, 2)), "gather: index 3 is out of range"),
        (lambda: tl.index_add(x, 0, where, x[:2]), "indexing: index 3 is out of range"),
        (lambda: tl.scatter_add(x, 0, where.reshape(2, 1).expand(2, 4), x[:2]), "scatter_add: index 3 is out of range"),
    ):
        made = call()
        with pytest.raises(IndexError, match=words):
            made.cpu()
        made.cpu()


def test_nothing_to_read_or_write() -> None:
    x, none = tl.ones(3, 4, device="cuda", requires_grad=True), tl.zeros(0, dtype=tl.int64, device="cuda")
    out = tl.embedding(none, x)
    assert out.shape == (0, 4)
    out.sum().backward()
    assert x.grad is not None
    assert_close(x.grad.cpu(), np.zeros((3, 4)), tl.float32)
