"""Collectives over tensors: PyTorch's names and order of arguments, in place where PyTorch's are.

Each also returns its result (or, with ``async_op=True``, a Work whose `wait` does), and where PyTorch fills tensors that it is given, these may be
left out. They are not recorded: `tensorlib.distributed.functional` has the differentiable ones. Tensors may be on any device and need not be
contiguous; contiguous ones on the CPU are sent from their own memory and received into it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorlib as tl

from . import moves, reductions
from .moves import Port, carry_out
from .progress import Steps
from .reductions import check_op
from .tensors import Source, Target, check, check_dtype, check_like, check_list
from .world import Group, member

__all__ = [
    "all_gather", "all_gather_into_tensor", "all_reduce", "all_to_all", "all_to_all_single", "broadcast", "gather", "reduce", "reduce_scatter",
    "reduce_scatter_tensor", "scatter",
]  # fmt: skip

# A message says a dtype by its place here.
_DTYPES = (
    tl.bool, tl.uint8, tl.int8, tl.int16, tl.int32, tl.int64, tl.float16, tl.bfloat16, tl.float32, tl.float64, tl.complex64, tl.complex128,
)  # fmt: skip


def place(operation: str, group: Group, rank: int | None, name: str, group_rank: int | None = None) -> int:
    """A rank's place in the group, from its rank in the world (None: the group's first) or from its place."""
    if rank is not None and group_rank is not None:
        raise ValueError(f"{operation}: {name} and group_{name} say the same thing; got both.")
    if group_rank is not None:
        if not 0 <= group_rank < group.size:
            raise ValueError(f"{operation}: group_{name} is {group_rank}, the group has {group.size} ranks.")
        return group_rank
    if rank is None:
        return 0
    if rank not in group.ranks:
        raise ValueError(f"{operation}: {name} is rank {rank}, the group has the ranks {list(group.ranks)}.")
    return group.ranks.index(rank)


def all_reduce(
    tensor: tl.Tensor, op: str = "sum", group: Group | None = None, async_op: bool = False, *, ordered: bool = False
) -> Any:
    """Combine the ranks' tensors, in place: every rank has the same result, bit for bit.

    Args:
        tensor: of the same shape and dtype on every rank; any dtype. Complex numbers have neither min nor max.
        op: "sum", "mean" (floating and complex dtypes), "prod", "min", "max", and "band", "bor", "bxor" for integers and bool; or a `ReduceOp`.
            For bool, sum and max are "or", prod and min are "and". 16-bit floats are combined in float32 and rounded once. NaN makes a minimum or
            maximum NaN.
        ordered: sum (or multiply) in the order of the ranks, ((r0 + r1) + r2) + ..., so that the bits depend on nothing else: MPI promises no order.
            Always so for 16-bit floats.
        async_op: return a Work at once; the tensor is neither read nor written by the program until its `wait` returns.

    Returns:
        `tensor`, or the Work.

    Raises:
        GradError: if the tensor requires a gradient, outside no_grad.

    >>> tl.distributed.all_reduce(tl.tensor([1.0, 2.0]))  # on one rank
    tensor([1., 2.])
    """
    here = member(group, "all_reduce")
    check("all_reduce", tensor, "tensor")
    how = check_op("all_reduce", op, tensor.dtype)
    target = Target("all_reduce", tensor)

    def steps(port: Port) -> Steps:
        yield from reductions.all_reduce(port, target.flat, how, ordered)
        return tensor

    return carry_out("all_reduce", here, steps, async_op, tensor, [target])


def broadcast(
    tensor: tl.Tensor,
    src: int | None = None,
    group: Group | None = None,
    async_op: bool = False,
    *,
    group_src: int | None = None,
) -> Any:
    """Copy one rank's tensor to all, in place. Arguments not named here are `all_reduce`'s.

    Args:
        tensor: of the same shape and dtype on every rank.
        src: the rank that has it, by its rank in the world; None: the group's first.
        group_src: the same by its place in the group, instead.

    Returns:
        `tensor`, or the Work.

    >>> tl.distributed.broadcast(tl.tensor([1, 2]), src=0)
    tensor([1, 2])
    """
    here = member(group, "broadcast")
    root = place("broadcast", here, src, "src", group_src)
    target = (Source if here.rank == root else Target)("broadcast", tensor)

    def steps(port: Port) -> Steps:
        yield from moves.broadcast(port, target.flat, root)
        return tensor

    return carry_out("broadcast", here, steps, async_op, tensor, [target] if isinstance(target, Target) else [])


def reduce(
    tensor: tl.Tensor,
    dst: int | None = None,
    op: str = "sum",
    group: Group | None = None,
    async_op: bool = False,
    *,
    group_dst: int | None = None,
) -> Any:
    """Combine the ranks' tensors in the one of rank `dst`, in place; the others keep theirs. Arguments as `all_reduce`'s and `broadcast`'s.

    >>> tl.distributed.reduce(tl.tensor([1, 2]), dst=0)
    tensor([1, 2])
    """
    here = member(group, "reduce")
    root = place("reduce", here, dst, "dst", group_dst)
    check("reduce", tensor, "tensor")
    how = check_op("reduce", op, tensor.dtype)
    target = (Target if here.rank == root else Source)("reduce", tensor)

    def steps(port: Port) -> Steps:
        yield from reductions.reduce(port, target.flat, how, root)
        return tensor

    return carry_out("reduce", here, steps, async_op, tensor, [target] if isinstance(target, Target) else [])


def all_gather(
    tensor_list: Sequence[tl.Tensor] | tl.Tensor,
    tensor: tl.Tensor | None = None,
    group: Group | None = None,
    async_op: bool = False,
) -> Any:
    """Every rank's tensor, on every rank: ``all_gather(x)`` makes a list of them, of whatever shapes they have; ``all_gather(outputs, x)`` fills
    one of the right shapes.

    Returns:
        the list, by the group's ranks, or the Work.

    Raises:
        ShapeError, DTypeError: if this rank's place in `tensor_list` does not fit `tensor`, or dtypes differ.

    >>> tl.distributed.all_gather(tl.tensor([1, 2]))
    [tensor([1, 2])]
    """
    here = member(group, "all_gather")
    if tensor is None:
        source = Source("all_gather", tensor_list)
        return carry_out("all_gather", here, _gathering(here, source), async_op, source.tensor, shaped=False)
    source = Source("all_gather", tensor)
    outputs = check_list("all_gather", tensor_list, "tensor_list", here.size)
    targets = _fitting_targets("all_gather", outputs, "tensor_list", tensor, here.rank)

    def steps(port: Port) -> Steps:
        if sum(target.flat.nbytes for target in targets) <= moves.SMALL:
            counts = [target.flat.numel() for target in targets]
            flat = tl.empty(sum(counts), dtype=source.flat.dtype, device="cpu")
            yield from moves.all_gather(port, source.flat, flat, counts)
            for target, part in zip(targets, flat.split(counts), strict=True):
                target.flat.copy_(part)
        else:
            yield from moves.exchange(port, [source.flat] * here.size, [target.flat for target in targets])
        return tensor_list

    return carry_out("all_gather", here, steps, async_op, tensor, targets, shaped=False)


def _gathering(here: Group, source: Source) -> Any:
    """all_gather of tensors whose shapes only their own ranks know yet."""

    def steps(port: Port) -> Steps:
        told = tl.zeros(here.size * ROW, dtype=tl.int64, device="cpu")
        yield from moves.all_gather(port, tl.tensor(described(source.tensor), device="cpu"), told, [ROW] * here.size)
        dtype, shapes = shapes_told("all_gather", here, told.reshape(-1, ROW).tolist())
        counts = [math.prod(shape) for shape in shapes]
        flat = tl.empty(sum(counts), dtype=dtype, device="cpu")
        yield from moves.all_gather(port, source.flat, flat, counts)
        parts = zip(flat.split(counts), shapes, strict=True)
        return [part.reshape(shape).to(source.tensor.device) for part, shape in parts]

    return steps


ROW = 18  # numbers that describe a tensor: its dtype's, how many dimensions, and these, at most 16


def described(tensor: tl.Tensor) -> list[int]:
    return [_DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape, *[0] * (ROW - 2 - tensor.ndim)]


def shapes_told(operation: str, here: Group, rows: Sequence[Sequence[int]]) -> tuple[tl.DType, list[tuple[int, ...]]]:
    """The ranks' one dtype, and their shapes, from what each `described`."""
    dtypes, shapes = zip(*map(description, rows), strict=True)
    for r, dtype in enumerate(dtypes):
        if dtype is not dtypes[0]:
            raise tl.DTypeError(
                f"{operation}: rank {here.ranks[0]} has a tensor of {dtypes[0].name}, rank {here.ranks[r]} one of {dtype.name}."
            )
    return dtypes[0], list(shapes)


