"""PyTorch's path to what concerns all modules: see `modules.module`."""

from tensorlib.nn.modules import module

__all__ = ["module"]
