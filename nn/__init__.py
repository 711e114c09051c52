"""Layers, losses and initialisation, with PyTorch's names, defaults and state_dict keys."""

if __name__ != "tensorlib.nn":
    # The folder lies at the top of the repository, where a bare `import nn` would find it and make a second copy of every class.
    raise ImportError(
        f"this package is tensorlib.nn, not {__name__}: write `import tensorlib as tl` and `tl.nn`, or `from tensorlib import nn`."
    )

from tensorlib.nn import (
    activations,
    attention,
    containers,
    conv,
    crf,
    decoding,
    dropout,
    functional,
    init,
    layers,
    lazy,
    losses,
    modules,
    norms,
    padding,
    parameter,
    parameter_containers,
    pooling,
    ragged_attention,
    recurrent,
    resampling,
    similarity,
    sync_norm,
    transformer,
    trees,
    utils,
    vocabulary,
)
from tensorlib.nn.activations import *
from tensorlib.nn.attention import *
from tensorlib.nn.containers import *
from tensorlib.nn.conv import *
from tensorlib.nn.crf import *
from tensorlib.nn.dropout import *
from tensorlib.nn.layers import *
from tensorlib.nn.lazy import *
from tensorlib.nn.losses import *
from tensorlib.nn.module import Module
from tensorlib.nn.norms import *
from tensorlib.nn.padding import *
from tensorlib.nn.parameter import *
from tensorlib.nn.parameter_containers import *
from tensorlib.nn.pooling import *
from tensorlib.nn.ragged_attention import *
from tensorlib.nn.recurrent import *
from tensorlib.nn.resampling import *
from tensorlib.nn.similarity import *
from tensorlib.nn.state import IncompatibleKeys, StateDictError
from tensorlib.nn.summaries import Summary, summary
from tensorlib.nn.sync_norm import *
from tensorlib.nn.transformer import *
from tensorlib.nn.trees import *
from tensorlib.nn.vocabulary import *

__all__ = [
    "IncompatibleKeys", "Module", "StateDictError", "Summary", "decoding", "functional", "init", "modules", "summary", "utils",
]  # fmt: skip
__all__ += activations.__all__
__all__ += attention.__all__
__all__ += containers.__all__
__all__ += conv.__all__
__all__ += crf.__all__
__all__ += dropout.__all__
__all__ += layers.__all__
__all__ += lazy.__all__
__all__ += losses.__all__
__all__ += norms.__all__
__all__ += padding.__all__
__all__ += parameter.__all__
__all__ += parameter_containers.__all__
__all__ += pooling.__all__
__all__ += ragged_attention.__all__
__all__ += recurrent.__all__
__all__ += resampling.__all__
__all__ += similarity.__all__
__all__ += sync_norm.__all__
__all__ += transformer.__all__
__all__ += trees.__all__
__all__ += vocabulary.__all__


def __getattr__(name: str) -> object:
    if name == "parallel":  # imported when asked for, as `tl.distributed` is
        from importlib import import_module

        return import_module("tensorlib.nn.parallel")
    raise AttributeError(f"module {__name__} has no attribute {name!r}")
