"""PyTorch's place for what `tensorlib.distributed` offers."""

from tensorlib.distributed import DistributedDataParallel

__all__ = ["DistributedDataParallel"]
