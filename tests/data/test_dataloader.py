"""DataLoader: the same batches however they are fetched, in the same order, gone on with in mid-pass; and what goes wrong, by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import data
from tests.sources import ROOT

WAYS = {
    "alone": {},
    "threads": {"num_workers": 3},
    "kept-threads": {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3},
    "processes": {"num_workers": 2, "multiprocessing_context": "forkserver"},
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
with_workers = pytest.mark.parametrize("way", [WAYS["threads"], WAYS["processes"]], ids=["threads", "processes"])


@pytest.fixture(autouse=True)
def workers_find_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that loads a dataset of this file imports the file, by the path that its parent has."""
    monkeypatch.syspath_prepend(str(ROOT))


class Augmented(data.Dataset):
    """Each example draws from both of the streams that it has."""

    def __len__(self) -> int:
        return 17

    def __getitem__(self, index: int) -> Any:
        return {
            "index": index,
            "noise": tl.rand(2),
            "crop": data.sample_rng().integers(1000),
            "name": f"example {index}",
        }


class Shared(data.IterableDataset):
    """0 to 10, a part for each worker."""

    def __iter__(self) -> Iterator[int]:
        info = data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(first, 11, step))


class Failing(data.Dataset):
    def __init__(self, fail: Callable[[], Any]) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        if index == 7:
            self.fail()
        return index


def plain(batch: Any) -> Any:
    return {name: value if isinstance(value, list) else value.tolist() for name, value in batch.items()}


def passes(n: int, **settings: Any) -> list[list[Any]]:
    tl.manual_seed(11)
    loader = data.DataLoader(Augmented(), batch_size=4, shuffle=True, **settings)
    assert len(loader) == 5
    return [[plain(batch) for batch in loader] for _ in range(n)]


@pytest.fixture(scope="module")
def expected() -> list[list[Any]]:
    return passes(2)


@every_way
def test_the_same_batches_in_the_same_order(way: dict[str, Any], expected: list[list[Any]]) -> None:
    got = passes(2, **way)
    assert got == expected
    first, second = ([i for batch in one for i in batch["index"]] for one in got)
    assert sorted(first) == sorted(second) == list(range(17))
    assert first != second
    noises = [tuple(n) for one in got for batch in one for n in batch["noise"]]
    assert len(set(noises)) == len(noises)  # another augmentation for every example and pass


@every_way
@pytest.mark.parametrize("taken", [0, 2, 5])
def test_a_pass_goes_on_where_its_state_was_taken(way: dict[str, Any], taken: int, expected: list[list[Any]]) -> None:
    tl.manual_seed(11)
    loader = data.DataLoader(Augmented(), batch_size=4, shuffle=True, **way)
    batches = iter(loader)
    for _ in range(taken):
        next(batches)
    state = loader.state_dict()
    tl.manual_seed(99)
    resumed = data.DataLoader(Augmented(), batch_size=4, shuffle=True, **way)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert [plain(batch) for batch in resumed] == expected[0][taken:]
    assert [plain(batch) for batch in resumed] == expected[1]


