"""With a default device elsewhere, what the library makes for itself is where it is needed: data, lengths, counters and files in main memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn.utils.rnn import PackedSequence, pack_sequence, packed_collate, unpack_sequence

THERE = "reference"


@pytest.fixture(autouse=True)
def _default() -> None:
    tl.set_default_device(THERE)


def where(*tensors: tl.Tensor) -> set[str]:
    return {t.device.type for t in tensors}


def test_batches_are_put_together_in_main_memory() -> None:
    """So that any number of threads and processes makes the same ones."""
    examples = [(np.ones(2), 1, [1.5, 2.0]), (np.zeros(2), 0, [0.5, 1.0])]
    assert where(
        *(t for part in tl.data.default_collate(examples) for t in (part if isinstance(part, list) else [part]))
    ) == {"cpu"}
    numbers, label = tl.data.ragged_collate([([1, 2], 3), ([4], 5)])
    assert where(*numbers, label) == {"cpu"}
    (packed, _) = packed_collate([([1, 2], 3), ([4], 5)])
    assert where(packed.data, packed.batch_sizes, packed.lengths) == {"cpu"}
    moved = packed.to(THERE)
    assert where(moved.data, moved.sorted_indices, moved.unsorted_indices) == {THERE}
    assert where(moved.batch_sizes, moved.lengths) == {"cpu"}


def test_tensors_of_a_dataset_stay_where_they_are() -> None:
    data = tl.data.TensorDataset(tl.arange(10), tl.arange(10, device="cpu"))
    for loader in (tl.data.DataLoader(data, 4), tl.data.DataLoader(data, 4, shuffle=True, num_workers=2)):
        for x, y in loader:
            assert (x.device.type, y.device.type) == (THERE, "cpu") and x.tolist() == y.tolist()


def test_orders_are_the_same_on_every_device() -> None:
    def orders() -> list[object]:
        tl.manual_seed(0)
        weighted = tl.data.WeightedRandomSampler(tl.tensor([1.0, 2.0, 3.0]), 5)
        buckets = tl.data.BucketBatchSampler(tl.tensor([3, 1, 2, 5]), 2)
        samplers = (
            tl.data.SequentialSampler(range(5)),
            tl.data.RandomSampler(range(5)),
            tl.data.RandomSampler(range(5), True),
            weighted,
        )
        return [
            *map(list, samplers),
            [b.tolist() for b in map(np.asarray, buckets)],
            list(tl.data.random_split(range(5), [2, 3])[0]),
        ]

    here = orders()
    tl.set_default_device("cpu")
    assert orders() == here


def test_ragged_batches() -> None:
    """The layers for sequences, whose lengths stay in main memory, beside the same on the CPU."""

    def results(device: str) -> list[object]:
        tl.set_default_device(device)
        tl.manual_seed(0)
        packed = pack_sequence([tl.randn(n, 4) for n in (2, 3, 1)], enforce_sorted=False)
        out, _ = nn.LSTM(4, 4)(packed)
        context, _ = nn.DotAttention()(out, packed)
        crf = nn.CRF(4)
        loss = crf(context, [tl.arange(n) for n in (2, 3, 1)])
        loss.backward()
        attended = packed.attend(packed, packed, num_heads=2)
        assert where(loss, attended.data, packed.mean(), crf.transitions.grad) == {device}
        assert isinstance(out, PackedSequence)
        mask = tl.tensor([[True, True], [True, False], [False, False]])
        plain = [loss, crf.transitions.grad, *packed.softmax().mean(), *unpack_sequence(attended), packed.max()]
        decoded = [crf.decode(context), crf.decode(tl.zeros(3, 2, 4), mask)]
        return [[t.detach().cpu().numpy() for t in plain], decoded]

    (here, decoded), (there, decoded_there) = results("cpu"), results(THERE)
    assert decoded == decoded_there
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", THERE])
def test_layers_on_another_device_than_the_default(device: str) -> None:
    tl.set_default_device(THERE if device == "cpu" else "cpu")
    rows = tl.zeros(2, 3, 4, device=device)
    assert nn.LSTM(4, 2, device=device)(rows)[0].device == device
    assert nn.LSTMCell(4, 2, device=device)(rows[0])[0].device == device
    padding = tl.tensor([[False, True, False]] * 2, device=device)
    masks = {"key_padding_mask": padding, "attn_mask": tl.zeros(3, 3, device=device)}
    out, _ = nn.MultiheadAttention(4, 2, batch_first=True, device=device)(rows, rows, rows, **masks)
    assert out.device == device
    weight = tl.empty(4, 4, 3, device=device)
    for init in (nn.init.dirac_, nn.init.orthogonal_, lambda w: nn.init.eye_(w[:, :, 0])):
        assert init(weight).device == device
    sampled = nn.NegativeSamplingLoss(4, [1.0, 2.0], device=device)
    assert sampled(rows[0], tl.zeros(3, dtype=tl.int64, device=device)).device == device


@pytest.mark.parametrize("name", ["Adagrad", "Adam", "ASGD", "NAdam", "RMSprop"])
def test_optimizers_count_in_main_memory(name: str, tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    optimizer = getattr(tl.optim, name)(layer.parameters())

    def step() -> set[str]:
        layer(tl.ones(3, 2)).sum().backward()
        optimizer.step()
        return where(
            *(t for s in optimizer.state.values() for t in s.values() if isinstance(t, tl.Tensor) and t.ndim == 0)
        )

    assert step() == {"cpu"}
    tl.save(optimizer.state_dict(), tmp_path / "x")
    for place in (None, THERE):
        optimizer.load_state_dict(tl.load(tmp_path / "x", map_location=place))
        assert step() == {"cpu"}


def test_files(tmp_path: Path) -> None:
    base = tl.arange(6, dtype=tl.complex128, device="cpu")
    content = {
        "x": tl.ones(2),
        "b": tl.ones(2).bfloat16(),
        "half": base[:3],
        "all": base,
        "array": np.arange(3),
        "number": np.float64(2),
    }
    tl.save(content, tmp_path / "x")
    for mmap in (False, True):
        found = tl.load(tmp_path / "x", mmap=mmap)
        assert where(*(found[k] for k in ("x", "b", "half", "all"))) == {"cpu"} and found["x"].tolist() == [1, 1]
        moved = tl.load(tmp_path / "x", map_location=THERE, mmap=mmap)
        assert where(*(moved[k] for k in ("x", "b", "half", "all"))) == {THERE}
        moved["half"].fill_(7)  # views of one memory, there too
        assert moved["all"].tolist() == [7, 7, 7, 3, 4, 5]
        assert moved["array"].tolist() == [0, 1, 2] and moved["number"] == 2


def test_indices_may_stay_in_main_memory() -> None:
    x = tl.arange(6).reshape(3, 2)
    rows, mask = tl.tensor([2, 0], device="cpu"), tl.tensor([True, False, True], device="cpu")
    assert x[rows].tolist() == [[4, 5], [0, 1]] and x[mask, 1].tolist() == [1, 5] and x[rows[0]].tolist() == [4, 5]
    x[rows, 0] = -1
    assert x.tolist() == [[-1, 1], [2, 3], [-1, 5]]
    with pytest.raises(tl.DeviceError, match="cpu and reference"):
        tl.ones(3, device="cpu")[rows.to(THERE)]
