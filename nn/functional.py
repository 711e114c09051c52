"""The functions behind the layers, under PyTorch's names: `import tensorlib.nn.functional as F`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import classes, distances, heads, margins, masks, pointwise, spatial
from tensorlib.nn.classes import *  # noqa: F403
from tensorlib.nn.distances import *  # noqa: F403
from tensorlib.nn.heads import *  # noqa: F403
from tensorlib.nn.margins import *  # noqa: F403
from tensorlib.nn.masks import *  # noqa: F403
from tensorlib.nn.pointwise import *  # noqa: F403
from tensorlib.nn.spatial import *  # noqa: F403
from tensorlib.nn.utils.rnn import PackedSequence, pad_packed_sequence

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "affine_grid", "avg_pool1d", "avg_pool2d", "avg_pool3d", "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits", "conv1d",
    "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "cross_entropy", "ctc_loss", "dropout",
    "embedding", "embedding_bag", "fold", "gelu", "grid_sample", "group_norm", "hardshrink", "huber_loss", "instance_norm", "interpolate", "kl_div",
    "l1_loss", "layer_norm", "linear", "log_softmax", "logsigmoid", "lp_pool1d", "lp_pool2d", "lp_pool3d", "max_pool1d", "max_pool2d", "max_pool3d",
    "max_unpool1d", "max_unpool2d", "max_unpool3d", "mse_loss", "nll_loss", "one_hot", "pad", "pixel_shuffle", "pixel_unshuffle",
    "prelu", "rms_norm", "scaled_dot_product_attention", "sigmoid", "smooth_l1_loss", "softmax", "softplus", "softshrink", "softsign", "tanh",
    "tanhshrink", "unfold",
]  # fmt: skip
__all__ += classes.__all__
__all__ += distances.__all__
__all__ += heads.__all__
__all__ += margins.__all__
__all__ += masks.__all__
__all__ += pointwise.__all__
__all__ += spatial.__all__

# These are the operations themselves.
adaptive_avg_pool1d = tl.adaptive_avg_pool1d
adaptive_avg_pool2d = tl.adaptive_avg_pool2d
adaptive_avg_pool3d = tl.adaptive_avg_pool3d
adaptive_max_pool1d = tl.adaptive_max_pool1d
adaptive_max_pool2d = tl.adaptive_max_pool2d
adaptive_max_pool3d = tl.adaptive_max_pool3d
affine_grid = tl.affine_grid
avg_pool1d = tl.avg_pool1d
avg_pool2d = tl.avg_pool2d
avg_pool3d = tl.avg_pool3d
batch_norm = tl.batch_norm
binary_cross_entropy = tl.binary_cross_entropy
binary_cross_entropy_with_logits = tl.binary_cross_entropy_with_logits
conv1d = tl.conv1d
conv2d = tl.conv2d
conv3d = tl.conv3d
conv_transpose1d = tl.conv_transpose1d
conv_transpose2d = tl.conv_transpose2d
conv_transpose3d = tl.conv_transpose3d
cross_entropy = tl.cross_entropy
dropout = tl.dropout
embedding = tl.embedding
embedding_bag = tl.embedding_bag
fold = tl.fold
gelu = tl.gelu
grid_sample = tl.grid_sample
group_norm = tl.group_norm
hardshrink = tl.hardshrink
instance_norm = tl.instance_norm
interpolate = tl.interpolate
huber_loss = tl.huber_loss
kl_div = tl.kl_div
l1_loss = tl.l1_loss
layer_norm = tl.layer_norm
linear = tl.linear
log_softmax = tl.log_softmax
logsigmoid = tl.logsigmoid
lp_pool1d = tl.lp_pool1d
lp_pool2d = tl.lp_pool2d
lp_pool3d = tl.lp_pool3d
max_pool1d = tl.max_pool1d
max_pool2d = tl.max_pool2d
max_pool3d = tl.max_pool3d
max_unpool1d = tl.max_unpool1d
max_unpool2d = tl.max_unpool2d
max_unpool3d = tl.max_unpool3d
mse_loss = tl.mse_loss
nll_loss = tl.nll_loss
one_hot = tl.one_hot
pad = tl.pad
pixel_shuffle = tl.pixel_shuffle
pixel_unshuffle = tl.pixel_unshuffle
prelu = tl.prelu
rms_norm = tl.rms_norm
sigmoid = tl.sigmoid
smooth_l1_loss = tl.smooth_l1_loss
softmax = tl.softmax
softplus = tl.softplus
softshrink = tl.softshrink
softsign = tl.softsign
tanh = tl.tanh
tanhshrink = tl.tanhshrink
unfold = tl.unfold


# These take ragged batches besides.


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """`tl.scaled_dot_product_attention`; of PackedSequences, attention within each sequence.

    Shapes:
        PackedSequences: rows (D,), or (H, D) for H heads  ->  such rows; there is no attn_mask

    >>> packed = tl.nn.utils.rnn.pack_sequence([tl.tensor([[1.0], [3.0]]), tl.tensor([[5.0]])])
    >>> tl.nn.functional.scaled_dot_product_attention(packed * 0, packed * 0, packed).data.tolist()
    [[2.0], [5.0], [2.0]]
    """
    if not isinstance(query, PackedSequence):
        return tl.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if attn_mask is not None or enable_gqa:
        raise ValueError(
            "scaled_dot_product_attention: attn_mask and enable_gqa are for tensors, not for PackedSequences."
        )
    heads = query.shape[1] if query.ndim == 3 else 1
    flat = [x.with_data(x.data.flatten(1)) for x in (query, key, value)]
    made = flat[0].attend(flat[1], flat[2], heads, is_causal, dropout_p, scale)
    return made if query.ndim == 2 else made.with_data(made.data.unflatten(-1, (heads, -1)))


def ctc_loss(
    log_probs: Tensor | PackedSequence,
    targets: Tensor | PackedSequence,
    input_lengths: Tensor | Sequence[int] | int | None = None,
    target_lengths: Tensor | Sequence[int] | int | None = None,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """`tl.ctc_loss`: the negative log-likelihood of labels whose places in time are not known.

    `log_probs` and `targets` may each be a PackedSequence, which has its lengths with it: leave those out.

    >>> even = tl.log_softmax(tl.zeros(2, 2), -1)
    >>> packed = tl.nn.utils.rnn.pack_sequence([even, even[:1]])
    >>> losses = tl.nn.functional.ctc_loss(packed, tl.tensor([1, 1]), target_lengths=[1, 1], reduction="none")
    >>> [round(p, 4) for p in losses.neg().exp().tolist()]
    [0.75, 0.5]
    """
    steps, inputs = _padded("log_probs", "input_lengths", log_probs, input_lengths)
    labels, counts = _padded("targets", "target_lengths", targets, target_lengths)
    if isinstance(targets, PackedSequence):
        labels = labels.transpose(0, 1)
    return tl.ctc_loss(steps, labels, inputs, counts, blank, reduction, zero_infinity)


def _padded(name: str, lengths_name: str, given: Tensor | PackedSequence, lengths: Any) -> tuple[Tensor, Any]:
    """A tensor with time first, and the lengths in it."""
    if (lengths is None) != isinstance(given, PackedSequence):
        raise TypeError(
            f"ctc_loss: {lengths_name} is {'missing' if lengths is None else 'given, but a PackedSequence of ' + name + ' has its own'}."
        )
    return pad_packed_sequence(given) if isinstance(given, PackedSequence) else (given, lengths)
