"""Programs that write through views at random. The model is functional: one flat state, and for each view the places it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings, strategies as st

import tensorlib as tl
from tests.property.arrays import numbered, views

# In place on a tensor t with a parameter w; the same as a function of values.
Write = tuple[str, Callable[[tl.Tensor, tl.Tensor], Any], Callable[[np.ndarray, np.ndarray], np.ndarray]]
WRITES: list[Write] = [
    ("t *= 1.5", lambda t, w: t.mul_(1.5), lambda t, w: t * 1.5),
    ("t *= w", lambda t, w: t.mul_(w), lambda t, w: t * w),
    ("t += w", lambda t, w: t.add_(w), lambda t, w: t + w),
    ("t *= t", lambda t, w: t.mul_(t), lambda t, w: t * t),
    ("t.sin_()", lambda t, w: t.sin_(), lambda t, w: np.sin(t)),
    ("t[...] = w", lambda t, w: t.__setitem__(..., w), lambda t, w: t * 0 + w),
    ("t[...] = 0.5", lambda t, w: t.fill_(0.5), lambda t, w: t * 0 + 0.5),
    ("t[t > 0] *= 2", lambda t, w: t.__setitem__(t > 0, t[t > 0] * 2), lambda t, w: np.where(t > 0, t * 2, t)),
]
Step = tuple[str, int, Any]  # a view of tensor i, a write to it, a copy of j into it, or a reading


@st.composite
def programs(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Step]]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    places, steps = [numbered(shape)], []
    for _ in range(draw(st.integers(2, 10))):
        i = draw(st.integers(0, len(places) - 1))
        what = draw(st.sampled_from(["view", "view", "write", "write", "copy", "read"]))
        if what == "view":
            pair = draw(views(places[i]))
            made = pair[2](places[i])
            if made.size <= 200:
                places.append(made)
                steps.append(("view", i, pair))
        elif what == "read":
            steps.append(("read", i, draw(st.integers(1, 5))))
        elif len(np.unique(places[i])) == places[i].size:  # not several elements in one place
            alike = [j for j, p in enumerate(places) if p.shape == places[i].shape]
            steps.append(
                ("copy", i, draw(st.sampled_from(alike)))
                if what == "copy"
                else ("write", i, draw(st.sampled_from(WRITES)))
            )
    return shape, steps


def run(x: tl.Tensor, w: tl.Tensor, steps: list[Step]) -> tuple[tl.Tensor, tl.Tensor]:
    """(what was read, all summed up, and the base in the end)."""
    total, tensors = w * 0, [x * 1]
    for what, i, how in steps:
        t = tensors[i]
        if what == "view":
            tensors.append(how[1](t))
        elif what == "write":
            how[1](t, w)
        elif what == "copy":
            t.copy_(tensors[how])
        else:
            total = total + (t.clone().square() * how).sum()  # a copy: what is saved may be overwritten later
    for k, t in enumerate(tensors):
        total = total + (t * t * (k + 0.5)).sum()
    return total, tensors[0]


def model(x: np.ndarray, w: float, steps: list[Step]) -> tuple[float, np.ndarray]:
    total, state, places = 0.0, x.ravel().copy(), [numbered(x.shape)]
    for what, i, how in steps:
        at = places[i]
        if what == "view":
            places.append(how[2](at))
        elif what == "write":
            state[at] = how[2](state[at], np.float64(w))
        elif what == "copy":
            state[at] = state[places[how]]
        else:
            total += (state[at] ** 2 * how).sum()
    for k, at in enumerate(places):
        total += (state[at] ** 2 * (k + 0.5)).sum()
    return total, state.reshape(x.shape)


@settings(max_examples=300)
@given(programs(), st.integers(0, 1000))
def test_values_and_gradients(program: tuple[tuple[int, ...], list[Step]], seed: int) -> None:
    shape, steps = program
    rng = np.random.default_rng(seed)
    values, w, direction, eps = (
        rng.uniform(0.5, 1.0, shape) * rng.choice([-1, 1], shape),
        0.7,
        rng.uniform(-1, 1, shape),
        1e-6,
    )
    x, tw = tl.tensor(values, requires_grad=True), tl.tensor(w, dtype=tl.float64, requires_grad=True)
    total, base = run(x, tw, steps)
    want, state = model(values, w, steps)
    np.testing.assert_allclose(base.detach().numpy(), state, rtol=1e-12)
    np.testing.assert_allclose(total.item(), want, rtol=1e-12)
    total.backward()
    slopes = (
        0.0 if x.grad is None else float((x.grad.numpy() * direction).sum()),
        0.0 if tw.grad is None else tw.grad.item(),
    )
    ends = [(model(values + s * direction, w, steps)[0], model(values, w + s, steps)[0]) for s in (eps, -eps)]
    differences = [(a - b) / (2 * eps) for a, b in zip(*ends, strict=True)]
    np.testing.assert_allclose(slopes, differences, rtol=1e-5, atol=1e-5 * max(1.0, abs(want)))


@settings(max_examples=100)
@given(programs())
def test_a_plain_tensor_is_written_alike(program: tuple[tuple[int, ...], list[Step]]) -> None:
    """Without gradients the kernels write in place; the same program then gives the same bits."""
    shape, steps = program
    values = np.cos(numbered(shape))
    w = tl.tensor(0.7, dtype=tl.float64)
    _, recorded = run(tl.tensor(values, requires_grad=True), w, steps)
    _, plain = run(tl.tensor(values), w, steps)
    np.testing.assert_array_equal(plain.numpy(), recorded.detach().numpy())


@settings(max_examples=100)
@given(programs())
def test_another_device(program: tuple[tuple[int, ...], list[Step]]) -> None:
    """The same on a device whose memory C does not touch."""
    shape, steps = program
    found = []
    for device in ("cpu", "reference"):
        x = tl.tensor(np.cos(numbered(shape)), device=device, requires_grad=True)
        w = tl.tensor(0.7, dtype=tl.float64, device=device, requires_grad=True)
        total, base = run(x, w, steps)
        total.backward()
        found.append([None if t is None else t.detach().cpu().numpy() for t in (total, base, x.grad, w.grad)])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-10)
