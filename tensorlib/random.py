"""Random numbers: counter-based (Philox), so the same bits on any number of threads and on every device.

A generator is a key (the seed) and a counter; each draw takes the blocks it needs and moves the counter on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from tensorlib import dtypes
from tensorlib.backends import backend
from tensorlib.device import CPU, Device, device as as_device, placed
from tensorlib.dtypes import DType, as_dtype
from tensorlib.errors import DTypeError, ShapeError
from tensorlib.lines import here
from tensorlib.native import lib
from tensorlib.ops import philox
from tensorlib.ops.creation import given_shape
from tensorlib.ops.declare import assign_
from tensorlib.ops.recording import require_grad_mode_off
from tensorlib.status import DECLINE, raise_status
from tensorlib.tensor import Tensor, wrap

__all__ = [
    "Generator", "bernoulli", "default_generator", "fork_stream", "get_rng_state", "initial_seed", "manual_seed", "multinomial", "normal",
    "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "seed", "set_rng_state",
]  # fmt: skip
UNIFORM, NORMAL, RANDINT, BERNOULLI = range(4)
_MASK = 2**64 - 1
_moving = threading.Lock()  # held while a stream's counter moves: two threads never draw the same numbers


def _forked() -> None:
    global _moving
    _moving = threading.Lock()  # whoever held it was not forked along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Generator:
    """A stream of random numbers of its own.

    >>> g = tl.Generator().manual_seed(0)
    >>> bool((tl.rand(3, generator=g) == tl.rand(3, generator=tl.Generator().manual_seed(0))).all())
    True
    """

    def __init__(self, device: Device | str = "cpu") -> None:
        self.device = as_device(device)
        self._key, self._counter = 0, 0

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed`, any integer."""
        key = int(seed) & _MASK
        with _moving:
            self._key, self._counter = key, 0
        return self

    def seed(self) -> int:
        """Start a stream that the operating system chose; returns its seed."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little"))
        return self._key

    def initial_seed(self) -> int:
        """The seed of the current stream."""
        return self._key

    def next(self, n: int, words_each: int = 1) -> tuple[int, int]:
        """(key, counter) for a draw of `n` elements; the stream moves past it."""
        if _watcher is not None:
            _watcher(self)
        return self.advance(philox.blocks(n, words_each))

    def advance(self, blocks: int) -> tuple[int, int]:
        """(key, counter); the stream moves on by `blocks` of four words."""
        with _moving:
            key, counter = self._key, self._counter
            self._counter = (counter + blocks) & _MASK
        return key, counter

    def where(self) -> tuple[int, int]:
        """(key, counter) of the next draw."""
        with _moving:
            return self._key, self._counter

    def move_to(self, key: int, counter: int) -> None:
        """Have the next draw be that of (key, counter)."""
        with _moving:
            self._key, self._counter = key, counter

    def get_state(self) -> Tensor:
        """Key and counter, as a uint8 tensor that `set_state` takes."""
        with _moving:
            state = np.array([self._key, self._counter], np.uint64).view(np.uint8)
        return Tensor(state, dtype=dtypes.uint8)

    def set_state(self, state: Tensor) -> Generator:
        """Go on from where `get_state` was called."""
        if state.dtype is not dtypes.uint8 or state.shape != (16,):
            raise ShapeError(
                f"set_state: got {state.shape} {state.dtype.name}, expected what get_state returned, (16,) uint8."
            )
        key, counter = np.ascontiguousarray(state.numpy()).view(np.uint64)
        with _moving:
            self._key, self._counter = int(key), int(counter)
        return self


_watcher: Callable[[Generator | None], None] | None = None


@contextmanager
def watched(watcher: Callable[[Generator | None], None]) -> Iterator[None]:
    """Within, `watcher` is called with the generator of every draw, in whichever thread, before it moves; with None before main memory is filled."""
    global _watcher
    outer, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = outer


_default = Generator().manual_seed(0)
_default.seed()
_own = threading.local()  # .generator: this thread's default, inside fork_stream


def default_generator() -> Generator:
    """The stream that functions draw from where none is given.

    >>> tl.default_generator().initial_seed() == tl.initial_seed()
    True
    """
    own: Generator | None = getattr(_own, "generator", None)
    return _default if own is None else own


class _Named(Generator):
    """The stream of some names, which are mixed when it is first drawn from: most examples of a dataset draw nothing."""

    device, _counter = CPU, 0

    def __init__(self, names: tuple[int, ...]) -> None:
        self._names = names

    @cached_property
    def _key(self) -> int:  # type: ignore[override]
        return mixed(*self._names)


class fork_stream:
    """Draw from a stream of its own, which the integers `names` decide, in this thread and until the block ends; the outer one does not move.

    What is drawn for an example (its augmentation, say) so depends on the example's name alone, not on what was drawn before it.

    >>> with tl.random.fork_stream(seed := 0, epoch := 3, example := 17):
    ...     a = tl.rand(2)
    >>> with tl.random.fork_stream(0, 3, 17):
    ...     bool((tl.rand(2) == a).all())
    True
    """

    __slots__ = ("_outer", "_stream")

    def __init__(self, *names: int) -> None:
        self._stream = _Named(tuple(map(int, names)))

    def __enter__(self) -> Generator:
        self._outer = getattr(_own, "generator", None)
        _own.generator = self._stream
        return self._stream

    def __exit__(self, *raised: object) -> None:
        _own.generator = self._outer


def switch_stream(*names: int) -> None:
    """In a `fork_stream` block: go on with the stream of other names, as a block of its own for them would have it, for less."""
    _own.generator = _Named(names)


def mixed(*names: int) -> int:
    """One seed of 64 bits from several integers: near ones give unrelated seeds.

    Source: the finalizer of splitmix64, Steele, Lea and Flood 2014.

    >>> tl.random.mixed(1, 2) == tl.random.mixed(2, 1)
    False
    """
    seed = 0
    for name in names:
        seed = (seed + int(name) + 0x9E3779B97F4A7C15) & _MASK
        seed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        seed = ((seed ^ (seed >> 27)) * 0x94D049BB133111EB) & _MASK
        seed ^= seed >> 31
    return seed


def manual_seed(seed: int) -> Generator:
    """Start the default stream of `seed`.

    >>> _ = tl.manual_seed(0)
    >>> a = tl.rand(2); _ = tl.manual_seed(0)
    >>> bool((a == tl.rand(2)).all())
    True
    """
    return default_generator().manual_seed(seed)


def seed() -> int:
    """Start a default stream that the operating system chose.

    >>> tl.seed() == tl.initial_seed()
    True
    """
    return default_generator().seed()


def initial_seed() -> int:
    """The seed of the default stream.

    >>> tl.manual_seed(3).initial_seed()
    3
    """
    return default_generator().initial_seed()


def get_rng_state() -> Tensor:
    """The default stream's state.

    >>> tl.get_rng_state().shape
    (16,)
    """
    return default_generator().get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Put the default stream back to a state.

    >>> tl.set_rng_state(tl.get_rng_state())
    """
    default_generator().set_state(new_state)


