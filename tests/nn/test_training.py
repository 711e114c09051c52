"""Whole training steps: the same bits on any number of threads, and what is learned."""

from __future__ import annotations

import pytest

import tensorlib as tl
from tests.benchmarks.nets import NETS, Net

STEPS = 20


def trained(net: Net, threads: int) -> tuple[list[bytes], dict[str, bytes]]:
    """The loss of every step, and the state at the end: parameters, running statistics."""
    tl.set_num_threads(threads)
    model, run = net.build(tl)
    losses = [run().detach().numpy().tobytes() for _ in range(STEPS)]
    return losses, {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name.split()[0])
def test_training_has_the_same_bits_on_any_number_of_threads(net: Net) -> None:
    losses, state = trained(net, 1)
    assert losses[0] != losses[-1]
    for threads in (2, 3):
        again, other = trained(net, threads)
        assert again == losses, f"{threads} threads"
        assert [name for name in state if state[name] != other[name]] == [], f"{threads} threads"
