"""Optimizers, with PyTorch's names, defaults and state_dict structure."""

if __name__ != "tensorlib.optim":
    # The folder lies at the top of the repository, where a bare `import optim` would find it and make a second copy of every class.
    raise ImportError(
        f"this package is tensorlib.optim, not {__name__}: write `import tensorlib as tl` and `tl.optim`, or `from tensorlib import optim`."
    )

from tensorlib.optim.adam import Adam, AdamW
from tensorlib.optim.optimizer import Optimizer
from tensorlib.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]