# ---- drawing ----
def _reference(kind: int, n: int, key: int, counter: int, dtype: DType, a: float, b: float) -> Callable[[Any], Any]:
    carried = (dtypes.float64 if dtype is dtypes.float64 else dtypes.float32).np
    if kind == UNIFORM:
        return lambda xp: philox.uniform(xp, n, key, counter, carried, a, b)
    if kind == NORMAL:
        return lambda xp: philox.normal(xp, n, key, counter, carried, a, b)
    if kind == RANDINT:
        return lambda xp: philox.randint(xp, n, key, counter, int(a), int(b))
    return lambda xp: philox.bernoulli(xp, n, key, counter, a)


def _words_each(kind: int, dtype: DType) -> int:
    return 2 if kind == RANDINT or (kind in (UNIFORM, NORMAL) and dtype is dtypes.float64) else 1


def _draw(
    name: str,
    kind: int,
    dims: Sequence[int],
    dtype: DType,
    where: Device,
    generator: Generator | None,
    a: float,
    b: float,
) -> Tensor:
    n = 1
    for size in dims:
        n *= size
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"{name}: generator is a {type(generator).__name__}, expected a Generator.")
    key, counter = (generator or default_generator()).next(n, _words_each(kind, dtype))
    if where.type == "cpu":
        if _watcher is not None:
            _watcher(None)
        handle = lib.tl_random(kind, key, counter, dtype.number, len(dims), dims, a, b)
        if handle:
            return wrap(handle)
        if lib.tl_status() != DECLINE:
            raise_status(name, dims)
    if where.type == "cuda":
        from tensorlib.gpu.random import draw

        with backend(where).handle:
            return draw(kind, tuple(dims), key, counter, dtype, where, a, b)
    there = backend(where)
    values = _reference(kind, n, key, counter, dtype, a, b)(there.xp).reshape(dims)
    return wrap(there.adopt(values, dtype))


def _finish(t: Tensor, requires_grad: bool) -> Tensor:
    return t.requires_grad_(True) if requires_grad else t


def _float(name: str, dtype: Any) -> DType:
    kind = dtypes.default_dtype() if dtype is None else as_dtype(dtype)
    if not kind.is_floating_point:
        raise DTypeError(f"{name}: got {kind.name}, expected a floating dtype.")
    return kind