def test_the_state_of_a_pass_that_was_left(expected: list[list[Any]]) -> None:
    tl.manual_seed(11)
    loader = data.DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2)
    for step, _ in enumerate(loader):
        if step == 2:
            break
    resumed = data.DataLoader(Augmented(), batch_size=4, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    assert [plain(batch) for batch in resumed] == expected[0][3:]


def test_a_state_between_passes(expected: list[list[Any]]) -> None:
    tl.manual_seed(11)
    loader = data.DataLoader(Augmented(), batch_size=4, shuffle=True)
    assert len(list(loader)) == 5
    resumed = data.DataLoader(Augmented(), batch_size=4, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    assert [plain(batch) for batch in resumed] == expected[1]


def test_buckets_resume_by_their_epoch() -> None:
    examples = [list(range(n % 9)) for n in range(40)]

    def loader() -> data.DataLoader:
        sampler = data.BucketBatchSampler([len(e) for e in examples], batch_size=4, seed=3)
        return data.DataLoader(examples, batch_sampler=sampler, collate_fn=lambda batch: batch)

    whole = loader()
    first, second = list(whole), list(whole)
    assert first != second
    again = loader()
    assert list(again) == first
    batches = iter(again)
    assert [next(batches) for _ in range(3)] == second[:3]
    resumed = loader()
    resumed.load_state_dict(again.state_dict())
    assert list(resumed) == second[3:]


@every_way
def test_an_iterable_dataset(way: dict[str, Any]) -> None:
    loader = data.DataLoader(Shared(), batch_size=2, **way)
    whole = [b.tolist() for b in loader]
    assert sorted(i for b in whole for i in b) == list(range(11))
    batches = iter(loader)
    assert next(batches).tolist() == whole[0]
    resumed = data.DataLoader(Shared(), batch_size=2, **way)
    resumed.load_state_dict(loader.state_dict())
    assert [b.tolist() for b in resumed] == whole[1:]


@pytest.mark.parametrize("way", [WAYS["alone"], WAYS["threads"]], ids=["alone", "threads"])
def test_the_rest_of_an_iterable_dataset_is_dropped(way: dict[str, Any]) -> None:
    batches = [b.tolist() for b in data.DataLoader(Shared(), batch_size=2, drop_last=True, **way)]
    assert len(batches) >= 3
    assert all(len(b) == 2 for b in batches)


@every_way
def test_examples_without_batches(way: dict[str, Any]) -> None:
    examples = [np.full(3, i) for i in range(5)]
    got = list(data.DataLoader(examples, batch_size=None, **way))
    assert all(isinstance(t, tl.Tensor) for t in got)
    assert [t.tolist() for t in got] == [[i] * 3 for i in range(5)]


@every_way
def test_a_dataset_that_gathers(way: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), np.arange(30)
    dataset = data.Subset(data.TensorDataset(tl.tensor(x), tl.tensor(y)), range(1, 30))
    for rows, labels in data.DataLoader(dataset, batch_size=8, shuffle=True, **way):
        np.testing.assert_array_equal(rows.numpy(), x[labels.numpy()])


class Odd(data.RandomSampler):
    """An heir with an order of its own."""

    def __iter__(self) -> Iterator[int]:
        return (i for i in super().__iter__() if i % 2)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    "order",
    [
        lambda n, g: data.RandomSampler(range(n), generator=g), lambda n, g: data.RandomSampler(range(n), True, 3 * n, g),
        lambda n, g: data.RandomSampler(range(n), num_samples=2 * n + 3, generator=g), lambda n, g: data.SequentialSampler(range(n)),
        lambda n, g: Odd(range(n), generator=g), lambda n, g: data.WeightedRandomSampler([1.0] * n, 5, generator=g), lambda n, g: list(range(n)),
    ],
    ids=["random", "replacement", "several-orders", "sequential", "heir", "weighted", "list"],
)  # fmt: skip
def test_a_dataset_gathers_what_its_sampler_lists(order: Callable[[int, Any], Any], drop_last: bool) -> None:
    dataset = data.TensorDataset(tl.arange(10))
    listed = data.BatchSampler(order(10, tl.Generator().manual_seed(4)), 4, drop_last)
    gathered = data.DataLoader(
        dataset, batch_sampler=data.BatchSampler(order(10, tl.Generator().manual_seed(4)), 4, drop_last)
    )
    for _ in range(2):
        assert [rows.tolist() for (rows,) in gathered] == list(listed)


def test_many_examples_at_once() -> None:
    class Fetches(list[int]):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [self[i] * 10 for i in indices]

    assert [b.tolist() for b in data.DataLoader(Fetches(range(3)), batch_size=2)] == [[0, 10], [20]]  # type: ignore[arg-type]


# ---- what goes wrong ----


def value_error() -> None:
    raise ValueError("the seventh is bad")


@every_way
def test_an_exception_comes_where_its_batch_would(way: dict[str, Any]) -> None:
    batches = iter(data.DataLoader(Failing(value_error), batch_size=3, **way))
    assert [next(batches).tolist() for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="the seventh is bad") as caught:
        next(batches)
    if "multiprocessing_context" in way:
        assert "value_error" in str(caught.value.__cause__)  # the traceback in the worker
    assert list(batches) == []


def stop() -> None:
    raise StopIteration


@every_way
def test_stop_iteration_does_not_pass_for_the_end(way: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="StopIteration was raised while a batch was made"):
        list(data.DataLoader(Failing(stop), batch_size=3, **way))


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(3)


@pytest.mark.parametrize(("end", "said"), [(kill_itself, "was killed by SIGKILL"), (leave, "exited with status 3")])
def test_a_worker_that_dies_is_named_within_two_seconds(end: Callable[[], None], said: str) -> None:
    loader = data.DataLoader(Failing(end), batch_size=3, **WAYS["processes"])
    batches = iter(loader)
    assert next(batches).tolist() == [0, 1, 2]
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=rf"DataLoader: worker \d \(process \d+\) {said}"):
        list(batches)
    assert time.monotonic() - start < 2


