"""einsum: subscripts become a plan of products, made once for each equation and the operands' shapes and strides, and then run.

The plan knows an operand as its labels with their sizes and strides. Labels are letters, or numbers from 0 in a list of subscripts; the dimensions
of an ellipsis are labelled -1, -2, ... from the last, so that operands with ellipses of different lengths align as broadcasting does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple

from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops import elementwise, linalg, reductions, shape
from tensorlib.ops.declare import composite
from tensorlib.ops.table import Sample, error, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["einsum"]

Shape = tuple[int, ...]
Label = str | int
Term = tuple[Label | EllipsisType, ...]  # as written
Labels = tuple[Label, ...]
SUBSCRIPTS = 52  # of a list: as many as there are letters
MANY = 14  # dimensions of a batch beside which there is no room for a matrix's two


_SAMPLES = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("ji", (2, 3)), ("ii->i", (3, 3)), ("ii", (3, 3)), ("ij->", (2, 3)), ("ij->j", (2, 3)),
    ("i,j->ij", (2,), (3,)), ("i,i->", (3,), (3,)), ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)), ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("...i->...", (2, 3, 4)), ("b...,b->...", (2, 3, 4), (2,)), ("ij,ij->ij", (2, 3), (2, 3)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)), ("iij,j->i", (3, 3, 2), (2,)), ("ij,kl->", (2, 3), (4, 2)), ("a b , b c -> c a", (2, 3), (3, 4)),
    ("ij,j->ij", (2, 3), (3,)), ("i,->i", (3,), ()), ("Ab,bA->A", (2, 3), (3, 2)), ("ij,jk->ik", (0, 3), (3, 2)), ("ij,jk->ik", (2, 0), (0, 2)),
    ("bhts,bshd->bthd", (2, 3, 4, 5), (2, 5, 3, 4)), ("bi,oij,bj->bo", (2, 3), (4, 3, 5), (2, 5)), ("ij,jk,kl->li", (5, 4), (4, 3), (3, 1)),
    ("ab,bc,cd,da->", (2, 3), (3, 4), (4, 2), (2, 2)), ("ijk->kij", (2, 3, 4)), ("iji->j", (3, 2, 3)), ("iiii->i", (2, 2, 2, 2)), ("->", ()),
    (",->", (), ()), (",i,->i", (), (3,), ()), ("ij,kj,k->i", (3, 4), (2, 4), (2,)), ("i,i,i->i", (3,), (3,), (3,)), ("i,j,k->kji", (2,), (3,), (4,)),
    ("i,ij->j", (3,), (3, 4)), ("ij,i->j", (3, 4), (3,)), ("bki,bk->bi", (2, 3, 4), (2, 3)), ("ijk,ilm->kjml", (2, 3, 4), (2, 2, 3)),
    ("i...j,j...->...i", (2, 3, 4), (4, 3)), ("...,...->...", (2, 3), (3,)), ("i...i->...", (3, 2, 3)), ("ijk,kjl->il", (2, 3, 4), (4, 3, 2)),
    ("ij,jk,k->i", (2, 0), (0, 3), (3,)), ("ij,ij->", (2, 0), (2, 0)), ("BA", (2, 3)), ("aB", (2, 3)), ("a,ab,abc->abc", (2,), (2, 3), (2, 3, 4)),
]  # fmt: skip


def _samples() -> list[Sample]:
    return [sample(list(shapes), equation=equation) for equation, *shapes in _SAMPLES]


def einsum(*operands: Any) -> Tensor:
    """Sums of products after Einstein: one letter per dimension; letters that the result does not name are summed over.

    ``einsum(equation, *tensors)``: ``"ij,jk->ik"`` is a matrix product, ``"ii->i"`` a diagonal, ``"...ij->...ji"`` a transposed batch. Without
    ``->`` the result has the ellipsis and then the letters that appear once, in alphabetical order; an ellipsis that it leaves out is summed over.
    ``einsum(tensor, subscripts, tensor, subscripts, ..., [subscripts])`` is the same with a list of numbers from 0 to 51, and ``...``, for each.

    Several operands are contracted pair by pair, each pair as one matrix product, in an order that takes few multiplications: never more than
    from left to right. Operands reach the product as they lie in memory wherever a single stride leads through the dimensions.

    Shapes:
        operands: one dimension per letter; a letter's sizes are equal, or 1  ->  out: one dimension per letter after ``->``

    Raises:
        ShapeError: if a term does not fit its operand, or two operands differ in a letter's size.
        DTypeError: if the dtypes differ.

    >>> x, w = tl.tensor([[1, 2], [3, 4]]), tl.tensor([1, 10])
    >>> tl.einsum("ij,j->i", x, w).tolist()
    [21, 43]
    >>> tl.einsum(x, [0, 1], w, [1], [0]).tolist()
    [21, 43]
    >>> tl.einsum("i,ij,j->", w, x, w).item()
    451
    >>> q, k = tl.ones(2, 5, 3, 4), tl.ones(2, 6, 3, 4)  # batch, time, heads, width
    >>> tl.einsum("bqhd,bkhd->bhqk", q, k).shape
    (2, 3, 5, 6)
    """
    equation: str | Lists
    if operands and isinstance(operands[0], str):
        equation, tensors = operands[0], operands[1:]
        if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
            tensors = tuple(tensors[0])
    else:
        equation, tensors = _from_lists(operands)
    try:
        plan = _plan(equation, tuple([t.shape for t in tensors]), tuple([t.stride() for t in tensors]))
        first = tensors[0].dtype
        for t in tensors:
            if t.dtype is not first:
                raise DTypeError(f"einsum: dtypes differ: {first.name} and {t.dtype.name}; expected the same.")
    except AttributeError:
        for i, t in enumerate(tensors):
            if not hasattr(t, "_array"):
                raise DTypeError(f"einsum: operand {i} is a {type(t).__name__}, expected a Tensor.") from None
        raise
    return plan.run(list(tensors))


@composite(
    "einsum",
    inputs=("operands",),
    attrs=("equation",),
    variadic=True,
    ref=lambda xp, operands, *, equation: xp.einsum(equation, *operands),
    samples=_samples,
    errors=[
        error(
            [(2, 3), (4, 5)],
            equation="ij,jk->ik",
            raises=ValueError,
            match="einsum: label 'j' has size 4 in operand 1 of shape .4, 5., but size 3 in operand 0",
        ),
        error(
            [(2, 3), (2, 4)],
            equation="...,...->...",
            raises=ValueError,
            match=r"einsum: '...' has size 4 in operand 1 of shape .*, but size 3 in operand 0",
        ),
        error(
            [(1, 3)],
            equation="ii->i",
            raises=ValueError,
            match="einsum: label 'i' has sizes 1 and 3 in operand 0 of shape",
        ),
        error([(2, 3)], equation="ij,jk->ik", raises=ValueError, match="einsum: 'ij,jk->ik' names 2 operands, got 1"),
        error(
            [(2, 3)], equation="ijk->i", raises=ValueError, match="einsum: 'ijk' has 3 labels for operand 0 of shape"
        ),
        error(
            [(2, 3), (2, 3)],
            equation="ij,i->i",
            raises=ValueError,
            match="einsum: 'i' has 1 label for operand 1 of shape",
        ),
        error(
            [(2, 3)], equation="ij->k", raises=ValueError, match="einsum: the result's label 'k' appears in no operand"
        ),
        error([(2, 3)], equation="ij->ii", raises=ValueError, match="einsum: the result's label 'i' appears twice"),
        error([(2, 3)], equation="i$->i", raises=ValueError, match="einsum: unexpected character"),
        error([(2, 3)], equation="i.->i", raises=ValueError, match="einsum: unexpected character"),
        error(
            [(2, 3)],
            equation="i......->i",
            raises=ValueError,
            match=r"einsum: operand 0 has more than one '...' in 'i......->i'",
        ),
    ],
)
def _by_keyword(operands: Sequence[Tensor], equation: str) -> Tensor:
    return einsum(equation, *operands)


# ---- parsing ----


class Lists(NamedTuple):
    """The subscripts of operands and result (None: implicit), given as lists."""

    terms: tuple[Term, ...]
    result: Term | None

    def __str__(self) -> str:
        text = ", ".join(_spelt(term) for term in self.terms)
        return text if self.result is None else f"{text} -> {_spelt(self.result)}"


def _spelt(term: Term) -> str:
    if any(isinstance(x, str) for x in term):
        return repr("".join("..." if x is ... else str(x) for x in term))
    return f"[{', '.join('...' if x is ... else str(x) for x in term)}]"


def _from_lists(given: Sequence[Any]) -> tuple[Lists, tuple[Any, ...]]:
    """(tensor, subscripts, tensor, subscripts, ..., [subscripts]) taken apart."""
    tensors, lists = given[0 : len(given) // 2 * 2 : 2], given[1::2]
    if not tensors:
        raise TypeError("einsum: expected an equation and tensors, or tensors each with a list of subscripts.")
    terms = [_subscripts(x, f"operand {i}") for i, x in enumerate(lists)]
    return Lists(tuple(terms), _subscripts(given[-1], "the result") if len(given) % 2 else None), tuple(tensors)


def _subscripts(given: Any, owner: str) -> Term:
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"einsum: the subscripts of {owner} are a {type(given).__name__}, expected a list.")
    for x in given:
        if x is not ... and not (type(x) is int and 0 <= x < SUBSCRIPTS):
            raise ShapeError(
                f"einsum: unexpected subscript {x!r} of {owner}; expected 0 to {SUBSCRIPTS - 1}, or '...'."
            )
    return tuple(given)


def _from_text(equation: str) -> Lists:
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_letters(equation, part) for part in left.split(",")]
    return Lists(tuple(terms), _letters(equation, right) if arrow else None)


def _letters(equation: str, part: str) -> Term:
    term: list[Label | EllipsisType] = []
    for i, run in enumerate(part.split("...")):
        term += [...] if i else []
        for c in run:
            if not (c.isascii() and c.isalpha()):
                raise ShapeError(
                    f"einsum: unexpected character {c!r} in {equation!r}; expected letters, commas, '...' and '->'."
                )
        term += run
    return tuple(term)


def _labelled(equation: str, given: Lists, shapes: Sequence[Shape]) -> tuple[list[Labels], Labels]:
    """The labels of each operand, and of the result: ellipses spelt out."""
    if len(given.terms) != len(shapes):
        raise ShapeError(f"einsum: {equation} names {len(given.terms)} operands, got {len(shapes)}.")
    terms = []
    for i, (term, dims) in enumerate(zip(given.terms, shapes, strict=True)):
        named = sum(x is not ... for x in term)
        hidden, dots = len(dims) - named, len(term) - named
        _one_ellipsis(equation, term, f"operand {i}")
        if hidden < 0 or (hidden and not dots):
            raise ShapeError(
                f"einsum: {_spelt(term)} has {named} label{'s' * (named != 1)} for operand {i} of shape {dims}."
            )
        terms.append(_spread(term, hidden))
    longest = -min([0, *(x for term in terms for x in term if isinstance(x, int))])
    if given.result is None:
        every = [label for term in given.terms for label in term if label is not ...]
        return terms, (*range(-longest, 0), *sorted(x for x in set(every) if every.count(x) == 1))
    _one_ellipsis(equation, given.result, "the result")
    result = _spread(given.result, longest)
    for label in result:
        if result.count(label) > 1:
            raise ShapeError(f"einsum: the result's label {label!r} appears twice in {equation}.")
        if not any(label in term for term in terms):
            raise ShapeError(f"einsum: the result's label {label!r} appears in no operand of {equation}.")
    return terms, result


def _one_ellipsis(equation: str, term: Term, owner: str) -> None:
    if term.count(...) > 1:
        raise ShapeError(f"einsum: {owner} has more than one '...' in {equation}.")


def _spread(term: Term, hidden: int) -> Labels:
    labels: list[Label] = []
    for x in term:
        labels += range(-hidden, 0) if x is ... else [x]
    return tuple(labels)


def _sizes(terms: Sequence[Labels], shapes: Sequence[Shape]) -> dict[Label, int]:
    """The size of each label, over all operands."""
    sizes: dict[Label, int] = {}
    where: dict[Label, int] = {}
    for i, (term, dims) in enumerate(zip(terms, shapes, strict=True)):
        own: dict[Label, int] = {}
        for label, n in zip(term, dims, strict=True):
            name = "'...'" if isinstance(label, int) and label < 0 else f"label {label!r}"
            if own.setdefault(label, n) != n:
                raise ShapeError(f"einsum: {name} has sizes {own[label]} and {n} in operand {i} of shape {dims}.")
            known = sizes.get(label, 1)
            if n != known and 1 not in (n, known):
                raise ShapeError(
                    f"einsum: {name} has size {n} in operand {i} of shape {dims}, but size {known} in operand "
                    f"{where[label]} of shape {shapes[where[label]]}; expected equal ones, or 1."
                )
            if known == 1:
                sizes[label], where[label] = n, i
    return sizes


# ---- the plan ----

View = dict[Label, tuple[int, int]]  # an operand: (size, stride) of each label, in the order of its dimensions
Move = tuple[Callable[..., Any], tuple[Any, ...]]  # a function of a tensor, with its other arguments


class Step(NamedTuple):
    """Operands `left` and `right` (counted when the left one is taken out), moved, joined and moved once more, become the last operand."""

    left: int
    right: int
    moves: tuple[list[Move], list[Move]]
    join: Callable[[Any, Any], Any]
    after: list[Move]


@dataclass(frozen=True, slots=True)
class Plan:
    """What einsum does to operands of given shapes and strides."""

    alone: list[list[Move]]  # to each operand by itself
    steps: list[Step]
    last: list[Move]  # to what is left

    def run(self, operands: list[Any]) -> Any:
        for i, moves in enumerate(self.alone):
            if moves:
                operands[i] = _moved(operands[i], moves)
        for left, right, ways, join, after in self.steps:
            a, b = operands.pop(left), operands.pop(right)
            operands.append(_moved(join(_moved(a, ways[0]), _moved(b, ways[1])), after))
        return _moved(operands[0], self.last)


def _moved(t: Any, moves: list[Move]) -> Any:
    for move, arguments in moves:
        t = move(t, *arguments)
    return t


@lru_cache(maxsize=1024)
def _plan(equation: str | Lists, shapes: tuple[Shape, ...], strides: tuple[Shape, ...]) -> Plan:
    given = _from_text(equation) if isinstance(equation, str) else equation
    terms, result = _labelled(repr(equation) if isinstance(equation, str) else str(equation), given, shapes)
    sizes = _sizes(terms, shapes)
    views, alone = [], []
    for term, dims, apart in zip(terms, shapes, strides, strict=True):
        view, moves = _diagonal(term, dims, apart)
        views.append(_without_ones(view, sizes, moves))
        alone.append(moves)
    for i, view in enumerate(views):
        views[i] = _summed(view, {*result, *_all(views[:i]), *_all(views[i + 1 :])}, alone[i])
    steps = []
    for i, j in _order(views, sizes, result):
        a, b = views.pop(i), views.pop(j)
        made, step = _pair(i, j, a, b, {*result, *_all(views)}, result)
        views.append(made)
        steps.append(step)
    made_new = bool(steps or alone[0])  # else the operand itself, of which the result is a view
    last = [] if made_new and list(views[0]) == list(result) else [_permuted(views[0], result)]
    return Plan(alone, steps, last)


def _all(views: Iterable[View]) -> set[Label]:
    return {label for view in views for label in view}


def _contiguous(sizes: dict[Label, int]) -> View:
    """A new tensor's."""
    view, stride = {}, 1
    for label in reversed(sizes):
        view[label] = sizes[label], stride
        stride *= sizes[label]
    return dict(reversed(view.items()))


