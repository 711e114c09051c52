"""pad, interpolate and their kin beside PyTorch's: values and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


def compare(
    name: str, shapes: list[tuple[int, ...]], low: float = -2.0, high: float = 2.0, dtype: str = "float64", **kw: Any
) -> None:
    """F.name of random operands: the result and all gradients."""
    rng = np.random.default_rng(len(str(kw)))
    arrays = [rng.uniform(low, high, s).astype(dtype) for s in shapes]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    ours = [tl.tensor(a, requires_grad=True) for a in arrays]
    expected, got = getattr(torch.nn.functional, name)(*theirs, **kw), getattr(tl.nn.functional, name)(*ours, **kw)
    assert got.shape == tuple(expected.shape)
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype == "float64" else {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), **tolerance)
    g = rng.standard_normal(got.shape).astype(dtype)
    expected.backward(torch.tensor(g))
    got.backward(tl.tensor(g))
    for a, b in zip(ours, theirs, strict=True):
        ours_grad = np.zeros(a.shape) if a.grad is None else a.grad.numpy()  # nothing flows to a grid that is rounded
        np.testing.assert_allclose(ours_grad, b.grad.numpy(), **tolerance)


PADS: list[tuple[tuple[int, ...], tuple[int, ...], str]] = [
    ((2, 3, 5), (1, 2), "reflect"), ((2, 3, 5), (4, 0), "replicate"), ((2, 3, 5), (5, 2), "circular"), ((2, 3, 5), (-1, 3), "circular"),
    ((2, 3, 4, 5), (1, 2, 0, 3), "reflect"), ((2, 3, 4, 5), (-1, 2, 2, -1), "replicate"), ((3, 4, 5), (1, 2, 3, 1), "circular"),
    ((1, 2, 3, 4, 5), (1, 2, 3, 0, 2, 1), "reflect"), ((1, 2, 3, 4, 5), (1, 2, 3, 0, 2, 1), "circular"), ((2, 6), (-2, 1), "reflect"),
    ((2, 3), (1, -1, -1, 2), "constant"), ((2, 3, 4), (0, 0, 1, 1), "constant"), ((3,), (), "constant"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "pad", "mode"), PADS, ids=str)
def test_pad(shape: tuple[int, ...], pad: tuple[int, ...], mode: str) -> None:
    compare("pad", [shape], pad=pad, mode=mode)


def interpolations() -> list[tuple[tuple[int, ...], dict[str, Any]]]:
    made: list[tuple[tuple[int, ...], dict[str, Any]]] = []
    shapes = {1: (2, 3, 7), 2: (2, 3, 5, 8), 3: (1, 2, 4, 5, 6)}
    modes = [
        ("nearest", 0),
        ("nearest-exact", 0),
        ("area", 0),
        ("linear", 1),
        ("bilinear", 2),
        ("bicubic", 2),
        ("trilinear", 3),
    ]
    targets: list[dict[str, Any]] = [{"size": 4}, {"size": 13}, {"size": 1}, {"scale_factor": 2.0}, {"scale_factor": 1.3}, {"scale_factor": 0.45},
                                     {"scale_factor": 1.3, "recompute_scale_factor": True}]  # fmt: skip
    for (mode, only), target in itertools.product(modes, targets):
        for k in [only] if only else [1, 2, 3]:
            aligned = (None, True) if only else (None,)
            made += [(shapes[k], {"mode": mode, **target, "align_corners": align}) for align in aligned]
    return made


@pytest.mark.parametrize(("shape", "kw"), interpolations(), ids=str)
def test_interpolate(shape: tuple[int, ...], kw: dict[str, Any]) -> None:
    compare("interpolate", [shape], **kw)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_positions(mode: str) -> None:
    """They are rounded in single precision, so that sizes alone do not tell."""
    rng = np.random.default_rng(0)
    for n, out in rng.integers(1, 400, (300, 2)).tolist():
        x = np.arange(float(n), dtype=np.float32).reshape(1, 1, n)
        expected = torch.nn.functional.interpolate(torch.tensor(x), size=out, mode=mode).numpy()
        np.testing.assert_array_equal(tl.interpolate(tl.tensor(x), size=out, mode=mode).numpy(), expected)


def test_single_precision() -> None:
    compare("interpolate", [(2, 3, 30, 41)], dtype="float32", size=(57, 23), mode="bilinear")
    compare("interpolate", [(2, 3, 30, 41)], dtype="float32", size=(57, 23), mode="bicubic")


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_grid_sample(mode: str, padding_mode: str, align_corners: bool) -> None:
    kw = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    compare("grid_sample", [(2, 3, 5, 6), (2, 4, 7, 2)], **kw)
    compare("grid_sample", [(2, 3, 1, 6), (2, 4, 7, 2)], **kw)
    if mode != "bicubic":
        compare("grid_sample", [(2, 3, 4, 5, 6), (2, 2, 3, 4, 3)], **kw)


@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_grid(align_corners: bool) -> None:
    compare("affine_grid", [(2, 2, 3)], size=(2, 3, 4, 5), align_corners=align_corners)
    compare("affine_grid", [(2, 3, 4)], size=(2, 3, 4, 2, 5), align_corners=align_corners)


def test_shuffles_and_patches() -> None:
    compare("pixel_shuffle", [(2, 18, 4, 5)], upscale_factor=3)
    compare("pixel_unshuffle", [(2, 2, 6, 9)], downscale_factor=3)
    compare("unfold", [(2, 3, 8, 9)], kernel_size=(2, 3), dilation=(2, 1), padding=(1, 0), stride=(1, 2))
    compare(
        "fold", [(2, 18, 32)], output_size=(8, 9), kernel_size=(2, 3), dilation=(2, 1), padding=(1, 0), stride=(1, 2)
    )
    compare("unfold", [(3, 8, 9)], kernel_size=3)
    compare("fold", [(12, 6)], output_size=(3, 4), kernel_size=2)


LAYERS: dict[str, tuple[tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = {
    "ConstantPad1d": ((2, 1.5), {}, (2, 3, 4)), "ConstantPad2d": (((1, 2, 0, 1), 0.5), {}, (2, 3, 4, 4)),
    "ConstantPad3d": ((1, 2.0), {}, (2, 1, 3, 3, 2)),
    "ReflectionPad1d": ((2,), {}, (2, 3, 4)), "ReflectionPad2d": (((1, 2, 0, 1),), {}, (2, 3, 4, 4)),
    "ReflectionPad3d": ((1,), {}, (2, 1, 3, 3, 2)),
    "ReplicationPad1d": ((2,), {}, (2, 3, 4)), "ReplicationPad2d": (((1, 2, 0, 1),), {}, (2, 3, 4, 4)),
    "ReplicationPad3d": ((1,), {}, (2, 1, 3, 3, 2)),
    "CircularPad1d": ((2,), {}, (2, 3, 4)), "CircularPad2d": (((1, 2, 0, 1),), {}, (2, 3, 4, 4)),
    "CircularPad3d": ((1,), {}, (2, 1, 3, 3, 2)),
    "ZeroPad1d": ((2,), {}, (2, 3, 4)), "ZeroPad2d": (((1, -2, 0, 1),), {}, (2, 3, 4, 4)),
    "ZeroPad3d": ((1,), {}, (2, 1, 3, 3, 2)),
    "Upsample": ((), {"scale_factor": 2, "mode": "bilinear", "align_corners": True}, (2, 3, 4, 4)),
    "UpsamplingNearest2d": ((), {"size": (5, 7)}, (2, 3, 4, 4)), "UpsamplingBilinear2d": ((), {"scale_factor": 2}, (2, 3, 4, 4)),
    "PixelShuffle": ((2,), {}, (2, 8, 3, 3)), "PixelUnshuffle": ((2,), {}, (2, 2, 4, 6)),
    "Fold": (((3, 4), 2), {}, (2, 12, 6)), "Unfold": ((2,), {"stride": 2}, (2, 3, 4, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    args, kw, shape = LAYERS[name]
    theirs, ours = getattr(torch.nn, name)(*args, **kw), getattr(tl.nn, name)(*args, **kw)
    assert repr(ours) == repr(theirs)
    x = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_allclose(ours(tl.tensor(x)).numpy(), theirs(torch.tensor(x)).numpy(), rtol=1e-10, atol=1e-10)
