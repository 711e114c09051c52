"""Recurrent layers and cells, for sequences of equal and of different lengths.

Dimension letters: B sequences, T steps, D features, H hidden units, P size of a projected state (H without one), K layers times directions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import tensorlib as tl
from tensorlib import Tensor
from tensorlib.nn import functional as F, init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_States = tuple[Tensor, ...]  # the state, and for LSTM the cell


def _layer(
    mode: str, x: Tensor, sizes: Tensor, weights: Sequence[Tensor | None], states: _States | None, batch: int
) -> tuple[Tensor, ...]:
    """(rows of results, last state of each sequence, for LSTM the last cell)"""
    if mode == "LSTM":
        h0, c0 = states or (None, None)
        return tl.fused.lstm_layer(x, sizes, weights, h0, c0, batch)
    h0 = states[0] if states else None
    if mode == "GRU":
        return tl.fused.gru_layer(x, sizes, weights, h0, batch=batch)
    return tl.fused.rnn_layer(x, sizes, weights, h0, nonlinearity=mode[4:].lower(), batch=batch)


@cache
def _one_step(batch: int) -> Tensor:
    """The sizes of a batch's only step. Read by the kernels, never written."""
    with tl.inference_mode(False):  # it serves recorded steps as well, whoever asks first
        return tl.tensor([batch] if batch else [], dtype=tl.int64, device="cpu")


def _check_sizes(name: str, **sizes: tuple[Any, int]) -> None:
    """Raises unless each size is an integer, and at least so large."""
    for what, (size, least) in sizes.items():
        if not isinstance(size, int) or size < least:
            raise ValueError(f"{name}: {what} must be an integer of at least {least}, got {size!r}.")


def _said(x: Any) -> str:
    return f"{x.dtype.name} of shape {x.shape}" if isinstance(x, Tensor) else f"a {type(x).__name__}"


def _parts(x: Any) -> str:
    return f" of {', '.join(type(t).__name__ for t in x) or 'nothing'}" if isinstance(x, (tuple, list)) else ""


