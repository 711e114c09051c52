"""Modules as functions of their parameters, where PyTorch's `torch.func` has them."""

from __future__ import annotations

from tensorlib.nn.utils.stateless import functional_call

__all__ = ["functional_call"]
