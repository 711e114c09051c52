"""Modules that live elsewhere in this library, under the names that PyTorch's scripts import them by."""

from tensorlib.utils import data

__all__ = ["data"]
