"""MultiheadAttention and Transformers: by their definition, equal in all layouts, and what they refuse."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib import nn

B, L, S, E, H = 3, 4, 6, 8, 2


def close(a: tl.Tensor, b: Any, tolerance: float = 1e-5) -> bool:
    return np.allclose(a.detach().numpy(), np.asarray(b), rtol=tolerance, atol=tolerance)


def head(x: np.ndarray[Any, Any], h: int) -> np.ndarray[Any, Any]:
    return x[..., h * E // H : (h + 1) * E // H]


def test_definition() -> None:
    layer = nn.MultiheadAttention(E, H, batch_first=True, dtype=tl.float64)
    query, memory = tl.randn(B, L, E, dtype=tl.float64), tl.randn(B, S, E, dtype=tl.float64)
    out, weights = layer(query, memory, memory, average_attn_weights=False)
    assert layer.in_proj_weight is not None and weights is not None
    w = layer.in_proj_weight.detach().numpy()
    q, k, v = (x.numpy() @ part.T for x, part in zip((query, memory, memory), np.split(w, 3), strict=True))
    heads = []
    for h in range(H):
        scores = head(q, h) @ head(k, h).swapaxes(1, 2) / math.sqrt(E // H)
        p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        assert close(weights[:, h], p)
        heads.append(p @ head(v, h))
    assert close(out, np.concatenate(heads, -1) @ layer.out_proj.weight.detach().numpy().T)
    mean = layer(query, memory, memory)[1]
    assert mean is not None and close(mean, weights.detach().mean(1).numpy())


@pytest.mark.parametrize("need_weights", [False, True])
def test_layouts_agree(need_weights: bool) -> None:
    tl.manual_seed(0)
    front, back = (nn.MultiheadAttention(E, H, batch_first=first) for first in (True, False))
    back.load_state_dict(front.state_dict())
    q, kv = tl.randn(B, L, E), tl.randn(B, S, E)
    hidden = tl.rand(B, S) < 0.3
    hidden[:, 0] = False
    a = front(q, kv, kv, hidden, need_weights)
    b = back(q.transpose(0, 1), kv.transpose(0, 1), kv.transpose(0, 1), hidden, need_weights)
    assert close(a[0], b[0].transpose(0, 1).detach()) and (a[1] is None) == (not need_weights)
    for i in range(B):
        alone = front(q[i], kv[i], kv[i], hidden[i], need_weights)
        assert close(alone[0], a[0][i].detach())
        if a[1] is not None and b[1] is not None and alone[1] is not None:
            assert close(alone[1], a[1][i].detach()) and close(b[1], a[1].detach())
    assert close(front(q, kv, kv, hidden, not need_weights)[0], a[0].detach())


def test_masks_say_what_is_hidden() -> None:
    layer = nn.MultiheadAttention(E, H, batch_first=True)
    x = tl.randn(B, S, E)
    later = tl.ones(S, S).triu(1) > 0
    padding = tl.tensor([[False] * 4 + [True] * 2] * B)
    out, weights = layer(x, x, x, padding, attn_mask=later)
    assert not weights[:, later].any() and not weights[..., 4:].any() and close(weights.sum(-1), np.ones((B, S)))
    added = tl.zeros(S, S).masked_fill(later, -math.inf)
    for mask in (later, added, later.expand(B * H, S, S)):
        for pad in (padding, tl.zeros(B, S).masked_fill(padding, -math.inf)):
            for need_weights in (False, True):
                assert close(layer(x, x, x, pad, need_weights, mask)[0], out.detach())
    causal = layer(x, x, x, need_weights=False, attn_mask=later, is_causal=True)[0]
    assert close(causal, layer(x, x, x, need_weights=False, attn_mask=later)[0].detach())


def test_a_query_without_keys_gets_zeros() -> None:
    layer = nn.MultiheadAttention(E, H, bias=False, batch_first=True)
    x = tl.randn(B, S, E)
    nothing = tl.tensor([[True] * S] + [[False] * S] * (B - 1))
    assert not layer(x, x, x, nothing, need_weights=False)[0][0].any()


def test_further_keys() -> None:
    layer = nn.MultiheadAttention(E, H, add_bias_kv=True, add_zero_attn=True, batch_first=True, kdim=5, vdim=3)
    assert list(layer.state_dict()) == [
        "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "bias_k", "bias_v", "out_proj.weight", "out_proj.bias",
    ]  # fmt: skip
    everything = tl.ones(B, S, dtype=tl.bool_)
    weights = layer(tl.randn(B, L, E), tl.randn(B, S, 5), tl.randn(B, S, 3), everything)[1]
    assert weights is not None and weights.shape == (B, L, S + 2)
    assert not weights[..., :S].any() and bool(weights[..., S:].all())


def test_dropout_of_weights() -> None:
    tl.manual_seed(0)
    layer = nn.MultiheadAttention(E, H, dropout=0.5, batch_first=True)
    x = tl.randn(8, 40, E)
    weights = layer(x, x, x)[1]
    assert weights is not None and abs((weights == 0).float().mean().item() - 0.25) < 0.03  # of both heads' mean
    for need_weights in (False, True):
        again = layer(x, x, x, need_weights=need_weights)[0]
        assert layer(x, x, x, need_weights=need_weights)[0].tolist() != again.tolist()
    layer.eval()
    assert close(layer(x, x, x)[0], layer(x, x, x, need_weights=False)[0].detach())


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(E, H, 16, 0.0, "gelu", batch_first=True, norm_first=norm_first)
    x = tl.randn(B, S, E)

    def attend(x: tl.Tensor) -> tl.Tensor:
        return layer.self_attn(x, x, x)[0]

    def forward(x: tl.Tensor) -> tl.Tensor:
        return layer.linear2(F.gelu(layer.linear1(x)))

    if norm_first:
        want = x + attend(layer.norm1(x))
        want = want + forward(layer.norm2(want))
    else:
        want = layer.norm1(x + attend(x))
        want = layer.norm2(want + forward(want))
    assert close(layer(x), want.detach())
    assert isinstance(layer.self_attn, nn.MultiheadAttention) and repr(layer).startswith("TransformerEncoderLayer(")


def test_stacks_copy_their_layer() -> None:
    layer = nn.TransformerDecoderLayer(E, H, 16, batch_first=True)
    stack = nn.TransformerDecoder(layer, 2, nn.LayerNorm(E)).eval()
    keys = list(stack.state_dict())
    assert (
        keys[0] == "layers.0.self_attn.in_proj_weight"
        and keys[-1] == "norm.bias"
        and len(keys) == 2 * len(layer.state_dict()) + 2
    )
    first, second = stack.layers[0], stack.layers[1]
    assert first is not layer and first.linear1.weight is not second.linear1.weight
    x, memory = tl.randn(B, L, E), tl.randn(B, S, E)
    assert close(stack(x, memory), nn.LayerNorm(E)(second(first(x, memory), memory)).detach())
    assert close(copy.deepcopy(stack)(x, memory), stack(x, memory).detach())


def test_encoder_sees_that_a_mask_is_causal() -> None:
    seen: list[bool] = []

    class Layer(nn.Module):
        def forward(
            self, src: tl.Tensor, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
        ) -> tl.Tensor:
            seen.append(is_causal)
            return src

    stack = nn.TransformerEncoder(Layer(), 1)
    x, later = tl.zeros(S, B, E), tl.ones(S, S).triu(1) > 0
    added = nn.Transformer.generate_square_subsequent_mask(S)
    for mask, said in (
        (later, None),
        (added, None),
        (added.double(), None),
        (later, True),
        (later, False),
        (~later, None),
        (added.T, None),
        (None, None),
    ):
        stack(x, mask, is_causal=said)
    assert seen == [True, True, True, True, False, False, False, False]


def test_transformer_learns_to_copy() -> None:
    tl.manual_seed(0)
    model = nn.Transformer(16, 2, 1, 1, 32, 0.0, batch_first=True)
    table, head_ = nn.Embedding(6, 16), nn.Linear(16, 6)
    places = tl.randn(7, 16)
    optimizer = tl.optim.Adam([*model.parameters(), *table.parameters(), *head_.parameters()], lr=3e-3)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    for _ in range(150):
        words = tl.randint(1, 6, (32, 6))
        shifted = tl.cat([tl.zeros(32, 1, dtype=tl.int64), words[:, :-1]], 1)
        out = model(table(words) + places[:6], table(shifted) + places[:6], tgt_mask=mask)
        loss = F.cross_entropy(head_(out).flatten(0, 1), words.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3  # chance would be 1.6


def attention(*shapes: tuple[int, ...], **how: Any) -> Any:
    return nn.MultiheadAttention(E, H)(*(tl.zeros(s) for s in shapes), **how)


Q, K = (L, B, E), (S, B, E)
REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("3 heads do not divide 8 features", lambda: nn.MultiheadAttention(8, 3)),
    ("embed_dim and num_heads must be positive, got 0 and 2", lambda: nn.MultiheadAttention(0, 2)),
    ("dropout must be a probability", lambda: nn.MultiheadAttention(8, 2, dropout=1.5)),
    (r"must all have 3 dimensions, or 2 without a batch, got \(4, 8\), \(6, 3, 8\)", lambda: attention((L, E), K, K)),
    (r"expected 8 features, got query \(4, 3, 7\)", lambda: attention((L, B, 7), K, K)),
    ("differ in batch or length", lambda: attention(Q, K, (5, B, E))),
    ("differ in batch or length", lambda: attention(Q, (S, 2, E), (S, 2, E))),
    (r"key_padding_mask must have shape \(B, S\), got \(6,\)", lambda: attention(Q, K, K, key_padding_mask=tl.zeros(S))),
    (r"key_padding_mask has shape \(3, 5\), expected \(3, 6\)", lambda: attention(Q, K, K, key_padding_mask=tl.zeros(B, 5))),
    (r"attn_mask has shape \(3, 4, 6\), expected \(6, 4, 6\)", lambda: attention(Q, K, K, attn_mask=tl.zeros(B, L, S))),
    ("is_causal says what attn_mask is", lambda: attention(Q, K, K, is_causal=True)),
    ("activation must be 'relu', 'gelu' or a function, got 'tanh'", lambda: nn.TransformerEncoderLayer(8, 2, activation="tanh")),
    ("must have the same batch", lambda: nn.Transformer(8, 2, 1, 1, 8)(tl.zeros(4, 3, 8), tl.zeros(4, 2, 8))),
    ("expected 8 features", lambda: nn.Transformer(8, 2, 1, 1, 8)(tl.zeros(4, 3, 8), tl.zeros(4, 3, 7))),
]  # fmt: skip


@pytest.mark.parametrize(("message", "call"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mask_is_bool_or_of_the_scores_dtype() -> None:
    with pytest.raises(TypeError, match="attn_mask is int64, expected bool or float32"):
        attention(Q, K, K, attn_mask=tl.zeros(L, S, dtype=tl.int64))
