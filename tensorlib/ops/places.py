"""How references accumulate into places that may repeat, over NumPy and over CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["accumulate_at"]


def accumulate_at(xp: Any, name: str, out: Any, where: Any, src: Any) -> None:
    """``out[where] = name(out[where], src)`` in place, `name` a ufunc, with every element of `src` counted where places repeat.

    CuPy's ``ufunc.at`` knows few ufuncs and dtypes, and accumulates in no fixed order. So there elements are sorted by place, each run of equal
    places is accumulated by doubling steps, and its last element, which then holds all of it, is written.
    """
    ufunc = getattr(xp, name)
    if xp is np:
        ufunc.at(out, where, src)
        return
    places = xp.arange(out.size).reshape(out.shape)[where]
    src = xp.broadcast_to(src, places.shape).reshape(-1).astype(out.dtype)
    places = places.reshape(-1)
    if not places.size:
        return
    order = xp.argsort(places)  # stable, so that the order of a sum is its operands'
    places, src = places[order], src[order]
    step = 1
    while step < places.size:
        joined = xp.where(places[step:] == places[:-step], ufunc(src[:-step], src[step:]), src[step:])
        src = xp.concatenate([src[:step], joined])
        step *= 2
    last = xp.concatenate([places[1:] != places[:-1], xp.ones(1, bool)])
    places = xp.where(last, places, out.size)  # the others go to a place behind the end
    flat = xp.concatenate([out.reshape(-1), src[:1]])
    flat[places] = ufunc(flat[places], src)
    out[...] = flat[:-1].reshape(out.shape)
