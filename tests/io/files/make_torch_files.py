"""Wrote the .pt files of this folder, with torch 2.13.0: `python tests/io/files/make_torch_files.py`. Tensors count from 0, so tests know them."""

from __future__ import annotations

from pathlib import Path

import torch

FOLDER = Path(__file__).parent


def counted(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    n = int(torch.tensor(shape).prod())
    return torch.arange(n).reshape(shape).to(dtype)


def training() -> dict[str, object]:
    """A module, an optimizer and a schedule after a step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for p in model.parameters():
        p.data = counted(*p.shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25, amsgrad=True)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    model(counted(2, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "step": 1,
    }


def values() -> dict[str, object]:
    """Every dtype, views, shared memory, plain values."""
    names = [
        "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64", "complex128",
        "uint16", "uint32", "uint64",
    ]  # fmt: skip
    table = counted(4, 3)
    return {
        "dtypes": {name: counted(3, dtype=getattr(torch, name)) for name in names},
        "views": [table, table.T, table[1:, ::2], table[2], table[:0], table[0, 0], table[0].expand(2, 3)],
        "tied": (table, table),
        "parameter": torch.nn.Parameter(counted(2)),
        "leaf": counted(2).requires_grad_(),
        "plain": [
            None,
            True,
            False,
            -1,
            300,
            70000,
            1 << 40,
            -(1 << 70),
            0.5,
            "é\n",
            b"\0\xff",
            torch.Size([2, 3]),
            torch.bfloat16,
        ],
        3: {"empty": [(), [], {}, torch.zeros(0)]},
    }


if __name__ == "__main__":
    torch.save(training(), FOLDER / "training.pt")
    torch.save(values(), FOLDER / "values.pt")
    torch.save(values(), FOLDER / "values4.pt", pickle_protocol=4)
    torch.save(torch.nn.Linear(2, 2), FOLDER / "module.pt")
    torch.save({"x": counted(2)}, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), FOLDER / "script.pt")
