"""Collectives over tensors against NumPy, which computes what all ranks hold from what each of them drew."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.distributed as dist
from tensorlib.distributed import moves
from tests.distributed.holding import DTYPES, RANK, SIZE, close, drawn, drawn_by_all, same

SHAPES = [(), (0,), (3, 4), (35,)]  # in pieces of 64 bytes: the last are several
MANY = (70_001,)
FEW = [tl.bool, tl.bfloat16, tl.float32, tl.complex128]  # in which pieces differ, or what MPI knows does


def shapes(dtype: tl.DType) -> list[tuple[int, ...]]:
    """Every shape where it may make a difference."""
    return SHAPES if dtype in FEW else [(3, 4)]


others = pytest.mark.skipif(SIZE < 2, reason="needs a second rank")


WAYS = [("now", d) for d in DTYPES] + [(way, d) for way in ("later", "in pieces") for d in FEW]


def parametrized(cases: list[tuple[str, tl.DType]]) -> pytest.MarkDecorator:
    ids = [f"{dtype.name}, {way}" for way, dtype in cases]
    return pytest.mark.parametrize(("way", "dtype"), cases, ids=ids, indirect=["way"])


ways = parametrized(WAYS)
few_ways = parametrized([case for case in WAYS if case[1] in FEW])  # where bytes are only moved


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls a collective: at once, in the background, or with at most 64 bytes in a call of MPI, as tensors beyond 1 GiB have 1 GiB in each."""
    if request.param == "in pieces":
        monkeypatch.setattr(moves, "MOST", 64)
        monkeypatch.setattr(moves, "SMALL", 0)
    if request.param == "later":
        return lambda call, *arguments: call(*arguments, async_op=True).wait(60)
    return lambda call, *arguments, **options: call(*arguments, **options)


OPS: dict[str, Callable[..., Any]] = {
    "sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum,
    "band": np.bitwise_and, "bor": np.bitwise_or, "bxor": np.bitwise_xor,
}  # fmt: skip


def expected(op: str, parts: list[tl.Tensor]) -> np.ndarray[Any, Any]:
    """In float64, in the order of the ranks, as the parts' dtype."""
    dtype = parts[0].dtype
    arrays = [np.asarray(part) for part in parts]
    if dtype.is_floating_point:
        arrays = [a.astype(np.float64) for a in arrays]
    total = arrays[0]
    for a in arrays[1:]:
        total = OPS["sum" if op == "mean" else op](total, a)
    return total / len(parts) if op == "mean" else total


def defined(op: str, dtype: tl.DType) -> bool:
    continuous = dtype.is_floating_point or dtype.is_complex
    if op in ("band", "bor", "bxor"):
        return not continuous
    return continuous if op == "mean" else not (dtype.is_complex and op in ("min", "max"))


@ways
def test_all_reduce(way: Callable[..., Any], dtype: tl.DType, seed: int) -> None:
    for op in ("mean", *OPS):
        for shape in shapes(dtype) if defined(op, dtype) else []:
            x = drawn(seed, RANK, shape, dtype)
            assert way(dist.all_reduce, x, op) is x
            close(x, expected(op, drawn_by_all(seed, shape, dtype)))
            if op in ("sum", "prod") and x.numel() > 1:
                for theirs in dist.all_gather(x):
                    same(theirs, x)


@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16, tl.bool], ids=lambda dtype: dtype.name)
def test_all_reduce_of_many(dtype: tl.DType, seed: int) -> None:
    x = drawn(seed, RANK, MANY, dtype)
    close(dist.all_reduce(x), expected("sum", drawn_by_all(seed, MANY, dtype)))


@pytest.mark.parametrize("way", ["now", "in pieces"], indirect=True)
@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16, tl.float32, tl.complex64], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(7,), (41, 13)], ids=str)
def test_ordered_sum_has_the_bits_of_a_loop_over_the_ranks(
    shape: tuple[int, ...], dtype: tl.DType, way: Callable[..., Any], seed: int
) -> None:
    parts = drawn_by_all(seed, shape, dtype)
    total = parts[0].float() if dtype in (tl.float16, tl.bfloat16) else parts[0].clone()
    for part in parts[1:]:
        total = total + part
    assert way(dist.all_reduce, parts[RANK], ordered=True) is parts[RANK]
    same(parts[RANK], total.to(dtype))


