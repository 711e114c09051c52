"""The random numbers of native/random.c over an array module: the reference, and what runs on a GPU.

Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a key and a block number into four 32-bit words.
Word w of a draw is lane ``w % 4`` of block ``counter + w // 4``; element i reads word i, or words 2i and 2i + 1 where it takes 64 bits. So
an element depends on (key, counter, i) alone: words, `uniform`, `randint` and `bernoulli` are the same bits everywhere, `normal` is the
same to a few units in the last place.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["bernoulli", "blocks", "normal", "randint", "uniform", "words"]

_LOW, _ALL = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_MULTIPLIERS, _KEY_STEPS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)


def blocks(n: int, words_each: int = 1) -> int:
    """How many blocks a draw of `n` elements uses: by so much a generator's counter must move on."""
    return (n * words_each + 3) // 4


def words(xp: Any, n: int, key: int, counter: int) -> Any:
    """The first `n` words of a draw, uint32."""
    block = xp.arange(blocks(n), dtype=xp.uint64) + xp.uint64(counter & _ALL)
    low, shift = xp.uint64(_LOW), xp.uint64(32)
    c0, c1, c2, c3 = block & low, block >> shift, xp.zeros_like(block), xp.zeros_like(block)
    k0, k1 = key & _LOW, key >> 32 & _LOW
    for _ in range(10):
        p0, p1 = c0 * xp.uint64(_MULTIPLIERS[0]), c2 * xp.uint64(_MULTIPLIERS[1])
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ xp.uint64(k0), p1 & low, (p0 >> shift) ^ c3 ^ xp.uint64(k1), p0 & low
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return xp.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:n].astype(xp.uint32)


def _words64(xp: Any, n: int, key: int, counter: int) -> Any:
    w = words(xp, 2 * n, key, counter).astype(xp.uint64)
    return w[1::2] << xp.uint64(32) | w[0::2]


def uniform(xp: Any, n: int, key: int, counter: int, dtype: Any = None, low: float = 0.0, high: float = 1.0) -> Any:
    """`n` numbers in [low, high): ``low + (high - low) u`` with u a multiple of 2^-24 (float32, the default) or 2^-53 (float64)."""
    kind = xp.dtype(dtype or xp.float32).type
    if kind is xp.float32:
        unit = (words(xp, n, key, counter) >> xp.uint32(8)).astype(kind) * kind(2.0**-24)
    else:
        unit = (_words64(xp, n, key, counter) >> xp.uint64(11)).astype(kind) * kind(2.0**-53)
    top = xp.nextafter(kind(high), kind(-math.inf))
    return xp.minimum(kind(low) + kind(high - low) * unit, top if top >= low else kind(high))


def normal(xp: Any, n: int, key: int, counter: int, dtype: Any = None, mean: float = 0.0, std: float = 1.0) -> Any:
    """`n` normal numbers, by Box and Muller: elements 2i and 2i + 1 are r cos and r sin, from the words of both."""
    kind = xp.dtype(dtype or xp.float32).type
    if kind is xp.float32:
        w = words(xp, n + n % 2, key, counter)
        u = w[0::2].astype(kind) * kind(2.0**-32) + kind(2.0**-33)
        turn = (w[1::2].view(xp.int32) >> xp.int32(8)).astype(kind) * kind(2.0**-24)
    else:
        w = _words64(xp, n + n % 2, key, counter)
        u = (w[0::2] >> xp.uint64(11)).astype(kind) * kind(2.0**-53) + kind(2.0**-53)
        turn = (w[1::2].view(xp.int64) >> xp.int64(11)).astype(kind) * kind(2.0**-53)
    quarter = xp.rint(turn * 4).astype(xp.float64)
    angle = (turn - quarter / 4) * math.tau  # from the nearest quarter turn, which is exact
    sine, cosine, quadrant = xp.sin(angle), xp.cos(angle), quarter.astype(xp.int64) & 3
    r = xp.sqrt(-2 * xp.log(u.astype(xp.float64)))
    cosines = xp.stack([cosine, -sine, -cosine, sine])  # by quadrant; the sine lies a quarter behind
    each = xp.arange(len(r))
    both = xp.stack([r * cosines[quadrant, each], r * cosines[(quadrant + 3) % 4, each]], axis=1).reshape(-1)[:n]
    return (mean + std * both).astype(kind)


def randint(xp: Any, n: int, key: int, counter: int, low: int, high: int) -> Any:
    """`n` integers in [low, high), int64: ``low`` plus the high half of the 128-bit product of a 64-bit word and ``high - low``."""
    w, span, shift, mask = _words64(xp, n, key, counter), (high - low) & _ALL, xp.uint64(32), xp.uint64(_LOW)
    if span:
        wl, wh, sl, sh = w & mask, w >> shift, xp.uint64(span & _LOW), xp.uint64(span >> 32)
        middle = wh * sl + (wl * sl >> shift)
        w = wh * sh + (middle >> shift) + ((middle & mask) + wl * sh >> shift)
    return (w + xp.uint64(low & _ALL)).view(xp.int64)


def bernoulli(xp: Any, n: int, key: int, counter: int, p: float) -> Any:
    """`n` booleans, true with probability `p`: where `uniform` (float32) is below it."""
    return uniform(xp, n, key, counter) < xp.float32(p)