def _diagonal(term: Labels, dims: Shape, strides: Shape) -> tuple[View, list[Move]]:
    """Dimensions of one label become their diagonal, which is the last dimension then."""
    found = list(zip(term, dims, strides, strict=True))
    moves: list[Move] = []
    while pair := next(((i, j) for i, j in combinations(range(len(found)), 2) if found[i][0] == found[j][0]), None):
        (label, n, one), (_, _, other) = found[pair[0]], found[pair[1]]
        moves.append((shape.diagonal, (0, *pair)))
        found = [x for d, x in enumerate(found) if d not in pair] + [(label, n, one + other)]
    return {label: (n, stride) for label, n, stride in found}, moves


def _without_ones(view: View, sizes: dict[Label, int], moves: list[Move]) -> View:
    """Without the dimensions of size 1 that are larger elsewhere: there they stand for themselves."""
    kept = {label: x for label, x in view.items() if x[0] == sizes[label]}
    if len(kept) < len(view):
        moves.append((shape.squeeze, ([d for d, label in enumerate(view) if label not in kept],)))
    return kept


def _summed(view: View, needed: set[Label], moves: list[Move]) -> View:
    """Labels that nobody else has are summed over."""
    over = [d for d, label in enumerate(view) if label not in needed]
    if not over:
        return view
    moves.append((reductions.sum, (over,)))
    return _contiguous({label: x[0] for label, x in view.items() if label in needed})


