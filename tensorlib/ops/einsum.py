"""einsum: subscripts parsed, then contracted from left to right, pair by pair, each pair as one matrix product.

Inside, an operand is a tensor with one label per dimension. Labels are letters; the dimensions of an ellipsis are labelled -1, -2, ... from the
last, so that operands with ellipses of different lengths align as broadcasting does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops import elementwise, linalg, reductions, shape
from tensorlib.ops.declare import composite
from tensorlib.ops.table import Sample, error, sample

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = ["einsum"]

Label = str | int
Labels = list[Label]
MANY = 14  # dimensions of a batch beside which there is no room for a matrix's two


_SAMPLES = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("ji", (2, 3)), ("ii->i", (3, 3)), ("ii", (3, 3)), ("ij->", (2, 3)), ("ij->j", (2, 3)),
    ("i,j->ij", (2,), (3,)), ("i,i->", (3,), (3,)), ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)), ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("...i->...", (2, 3, 4)), ("b...,b->...", (2, 3, 4), (2,)), ("ij,ij->ij", (2, 3), (2, 3)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)), ("iij,j->i", (3, 3, 2), (2,)), ("ij,kl->", (2, 3), (4, 2)), ("a b , b c -> c a", (2, 3), (3, 4)),
    ("ij,j->ij", (2, 3), (3,)), ("i,->i", (3,), ()), ("Ab,bA->A", (2, 3), (3, 2)), ("ij,jk->ik", (0, 3), (3, 2)), ("ij,jk->ik", (2, 0), (0, 2)),
]  # fmt: skip


def _samples() -> list[Sample]:
    return [sample(list(shapes), equation=equation) for equation, *shapes in _SAMPLES]


def einsum(equation: str, *operands: Any) -> Tensor:
    """Sums of products after Einstein: one letter per dimension; letters that the result does not name are summed over.

    ``"ij,jk->ik"`` is a matrix product, ``"ii->i"`` a diagonal, ``"...ij->...ji"`` a transposed batch. Without ``->`` the result has the letters that
    appear once, in alphabetical order. Operands are contracted from left to right.

    Shapes:
        operands: one dimension per letter; a letter's sizes are equal, or 1  ->  out: one dimension per letter after ``->``

    >>> tl.einsum("ij,j->i", tl.tensor([[1, 2], [3, 4]]), tl.tensor([1, 1])).tolist()
    [3, 7]
    """
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
    for t in tensors[1:]:
        if t.dtype is not tensors[0].dtype:
            raise DTypeError(f"einsum: dtypes differ: {tensors[0].dtype.name} and {t.dtype.name}; expected the same.")
    terms, result = _parse(equation, tensors)
    sizes = _sizes(terms, tensors)
    current, labels = _single(tensors[0], terms[0], {*result, *_all(terms[1:])})
    for i in range(1, len(tensors)):
        other, other_labels = _single(tensors[i], terms[i], {*result, *labels, *_all(terms[i + 1 :])})
        current, labels = _pair(current, labels, other, other_labels, {*result, *_all(terms[i + 1 :])})
    current, labels = _single(current, labels, set(result))
    missing = [sizes[label] for label in result if label not in labels]  # only of size 1: nothing was left of it
    return current.permute([labels.index(label) for label in result]) if not missing else current


@composite(
    "einsum",
    inputs=("operands",),
    attrs=("equation",),
    variadic=True,
    ref=lambda xp, operands, *, equation: xp.einsum(equation, *operands),
    samples=_samples,
    errors=[
        error([(2, 3), (4, 5)], equation="ij,jk->ik", raises=ValueError, match="einsum: label 'j' has sizes 3 and 4"),
        error([(2, 3)], equation="ij,jk->ik", raises=ValueError, match="einsum: 'ij,jk->ik' names 2 operands, got 1"),
        error(
            [(2, 3)], equation="ijk->i", raises=ValueError, match="einsum: 'ijk' has 3 labels for operand 0 of shape"
        ),
        error(
            [(2, 3)], equation="ij->k", raises=ValueError, match="einsum: the result's label 'k' appears in no operand"
        ),
        error([(2, 3)], equation="ij->ii", raises=ValueError, match="einsum: the result's label 'i' appears twice"),
        error([(2, 3)], equation="i$->i", raises=ValueError, match="einsum: unexpected character"),
        error([(2, 3)], equation="i.->i", raises=ValueError, match="einsum: unexpected character"),
    ],
)
def _by_keyword(operands: Sequence[Tensor], equation: str) -> Tensor:
    return einsum(equation, *operands)


def _all(terms: Sequence[Labels]) -> set[Label]:
    return {label for term in terms for label in term}


# ---- parsing ----


def _parse(equation: str, tensors: Sequence[Tensor]) -> tuple[list[Labels], Labels]:
    """The labels of each operand, and of the result."""
    if not isinstance(equation, str):
        raise TypeError(f"einsum: the equation is a {type(equation).__name__}, expected a string.")
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(tensors):
        raise ShapeError(f"einsum: {equation!r} names {len(parts)} operands, got {len(tensors)}.")
    terms = [
        _labels(equation, part, t.ndim, f"operand {i} of shape {t.shape}")
        for i, (part, t) in enumerate(zip(parts, tensors, strict=True))
    ]
    longest = max([0, *(-label for term in terms for label in term if isinstance(label, int))])
    dots: Labels = list(range(-longest, 0))
    if not arrow:
        letters = "".join(parts).replace(".", "")
        return terms, [*dots, *sorted(c for c in set(letters) if letters.count(c) == 1)]
    result = _labels(
        equation, right, len(right.replace("...", "")) + longest if "..." in right else len(right), "the result"
    )
    for label in result:
        if result.count(label) > 1:
            raise ShapeError(f"einsum: the result's label {label!r} appears twice in {equation!r}.")
        if label not in _all(terms):
            raise ShapeError(f"einsum: the result's label {label!r} appears in no operand of {equation!r}.")
    return terms, result


def _labels(equation: str, term: str, ndim: int, owner: str) -> Labels:
    before, dots, after = term.partition("...")
    for c in before + after:
        if not (c.isascii() and c.isalpha()):
            raise ShapeError(
                f"einsum: unexpected character {c!r} in {equation!r}; expected letters, commas, '...' and '->'."
            )
    hidden = ndim - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise ShapeError(f"einsum: {term!r} has {len(before) + len(after)} labels for {owner}.")
    return [*before, *range(-hidden, 0), *after]


def _sizes(terms: Sequence[Labels], tensors: Sequence[Tensor]) -> dict[Label, int]:
    sizes: dict[Label, int] = {}
    for term, t in zip(terms, tensors, strict=True):
        for label, n in zip(term, t.shape, strict=True):
            known = sizes.setdefault(label, n)
            if n != known and 1 not in (n, known):
                name = f"label {label!r}" if isinstance(label, str) else "'...'"
                raise ShapeError(f"einsum: {name} has sizes {known} and {n}; expected equal ones, or 1.")
            if known == 1:
                sizes[label] = n
    return sizes


# ---- contracting ----


def _single(t: Tensor, labels: Labels, needed: set[Label]) -> tuple[Tensor, Labels]:
    """Repeated labels become a diagonal; labels that nobody needs any more are summed over."""
    labels = list(labels)
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            t = shape.diagonal(_square(t, first, second), 0, first, second)
            labels = [x for d, x in enumerate(labels) if d not in (first, second)] + [label]
    over = [d for d, label in enumerate(labels) if label not in needed]
    if over:
        t = reductions.sum(t, over)
        labels = [label for label in labels if label in needed]
    return t, labels


def _square(t: Tensor, first: int, second: int) -> Tensor:
    """Where one of two dimensions has size 1, spread it to the other's."""
    n = max(t.shape[first], t.shape[second])
    if t.shape[first] == t.shape[second]:
        return t
    return t.expand([n if d in (first, second) else size for d, size in enumerate(t.shape)])


