"""Signatures beside PyTorch's: every function and method that both have takes each argument by PyTorch's name, in PyTorch's place, with its default.

PyTorch's builtins have none to inspect: their overloads stand in the stubs it ships, or in the docstring's first line. Layers' constructors are in
test_nn.py, optimizers and schedulers in their own files.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

Signature = inspect.Signature
LEFT_OUT = {  # by any function here
    "out": "results are always new tensors",
    "layout": "there are two kinds of tensor, each with functions of its own",
    "pin_memory": "the method of that name makes it",
    "memory_format": "tensors have one order of dimensions",
    "size_average": "deprecated there", "reduce": "deprecated there, in losses", "_stacklevel": "deprecated there",
    "names": "dimensions have no names",
    "implicit": "of PyTorch's tracing", "cudnn_enabled": "of one of its backends",
    "out_dtype": "convert the result",
    "sparse_grad": "gathered tensors have dense gradients", "masked_grad": "as dense ones",
}  # fmt: skip
KEPT = ("scatter", "scatter_", "scatter_reduce", "scatter_reduce_")  # where `reduce` is no deprecated argument
ALWAYS = {
    "of integers, which need no gradient": "randperm randint_like tril_indices triu_indices",
    "no requires_grad: tensor() has it": "scalar_tensor",
    "values have their dtype, device and requires_grad": "sparse_coo_tensor",
    "the device is the producer's": "from_dlpack",
    "files hold no pickle": "save",
    "no dtype: convert the result": "Tensor.to_dense",
    "no generator": "rrelu nn.functional.rrelu_",
    "not the form of repeats alone": "repeat_interleave",
    "one name for both kinds of cuts": "tensor_split Tensor.tensor_split",
    "one name for tensors and numbers": "isin result_type",
    "the third argument may be a number": "scatter Tensor.scatter Tensor.scatter_",
    "the second argument may be a tensor": "max min Tensor.max Tensor.min",
    "alpha by keyword, as of sub": "rsub subtract Tensor.subtract Tensor.subtract_",
    "the name that torch.split has": "Tensor.split",
    "sizes by position": "Tensor.view Tensor.expand",
    "another tensor by position": "Tensor.to",
    "unbiased and correction are one choice": "std std_mean Tensor.std var var_mean Tensor.var",
    "dim has no default, or -1: PyTorch guesses it and warns": "nn.functional.softmax nn.functional.log_softmax nn.functional.softmin",
    "PyTorch's stub or docstring does not say what it takes": "asarray tensor Tensor.new_tensor Tensor.requires_grad_ set_num_threads linspace"
    " logspace nn.functional.one_hot",
    "indexing has its later default: PyTorch warns": "meshgrid",
    "padding by its name has no other default": "nn.functional.conv1d nn.functional.conv2d nn.functional.conv3d",
    "the only number is the end": "arange randint Tensor.random_",
}
DEVIATIONS = {name: reason for reason, names in ALWAYS.items() for name in names.split()}


def spaces() -> Iterator[tuple[str, Any, Any]]:
    yield "", tl, torch
    yield "nn.functional.", tl.nn.functional, torch.nn.functional
    yield "nn.init.", tl.nn.init, torch.nn.init
    yield "Tensor.", tl.Tensor, torch.Tensor


def shared() -> dict[str, tuple[Any, Any]]:
    """Functions that both have; those of nn.functional only there, where PyTorch documents them."""
    found = {}
    for space, ours, theirs in spaces():
        for name in getattr(ours, "__all__", vars(ours)):
            mine, its = getattr(ours, name), getattr(theirs, name, None)
            elsewhere = space == "" and name in (*tl.nn.functional.__all__, "default_generator")
            if not elsewhere and name[0] != "_" and callable(its) and inspect.isroutine(mine):
                found[space + name] = mine, its
    layers = {n: getattr(tl.nn, n) for n in tl.nn.__all__ if hasattr(torch.nn, n)}
    for name, layer in layers.items():
        if inspect.isclass(layer) and hasattr(layer, "forward"):
            found[f"nn.{name}.forward"] = layer.forward, getattr(torch.nn, name).forward
    return found


@cache
def stub(path: str, of: str = "") -> dict[str, list[Signature]]:
    """The overloads in one of PyTorch's stubs."""
    body = ast.parse((Path(torch.__file__).parent / path).read_text()).body
    if of:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == of)
    found: dict[str, list[Signature]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append(read(node.args))
    return found


def read(args: ast.arguments) -> Signature:
    """As it was written; a default that is an expression stays one."""
    positional = [*args.posonlyargs, *args.args]
    pairs = list(zip(positional, [None] * (len(positional) - len(args.defaults)) + args.defaults, strict=True))
    made = [parameter(a, d, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a, d in pairs]
    made += [parameter(args.vararg, None, inspect.Parameter.VAR_POSITIONAL)] if args.vararg else []
    made += [
        parameter(a, d, inspect.Parameter.KEYWORD_ONLY) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    return Signature(made, __validate_parameters__=False)


def parameter(arg: ast.arg, default: ast.expr | None, kind: Any) -> inspect.Parameter:
    value = inspect.Parameter.empty if default is None else ast.unparse(default)
    if default is not None:
        with contextlib.suppress(ValueError):
            value = ast.literal_eval(default)
    return inspect.Parameter(
        arg.arg, kind, default=value, annotation=ast.unparse(arg.annotation) if arg.annotation else ""
    )


def overloads(name: str, function: Callable[..., Any]) -> list[Signature]:
    """What PyTorch takes, without its named dimensions, deprecated orders, and numbers in front, which are calls by position."""
    space, _, plain = name.rpartition(".")
    stubs = (
        [("_C/__init__.pyi", "TensorBase")]
        if space == "Tensor"
        else [("nn/functional.pyi", ""), ("_C/_VariableFunctions.pyi", "")]
    )
    try:
        found = [inspect.signature(function)]
        if any(p.kind is p.VAR_KEYWORD for p in found[0].parameters.values()):
            raise ValueError
    except ValueError:
        found = next((stub(*where)[plain] for where in stubs if plain in stub(*where)), [])
    if not found and (written := re.match(rf"\s*({plain}\(.*?\))\s*->", function.__doc__ or "", re.DOTALL)):
        node = ast.parse(f"def {written[1]}: ...").body[0]
        assert isinstance(node, ast.FunctionDef)
        found = [read(node.args)]
    text = {s: " ".join(str(p.annotation) for p in s.parameters.values()) for s in found}
    later = [s for s in found if "self" in s.parameters and space != "Tensor"]
    return [s for s in found if s not in later and "Dimname" not in text[s] and "ellipsis" not in text[s]]


def unlike(name: str, ours: Signature, theirs: Signature) -> list[str]:
    """Where a call that PyTorch takes would not be taken here, or mean something else."""
    mine, problems, place = ours.parameters, [], 0
    positional = [p.name for p in mine.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    varied = any(p.kind is p.VAR_POSITIONAL for p in mine.values())
    if name.startswith("Tensor."):
        positional = positional[1:]
    for p in theirs.parameters.values():
        if p.name in ("self", "input" if name.startswith("Tensor.") else "self") or p.kind is p.VAR_POSITIONAL:
            continue
        if p.name in LEFT_OUT and not (p.name == "reduce" and name.rpartition(".")[2] in KEPT) and p.name not in mine:
            continue
        if p.name not in mine and p.kind is not p.POSITIONAL_ONLY:
            problems.append(f"no {p.name}")
        elif p.default is not p.empty and p.default != "..." and p.kind is not p.POSITIONAL_ONLY:
            default = mine[p.name].default
            if default != p.default and {str(default), str(p.default)} != {"None", "()"}:
                problems.append(f"{p.name}={default}, not {p.default}")
        if p.kind is p.POSITIONAL_OR_KEYWORD and not varied:
            if positional[place : place + 1] != [p.name]:
                problems.append(f"{p.name} is not in place {place}")
            place += 1
    return problems


SHARED = shared()


@pytest.mark.parametrize("name", SHARED)
def test_takes_what_pytorch_takes(name: str) -> None:
    ours, theirs = SHARED[name]
    problems = {str(s): p for s in overloads(name, theirs) if (p := unlike(name, inspect.signature(ours), s))}
    assert bool(problems) == (name in DEVIATIONS), f"{inspect.signature(ours)}: {problems}"
