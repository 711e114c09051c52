"""MultiheadAttention and the Transformer's parts beside PyTorch's, with all kinds of masks and options: values, weights, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning"),  # theirs, of mixed kinds of masks
]

B, L, S, E, H = 3, 5, 7, 8, 2


def mask_of(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Of no row all is hidden: there PyTorch gives NaN in one of its ways."""
    if kind == "float":
        return rng.standard_normal(shape).astype(np.float32)
    hidden = rng.random(shape) < 0.4
    hidden[..., 0] = False
    return hidden if kind == "bool" else np.where(hidden, -np.inf, 0).astype(np.float32)


def copied(make: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    theirs, ours = make(torch.nn), make(tl.nn)
    rng = np.random.default_rng(5)
    for p in theirs.parameters():  # biases that are not zero
        p.data = torch.from_numpy(rng.standard_normal(tuple(p.shape)).astype(np.float32) * 0.3)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    return theirs, ours


def compare(make: Any, inputs: list[Any], call: Any, **given: Any) -> None:
    """`given` are arrays or settings, handed on by name."""
    theirs, ours = copied(make)
    found = []
    for lib, model in ((torch, theirs), (tl, ours)):
        leaves = [lib.tensor(x, requires_grad=True) for x in inputs]
        extra = {n: lib.tensor(v) if isinstance(v, np.ndarray) else v for n, v in given.items()}
        outs = [o for o in call(model, *leaves, **extra) if o is not None]
        rng = np.random.default_rng(1)
        sum((o * lib.tensor(rng.standard_normal(tuple(o.shape)).astype(np.float32))).sum() for o in outs).backward()
        made = {f"out {i}": o for i, o in enumerate(outs)} | {f"input {i}": x.grad for i, x in enumerate(leaves)}
        made |= {n: p.grad for n, p in model.named_parameters()}
        found.append({n: v.detach().numpy() for n, v in made.items()})
    assert list(found[0]) == list(found[1])
    for name, want in found[0].items():
        np.testing.assert_allclose(found[1][name], want, rtol=2e-4, atol=2e-5, err_msg=name)


MASKS = [
    (attn, padding)
    for attn in (None, "bool", "float", "infinite", "each bool", "each float")
    for padding in (None, "bool", "infinite")
]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "bias_kv": {"add_bias_kv": True},
    "zero": {"add_zero_attn": True, "batch_first": True},
    "both, other sizes": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 5, "vdim": 6},
    "no bias": {"bias": False},
}


def inputs_of(settings: dict[str, Any], same: str = "") -> list[Any]:
    rng = np.random.default_rng(0)
    first = settings.get("batch_first", False)
    sizes = ((L, E), (S, settings.get("kdim", E)), (S, settings.get("vdim", E)))
    return [rng.standard_normal((B, n, d) if first else (n, B, d)).astype(np.float32) for n, d in sizes]


def masks(attn: str | None, padding: str | None, length: int = L) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    given = {}
    if attn:
        shape = (B * H, length, S) if attn.startswith("each") else (length, S)
        given["attn_mask"] = mask_of(attn.removeprefix("each "), shape, rng)
    if padding:
        given["key_padding_mask"] = mask_of(padding, (B, S), rng)
    return given


@pytest.mark.parametrize("weights", [False, True, "each"], ids=["no weights", "mean weights", "each weight"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("attn", "padding"), MASKS, ids=str)
def test_attention(settings: str, attn: str | None, padding: str | None, weights: Any) -> None:
    chosen = SETTINGS[settings]
    compare(
        lambda nn: nn.MultiheadAttention(E, H, **chosen),
        inputs_of(chosen),
        lambda m, *x, **given: m(*x, **given),
        need_weights=bool(weights),
        average_attn_weights=weights != "each",
        **masks(attn, padding),
    )


@pytest.mark.parametrize("first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("shared", ["all", "keys and values"])
def test_shared_operands(shared: str, weights: bool, first: bool) -> None:
    settings = {"batch_first": first}
    query, memory, _ = inputs_of(settings)
    if shared == "all":
        compare(
            lambda nn: nn.MultiheadAttention(E, H, **settings), [query], lambda m, x: m(x, x, x, need_weights=weights)
        )
    else:
        compare(
            lambda nn: nn.MultiheadAttention(E, H, **settings),
            [query, memory],
            lambda m, q, k: m(q, k, k, need_weights=weights),
        )


@pytest.mark.parametrize("weights", [False, True])
def test_unbatched(weights: bool) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, E)).astype(np.float32) for n in (L, S, S))
    for attn in (None, mask_of("bool", (L, S), rng), mask_of("float", (H, L, S), rng)):
        for padding in (None, mask_of("bool", (S,), rng)):
            given = {n: m for n, m in (("attn_mask", attn), ("key_padding_mask", padding)) if m is not None}
            compare(
                lambda nn: nn.MultiheadAttention(E, H),
                [q, k, v],
                lambda m, *x, **g: m(*x, **g),
                need_weights=weights,
                **given,
            )


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("padding", [None, "bool"], ids=str)
def test_causal(padding: str | None, weights: bool) -> None:
    x = inputs_of({})[1]
    later = np.triu(np.ones((S, S), bool), 1)
    given = masks(None, padding)
    for mask in (later, np.where(later, -np.inf, 0).astype(np.float32)):
        compare(
            lambda nn: nn.MultiheadAttention(E, H),
            [x],
            lambda m, x, **g: m(x, x, x, **g),
            attn_mask=mask,
            is_causal=True,
            need_weights=weights,
            **given,
        )


