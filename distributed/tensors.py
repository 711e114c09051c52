"""Tensors as collectives take them: checked before anything is sent, and as plain memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import tensorlib as tl

from .staging import Staged

__all__ = ["Source", "Target", "check", "check_dtype", "check_like", "check_list"]


class Source:
    """A tensor to be read: its elements in row-major order, `flat`, on the CPU."""

    def __init__(self, operation: str, tensor: Any, name: str = "tensor") -> None:
        check(operation, tensor, name)
        self.tensor: tl.Tensor = tensor.detach()
        flat = self.tensor if self.tensor.is_contiguous() else self.tensor.contiguous()
        self._stage: Staged | None = None
        if tensor.device.type != "cpu":
            self._stage = Staged(flat)
            self._stage.down()
            self._stage.wait()
            flat = self._stage.here
        self.flat: tl.Tensor = flat if flat.ndim == 1 else flat.reshape(-1)


class Target(Source):
    """A tensor to be written, as an in-place operation writes it: what may not be changed is an error here, and a value that was saved for
    backward an error there."""

    def __init__(self, operation: str, tensor: Any, name: str = "tensor") -> None:
        check(operation, tensor, name)
        if tensor.requires_grad and tl.is_grad_enabled():
            raise tl.GradError(
                f"{operation}: {name} of shape {tensor.shape} requires a gradient, which an operation in place has none of.",
                hint="do it under tl.no_grad(), or use tensorlib.distributed.functional",
            )
        super().__init__(operation, tensor, name)
        self._staged = self.flat.data_ptr() != self.tensor.data_ptr()
        self.put_back()
        self.note()

    def put_back(self) -> None:
        """Into a tensor that is not contiguous, or on another device."""
        if self._stage is not None:
            self._stage.up()
            self._stage.landed()
        if self._staged and (self._stage is None or not self.tensor.is_contiguous()):
            with self._stage.ordered() if self._stage is not None else nullcontext():
                source = self.flat if self._stage is None else self._stage.there
                self.tensor.copy_(source.reshape(self.tensor.shape))

    def note(self) -> None:
        """Tell autograd that the values changed here."""
        whole = self.tensor if self._staged else self.flat
        few = whole if whole.numel() < 64 or not whole.ndim else whole[:0]  # a slice takes longer than a copy of so few
        few.copy_(few)


def check(operation: str, tensor: Any, name: str) -> None:
    if not isinstance(tensor, tl.Tensor):
        raise TypeError(f"{operation}: {name} must be a tensor, got a {type(tensor).__name__}.")
    if tensor.is_sparse:
        raise TypeError(f"{operation}: {name} is row-sparse, expected a dense tensor; to_dense() makes it one.")


def check_list(operation: str, tensors: Any, name: str, size: int) -> Sequence[tl.Tensor]:
    """A tensor for each rank."""
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"{operation}: {name} must be a list of tensors, got a {type(tensors).__name__}.")
    if len(tensors) != size:
        raise ValueError(
            f"{operation}: {name} has {len(tensors)} tensors, expected one for each of the group's {size} ranks."
        )
    for r, tensor in enumerate(tensors):
        check(operation, tensor, f"{name}[{r}]")
    return tensors


def check_like(operation: str, tensor: tl.Tensor, name: str, example: tl.Tensor, example_name: str) -> None:
    """The same shape and dtype."""
    if tensor.shape != example.shape:
        raise tl.ShapeError(
            f"{operation}: {name} has shape {tensor.shape}, expected {example_name}'s, {example.shape}."
        )
    check_dtype(operation, tensor, name, example, example_name)


def check_dtype(operation: str, tensor: tl.Tensor, name: str, example: tl.Tensor, example_name: str) -> None:
    if tensor.dtype is not example.dtype:
        raise tl.DTypeError(
            f"{operation}: {name} is {tensor.dtype.name}, expected {example_name}'s dtype, {example.dtype.name}."
        )
