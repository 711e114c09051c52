"""How modules show themselves: PyTorch's tree with parameters' shapes and counts beside it, as text and in Jupyter."""

from __future__ import annotations

import html as _html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tensorlib as tl
from tensorlib.nn.parameter import is_lazy

if TYPE_CHECKING:
    from tensorlib import Tensor
    from tensorlib.nn.module import Module

SHOWN = 4  # shapes beside a line
OPEN = 2  # levels that are open at first in Jupyter
BAR = 120  # pixels for all parameters


@dataclass
class Branch:
    """A module in the tree. A parameter that stands in several places counts where it comes first."""

    name: str
    module: Module
    shapes: list[str] = field(default_factory=list)
    parameters: int = 0
    trainable: int = 0
    nbytes: int = 0
    lazy: bool = False
    children: list[Branch] = field(default_factory=list)

    def add(self, name: str, parameter: Tensor, counts: bool) -> None:
        if is_lazy(parameter):
            self.lazy = True
            self.shapes.append(f"{name} (?)")
            return
        self.shapes.append(f"{name} {parameter.shape}" + ("" if counts else " shared"))
        if counts:
            self.parameters += parameter.numel()
            self.trainable += parameter.numel() if parameter.requires_grad else 0
            self.nbytes += parameter.nbytes

    @property
    def total(self) -> str:
        said = f"{self.parameters:,} parameter" + ("" if self.parameters == 1 else "s")
        if self.trainable != self.parameters:
            said += f", {self.trainable:,} trainable"
        return said + (", more after the first call" if self.lazy else "")

    @property
    def count(self) -> str:
        """The parameters, within a tree."""
        return f"{self.parameters:,}" + (" frozen" if self.parameters and not self.trainable else "")

    @property
    def beside(self) -> str:
        """The own shapes, at most SHOWN of them."""
        return ", ".join(self.shapes[:SHOWN]) + (", ..." if len(self.shapes) > SHOWN else "")


def grown(module: Module, name: str = "", seen: set[int] | None = None) -> Branch:
    """The tree from `module` on."""
    seen = set() if seen is None else seen
    branch = Branch(name, module)
    for short, parameter in module._parameters.items():
        if parameter is not None:
            branch.add(short, parameter, id(parameter) not in seen)
            seen.add(id(parameter))
    for short, child in module._modules.items():
        if child is not None:
            below = grown(child, short, seen)
            branch.children.append(below)
            branch.parameters += below.parameters
            branch.trainable += below.trainable
            branch.nbytes += below.nbytes
            branch.lazy |= below.lazy
    return branch


# ---- text ----
def text(module: Module) -> str:
    """PyTorch's form. In a tree, comments say how many parameters there are, and their shapes.

    >>> tl.nn.Sequential(tl.nn.Linear(2, 3), tl.nn.Tanh())
    Sequential(  # 9 parameters
      (0): Linear(2 -> 3)  # 9: weight (3, 2), bias (3,)
      (1): Tanh()
    )
    """
    branch = grown(module)
    own = f": {branch.beside}" if branch.shapes else ""
    return _lines(branch, branch.total + own if branch.parameters or branch.lazy else "")


def _lines(branch: Branch, comment: str) -> str:
    name, extra = type(branch.module).__name__, branch.module.extra_repr()
    if not branch.children:
        return f"{name}({extra})"
    below = [*([extra] if extra else []), *_collapsed(branch)]
    head = f"{name}(  # {comment}" if comment else f"{name}("
    return "\n  ".join([head, *(line.replace("\n", "\n  ") for line in below)]) + "\n)"


def _line(branch: Branch) -> str:
    """A child as its parent shows it."""
    from tensorlib.nn.module import Module

    shapes = f": {branch.beside}" if branch.shapes else ""
    comment = f"{branch.count}{shapes}" if branch.parameters or branch.shapes else ""
    if type(branch.module).__repr__ is not Module.__repr__:
        return repr(branch.module)
    said = _lines(branch, comment)
    return said if branch.children or not comment else f"{said}  # {comment}"


def _collapsed(branch: Branch) -> list[str]:
    """The children's lines; neighbours in a ModuleList that look alike as one."""
    runs: list[tuple[str, str, str]] = []  # first name, last name, line
    for child in branch.children:
        line = _line(child)
        if runs and branch.module._collapses and runs[-1][2] == line:
            runs[-1] = (runs[-1][0], child.name, line)
        else:
            runs.append((child.name, child.name, line))
    return [
        f"({first}): {line}" if first == last else f"({first}-{last}): {int(last) - int(first) + 1} x {line}"
        for first, last, line in runs
    ]


# ---- Jupyter ----
def html(module: Module) -> str:
    """The tree to open and close, with a bar for each module's share of all parameters."""
    branch = grown(module)
    return f'<div style="line-height:1.5">{_branch_html(branch, max(branch.parameters, 1), 0)}</div>'


def _branch_html(branch: Branch, everything: int, depth: int) -> str:
    lead = f'<span style="opacity:.6">{_html.escape(branch.name)}</span> ' if branch.name else ""
    title = f"{lead}<b>{type(branch.module).__name__}</b>"
    extra = _html.escape(branch.module.extra_repr())
    settings = f"({extra})" if extra or not branch.children else ""
    count = (branch.count if depth else branch.total) if branch.parameters else ""
    memory = f", {tl.memory.text(branch.nbytes)}" if depth == 0 and branch.nbytes else ""
    shapes = f' <span style="opacity:.6">{_html.escape(branch.beside)}</span>' if branch.shapes else ""
    width = BAR * branch.parameters / everything
    bar = (
        f' <span style="display:inline-block;height:.6em;width:{width:.1f}px;background:currentColor;opacity:.35"></span>'
        if depth and branch.parameters
        else ""
    )
    line = f"{title}{settings} {count}{memory}{bar}{shapes}"
    if not branch.children:
        return f'<div style="margin-left:1em">{line}</div>'
    below = "".join(_branch_html(child, everything, depth + 1) for child in branch.children)
    opened = " open" if depth < OPEN else ""
    return (
        f'<details{opened} style="margin-left:1em"><summary style="margin-left:-1em">{line}</summary>{below}</details>'
    )
