"""Writing in place, through views and beside them: PyTorch's semantics, with finite differences as the judge of what flows where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tensorlib as tl
from tensorlib.autograd import grad, gradcheck, gradgradcheck

Program = Callable[..., tl.Tensor]


def draw(rng: np.random.Generator, *shape: int) -> tl.Tensor:
    return tl.tensor(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape), requires_grad=True)


def holds(f: Program, *args: tl.Tensor) -> None:
    """First and second derivatives of f are those of what f computes."""
    assert gradcheck(f, args) and gradcheck(f, args, fast_mode=False)
    assert gradgradcheck(f, args)


# ---- each program: a (3, 4) interior tensor h, something to write w (4,), and what comes out ----
def _write_then_use_base(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[1].copy_(w)
    return h * h


def _multiply_a_view(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[:, 1:3].mul_(w[:2])
    return h * h


def _older_view_sees_the_write(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    row = h[1]
    h.mul_(w)
    return row * row


def _older_view_sees_another_views_write(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    column, row = h[:, 2], h[1]
    row.copy_(w)
    return column * column


def _chain_of_views(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    deep = h.t()[1:][::2].permute(1, 0)[1:]
    deep.mul_(2).add_(w[:2])
    return h * h


def _view_of_a_view_after_the_write(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    rows = h[1:]
    rows[0].sub_(w)
    return rows * rows


def _written_view_itself(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    row = h[2]
    row.mul_(w)
    return row.exp()


def _two_writes_to_one_place(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[1].copy_(w)
    h[1:].mul_(3)
    h[1, 2] = w[0] * 2
    return h * h


def _fill_erases(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[0].fill_(2.0)
    h[:, 0].zero_()
    return h * h * w


def _whole_tensor(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    return h.mul_(w).add_(1).sin_()


def _squares_itself(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h.mul_(h)
    row = h[0]
    row.mul_(row)
    return h * w


def _copies_from_itself(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[0].copy_(h[1])
    h[2] = h[0] + w
    return h * h


def _overlapping_copy(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[1:] = h[:-1].clone()
    return h * h * w


def _constant_base(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    out = tl.zeros(2, 3, 4, dtype=tl.float64)
    out[0] = h
    out[1, :, 1] = w[:3]
    return out * out


def _constant_base_seen_by_an_older_view(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    out = tl.zeros(3, 4, dtype=tl.float64)
    view = out[1:]
    out.copy_(h)
    view[0].mul_(w)
    return out * out + (view * view).sum()


def _diagonal(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h.diagonal().mul_(w[:3])
    return h * h


def _masks_and_indices(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[[0, 2], [1, 3]] = w[:2]
    h[:, tl.tensor([True, False, False, True])] *= 2
    h.masked_fill_(tl.tensor([[True], [False], [False]]), 0.5)
    return h * h


def _augmented_assignment(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[1] += w
    h[:, 2] *= w[1]
    h /= 2
    h -= w
    h **= 2
    return h


def _saved_before_by_value(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    kept = h.clone()
    h[1].zero_()
    return kept * kept + h * w


def _expanded_source(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h.copy_(w[0])
    h[0].copy_(w[1:2])
    return h * h


def _cast_source(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[1] = (w * 2).to(tl.float64)
    return h * h


def _unary_with_saved_input(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h[1].sin_().pow_(3)
    h.square_().add_(1).sqrt_().reciprocal_().tanh_()
    return h * w


def _reshaped(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    flat = h.view(12)
    flat[2:6].copy_(w)
    h.unsqueeze(0).squeeze().flatten().mul_(2)
    return h * flat.view(3, 4)


def _split_parts(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    left, right = h.split(2, dim=1)
    left.mul_(w[:2])
    return (left * right).sum() + h


def _as_strided(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
    h.as_strided((2, 2), (5, 2), 1).mul_(w[:2])
    windows = h.as_strided((9, 4), (1, 1))
    return windows * windows


PROGRAMS = {
    name[1:]: f
    for name, f in list(globals().items())
    if name.startswith("_") and getattr(f, "__module__", "") == __name__
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_gradients_follow_the_writes(program: Program, rng: np.random.Generator) -> None:
    holds(lambda x, w: program(x * 2, w), draw(rng, 3, 4), draw(rng, 4))


# ---- programs at random ----
VIEWS: list[Callable[[tl.Tensor], tl.Tensor]] = [
    lambda t: t[0],
    lambda t: t[..., 1:],
    lambda t: t[::2],
    lambda t: t.t() if t.ndim == 2 else t,
    lambda t: t.unsqueeze(-1),
    lambda t: t.reshape(-1) if t.is_contiguous() else t,
    lambda t: t.diagonal() if t.ndim == 2 else t,
    lambda t: t.narrow(t.ndim - 1, 0, max(t.shape[-1] - 1, 1)),
]
WRITES: list[Callable[[tl.Tensor, tl.Tensor], Any]] = [
    lambda t, w: t.mul_(1.5),
    lambda t, w: t.mul_(w),
    lambda t, w: t.add_(w),
    lambda t, w: t.sin_(),
    lambda t, w: t.fill_(0.25),
    lambda t, w: t.copy_((w * 3).expand(t.shape)),
    lambda t, w: t.__setitem__(..., t * 2 + w),
]
step = st.tuples(st.sampled_from(["view", "write", "read"]), st.integers(0, 5), st.integers(0, 7))


@settings(max_examples=60)
@given(st.lists(step, min_size=2, max_size=12))
def test_programs_at_random(steps: list[tuple[str, int, int]]) -> None:
    rng = np.random.default_rng(len(steps))
    x, w = draw(rng, 3, 4), draw(rng)

    def program(x: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
        total, tensors = w * 0, [x * 1]
        for what, which, how in steps:
            t = tensors[which % len(tensors)]
            if what == "view" and t.ndim and t.numel():
                tensors.append(VIEWS[how % len(VIEWS)](t))
            elif what == "write":
                WRITES[how % len(WRITES)](t, w)
            else:
                total = total + (t * (how + 1)).sum()
        for k, t in enumerate(tensors):
            total = total + (t * (k + 0.5)).sum() + t.square().sum()
        return total

    assert gradcheck(program, (x, w)) and gradgradcheck(program, (x, w))


# ---- what may not be written ----
WRITES_TO_LEAVES: dict[str, Callable[[tl.Tensor], Any]] = {
    "mul_": lambda x: x.mul_(2),
    "add_ a tensor": lambda x: x.add_(tl.ones(2)),
    "exp_": lambda x: x.exp_(),
    "pow_": lambda x: x.pow_(3),
    "copy_": lambda x: x.copy_(tl.ones(2)),
    "fill_": lambda x: x.fill_(1),
    "zero_": lambda x: x.zero_(),
    "+=": lambda x: x.__iadd__(1),
    "setitem": lambda x: x.__setitem__(0, 1),
    "setitem with a mask": lambda x: x.__setitem__(tl.tensor([True, False]), 1),
    "a view": lambda x: x[:1].mul_(2),
    "a view of a view": lambda x: x[:1][0].fill_(2),
    "clamp_": lambda x: x.clamp_(0, 1),
    "masked_fill_": lambda x: x.masked_fill_(tl.tensor([True, False]), 1),
    "normal_": lambda x: x.normal_(),
}


@pytest.mark.parametrize("write", WRITES_TO_LEAVES.values(), ids=WRITES_TO_LEAVES)
def test_leaves_that_require_a_gradient(write: Callable[[tl.Tensor], Any]) -> None:
    x = tl.tensor([3.0, 4.0], requires_grad=True)
    version = x._version
    with pytest.raises(RuntimeError, match=r"(leaf tensor that requires a gradient|can not be recorded)"):
        write(x)
    assert x.tolist() == [3, 4] and x._version == version and x.is_leaf
    with tl.no_grad():
        write(x)
    assert x.is_leaf and x.requires_grad and x._version > version


def test_a_view_that_is_a_leaf_itself() -> None:
    base = tl.zeros(3)
    leaf = base[:2].requires_grad_()
    with pytest.raises(tl.GradError, match="leaf"):
        leaf.mul_(2)
    (leaf * 3).sum().backward()
    assert leaf.grad.tolist() == [3, 3] and not base.requires_grad


def test_writing_what_requires_a_gradient_into_a_constant_makes_it_interior() -> None:
    w = tl.ones(2, requires_grad=True)
    c = tl.zeros(3)
    assert not c.requires_grad
    c[:2] = w
    assert c.requires_grad and not c.is_leaf
    c.sum().backward()
    assert w.grad.tolist() == [1, 1] and c.grad is None


def test_views_made_without_recording_can_not_be_written() -> None:
    x = tl.ones(3, requires_grad=True)
    with tl.no_grad():
        v = x[:2]
    with pytest.raises(tl.GradError, match="view of a leaf"):
        v.mul_(2)


def test_expanded_and_read_only_memory() -> None:
    e = tl.zeros(1, 3).expand(2, 3)
    with pytest.raises(tl.GradError, match=r"several elements of this expanded tensor \(2, 3\)"):
        e.add_(1)
    array = np.zeros(2)
    array.flags.writeable = False
    t = tl.from_numpy(array)
    with pytest.raises(tl.ReadOnlyError, match="add_: the tensor's memory is read-only"):
        t.add_(1)
    assert not array.any() and e.tolist() == [[0] * 3] * 2


def test_bases_that_are_not_contiguous_are_refused_before_the_write() -> None:
    base = tl.zeros(4, 3).t().detach()
    w = tl.ones(4, requires_grad=True)
    for write in (lambda: base[0].copy_(w), lambda: base[0].add_(w), lambda: base.t()[:, 0].mul_(w)):
        with pytest.raises(tl.GradError, match="base is not contiguous"):
            write()
        assert not base.any() and not base.requires_grad
    row = base[0]
    base.mul_(tl.ones(3, 1, requires_grad=True))  # as a whole it can be written
    base.sum().backward()
    with pytest.raises(tl.GradError, match="base that is not contiguous"):
        row.sum().backward()


SHAPES_AND_DTYPES: dict[str, tuple[Callable[[tl.Tensor], Any], type[Exception], str]] = {
    "result does not fit": (lambda x: x.add_(tl.ones(2, 2)), tl.ShapeError, r"add_: the result has shape \(2, 2\)"),
    "no broadcast": (lambda x: x.mul_(tl.ones(3)), tl.ShapeError, r"mul: shapes \(2,\) and \(3,\)"),
    "copy": (lambda x: x.copy_(tl.ones(3)), tl.ShapeError, r"copy_: shape \(3,\)"),
    "setitem": (lambda x: x.__setitem__(slice(0, 1), tl.ones(2)), tl.ShapeError, r"shape \(2,\)"),
    "category": (lambda x: x.int().add_(1.5), tl.DTypeError, "add_: the result is float32"),
    "bool": (lambda x: (x > 0).add_(1), tl.DTypeError, "int64"),
    "index": (lambda x: x.__setitem__(5, 1), tl.IndexRangeError, "index 5 is out of range"),
    "device": (
        lambda x: x.add_(tl.ones(2, device="reference")),
        tl.DeviceError,
        "add: operands are on cpu and reference",
    ),
    "foreign": (lambda x: x.add_("1"), TypeError, "add"),
    "none": (lambda x: x.copy_(None), TypeError, "NoneType"),
}


@pytest.mark.parametrize(("write", "error", "match"), SHAPES_AND_DTYPES.values(), ids=SHAPES_AND_DTYPES)
def test_nothing_is_changed_before_an_error(
    write: Callable[[tl.Tensor], Any], error: type[Exception], match: str
) -> None:
    x = tl.tensor([3.0, 4.0])
    with pytest.raises(error, match=match):
        write(x)
    assert x.tolist() == [3, 4]
    y = tl.tensor([3.0, 4.0], requires_grad=True) * 1
    name = y.grad_fn
    with pytest.raises(error, match=match):
        write(y)
    assert y.tolist() == [3, 4] and y.grad_fn == name


# ---- stale values ----
STALE: dict[str, tuple[Callable[[tl.Tensor], tl.Tensor], bool]] = {
    "saved output": (lambda y: y.exp(), True),
    "saved input": (lambda y: y * y, False),
}


@pytest.mark.parametrize(
    "write",
    [
        lambda t: t.add_(1),
        lambda t: t[0].add_(1),
        lambda t: t.detach().add_(1),
        lambda t: t.data.zero_(),
        lambda t: t.view(-1)[1:].zero_(),
    ],
    ids=["itself", "a view", "detached", "data", "a view's view"],
)
@pytest.mark.parametrize(("use", "result"), STALE.values(), ids=STALE)
def test_overwritten_saved_values_are_errors(use: Any, result: bool, write: Any) -> None:
    x = tl.ones(2, requires_grad=True)
    y = x * 2
    z = use(y)
    write(z if result else y)
    with pytest.raises(tl.GradError, match="overwritten in place"):
        z.sum().backward()
    assert x.grad is None


def test_writing_a_neighbour_counts_as_in_pytorch() -> None:
    """Versions belong to the memory, not to the view."""
    x = tl.ones(4, requires_grad=True)
    y = x * 2
    z = (y[:2] * y[:2]).sum()
    y[3] = 0
    with pytest.raises(tl.GradError, match="overwritten"):
        z.backward()


def test_what_no_gradient_reads_may_be_overwritten() -> None:
    x = tl.ones(2, requires_grad=True)
    y = x * 2
    z = y + 1
    y.zero_()  # add keeps neither operand
    z.sum().backward()
    assert x.grad.tolist() == [2, 2]
    x.grad = None
    c = tl.full((2,), 3.0)
    z = x * c
    c_kept = c.clone()
    c.zero_()
    with pytest.raises(tl.GradError, match="overwritten"):
        z.sum().backward()
    (x * c_kept).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_a_parameter_updated_between_forward_and_backward_is_noticed() -> None:
    w, x = tl.ones(2, requires_grad=True), tl.ones(2, requires_grad=True)
    loss = (w * x).sum()
    with tl.no_grad():
        w.sub_(0.1)
    with pytest.raises(tl.GradError, match=r"`mul` .*test_inplace.py.* overwritten in place at .*test_inplace.py"):
        loss.backward()


def test_versions() -> None:
    x = tl.zeros(4)
    v, d = x[1:], x.detach()
    assert x._version == v._version == d._version == 0
    v.add_(1)
    assert x._version == v._version == d._version == 1
    assert (x + 1)._version == 0 and x.clone()._version == 0


def test_in_place_returns_itself_and_keeps_memory() -> None:
    x = tl.zeros(2, requires_grad=True) * 1
    address = x.data_ptr()
    for out in (x.add_(1), x.mul_(tl.ones(2)), x.exp_(), x.clamp_(0, 1), x.copy_(tl.ones(2)), x.fill_(3), x.pow_(2)):
        assert out is x and x.data_ptr() == address
    y = x
    y += 1
    assert y is x


def test_in_place_keeps_the_dtype_within_its_category() -> None:
    x = tl.ones(2)
    assert x.add_(tl.ones(2, dtype=tl.float64)).dtype is tl.float32 and x.tolist() == [2, 2]
    i = tl.ones(2, dtype=tl.int8)
    assert i.mul_(tl.tensor([100, 2])).dtype is tl.int8 and i.tolist() == [100, 2]


def test_data() -> None:
    x = tl.ones(2, requires_grad=True)
    x.data.mul_(3)
    assert x.tolist() == [3, 3] and x.is_leaf
    x.data = tl.zeros(3)
    assert x.shape == (3,) and x.requires_grad
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    with pytest.raises(tl.GradError, match="leaf"):
        (x * 2).data = tl.zeros(3)
    with pytest.raises(TypeError, match="got a list"):
        x.data = [1]  # type: ignore[assignment]


def test_inplace_then_grad_of_the_former_value() -> None:
    """y's history is that of its present value; grad with respect to y is to that value."""
    x = tl.ones(2, dtype=tl.float64, requires_grad=True)
    y = x * 2
    y.mul_(3)
    z = (y * 5).sum()
    gy, gx = grad(z, [y, x])
    assert gy.tolist() == [5, 5] and gx.tolist() == [30, 30]


# ---- the shape in place ----
def test_shape_in_place_keeps_identity_memory_and_history() -> None:
    x = tl.arange(6.0).reshape(1, 2, 3).clone()
    before, address = x.numpy().copy(), x.data_ptr()
    assert x.squeeze_(0) is x and x.t_() is x and x.unsqueeze_(-1) is x and x.transpose_(0, 1) is x
    assert x.shape == (2, 3, 1) and x.data_ptr() == address
    np.testing.assert_array_equal(x.numpy(), before[0][..., None])

    def program(h: tl.Tensor, w: tl.Tensor) -> tl.Tensor:
        y = h * 2
        y.t_()
        y[1].mul_(w[:3])  # a write through a view of what changed its shape
        return y * y

    rng = np.random.default_rng(0)
    holds(program, draw(rng, 3, 4), draw(rng, 4))


def test_shape_in_place_of_a_leaf_is_an_error() -> None:
    x = tl.ones(2, 3, requires_grad=True)
    with pytest.raises(tl.GradError, match="t_: a leaf tensor that requires a gradient"):
        x.t_()
    assert x.shape == (2, 3)