def description(row: Sequence[int]) -> tuple[tl.DType, tuple[int, ...]]:
    return _DTYPES[row[0]], tuple(row[2 : 2 + row[1]])


def all_gather_into_tensor(
    output_tensor: tl.Tensor, input_tensor: tl.Tensor, group: Group | None = None, async_op: bool = False
) -> Any:
    """Every rank's tensor, one after the other in one: stacked, (ranks, ...), or joined along the first dimension, by the shape of `output_tensor`.

    Returns:
        `output_tensor`, or the Work.

    >>> tl.distributed.all_gather_into_tensor(tl.zeros(1, 2), tl.ones(2))
    tensor([[1., 1.]])
    """
    here = member(group, "all_gather_into_tensor")
    source = Source("all_gather_into_tensor", input_tensor, "input_tensor")
    _check_joined("all_gather_into_tensor", output_tensor, "output_tensor", input_tensor, "input_tensor", here.size)
    target = Target("all_gather_into_tensor", output_tensor, "output_tensor")

    def steps(port: Port) -> Steps:
        yield from moves.all_gather(port, source.flat, target.flat, [source.flat.numel()] * here.size)
        return output_tensor

    return carry_out("all_gather_into_tensor", here, steps, async_op, input_tensor, [target])


def _check_joined(operation: str, whole: Any, whole_name: str, part: Any, part_name: str, size: int) -> None:
    """`whole` holds `size` of `part`, stacked or joined."""
    check(operation, whole, whole_name)
    check(operation, part, part_name)
    check_dtype(operation, whole, whole_name, part, part_name)
    shape = tuple(part.shape)
    fitting = [(size, *shape), (size * shape[0], *shape[1:])] if shape else [(size,)]
    if whole.shape not in fitting:
        raise tl.ShapeError(
            f"{operation}: {whole_name} has shape {whole.shape}, expected {' or '.join(map(str, fitting))} for {size} ranks and a {part_name} of "
            f"shape {shape}."
        )


