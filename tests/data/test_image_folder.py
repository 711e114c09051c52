"""Images in folders, written by Pillow and read back."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tensorlib as tl
from tensorlib import data


def picture(rng: np.random.Generator, *shape: int) -> Any:
    return rng.integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, Any]]:
    """Two classes, one with a folder inside, and files that are no images."""
    images = {"b/1.png": picture(rng, 4, 6, 3), "a/x/0.PNG": picture(rng, 4, 6, 3), "a/2.bmp": picture(rng, 4, 6, 3)}
    for name, pixels in images.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "list.txt").write_text("no class")
    return tmp_path, images


def test_classes_and_examples(folder: tuple[Path, dict[str, Any]]) -> None:
    root, images = folder
    dataset = data.ImageFolder(root)
    assert dataset.classes == ["a", "b"] and dataset.class_to_idx == {"a": 0, "b": 1}
    names = ["a/2.bmp", "a/x/0.PNG", "b/1.png"]
    assert dataset.samples == [(str(root / name), int(name[0] == "b")) for name in names]
    assert dataset.targets == [0, 0, 1]
    for name, (image, _) in zip(names, [dataset[i] for i in range(3)], strict=True):
        assert image.dtype is tl.uint8
        np.testing.assert_array_equal(image.numpy(), np.moveaxis(images[name], 2, 0))


@pytest.mark.parametrize("context", [None, "forkserver"], ids=["threads", "processes"])
def test_loaded(folder: tuple[Path, dict[str, Any]], context: str | None) -> None:
    root, images = folder
    loader = data.DataLoader(data.ImageFolder(root), 2, num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    assert [b[1].tolist() for b in batches] == [[0, 0], [1]]
    np.testing.assert_array_equal(batches[1][0][0].numpy(), np.moveaxis(images["b/1.png"], 2, 0))


def test_transforms(folder: tuple[Path, dict[str, Any]]) -> None:
    root, images = folder

    def half(image: Any) -> Any:
        return data.pil_to_tensor(image.crop((0, 0, 3, 2))) / 255

    image, target = data.ImageFolder(root, half, lambda t: t + 10)[2]
    assert target == 11
    np.testing.assert_array_equal(image.numpy(), np.moveaxis(images["b/1.png"], 2, 0)[:, :2, :3].astype("f4") / 255)
    dataset = data.ImageFolder(
        root, loader=lambda path: Path(path).suffix, is_valid_file=lambda p: p.endswith(".txt"), allow_empty=True
    )
    assert [dataset[i] for i in range(len(dataset))] == [(".txt", 0)]


def test_every_mode_becomes_rgb(tmp_path: Path, rng: np.random.Generator) -> None:
    rgb, grey = picture(rng, 3, 4, 3), picture(rng, 3, 4)
    made = {
        "grey": (Image.fromarray(grey), np.stack([grey] * 3)),
        "alpha": (Image.fromarray(np.dstack([rgb, grey])), np.moveaxis(rgb, 2, 0)),
        "deep": (Image.fromarray(grey.astype(np.uint16) * 256 + 77), np.stack([grey] * 3)),
        "bits": (Image.fromarray(grey > 99), np.stack([np.where(grey > 99, 255, 0)] * 3)),
    }
    palette = Image.fromarray(grey).convert("P")
    palette.info["transparency"] = bytes(range(256))
    made["palette"] = palette, np.stack([grey] * 3)
    (tmp_path / "c").mkdir()
    for name, (image, _) in made.items():
        image.save(tmp_path / "c" / f"{name}.png")
    dataset = data.ImageFolder(tmp_path)
    for image, (path, _) in zip((dataset[i][0] for i in range(len(made))), dataset.samples, strict=True):
        np.testing.assert_array_equal(image.numpy(), made[Path(path).stem][1], err_msg=path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_exif_says(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((4, 6, 3), np.uint8)
    stored[0, 0] = 200  # the corner tells where the image was turned to
    turned = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1), 6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).swapaxes(0, 1), 8: np.rot90(stored, 1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "c").mkdir()
    Image.fromarray(stored).save(tmp_path / "c" / "0.png", exif=exif)
    np.testing.assert_array_equal(data.ImageFolder(tmp_path)[0][0].numpy(), np.moveaxis(turned, 2, 0))


def test_wrong_folders_and_files(folder: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = folder
    path = root / "b" / "1.png"
    whole = path.read_bytes()
    for damaged in (whole[:40], whole[: len(whole) // 2], b"", b"text", whole[:50] + b"\0\0" + whole[52:]):
        path.write_bytes(damaged)
        with pytest.raises(tl.FileFormatError, match=re.escape(f"ImageFolder: {path}: Pillow does not read it: ")):
            data.ImageFolder(root)[2]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"class 'b' has no images \(files that end in \.jpg"):
        data.ImageFolder(root)
    assert len(data.ImageFolder(root, allow_empty=True)) == 2
    with pytest.raises(FileNotFoundError, match="x has no folders; expected one for each class"):
        data.ImageFolder(root / "a" / "x")
    with pytest.raises(FileNotFoundError, match="absent"):
        data.ImageFolder(root / "absent")
    dataset = data.ImageFolder(root, allow_empty=True)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'tensorlib\[images\]'"):
        dataset[0]
