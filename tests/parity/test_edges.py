"""Bad input and empty input beside PyTorch's: results of the same shape and values, or an error from both.

Where only one of the two has a result, REASONS says why.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

HUGE = 2**62
REASONS = {
    r"(conv\dd|conv_transpose\dd|(max|avg|adaptive_max|adaptive_avg)_pool\dd)\(\((2, )?0, 5.*": "no channels: ours are empty results",
    r"conv\dd\(.*, \(0, .*": "no filters: ours are empty results",
    r"adaptive_avg_pool\dd\(\(2, 3, 0.*": "PyTorch's average of nothing is NaN, our error says what is empty",
    r"batch_norm\(\(.*0.*\(7,\).*": "PyTorch does not look at the statistics for an empty input",
    r"group_norm\(\(2, 0.*": "PyTorch counts groups of no channels",
    rf".*{HUGE}.*": "sizes and steps that PyTorch's integers do not hold",
}


class Call:
    """One call: a functional's name, operands' shapes (or a target's dtype and shape, or values), and keywords."""

    def __init__(self, name: str, *operands: Any, **keywords: Any) -> None:
        self.name, self.operands, self.keywords = name, operands, keywords

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.operands))}, {self.keywords})"

    def run(self, lib: Any) -> Any:
        """The results as arrays, or None where it raises."""
        try:
            made = getattr(lib.nn.functional, self.name)(*(operand(lib, o) for o in self.operands), **self.keywords)
        except (ValueError, TypeError, IndexError, RuntimeError, MemoryError, ZeroDivisionError) as error:
            if lib is tl and self.name.split("_")[0] not in str(error):
                pytest.fail(f"does not name the operation: {error!r}")
            return None
        return [t.detach().numpy() for t in (made if isinstance(made, tuple) else (made,))]


def operand(lib: Any, given: Any) -> Any:
    if given is None or isinstance(given, int):
        return given
    if isinstance(given, list):
        return lib.tensor(given)
    if isinstance(given[0] if given else None, str):
        return lib.zeros(given[1], dtype=getattr(lib, given[0]))
    return lib.zeros(given)


def images(n: int) -> list[tuple[int, ...]]:
    """Without images, without channels, with an empty dimension, and not batched."""
    size = (5,) * n
    return [(0, 3, *size), (2, 0, *size), (2, 3, 0, *size[1:]), (3, *size), (0, *size)]


def convolutions(n: int) -> Iterator[Call]:
    x, w = (2, 3, *(5,) * n), (4, 3, *(3,) * n)
    for shape, weight in itertools.product(images(n), (w, (0, *w[1:]))):
        yield Call(f"conv{n}d", shape, weight)
    bad = [
        ("stride", 0),
        ("stride", -1),
        ("padding", -1),
        ("dilation", 0),
        ("dilation", -1),
        ("groups", 0),
        ("groups", -1),
        ("groups", 2),
    ]
    bad += [("padding", HUGE), ("dilation", HUGE), ("dilation", 3), ("groups", HUGE), ("padding", "none"), ("padding", (1,) * 4)]  # fmt: skip
    for name, value in bad:
        yield Call(f"conv{n}d", x, w, **{name: value})
        if not isinstance(value, str):
            yield Call(f"conv_transpose{n}d", x, (3, 4, *(3,) * n), **{name: value})
    yield Call(f"conv{n}d", x, w, padding="same", stride=2)
    yield Call(f"conv{n}d", x, (4, 3, *(6,) * n))
    for name, value in (("padding", 5), ("output_padding", 1), ("output_padding", -1), ("output_padding", HUGE)):
        yield Call(f"conv_transpose{n}d", x, (3, 4, *(3,) * n), **{name: value})
    for shape in images(n):
        yield Call(f"conv_transpose{n}d", shape, (3, 4, *(3,) * n))


def pools(n: int) -> Iterator[Call]:
    x = (2, 3, *(5,) * n)
    for kind in ("max", "avg"):
        for shape in images(n):
            yield Call(f"{kind}_pool{n}d", shape, kernel_size=2)
            yield Call(f"adaptive_{kind}_pool{n}d", shape, output_size=2)
        for kernel in (6, 0, -1, HUGE):
            if kernel != HUGE or n > 1:  # PyTorch's max_pool1d hangs
                yield Call(f"{kind}_pool{n}d", x, kernel_size=kernel)
        for name, value in (("stride", 0), ("stride", -1), ("padding", -1), ("padding", 2), ("padding", HUGE)):
            yield Call(f"{kind}_pool{n}d", x, kernel_size=2, **{name: value})
        yield Call(f"{kind}_pool{n}d", x, kernel_size=4, padding=2)
        for size in (0, -1, HUGE, 7):
            yield Call(f"adaptive_{kind}_pool{n}d", x, output_size=size)
    for dilation in (0, -1, 5):
        yield Call(f"max_pool{n}d", x, kernel_size=2, dilation=dilation)


