"""tensorlib.utils.data is tensorlib.data, however a script imports it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAME = "import tensorlib.data, tensorlib.data.sampler; assert {} is tensorlib.data{}"


@pytest.mark.parametrize(
    ("line", "name", "ours"),
    [
        ("import tensorlib.utils.data", "tensorlib.utils.data", ""), ("import tensorlib.utils.data as loading", "loading", ""),
        ("from tensorlib.utils import data", "data", ""), ("import tensorlib as torch", "torch.utils.data", ""),
        ("from tensorlib.utils.data import DataLoader", "DataLoader", ".DataLoader"),
        ("from tensorlib.utils.data.sampler import BatchSampler", "BatchSampler", ".BatchSampler"),
        ("from tensorlib.utils.data.dataset import Dataset", "Dataset", ".Dataset"),
        ("from tensorlib.utils.data.dataloader import default_collate", "default_collate", ".default_collate"),
        ("import tensorlib as torch", "torch.utils.data.sampler.Sampler", ".Sampler"),
    ],
)  # fmt: skip
def test_one_module_under_both_names(line: str, name: str, ours: str) -> None:
    subprocess.run([sys.executable, "-c", f"{line}; {SAME.format(name, ours)}"], check=True)