def rand(
    *shape: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform in [0, 1).

    >>> tl.rand(2, 3).shape
    (2, 3)
    """
    return _finish(
        _draw(
            "rand",
            UNIFORM,
            given_shape("rand", shape, size),
            _float("rand", dtype),
            placed(device),
            generator,
            0.0,
            1.0,
        ),
        requires_grad,
    )


def randn(
    *shape: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal with mean 0 and standard deviation 1.

    >>> tl.randn(2, 3).shape
    (2, 3)
    """
    return _finish(
        _draw(
            "randn",
            NORMAL,
            given_shape("randn", shape, size),
            _float("randn", dtype),
            placed(device),
            generator,
            0.0,
            1.0,
        ),
        requires_grad,
    )


def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal with given mean and standard deviation: numbers with a size, or tensors that broadcast.

    >>> tl.normal(0.0, 2.0, (3,)).shape
    (3,)
    """
    if size is not None:
        shape, kind = given_shape("normal", (size,)), _float("normal", dtype)
        made = _draw("normal", NORMAL, shape, kind, placed(device), generator, float(mean), float(std))
        return _finish(made, requires_grad)
    if not isinstance(mean, Tensor) and not isinstance(std, Tensor):
        raise TypeError(
            f"normal: got {type(mean).__name__} and {type(std).__name__} without a size, expected a Tensor among them."
        )
    spread = mean + std * 0
    return randn(spread.shape, generator=generator, dtype=spread.dtype, device=spread.device) * std + mean


def randint(
    low: int = 0, high: Any = None, size: Any = None, *, generator: Generator | None = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Integers uniform in [low, high); `randint(high, size)` starts at 0.

    >>> bool((tl.randint(5, (10,)) < 5).all())
    True
    """
    if size is None or not isinstance(high, int):
        low, high, size = 0, low, high if size is None else size
    low, high = int(low), int(high)
    if high <= low:
        raise ShapeError(f"randint: expected low < high, got {low} and {high}.")
    if low < -(2**53) or high > 2**53:
        raise ShapeError(f"randint: bounds beyond 2**53 are not supported, got {low} and {high}.")
    kind = dtypes.int64 if dtype is None else as_dtype(dtype)
    made = _draw(
        "randint", RANDINT, given_shape("randint", (size,)), dtypes.int64, placed(device), generator, low, high
    )
    return _finish(made if kind is dtypes.int64 else made.to(kind), requires_grad)


def _need_tensor(name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise DTypeError(f"{name}: got a {type(x).__name__}, expected a Tensor.")


def rand_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`rand` with a tensor's shape, dtype and device.

    >>> tl.rand_like(tl.zeros(2)).shape
    (2,)
    """
    _need_tensor("rand_like", input)
    return rand(
        input.shape,
        generator=generator,
        dtype=dtype or input.dtype,
        device=device or input.device,
        requires_grad=requires_grad,
    )


def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`randn` with a tensor's shape, dtype and device.

    >>> tl.randn_like(tl.zeros(2)).shape
    (2,)
    """
    _need_tensor("randn_like", input)
    return randn(
        input.shape,
        generator=generator,
        dtype=dtype or input.dtype,
        device=device or input.device,
        requires_grad=requires_grad,
    )


def randint_like(
    input: Tensor, low: int = 0, high: int | None = None, *, generator: Generator | None = None, dtype: Any = None
) -> Tensor:
    """`randint` with a tensor's shape, dtype and device.

    >>> tl.randint_like(tl.zeros(2), 3).dtype
    tensorlib.float32
    """
    _need_tensor("randint_like", input)
    first, last = (0, low) if high is None else (low, high)
    return randint(first, last, input.shape, generator=generator, dtype=dtype or input.dtype, device=input.device)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The integers 0 to n - 1 in random order.

    >>> sorted(tl.randperm(4).tolist())
    [0, 1, 2, 3]
    """
    if n < 0:
        raise ShapeError(f"randperm: got {n}, expected at least 0.")
    where = placed(device)
    keys = _draw("randperm", UNIFORM, [n], dtypes.float64, where, generator, 0.0, 1.0)
    order = keys.argsort(stable=True)
    return order if dtype is None else order.to(as_dtype(dtype))


def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability each element gives (or `p`), else 0; in the input's dtype.

    >>> tl.bernoulli(tl.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    _need_tensor("bernoulli", input)
    if p is not None:
        if not 0 <= p <= 1:
            raise ShapeError(f"bernoulli: p is {p}, expected 0 to 1.")
        return _draw("bernoulli", BERNOULLI, input.shape, dtypes.float32, input.device, generator, p, 1.0).to(
            input.dtype
        )
    if not input.dtype.is_floating_point:
        raise DTypeError(f"bernoulli: probabilities are {input.dtype.name}, expected a floating dtype.")
    if input.numel() and not bool(((input >= 0) & (input <= 1)).all()):
        raise ShapeError("bernoulli: a probability lies outside 0 to 1.")
    kind = dtypes.float64 if input.dtype is dtypes.float64 else dtypes.float32
    u = _draw("bernoulli", UNIFORM, input.shape, kind, input.device, generator, 0.0, 1.0)
    return (u < input.detach()).to(input.dtype)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Positions drawn with probabilities proportional to the weights of each row.

    Shapes:
        input: (C,) or (N, C), weights >= 0  ->  out: (num_samples,) or (N, num_samples) int64

    >>> tl.multinomial(tl.tensor([0.0, 1.0]), 3, replacement=True)
    tensor([1, 1, 1])
    """
    _need_tensor("multinomial", input)
    if input.ndim not in (1, 2) or not input.dtype.is_floating_point:
        raise ShapeError(
            f"multinomial: got {input.shape} {input.dtype.name}, expected floating weights of shape (C,) or (N, C)."
        )
    weights = np.atleast_2d(input.detach().to("cpu").to(dtypes.float64).numpy())
    if not np.isfinite(weights).all() or (weights < 0).any() or (weights.sum(-1) <= 0).any():
        raise ShapeError("multinomial: each row needs finite weights >= 0 with a sum above 0.")
    available = int((weights > 0).sum(-1).min()) if not replacement else num_samples
    if num_samples < 1 or num_samples > available:
        raise ShapeError(f"multinomial: {num_samples} samples without replacement from {available} possible positions.")
    rows = weights.shape[0]
    if replacement:
        u = _draw("multinomial", UNIFORM, (rows, num_samples), dtypes.float64, CPU, generator, 0.0, 1.0).numpy()
        total = np.cumsum(weights, -1)
        last = (
            weights.shape[-1] - 1 - np.argmax(weights[:, ::-1] > 0, -1)
        )  # rounding may not pick a weight of zero at the end
        picked = np.stack(
            [np.minimum(np.searchsorted(c, v * c[-1], side="right"), m) for c, v, m in zip(total, u, last, strict=True)]
        )
    else:  # the exponential race: the smallest e / w win, in order
        u = _draw("multinomial", UNIFORM, weights.shape, dtypes.float64, CPU, generator, 0.0, 1.0).numpy()
        with np.errstate(divide="ignore"):
            race = np.where(weights > 0, -np.log1p(-u) / weights, np.inf)
        picked = np.argsort(race, -1, kind="stable")[:, :num_samples]
    from tensorlib.ops.creation import tensor

    return tensor(picked if input.ndim == 2 else picked[0], dtype=dtypes.int64, device=input.device)


# ---- in place ----
def _redraw(self: Tensor, name: str, made: Tensor) -> Tensor:
    require_grad_mode_off(self, name)
    return assign_(self, made if made.dtype is self.dtype else made.to(self.dtype), name, here())


def uniform_(self: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with numbers uniform in [from_, to)."""
    kind = dtypes.float64 if self.dtype is dtypes.float64 else dtypes.float32
    return _redraw(self, "uniform_", _draw("uniform_", UNIFORM, self.shape, kind, self.device, generator, from_, to))


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with normal numbers."""
    kind = dtypes.float64 if self.dtype is dtypes.float64 else dtypes.float32
    return _redraw(self, "normal_", _draw("normal_", NORMAL, self.shape, kind, self.device, generator, mean, std))


def bernoulli_(self: Tensor, p: float = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with 1 (with probability p) and 0."""
    return _redraw(
        self, "bernoulli_", _draw("bernoulli_", BERNOULLI, self.shape, dtypes.float32, self.device, generator, p, 1.0)
    )


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with numbers whose density is ``lambd * exp(-lambd * x)``."""
    if not lambd > 0:
        raise ShapeError(f"exponential_: lambd is {lambd}, expected a positive rate.")
    u = _draw("exponential_", UNIFORM, self.shape, dtypes.float64, self.device, generator, 0.0, 1.0)
    return _redraw(self, "exponential_", u.neg_().log1p_().div_(-lambd))


def random_(self: Tensor, from_: int = 0, to: int | None = None, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with integers in [from_, to); ``random_(to)`` starts at 0."""
    first, last = (0, from_) if to is None and from_ else (from_, 2**24 if to is None else to)
    return _redraw(self, "random_", randint(first, last, self.shape, generator=generator, device=self.device))


for _method in (uniform_, normal_, bernoulli_, exponential_, random_):
    setattr(Tensor, _method.__name__, _method)
Tensor.bernoulli = bernoulli  # type: ignore[assignment, method-assign]
Tensor.multinomial = multinomial  # type: ignore[assignment, method-assign]
