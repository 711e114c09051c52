"""`tensorlib.data`, the same module and not a copy; its files too, for ``from tensorlib.utils.data.sampler import ...``."""

import sys
from types import ModuleType

from tensorlib import data
from tensorlib.data import *  # noqa: F403  # for type checkers, which do not see the line below

sys.modules |= {f"{__name__}.{name}": part for name, part in vars(data).items() if isinstance(part, ModuleType)}
sys.modules[__name__] = data
