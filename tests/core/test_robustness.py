"""What a caller can get wrong ends in an exception of the library's kinds, never in a crash, and leaves the operands as they were."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

EXPECTED = (
    tl.errors.TensorlibError,
    ZeroDivisionError,  # of integers
    TypeError,
    ValueError,
    IndexError,
    OverflowError,
    NotImplementedError,
    MemoryError,
)
STATEFUL = {
    "seed",
    "manual_seed",
    "set_flush_denormal",
    "set_num_threads",
    "set_default_dtype",
    "set_default_device",
    "set_grad_enabled",
    "set_rng_state",
    "set_printoptions",
}
FOREIGN: list[Any] = [
    None, "mean", [], [1, 2], (0,), {}, 10**30, -1, 0, 3, 17, 2**62, -(2**63), float("nan"), 1.5, True, b"a", 1j, (-1,), (2**62,), slice(0, 1),
    ..., np.float32(2), np.zeros(3), np.array("a"), int, tl.float32, tl.int64, "reference", (0, 1), [[1, 2], [3]], range(2),
]  # fmt: skip


def operand(r: random.Random) -> tl.Tensor:
    shape = r.choice([(), (0,), (3,), (2, 3), (3, 3), (2, 0, 3), (2, 3, 3), (1,) * 15 + (2,), (1,) * 16])
    dtype = r.choice(
        [tl.float32] * 6 + [tl.float64, tl.float16, tl.bfloat16, tl.int64, tl.int64, tl.uint8, tl.bool, tl.complex64]
    )
    x = tl.tensor((np.arange(int(np.prod(shape))) % 7 - 3).reshape(shape)).to(dtype)
    if r.random() < 0.15:
        x = x.to("reference")
    return x.requires_grad_() if dtype is tl.float32 and r.random() < 0.5 else x


def state(x: tl.Tensor) -> Any:
    grad = None if x.grad is None else x.grad.numpy().tobytes()
    return x.shape, x.dtype, x.device, x.requires_grad, x.is_leaf, x._version, grad, x.detach().numpy().tobytes()


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in tl.__all__:
        thing = getattr(tl, name)
        if callable(thing) and not inspect.isclass(thing) and not inspect.ismodule(thing) and name not in STATEFUL:
            yield name, thing
    for name in dir(tl.Tensor):
        thing = inspect.getattr_static(tl.Tensor, name)
        if inspect.isfunction(thing) and not name.startswith("_"):
            yield f"Tensor.{name}", thing
    for name in tl.fused.__all__:
        yield f"fused.{name}", getattr(tl.fused, name)


def arguments(r: random.Random, name: str) -> list[Any]:
    if name.startswith("Tensor."):
        return [operand(r), *(operand(r) if r.random() < 0.5 else r.choice(FOREIGN) for _ in range(r.randint(0, 3)))]
    given: list[Any] = [operand(r) if r.random() < 0.6 else r.choice(FOREIGN) for _ in range(r.randint(0, 4))]
    return [[operand(r) for _ in range(r.randint(0, 3))], *given] if r.random() < 0.15 else given


def attempt(name: str, function: Callable[..., Any], given: list[Any]) -> None:
    tensors = [t for x in given for t in (x if isinstance(x, list) else [x]) if isinstance(t, tl.Tensor)]
    before = [state(t) for t in tensors]
    raised: Exception | None = None
    try:
        function(*given)
    except (*EXPECTED, AttributeError) as error:
        raised = error
    if raised is not None:
        assert [state(t) for t in tensors] == before, f"{name}{given} changed an operand and raised {raised!r}"
        assert "(status" not in str(raised), f"{name}{given}: {raised}"
        # A method's other operands are not looked at beforehand; a function names what is no Tensor.
        foreign = name.startswith(("Tensor.", "fused.")) and any(not isinstance(x, tl.Tensor) for x in given)
        assert foreign or not isinstance(raised, AttributeError), f"{name}{given}: {raised}"


@pytest.mark.filterwarnings("ignore")
def test_any_arguments_raise_or_work(seed: int) -> None:
    r = random.Random(seed)
    for name, function in functions():
        for _ in range(6):
            attempt(name, function, arguments(r, name))


def large(r: random.Random) -> tl.Tensor:
    """More than 4 KiB: no block of a free list has room for it."""
    x = tl.tensor(np.arange(1600).reshape(40, 40) % 11 / 4.0).to(
        r.choice([tl.float32, tl.float32, tl.float32, tl.float64, tl.int64])
    )
    return x.requires_grad_() if x.dtype is tl.float32 and r.random() < 0.5 else x


def without_memory(function: Callable[..., Any], *given: Any) -> None:
    tl.memory.empty_cache()
    tl.memory.set_cap(tl.memory.reserved())
    try:
        function(*given)
    finally:
        tl.memory.set_cap(None)


@pytest.mark.filterwarnings("ignore")
def test_where_memory_ends_the_operands_stay_as_they_were(seed: int) -> None:
    r = random.Random(seed)
    for name, function in functions():
        for n in (1, 2, 3):
            attempt(name, functools.partial(without_memory, function), [large(r) for _ in range(n)])


def test_backward_without_memory_raises_and_can_not_be_mistaken_for_done() -> None:
    x = tl.ones(40, 40, requires_grad=True)
    y = ((x * 3).exp() @ x).sum()
    with pytest.raises(tl.errors.MemoryLimitError):
        without_memory(y.backward)
    assert x.grad is None


def test_more_inputs_than_sixteen_bits_count() -> None:
    x = tl.ones(1, requires_grad=True)
    tl.cat([x] * 70_000).sum().backward()
    assert x.grad.item() == 70_000


def test_half_precision_keeps_its_history() -> None:
    x = tl.ones(3, requires_grad=True)
    (x.half().clone() * 2).float().sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "held", [lambda a: tl.from_numpy(a), lambda a: tl.ones(1).expand(3)], ids=["read-only", "expanded"]
)
def test_a_gradient_that_can_not_be_written_is_replaced(held: Callable[[Any], tl.Tensor]) -> None:
    memory = np.ones(3, np.float32)
    memory.flags.writeable = False
    x = tl.ones(3, requires_grad=True)
    x.grad = held(memory)
    x.sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    assert memory.tolist() == [1, 1, 1]


@pytest.mark.parametrize("offset", [0, 1_999_000])
def test_a_write_outside_the_base_is_not_recorded(offset: int) -> None:
    part = tl.zeros(2_000_000)[1_000_000:1_000_010].detach()
    outside = part.as_strided((3,), (1,), offset)
    with pytest.raises(tl.GradError, match="does not hold all of it"):
        outside.copy_(tl.ones(3, requires_grad=True) * 2)


def test_a_chain_of_gradients_of_gradients_goes_without_recursion() -> None:
    t = tl.zeros(1)
    for _ in range(200_000):
        held = t
        t = tl.zeros(1)
        t.grad = held
    del t, held


@pytest.mark.parametrize("tensors", [tl.ones(2, 2), [None], [1], None, ["x"]])
def test_fused_takes_lists_of_tensors(tensors: Any) -> None:
    for function in (tl.fused.sum_of_squares, tl.fused.zero_grad_, lambda ts: tl.fused.scale_(ts, 2.0)):
        with pytest.raises(TypeError, match="expected a list"):
            function(tensors)


def test_fused_takes_lists_of_one_length() -> None:
    w = [tl.ones(2), tl.ones(2)]
    with pytest.raises(TypeError, match="sgd_: got 1, expected a list of 2 tensors"):
        tl.fused.sgd_(w, w[:1], None, 0.1)
    with pytest.raises(TypeError, match="adam_: got 0, expected a list of 2 tensors"):
        tl.fused.adam_(w, w, [], w, None, [tl.tensor(0.0)] * 2, 0.1)
