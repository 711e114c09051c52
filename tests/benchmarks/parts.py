"""Parts of tensors, forward and backward: the gradients of slices and selections meet in one buffer; borders; masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.benchmarks.harness import Race, Run
from tests.benchmarks.resample import values


def parts(shape: tuple[int, ...], cut: Callable[[Any], Any]) -> Callable[[Any], Run]:
    """The sum of the squares of parts of a tensor that was made from a leaf."""

    def make(lib: Any) -> Run:
        x = values(lib, shape).requires_grad_()

        def run() -> None:
            first, *rest = cut(x * 2.0)
            total = first * first
            for part in rest:
                total = total + part * part
            total.backward(total.detach())
            x.grad = None

        return run

    return make


def workloads() -> Iterator[Race]:
    yield Race("chunk(3) of (8, 128, 384)", parts((8, 128, 384), lambda x: x.chunk(3, -1)), target=0.9)
    yield Race("split in 4 of (64, 256, 16)", parts((64, 256, 16), lambda x: x.split(16)), target=0.9)
    yield Race("unbind of (16, 64, 256)", parts((16, 64, 256), lambda x: x.unbind(0)), target=0.9)
    yield Race(
        "x[:, t], 32 steps of (64, 32, 64)", parts((64, 32, 64), lambda x: [x[:, t] for t in range(32)]), target=0.9
    )
    yield Race("x[:, :-1] of (64, 128, 64)", parts((64, 128, 64), lambda x: [x[:, :-1]]), target=0.9)