def _permuted(view: View, labels: Iterable[Label]) -> Move:
    place = {label: d for d, label in enumerate(view)}
    return shape.permute, ([place[label] for label in labels],)


# ---- the order of the pairs ----

Pair = tuple[int, int]  # the second counted when the first is taken out


def _order(views: Sequence[View], sizes: dict[Label, int], result: Labels) -> list[Pair]:
    """Which pairs to contract: by what they shrink, as long as that takes fewer multiplications than from left to right."""
    if len(views) < 3:
        return [(0, 0)] * (len(views) - 1)

    def leftmost(sets: list[set[Label]], *_: Any) -> Pair:
        return (0, 0) if len(sets) == len(views) else (len(sets) - 1, 0)  # a product stands last

    ways = [_contracted([set(v) for v in views], sizes, set(result), choose) for choose in (leftmost, _most_shrinking)]
    return min(ways, key=lambda way: way[0])[1]


def _count(labels: Iterable[Label], sizes: dict[Label, int]) -> int:
    return math.prod(sizes[x] for x in labels)


def _contracted(
    sets: list[set[Label]], sizes: dict[Label, int], result: set[Label], choose: Callable[..., Pair]
) -> tuple[int, list[Pair]]:
    """How many multiplications a way to choose takes, and the pairs."""
    cost, pairs = 0, []
    while len(sets) > 1:
        i, j = choose(sets, sizes, result)
        a, b = sets.pop(i), sets.pop(j)
        cost += _count(a | b, sizes)
        pairs.append((i, j))
        sets.append((a | b) & result.union(*sets))
    return cost, pairs


