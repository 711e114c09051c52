"""Every layer on the GPU beside itself on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.layers import CASES, IDS, Layer, check_device


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), CASES, ids=IDS)
def test_layer(name: str, case: Layer, tmp_path: Path) -> None:
    check_device(case, "cuda", tmp_path)
