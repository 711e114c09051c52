"""Every recorded operation knows the user's line: directly, through layers, in rules, in-place writes and several files."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn


def line() -> int:
    """The caller's line."""
    return sys._getframe(1).f_lineno


def at(t: tl.Tensor, number: int) -> bool:
    return bool(re.match(rf"{re.escape(__file__)}:{number} in ", t.grad_fn.where))


@pytest.fixture
def x() -> tl.Tensor:
    return tl.tensor([[0.5, 1.0], [1.5, 2.0]], requires_grad=True)


OPERATIONS: dict[str, Callable[[tl.Tensor], Any]] = {
    "operator": lambda x: x * 2,
    "reflected operator": lambda x: 2 - x,
    "array first": lambda x: np.ones(2) * x,
    "two tensors": lambda x: x / x,
    "method": lambda x: x.exp(),
    "function": lambda x: tl.tanh(x),
    "slow path": lambda x: tl.erfinv(x * 0.1),
    "promotion": lambda x: x + tl.ones(2, dtype=tl.float64),
    "reduction": lambda x: x.sum(0),
    "two outputs": lambda x: x.max(1).values,
    "view": lambda x: x.reshape(4),
    "transpose": lambda x: x.t(),
    "T": lambda x: x.T,
    "index": lambda x: x[0],
    "slices": lambda x: x[:, 1:],
    "index arrays": lambda x: x[[0, 1], [1, 0]],
    "mask": lambda x: x[x > 1],
    "matmul": lambda x: x @ x,
    "einsum": lambda x: tl.einsum("ij,jk->ik", x, x),
    "cat": lambda x: tl.cat([x, x]),
    "stack": lambda x: tl.stack([x, x]),
    "split": lambda x: x.split(1)[1],
    "softmax": lambda x: tl.softmax(x, -1),
    "cross_entropy": lambda x: nn.functional.cross_entropy(x, tl.tensor([0, 1])),
    "layer_norm": lambda x: nn.functional.layer_norm(x, (2,)),
    "cast": lambda x: x.double(),
    "to": lambda x: x.to("reference"),
    "clone": lambda x: x.clone(),
    "where": lambda x: tl.where(x > 1, x, 0.0),
    "clamp": lambda x: x.clamp(0.7, 1.2),
    "gather": lambda x: x.gather(1, tl.tensor([[0], [1]])),
    "sort": lambda x: x.sort().values,
    "cumsum": lambda x: x.cumsum(0),
    "norm": lambda x: x.norm(),
    "var": lambda x: x.var(),
    "in place": lambda x: (x * 1).mul_(3),
    "augmented": lambda x: (x * 1).__iadd__(1),
    "layer": lambda x: nn.Linear(2, 3)(x),
    "network": lambda x: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.LayerNorm(3))(x),
    "loss module": lambda x: nn.MSELoss()(x, tl.zeros(2, 2)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_way_to_record(name: str, x: tl.Tensor) -> None:
    operation = OPERATIONS[name]
    y = operation(x)
    assert at(y, operation.__code__.co_firstlineno)
    again = operation(x)  # from the table of known lines now
    assert again.grad_fn.where == y.grad_fn.where


def test_lines_inside_a_network(x: tl.Tensor) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, h: tl.Tensor) -> tl.Tensor:
            h = self.layer(h)
            self.inner = h
            self.line = line() - 2
            return h.relu()

    block = Block()
    out = nn.Sequential(nn.Linear(2, 2), block)(x)
    assert at(block.inner, block.line) and at(out, block.line + 3)


def test_setitem_and_writes(x: tl.Tensor) -> None:
    y = x * 1
    y[0] = 5
    assert at(y, line() - 1)
    y[:, 1] = y[:, 0] * 2
    assert at(y, line() - 1)
    y[0].mul_(3)
    assert at(y, line() - 1)


def test_several_operations_on_one_line_and_one_over_several(x: tl.Tensor) -> None:
    a, b = x * 2, (x + 1).exp()
    assert at(a, line() - 1) and at(b, line() - 1) and at(b.grad_fn.next_functions[0][0].__class__ and b, line() - 1)
    first = line() + 1
    c = (
        x
        * 2
    )  # fmt: skip
    assert first <= int(re.search(r":(\d+) in", c.grad_fn.where)[1]) <= first + 3


def test_gradients_carry_their_operations_line(x: tl.Tensor) -> None:
    y = (x * x).exp()
    number = line() - 1
    (g,) = tl.autograd.grad(y.sum(), x, create_graph=True)
    names = set()
    stack, seen = [g.grad_fn], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        names.add(node.where)
        stack += [p for p, _ in node.next_functions if isinstance(p, tl.autograd.Node)]
    assert any(f":{number} in " in w for w in names)
    assert all(w.startswith(__file__) for w in names), names


def test_functions_and_their_backward(x: tl.Tensor) -> None:
    class Square(tl.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tl.Tensor) -> tl.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: tl.Tensor) -> tl.Tensor:
            return 2 * ctx.saved_tensors[0] * g

    y = Square.apply(x)
    assert at(y, line() - 1)


def test_a_line_of_each_file_and_function() -> None:
    """Functions of equal code in different files are told apart."""
    code = "def f(x):\n    return x * 2\n"
    made = []
    for name in ("first.py", "second.py"):
        scope: dict[str, Any] = {}
        exec(compile(code, name, "exec"), scope)
        made.append(scope["f"](tl.ones(1, requires_grad=True)).grad_fn.where)
    assert made == ["first.py:2 in f", "second.py:2 in f"]
    scope = {"x": tl.ones(1, requires_grad=True)}
    exec(compile("y = x * 2", "script.py", "exec"), scope)
    assert scope["y"].grad_fn.where == "script.py:1"


def test_many_short_lived_functions_are_not_mixed_up() -> None:
    """A code object's address may be used again once it is gone; its lines are not."""
    x = tl.ones(1, requires_grad=True)
    for k in range(300):
        scope: dict[str, Any] = {}
        exec(compile("\n" * k + "def f(x): return x * 2", f"file{k}.py", "exec"), scope)
        assert scope["f"](x).grad_fn.where == f"file{k}.py:{k + 1} in f"


def test_lines_belong_to_their_thread(x: tl.Tensor) -> None:
    """While one thread is inside a rule (which inherits lines), another records its own."""
    wrong: list[str] = []
    stop = threading.Event()

    def differentiate() -> None:
        while not stop.is_set():
            tl.autograd.grad((x.cumsum(0) * x).sum(), x, create_graph=True)

    other = threading.Thread(target=differentiate)
    other.start()
    try:
        for _ in range(2000):
            y = x * 2
            if not at(y, line() - 1):
                wrong.append(y.grad_fn.where)
    finally:
        stop.set()
        other.join()
    assert not wrong


def test_a_users_file_may_have_any_name(tmp_path: Path) -> None:
    """Only the library's own folders are skipped, not files that look like them."""
    folder = tmp_path / "nn"
    folder.mkdir()
    path = folder / "tensorlib_model.py"
    path.write_text("def f(x):\n    return x * 2\n")
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    assert scope["f"](tl.ones(1, requires_grad=True)).grad_fn.where == f"{path}:2 in f"