def test_functional_with_static_keys() -> None:
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal(s).astype(np.float32)
        for s in ((L, B, E), (S, B, E), (S, B, E), (B * H, 4, E // H), (B * H, 4, E // H))
    ]
    weights = [rng.standard_normal(s).astype(np.float32) for s in ((3 * E, E), (3 * E,), (E, E), (E,))]

    def call(lib: Any) -> list[Any]:
        (q, k, v, sk, sv), (w, b, ow, ob) = ([lib.tensor(a) for a in group] for group in (arrays, weights))
        out, seen = lib.nn.functional.multi_head_attention_forward(
            q, k, v, E, H, w, b, None, None, False, 0.0, ow, ob, static_k=sk, static_v=sv, average_attn_weights=False
        )
        return [out.numpy(), seen.numpy()]

    for got, want in zip(call(tl), call(torch), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


LAYER_SETTINGS = {
    "after": {},
    "first": {"norm_first": True},
    "batch first, gelu": {"batch_first": True, "activation": "gelu"},
    "batch first, first, own activation": {"batch_first": True, "norm_first": True, "activation": lambda x: x * x},
    "no bias": {"bias": False},
}


def sequence(length: int, first: bool, seed: int) -> Any:
    shape = (B, length, E) if first else (length, B, E)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("masked", [False, True], ids=["bare", "masked"])
@pytest.mark.parametrize("name", LAYER_SETTINGS)
def test_stacks(name: str, masked: bool) -> None:
    settings = LAYER_SETTINGS[name]
    first = settings.get("batch_first", False)
    src, tgt = sequence(S, first, 0), sequence(L, first, 1)
    rng = np.random.default_rng(4)
    given = {}
    if masked:
        given = {
            "src_mask": mask_of("bool", (S, S), rng), "tgt_mask": np.where(np.triu(np.ones((L, L), bool), 1), -np.inf, 0).astype(np.float32),
            "memory_mask": mask_of("infinite", (L, S), rng), "src_key_padding_mask": mask_of("bool", (B, S), rng),
            "tgt_key_padding_mask": mask_of("infinite", (B, L), rng), "memory_key_padding_mask": mask_of("bool", (B, S), rng),
        }  # fmt: skip
    compare(
        lambda nn: nn.Transformer(E, H, 2, 2, 12, 0.0, **settings), [src, tgt], lambda m, *x, **g: [m(*x, **g)], **given
    )
    if not masked:
        compare(lambda nn: nn.Transformer(E, H, 1, 1, 12, 0.0, **settings), [src[0], tgt[0]], lambda m, *x: [m(*x)])


def test_generated_mask() -> None:
    ours, theirs = (lib.nn.Transformer.generate_square_subsequent_mask(4) for lib in (tl, torch))
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert ours.dtype is tl.float32


@pytest.mark.parametrize("causal", [None, True, False], ids=str)
def test_encoder_with_a_causal_mask(causal: bool | None) -> None:
    src = sequence(S, True, 0)
    later = np.triu(np.ones((S, S), bool), 1)
    for mask in (later, np.where(later, -np.inf, 0).astype(np.float32)):
        compare(
            lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(E, H, 12, 0.0, batch_first=True), 2, nn.LayerNorm(E)),
            [src], lambda m, x, **g: [m(x, **g)], mask=mask, is_causal=causal,
        )  # fmt: skip
