"""Batch normalisation over the batches of several ranks together."""

from __future__ import annotations

from typing import Any, TypeVar

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn.lazy import LazyModuleMixin
from tensorlib.nn.module import Module
from tensorlib.nn.norms import BatchNorm1d, BatchNorm2d, BatchNorm3d, _BatchNorm

__all__ = ["SyncBatchNorm"]

M = TypeVar("M", bound=Module)


class SyncBatchNorm(_BatchNorm):
    """`BatchNorm1d` to `BatchNorm3d` over the batches of all ranks: in training, mean and variance are those of all rows together.

    However the rows are divided among the ranks (some may have none), outputs, gradients and running statistics are those of one rank with the whole
    batch, where losses are summed over the ranks. Forward and backward communicate, so every rank must go through the layer alike; a rank
    that is out of data in `DistributedDataParallel.join` does not answer for it. In evaluation, and on one rank, it is the plain layer; its
    `state_dict` always is.

    Shapes:
        x: (N, C, ...)  ->  out: the same;   weight, bias, running_mean, running_var: (C,)

    Args:
        process_group: the ranks that share statistics, a `tl.distributed.Group`; None: all.

    >>> tl.nn.SyncBatchNorm(3)(tl.randn(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
        process_group: Any = None, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    @classmethod
    def convert_sync_batchnorm(cls, module: M, process_group: Any = None) -> M:
        """Make every BatchNorm1d to 3d in `module`, and `module` itself if it is one, a SyncBatchNorm, in place. Returns `module`.

        Raises:
            ValueError: for lazy layers that have not seen an input.

        >>> model = tl.nn.SyncBatchNorm.convert_sync_batchnorm(tl.nn.Sequential(tl.nn.BatchNorm1d(3)))
        >>> type(model[0]).__name__
        'SyncBatchNorm'
        """
        layers = list(module.modules())
        if lazy := [layer for layer in layers if isinstance(layer, LazyModuleMixin) and isinstance(layer, _BatchNorm)]:
            raise ValueError(
                f"SyncBatchNorm: {type(lazy[0]).__name__} has no shape yet; run the module once before it is converted."
            )
        for layer in layers:
            if isinstance(layer, (BatchNorm1d, BatchNorm2d, BatchNorm3d)):
                layer.__class__ = cls  # type: ignore[assignment]
                layer.process_group = process_group
        return module

    def _check(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise tl.ShapeError(f"SyncBatchNorm: input has shape {x.shape}, expected (N, {self.num_features}, ...).")

    def _normalized(self, x: Tensor, training: bool, momentum: float) -> Tensor:
        from tensorlib import distributed  # not before it is needed

        if not self.training or distributed.size(self.process_group) == 1:
            return super()._normalized(x, training, momentum)
        n, mean, var = _of_all_ranks(x, self.process_group)
        if n == 1:
            raise tl.ShapeError(
                "SyncBatchNorm: expected more than one value a channel in training, got one on all ranks together."
            )
        if n and self.running_mean is not None and self.running_var is not None:
            for running, seen in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
                running.mul_(1 - momentum).add_(seen.detach().to(running.dtype), alpha=momentum)
        along = (-1, *(1,) * (x.ndim - 2))
        wide = _wide(x)
        scale = (var + self.eps).rsqrt().to(wide.dtype)
        if self.weight is not None:
            scale = scale * self.weight
        out = (wide - mean.to(wide.dtype).reshape(along)) * scale.reshape(along)
        if self.bias is not None:
            out = out + self.bias.reshape(along)
        return out.to(x.dtype if self.weight is None else tl.result_type(x, self.weight))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype.itemsize >= 4 else x.float()


def _of_all_ranks(x: Tensor, group: Any) -> tuple[int, Tensor, Tensor]:
    """How many values a channel has on all ranks, their mean and variance (C,) in double precision, differentiable.

    Reference: Chan, Golub and LeVeque 1979, for variances of parts.
    """
    from tensorlib.distributed import functional

    axes, c = (0, *range(2, x.ndim)), x.shape[1]
    own = x.numel() // max(c, 1)
    mean, var = (_wide(x).mean(axes), _wide(x).var(axes, correction=0)) if own else (x.sum(axes), x.sum(axes))
    known = tl.cat([tl.tensor([own], dtype=tl.float64, device=x.device), mean.double(), var.double()])
    rows = tl.stack(functional.all_gather(known, group))
    numbers, means, variances = rows[:, :1].detach(), rows[:, 1 : c + 1], rows[:, c + 1 :]
    n = int(numbers.sum().item())
    share = numbers / max(n, 1)
    mean = (share * means).sum(0)
    return n, mean, (share * (variances + (means - mean).square())).sum(0)