def _most_shrinking(sets: list[set[Label]], sizes: dict[Label, int], result: set[Label]) -> Pair:
    """The pair that has something in common and whose product is smaller than its operands by the most elements."""

    def gain(pair: Pair) -> tuple[bool, int, int]:
        i, j = pair
        a, b = sets[i], sets[j]
        kept = (a | b) & result.union(*(x for d, x in enumerate(sets) if d not in pair))
        grown = _count(kept, sizes) - _count(a, sizes) - _count(b, sizes)
        return not a & b, grown, _count(a | b, sizes)

    i, j = min(combinations(range(len(sets)), 2), key=gain)
    return i, j - 1


# ---- one pair ----


def _pair(i: int, j: int, a: View, b: View, needed: set[Label], result: Labels) -> tuple[View, Step]:
    """One product: labels of both that are needed later form the batch, the others of both are summed over."""
    inner = [x for x in a if x in b and x not in needed]
    if not inner:
        return _elements(i, j, a, b, result)
    batch = [x for x in result if x in a and x in b] + [x for x in a if x in b and x in needed and x not in result]
    ways = [
        _Way(left, right, batch, _outermost_first(by, inner))
        for left, right in ((a, b), (b, a))
        for by in (left, right)
    ]
    best = min(ways, key=lambda way: way.cost(result))
    pair = (i, j) if best.left is a else (j + (j >= i), i - (i > j))
    made, moves, after = best.moves()
    return made, Step(*pair, moves, linalg.matmul, after)


