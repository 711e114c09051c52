"""tensorlib: an eager, define-by-run tensor library.

The graph is the run: operations execute at once, a tape records them, `backward()` walks it back.

>>> import tensorlib as tl
>>> x = tl.tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> (x ** 2).sum().backward()
>>> x.grad
tensor([2., 4., 6.])
"""

from __future__ import annotations

import importlib
from math import e, inf, nan, pi
from typing import Any

from tensorlib import dtypes as _dtypes, errors, memory
from tensorlib.backends.tf32 import get_float32_matmul_precision, set_float32_matmul_precision
from tensorlib.device import Device, device, get_default_device, set_default_device
from tensorlib.dtypes import *  # noqa: F403
from tensorlib.dtypes import DType, bool_ as bool
from tensorlib.errors import *  # noqa: F403
from tensorlib.tensor import Tensor

from tensorlib import ops as _ops  # isort: skip  fills the table and Tensor's methods
from tensorlib import autograd, random  # isort: skip
from tensorlib.autograd import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)  # isort: skip

from tensorlib.sparse import SparseTensor, sparse_coo_tensor  # isort: skip
from tensorlib.ops.conversion import is_complex, is_floating_point, result_type  # isort: skip
from tensorlib.ops.precision import autocast, get_autocast_dtype, is_autocast_enabled  # isort: skip
from tensorlib.random import *  # noqa: F403  # isort: skip
from tensorlib.ops.guard import guarded as _guarded  # isort: skip
from tensorlib.threads import (
    are_deterministic_algorithms_enabled,
    get_cpu_capability,
    get_num_threads,
    set_flush_denormal,
    set_num_threads,
    use_deterministic_algorithms,
)  # isort: skip

__version__ = "0.1.0.dev0"
float = _dtypes.float32
double, half, cfloat, cdouble = _dtypes.float64, _dtypes.float16, _dtypes.complex64, _dtypes.complex128
long, int, short = _dtypes.int64, _dtypes.int32, _dtypes.int16
Size, dtype, newaxis = tuple, DType, None  # a shape is a tuple of integers
_MODULES = ("amp", "cuda", "data", "distributed", "func", "fused", "io", "nn", "optim", "utils")
_LAZY = {name: name for name in _MODULES} | {"load": "io", "save": "io"}

__all__ = [  # noqa: F405  (some are loaded on first use; the operations' names follow below)
    "DType",
    "Device",
    "Size",
    "SparseTensor",
    "Tensor",
    "amp",
    "are_deterministic_algorithms_enabled",
    "autocast",
    "autograd",
    "bool",
    "cdouble",
    "cfloat",
    "cuda",
    "data",
    "device",
    "distributed",
    "double",
    "dtype",
    "e",
    "enable_grad",
    "errors",
    "float",
    "func",
    "fused",
    "get_autocast_dtype",
    "get_cpu_capability",
    "get_default_device",
    "get_float32_matmul_precision",
    "get_num_threads",
    "half",
    "inf",
    "inference_mode",
    "int",
    "io",
    "is_autocast_enabled",
    "is_complex",
    "is_floating_point",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "is_tensor",
    "load",
    "long",
    "memory",
    "nan",
    "newaxis",
    "nn",
    "no_grad",
    "optim",
    "pi",
    "random",
    "result_type",
    "save",
    "set_default_device",
    "set_float32_matmul_precision",
    "set_flush_denormal",
    "set_grad_enabled",
    "set_num_threads",
    "short",
    "sparse_coo_tensor",
    "use_deterministic_algorithms",
    "utils",
]  # fmt: skip
__all__ += [*_dtypes.__all__, *errors.__all__, *random.__all__]  # noqa: PLE0604
for _module in _ops.MODULES:
    for _name in _module.__all__:
        globals()[_name] = _guarded(getattr(_module, _name))
    __all__ += _module.__all__
is_complex, is_floating_point, result_type = map(_guarded, (is_complex, is_floating_point, result_type))
del _module, _name


def is_tensor(x: Any) -> _dtypes.Any:
    """Whether `x` is a Tensor.

    >>> tl.is_tensor(tl.zeros(1)), tl.is_tensor(0)
    (True, False)
    """
    return isinstance(x, Tensor)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = importlib.import_module(f"tensorlib.{_LAZY[name]}")
        globals()[name] = found = module if _LAZY[name] == name else getattr(module, name)
        return found
    raise AttributeError(f"module 'tensorlib' has no attribute {name!r}")
