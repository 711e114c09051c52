"""Gradient clipping, parameters as one vector, and ragged batches (`rnn`)."""

from tensorlib.nn.utils import parameters, rnn
from tensorlib.nn.utils.parameters import *

__all__ = ["rnn"]
__all__ += parameters.__all__