def _elements(i: int, j: int, a: View, b: View, result: Labels) -> tuple[View, Step]:
    """Nothing to sum over: a product of elements."""
    large, small = (a, b) if len(a) >= len(b) else (b, a)
    labels = [x for x in result if x in a or x in b] + [x for x in {**a, **b} if x not in result]
    if all(x in large for x in small):
        labels = _outermost_first(large, labels)
    sizes = {x: ({**a, **b})[x][0] for x in labels}
    moves = (_aligned(a, labels), _aligned(b, labels))
    return _contiguous(sizes), Step(i, j, moves, elementwise.mul, [])


def _aligned(view: View, labels: Sequence[Label]) -> list[Move]:
    """Dimensions in the order of labels, of size 1 where a label is missing after the first one found."""
    own = [x for x in labels if x in view]
    moves = [] if own == list(view) else [_permuted(view, own)]
    spread = [view[x][0] if x in view else 1 for x in labels[labels.index(own[0]) :]] if own else []
    return moves if len(spread) == len(own) else [*moves, (shape.reshape, (spread,))]


def _outermost_first(view: View, labels: Iterable[Label]) -> list[Label]:
    """In the order of memory: where a single stride leads through them, they become one dimension without a copy."""
    return sorted(labels, key=lambda x: -view[x][1])


