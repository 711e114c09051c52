"""How far the elementwise functions are off: what each row of native/elementwise.def states, on every instruction set.

The oracle of a float32 result is the float64 kernel, a billion times closer; that one is held against Python's `math`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.ops.table import TABLE
from tests.sources import ROOT

ROW = re.compile(r"^EW([12])\((\w+), FLOAT, .*, (\d+)\)$", re.MULTILINE)
ROWS = {name: (int(n), int(ulp)) for n, name, ulp in ROW.findall((ROOT / "native" / "elementwise.def").read_text())}
IN_MATH = [
    name
    for name, (n, _) in ROWS.items()
    if n == 1 and hasattr(math, name) and not isinstance(getattr(math, name)(0.5), int)
]
ULPS_FLOAT64 = 3


def everywhere(rng: np.random.Generator) -> np.ndarray:
    """float32 over all exponents, denser where functions bend, and the special values."""
    exponents = np.repeat(np.arange(256, dtype=np.uint32) << 23, 1000)
    bits = (
        rng.integers(0, 1 << 23, exponents.size, dtype=np.uint32)
        | rng.integers(0, 2, exponents.size, dtype=np.uint32) << 31
    )
    near = [rng.uniform(-r, r, 100_000).astype(np.float32) for r in (1.5, 20, 110)]
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 88.73, -87.34, -103.98, 2.0**-126, 2.0**-149], np.float32
    )
    return np.concatenate([(exponents | bits).view(np.float32), *near, special])


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of got's dtype; both NaN or both the same infinity: 0; NaN beside a number: infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = want.astype(got.dtype)
        unit = np.spacing(np.minimum(np.abs(rounded), np.finfo(got.dtype).max)).astype(want.dtype)
        distance = np.abs(got.astype(want.dtype) - want) / unit
    distance[(got == rounded) | (np.isnan(got) & np.isnan(want))] = 0
    return np.where(np.isnan(distance), np.inf, distance)


def worst(call: Callable[..., tl.Tensor], want: np.ndarray, *inputs: np.ndarray) -> str:
    """The largest distance, said so that a failure shows where."""
    distance = ulps(call(*map(tl.from_numpy, inputs)).numpy(), want)
    at = int(distance.argmax())
    return f"{distance[at]:.2f} ulp at {[float(x[at]) for x in inputs]}"


@pytest.mark.parametrize("name", ROWS)
def test_float32(name: str, isa: str, rng: np.random.Generator) -> None:
    n_in, stated = ROWS[name]
    call = TABLE[name].call
    assert call is not None
    inputs = [everywhere(rng) for _ in range(n_in)]
    if n_in == 2:
        inputs[1] = rng.permutation(inputs[1])
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = [x.astype(np.float64) for x in inputs]
    want = call(*map(tl.from_numpy, wide)).numpy()
    found = worst(call, want, *inputs)
    assert float(found.split()[0]) <= max(stated, 0.51), found


@pytest.mark.parametrize("name", IN_MATH)
def test_float64(name: str, isa: str, rng: np.random.Generator) -> None:
    def exact(x: float) -> float:
        try:
            return float(getattr(math, name)(x))
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf if x > 0 or name == "cosh" else -math.inf

    x = np.concatenate([rng.uniform(-3, 3, 3000), rng.uniform(-40, 40, 1000), 10.0 ** rng.uniform(-300, 2.8, 1000)])
    found = worst(lambda t: getattr(tl, name)(t), np.array([exact(v) for v in x]), x)
    assert float(found.split()[0]) <= ULPS_FLOAT64, found


@pytest.mark.parametrize("name", ROWS)
def test_a_result_depends_on_its_inputs_alone(name: str, isa: str, rng: np.random.Generator) -> None:
    """Not on where an element lies: in a vector's body or tail, aligned or not, strided, or one value for all."""
    call = TABLE[name].call
    assert call is not None
    n_in, _ = ROWS[name]
    for dtype in (np.float32, np.float64):
        a = [rng.uniform(0.1, 4, 131).astype(dtype) for _ in range(n_in)]
        whole = call(*map(tl.from_numpy, a)).numpy()
        for begin, end in [(0, 1), (0, 7), (1, 17), (3, 131), (64, 129)]:
            part = call(*(tl.from_numpy(x[begin:end]) for x in a)).numpy()
            assert part.tobytes() == whole[begin:end].tobytes()
        strided = call(*(tl.from_numpy(x[::3]) for x in a)).numpy()
        assert strided.tobytes() == np.ascontiguousarray(whole[::3]).tobytes()
        single = call(tl.from_numpy(a[0]), *(tl.from_numpy(x[5:6]) for x in a[1:])).numpy()
        assert single[5] == whole[5]