def _outermost_first(t: Tensor, labels: Labels, chosen: Labels) -> Labels:
    """The chosen labels in the order of t's memory: where a single stride leads through them, they become one dimension without a copy."""
    strides = dict(zip(labels, t.stride(), strict=True))
    return sorted(chosen, key=lambda x: -strides[x])


def _pair(a: Tensor, a_labels: Labels, b: Tensor, b_labels: Labels, needed: set[Label]) -> tuple[Tensor, Labels]:
    """One product: labels of both that are needed later form the batch, the others of both are summed over."""
    for label in [x for x in a_labels if x in b_labels]:  # size 1 against n: it takes no part
        n, m = a.shape[a_labels.index(label)], b.shape[b_labels.index(label)]
        if n == 1 and m != 1:
            a, a_labels = a.squeeze(a_labels.index(label)), [x for x in a_labels if x != label]
        elif m == 1 and n != 1:
            b, b_labels = b.squeeze(b_labels.index(label)), [x for x in b_labels if x != label]
    a, a_labels = _single(a, a_labels, {*needed, *b_labels})
    b, b_labels = _single(b, b_labels, {*needed, *a_labels})
    batch = [x for x in a_labels if x in b_labels and x in needed]
    inner = [x for x in a_labels if x in b_labels and x not in needed]
    rows = _outermost_first(a, a_labels, [x for x in a_labels if x not in b_labels])
    columns = _outermost_first(b, b_labels, [x for x in b_labels if x not in a_labels])
    inner = _outermost_first(b, b_labels, inner)
    a = a.permute([a_labels.index(x) for x in batch + rows + inner])
    b = b.permute([b_labels.index(x) for x in batch + inner + columns])
    n_batch, n_rows, n_inner = len(batch), len(rows), len(inner)
    batch_shape, row_shape, column_shape = (
        a.shape[:n_batch],
        a.shape[n_batch : n_batch + n_rows],
        b.shape[n_batch + n_inner :],
    )
    labels = batch + rows + columns
    if not inner:  # nothing to sum: a product of elements
        return elementwise.mul(
            a.reshape(a.shape + (1,) * len(columns)), b.reshape((*batch_shape, *(1,) * n_rows, *column_shape))
        ), labels
    k = math.prod(b.shape[n_batch : n_batch + n_inner])
    lead = batch_shape if n_batch < MANY else (math.prod(batch_shape),)
    left, right = a.reshape((*lead, math.prod(row_shape), k)), b.reshape((*lead, k, math.prod(column_shape)))
    product = linalg.matmul(left, right)
    return product.reshape((*batch_shape, *row_shape, *column_shape)), labels
