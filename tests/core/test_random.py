"""Random numbers: known answers, streams and their state, the same bits everywhere, and what each function draws."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.ops import philox

# Random123's kat_vectors for philox4x32-10: counter, key, expected. `words` counts blocks in the counter's low 64 bits.
KNOWN_ANSWERS = [
    (0x00000000_00000000, 0x00000000_00000000, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
]
ROUND_CONSTANTS = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85


def philox_by_the_book(key: int, block: int) -> list[int]:
    """Salmon et al. 2011, in Python integers."""
    m0, m1, w0, w1 = ROUND_CONSTANTS
    c = [block & 0xFFFFFFFF, block >> 32 & 0xFFFFFFFF, 0, 0]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = m0 * c[0], m1 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = k0 + w0 & 0xFFFFFFFF, k1 + w1 & 0xFFFFFFFF
    return c


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: int, key: int, expected: list[int]) -> None:
    assert philox.words(np, 4, key=key, counter=counter).tolist() == expected == philox_by_the_book(key, counter)


@pytest.mark.parametrize("key", [0, 1, 2**32, 0x0123456789ABCDEF, 2**64 - 1])
@pytest.mark.parametrize("block", [0, 1, 7, 2**32 - 1, 2**32, 2**63])
def test_against_the_book(key: int, block: int) -> None:
    assert philox.words(np, 4, key=key, counter=block).tolist() == philox_by_the_book(key, block)


def test_uniform_numbers_are_the_words_upper_bits() -> None:
    g = tl.Generator().manual_seed(12345)
    words = [w for b in range(5) for w in philox_by_the_book(12345, b)]
    assert tl.rand(20, generator=g).tolist() == [(w >> 8) * 2.0**-24 for w in words]


DRAWS: dict[str, Callable[..., tl.Tensor]] = {
    "rand": lambda **k: tl.rand(7, 3, **k),
    "rand float64": lambda **k: tl.rand(21, dtype=tl.float64, **k),
    "rand float16": lambda **k: tl.rand(21, dtype=tl.float16, **k),
    "randn": lambda **k: tl.randn(7, 3, **k),
    "randn float64": lambda **k: tl.randn(21, dtype=tl.float64, **k),
    "randint": lambda **k: tl.randint(0, 100, (21,), **k),
    "randperm": lambda **k: tl.randperm(21, **k),
    "normal": lambda **k: tl.normal(1.0, 2.0, (21,), **k),
    "bernoulli": lambda **k: tl.bernoulli(tl.full((64,), 0.5), **k),
    "multinomial": lambda **k: tl.multinomial(tl.ones(21), 10, **k),
    "multinomial with replacement": lambda **k: tl.multinomial(tl.ones(4, 5), 6, replacement=True, **k),
    "rand_like": lambda **k: tl.rand_like(tl.zeros(21), **k),
    "uniform_": lambda **k: tl.zeros(21).uniform_(-1, 1, **k),
    "normal_": lambda **k: tl.zeros(21).normal_(**k),
    "bernoulli_": lambda **k: tl.zeros(64).bernoulli_(0.5, **k),
    "random_": lambda **k: tl.zeros(21).random_(0, 1000, **k),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@each_draw
def test_seeds_and_states(draw: Callable[..., tl.Tensor]) -> None:
    tl.manual_seed(3)
    a, b = draw().tolist(), draw().tolist()
    assert a != b
    tl.manual_seed(3)
    assert draw().tolist() == a
    state = tl.get_rng_state()
    assert draw().tolist() == b
    tl.set_rng_state(state)
    assert draw().tolist() == b
    own = tl.Generator().manual_seed(3)
    before = tl.get_rng_state().tolist()
    assert [draw(generator=own).tolist() for _ in range(2)] == [a, b]
    assert tl.get_rng_state().tolist() == before  # the default stream did not move
    saved = own.get_state()
    following = draw(generator=own).tolist()
    assert draw(generator=tl.Generator().set_state(saved)).tolist() == following
    assert draw(generator=tl.Generator().manual_seed(4)).tolist() != a


@each_draw
def test_neighbouring_draws_do_not_overlap(draw: Callable[..., tl.Tensor]) -> None:
    """The counter moves past what was used: no element returns in the next draw."""
    g = tl.Generator().manual_seed(0)
    start = int(np.asarray(g.get_state()).view(np.uint64)[1])
    draw(generator=g)
    moved = int(np.asarray(g.get_state()).view(np.uint64)[1]) - start
    assert 21 / 4 <= moved <= 64


@pytest.mark.parametrize("name", ["rand", "rand float64", "randn float64", "randint", "bernoulli"])
def test_the_reference_device_draws_the_same_bits(name: str) -> None:
    sized = {
        "rand": lambda d, g: tl.rand(1000, device=d, generator=g),
        "rand float64": lambda d, g: tl.rand(1000, dtype=tl.float64, device=d, generator=g),
        "randn float64": lambda d, g: tl.randn(1000, dtype=tl.float64, device=d, generator=g),
        "randint": lambda d, g: tl.randint(-5, 10**9, (1000,), device=d, generator=g),
        "bernoulli": lambda d, g: tl.bernoulli(tl.full((1000,), 0.3, device=d), generator=g),
    }[name]
    a, b = (np.asarray(sized(d, tl.Generator().manual_seed(5))) for d in ("cpu", "reference"))
    if "randn" in name:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)
    else:
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    def drawn() -> list[bytes]:
        g = tl.Generator().manual_seed(1)
        return [
            t.numpy().tobytes()
            for t in (
                tl.rand(300_001, generator=g),
                tl.randn(300_001, generator=g),
                tl.randint(0, 9, (300_001,), generator=g),
                tl.randperm(50_001, generator=g),
            )
        ]

    tl.set_num_threads(1)
    alone = drawn()
    tl.set_num_threads(threads)
    assert drawn() == alone


def test_a_prefix_is_a_prefix() -> None:
    """Element i depends on seed and i alone, not on how many are drawn."""
    long = tl.rand(10_000, generator=tl.Generator().manual_seed(9)).numpy()
    for n in (1, 5, 4096, 9999):
        assert (tl.rand(n, generator=tl.Generator().manual_seed(9)).numpy() == long[:n]).all()


class Interrupted(tl.Generator):
    """Hands over to another thread in the middle of every move of its counter."""

    @property
    def _counter(self) -> int:
        at: int = self.__dict__["at"]
        time.sleep(0)
        return at

    @_counter.setter
    def _counter(self, at: int) -> None:
        self.__dict__["at"] = at


def test_concurrent_draws_from_one_generator_are_distinct() -> None:
    drawn: list[bytes] = []
    generator = Interrupted().manual_seed(0)

    def work() -> None:
        drawn.extend(tl.rand(8, generator=generator).numpy().tobytes() for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(drawn)) == 800


def test_a_process_forked_while_another_thread_draws_can_draw() -> None:
    code = """
