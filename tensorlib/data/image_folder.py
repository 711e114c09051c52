"""Images in folders, read by Pillow."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tensorlib.data.array_files import PathOf
from tensorlib.data.dataset import Dataset
from tensorlib.device import CPU
from tensorlib.errors import FileFormatError
from tensorlib.ops.creation import tensor
from tensorlib.tensor import Tensor

__all__ = ["ImageFolder", "pil_to_tensor"]

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def pil_to_tensor(image: Any) -> Tensor:
    """A Pillow image (or array) of H rows and W columns as a tensor (C, H, W), of uint8 for most: for the end of a transform.

    >>> tl.data.pil_to_tensor(np.zeros((2, 4, 3), np.uint8)).shape
    (3, 2, 4)
    """
    pixels = np.asarray(image)
    return tensor(
        np.ascontiguousarray(np.moveaxis(pixels if pixels.ndim == 3 else pixels[:, :, None], 2, 0)), device=CPU
    )


def _load_image(path: str) -> Any:
    """A Pillow image in RGB, turned as its EXIF data say."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError("ImageFolder: reading images needs Pillow: pip install 'tensorlib[images]'.") from None
    with Path(path).open("rb") as file:
        try:
            image = ImageOps.exif_transpose(Image.open(file))
            if image.mode.startswith("I;16"):  # Pillow would cut values off at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif "transparency" in image.info:
                image = image.convert("RGBA")
            return image.convert("RGB")
        except Exception as error:  # damaged files make Pillow raise whatever they break
            raise FileFormatError(f"ImageFolder: {path}: Pillow does not read it: {error}.") from error


class ImageFolder(Dataset):
    """Images sorted into folders, one for each class: example i is (image, number of its class). Needs the extra ``images`` (Pillow).

    Without a transform an image is a tensor (3, H, W) of uint8. Classes are numbered by name, images come by class and path. Threads as workers
    serve well: Pillow lets others run while it decodes.

    Args:
        root: the folder that holds the classes' folders, which may have folders of their own.
        transform: of the image, which Pillow read, converted to RGB and turned as its EXIF data say; `pil_to_tensor` makes a tensor of it.
        target_transform: of the class's number.
        loader: reads the image of a path in place of Pillow.
        is_valid_file: whether a path is an image; None: by its extension.
        allow_empty: classes may have no images.

    Attributes:
        classes, class_to_idx: the classes' names, and their numbers by name.
        samples, targets: (path, class) of each example, and the classes alone.

    Raises:
        FileNotFoundError: where there are no classes, or one has no images.
        FileFormatError: from an example whose file is damaged, naming it.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         pathlib.Path(folder, name).mkdir()
    ...         _ = pathlib.Path(folder, name, "0.pgm").write_bytes(b"P5 1 1 255 x")
    ...     data = tl.data.ImageFolder(folder, loader=lambda path: pathlib.Path(path).read_bytes()[-1:])
    ...     data.classes, data[1]
    (['cat', 'dog'], (b'x', 1))
    """

    def __init__(
        self, root: PathOf, transform: Callable[[Any], Any] | None = None, target_transform: Callable[[int], Any] | None = None,
        loader: Callable[[str], Any] | None = None, is_valid_file: Callable[[str], bool] | None = None, allow_empty: bool = False,
    ) -> None:  # fmt: skip
        self.root = os.fspath(root)
        self.transform, self.target_transform, self.loader = transform, target_transform, loader
        self.classes = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        if not self.classes:
            raise FileNotFoundError(f"ImageFolder: {self.root} has no folders; expected one for each class.")
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        valid = is_valid_file or (lambda path: path.lower().endswith(_EXTENSIONS))
        self.samples: list[tuple[str, int]] = []
        for name, number in self.class_to_idx.items():
            found = _files(os.path.join(self.root, name), valid)  # noqa: PTH118  # as text, which workers get
            if not found and not allow_empty:
                raise FileNotFoundError(
                    f"ImageFolder: {self.root}: class {name!r} has no images"
                    + (f" (files that end in {', '.join(_EXTENSIONS)})." if is_valid_file is None else ".")
                )
            self.samples += [(path, number) for path in found]
        self.targets = [number for _, number in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        image = self.loader(path) if self.loader else _load_image(path)
        if self.transform is not None:
            image = self.transform(image)
        elif self.loader is None:
            image = pil_to_tensor(image)
        return image, target if self.target_transform is None else self.target_transform(target)


def _files(folder: str, valid: Callable[[str], bool]) -> list[str]:
    """Those in a folder and in all below it, sorted by folder and name."""
    found = [
        os.path.join(where, name)  # noqa: PTH118
        for where, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
    ]
    return [path for path in found if valid(path)]