def test_nan_makes_extremes_nan_on_every_rank() -> None:
    for op in ("min", "max"):
        for poisoned in range(SIZE):
            x = dist.all_reduce(tl.tensor([float("nan") if poisoned == RANK else float(RANK), 1.0]), op)
            assert np.isnan(np.asarray(x)).tolist() == [True, False]


@pytest.mark.parametrize("name", ["AVG", "mean", "avg", dist.ReduceOp.AVG], ids=repr)
def test_names_of_operations(name: str) -> None:
    assert dist.all_reduce(tl.tensor(float(RANK)), name).item() == (SIZE - 1) / 2


@pytest.mark.parametrize(
    ("op", "dtype", "error", "match"),
    [
        ("median", tl.float32, ValueError, "all_reduce: op must be one of sum, mean, prod, .*, got 'median'"),
        (1, tl.float32, ValueError, "all_reduce: op must be one of .*, got 1"),
        ("mean", tl.int32, TypeError, "all_reduce: the mean of int32 is no int32; expected a floating dtype"),
        ("max", tl.complex64, TypeError, "all_reduce: complex numbers have no order, so no max"),
        ("bor", tl.float16, TypeError, "all_reduce: bor needs integers or bool, got float16"),
    ],
    ids=["unknown", "no name", "mean of integers", "max of complex", "bits of floats"],
)
def test_operations_that_are_not_defined(op: Any, dtype: tl.DType, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        dist.all_reduce(tl.ones(3, dtype=dtype), op)


def test_tensors_that_are_not_contiguous(seed: int) -> None:
    base = drawn(seed, RANK, (4, 6), tl.float32)
    before = base.clone()
    dist.all_reduce(base.t()[1:4])
    close(base[:, 1:4], expected("sum", [p[:, 1:4] for p in drawn_by_all(seed, (4, 6), tl.float32)]))
    same(base[:, 0], before[:, 0])
    same(base[:, 4:], before[:, 4:])


def test_tensors_on_other_devices(seed: int) -> None:
    x = drawn(seed, RANK, (3,), tl.float32).to("reference")
    dist.all_reduce(x)
    assert x.device == tl.device("reference")
    close(x.cpu(), expected("sum", drawn_by_all(seed, (3,), tl.float32)))
    assert all(part.device == x.device for part in dist.all_gather(x))


# Collectives that write into a tensor, as functions of it.
WRITES = [
    pytest.param(dist.all_reduce, id="all_reduce"),
    pytest.param(lambda x: dist.all_reduce(x, async_op=True).wait(60), id="all_reduce later"),
    pytest.param(lambda x: dist.broadcast(x, src=SIZE - 1), id="broadcast"),
    pytest.param(
        lambda x: dist.all_gather([x] + [tl.empty_like(x) for _ in range(SIZE - 1)], x.detach().clone()),
        id="all_gather",
    ),
]


def written_here(call: Callable[..., Any]) -> bool:
    return RANK != SIZE - 1 or "broadcast" not in str(call.__code__.co_names)


@pytest.mark.parametrize("call", WRITES)
def test_written_values_are_missed_by_backward(call: Callable[..., Any]) -> None:
    x = tl.ones(3)
    w = tl.ones(3, requires_grad=True)
    y = (w * x).sum()
    call(x)
    if written_here(call):
        with pytest.raises(
            tl.GradError, match=r"a value saved by `mul` .* was overwritten in place at .*test_collectives.py"
        ):
            y.backward()
    else:
        y.backward()


@pytest.mark.parametrize("call", WRITES)
def test_leaves_that_require_a_gradient(call: Callable[..., Any]) -> None:
    x = tl.ones(3, requires_grad=True)
    if written_here(call):
        with pytest.raises(tl.GradError, match="requires a gradient, which an operation in place has none of"):
            call(x)
        assert x.tolist() == [1.0, 1.0, 1.0]
    dist.barrier()
    with tl.no_grad():
        call(x)
    assert x.requires_grad


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: tl.ones(1).expand(3), tl.GradError, "several elements of this expanded tensor"),
        (
            lambda: tl.from_numpy(np.frombuffer(bytes(12), np.float32)),
            tl.ReadOnlyError,
            "the tensor's memory is read-only",
        ),
        (lambda: [1.0, 2.0], TypeError, "all_reduce: tensor must be a tensor, got a list"),
    ],
    ids=["expanded", "read-only", "no tensor"],
)
def test_what_can_not_be_written(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        dist.all_reduce(make())


@few_ways
def test_broadcast(way: Callable[..., Any], dtype: tl.DType, seed: int) -> None:
    for shape in shapes(dtype):
        for src in range(SIZE):
            x = drawn(seed, RANK, shape, dtype)
            assert way(dist.broadcast, x, src) is x
            same(x, drawn(seed, src, shape, dtype))


@few_ways
def test_reduce_changes_one_rank_alone(way: Callable[..., Any], dtype: tl.DType, seed: int) -> None:
    for dst in range(SIZE):
        x = drawn(seed, RANK, (3, 4), dtype)
        assert way(dist.reduce, x, dst, "prod") is x
        if dst == RANK:
            close(x, expected("prod", drawn_by_all(seed, (3, 4), dtype)))
        else:
            same(x, drawn(seed, RANK, (3, 4), dtype))


@ways
def test_all_gather(way: Callable[..., Any], dtype: tl.DType, seed: int) -> None:
    for shape in shapes(dtype):
        x, filled = drawn(seed, RANK, shape, dtype), [tl.zeros(shape, dtype=dtype) for _ in range(SIZE)]
        assert way(dist.all_gather, filled, x) is filled
        for got in (way(dist.all_gather, x), filled):
            for one, want in zip(got, drawn_by_all(seed, shape, dtype), strict=True):
                same(one, want)


@pytest.mark.parametrize("way", ["now", "in pieces"], indirect=True)
def test_all_gather_of_different_shapes(way: Callable[..., Any], seed: int) -> None:
    shapes = [(4, 3), (), (0, 5), (2,)]
    parts = [drawn(seed, r, shapes[r], tl.float32) for r in range(SIZE)]
    outputs = [tl.zeros_like(part) for part in parts]
    for got in (way(dist.all_gather, parts[RANK]), way(dist.all_gather, outputs, parts[RANK])):
        for one, want in zip(got, parts, strict=True):
            same(one, want)


@others
def test_all_gather_of_different_dtypes() -> None:
    with pytest.raises(tl.DTypeError, match="all_gather: rank 0 has a tensor of float32, rank 1 one of int64"):
        dist.all_gather(tl.ones(2, dtype=tl.int64 if RANK == 1 else tl.float32))


@pytest.mark.parametrize(
    ("outputs", "error", "match"),
    [
        (lambda: tl.ones(SIZE, 2), TypeError, "all_gather: tensor_list must be a list of tensors, got a Tensor"),
        (list, ValueError, f"all_gather: tensor_list has 0 tensors, expected one for each of the group's {SIZE} ranks"),
        (lambda: [None] * SIZE, TypeError, r"all_gather: tensor_list\[0\] must be a tensor, got a NoneType"),
        (
            lambda: [tl.ones(3)] * SIZE,
            tl.ShapeError,
            r"all_gather: tensor_list\[\d\] has shape \(3,\), expected tensor's, \(2,\)",
        ),
        (
            lambda: [tl.ones(2).int()] * SIZE,
            tl.DTypeError,
            r"tensor_list\[\d\] is int32, expected tensor's dtype, float32",
        ),
    ],
    ids=["a tensor", "too few", "no tensors", "another shape", "another dtype"],
)
def test_outputs_that_do_not_fit(outputs: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        dist.all_gather(outputs(), tl.ones(2))


def test_groups_have_their_own_ranks(seed: int) -> None:
    backwards = dist.new_group(range(SIZE - 1, -1, -1))
    x = drawn(seed, RANK, (5,), tl.float32)
    for one, want in zip(dist.all_gather(x, group=backwards), drawn_by_all(seed, (5,), tl.float32)[::-1], strict=True):
        same(one, want)
    assert dist.broadcast(tl.tensor(RANK), src=SIZE - 1, group=backwards).item() == SIZE - 1
    assert dist.broadcast(tl.tensor(RANK), group_src=SIZE - 1, group=backwards).item() == 0
    assert dist.broadcast(tl.tensor(RANK), group=backwards).item() == SIZE - 1
    dist.destroy_process_group(backwards)


@pytest.mark.parametrize(
    ("places", "match"),
    [
        ({"src": SIZE}, rf"broadcast: src is rank {SIZE}, the group has the ranks \[0"),
        ({"group_src": SIZE}, f"broadcast: group_src is {SIZE}, the group has {SIZE} ranks"),
        ({"src": 0, "group_src": 0}, "broadcast: src and group_src say the same thing; got both"),
    ],
    ids=["no such rank", "no such place", "both"],
)
def test_ranks_that_are_not_there(places: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dist.broadcast(tl.ones(2), **places)


def test_many_under_way_at_once(seed: int) -> None:
    """Begun in one order, waited for in another, between blocking ones, and of several steps each."""
    tensors = [drawn(seed + k, RANK, (1000 + k,), tl.bfloat16 if k % 2 else tl.float64) for k in range(12)]
    works = [dist.all_reduce(x, ordered=k % 3 == 0, async_op=True) for k, x in enumerate(tensors)]
    assert dist.all_reduce(tl.tensor(1)).item() == SIZE
    for work in works[::-1]:
        work.wait(60)
        assert work.is_completed()
    for k, x in enumerate(tensors):
        close(x, expected("sum", drawn_by_all(seed + k, x.shape, x.dtype)))


@few_ways
def test_all_gather_into_tensor(way: Callable[..., Any], dtype: tl.DType, seed: int) -> None:
    x = drawn(seed, RANK, (3, 4), dtype)
    for output in (
        tl.zeros(SIZE, 3, 4, dtype=dtype),
        tl.zeros(3 * SIZE, 4, dtype=dtype),
        tl.zeros(4, 3 * SIZE, dtype=dtype).t(),
    ):
        assert way(dist.all_gather_into_tensor, output, x) is output
        same(output.reshape(SIZE, 3, 4), tl.stack(drawn_by_all(seed, (3, 4), dtype)))


def test_all_gather_into_the_tensor_that_holds_it(seed: int) -> None:
    output = tl.zeros(SIZE, 3)
    output[RANK] = drawn(seed, RANK, (3,))
    same(dist.all_gather_into_tensor(output, output[RANK]), tl.stack(drawn_by_all(seed, (3,))))


@few_ways
def test_gather_and_scatter(way: Callable[..., Any], dtype: tl.DType, seed: int) -> None:
    for root in range(SIZE):
        for shape in shapes(dtype):
            x, parts = drawn(seed, RANK, shape, dtype), drawn_by_all(seed, shape, dtype)
            filled = [tl.zeros(shape, dtype=dtype) for _ in range(SIZE)] if root == RANK else None
            assert way(dist.gather, x, filled, root) is filled
            made = way(dist.gather, x, None, root)
            for got in (made, filled):
                assert (got is not None) == (root == RANK)
                for one, want in zip(got or parts, parts, strict=True):
                    same(one, want)
            back = tl.zeros(shape, dtype=dtype)
            assert way(dist.scatter, back, filled, root) is back
            same(back, x)


@pytest.mark.parametrize("op", ["sum", "mean", "max"])
@pytest.mark.parametrize("dtype", [tl.bfloat16, tl.float32], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("way", ["now", "later", "in pieces"], indirect=True)
def test_reduce_scatter(way: Callable[..., Any], dtype: tl.DType, op: str, seed: int) -> None:
    held = drawn_by_all(seed, (SIZE, 3, 4), dtype)
    want = expected(op, [x[RANK] for x in held])
    output = tl.zeros(3, 4, dtype=dtype)
    assert way(dist.reduce_scatter, output, list(held[RANK]), op) is output
    close(output, want)
    for whole in (held[RANK], held[RANK].reshape(3 * SIZE, 4)):
        close(way(dist.reduce_scatter_tensor, output.zero_(), whole, op), want)


def test_reduce_scatter_sums_in_the_order_of_the_ranks(seed: int) -> None:
    held = drawn_by_all(seed, (SIZE, 50))
    total = held[0][RANK].clone()
    for x in held[1:]:
        total += x[RANK]
    same(dist.reduce_scatter_tensor(tl.zeros(50), held[RANK]), total)


@few_ways
def test_all_to_all(way: Callable[..., Any], dtype: tl.DType, seed: int) -> None:
    def sent(source: int, target: int) -> tl.Tensor:
        return drawn(seed + source, target, [(source, 4), (), (3 + target,)][(source + target) % 3], dtype)

    inputs = [sent(RANK, r) for r in range(SIZE)]
    filled = [tl.zeros_like(sent(r, RANK)) for r in range(SIZE)]
    assert way(dist.all_to_all, filled, inputs) is filled
    for got in (way(dist.all_to_all, inputs), filled):
        for r, one in enumerate(got):
            same(one, sent(r, RANK))


@pytest.mark.parametrize("way", ["now", "later", "in pieces"], indirect=True)
def test_all_to_all_single(way: Callable[..., Any], seed: int) -> None:
    def rows(source: int, target: int) -> int:
        return (source + 2 * target) % 4

    held = [drawn(seed, r, (sum(rows(r, t) for t in range(SIZE)), 3)) for r in range(SIZE)]
    parts = [held[r].split([rows(r, t) for t in range(SIZE)])[RANK] for r in range(SIZE)]
    want = tl.cat(parts)
    sizes = [rows(r, RANK) for r in range(SIZE)], [rows(RANK, r) for r in range(SIZE)]
    same(way(dist.all_to_all_single, tl.zeros_like(want), held[RANK], *sizes), want)
    even = drawn_by_all(seed, (2 * SIZE, 3))
    want = tl.cat([x[2 * RANK : 2 * RANK + 2] for x in even])
    same(way(dist.all_to_all_single, tl.zeros(2 * SIZE, 3), even[RANK]), want)


ODD = SIZE + 1  # no multiple of the number of ranks, but for one rank
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "into another shape": (
        lambda: dist.all_gather_into_tensor(tl.zeros(SIZE, 3), tl.zeros(2)),
        tl.ShapeError,
        rf"all_gather_into_tensor: output_tensor has shape \({SIZE}, 3\), expected \({SIZE}, 2\) or \({2 * SIZE},\) for",
    ),
    "into another dtype": (
        lambda: dist.all_gather_into_tensor(tl.zeros(SIZE, 2), tl.zeros(2).int()),
        tl.DTypeError,
        "all_gather_into_tensor: output_tensor is float32, expected input_tensor's dtype, int32",
    ),
    "no scatter_list": (
        lambda: dist.scatter(tl.zeros(2), src=RANK),
        ValueError,
        f"scatter: rank {RANK} is the source and has no scatter_list",
    ),
    "a scatter_list that does not fit": (
        lambda: dist.scatter(tl.zeros(2), [tl.zeros(3)] * SIZE, src=RANK),
        tl.ShapeError,
        r"scatter: scatter_list\[\d\] has shape \(3,\), expected tensor's, \(2,\)",
    ),
    "an output that does not fit": (
        lambda: dist.reduce_scatter(tl.zeros(2), [tl.zeros(3)] * SIZE),
        tl.ShapeError,
        r"reduce_scatter: input_list\[\d\] has shape \(3,\), expected output's, \(2,\)",
    ),
    "no inputs": (
        lambda: dist.all_to_all([]),
        ValueError,
        f"all_to_all: input_tensor_list has 0 tensors, expected one for each of the group's {SIZE} ranks",
    ),
    "rows of another shape": (
        lambda: dist.all_to_all_single(tl.zeros(SIZE, 2), tl.zeros(SIZE, 3)),
        tl.ShapeError,
        r"all_to_all_single: rows of output have shape \(2,\), those of input \(3,\)",
    ),
    "no rows": (
        lambda: dist.all_to_all_single(tl.zeros(()), tl.zeros(())),
        tl.ShapeError,
        "all_to_all_single: input has no dimensions, expected rows to divide among the ranks",
    ),
    "sizes of another sum": (
        lambda: dist.all_to_all_single(tl.zeros(SIZE), tl.zeros(SIZE), input_split_sizes=[2] * SIZE),
        ValueError,
        rf"input_split_sizes is \[2.*, expected {SIZE} numbers from 0 on whose sum is input's {SIZE} rows",
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), BAD.values(), ids=BAD)
def test_arguments_that_do_not_fit(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


@others
def test_lists_belong_to_one_rank() -> None:
    root = (RANK + 1) % SIZE
    with pytest.raises(
        ValueError, match=f"gather: gather_list belongs to rank {root} alone, expected None on rank {RANK}"
    ):
        dist.gather(tl.zeros(2), [tl.zeros(2)] * SIZE, dst=root)
    with pytest.raises(
        tl.ShapeError,
        match=f"the {ODD} rows of input can not be divided evenly among {SIZE} ranks; say input_split_sizes",
    ):
        dist.all_to_all_single(tl.zeros(ODD), tl.zeros(ODD))


@pytest.mark.parametrize("itemsize", [1, 2, 8, 16])
def test_pieces_of_huge_tensors(itemsize: int) -> None:
    for count in (1, (1 << 30) // itemsize, (1 << 30) // itemsize + 1, 5 * 2**31 + 7):
        parts = list(moves.bounds(count, itemsize))
        assert parts[0][0] == 0
        assert parts[-1][1] == count
        assert all(stop == start for (_, stop), (start, _) in pairwise(parts))
        assert all(0 < (stop - start) * itemsize <= 1 << 30 for start, stop in parts)