def norms() -> Iterator[Call]:
    for shape in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 3), (2, 0), (1, 3), (1, 3, 1), (1, 3, 2), (3,), (2, 3)]:
        c = shape[1:2] or (3,)
        yield Call("batch_norm", shape, None, None, None, None, training=True)
        yield Call("batch_norm", shape, c, c)
        yield Call("batch_norm", shape, (7,), c)
        yield Call("instance_norm", shape)
        for groups in (1, 2, 3, 0, -1, HUGE):
            yield Call("group_norm", shape, num_groups=groups)
        for size in (shape[-1:], shape, (), (7,)):
            yield Call("layer_norm", shape, normalized_shape=size)
            yield Call("rms_norm", shape, normalized_shape=size)


def losses() -> Iterator[Call]:
    scores = [
        ((0, 3), (0,)),
        ((2, 0), (2,)),
        ((2, 3), (3,)),
        ((3,), ()),
        ((0, 3, 4), (0, 4)),
        ((2, 3, 0), (2, 0)),
        ((2, 3, 4), (2, 3)),
    ]
    pairs = [((0,), (0,)), ((2, 3), (2, 3)), ((), ()), ((2, 0), (2, 0)), ((2, 3), (2, 4))]
    for reduction in ("none", "mean", "sum"):
        for name in ("cross_entropy", "nll_loss"):
            for x, target in scores:
                yield Call(name, x, ("int64", target), reduction=reduction)
            for label in (3, -1, -100, 2**40, -(2**63)):
                yield Call(name, (2, 3), [0, label], reduction=reduction)
            yield Call(name, (2, 3), [0, 1], (2,), reduction=reduction)
            yield Call(name, (2, 3), [1, 1], ignore_index=1, reduction=reduction)
        yield Call("cross_entropy", (0, 3), (0, 3), reduction=reduction)
        for name in (
            "mse_loss",
            "l1_loss",
            "smooth_l1_loss",
            "huber_loss",
            "kl_div",
            "binary_cross_entropy",
            "binary_cross_entropy_with_logits",
        ):
            for x, target in pairs:
                yield Call(name, x, target, reduction=reduction)
    for name in ("mse_loss", "cross_entropy"):
        yield Call(name, (2, 3), (2, 3), reduction="average")


def others() -> Iterator[Call]:
    for mode, amounts, shape in itertools.product(
        ("constant", "reflect", "replicate", "circular"),
        ((HUGE, HUGE), (-1, -1), (-5, 0), (1, 1), (-HUGE, -HUGE), (3, 3), (5, 5), (1,)),
        ((2, 3, 4), (0, 3, 4), (2, 3, 0)),
    ):
        yield Call("pad", shape, pad=amounts, mode=mode)
    for shape, mode in itertools.product(((0, 3, 4), (2, 3, 0), (2, 3, 4)), ("nearest", "linear")):
        for size in (0, 3, -1):
            yield Call("interpolate", shape, size=size, mode=mode)
        for factor in (0.0, -1.0, float("nan"), 0.1):
            yield Call("interpolate", shape, scale_factor=factor, mode=mode)
    for lead, length, keys, width in itertools.product(((), (0,), (2,)), (0, 3), (0, 4), (0, 5)):
        shapes = ((*lead, n, width) for n in (length, keys, keys))
        yield Call("scaled_dot_product_attention", *shapes)
    for index in ([-1], [5], [2**40], ("int64", (0,))):
        yield Call("embedding", index, (5, 2))
    yield Call("embedding", ("int64", (0,)), (0, 2))
    for shape, dim in itertools.product(((0,), (), (0, 3), (3, 0)), (0, -1, 1)):
        yield Call("softmax", shape, dim=dim)
        yield Call("log_softmax", shape, dim=dim)


def calls() -> Iterator[Call]:
    for n in (1, 2, 3):
        yield from convolutions(n)
        yield from pools(n)
    yield from norms()
    yield from losses()
    yield from others()


@pytest.mark.filterwarnings("ignore")  # PyTorch's words about shapes that broadcast, and about empty tensors
@pytest.mark.parametrize("call", list(calls()), ids=str)
def test_edge(call: Call) -> None:
    theirs, ours = call.run(torch), call.run(tl)
    if (theirs is None) != (ours is None):
        assert any(re.fullmatch(pattern, str(call)) for pattern in REASONS), (
            f"PyTorch {'raises' if theirs is None else [a.shape for a in theirs]}, "
            f"ours {'raises' if ours is None else [a.shape for a in ours]}"
        )
        return
    for a, b in zip(theirs or [], ours or [], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
