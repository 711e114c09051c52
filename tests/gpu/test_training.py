"""Whole training steps, and the ways tensors are changed: on the GPU as on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn.utils import rnn
from tests.optim.test_optimizers import ALL_SETTINGS, settings_id

Build = Callable[[], tuple[nn.Module, tuple[tl.Tensor, ...], Callable[[tl.Tensor], tl.Tensor]]]
F = nn.functional


def mlp() -> tuple[nn.Module, tuple[tl.Tensor, ...], Callable[[tl.Tensor], tl.Tensor]]:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.LayerNorm(16), nn.Dropout(0.3), nn.Linear(16, 5))
    y = tl.randint(0, 5, (8,))
    return model, (tl.randn(8, 12),), lambda out: F.cross_entropy(out, y)


def conv_net() -> tuple[nn.Module, tuple[tl.Tensor, ...], Callable[[tl.Tensor], tl.Tensor]]:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    y = tl.randint(0, 3, (4,))
    return model, (tl.randn(4, 2, 9, 9),), lambda out: F.cross_entropy(out, y)


class Tagger(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.embedding, self.rnn, self.head = (
            nn.Embedding(11, 6, padding_idx=0),
            cell(6, 7, 2, bidirectional=True),
            nn.Linear(14, 4),
        )

    def forward(self, tokens: tl.Tensor, lengths: tl.Tensor) -> tl.Tensor:
        packed = rnn.pack_padded_sequence(self.embedding(tokens), lengths.cpu(), enforce_sorted=False)
        return self.head(rnn.pad_packed_sequence(self.rnn(packed)[0])[0])


def tagger(cell: type[nn.Module]) -> Build:
    def build() -> tuple[nn.Module, tuple[tl.Tensor, ...], Callable[[tl.Tensor], tl.Tensor]]:
        model = Tagger(cell)
        return model, (tl.randint(0, 11, (6, 3)), tl.tensor([4, 6, 1])), lambda out: (out * out).mean()

    return build


class Gpt(nn.Module):
    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.token, self.norm = nn.Embedding(13, width), nn.LayerNorm(width)
        self.qkv, self.out, self.head = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            nn.Linear(width, 13, bias=False),
        )

    def forward(self, tokens: tl.Tensor) -> tl.Tensor:
        x = self.token(tokens)
        b, t, c = x.shape
        q, k, v = (
            p.view(b, t, self.heads, c // self.heads).transpose(1, 2) for p in self.qkv(self.norm(x)).split(c, 2)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(x + self.out(seen.transpose(1, 2).reshape(b, t, c)))


def gpt() -> tuple[nn.Module, tuple[tl.Tensor, ...], Callable[[tl.Tensor], tl.Tensor]]:
    y = tl.randint(0, 13, (2, 9))
    return Gpt(), (tl.randint(0, 13, (2, 9)),), lambda out: F.cross_entropy(out.view(18, 13), y.view(18))


BUILDS: dict[str, Build] = {
    "MLP": mlp, "conv": conv_net, "LSTM": tagger(nn.LSTM), "GRU": tagger(nn.GRU), "RNN": tagger(nn.RNN), "GPT": gpt,
}  # fmt: skip


@pytest.fixture
def there() -> Iterator[None]:
    tl.set_default_device("cuda")
    yield
    tl.set_default_device("cpu")


def trained(build: Build, device: str) -> tuple[list[float], dict[str, tl.Tensor]]:
    tl.set_default_device(device)
    try:
        tl.manual_seed(3)
        model, inputs, criterion = build()
        # eps: a key bias has no gradient but rounding, which Adam would scale up
        optimizer = tl.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3, weight_decay=0.1)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = criterion(model(*inputs))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        assert all(p.device == tl.device(device) for p in model.parameters())
        return losses, model.state_dict()
    finally:
        tl.set_default_device("cpu")


@pytest.mark.parametrize("name", BUILDS)
def test_training_steps(name: str) -> None:
    compare_training(name, "cuda")


def compare_training(name: str, device: str) -> None:
    """Weights, dropout's masks and data are the same random numbers on both, so losses and weights are."""
    here, there = (trained(BUILDS[name], device) for device in ("cpu", device))
    np.testing.assert_allclose(there[0], here[0], rtol=1e-4)
    assert here[0][0] != here[0][-1]
    for key, value in here[1].items():
        np.testing.assert_allclose(there[1][key].cpu().numpy(), value.numpy(), rtol=2e-3, atol=2e-4, err_msg=key)


