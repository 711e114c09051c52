"""An optimizer's step on other parameters and another state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tensorlib import Tensor
from tensorlib.optim.optimizer import Optimizer


@contextmanager
def swap_in_optimizer_params_and_state(
    optimizer: Optimizer, swapin_parameters: Mapping[str, Tensor], swapin_optim_state: Mapping[str, Any]
) -> Iterator[None]:
    """Inside, the optimizer works on these parameters, in the order of its own, and on this state, as `state_dict` returned it.

    Tensors of the state are used as they are, and so changed in place; new ones are dropped at the end.

    >>> w, copy = tl.nn.Parameter(tl.ones(1)), tl.nn.Parameter(tl.zeros(1))
    >>> optimizer = tl.optim.SGD([w], lr=0.5)
    >>> copy.grad = tl.ones(1)
    >>> with tl.optim.swap_in_optimizer_params_and_state(optimizer, {"w": copy}, optimizer.state_dict()):
    ...     optimizer.step()
    >>> w.item(), copy.item()
    (1.0, -0.5)
    """
    given, groups, state = (
        list(swapin_parameters.values()),
        swapin_optim_state["param_groups"],
        swapin_optim_state["state"],
    )
    sizes, own = [len(g["params"]) for g in groups], [len(g["params"]) for g in optimizer.param_groups]
    if sizes != own or len(given) != sum(own):
        raise ValueError(
            f"swap_in_optimizer_params_and_state: groups of {sizes} and {len(given)} parameters do not fit groups of {own}."
        )
    kept = optimizer.param_groups, optimizer.state
    rest = iter(given)
    optimizer.param_groups = [{**g, "params": [next(rest) for _ in g["params"]]} for g in groups]
    numbers = [i for g in groups for i in g["params"]]
    optimizer.state = defaultdict(dict, {p: dict(state.get(i, {})) for p, i in zip(given, numbers, strict=True)})
    try:
        yield
    finally:
        optimizer.param_groups, optimizer.state = kept
