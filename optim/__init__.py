"""Optimizers, with PyTorch's names, defaults and state_dict structure."""

if __name__ != "tensorlib.optim":
    # The folder lies at the top of the repository, where a bare `import optim` would find it and make a second copy of every class.
    raise ImportError(
        f"this package is tensorlib.optim, not {__name__}: write `import tensorlib as tl` and `tl.optim`, or `from tensorlib import optim`."
    )

from tensorlib.optim import lr_scheduler, swa_utils
from tensorlib.optim.adadelta import Adadelta
from tensorlib.optim.adafactor import Adafactor
from tensorlib.optim.adagrad import Adagrad
from tensorlib.optim.adam import Adam, AdamW
from tensorlib.optim.adamax import Adamax
from tensorlib.optim.asgd import ASGD
from tensorlib.optim.layerwise import LAMB, LARS
from tensorlib.optim.lbfgs import LBFGS
from tensorlib.optim.lion import Lion
from tensorlib.optim.muon import Muon
from tensorlib.optim.nadam import NAdam
from tensorlib.optim.optimizer import Optimizer
from tensorlib.optim.radam import RAdam
from tensorlib.optim.rmsprop import RMSprop
from tensorlib.optim.rprop import Rprop
from tensorlib.optim.sgd import SGD
from tensorlib.optim.sparse_adam import SparseAdam
from tensorlib.optim.swap import swap_in_optimizer_params_and_state

__all__ = [
    "ASGD", "LAMB", "LARS", "LBFGS", "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "Muon", "NAdam", "Optimizer",
    "RAdam", "RMSprop", "Rprop", "SparseAdam", "lr_scheduler", "swa_utils", "swap_in_optimizer_params_and_state",
]  # fmt: skip
