"""Files: tensors and plain values in the safetensors format, checkpoints of a training run, and PyTorch's files."""

from tensorlib.io import checkpoints, files, torch_files
from tensorlib.io.checkpoints import *  # noqa: F403
from tensorlib.io.files import *  # noqa: F403
from tensorlib.io.torch_files import *  # noqa: F403

__all__: list[str] = []
__all__ += checkpoints.__all__
__all__ += files.__all__
__all__ += torch_files.__all__
