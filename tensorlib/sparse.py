"""Row-sparse tensors: what embedding tables get as their gradient with ``sparse=True``.

Of a table (V, D), only n rows are there: their numbers (n) and their values (n, D). A number that stands several times stands for the sum.
Nothing of the size of the table is made until someone asks for `to_dense`.

Towards C such a tensor is a handle of the table's shape without memory, as an array on another device is: kernels decline it, the tape
carries it, and Python finds the rows behind the handle's token. Sums of two put their rows side by side; `coalesce` adds them up, once,
when a norm or an optimizer needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tensorlib import dtypes, ops
from tensorlib.backends import FOREIGN
from tensorlib.errors import DTypeError, GradError, IndexRangeError, ShapeError
from tensorlib.native import OBJECTS, ffi, keep, lib
from tensorlib.status import DECLINE, RANGE, checked, raise_status
from tensorlib.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tensorlib.device import Device

__all__ = ["SparseTensor", "sparse_coo_tensor"]

_new = object.__new__
_lock = threading.Lock()  # several threads may run backward into one leaf


class Rows:
    """What a row-sparse handle stands for: pairs of ids (n) and values (n, D), to be read as one behind the other."""

    __slots__ = ("coalesced", "parts")
    tensor_class: type[Tensor]  # of the Tensors over such a handle

    def __init__(self, parts: Iterable[tuple[Tensor, Tensor]], coalesced: bool = False) -> None:
        self.parts, self.coalesced = list(parts), coalesced

    def __getitem__(self, i: int) -> Device:
        """As of other devices' arrays: 0 is where they are. The array itself is not to be had."""
        if i == 0:
            return self.parts[0][1].device
        raise DTypeError("got a row-sparse tensor, expected a dense one.", hint="to_dense() it")

    def joined(self) -> tuple[Tensor, Tensor]:
        if len(self.parts) > 1:
            ids, values = zip(*self.parts, strict=True)
            self.parts = [(ops.joins.cat(ids), ops.joins.cat(values))]
        return self.parts[0]


