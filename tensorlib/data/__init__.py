"""What feeds a training loop: datasets, the order of their examples, and how examples become a batch."""

from tensorlib.data import array_files, collate, csv_files, datasets, fetching, image_folder, loader, mapped, samplers
from tensorlib.data.array_files import *  # noqa: F403
from tensorlib.data.collate import *  # noqa: F403
from tensorlib.data.csv_files import *  # noqa: F403
from tensorlib.data.datasets import *  # noqa: F403
from tensorlib.data.fetching import *  # noqa: F403
from tensorlib.data.image_folder import *  # noqa: F403
from tensorlib.data.loader import *  # noqa: F403
from tensorlib.data.mapped import *  # noqa: F403
from tensorlib.data.samplers import *  # noqa: F403

__all__: list[str] = []
__all__ += array_files.__all__
__all__ += collate.__all__
__all__ += csv_files.__all__
__all__ += datasets.__all__
__all__ += fetching.__all__
__all__ += image_folder.__all__
__all__ += loader.__all__
__all__ += mapped.__all__
__all__ += samplers.__all__
