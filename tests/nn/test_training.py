"""Whole training steps: the same bits on any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tensorlib as tl
from tests.benchmarks import gpt
from tests.benchmarks.harness import Run
from tests.benchmarks.nets import NETS

STEPS = 20
BUILDS = {net.name.split()[0]: net.build for net in NETS} | {"GPT": gpt.build}


def trained(build: Callable[[Any], tuple[Any, Run]], threads: int) -> tuple[list[bytes], dict[str, bytes]]:
    """The loss of every step, and the state at the end: parameters, running statistics."""
    tl.set_num_threads(threads)
    model, run = build(tl)
    losses: list[bytes] = [run().detach().numpy().tobytes() for _ in range(STEPS)]
    return losses, {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("net", BUILDS)
def test_training_has_the_same_bits_on_any_number_of_threads(net: str) -> None:
    losses, state = trained(BUILDS[net], 1)
    assert losses[0] != losses[-1]
    for threads in (2, 3):
        again, other = trained(BUILDS[net], threads)
        assert again == losses, f"{threads} threads"
        assert [name for name in state if state[name] != other[name]] == [], f"{threads} threads"