class SparseTensor(Tensor):
    """A table (V, D) of which some rows are there and all others zero; `tl.sparse_coo_tensor` makes one, and `backward` through
    ``embedding(..., sparse=True)``.

    It takes arithmetic with numbers, sums with its like (sparse) and with dense tensors (dense), and what PyTorch's sparse tensors offer for
    gradients. Every other operation asks for a dense tensor: `to_dense()`.

    >>> table = tl.zeros(4, 2, requires_grad=True)
    >>> tl.embedding(tl.tensor([3, 1, 3]), table, sparse=True).sum().backward()
    >>> table.grad
    tensor(indices=tensor([[3, 1, 3]]),
           values=tensor([[1., 1.],
                          [1., 1.],
                          [1., 1.]]), size=(4, 2), nnz=3)
    >>> table.grad.coalesce().values().tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """

    __slots__ = ()
    is_sparse = True

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError("SparseTensor: made by sparse_coo_tensor(indices, values, size), not by its class.")

    # ---- what it holds ----
    @property
    def _rows(self) -> Rows:
        rows: Rows = OBJECTS[lib.tl_storage_token(self._array)]
        return rows

    def _indices(self) -> Tensor:
        """The rows' numbers as they come: (1, n)."""
        return self._rows.joined()[0].unsqueeze(0)

    def _values(self) -> Tensor:
        """Their values as they come: (n, D)."""
        return self._rows.joined()[1]

    def _nnz(self) -> int:
        """How many rows it holds."""
        return sum(ids.numel() for ids, _ in self._rows.parts)

    def is_coalesced(self) -> bool:
        """Whether each row stands once, in ascending order, and that is known."""
        return self._rows.coalesced

    def indices(self) -> Tensor:
        """The numbers of the rows of a coalesced tensor: (1, n)."""
        self._require_coalesced("indices")
        return self._indices()

    def values(self) -> Tensor:
        """The rows of a coalesced tensor: (n, D)."""
        self._require_coalesced("values")
        return self._values()

    def _require_coalesced(self, name: str) -> None:
        if not self._rows.coalesced:
            raise GradError(f"{name}: the tensor is not coalesced: rows may repeat.", hint="coalesce() it first")

    def sparse_dim(self) -> int:
        return 1

    def dense_dim(self) -> int:
        return 1

    @property
    def requires_grad(self) -> bool:
        """Whether the values carry a history: in a gradient made with ``create_graph=True``."""
        return any(values.requires_grad for _, values in self._rows.parts)

    @requires_grad.setter
    def requires_grad(self, on: bool) -> None:
        self.requires_grad_(on)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        raise GradError("requires_grad_: a row-sparse tensor is a gradient, not a leaf.", hint="use its values")

    # ---- in another form ----
    def coalesce(self) -> SparseTensor:
        """Add up the rows that repeat, in the order in which they came, and sort them by number; once for all who share them."""
        rows = self._rows
        if not rows.coalesced:
            ids, values = rows.joined()
            rows.parts, rows.coalesced = [_coalesced(ids, values, self.shape[0])], True
        return self

    def to_dense(self) -> Tensor:
        """The whole table. Differentiable where the values are."""
        ids, values = self._rows.joined()
        dense = ops.creation.zeros(self.shape, dtype=self.dtype, device=self.device)
        return ops.positions.index_add(dense, 0, ids, values)

    def detach(self) -> SparseTensor:
        """The same rows without history; rows added to either stay its own."""
        rows = self._rows
        return _sparse([(ids, values.detach()) for ids, values in rows.parts], self.shape, rows.coalesced)

    def clone(self) -> SparseTensor:
        """A copy."""
        return self._map(lambda values: values.clone())

    def to(self, *args: Any, dtype: Any = None, device: Any = None, copy: bool = False, **_: Any) -> Any:
        """With another dtype, on another device."""
        ids, values = self._rows.joined()
        moved = values.to(*args, dtype=dtype, device=device)
        if moved is values:
            return self.clone() if copy else self
        return _sparse([(ids.to(moved.device), moved)], self.shape, self._rows.coalesced)

    def _map(self, f: Any) -> SparseTensor:
        rows = self._rows
        return _sparse([(ids, f(values)) for ids, values in rows.parts], self.shape, rows.coalesced)

    def _replace(self, other: SparseTensor) -> SparseTensor:
        """In place: the rows of `other`. Memory that somebody else may see is never written."""
        rows, theirs = self._rows, other._rows
        rows.parts, rows.coalesced = list(theirs.parts), theirs.coalesced
        return self

    # ---- arithmetic ----
    def mul(self, other: Any) -> SparseTensor:
        """Times a number, or a tensor of one element."""
        factor = _number("mul", other)
        return self._map(lambda values: values * factor)

    def div(self, other: Any) -> SparseTensor:  # type: ignore[override]
        """Divided by a number, or by a tensor of one element."""
        divisor = _number("div", other)
        return self._map(lambda values: values / divisor)

    def neg(self) -> SparseTensor:
        return self._map(lambda values: -values)

    def add(self, other: Any, *, alpha: float = 1) -> Any:
        """Plus alpha times another: sparse with a sparse one, else dense."""
        _check_fits("add", self, other)
        if not other.is_sparse:
            return self.to_dense().add(other, alpha=alpha)
        scaled = other if alpha == 1 else other.mul(alpha)
        return _sparse([*self._rows.parts, *scaled._rows.parts], self.shape)

    def sub(self, other: Any, *, alpha: float = 1) -> Any:
        return self.add(other, alpha=-alpha)

    def mul_(self, other: Any) -> SparseTensor:
        return self._replace(self.mul(other))

    def div_(self, other: Any) -> SparseTensor:  # type: ignore[override]
        return self._replace(self.div(other))

    def neg_(self) -> SparseTensor:
        return self._replace(self.neg())

    def zero_(self) -> SparseTensor:
        """No rows."""
        ids, values = self._rows.parts[0]
        return self._replace(_sparse([(ids[:0], values.detach()[:0])], self.shape, True))

    def add_(self, other: Any, *, alpha: float = 1) -> SparseTensor:
        if not getattr(other, "is_sparse", True):
            raise DTypeError("add_: a row-sparse tensor can not hold the sum with a dense one.", hint="use add()")
        return self._replace(self.add(other, alpha=alpha))

    def __radd__(self, other: Any) -> Any:
        _check_fits("add", self, other)
        return _plus_rows(other, self)

    def __rsub__(self, other: Any) -> Any:
        return self.neg().__radd__(other)

    __add__, __sub__, __neg__ = add, sub, neg
    __mul__ = __rmul__ = mul
    __truediv__ = div
    __imul__, __itruediv__, __iadd__ = mul_, div_, add_

    def sum(self) -> Tensor:  # type: ignore[override]
        """Of all elements."""
        return self._values().sum()

    def norm(self, p: Any = 2) -> Tensor:  # type: ignore[override]
        """Of all elements."""
        return self.coalesce()._values().norm(p)

    # ---- what a Tensor does, and a table without memory can not as it is done there ----
    def __repr__(self) -> str:
        ids, values = repr(self._indices()), repr(self._values()).replace("\n", "\n" + " " * 14)
        return f"tensor(indices={ids},\n       values={values}, size={self.shape}, nnz={self._nnz()})"

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(repr(self))}</pre>"

    __copy__ = detach

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseTensor:
        made = memo.get(id(self))
        if made is None:
            made = memo[id(self)] = self.detach().clone()
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        ids, values = self.detach()._rows.joined()
        return _sparse, ([(ids, values)], self.shape, self._rows.coalesced)

    def _read(self) -> Any:
        raise DTypeError("a row-sparse tensor has no memory that NumPy could read.", hint="to_dense() it")


