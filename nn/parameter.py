"""Parameter and Buffer: tensors that register themselves with a module; and those whose shape the first input will tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import tensorlib as tl
from tensorlib import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

    Mixed = Tensor
else:
    Mixed = object

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter"]


def _tensor(data: Any) -> Tensor:
    return data if isinstance(data, Tensor) else tl.empty(0) if data is None else tl.tensor(data)


class Parameter(Tensor):
    """A leaf tensor that registers itself when it is assigned to a module; it shares `data`'s memory.

    Results of operations on it are plain tensors. Only floating and complex dtypes can require a gradient.

    >>> w = tl.nn.Parameter(tl.ones(2))
    >>> w.requires_grad, type(w * 2).__name__
    (True, 'Tensor')
    """

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Self:
        made: Self = _tensor(data).as_subclass(cls)
        made.requires_grad_(requires_grad)
        return made

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        """All is done by `__new__`."""


class Buffer(Tensor):
    """A tensor that becomes a buffer of the module it is assigned to, like `Module.register_buffer`; it shares `data`'s memory.

    >>> class Counter(tl.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.seen = tl.nn.Buffer(tl.zeros(1))
    ...         self.scratch = tl.nn.Buffer(tl.zeros(1), persistent=False)
    >>> list(Counter().state_dict()), [name for name, _ in Counter().named_buffers()]
    (['seen'], ['seen', 'scratch'])
    """

    persistent = True

    def __new__(cls, data: Any = None, *, persistent: bool = True) -> Self:
        made: Self = _tensor(data).as_subclass(cls)
        made.persistent = persistent
        return made

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        """All is done by `__new__`."""


class _Uninitialized(Mixed):
    """What a tensor is that has a dtype and a device, but no shape until `materialize`."""

    __slots__ = ()
    _becomes: ClassVar[type[Tensor]]

    def materialize(self, shape: Sequence[int], device: Any = None, dtype: Any = None) -> None:
        """Become an ordinary tensor of this shape, whose elements are not set yet; the object stays the same one."""
        old = self.data
        self.data = tl.empty(tuple(shape), device=device or old.device, dtype=dtype or old.dtype)
        self.__class__ = self._becomes  # type: ignore[assignment]

    @property
    def shape(self) -> tuple[int, ...]:
        raise RuntimeError(
            f"{type(self).__name__}: it has no shape yet; the module's first call, or loading a state, gives it one."
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = memo[id(self)] = memo.get(id(self)) or self.data.clone().as_subclass(type(self))
        return made.requires_grad_(self.requires_grad)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _made_again, (type(self), self.requires_grad, str(self.device), str(self.dtype.name))


def _made_again(cls: Any, requires_grad: bool, device: str, dtype: str) -> Any:
    return cls(requires_grad=requires_grad, device=device, dtype=getattr(tl, dtype))


class UninitializedParameter(_Uninitialized, Parameter):
    """A parameter of a lazy layer before its shape is known: see `LazyLinear`.

    >>> w = tl.nn.UninitializedParameter()
    >>> w.materialize((2, 3))
    >>> type(w).__name__, w.shape
    ('Parameter', (2, 3))
    """

    __slots__ = ()  # so that the class can change
    _becomes = Parameter

    def __new__(cls, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> Self:
        made: Self = tl.empty(0, device=device, dtype=dtype).as_subclass(cls)
        made.requires_grad_(requires_grad)
        return made

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        """All is done by `__new__`."""


class UninitializedBuffer(_Uninitialized, Buffer):
    """A buffer of a lazy layer before its shape is known.

    >>> b = tl.nn.UninitializedBuffer(dtype=tl.float64)
    >>> b.materialize((3,))
    >>> type(b).__name__, b.shape
    ('Buffer', (3,))
    """

    __slots__ = ()
    _becomes = Buffer

    def __new__(
        cls, requires_grad: bool = False, device: Any = None, dtype: Any = None, persistent: bool = True
    ) -> Self:
        made: Self = tl.empty(0, device=device, dtype=dtype).as_subclass(cls)
        made.requires_grad_(requires_grad)
        made.persistent = persistent
        return made

    def __init__(
        self, requires_grad: bool = False, device: Any = None, dtype: Any = None, persistent: bool = True
    ) -> None:
        """All is done by `__new__`."""


def is_lazy(tensor: Any) -> bool:
    """Whether the tensor has no shape yet."""
    return isinstance(tensor, _Uninitialized)
