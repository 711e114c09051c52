"""Every layer and how it is called: what tests of all layers walk. A layer is made by a function of `nn`, ours or PyTorch's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tensorlib as tl


@dataclass(frozen=True)
class Layer:
    """How one layer is made and called. `shapes` draw float inputs; `given` are further ones, as they are."""

    make: Callable[[Any], Any]
    shapes: tuple[tuple[int, ...], ...] = ()
    given: tuple[Any, ...] = ()
    first: bool = False  # `given` come first
    positive: bool = False  # inputs in (0, 1)
    random: bool = False  # in training: only evaluation is compared
    values_only: bool = False
    call: Callable[..., Any] | None = None
    tolerance: float = 2e-5


def layer(make: Callable[[Any], Any], *shapes: tuple[int, ...], **how: Any) -> Layer:
    return Layer(make, shapes, **how)


def simple(name: str, *args: Any, **how: Any) -> Layer:
    """A layer without parameters, of a 4 x 6 input."""
    return layer(lambda nn: getattr(nn, name)(*args), (4, 6), **how)


def pool(name: str, nd: int, *args: Any, **how: Any) -> Layer:
    return layer(lambda nn: getattr(nn, name)(*args), (2, 4, 9, 8, 7)[: nd + 2], **how)


def loss(name: str, *shapes: tuple[int, ...], **how: Any) -> Layer:
    return layer(lambda nn: getattr(nn, name)(), *shapes, **how)


IMAGE, VOLUME = (2, 4, 6, 5), (2, 4, 5, 4, 6)
CLASSES, SIGNS = np.array([0, 2, 1, 3, 3]), np.array([1.0, -1.0, 1.0, -1.0, 1.0], np.float32)
SAMPLES2 = np.random.default_rng(1).random((2, 4, 2), np.float32)
SAMPLES3 = np.random.default_rng(2).random((2, 4, 3), np.float32)


def of(nn: Any, array: Any) -> Any:
    """The array as a tensor of the library that nn belongs to."""
    return importlib.import_module(nn.__name__.rpartition(".")[0]).tensor(array)


def indices(nd: int) -> Callable[..., Any]:
    """An unpooling layer, fed by its pool."""

    def call(layer: Any, x: Any) -> Any:
        lib = importlib.import_module(type(x).__module__.partition(".")[0])
        return layer(*getattr(lib.nn.functional, f"max_pool{nd}d")(x, 2, return_indices=True))

    return call


def parameters(nn: Any, container: str) -> Any:
    made = [nn.Parameter(of(nn, np.ones(shape, np.float32))) for shape in ((6, 3), (2,))]
    return made if container == "ParameterList" else dict(zip("ab", made, strict=True))


def keys(container: Any) -> Any:
    return container.keys() if hasattr(container, "keys") else range(len(container))


LAYERS: dict[str, list[Layer]] = {
    # without parameters
    **{
        name: [simple(name)]
        for name in (
            "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid", "Mish",
            "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Flatten", "CosineSimilarity",
            "PairwiseDistance",
        )
    },
    "Softmax": [simple("Softmax", 1)],
    "LogSoftmax": [simple("LogSoftmax", 1)],
    "Softmin": [simple("Softmin", 0)],
    "Softmax2d": [layer(lambda nn: nn.Softmax2d(), IMAGE), layer(lambda nn: nn.Softmax2d(), IMAGE[1:])],
    "Threshold": [simple("Threshold", 0.1, 20.0)],
    "RReLU": [simple("RReLU", random=True)],
    **{
        name: [layer(lambda nn, name=name: getattr(nn, name)(0.4), shape, random=True)]
        for name, shape in (
            ("Dropout", (4, 6)), ("Dropout1d", (2, 4, 6)), ("Dropout2d", IMAGE), ("Dropout3d", VOLUME), ("AlphaDropout", (4, 6)),
            ("FeatureAlphaDropout", IMAGE),
        )
    },
    "Unflatten": [simple("Unflatten", 1, (2, 3))],
    "ChannelShuffle": [layer(lambda nn: nn.ChannelShuffle(2), IMAGE)],
    "PixelShuffle": [layer(lambda nn: nn.PixelShuffle(2), IMAGE)],
    "PixelUnshuffle": [layer(lambda nn: nn.PixelUnshuffle(2), (2, 4, 6, 4))],
    "Fold": [layer(lambda nn: nn.Fold((5, 6), (2, 3), padding=1), (2, 12, 36))],
    "Unfold": [layer(lambda nn: nn.Unfold((2, 3), stride=2), IMAGE)],
    "Upsample": [layer(lambda nn: nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=False), IMAGE)],
    "UpsamplingBilinear2d": [layer(lambda nn: nn.UpsamplingBilinear2d(scale_factor=2), IMAGE)],
    "UpsamplingNearest2d": [layer(lambda nn: nn.UpsamplingNearest2d(scale_factor=2), IMAGE)],
    # of two inputs
    "Bilinear": [
        layer(lambda nn: nn.Bilinear(3, 5, 4), (6, 2, 3), (6, 2, 5)),
        layer(lambda nn: nn.Bilinear(3, 5, 4, bias=False), (3,), (5,)),
    ],
    # linear maps and tables
    "Linear": [layer(lambda nn: nn.Linear(6, 5), (2, 4, 6)), layer(lambda nn: nn.Linear(6, 5, bias=False), (6,))],
    "Embedding": [layer(lambda nn: nn.Embedding(7, 3, padding_idx=-2), given=(np.array([[1, 5, 6], [0, 1, 5]]),))],
    "EmbeddingBag": [
        layer(lambda nn, mode=mode: nn.EmbeddingBag(7, 3, mode=mode), given=(np.array([[1, 5, 6], [0, 1, 5]]),))
        for mode in ("sum", "mean", "max")
    ],
    "PReLU": [layer(lambda nn: nn.PReLU(), (4, 6)), layer(lambda nn: nn.PReLU(4, 0.1), IMAGE)],
    # convolutions
    **{
        f"Conv{'Transpose' * t}{nd}d": [
            layer(
                lambda nn, nd=nd, t=t: getattr(nn, f"Conv{'Transpose' * t}{nd}d")(4, 6, 3, stride=2, padding=1, groups=2),
                (2, 4, 5, 4, 6)[: nd + 2],
            )
        ]
        for nd in (1, 2, 3)
        for t in (0, 1)
    },
    # pads and pools
    **{
        f"{kind}Pad{nd}d": [
            layer(
                lambda nn, kind=kind, nd=nd: getattr(nn, f"{kind}Pad{nd}d")(2, *(0.5,) * (kind == "Constant")),
                (2, 4, 5, 4, 6)[: nd + 2],
            )
        ]
        for nd in (1, 2, 3)
        for kind in ("Circular", "Constant", "Reflection", "Replication", "Zero")
    },
    **{
        f"{kind}{nd}d": [pool(f"{kind}{nd}d", nd, *args)]
        for nd in (1, 2, 3)
        for kind, args in (
            ("MaxPool", (3, 2, 1)), ("AvgPool", (3, 2, 1)), ("LPPool", (2.0, 3)), ("AdaptiveAvgPool", (3,)), ("AdaptiveMaxPool", (3,)),
        )
    },
    **{
        f"MaxUnpool{nd}d": [layer(lambda nn, nd=nd: getattr(nn, f"MaxUnpool{nd}d")(2), (2, 4, 8, 6, 4)[: nd + 2], call=indices(nd))]
        for nd in (1, 2, 3)
    },
    "FractionalMaxPool2d": [
        layer(lambda nn: nn.FractionalMaxPool2d(3, (5, 3), return_indices=True, _random_samples=of(nn, SAMPLES2)), (2, 4, 11, 8)),
        layer(lambda nn: nn.FractionalMaxPool2d((2, 3), output_ratio=(0.5, 0.7), _random_samples=of(nn, SAMPLES2[:1])), (4, 11, 13)),
    ],
    "FractionalMaxPool3d": [
        layer(lambda nn: nn.FractionalMaxPool3d(2, (4, 3, 2), return_indices=True, _random_samples=of(nn, SAMPLES3)), (2, 4, 9, 7, 8)),
        layer(lambda nn: nn.FractionalMaxPool3d(2, output_ratio=0.6, _random_samples=of(nn, SAMPLES3)), (2, 4, 8, 6, 10)),
    ],
    # norms; more of them in test_norms.py
    "SyncBatchNorm": [layer(lambda nn: nn.SyncBatchNorm(4), (2, 4, 5))],
    **{f"BatchNorm{nd}d": [layer(lambda nn, nd=nd: getattr(nn, f"BatchNorm{nd}d")(4), (2, 4, 5, 4, 6)[: nd + 2])] for nd in (1, 2, 3)},
    **{
        f"InstanceNorm{nd}d": [
            layer(
                lambda nn, nd=nd: getattr(nn, f"InstanceNorm{nd}d")(4, affine=True, track_running_stats=True),
                (2, 4, 5, 4, 6)[: nd + 2],
            )
        ]
        for nd in (1, 2, 3)
    },
    "GroupNorm": [layer(lambda nn: nn.GroupNorm(2, 4), IMAGE)],
    "LayerNorm": [layer(lambda nn: nn.LayerNorm((6, 5)), IMAGE)],
    "RMSNorm": [layer(lambda nn: nn.RMSNorm(5), IMAGE)],
    "LocalResponseNorm": [
        layer(lambda nn, size=size: nn.LocalResponseNorm(size, 0.1, 0.6, 1.5), shape)
        for size, shape in ((1, IMAGE), (2, IMAGE), (5, (2, 4, 3)), (3, VOLUME))
    ],
    # PyTorch's keeps channel 0 in every window from channel (size + 1) / 2 on, and its gradient is that of a shifted window.
    "CrossMapLRN2d": [layer(lambda nn: nn.CrossMapLRN2d(5, 0.1, 0.6, 1.5), (2, 3, 3, 2), values_only=True)],
    # recurrent; more of them in test_recurrent.py
    **{
        name: [layer(lambda nn, name=name: getattr(nn, name)(4, 5, num_layers=2, bidirectional=True), (6, 3, 4))]
        for name in ("RNN", "GRU", "LSTM")
    },
    **{name: [layer(lambda nn, name=name: getattr(nn, name)(4, 5), (3, 4))] for name in ("RNNCell", "GRUCell", "LSTMCell")},
    # attention; more of it in test_transformer.py
    "MultiheadAttention": [
        layer(lambda nn: nn.MultiheadAttention(8, 2), (5, 3, 8), (6, 3, 8), (6, 3, 8)),
        layer(
            lambda nn: nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True, kdim=5, vdim=7, batch_first=True),
            (3, 5, 8), (3, 6, 5), (3, 6, 7),
        ),
        layer(lambda nn: nn.MultiheadAttention(8, 4, bias=False), (5, 8), call=lambda m, x: m(x, x, x, need_weights=False)),
        layer(lambda nn: nn.MultiheadAttention(8, 2, dropout=0.3), (5, 3, 8), (6, 3, 8), (6, 3, 8), random=True),
    ],
    "TransformerEncoderLayer": [
        layer(lambda nn: nn.TransformerEncoderLayer(8, 2, 12, 0.0), (5, 3, 8)),
        layer(lambda nn: nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", 1e-3, True, True, False), (3, 5, 8)),
        layer(lambda nn: nn.TransformerEncoderLayer(8, 2, 12, 0.3), (5, 3, 8), random=True),
    ],
    "TransformerDecoderLayer": [
        layer(lambda nn: nn.TransformerDecoderLayer(8, 2, 12, 0.0), (5, 3, 8), (6, 3, 8)),
        layer(lambda nn: nn.TransformerDecoderLayer(8, 2, 12, 0.0, "gelu", 1e-3, True, True, False), (3, 5, 8), (3, 6, 8)),
    ],
    "TransformerEncoder": [
        layer(lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, 0.0), 2, nn.LayerNorm(8)), (5, 3, 8)),
    ],
    "TransformerDecoder": [
        layer(lambda nn: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12, 0.0), 2), (5, 3, 8), (6, 3, 8)),
    ],
    "Transformer": [layer(lambda nn: nn.Transformer(8, 2, 2, 2, 12, 0.0, batch_first=True), (3, 5, 8), (3, 6, 8))],
    # containers
    "Sequential": [layer(lambda nn: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (4, 6))],
    "ModuleList": [
        layer(lambda nn: nn.ModuleList([nn.Linear(6, 5), nn.Linear(5, 4)]), (4, 6), call=lambda m, x: m[1](m[0](x)))
    ],
    "ModuleDict": [
        layer(lambda nn: nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.Linear(5, 4)}), (4, 6), call=lambda m, x: m["b"](m["a"](x)))
    ],
    **{
        name: [layer(lambda nn, name=name: getattr(nn, name)(parameters(nn, name)), (4, 6), call=lambda m, x: x @ m[next(iter(keys(m)))])]
        for name in ("ParameterList", "ParameterDict")
        if hasattr(tl.nn, name)
    },
    # losses; more of them in test_losses.py
    **{
        name: [loss(name, (5, 4), (5, 4), positive=True)]
        for name in (
            "BCELoss", "BCEWithLogitsLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "MultiLabelSoftMarginLoss", "PoissonNLLLoss",
            "SmoothL1Loss",
        )
    },
    **{name: [loss(name, (5, 4), given=(CLASSES,))] for name in ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")},
    "NLLLoss2d": [loss("NLLLoss2d", (2, 4, 3, 2), given=(np.arange(12).reshape(2, 3, 2) % 4,))],
    "MultiLabelMarginLoss": [loss("MultiLabelMarginLoss", (2, 4), given=(np.array([[3, 0, -1, 1], [2, -1, 0, 0]]),))],
    "SoftMarginLoss": [loss("SoftMarginLoss", (5,), given=(SIGNS,))],
    "HingeEmbeddingLoss": [loss("HingeEmbeddingLoss", (5,), given=(SIGNS,))],
    "MarginRankingLoss": [loss("MarginRankingLoss", (5,), (5,), given=(SIGNS,))],
    "CosineEmbeddingLoss": [loss("CosineEmbeddingLoss", (5, 4), (5, 4), given=(SIGNS,))],
    "GaussianNLLLoss": [loss("GaussianNLLLoss", (5, 4), (5, 4), (5, 4), positive=True)],
    "TripletMarginLoss": [loss("TripletMarginLoss", (5, 4), (5, 4), (5, 4))],
    "TripletMarginWithDistanceLoss": [loss("TripletMarginWithDistanceLoss", (5, 4), (5, 4), (5, 4))],
    "AdaptiveLogSoftmaxWithLoss": [
        layer(lambda nn: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], 2.0), (6, 8), given=(np.array([0, 5, 2, 11, 7, 1]),)),
        layer(lambda nn: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3], head_bias=True), (6, 8), given=(np.array([0, 1, 2, 2, 1, 0]),)),
        layer(lambda nn: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7]), (8,), given=(np.array(5),)),
        layer(lambda nn: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7]), (6, 8), call=lambda m, x: m.log_prob(x)),
        layer(lambda nn: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7]), (60, 8), call=lambda m, x: m.predict(x), values_only=True),
    ],
    "LinearCrossEntropyLoss": [
        layer(lambda nn: nn.LinearCrossEntropyLoss(8, 4), (5, 8), given=(CLASSES,)),
        layer(
            lambda nn: nn.LinearCrossEntropyLoss(
                8, 4, bias=True, weight=of(nn, np.array([1, 2, 0.5, 3], np.float32)), ignore_index=2, label_smoothing=0.1, reduction="none"
            ),
            (5, 8), given=(CLASSES,),
        ),
        layer(lambda nn: nn.LinearCrossEntropyLoss(8, 4, out_features=(3, 2), bias=True), (2, 8), given=(np.arange(12).reshape(2, 3, 2) % 4,)),
        layer(lambda nn: nn.LinearCrossEntropyLoss(8, 4, out_features=(3,)), (2, 8), (2, 4, 3)),
        layer(lambda nn: nn.LinearCrossEntropyLoss(8, 4, options=nn.LinearCrossEntropyOptions()), (8,), given=(np.array(3),)),
    ],
    "CTCLoss": [
        loss(
            "CTCLoss", (6, 2, 4), given=(np.array([[1, 2], [3, 3]]), np.array([6, 5]), np.array([2, 1])),
            call=lambda m, x, *y: m(x.log_softmax(-1), *y),
        )
    ],
}  # fmt: skip
LAYERS["CosineSimilarity"] = [layer(lambda nn: nn.CosineSimilarity(), (4, 6), (4, 6))]
LAYERS["PairwiseDistance"] = [layer(lambda nn: nn.PairwiseDistance(3.0, keepdim=True), (4, 6), (4, 6))]

CASES = [(name, case) for name, cases in LAYERS.items() for case in cases]
IDS = [f"{name}-{cases.index(case)}" for name, cases in LAYERS.items() for case in cases]


def state(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}


def same(got: dict[str, Any], want: dict[str, Any], tolerance: float = 0.0) -> None:
    assert list(got) == list(want)
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


def drawn_inputs(case: Layer, rng: np.random.Generator) -> list[np.ndarray[Any, Any]]:
    draw = (lambda s: rng.uniform(0.05, 0.95, s)) if case.positive else rng.standard_normal
    return [np.asarray(draw(s), np.float32) for s in case.shapes]


def flat(out: Any) -> list[Any]:
    return [t for part in out for t in flat(part)] if isinstance(out, (tuple, list)) else [] if out is None else [out]


def run(lib: Any, model: Any, case: Layer, inputs: list[np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Results and gradients by name, of a backward from all floating results."""
    leaves = [lib.tensor(x, requires_grad=True) for x in inputs]
    given = [lib.tensor(x) if isinstance(x, np.ndarray) else x for x in case.given]
    outs = flat((case.call or (lambda m, *a: m(*a)))(model, *(given + leaves if case.first else leaves + given)))
    if case.values_only:
        return {f"out {i}": o.detach().cpu().numpy() for i, o in enumerate(outs)}
    floating = [o for o in outs if o.requires_grad]
    rng = np.random.default_rng(3)
    sum((o * lib.tensor(rng.standard_normal(tuple(o.shape)).astype(np.float32))).sum() for o in floating).backward()
    found = {f"out {i}": o.detach().cpu().numpy() for i, o in enumerate(outs)}
    found |= {f"grad of input {i}": x.grad.cpu().numpy() for i, x in enumerate(leaves) if x.grad is not None}
    found |= {f"grad of {n}": p.grad.cpu().numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def check_device(case: Layer, device: str, folder: Path) -> None:
    """The layer there beside itself on the CPU: first values, results, gradients and buffers, in training and in evaluation; and its weights
    after a way through a file."""
    found: list[dict[str, Any]] = []
    for where in ("cpu", device):
        tl.set_default_device(where)
        tl.manual_seed(0)
        model, rng, seen = case.make(tl.nn), np.random.default_rng(0), {}
        assert {t.device.type for t in model.state_dict().values()} <= {where}
        for training in (True, False):
            model.train(training)
            seen |= {f"{k}, first": v for k, v in state(model).items()} if training else {}
            seen |= {f"{k}, training {training}": v for k, v in run(tl, model, case, drawn_inputs(case, rng)).items()}
        seen |= state(model)
        found.append(seen)
    same(found[1], found[0], case.tolerance)
    tl.save(model.state_dict(), folder / "state")
    other = case.make(tl.nn)
    other.load_state_dict(tl.load(folder / "state"))
    same(state(other), state(model))
