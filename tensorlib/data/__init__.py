"""What feeds a training loop: batches of sequences of similar length, and examples of different lengths put together."""

from tensorlib.data import collate, samplers
from tensorlib.data.collate import *  # noqa: F403
from tensorlib.data.samplers import *  # noqa: F403

__all__: list[str] = []
__all__ += collate.__all__
__all__ += samplers.__all__
