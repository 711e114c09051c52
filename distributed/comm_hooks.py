"""Hooks for `DistributedDataParallel.register_comm_hook`: how a bucket of gradients is averaged over ranks.

Their state is not used: ranks and divisor are the bucket's.
"""

from __future__ import annotations

from typing import Any

import tensorlib as tl

from .buckets import GradBucket
from .moves import Port
from .progress import Steps
from .reductions import all_reduce
from .staging import Staged

__all__ = ["allreduce_hook", "bf16_compress_hook", "fp16_compress_hook"]


def allreduce_hook(state: Any, bucket: GradBucket) -> Steps:
    """What happens without a hook: the mean over ranks.

    >>> model = tl.distributed.DistributedDataParallel(tl.nn.Linear(2, 1))
    >>> model.register_comm_hook(None, tl.distributed.allreduce_hook)
    """
    return bucket.all_reduce()


def fp16_compress_hook(state: Any, bucket: GradBucket) -> Steps:
    """The mean over ranks of gradients that travel as float16: half the bytes of float32. They are added up in float32, in the order of ranks.

    >>> model = tl.distributed.DistributedDataParallel(tl.nn.Linear(2, 1))
    >>> model.register_comm_hook(None, tl.distributed.fp16_compress_hook)
    """
    return _compressed(bucket, tl.float16)


def bf16_compress_hook(state: Any, bucket: GradBucket) -> Steps:
    """The mean over ranks of gradients that travel as bfloat16, which has the range of float32. They are added up in float32.

    >>> model = tl.distributed.DistributedDataParallel(tl.nn.Linear(2, 1))
    >>> model.register_comm_hook(None, tl.distributed.bf16_compress_hook)
    """
    return _compressed(bucket, tl.bfloat16)


def _compressed(bucket: GradBucket, dtype: tl.DType) -> Steps:
    """What all ranks have in `dtype`, averaged as `all_reduce` averages 16-bit floats: added up in float32 and rounded once."""
    buffer, ranks = bucket.buffer(), bucket.group.size
    with bucket.ordered():
        sent = Staged(buffer.to(dtype))
        sent.down()
    yield from sent.arrived()
    yield from all_reduce(Port(bucket.group, background=True), sent.here, "mean")
    sent.up()
    with bucket.ordered():
        sent.landed()
        buffer.copy_(sent.there)
        if bucket.divisor != ranks:  # inside join()
            buffer.mul_(ranks / bucket.divisor)
