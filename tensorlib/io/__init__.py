"""Files: tensors and plain values in the safetensors format, and checkpoints of a training run."""

from tensorlib.io import checkpoints, files
from tensorlib.io.checkpoints import *  # noqa: F403
from tensorlib.io.files import *  # noqa: F403

__all__: list[str] = []
__all__ += checkpoints.__all__
__all__ += files.__all__
