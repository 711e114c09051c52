"""The comparison with PyTorch: its random numbers follow from the test's id, as ours do."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _seeded_there(seed: int) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
