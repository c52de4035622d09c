"""Weights of 4 bits on their way into the multiply: eight channels of a column in 32 bits of B.

    bits 4i to 4i + 3       q + 8 of channel i, for i below 7
    bits 28 to 31           q of channel 7, with its sign

Masked, a channel is 16^i times what it holds, which a conversion makes a float, exactly: two instructions for a vector
of weights, as of bytes. The power goes into A: its elements, times 16^-i, lie in a local array for a block of channels
(a power of two changes no bits of theirs, unless they are below 2^-98). The 8 goes into the sums:

    sum of a q  ==  sum of a (q + 8) - 8 (sum of a)

An infinite element of A makes this NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mapsto.ir.dtypes import Array, DType
from mapsto.ir.expr import Dim, add
from mapsto.loop import ast as loop

CHANNELS = 8  # of an element
MOST_CHANNELS = 1024  # of a block: what the local array holds of a row
_ARRAY = "spread"
_BITS, _MIDDLE = 4, 8
_ONE, _SIXTEENTH = 0x3F800000, 4 << 23  # of the bits of a float: 1, and what makes it a sixteenth


def packed_nibbles(q: Array) -> Array:
    """Integers (.., channels) of 4 bits as elements (.., channels / 8 rounded up) of 32."""
    count = -(-q.shape[-1] // CHANNELS) * CHANNELS
    whole = np.zeros((*q.shape[:-1], count), np.int8)
    whole[..., : q.shape[-1]] = q
    bits = whole.reshape(*q.shape[:-1], -1, CHANNELS).view(np.uint8) & 15
    bits[..., : CHANNELS - 1] ^= _MIDDLE  # plus 8, of four bits
    shifts = np.arange(0, _BITS * CHANNELS, _BITS, dtype=np.uint32)
    made: Array = np.bitwise_or.reduce(bits.astype(np.uint32) << shifts, axis=-1).view(np.int32)
    return made


def array(rows: int, elements: int) -> loop.Statement:
    """The local array of a tile of so many rows, for blocks of so many elements."""
    return loop.Alloc(_ARRAY, DType.F32, rows * elements * CHANNELS)


def spread(
    a: str, starts: list[Dim], elements: int, fresh: Callable[[str], str], out: list[loop.Statement]
) -> list[loop.Value]:
    """Fills the array with a block of each row, from these places of A on. Gives eight times the sum of what is
    multiplied with q + 8, of each row.
    """
    t, word = loop.Type(DType.F32, CHANNELS), loop.Type(DType.I32, CHANNELS)
    powers = fresh("powers")
    out.append(loop.Let(powers, loop.Bitcast(loop.IndexValue(_ONE, word, -_SIXTEENTH), t)))
    by = loop.Var(powers, t)
    return [_row(a, start, row * elements, elements, by, fresh, out) for row, start in enumerate(starts)]


def _row(
    a: str,
    start: Dim,
    first: int,
    elements: int,
    powers: loop.Value,
    fresh: Callable[[str], str],
    out: list[loop.Statement],
) -> loop.Value:
    total: loop.Value | None = None
    for element in range(elements):
        name = fresh("a")
        out.append(loop.Let(name, loop.Load(a, add(start, element * CHANNELS), powers.type)))
        value = loop.Var(name, powers.type)
        total = value if total is None else loop.Binary("add", total, value)
        out.append(loop.Store(_ARRAY, (first + element) * CHANNELS, loop.Binary("mul", value, powers)))
    assert total is not None
    whole = fresh("whole")
    out.append(loop.Let(whole, total))
    both = loop.Var(whole, powers.type)
    below = loop.Shuffle(both, both, tuple(range(CHANNELS - 1)))
    one = loop.Type(DType.F32)
    name = fresh("offset")
    out.append(loop.Let(name, loop.Binary("mul", loop.ReduceLanes("sum", below, one), loop.Const(float(_MIDDLE), one))))
    return loop.Var(name, one)


def multiplied(elements: int, row: int, element: Dim, channel: int) -> loop.Value:
    """What the array holds of a row for a channel of an element."""
    return loop.Load(_ARRAY, add(row * elements * CHANNELS + channel, element * CHANNELS), loop.Type(DType.F32))


def alone(a: str, at: Dim, channel: int) -> loop.Value:
    """The same straight from A."""
    t = loop.Type(DType.F32)
    return loop.Binary("mul", loop.Load(a, at, t), loop.Const(2.0 ** (-_BITS * channel), t))


def offset_of_cut(a: str, start: Dim, channels: int) -> loop.Value:
    """What `spread` gives, of the first channels of an element."""
    t = loop.Type(DType.F32)
    total: loop.Value = loop.Const(0.0, t)
    for channel in range(channels):
        total = loop.Binary("add", total, loop.Load(a, add(start, channel), t))
    return loop.Binary("mul", total, loop.Const(float(_MIDDLE), t))


def channel_of(words: loop.Value, channel: int) -> loop.Value:
    """A channel of a vector of elements, as floats."""
    mask = 15 << (_BITS * channel)
    kept = loop.Binary("and", words, loop.Const(mask - (1 << 32) if mask >> 31 else mask, words.type))
    return loop.Cast(kept, loop.Type(DType.F32, words.type.lanes))

