"""Initial values for parameters, written in place. Random ones follow `tl.manual_seed`, or a `generator` of one's own."""

from __future__ import annotations

import math

import tensorlib as tl
from tensorlib import Tensor

__all__ = [
    "calculate_gain", "constant_", "dirac_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "orthogonal_", "sparse_",
    "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip

_GAINS = {
    "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0, "conv_transpose1d": 1.0, "conv_transpose2d": 1.0, "conv_transpose3d": 1.0,
    "sigmoid": 1.0, "tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4,
}  # fmt: skip


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity; `param` is the slope of "leaky_relu" (0.01 unless given).

    >>> tl.nn.init.calculate_gain("relu") ** 2
    2.0000000000000004
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else float(param)) ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(
            f"calculate_gain: unknown nonlinearity {nonlinearity!r}, expected one of leaky_relu, {', '.join(_GAINS)}."
        )
    return _GAINS[nonlinearity]


def _fans(name: str, tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ValueError(f"{name}: a fan needs at least 2 dimensions, got shape {tensor.shape}.")
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


def _assign(tensor: Tensor, value: Tensor) -> Tensor:
    with tl.no_grad():
        tensor.copy_(value)
    return tensor


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: tl.Generator | None = None) -> Tensor:
    """Uniform in [a, b).

    >>> bool((tl.nn.init.uniform_(tl.empty(100), -1, 1).abs() <= 1).all())
    True
    """
    with tl.no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: tl.Generator | None = None) -> Tensor:
    """Normal with the given mean and standard deviation.

    >>> tl.nn.init.normal_(tl.empty(2, 3)).shape
    (2, 3)
    """
    with tl.no_grad():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: tl.Generator | None = None,
) -> Tensor:
    """Normal, redistributed into [a, b] by the inverse of its distribution function.

    >>> bool((tl.nn.init.trunc_normal_(tl.empty(100), std=3.0).abs() <= 2).all())
    True
    """
    low, high = (math.erf((v - mean) / (std * math.sqrt(2.0))) for v in (a, b))
    drawn = tl.empty(tensor.shape, dtype=tl.float64, device=tensor.device).uniform_(low, high, generator=generator)
    return _assign(tensor, (tl.erfinv(drawn) * (std * math.sqrt(2.0)) + mean).clamp(a, b))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One value everywhere.

    >>> tl.nn.init.constant_(tl.empty(2), 0.5).tolist()
    [0.5, 0.5]
    """
    with tl.no_grad():
        return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """Zero everywhere."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """One everywhere."""
    return constant_(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity: ones on the diagonal of a matrix.

    >>> tl.nn.init.eye_(tl.empty(2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if tensor.ndim != 2:
        raise ValueError(f"eye_: expected a matrix, got shape {tensor.shape}.")
    return _assign(tensor, tl.eye(*tensor.shape, dtype=tensor.dtype, device=tensor.device))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The identity for a convolution: in each group, output channel i is input channel i, as far as there are both.

    Shapes:
        tensor: (C_out, C_in / groups, *kernel) with 1 to 3 lengths of a kernel

    >>> tl.nn.init.dirac_(tl.empty(2, 2, 3)).tolist()
    [[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    """
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(
            f"dirac_: expected the weight of a convolution, of 3 to 5 dimensions, got shape {tensor.shape}."
        )
    if groups < 1 or tensor.shape[0] % groups:
        raise ValueError(f"dirac_: {groups} groups do not divide dimension 0 of shape {tensor.shape}.")
    per_group = tensor.shape[0] // groups
    channel = tl.arange(min(per_group, tensor.shape[1]), device=tensor.device)
    middle = tuple(n // 2 for n in tensor.shape[2:])
    with tl.no_grad():
        tensor.zero_()
        for group in range(groups):
            place = (channel + group * per_group, channel, *middle)
            tensor[place] = 1.0
    return tensor


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: tl.Generator | None = None) -> Tensor:
    """A matrix in whose every column the share `sparsity` of elements (rounded up) is zero, the others normal.

    Reference: Martens 2010.

    >>> (tl.nn.init.sparse_(tl.empty(4, 3), 0.5) == 0).sum(0).tolist()
    [2, 2, 2]
    """
    if tensor.ndim != 2:
        raise ValueError(f"sparse_: expected a matrix, got shape {tensor.shape}.")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparse_: sparsity must be in [0, 1], got {sparsity}.")
    normal_(tensor, 0.0, std, generator)
    order = tl.rand(tensor.shape, generator=generator, device=tensor.device).argsort(0)
    zeros = math.ceil(sparsity * tensor.shape[0])
    with tl.no_grad():
        return tensor.scatter_(0, order[:zeros], 0.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: tl.Generator | None = None) -> Tensor:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out)).

    Reference: Glorot and Bengio 2010.

    >>> bool((tl.nn.init.xavier_uniform_(tl.empty(4, 2)).abs() <= 1).all())
    True
    """
    bound = gain * math.sqrt(6.0 / sum(_fans("xavier_uniform_", tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: tl.Generator | None = None) -> Tensor:
    """Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)).

    Reference: Glorot and Bengio 2010.
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans("xavier_normal_", tensor))), generator)


def _kaiming_std(name: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float | None:
    """Standard deviation for He's initialisation; None where there is nothing to initialise."""
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: mode must be 'fan_in' or 'fan_out', got {mode!r}.")
    fan = _fans(name, tensor)[mode == "fan_out"]
    gain = calculate_gain(nonlinearity, a)
    return gain / math.sqrt(fan) if tensor.numel() else None


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: tl.Generator | None = None,
) -> Tensor:
    """Uniform in +-gain * sqrt(3 / fan); `a` is the slope of "leaky_relu".

    Reference: He et al. 2015.

    >>> bool((tl.nn.init.kaiming_uniform_(tl.empty(4, 6)).abs() <= 1).all())
    True
    """
    std = _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return tensor if std is None else uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: tl.Generator | None = None,
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan).

    Reference: He et al. 2015.
    """
    std = _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity)
    return tensor if std is None else normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: tl.Generator | None = None) -> Tensor:
    """A (semi-)orthogonal matrix; further dimensions count as columns.

    Reference: Saxe et al. 2013.

    >>> w = tl.nn.init.orthogonal_(tl.empty(3, 5))
    >>> bool(((w @ w.mT - tl.eye(3)).abs() < 1e-5).all())
    True
    """
    import numpy as np

    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: expected at least 2 dimensions, got shape {tensor.shape}.")
    if tensor.numel() == 0:
        return tensor
    rows, columns = tensor.shape[0], tensor.numel() // tensor.shape[0]
    flat = tl.empty((max(rows, columns), min(rows, columns)), dtype=tl.float64, device="cpu")
    q, r = np.linalg.qr(normal_(flat, generator=generator).numpy())
    q = q * np.sign(np.diag(r))  # makes the distribution uniform
    return _assign(
        tensor, gain * tl.from_numpy(np.ascontiguousarray(q.T if rows < columns else q)).reshape(tensor.shape)
    )