Rows.tensor_class = SparseTensor


def _sparse(parts: Iterable[tuple[Tensor, Tensor]], shape: tuple[int, ...], coalesced: bool = False) -> SparseTensor:
    rows = Rows(parts, coalesced)
    dtype = rows.parts[0][1].dtype
    handle = lib.tl_adopt(0, 1, FOREIGN, keep(rows), False, dtype.number, 2, shape, ffi.NULL)
    made = _new(SparseTensor)
    made._array = checked(handle, "sparse_coo_tensor", shape)
    return made


def sparse_coo_tensor(
    indices: Any, values: Any, size: tuple[int, ...] | None = None, *, is_coalesced: bool = False
) -> SparseTensor:
    """A row-sparse tensor of shape `size`, (V, D), over the memory of `values`. Rows that repeat stand for their sum.

    Shapes:
        indices: (1, n) or (n) integer in [0, V), values: (n, D); without `size`, V is the largest index + 1

    `is_coalesced` promises that the indices ascend and none repeats.

    Raises:
        ShapeError, DTypeError: where these do not fit together.
        IndexRangeError: for an index outside [0, V).

    >>> tl.sparse_coo_tensor(tl.tensor([[0, 2, 0]]), tl.tensor([[1.0], [2.0], [3.0]]), (3, 1)).to_dense().tolist()
    [[4.0], [0.0], [2.0]]
    """
    indices, values = ops.creation.as_tensor(indices), ops.creation.as_tensor(values)
    ids = indices if indices.ndim == 1 else indices.reshape(-1)
    if indices.ndim not in (1, 2) or (indices.ndim == 2 and indices.shape[0] != 1) or indices.dtype.category != 1:
        raise ShapeError(
            f"sparse_coo_tensor: indices must be integers of shape (1, n), got {indices.dtype.name} {indices.shape}."
        )
    if not values.dtype.is_floating_point:
        raise DTypeError(f"sparse_coo_tensor: values must be floating, got {values.dtype.name}.")
    if size is None and values.ndim == 2:
        size = int(ids.max().item()) + 1 if ids.numel() else 0, values.shape[1]
    shape = tuple(ops.creation.given_shape("sparse_coo_tensor", (), () if size is None else size))
    if len(shape) != 2 or values.shape != (ids.numel(), shape[1]):
        raise ShapeError(
            f"sparse_coo_tensor: {ids.numel()} indices and values of shape {values.shape} do not fit a size {shape} of (V, D)."
        )
    if ids.numel() and not 0 <= ids.min().item() <= ids.max().item() < shape[0]:
        wrong = next(i for i in ids.tolist() if not 0 <= i < shape[0])
        raise IndexRangeError(f"sparse_coo_tensor: index {wrong} is out of range for {shape[0]} rows.")
    return _sparse([(ids.to(dtypes.int64), values)], shape, is_coalesced)


