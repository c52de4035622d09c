"""Sums of gradients of parts: what several slices of one value pass on to it is zero outside of each, and next to each
other they are one concatenation (of the same padding outside, where they do not cover it).

    pad(a) + pad(b)    ->    pad(concat(a, b))        a before b along one axis, alike along all others

Zeros keep their sign then, which no gradient minds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mapsto.ir.expr import Dim, add
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder


@dataclass(frozen=True)
class _Padded:
    """A part, and how many zeros come before and after it along each axis."""

    part: Value
    before: tuple[Dim, ...]
    after: tuple[Dim, ...]


def parts_joined(builder: Builder, terms: Sequence[Value]) -> list[Value]:
    """Terms of a sum, those of neighbouring parts as one; in the order of the first of them. What is joined may be the
    neighbour of another along another axis.
    """
    found = {at: padded for at, term in enumerate(terms) if (padded := _padded(builder, term)) is not None}
    joined: dict[int, Value] = dict(enumerate(terms))
    for axis in range(terms[0].rank):
        runs = [run for run in _runs(found, axis) if len(run) > 1]
        for run in runs:
            first, *others = sorted(run)
            for at in others:
                del joined[at]
            joined[first] = _value(builder, [found[at] for at in run], axis)
        if runs:
            again = [joined[at] for at in sorted(joined)]
            return again if len(again) == 1 else parts_joined(builder, again)
    return list(terms)


def _runs(found: Mapping[int, _Padded], axis: int) -> list[list[int]]:
    """Parts that follow one another along an axis, and are alike along all others."""

    def key(padded: _Padded, start: Dim) -> tuple[object, ...]:
        others = [(b, a) for d, (b, a) in enumerate(zip(padded.before, padded.after, strict=True)) if d != axis]
        return (*others, start)

    beginning: dict[tuple[object, ...], int] = {}
    for at, padded in found.items():
        if padded.part.shape[axis] != 0:  # what is empty would be its own neighbour
            beginning.setdefault(key(padded, padded.before[axis]), at)
    following = {
        at: after
        for at in beginning.values()
        if (after := beginning.get(key(found[at], add(found[at].before[axis], found[at].part.shape[axis])))) is not None
    }
    runs = []
    for at in sorted(set(beginning.values()) - set(following.values())):
        run = [at]
        while run[-1] in following:
            run.append(following[run[-1]])
        runs.append(run)
    return runs


def _padded(builder: Builder, value: Value) -> _Padded | None:
    node = builder.producer(value)
    if node is None or node.op != "pad" or node.attrs.get("mode") != "constant" or node.attrs.get("value") != 0:
        return None
    if len([name for name in node.inputs if name]) != 1:
        return None
    before, after = node.attrs["before"], node.attrs["after"]
    assert isinstance(before, tuple) and isinstance(after, tuple)
    return _Padded(builder.lookup(node.inputs[0]), before, after)  # type: ignore[arg-type]


def _value(builder: Builder, run: Sequence[_Padded], axis: int) -> Value:
    value = builder.one("concat", [padded.part for padded in run], axis=axis)
    first, last = run[0], run[-1]
    after = (*first.after[:axis], last.after[axis], *first.after[axis + 1 :])
    if any(width != 0 for width in (*first.before, *after)):
        return builder.one("pad", [value], before=first.before, after=after, mode="constant", value=0.0)
    return value
