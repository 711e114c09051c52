"""What feeds a training loop: datasets, the order of their examples, and how examples become a batch."""

from tensorlib.data import collate, datasets, fetching, loader, samplers
from tensorlib.data.collate import *  # noqa: F403
from tensorlib.data.datasets import *  # noqa: F403
from tensorlib.data.fetching import *  # noqa: F403
from tensorlib.data.loader import *  # noqa: F403
from tensorlib.data.samplers import *  # noqa: F403

__all__: list[str] = []
__all__ += collate.__all__
__all__ += datasets.__all__
__all__ += fetching.__all__
__all__ += loader.__all__
__all__ += samplers.__all__