def embedding_gradient(g: Tensor, index: Tensor, shape: tuple[int, ...], padding_idx: int) -> SparseTensor:
    """The gradient of an embedding table of that shape: g (..., D), for rows of those numbers (...)."""
    n = index.numel()
    ids, values = index.reshape(n).to(dtypes.int64), g.reshape((n, shape[1]))
    if padding_idx >= 0:
        places = ops.positions.nonzero(ids != padding_idx).reshape(-1)
        if places.numel() < n:
            ids, values = ids[places], values[places]
    return _sparse([(ids, values)], shape)


def accumulate_rows(leaf: Tensor, g: Tensor) -> None:
    """leaf.grad += g in place, where either is row-sparse."""
    with _lock:
        held = leaf.grad
        if held is None:
            leaf.grad = g.detach()  # rows that come later are the leaf's alone
        elif held.is_sparse and not g.is_sparse:
            leaf.grad = _plus_rows(g, held)
        elif held.is_sparse:
            held.add_(g.detach())
        else:
            ids, values = g._rows.joined()  # type: ignore[attr-defined]
            held.index_add_(0, ids, values)


def _plus_rows(dense: Tensor, g: Any) -> Tensor:
    return ops.positions.index_add(dense, 0, *g._rows.joined())


def _coalesced(ids: Tensor, values: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    if not values.requires_grad:
        at, given = ffi.new("uintptr_t *"), (ids.contiguous(), values.contiguous())
        handle = lib.tl_coalesce(given[0]._array, given[1]._array, limit, at)
        if handle:
            return wrap(at[0]), wrap(handle)
        if lib.tl_status() not in (DECLINE, RANGE):
            raise_status("coalesce", values.shape)
    found, where = ops.sorting.unique(ids, return_inverse=True)
    zeros = ops.creation.zeros((found.numel(), values.shape[1]), dtype=values.dtype, device=values.device)
    return found, ops.positions.index_add(zeros, 0, where, values)


def _number(name: str, x: Any) -> Any:
    if isinstance(x, Tensor):
        if x.is_sparse or x.numel() != 1:
            raise ShapeError(f"{name}: got a tensor of shape {x.shape} beside a row-sparse one, expected one element.")
        return x.reshape(())
    if not isinstance(x, (int, float)):
        raise DTypeError(f"{name}: got a {type(x).__name__} beside a row-sparse tensor, expected a number.")
    return x


def _check_fits(name: str, g: SparseTensor, other: Any) -> None:
    if not isinstance(other, Tensor):
        raise DTypeError(f"{name}: got a {type(other).__name__} beside a row-sparse tensor, expected a tensor.")
    if other.shape != g.shape or other.dtype is not g.dtype:
        raise ShapeError(
            f"{name}: got {other.shape} {other.dtype.name} beside a row-sparse tensor of {g.shape} {g.dtype.name}, expected the same."
        )
