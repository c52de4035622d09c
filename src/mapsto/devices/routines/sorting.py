"""Sorting in the loop language: rows of numbers as integer entries in the wanted order, and a merge sort of them."""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.devices.routines.writer import I64, Writer, as_value, both, cast, either, integer
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv, minimum, mul
from mapsto.loop import ast as loop


@dataclass(frozen=True)
class Entries:
    """Arrays of entries in one buffer: element `at` has `words` integers, most significant first, `stride` apart.

    One word: the key in the upper half, the place in the lower. Two words: a 64-bit key, then the place.
    """

    buffer: str
    base: Dim
    words: int
    stride: Dim

    def load(self, w: Writer, at: Dim) -> tuple[loop.Value, ...]:
        places = [self.base + at + mul(word, self.stride) for word in range(self.words)]
        return tuple(w.let("entry", loop.Load(self.buffer, place, I64)) for place in places)

    def store(self, w: Writer, at: Dim, entry: tuple[loop.Value, ...]) -> None:
        for word, value in enumerate(entry):
            w.store(self.buffer, self.base + at + mul(word, self.stride), value)

    def shifted(self, by: Dim) -> Entries:
        return Entries(self.buffer, self.base + by, self.words, self.stride)


@dataclass(frozen=True)
class StridedRow:
    """One row of the input: `length` elements from `base`, `stride` apart."""

    buffer: str
    element: DType
    base: Dim
    stride: Dim
    length: Dim
    largest: bool

    def keys(self, w: Writer, at: Dim, lanes: int, mask: loop.Value | None = None) -> loop.Value:
        """Signed integers in the wanted order of the elements from `at`."""
        place = self.base + mul(at, self.stride)
        loaded = loop.Load(self.buffer, place, loop.Type(self.element, lanes), self.stride, mask)
        key = _ordered(w, loaded)
        return w.let("key", loop.Unary("not", key) if self.largest else key)

    def entry(self, w: Writer, at: Dim) -> tuple[loop.Value, ...]:
        key = self.keys(w, at, 1)
        if key.type.element is DType.I64:
            return key, as_value(at)
        upper = loop.Binary("shl", cast(key, DType.I64), integer(32))
        return (w.let("entry", loop.Binary("or", upper, as_value(at))),)


def words_of(element: DType) -> int:
    return 2 if element in (DType.F64, DType.I64, DType.U64, DType.U32) else 1


def _ordered(w: Writer, value: loop.Value) -> loop.Value:
    """Signed integers, 32 or 64 bits wide, in the order of the values; -0 equals 0, NaN is above all."""
    element, lanes = value.type.element, value.type.lanes
    if element.is_float:
        return _ordered_float(w, cast(value, DType.F64 if element is DType.F64 else DType.F32))
    if element is DType.BOOL:
        i32 = loop.Type(DType.I32, lanes)
        return loop.Select(value, loop.Const(1, i32), loop.Const(0, i32))
    if element is DType.U64:
        i64 = loop.Type(DType.I64, lanes)
        return loop.Binary("xor", loop.Bitcast(value, i64), loop.Const(-(1 << 63), i64))
    return cast(value, DType.I64 if words_of(element) == 2 else DType.I32)


def _ordered_float(w: Writer, value: loop.Value) -> loop.Value:
    """The bits of a negative number count downwards: flip all but the sign."""
    wide = value.type.element is DType.F64
    integers = loop.Type(DType.I64 if wide else DType.I32, value.type.lanes)
    top = (1 << (63 if wide else 31)) - 1
    real = w.let("real", loop.Binary("add", value, loop.Const(0.0, value.type)))  # -0 + 0 is 0
    bits = w.let("bits", loop.Bitcast(real, integers))
    flipped = loop.Binary("xor", bits, loop.Const(top, integers))
    key = loop.Select(loop.Compare("lt", bits, loop.Const(0, integers)), flipped, bits)
    return loop.Select(loop.Compare("ne", real, real), loop.Const(top, integers), key)


def before(a: tuple[loop.Value, ...], b: tuple[loop.Value, ...]) -> loop.Value:
    """Whether entry a comes before entry b."""
    result = loop.Compare("lt", a[0], b[0])
    if len(a) == 1:
        return result
    return either(result, both(loop.Compare("eq", a[0], b[0]), loop.Compare("lt", a[1], b[1])))


def merge_sort(w: Writer, entries: Entries, count: Dim, other: Dim) -> Entries:
    """Sorts `count` entries, back and forth between two halves of the buffer `other` apart; gives where they end up."""
    width = w.declare("width", integer(1))
    source = w.declare("source", integer(0))
    with w.repeat(loop.Compare("lt", width, as_value(count))):
        run = w.index("run", width)
        at = w.index("at", source)
        old, new = entries.shifted(at), entries.shifted(other - at)
        with w.loop("pair", 0, w.index("pairs", ceildiv(count, 2 * run))) as pair:
            low = w.index("low", 2 * pair * run)
            middle = w.index("middle", minimum(low + run, count))
            high = w.index("high", minimum(low + 2 * run, count))
            _merge(w, old, new, low, middle, high)
        w.assign(width, loop.Binary("add", width, width))
        w.assign(source, as_value(other - at))
    return entries.shifted(w.index("sorted", source))


def _merge(w: Writer, old: Entries, new: Entries, low: Dim, middle: Dim, high: Dim) -> None:
    """Runs [low, middle) and [middle, high) into one, without a branch that data decides."""
    i = w.declare("i", as_value(low))
    j = w.declare("j", as_value(middle))
    with w.loop("to", low, high) as to:
        first = old.load(w, w.index("first", loop.Binary("min", i, as_value(middle - 1))))
        second = old.load(w, w.index("second", loop.Binary("min", j, as_value(high - 1))))
        in_first = loop.Compare("lt", i, as_value(middle))
        second_over = loop.Compare("ge", j, as_value(high))
        take = w.let("take", both(in_first, either(second_over, before(first, second))))
        new.store(w, to, tuple(loop.Select(take, p, q) for p, q in zip(first, second, strict=True)))
        step = w.let("step", loop.Select(take, integer(1), integer(0)))
        w.assign(i, loop.Binary("add", i, step))
        w.assign(j, loop.Binary("add", j, loop.Binary("sub", integer(1), step)))
