"""What a model's layers make of one input: a table of output shapes, parameters and memory."""

from __future__ import annotations

import html as _html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.module import Module
from tensorlib.nn.tree import Branch, grown
from tensorlib.nn.utils.rnn import PackedSequence

__all__ = ["Summary", "summary"]

COLUMNS = ("layer", "output", "parameters", "memory of the output")


@dataclass
class Row:
    """One module: its place in the tree, and what came out of it."""

    name: str
    depth: int
    kind: str
    parameters: int
    output: str = "not called"
    nbytes: int = 0

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The text of each column."""
        label = f"{self.name}: {self.kind}" if self.name else self.kind
        count = f"{self.parameters:,}" if self.parameters else ""
        return label, self.output, count, tl.memory.text(self.nbytes) if self.nbytes else ""


@dataclass
class Summary:
    """The table that `summary` makes: printed as text, shown as HTML in Jupyter, its figures as attributes."""

    total_params: int
    trainable_params: int
    parameter_bytes: int
    buffer_bytes: int
    input_bytes: int
    output_bytes: int = 0  # of the layers without layers in them, together
    rows: list[Row] = field(default_factory=list)

    @property
    def _totals(self) -> list[tuple[str, str]]:
        said = f"{self.total_params:,}"
        if self.trainable_params != self.total_params:
            said += f", {self.trainable_params:,} trainable"
        figures = {
            "memory of parameters": self.parameter_bytes,
            "memory of buffers": self.buffer_bytes,
            "memory of the input": self.input_bytes,
            "memory of all layers' outputs": self.output_bytes,
        }
        return [("parameters", said), *((name, tl.memory.text(n)) for name, n in figures.items() if n)]

    def __str__(self) -> str:
        lines = [COLUMNS, *(("  " * row.depth + row.cells[0], *row.cells[1:]) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
        said = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in lines
        ]
        rule = "-" * (sum(widths) + 6)
        return "\n".join([said[0], rule, *said[1:], rule, *(f"{name}: {figure}" for name, figure in self._totals)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        align = ("left", "left", "right", "right")

        def line(tag: str, cells: Any, depth: int = 0) -> str:
            made = "".join(
                f'<{tag} style="text-align:{side}{f";padding-left:{1.5 * depth + 0.5}em" if i == 0 else ""}">{_html.escape(cell)}</{tag}>'
                for i, (cell, side) in enumerate(zip(cells, align, strict=True))
            )
            return f"<tr>{made}</tr>"

        body = "".join(line("td", row.cells, row.depth) for row in self.rows)
        totals = "".join(
            f'<tr><th style="text-align:left;padding-left:0.5em">{name}</th><td style="text-align:left" colspan="3">{figure}</td></tr>'
            for name, figure in self._totals
        )
        return (
            f"<table><thead>{line('th', COLUMNS)}</thead><tbody>{body}</tbody>"
            f'<tfoot style="border-top:1px solid">{totals}</tfoot></table>'
        )


def summary(model: Module, input: Any, **kwargs: Any) -> Summary:
    """Run the model once, in evaluation mode and without recording, and tell what each layer makes of the input.

    Args:
        input: the argument of the model, or a tuple of its arguments; keyword arguments follow.

    Lazy layers get their shapes by it; nothing else of the model changes. The memory of outputs counts those of layers, not what is computed between.

    >>> net = tl.nn.Sequential(tl.nn.Linear(784, 256), tl.nn.ReLU(), tl.nn.Linear(256, 10))
    >>> tl.nn.summary(net, tl.zeros(32, 784))
    layer        output     parameters  memory of the output
    --------------------------------------------------------
    Sequential   (32, 10)      203,530              1.25 KiB
      0: Linear  (32, 256)     200,960                32 KiB
      1: ReLU    (32, 256)                            32 KiB
      2: Linear  (32, 10)        2,570              1.25 KiB
    --------------------------------------------------------
    parameters: 203,530
    memory of parameters: 795 KiB
    memory of the input: 98 KiB
    memory of all layers' outputs: 65.25 KiB
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: expected a Module, got {type(model).__name__}.")
    args = input if isinstance(input, tuple) else (input,)
    outputs = _outputs(model, args, kwargs)
    tree = grown(model)
    made = Summary(
        tree.parameters,
        tree.trainable,
        tree.nbytes,
        sum(b.nbytes for b in model.buffers()),
        _bytes_of((args, kwargs)),
    )
    for branch, depth in _walk(tree, 0):
        row = Row(branch.name, depth, type(branch.module).__name__, branch.parameters)
        found = outputs.get(id(branch.module), [])
        if type(branch.module).forward is Module.forward:  # a list of modules, which others call
            row.output = ""
        if found:
            calls = f" ({len(found)} calls)" if len(found) > 1 else ""
            row.output, row.nbytes = found[-1][0] + calls, sum(nbytes for _, nbytes in found)
        made.rows.append(row)
    leaves = {id(m) for m in model.modules() if not any(True for _ in m.children())}
    made.output_bytes = sum(n for key, found in outputs.items() if key in leaves for _, n in found)
    return made


def _outputs(model: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, list[tuple[str, int]]]:
    """What each module gave at each call, in words, and its bytes; by the module's id."""
    seen: dict[int, list[tuple[str, int]]] = {}

    def note(module: Module, args: Any, out: Any) -> None:
        seen.setdefault(id(module), []).append((_shapes(out), _bytes_of(out)))

    modules = list(model.modules())
    modes = [m.training for m in modules]
    handles = [m.register_forward_hook(note) for m in modules]
    try:
        model.eval()
        with tl.no_grad():
            model(*args, **kwargs)
    finally:
        for m, mode, handle in zip(modules, modes, handles, strict=True):
            m.training = mode
            handle.remove()
    return seen


def _walk(branch: Branch, depth: int) -> Iterator[tuple[Branch, int]]:
    yield branch, depth
    for child in branch.children:
        yield from _walk(child, depth + 1)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, (tuple, list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _bytes_of(value: Any) -> int:
    return sum(t.nbytes for t in _tensors(value))


def _shapes(value: Any) -> str:
    shapes = [str(t.shape) for t in _tensors(value)]
    return ", ".join(shapes[:3]) + (", ..." if len(shapes) > 3 else "") if shapes else type(value).__name__