@pytest.mark.parametrize(("kind", "options"), ALL_SETTINGS, ids=settings_id)
def test_optimizers(kind: type, options: dict[str, object], rng: np.random.Generator) -> None:
    values, grads = rng.standard_normal((5, 3)), rng.standard_normal((4, 5, 3))
    found = []
    for device in ("cpu", "cuda"):
        p = tl.tensor(values, dtype=tl.float32, device=device, requires_grad=True)
        optimizer = kind([p], **options)
        for g in grads:
            p.grad = tl.tensor(g, dtype=tl.float32, device=device)
            optimizer.step()
        found.append(p.detach().cpu().numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)


# ---- tensors ----
@pytest.mark.usefixtures("there")
def test_views_share_memory() -> None:
    base = tl.tensor([[1.0, 2.0], [3.0, 4.0]])
    row, column = base[1], base.t()[0]
    version = base._version
    row.mul_(10)
    assert base.tolist() == [[1, 2], [30, 40]] and column.tolist() == [1, 30]
    base[0, 0] = -1
    base[tl.tensor([1]), tl.tensor([1])] = 7.0
    assert column.tolist() == [-1, 30] and row.tolist() == [30, 7] and base._version > version
    kept = base.clone()
    base.zero_()
    assert kept.tolist() == [[-1, 2], [30, 7]] and not row.any()


@pytest.mark.usefixtures("there")
def test_writes_flow_into_gradients_and_overwritten_values_are_noticed() -> None:
    x, w = tl.tensor([1.0, 2.0, 3.0], requires_grad=True), tl.tensor(5.0, requires_grad=True)
    h = x * 2
    h[1:].mul_(w)
    h[0] = w
    h.sum().backward()
    assert x.grad.tolist() == [0, 10, 10] and w.grad.item() == 4 + 6 + 1
    y = x * 1
    z = y.sin()
    y.add_(1)
    with pytest.raises(tl.GradError, match="overwritten in place"):
        z.sum().backward()


def test_devices_do_not_mix() -> None:
    a, b = tl.ones(2), tl.ones(2, device="cuda")
    for mix in (lambda: a + b, lambda: tl.cat([a, b]), lambda: a.add_(b), lambda: tl.where(a > 0, a, b)):
        with pytest.raises(tl.DeviceError, match=r"cpu.*cuda|cuda.*cpu"):
            mix()
    assert (a + b.cpu()).tolist() == [2, 2]


# ---- a GPU that is not the current one ----
another = pytest.mark.skipif(tl.cuda.device_count() == 1, reason="there is one GPU")


@another
@pytest.mark.parametrize("name", ["conv", "LSTM", "GPT"])
def test_training_steps_on_another_device(name: str) -> None:
    compare_training(name, "cuda:1")


@another
@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16], ids=str)
def test_writes_on_another_device(dtype: tl.DType) -> None:
    x = tl.arange(6, dtype=dtype, device="cuda:1")
    x[1:].copy_(x[:-1])
    x[0] = 7
    x.view(2, 3)[1].mul_(x[:3])
    assert x.tolist() == [7, 0, 1, 14, 0, 4]


@another
def test_a_graph_of_one_device_takes_no_work_on_another() -> None:
    x = tl.zeros(2, device="cuda:1")
    step = tl.cuda.graph(lambda: x.add_(1))
    for _ in range(3):
        step()
    with pytest.raises(tl.errors.CaptureError, match=r"work on cuda:1: can not be captured .*test_training.py"):
        step()
    assert x.tolist() == [3, 3]


@another
def test_the_second_device() -> None:
    a = tl.ones(2, 3, device="cuda:1", requires_grad=True)
    (a.exp() @ tl.ones(3, 4, device="cuda:1")).sum().backward()
    assert a.grad is not None and a.grad.device == "cuda:1"
    np.testing.assert_allclose(a.grad.cpu().numpy(), 4 * np.exp(np.ones((2, 3))), rtol=1e-5)
    with pytest.raises(tl.DeviceError, match=r"cuda:0.*cuda:1|cuda:1.*cuda:0"):
        a + tl.ones(2, 3, device="cuda:0")
    assert (a.detach().to("cuda:0") + tl.ones(2, 3, device="cuda:0")).sum().item() == 12