class RNNBase(Module):
    """What RNN, GRU and LSTM have in common; `mode` is "RNN_TANH", "RNN_RELU", "GRU" or "LSTM"."""

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        _check_sizes(
            name,
            input_size=(input_size, 0),
            hidden_size=(hidden_size, 1),
            num_layers=(num_layers, 1),
            proj_size=(proj_size, 0),
        )
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout must be a probability in [0, 1], got {dropout!r}.")
        if dropout and num_layers == 1:
            warnings.warn(
                f"{name}: dropout={dropout} has no effect: there is none after the last layer, and num_layers is 1.",
                stacklevel=3,
            )
        if proj_size >= hidden_size or (proj_size and mode != "LSTM"):
            raise ValueError(
                f"{name}: proj_size is LSTM's, and smaller than hidden_size {hidden_size}; got {proj_size}."
            )
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional, self.proj_size = (
            bias,
            batch_first,
            float(dropout),
            bidirectional,
            proj_size,
        )
        rows, state = _GATES[mode] * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else state * self._directions
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, state)}
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
            shapes |= {"weight_hr": (proj_size, hidden_size)} if proj_size else {}
            for side in ("", "_reverse")[: self._directions]:
                for part, shape in shapes.items():
                    setattr(self, f"{part}_l{layer}{side}", Parameter(tl.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def reset_parameters(self) -> None:
        """Draw fresh weights, uniform in +-1/sqrt(H)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing to do: there for programs that call it."""

    def _weights(self, layer: int) -> list[list[Tensor | None]]:
        """Those of each direction; None in the places of biases that are not there."""
        parts = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", *(["weight_hr"] if self.proj_size else [])]
        sides = ("", "_reverse")[: self._directions]
        return [[getattr(self, f"{part}_l{layer}{side}", None) for part in parts] for side in sides]

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of each layer and direction."""
        return [[w for w in own if w is not None] for layer in range(self.num_layers) for own in self._weights(layer)]

    # ---- all layers ----

    def _run(self, x: Tensor, sizes: Tensor, states: _States | None, batch: int) -> tuple[Tensor, _States]:
        """Rows in order of time; states of shape (K, B, .), sequences by falling length."""
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            k = layer * self._directions
            initial = (
                None
                if states is None
                else tuple(s[k : k + self._directions] for s in states)
                if self.num_layers > 1
                else states
            )
            weights = [w for own in self._weights(layer) for w in own]
            x, *final = _layer(self.mode, x, sizes, weights, initial, batch)
            last.append(tuple(final))
            if self.dropout and self.training and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout)
        return x, last[0] if len(last) == 1 else tuple(tl.cat(list(parts)) for parts in zip(*last, strict=True))

    def _initial(self, hx: Any, batch: int, unbatched: bool, like: Tensor) -> _States | None:
        """The given states, (K, B, .) each."""
        if hx is None:
            return None
        name, lstm = type(self).__name__, self.mode == "LSTM"
        given = hx if lstm else (hx,)
        if (
            not isinstance(given, (tuple, list))
            or len(given) != 1 + lstm
            or not all(isinstance(s, Tensor) for s in given)
        ):
            wanted = "a pair of tensors (h_0, c_0)" if lstm else "a tensor h_0"
            raise TypeError(f"{name}: expected the initial states as {wanted}, got a {type(hx).__name__}{_parts(hx)}.")
        widths = (self.proj_size or self.hidden_size, self.hidden_size)
        layers = self.num_layers * self._directions
        for part, state, width in zip(("h_0", "c_0"), given, widths, strict=False):
            expected = (layers, width) if unbatched else (layers, batch, width)
            if state.shape != expected or state.dtype is not like.dtype:
                error = tl.ShapeError if state.shape != expected else tl.DTypeError
                raise error(f"{name}: {part} must be {like.dtype.name} of shape {expected}, got {_said(state)}.")
        return tuple(s.unsqueeze(1) for s in given) if unbatched else tuple(given)

    def _result(self, states: _States) -> Any:
        return states if self.mode == "LSTM" else states[0]

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """All steps of all sequences.

        Shapes:
            input: (T, B, D), or (B, T, D) with `batch_first`, or (T, D); a PackedSequence; or a list of tensors (L_i, D)
            hx: the states before the first step, (K, B, H) (unbatched: (K, H)), for LSTM a pair (h_0, c_0) with h_0 (K, B, P); None: zeros
            returns: the states after each step, in the form of the input with H (P) times directions features; the last states, in the form of hx

        Raises:
            ShapeError, DTypeError: where sizes or dtypes do not fit; of a list, naming the sequence.
        """
        if isinstance(input, (list, tuple)):
            packed, last = self._packed(self._from_list(input), hx)
            return unpack_sequence(packed), last
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        forms = ("(T, D)", "(B, T, D)" if self.batch_first else "(T, B, D)")
        self._check(input, next(self.parameters()), "got", *forms)
        unbatched = input.ndim == 2
        x = input.unsqueeze(1) if unbatched else input.transpose(0, 1) if self.batch_first else input
        steps, batch, width = x.shape
        sizes = tl.full((steps if batch else 0,), batch, dtype=tl.int64, device="cpu")
        states = self._initial(hx, batch, unbatched, input)
        rows, last = self._run(x.reshape(steps * batch, width), sizes, states, batch)
        out = rows.reshape(steps, batch, rows.shape[1])
        if unbatched:
            return out.squeeze(1), self._result(tuple(s.squeeze(1) for s in last))
        return out.transpose(0, 1) if self.batch_first else out, self._result(last)

    def _packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        self._check(packed.data, next(self.parameters()), "got rows,", "(N, D)")
        order, back = packed.sorted_indices, packed.unsorted_indices
        batch = len(packed.lengths)
        states = self._initial(hx, batch, False, packed.data)
        if states is not None and order is not None:
            states = tuple(s.index_select(1, order) for s in states)
        rows, last = self._run(packed.data, packed.batch_sizes, states, batch)
        if back is not None:
            last = tuple(s.index_select(1, back) for s in last)
        return packed.with_data(rows), self._result(last)

    def _from_list(self, sequences: Sequence[Any]) -> PackedSequence:
        like = next(self.parameters())
        if not sequences:
            none = tl.empty((0, self.input_size), device=like.device, dtype=like.dtype)
            return PackedSequence(none, tl.zeros(0, dtype=tl.int64, device="cpu"))
        for i, x in enumerate(sequences):
            self._check(x, like, f"sequence {i} is", "(L, D)")
        return pack_sequence(sequences, enforce_sorted=False)

    def _check(self, x: Any, like: Tensor, what: str, *forms: str) -> None:
        """Raises unless x is of the dtype of `like` and has one of these forms."""
        ndims = [form.count(",") + 1 for form in forms]
        if isinstance(x, Tensor) and x.ndim in ndims and x.shape[-1] == self.input_size and x.dtype is like.dtype:
            return
        expected = " or ".join(form.replace("D", str(self.input_size)) for form in forms)
        message = f"{type(self).__name__}: {what} {_said(x)}, expected {like.dtype.name} of shape {expected}"
        if not isinstance(x, Tensor):
            raise TypeError(f"{message}, a PackedSequence or a list of tensors." if what == "got" else f"{message}.")
        error = tl.DTypeError if x.dtype is not like.dtype else tl.ShapeError
        raise error(f"{message}; input_size is {self.input_size}.")

    def extra_repr(self) -> str:
        said = [f"{self.input_size}, {self.hidden_size}"]
        said += [f"proj_size={self.proj_size}"] if self.proj_size else []
        said += [f"num_layers={self.num_layers}"] if self.num_layers != 1 else []
        usual = {"bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        said += [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join(said)


class RNN(RNNBase):
    """Plain recurrent layers, ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``; `nonlinearity` "relu" in place of tanh.

    See `LSTM` for the arguments and shapes.

    >>> out, h_n = tl.nn.RNN(3, 5)(tl.zeros(7, 2, 3))
    >>> out.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}.")
        self.nonlinearity = nonlinearity
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )  # fmt: skip