def test_workers_die_with_their_parent() -> None:
    code = """
import os, time, tensorlib as tl
class Pids(tl.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return os.getpid()
if __name__ == "__main__":
    batches = iter(tl.data.DataLoader(Pids(), num_workers=2, multiprocessing_context="spawn"))
    print(next(batches).item(), next(batches).item(), flush=True)
    time.sleep(60)
"""
    folder = os.environ.get("TMPDIR", "/tmp")
    path = os.path.join(folder, f"parent-{os.getpid()}.py")  # noqa: PTH118
    with open(path, "w") as file:  # noqa: PTH123
        file.write(code)
    try:
        parent = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(set(pids)) == 2
        parent.kill()
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + 5
        while any(running(pid) for pid in pids):
            assert time.monotonic() < deadline, "workers outlived their parent"
            time.sleep(0.02)
    finally:
        os.unlink(path)  # noqa: PTH108


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def sleep_a_while() -> None:
    time.sleep(1)


def test_timeout() -> None:
    batches = iter(data.DataLoader(Failing(sleep_a_while), batch_size=4, num_workers=1, timeout=0.2))
    assert next(batches).tolist() == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match=r"no worker had batch 1 ready within the timeout of 0\.2 s"):
        next(batches)


def init_fails(worker: int) -> None:
    raise OSError(f"no disk for worker {worker}")


@with_workers
def test_a_worker_that_can_not_start(way: dict[str, Any]) -> None:
    with pytest.raises(OSError, match="no disk for worker 0"):
        list(data.DataLoader([1, 2], worker_init_fn=init_fails, **way))


def test_threads_end_with_the_pass() -> None:
    before = set(threading.enumerate())

    def new() -> list[threading.Thread]:
        return [t for t in set(threading.enumerate()) - before if t.name.startswith("tensorlib loader")]

    batches = iter(data.DataLoader(range(100), num_workers=3))
    next(batches)
    assert len(new()) == 3
    del batches  # left in the middle
    deadline = time.monotonic() + 2
    while new() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert new() == []