import os, threading
import tensorlib as tl
stop = threading.Event()
drawing = threading.Thread(target=lambda: [tl.rand(1) for _ in iter(stop.is_set, True)])
drawing.start()
children = []
for _ in range(20):
    if (child := os.fork()) == 0:
        tl.rand(1)
        os._exit(0)
    children.append(child)
stop.set()
drawing.join()
print([os.waitpid(child, 0)[1] for child in children] == [0] * 20)
"""
    # Python 3.12 warns of a fork beside threads, which is the point here.
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ, timeout=60)
    assert run.stdout == "True\n"


def test_fresh_processes_draw_different_numbers() -> None:
    code = "import tensorlib as tl; print(tl.initial_seed(), tl.rand(4).tolist())"
    runs = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ).stdout
        for _ in range(2)
    }
    assert len(runs) == 2


# ---- what is drawn ----
N = 200_000


def test_uniform_and_normal_statistics() -> None:
    for dtype in (tl.float32, tl.float64):
        u, z = tl.rand(N, dtype=dtype).numpy(), tl.randn(N, dtype=dtype).numpy()
        assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
        assert abs(z.mean()) < 0.015 and abs(z.var() - 1) < 0.02 and 3.5 < np.abs(z).max() < 7
    u = tl.zeros(N).uniform_(-3, 5).numpy()
    assert u.min() >= -3 and u.max() < 5 and abs(u.mean() - 1) < 0.05
    z = tl.normal(10.0, 2.0, (N,)).numpy()
    assert abs(z.mean() - 10) < 0.05 and abs(z.std() - 2) < 0.05


def test_normal_of_tensors() -> None:
    z = tl.normal(tl.tensor([0.0, 100.0]), tl.tensor([[1.0], [0.0]]).expand(2, 2))
    assert z.shape == (2, 2) and z[1].tolist() == [0, 100]


def test_randint() -> None:
    x = tl.randint(-3, 4, (N,)).numpy()
    counts = np.bincount(x + 3, minlength=7)
    assert x.dtype == np.int64 and len(counts) == 7 and np.abs(counts / N - 1 / 7).max() < 0.01
    assert set(tl.randint(3, (100,)).tolist()) == {0, 1, 2} and tl.randint(5, 6, ()).item() == 5
    assert (
        tl.randint(0, 200, (10,), dtype=tl.uint8).dtype is tl.uint8
        and tl.randint(0, 9, (2,), dtype=tl.float32).dtype is tl.float32
    )
    assert tl.randint_like(tl.zeros(2, 3), 5).shape == (2, 3)
    wide = tl.randint(-(2**53), 2**53, (1000,)).numpy()
    assert wide.min() < -(2**51) and wide.max() > 2**51 and len(set((wide & 1).tolist())) == 2


def test_randperm() -> None:
    for n in (0, 1, 2, 1000):
        assert sorted(tl.randperm(n).tolist()) == list(range(n))
    firsts = np.bincount([tl.randperm(3)[0].item() for _ in range(900)], minlength=3)
    assert firsts.min() > 230
    assert tl.randperm(5, dtype=tl.int32).dtype is tl.int32


def test_bernoulli() -> None:
    p = tl.tensor([0.0, 0.25, 1.0]).expand(N // 4, 3)
    means = tl.bernoulli(p).numpy().mean(0)
    assert means[0] == 0 and means[2] == 1 and abs(means[1] - 0.25) < 0.01
    assert abs(tl.bernoulli(tl.zeros(N), 0.75).mean().item() - 0.75) < 0.01
    assert tl.zeros(4, dtype=tl.int64).bernoulli_(1.0).tolist() == [1] * 4
    assert tl.bernoulli(tl.ones(2, dtype=tl.float64)).dtype is tl.float64


def test_multinomial() -> None:
    weights = tl.tensor([1.0, 0.0, 3.0, 4.0])
    drawn = tl.multinomial(weights, N // 4, replacement=True).numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / len(drawn), [1 / 8, 0, 3 / 8, 4 / 8], atol=0.01)
    firsts = []
    for _ in range(2000):
        order = tl.multinomial(weights, 3).tolist()
        assert sorted(order) == [0, 2, 3]
        firsts.append(order[0])
    np.testing.assert_allclose(np.bincount(firsts, minlength=4) / 2000, [1 / 8, 0, 3 / 8, 4 / 8], atol=0.045)
    rows = tl.multinomial(tl.eye(3), 4, replacement=True)
    assert rows.tolist() == [[0] * 4, [1] * 4, [2] * 4] and weights.multinomial(1).shape == (1,)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "rand of integers": (lambda: tl.rand(2, dtype=tl.int64), tl.DTypeError, "rand: got int64"),
    "negative size": (lambda: tl.randn(-1), tl.ShapeError, "negative"),
    "empty range": (lambda: tl.randint(5, 5, (2,)), ValueError, "low < high"),
    "bounds": (lambda: tl.randint(0, 2**60, (2,)), ValueError, r"2\*\*53"),
    "negative permutation": (lambda: tl.randperm(-1), ValueError, "randperm"),
    "probability": (lambda: tl.bernoulli(tl.tensor([1.5])), ValueError, "outside 0 to 1"),
    "nan probability": (lambda: tl.bernoulli(tl.tensor([float("nan")])), ValueError, "outside 0 to 1"),
    "p": (lambda: tl.bernoulli(tl.zeros(2), -0.1), ValueError, "p is -0.1"),
    "integer probabilities": (lambda: tl.bernoulli(tl.ones(2, dtype=tl.int64)), tl.DTypeError, "int64"),
    "negative weights": (lambda: tl.multinomial(tl.tensor([-1.0, 2.0]), 1), ValueError, "finite weights >= 0"),
    "no weight": (lambda: tl.multinomial(tl.zeros(3), 1), ValueError, "sum above 0"),
    "too many samples": (lambda: tl.multinomial(tl.tensor([1.0, 0.0]), 2), ValueError, "2 samples without replacement from 1"),
    "no samples": (lambda: tl.multinomial(tl.ones(2), 0), ValueError, "0 samples"),
    "three dimensions": (lambda: tl.multinomial(tl.ones(2, 2, 2), 1), ValueError, r"\(2, 2, 2\)"),
    "state": (lambda: tl.set_rng_state(tl.zeros(3, dtype=tl.uint8)), ValueError, "set_state"),
    "in place on a leaf": (lambda: tl.ones(2, requires_grad=True).normal_(), tl.GradError, "normal_"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_refuses(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    before = tl.get_rng_state().tolist()
    with pytest.raises(error, match=match):
        call()
    if "multinomial" in match or "low" in match:
        assert tl.get_rng_state().tolist() == before


def test_seeding() -> None:
    assert tl.manual_seed(-1).initial_seed() == 2**64 - 1 and tl.manual_seed(np.int64(7)).initial_seed() == 7
    assert tl.default_generator() is tl.manual_seed(0)
    assert tl.seed() == tl.initial_seed() != tl.seed()


def test_exponential() -> None:
    x = tl.empty(20_000).exponential_(2.0)
    assert x.min() >= 0 and abs(x.mean().item() - 0.5) < 0.02 and abs(x.std().item() - 0.5) < 0.03
    with pytest.raises(ValueError, match="exponential_: lambd is 0, expected a positive rate"):
        x.exponential_(0)