def gather(
    tensor: tl.Tensor,
    gather_list: Sequence[tl.Tensor] | None = None,
    dst: int | None = None,
    group: Group | None = None,
    async_op: bool = False,
    *,
    group_dst: int | None = None,
) -> Any:
    """Every rank's tensor, on one of them.

    Args:
        tensor: of any shape that rank `dst` knows.
        gather_list: on `dst`, a tensor for each rank to receive into; None: new ones of `tensor`'s shape. Elsewhere None.
        dst: by its rank in the world; None: the group's first.

    Returns:
        the list on `dst`, None elsewhere; or the Work.

    >>> tl.distributed.gather(tl.tensor([1, 2]))
    [tensor([1, 2])]
    """
    here = member(group, "gather")
    root = place("gather", here, dst, "dst", group_dst)
    source = Source("gather", tensor)
    result = _list_on_root("gather", gather_list, "gather_list", here, root)
    if result is None and here.rank == root:
        result = [tl.empty_like(source.tensor) for _ in range(here.size)]
    targets = _fitting_targets("gather", result or [], "gather_list", tensor, here.rank)

    def steps(port: Port) -> Steps:
        sends = [source.flat if r == root else None for r in range(here.size)]
        yield from moves.exchange(port, sends, [target.flat for target in targets] or [None] * here.size)
        return result

    return carry_out("gather", here, steps, async_op, tensor, targets, shaped=False)


def _list_on_root(operation: str, tensors: Any, name: str, here: Group, root: int) -> Sequence[tl.Tensor] | None:
    if tensors is None:
        return None
    if here.rank != root:
        raise ValueError(
            f"{operation}: {name} belongs to rank {here.ranks[root]} alone, expected None on rank {here.ranks[here.rank]}."
        )
    return check_list(operation, tensors, name, here.size)


def _fitting_targets(
    operation: str, outputs: Sequence[tl.Tensor], name: str, own: tl.Tensor, rank: int
) -> list[Target]:
    """Outputs by rank, of which this rank's gets `own`."""
    if outputs:
        check_like(operation, outputs[rank], f"{name}[{rank}]", own, "tensor")
    for r, output in enumerate(outputs):
        check_dtype(operation, output, f"{name}[{r}]", own, "tensor")
    return [Target(operation, output, f"{name}[{r}]") for r, output in enumerate(outputs)]


