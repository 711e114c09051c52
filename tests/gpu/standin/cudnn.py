"""cuDNN's frontend as tensorlib/gpu/cudnn.py uses it: graphs of one convolution, planned in the order that the real ones ask for, over NumPy.

Operands of float32 are rounded to TF32 unless plans with tensor cores were left out, so a test sees what was asked for. `DECLINED` and `PLANNED`
say which convolutions have no plan, and which were planned.
"""

from __future__ import annotations

import itertools
from enum import Enum
from typing import Any

import numpy as np

from . import memory, streams

__all__ = ["DECLINED", "PLANNED"]

data_type = Enum("data_type", ["FLOAT", "HALF", "BFLOAT16"])
numerical_note = Enum(
    "numerical_note", ["TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "NONDETERMINISTIC"]
)
heur_mode = Enum("heur_mode", ["A", "FALLBACK"])
DECLINED: set[str] = set()
PLANNED: list[pygraph] = []
_handles: dict[int, int] = {}  # stream by handle
STEPS = ("validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans")


class cudnnGraphNotSupportedError(Exception):
    pass


def create_handle() -> int:
    _handles[len(_handles) + 1] = 0
    return len(_handles)


def set_stream(handle: int, stream: int) -> None:
    _handles[handle] = stream


class tensor:
    def __init__(self, dim: list[int], stride: list[int], data_type: Any) -> None:
        assert type(dim) is type(stride) is list and len(dim) == len(stride) in (4, 5)
        self.dim, self.stride, self.data_type = dim, stride, data_type

    def set_output(self, value: bool) -> tensor:
        return self

    def set_data_type(self, value: Any) -> tensor:
        self.data_type = value
        return self

    def set_dim(self, value: list[int]) -> tensor:
        self.dim = value
        return self

    def set_stride(self, value: list[int]) -> tensor:
        self.stride = value
        return self

    def at(self, address: int) -> np.ndarray[Any, Any]:
        kind = np.dtype(np.float32 if self.data_type is data_type.FLOAT else np.uint16)
        size = int(np.prod(self.dim)) * kind.itemsize
        there = memory.find(address)
        assert there is not None and there.device_id == streams.current_device_id(), "not this GPU's memory"
        assert address + size <= there.ptr + there.size, "beyond an allocation"
        flat = memory.at(address, size).view(kind)
        assert self.stride == [s // kind.itemsize for s in np.empty(self.dim, kind).strides]
        return flat.reshape(self.dim)

    def read(self, address: int, exact: bool) -> np.ndarray[Any, Any]:
        found = self.at(address)
        if self.data_type is data_type.HALF:
            return found.view(np.float16).astype(np.float32)
        if self.data_type is data_type.BFLOAT16:
            return (found.astype(np.uint32) << 16).view(np.float32)
        if exact:
            return found
        bits = found.view(np.uint32)
        return ((bits + 0xFFF + (bits >> 13 & 1)) & np.uint32(0xFFFFE000)).view(np.float32)

    def write(self, address: int, values: np.ndarray[Any, Any]) -> None:
        to, values = self.at(address), np.ascontiguousarray(values, np.float32)
        if self.data_type is data_type.BFLOAT16:
            bits = values.view(np.uint32)
            to[...] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        else:
            to.view(np.float16 if self.data_type is data_type.HALF else np.float32)[...] = values


class pygraph:
    def __init__(self, *, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any, handle: int) -> None:
        assert compute_data_type is data_type.FLOAT and handle in _handles
        self.done: list[str] = []
        self.left_out: set[Any] = set()

    def tensor(self, *, name: str, dim: list[int], stride: list[int], data_type: Any) -> tensor:
        return tensor(dim, stride, data_type)

    def conv_fprop(self, *, image: tensor, weight: tensor, **how: Any) -> tensor:
        return self._made("conv_fprop", image, weight, **how)

    def conv_dgrad(self, *, loss: tensor, filter: tensor, **how: Any) -> tensor:
        return self._made("conv_dgrad", loss, filter, **how)

    def conv_wgrad(self, *, image: tensor, loss: tensor, **how: Any) -> tensor:
        return self._made("conv_wgrad", image, loss, **how)

    def _made(
        self, kind: str, first: tensor, second: tensor, *, pre_padding: list[int], post_padding: list[int], stride: list[int],
        dilation: list[int],
    ) -> tensor:  # fmt: skip
        assert {len(v) for v in (pre_padding, post_padding, stride, dilation)} == {len(first.dim) - 2}
        self.kind, self.first, self.second = kind, first, second
        self.pad, self.stride, self.dilation = list(zip(pre_padding, post_padding, strict=True)), stride, dilation
        self.out = tensor([1] * len(first.dim), [1] * len(first.dim), None)
        return self.out

    def _step(self, name: str) -> None:
        assert name == STEPS[len(self.done)], f"{name} after {self.done}"
        self.done.append(name)

    def validate(self) -> None:
        self._step("validate")

    def build_operation_graph(self) -> None:
        self._step("build_operation_graph")

    def create_execution_plans(self, modes: list[Any]) -> None:
        assert all(isinstance(m, heur_mode) for m in modes)
        self._step("create_execution_plans")

    def deselect_numeric_notes(self, notes: list[Any]) -> None:
        assert self.done[-1] == "create_execution_plans"
        self.left_out |= set(notes)

    def deselect_workspace_greater_than(self, size: int) -> None:
        assert self.done[-1] == "create_execution_plans"

    def check_support(self) -> None:
        self._step("check_support")
        if self.kind in DECLINED:
            raise cudnnGraphNotSupportedError("No valid engine configs")

    def build_plans(self) -> None:
        self._step("build_plans")
        PLANNED.append(self)

    def get_workspace_size(self) -> int:
        return 1000

    def execute(self, addresses: dict[tensor, int], workspace: int, handle: int) -> None:
        assert self.done[-1] == "build_plans" and _handles[handle] == streams.get_current_stream().ptr
        there = memory.find(workspace)
        assert there is not None and workspace + 1000 <= there.ptr + there.size
        first, second, out = (addresses[t] for t in (self.first, self.second, self.out))
        exact = numerical_note.TENSOR_CORE in self.left_out

        def effect() -> None:
            self.out.write(out, self._computed(self.first.read(first, exact), self.second.read(second, exact)))

        streams.perform(effect)

    def _computed(self, first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One product for each tap of the kernel."""
        image = self.first.dim if self.kind != "conv_dgrad" else self.out.dim
        weight = {"conv_fprop": self.second, "conv_dgrad": self.second, "conv_wgrad": self.out}[self.kind].dim
        result = {"conv_fprop": self.out, "conv_dgrad": self.first, "conv_wgrad": self.second}[self.kind].dim
        n, groups = image[0], image[1] // weight[1]
        wide = [size + sum(pad) for size, pad in zip(image[2:], self.pad, strict=True)]
        padded = np.zeros((n, image[1], *wide), np.float64)
        inner = (..., *(slice(front, front + size) for size, (front, _) in zip(image[2:], self.pad, strict=True)))
        if self.kind != "conv_dgrad":
            padded[inner] = first
        x = padded.reshape(n, groups, weight[1], *wide)
        y = np.zeros((n, groups, weight[0] // groups, *result[2:]))
        w = np.zeros((groups, weight[0] // groups, *weight[1:]))
        given = {"conv_fprop": (w, second), "conv_dgrad": (w, second), "conv_wgrad": (y, second)}[self.kind]
        given[0][...] = given[1].reshape(given[0].shape)
        if self.kind == "conv_dgrad":
            y[...] = first.reshape(y.shape)
        for tap in itertools.product(*map(range, weight[2:])):
            ends = zip(tap, self.dilation, self.stride, result[2:], strict=True)
            places = (..., *(slice(t * d, t * d + s * (size - 1) + 1, s) for t, d, s, size in ends))
            at = (..., *tap)
            if self.kind == "conv_fprop":
                y += np.einsum("ngc...,gfc->ngf...", x[places], w[at])
            elif self.kind == "conv_dgrad":
                x[places] += np.einsum("ngf...,gfc->ngc...", y, w[at])
            else:
                flat = [v.reshape(*v.shape[:3], -1) for v in (y, x[places])]
                w[at] = np.einsum("ngfp,ngcp->gfc", *flat)
        made = {"conv_fprop": y, "conv_dgrad": padded[inner], "conv_wgrad": w}[self.kind]
        return made.reshape(self.out.dim)
