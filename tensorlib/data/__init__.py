"""What feeds a training loop: datasets, the order of their examples, and how examples become a batch."""

from tensorlib.data import (
    array_files,
    bars,
    collate,
    csv_files,
    dataloader,
    dataset,
    fetching,
    image_folder,
    mapped,
    sampler,
)
from tensorlib.data.array_files import *  # noqa: F403
from tensorlib.data.bars import *  # noqa: F403
from tensorlib.data.collate import *  # noqa: F403
from tensorlib.data.csv_files import *  # noqa: F403
from tensorlib.data.dataloader import *  # noqa: F403
from tensorlib.data.dataset import *  # noqa: F403
from tensorlib.data.fetching import *  # noqa: F403
from tensorlib.data.image_folder import *  # noqa: F403
from tensorlib.data.mapped import *  # noqa: F403
from tensorlib.data.sampler import *  # noqa: F403

__all__: list[str] = []
__all__ += array_files.__all__
__all__ += bars.__all__
__all__ += collate.__all__
__all__ += csv_files.__all__
__all__ += dataloader.__all__
__all__ += dataset.__all__
__all__ += fetching.__all__
__all__ += image_folder.__all__
__all__ += mapped.__all__
__all__ += sampler.__all__
