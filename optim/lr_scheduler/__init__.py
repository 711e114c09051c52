"""Schedules of the learning rate, step for step those of PyTorch.

A scheduler sets the rate of each group as it is made, and again at each `step()`, which comes after the optimizer's.
Most multiply the rate that they find by a factor, so several work together on one optimizer.
"""

from tensorlib.optim.lr_scheduler.base import LRScheduler
from tensorlib.optim.lr_scheduler.combined import ChainedScheduler, SequentialLR
from tensorlib.optim.lr_scheduler.curves import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from tensorlib.optim.lr_scheduler.cycles import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR
from tensorlib.optim.lr_scheduler.plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LRScheduler", "LambdaLR",
    "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "SequentialLR", "StepLR",
]  # fmt: skip

_LRScheduler = LRScheduler  # the name that older scripts derive from
