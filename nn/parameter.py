"""Parameter: a tensor that a module trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorlib as tl
from tensorlib import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


class Parameter(Tensor):
    """A leaf tensor that registers itself when it is assigned to a module; it shares `data`'s memory.

    Results of operations on it are plain tensors. Only floating and complex dtypes can require a gradient.

    >>> w = tl.nn.Parameter(tl.ones(2))
    >>> w.requires_grad, type(w * 2).__name__
    (True, 'Tensor')
    """

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Self:
        values = data if isinstance(data, Tensor) else tl.empty(0) if data is None else tl.tensor(data)
        made: Self = values.as_subclass(cls)
        made.requires_grad_(requires_grad)
        return made

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        """All is done by `__new__`."""

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"