class GRU(RNNBase):
    """Gated recurrent units; see `LSTM` for the arguments and shapes (there is no cell and no proj_size).

    Reference: Cho et al. 2014.

    >>> out, h_n = tl.nn.GRU(3, 5)([tl.zeros(7, 3), tl.zeros(2, 3)])
    >>> [o.shape for o in out], h_n.shape
    ([(7, 5), (2, 5)], (1, 2, 5))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False, dropout: float = 0.0,
        bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )  # fmt: skip


class LSTM(RNNBase):
    """Long short-term memory, `num_layers` of them one upon the other, over sequences of equal or different lengths.

    Args:
        bias: whether there are b_ih and b_hh.
        batch_first: tensors come as (B, T, D).
        dropout: of every layer's results but the last one's, in training.
        bidirectional: a second set of weights goes from each sequence's end to its start; results are joined.
        proj_size: the state is a product of this size, W_hr h.

    Shapes: see `forward`. Parameters, for each layer k (and ``_reverse``): weight_ih_lk (4H, D), weight_hh_lk (4H, P), bias_ih_lk, bias_hh_lk (4H,),
    weight_hr_lk (P, H), gates in the order i, f, g, o.

    A ragged batch costs what its real steps cost, and every sequence has the bits that it has alone.

    Reference: Hochreiter and Schmidhuber 1997; Sak et al. 2014 for projections.

    >>> lstm = tl.nn.LSTM(3, 5, bidirectional=True)
    >>> out, (h_n, c_n) = lstm([tl.zeros(7, 3), tl.zeros(2, 3), tl.zeros(0, 3)])
    >>> [o.shape for o in out], h_n.shape
    ([(7, 10), (2, 10), (0, 10)], (2, 3, 5))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False, dropout: float = 0.0,
        bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )  # fmt: skip


# ---- one step ----
class RNNCellBase(Module):
    """What the cells have in common: the weights of `num_chunks` gates, and their step."""

    bias_ih: Parameter | None
    bias_hh: Parameter | None
    _mode = "RNN_TANH"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        _check_sizes(type(self).__name__, input_size=(input_size, 0), hidden_size=(hidden_size, 1))
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(tl.empty((rows, input_size), device=device, dtype=dtype))
        self.weight_hh = Parameter(tl.empty((rows, hidden_size), device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(tl.empty((rows,), device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights, uniform in +-1/sqrt(H)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _step(self, input: Tensor, states: _States | None) -> _States:
        self._check("input", input, (), self.input_size)
        x = input if input.ndim == 2 else input.unsqueeze(0)
        batch = x.shape[0]
        if states is not None:
            for part, state in zip(("h", "c"), states, strict=False):
                self._check(part, state, input.shape, self.hidden_size)
            states = tuple(s.reshape(1, batch, self.hidden_size) for s in states)
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        out, *last = _layer(self._mode, x, _one_step(batch), weights, states, batch)
        made = (out, *(c.reshape(batch, self.hidden_size) for c in last[1:]))
        return made if input.ndim == 2 else tuple(s.squeeze(0) for s in made)

    def _check(self, part: str, x: Any, like: tuple[int, ...], width: int) -> None:
        """Raises unless x has shape (B, width) or (width,), that of `like` but for the last size where that is known."""
        if not isinstance(x, Tensor):
            raise TypeError(f"{type(self).__name__}: {part} is a {type(x).__name__}, expected a tensor.")
        shape, dtype = x.shape, self.weight_ih.dtype
        fits = shape == (*like[:-1], width) if like else len(shape) in (1, 2) and shape[-1] == width
        if not fits or x.dtype is not dtype:
            form = (*like[:-1], width) if like else f"(B, {width}) or ({width},)"
            error = tl.DTypeError if fits else tl.ShapeError
            raise error(f"{type(self).__name__}: {part} must be {dtype.name} of shape {form}, got {_said(x)}.")

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(RNNCellBase):
    """One step of `RNN`.

    Shapes:
        input: (B, D) or (D,), hx: (B, H) or (H,), None: zeros  ->  (B, H) or (H,)

    >>> tl.nn.RNNCell(3, 5)(tl.zeros(2, 3)).shape
    (2, 5)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None, dtype: Any = None
    ) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNNCell: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}.")
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity, self._mode = nonlinearity, f"RNN_{nonlinearity.upper()}"

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(input, None if hx is None else (hx,))[0]


class GRUCell(RNNCellBase):
    """One step of `GRU`; shapes as in `RNNCell`.

    >>> tl.nn.GRUCell(3, 5)(tl.zeros(2, 3)).shape
    (2, 5)
    """

    _mode = "GRU"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """One step of `LSTM`.

    Shapes:
        input: (B, D) or (D,), hx: a pair (h, c) of (B, H) or (H,), None: zeros  ->  such a pair

    >>> h, c = tl.nn.LSTMCell(3, 5)(tl.zeros(2, 3))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    _mode = "LSTM"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise TypeError(f"LSTMCell: expected a pair of tensors (h, c), got a {type(hx).__name__}{_parts(hx)}.")
        h, c = self._step(input, hx)
        return h, c
