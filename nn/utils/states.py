"""States of recurrent models: nested tuples, named or not, lists and dicts of tensors. `tl.nn.utils.rnn` offers these functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorlib as tl
from tensorlib import Tensor

__all__ = ["detach_states", "select_states"]


def _map_states(function: Callable[[Any, Any], Any], states: Any, along: Any = None) -> Any:
    """The same nest, with what `function` makes of each tensor and its part of `along`, a nest of the same form or one value for all."""
    if isinstance(states, (Tensor, tl.RowMethods)):
        return function(states, along)
    if not isinstance(states, (tuple, list, Mapping)):
        return states
    keys = list(states) if isinstance(states, Mapping) else list(range(len(states)))
    each = isinstance(along, (tuple, list, Mapping))
    made = {k: _map_states(function, states[k], along[k] if each else along) for k in keys}
    if isinstance(states, Mapping):
        return made
    return type(states)(*made.values()) if hasattr(states, "_fields") else type(states)(made.values())


def detach_states(states: Any) -> Any:
    """The states without their past, for truncated backpropagation: each part of a long sequence starts where the one before it ended, and
    gradients stop there.

    Args:
        states: a tensor or PackedSequence, or nested tuples, lists and dicts of them; anything else in there stays as it is.

    >>> lstm, x, states = tl.nn.LSTM(3, 5), tl.randn(100, 2, 3), None
    >>> for part in x.split(25):
    ...     out, states = lstm(part, tl.nn.utils.rnn.detach_states(states))
    ...     out.square().mean().backward()
    """
    return _map_states(lambda t, _: t.detach(), states)


def select_states(states: Any, index: Tensor, dim: Any = 0) -> Any:
    """The states of some sequences of a batch, in any order and number, as a beam search needs them.

    Args:
        states: a tensor, or nested tuples, lists and dicts of tensors; anything else in there stays as it is.
        index: (n,) integer, the sequences to take.
        dim: where the batch lies: one number, or a nest of them in the form of `states` or of its outer part: ``(1, 0)`` for ``((h, c), memory)``.

    >>> h, memory = tl.nn.utils.rnn.select_states((tl.zeros(1, 2, 5), tl.zeros(2, 7)), tl.tensor([0, 0, 1]), dim=(1, 0))
    >>> h.shape, memory.shape
    ((1, 3, 5), (3, 7))
    """

    def select(t: Any, dim: int) -> Any:
        if isinstance(t, tl.RowMethods):
            raise TypeError(
                "select_states: a PackedSequence has no dimension of sequences; keep a padded tensor and its lengths instead."
            )
        return t.index_select(dim, index)

    return _map_states(select, states, dim)