def scatter(
    tensor: tl.Tensor,
    scatter_list: Sequence[tl.Tensor] | None = None,
    src: int | None = None,
    group: Group | None = None,
    async_op: bool = False,
    *,
    group_src: int | None = None,
) -> Any:
    """One rank's tensors, one to each rank.

    Args:
        tensor: receives this rank's, in place.
        scatter_list: on `src`, a tensor for each rank, of the shape and dtype of the one that receives it. Elsewhere None.
        src: by its rank in the world; None: the group's first.

    Returns:
        `tensor`, or the Work.

    >>> tl.distributed.scatter(tl.zeros(2), [tl.ones(2)])
    tensor([1., 1.])
    """
    here = member(group, "scatter")
    root = place("scatter", here, src, "src", group_src)
    inputs = _list_on_root("scatter", scatter_list, "scatter_list", here, root)
    if inputs is None and here.rank == root:
        raise ValueError(
            f"scatter: rank {here.ranks[root]} is the source and has no scatter_list; expected a tensor for each rank."
        )
    check("scatter", tensor, "tensor")
    if inputs is not None:
        check_like("scatter", inputs[root], f"scatter_list[{root}]", tensor, "tensor")
    sources = [Source("scatter", x) for x in inputs or ()]
    target = Target("scatter", tensor)

    def steps(port: Port) -> Steps:
        receives = [target.flat if r == root else None for r in range(here.size)]
        yield from moves.exchange(port, [source.flat for source in sources] or [None] * here.size, receives)
        return tensor

    return carry_out("scatter", here, steps, async_op, tensor, [target])


def reduce_scatter(
    output: tl.Tensor,
    input_list: Sequence[tl.Tensor],
    op: str = "sum",
    group: Group | None = None,
    async_op: bool = False,
) -> Any:
    """Combine what the ranks have for each rank, in the order of the ranks, in that rank's `output`.

    Args:
        output: receives, in place, the combination of every rank's ``input_list[rank()]``, and has their shape and dtype.
        input_list: a tensor for each rank.
        op: as for `all_reduce`.

    Returns:
        `output`, or the Work.

    >>> tl.distributed.reduce_scatter(tl.zeros(2), [tl.ones(2)])
    tensor([1., 1.])
    """
    here = member(group, "reduce_scatter")
    inputs = check_list("reduce_scatter", input_list, "input_list", here.size)
    check("reduce_scatter", output, "output")
    check_like("reduce_scatter", inputs[here.rank], f"input_list[{here.rank}]", output, "output")
    return _reduce_scatter(
        "reduce_scatter", here, output, [Source("reduce_scatter", x).flat for x in inputs], op, async_op
    )


def reduce_scatter_tensor(
    output: tl.Tensor, input: tl.Tensor, op: str = "sum", group: Group | None = None, async_op: bool = False
) -> Any:
    """`reduce_scatter` of one tensor that holds what there is for each rank: stacked, (ranks, ...), or joined along the first dimension.

    >>> tl.distributed.reduce_scatter_tensor(tl.zeros(2), tl.ones(1, 2))
    tensor([1., 1.])
    """
    here = member(group, "reduce_scatter_tensor")
    _check_joined("reduce_scatter_tensor", input, "input", output, "output", here.size)
    parts = moves.shares(Source("reduce_scatter_tensor", input).flat, here.size)
    return _reduce_scatter("reduce_scatter_tensor", here, output, parts, op, async_op)


def _reduce_scatter(
    operation: str, here: Group, output: tl.Tensor, parts: list[tl.Tensor], op: str, async_op: bool
) -> Any:
    how = check_op(operation, op, output.dtype)
    target = Target(operation, output, "output")

    def steps(port: Port) -> Steps:
        yield from reductions.reduce_scatter(port, parts, target.flat, how)
        return output

    return carry_out(operation, here, steps, async_op, output, [target])


