"""Sums of gradients of parts: what several slices of one value pass on to it is zero outside of each, and next to each
other they are one concatenation (of the same padding outside, where they do not cover it).

    pad(a) + pad(b)    ->    pad(concat(a, b))        a before b along one axis, alike along all others

Zeros keep their sign then, which no gradient minds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mapsto.ir.expr import Dim, add
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder


@dataclass(frozen=True)
class _Padded:
    """parts: values next to each other along an axis (-1: there is one), with zeros before and after."""

    parts: tuple[Value, ...]
    axis: int
    before: tuple[Dim, ...]
    after: tuple[Dim, ...]
    whole: Value | None  # itself, where it is a single term


def parts_joined(builder: Builder, terms: Sequence[Value]) -> list[Value]:
    """Terms of a sum, those of neighbouring parts as one; in the order of the first of them."""
    found = [_padded(builder, term) for term in terms]
    joined: list[_Padded | Value] = []
    for term, padded in zip(terms, found, strict=True):
        if padded is None:
            joined.append(term)
            continue
        for at, other in enumerate(joined):
            if isinstance(other, _Padded) and (both := _next_to(other, padded) or _next_to(padded, other)) is not None:
                joined[at], padded = both, None
                break
        if padded is not None:
            joined.append(padded)
    if len(joined) == len(terms):
        return list(terms)
    again = [each if isinstance(each, Value) else _value(builder, each) for each in joined]
    return again if len(again) == 1 else parts_joined(builder, again)


def _padded(builder: Builder, value: Value) -> _Padded | None:
    node = builder.producer(value)
    if node is None or node.op != "pad" or node.attrs.get("mode") != "constant" or node.attrs.get("value") != 0:
        return None
    if len([name for name in node.inputs if name]) != 1:
        return None
    before, after = node.attrs["before"], node.attrs["after"]
    assert isinstance(before, tuple) and isinstance(after, tuple)
    return _Padded((builder.lookup(node.inputs[0]),), -1, before, after, value)  # type: ignore[arg-type]


def _next_to(a: _Padded, b: _Padded) -> _Padded | None:
    """Both as one, where b begins where a ends."""
    differ = [d for d in range(len(a.before)) if (a.before[d], a.after[d]) != (b.before[d], b.after[d])]
    if len(differ) != 1 or a.axis not in (-1, *differ) or b.axis not in (-1, *differ):
        return None
    (axis,) = differ
    extent = add(a.before[axis], _extent(a.parts, axis))
    if b.before[axis] != extent or a.after[axis] != add(_extent(b.parts, axis), b.after[axis]):
        return None
    after = (*a.after[:axis], b.after[axis], *a.after[axis + 1 :])
    return replace(a, parts=(*a.parts, *b.parts), axis=axis, after=after, whole=None)


def _extent(parts: Sequence[Value], axis: int) -> Dim:
    total: Dim = 0
    for part in parts:
        total = add(total, part.shape[axis])
    return total


def _value(builder: Builder, padded: _Padded) -> Value:
    if padded.whole is not None:
        return padded.whole
    value = builder.one("concat", list(padded.parts), axis=padded.axis)
    if any(width != 0 for width in (*padded.before, *padded.after)):
        return builder.one("pad", [value], before=padded.before, after=padded.after, mode="constant", value=0.0)
    return value
