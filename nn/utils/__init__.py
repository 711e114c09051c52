"""Gradient clipping, parameters as one vector, ragged batches (`rnn`), parametrizations, modules as functions of their parameters (`stateless`)."""

from tensorlib.nn.utils import (
    fusion,
    parameters,
    parametrizations,
    parametrize,
    reparametrize,
    rnn,
    skipping,
    stateless,
)
from tensorlib.nn.utils.fusion import *
from tensorlib.nn.utils.parameters import *
from tensorlib.nn.utils.reparametrize import *
from tensorlib.nn.utils.skipping import *

__all__ = ["parametrizations", "parametrize", "rnn", "stateless"]
__all__ += fusion.__all__
__all__ += parameters.__all__
__all__ += reparametrize.__all__
__all__ += skipping.__all__