def all_to_all(
    output_tensor_list: Sequence[tl.Tensor],
    input_tensor_list: Sequence[tl.Tensor] | None = None,
    group: Group | None = None,
    async_op: bool = False,
) -> Any:
    """A tensor from each rank to each rank: rank r's ``outputs[q]`` is rank q's ``inputs[r]``. ``all_to_all(inputs)`` makes the outputs, of
    whatever shapes they have; ``all_to_all(outputs, inputs)`` fills those of the right shapes.

    Returns:
        the outputs, or the Work.

    >>> tl.distributed.all_to_all([tl.tensor([1, 2])])
    [tensor([1, 2])]
    """
    here = member(group, "all_to_all")
    if input_tensor_list is None:
        inputs = check_list("all_to_all", output_tensor_list, "input_tensor_list", here.size)
        sources = [Source("all_to_all", x) for x in inputs]
        return carry_out("all_to_all", here, _exchanging(here, sources), async_op, inputs[0], shaped=False)
    inputs = check_list("all_to_all", input_tensor_list, "input_tensor_list", here.size)
    outputs = check_list("all_to_all", output_tensor_list, "output_tensor_list", here.size)
    name = f"input_tensor_list[{here.rank}]"
    check_like("all_to_all", outputs[here.rank], f"output_tensor_list[{here.rank}]", inputs[here.rank], name)
    sources = [Source("all_to_all", x) for x in inputs]
    targets = [Target("all_to_all", x, f"output_tensor_list[{r}]") for r, x in enumerate(outputs)]

    def steps(port: Port) -> Steps:
        yield from moves.exchange(port, [source.flat for source in sources], [target.flat for target in targets])
        return output_tensor_list

    return carry_out("all_to_all", here, steps, async_op, inputs[0], targets, shaped=False)


def _exchanging(here: Group, sources: list[Source]) -> Any:
    """all_to_all of tensors whose shapes only their own ranks know yet."""

    def steps(port: Port) -> Steps:
        told = tl.zeros(here.size, ROW, dtype=tl.int64, device="cpu")
        sent = tl.tensor([described(source.tensor) for source in sources], device="cpu")
        yield from moves.exchange(port, list(sent), list(told))
        outputs = [tl.empty(shape, dtype=dtype, device="cpu") for dtype, shape in map(description, told.tolist())]
        yield from moves.exchange(port, [source.flat for source in sources], [output.reshape(-1) for output in outputs])
        return [output.to(source.tensor.device) for output, source in zip(outputs, sources, strict=True)]

    return steps


def all_to_all_single(
    output: tl.Tensor,
    input: tl.Tensor,
    output_split_sizes: Sequence[int] | None = None,
    input_split_sizes: Sequence[int] | None = None,
    group: Group | None = None,
    async_op: bool = False,
) -> Any:
    """`all_to_all` of parts of one tensor along its first dimension, into parts of another.

    Args:
        output, input: of the same dtype and the same sizes beyond the first dimension.
        output_split_sizes, input_split_sizes: how many rows come from each rank, and go to each; None: the same number for all.

    Returns:
        `output`, or the Work.

    >>> tl.distributed.all_to_all_single(tl.zeros(2), tl.ones(2))
    tensor([1., 1.])
    """
    here = member(group, "all_to_all_single")
    sends = _split("all_to_all_single", input, "input", input_split_sizes, here)
    receives = _split("all_to_all_single", output, "output", output_split_sizes, here)
    check_dtype("all_to_all_single", output, "output", input, "input")
    if output.shape[1:] != input.shape[1:]:
        raise tl.ShapeError(
            f"all_to_all_single: rows of output have shape {output.shape[1:]}, those of input {input.shape[1:]}."
        )
    if sends[here.rank] != receives[here.rank]:
        raise ValueError(
            f"all_to_all_single: rank {here.ranks[here.rank]} sends {sends[here.rank]} rows to itself and expects {receives[here.rank]}."
        )
    width = math.prod(input.shape[1:])
    source, target = Source("all_to_all_single", input, "input"), Target("all_to_all_single", output, "output")

    def steps(port: Port) -> Steps:
        pair = [flat.split([n * width for n in rows]) for flat, rows in ((source.flat, sends), (target.flat, receives))]
        yield from moves.exchange(port, *pair)
        return output

    return carry_out("all_to_all_single", here, steps, async_op, input, [target], shaped=False)


def _split(operation: str, tensor: Any, name: str, sizes: Sequence[int] | None, here: Group) -> list[int]:
    """How many rows belong to each rank."""
    check(operation, tensor, name)
    if not tensor.ndim:
        raise tl.ShapeError(f"{operation}: {name} has no dimensions, expected rows to divide among the ranks.")
    rows = tensor.shape[0]
    if sizes is None:
        if rows % here.size:
            raise tl.ShapeError(
                f"{operation}: the {rows} rows of {name} can not be divided evenly among {here.size} ranks; say {name}_split_sizes."
            )
        return [rows // here.size] * here.size
    if len(sizes) != here.size or min(sizes) < 0 or sum(sizes) != rows:
        raise ValueError(
            f"{operation}: {name}_split_sizes is {list(sizes)}, expected {here.size} numbers from 0 on whose sum is {name}'s {rows} rows."
        )
    return list(sizes)