def test_a_pass_that_was_left_does_not_mix_with_the_next() -> None:
    loader = data.DataLoader(range(20), num_workers=2, persistent_workers=True)
    for _ in range(3):
        batches = iter(loader)
        assert [next(batches).item() for _ in range(3)] == [0, 1, 2]
    assert [b.item() for b in loader] == list(range(20))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_workers": -1}, "num_workers must be an integer of at least 0, got -1"), ({"batch_size": 0}, "batch_size must be an integer"),
        ({"timeout": -1}, "timeout must be at least 0"), ({"prefetch_factor": 2}, "need num_workers of at least 1"),
        ({"sampler": [0], "shuffle": True}, "sampler and shuffle=True exclude each other"),
        ({"batch_sampler": [[0]], "batch_size": 2}, "batch_sampler stands in place of"), ({"batch_size": None, "drop_last": True}, "drop_last needs"),
        ({"num_workers": 1, "prefetch_factor": 0}, "prefetch_factor must be an integer of at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_settings_that_do_not_fit(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        data.DataLoader([1, 2, 3], **settings)


def test_an_iterable_dataset_has_its_own_order() -> None:
    with pytest.raises(ValueError, match="comes in its own order"):
        data.DataLoader(Shared(), shuffle=True)


def test_a_state_of_something_else() -> None:
    loader = data.DataLoader([1, 2])
    with pytest.raises(ValueError, match=r"expected \"batches\", \"of\" and \"order\", got \['epoch'\]"):
        loader.load_state_dict({"epoch": 1})
    with pytest.raises(
        ValueError, match="the state is of passes of 1 batches, this loader's have 2: the data, batch_size"
    ):
        loader.load_state_dict(data.DataLoader([1, 2], batch_size=2).state_dict())
    loader.load_state_dict(data.DataLoader([1, 2], shuffle=True).state_dict())
    with pytest.raises(ValueError, match="the state is of"):
        iter(loader)


# ---- collating ----


class Pair(NamedTuple):
    x: Any
    y: Any


def test_collate() -> None:
    got = data.default_collate(
        [{"a": Pair(np.zeros(2), 1.5), "b": (True, "s", 3)}, {"a": Pair(np.ones(2), 2.0), "b": (False, "t", 4)}]
    )
    assert got["a"].x.tolist() == [[0, 0], [1, 1]]
    assert (got["a"].y.tolist(), got["a"].y.dtype) == ([1.5, 2.0], tl.float64)
    assert [b if isinstance(b, list) else (b.tolist(), b.dtype) for b in got["b"]] == [
        ([True, False], tl.bool), ["s", "t"], ([3, 4], tl.int64),
    ]  # fmt: skip


def scalars(kind: Any) -> list[Any]:
    return [kind(1), kind(0), kind(1)]


@pytest.mark.parametrize(
    ("examples", "dtype"),
    [
        (scalars(int), tl.int64), (scalars(float), tl.float64), (scalars(bool), tl.bool), ([1, 0.5], tl.float32), ([0.5, 1], tl.float64),
        (scalars(np.float32), tl.float32), (scalars(np.int16), tl.int16), (scalars(np.float64), tl.float64), (scalars(np.bool_), tl.bool),
        ([np.array(2.0), np.array(3.0)], tl.float64), ([np.ones((2, 3), ">f4")] * 2, tl.float32), ([np.ones((0, 3), np.uint8)] * 2, tl.uint8),
        ([np.ones((2, 6))[:, ::2], np.zeros((2, 3))], tl.float64), ([np.ones(2, np.complex64)] * 2, tl.complex64),
        ([tl.ones(2, 3).T, tl.zeros(3, 2)], tl.float32), ([tl.ones(2, requires_grad=True), tl.zeros(2)], tl.float32),
    ],
    ids=lambda value: value.name if isinstance(value, tl.DType) else "-".join(type(v).__name__ for v in value[:2]),
)  # fmt: skip
def test_collated_dtypes(examples: list[Any], dtype: tl.DType) -> None:
    got = data.default_collate(examples)
    assert got.dtype is dtype
    known = np.stack([v.detach().numpy() if isinstance(v, tl.Tensor) else v for v in examples])
    np.testing.assert_array_equal(got.detach().numpy(), known)
    assert got.requires_grad == any(getattr(v, "requires_grad", False) for v in examples)
    got.detach().fill_(0)  # a batch is memory of its own
    assert (
        sum(np.asarray(v if not isinstance(v, tl.Tensor) else v.detach().numpy()).sum() for v in examples)
        == known.sum()
    )


def test_what_makes_no_batch() -> None:
    with pytest.raises(
        tl.ShapeError,
        match=r"default_collate: example 1 has float32 of shape \(3,\), example 0 float32 of shape \(2,\)",
    ):
        data.default_collate([tl.ones(2), tl.ones(3)])
    with pytest.raises(
        tl.ShapeError, match=r"example 1 has float64 of shape \(2,\), example 0 float32 of shape \(2,\)"
    ):
        data.default_collate([np.ones(2, np.float32), np.ones(2)])
    with pytest.raises(tl.ShapeError, match="example 1 has 1 fields, example 0 2"):
        data.default_collate([(1, 2), (1,)])
    with pytest.raises(TypeError, match="no batch can be made of NoneType in field 1"):
        data.default_collate([(1, None)])
