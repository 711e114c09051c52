"""Convolutions as graphs of cuDNN, where its frontend (nvidia-cudnn-frontend) and the library are installed; convolution.py asks here first.

A graph is planned once for its shapes, from what cuDNN recommends: nothing whose sums have no fixed order, nothing that rounds float32 while
``tl.backends.cudnn.allow_tf32`` is False, no more workspace than columns would take. Where no plan is left, that convolution is not cuDNN's.
"""

from __future__ import annotations

import functools
import importlib
import threading
import warnings
from typing import Any, NamedTuple

from tensorlib import dtypes
from tensorlib.backends.cuda import import_cupy
from tensorlib.backends.tf32 import convolutions as SWITCH
from tensorlib.dtypes import DType
from tensorlib.native import lib
from tensorlib.ops.convolution import Ints, Pairs
from tensorlib.tensor import Tensor

from .launch import empty

__all__ = ["convolve"]

WORKSPACE = 1 << 28  # bytes
MOST = 512  # plans that a thread keeps
_TYPES = {dtypes.float16: "HALF", dtypes.bfloat16: "BFLOAT16", dtypes.float32: "FLOAT"}
_OPERANDS = {
    "conv_fprop": ("image", "weight"), "conv_dgrad": ("loss", "filter"), "conv_wgrad": ("image", "loss"),
}  # fmt: skip


class Request(NamedTuple):
    """What a plan is made for: sizes of the operands and of the result, with two or three dimensions of space."""

    kind: str
    dtype: DType
    first: Ints
    second: Ints
    out: Ints
    stride: Ints
    front: Ints
    back: Ints
    dilation: Ints
    exact: bool


def convolve(
    kind: str, first: Tensor, second: Tensor, out: Tensor, stride: Ints, padding: Pairs, dilation: Ints
) -> bool:
    """Write a convolution ("conv_fprop") or one of its gradients ("conv_dgrad", "conv_wgrad") to `out`, if cuDNN has a plan for it.

    All contiguous, of one dtype and without a dimension of 0; the operands in the order in which `_OPERANDS` names them.
    """
    if out.dtype not in _TYPES or not SWITCH.enabled or min(map(min, padding)) < 0 or frontend() is None:
        return False
    lift = 4 - out.ndim if out.ndim < 4 else 0  # cuDNN has no convolution in one dimension
    ones, zeros = (1,) * lift, (0,) * lift
    a, b, c = ((*x.shape[:2], *ones, *x.shape[2:]) for x in (first, second, out))
    front, back = zip(*padding, strict=True)
    exact = out.dtype is dtypes.float32 and not SWITCH.allow_tf32
    request = Request(
        kind, out.dtype, a, b, c, (*ones, *stride), (*zeros, *front), (*zeros, *back), (*ones, *dilation), exact
    )
    handle, plans = _of_this_gpu()
    if request not in plans:
        if len(plans) >= MOST:
            del plans[next(iter(plans))]
        plans[request] = _planned(request, handle)
    plan = plans[request]
    if plan is None:
        return False
    graph, ports, workspace = plan
    scratch = empty((max(workspace, 1),), dtypes.uint8, out.device)
    addresses = [int(lib.tl_address(x._array)) for x in (first, second, out, scratch)]
    graph.execute(dict(zip(ports, addresses[:3], strict=True)), addresses[3], handle=handle)
    return True


@functools.cache
def frontend() -> Any:
    """The package `cudnn`; None where it or the library that it loads is not there."""
    try:
        return importlib.import_module("cudnn")
    except (ImportError, OSError, RuntimeError):
        return None


class _Own(threading.local):
    """Of one thread, by GPU: cuDNN's handle, and plans."""

    def __init__(self) -> None:
        self.gpus: dict[int, tuple[Any, dict[Request, Any]]] = {}


_own = _Own()


def _of_this_gpu() -> tuple[Any, dict[Request, Any]]:
    """Of the current GPU; the handle is for work on the current stream."""
    cuda = import_cupy().cuda
    device = cuda.runtime.getDevice()
    if device not in _own.gpus:
        _own.gpus[device] = frontend().create_handle(), {}
    found = _own.gpus[device]
    frontend().set_stream(found[0], cuda.get_current_stream().ptr)
    return found


def _planned(request: Request, handle: Any) -> Any:
    """A graph, its tensors (two operands, the result) and the bytes of workspace that it needs; None where cuDNN has none."""
    api = frontend()
    kind, full = getattr(api.data_type, _TYPES[request.dtype]), api.data_type.FLOAT
    note = api.numerical_note
    left_out = [note.NONDETERMINISTIC, note.REDUCED_PRECISION_REDUCTION]
    if request.exact:
        left_out += [note.TENSOR_CORE, note.DOWN_CONVERT_INPUTS]
    try:
        graph = api.pygraph(io_data_type=kind, intermediate_data_type=full, compute_data_type=full, handle=handle)
        names = _OPERANDS[request.kind]
        operands = [
            graph.tensor(name=name, dim=list(size), stride=_strides(size), data_type=kind)
            for name, size in zip(names, (request.first, request.second), strict=True)
        ]
        made = getattr(graph, request.kind)(
            **dict(zip(names, operands, strict=True)), pre_padding=list(request.front), post_padding=list(request.back),
            stride=list(request.stride), dilation=list(request.dilation),
        )  # fmt: skip
        made.set_output(True).set_data_type(kind).set_dim(list(request.out)).set_stride(_strides(request.out))
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([api.heur_mode.A, api.heur_mode.FALLBACK])
        graph.deselect_numeric_notes(left_out)
        graph.deselect_workspace_greater_than(WORKSPACE)
        graph.check_support()
        graph.build_plans()
        return graph, (*operands, made), int(graph.get_workspace_size())
    except api.cudnnGraphNotSupportedError:
        return None
    except Exception as error:  # noqa: BLE001  (a frontend that is not as expected: columns serve all the same)
        warnings.warn(
            f"cuDNN could not plan a convolution ({type(error).__name__}: {error}): it runs without cuDNN. "
            "tl.backends.cudnn.enabled = False says so from the start.",
            stacklevel=2,
        )
        return None


def _strides(size: Ints) -> list[int]:
    """Of a contiguous tensor."""
    made = [1]
    for n in reversed(size[1:]):
        made.insert(0, n * made[0])
    return made