def _folds(view: View, labels: Sequence[Label]) -> bool:
    """Whether a single stride leads through the dimensions."""
    strides = [view[x] for x in labels if view[x][0] != 1]
    return all(outer[1] == n * stride for outer, (n, stride) in pairwise(strides))


class _Way:
    """One of the ways to write a pair as a product of matrices: (batch, rows, inner) times (batch, inner, columns)."""

    def __init__(self, left: View, right: View, batch: list[Label], inner: list[Label]) -> None:
        self.left, self.right, self.batch, self.inner = left, right, batch, inner
        self.rows = _outermost_first(left, [x for x in left if x not in right])
        self.columns = _outermost_first(right, [x for x in right if x not in left])
        self.labels = batch + self.rows + self.columns

    def cost(self, result: Labels) -> tuple[int, bool, bool]:
        """What tells the ways apart: elements copied, whether the engine's vectors find no columns side by side (of a
        single column: no terms of its sums), the order of the result."""
        copied = 0
        for view, outer in ((self.left, self.rows), (self.right, self.columns)):
            if not (_folds(view, outer) and _folds(view, self.inner)):
                copied += math.prod(n for n, _ in view.values())
        adjacent = self.right[self.columns[-1]] if self.columns else self.left[self.inner[-1]]
        return copied, adjacent[1] != 1, self.labels != [x for x in result if x in self.labels]

    def moves(self) -> tuple[View, tuple[list[Move], list[Move]], list[Move]]:
        """The result, how both operands become matrices, and how the result becomes what it is."""
        sizes = {x: ({**self.left, **self.right})[x][0] for x in self.labels}
        m, n = (_count(x, sizes) for x in (self.rows, self.columns))
        k = math.prod(self.left[x][0] for x in self.inner)
        lead = [sizes[x] for x in self.batch]
        if len(lead) > MANY:
            lead = [math.prod(lead)]
        left = _as_matrices(self.left, self.batch + self.rows + self.inner, [*lead, m, k])
        right = _as_matrices(self.right, self.batch + self.inner + self.columns, [*lead, k, n])
        whole = list(sizes.values())
        after: list[Move] = [] if whole == [*lead, m, n] else [(shape.reshape, (whole,))]
        return _contiguous(sizes), (left, right), after


def _as_matrices(view: View, labels: list[Label], sizes: list[int]) -> list[Move]:
    moves = [] if labels == list(view) else [_permuted(view, labels)]
    return moves if [view[x][0] for x in labels] == sizes else [*moves, (shape.reshape, (sizes,))]
