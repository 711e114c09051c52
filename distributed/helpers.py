"""What scripts need to know which rank they are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import tensorlib as tl

from . import world

__all__ = ["local_device", "manual_seed", "rank_zero_only"]

P = ParamSpec("P")
R = TypeVar("R")


def rank_zero_only(function: Callable[P, R]) -> Callable[P, R | None]:
    """Decorator: rank 0 alone runs the function; on the others a call does nothing and returns None. Nothing in it may need the other ranks.

    >>> @tl.distributed.rank_zero_only
    ... def say(words):
    ...     print(words)
    >>> say("once, however many ranks there are")
    once, however many ranks there are
    """

    @functools.wraps(function)
    def on_rank_zero(*args: P.args, **kwargs: P.kwargs) -> R | None:
        return function(*args, **kwargs) if world.rank() == 0 else None

    return on_rank_zero


def local_device() -> tl.Device:
    """This rank's device: the GPU of its place on the node, or main memory where there is no GPU. More ranks than GPUs share them in turn.

    >>> tl.distributed.local_device().type == ("cuda" if tl.cuda.is_available() else "cpu")
    True
    """
    count = tl.cuda.device_count()
    return tl.device(f"cuda:{world.local_rank() % count}" if count else "cpu")


def manual_seed(seed: int) -> tl.Generator:
    """Start the default stream of this rank, which `seed` and the rank decide: another one on each rank, so that dropout differs between them.

    Returns:
        the default generator; its `initial_seed` may seed others, such as ``np.random.default_rng``.

    `tl.manual_seed` starts the same stream on all ranks. Neither decides a model's weights, which `DistributedDataParallel` takes from rank 0, nor
    the order of a `DistributedSampler`, which has a seed of its own.

    >>> first = tl.distributed.manual_seed(0).initial_seed()
    >>> tl.distributed.manual_seed(0).initial_seed() == first, tl.distributed.manual_seed(1).initial_seed() == first
    (True, False)
    """
    with tl.fork_stream(seed, world.rank()):
        key = tl.initial_seed()
    return tl.manual_seed(key)
